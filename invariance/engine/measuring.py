"""Invariance and equivariance of a network (Sec. 5.2): the one loop that measures.

For every g of a grid: φ(gx) and φ(x) at the layers, maps fitted on (φ(gx), φ(x)) of the fit images, and what comes out
scored on every image. Layers and g are taken in groups that fit into a memory bound; what a group came to goes to a
recorder, which also knows the groups that need not be measured again.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor

from invariance.device import gpu_room
from invariance.engine.alike import check_room
from invariance.engine.at_layer import AtLayer, Effort, How, More, Size, answering, asks_back
from invariance.engine.derivative import DERIVATIVE, Derivatives
from invariance.engine.groups import Group, Measured
from invariance.engine.looks import grid_of
from invariance.engine.recorder import Recorder
from invariance.engine.replaced import bypasses_of
from invariance.engine.scoring import MeasuredSplit
from invariance.engine.spatial import Spatial
from invariance.engine.stream import Sample, batches, features
from invariance.engine.streamed import Streamed
from invariance.errors import UserError
from invariance.maps import require_room
from invariance.maps.spec import CLOSED, MapSpec, parted
from invariance.measures import FROM_LOGITS, INDEX_NAMES
from invariance.models.cut import Cut
from invariance.models.model import Model
from invariance.models.probe import PROBED
from invariance.transforms.base import UNTOUCHED, GridPoint, Transform

__all__ = ["Effort", "Family", "More", "check", "measure"]

_NO_WAY_BACK = "its readout cannot be put back, so that nothing comes behind it"

_GPU_SHARE = 0.8


class Family(Protocol):
    """Transformations under a name."""

    @property
    def name(self) -> str:
        """How rows name them."""

    @property
    def transform(self) -> Transform:
        """The transformations, with their grid."""


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
    unseen: Sequence[str] = CLOSED,
    readouts: Mapping[str, str] | None = None,
    more: More | None = None,
    effort: Effort | None = None,
    cut: Cut | None = None,
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
        measures: error_rate (needs labels), l2_distance, agreement, effective_invariance; derivative (of the report
            images alone); and those between φ(gx) and φ(x) as a whole, which have rows of the identity alone: cka,
            procrustes, r2.
        keep: takes what every group came to.
        unseen: solvers whose maps have the unseen-class control too, where labels are known.
        readouts: how activations become φ, by layer, as `choose_readouts` names them; else flatten.
        more: nulls and intervals, which cost; None: none of them.
        effort: memory, batch and progress.
        cut: the network cut at these layers by these readouts, where it was looked at already.

    Raises:
        UserError: for a map that needs fit images where there are none, a measure that needs labels where there are
            none, layers that cannot be measured, maps that memory cannot hold, or derivatives that no family or not the
            network has.
    """
    effort = effort or Effort()
    of_grids = [one for one in measures if one != DERIVATIVE]
    derivatives = None
    if DERIVATIVE in measures:
        derivatives = _derivatives(model, report, fit, families, layers, readouts, effort)
    maps, on_positions = parted(maps)
    spatial = _spatial(model, report, fit, families, layers, on_positions, of_grids, effort) if on_positions else None
    for family in families if of_grids and maps else ():
        asked: dict[str, Any] = {"layers": layers, "maps": maps, "measures": of_grids, "readouts": readouts}
        cut = check(model, report, fit=fit, family=family, cut=cut, **asked)
        samples = [report] if fit is None else [fit, report]
        untouched = next(point for point in family.transform.grid() if point.label == UNTOUCHED)
        how = How(family.transform, untouched, of_grids, unseen, more or More(), effort)
        _OfFamily(model, family, samples, maps, keep, readouts or {}, how).run(cut)
    for other in (derivatives, spatial):
        if other is not None:
            other.measure(keep)


