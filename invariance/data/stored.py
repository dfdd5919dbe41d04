"""Arrays of images on disk, written in any order, and the journal from which writing them resumes after a kill."""

import errno
import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xxhash
from numpy.lib import format as npy
from numpy.typing import NDArray


def header_of(shape: tuple[int, ...]) -> bytes:
    """What a .npy file of uint8 images of this shape begins with; numpy pads it, so that a smaller N takes as much."""
    header = io.BytesIO()
    npy.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue()


def checksum(pixels: bytes | memoryview) -> int:
    """Checksum of an image's pixels: XXH3, 64 bits."""
    return xxhash.xxh3_64_intdigest(pixels)


class StoredArray:
    """A .npy file of uint8 (N, C, H, W), written from any thread, images in any order.

    Args:
        path: the file; one that is there is taken up, with whatever it holds.
        shape: (N, C, H, W).

    Raises:
        OSError: if the disk refuses.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._image = int(np.prod(shape[1:]))
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._start = self._header(shape)
            most = self._start + shape[0] * self._image
            if os.fstat(self._file).st_size > most:
                os.ftruncate(self._file, most)
        except BaseException:
            os.close(self._file)
            raise

    def _header(self, shape: tuple[int, ...]) -> int:
        header = header_of(shape)
        os.pwrite(self._file, header, 0)
        return len(header)

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
        if free.f_bavail * free.f_frsize < size - os.fstat(self._file).st_size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(self._file, size)

    def put(self, i: int, pixels: bytes) -> None:
        """Write images from the i-th on."""
        written, place = 0, self._start + i * self._image
        while written < len(pixels):  # a disk that fills up may take a part
            written += os.pwrite(self._file, pixels[written:], place + written)

    def get(self, i: int) -> bytes:
        """The pixels of the i-th image as they are stored; fewer where the file ends before."""
        return os.pread(self._file, self._image, self._start + i * self._image)

    def fill_gaps(self, broken: Iterable[int]) -> list[int]:
        """Put images from the end where the broken ones would be; done again, it does no harm.

        Returns:
            Which image then stands at each place, up to the number that is left.
        """
        gaps = set(broken)
        left = self.shape[0] - len(gaps)
        order = list(range(left))
        movers = (i for i in range(left, self.shape[0]) if i not in gaps)
        for gap in sorted(gap for gap in gaps if gap < left):
            order[gap] = mover = next(movers)
            self.put(gap, self.get(mover))
        return order

    def shorten(self, images: int) -> None:
        """Let the header say the first `images` only; the file keeps its size, so it can still be taken up."""
        if images < self.shape[0]:
            self.shape = (images, *self.shape[1:])
            if self._header(self.shape) != self._start:
                raise RuntimeError("a shorter array's header changed its length")
            self.sync()

    def cut(self) -> None:
        """Give up the room behind what the header says."""
        os.ftruncate(self._file, self._start + self.shape[0] * self._image)
        self.sync()

    def sync(self) -> None:
        """Flush to the disk."""
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


@dataclass(frozen=True)
class Outcome:
    """What came of one image.

    Attributes:
        split: its split.
        i: its place in the split's listing.
        stamp: size and time of its file when it was read; None where it is no file of its own.
        digest: hash of its bytes; empty if they could not be read.
        reason: why it is broken, if it is.
        sums: sum of its pixels, for each channel.
        check: checksum of its pixels.
    """

    split: str
    i: int
    stamp: tuple[int, int] | None
    digest: str
    reason: str | None
    sums: tuple[int, ...]
    check: int


@dataclass
class Decoded:
    """What came of one split: which images are done, a hash and a checksum of each, why it is broken; channel sums."""

    done: NDArray[np.bool_]
    hashes: list[str]
    checksums: NDArray[np.uint64]
    broken: dict[int, str] = field(default_factory=dict)
    sums: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))

    @classmethod
    def none(cls, images: int) -> "Decoded":
        """Nothing yet, of so many images."""
        return cls(np.zeros(images, np.bool_), [""] * images, np.zeros(images, np.uint64))

    def take(self, entry: Outcome) -> None:
        """Take in what came of one image."""
        self.done[entry.i] = True
        self.hashes[entry.i] = entry.digest
        self.checksums[entry.i] = entry.check
        if entry.reason is not None:
            self.broken[entry.i] = entry.reason
        else:
            self.sums = self.sums + np.asarray(entry.sums, np.int64)


class Journal:
    """A file of entries, a checksum and JSON a line, behind a first line that says what it is the journal of.

    Args:
        path: the file.
        key: what it must be the journal of.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self._waiting: list[Outcome] = []

    def read(self) -> Iterator[Outcome]:
        """The entries, up to a line that is damaged or was left in part, which is cut off; none if of another key."""
        self.path.touch()
        with open(self.path, "rb+") as file:
            whole = 0
            for number, line in enumerate(file):
                try:
                    if not line.endswith(b"\n") or (number == 0 and json.loads(line) != self.key):
                        break
                    if number:
                        check, _, text = line.rstrip(b"\n").partition(b" ")
                        if int(check, 16) != checksum(text):
                            break
                        held = json.loads(text)
                        split, i, stamp, digest, reason, sums, check = held
                        yield Outcome(split, i, tuple(stamp) if stamp else None, digest, reason, tuple(sums), check)
                except (ValueError, TypeError):
                    break
                whole += len(line)
            file.truncate(whole)
            if not whole:
                file.seek(0)
                file.write(json.dumps(self.key).encode() + b"\n")

    def add(self, entry: Outcome) -> None:
        """Note an entry, to be written by the next `write`."""
        self._waiting.append(entry)

    def write(self) -> None:
        """Write the entries that wait and flush them; what they speak of must be on the disk already."""
        texts = (
            json.dumps([e.split, e.i, e.stamp, e.digest, e.reason, e.sums, e.check], separators=(",", ":"))
            for e in self._waiting
        )
        lines = [f"{checksum(text.encode()):016x} {text}\n" for text in texts]
        with open(self.path, "a", encoding="ascii") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        self._waiting.clear()
