"""Nulls: what a score would be if nothing of the image were left, beside which it is calibrated.

`null_image` is the score between different images, `null_constant` that of the mean of φ(x), `null_shuffled` that of a
map fitted on pairs of different images. All are of the report images.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from invariance.engine.scoring import MeasuredSplit, Scorer, Scores, mean_of
from invariance.maps import FittedMaps, Ridge, listed
from invariance.maps.spec import CLOSED, MapSpec
from invariance.measures import measure_named, moments
from invariance.measures.bootstrap import bootstrap
from invariance.runs.rows import WITH_SCORE, Row
from invariance.seeds import generator
from invariance.transforms.base import UNTOUCHED, GridPoint, Transform

FitMaps = Callable[[list[Tensor], Tensor | Sequence[Tensor], MapSpec], FittedMaps]


def without_fixed_points(count: int, *seed: int | str) -> Tensor:
    """A permutation (count,) that leaves nothing in its place: one cycle through all, in an order drawn by the seed.

    One thing alone stays where it is.
    """
    turn = torch.randperm(count, generator=generator(*seed))
    permutation = torch.empty_like(turn)
    permutation[turn] = turn.roll(-1)
    return permutation


@dataclass(frozen=True)
class Nulls:
    """The nulls at one layer.

    Attributes:
        scorer: scores images at the layer.
        fit: the fit images; None: there is nothing but different images to compare with.
        report: the report images.
        untouched: gives scores of the report images untouched, without a map.
        solvers: names of solvers whose maps are fitted on shuffled pairs, too, beside those in closed form.
        seed: of the permutations.
    """

    scorer: Scorer
    fit: MeasuredSplit | None
    report: MeasuredSplit
    untouched: Callable[[], Scores]
    solvers: Sequence[str] = ()
    seed: int = 0
    _kept: dict[str, Scores] = field(default_factory=dict)

    @property
    def other_images(self) -> Tensor:
        """(n,) the image that takes the place of each reported one."""
        return without_fixed_points(len(self.report.sample), self.seed, "other images")

    def wanted(self, point: GridPoint) -> list[str]:
        """The nulls without a map that are not known yet: `image` and `constant`."""
        there = {"image": len(self.report.sample) > 1, "constant": self.fit is not None}
        return [name for name, is_there in there.items() if is_there and self._key(name, point) not in self._kept]

    def hold(self, name: str, point: GridPoint, scores: Scores) -> None:
        """Take scores of every image in a null without a map."""
        self._kept[self._key(name, point)] = scores

    def _key(self, name: str, point: GridPoint) -> str:
        """Under what a null is known: that of other images is the same at every g, and where C takes no image both."""
        return name if name == "image" else f"{name}:{UNTOUCHED if self.scorer.apart else point.label}"

    def fitted(self, spec: MapSpec, r: list[Tensor], fit_maps: FitMaps) -> tuple[FittedMaps, FittedMaps | None]:
        """The maps of some g, and those fitted on shuffled pairs, where these are wanted.

        Ridge fits both in one pass: the Gram matrix of a g and its decomposition serve both.

        Args:
            spec: the map and its solver.
            r: φ(gx) of the fit images by g.
            fit_maps: fits maps of features to a target, or to several.
        """
        assert self.fit is not None
        target = self.fit.reference
        if not (_closed(spec) or spec.solver in self.solvers) or len(target) < 2:
            return fit_maps(r, target, spec), None
        shuffled = target[without_fixed_points(len(target), self.seed, "shuffled pairs").to(target.device)]
        if isinstance(spec.settings, Ridge) and listed(spec.map) in ("residual", "low_rank"):
            both = fit_maps(r, [target, shuffled], spec)
            return both.chosen(slice(0, None, 2)), both.chosen(slice(1, None, 2))
        return fit_maps(r, target, spec), fit_maps(r, shuffled, spec)

    def beside(
        self,
        rows: Sequence[Row],
        measures: Sequence[str],
        transform: Transform,
        points: Sequence[GridPoint],
        r: Sequence[Tensor],
        shuffled: FittedMaps | None,
    ) -> list[Row]:
        """Rows of the report images with their nulls, and calibrated.

        A score is (null − score) / (null − best): 0 where nothing is left of the image, 1 where nothing was lost. The
        null of the identity is another image; of a map the better of the other two. Where the interval of null − best
        holds 0 nothing can be told, and there is no such number.

        Args:
            rows: a row for every g and measure, in that order.
            measures: what they are of.
            transform: the family.
            points: its g.
            r: φ(gx) of the report images, by g; none where there are no maps of shuffled pairs.
            shuffled: the maps that were fitted on shuffled pairs.
        """
        each = [self._scores(transform, point, r[j] if r else None, shuffled, j) for j, point in enumerate(points)]
        kinds = [(j, measure, name) for j, measure in product(range(len(points)), measures) for name in each[j]]
        if not kinds:
            return list(rows)
        values = np.stack([self._per_image(each[j][name], measure) for j, measure, name in kinds])
        best = {measure: self._per_image(self.untouched(), measure) for measure in measures}
        gap = bootstrap(values - np.stack([best[measure] for _, measure, _ in kinds]))
        found: dict[tuple[int, str], dict[str, _Null]] = {}
        for k, (j, measure, name) in enumerate(kinds):
            apart = bool(gap.low[k] > 0 or gap.high[k] < 0)
            found.setdefault((j, measure), {})[name] = _Null(_mean(values[k]), float(gap.mean[k]), apart)
        return [
            _told(row, found.get((j, measure), {}))
            for row, (j, measure) in zip(rows, product(range(len(points)), measures), strict=True)
        ]

    def _scores(
        self, transform: Transform, point: GridPoint, r: Tensor | None, shuffled: FittedMaps | None, j: int
    ) -> dict[str, Scores]:
        """Scores of every image in each null, at one g."""
        found = {}
        if len(self.report.sample) > 1:
            found["null_image"] = self._once(self._key("image", point), self._image)
        if self.fit is not None:
            key = self._key("constant", point)
            found["null_constant"] = self._once(key, lambda: self._constant(transform, point))
        if shuffled is not None and r is not None and shuffled.status[j] == "ok":
            found["null_shuffled"] = self.scorer.scores(self.report, r, shuffled.module(j), transform, point)
        return found

    def _once(self, name: str, make: Callable[[], Scores]) -> Scores:
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    def _image(self) -> Scores:
        """Every image takes the place of another."""
        other = self.other_images
        reference = self.report.reference
        moved = reference[other.to(reference.device)].to(self.scorer.model.device)
        distance = self.scorer.distance(moved, self.report, slice(None)).numpy()
        return {**{name: values[other.numpy()] for name, values in self.untouched().items()}, "l2_distance": distance}

    def _constant(self, transform: Transform, point: GridPoint) -> Scores:
        """The mean of φ(x) over the fit images takes the place of every image."""
        assert self.fit is not None
        mean = moments.mean_of(self.fit.reference).float()
        return self.scorer.scores(
            self.report, mean.expand(len(self.report.sample), -1), nn.Identity(), transform, point
        )

    def _per_image(self, scores: Scores, measure: str) -> NDArray[np.float64]:
        return mean_of(scores, measure, self.report.labels, self.untouched())


@dataclass(frozen=True)
class _Null:
    """A null's score, what it is apart from the best score, and whether it is apart from it at all."""

    score: float
    gap: float
    apart: bool


def _told(row: Row, nulls: Mapping[str, _Null]) -> Row:
    """A row with its nulls, and calibrated."""
    columns: dict[str, Any] = {name: null.score for name, null in nulls.items()}
    measure = measure_named(row.metric)
    usual = ("null_image",) if row.map == "identity" else ("null_shuffled", "null_constant")
    there = [nulls[name] for name in usual if name in nulls and math.isfinite(nulls[name].score)]
    if measure.calibrated and there and row.status in WITH_SCORE:
        sign = 1 if measure.better == "lower" else -1
        null = min(there, key=lambda one: sign * one.score)
        if null.apart:
            columns["calibrated"] = (null.score - row.score) / null.gap
    return replace(row, **columns)


def _closed(spec: MapSpec) -> bool:
    """Whether a map has a closed form, so that shuffled pairs cost little and draw nothing."""
    return spec.solver in CLOSED


def _mean(values: NDArray[np.float64]) -> float:
    return math.nan if np.isnan(values).all() else float(np.nanmean(values))
