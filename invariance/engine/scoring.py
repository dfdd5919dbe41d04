"""Scores of every image under one g, through one map: what rows are means of (Sec. 3.3, 5.2)."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from invariance.device import full_float32
from invariance.engine.stream import Sample, batches, stored_batches
from invariance.maps import FittedMaps
from invariance.maps.unseen import DEALS, Deal
from invariance.measures.agreement import agreement_per_image, effective_invariance_per_image
from invariance.measures.distance import l2_distance_per_image
from invariance.models.cut import Cut
from invariance.models.layers import TRUE_CUT
from invariance.models.model import Model
from invariance.models.rest import near
from invariance.transforms.base import GridPoint, Transform
from invariance.transforms.tabled import Fixed

Scores = dict[str, NDArray[Any]]
"""Arrays (n,) by name, in the order of the split: `l2_distance` (float32), `predicted` (int16, −1 where logits are not
finite), `confidence` (float32), `among` (int16: the argmax among the classes that the split has)."""

_FEW = 16
"""Images on which it is tried under every g that nothing goes past a layer."""

_CHUNK, _NUMBERS = 2048, 2**23
"""Images, and numbers of their representations, that go through a map at a time."""


def mean_of(
    scores: Scores, measure: str, labels: NDArray[np.int64], untouched: Scores | None = None
) -> NDArray[np.float64]:
    """What a measure says of every image, (n,) float64, of which its row is the mean; NaN where an image is left out.

    Args:
        scores: of every image.
        measure: `l2_distance`, `error_rate`, `agreement` or `effective_invariance`, or one that the scores hold as it
            is.
        labels: (n,) classes, −1 where there is none.
        untouched: scores of the untouched images without a map, of which agreement and effective invariance are, too.
    """
    if measure in scores:
        return scores[measure].astype(np.float64)
    predicted = scores["predicted"]
    if not (predicted >= 0).any():  # what gives no number for any image is not wrong, but broken
        return np.full(len(predicted), np.nan)
    if measure == "error_rate":
        return np.where(labels < 0, np.nan, predicted != labels)
    assert untouched is not None, f"{measure} is of the untouched scores, too"
    if measure == "agreement":
        return agreement_per_image(predicted, untouched["predicted"])
    assert measure == "effective_invariance", f"no scores of {measure} were stored"
    return effective_invariance_per_image(
        predicted, scores["confidence"], untouched["predicted"], untouched["confidence"]
    )


def digest_of(scores: Scores) -> str:
    """A hash of scores, as the rows made from them carry it: 24 hexadecimal digits of SHA-256."""
    hashed = hashlib.sha256()
    for name in sorted(scores):
        hashed.update(name.encode() + np.ascontiguousarray(scores[name]).tobytes())
    return hashed.hexdigest()[:24]


@dataclass(frozen=True)
class MeasuredSplit:
    """A split as the measuring of one layer sees it.

    Attributes:
        sample: its images.
        reference: (n, D), φ(x).
        classes: (K',) the classes that its labels have; None where there are no labels.
    """

    sample: Sample
    reference: Tensor
    classes: Tensor | None

    @classmethod
    def of(cls, sample: Sample, reference: Tensor) -> Self:
        """A sample with φ(x), and the classes that its labels have."""
        if sample.labels is None:
            return cls(sample, reference, None)
        return cls(sample, reference, torch.unique(sample.labels[sample.labels >= 0]))

    @property
    def labels(self) -> NDArray[np.int64]:
        """(n,) the classes, −1 where there is none."""
        labels = self.sample.labels
        return np.full(len(self.sample), -1) if labels is None else labels.numpy().astype(np.int64)


class Scorer:
    """Runs maps over features and says of every image what came out.

    Args:
        model: the network.
        cut: it, cut at the layer.
        layer: where φ ends.
        scale: (D,) what each dimension is divided by for L_L2.
        answers: whether the classes that the network then names are wanted, too.
        batch: images a forward pass, where C needs the images.
        bypass: how much of the logits goes past the layer, as far as that was measured; NaN: it was not.
        room: bytes for what the layer gives for images under g, where C needs nothing else of them: so much is held,
            for the next map, until `release`; what is beyond is computed once more.

    Attributes:
        model: the network.
        scale: as given, on the network's device.
        answers: as given.
        apart: whether C needs no images (or is not wanted).
    """

    def __init__(
        self,
        model: Model,
        cut: Cut,
        layer: str,
        scale: Tensor,
        *,
        answers: bool,
        batch: int,
        bypass: float = math.nan,
        room: float = 0.0,
    ) -> None:
        self.model, self._cut, self._layer, self._batch = model, cut, layer, batch
        self.scale, self.answers = scale.to(model.device), answers
        self.apart = not answers or cut.apart(layer)
        self._follows = not self.apart and cut.follows(layer)
        if answers and cut.seen(layer) and not bypass <= TRUE_CUT:  # more images say otherwise than the few did
            self.apart = self._follows = False
        self._tried: set[str] = set()
        self._room, self._held = room, dict[tuple[str, str], list[tuple[slice, Tensor]]]()

    def release(self) -> None:
        """Hold no activations any more."""
        self._held = {}

    @torch.no_grad()
    def scores(
        self,
        side: MeasuredSplit,
        r: Tensor,
        back_to: nn.Module,
        transform: Transform,
        point: GridPoint,
        *,
        answers: bool = True,
    ) -> Scores:
        """Scores of all images of a side.

        Args:
            side: the split.
            r: (n, D), φ(gx).
            back_to: the map.
            transform: the family of g.
            point: g.
            answers: whether what the network names is wanted of this side, where it is wanted at all.
        """
        answers &= self.answers
        device = self.model.device
        back_to = back_to.to(device)
        found: dict[str, list[Tensor]] = {}
        for span, given in self._spans(side, transform, point, answers=answers):
            with full_float32(device):
                back = back_to(r[span].to(device))
            _add(found, "l2_distance", self.distance(back, side, span))
            if answers:
                logits = self._classify(back, given)
                for name, values in answers_of(logits, side.classes).items():
                    _add(found, name, values)
        return {name: torch.cat(parts).numpy() for name, parts in found.items()}

    @torch.no_grad()
    def half_errors(
        self, side: MeasuredSplit, r: Tensor, back_to: nn.Module, deal: Deal, transform: Transform, point: GridPoint
    ) -> Scores:
        """Whether the class named among those of an image's own half is wrong, (n,), mean over the deals.

        Arguments as `scores`; `deal` says which classes are of a half.
        """
        device = self.model.device
        back_to, labels = back_to.to(device), torch.from_numpy(side.labels)
        errors: list[Tensor] = []
        for span, given in self._spans(side, transform, point):
            with full_float32(device):
                back = back_to(r[span].to(device))
            errors.append(half_errors(self._classify(back, given), labels[span], deal))
        return {"half_error_rate": torch.cat(errors).numpy()}

    @torch.no_grad()
    def by_halves(
        self,
        side: MeasuredSplit,
        r: Tensor,
        maps: FittedMaps,
        deal: Deal,
        transform: Transform,
        point: GridPoint,
        *,
        unseen: bool,
        answers: bool,
    ) -> Scores:
        """Scores of all images, each through the map of its own half or of the other, mean over the deals.

        Arguments as `scores`; `maps` are the six of `deal`, and `unseen` says which of a deal's two serves an image.
        """
        answers &= self.answers
        device, labels = self.model.device, torch.from_numpy(side.labels)
        modules = [maps.module(half).to(device) for half in range(len(maps))]
        total = {
            name: torch.zeros(len(labels), dtype=torch.float64)
            for name in ("l2_distance", *(("error_rate", "half_error_rate") if answers else ()))
        }
        for span, given in self._spans(side, transform, point, answers=answers):
            for number in range(DEALS):
                halves = torch.from_numpy(deal.half_of(labels[span].numpy(), number, unseen=unseen))
                for half in torch.unique(halves).tolist():
                    chosen = torch.nonzero(halves == half).squeeze(1)
                    rows = chosen + span.start
                    with full_float32(device):
                        back = modules[half](r[rows.to(r.device)].to(device))
                    total["l2_distance"][rows] += self.distance(back, side, rows).double() / DEALS
                    if answers:
                        own = None if given is None else given[chosen.to(given.device)]
                        logits = self._classify(back, own).cpu()
                        plain = answers_of(logits, None)["predicted"] != labels[rows]
                        among = _half_error(logits, labels[rows], deal, number)
                        total["error_rate"][rows] += plain.double() / DEALS
                        total["half_error_rate"][rows] += among / DEALS
        return {name: values.float().numpy() for name, values in total.items()}

    def _classify(self, back: Tensor, given: Tensor | None) -> Tensor:
        """C(r̂; gx), given what `_spans` yields."""
        if self._follows:
            return self._cut.classify(self._layer, back, activation=given)
        return self._cut.classify(self._layer, back, given)

    def look(self, side: MeasuredSplit, transform: Transform, point: GridPoint) -> None:
        """Where a few images alone say that nothing goes past the layer: see whether it is so under this g, too."""
        if point.label in self._tried or not self._cut.seen(self._layer) or not (self.apart or self._follows):
            return
        self._tried.add(point.label)
        _, x = next(iter(batches(side.sample.pixels, side.sample.indices[:_FEW], _FEW, self.model.device)))
        gx = self.model.prepare(transform.apply(x, point.params))
        r = self._cut.phi(gx)[self._layer].roll(1, 0)
        alone = self._cut.classify(self._layer, r, activation=self._cut.activation(self._layer, gx))
        if not near(alone, self._cut.classify(self._layer, r, gx)):
            self.apart = self._follows = False
            self.release()

    def _spans(
        self, side: MeasuredSplit, transform: Transform, point: GridPoint, *, answers: bool = True
    ) -> Iterator[tuple[slice, Tensor | None]]:
        """Places among the images, and what C needs of gx there: what the layer gives, or what the network takes."""
        count = len(side.sample)
        if answers:
            self.look(side, transform, point)
        if self.apart or not answers:
            step = max(1, min(_CHUNK, _NUMBERS // side.reference.shape[1]))
            for start in range(0, count, step):
                yield slice(start, min(start + step, count)), None
            return
        key = (side.sample.split, point.label)
        if key in self._held:
            yield from self._held[key]
            return
        held: list[tuple[slice, Tensor]] | None = [] if self._fits(count) else None
        prepared = Fixed(transform, self.model.prepare, by_image=self.model.by_image)
        for span, x in stored_batches(side.sample.pixels, side.sample.indices, self._batch, self.model.device):
            given = prepared(x, point.params)
            if self._follows:
                given = self._cut.activation(self._layer, given)
                if held is not None:
                    held.append((span, given))
            yield span, given
        if held:
            self._held[key] = held

    def _fits(self, count: int) -> bool:
        """Whether there is room for what the layer gives for so many images more."""
        form = self._cut.reading(self._layer).form
        of_image = form.dtype.itemsize * form.dim
        there = sum(len(one) for parts in self._held.values() for _, one in parts)
        return self._follows and (there + count) * of_image <= self._room

    def distance(self, back: Tensor, side: MeasuredSplit, rows: slice | Tensor) -> Tensor:
        """‖r̂ − r‖ / ‖r‖ of some images, float32 on the CPU."""
        place = rows.to(side.reference.device) if isinstance(rows, Tensor) else rows
        wanted = side.reference[place].to(self.model.device)
        return l2_distance_per_image(back, wanted, self.scale).float().cpu()


def _add(found: dict[str, list[Tensor]], name: str, values: Tensor) -> None:
    found.setdefault(name, []).append(values)


def answers_of(logits: Tensor, classes: Tensor | None) -> dict[str, Tensor]:
    """What the network says of every image: the class, its confidence, and the class among those that there are."""
    finite = logits.isfinite().all(1)
    kind = torch.int16 if logits.shape[1] <= torch.iinfo(torch.int16).max else torch.int32
    none = torch.full((len(logits),), -1, dtype=kind)
    confidence, predicted = logits.double().softmax(1).max(1)
    predicted = torch.where(finite, logits.argmax(1), -1).to(kind).cpu()
    among = predicted
    if classes is not None and len(classes) < logits.shape[1]:
        within = classes.to(logits.device)
        among = torch.where(finite.cpu(), within[logits[:, within].argmax(1)].to(kind).cpu(), none)
    return {
        "predicted": predicted,
        "confidence": torch.where(finite, confidence, torch.nan).float().cpu(),
        "among": among,
    }


def half_errors(logits: Tensor, labels: Tensor, deal: Deal) -> Tensor:
    """Whether the class named among those of an image's own half is wrong, (n,) float32, mean over the deals."""
    own = logits.cpu()
    return torch.stack([_half_error(own, labels, deal, number) for number in range(DEALS)]).mean(0).float()


def _half_error(logits: Tensor, labels: Tensor, deal: Deal, number: int) -> Tensor:
    """1 where the class named among those of an image's own half of a deal is not its own, (n,) float64."""
    own = torch.from_numpy(deal.half_of(labels.numpy(), number))
    wrong = torch.ones(len(logits), dtype=torch.float64)
    for half in torch.unique(own).tolist():
        rows, classes = own == half, torch.from_numpy(deal.classes_of(half))
        among = logits[rows][:, classes]
        named = torch.where(among.isfinite().all(1), classes[among.argmax(1)], -1)
        wrong[rows] = (named != labels[rows]).double()
    return wrong
