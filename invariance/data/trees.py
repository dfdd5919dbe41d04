"""Files by their path in a folder or an archive; archives are read where they lie and never unpacked."""

import bz2
import gzip
import lzma
import os
import tarfile
import threading
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

from invariance.data.decode import MAX_BYTES, BrokenImage
from invariance.errors import UserError
from invariance.progress import bar

Stamp = tuple[int, int]
"""Size in bytes and modification time in nanoseconds."""
Advance = Callable[[int], None]
"""Told how many more bytes of an archive were read."""

MAX_MEMBERS = 50_000_000
_TEXTS, _LARGEST_TEXT, _ALL_TEXTS = (".txt", ".mat"), 1 << 26, 1 << 28
_BLOCK = tarfile.BLOCKSIZE
_TAR_DAMAGE = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError, OverflowError)
_ZIP_DAMAGE = (zipfile.BadZipFile, EOFError, OSError, zlib.error, lzma.LZMAError, RuntimeError, NotImplementedError)
_COMPRESSED = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz"}


@dataclass
class Inside:
    """What one folder holds.

    Attributes:
        folders: names of its subfolders, sorted.
        files: its regular files, by name, sorted.
        others: names of what is neither.
    """

    folders: list[str] = field(default_factory=list)
    files: dict[str, Stamp] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


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

    def walk(self) -> Iterator[tuple[str, Stamp]]:
        """Every file's path and stamp, in folders however deep, hidden folders left out."""
        folders = [""]
        while folders:
            folder = folders.pop()
            inside, above = self.inside(folder), f"{folder}/" if folder else ""
            folders += [above + name for name in inside.folders if not name.startswith(".")]
            yield from ((above + name, stamp) for name, stamp in inside.files.items())

    def where(self, name: str) -> str:
        """A file or folder of the tree as a person would name it."""
        return f"{self.path}/{name}" if name else str(self.path)

    def folders(self, folder: str = "") -> list[str]:
        """Names of the subfolders of a folder, hidden ones left out."""
        return [name for name in self.inside(folder).folders if not name.startswith(".")]


def open_tree(path: Path, nested: bool = False) -> Tree:
    """A folder, tar (compressed or not) or zip, told by its content.

    Args:
        path: the folder or archive.
        nested: whether tars inside a tar count as folders, as in ILSVRC's training archive.

    Raises:
        UserError: if it is none of these or cannot be read.
    """
    if path.is_dir():
        return FolderTree(path)
    try:
        with open(path, "rb") as file:
            start = file.read(_BLOCK)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return ZipTree(path)
    if any(start.startswith(magic) for magic in _COMPRESSED):
        return CompressedTarTree(path)
    if start[257:262] == b"ustar" or _old_tar(start):
        return TarTree(path, nested)
    raise UserError(f"{path} is neither a folder nor a tar, tar.gz, tar.bz2, tar.xz or zip archive")


def _old_tar(header: bytes) -> bool:
    """Whether a block is a tar header of the time before "ustar"."""
    try:
        tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


