"""The layouts `<split>/<class>/*` and `<class>/*`: which folders are splits and classes, and the images in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from invariance.data.image_files import image_files, leave_rest
from invariance.data.left_out import EXCLUDED, HIDDEN, LeftOut
from invariance.data.names import names_a_split, read_alike, read_as, split_named
from invariance.data.sources.base import SPLITS, Listing, is_utf8
from invariance.data.sources.trees import FolderTree, Stamp, Tree
from invariance.errors import UserError, nearest

WHAT = "a folder or archive of images, as <split>/<class>/* or <class>/*"
_DEEPER, _BESIDE_CLASSES = "deeper than <class>/*", "beside the class folders"
_BESIDE_SPLITS, _AROUND = "beside the folders of the splits", "beside the folder that holds the rest"


@dataclass
class ClassFiles:
    """The image files of one split's folder, class by class, and the names of other things in it."""

    names: list[str]
    stamps: list[Stamp]
    labels: list[int]
    ignored: list[str]


class Layout:
    """The folders of a tree, read as splits and classes.

    Args:
        tree: the folder or archive.
        exclude: names of classes, or of folders beside the splits, to leave out.

    Attributes:
        left_out: what the methods leave out, and why.
    """

    def __init__(self, tree: Tree, exclude: Sequence[str]) -> None:
        self.tree, self.exclude, self.left_out = tree, exclude, LeftOut()

    def top(self) -> str:
        """Where the layout begins: within the one folder that archives often have around all."""
        top = ""
        while not isinstance(self.tree, FolderTree):
            folders = self.tree.folders(top)
            if len(folders) != 1 or split_named(folders[0]) or not self.tree.folders(below(top, folders[0])):
                break
            leave_rest(self.tree, top, _AROUND, self.left_out)
            top = below(top, folders[0])
        return top

    def given(self, top: str) -> dict[str, str]:
        """The folder of each split that is there.

        Raises:
            UserError: if there are two of one split, or none of train, or a folder that looks like a split is no split.
        """
        given: dict[str, str] = {}
        where, folders = self.tree.where(top), [name for name in self.tree.folders(top) if not self.excludes(name)]
        for name in folders:
            if split := split_named(name):
                if split in given:
                    raise UserError(
                        f"{where} holds {given[split]!r} and {name!r}, which are both {split}; put them into one "
                        "folder, or rename one"
                    )
                given[split] = name
        beside = f" beside {next(iter(given.values()))!r}" if given else ""
        train = self.tree.folders(below(top, given["train"])) if "train" in given else []
        classes = {read_as(name) for name in train}
        for name in folders:
            if name in given.values():
                continue
            holds = classes and classes & {read_as(inner) for inner in self.tree.folders(below(top, name))}
            if holds or names_a_split(name, loosely=bool(given)):
                raise UserError(
                    f"{where} holds {name!r}{beside}, which looks like a split and is none; splits are named "
                    f"{', '.join(SPLITS)}: rename it, or leave it out with data.exclude=[{name}]"
                )
        given = {split: given[split] for split in SPLITS if split in given}
        if given and "train" not in given:
            raise UserError(f"{where} holds {' and '.join(given.values())} but no train; add {where}/train")
        return given

    def leave_beside(self, top: str, given: Mapping[str, str]) -> list[str]:
        """Count what lies beside the folders of the splits, and give the names of the folders among it."""
        rest = [name for name in self.tree.folders(top) if name not in given.values()]
        for name in rest:
            why = EXCLUDED if self.excludes(name) else _BESIDE_SPLITS
            self.tree.leave_out(below(top, name), why, self.left_out)
        leave_rest(self.tree, top, _BESIDE_SPLITS, self.left_out)
        return rest

    def excludes(self, name: str) -> bool:
        """Whether a class, or a folder beside the splits, is left out by name."""
        return read_as(name) in {read_as(name) for name in self.exclude}

    def check_exclude(self, top: str, given: dict[str, str]) -> None:
        """Refuse a name in `exclude` that excludes nothing."""
        folders = [below(top, name) for name in given.values()]
        inside = [name for folder in folders for name in self.tree.folders(folder)] + self.tree.folders(top)
        there = {read_as(name) for name in inside}
        for name in self.exclude:
            if read_as(name) not in there:
                hint = nearest(name, sorted(set(inside))) if inside else ""
                where = self.tree.where(folders[0] if folders else top)
                raise UserError(f"data.exclude names {name!r}, which is no class folder of {where}{hint}")

    def classes(self, folder: str) -> list[str]:
        """The class folders of a folder.

        Raises:
            UserError: if there are none or one, or a name cannot be written.
        """
        where = self.tree.where(folder)
        classes = [name for name in self.tree.folders(folder) if not self.excludes(name)]
        for name in classes:
            if not is_utf8(name):
                raise UserError(f"the class folder {name!r} of {where} has a name that is not UTF-8; rename it")
        if not classes:
            raise UserError(f"{where} holds no class folders; {WHAT} is expected, data.root being its top")
        if len(classes) == 1:
            raise UserError(
                f"{where} holds one class only, {classes[0]!r}; give a folder with a subfolder for each of two or more"
            )
        return classes

    def read(self, folder: str, train: str, classes: Sequence[str]) -> ClassFiles:
        """The images of one split's folder, whose class folders are those of train, as a person reads their names."""
        found, where = ClassFiles([], [], [], []), self.tree.where(folder)
        labels = {read_as(name): label for label, name in enumerate(classes)}
        present = [name for name in self.tree.folders(folder) if not self.excludes(name)]
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
                    f"class {name!r} is in {where} but not in {self.tree.where(train)}; add it there, or leave it out "
                    "with data.exclude"
                )
            self._read_class(below(folder, name), labels[read_as(name)], name, found)
        for name in self.tree.folders(folder):
            if self.excludes(name):
                self.tree.leave_out(below(folder, name), EXCLUDED, self.left_out)
        leave_rest(self.tree, folder, _BESIDE_CLASSES, self.left_out)
        inside = self.tree.inside(folder)
        found.ignored += [below(folder, file) for file in sorted([*inside.files, *inside.others])]
        return found

    def _read_class(self, folder: str, label: int, name: str, found: ClassFiles) -> None:
        inside = self.tree.inside(folder)
        images = image_files(self.tree, folder, inside.files, self.left_out)
        if not images:
            deeper = f" beside the folder {inside.folders[0]!r}, which is too deep" if inside.folders else ""
            raise UserError(
                f"class {name!r} is empty: {self.tree.where(folder)} holds no image files{deeper}; add some, or leave "
                f"it out with data.exclude=[{name}]"
            )
        found.labels += [label] * len(images)
        found.names += [f"{folder}/{file}" for file in images]
        found.stamps += images.values()
        for file, why in inside.others.items():
            self.left_out.add(f"{folder}/{file}", why)
        for inner in inside.folders:
            self.tree.leave_out(f"{folder}/{inner}", HIDDEN if inner.startswith(".") else _DEEPER, self.left_out)
        rest = [file for file in inside.files if file not in images] + [*inside.others]
        rest += [f"{inner}/" for inner in inside.folders]
        found.ignored += [f"{folder}/{file}" for file in sorted(rest)]

    def listing(self, found: ClassFiles) -> Listing:
        """The images of one split, not yet read."""
        return Listing.of_tree(self.tree, found.names, np.array(found.labels, np.int64), found.stamps)


def below(folder: str, name: str) -> str:
    """The path of something in a folder, the top being ""."""
    return f"{folder}/{name}" if folder else name
