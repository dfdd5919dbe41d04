"""The headers of a tar, one after the other: none is read that is too large, and none is taken at its word."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

BLOCK = 512
LONGEST_NAME = 4096
_LONGEST_RECORD = 1 << 20  # bytes that a header beside the header may take; names have 4,096 at most
_MOST_RECORDS = 16  # of these before one member
_FILES, _LINKS, _FOLDER = b"\x0007", b"12", b"5"
_LONG_NAME, _LONG_LINK, _EXTENDED, _GLOBAL = b"L", b"K", b"xX", b"g"
_SPARSE = b"S"


class BadTar(ValueError):
    """A header that cannot be right; the text says why."""


@dataclass(frozen=True)
class Header:
    """What a header says.

    Attributes:
        name: the path, as it is written.
        kind: "file", "folder", "link" or "special file".
        size: of its content in bytes.
        place: where in the file its content begins.
    """

    name: str
    kind: str
    size: int
    place: int


def is_header(block: bytes) -> bool:
    """Whether a block is a header, of whatever age."""
    try:
        return len(block) == BLOCK and any(block) and _checked(block) is not None
    except BadTar:
        return False


def members(file: IO[bytes], start: int = 0, stop: int | None = None) -> Iterator[Header]:
    """The members of a tar, in its order.

    The file is sought forward only; whoever takes a member may read its content from `place` before the next.

    Args:
        file: the tar, decompressed.
        start: where in the file it begins.
        stop: where it ends at the latest, if that is known.

    Raises:
        BadTar: for a header that is damaged, larger than any can be, or names no size; a tar that is cut off, or behind
            whose end another one begins.
    """
    place = start
    while (header := _block(file, place, stop)).strip(b"\0"):
        name, size, records = None, None, 0
        while header[156:157] in (_LONG_NAME, _LONG_LINK, b"x", b"X", _GLOBAL):
            records += 1
            kind, length = header[156:157], _checked(header)
            if records > _MOST_RECORDS or length > _LONGEST_RECORD:
                raise BadTar(f"a header of {length:,} bytes" if records <= _MOST_RECORDS else "headers without end")
            data = _exactly(file, place + BLOCK, length, stop)
            if kind == _LONG_NAME:
                name = name if name is not None else _text(data.rstrip(b"\0"))
            elif kind in _EXTENDED:
                fields = _fields(data)
                name, size = _text(fields["path"]) if "path" in fields else name, _decimal(fields.get("size"))
            elif kind == _GLOBAL and {"path", "size"} & set(_fields(data)):
                raise BadTar("a header for all files that names one")
            place += BLOCK + _padded(length)
            header = _block(file, place, stop)
        written = _checked(header)
        member = _member(header, name, written if size is None else size, place + BLOCK)
        held = member.size if member.kind in ("file", "special file") else 0
        place += BLOCK + _padded(held)
        if stop is not None and member.place + held > stop:
            raise BadTar(f"cut off within {member.name!r}")
        yield member
    _check_end(file, place, stop)


def _member(header: bytes, long_name: str | None, size: int, place: int) -> Header:
    kind = header[156:157]
    name = long_name
    if name is None:
        name = _text(_until_nul(header[:100]))
        if header[257:263] == b"ustar\0" and (prefix := header[345:500].partition(b"\0")[0]):
            name = f"{_text(prefix)}/{name}"
    if len(name) > LONGEST_NAME:
        raise BadTar(f"a name of {len(name):,} letters")
    if kind == _FOLDER or (kind in _FILES and name.endswith("/")):
        return Header(name, "folder", size, place)
    known = "file" if kind in _FILES else "link" if kind in _LINKS else "special file"
    return Header(name, known, size, place)


def _block(file: IO[bytes], place: int, stop: int | None) -> bytes:
    return _exactly(file, place, BLOCK, stop)


def _exactly(file: IO[bytes], place: int, size: int, stop: int | None) -> bytes:
    if stop is not None and place + size > stop:
        raise BadTar("it ends without an end")
    if file.tell() != place:
        file.seek(place)
    data = file.read(size)
    if len(data) < size:
        raise BadTar("it ends without an end")
    return data


def _checked(header: bytes) -> int:
    """The size that a header gives, its sum being right."""
    body = header[:148] + b" " * 8 + header[156:]
    said = _number(header[148:156])
    if said != sum(body) and said != sum(byte - 256 if byte > 127 else byte for byte in body):
        raise BadTar("a header whose sum is wrong")
    return _number(header[124:136])


def _number(field: bytes) -> int:
    """A number, in octal digits or, with the highest bit set, as it is."""
    if field[0] & 0x80:
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        if field[0] & 0x40 or value >= 1 << 63:
            raise BadTar("a header with a number below 0 or beyond any size")
        return value
    digits = field.partition(b"\0")[0].strip()
    try:
        value = int(digits or b"0", 8)
    except ValueError as error:
        raise BadTar(f"a header with the number {digits!r}") from error
    if value < 0:
        raise BadTar("a header with a number below 0")
    return value


def _decimal(digits: bytes | None) -> int | None:
    if digits is None:
        return None
    if not digits.isdigit() or len(digits) > 18:
        raise BadTar(f"a header with the size {digits[:20]!r}")
    return int(digits)


def _fields(data: bytes) -> dict[str, bytes]:
    """The fields of an extended header: lines "length key=value"."""
    fields, at = {}, 0
    while at < len(data):
        length, blank, _ = data[at : at + 20].partition(b" ")
        stop = at + int(length) if blank and length.isdigit() else 0
        key, equals, value = data[at + len(length) + 1 : stop].partition(b"=")
        if not equals or stop > len(data) or not value.endswith(b"\n"):
            raise BadTar("an extended header that is none")
        if key.startswith(b"GNU.sparse."):
            raise BadTar("a file with holes, which is not read")
        fields[key.decode("utf-8", "surrogateescape")] = value[:-1]
        at = stop
    return fields


def _until_nul(field: bytes) -> bytes:
    text, _, rest = field.partition(b"\0")
    if rest.strip(b"\0"):
        raise BadTar(f"a name with a NUL in it, {field.rstrip(bytes(1))!r}")
    return text


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _check_end(file: IO[bytes], place: int, stop: int | None) -> None:
    """Refuse a second tar behind the end of the first, which would be lost."""
    place += BLOCK
    while stop is None or place + BLOCK <= stop:
        if file.tell() != place:
            file.seek(place)
        block = file.read(BLOCK)
        if block.strip(b"\0"):
            if is_header(block):
                raise BadTar("another tar begins behind its end")
            return
        if len(block) < BLOCK:
            return
        place += BLOCK
