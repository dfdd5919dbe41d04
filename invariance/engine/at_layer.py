"""Measuring at one layer: its maps, and what they come to."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import numpy as np
from rich.progress import Progress
from torch import Tensor, nn

from invariance.engine.alike import Alike
from invariance.engine.control import Control
from invariance.engine.groups import Ended, Group, Measured
from invariance.engine.nulls import Nulls
from invariance.engine.replaced import Replaced, no_classes, probed
from invariance.engine.rows import about, rows_of
from invariance.engine.scoring import MeasuredSplit, Scorer, Scores
from invariance.maps import FittedMaps, never_negative
from invariance.maps.spec import MapSpec
from invariance.measures import FROM_LOGITS, INDEX_NAMES
from invariance.measures.distance import rms, scale_of_layer
from invariance.models.cut import Cut
from invariance.models.model import Model
from invariance.runs.rows import REPORT_SCALE, Row
from invariance.transforms.base import GridPoint, Transform


@dataclass(frozen=True)
class Effort:
    """How measuring goes about it; none of it changes a number.

    Attributes:
        batch: images a forward pass at most.
        memory: bound on features and maps, in bytes.
        progress: where to show how far it is; None shows nothing.
    """

    batch: int = 256
    memory: float = 4e9
    progress: Progress | None = None


@dataclass(frozen=True)
class More:
    """What is measured beside the scores of maps.

    Attributes:
        nulls: whether rows have nulls, and are calibrated: about twice the fits and the scores.
        shuffled: solvers whose maps are fitted on shuffled pairs, too, beside those in closed form.
        intervals: whether CKA, Procrustes and R² have intervals, at about ten times their cost.
    """

    nulls: bool = False
    shuffled: Sequence[str] = ()
    intervals: bool = False


@dataclass(frozen=True)
class How:
    """How one grid is measured.

    Attributes:
        transform: the family.
        untouched: its g that changes nothing.
        measures: what is measured under each g.
        unseen: solvers whose maps have the unseen-class control too.
        more: nulls and intervals.
        effort: memory, batch and progress.
    """

    transform: Transform
    untouched: GridPoint
    measures: Sequence[str]
    unseen: Sequence[str]
    more: More
    effort: Effort


def answering(cut: Cut, layer: str, measures: Sequence[str]) -> list[str]:
    """The measures that there can be at a layer: without a way back into it there is none of what C answers."""
    lifts = cut.reading(layer).readout.lifts
    return [measure for measure in measures if lifts or measure not in FROM_LOGITS]


def asks_back(cut: Cut, layer: str, measures: Sequence[str]) -> bool:
    """Whether C behind a layer is asked for something."""
    return cut.reading(layer).readout.lifts and bool(set(measures) & set(FROM_LOGITS))


@dataclass(frozen=True)
class Size:
    """What φ(x) of the first split is like: of the fit images, or where there are none of the report images.

    Attributes:
        rms: (D,) root mean square of every dimension, float64.
        relu: whether no number is below 0, so that σ of maps to φ(x) is the ReLU.
    """

    rms: Tensor
    relu: bool

    @classmethod
    def of(cls, r: Tensor) -> Self:
        """That of a representation (N, D)."""
        return cls(rms(r), never_negative(r))


class AtLayer:
    """The measuring of one layer.

    Args:
        model: the network.
        cut: it, cut at the layer.
        layer: its name.
        sides: the fit images, if there are any, and the report images, with φ(x) where it is held.
        how: what is measured, and how.
        size: of φ(x).
        bypass: how much of the logits goes past the layer; None: nothing that is measured asks for it.
        free: whether what C answers is wanted where it costs next to nothing, though no measure asks for it.
        room: bytes for what the layer gives, as `Scorer` has them.
    """

    def __init__(
        self,
        model: Model,
        cut: Cut,
        layer: str,
        sides: list[MeasuredSplit],
        how: How,
        size: Size,
        bypass: float | None,
        free: bool = True,
        room: float = 0.0,
    ) -> None:
        self.model, self.sides, self.how = model, sides, how
        self.measures, transform = answering(cut, layer, how.measures), how.transform
        reading = cut.reading(layer)
        # a network trained here is measured as in the paper
        scale = size.rms if model.ours else scale_of_layer(size.rms, reading.channel_of)
        answers = asks_back(cut, layer, how.measures)
        if free and reading.readout.lifts and not answers and cut.apart(layer) and not cut.seen(layer):
            answers = not no_classes(cut, probed(model, sides[-1].sample, transform, how.untouched))
        past = math.nan if bypass is None else bypass
        more: dict[str, Any] = {"answers": answers, "batch": how.effort.batch, "bypass": past, "room": room}
        self.scorer = Scorer(model, cut, layer, scale, **more)
        self.replaced = Replaced(self.scorer, sides, transform, how.untouched, self.measures, past)
        self.alike = Alike(sides[-1], self.measures, intervals=how.more.intervals)
        self.relu = size.relu
        self.control = Control.of(self.scorer, sides, self.fit_maps, self.measures) if len(sides) == 2 else None
        self.nulls: Nulls | None = None
        if how.more.nulls:
            fit, untouched = sides[0] if len(sides) == 2 else None, partial(self.replaced.untouched, len(sides) - 1)
            self.nulls = Nulls(self.scorer, fit, sides[-1], untouched, how.more.shuffled)

    def measure(self, group: Group, points: list[GridPoint], r: list[list[Tensor]]) -> Measured:
        """Fit the maps of a group and score every image through them.

        Args:
            group: what is measured.
            points: its g.
            r: φ(gx) by side and g.
        """
        fitted, shuffled = self._fit(group.map, group.g, r[0])
        transform = self.how.transform
        modules = [nn.Identity() if fitted is None else fitted.module(j) for j in range(len(points))]
        status = ["ok"] * len(points) if fitted is None else list(fitted.status)
        rows: list[Row] = []
        stored: Scores = {}
        for k, (side, of_side) in enumerate(zip(self.sides, r, strict=True)):
            if not (measures := self._reported(k, group.map)):
                continue
            scores = [
                self.scorer.scores(side, of_g, module, transform, point, answers=self._answers(k))
                for of_g, module, point in zip(of_side, modules, points, strict=True)
            ]
            common = self._common(group, points, side)
            rows += self._rows(k, measures, scores, common, status, points, of_side, shuffled)
            if group.map.map == "identity" and k == len(self.sides) - 1:
                rows += self.alike.rows(of_side, common)
            stored |= _stored(side, scores)
        if len(self.sides) == 1:
            rows = [_of_report_scale(row) for row in rows]
        if self.control is not None:
            unseen = group.map.solver in self.how.unseen
            more, theirs = self.control.measure(group, transform, points, r, fitted, unseen)
            rows, stored = rows + more, {**stored, **theirs}
        return Measured(rows, [] if fitted is None else _ended(points, fitted), stored)

    def told(
        self,
        group: Group,
        points: list[GridPoint],
        scores: Mapping[int, Sequence[Scores]],
        whole: Callable[[Alike, Sequence[GridPoint], Sequence[Mapping[str, Any]]], list[Row]] | None,
        halves: Sequence[Scores],
    ) -> Measured:
        """What a group of the identity came to, of scores that are there already.

        Args:
            group: what was measured.
            points: its g.
            scores: of every image, by the place of its side, and by g.
            whole: gives the rows of φ(gx) and φ(x) of the report images compared as a whole; None: they are not.
            halves: of every report image by g, for the unseen-class control, where there is one.
        """
        rows: list[Row] = []
        stored: Scores = {}
        for k, of_side in scores.items():
            side, measures = self.sides[k], self._reported(k, group.map)
            common = self._common(group, points, side)
            rows += self._rows(k, measures, of_side, common, ["ok"] * len(points), points, [], None)
            stored |= _stored(side, of_side)
        if whole is not None:
            rows += whole(self.alike, points, self._common(group, points, self.sides[-1]))
        if len(self.sides) == 1:
            rows = [_of_report_scale(row) for row in rows]
        if self.control is not None and halves:
            more, theirs = self.control.without_map(group, self.how.transform, points, halves)
            rows, stored = rows + more, {**stored, **theirs}
        return Measured(rows, [], stored)

    def _answers(self, k: int) -> bool:
        """Whether what C says is of a split: of the fit images only of networks trained here, as in the paper."""
        return self.model.ours or k == len(self.sides) - 1

    def _reported(self, k: int, spec: MapSpec) -> list[str]:
        """What a split has rows of: the fit images of a network not trained here how near maps came, and no more."""
        if self._answers(k):
            return self.measures
        return [name for name in self.measures if name == "l2_distance" and spec.name != "identity"]

    def _common(self, group: Group, points: Sequence[GridPoint], side: MeasuredSplit) -> list[dict[str, Any]]:
        """What the rows of every g over one split say alike."""
        return [about(self.model.name, group, self.how.transform, point, side) for point in points]

    def _rows(
        self,
        k: int,
        measures: Sequence[str],
        scores: Sequence[Scores],
        common: Sequence[dict[str, Any]],
        status: Sequence[str],
        points: Sequence[GridPoint],
        r: Sequence[Tensor],
        shuffled: FittedMaps | None,
    ) -> list[Row]:
        """The rows of a side, one for every g and measure of images, with all that stands beside a score."""
        measures = [name for name in measures if name not in INDEX_NAMES]
        untouched = self.replaced.untouched(k) if set(measures) & set(FROM_LOGITS) - {"error_rate"} else None
        rows = rows_of(scores, measures, self.sides[k], common, status, untouched=untouched)
        at = [point for point in points for _ in measures]
        if self._answers(k):
            beside = self.replaced.beside
            rows = [replace(row, **beside(k, point, row.metric)) for row, point in zip(rows, at, strict=True)]
        if self.nulls is None or k < len(self.sides) - 1:
            return rows
        return self.nulls.beside(rows, measures, self.how.transform, points, r, shuffled)

    def _fit(
        self, spec: MapSpec, labels: Sequence[str], r: list[Tensor]
    ) -> tuple[FittedMaps | None, FittedMaps | None]:
        """The maps of a group, fitted together (None for the identity), and those of shuffled pairs."""
        if spec.learned is not None:
            return spec.learned.maps(labels), None
        if spec.settings is None:
            return None, None
        if self.nulls is not None:
            return self.nulls.fitted(spec, r, self.fit_maps)
        return self.fit_maps(r, self.sides[0].reference, spec), None

    def fit_maps(self, r: list[Tensor], target: Tensor | Sequence[Tensor], spec: MapSpec) -> FittedMaps:
        """Maps of features r to one target, or to each of several."""
        from invariance.engine.fit import fit_maps  # Lightning, which a finished measurement need not wait for

        progress = self.how.effort.progress
        return fit_maps(
            r,
            target,
            spec.map,
            spec.settings,
            relu=[self.relu] * (1 if isinstance(target, Tensor) else len(target)),
            device=self.model.device,
            progress=False if progress is None else progress,
        )


def _stored(side: MeasuredSplit, scores: Sequence[Scores]) -> Scores:
    """Scores of every image of one split, (g, n), under the names that are stored."""
    return {f"{side.sample.split}/{name}": np.stack([one[name] for one in scores]) for name in scores[0]}


def _of_report_scale(row: Row) -> Row:
    """A row of L_L2 says that its scale is over the images it reports on."""
    return replace(row, status=REPORT_SCALE) if row.metric == "l2_distance" and row.status == "ok" else row


def _ended(points: Sequence[GridPoint], fitted: FittedMaps) -> list[Ended]:
    """How the fits of a group ended."""
    strengths, relu = list(fitted.strength) or [math.nan] * len(points), list(fitted.relu) or [True] * len(points)
    errors = zip(fitted.error.tolist(), fitted.reference.tolist(), strict=True)
    return [
        Ended(point.label, fitted.status[j], *both, strengths[j], relu[j])
        for j, (point, both) in enumerate(zip(points, errors, strict=True))
    ]
