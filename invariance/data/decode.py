"""One image file to uint8 pixels of the asked size and colour."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base as Exif

from invariance.data import tiff
from invariance.data.colours import mend, plain
from invariance.errors import BrokenImage as BrokenImage
from invariance.models.recipe import Resize

Pixels = NDArray[np.uint8]
COLOURS = {"gray": 1, "rgb": 3}
MAX_PIXELS = 200_000_000
MAX_BYTES = 1 << 30
# raster formats only: some of Pillow's other readers start programs or fetch what a file names
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000", "AVIF")
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .tif .tiff .bmp .dib .gif .webp .ppm .pgm .pbm .pnm .jp2 .j2k .jpx .mpo .avif".split()
)
# what Pillow raises for files that are cut off or scrambled
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    AttributeError,
    OverflowError,
    NotImplementedError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIGNATURES = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "TIFF": tiff.PREFIXES,
    "BMP": (b"BM",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "PPM": tuple(b"P%d" % n for n in range(1, 7)),
    "JPEG2000": (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
}
# formats that are told by name, for none of them is read
_OTHERS = {
    b"\0\0\1\0": "an icon (ICO)",
    b"#?": "a Radiance HDR image",
    b"v/1\1": "an OpenEXR image",
    b"8BPS": "a Photoshop file",
    b"DDS ": "a DDS texture",
    b"\xff\x0a": "a JPEG XL image",
    b"\0\0\0\x0cJXL ": "a JPEG XL image",
    b"PF": "a colour PFM",
    b"P7": "a PAM image",
    b"qoif": "a QOI image",
    b"icns": "an icon (ICNS)",
    b"II\xbc": "a JPEG XR image",
    b"\x01\xda": "an SGI image",
    b"SIMPLE  =": "a FITS image",
}


@contextmanager
def large_images() -> Iterator[None]:
    """Let Pillow open images up to `MAX_PIXELS`, silently; its limit and Python's warnings are the process's own.

    Enter it once, around all threads that decode.
    """
    held = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow warns beyond this and refuses beyond twice this
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")
            warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = held


def decode(data: bytes | Pixels, size: int, colour: str) -> Pixels:
    """Pixels of one image, warped (not cropped) to a square.

    The format is told from the content, never from a name. The first frame of an animation is taken, of a TIFF the
    first page that is no thumbnail; the EXIF orientation is applied, transparency laid on white, 16-bit (and 12-bit)
    gray scaled to 8 bits, CMYK and palettes converted; floating-point gray is taken as 0…1, or as 0…255 where a value
    exceeds 1. A form that would not be read as the file means it is refused. Colour becomes gray by ITU-R 601 (0.299 R
    + 0.587 G + 0.114 B). Resizing is Pillow's bilinear: antialiased along an axis that shrinks, ordinary bilinear along
    one that grows.

    Args:
        data: a file's bytes, or pixels uint8 (H, W) or (H, W, 3).
        size: side of the result in pixels.
        colour: "gray" or "rgb".

    Returns:
        uint8 (C, size, size), C = 1 or 3.

    Raises:
        BrokenImage: if the bytes are no image or one of a form that is not supported, are cut off, or describe more
            than `MAX_PIXELS` pixels (which are told from the header, and never decoded).
    """
    return decode_sizes(data, (size,), colour)[0]


def decode_sizes(data: bytes | Pixels, sizes: Sequence[int], colour: str) -> list[Pixels]:
    """Pixels of one image at several sizes, each what `decode` gives for it, the image being decoded once.

    A large JPEG whose detail a small size does not need is decoded once more for it, as `decode` would.

    Raises:
        BrokenImage: as `decode`.
    """
    loaded: dict[tuple[int, int], tuple[Image.Image, Image.Transpose | None]] = {}
    is_jpeg, made, image = not isinstance(data, np.ndarray) and data.startswith(_SIGNATURES["JPEG"]), [], None
    try:
        for size in sizes:
            if image is None or is_jpeg:
                image = Image.fromarray(data) if isinstance(data, np.ndarray) else _open(data)
                image.draft(None, (2 * size, 2 * size))  # JPEG: skips detail finer than half a pixel of the result
                detail = image.size
            if detail not in loaded:
                image.load()
                turn = None if isinstance(data, np.ndarray) else _TURNS.get(_orientation(image))
                loaded[detail] = plain(image, COLOURS[colour]), turn
            made.append(_sized(*loaded[detail], size, COLOURS[colour]))
    except Image.DecompressionBombError as error:
        raise BrokenImage(f"has more than {MAX_PIXELS / 1e6:.0f} megapixels") from error
    except _DAMAGE as error:
        raise BrokenImage(f"cannot be decoded ({_line(error)})") from error
    return made


def decode_as(data: bytes | Pixels, resize: Resize, colour: str) -> Pixels:
    """Pixels of one image, resized and cropped as a network takes them: the whole image is decoded, and turned first.

    Args:
        data: as `decode` takes it.
        resize: what is done.
        colour: "gray" or "rgb".

    Returns:
        uint8 (C, H, W), C = 1 or 3.

    Raises:
        BrokenImage: as `decode`.
    """
    try:
        image = Image.fromarray(data) if isinstance(data, np.ndarray) else _open(data)
        image.load()
        turn = None if isinstance(data, np.ndarray) else _TURNS.get(_orientation(image))
        image = plain(image, COLOURS[colour])
        return _pixels(resize(image if turn is None else image.transpose(turn)), COLOURS[colour])
    except Image.DecompressionBombError as error:
        raise BrokenImage(f"has more than {MAX_PIXELS / 1e6:.0f} megapixels") from error
    except _DAMAGE as error:
        raise BrokenImage(f"cannot be decoded ({_line(error)})") from error


def _sized(image: Image.Image, turn: Image.Transpose | None, size: int, channels: int) -> Pixels:
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return _pixels(image if turn is None else image.transpose(turn), channels)


def _pixels(image: Image.Image, channels: int) -> Pixels:
    pixels = np.asarray(image)
    if image.mode == "F":
        pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    if pixels.ndim == 2:
        return np.repeat(pixels[None], channels, axis=0)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


@cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this build of Pillow reads."""
    Image.init()
    return tuple(kind for kind in FORMATS if kind in Image.OPEN)


