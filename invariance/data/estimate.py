"""What preparing a data set will take: room on the disk, and time from a sample of its images."""

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from invariance.data.building import BYTES_OF_LISTS, workers_here
from invariance.data.decode import COLOURS, BrokenImage, Pixels, decode_sizes, large_images
from invariance.data.finding import prepared_settings
from invariance.data.left_out import lines_of
from invariance.data.sources.base import Splits, content_hash, data_config

_SAMPLE = 256


@dataclass(frozen=True)
class PreparationPlan:
    """What preparing will take.

    Attributes:
        images: images of each split.
        size_bytes: room it takes.
        free_bytes: room there is.
        rate: images decoded a second, all threads together.
        sampled: images this was measured on.
        workers: threads.
        left_out: what of the source is left out, a line for each reason.
    """

    images: dict[str, int]
    size_bytes: int
    free_bytes: int
    rate: float
    sampled: int
    workers: int
    left_out: list[str]

    @property
    def seconds(self) -> float:
        """Time to decode everything."""
        return sum(self.images.values()) / self.rate if self.rate else math.nan


def plan(
    config: Mapping[str, Any], sizes: Sequence[int], root: Path, progress: bool = True, workers: int | None = None
) -> PreparationPlan:
    """Count a source's images, decode some of them, and say what decoding all of them once for all sizes will take.

    Args:
        config: a yaml of `conf/data/`, plain and resolved.
        sizes: sides of the prepared images in pixels.
        root: folder of all prepared data.
        progress: whether to show a bar where an archive must be listed first.
        workers: threads that decode; None: one for each core.

    Raises:
        UserError: for a configuration or source that cannot serve.
    """
    data = data_config({**config, "verify": False} if "verify" in config else config)  # sums take as long as reading
    for size in sizes:
        prepared_settings(data, size)
    found, threads = data.source.splits(progress), workers or workers_here()
    images = {split: len(listing) for split, listing in found.listings.items()}
    each = sum(COLOURS[data.colour] * size**2 + BYTES_OF_LISTS for size in sizes)
    above = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.is_dir())
    left = lines_of(found.left_out.as_json())
    rate, sampled = _rate(found, sizes, data.colour, threads)
    return PreparationPlan(
        images, each * sum(images.values()), shutil.disk_usage(above).free, rate, sampled, threads, left
    )


def _rate(found: Splits, sizes: Sequence[int], colour: str, workers: int) -> tuple[float, int]:
    """Images decoded a second, and how many this was measured on."""

    def one(read: Any) -> None:  # noqa: ANN401
        """Decode an image at every size; one that is broken takes its time, too."""
        try:
            data: bytes | Pixels = read()
            content_hash(data)
            decode_sizes(data, sizes, colour)
        except BrokenImage:
            pass

    archive = next((listing.archive for listing in found.listings.values() if listing.archive is not None), None)
    start = time.perf_counter()
    with large_images(), ThreadPoolExecutor(workers) as pool:
        if archive is None:
            listing = max(found.listings.values(), key=len)
            chosen = np.random.default_rng(0).permutation(len(listing))[:_SAMPLE].tolist()
            list(pool.map(lambda i: one(lambda: listing.read(i)), chosen))
            count = len(chosen)
        else:
            wanted = {name for listing in found.listings.values() for name in listing.names}
            read = [data() for name, data in islice(((n, r) for n, r in archive.stream() if n in wanted), _SAMPLE)]
            list(pool.map(lambda data: one(lambda: data), read))
            count = len(read)
    return count / (time.perf_counter() - start), count
