"""Image files written byte by byte: forms that Pillow does not write, as others do."""

import struct
import zlib
from itertools import product

import numpy as np


def packed(samples, bits, order):
    """Rows of samples (H, W, S) as bytes, each row beginning at a byte; bits of a byte from the highest."""
    if bits in (8, 16, 32, 64):
        return np.ascontiguousarray(samples.astype(samples.dtype.newbyteorder(order))).tobytes()
    rows = samples.reshape(len(samples), -1).astype(np.uint32)
    flags = (rows[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(flags.reshape(len(samples), -1).astype(np.uint8), axis=1).tobytes()


def page(samples, photometric, bits, order, **tags):
    """Tags of a page and its strips or tiles; samples (H, W, S) of unsigned, signed or floating-point numbers."""
    height, width, count = samples.shape
    compress = {1: bytes, 8: zlib.compress}[tags.get("compression", 1)]
    planes = [samples] if tags.get("planar", 1) == 1 else [samples[..., i : i + 1] for i in range(count)]
    side = tags.get("tile")
    if side is None:
        rows = tags.get("rows", height)
        blocks = [plane[y : y + rows] for plane in planes for y in range(0, height, rows)]
    else:
        wide = [np.pad(plane, ((0, -height % side), (0, -width % side), (0, 0))) for plane in planes]
        blocks = [
            plane[y : y + side, x : x + side]
            for plane in wide
            for y, x in product(range(0, height, side), range(0, width, side))
        ]
    kind = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    entries = {
        254: (4, [tags.get("subfile", 0)]),
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [bits] * count),
        259: (3, [tags.get("compression", 1)]),
        262: (3, [photometric]),
        277: (3, [count]),
        284: (3, [tags.get("planar", 1)]),
        339: (3, [kind] * count),
    }
    if side is None:
        entries |= {273: (4, None), 278: (4, [tags.get("rows", height)]), 279: (4, None)}
    else:
        entries |= {322: (4, [side]), 323: (4, [side]), 324: (4, None), 325: (4, None)}
    entries |= tags.get("more", {})
    body = [compress(packed(block, bits, order)) for block in blocks]
    if entries.get(266) == (3, [2]):
        body = [np.packbits(np.unpackbits(np.frombuffer(b, np.uint8), bitorder="little")).tobytes() for b in body]
    return {tag: entry for tag, entry in entries.items() if entry is not None}, body


def tiff(*pages, order="<"):
    """A TIFF of some pages."""
    head = {"<": b"II", ">": b"MM"}[order]
    out, link = bytearray(head + struct.pack(order + "HI", 42, 0)), 4
    for entries, blocks in pages:
        places = []
        for block in blocks:
            places.append(len(out))
            out += block + b"\0" * (len(block) % 2)
        table = b""
        for tag, (kind, values) in sorted(entries.items()):
            if values is None:
                values = places if tag in (273, 324) else list(map(len, blocks))
            raw = b"".join(struct.pack(order + {1: "B", 3: "H", 4: "I"}[kind], v) for v in values)
            if len(raw) > 4:
                table += struct.pack(order + "HHII", tag, kind, len(values), len(out))
                out += raw + b"\0" * (len(raw) % 2)
            else:
                table += struct.pack(order + "HHI", tag, kind, len(values)) + raw.ljust(4, b"\0")
        out[link : link + 4] = struct.pack(order + "I", len(out))
        out += struct.pack(order + "H", len(entries)) + table
        link = len(out)
        out += bytes(4)
    return bytes(out)


def png(samples, bits, colour, *chunks, interlaced=False):
    """A PNG of samples (H, W, S) with colour type 0, 2, 3, 4 or 6 and further chunks (name, body) before its pixels."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    height, width, _ = samples.shape
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b""
    for y, x, down, right in passes:
        part = samples[y::down, x::right]
        rows += b"".join(b"\0" + packed(row[None], bits, ">") for row in part if row.size)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    body = b"".join(chunk(name, content) for name, content in chunks)
    ends = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + ends


def bmp(pixels, bits, palette=b"", masks=(), down=False, compression=None, colours=None):
    """A BMP; pixels are (H, W) whole numbers of so many bits, or RLE's bytes with (H, W)."""
    if isinstance(pixels, tuple):
        body, (height, width) = pixels
    else:
        height, width = pixels.shape
        rows = pixels if down else pixels[::-1]
        if bits == 24:
            lines = [b"".join(int(v).to_bytes(3, "little") for v in row) for row in rows]
        elif bits in (16, 32):
            lines = [row.astype(f"<u{bits // 8}").tobytes() for row in rows]
        else:
            lines = [packed(row[None, :, None].astype(np.uint8), bits, "<") for row in rows]
        body = b"".join(line + b"\0" * (-len(line) % 4) for line in lines)
    size = 56 if len(masks) == 4 else 40
    compression = compression if compression is not None else 3 if masks else 0
    header = struct.pack(
        "<IiiHHIIiiII",
        size,
        width,
        -height if down else height,
        1,
        bits,
        compression,
        len(body),
        0,
        0,
        len(palette) // 4 if colours is None else colours,
        0,
    )
    header += b"".join(struct.pack("<I", mask) for mask in masks) + palette
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + len(body), 0, 0, 14 + len(header)) + header + body
