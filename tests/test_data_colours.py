"""Every colour form: read as an independent decoder reads it, or refused by name; never another picture."""

import struct
from itertools import product

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from invariance.data.decode import BrokenImage, decode
from tests.image_files import bmp, page, png, tiff
from tests.test_data_decode import bilinear, saved

H, W = 19, 27
Y, X = np.mgrid[:H, :W]
PHOTO = np.stack([X / 26, Y / 18, (X + 2 * Y) / 62, 1 - X / 26 * 0.8, Y / 18 * 0.7 + 0.1, X * Y / 500], -1)
TABLE = np.random.default_rng(0).integers(0, 256, (256, 3))
GRAY_WHITE_0, GRAY, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
COLOURS = {GRAY_WHITE_0: 1, GRAY: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3, LAB: 3}
MIXED = {"gray": [[0.299, 0.587, 0.114]], "rgb": np.eye(3)}


def sampled(values, kind, bits):
    """Values in 0…1 as samples."""
    if kind == "f":
        return values.astype(f"f{bits // 8}")
    if kind == "i":
        return np.rint(values * (2 ** (bits - 1) - 1)).astype(f"i{bits // 8}")
    return np.rint(values * (2.0**bits - 1)).astype("u1" if bits <= 8 else "u2" if bits <= 16 else "u4")


def shown(samples, top, photometric, extra=()):
    """What samples mean, as RGB in 0…1 on white; TIFF 6.0 and its supplements."""
    values, alpha = samples / top, None
    count = COLOURS[photometric]
    if set(extra) & {1, 2}:
        alpha = values[..., count : count + 1]
    colour = values[..., :count]
    if photometric == PALETTE:
        colour = TABLE[samples[..., 0]] / 255
    elif photometric == GRAY_WHITE_0:
        colour = 1 - colour
    elif photometric == CMYK:
        colour = (1 - colour[..., :3]) * (1 - colour[..., 3:])
    elif photometric == YCBCR:
        y, cb, cr = np.moveaxis(colour, -1, 0)
        cb, cr = cb - 128 / 255, cr - 128 / 255
        colour = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1).clip(0, 1)
    if alpha is not None:
        colour = (colour if 1 in extra else colour * alpha) + 1 - alpha
    return np.broadcast_to(colour, (*colour.shape[:2], 3))


def check(data, meant, tolerance=2.0, size=13):
    """Pixels of a file against RGB in 0…1; Pillow's two roundings, and a loss of half a level, are let pass."""
    meant = bilinear(meant * 255, size)
    for colour, weights in MIXED.items():
        got = decode(data, size, colour)
        assert np.abs(got - np.einsum("ck,kij->cij", weights, meant)).max() <= tolerance


def read_or_refused(data, meant, tolerance=2.0):
    """Whether a file is read; otherwise its message must say what it is, and that it is not supported."""
    try:
        check(data, meant, tolerance)
    except BrokenImage as error:
        assert "not supported" in str(error) or "cannot be decoded" in str(error) or "holds" in str(error)
        return False
    return True


LAYOUTS = [
    {"compression": c, "planar": p, "tile": t, "rows": 7, "fill": f, "order": o}
    for c, p, t, f, o in product((1, 8), (1, 2), (None, 16), (1, 2), "<>")
]
NUMBERS = [
    *(("u", b) for b in (1, 2, 4, 6, 8, 10, 12, 16, 32)),
    ("i", 8),
    ("i", 16),
    ("i", 32),
    ("f", 16),
    ("f", 32),
    ("f", 64),
]
# forms that are read in the plainest layout, of either byte order; all others are refused in words
READ = {
    *((GRAY_WHITE_0, (), "u", b) for b in (1, 2, 4, 8)),
    (GRAY_WHITE_0, (), "f", 32),
    *((GRAY, (), "u", b) for b in (1, 2, 4, 8, 16)),
    (GRAY, (), "f", 32),
    *((GRAY, e, "u", 8) for e in ((0,), (1,), (2,))),
    *((RGB, e, "u", b) for e in ((), (0,), (1,), (2,)) for b in (8, 16)),
    *((PALETTE, (), "u", b) for b in (1, 2, 4, 8)),
    (PALETTE, (0,), "u", 8),
    (PALETTE, (2,), "u", 8),
    (CMYK, (), "u", 8),
    (CMYK, (), "u", 16),
    (CMYK, (0,), "u", 8),
    (YCBCR, (), "u", 8),
}