def _open(data: bytes) -> Image.Image:
    if not data:
        raise BrokenImage("has 0 bytes")
    if len(data) > MAX_BYTES:
        raise BrokenImage(f"has {len(data):,} bytes, more than {MAX_BYTES:,}")
    try:
        page = tiff.picture(data) if data.startswith(tiff.PREFIXES) else 0
        image = Image.open(io.BytesIO(data), formats=_formats())
        if page:
            image.seek(page)
        mend(image, data)
    except UnidentifiedImageError as error:
        raise BrokenImage(_refusal(data)) from error
    except Image.DecompressionBombError as error:
        raise BrokenImage(f"has more than {MAX_PIXELS / 1e6:.0f} megapixels") from error
    except _DAMAGE as error:
        raise BrokenImage(f"cannot be decoded ({_line(error)})") from error
    if image.width * image.height > MAX_PIXELS:
        raise BrokenImage(f"has more than {MAX_PIXELS / 1e6:.0f} megapixels")
    if not image.width * image.height:
        raise BrokenImage("has no pixels")
    return image


def _refusal(data: bytes) -> str:
    """What a file is that Pillow does not open, and why."""
    kind = next((kind for kind, starts in _SIGNATURES.items() if data.startswith(starts)), None)
    if kind == "TIFF":
        return f"is {tiff.described(data)}, which is not supported"
    if kind is not None and kind in _formats():
        try:
            Image.OPEN[kind][0](io.BytesIO(data), "")
        except _DAMAGE as error:
            return f"is a {kind} that is damaged or not supported ({_line(error)})"
    for start, what in _OTHERS.items():
        if data.startswith(start):
            return f"is {what}, which is not supported (formats read: {', '.join(_formats())})"
    if data[4:8] == b"ftyp":
        return f"is a film or a picture of kind {data[8:12].decode('latin-1')!r}, which is not supported"
    return "is not an image (of the formats " + ", ".join(_formats()) + ")"


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(Exif.Orientation, 1))
    except _DAMAGE:  # as viewers do: an unreadable EXIF block says nothing, and the pixels are whole
        return 1


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
