"""The mean over images of what is measured on each, with an interval: by resampling images, or Wilson's for rates."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_COUNTS_BYTES = 64 * 2**20
"""Memory for the resampling counts worked on at a time."""

_KEPT_BYTES = 256 * 2**20
"""Memory for the counts that are kept, since one measurement resamples the same images for every fit and group."""


@dataclass(frozen=True)
class Interval:
    """Means over images with intervals, one for each of K rows of values or combinations of rows.

    Attributes:
        mean: (K,) mean over the images that are not NaN; NaN if all are.
        low: (K,) lower end of the interval.
        high: (K,) upper end.
        n_used: (K,) images that are not NaN; of a combination the fewest that one of its rows has.
    """

    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    n_used: NDArray[np.int64]


def bootstrap(
    values: NDArray[np.floating] | Tensor,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    *,
    combine: Sequence[Sequence[float]] | None = None,
) -> Interval:
    """Mean of each row of values over images, with a percentile bootstrap interval that resamples images.

    All rows share the resamples, so what `combine` makes of several rows is resampled together. A NaN is an image left
    out: a resample's mean is over those of its draws that are not NaN.

    Args:
        values: (R, n), or (n,) for one row.
        combine: (K, R) what to give of the rows' means instead of each: linear combinations of them, as [[0.5, 0.5],
            [1, -1]] for the average and the difference of two.
        n_resamples: bootstrap resamples.
        seed: seed of the resampling.
        level: of the interval.

    Returns:
        Means, ends and counts, each (K,).
    """
    table = np.atleast_2d(np.asarray(torch.as_tensor(values).cpu().double().numpy()))
    used = ~np.isnan(table)
    filled = np.where(used, table, 0.0)
    n_used = used.sum(1)
    weights = np.eye(len(table)) if combine is None else np.asarray(combine, dtype=np.float64)
    fewest = np.array([n_used[row != 0].min() for row in weights])
    n = table.shape[1]
    # Means are taken about each row's own, so that a constant row comes out exactly constant.
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(n_used > 0, filled.sum(1) / n_used, np.nan)
    combined = _combined(mean[None], weights)[0]
    if n == 0:
        return Interval(combined, combined.copy(), combined.copy(), fewest)
    about = np.where(used, filled - np.nan_to_num(mean)[:, None], 0.0).T
    everywhere = bool(used.all())
    shifts, start = np.empty((n_resamples, len(table))), 0
    for drawn_counts in _counts(n, n_resamples, seed):
        counts = drawn_counts.astype(np.float64)
        drawn = n if everywhere else counts @ used.T.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            shifts[start : start + len(counts)] = (counts @ about) / drawn
        start += len(counts)
    shifts = _combined(shifts, weights)
    tail = (1 - level) / 2
    low, high = _quantiles(shifts, tail), _quantiles(shifts, 1 - tail)
    return Interval(combined, combined + low, combined + high, fewest)


def wilson(values: NDArray[np.floating] | Tensor, level: float = 0.95) -> Interval:
    """Rate of each row of zeros and ones over images, with Wilson's score interval.

    Where few images or none are wrong, resampling finds no error that was not seen; this interval keeps its width
    there. A NaN is an image left out. Without any image all is NaN.

    Args:
        values: (R, n), or (n,) for one row, of 0, 1 and NaN.
        level: of the interval.
    """
    table = np.atleast_2d(np.asarray(torch.as_tensor(values).cpu().double().numpy()))
    n = (~np.isnan(table)).sum(1)
    z = NormalDist().inv_cdf((1 + level) / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = np.nansum(table, axis=1) / n
        centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    # at a rate of 0 or 1 the interval ends there exactly, whatever is rounded on the way
    return Interval(rate, np.minimum(rate, centre - half).clip(min=0), np.maximum(rate, centre + half).clip(max=1), n)


def _combined(table: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Combinations (…, K) of the columns of a table (…, R); a NaN is felt only where its weight is not 0."""
    parts = [table[:, row != 0] @ row[row != 0] for row in weights]
    return np.stack(parts, axis=1)


def _counts(n: int, n_resamples: int, seed: int) -> Iterator[NDArray[np.uint16]]:
    """How often each of n images comes up in n draws with replacement: parts (resamples, n) of all the resamples."""
    if 2 * n * n_resamples <= _KEPT_BYTES:
        yield from _kept_counts(n, n_resamples, seed)
    else:
        yield from _drawn_counts(n, n_resamples, seed)


@lru_cache(maxsize=2)  # the fit and the report images
def _kept_counts(n: int, n_resamples: int, seed: int) -> tuple[NDArray[np.uint16], ...]:
    return tuple(_drawn_counts(n, n_resamples, seed))


def _drawn_counts(n: int, n_resamples: int, seed: int) -> Iterator[NDArray[np.uint16]]:
    rng = np.random.default_rng(seed)
    chunk = max(1, _COUNTS_BYTES // (8 * n))
    for start in range(0, n_resamples, chunk):
        yield _draw_counts(rng, min(chunk, n_resamples - start), n)


def _draw_counts(rng: np.random.Generator, resamples: int, n: int) -> NDArray[np.uint16]:
    drawn = rng.integers(n, size=(resamples, n))
    drawn += np.arange(resamples)[:, None] * n
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n).astype(np.uint16)


def _quantiles(shifts: NDArray[np.float64], q: float) -> NDArray[np.float64]:
    """Quantile of each column over its resamples that drew at least one used image; NaN where none did."""
    if not np.isnan(shifts).any():
        return np.asarray(np.quantile(shifts, q, axis=0))
    columns = [column[~np.isnan(column)] for column in shifts.T]
    return np.array([np.quantile(column, q) if len(column) else np.nan for column in columns])
