"""Building prepared data: every image of a source decoded once, into arrays that can be memory-mapped."""

import csv
import errno
import hashlib
import json
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.lib import format as npy
from numpy.typing import NDArray

from invariance.data.decode import COLOURS, BrokenImage, Pixels, decode, large_images
from invariance.data.sources import DataConfig, Listing
from invariance.errors import UserError
from invariance.progress import bar
from invariance.runs.files import sha256, write_text

FORMAT = 1
"""Version of the arrays, the manifest and the decoding; another one is another directory."""
MANIFEST, STAMPS = "manifest.json", "stamps.csv"
_CHUNK, _BLOCK = 64, 1 << 24  # images, and bytes, that are handled at once
_NAMED, _IGNORED_NAMED = 5, 100


@dataclass
class _Decoded:
    """What came of one split: a hash for each file, and why it was skipped, if it was."""

    hashes: list[str]
    broken: dict[int, str] = field(default_factory=dict)


def workers_here() -> int:
    """Threads that decode at once: one for each core this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def build(
    directory: Path, config: DataConfig, size: int, settings: dict[str, Any], progress: bool, workers: int
) -> None:
    """Decode a whole source into an empty folder and flush it to the disk; the manifest is written last.

    Args:
        directory: the folder, made by the caller, who renames it into place afterwards.
        config: the data set.
        size: side of the prepared images in pixels.
        settings: what identifies these prepared data; recorded in the manifest.
        progress: whether to show a progress bar.
        workers: threads that decode; Pillow lets them run side by side.

    Raises:
        UserError: if the source cannot serve or more of its images are broken than allowed.
        OSError: if the disk is full or refuses.
    """
    classes, splits, ignored = config.source.splits()
    with ExitStack() as stack:
        arrays: dict[str, _Array] = {}
        for split, listing in splits.items():
            shape = (len(listing), COLOURS[config.colour], size, size)
            arrays[split] = stack.enter_context(closing(_Array(directory / f"{split}.images.npy", shape)))
            arrays[split].reserve()
        decoded = _decode_all(config, size, splits, arrays, progress, workers)
        _write(directory, config, settings, classes, splits, arrays, decoded, ignored)


def content_hash(data: bytes | Pixels) -> str:
    """Hexadecimal SHA-256 of a file's bytes, or of pixels that are no file of their own."""
    return hashlib.sha256(data if isinstance(data, bytes) else data.tobytes()).hexdigest()


def allowed(max_broken: float, total: int) -> int:
    """How many images of `total` may be broken."""
    return int(max_broken * total + 1e-9)  # 0.29 · 100 is a little less than 29