def tiff_of(samples, photometric, bits, extra, layout, **more):
    tags = {266: (3, [layout["fill"]])} | more.get("more", {})
    if extra:
        tags[338] = (3, list(extra))
    if photometric == PALETTE:
        tags.setdefault(320, (3, (TABLE[: 2**bits].T * 257).ravel().tolist()))
    if photometric == YCBCR:
        tags.setdefault(530, (3, [1, 1]))
    places = {key: layout[key] for key in ("compression", "planar", "tile", "rows")}
    return tiff(page(samples, photometric, bits, layout["order"], more=tags, **places), order=layout["order"])


@pytest.mark.parametrize("photometric", COLOURS)
def test_every_tiff_is_read_or_refused(photometric):
    read = set()
    for extra, (kind, bits) in product(((), (0,), (1,), (2,)), NUMBERS):
        if (extra and bits < 8) or (photometric == PALETTE and (bits > 8 or kind != "u")):
            continue
        values = PHOTO[..., : COLOURS[photometric] + len(extra)].copy()
        if 1 in extra:
            values[..., :-1] *= values[..., -1:]
        samples = sampled(values, kind, bits)
        top = {"u": 2.0**bits - 1, "i": 2.0 ** (bits - 1) - 1, "f": 1.0}[kind]
        meant = shown(samples, top, photometric, extra)
        for layout in LAYOUTS:
            if layout["fill"] == 2 and (kind != "u" or extra or layout["tile"]):
                continue
            tolerance = 3.5 if 1 in extra else 2.5
            data = tiff_of(samples, photometric, bits, extra, layout)
            plain = (layout["planar"], layout["fill"], layout["tile"], layout["compression"]) == (1, 1, None, 1)
            if photometric != LAB and read_or_refused(data, meant, tolerance):
                if plain:
                    read.add((photometric, extra, kind, bits, layout["order"]))
            elif photometric == LAB:
                with pytest.raises(BrokenImage, match="TIFF .Lab.*not supported"):
                    decode(data, 9, "rgb")
    wanted = {(*form, order) for form in READ for order in "<>" if form[0] == photometric}
    if photometric == GRAY:
        wanted.add((GRAY, (), "u", 12, "<"))
    if photometric == GRAY_WHITE_0:
        wanted.add((GRAY_WHITE_0, (), "u", 16, "<"))
    assert read == wanted


@pytest.mark.parametrize("kind,bits", [("u", 8), ("u", 16), ("i", 16), ("f", 32)])
def test_the_test_writes_tiffs_as_tifffile_reads_them(kind, bits, tmp_path):
    for layout, count in product(LAYOUTS, (1, 3)):
        if layout["fill"] == 1 and (count > 1 or layout["planar"] == 1):
            samples = sampled(PHOTO[..., :count], kind, bits)
            path = tmp_path / "a.tif"
            path.write_bytes(tiff_of(samples, RGB if count == 3 else GRAY, bits, (), layout))
            got = tifffile.imread(path)
            got = np.moveaxis(got, 0, -1) if layout["planar"] == 2 else got.reshape(samples.shape)
            assert np.array_equal(got, samples)


def test_a_palette_of_8_bit_numbers_is_no_black_picture():
    samples = sampled(PHOTO[..., 2:3], "u", 8)
    for order, compression in product("<>", (1, 8)):
        layout = {"compression": compression, "planar": 1, "tile": None, "rows": 19, "fill": 1, "order": order}
        data = tiff_of(samples, PALETTE, 8, (), layout, more={320: (3, TABLE.T.ravel().tolist())})
        check(data, TABLE[samples[..., 0]] / 255)


