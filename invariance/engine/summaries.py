"""Whole curves in a number: the area below them, the images that keep their class at every g, those that lose most."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from invariance.engine.derivative import DERIVATIVE
from invariance.engine.per_image import OF, Of, PerImage
from invariance.errors import UserError, nearest
from invariance.measures import INDEX_NAMES, measure_named
from invariance.measures.bootstrap import bootstrap, wilson
from invariance.runs.rows import OF_CONTROL, WITH_SCORE
from invariance.transforms.base import UNTOUCHED

OF_IMAGES = ("agreement", "error_rate", "effective_invariance", "l2_distance")
"""Measures of single images, those before that say more of what a network does."""

_TOGETHER = 256
"""Curves that are resampled at a time; all share their resamples, so that it changes no number."""


def plain(rows: pd.DataFrame, split: str | None = None) -> pd.DataFrame:
    """The rows over one split, without those of the unseen-class control, with `grid` and `label` beside them.

    Args:
        rows: rows of a measurement.
        split: the split; None: the one reported on.

    Raises:
        UserError: if there are none.
    """
    if lacking := {"fit_classes", "metric", "split", "status", "map", "solver", "g", "value", "score"} - set(rows):
        raise UserError(f"this table has no column {min(lacking)} any more; take the results themselves")
    ordinary = rows[rows["fit_classes"].isin(["", "all"]) & ~rows["metric"].isin(OF_CONTROL)]
    wanted = split or (ordinary["split"].iloc[-1] if len(ordinary) else "")
    chosen = ordinary[ordinary["split"] == wanted]
    if chosen.empty:
        there = ", ".join(ordinary["split"].unique()) or "none"
        raise UserError(f"split={wanted!r}: no such rows; there are {there}")
    grids = chosen["g"].str.partition(":")
    return pd.DataFrame(chosen).assign(grid=grids[0], label=grids[2])


def chosen(rows: pd.DataFrame, column: str, wanted: str | None, what: str) -> pd.DataFrame:
    """The rows of one value of a column; all where none is wanted.

    Raises:
        UserError: if there are none.
    """
    if wanted is None:
        return rows
    known = [str(one) for one in rows[column].unique()]
    if wanted not in known:
        raise UserError(f"{what}={wanted!r} was not measured{nearest(wanted, known)}; there are {', '.join(known)}")
    return rows[rows[column] == wanted]


def weights_of(values: NDArray[np.float64], counted: bool) -> NDArray[np.float64]:
    """What each point of a curve counts in its area, (g,): the trapezoid's weights divided by the axis' range.

    Args:
        values: (g,) places on the axis, in any order, all different.
        counted: whether the axis only counts: then, and where there is one point alone, the area is the mean.
    """
    span = float(np.ptp(values)) if len(values) else 0.0
    if counted or len(values) < 2 or not span > 0:
        return np.full(len(values), 1 / max(1, len(values)))
    order = np.argsort(values)
    steps, weights = np.diff(values[order]), np.zeros(len(values))
    weights[order[:-1]] += steps / 2
    weights[order[1:]] += steps / 2
    return weights / span


def curves(rows: pd.DataFrame) -> Iterator[tuple[Of, pd.DataFrame]]:
    """The rows of `plain`, a curve after the other: what it is of, and its rows, the untouched left out."""
    for of, part in rows[rows["label"] != UNTOUCHED].groupby(list(OF), sort=False):
        yield tuple(str(one) for one in of), part


def area_weights(values: NDArray[Any], grid: str, counted: Sequence[str] | None) -> NDArray[np.float64]:
    """`weights_of` a curve of one measure.

    Args:
        values: (g,) places of its g on the axis.
        grid: the grid.
        counted: the grids whose axis only counts; None: it is not known.

    Raises:
        UserError: if it is not known.
    """
    if counted is None:
        raise UserError("these results do not say which axes only count, as older ones do not; measure again")
    return weights_of(values.astype(np.float64), grid in counted)


def area(rows: pd.DataFrame, counted: Sequence[str] | None, per_image: PerImage | None) -> pd.DataFrame:
    """The area below every curve: one number a network, layer, map, grid and measure.

    The trapezoid over the axis divided by its range, both signs, the untouched left out; the mean where the axis only
    counts. A curve that lacks a number has none.

    Args:
        rows: as `plain` gives them.
        counted: the grids whose axis only counts.
        per_image: scores of every image, for intervals; None: without.
    """
    found: list[dict[str, Any]] = []
    wanted: list[tuple[Of, list[str], NDArray[np.float64]]] = []
    for of, metric, curve in _by_metric(rows):
        weights = area_weights(curve["value"], of[-1], counted)
        score = float(weights @ np.where(curve["trusted"], curve["score"], np.nan))
        told = dict(zip(OF, of, strict=True)) | {"metric": metric, "split": str(curve["split"][0])}
        found.append({**told, "area": score, "low": math.nan, "high": math.nan, "n_g": len(weights)})
        wanted.append((of, [str(label) for label in curve["label"]], weights))
    if per_image is not None:
        tables: dict[int, NDArray[np.float64]] = {}
        for k, (of, labels, weights) in enumerate(wanted):
            if found[k]["metric"] not in INDEX_NAMES and math.isfinite(found[k]["area"]):
                tables[k] = weights @ per_image.values(of, labels, found[k]["metric"])
        for k, low, high in _ends(tables):
            found[k] |= {"low": found[k]["area"] + low, "high": found[k]["area"] + high}
    return pd.DataFrame(found)


def _by_metric(rows: pd.DataFrame) -> Iterator[tuple[Of, str, dict[str, NDArray[Any]]]]:
    """Every curve of one measure: what it is of, the measure, and its columns; a layer may be one of thousands."""
    moved = rows[rows["label"] != UNTOUCHED]
    moved = moved.assign(trusted=moved["status"].isin(WITH_SCORE))
    names = ("label", "value", "score", "split", "trusted")
    columns = {name: moved[name].to_numpy() for name in names}
    numbers = moved.groupby([*OF, "metric"], sort=False).ngroup().to_numpy()
    order = np.argsort(numbers, kind="stable")
    keys = [moved[name].to_numpy() for name in (*OF, "metric")]
    for places in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1) if len(order) else ():
        *of, metric = (str(key[places[0]]) for key in keys)
        yield tuple(of), metric, {name: column[places] for name, column in columns.items()}


def _ends(tables: dict[int, NDArray[np.float64]]) -> Iterator[tuple[int, float, float]]:
    """Ends of the intervals of means over images, about the means; networks may have other numbers of images."""
    for count in {len(values) for values in tables.values()}:
        alike = [k for k, values in tables.items() if len(values) == count]
        for start in range(0, len(alike), _TOGETHER):
            keys = alike[start : start + _TOGETHER]
            interval = bootstrap(np.stack([tables[k] for k in keys]))
            for k, mean, low, high in zip(keys, interval.mean, interval.low, interval.high, strict=True):
                yield k, float(low - mean), float(high - mean)


def consistency(rows: pd.DataFrame, per_image: PerImage) -> pd.DataFrame:
    """The share of images that keep their class at every g of a grid, with Wilson's interval.

    Args:
        rows: as `plain` gives them.
        per_image: scores of every image.

    Raises:
        UserError: if no class was named.
    """
    found = []
    for of, curve in curves(rows[rows["metric"] != DERIVATIVE]):
        if not per_image.named(of):
            continue
        labels = list(dict.fromkeys(curve["label"]))
        predicted, untouched = per_image.predicted(of, labels)
        kept = np.where(untouched["predicted"] < 0, np.nan, (predicted == untouched["predicted"]).all(axis=0))
        trusted = bool(curve.loc[~curve["metric"].isin(INDEX_NAMES), "status"].isin(WITH_SCORE).all())
        interval = wilson(kept if trusted else np.full(len(kept), np.nan))
        ends = {name: float(getattr(interval, name)[0]) for name in ("low", "high")}
        told = dict(zip(OF, of, strict=True)) | {"split": per_image.split, "consistency": float(interval.mean[0])}
        found.append({**told, **ends, "n_images": int(interval.n_used[0]), "n_g": len(labels)})
    if not found:
        raise UserError("consistency is of the classes that a network names, and none were; measure agreement")
    return pd.DataFrame(found)


def worst(rows: pd.DataFrame, per_image: PerImage, measure: str | None, n: int) -> pd.DataFrame:
    """The images that lose most under the g of a grid, most first: n of every curve.

    An image's loss is how much worse the measure is than untouched, mean over the g; of images that lose as much those
    come first whose class the network was surer of untouched, then in the order of the split.

    Args:
        rows: as `plain` gives them.
        per_image: scores of every image.
        measure: a measure over images; None: agreement, error_rate or l2_distance, the first that there is.
        n: how many images.

    Raises:
        UserError: for another measure, or no number of images.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise UserError(f"n={n!r}: give a whole number from 1")
    there = [name for name in OF_IMAGES if name in set(rows["metric"])]
    if measure is not None and measure not in there or not there:
        raise UserError(
            f"measure={measure!r} was not measured of single images; there are {', '.join(there) or 'none'}"
        )
    measure = measure or there[0]
    sign = 1 if measure_named(measure).better == "lower" else -1
    found = []
    for of, curve in curves(rows[rows["metric"] == measure]):
        labels = list(curve["label"])
        values = per_image.values(of, [*labels, *([UNTOUCHED] if UNTOUCHED in per_image.g_of(of) else [])], measure)
        loss = sign * (values[: len(labels)] - (values[len(labels)] if len(values) > len(labels) else 0.0)).mean(axis=0)
        sure = per_image.predicted(of, labels[:1])[1]["confidence"] if per_image.named(of) else np.zeros(len(loss))
        order = np.lexsort((np.arange(len(loss)), -np.nan_to_num(sure), -np.nan_to_num(loss, nan=-np.inf)))
        order = order[~np.isnan(loss[order])][:n]
        told = dict(zip(OF, of, strict=True)) | {"split": per_image.split, "metric": measure}
        found += [{**told, "image": int(i), "loss": float(loss[i])} for i in order]
    return pd.DataFrame(found)