def _decode_all(
    config: DataConfig, size: int, splits: dict[str, Listing], arrays: "dict[str, _Array]", progress: bool, workers: int
) -> dict[str, _Decoded]:
    total, seen = sum(map(len, splits.values())), 0
    chunk = max(1, min(_CHUNK, _BLOCK // (COLOURS[config.colour] * size * size)))
    decoded: dict[str, _Decoded] = {}
    with bar(progress) as shown, large_images(), ThreadPoolExecutor(workers) as pool:
        task = shown.add_task(f"preparing {config.name} at {size}×{size}", total=total)
        try:
            for split, listing in splits.items():
                decoded[split] = part = _Decoded([""] * len(listing))
                spans = [range(i, min(i + chunk, len(listing))) for i in range(0, len(listing), chunk)]
                jobs = [(arrays[split], listing, span, size, config.colour) for span in spans]
                for span, results in zip(spans, pool.map(_decode_some, jobs), strict=True):
                    for i, (digest, reason) in zip(span, results, strict=True):
                        part.hashes[i] = digest
                        if reason is not None:
                            part.broken[i] = reason
                    seen += len(span)
                    if sum(len(part.broken) for part in decoded.values()) > allowed(config.max_broken, total):
                        raise _too_many_broken(splits, decoded, seen, total, config.max_broken)
                    shown.advance(task, len(span))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return decoded


def _decode_some(job: "tuple[_Array, Listing, range, int, str]") -> list[tuple[str, str | None]]:
    """Decode a span of images into their places: for each its SHA-256, and why it is broken, if it is."""
    array, listing, span, size, colour = job
    results: list[tuple[str, str | None]] = []
    pixels = np.zeros((len(span), COLOURS[colour], size, size), np.uint8)
    for place, i in enumerate(span):
        digest = ""
        try:
            try:
                data = listing.read(i)
            except OSError as error:
                raise BrokenImage(f"cannot be read ({error.strerror or error})") from error
            digest = content_hash(data)
            pixels[place] = decode(data, size, colour)
            results.append((digest, None))
        except BrokenImage as error:
            results.append((digest, str(error)))
    array.put(span.start, pixels.tobytes())
    return results


def _too_many_broken(
    splits: dict[str, Listing], decoded: dict[str, _Decoded], seen: int, total: int, share: float
) -> UserError:
    broken = [
        (splits[split].names[i], why) for split, part in decoded.items() for i, why in sorted(part.broken.items())
    ]
    named = "; ".join(f"{name} {why}" for name, why in broken[:_NAMED]) + ("; …" if len(broken) > _NAMED else "")
    enough = max(0.01, math.ceil(200 * len(broken) / seen) / 100)  # twice the share so far, in whole per cents
    return UserError(
        f"{len(broken)} of the first {seen:,} images of {total:,} are broken, more than data.max_broken={share:g} "
        f"allows: {named}. Mend or remove them, or raise the limit, as data.max_broken={min(enough, 0.99):g}"
    )


class _Array:
    """A .npy file of uint8 (N, C, H, W), written from any thread, images in any order."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._image = int(np.prod(shape[1:]))
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        self._start = self._header(shape)

    def _header(self, shape: tuple[int, ...]) -> int:
        """Write the header; numpy pads it so that a smaller N takes the same room."""
        with os.fdopen(os.dup(self._file), "wb") as file:
            file.seek(0)
            npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            return file.tell()

    def reserve(self) -> None:
        """Take the file's whole space on the disk, so that it cannot run out later.

        Raises:
            OSError: if there is too little.
        """
        size = self._start + self.shape[0] * self._image
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._file, 0, size)
            return
        free = os.fstatvfs(self._file)
        if free.f_bavail * free.f_frsize < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(self._file, size)

    def put(self, i: int, pixels: bytes) -> None:
        """Write images from the i-th on."""
        written, place = 0, self._start + i * self._image
        while written < len(pixels):  # a disk that fills up may take a part
            written += os.pwrite(self._file, pixels[written:], place + written)

    def keep(self, kept: NDArray[np.int64]) -> None:
        """Close the gaps that skipped images left, so that only images `kept` (sorted) remain."""
        if len(kept) < self.shape[0]:
            for new, old in enumerate(kept.tolist()):
                if new != old:
                    self.put(new, os.pread(self._file, self._image, self._start + old * self._image))
            self.shape = (len(kept), *self.shape[1:])
            if self._header(self.shape) != self._start:
                raise RuntimeError("a shorter array's header changed its length")
            os.ftruncate(self._file, self._start + len(kept) * self._image)

    def blocks(self) -> Iterator[NDArray[np.uint8]]:
        """The images in order, some megabytes at a time."""
        per_block = max(1, _BLOCK // self._image)
        for first in range(0, self.shape[0], per_block):
            count = min(per_block, self.shape[0] - first)
            data = os.pread(self._file, count * self._image, self._start + first * self._image)
            yield np.frombuffer(data, np.uint8).reshape(count, *self.shape[1:])

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def sync(self) -> None:
        """Flush to the disk."""
        os.fsync(self._file)


def _write(
    directory: Path, config: DataConfig, settings: dict[str, Any], classes: list[str], splits: dict[str, Listing],
    arrays: dict[str, _Array], decoded: dict[str, _Decoded], ignored: list[str],
) -> None:
    """Close gaps, then write labels, lists of files and the manifest."""
    about: dict[str, Any] = {}
    stamps: list[tuple[str, int, int, str]] = []
    for split, listing in splits.items():
        part = decoded[split]
        kept = np.array([i for i in range(len(listing)) if i not in part.broken], dtype=np.int64)
        for label, name in enumerate(classes):
            if not (listing.labels[kept] == label).any():
                raise UserError(f"every image of class {name!r} in {split} is broken; mend them or leave the class out")
        arrays[split].keep(kept)
        arrays[split].sync()
        np.save(directory / f"{split}.labels.npy", listing.labels[kept])
        files = directory / f"{split}.files.csv"
        _csv(files, ("name", "label", "sha256"),
             ((listing.names[i], int(listing.labels[i]), part.hashes[i]) for i in kept.tolist()))  # fmt: skip
        if listing.stamps is not None:
            stamps += [(listing.names[i], *listing.stamps[i], part.hashes[i]) for i in range(len(listing))]
        about[split] = {
            "images": len(kept), "files_sha256": sha256(files),
            "labels_sha256": sha256(directory / f"{split}.labels.npy"),
            "skipped": [{"name": listing.names[i], "reason": why} for i, why in sorted(part.broken.items())],
        }  # fmt: skip
    mean = config.mean if config.mean is not None else _mean(arrays["train"])
    _csv(directory / STAMPS, ("name", "size", "mtime_ns", "sha256"), sorted(stamps))
    for path in directory.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    manifest = {
        "format": FORMAT, "name": config.name, "size": settings["size"], "colour": config.colour, "classes": classes,
        "channels": COLOURS[config.colour], "mean": mean, "splits": about,
        "ignored": {"count": len(ignored), "names": ignored[:_IGNORED_NAMED]},
        "settings": {key: value for key, value in settings.items() if key != "root"}, "pillow": PIL.__version__,
    }  # fmt: skip
    write_text(directory / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def _csv(path: Path, header: tuple[str, ...], rows: Any) -> None:  # noqa: ANN401
    # names of files may hold bytes that are no UTF-8
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _mean(array: _Array) -> list[float]:
    """Channel means of a split, from exact sums."""
    total = np.zeros(array.shape[1], np.int64)
    for block in array.blocks():
        total += block.sum(axis=(0, 2, 3), dtype=np.int64)
    return [float(value) for value in total / (array.shape[0] * np.prod(array.shape[2:]))]
