"""Tars, compressed or not."""

import bz2
import gzip
import lzma
import os
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

from invariance.data.archive import Advance, Archive, safe_path, told
from invariance.data.decode import MAX_BYTES, BrokenImage
from invariance.data.magic import START, is_image
from invariance.data.tar_headers import BLOCK, Header, members
from invariance.errors import UserError

COMPRESSED = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz"}
_TEXTS, _LARGEST_TEXT, _ALL_TEXTS = (".txt", ".mat"), 1 << 26, 1 << 28


class _Tar(Archive):
    """What tars have in common."""

    def _is_file(self, member: Header) -> bool:
        """Whether a tar's member is a file; a folder is taken in.

        Raises:
            UserError: for links, devices and sparse files.
        """
        if member.kind == "folder":
            self._folder(safe_path(self.path, member.name + "/.x").rpartition("/")[0])
            return False
        if member.kind != "file":
            raise UserError(f"{self.path} holds {member.name!r}, a {member.kind}; only files and folders are read")
        return True


class TarTree(_Tar):
    """An uncompressed tar, whose members are read at their places.

    Args:
        path: the archive.
        nested: whether tars in it count as folders of their files.
    """

    def __init__(self, path: Path, nested: bool = False) -> None:
        super().__init__(path)
        self.nested = nested
        self._places: dict[str, tuple[int, int]] = {}
        self._file: int | None = None

    def _list(self, advance: Advance) -> None:
        with told(self.path):
            self._file = os.open(self.path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._file)  # read from as long as the tree is there
            self._list_from(0, os.fstat(self._file).st_size, "", advance)

    def _list_from(self, start: int, stop: int, prefix: str, advance: Advance) -> None:
        """List the tar that lies at [start, stop) of the file, its paths behind `prefix`."""
        with open(self.path, "rb", buffering=BLOCK) as file:
            for member in members(file, start, stop):
                if prefix:
                    safe_path(self.path, member.name)
                    member = Header(prefix + member.name, member.kind, member.size, member.place)
                if not self._is_file(member):
                    continue
                if self.nested and not prefix and member.name.endswith(".tar"):
                    self._list_from(member.place, member.place + member.size, self._stem(member.name), lambda _: None)
                else:
                    self._places[self._add(member.name, member.size)] = (member.place, member.size)
                advance(BLOCK + member.size)

    def _stem(self, name: str) -> str:
        """The folder that a tar in the tar stands for, with "/" behind.

        Raises:
            UserError: if it is there before, as of two tars of one name.
        """
        folder = safe_path(self.path, name.removesuffix(".tar"))
        if folder in self._folders:
            raise UserError(f"{self.path} holds {folder!r} twice, as {name!r} and before; make the archive again")
        self._folder(folder)
        return folder + "/"

    def _bytes_at(self, place: int, size: int) -> bytes:
        assert self._file is not None
        return os.pread(self._file, size, place)

    def read(self, name: str) -> bytes:
        """See `Tree`."""
        self.index()
        if (found := self._places.get(name)) is None:
            raise BrokenImage(f"is not in {self.path.name}")
        place, size = found
        if size > MAX_BYTES:
            raise BrokenImage(f"has {size:,} bytes, more than {MAX_BYTES:,}")
        try:
            data = self._bytes_at(place, size)
        except OSError as error:
            raise BrokenImage(f"cannot be read from {self.path.name} ({error.strerror or error})") from error
        if len(data) < size:
            raise BrokenImage(f"is cut off in {self.path.name}")
        return data

    def start(self, name: str) -> bytes:
        """See `Tree`."""
        place, size = self._places.get(name, (0, 0))
        try:
            return self._bytes_at(place, min(size, START))
        except OSError:
            return b""


class CompressedTarTree(_Tar):
    """A compressed tar: one pass lists it and keeps its small texts, another one reads it, in its own order."""

    sequential = True

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._texts: dict[str, bytes] = {}
        self._starts: dict[str, bytes] = {}
        self._room = _ALL_TEXTS

    def _members_of(self, advance: Advance) -> Iterator[tuple[IO[bytes], Header]]:
        with told(self.path), open(self.path, "rb") as file, _decompressed(file) as plain:
            at = 0
            for member in members(plain):
                if self._is_file(member):
                    yield plain, member
                advance(file.tell() - at)
                at = file.tell()
            while plain.read(1 << 20):  # a cut in what follows the last file is a cut all the same
                pass

    def _list(self, advance: Advance) -> None:
        for plain, member in self._members_of(advance):
            path = self._add(member.name, member.size)
            if path.endswith(_TEXTS) and member.size <= min(_LARGEST_TEXT, self._room):
                self._texts[path] = _member_bytes(plain, member)
                self._starts[path] = self._texts[path][:START]
                self._room -= member.size
            elif not is_image(path.rpartition("/")[2]):
                self._starts[path] = plain.read(min(member.size, START))

    def read(self, name: str) -> bytes:
        """A text that listing kept, or any other file by a pass over the archive up to it."""
        self.index()
        if name in self._texts:
            return self._texts[name]
        for path, read in self.stream():
            if path == name:
                return read()
        raise BrokenImage(f"is not in {self.path.name}")

    def start(self, name: str) -> bytes:
        """See `Tree`; those of files that are named as images are not kept."""
        return self._starts.get(name, b"")

    def stream(self) -> Iterator[tuple[str, Callable[[], bytes]]]:
        """See `Tree`."""
        self.index()
        for plain, member in self._members_of(lambda _: None):
            yield safe_path(self.path, member.name), partial(_member_bytes, plain, member)


def _decompressed(file: IO[bytes]) -> IO[bytes]:
    start = file.read(6)
    file.seek(0)
    kind = next(kind for magic, kind in COMPRESSED.items() if start.startswith(magic))
    opened: IO[bytes] = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}[kind](file)  # type: ignore[operator]
    return opened


def _member_bytes(plain: IO[bytes], member: Header) -> bytes:
    if member.size > MAX_BYTES:
        raise BrokenImage(f"has {member.size:,} bytes, more than {MAX_BYTES:,}")
    if plain.tell() != member.place:
        plain.seek(member.place)
    return plain.read(member.size)
