"""One image file to uint8 pixels of the asked size and colour."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base as Exif

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
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, AttributeError, OverflowError,
    NotImplementedError, MemoryError, RuntimeError, struct.error, zlib.error,
)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WHITE_IS_ZERO, _PHOTOMETRIC, _BITS = 0, 262, 258


class BrokenImage(Exception):
    """A file that gives no image; its text says why, to follow the file's name."""


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

    The format is told from the content, never from a name. The first frame of an animation is taken, the EXIF
    orientation applied, transparency laid on white, 16-bit (and 12-bit) gray scaled to 8 bits, CMYK and palettes
    converted; floating-point gray is taken as 0…1, or as 0…255 where a value exceeds 1. Colour becomes gray by ITU-R
    601 (0.299 R + 0.587 G + 0.114 B). Resizing is Pillow's bilinear: antialiased along an axis that shrinks, ordinary
    bilinear along one that grows.

    Args:
        data: a file's bytes, or pixels uint8 (H, W) or (H, W, 3).
        size: side of the result in pixels.
        colour: "gray" or "rgb".

    Returns:
        uint8 (C, size, size), C = 1 or 3.

    Raises:
        BrokenImage: if the bytes are no image, are cut off, or describe more than `MAX_PIXELS` pixels (which are told
            from the header, and never decoded).
    """
    image = Image.fromarray(data) if isinstance(data, np.ndarray) else _open(data)
    turn = None
    try:
        if not isinstance(data, np.ndarray):
            image.draft(None, (2 * size, 2 * size))  # JPEG: skips detail finer than half a pixel of the result
            image.load()
            turn = _TURNS.get(_orientation(image))
        plain = _eight_bits(image, COLOURS[colour])
        if plain.size != (size, size):
            plain = plain.resize((size, size), Image.Resampling.BILINEAR)
    except _DAMAGE as error:
        raise BrokenImage(f"cannot be decoded ({_line(error)})") from error
    if turn is not None:
        plain = plain.transpose(turn)
    pixels = np.asarray(plain)
    if plain.mode == "F":
        pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    if pixels.ndim == 2:
        return np.repeat(pixels[None], COLOURS[colour], axis=0)
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
        image = Image.open(io.BytesIO(data), formats=_formats())
    except UnidentifiedImageError as error:
        raise BrokenImage("is not an image (of the formats " + ", ".join(_formats()) + ")") from error
    except Image.DecompressionBombError as error:
        raise BrokenImage(f"has more than {MAX_PIXELS / 1e6:.0f} megapixels") from error
    except _DAMAGE as error:
        raise BrokenImage(f"cannot be decoded ({_line(error)})") from error
    if image.width * image.height > MAX_PIXELS:
        raise BrokenImage(f"has more than {MAX_PIXELS / 1e6:.0f} megapixels")
    if not image.width * image.height:
        raise BrokenImage("has no pixels")
    return image


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(Exif.Orientation, 1))
    except _DAMAGE:  # as viewers do: an unreadable EXIF block says nothing, and the pixels are whole
        return 1


def _eight_bits(image: Image.Image, channels: int) -> Image.Image:
    """The image in mode L, RGB, or (deeper gray, in 0…255) F."""
    if image.mode.startswith("I;16"):
        return _from_integers(image)
    if image.mode == "I":
        if image.format not in ("PNG", "PPM"):
            raise ValueError("integer pixels of unknown range")
        return _from_integers(image)
    if image.mode == "F":
        return _from_floats(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if channels == 1 and image.mode not in ("1", "L"):
        image = image.convert("RGB")  # Pillow goes from CMYK or a palette to gray by other weights
    mode = "L" if channels == 1 or image.mode in ("1", "L") else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _from_integers(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float32)
    most, inverted = 65535, False
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        most = 2 ** int(tags.get(_BITS, (16,))[0]) - 1
        inverted = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    values *= np.float32(255 / most)
    return Image.fromarray(255 - values if inverted else values)


def _from_floats(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not (0 <= low and high <= 255):  # false for NaN, too
        raise ValueError(f"floating-point pixels from {low:g} to {high:g}, expected 0 to 1 or 0 to 255")
    return Image.fromarray(values * np.float32(255)) if high <= 1 else image


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