@pytest.mark.parametrize("more", [{530: (3, [2, 2])}, {529: (5, None)}, {532: (3, [16, 235, 128, 240, 128, 240])}])
def test_ycbcr_of_another_kind_is_refused(more):
    if 529 in more:  # weights of ITU-R 709; as whole numbers, which the decoder takes for fractions
        more = {529: (3, [0, 1, 0])}
    data = tiff_of(sampled(PHOTO[..., :3], "u", 8), YCBCR, 8, (), LAYOUTS[0], more=more)
    with pytest.raises(BrokenImage, match=r"TIFF \(YCbCr.*not supported"):
        decode(data, 9, "rgb")


def test_tiffs_that_do_not_say_their_colours_are_refused():
    samples = sampled(PHOTO[..., :1], "u", 8)
    with pytest.raises(BrokenImage, match=r"no colour named, 1 × 8 bit\), which is not supported"):
        decode(tiff(page(samples, GRAY, 8, "<", more={262: None})), 9, "gray")
    inks = tiff(page(sampled(PHOTO[..., :4], "u", 8), CMYK, 8, "<", more={332: (3, [2])}))
    with pytest.raises(BrokenImage, match="other inks"):
        decode(inks, 9, "gray")


@pytest.mark.parametrize("order", "<>")
def test_the_picture_of_a_tiff_is_not_its_thumbnail(order, tmp_path):
    full, small = sampled(PHOTO[..., :3], "u", 8), sampled(1 - PHOTO[::2, ::2, :3], "u", 8)
    half, mask = sampled(1 - PHOTO[:9, :13, :3], "u", 8), sampled(PHOTO[..., :1] > 2, "u", 1)
    named = page(small, RGB, 8, order, subfile=1)
    for pages in (
        [named, page(full, RGB, 8, order)],
        [page(full, RGB, 8, order), named],
        [named, named, page(full, RGB, 8, order)],
        [page(small, RGB, 8, order, more={255: (3, [2])}), page(full, RGB, 8, order, rows=5)],
        [page(mask, GRAY, 1, order, subfile=4), page(full, RGB, 8, order), page(small, RGB, 8, order)],
    ):
        check(tiff(*pages, order=order), full / 255)
    check(tiff(page(full, RGB, 8, order, subfile=1), order=order), full / 255)  # all that there is
    for pages, why in (
        ([named, named], "thumbnails or masks alone"),
        ([page(small, RGB, 8, order, subfile=1, more={330: (4, [8])})], "thumbnails or masks alone"),
        ([page(half[:, :12], RGB, 8, order), page(full[:18, :24], RGB, 8, order)], r"\(12×9.*thumbnail of page 2"),
    ):
        with pytest.raises(BrokenImage, match=why):
            decode(tiff(*pages, order=order), 9, "rgb")
    deep = [named, page(sampled(PHOTO[..., :3], "u", 16), RGB, 16, order, planar=2)]
    with pytest.raises(BrokenImage, match=r"TIFF \(RGB, 3 × 16 bit in planes\), which is not supported"):
        decode(tiff(*deep, order=order), 9, "rgb")


def test_pages_that_link_in_a_circle_end():
    data = bytearray(tiff(page(sampled(PHOTO[..., :3], "u", 8), RGB, 8, "<", subfile=1)))
    data[-4:] = data[4:8]
    assert decode(bytes(data), 9, "rgb").shape == (3, 9, 9)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_every_png_is_read_or_refused(bits, interlaced):
    top = 2.0**bits - 1
    gray = sampled(PHOTO[..., 2:3], "u", bits)
    key = int(gray[7, 9, 0])
    check(png(gray, bits, 0, interlaced=interlaced), shown(gray, top, GRAY))
    through = np.where(gray == key, 1, gray / top)
    keyed = png(gray, bits, 0, (b"tRNS", struct.pack(">H", key)), interlaced=interlaced)
    check(keyed, np.broadcast_to(through, (H, W, 3)))
    if bits <= 8:
        table, alpha = TABLE[: 2**bits].astype(np.uint8), TABLE[: 2**bits, 0].astype(np.uint8)
        for some in (2**bits, 2 ** (bits - 1)):  # entries without a number of their own are opaque
            known = np.where(np.arange(2**bits) < some, alpha, 255)[gray] / 255
            chunks = (b"PLTE", table.tobytes()), (b"tRNS", alpha[:some].tobytes())
            data = png(gray, bits, 3, *chunks, interlaced=interlaced)
            check(data, table[gray[..., 0]] / 255 * known + 1 - known, 2.5)
        used = gray % 2
        check(png(used, bits, 3, (b"PLTE", table[:2].tobytes()), interlaced=interlaced), table[used[..., 0]] / 255)
    if bits >= 8:
        for colour, places in ((2, [0, 1, 2]), (4, [2, 1]), (6, [0, 1, 2, 3])):
            samples = sampled(PHOTO[..., places], "u", bits)
            data = png(samples, bits, colour, interlaced=interlaced)
            opened = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            if colour == 2:
                assert np.array_equal(opened[..., ::-1], samples)
            check(data, shown(samples, top, GRAY if colour == 4 else RGB, () if colour == 2 else (2,)), 2.5)
        samples = sampled(PHOTO[..., :3], "u", bits)
        key = samples[7, 9]
        keyed = png(samples, bits, 2, (b"tRNS", struct.pack(">3H", *key.tolist())), interlaced=interlaced)
        through = np.where((samples == key).all(-1)[..., None], 1, samples / top)
        assert read_or_refused(keyed, through) == (bits == 8)


