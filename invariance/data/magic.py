"""Whether a file is an image: by its name, which costs nothing, or by its first bytes."""

import re

from invariance.data.decode import SUFFIXES

START = 64
"""How many bytes from a file's start tell what it is."""
_STARTS = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"\xff\x4f\xff\x51",
    b"\0\0\0\x0cjP  \r\n\x87\n",
)
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
# two letters may begin a text, so that a width must follow
_PNM = re.compile(rb"P[1-6f](?:\s+|#[^\r\n]*[\r\n])+(?:\d|#)")


def is_image(name: str) -> bool:
    """Whether a file's name says that it is an image; hidden files are none."""
    _, dot, suffix = name.rpartition(".")
    return f"{dot}{suffix}".lower() in SUFFIXES and not name.startswith(".")


def looks_like_image(start: bytes) -> bool:
    """Whether a file that begins with these bytes (`START` of them, or all) is an image of a format that is read."""
    if start.startswith(_STARTS) or _PNM.match(start):
        return True
    if start[:4] == b"RIFF":
        return start[8:12] == b"WEBP"
    if start[:2] == b"BM":
        return int.from_bytes(start[14:18], "little") in _BMP_HEADERS
    if start[4:8] == b"ftyp":
        brands = start[8 : min(len(start), int.from_bytes(start[:4], "big"))]
        return any(brands[i : i + 4] in (b"avif", b"avis") for i in range(0, len(brands), 4))
    return False
