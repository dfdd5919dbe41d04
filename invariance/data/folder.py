"""Images in a folder or an archive, as `<split>/<class>/*` or `<class>/*`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from invariance.data.decode import SUFFIXES
from invariance.data.sources import (
    SPLITS,
    Listing,
    Splits,
    check_split_arguments,
    existing_root,
    is_utf8,
    stratified,
    tree_digest,
    tree_stamps,
)  # fmt: skip
from invariance.data.trees import FolderTree, Stamp, Tree, open_tree
from invariance.errors import UserError, nearest

_WHAT = "a folder or archive of images, as <split>/<class>/* or <class>/*"
ARCHIVES = (".gz", ".bz2", ".xz", ".tgz", ".tar", ".zip")
_ALMOST_SPLITS = ("valid", "validation", "dev", "training", "testing", "eval", "evaluation")


@dataclass
class _Found:
    """The image files of one split's folder, class by class, and the names of other things in it."""

    names: list[str]
    stamps: list[Stamp]
    counts: dict[str, int]
    ignored: list[str]


class Folder:
    """Images in one folder for each class: `<root>/<split>/<class>/*`, or `<root>/<class>/*`, splits then being drawn.

    The root may be a tar (compressed or not) or zip archive with this inside, which is never unpacked; one folder
    around everything in it does not count.

    Splits are named train, val and test. Without any of these folders, val and test are drawn from each class with a
    seed; with train but without val, val is drawn from train; test may be absent. Files are images by their suffix
    (their format is told by content); others are left out, and listed in the manifest.

    Args:
        root: the folder or archive.
        exclude: names of classes to leave out.
        split_seed: seed of drawn splits.
        val_fraction: share of each class (of train's, if that is a folder) that becomes val where val is drawn.
        test_fraction: share of each class that becomes test where all splits are drawn; 0 for none.

    Raises:
        UserError: if an argument makes no sense.
    """

    def __init__(
        self, root: str | None, exclude: Sequence[str] = (), split_seed: int = 0, val_fraction: float = 0.2,
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
            "root": str(self.root.resolve()), "exclude": self.exclude, "split_seed": self.split_seed,
            "val_fraction": self.val_fraction, "test_fraction": self.test_fraction,
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
        top = self._top()
        inside = self._tree.folders(top)
        given = [name for name in SPLITS if name in inside]
        for name in inside:
            if name in _ALMOST_SPLITS:
                beside = f" beside {given[0]!r}" if given else ""
                raise UserError(
                    f"{self.root} holds {name!r}{beside}; splits are named {', '.join(SPLITS)}: rename it"
                )
        if not given:
            return self._drawn(top)
        if "train" not in given:
            raise UserError(f"{self.root} holds {' and '.join(given)} but no train; add {self.root / 'train'}")
        classes = self._classes(top + "train")
        found = {split: self._read(top + split, classes) for split in given}
        self._compare(found)
        splits = {split: self._listing(part, classes) for split, part in found.items()}
        if "val" not in splits:
            train = splits["train"]
            parts = stratified(train.labels, classes, {"val": self.val_fraction}, self.split_seed)
            splits |= {split: train.take(indices) for split, indices in parts.items()}
        ignored = [f"{name}/" for name in inside if name not in given]
        ignored += [name for part in found.values() for name in part.ignored]
        return Splits(classes, {split: splits[split] for split in SPLITS if split in splits}, ignored)

    def _top(self) -> str:
        """Where the layout begins, with "/" behind: within the one folder that archives often have around all."""
        top = ""
        while not isinstance(self._tree, FolderTree):
            held = self._tree.inside(top.removesuffix("/"))
            if held.files or len(held.folders) != 1 or held.folders[0] in SPLITS:
                break
            if not self._tree.inside(top + held.folders[0]).folders:
                break
            top += held.folders[0] + "/"
        return top

    def _drawn(self, top: str) -> Splits:
        folder = top.removesuffix("/")
        classes = self._classes(folder)
        found = self._read(folder, classes)
        everything = self._listing(found, classes)
        fractions = {"val": self.val_fraction, "test": self.test_fraction}
        parts = stratified(everything.labels, classes, fractions, self.split_seed)
        return Splits(classes, {split: everything.take(indices) for split, indices in parts.items()}, found.ignored)

    def _classes(self, folder: str) -> list[str]:
        where, inside = self._tree.where(folder), self._tree.folders(folder)
        for name in self.exclude:
            if name not in inside:
                hint = nearest(name, inside) if inside else ""
                raise UserError(f"data.exclude names {name!r}, which is no class folder of {where}{hint}")
        classes = [name for name in inside if name not in self.exclude]
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

    def _compare(self, found: dict[str, _Found]) -> None:
        classes = found["train"].counts
        for split, part in found.items():
            extra = sorted(set(part.counts) - set(classes))
            if extra:
                raise UserError(
                    f"class {extra[0]!r} is in {self.root / split} but not in {self.root / 'train'}; "
                    "add it there, or leave it out with data.exclude"
                )

    def _read(self, folder: str, classes: list[str]) -> _Found:
        found, above = _Found([], [], {}, []), f"{folder}/" if folder else ""
        present = self._tree.folders(folder)
        for name in classes:
            if name not in present:
                raise UserError(
                    f"class {name!r} is in train but not in {self._tree.where(folder)}; add it, or leave it out with "
                    "data.exclude"
                )
        for name in sorted({*classes, *present} - set(self.exclude)):
            inside = self._tree.inside(above + name)
            images = {file: stamp for file, stamp in inside.files.items() if is_image(file)}
            if not images:
                raise UserError(
                    f"class {name!r} is empty: {self._tree.where(above + name)} holds no image files; add some, or "
                    f"leave it out with data.exclude=[{name}]"
                )
            found.counts[name] = len(images)
            found.names += [f"{above}{name}/{file}" for file in images]
            found.stamps += images.values()
            rest = [file for file in inside.files if file not in images] + inside.others
            rest += [f"{subfolder}/" for subfolder in inside.folders]
            found.ignored += [f"{above}{name}/{file}" for file in sorted(rest)]
        held = self._tree.inside(folder)
        found.ignored += [above + file for file in sorted([*held.files, *held.others])]
        return found

    def _listing(self, found: _Found, classes: list[str]) -> Listing:
        places = {name: label for label, name in enumerate(classes)}
        labels = np.concatenate(
            [np.full(count, places[name], np.int64) for name, count in found.counts.items()]
        )
        return Listing.of_tree(self._tree, found.names, labels, found.stamps)


def is_image(name: str) -> bool:
    """Whether a file's name says that it is an image; hidden files are none."""
    _, dot, suffix = name.rpartition(".")
    return f"{dot}{suffix}".lower() in SUFFIXES and not name.startswith(".")
