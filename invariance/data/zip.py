"""Zips."""

import zipfile
from pathlib import Path

from invariance.data.archive import DAMAGE, Advance, Archive, safe_path, told
from invariance.data.decode import MAX_BYTES, BrokenImage
from invariance.data.magic import START
from invariance.errors import UserError

_LONGEST_LIST = 1 << 30  # bytes of the list of members, which is read as a whole
_NOT_UNIX = (0, 10, 11, 14)  # makers of zips, by number, that may write "\\" between folders


class ZipTree(Archive):
    """A zip, whose members are read by name."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._zip: zipfile.ZipFile | None = None
        self._infos: dict[str, zipfile.ZipInfo] = {}

    def _list(self, advance: Advance) -> None:
        with told(self.path):
            _check_list(self.path)
            self._zip = zipfile.ZipFile(self.path)
            infos = self._zip.infolist()
            if infos and min(info.header_offset for info in infos) > 0:
                raise UserError(f"{self.path} begins with files that its list does not name; make the archive again")
            for info in infos:
                if info.filename.startswith("__MACOSX/"):  # what a Mac adds to every zip: no files of the archive's
                    continue
                name = self._name(info)
                if name is not None:
                    self._infos[self._add(name, info.file_size)] = info
                advance(info.compress_size)

    def _name(self, info: zipfile.ZipInfo) -> str | None:
        """A file's path; None for a folder, which is taken in.

        Raises:
            UserError: for a link, a device, an encrypted file or a name that reads otherwise than it is written.
        """
        name, kind = info.filename, (info.external_attr >> 16) & 0o170000
        if "\0" in info.orig_filename:
            raise UserError(f"{self.path} holds the unsafe path {info.orig_filename!r}; it is not read")
        if info.create_system in _NOT_UNIX:
            name = name.replace("\\", "/")
        if name.endswith("/") or kind == 0o040000:
            self._folder(safe_path(self.path, name + "/.x").rpartition("/")[0])
            return None
        if kind not in (0, 0o100000):
            what = "link" if kind == 0o120000 else "special file"
            raise UserError(f"{self.path} holds {name!r}, a {what}; only files and folders are read")
        if info.flag_bits & 1:
            raise UserError(f"{self.path} holds {name!r} encrypted; make an archive without")
        return name

    def read(self, name: str) -> bytes:
        """See `Tree`."""
        data = self._bytes_of(name, MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise BrokenImage(f"has more than {MAX_BYTES:,} bytes")
        return data

    def start(self, name: str) -> bytes:
        """See `Tree`."""
        try:
            return self._bytes_of(name, START)
        except BrokenImage:
            return b""

    def _bytes_of(self, name: str, most: int) -> bytes:
        self.index()
        if (info := self._infos.get(name)) is None:
            raise BrokenImage(f"is not in {self.path.name}")
        assert self._zip is not None
        try:
            with self._zip.open(info) as file:
                return file.read(most)
        except DAMAGE as error:
            raise BrokenImage(f"cannot be read from {self.path.name} ({error})") from error


def _check_list(path: Path) -> None:
    """Refuse a list of members that is too long to be read at once.

    Raises:
        UserError: naming its length.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - (1 << 16) - 22 - 20))
        tail = file.read()
        end = tail.rfind(b"PK\x05\x06")
        if end < 0 or len(tail) < end + 22:
            return  # zipfile says what is wrong
        length = int.from_bytes(tail[end + 12 : end + 16], "little")
        if tail[end - 20 : end - 16] == b"PK\x06\x07" and end >= 20:
            file.seek(min(size, int.from_bytes(tail[end - 12 : end - 4], "little")))
            length = max(length % 0xFFFFFFFF, int.from_bytes(file.read(56)[40:48], "little"))
    if length > min(_LONGEST_LIST, size):
        raise UserError(f"{path} says that its list of files has {length:,} bytes; make the archive again")
