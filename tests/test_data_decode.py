"""Decoding: every odd kind of image file, against pixels made independently of it."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from invariance.data.decode import MAX_PIXELS, BrokenImage, decode, decode_sizes, large_images

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def photo(height=40, width=64, channels=3, seed=0):
    """A smooth asymmetric image, so that lossy formats keep it nearly."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 8, channels), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, channels)
    return image if channels > 1 else image[..., 0]


def saved(pixels, kind, mode=None, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    if mode is not None:
        image = image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bilinear(pixels, size):
    """Antialiased bilinear resizing as a matrix product in float64: a triangle as wide as two steps of the result."""

    def weights(n):
        scale = n / size
        support = max(scale, 1.0)
        centres = (np.arange(size) + 0.5) * scale
        triangle = 1 - np.abs(np.arange(n)[None] + 0.5 - centres[:, None]) / support
        triangle = np.clip(triangle, 0, None)
        return triangle / triangle.sum(1, keepdims=True)

    planes = np.atleast_3d(pixels).astype(np.float64)
    return np.einsum("ih,jw,hwc->cij", weights(planes.shape[0]), weights(planes.shape[1]), planes, optimize=True)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 50), st.sampled_from([1, 3]), st.integers(0, 9))
def test_resizing_is_antialiased_bilinear_of_each_axis(height, width, size, channels, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    pixels = pixels[..., 0] if channels == 1 else pixels
    result = decode(pixels, size, "gray" if channels == 1 else "rgb")
    assert result.shape == (channels, size, size) and result.dtype == np.uint8
    # Pillow rounds to 8 bits after each of the two axes
    assert np.abs(result - bilinear(pixels, size)).max() <= 1.1


def test_shrinking_agrees_with_opencv_area_and_keeps_the_mean():
    pixels = photo(96, 160, seed=3)
    ours = decode(pixels, 32, "rgb").transpose(1, 2, 0).astype(float)
    area = cv2.resize(pixels, (32, 32), interpolation=cv2.INTER_AREA).astype(float)
    assert np.abs(ours - area).mean() < 3
    assert np.abs(ours.mean((0, 1)) - pixels.mean((0, 1))).max() < 2
    checks = np.indices((64, 64)).sum(0) % 2 * np.uint8(255)
    assert np.abs(decode(checks.astype(np.uint8), 16, "gray").astype(float) - 127.5)[:, 1:-1, 1:-1].max() < 2


@pytest.mark.parametrize(
    "kind,options,tolerance",
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("PPM", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 98, "subsampling": 0}, 4),
        ("JPEG2000", {}, 1),
    ],
)
def test_every_format_gives_the_same_pixels(kind, options, tolerance):
    pixels = photo()
    want = decode(pixels, 24, "rgb").astype(int)
    assert np.abs(decode(saved(pixels, kind, **options), 24, "rgb") - want).max() <= tolerance
    gray = pixels @ np.array([0.299, 0.587, 0.114])
    got = decode(saved(pixels, kind, **options), 24, "gray")
    assert got.shape == (1, 24, 24) and np.abs(got[0] - bilinear(gray, 24)[0]).max() <= tolerance + 2


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bit_gray_is_scaled_not_saturated(order):
    ramp = np.linspace(0, 65535, 48 * 32).reshape(32, 48).astype(np.uint16)
    if order == "<":
        files = [saved(Image.fromarray(ramp), "PNG"), saved(Image.fromarray(ramp), "TIFF")]
    else:
        files = [big_endian_tiff(ramp)]
    for data in files:
        for colour in ("gray", "rgb"):
            assert np.abs(decode(data, 16, colour) - bilinear(ramp / 257, 16)).max() <= 0.6
    assert Image.open(io.BytesIO(files[0])).convert("L").getextrema() == (0, 255)  # what Pillow would make of it


def big_endian_tiff(values, photometric=1, bits=16):
    """An uncompressed gray TIFF written by hand."""
    height, width = values.shape
    entries = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, photometric),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, values.size * 2),
    ]
    body = values.astype(">u2").tobytes()
    table = struct.pack(">H", len(entries))
    for tag, kind, value in entries:
        table += struct.pack(">HHI", tag, kind, 1)
        table += struct.pack(">HH", value, 0) if kind == 3 else struct.pack(">I", value)
    return b"MM\x00*" + struct.pack(">I", 8 + len(body)) + body + table + struct.pack(">I", 0)


