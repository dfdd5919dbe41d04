"""What official data sets have in common: archives and folders of known names below one root."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from invariance.data.decode import BrokenImage
from invariance.data.left_out import HIDDEN, NOT_COUNTED, UNEXPECTED, LeftOut
from invariance.data.magic import is_image
from invariance.data.sources.base import Splits, existing_root, tree_digest
from invariance.data.sources.trees import FOLDER, FolderTree, Stamp, Tree
from invariance.errors import UserError
from invariance.runs.files import sha256

LONGEST_TEXT = 1 << 28


class Official(ABC):
    """A data set whose parts are archives or folders of known names below one root."""

    _what = ""
    _lists: tuple[str, ...] = ()
    """Names of the lists that are read beside the images."""

    def __init__(self, root: str | None, verify: bool = True) -> None:
        """Check the arguments; the files are looked for when they are prepared.

        Args:
            root: the folder that holds the data set, as archives or extracted.
            verify: whether to compare the archives' MD5 sums with the known ones before reading them.

        Raises:
            UserError: if an argument makes no sense.
        """
        if not isinstance(root, str | Path) or not str(root):
            existing_root(root, self._what, archives=False)
        if not isinstance(verify, bool):
            raise UserError(f"data.verify={verify!r}: give true or false")
        self.root, self.verify = Path(str(root)).expanduser().absolute(), verify

    @property
    def settings(self) -> dict[str, Any]:
        """What decides which images, in which splits."""
        return {"root": str(self.root.resolve())}

    def _existing(self) -> Path:
        return existing_root(str(self.root), self._what, archives=False)

    def _part(self, what: str, *names: str) -> Path | None:
        """The one of several archives and folders that is there, if any is.

        Raises:
            UserError: if two are: which one is meant?
        """
        there = [path for name in names if (path := self._existing() / name).exists()]
        if len(there) > 1:
            raise UserError(f"{self.root} holds both {there[0].name} and {there[1].name} as {what}; leave one")
        return there[0] if there else None

    @abstractmethod
    def _trees(self) -> Iterable[Tree]:
        """The archives and folders the data set is made of."""

    def parts(self) -> list[Path]:
        """The archives and folders that it is made of; nothing is read.

        Raises:
            UserError: if one is absent.
        """
        return [tree.path for tree in self._trees()]

    def stamps(self) -> dict[str, Stamp] | None:
        """The archives' sizes and times, and those of images and lists in folders; None if the root is not there."""
        if not self.root.is_dir():
            return None
        found: dict[str, Stamp] = {}
        for tree in self._trees():
            if tree.stamps is not None:
                found |= tree.stamps
            else:
                found |= {
                    f"{tree.path.name}/{name}": stamp
                    for name, stamp in tree.walk()
                    if is_image(name) or name.rpartition("/")[2] in self._lists
                }
        return found

    def watched(self, now: Mapping[str, Stamp]) -> dict[str, Stamp]:
        """Stamps of the folders, and of lists and archives; none where there are archives alone."""
        folders = {
            f"{tree.path.name}/{folder}": stamp
            for tree in self._trees()
            if isinstance(tree, FolderTree)
            for folder, stamp in tree.looked_into.items()
        }
        if not folders:
            return {}
        rest = {name: stamp for name, stamp in now.items() if not is_image(name)}
        return {"": (FOLDER, self.root.stat().st_mtime_ns), **folders, **rest}

    def digest(self, name: str, progress: bool = False) -> str:
        """Hash of an archive, or of a file in a folder, as it is now."""
        for tree in self._trees():
            if tree.stamps is not None and name in tree.stamps:
                return tree_digest(tree, name, progress)
        try:
            return sha256(self.root / name)
        except OSError:
            return ""

    def splits(self, progress: bool = False) -> Splits:
        """The classes and the splits.

        Raises:
            UserError: if a part is absent, damaged or not what it should be.
        """
        for tree in self._trees():
            tree.index(progress)
        return self._splits

    def _leave_beside(self, left: LeftOut) -> None:
        """Count what lies in the root beside the parts; folders are named and not looked into."""
        parts = {tree.path.name for tree in self._trees()}
        for path in sorted(self._existing().iterdir()):
            if path.name in parts:
                continue
            if path.is_dir():
                left.add(f"{path.name}/", NOT_COUNTED, files=0)
            else:
                left.add(path.name, HIDDEN if path.name.startswith(".") else UNEXPECTED)

    @property
    @abstractmethod
    def _splits(self) -> Splits:
        """The classes and the splits, the archives being listed."""


def small_file(tree: Tree, path: str) -> bytes:
    """A list of labels or the like.

    Raises:
        UserError: if it is not there or too large to be one.
    """
    stamp = tree.stamp(path)
    if stamp is None or stamp[0] > LONGEST_TEXT:
        raise UserError(f"{tree.where(path)} is absent or larger than {LONGEST_TEXT:,} bytes")
    try:
        return tree.read(path)
    except BrokenImage as error:
        raise UserError(f"{tree.where(path)} {error}") from error
