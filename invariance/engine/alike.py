"""How alike φ(gx) and φ(x) are as a whole, without a map: CKA, Procrustes distance, R², by the functions of pairs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from invariance.device import require
from invariance.engine.scoring import MeasuredSplit
from invariance.errors import UserError
from invariance.measures import INDEX_NAMES, Measure, measure_named
from invariance.measures.jackknife import jackknife
from invariance.measures.moments import ComparedSide, Pairing, thin
from invariance.runs.rows import Row


def check_room(layer: str, dims: int, images: int) -> None:
    """Refuse a layer whose products of dimensions memory cannot hold: three matrices, in float64.

    Raises:
        UserError: naming the bytes.
    """
    side = min(dims, images)
    require(24 * side**2, f"layer={layer}: products of {side:,} dimensions", "choose fewer images, or another layer")


class Alike:
    """The measures of two representations at one layer, over the report images.

    They go from φ(gx) to φ(x) where they have a direction: R² says how much of φ(x) is a linear map of φ(gx).

    Args:
        side: the report images.
        measures: names; those of `INDEX_NAMES` are taken, the others left.
        intervals: whether to give them intervals, at about ten times the cost.
    """

    def __init__(self, side: MeasuredSplit, measures: Sequence[str], *, intervals: bool = False) -> None:
        self._measures = [measure_named(name) for name in measures if name in INDEX_NAMES]
        self._intervals = intervals
        self._reference = side.reference
        self._once: ComparedSide | None = None

    def hold(self, reference: Tensor) -> None:
        """Take φ(x) (n, D), where the side has it not."""
        self._reference, self._once = reference, None

    def rows(self, r: Sequence[Tensor], common: Sequence[Mapping[str, Any]]) -> list[Row]:
        """A row for every g and measure.

        Args:
            r: φ(gx), (n, D), by g.
            common: what the rows of a g say alike, by g.
        """
        if not self._measures:
            return []
        return [row for of_g, told in zip(r, common, strict=True) for row in self._of(of_g, told)]

    def _of(self, r: Tensor, common: Mapping[str, Any]) -> list[Row]:
        finite = bool(torch.isfinite(r.sum()) & torch.isfinite(self._reference.sum()))
        pairing = Pairing(ComparedSide(thin(r)), self._side()) if finite else None
        rows = self.of(pairing, common, len(r))
        if not self._intervals:
            return rows
        both = zip(self._measures, rows, strict=True)
        ends = [self._interval(one, row.score, r) if row.status == "ok" else (math.nan,) * 2 for one, row in both]
        return [replace(row, low=low, high=high) for row, (low, high) in zip(rows, ends, strict=True)]

    def of(self, pairing: Pairing | None, common: Mapping[str, Any], images: int) -> list[Row]:
        """A row for every measure of one g, without intervals.

        Args:
            pairing: φ(gx) and φ(x); None: they are not finite.
            common: what the rows say alike.
            images: how many images it is of.
        """
        rows = []
        for measure in self._measures:
            score = math.nan if pairing is None else float(measure.call(pairing))
            status = "ok" if math.isfinite(score) else "not_finite" if pairing is None else "undefined"
            rows.append(Row(**common, metric=measure.name, score=score, n_images=images, status=status))
        return rows

    def _side(self) -> ComparedSide:
        """φ(x), with what is computed of it once for all g."""
        if self._once is None:
            self._once = ComparedSide(thin(self._reference))
        return self._once

    def _interval(self, measure: Measure, score: float, r: Tensor) -> tuple[float, float]:
        def among(images: Tensor) -> float:
            """The measure over some of the images."""
            sides = (ComparedSide(thin(values[images.to(values.device)])) for values in (r, self._reference))
            return float(measure.call(Pairing(*sides)))

        return jackknife(among, score, len(r), measure.bounds)


def check_alike(measures: Sequence[str], maps: Sequence[str]) -> None:
    """Refuse what gives no number: a measure of φ(gx) and φ(x) alone where they are not compared without a map.

    Args:
        measures: names of the measures.
        maps: names of the maps.

    Raises:
        UserError: naming what lacks.
    """
    whole = [name for name in measures if name in INDEX_NAMES]
    if whole and "identity" not in maps:
        raise UserError(f"{whole[0]} is between φ(gx) and φ(x), without a map: add identity to the maps")
    if whole and len(whole) == len(measures) and set(maps) - {"identity"}:
        raise UserError(
            f"{', '.join(whole)} say nothing of a map: add a measure of images, as l2_distance, or leave out the map"
        )