def test_sixteen_bit_gray_with_white_as_zero_is_turned_round():
    ramp = np.linspace(0, 65535, 48 * 32).reshape(32, 48).astype(np.uint16)
    little = bytearray(saved(Image.fromarray(ramp), "TIFF"))
    place = little.index(struct.pack("<HHI", 262, 3, 1))
    little[place + 8 : place + 10] = struct.pack("<H", 0)
    assert np.abs(decode(bytes(little), 16, "gray") - (255 - bilinear(ramp / 257, 16))).max() <= 0.6


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_floating_point_gray(scale):
    values = np.linspace(0, scale, 48 * 32, dtype=np.float32).reshape(32, 48)
    got = decode(saved(Image.fromarray(values), "TIFF"), 16, "gray")
    assert np.abs(got - bilinear(values * 255 / scale, 16)).max() <= 0.6


@pytest.mark.parametrize("bad", [np.nan, -1.0, 300.0])
def test_floating_point_of_unknown_range_is_broken(bad):
    values = np.full((8, 9), 0.5, np.float32)
    values[2, 3] = bad
    with pytest.raises(BrokenImage, match="floating-point"):
        decode(saved(Image.fromarray(values), "TIFF"), 8, "gray")


def test_one_bit_palette_and_transparency():
    square = np.zeros((12, 20), np.uint8)
    square[:, 10:] = 255
    assert np.array_equal(decode(saved(square, "PNG", "1"), 4, "gray"), decode(square, 4, "gray"))
    one_bit = decode(saved(square, "TIFF", "1", compression="group4"), 4, "rgb")
    assert one_bit[:, 1].tolist() == [decode(square, 4, "gray")[0, 1].tolist()] * 3
    palette = saved(photo(), "PNG", "P")
    shown = np.asarray(Image.open(io.BytesIO(palette)).convert("RGB"))
    assert np.array_equal(decode(palette, 20, "rgb"), decode(shown, 20, "rgb"))
    assert np.array_equal(decode(palette, 20, "gray"), decode(shown, 20, "gray"))


def test_transparency_is_laid_on_white():
    rgba = np.zeros((8, 16, 4), np.uint8)
    rgba[:, :8] = (255, 0, 0, 255)
    rgba[:, 8:12] = (0, 0, 255, 0)
    rgba[:, 12:] = (0, 0, 0, 128)
    got = decode(saved(rgba, "PNG"), 16, "rgb")
    assert got[:, 5, 2].tolist() == list(RED) and got[:, 5, 10 * 16 // 16].tolist() == list(WHITE)
    assert np.abs(got[:, 5, 15].astype(int) - 127).max() <= 1
    two = np.zeros((8, 16, 2), np.uint8)
    two[:, 8:, 1] = 255
    assert decode(saved(Image.fromarray(two, "LA"), "PNG"), 16, "gray")[0, 3, [2, 13]].tolist() == [255, 0]
    index = Image.fromarray(np.repeat(np.array([[0, 1]], np.uint8), 8, 1).repeat(8, 0), "P")
    index.putpalette([*GREEN, *BLUE])
    for transparency in (0, b"\x00\xff"):
        got = decode(saved(index, "PNG", transparency=transparency), 16, "rgb")
        assert got[:, 5, 2].tolist() == list(WHITE) and got[:, 5, 13].tolist() == list(BLUE)
    keyed = Image.new("RGB", (8, 8), RED)
    assert decode(saved(keyed, "PNG", transparency=RED), 4, "rgb")[:, 1, 1].tolist() == list(WHITE)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind):
    cmyk = Image.merge("CMYK", [Image.new("L", (16, 12), v) for v in (0, 255, 255, 0)])
    got = decode(saved(cmyk, kind), 8, "rgb")
    assert np.abs(got.reshape(3, -1).T.astype(int) - RED).max() <= 3
    gray = decode(saved(cmyk, kind), 8, "gray")
    assert np.abs(gray.astype(int) - 76).max() <= 2


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind, orientation):
    # the corner that a viewer shows at the top left, and the one to its right
    corners = np.zeros((24, 48, 3), np.uint8)
    corners[:12, :24], corners[:12, 24:], corners[12:, :24], corners[12:, 24:] = RED, GREEN, BLUE, WHITE
    exif = Image.Exif()
    exif[274] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    got = decode(saved(corners, kind, exif=exif, **options), 16, "rgb").astype(int)
    first, second = {
        1: (RED, GREEN),
        2: (GREEN, RED),
        3: (WHITE, BLUE),
        4: (BLUE, WHITE),
        5: (RED, BLUE),
        6: (BLUE, RED),
        7: (WHITE, GREEN),
        8: (GREEN, WHITE),
    }[orientation]
    assert np.abs(got[:, 3, 3] - first).max() <= 4 and np.abs(got[:, 3, 12] - second).max() <= 4


