"""Rows out of scores of every image: means with intervals, and what they are of (spec of the one long table)."""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from invariance.engine.groups import Group
from invariance.engine.scoring import MeasuredSplit, Scores, digest_of, mean_of
from invariance.measures import measure_named
from invariance.measures.bootstrap import bootstrap
from invariance.runs.rows import Row
from invariance.transforms.base import GridPoint, Transform


def about(network: str, group: Group, transform: Transform, point: GridPoint, side: MeasuredSplit) -> dict[str, Any]:
    """What the rows of one g over one split say alike."""
    return {
        "stage": "measure",
        "network": network,
        "layer": group.layer,
        "g": f"{group.grid}:{point.label}",
        "value": point.value,
        "unit": transform.unit,
        "split": side.sample.split,
        "map": group.map.map,
        "solver": group.map.label,
        "readout": group.readout,
        "fit_classes": "" if group.map.settings is None else "all",
    }


def rows_of(
    scores: Sequence[Scores],
    measures: Sequence[str],
    side: MeasuredSplit,
    common: Sequence[Mapping[str, Any]],
    status: Sequence[str],
    *,
    pooled: bool = False,
    untouched: Scores | None = None,
) -> list[Row]:
    """A row for every g and measure: the mean over images, in float64, of what is stored of them, and its interval.

    Args:
        scores: of every image, by g.
        measures: what to give of them.
        side: the split.
        common: what the rows of a g say alike, by g.
        status: how far each g can be trusted; without a number it becomes not_finite.
        pooled: whether an image's number is itself a mean, so that an error rate is no share of zeros and ones.
        untouched: scores of the untouched images without a map, where a measure is of these, too.
    """
    hashes = [digest_of(one) for one in scores]
    means = {
        measure: (bootstrap if pooled else measure_named(measure).interval)(
            np.stack([mean_of(one, measure, side.labels, untouched) for one in scores])
        )
        for measure in measures
    }
    rows = []
    for j, measure in product(range(len(scores)), measures):
        interval, how = means[measure], status[j]
        if how == "ok" and not math.isfinite(interval.mean[j]):
            how = "not_finite"
        trusted = how == "ok"
        rows.append(
            Row(
                **common[j],
                metric=measure,
                status=how,
                n_images=int(interval.n_used[j]) if trusted else len(side.sample),
                score=float(interval.mean[j]) if trusted else math.nan,
                low=float(interval.low[j]) if trusted else math.nan,
                high=float(interval.high[j]) if trusted else math.nan,
                scores=hashes[j],
            )
        )
    return rows
