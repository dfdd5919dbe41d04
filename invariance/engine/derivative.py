"""How fast representations change as g sets in: derivatives at t = 0 of every family that has one.

One pass over the images gives the scale of every layer, and one pass of forward-mode differentiation a family gives the
derivatives at all layers; no features are kept. Of one family alone, where the reported images are the scale, its pass
gives both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from invariance.engine.groups import Group, Measured
from invariance.engine.recorder import Recorder
from invariance.engine.rows import about, rows_of
from invariance.engine.scoring import MeasuredSplit, Scores
from invariance.engine.stream import Sample, batches
from invariance.errors import UserError
from invariance.maps.spec import MapSpec
from invariance.measures.derivative import Rates, derivative_per_image
from invariance.measures.distance import scale_of_layer, squares
from invariance.models.derivative import INPUT, derivatives, features, require_derivative
from invariance.models.model import Model
from invariance.models.readout import Flatten
from invariance.runs.rows import REPORT_SCALE
from invariance.transforms.base import GridPoint, Transform

DERIVATIVE = "derivative"
"""The measure, and in rows the label of the g that does nothing yet."""

_TRIED = 2
"""Images on which it is tried whether a network can be differentiated."""

_HELD = 6
"""Copies of the features of a batch in memory: they and their derivatives, and what is made of both."""


class Derivatives:
    """The derivatives of a network's layers along families of transformations, over the reported images.

    Families without a derivative are left out, which is printed in a line.

    Args:
        model: the network.
        report: the images that are reported on.
        fit: the images that give the scale, as of L_L2; None: those of `report`, which rows say (`report_scale`).
        families: the transformations, by the names of their grids.
        layers: names of layers; the network's input is measured beside them.
        readouts: how activations become φ, by layer; else flatten.
        batch: images a forward pass.
        memory: bound on the features of a batch, in bytes.
        progress: where to show how far it is; None shows nothing.

    Raises:
        UserError: if none of the families has a derivative, a layer cannot be measured, or the network cannot be
            differentiated forward.
    """

    def __init__(
        self,
        model: Model,
        report: Sample,
        *,
        fit: Sample | None,
        families: Mapping[str, Transform],
        layers: Sequence[str],
        readouts: Mapping[str, str] | None = None,
        batch: int = 256,
        memory: float = 4e9,
        progress: Progress | None = None,
    ) -> None:
        self._model, self._report, self._fit, self._progress = model, report, fit, progress
        self._cut = model.cut(layers, readouts)
        x = next(iter(batches(report.pixels, report.indices[:_TRIED], _TRIED, model.device)))[1]
        self._families = with_tangent(families, x)
        dims: dict[str, int] = {}
        for transform in self._families.values():
            dims = require_derivative(model, self._cut, x, partial(tangent_of, transform))
        self._dims, self._memory = dims, memory
        self._layers = [INPUT, *(layer for layer in self._cut.layers if layer != INPUT)]
        self._batch = max(1, min(batch, int(memory // (4 * _HELD * sum(dims.values())))))

    def measure(self, keep: Recorder[Group, Measured]) -> None:
        """Measure the families and layers that a recorder has not yet, a group each."""
        groups = {
            name: [
                Group(name, layer, MapSpec("identity"), (DERIVATIVE,), 0, 0, self._readout(layer))
                for layer in self._layers
            ]
            for name in self._families
        }
        missing = {name: [one for one in of_family if not keep.has(one)] for name, of_family in groups.items()}
        left = sum(map(bool, missing.values()))
        if not left:
            return
        scaled = self._report if self._fit is None else self._fit
        total = len(scaled) + left * len(self._report)
        self._task = None if self._progress is None else self._progress.add_task("derivatives", total=total)
        # by what is asked, and not by what is left, as both ways differ by rounding
        at_once = self._at_once(next(iter(self._families.values()))) if len(self._families) == 1 else None
        scale = self._scale(scaled) if at_once is None else {}
        for name, of_family in missing.items():
            if of_family:
                scores = at_once or self._scores(self._families[name], scale)
                for group in of_family:
                    keep.add(group, self._measured(group, scores[group.layer]))

    def _at_once(self, transform: Transform) -> dict[str, Scores] | None:
        """‖d‖ / ‖r‖ of every image, by layer, from the pass that also gives the scale; None where it cannot be so."""
        if self._fit is not None or self._model.ours:
            return None
        colours = self._report.pixels.shape[1]
        of = {layer: self._channel_of(layer, dim, colours) for layer, dim in self._dims.items()}
        if not all(map(Rates.fits, of.values())):
            return None
        rates = {layer: Rates(channel_of) for layer, channel_of in of.items()}
        held = 8 * len(self._report) * sum(one.channels for one in rates.values())
        if held > self._memory / 4:
            return None
        for _, x in batches(self._report.pixels, self._report.indices, self._batch, self._model.device):
            both = derivatives(self._model, self._cut, x, tangent_of(transform, x))
            for layer, one in rates.items():
                r, d = both.pop(layer)
                one.add(d, r)
            self._advance(len(x))
        if not all(one.finite for one in rates.values()):  # float32 may have been too small for a square
            return None
        return {layer: {DERIVATIVE: one.finish().float().numpy()} for layer, one in rates.items()}

    def _scale(self, sample: Sample) -> dict[str, Tensor]:
        """What every dimension is divided by, as L_L2 divides it, by layer."""
        total: dict[str, Tensor] = {}
        channels = 1
        for _, x in batches(sample.pixels, sample.indices, self._batch, self._model.device):
            for layer, r in features(self._model, self._cut, x).items():
                found = squares(r)
                total[layer] = total[layer] + found if layer in total else found
            channels = x.shape[1]
            self._advance(len(x))
        scale = {layer: (found / len(sample)).sqrt() for layer, found in total.items()}
        if self._model.ours:  # a network trained here is measured as in the paper
            return scale
        return {name: scale_of_layer(one, self._channel_of(name, len(one), channels)) for name, one in scale.items()}

    def _channel_of(self, layer: str, dim: int, channels: int) -> Tensor:
        """Which channel each dimension of a layer is of, (D,); of the input, which colour."""
        if layer in self._cut.layers:
            return self._cut.reading(layer).channel_of
        return torch.arange(dim) // (dim // channels if dim % channels == 0 else 1)

    def _readout(self, layer: str) -> str:
        return self._cut.reading(layer).readout.name if layer in self._cut.layers else Flatten.name

    def _scores(self, transform: Transform, scale: Mapping[str, Tensor]) -> dict[str, Scores]:
        """‖d‖ / ‖r‖ of every image, by layer."""
        found: dict[str, list[Tensor]] = {layer: [] for layer in self._layers}
        for _, x in batches(self._report.pixels, self._report.indices, self._batch, self._model.device):
            both = derivatives(self._model, self._cut, x, tangent_of(transform, x))
            for layer, parts in found.items():
                r, d = both.pop(layer)
                parts.append(derivative_per_image(d, r, scale[layer]).float().cpu())
            self._advance(len(x))
        return {layer: {DERIVATIVE: torch.cat(parts).numpy()} for layer, parts in found.items()}

    def _measured(self, group: Group, scores: Scores) -> Measured:
        transform, side = self._families[group.grid], MeasuredSplit(self._report, torch.empty(0), None)
        point = GridPoint(DERIVATIVE, 0.0, {}, covered=False)
        common = about(self._model.name, group, transform, point, side)
        common["unit"] = f"per {transform.tangent_unit}"
        rows = rows_of([scores], [DERIVATIVE], side, [common], ["ok"])
        if self._fit is None:
            rows = [replace(row, status=REPORT_SCALE) if row.status == "ok" else row for row in rows]
        return Measured(rows, scores={f"{self._report.split}/{DERIVATIVE}": np.stack([scores[DERIVATIVE]])})

    def _advance(self, images: int) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, images)


def with_tangent(families: Mapping[str, Transform], x: Tensor) -> dict[str, Transform]:
    """The families that have a derivative; of the others it is printed that they are left out.

    Raises:
        UserError: if none has one.
    """
    found = {name: transform for name, transform in families.items() if transform.tangent(x) is not None}
    without = [name for name in families if name not in found]
    if not without:
        return found
    told = f"derivative: {', '.join(without)} {'has' if len(without) == 1 else 'have'} none"
    why = "no g of the family does arbitrarily little"
    if not found:
        raise UserError(f"{told}, as {why}; leave derivative out, or add a family that has one, as rotation")
    print(f"{told}, as {why}; left out", flush=True)
    return found


def tangent_of(transform: Transform, x: Tensor) -> Tensor:
    """How fast images (B, C, H, W) change as g of a family sets in.

    Raises:
        UserError: if a family from outside gives something else than one number a pixel.
    """
    tangent = transform.tangent(x)
    if not isinstance(tangent, Tensor) or tangent.shape != x.shape or tangent.dtype != x.dtype:
        got = f"{tangent.dtype} of shape {tuple(tangent.shape)}" if isinstance(tangent, Tensor) else repr(tangent)
        name = type(transform).__name__
        raise UserError(f"derivative: {name}.tangent gives {got} for images of shape {tuple(x.shape)} and {x.dtype}")
    return tangent


def settled_by(transform: Transform) -> str:
    """The settings of a family, which decide its derivative beside its grid."""
    plain = {key: value for key, value in vars(transform).items() if isinstance(value, str | int | float | tuple)}
    return f"{transform.tangent_unit} {sorted(plain.items())}"