def test_an_unreadable_exif_block_leaves_the_image():
    data = saved(photo(), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert decode(data, 8, "rgb").shape == (3, 8, 8)


def test_animation_gives_its_first_frame_and_mpo_its_first_image():
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    got = decode(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]), 4, "rgb")[:, 1, 1]
    assert got.tolist() == list(RED)
    got = decode(saved(frames[0], "MPO", save_all=True, append_images=frames[1:]), 4, "rgb")[:, 1, 1]
    assert np.abs(got.astype(int) - RED).max() <= 3


@pytest.mark.parametrize("size", [1, 5])
def test_one_pixel(size):
    got = decode(saved(np.full((1, 1, 3), (9, 99, 199), np.uint8), "PNG"), size, "rgb")
    assert (got == np.array([9, 99, 199])[:, None, None]).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP", "PPM"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_files_are_broken(kind, share):
    data = saved(np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8), kind)
    with pytest.raises(BrokenImage):
        decode(data[: int(len(data) * share)], 16, "rgb")


@pytest.mark.parametrize(
    "data,reason",
    [
        (b"", "0 bytes"),
        (b"hello, this is no image at all", "not an image"),
        (b"\x00" * 1000, "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"),
    ],
)
def test_what_is_no_image_is_broken(data, reason):
    with pytest.raises(BrokenImage, match=reason):
        decode(data, 8, "gray")


def huge_png(width, height):
    """A PNG whose header promises width × height pixels, and whose data would take a long time."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_images_beyond_the_limit_are_told_from_their_header(monkeypatch):
    monkeypatch.setattr(Image.core, "zip_decoder", lambda *_: pytest.fail("pixels were decoded"), raising=True)
    for context in (large_images, __import__("contextlib").nullcontext):
        with context(), pytest.raises(BrokenImage, match="200 megapixels"):
            decode(huge_png(20_001, 10_000), 8, "gray")


def test_images_up_to_the_limit_are_opened_without_a_warning(recwarn):
    side = int((MAX_PIXELS - 1) ** 0.5)
    held = Image.MAX_IMAGE_PIXELS
    with large_images():
        with pytest.raises(BrokenImage, match="cannot be decoded"):  # it is let through, and found to be cut off
            decode(huge_png(side, side), 8, "gray")
    assert Image.MAX_IMAGE_PIXELS == held and not recwarn.list


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=60), st.sampled_from("PNG JPEG TIFF GIF BMP WEBP PPM JPEG2000".split()), st.data())
def test_scrambled_files_give_pixels_or_are_broken(noise, kind, data):
    good = bytearray(saved(photo(20, 30), kind))
    place = data.draw(st.integers(0, len(good)))
    good[place : place + len(noise)] = noise
    with large_images():
        try:
            assert decode(bytes(good), 8, "rgb").shape == (3, 8, 8)
        except BrokenImage as error:
            assert "\n" not in str(error)


def test_reduced_decoding_of_large_jpegs_changes_little():
    pixels = photo(400, 640)
    full = decode(pixels, 40, "rgb").astype(int)
    assert np.abs(decode(saved(pixels, "JPEG", quality=95), 40, "rgb") - full).mean() < 1.5


def test_documents_are_decoded(shared_data):
    files = sorted((shared_data / "rvlcdip-layout" / "images").rglob("*.tif"))[::12]
    assert files
    for path in files:
        shown = np.asarray(Image.open(path).convert("RGB").convert("L"))
        assert np.abs(decode(path.read_bytes(), 56, "gray") - bilinear(shown, 56)).max() <= 1.5


@pytest.mark.parametrize("colour", ["gray", "rgb"])
def test_several_sizes_are_what_each_is_alone(colour):
    """Also of large JPEGs, whose detail is skipped by as much as each size allows."""
    exif = Image.Exif()
    exif[274] = 6
    files = [
        saved(photo(400, 640), "JPEG", exif=exif),
        saved(photo(), "PNG"),
        photo(),
        saved(photo(channels=4), "WEBP"),
        saved(Image.fromarray(photo(channels=1).astype(np.uint16) * 257), "PNG"),
    ]
    for data in files:
        several = decode_sizes(data, (9, 200, 40, 161), colour)
        for size, pixels in zip((9, 200, 40, 161), several, strict=True):
            assert np.array_equal(pixels, decode(data, size, colour))