def fields(values, masks):
    """Numbers with values in 0…1 in the bits of masks, and the values as these bits keep them."""
    whole, kept = np.zeros(values.shape[:2], np.uint32), []
    for i, mask in enumerate(masks):
        top, shift = mask // (mask & -mask), (mask & -mask).bit_length() - 1
        level = np.rint(values[..., i] * top).astype(np.uint32)
        whole |= level << shift
        kept.append(level / top)
    return whole, np.stack(kept, -1)


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize(
    "masks,bits,read",
    [
        ((0xF800, 0x7E0, 0x1F), 16, True),
        ((0x7C00, 0x3E0, 0x1F), 16, True),
        ((0xF00, 0xF0, 0xF), 16, False),
        ((0xFF0000, 0xFF00, 0xFF), 32, True),
        ((0xFF0000, 0xFF00, 0xFF, 0xFF000000), 32, True),
        ((0xFF, 0xFF00, 0xFF0000, 0xFF000000), 32, True),
        ((0x3FF00000, 0xFFC00, 0x3FF), 32, False),
    ],
)
def test_bmp_with_masks(masks, bits, read, down):
    whole, kept = fields(PHOTO, masks)
    alpha = kept[..., 3:] if len(masks) == 4 else 1.0
    data = bmp(whole, bits, masks=masks, down=down)
    assert read_or_refused(data, kept[..., :3] * alpha + 1 - alpha) == read
    if len(masks) == 4:  # a fourth byte that is 0 everywhere is no transparency
        check(bmp(whole & ~np.uint32(masks[3]), bits, masks=masks, down=down), kept[..., :3])


def test_bmp_without_masks():
    for masks, bits in (((0x7C00, 0x3E0, 0x1F), 16), ((0xFF0000, 0xFF00, 0xFF), 24), ((0xFF0000, 0xFF00, 0xFF), 32)):
        whole, kept = fields(PHOTO, masks)
        check(bmp(whole, bits), kept)
    whole, kept = fields(PHOTO, (0xFF0000, 0xFF00, 0xFF, 0xFF000000))
    check(bmp(whole, 32), kept[..., :3])  # the fourth byte has no meaning here


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_bmp_with_a_table(bits):
    index, count = sampled(PHOTO[..., 2], "u", bits), 2**bits
    steps = np.rint(np.arange(count) * 255 / (count - 1)).astype(np.uint8)[:, None].repeat(3, 1)
    identity = np.arange(count, dtype=np.uint8)[:, None].repeat(3, 1)
    black_white = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)
    colours = TABLE.astype(np.uint8)
    for table in (colours[:count], colours[:2], steps, 255 - steps, identity, black_white):
        used = (index.astype(int) % len(table)).astype(np.uint8)
        entries = np.c_[table[:, ::-1], np.zeros((len(table), 1), np.uint8)].tobytes()
        data = bmp(used, bits, entries)
        opened = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert np.array_equal(opened, table[used])
        few = (table is black_white and bits > 1) or (table is identity and bits == 4)
        assert read_or_refused(data, table[used] / 255) != few
    if bits == 8:
        runs = b"".join(b"".join(bytes([1, int(i)]) for i in row) + b"\0\0" for row in index[::-1]) + b"\0\1"
        entries = np.c_[TABLE[:, ::-1], np.zeros((256, 1))].astype(np.uint8).tobytes()
        check(bmp((runs, (H, W)), 8, entries, compression=1), TABLE[index] / 255)


