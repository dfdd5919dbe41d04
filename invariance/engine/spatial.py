"""Is the feature map equivariant? g undone on the positions of a layer, and one map of the channels behind it.

Over the fit images the Gram matrices of all layers grow with every batch; the report images are scored as they come.
Nothing grows with the number of images but their scores.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from invariance.device import full_float32
from invariance.engine.groups import Ended, Group, Measured
from invariance.engine.on_positions import Placed, Seen
from invariance.engine.recorder import Recorder
from invariance.engine.replaced import bypasses_of
from invariance.engine.rows import about, rows_of
from invariance.engine.scoring import MeasuredSplit, Scores, answers_of, mean_of
from invariance.engine.stream import Sample, batches
from invariance.errors import UserError
from invariance.maps.ridge import Ridge
from invariance.maps.spatial import HELD, Shared, SharedFit
from invariance.maps.spec import FLOOR, INSIDE, SPATIAL, WARP, MapSpec
from invariance.measures import FROM_LOGITS
from invariance.measures.distance import l2_distance_per_image, scale_of_layer
from invariance.models.model import Model
from invariance.models.readout import LARGEST
from invariance.runs.rows import OUTSIDE, REPORT_SCALE, Row
from invariance.transforms.base import UNTOUCHED, GridPoint, Transform

_COPIES = 8
"""Copies of the features of a batch in memory: of x, of gx, undone, mapped, and what is made of them."""


_PLAIN, _REFERENCE = "plain", "reference"
"""Scores of the untouched images, and those with φ(x) in the place of φ(gx), beside those of maps."""

_Key = tuple[str, str, int]
"""A layer, a map, and the place of a g."""


@dataclass
class _Fitted:
    """What the images that give the scale showed of a layer.

    Attributes:
        squares: (C,) sum of squares of φ(x) over images and positions.
        count: images times positions.
        least: the least number of φ(x).
        shared: the map of the channels at each g.
    """

    squares: Tensor
    count: int = 0
    least: float = math.inf
    shared: list[Shared] = field(default_factory=list)

    @property
    def scale(self) -> Tensor:
        """(C,) what each channel is divided by for L_L2."""
        return scale_of_layer((self.squares / max(1, self.count)).sqrt(), torch.arange(len(self.squares)))

    def see(self, values: Tensor) -> None:
        """Take in φ(x) (B, C, H, W)."""
        for one in values:  # few numbers at a time in float64
            self.squares += one.double().square().sum((1, 2))
        self.count += values.shape[0] * values.shape[2] * values.shape[3]
        self.least = min(self.least, float(values.amin()))


class Spatial:
    """The maps on positions of a network's layers under families of transformations.

    Where the positions lie is printed in a line, and so is which layers have none and are left out.

    Args:
        model: the network.
        report: the images that scores are reported on.
        fit: the images that maps are fitted on, and that give the scale of L_L2; None: those of `report`, which rows
            say (`report_scale`), and no map is fitted.
        families: the transformations, by the names of their grids.
        layers: names of layers.
        maps: some of `ON_POSITIONS`.
        measures: what is measured; L_L2 and what is of the network's answers are taken of it.
        batch: images a forward pass.
        memory: bound on features and sums, in bytes.
        progress: where to show how far it is; None shows nothing.

    Raises:
        UserError: if no layer has positions, a family has no `undo`, there are no fit images for a map, or the network
            has no logits where they are wanted.
    """

    def __init__(
        self,
        model: Model,
        report: Sample,
        *,
        fit: Sample | None,
        families: Mapping[str, Transform],
        layers: Sequence[str],
        maps: Sequence[MapSpec],
        measures: Sequence[str],
        batch: int = 256,
        memory: float = 4e9,
        progress: Progress | None = None,
    ) -> None:
        _check(maps, fit)
        self._model, self._report, self._fit, self._families = model, report, fit, families
        self._maps, self._most, self._memory, self._progress = maps, batch, memory, progress
        self._measures = [name for name in measures if name == "l2_distance" or name in FROM_LOGITS]
        self._answers = bool(set(measures) & set(FROM_LOGITS))
        self._placed: dict[str, Placed] = {}
        for name, transform in families.items():
            placed, why = Placed.of(model, report, name, transform, layers, answers=self._answers)
            if any(spec.map == SPATIAL for spec in maps):
                _check_channels(placed)
            self._placed[name] = placed
            if name == next(iter(families)):
                _tell(placed, why)
        self._classes = None
        if report.labels is not None:
            self._classes = torch.unique(report.labels[report.labels >= 0])

    def measure(self, keep: Recorder[Group, Measured]) -> None:
        """Measure what a recorder has not yet, a group of g at a time."""
        for name, placed in self._placed.items():
            points = self._families[name].grid()
            size = max(1, min(len(points), int(self._memory / 2 // self._bytes_of_g(placed))))
            for number, start in enumerate(range(0, len(points), size)):
                chosen = points[start : start + size]
                keep.note(start, len(points))
                g = tuple(point.label for point in chosen)
                groups = [
                    Group(name, layer, spec, g, number, size, "positions")
                    for layer, spec in product(placed.at, self._maps)
                ]
                missing = [group for group in groups if not keep.has(group)]
                if missing:
                    _Work(self, placed, self._families[name], chosen, missing).run(keep)

    def _bytes_of_g(self, placed: Placed) -> int:
        """What the sums over positions take for one g."""
        if not any(spec.map == SPATIAL for spec in self._maps):
            return 1
        return sum(32 * channels * (channels + 1) + 8 * HELD * channels for channels in placed.channels.values())


class _Work:
    """Some g of a family: two walks over images, and what they come to.

    Args:
        of: what is measured.
        placed: the layers.
        transform: the family.
        points: the g.
        groups: what there is to measure.
    """

    def __init__(
        self, of: Spatial, placed: Placed, transform: Transform, points: list[GridPoint], groups: list[Group]
    ) -> None:
        self._of, self._placed, self._transform, self._points, self._groups = of, placed, transform, points, groups
        self._layers = list(dict.fromkeys(group.layer for group in groups))
        self._spec = next((group.map for group in groups if group.map.map == SPATIAL), None)
        self._untouched = next(point for point in transform.grid() if point.label == UNTOUCHED)
        self._batch = max(1, min(of._most, int(of._memory / 2 // (4 * _COPIES * placed.numbers))))
        self._found: dict[_Key, dict[str, list[Tensor]]] = {}
        device = of._model.device
        self._fitted = {
            layer: _Fitted(torch.zeros(placed.channels[layer], dtype=torch.float64, device=device))
            for layer in self._layers
        }

    def run(self, keep: Recorder[Group, Measured]) -> None:
        """Fit the maps, score every image, and hand over the groups."""
        of, passes = self._of, len(self._points)
        scaled = of._report if of._fit is None else of._fit
        total = len(scaled) * (passes if self._spec else 1) + len(of._report) * passes
        self._task = None if of._progress is None else of._progress.add_task("positions", total=total)
        with torch.no_grad(), full_float32(of._model.device):
            self._fit(scaled)
            self._score()
        scores = {
            key: {name: torch.cat(parts).numpy() for name, parts in found.items()} for key, found in self._found.items()
        }
        asking = self._layers if of._answers else []
        bypass = bypasses_of(of._model, self._placed.cut, asking, of._report, self._transform, self._untouched)
        for group in self._groups:
            keep.add(group, self._measured(group, scores, bypass.get(group.layer, math.nan)))

    def _fit(self, sample: Sample) -> None:
        """One walk over the images that give the scale, and on which maps are fitted."""
        of, fits = self._of, dict[tuple[str, int], SharedFit]()
        if self._spec is not None:
            assert isinstance(self._spec.settings, Ridge)
            fits = {
                (layer, j): SharedFit(self._spec.settings, self._placed.channels[layer], len(sample), of._model.device)
                for layer, j in product(self._layers, range(len(self._points)))
            }
        for span, x in batches(sample.pixels, sample.indices, self._batch, of._model.device):
            plain = self._placed.see(x, self._untouched)
            for layer, fitted in self._fitted.items():
                fitted.see(plain.maps[layer])
            for j, point in enumerate(self._points if fits else ()):
                seen = plain if point.label == UNTOUCHED else self._placed.see(x, point)
                for layer in self._layers:
                    back, outside = self._placed.moved("undo", layer, seen.maps[layer], point)
                    fits[layer, j].add(span.start, back, plain.maps[layer], ~outside)
                self._advance(len(x))
            if not fits:
                self._advance(len(x))
        for (layer, j), fit in list(fits.items()):
            self._fitted[layer].shared.append(fit.finish(self._fitted[layer].least >= 0))
            del fits[layer, j]

    def _score(self) -> None:
        """One walk over the report images."""
        of = self._of
        for _, x in batches(of._report.pixels, of._report.indices, self._batch, of._model.device):
            plain = self._placed.see(x, self._untouched, logits=True)
            self._add((_PLAIN, "", 0), self._answers(plain.logits))
            for j, point in enumerate(self._points):
                seen = plain if point.label == UNTOUCHED else self._placed.see(x, point, logits=True)
                for layer in self._layers:
                    self._score_layer(layer, j, point, plain, seen)
                self._advance(len(x))

    def _score_layer(self, layer: str, j: int, point: GridPoint, plain: Seen, seen: Seen) -> None:
        """Scores of a batch through the maps of one layer at one g."""
        placed, own, wanted = self._placed, seen.maps[layer], plain.maps[layer]
        maps = {group.map.map for group in self._groups if group.layer == layer}
        back, outside = placed.moved("undo", layer, own, point)
        through = {INSIDE: own, WARP: back}
        if SPATIAL in maps:
            mapped = self._fitted[layer].shared[j].module(back.movedim(1, -1)).movedim(-1, 1)
            through[SPATIAL] = torch.where(outside[:, None], own, mapped)
        for name in through.keys() & maps:
            self._add((layer, name, j), self._distances(layer, through[name], wanted, outside))
            if self._of._answers:
                logits = seen.logits if name == INSIDE else placed.answer(layer, through[name], seen)
                self._add((layer, name, j), self._answers(logits))
        if FLOOR in maps:
            nothing = wanted, torch.ones_like(outside)  # a family that only undoes
            floor, drawn = placed.floor(layer, wanted, point) if self._transform.acts else nothing
            self._add((layer, FLOOR, j), self._distances(layer, floor, wanted, drawn))
        if self._of._answers and maps - {FLOOR}:
            apart = placed.cut.apart(layer) and not placed.cut.seen(layer)
            own_of_x = plain.own[layer].flatten(1)
            logits = plain.logits if apart else placed.cut.classify(layer, own_of_x, seen.taken)
            self._add((layer, _REFERENCE, j), self._answers(logits))

    def _distances(self, layer: str, back: Tensor, wanted: Tensor, outside: Tensor) -> dict[str, Tensor]:
        """L_L2 over the positions that are not outside, and the share of those that are, of every image."""
        left = outside[:, None]
        kept_back, kept = (torch.where(left, 0.0, one).flatten(1) for one in (back, wanted))
        scale = self._fitted[layer].scale.repeat_interleave(outside[0].numel())
        share = outside.flatten(1).float().mean(1).expand(len(wanted))
        return {"l2_distance": l2_distance_per_image(kept_back, kept, scale).float().cpu(), OUTSIDE: share.cpu()}

    def _answers(self, logits: Tensor | None) -> dict[str, Tensor]:
        return {} if logits is None else answers_of(logits, self._of._classes)

    def _add(self, key: _Key, values: Mapping[str, Tensor]) -> None:
        for name, one in values.items():
            self._found.setdefault(key, {}).setdefault(name, []).append(one)

    def _measured(self, group: Group, scores: Mapping[_Key, Scores], bypass: float) -> Measured:
        """What a group came to."""
        layer, of = group.layer, self._of
        found = [scores[layer, group.map.map, j] for j in range(len(self._points))]
        shared = self._fitted[layer].shared if group.map.map == SPATIAL else []
        side = MeasuredSplit(of._report, torch.empty(0), of._classes)
        common = [about(of._model.name, group, self._transform, point, side) for point in self._points]
        names = [name for name in of._measures if group.map.map != FLOOR or name == "l2_distance"]
        fine, plain = ["ok"] * len(found), scores.get((_PLAIN, "", 0))
        rows = rows_of(found, names, side, common, [one.status for one in shared] or fine, untouched=plain)
        for k, (j, _) in enumerate(product(range(len(found)), names)):
            reference = scores.get((layer, _REFERENCE, j))
            rows[k] = self._marked(rows[k], float(found[j][OUTSIDE].min()))
            if reference is not None and plain is not None and group.map.map != FLOOR:
                rows[k] = replace(rows[k], **self._beside(rows[k], bypass, reference, plain, side))
        rows += rows_of(found, [OUTSIDE], side, common, fine)
        stored = {f"{of._report.split}/{name}": np.stack([one[name] for one in found]) for name in found[0]}
        return Measured(rows, self._ended(layer, shared), stored)

    def _marked(self, row: Row, outside: float) -> Row:
        """A row says that its scale is over the report images, or that no position was left."""
        if row.metric == "l2_distance" and row.status == "not_finite" and outside == 1:
            return replace(row, status="undefined")
        if row.metric == "l2_distance" and row.status == "ok" and self._of._fit is None:
            return replace(row, status=REPORT_SCALE)
        return row

    def _beside(self, row: Row, bypass: float, reference: Scores, plain: Scores, side: MeasuredSplit) -> dict[str, Any]:
        """What goes past the layer, and the score with φ(x) in the place of φ(gx); beside L_L2 the error rate."""
        of = "error_rate" if row.metric == "l2_distance" else row.metric
        if of not in self._of._measures:
            return {"bypass": bypass}
        scores = mean_of(reference, of, side.labels, plain)
        return {"bypass": bypass, "reference": math.nan if np.isnan(scores).all() else float(np.nanmean(scores))}

    def _ended(self, layer: str, shared: Sequence[Shared]) -> list[Ended]:
        relu = self._fitted[layer].least >= 0
        return [
            Ended(point.label, one.status, one.error, one.reference, one.strength, relu)
            for point, one in zip(self._points, shared, strict=bool(shared))
        ]

    def _advance(self, images: int) -> None:
        if self._of._progress is not None and self._task is not None:
            self._of._progress.advance(self._task, images)


def _check(maps: Sequence[MapSpec], fit: Sample | None) -> None:
    """Refuse maps that cannot be fitted.

    Raises:
        UserError: without fit images, or for another solver than ridge.
    """
    for spec in maps:
        if spec.map != SPATIAL:
            continue
        if not isinstance(spec.settings, Ridge):
            raise UserError(
                "map=spatial is fitted by ridge alone; give 'spatial', or MapSpec('spatial', 'ridge', Ridge(…))"
            )
        if fit is None:
            raise UserError(
                "map=spatial is fitted, and there are no fit images: give fit=…, apart from the report, or take warp, "
                "which needs none"
            )


def _check_channels(placed: Placed) -> None:
    """Refuse layers of more channels than a map is fitted to.

    Raises:
        UserError: naming the first.
    """
    for layer, channels in placed.channels.items():
        if channels > LARGEST:
            raise UserError(
                f"spatial: layer={layer!r} has {channels} channels, and maps are fitted to at most {LARGEST}; take warp"
            )


def _tell(placed: Placed, why: Mapping[str, str]) -> None:
    """Say where positions lie, and which layers have none."""
    print("spatial: " + ", ".join(f"{layer} {at}" for layer, at in placed.at.items()), flush=True)
    if why:
        print("spatial: left out: " + "; ".join(f"{layer} {told}" for layer, told in why.items()), flush=True)
