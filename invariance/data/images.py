"""Stored images, read with their checksums verified, by as many threads as like."""

import errno
import os
import weakref
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from invariance.data.reading import spread
from invariance.data.stored import checksum, header_of
from invariance.errors import UserError

_NAMED = 5
_PIECE = 1 << 20  # bytes of neighbours that are read at once
_CACHED = getattr(os, "RWF_NOWAIT", 0)  # read what the system has in memory, and nothing else
_ADVISE = hasattr(os, "posix_fadvise")
_FORESEEN = 4  # pieces that are brought before they are asked for, where images are read one after another
_NOT_KNOWN = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def named(images: list[int]) -> str:
    """The first few numbers of many."""
    return ", ".join(map(str, images[:_NAMED])) + (", …" if len(images) > _NAMED else "")


class StoredImages:
    """Images uint8 (N, C, H, W) of a .npy file, indexed as an array is: by a number, a slice or an array of numbers.

    Nothing is memory-mapped: images are copied out of the file, so that a disk error is an error and not the end of
    the process, and other threads run meanwhile. What is read is compared with its checksum, each time. What the system
    has in memory is copied by the caller's thread; from the first image on that it has not, many threads read at once.
    Nothing beside what is asked for is read, but for the next few images where they are read in their order.

    Args:
        path: the file.
        shape: (N, C, H, W).
        checksums: uint64 (N,); None: there are none, and nothing is compared.
        damaged: gives the error to raise from what is wrong with them.

    Attributes:
        shape: (N, C, H, W).
        verified: whether there are checksums.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if it is not a .npy file of these images.
    """

    dtype, ndim = np.dtype(np.uint8), 4
    in_use: object = None
    """What is to be there as long as they are."""

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        checksums: NDArray[np.uint64] | None,
        damaged: Callable[[str], UserError],
    ) -> None:
        self.shape, self.verified = shape, checksums is not None
        self._image, self._checksums, self._damaged = int(np.prod(shape[1:])), checksums, damaged
        self._seen = np.zeros(shape[0], np.bool_)
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        if _ADVISE:  # else several times as much is read as is asked for
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_RANDOM)
        self._cached, self._next, self._foreseen = _CACHED, 0, 0
        self._start = self._header(path.name)

    def _header(self, name: str) -> int:
        """Where the first image begins; the header is compared, not parsed."""
        expected = header_of(self.shape)
        length = 10 + int.from_bytes(os.pread(self._file, 2, 8), "little")
        header = os.pread(self._file, length, 0)
        # the padding depends on numpy's version
        if header[:8] != expected[:8] or header[10:].rstrip() != expected[10:].rstrip():
            raise ValueError(f"{name} does not begin as uint8 images {self.shape} do")
        size = length + self.shape[0] * self._image
        if (there := os.fstat(self._file).st_size) != size:
            raise ValueError(f"{name} has {there:,} bytes, and {self.shape} take {size:,}")
        return length

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: SupportsIndex | slice | ArrayLike) -> NDArray[np.uint8]:
        if isinstance(key, slice):
            return self.read(np.arange(len(self))[key])
        if isinstance(key, SupportsIndex) and not isinstance(key, np.ndarray):
            image: NDArray[np.uint8] = self.read(np.array([key.__index__()]))[0]
            return image
        chosen = np.asarray(key)
        return self.read(np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("stored images are copied when they are read")
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)

    def read(
        self, indices: NDArray[Any], out: NDArray[np.uint8] | None = None, once: bool = False
    ) -> NDArray[np.uint8]:
        """The images at `indices` (n,), in that order.

        Args:
            indices: whole numbers; negative ones count from the end.
            out: (n, C, H, W), contiguous, where they go; None: a new array.
            once: whether to verify only images that were not verified before.

        Raises:
            IndexError: if there is no such image, or `indices` are not whole numbers.
            UserError: if the file cannot be read, or images differ from their checksums.
        """
        if len(indices) and indices.dtype.kind not in "iu":
            raise IndexError(f"images are indexed by whole numbers, not {indices.dtype}")
        places = np.where(indices < 0, indices + len(self), indices).astype(np.int64)
        if len(places) and not 0 <= places.min() <= places.max() < len(self):
            raise IndexError(f"there are images 0 to {len(self) - 1}, not {places.min()} to {places.max()}")
        images = np.empty((len(places), *self.shape[1:]), np.uint8) if out is None else out
        bad = self._read(places, images.reshape(-1).data, once)
        if bad:
            some = f"{len(bad):,} of {len(places):,} images that were read differ from their checksums"
            raise self._damaged(f"{some}, counted from 0 {named(bad)}")
        return images

    def differing(self, first: int, count: int) -> list[int]:
        """Which of `count` images from the `first` on differ from their checksums.

        Raises:
            UserError: if the file cannot be read.
        """
        places = np.arange(first, min(first + count, len(self)))
        return self._read(places, memoryview(bytearray(len(places) * self._image)))

    def _read(self, places: NDArray[np.int64], pixels: memoryview, once: bool = False) -> list[int]:
        """Fill `pixels` with images, and give those that differ from their checksums, of all or of those not seen."""
        if self._checksums is None or not len(places):
            compared = np.zeros(len(places), np.bool_)
        else:
            compared = ~self._seen[places] if once else np.ones(len(places), np.bool_)
        numbers, differ, size = places.tolist(), list[int](), self._image
        if _ADVISE and numbers and numbers[-1] - numbers[0] == len(numbers) - 1:
            self._foresee(numbers[0], numbers[-1] + 1)
        sums = self._checksums[places].tolist() if compared.any() and self._checksums is not None else []
        todo = compared.tolist()

        def fill(piece: tuple[int, int], flags: int = 0) -> bool:
            """Read neighbours and compare them; nothing comes of it if they are to be in memory and are not."""
            first, last = piece
            if not self._fill(pixels[first * size : last * size], numbers[first], flags):
                return False
            for k in range(first, last):
                if todo[k] and checksum(pixels[k * size : (k + 1) * size]) != sums[k]:
                    differ.append(k)
            return True

        pieces, flags, start = self._pieces(places), self._cached, 0
        while flags and start < len(pieces) and fill(pieces[start], flags):
            start += 1
        spread(fill, pieces[start:])
        if not differ:
            self._seen[places[compared]] = True
        return [numbers[k] for k in sorted(differ)]

    def _foresee(self, first: int, behind: int) -> None:
        """Have the system bring what comes behind these images, if they come behind those that were read last."""
        most = self._most()
        if first != self._next:
            self._foreseen = behind
        elif behind + _FORESEEN * most // 2 > self._foreseen:
            start = max(behind, self._foreseen)
            self._foreseen = min(start + _FORESEEN * most, len(self))
            for piece in range(start, self._foreseen, most):  # a system may do no more than about a piece at a time
                place, count = self._start + piece * self._image, min(most, self._foreseen - piece)
                os.posix_fadvise(self._file, place, count * self._image, os.POSIX_FADV_WILLNEED)
        self._next = behind

    def _most(self) -> int:
        """Images of a piece."""
        return max(1, _PIECE // max(1, self._image))

    def _pieces(self, places: NDArray[np.int64]) -> list[tuple[int, int]]:
        """First and last + 1 of the places that are read at once: neighbours in the file, but not too many."""
        most = self._most()
        edges = [0, *(np.flatnonzero(np.diff(places) != 1) + 1).tolist(), len(places)]
        return [
            (start, min(start + most, last)) for first, last in pairwise(edges) for start in range(first, last, most)
        ]

    def _fill(self, pixels: memoryview, first: int, flags: int) -> bool:
        """Read images from the `first` on; whether that was done. Errors are told without `flags` only, in order."""
        done, start = 0, self._start + first * self._image
        while done < len(pixels):
            try:
                read = os.preadv(self._file, [pixels[done:]], start + done, flags)
            except OSError as error:
                if flags:
                    if error.errno in _NOT_KNOWN:
                        self._cached = 0
                    return False
                raise self._damaged(f"image {first} cannot be read, {error.strerror or error}") from error
            if not read:
                if flags:
                    return False
                raise self._damaged(f"the file ends before image {first + done // self._image} does")
            done += read
        return True
