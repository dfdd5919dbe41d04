"""Images in a folder or an archive, as `<split>/<class>/*` or `<class>/*`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from invariance.data.archives import open_tree
from invariance.data.image_files import ARCHIVES, image_files, leave_rest
from invariance.data.left_out import EXCLUDED, HIDDEN, LeftOut
from invariance.data.names import names_a_split, read_alike, read_as, split_named
from invariance.data.sources.base import (
    SPLITS,
    Listing,
    Splits,
    check_split_arguments,
    existing_root,
    is_utf8,
    stratified,
    tree_digest,
    tree_stamps,
)
from invariance.data.sources.trees import FolderTree, Stamp, Tree
from invariance.errors import UserError, nearest

_WHAT = "a folder or archive of images, as <split>/<class>/* or <class>/*"
_DEEPER, _BESIDE_CLASSES = "deeper than <class>/*", "beside the class folders"
_BESIDE_SPLITS, _AROUND = "beside the folders of the splits", "beside the folder that holds the rest"


@dataclass
class _Found:
    """The image files of one split's folder, class by class, and the names of other things in it."""

    names: list[str]
    stamps: list[Stamp]
    labels: list[int]
    ignored: list[str]


class Folder:
    """Images in one folder for each class: `<root>/<split>/<class>/*`, or `<root>/<class>/*`, splits then being drawn.

    The root may be a tar (compressed or not) or zip archive with this inside, which is never unpacked; one folder
    around everything in it does not count.

    Splits are named train, val and test (or training; valid, validation, dev; testing). Names are compared as a person
    reads them, and a folder that looks like a split and is none is refused. Without any of these folders, val and test
    are drawn from each class with a seed; with train but without val, val is drawn from train; test may be absent.
    Files are images by their suffix, or else by their content; what is left out is counted and kept with the data.

    Args:
        root: the folder or archive.
        exclude: names of classes, or of folders beside the splits, to leave out.
        split_seed: seed of drawn splits.
        val_fraction: share of each class (of train's, if that is a folder) that becomes val where val is drawn.
        test_fraction: share of each class that becomes test where all splits are drawn; 0 for none.

    Raises:
        UserError: if an argument makes no sense.
    """

    def __init__(
        self,
        root: str | None,
        exclude: Sequence[str] = (),
        split_seed: int = 0,
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
    ) -> None:
        if root is None or not isinstance(root, str | Path) or not str(root):
            existing_root(root, _WHAT)
        if isinstance(exclude, str) or not all(isinstance(name, str) for name in exclude or ()):
            raise UserError(f"data.exclude={exclude!r}: give a list of classes, as data.exclude=[BACKGROUND_Google]")
        check_split_arguments(split_seed, val_fraction, test_fraction)
        self.root = Path(str(root)).expanduser().absolute()
        self.exclude = sorted(exclude or ())
        self.split_seed, self.val_fraction, self.test_fraction = split_seed, val_fraction, test_fraction

    @property
    def name(self) -> str:
        """The folder's own name, or the archive's, made fit for a folder of runs."""
        own = self.root.resolve().name
        for suffix in ARCHIVES:
            own = own.removesuffix(suffix)
        fit = "".join(c if c.isalnum() or c in "_.-" else "_" for c in own)
        return fit.lstrip(".-") or "folder"

    @property
    def settings(self) -> dict[str, Any]:
        """What decides which images, in which splits."""
        return {
            "root": str(self.root.resolve()),
            "exclude": self.exclude,
            "split_seed": self.split_seed,
            "val_fraction": self.val_fraction,
            "test_fraction": self.test_fraction,
        }

    @cached_property
    def _tree(self) -> Tree:
        return open_tree(existing_root(str(self.root), _WHAT))

    def stamps(self) -> dict[str, Stamp] | None:
        """The images' sizes and times, or the archive's; None if the root is not there."""
        return tree_stamps(self._tree, self.splits) if self.root.exists() else None

    def digest(self, name: str, progress: bool = False) -> str:
        """Hash of an image, or of the archive, as it is now."""
        return tree_digest(self._tree, name, progress)

    def splits(self, progress: bool = False) -> Splits:
        """The classes, the splits, and the files left out.

        Raises:
            UserError: if the root is absent or holds no such layout, one class, an empty class, or no train split.
        """
        self._tree.index(progress)
        return self._splits

    @cached_property
    def _splits(self) -> Splits:
        left = LeftOut()
        top = self._top(left)
        given = self._given(top)
        self._check_exclude(top, given)
        if not given:
            return self._drawn(top, left)
        train = _below(top, given["train"])
        classes = self._classes(train)
        found = {split: self._read(_below(top, name), train, classes, left) for split, name in given.items()}
        splits = {split: self._listing(part) for split, part in found.items()}
        if "val" not in splits:
            everything = splits["train"]
            parts = stratified(everything.labels, classes, {"val": self.val_fraction}, self.split_seed)
            splits |= {split: everything.take(indices) for split, indices in parts.items()}
        rest = [name for name in self._tree.folders(top) if name not in given.values()]
        for name in rest:
            self._tree.leave_out(_below(top, name), EXCLUDED if self._excluded(name) else _BESIDE_SPLITS, left)
        leave_rest(self._tree, top, _BESIDE_SPLITS, left)
        ignored = [f"{name}/" for name in rest] + [name for part in found.values() for name in part.ignored]
        return Splits(classes, {split: splits[split] for split in SPLITS if split in splits}, ignored, left_out=left)

    def _top(self, left: LeftOut) -> str:
        """Where the layout begins: within the one folder that archives often have around all."""
        top = ""
        while not isinstance(self._tree, FolderTree):
            folders = self._tree.folders(top)
            if len(folders) != 1 or split_named(folders[0]) or not self._tree.folders(_below(top, folders[0])):
                break
            leave_rest(self._tree, top, _AROUND, left)
            top = _below(top, folders[0])
        return top

    def _given(self, top: str) -> dict[str, str]:
        """The folder of each split that is there.

        Raises:
            UserError: if there are two of one split, or none of train, or a folder that looks like a split is no split.
        """
        given: dict[str, str] = {}
        where, folders = self._tree.where(top), [name for name in self._tree.folders(top) if not self._excluded(name)]
        for name in folders:
            if split := split_named(name):
                if split in given:
                    raise UserError(
                        f"{where} holds {given[split]!r} and {name!r}, which are both {split}; put them into one "
                        "folder, or rename one"
                    )
                given[split] = name
        beside = f" beside {next(iter(given.values()))!r}" if given else ""
        train = self._tree.folders(_below(top, given["train"])) if "train" in given else []
        classes = {read_as(name) for name in train}
        for name in folders:
            if name in given.values():
                continue
            holds = classes and classes & {read_as(inner) for inner in self._tree.folders(_below(top, name))}
            if holds or names_a_split(name, loosely=bool(given)):
                raise UserError(
                    f"{where} holds {name!r}{beside}, which looks like a split and is none; splits are named "
                    f"{', '.join(SPLITS)}: rename it, or leave it out with data.exclude=[{name}]"
                )
        given = {split: given[split] for split in SPLITS if split in given}
        if given and "train" not in given:
            raise UserError(f"{where} holds {' and '.join(given.values())} but no train; add {where}/train")
        return given

    def _excluded(self, name: str) -> bool:
        return read_as(name) in {read_as(name) for name in self.exclude}

    def _check_exclude(self, top: str, given: dict[str, str]) -> None:
        """Refuse a name in `exclude` that excludes nothing."""
        folders = [_below(top, name) for name in given.values()]
        inside = [name for folder in folders for name in self._tree.folders(folder)] + self._tree.folders(top)
        there = {read_as(name) for name in inside}
        for name in self.exclude:
            if read_as(name) not in there:
                hint = nearest(name, sorted(set(inside))) if inside else ""
                where = self._tree.where(folders[0] if folders else top)
                raise UserError(f"data.exclude names {name!r}, which is no class folder of {where}{hint}")

    def _drawn(self, top: str, left: LeftOut) -> Splits:
        classes = self._classes(top)
        found = self._read(top, top, classes, left)
        everything = self._listing(found)
        fractions = {"val": self.val_fraction, "test": self.test_fraction}
        parts = stratified(everything.labels, classes, fractions, self.split_seed)
        splits = {split: everything.take(indices) for split, indices in parts.items()}
        return Splits(classes, splits, found.ignored, left_out=left)

    def _classes(self, folder: str) -> list[str]:
        where = self._tree.where(folder)
        classes = [name for name in self._tree.folders(folder) if not self._excluded(name)]
        for name in classes:
            if not is_utf8(name):
                raise UserError(f"the class folder {name!r} of {where} has a name that is not UTF-8; rename it")
        if not classes:
            raise UserError(f"{where} holds no class folders; {_WHAT} is expected, data.root being its top")
        if len(classes) == 1:
            raise UserError(
                f"{where} holds one class only, {classes[0]!r}; give a folder with a subfolder for each of two or more"
            )
        return classes

    def _read(self, folder: str, train: str, classes: list[str], left: LeftOut) -> _Found:
        """The images of one split's folder, whose class folders are those of train, as a person reads their names."""
        found, where = _Found([], [], [], []), self._tree.where(folder)
        labels = {read_as(name): label for label, name in enumerate(classes)}
        present = [name for name in self._tree.folders(folder) if not self._excluded(name)]
        if alike := read_alike(present):
            raise UserError(
                f"{where} holds {alike[0]!r} and {alike[1]!r}, which read the same; put them into one folder, or "
                "rename one"
            )
        there = {read_as(name) for name in present}
        for key, label in labels.items():
            if key not in there:
                raise UserError(
                    f"class {classes[label]!r} is in train but not in {where}; add it, or leave it out with "
                    "data.exclude"
                )
        for name in present:
            if read_as(name) not in labels:
                raise UserError(
                    f"class {name!r} is in {where} but not in {self._tree.where(train)}; add it there, or leave it out "
                    "with data.exclude"
                )
            self._read_class(_below(folder, name), labels[read_as(name)], name, found, left)
        for name in self._tree.folders(folder):
            if self._excluded(name):
                self._tree.leave_out(_below(folder, name), EXCLUDED, left)
        leave_rest(self._tree, folder, _BESIDE_CLASSES, left)
        inside = self._tree.inside(folder)
        found.ignored += [_below(folder, file) for file in sorted([*inside.files, *inside.others])]
        return found

    def _read_class(self, folder: str, label: int, name: str, found: _Found, left: LeftOut) -> None:
        inside = self._tree.inside(folder)
        images = image_files(self._tree, folder, inside.files, left)
        if not images:
            deeper = f" beside the folder {inside.folders[0]!r}, which is too deep" if inside.folders else ""
            raise UserError(
                f"class {name!r} is empty: {self._tree.where(folder)} holds no image files{deeper}; add some, or leave "
                f"it out with data.exclude=[{name}]"
            )
        found.labels += [label] * len(images)
        found.names += [f"{folder}/{file}" for file in images]
        found.stamps += images.values()
        for file, why in inside.others.items():
            left.add(f"{folder}/{file}", why)
        for inner in inside.folders:
            self._tree.leave_out(f"{folder}/{inner}", HIDDEN if inner.startswith(".") else _DEEPER, left)
        rest = [file for file in inside.files if file not in images] + [*inside.others]
        rest += [f"{inner}/" for inner in inside.folders]
        found.ignored += [f"{folder}/{file}" for file in sorted(rest)]

    def _listing(self, found: _Found) -> Listing:
        return Listing.of_tree(self._tree, found.names, np.array(found.labels, np.int64), found.stamps)


def _below(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