def _derivatives(
    model: Model,
    report: Sample,
    fit: Sample | None,
    families: Sequence[Family],
    layers: Sequence[str],
    readouts: Mapping[str, str] | None,
    effort: Effort,
) -> Derivatives:
    """The derivatives, tried on a few images before anything takes long."""
    return Derivatives(
        model,
        report,
        fit=fit,
        families={family.name: family.transform for family in families},
        layers=layers,
        readouts=readouts,
        batch=effort.batch,
        memory=effort.memory,
        progress=effort.progress,
    )


def _spatial(
    model: Model,
    report: Sample,
    fit: Sample | None,
    families: Sequence[Family],
    layers: Sequence[str],
    maps: Sequence[MapSpec],
    measures: Sequence[str],
    effort: Effort,
) -> Spatial:
    """The maps on positions, looked at before anything takes long."""
    return Spatial(
        model,
        report,
        fit=fit,
        families={family.name: family.transform for family in families},
        layers=layers,
        maps=maps,
        measures=measures,
        batch=effort.batch,
        memory=effort.memory,
        progress=effort.progress,
    )


def check(
    model: Model,
    report: Sample,
    *,
    fit: Sample | None,
    family: Family,
    layers: Sequence[str],
    maps: Sequence[MapSpec],
    measures: Sequence[str],
    readouts: Mapping[str, str] | None = None,
    cut: Cut | None = None,
) -> Cut:
    """Refuse what cannot be measured, before anything that takes long; arguments and errors as `measure`.

    Returns:
        The network cut at the layers and looked at: of every layer it knows D.
    """
    fitted = [one for one in parted(maps)[0] if one.settings is not None]
    if fitted and fit is None:
        raise UserError(
            f"map={fitted[0].map} is fitted, and there are no fit images: give fit=…, apart from the report"
        )
    if "error_rate" in measures and report.labels is None:
        raise UserError("error_rate needs labels: give labels=…, or leave it out")
    untouched = next(point for point in grid_of(family.name, family.transform) if point.label == UNTOUCHED)
    few = Sample(report.split, report.pixels, report.indices[:PROBED], None)
    cut = model.cut(layers, readouts) if cut is None else cut
    _, x = next(iter(batches(few.pixels, few.indices, PROBED, model.device)))
    cut.look(model.prepare(family.transform.apply(x, untouched.params)))
    for layer in layers:
        if not answering(cut, layer, measures):
            raise UserError(f"measures={list(measures)} at layer={layer!r}: {_NO_WAY_BACK}; add l2_distance")
    if not model.ours and set(measures) & set(FROM_LOGITS):
        cut.require_logits()
    if "error_rate" in measures:
        classes = cut.answers
        for sample in (report, *(() if fit is None else (fit,))):
            if sample.labels is not None and (most := int(sample.labels.max())) >= classes:
                raise UserError(f"labels: class {most} of a network with {classes} logits; they go from 0")
    dims = {layer: cut.reading(layer).dim for layer in cut.layers}
    for layer in dims if set(measures) & set(INDEX_NAMES) else ():
        check_room(layer, dims[layer], len(report))
    for spec in fitted:
        for dim in dims.values():
            if fit is not None and spec.settings is not None:
                require_room(spec.settings, dim, dim, len(fit), kind=spec.map, device=model.device)
    return cut


