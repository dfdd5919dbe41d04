"""An image as Pillow reads it, to 8-bit gray or RGB, as its file means it."""

import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImagePalette
from PIL.ImageFile import ImageFile

from invariance.data import tiff
from invariance.errors import BrokenImage

_CODESTREAM = b"\xff\x4f\xff\x51"
_BITMAP_BITS = {12: 24}  # header size: place of the depth; 28 in all others


def mend(image: Image.Image, data: bytes) -> None:
    """Set right, before its pixels are loaded, what Pillow takes otherwise than the file means it.

    Raises:
        BrokenImage: if that cannot be set right.
    """
    if image.format == "PNG":
        _mend_png(image, depth=data[24])
    elif image.format == "TIFF":
        _mend_palette(image)
    elif image.format == "BMP":
        depth = data[_BITMAP_BITS.get(data[14], 28)]
        if (image.mode == "1" and depth != 1) or (image.mode == "L" and depth != 8):
            raise BrokenImage(f"is a BMP of {depth} bits with a table of few grays, which is not supported")
    elif image.format == "GIF":
        frame = image.tile[0][1] if isinstance(image, ImageFile) else None
        if frame != (0, 0, *image.size) and "transparency" not in image.info:
            raise BrokenImage("is a GIF whose first frame leaves a part empty, which is not supported")
    elif image.format == "JPEG2000":
        _refuse_jpeg2000(image, data)


def _refuse_jpeg2000(image: Image.Image, data: bytes) -> None:
    """Pillow turns white of deep colour to black, loses equal entries of a table and guesses at other grids."""
    start = data.index(_CODESTREAM)
    (count,) = struct.unpack_from(">H", data, start + 40)
    parts = [tuple(data[start + 42 + 3 * i : start + 45 + 3 * i]) for i in range(count)]
    if image.mode in ("P", "PA"):
        raise BrokenImage("is a JPEG 2000 with a palette, which is not supported")
    if count > 1 and any(depth & 0x7F > 7 for depth, *_ in parts):
        raise BrokenImage("is a JPEG 2000 of more than 8 bits with colour or transparency, which is not supported")
    if any(part[0] & 0x80 or part[1:] != (1, 1) for part in parts):
        raise BrokenImage("is a JPEG 2000 of signed or subsampled parts, which is not supported")


def _mend_png(image: Image.Image, depth: int) -> None:
    """The transparent colour of a PNG is told at its own depth, which Pillow compares with pixels of 8 bits."""
    key = image.info.get("transparency")
    if key is None or image.mode not in ("1", "L", "RGB"):
        return
    if image.mode == "RGB" and depth == 16:
        raise BrokenImage("is a PNG of 16-bit RGB with a transparent colour, which is not supported")
    if depth < 8:
        most = 2**depth - 1
        in_file = key if image.mode == "L" else key & 1
        image.info["transparency"] = (in_file & most) * 255 // most


def _mend_palette(image: Image.Image) -> None:
    """A TIFF's table holds 16-bit numbers; where all are below 256 they are 8-bit ones, as libtiff takes them, too."""
    table = getattr(image, "tag_v2", {}).get(tiff.COLOUR_MAP, ())
    if image.mode in ("P", "PA") and table and max(table) < 256:
        image.palette = ImagePalette.raw("RGB;L", bytes(table))


def plain(image: Image.Image, channels: int) -> Image.Image:
    """A loaded image in mode L, RGB, or (deeper gray, in 0…255) F.

    Raises:
        BrokenImage: if its numbers have no known range.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return _from_integers(image)
    if image.mode == "I":
        raise BrokenImage(f"is a {image.format} of 32-bit integers of unknown range, which is not supported")
    if image.mode == "F":
        return _from_floats(image)
    if image.has_transparency_data:
        image = _on_white(image)
    if channels == 1 and image.mode not in ("1", "L"):
        image = image.convert("RGB")  # Pillow goes from CMYK or a palette to gray by other weights
    mode = "L" if channels == 1 or image.mode in ("1", "L") else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _on_white(image: Image.Image) -> Image.Image:
    tags = getattr(image, "tag_v2", None)
    assumed = image.format == "BMP" or (tags is not None and tiff.EXTRA not in tags)
    if assumed and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        return image.convert("RGB")  # the fourth byte is no transparency: programs leave it 0
    if image.mode == "La":
        image = image.convert("LA")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _from_integers(image: Image.Image) -> Image.Image:
    whole = np.asarray(image)
    values, most = whole.astype(np.float32), 65535
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        most = 2 ** int(tags.get(tiff.BITS, (16,))[0]) - 1
    values *= np.float32(255 / most)
    if (key := image.info.get("transparency")) is not None:
        values[whole == key] = 255
    return Image.fromarray(255 - values if _white_is_zero(image) else values)


def _from_floats(image: Image.Image) -> Image.Image:
    values: NDArray[np.float32] = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not (0 <= low and high <= 255):  # false for NaN, too
        raise BrokenImage(f"holds floating-point pixels from {low:g} to {high:g}, expected 0 to 1 or 0 to 255")
    values = values * np.float32(255) if high <= 1 else values
    return Image.fromarray(255 - values if _white_is_zero(image) else values)


def _white_is_zero(image: Image.Image) -> bool:
    tags = getattr(image, "tag_v2", None)
    return tags is not None and tags.get(tiff.PHOTOMETRIC) == tiff.WHITE_IS_ZERO
