"""Two networks on the same images: paired differences with intervals, "is A more invariant than B?"."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from invariance.engine.per_image import Of, PerImage
from invariance.engine.summaries import area_weights, chosen
from invariance.errors import UserError
from invariance.measures import MEASURES, measure_named
from invariance.measures.bootstrap import bootstrap
from invariance.runs.rows import WITH_SCORE
from invariance.transforms.base import UNTOUCHED

AREA = "area"
"""The g of the row that is about a whole curve."""


@dataclass(frozen=True)
class Measurement:
    """One of two networks that are compared.

    Attributes:
        name: the network, as its rows name it.
        shown: how what comes of it is to name it.
        rows: its rows, as `summaries.plain` gives them.
        per_image: scores of every image.
        about: what its results say of how they were measured.
    """

    name: str
    shown: str
    rows: pd.DataFrame
    per_image: PerImage
    about: Mapping[str, Any]


def told_apart(a: Measurement, b: Measurement, *, together: bool) -> tuple[Measurement, Measurement]:
    """Two measurements by names that tell them apart, as those before and after a training.

    Args:
        a: one.
        b: the other.
        together: whether they are of one table, where one name is one network.

    Raises:
        UserError: if they are the same one.
    """
    if a.name != b.name:
        return a, b
    if together:
        raise UserError(f"compare({a.name!r}, {b.name!r}): give two networks, or other= for results after a change")
    return replace(a, shown=f"{a.name} (a)"), replace(b, shown=f"{b.name} (b)")


def compared(a: Measurement, b: Measurement, measure: str | None, layers: Mapping[str, str] | None) -> pd.DataFrame:
    """What measures say of a less what they say of b, for every layer, map, grid and g.

    Both are means over the same images, so that the difference has a paired interval: images are resampled with what
    both networks made of them. Beside every g stands the area of the curve. `better` names the network of the better
    numbers where the interval leaves out 0.

    Args:
        a: one.
        b: the other.
        measure: a measure over images; None: agreement where both have it, else the first that both have.
        layers: which layer of b is set beside which of a; None: those of one name.

    Raises:
        UserError: if they are not of the same images and g, or nothing was measured of both.
    """
    _require_paired(a, b)
    name = _measure(a, b, measure)
    rows_a, rows_b = (one.rows[one.rows["metric"] == name] for one in (a, b))
    found: list[dict[str, Any]] = []
    for layer_a, layer_b in _layers(a, b, layers):
        here = rows_a[rows_a["layer"] == layer_a]
        for key, part in here.groupby(["map", "solver", "grid"], sort=False):
            others = rows_b[rows_b["layer"] == layer_b]
            others = others[(others[["map", "solver", "grid"]] == list(key)).all(axis=1)].set_index("label")
            shared = part[part["label"].isin(others.index)].set_index("label", drop=False)
            if len(shared):
                ways = [(one.name, layer, *map(str, key)) for one, layer in ((a, layer_a), (b, layer_b))]
                found += _of_curve((a, b), ways, shared, others.loc[shared.index], name)
    if not found:
        raise UserError(f"{a.shown} and {b.shown}: {name} was not measured of both through one map over one grid")
    return pd.DataFrame(found)


def _layers(a: Measurement, b: Measurement, wanted: Mapping[str, str] | None) -> list[tuple[str, str]]:
    """Which layer of a is set beside which of b: those of one name, or those that are told."""
    if wanted is not None:
        for one, other in wanted.items():
            chosen(a.rows, "layer", one, f"layer of {a.shown}")
            chosen(b.rows, "layer", other, f"layer of {b.shown}")
        return list(wanted.items())
    there, names = list(dict.fromkeys(a.rows["layer"])), set(b.rows["layer"])
    if alike := [(name, name) for name in there if name in names]:
        return alike
    raise UserError(
        f"{a.shown} and {b.shown} have no layer of one name; say which to compare, as "
        f"layers={{{there[-1]!r}: {b.rows['layer'].iloc[-1]!r}}}"
    )


def _require_paired(a: Measurement, b: Measurement) -> None:
    """Refuse images that are not the same, and g that are not."""
    images = [dict(one.about.get("images", {})).get(one.per_image.split) for one in (a, b)]
    counts = [one.per_image.counts(one.name) for one in (a, b)]
    first, second = (one.per_image.labels.get(one.per_image.split) for one in (a, b))
    same_labels = first is second if first is None or second is None else np.array_equal(first, second)
    if images[0] != images[1] or counts[0] != counts[1] or not same_labels:
        raise UserError(
            f"{a.shown} and {b.shown} were not measured on the same images, so that nothing is paired; measure both on "
            "the same, as measure_model([a, b], images)"
        )
    for grid in dict.fromkeys(a.rows["grid"]):
        of = [dict(one.about.get("transforms", {})).get(grid) for one in (a, b)]
        if None not in of and of[0] != of[1]:
            raise UserError(f"{grid} of {a.shown} and of {b.shown} are other transformations of the same names")


def _measure(a: Measurement, b: Measurement, wanted: str | None) -> str:
    """The measure that is compared."""
    of_both = [name for name in dict.fromkeys(a.rows["metric"]) if name in set(b.rows["metric"])]
    there = [name for name in of_both if name in MEASURES and MEASURES[name].over == "image"]
    if wanted is None and there:
        return "agreement" if "agreement" in there else there[0]
    if wanted is None or wanted not in there:
        known = ", ".join(there) or "nothing, for both have no measure of images"
        raise UserError(f"measure={wanted!r}: {a.shown} and {b.shown} can be compared by {known}")
    return wanted


def _of_curve(
    both: tuple[Measurement, Measurement], ways: Sequence[Of], a: pd.DataFrame, b: pd.DataFrame, measure: str
) -> list[dict[str, Any]]:
    """The rows of one curve of each: one a g, and one of their areas."""
    labels = list(a["label"])
    values = [one.per_image.values(of, labels, measure) for one, of in zip(both, ways, strict=True)]
    trusted = (a["status"].isin(WITH_SCORE) & b["status"].isin(WITH_SCORE)).to_numpy()
    differences = np.where(trusted[:, None], values[0] - values[1], np.nan)
    moved = a["label"] != UNTOUCHED
    places = np.flatnonzero(moved)
    table = differences
    if len(places):
        weights = area_weights(a.loc[moved, "value"].to_numpy(), ways[0][-1], both[0].about.get("ordinal"))
        table = np.vstack([differences, weights @ differences[places]])
    interval = bootstrap(table)
    told = dict(zip(("layer", "map", "solver", "grid"), ways[0][1:], strict=True))
    names = (both[0].shown, both[1].shown)
    told = {"network": names[0], "other": names[1], "other_layer": ways[1][1], **told, "metric": measure}
    found = []
    for k, label in enumerate([*labels, AREA][: len(table)]):
        row = a.iloc[k] if k < len(labels) else None
        scores = [float(part["score"].iloc[k]) if row is not None else _area(part, weights, places) for part in (a, b)]
        low, high = float(interval.low[k]), float(interval.high[k])
        found.append(
            {
                **told,
                "g": f"{told['grid']}:{label}",
                "value": math.nan if row is None else float(row["value"]),
                "unit": str(a["unit"].iloc[0]),
                "score": scores[0],
                "other_score": scores[1],
                "difference": float(interval.mean[k]),
                "low": low,
                "high": high,
                "better": _better(measure, low, high, names),
                "n_images": int(interval.n_used[k]),
            }
        )
    return found


def _area(part: pd.DataFrame, weights: NDArray[np.float64], places: NDArray[np.int64]) -> float:
    return float(weights @ part["score"].to_numpy(dtype=np.float64)[places])


def _better(measure: str, low: float, high: float, names: tuple[str, str]) -> str:
    """The network of the better numbers; "" where the interval holds 0, or no number is the better."""
    better = measure_named(measure).better
    if better == "neither" or not (low > 0 or high < 0):
        return ""
    return names[0] if (high < 0) == (better == "lower") else names[1]