@pytest.mark.parametrize("most", [1, 15, 100, 255, 1000, 4095, 65535])
def test_netpbm_of_any_depth(most):
    for count, kinds in ((1, "52"), (3, "63")):
        samples = np.rint(PHOTO[..., :count] * most).astype(">u2" if most > 255 else "u1")
        head = f"{W} {H}\n{most}\n".encode()
        meant = np.broadcast_to(samples.astype(float) / most, (H, W, 3))
        check(b"P" + kinds[0].encode() + b"\n" + head + samples.tobytes(), meant)
        check(b"P" + kinds[1].encode() + b"\n" + head + " ".join(map(str, samples.ravel().tolist())).encode(), meant)


@pytest.mark.parametrize("order", "<>")
def test_portable_float_maps(order):
    head = f"\n{W} {H}\n{-1.0 if order == '<' else 1.0}\n".encode()
    values = PHOTO[::-1].astype(order + "f4")
    check(b"Pf" + head + values[..., 2].tobytes(), np.repeat(PHOTO[..., 2:3], 3, -1))
    with pytest.raises(BrokenImage, match="colour PFM, which is not supported"):
        decode(b"PF" + head + values[..., :3].tobytes(), 9, "rgb")


@pytest.mark.parametrize("bits,count,read", [(8, 1, True), (8, 3, True), (16, 1, True), (16, 3, False)])
def test_jpeg2000(bits, count, read):
    whole = np.kron(sampled(PHOTO[..., :count], "u", bits), np.ones((6, 6, 1))).astype(f"u{bits // 8}")
    options = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000]
    data = cv2.imencode(".jp2", whole[..., ::-1], options)[1].tobytes()
    assert read_or_refused(data, np.broadcast_to(whole / (2**bits - 1), (*whole.shape[:2], 3)), 3) == read


@pytest.mark.parametrize("kind,options", [("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {}), ("JPEG2000", {})])
@pytest.mark.parametrize("mode,places", [("LA", [2, 3]), ("RGBA", [0, 1, 2, 3])])
def test_transparency_of_every_format(kind, options, mode, places):
    samples = sampled(PHOTO[..., places], "u", 8)
    data = saved(Image.fromarray(samples, mode), kind, **options)
    check(data, shown(samples, 255, GRAY if mode == "LA" else RGB, (2,)), 3)


def test_a_gif_that_leaves_a_part_empty_is_refused():
    frame = saved(Image.fromarray(sampled(PHOTO[..., 2], "u", 8)), "GIF")
    wider = bytearray(frame)
    wider[6:8] = struct.pack("<H", W + 9)
    with pytest.raises(BrokenImage, match="GIF whose first frame leaves a part empty"):
        decode(bytes(wider), 9, "gray")
    assert decode(frame, 9, "gray").shape == (1, 9, 9)


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.fromarray(sampled(part[..., :3], "u", 8)) for part in (PHOTO, 1 - PHOTO)]
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        check(data, np.asarray(frames[0]) / 255)


@pytest.mark.parametrize(
    "data,what",
    [
        (b"\0\0\1\0" + bytes(60), "an icon"),
        (b"#?RADIANCE\n", "a Radiance HDR image"),
        (b"8BPS" + bytes(60), "a Photoshop file"),
        (b"\0\0\0\x18ftypheic" + bytes(60), "'heic'"),
        (b"\xff\x0a" + bytes(60), "a JPEG XL image"),
        (saved(Image.new("L", (9, 8)), "JPEG").replace(b"\xff\xc0\0\x0b\x08", b"\xff\xc0\0\x0b\x0c"), "a JPEG"),
    ],
)
def test_what_is_not_read_is_named(data, what):
    with pytest.raises(BrokenImage, match=f"is .*{what}.*not supported"):
        decode(data, 8, "gray")
