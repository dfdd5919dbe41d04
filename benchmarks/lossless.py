"""Prepared images packed without loss: what share of their room is left, and how fast one core unpacks them.

    python benchmarks/lossless.py FOLDER [--size 256] [--colour rgb] [--images 200] [--rounds 5] [--json PATH]

FOLDER holds image files, at any depth. They are warped to the size as `invariance-prepare` does, packed image by image
(a training step reads images at random), unpacked and compared. Beside the packings stands decoding the files anew,
which needs no room at all. Times are those that one core spent on it, medians of interleaved rounds over all images.
"""

import argparse
import io
import json
import lzma
import statistics
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from invariance.data.decode import decode
from invariance.runs.outputs import output_file

Pixels = NDArray[np.uint8]
Pack = Callable[[Pixels], bytes]
Unpack = Callable[[bytes, tuple[int, ...]], Pixels]
_SUFFIXES = {".jpeg", ".jpg", ".png", ".tif", ".tiff"}


def plain(data: bytes, shape: tuple[int, ...]) -> Pixels:
    """Pixels of their bytes."""
    return np.frombuffer(data, np.uint8).reshape(shape)


def differences(pixels: Pixels) -> bytes:
    """Each pixel less the one to its left, modulo 256, as bytes."""
    made = pixels.copy()
    made[..., 1:] -= pixels[..., :-1]
    return made.tobytes()


def sums(data: bytes, shape: tuple[int, ...]) -> Pixels:
    """What `differences` took."""
    return np.add.accumulate(plain(data, shape), axis=-1, dtype=np.uint8)


def pillow(pixels: Pixels, **how: object) -> bytes:
    """Pixels (C, H, W) as a file of Pillow's."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(buffer, **how)
    return buffer.getvalue()


def unpillow(data: bytes, shape: tuple[int, ...]) -> Pixels:
    """What `pillow` took."""
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("L" if shape[0] == 1 else "RGB"))
    return np.ascontiguousarray(pixels.reshape(shape[1], shape[2], -1).transpose(2, 0, 1))


PACKINGS: dict[str, tuple[Pack, Unpack]] = {
    "as they are": (lambda x: x.tobytes(), lambda data, shape: plain(data, shape).copy()),
    "zlib 1": (lambda x: zlib.compress(x, 1), lambda data, shape: plain(zlib.decompress(data), shape)),
    "zlib 1 of differences": (
        lambda x: zlib.compress(differences(x), 1),
        lambda data, shape: sums(zlib.decompress(data), shape),
    ),
    "zlib 6 of differences": (
        lambda x: zlib.compress(differences(x), 6),
        lambda data, shape: sums(zlib.decompress(data), shape),
    ),
    "lzma 0 of differences": (
        lambda x: lzma.compress(differences(x), preset=0),
        lambda data, shape: sums(lzma.decompress(data), shape),
    ),
    "PNG": (lambda x: pillow(x, format="png"), unpillow),
    "WebP, lossless": (lambda x: pillow(x, format="webp", lossless=True, quality=100, method=4, exact=True), unpillow),
}


def main() -> None:
    """Pack, unpack, compare, time, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--colour", choices=("rgb", "gray"), default="rgb")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=output_file)
    arguments = parser.parse_args()
    paths = sorted(path for path in arguments.folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise SystemExit(f"error: there are no images in {arguments.folder}")
    chosen = np.random.default_rng(0).permutation(len(paths))[: arguments.images]
    files = [paths[i].read_bytes() for i in sorted(chosen.tolist())]
    images = [decode(data, arguments.size, arguments.colour) for data in files]
    room, shape = sum(image.nbytes for image in images), images[0].shape

    packed = {name: [pack(image) for image in images] for name, (pack, _) in PACKINGS.items()}
    work: dict[str, Callable[[int], Pixels]] = {
        name: lambda i, name=name: PACKINGS[name][1](packed[name][i], shape) for name in PACKINGS
    }
    work["the files, decoded anew"] = lambda i: decode(files[i], arguments.size, arguments.colour)
    taken: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(arguments.rounds):
        for name, unpack in work.items():
            start = time.process_time()
            unpacked = [unpack(i) for i in range(len(images))]
            taken[name].append(time.process_time() - start)
            if not all(map(np.array_equal, unpacked, images)):
                raise SystemExit(f"error: {name} loses something")

    figures: dict[str, float] = {"images": len(images), "size": arguments.size}
    table = Table(f"{len(images)} images {shape}", "share of the room", "images a second")
    for name in work:
        rate = len(images) / statistics.median(taken[name])
        share = sum(map(len, packed.get(name, files))) / room
        table.add_row(name, f"{share:.3f}", f"{rate:,.0f}")
        key = name.replace(",", "").replace(" ", "_")
        figures |= {f"{key}_share": share, f"{key}_images_per_s": rate}
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
