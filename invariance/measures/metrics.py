"""What is measured on each image, and its mean over images with an interval (Sec. 3.3)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invariance.errors import UserError

_CHUNK = 4096
"""Images worked on at a time."""

_COUNTS_BYTES = 64 * 2**20
"""Memory for the resampling counts worked on at a time."""

_KEPT_BYTES = 256 * 2**20
"""Memory for the counts that are kept, since one measurement resamples the same images for every fit and group."""


def rms(r: Tensor) -> Tensor:
    """Root mean square of every dimension of r (N, D), as (D,) float64: the scale of L_L2, taken over the fit split."""
    total = torch.zeros(r.shape[1], dtype=torch.float64, device=r.device)
    for part in torch.split(r, _CHUNK):
        total += part.double().square().sum(0)
    return (total / len(r)).sqrt()


def l2_distance_per_image(r_hat: Tensor, r: Tensor, scale: Tensor) -> Tensor:
    """‖r̂ − r‖ / ‖r‖ of every image, each dimension first divided by `scale` (Sec. 3.3); L_L2 is the mean over images.

    A dimension whose scale is 0 (a unit that the fit split never woke) cannot be normalised and is left out. An image
    with ‖r‖ = 0 in what remains is NaN: it is left out of the mean and counted.

    Args:
        r_hat: (N, D).
        r: (N, D), the representation to compare with.
        scale: (D,), from `rms`.

    Returns:
        (N,) float64.

    Raises:
        UserError: for other shapes, or a scale that is no tensor.

    Example:
        >>> r = torch.tensor([[3.0, 4.0], [0.0, 2.0]])  # φ(x) of two images
        >>> l2_distance_per_image(r + torch.tensor([0.0, 1.0]), r, torch.ones(2))
        tensor([0.2000, 0.5000], dtype=torch.float64)
    """
    shapes = tuple(r_hat.shape), tuple(r.shape)
    if r.ndim != 2 or shapes[0] != shapes[1]:
        raise UserError(f"representations of shapes {shapes[0]} and {shapes[1]}: give two of one shape (N, D)")
    if not isinstance(scale, Tensor) or scale.shape != r.shape[1:]:
        given = f"shape {tuple(scale.shape)}" if isinstance(scale, Tensor) else repr(scale)
        raise UserError(f"a scale of {given}: give a tensor of shape ({r.shape[1]},), from rms")
    alive = scale > 0
    weight = torch.where(alive, 1 / torch.where(alive, scale, 1.0), 0.0).double()
    result = torch.empty(len(r), dtype=torch.float64, device=r.device)
    for rows in torch.split(torch.arange(len(r), device=r.device), _CHUNK):
        wanted = r[rows].double()
        # Where alive is false the difference may be anything, infinite too: 0 · ∞ would be NaN.
        off = torch.where(alive, r_hat[rows].double() - wanted, 0.0).mul_(weight).norm(dim=1)
        size = (wanted * weight).norm(dim=1)
        result[rows] = torch.where(size > 0, off / size, torch.nan)
    return result


def errors_per_image(logits: Tensor, labels: Tensor) -> Tensor:
    """1 where the class of largest logit (N, K) is not the label (N,), else 0; (N,) float64. L_err is its mean.

    Logits with a NaN among them are wrong. An image without a label (−1) is NaN: L_err does not apply to it.

    Raises:
        UserError: for other shapes, or a label that is no class.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise UserError(f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)}: give (N, K) and (N,)")
    low, high = labels.aminmax() if len(labels) else (0, 0)
    if low < -1 or high >= logits.shape[1]:
        odd = int(low if low < -1 else high)
        raise UserError(f"label {odd} of {logits.shape[1]} classes: labels go from 0, or are -1 where there is none")
    wrong = (logits.argmax(1) != labels) | logits.isnan().any(1)
    return torch.where(labels < 0, torch.nan, wrong.double())


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

    Example:
        >>> interval = bootstrap(np.arange(100.0))
        >>> float(interval.mean[0]), bool(interval.low[0] < 49.5 < interval.high[0])
        (49.5, True)
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


def interval_of(metric: str) -> Callable[[NDArray[np.floating] | Tensor], Interval]:
    """How a metric's mean over images gets its 95 % interval: Wilson's for rates, else by resampling images."""
    return wilson if metric == "error_rate" else bootstrap


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
