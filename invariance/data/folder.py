"""A folder of images, as `<split>/<class>/*` or `<class>/*`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from invariance.data.decode import SUFFIXES
from invariance.data.sources import SPLITS, Listing, check_split_arguments, existing_folder, is_utf8, stratified
from invariance.errors import UserError, nearest

_WHAT = "a folder of images, as <split>/<class>/* or <class>/*"
_ALMOST_SPLITS = ("valid", "validation", "dev", "training", "testing", "eval", "evaluation")


@dataclass(frozen=True)
class _Found:
    """The image files of one split's folder, class by class, and the names of other things in it."""

    names: list[str]
    stamps: list[tuple[int, int]]
    counts: dict[str, int]
    ignored: list[str]


class Folder:
    """Images in one folder for each class: `<root>/<split>/<class>/*`, or `<root>/<class>/*`, splits then being drawn.

    Splits are named train, val and test. Without any of these folders, val and test are drawn from each class with a
    seed; with train but without val, val is drawn from train; test may be absent. Files are images by their suffix
    (their format is told by content); others are left out, and listed in the manifest.

    Args:
        root: the folder.
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
            existing_folder(root, _WHAT)
        if isinstance(exclude, str) or not all(isinstance(name, str) for name in exclude or ()):
            raise UserError(f"data.exclude={exclude!r}: give a list of classes, as data.exclude=[BACKGROUND_Google]")
        check_split_arguments(split_seed, val_fraction, test_fraction)
        self.root = Path(str(root)).expanduser().absolute()
        self.exclude = sorted(exclude or ())
        self.split_seed, self.val_fraction, self.test_fraction = split_seed, val_fraction, test_fraction

    @property
    def name(self) -> str:
        """The folder's own name, made fit for a folder of runs."""
        fit = "".join(c if c.isalnum() or c in "_.-" else "_" for c in self.root.resolve().name)
        return fit.lstrip(".-") or "folder"

    @property
    def settings(self) -> dict[str, Any]:
        """What decides which images, in which splits."""
        return {
            "root": str(self.root.resolve()), "exclude": self.exclude, "split_seed": self.split_seed,
            "val_fraction": self.val_fraction, "test_fraction": self.test_fraction,
        }

    @property
    def watched(self) -> bool:
        """Whether the folder is there, so that prepared data can be compared with it."""
        return self.root.is_dir()

    def splits(self) -> tuple[list[str], dict[str, Listing], list[str]]:
        """The classes, the splits, and the files left out.

        Raises:
            UserError: if the folder is absent or holds no such layout, one class, an empty class, or no train split.
        """
        existing_folder(str(self.root), _WHAT)
        inside = _subfolders(self.root)
        given = [name for name in SPLITS if name in inside]
        if not given:
            return self._drawn(inside)
        for name in inside:
            if name in _ALMOST_SPLITS:
                raise UserError(
                    f"{self.root} holds {name!r} beside {given[0]!r}; splits are named {', '.join(SPLITS)}: rename it"
                )
        if "train" not in given:
            raise UserError(f"{self.root} holds {' and '.join(given)} but no train; add {self.root / 'train'}")
        classes = self._classes(self.root / "train")
        found = {split: self._read(self.root / split, classes) for split in given}
        self._compare(found)
        splits = {split: self._listing(part, classes) for split, part in found.items()}
        if "val" not in splits:
            train = splits["train"]
            parts = stratified(train.labels, classes, {"val": self.val_fraction}, self.split_seed)
            splits |= {split: train.take(indices) for split, indices in parts.items()}
        ignored = [f"{name}/" for name in inside if name not in given]
        ignored += [name for part in found.values() for name in part.ignored]
        return classes, {split: splits[split] for split in SPLITS if split in splits}, ignored

    def _drawn(self, inside: list[str]) -> tuple[list[str], dict[str, Listing], list[str]]:
        for name in inside:
            if name in _ALMOST_SPLITS:
                raise UserError(f"{self.root} holds {name!r}; splits are named {', '.join(SPLITS)}: rename it")
        classes = self._classes(self.root)
        found = self._read(self.root, classes)
        everything = self._listing(found, classes)
        fractions = {"val": self.val_fraction, "test": self.test_fraction}
        parts = stratified(everything.labels, classes, fractions, self.split_seed)
        return classes, {split: everything.take(indices) for split, indices in parts.items()}, found.ignored

    def _classes(self, folder: Path) -> list[str]:
        inside = _subfolders(folder)
        for name in self.exclude:
            if name not in inside:
                hint = nearest(name, inside) if inside else ""
                raise UserError(f"data.exclude names {name!r}, which is no class folder of {folder}{hint}")
        classes = [name for name in inside if name not in self.exclude]
        for name in classes:
            if not is_utf8(name):
                raise UserError(f"the class folder {name!r} of {folder} has a name that is not UTF-8; rename it")
        if not classes:
            raise UserError(f"{folder} holds no class folders; {_WHAT} is expected, data.root being its top")
        if len(classes) == 1:
            raise UserError(
                f"{folder} holds one class only, {classes[0]!r}; give a folder with a subfolder for each of two or more"
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

    def _read(self, folder: Path, classes: list[str]) -> _Found:
        found = _Found([], [], {}, [])
        present = _subfolders(folder)
        for name in classes:
            if name not in present:
                raise UserError(
                    f"class {name!r} is in train but not in {folder}; add it, or leave it out with data.exclude"
                )
        for name in sorted({*classes, *present} - set(self.exclude)):
            before = len(found.names)
            with os.scandir(folder / name) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    relative = os.path.relpath(entry.path, self.root)
                    if _is_image(entry):
                        status = entry.stat()
                        found.names.append(relative)
                        found.stamps.append((status.st_size, status.st_mtime_ns))
                    else:
                        found.ignored.append(relative + ("/" if entry.is_dir() else ""))
            found.counts[name] = len(found.names) - before
            if not found.counts[name]:
                raise UserError(
                    f"class {name!r} is empty: {folder / name} holds no image files; add some, or leave it out with "
                    f"data.exclude=[{name}]"
                )
        with os.scandir(folder) as entries:
            files = sorted(entry.path for entry in entries if not entry.is_dir())
            found.ignored.extend(os.path.relpath(path, self.root) for path in files)
        return found

    def _listing(self, found: _Found, classes: list[str]) -> Listing:
        places = {name: label for label, name in enumerate(classes)}
        labels = np.concatenate(
            [np.full(count, places[name], np.int64) for name, count in found.counts.items()]
        )
        root, names = self.root, found.names
        return Listing(names, labels, lambda i: (root / names[i]).read_bytes(), found.stamps)


def _subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _is_image(entry: os.DirEntry[str]) -> bool:
    suffix = os.path.splitext(entry.name)[1].lower()
    return suffix in SUFFIXES and not entry.name.startswith(".") and entry.is_file()
