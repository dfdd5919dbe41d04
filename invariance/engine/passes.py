"""One pass over the images of a split, under some g and at all layers, that keeps scores and sums alone."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invariance.engine.alike import Alike
from invariance.engine.at_layer import AtLayer, How
from invariance.engine.scoring import Scores, answers_of, half_errors
from invariance.engine.stream import batches
from invariance.measures import FROM_LOGITS, INDEX_NAMES
from invariance.measures.distance import Distances
from invariance.measures.sums import PairSums, SideSums, SummedSide
from invariance.models.cut import Cut
from invariance.models.model import Model
from invariance.runs.rows import Row
from invariance.transforms.base import UNTOUCHED, GridPoint
from invariance.transforms.tabled import Fixed

_L2 = "l2_distance"


@dataclass(frozen=True)
class Around:
    """What passes over all splits and g have in common.

    Attributes:
        model: the network.
        cut: it, cut at the layers.
        how: what is measured, and how.
        at: what there is at every layer.
        means: (D,) mean of φ(x) over the first split, by layer.
        batch: images a pass.
        advance: hears of images that went through the network under a g.
    """

    model: Model
    cut: Cut
    how: How
    at: Mapping[str, AtLayer]
    means: Mapping[str, Tensor]
    batch: int
    advance: Callable[[int], None]

    def prepared(self, x: Tensor, point: GridPoint) -> Tensor:
        """Images under g, as the network takes them."""
        return self._prepared(x, point.params)

    @cached_property
    def _prepared(self) -> Fixed:
        return Fixed(self.how.transform, self.model.prepare, by_image=self.model.by_image)


@dataclass
class _Batch:
    """A batch of images whose φ(x) is held.

    Attributes:
        span: its place among the images of the split.
        x: they, untouched, as the network takes them.
        r: φ(x) (B, D), by layer.
        sizes: ‖r‖ (B,), by layer.
    """

    span: slice
    x: Tensor
    r: dict[str, Tensor] = field(default_factory=dict)
    sizes: dict[str, Tensor] = field(default_factory=dict)


class Pass:
    """One pass over a split.

    Args:
        around: what all passes have in common.
        k: which split it is of; the last one is reported on.
        points: the g.
        layers: the layers.
    """

    def __init__(self, around: Around, k: int, points: Sequence[GridPoint], layers: Sequence[str]) -> None:
        self._around, self._k, self._points = around, k, points
        self._at = {layer: around.at[layer] for layer in layers}
        sides = self._at[layers[0]].sides
        self._side, self._last = sides[k], k == len(sides) - 1
        self._distances = {
            layer: Distances(at.scorer.scale, around.cut.reading(layer).channel_of) for layer, at in self._at.items()
        }
        self._answers = any(at.scorer.answers for at in self._at.values())
        whole = self._last and bool(set(around.how.measures) & set(INDEX_NAMES))
        self._whole = {layer: Whole(len(self._side.sample), around.how.more.intervals) for layer in layers if whole}
        controls = [at.control for at in self._at.values() if self._last and at.control is not None]
        self._deal = next((one.deal for one in controls if one.of_errors), None)
        self._constant = {layer: self._constants(at) for layer, at in self._at.items()}
        self._parts: dict[tuple[str, ...], dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))

    def _constants(self, at: AtLayer) -> list[str]:
        """The g at which the mean of φ(x) takes the place of φ(gx): one stands for all where C takes no image."""
        if at.nulls is None or not self._last:
            return []
        wanted = [point.label for point in self._points if "constant" in at.nulls.wanted(point)]
        return wanted[:1] if at.scorer.apart else wanted

    def run(self) -> None:
        """Take every batch under every g."""
        sample, around = self._side.sample, self._around
        nulls = [at.nulls for at in self._at.values() if at.nulls is not None] if self._last else []
        wanted = any("image" in one.wanted(self._points[0]) for one in nulls)  # layers may have gone different ways
        moved = nulls[0].other_images.numpy() if wanted else None
        for span, x in batches(sample.pixels, sample.indices, around.batch, around.model.device):
            batch = _Batch(span, around.prepared(x, around.how.untouched))
            self._untouched(batch)
            for point in self._points:
                if point.label == UNTOUCHED:
                    self._as_it_is(batch, point)
                else:
                    self._under(batch, point, around.prepared(x, point))
                around.advance(len(x))
            if moved is not None:
                places = sample.indices[moved[span]]
                _, other = next(iter(batches(sample.pixels, places, len(places), around.model.device)))
                self._beside(batch, around.prepared(other, around.how.untouched))

    def _beside(self, batch: _Batch, x: Tensor) -> None:
        """How far other images are from those of a batch."""

        def see(layer: str, r: Tensor) -> None:
            """Compare what a layer gives with what is held."""
            self._distance(("image", layer), batch, layer, r)

        self._around.cut.show(x, see)

    def _untouched(self, batch: _Batch) -> None:
        """Hold φ(x) of a batch, and take what the network says of it."""

        def see(layer: str, r: Tensor) -> None:
            """Hold what a layer gives."""
            if layer in self._at:
                batch.r[layer] = r.float() if r.dtype != torch.float32 else r.clone()
                batch.sizes[layer] = self._distances[layer].sizes(batch.r[layer])

        logits = self._around.cut.show(batch.x, see, logits=self._answers)
        for layer, whole in self._whole.items():
            whole.begin(batch.r[layer])
        if logits is not None:
            self._answered(("untouched",), logits)
            if self._deal is not None:
                self._add(("halves", UNTOUCHED), "half_error_rate", self._half_errors(logits, batch))

    def _as_it_is(self, batch: _Batch, point: GridPoint) -> None:
        """Take a batch under the g that changes nothing: φ(x) is φ(gx), and no pass is needed."""
        for layer, r in batch.r.items():
            sizes = batch.sizes[layer]
            nothing = torch.where(sizes.isfinite() & (sizes > 0), 0.0, torch.nan)
            self._add(("own", layer, point.label), _L2, nothing)
            if layer in self._whole:
                self._whole[layer].add(point.label, r)
            self._replace(batch, layer, point, batch.x)

    def _under(self, batch: _Batch, point: GridPoint, gx: Tensor) -> None:
        """Take a batch under a g."""

        def see(layer: str, r: Tensor) -> None:
            """Compare what a layer gives with what is held."""
            if layer in self._at:
                self._distance(("own", layer, point.label), batch, layer, r)
                if layer in self._whole:
                    self._whole[layer].add(point.label, r)

        logits = self._around.cut.show(gx, see, logits=self._answers)
        if logits is not None:
            self._answered(("under", point.label), logits)
            if self._deal is not None:
                self._add(("halves", point.label), "half_error_rate", self._half_errors(logits, batch))
        for layer in batch.r:
            self._replace(batch, layer, point, gx)

    def _replace(self, batch: _Batch, layer: str, point: GridPoint, gx: Tensor) -> None:
        """What the network says with φ(x), or its mean, in the place of φ(gx), where that is wanted and not known."""
        at, cut = self._at[layer], self._around.cut
        told = at.scorer.answers and bool(set(at.measures) & set(FROM_LOGITS))
        if told and not at.scorer.apart and point.label != UNTOUCHED:
            self._answered(("reference", layer, point.label), cut.classify(layer, batch.r[layer], gx))
        if point.label not in self._constant[layer]:
            return
        constant = self._around.means[layer].expand(len(batch.r[layer]), -1)
        key = ("constant", layer, point.label)
        self._distance(key, batch, layer, constant)
        if at.scorer.answers:
            self._answered(key, cut.classify(layer, constant, None if at.scorer.apart else gx))

    def _distance(self, key: tuple[str, ...], batch: _Batch, layer: str, r_hat: Tensor) -> None:
        """L_L2 of something that takes the place of φ(x)."""
        if layer in self._at:
            self._add(key, _L2, self._distances[layer].between(r_hat, batch.r[layer], batch.sizes[layer]))

    def _answered(self, key: tuple[str, ...], logits: Tensor) -> None:
        for name, values in answers_of(logits, self._side.classes).items():
            self._add(key, name, values)

    def _half_errors(self, logits: Tensor, batch: _Batch) -> Tensor:
        assert self._deal is not None
        return half_errors(logits, torch.from_numpy(self._side.labels)[batch.span], self._deal)

    def _add(self, key: tuple[str, ...], name: str, values: Tensor) -> None:
        self._parts[key][name].append(values.float().cpu() if values.dtype == torch.float64 else values.cpu())

    def _of(self, *key: str) -> Scores:
        """Scores of all images under a key; none where nothing came."""
        return {name: torch.cat(parts).numpy() for name, parts in self._parts.get(key, {}).items()}

    def tell(self, layer: str) -> None:
        """Hand what stands beside scores at a layer to who else would have to make it."""
        at, how = self._at[layer], self._around.how
        nothing = {_L2: np.zeros(len(self._side.sample), np.float32)}
        untouched = {**nothing, **(self._of("untouched") if at.scorer.answers else {})}
        at.replaced.hold(self._k, how.untouched, untouched)
        for point in self._points:
            if reference := self._of("reference", layer, point.label):
                at.replaced.hold(self._k, point, reference)
        if at.nulls is None or not self._last:
            return
        if distance := self._of("image", layer):
            others = at.nulls.other_images.numpy()
            moved = {name: values[others] for name, values in untouched.items()}
            at.nulls.hold("image", how.untouched, {**moved, **distance})
        for point in self._points:
            if constant := self._of("constant", layer, point.label):
                at.nulls.hold("constant", point, constant)

    def scores(self, layer: str) -> list[Scores]:
        """Scores of every image at a layer, by g."""
        answers = self._at[layer].scorer.answers
        return [
            {**self._of("own", layer, point.label), **(self._answers_at(point) if answers else {})}
            for point in self._points
        ]

    def _answers_at(self, point: GridPoint) -> Scores:
        return self._of("untouched") if point.label == UNTOUCHED else self._of("under", point.label)

    def halves(self, layer: str) -> list[Scores]:
        """Errors among half of the classes at a layer, by g, where the control has them."""
        control = self._at[layer].control
        if self._deal is None or control is None or not control.of_errors:
            return []
        return [self._of("halves", point.label) for point in self._points]

    def whole(self, layer: str) -> "Whole | None":
        """What φ(gx) and φ(x) are compared by as a whole at a layer, if they are."""
        return self._whole.get(layer)


class Whole:
    """φ(gx) and φ(x) of all images at one layer: sums over these, or themselves where they are fewer than dimensions.

    Args:
        images: how many there will be.
        kept: whether they are kept in any case.
    """

    def __init__(self, images: int, kept: bool) -> None:
        self._images, self._kept = images, kept
        self._y: SideSums | None = None
        self._of_batch: tuple[Tensor, Tensor] | None = None
        self._pairs: dict[str, PairSums] = {}
        self._r: dict[str, list[Tensor]] = defaultdict(list)

    def begin(self, r: Tensor) -> None:
        """Take in φ(x) (B, D) of a batch."""
        if self._kept or r.shape[1] > self._images:
            self._r[""].append(r.cpu())
            return
        self._y = self._y or SideSums(r.mean(0))
        self._of_batch = self._y.add(r)

    def add(self, label: str, r: Tensor) -> None:
        """Take in φ(gx) (B, D) of that batch."""
        if self._of_batch is None:
            self._r[label].append(r.float().cpu().clone())
            return
        assert self._y is not None
        if label not in self._pairs:
            self._pairs[label] = PairSums(SideSums(self._y.near), self._y)
        self._pairs[label].add(r, self._of_batch)

    def rows(self, alike: Alike, points: Sequence[GridPoint], common: Sequence[Mapping[str, Any]]) -> list[Row]:
        """The rows of every g.

        Args:
            alike: the measures.
            points: the g.
            common: what the rows of a g say alike, by g.
        """
        if self._y is None:
            r = {label: torch.cat(parts) for label, parts in self._r.items()}
            alike.hold(r[""])
            return alike.rows([r[point.label] for point in points], common)
        side, rows = SummedSide(self._y), []
        for point, told in zip(points, common, strict=True):
            pair = self._pairs[point.label]
            rows += alike.of(pair.pairing(side) if pair.finite() else None, told, self._images)
        return rows
