"""Invariance and equivariance of a network (Sec. 5.2): the one loop that measures.

For every g of a grid: φ(gx) and φ(x) at the layers, maps fitted on (φ(gx), φ(x)) of the fit images, and what comes out
scored on every image. Layers and g are taken in groups that fit into a memory bound; what a group came to goes to a
recorder, which also knows the groups that need not be measured again.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn

from invariance.engine.control import Control
from invariance.engine.groups import Ended, Group, Measured
from invariance.engine.looks import grid_of
from invariance.engine.recorder import Recorder
from invariance.engine.rows import about, rows_of
from invariance.engine.scoring import MeasuredSplit, Scorer, Scores, mean_of
from invariance.engine.stream import Sample, batches, features
from invariance.errors import UserError
from invariance.maps import FittedMaps, require_room
from invariance.maps.spec import MapSpec
from invariance.measures.distance import rms
from invariance.models.cut import Cut, logits_of
from invariance.models.model import Model
from invariance.runs.rows import REPORT_SCALE, Row
from invariance.transforms.base import UNTOUCHED, GridPoint, Transform

_GPU_SHARE = 0.8
_PROBED = 32
"""Images on which it is tried what a layer is."""


class Family(Protocol):
    """Transformations under a name."""

    @property
    def name(self) -> str:
        """How rows name them."""

    @property
    def transform(self) -> Transform:
        """The transformations, with their grid."""


@dataclass(frozen=True)
class Effort:
    """How measuring goes about it; none of it changes a number.

    Attributes:
        batch: images a forward pass.
        memory: bound on features and maps, in bytes.
        progress: where to show how far it is; None shows nothing.
    """

    batch: int = 256
    memory: float = 4e9
    progress: Progress | None = None


def measure(
    model: Model,
    report: Sample,
    *,
    fit: Sample | None = None,
    families: Sequence[Family],
    layers: Sequence[str],
    maps: Sequence[MapSpec],
    measures: Sequence[str],
    keep: Recorder[Group, Measured],
    unseen: Sequence[str] = ("ridge",),
    effort: Effort | None = None,
) -> None:
    """Measure a network over grids of transformations, at layers, through maps.

    Args:
        model: the network.
        report: the images that scores are reported on.
        fit: the images that maps are fitted on, and that give the scale of L_L2; None: the scale is over the report
            images, which rows say by the status `report_scale`, and no map is fitted.
        families: the transformations.
        layers: names of layers, all taken from one forward pass.
        maps: the identity (invariance) and maps that undo g (equivariance).
        measures: error_rate (needs labels), l2_distance.
        keep: takes what every group came to.
        unseen: solvers whose maps have the unseen-class control too, where labels are known.
        effort: memory, batch and progress.

    Raises:
        UserError: for a map that needs fit images where there are none, a measure that needs labels where there are
            none, layers that cannot be measured, or maps that memory cannot hold.
    """
    for family in families:
        dims = check(model, report, fit=fit, family=family, layers=layers, maps=maps, measures=measures)
        samples = [report] if fit is None else [fit, report]
        _OfFamily(model, family, samples, maps, measures, keep, unseen, effort or Effort()).run(dims)


def check(
    model: Model,
    report: Sample,
    *,
    fit: Sample | None,
    family: Family,
    layers: Sequence[str],
    maps: Sequence[MapSpec],
    measures: Sequence[str],
) -> dict[str, int]:
    """Refuse what cannot be measured, before anything that takes long; arguments and errors as `measure`.

    Returns:
        D of every layer.
    """
    fitted = [one for one in maps if one.settings is not None]
    if fitted and fit is None:
        raise UserError(
            f"map={fitted[0].map} is fitted, and there are no fit images: give fit=…, apart from the report"
        )
    if "error_rate" in measures and report.labels is None:
        raise UserError("error_rate needs labels: give labels=…, or leave it out")
    untouched = next(point for point in grid_of(family.name, family.transform) if point.label == UNTOUCHED)
    few = Sample(report.split, report.pixels, report.indices[:_PROBED], None)
    cut = model.cut(layers)
    r = features(model, cut, few, family.transform, untouched.params)
    if "error_rate" in measures:
        classes = logits_of(cut)
        for sample in (report, *(() if fit is None else (fit,))):
            if sample.labels is not None and (most := int(sample.labels.max())) >= classes:
                raise UserError(f"labels: class {most} of a network with {classes} logits; they go from 0")
    dims = {layer: of_layer.shape[1] for layer, of_layer in r.items()}
    for spec in fitted:
        for dim in dims.values():
            if fit is not None and spec.settings is not None:
                require_room(spec.settings, dim, dim, len(fit), device=model.device)
    return dims


class _OfFamily:
    """The measuring of one grid."""

    def __init__(
        self,
        model: Model,
        family: Family,
        samples: Sequence[Sample],
        maps: Sequence[MapSpec],
        measures: Sequence[str],
        keep: Recorder[Group, Measured],
        unseen: Sequence[str],
        effort: Effort,
    ) -> None:
        self.model, self.family, self.samples, self.maps = model, family, samples, maps
        self.measures, self.keep, self.unseen, self.effort = measures, keep, unseen, effort
        self.points = family.transform.grid()
        self.untouched = next(point for point in self.points if point.label == UNTOUCHED)
        self.images = sum(map(len, samples))
        self.home, self.room = torch.device("cpu"), math.inf

    def run(self, dims: dict[str, int]) -> None:
        """Measure all layers, of D as given, as many together as fit into memory."""
        together = list(self._layers_together(dims))
        progress = self.effort.progress
        total = self.images * len(self.points) * len(together)
        self.task = None if progress is None else progress.add_task("φ", total=total)
        for names in together:
            self._run_layers({name: dims[name] for name in names})

    def _layers_together(self, dims: dict[str, int]) -> Iterator[list[str]]:
        """Layers whose features of one g fit into memory beside φ(x)."""
        names: list[str] = []
        for layer in dims:
            wanted = {name: dims[name] for name in [*names, layer]}
            if names and self._fitting(wanted, self.effort.memory) < 1:
                yield names
                names = []
            names.append(layer)
        yield names

    def _run_layers(self, dims: dict[str, int]) -> None:
        """Measure some layers over all g, in groups."""
        cut = self.model.cut(list(dims))
        self._settle(dims)
        held = [self._features(cut, sample, self.untouched) for sample in self.samples]
        of_layer = {layer: self._layer(cut, layer, [one[layer] for one in held]) for layer in dims}
        size = max(1, min(len(self.points), self._fitting(dims, min(self.effort.memory, self.room))))
        for number, start in enumerate(range(0, len(self.points), size)):
            points = self.points[start : start + size]
            self.keep.note(start, len(self.points))
            groups = [
                Group(self.family.name, layer, spec, tuple(point.label for point in points), number, size)
                for layer in dims
                for spec in self.maps
            ]
            missing = [group for group in groups if not self.keep.has(group)]
            if not missing:
                self._advance(sum(point.label != UNTOUCHED for point in points) * self.images)
                continue
            under = [
                [held[k] if point is self.untouched else self._features(cut, sample, point) for point in points]
                for k, sample in enumerate(self.samples)
            ]
            for group in missing:
                r = [[features_of[group.layer] for features_of in of_sample] for of_sample in under]
                self.keep.add(group, of_layer[group.layer].measure(group, points, r))
            del under

    def _layer(self, cut: Cut, layer: str, references: list[Tensor]) -> "_OfLayer":
        sides = [
            MeasuredSplit(sample, reference, _classes(sample))
            for sample, reference in zip(self.samples, references, strict=True)
        ]
        return _OfLayer(self, cut, layer, sides)

    def _settle(self, dims: dict[str, int]) -> None:
        """Keep all features on the GPU if it holds those of one g beside φ(x): nothing is copied again for any fit."""
        device = self.model.device
        self.home, self.room = torch.device("cpu"), math.inf
        room = _GPU_SHARE * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0.0
        if self._fitting(dims, room) >= 1:
            self.home, self.room = device, room

    def _fitting(self, dims: dict[str, int], memory: float) -> int:
        """How many g fit into so many bytes beside φ(x)."""
        of_g = 4 * sum(dims.values()) * self.images
        map_and_solver = (
            32 * max(dims.values()) ** 2
        )  # the hungriest: an mlp's two layers, their gradients and momentum
        return int((memory - of_g) // (of_g + map_and_solver))

    def _features(self, cut: Cut, sample: Sample, point: GridPoint) -> dict[str, Tensor]:
        return features(
            self.model,
            cut,
            sample,
            self.family.transform,
            point.params,
            batch=self.effort.batch,
            advance=self._advance,
            home=self.home,
        )

    def _advance(self, images: int) -> None:
        if self.effort.progress is not None and self.task is not None:
            self.effort.progress.advance(self.task, images)


class _OfLayer:
    """The measuring of one layer: its maps, and what they come to."""

    def __init__(self, of: _OfFamily, cut: Cut, layer: str, sides: list[MeasuredSplit]) -> None:
        self.of, self.sides = of, sides
        answers = "error_rate" in of.measures or cut.apart(layer)
        scale = rms(sides[0].reference)
        self.scorer = Scorer(of.model, cut, layer, scale, answers=answers, batch=of.effort.batch)
        self.bypass = self._bypass(cut, layer) if answers else math.nan
        self._references: dict[tuple[int, str], float] = {}
        self.control = Control.of(self.scorer, sides, self.fit_maps, of.measures) if len(sides) == 2 else None

    def measure(self, group: Group, points: list[GridPoint], r: list[list[Tensor]]) -> Measured:
        """Fit the maps of a group and score every image through them.

        Args:
            group: what is measured.
            points: its g.
            r: φ(gx) by side and g.
        """
        fitted = self._fit(group.map, group.g, r[0])
        transform, measures = self.of.family.transform, self.of.measures
        modules = [nn.Identity() if fitted is None else fitted.module(j) for j in range(len(points))]
        status = ["ok"] * len(points) if fitted is None else list(fitted.status)
        rows: list[Row] = []
        stored: Scores = {}
        for k, (side, of_side) in enumerate(zip(self.sides, r, strict=True)):
            scores = [
                self.scorer.scores(side, of_g, module, transform, point)
                for of_g, module, point in zip(of_side, modules, points, strict=True)
            ]
            common = [
                {**about(self.of.model.name, group, transform, point, side), **self._beside(k, point)}
                for point in points
            ]
            rows += rows_of(scores, measures, side, common, status)
            for name in scores[0]:
                stored[f"{side.sample.split}/{name}"] = np.stack([one[name] for one in scores])
        if len(self.sides) == 1:
            rows = [_of_report_scale(row) for row in rows]
        if self.control is not None:
            more, theirs = self.control.measure(group, transform, points, r, fitted, group.map.solver in self.of.unseen)
            rows, stored = rows + more, {**stored, **theirs}
        return Measured(rows, [] if fitted is None else _ended(points, fitted), stored)

    def _beside(self, k: int, point: GridPoint) -> dict[str, float]:
        """What rows carry of C: how much goes past the layer, and the score with φ(x) in the place of φ(gx)."""
        if not self.scorer.answers or "error_rate" not in self.of.measures:
            return {}
        side, key = self.sides[k], (k, UNTOUCHED if self.scorer.apart else point.label)
        if key not in self._references:
            scores = self.scorer.scores(side, side.reference, nn.Identity(), self.of.family.transform, point)
            errors = mean_of(scores, "error_rate", side.labels)
            self._references[key] = float(np.nanmean(errors)) if np.isfinite(errors).any() else math.nan
        return {"bypass": self.bypass, "reference": self._references[key]}

    def _bypass(self, cut: Cut, layer: str) -> float:
        """How much of the logits goes past the layer, on some of the report images; NaN where they tell nothing."""
        sample, family = self.sides[-1].sample, self.of.family
        _, x = next(iter(batches(sample.pixels, sample.indices[:_PROBED], _PROBED, self.of.model.device)))
        try:
            return cut.bypass(layer, self.of.model.prepare(family.transform.apply(x, self.of.untouched.params)))
        except UserError:  # one image, or the same logits for all: rows say so themselves
            return math.nan

    def _fit(self, spec: MapSpec, labels: Sequence[str], r: list[Tensor]) -> FittedMaps | None:
        """The maps of a group, fitted together; None for the identity."""
        if spec.learned is not None:
            return spec.learned.maps(labels)
        if spec.settings is None:
            return None
        return self.fit_maps(r, self.sides[0].reference, spec)

    def fit_maps(self, r: list[Tensor], target: Tensor, spec: MapSpec) -> FittedMaps:
        """Maps of features r to one target."""
        from invariance.engine.fit import fit_maps  # Lightning, which a finished measurement need not wait for

        progress = self.of.effort.progress
        return fit_maps(
            r,
            target,
            spec.map,
            spec.settings,
            device=self.of.model.device,
            progress=False if progress is None else progress,
        )


def _of_report_scale(row: Row) -> Row:
    """A row of L_L2 says that its scale is over the images it reports on."""
    return replace(row, status=REPORT_SCALE) if row.metric == "l2_distance" and row.status == "ok" else row


def _classes(sample: Sample) -> Tensor | None:
    """The classes that a split has."""
    if sample.labels is None:
        return None
    classes: Tensor = torch.unique(sample.labels[sample.labels >= 0])
    return classes


def _ended(points: Sequence[GridPoint], fitted: FittedMaps) -> list[Ended]:
    """How the fits of a group ended."""
    strengths = list(fitted.strength) or [math.nan] * len(points)
    return [
        Ended(point.label, fitted.status[j], float(fitted.error[j]), float(fitted.reference[j]), strengths[j])
        for j, point in enumerate(points)
    ]
