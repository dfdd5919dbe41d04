"""Files by their path: what every tree of files has in common, and folders on a disk."""

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from invariance.data.decode import MAX_BYTES, BrokenImage
from invariance.data.left_out import BROKEN_LINK, HIDDEN, LOOP, SPECIAL, UNREADABLE, LeftOut
from invariance.data.magic import START
from invariance.errors import UserError

Stamp = tuple[int, int]
"""Size in bytes and modification time in nanoseconds."""
FOLDER = -1
"""What stands for the size in the stamp of a folder."""


@dataclass
class Inside:
    """What one folder holds.

    Attributes:
        folders: names of its subfolders, sorted.
        files: its regular files, by name, sorted.
        others: what is neither, or cannot be looked at: its name, and why it is left out.
    """

    folders: list[str] = field(default_factory=list)
    files: dict[str, Stamp] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)


class Tree(ABC):
    """Files by their path ("cats/1.png"), in a folder or an archive.

    Attributes:
        path: the folder or archive.
        sequential: whether files can only be had in the archive's own order, by `stream`.
    """

    sequential = False

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def index(self, progress: bool = False) -> None:
        """List an archive's members, if that was not done yet.

        Args:
            progress: whether to show a bar.

        Raises:
            UserError: if the archive is damaged or holds what it must not.
        """

    @abstractmethod
    def inside(self, folder: str) -> Inside:
        """What the folder of that path holds; the top is ""."""

    @abstractmethod
    def stamp(self, name: str) -> Stamp | None:
        """Size and time of a file; None where there is none."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """A file's bytes; called from several threads.

        Raises:
            BrokenImage: if it is not there, too large, or its archive is damaged at this place.
        """

    def stream(self) -> Iterator[tuple[str, Callable[[], bytes]]]:
        """Every file's path with what reads it, in the archive's order; to be read before the next is asked for.

        Raises:
            UserError: if the archive is damaged.
        """
        raise NotImplementedError(f"{self.path} is read by name")

    @property
    def stamps(self) -> dict[str, Stamp] | None:
        """The archive file's own stamp, by its name; None for a folder, whose files have stamps of their own."""
        try:
            status = self.path.stat()
        except OSError as error:
            raise UserError(f"{self.path} cannot be read ({error.strerror or error}); see to it and repeat") from error
        return {self.path.name: (status.st_size, status.st_mtime_ns)}

    @abstractmethod
    def start(self, name: str) -> bytes:
        """The first `START` bytes of a file; fewer, or none, where it has no more or cannot be read."""

    def walk(self, left: LeftOut | None = None) -> Iterator[tuple[str, Stamp]]:
        """Every file's path and stamp, in folders however deep, hidden folders left out.

        Args:
            left: where to count what is left out: hidden folders, and what is neither a file nor a folder.
        """
        folders = [""]
        while folders:
            folder = folders.pop()
            inside, above = self.inside(folder), f"{folder}/" if folder else ""
            folders += [above + name for name in inside.folders if not name.startswith(".")]
            if left is not None:
                for name in inside.folders:
                    if name.startswith("."):
                        self.leave_out(above + name, HIDDEN, left)
                for name, why in inside.others.items():
                    left.add(above + name, why)
            yield from ((above + name, stamp) for name, stamp in inside.files.items())

    def leave_out(self, folder: str, why: str, left: LeftOut, above: str = "") -> None:
        """Count all files in a folder, however deep, as left out; a folder without any is not told of.

        Args:
            folder: its path.
            why: the reason.
            left: where to count.
            above: what stands before its path where it is named.
        """
        if files := self._files_below(folder):
            left.add(f"{above}{folder}/", why, files)

    def _files_below(self, folder: str) -> int:
        count, folders = 0, [folder]
        while folders:
            above = folders.pop()
            try:
                inside = self.inside(above)
            except UserError:  # what is left out anyway need not be readable
                count += 1
                continue
            count += len(inside.files) + len(inside.others)
            folders += [f"{above}/{name}" for name in inside.folders]
        return count

    def where(self, name: str) -> str:
        """A file or folder of the tree as a person would name it."""
        return f"{self.path}/{name}" if name else str(self.path)

    def folders(self, folder: str = "") -> list[str]:
        """Names of the subfolders of a folder, hidden ones left out."""
        return [name for name in self.inside(folder).folders if not name.startswith(".")]


class FolderTree(Tree):
    """A folder on disk; links in it are followed.

    Attributes:
        looked_into: the stamp of each folder in it that was listed, as it was before.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.looked_into: dict[str, Stamp] = {}

    def index(self, progress: bool = False) -> None:
        """A folder needs none."""

    def inside(self, folder: str) -> Inside:
        """See `Tree`.

        Raises:
            UserError: if the folder cannot be read.
        """
        found = Inside()
        try:
            self.looked_into.setdefault(folder, (FOLDER, os.stat(self.path / folder).st_mtime_ns))
            with os.scandir(self.path / folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    self._take(entry, folder, found)
        except OSError as error:
            raise UserError(f"{self.where(folder)} cannot be read ({error.strerror or error})") from error
        return found

    def _take(self, entry: os.DirEntry[str], folder: str, found: Inside) -> None:
        try:
            if entry.is_dir():
                if entry.is_symlink() and self._leads_back(entry, folder):
                    found.others[entry.name] = LOOP
                else:
                    found.folders.append(entry.name)
            elif entry.is_file():
                status = entry.stat()
                found.files[entry.name] = (status.st_size, status.st_mtime_ns)
            else:
                found.others[entry.name] = BROKEN_LINK if entry.is_symlink() else SPECIAL
        except OSError as error:
            itself = error.errno == errno.ELOOP
            found.others[entry.name] = LOOP if itself else f"{UNREADABLE} ({error.strerror or error})"

    def _leads_back(self, link: os.DirEntry[str], folder: str) -> bool:
        """Whether a link leads to a folder through which the way to it leads, or to one around them all."""
        target, parts = os.path.realpath(link.path), folder.split("/") if folder else []
        way = [os.path.realpath(self.path.joinpath(*parts[:n])) for n in range(len(parts) + 1)]
        return any(os.path.commonpath([target, place]) == target for place in way)

    def stamp(self, name: str) -> Stamp | None:
        """See `Tree`."""
        try:
            status = (self.path / name).stat()
        except OSError:
            return None
        return status.st_size, status.st_mtime_ns

    def read(self, name: str) -> bytes:
        """See `Tree`."""
        try:
            with open(self.path / name, "rb") as file:
                data = file.read(MAX_BYTES + 1) if os.fstat(file.fileno()).st_size <= MAX_BYTES else None
        except OSError as error:
            raise BrokenImage(f"cannot be read ({error.strerror or error})") from error
        if data is None or len(data) > MAX_BYTES:
            raise BrokenImage(f"has more than {MAX_BYTES:,} bytes")
        return data

    def start(self, name: str) -> bytes:
        """See `Tree`."""
        try:
            with open(self.path / name, "rb", buffering=0) as file:
                return file.read(START)
        except OSError:
            return b""

    @property
    def stamps(self) -> None:
        """None: the files have stamps of their own."""
        return None