class _OfFamily:
    """The measuring of one grid."""

    def __init__(
        self,
        model: Model,
        family: Family,
        samples: Sequence[Sample],
        maps: Sequence[MapSpec],
        keep: Recorder[Group, Measured],
        readouts: Mapping[str, str],
        how: How,
    ) -> None:
        self.model, self.family, self.samples, self.maps = model, family, samples, maps
        self.keep, self.readouts, self.how, self.effort = keep, readouts, how, how.effort
        self.points = family.transform.grid()
        self.untouched = next(point for point in self.points if point.label == UNTOUCHED)
        self.images = sum(map(len, samples))
        self.home, self.room = torch.device("cpu"), math.inf

    def run(self, cut: Cut) -> None:
        """Measure all layers of a cut that was looked at, as many together as fit into memory."""
        dims = {layer: cut.reading(layer).dim for layer in cut.layers}
        streamed = [spec.map for spec in self.maps] == ["identity"]
        together = [list(dims)] if streamed else list(self._layers_together(dims))
        progress = self.effort.progress
        images = len(self.samples[-1]) if streamed and not self.model.ours else self.images
        total = images * len(self.points) * len(together)
        self.task = None if progress is None else progress.add_task("φ", total=total)
        if streamed:
            name, spec = self.family.name, self.maps[0]
            Streamed(self.model, name, self.samples, spec, self.keep, self.how, cut, self._advance).run()
            return
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
        readouts = {layer: self.readouts[layer] for layer in dims if layer in self.readouts}
        cut = self.model.cut(list(dims), readouts)
        self._settle(dims)
        held = [self._features(cut, sample, self.untouched) for sample in self.samples]
        asking = [layer for layer in dims if asks_back(cut, layer, self.how.measures)]
        past = bypasses_of(self.model, cut, asking, self.samples[-1], self.how.transform, self.untouched)
        size = max(1, min(len(self.points), self._fitting(dims, min(self.effort.memory, self.room))))
        room = self._left(dims, size)
        of_layer = {
            layer: self._layer(cut, layer, [one[layer] for one in held], past.get(layer), room) for layer in dims
        }
        for number, start in enumerate(range(0, len(self.points), size)):
            points = self.points[start : start + size]
            self.keep.note(start, len(self.points))
            groups = [
                Group(
                    self.family.name,
                    layer,
                    spec,
                    tuple(point.label for point in points),
                    number,
                    size,
                    cut.reading(layer).readout.name,
                )
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
            for layer, of_one in groupby(missing, lambda group: group.layer):
                r = [[features_of[layer] for features_of in of_sample] for of_sample in under]
                for group in of_one:
                    self.keep.add(group, of_layer[layer].measure(group, points, r))
                of_layer[layer].scorer.release()
            del under

    def _layer(self, cut: Cut, layer: str, references: list[Tensor], past: float | None, room: float) -> AtLayer:
        sides = [MeasuredSplit.of(*both) for both in zip(self.samples, references, strict=True)]
        return AtLayer(self.model, cut, layer, sides, self.how, Size.of(references[0]), past, room=room)

    def _left(self, dims: dict[str, int], size: int) -> float:
        """Bytes that so many g and their maps leave of the memory, for what layers give."""
        of_g = 4 * sum(dims.values()) * self.images
        left = self.effort.memory - of_g - size * (of_g + self._of_maps(dims))
        if self.model.device.type != "cuda":
            return left
        free = gpu_room(self.model.device) - size * (of_g if self.home.type == "cuda" else 0)
        return min(left, 0.5 * free)

    def _settle(self, dims: dict[str, int]) -> None:
        """Keep all features on the GPU if it holds those of one g beside φ(x): nothing is copied again for any fit."""
        device = self.model.device
        self.home, self.room = torch.device("cpu"), math.inf
        room = _GPU_SHARE * gpu_room(device) if device.type == "cuda" else 0.0
        if self._fitting(dims, room) >= 1:
            self.home, self.room = device, room

    def _fitting(self, dims: dict[str, int], memory: float) -> int:
        """How many g fit into so many bytes beside φ(x)."""
        of_g = 4 * sum(dims.values()) * self.images
        return int((memory - of_g) // (of_g + self._of_maps(dims)))

    def _of_maps(self, dims: dict[str, int]) -> int:
        """Bytes of a map and its solver at the largest layer, for one g."""
        fitted = any(spec.settings or spec.learned for spec in self.maps)
        # the hungriest: an mlp's two layers, their gradients and momentum; twice with the map of shuffled pairs
        return 32 * max(dims.values()) ** 2 * (2 if self.how.more.nulls else 1) if fitted else 0

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