class FolderTree(Tree):
    """A folder on disk; links in it are followed."""

    def index(self, progress: bool = False) -> None:
        """A folder needs none."""

    def inside(self, folder: str) -> Inside:
        """See `Tree`.

        Raises:
            UserError: if the folder cannot be read.
        """
        found = Inside()
        try:
            with os.scandir(self.path / folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if entry.is_dir():
                        found.folders.append(entry.name)
                    elif entry.is_file():
                        status = entry.stat()
                        found.files[entry.name] = (status.st_size, status.st_mtime_ns)
                    else:
                        found.others.append(entry.name)
        except OSError as error:
            raise UserError(f"{self.where(folder)} cannot be read ({error.strerror or error})") from error
        return found

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

    @property
    def stamps(self) -> None:
        """None: the files have stamps of their own."""
        return None


class _Archive(Tree):
    """An archive whose members are listed when they are first asked for."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._folders: dict[str, Inside] = {}
        self._members: set[str] = set()
        self._lock = threading.Lock()

    @abstractmethod
    def _list(self, advance: Advance) -> None:
        """Call `_add` for every file."""

    def index(self, progress: bool = False) -> None:
        """See `Tree`."""
        with self._lock:
            if not self._folders:
                self._folders[""] = Inside()
                try:
                    with bar(progress, of_bytes=True) as shown:
                        task = shown.add_task(f"listing {self.path.name}", total=self.path.stat().st_size)
                        self._list(lambda count: shown.advance(task, count))
                        shown.update(task, completed=self.path.stat().st_size)
                except BaseException:
                    self._folders.clear()
                    self._members.clear()
                    raise
                for held in self._folders.values():
                    held.folders.sort()
                    held.files = dict(sorted(held.files.items()))

    def _add(self, name: str, stamp: Stamp) -> str:
        """Take a member in under its checked path, which is returned.

        Raises:
            UserError: for a path that leads out of the archive, or one that was there before.
        """
        path = safe_path(self.path, name)
        if path in self._members or path in self._folders:
            raise UserError(f"{self.path} holds {path!r} twice; make the archive again")
        if len(self._members) >= MAX_MEMBERS:
            raise UserError(f"{self.path} holds more than {MAX_MEMBERS:,} files")
        self._members.add(path)
        folder, _, last = path.rpartition("/")
        self._folder(folder).files[last] = stamp
        return path

    def _folder(self, path: str) -> Inside:
        held = self._folders.get(path)
        if held is None:
            held = self._folders[path] = Inside()
            parent, _, last = path.rpartition("/")
            if path in self._members:
                raise UserError(f"{self.path} holds {path!r} as a file and as a folder; make the archive again")
            self._folder(parent).folders.append(last)
        return held

    def inside(self, folder: str) -> Inside:
        """See `Tree`."""
        self.index()
        return self._folders.get(folder, Inside())

    def stamp(self, name: str) -> Stamp | None:
        """See `Tree`."""
        self.index()
        folder, _, last = name.rpartition("/")
        held = self._folders.get(folder)
        return held.files.get(last) if held else None


def safe_path(archive: Path, name: str) -> str:
    """A member's path without "./" and doubled slashes.

    Raises:
        UserError: if it is absolute, leads upwards or is empty: nothing such is read.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith(("/", "\\")) or ".." in parts or "\0" in name or not parts:
        raise UserError(f"{archive} holds the unsafe path {name!r}; it is not read")
    return "/".join(parts)


def _checked(archive: Path, member: tarfile.TarInfo) -> bool:
    """Whether a tar's member is a file; a folder is none.

    Raises:
        UserError: for links, devices and sparse files.
    """
    if member.isdir():
        safe_path(archive, member.name + "/.x")
        return False
    if not member.isreg() or member.issparse():
        kind = "link" if member.issym() or member.islnk() else "special file"
        raise UserError(f"{archive} holds {member.name!r}, a {kind}; only files and folders are read")
    return True


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Damage of an archive as one line."""
    try:
        yield
    except UserError:
        raise
    except (*_TAR_DAMAGE, *_ZIP_DAMAGE) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is damaged or cut off ({why}); download or copy it again") from error


class _StrictInfo(tarfile.TarInfo):
    """A tar's header; tarfile takes a damaged or missing one for the archive's end."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "_StrictInfo":
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # a block of zeros: the end
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"a header that is none: {error}") from error


class TarTree(_Archive):
    """An uncompressed tar, whose members are read at their places.

    Args:
        path: the archive.
        nested: whether tars in it count as folders of their files.
    """

    def __init__(self, path: Path, nested: bool = False) -> None:
        super().__init__(path)
        self.nested = nested
        self._places: dict[str, tuple[int, int]] = {}
        self._file: IO[bytes] | None = None

    def _list(self, advance: Advance) -> None:
        with _told(self.path):
            self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115 - read from as long as the tree is there
            size = os.fstat(self._file.fileno()).st_size
            self._list_from(0, size, "", advance)

    def _list_from(self, start: int, stop: int, prefix: str, advance: Advance) -> None:
        """List the tar that lies at [start, stop) of the file."""
        with open(self.path, "rb", buffering=_BLOCK) as file:
            file.seek(start)
            with tarfile.open(fileobj=file, mode="r:", tarinfo=_StrictInfo) as tar:
                while (member := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined]  # it would keep all of a million
                    if not _checked(self.path, member):
                        continue
                    place = member.offset_data
                    if place + member.size > stop:
                        raise UserError(f"{self.path} is cut off within {prefix}{member.name!r}; download it again")
                    if self.nested and member.name.endswith(".tar"):
                        folder = safe_path(self.path, prefix + member.name.removesuffix(".tar"))
                        self._folder(folder)
                        self._list_from(place, place + member.size, folder + "/", lambda _: None)
                    else:
                        path = self._add(prefix + member.name, (member.size, int(member.mtime * 1e9)))
                        self._places[path] = (place, member.size)
                    advance(_BLOCK + member.size)

    def read(self, name: str) -> bytes:
        """See `Tree`."""
        self.index()
        if (found := self._places.get(name)) is None:
            raise BrokenImage(f"is not in {self.path.name}")
        place, size = found
        if size > MAX_BYTES:
            raise BrokenImage(f"has {size:,} bytes, more than {MAX_BYTES:,}")
        assert self._file is not None
        try:
            data = os.pread(self._file.fileno(), size, place)
        except OSError as error:
            raise BrokenImage(f"cannot be read from {self.path.name} ({error.strerror or error})") from error
        if len(data) < size:
            raise BrokenImage(f"is cut off in {self.path.name}")
        return data


