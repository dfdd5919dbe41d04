"""φ(x) in the place of φ(gx): what the network says untouched, what with g undone at a layer, what passes it by."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from invariance.engine.scoring import MeasuredSplit, Scorer, Scores, mean_of
from invariance.engine.stream import Sample, batches
from invariance.errors import UserError
from invariance.measures import FROM_LOGITS
from invariance.models.cut import Cut
from invariance.models.model import Model
from invariance.transforms.base import UNTOUCHED, GridPoint, Transform

_TRIED = 16
"""Images on which it is tried how much goes past a layer, however many are measured."""

_HELD = 6e7
"""Numbers of layers' outputs that are held at once for that."""


class Replaced:
    """What stands at one layer beside every score.

    Args:
        scorer: scores images at the layer.
        sides: the splits.
        transform: the family.
        untouched: its g that changes nothing.
        measures: what is measured.
        bypass: how much of the logits goes past the layer.
    """

    def __init__(
        self,
        scorer: Scorer,
        sides: Sequence[MeasuredSplit],
        transform: Transform,
        untouched: GridPoint,
        measures: Sequence[str],
        bypass: float,
    ) -> None:
        self.scorer, self.sides, self.transform, self.point = scorer, sides, transform, untouched
        self.measures, self.bypass = measures, bypass
        self._scores: dict[tuple[int, str], Scores] = {}
        self._means: dict[tuple[int, str, str], float] = {}

    def hold(self, k: int, point: GridPoint, scores: Scores) -> None:
        """Take scores of every image of a side with φ(x) in the place of φ(gx), that are known already."""
        self._scores[k, self._label(point)] = scores

    def untouched(self, k: int) -> Scores:
        """Scores of every image of a side untouched, without a map."""
        return self._at(k, self.point)

    def beside(self, k: int, point: GridPoint, measure: str) -> dict[str, Any]:
        """What a row carries of C: how much goes past the layer, and the score with φ(x) in the place of φ(gx).

        A row of L_L2 has the error rate of that, as φ(x) itself is no distance away.

        Args:
            k: which side.
            point: g.
            measure: what the row is of.
        """
        if not self.scorer.answers or not set(self.measures) & set(FROM_LOGITS):
            return {}
        of = "error_rate" if measure == "l2_distance" else measure
        if of not in self.measures:
            return {"bypass": self.bypass}
        key = (k, self._label(point), of)
        if key not in self._means:
            scores = mean_of(self._at(k, point), of, self.sides[k].labels, self.untouched(k))
            self._means[key] = math.nan if np.isnan(scores).all() else float(np.nanmean(scores))
        return {"bypass": self.bypass, "reference": self._means[key]}

    def _at(self, k: int, point: GridPoint) -> Scores:
        key = (k, self._label(point))
        if key not in self._scores:
            side = self.sides[k]
            self._scores[key] = self.scorer.scores(side, side.reference, nn.Identity(), self.transform, point)
        return self._scores[key]

    def _label(self, point: GridPoint) -> str:
        """Under what scores at g are known: where all goes through the layer they are those of every g."""
        return UNTOUCHED if self.scorer.apart else point.label


def probed(model: Model, sample: Sample, transform: Transform, point: GridPoint) -> Tensor:
    """Some images of a sample under one g, as the network takes them."""
    _, x = next(iter(batches(sample.pixels, sample.indices[:_TRIED], _TRIED, model.device)))
    return model.prepare(transform.apply(x, point.params))


def no_classes(cut: Cut, x: Tensor) -> str:
    """Why a network names no classes, as one without a classifier; "" where it does.

    Args:
        cut: the network, cut anywhere.
        x: some images, as the network takes them.
    """
    try:
        cut.logits(x)
    except UserError as error:
        return str(error)
    return ""


def bypasses_of(
    model: Model, cut: Cut, layers: Sequence[str], sample: Sample, transform: Transform, point: GridPoint
) -> dict[str, float]:
    """How much of the logits goes past each layer, on some images of a sample; NaN where they tell nothing.

    Args:
        model: the network.
        cut: it, cut at the layers.
        layers: names of layers.
        sample: the images.
        transform: the family.
        point: its g that changes nothing.
    """
    if not layers:
        return {}
    x = probed(model, sample, transform, point)
    found: dict[str, float] = {}
    together: list[str] = []
    numbers = 0
    for layer in layers:  # a pass holds what all of them give
        numbers += len(x) * cut.reading(layer).form.dim
        if together and numbers > _HELD:
            found |= _bypasses(cut, together, x)
            together, numbers = [], len(x) * cut.reading(layer).form.dim
        together.append(layer)
    return found | _bypasses(cut, together, x)


def _bypasses(cut: Cut, layers: Sequence[str], x: Tensor) -> dict[str, float]:
    try:
        return cut.bypasses(layers, x)
    except UserError:  # one image, or the same logits for all: rows say so themselves
        return dict.fromkeys(layers, math.nan)
