"""Reading prepared images in random order against numpy's memory map: from the disk, and from the system's memory."""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from invariance.data.batches import Batches, StepSampler
from invariance.data.images import StoredImages
from invariance.data.prepared import Split
from invariance.data.stored import StoredArray, checksum
from invariance.errors import UserError

BATCH, COLD_BATCHES, HOT_BATCHES, HOT_IMAGES = 256, 3, 40, 1500
_BLOCK = 128


class Pictures:
    """A file of random pixels, in the form of prepared images with their checksums.

    Args:
        directory: where it is made.
        images: how many.
        size: side in pixels; 3 channels.
    """

    def __init__(self, directory: Path, images: int, size: int) -> None:
        self.path, self.shape = directory / "random.images.npy", (images, 3, size, size)
        self.record, self.checks = 3 * size**2, np.zeros(images, np.uint64)
        array, rng = StoredArray(self.path, self.shape), np.random.default_rng(0)
        for first in range(0, images, _BLOCK):
            block = [rng.bytes(self.record) for _ in range(min(_BLOCK, images - first))]
            self.checks[first : first + len(block)] = [checksum(image) for image in block]
            array.put(first, b"".join(block))
        array.sync()
        array.close()

    def split(self) -> Split:
        """They, opened anew, none of them verified yet."""
        images = StoredImages(self.path, self.shape, self.checks, UserError)
        return Split(self.path.parent, "random", images, np.zeros(self.shape[0], np.int64))

    def forget(self) -> None:
        """Have the system drop what it has of the file in memory (`posix_fadvise`, which needs no rights)."""
        file = os.open(self.path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def read_from_disk() -> int:
    """Bytes that this process had the disk read so far, read-ahead included."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def consume(batches: Batches) -> None:
    """Take every batch, and have the last until the next one is there."""
    for _ in batches:
        pass


@contextmanager
def mapped(path: Path) -> Iterator[np.ndarray]:
    """Numpy's memory map of the file; nothing of it is left afterwards."""
    images = np.load(path, mmap_mode="r")
    try:
        yield images
    finally:
        images._mmap.close()


def cold(pictures: Pictures, threads: int, rounds: int) -> dict[str, float]:
    """Batches of random images after the system dropped the file; checksums of all of them are compared.

    Raises:
        SystemExit: if the system did not drop it, as where the file lies in memory.
    """
    images, found = COLD_BATCHES * BATCH, []
    for number in range(rounds):
        spans = [StepSampler(pictures.shape[0], BATCH, number).indices(step) for step in range(COLD_BATCHES)]
        pictures.forget()
        with mapped(pictures.path) as there:
            theirs = seconds_and_bytes(lambda there=there, spans=spans: [there[span].shape for span in spans])
        pictures.forget()
        ours = seconds_and_bytes(
            lambda spans=spans: consume(Batches(pictures.split(), spans.__getitem__, COLD_BATCHES, threads))
        )
        found.append((*theirs, *ours))
    theirs_s, theirs_bytes, ours_s, ours_bytes = (statistics.median(values) for values in zip(*found, strict=True))
    if min(theirs_bytes, ours_bytes) < 0.9 * images * pictures.record:
        raise SystemExit(f"{pictures.path.parent} gave files from memory: set TMPDIR to a folder on a disk")
    return {
        "cold_images_per_s": images / ours_s,
        "cold_images_per_s_over_memmap": statistics.median(one[0] / one[2] for one in found),
        "bytes_per_image_over_record": ours_bytes / images / pictures.record,
        "memmap_bytes_per_image_over_record": theirs_bytes / images / pictures.record,
    }


def hot(pictures: Pictures, threads: int, rounds: int) -> dict[str, float]:
    """Batches of random images that are in memory and were verified once, against `np.take` into one buffer."""
    split, spans = pictures.split(), []
    count = min(HOT_IMAGES, pictures.shape[0])
    split.images.read(np.arange(count))
    sampler = StepSampler(count, BATCH, 0)
    spans = [sampler.indices(step) for step in range(HOT_BATCHES)]
    out = np.empty((BATCH, *pictures.shape[1:]), np.uint8)
    with mapped(pictures.path) as there:

        def taken() -> None:
            """The same batches by numpy, into the same memory."""
            for span in spans:
                np.take(there, span, axis=0, out=out, mode="clip")

        ways = [Batches(split, spans.__getitem__, len(spans), number) for number in (threads, 0)]
        works = [*(lambda way=way: consume(way) for way in ways), taken]
        times = [[seconds_and_bytes(work)[0] for work in works] for _ in range(rounds + 1)][1:]
    return {
        "hot_images_per_s": HOT_BATCHES * BATCH / statistics.median(one[0] for one in times),
        "hot_share_of_take": statistics.median(one[2] / one[0] for one in times),
        "hot_share_of_take_without_threads": statistics.median(one[2] / one[1] for one in times),
    }


def seconds_and_bytes(work: Callable[[], object]) -> tuple[float, int]:
    """Wall time of one call, and what the disk read in it."""
    before, start = read_from_disk(), time.perf_counter()
    work()
    return time.perf_counter() - start, read_from_disk() - before