class CompressedTarTree(_Archive):
    """A compressed tar: one pass lists it and keeps its small texts, another one reads it, in its own order."""

    sequential = True

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._texts: dict[str, bytes] = {}
        self._room = _ALL_TEXTS

    def _members_of(self, advance: Advance) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
        with _told(self.path), open(self.path, "rb") as file, _decompressed(file) as plain:
            at = 0
            with tarfile.open(fileobj=plain, mode="r|", tarinfo=_StrictInfo, bufsize=1 << 20) as tar:
                while (member := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined]
                    if _checked(self.path, member):
                        yield tar, member
                    advance(file.tell() - at)
                    at = file.tell()
            while plain.read(1 << 20):  # a cut in what follows the last file is a cut all the same
                pass

    def _list(self, advance: Advance) -> None:
        for tar, member in self._members_of(advance):
            path = self._add(member.name, (member.size, int(member.mtime * 1e9)))
            if path.endswith(_TEXTS) and member.size <= min(_LARGEST_TEXT, self._room):
                self._texts[path] = _member_bytes(tar, member)
                self._room -= member.size

    def read(self, name: str) -> bytes:
        """A text that listing kept, or any other file by a pass over the archive up to it."""
        self.index()
        if name in self._texts:
            return self._texts[name]
        for path, read in self.stream():
            if path == name:
                return read()
        raise BrokenImage(f"is not in {self.path.name}")

    def stream(self) -> Iterator[tuple[str, Callable[[], bytes]]]:
        """See `Tree`."""
        self.index()
        for tar, member in self._members_of(lambda _: None):
            yield safe_path(self.path, member.name), partial(_member_bytes, tar, member)


def _decompressed(file: IO[bytes]) -> IO[bytes]:
    start = file.read(6)
    file.seek(0)
    kind = next(kind for magic, kind in _COMPRESSED.items() if start.startswith(magic))
    opened: IO[bytes] = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}[kind](file)  # type: ignore[operator]
    return opened


def _member_bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > MAX_BYTES:
        raise BrokenImage(f"has {member.size:,} bytes, more than {MAX_BYTES:,}")
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


class ZipTree(_Archive):
    """A zip, whose members are read by name."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._zip: zipfile.ZipFile | None = None
        self._infos: dict[str, zipfile.ZipInfo] = {}

    def _list(self, advance: Advance) -> None:
        with _told(self.path):
            self._zip = zipfile.ZipFile(self.path)
            for info in self._zip.infolist():
                if info.filename.startswith("__MACOSX/"):  # what a Mac adds to every zip: no files of the archive's
                    continue
                kind = (info.external_attr >> 16) & 0o170000
                if info.is_dir():
                    safe_path(self.path, info.filename + ".x")
                    continue
                if kind not in (0, 0o100000):
                    what = "link" if kind == 0o120000 else "special file"
                    raise UserError(f"{self.path} holds {info.filename!r}, a {what}; only files and folders are read")
                if info.flag_bits & 1:
                    raise UserError(f"{self.path} holds {info.filename!r} encrypted; make an archive without")
                self._infos[self._add(info.filename, (info.file_size, 0))] = info
                advance(info.compress_size)

    def read(self, name: str) -> bytes:
        """See `Tree`."""
        self.index()
        if (info := self._infos.get(name)) is None:
            raise BrokenImage(f"is not in {self.path.name}")
        assert self._zip is not None
        try:
            with self._zip.open(info) as file:
                data = file.read(MAX_BYTES + 1)
        except _ZIP_DAMAGE as error:
            raise BrokenImage(f"cannot be read from {self.path.name} ({error})") from error
        if len(data) > MAX_BYTES:
            raise BrokenImage(f"has more than {MAX_BYTES:,} bytes")
        return data
