"""The unseen-class control of a measurement: what maps fitted without an image's class give back of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from torch import Tensor, nn

from invariance.engine.groups import Group
from invariance.engine.rows import about, rows_of
from invariance.engine.scoring import MeasuredSplit, Scorer, Scores
from invariance.maps import FittedMaps
from invariance.maps.spec import MapSpec
from invariance.maps.unseen import FIT_CLASSES, Deal, closed_by_halves, deal_classes, fit_by_halves, in_closed_form
from invariance.runs.rows import FEW_IMAGES, Row
from invariance.transforms.base import GridPoint, Transform

FEWEST = 2.0
"""Fit images a dimension below which the residual's start at the identity, and not g, decides much."""


@dataclass(frozen=True)
class Control:
    """The control at one layer.

    Attributes:
        scorer: scores images at the layer.
        fit: the fit images.
        report: the report images.
        deal: how their classes are dealt.
        fit_maps: fits maps of features to one target.
        measures: what rows are wanted of.
    """

    scorer: Scorer
    fit: MeasuredSplit
    report: MeasuredSplit
    deal: Deal
    fit_maps: Callable[[list[Tensor], Tensor, MapSpec], FittedMaps]
    measures: Sequence[str]

    @classmethod
    def of(
        cls,
        scorer: Scorer,
        sides: Sequence[MeasuredSplit],
        fit_maps: Callable[[list[Tensor], Tensor, MapSpec], FittedMaps],
        measures: Sequence[str],
    ) -> Self | None:
        """The control of a layer; None where classes are unknown, fewer than four, or too rare in the fit images."""
        fit, report = sides
        if fit.classes is None or report.classes is None or not len(report.classes) or report.labels.min() < 0:
            return None
        classes = 1 + int(max(fit.labels.max(), report.labels.max()))
        deal = deal_classes(fit.labels, classes)
        return None if deal is None else cls(scorer, fit, report, deal, fit_maps, measures)

    def measure(
        self,
        group: Group,
        transform: Transform,
        points: Sequence[GridPoint],
        r: Sequence[Sequence[Tensor]],
        fitted: FittedMaps | None,
        unseen: bool,
    ) -> tuple[list[Row], Scores]:
        """Rows of the report split, and the scores that they are means of.

        Without a map, and through the map of all classes: `half_error_rate`, the error of the argmax among the classes
        of an image's own half, mean over the deals. Through the maps of the same half and of the other: that, and
        `error_rate` and `l2_distance`; errors only where they are measured. Beside each `fit_images_per_dimension`;
        below two, rows are marked.

        Args:
            group: what is measured.
            transform: the family.
            points: the g.
            r: φ(gx) of the fit images and of the report images, by g.
            fitted: the maps of all classes; None for the identity.
            unseen: whether maps are fitted to halves of the classes.
        """
        if fitted is not None and not unseen:
            return [], {}
        rows: list[Row] = []
        stored: Scores = {}
        if self.of_errors:
            modules = [nn.Identity() if fitted is None else fitted.module(j) for j in range(len(points))]
            scores = [
                self.scorer.half_errors(self.report, of_g, module, self.deal, transform, point)
                for of_g, module, point in zip(r[1], modules, points, strict=True)
            ]
            status = ["ok"] * len(points) if fitted is None else list(fitted.status)
            way, images = ("", 0) if fitted is None else ("all", len(self.fit.sample))
            self._tell(way, images, status, scores, (group, transform, points), rows, stored)
        if fitted is not None:
            maps = [self._maps(of_g, group.map) for of_g in r[0]]
            status = [next((one for one in of_g.status if one != "ok"), "ok") for of_g in maps]
            for way in FIT_CLASSES:
                scores = [
                    self.scorer.by_halves(
                        self.report,
                        of_g,
                        of_halves,
                        self.deal,
                        transform,
                        point,
                        unseen=way == "unseen",
                        answers=self.of_errors,
                    )
                    for of_g, of_halves, point in zip(r[1], maps, points, strict=True)
                ]
                self._tell(way, self.deal.per_half, status, scores, (group, transform, points), rows, stored)
        return rows, stored

    @property
    def of_errors(self) -> bool:
        """Whether errors among half of the classes are wanted, without a map and through that of all classes."""
        return "error_rate" in self.measures

    def without_map(
        self, group: Group, transform: Transform, points: Sequence[GridPoint], scores: Sequence[Scores]
    ) -> tuple[list[Row], Scores]:
        """Rows of the report split without a map, and what they are means of, as `measure`.

        Args:
            group: what was measured.
            transform: the family.
            points: the g.
            scores: `half_error_rate` of every image, by g.
        """
        rows: list[Row] = []
        stored: Scores = {}
        self._tell("", 0, ["ok"] * len(points), scores, (group, transform, points), rows, stored)
        return rows, stored

    def _tell(
        self,
        way: str,
        images: int,
        status: Sequence[str],
        scores: Sequence[Scores],
        what: tuple[Group, Transform, Sequence[GridPoint]],
        rows: list[Row],
        stored: Scores,
    ) -> None:
        """Add the rows of one way of fitting, and what they are means of."""
        group, transform, points = what
        name = self.scorer.model.name
        common = [{**about(name, group, transform, point, self.report), "fit_classes": way} for point in points]
        wanted = [name for name in scores[0] if name in (*self.measures, "half_error_rate")]
        made = rows_of(scores, wanted, self.report, common, status, pooled=True)
        if images:
            dim = self.fit.reference.shape[1]
            made = [_marked(row, images / dim) for row in made]
            made += [_per_dimension(one, images, dim) for one in common]
        rows += made
        for measure in scores[0] if made else ():
            stored[f"{self.report.sample.split}/{way or 'none'}/{measure}"] = np.stack([one[measure] for one in scores])

    def _maps(self, r: Tensor, spec: MapSpec) -> FittedMaps:
        """The six maps of one g."""
        target, device = self.fit.reference, self.scorer.model.device
        if (settings := in_closed_form(spec.map, spec.settings)) is not None:
            return closed_by_halves(r, target, self.deal, settings, spec.map, device)
        return fit_by_halves(r, target, self.deal, lambda one, other: self.fit_maps([one], other, spec))


def _marked(row: Row, per_dimension: float) -> Row:
    """A row of maps that too few images decided says so beside its number."""
    return replace(row, status=FEW_IMAGES) if row.status == "ok" and per_dimension < FEWEST else row


def _per_dimension(common: Mapping[str, Any], images: int, dim: int) -> Row:
    """n_fit/D of a map, as a row of its own."""
    return Row(**common, metric="fit_images_per_dimension", score=images / dim, n_images=images)
