"""The unseen-class control of a measurement: what maps fitted without an image's class give back of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from torch import Tensor, nn

from invariance.engine.groups import Group
from invariance.engine.rows import about, rows_of
from invariance.engine.scoring import Scorer, Scores, Side
from invariance.maps import FittedMaps, Ridge
from invariance.maps.spec import MapSpec
from invariance.maps.unseen import FIT_CLASSES, Deal, deal_classes, fit_by_halves, ridge_by_halves
from invariance.runs.rows import Row
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
    """

    scorer: Scorer
    fit: Side
    report: Side
    deal: Deal
    fit_maps: Callable[[list[Tensor], Tensor, MapSpec], FittedMaps]

    @classmethod
    def of(
        cls, scorer: Scorer, sides: Sequence[Side], fit_maps: Callable[[list[Tensor], Tensor, MapSpec], FittedMaps]
    ) -> Self | None:
        """The control of a layer; None where classes are unknown, fewer than four, or too rare in the fit images."""
        fit, report = sides
        if fit.classes is None or report.classes is None or not len(report.classes) or report.labels.min() < 0:
            return None
        classes = 1 + int(max(fit.labels.max(), report.labels.max()))
        deal = deal_classes(fit.labels, classes)
        return None if deal is None else cls(scorer, fit, report, deal, fit_maps)

    def measure(
        self,
        group: Group,
        transform: Transform,
        points: Sequence[GridPoint],
        r: Sequence[Sequence[Tensor]],
        fitted: FittedMaps,
    ) -> tuple[list[Row], Scores]:
        """Rows of the report split, and the scores that they are means of.

        Rows: `half_error_rate`, the error of the argmax among the classes of an image's own half, without a map and
        through the map of all classes, of the same half and of the other; `error_rate` and `l2_distance` of the last
        two; and `fit_images_per_dimension`. Rows of maps fitted on fewer than two images a dimension are marked.

        Args:
            group: what is measured.
            transform: the family.
            points: the g.
            r: φ(gx) of the fit images and of the report images, by g.
            fitted: the maps of all classes.
        """
        dim = self.fit.reference.shape[1]
        ways: dict[str, list[Scores]] = {name: [] for name in ("none", "all", *FIT_CLASSES)}
        status: dict[str, list[str]] = {"none": ["ok"] * len(points), "all": list(fitted.status)}
        for way in FIT_CLASSES:
            status[way] = []
        for j, point in enumerate(points):
            of_fit, of_report = r[0][j], r[1][j]
            if self.scorer.answers:
                for way, module in (("none", nn.Identity()), ("all", fitted.module(j))):
                    ways[way].append(
                        self.scorer.half_errors(self.report, of_report, module, self.deal, transform, point)
                    )
            maps = self._maps(of_fit, group.map)
            bad = next((one for one in maps.status if one != "ok"), "ok")
            for way in FIT_CLASSES:
                unseen = way == "unseen"
                ways[way].append(
                    self.scorer.by_halves(self.report, of_report, maps, self.deal, transform, point, unseen=unseen)
                )
                status[way].append(bad)
        rows: list[Row] = []
        stored: Scores = {}
        split = self.report.sample.split
        for way, scores in ways.items():
            if not scores:
                continue
            images = len(self.fit.sample) if way == "all" else self.deal.per_half
            common = [about(self.scorer.model.name, group, transform, point, self.report) for point in points]
            told = {"fit_classes": way} if way != "none" else {"map": "identity", "solver": "", "fit_classes": ""}
            common = [{**one, **told} for one in common]
            made = rows_of(scores, list(scores[0]), self.report, common, status[way])
            if way != "none":
                made = [_marked(row, images / dim) for row in made]
                made += [_per_dimension(one, images, dim) for one in common]
            rows += made
            for name in scores[0]:
                stored[f"{split}/{way}/{name}"] = np.stack([one[name] for one in scores])
        return rows, stored

    def _maps(self, r: Tensor, spec: MapSpec) -> FittedMaps:
        """The six maps of one g."""
        target, device = self.fit.reference, self.scorer.model.device
        if isinstance(spec.settings, Ridge):
            return ridge_by_halves(r, target, self.deal, spec.settings, device)
        return fit_by_halves(r, target, self.deal, lambda one, other: self.fit_maps([one], other, spec))


def _marked(row: Row, per_dimension: float) -> Row:
    """A row of maps that too few images decided says so beside its number."""
    return replace(row, status="few_images") if row.status == "ok" and per_dimension < FEWEST else row


def _per_dimension(common: Mapping[str, Any], images: int, dim: int) -> Row:
    """n_fit/D of a map, as a row of its own."""
    return Row(**common, metric="fit_images_per_dimension", score=images / dim, n_images=images)
