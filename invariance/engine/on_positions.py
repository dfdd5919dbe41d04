"""The positions of a network's layers under one family of transformations: maps, S_g on them, and C behind them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from invariance.engine.stream import Sample, batches
from invariance.errors import UserError
from invariance.models.cut import Cut
from invariance.models.model import Model
from invariance.models.naming import LOGITS
from invariance.models.positions import Positions, positions_of
from invariance.models.probe import PROBED
from invariance.transforms.base import UNTOUCHED, GridPoint, Transform
from invariance.transforms.tabled import Fixed

Maps = dict[str, Tensor]
"""Feature maps (B, C, H, W) by layer."""


@dataclass(frozen=True)
class Seen:
    """What a network gave for some images.

    Attributes:
        taken: the images as it took them.
        own: activations by layer, in their own shapes.
        maps: the same as feature maps.
        logits: f of them, where they are wanted.
    """

    taken: Tensor
    own: Maps
    maps: Maps
    logits: Tensor | None


class Placed:
    """The layers of a network that have positions, under one family.

    Args:
        model: the network.
        transform: the family.
        name: how rows name it.
        at: where the positions of each layer lie.
        cut: the network, cut at these layers.
        whole: the same, and at the logits; None where they are not wanted.
        size: height and width of the images that the family takes.

    Attributes:
        at: as given.
        cut: as given.
        channels: C of every layer.
        numbers: of all layers, for one image.
    """

    def __init__(
        self,
        model: Model,
        transform: Transform,
        name: str,
        at: dict[str, Positions],
        cut: Cut,
        whole: Cut | None,
        size: tuple[int, int],
    ) -> None:
        self._model, self._transform, self._name, self._whole, self._size = model, transform, name, whole, size
        self._prepared = Fixed(transform, model.prepare, by_image=model.by_image)
        self.at, self.cut = at, cut
        shapes = {layer: cut.shape(layer) for layer in at}
        self.channels = {
            layer: shape[0 if at[layer].kind == "channels_first" else -1] for layer, shape in shapes.items()
        }
        self.numbers = sum(torch.Size(shape).numel() for shape in shapes.values())

    @classmethod
    def of(
        cls, model: Model, report: Sample, name: str, transform: Transform, layers: Sequence[str], *, answers: bool
    ) -> tuple[Self, dict[str, str]]:
        """The layers that have positions, and why the others have none.

        Args:
            model: the network.
            report: images, of which the first are looked at.
            name: how rows name the family.
            transform: the family.
            layers: names of layers.
            answers: whether the network's logits are wanted.

        Raises:
            UserError: if no layer has positions, or the family does not undo its g.
        """
        if not transform.undoes:
            transform.goes_to(torch.empty(0), {}, (0, 0))  # refuses
        _, x = next(iter(batches(report.pixels, report.indices[:PROBED], PROBED, model.device)))
        untouched = next(point for point in transform.grid() if point.label == UNTOUCHED)
        gx = transform.apply(x, untouched.params)
        at, why = positions_of(model, layers, gx)
        if not at:
            layer = next(iter(why))
            raise UserError(f"spatial: layer={layer!r} {why[layer]}; choose a layer with positions, as a convolution's")
        cuts = [model.cut(list(at)), *([model.cut([*at, LOGITS])] if answers else [])]
        for cut in cuts:
            cut.look(model.prepare(gx))
        height, width = x.shape[-2:]
        placed = cls(model, transform, name, at, cuts[0], cuts[1] if answers else None, (height, width))
        placed._try(transform.grid())
        return placed, why

    def _try(self, points: Sequence[GridPoint]) -> None:
        """Undo one g on an empty map of every layer, so that what is no `undo` is refused at once."""
        point = next((one for one in points if one.label != UNTOUCHED), points[0])
        for layer, at in self.at.items():
            self.moved("undo", layer, torch.zeros(2, 1, *at.shape, device=self._model.device), point)

    def see(self, x: Tensor, point: GridPoint, *, logits: bool = False) -> Seen:
        """What the network gives for g x.

        Args:
            x: images (B, C, H, W) in [0, 255].
            point: g.
            logits: whether f(gx) is wanted.
        """
        taken = self._prepared(x, point.params)
        cut = self._whole if logits and self._whole is not None else self.cut
        phi = cut.phi(taken)
        own = {layer: phi[layer].reshape(-1, *self.cut.shape(layer)).float() for layer in self.at}
        return Seen(taken, own, {layer: self.at[layer].map_of(one) for layer, one in own.items()}, phi.get(LOGITS))

    def moved(self, way: Literal["undo", "act"], layer: str, values: Tensor, point: GridPoint) -> tuple[Tensor, Tensor]:
        """S_g⁻¹ or S_g on maps of a layer, and which positions have their source outside, (n, H, W) bool.

        Raises:
            UserError: if a family from outside fails, or gives something else.
        """
        at, what = self.at[layer], f"spatial: {type(self._transform).__name__}.{way}"
        told = f"maps {tuple(values.shape)} of {self._name}:{point.label}"
        try:
            found = getattr(self._transform, way)(values, point.params, at.stride, at.offset, self._size)
            moved, outside = found
            same = moved.shape == values.shape and moved.dtype == values.dtype
            fits = same and outside.dtype == torch.bool and outside.shape[1:] == values.shape[2:]
        except UserError:
            raise
        except Exception as error:  # whatever the user's code does
            why = next(iter(str(error).splitlines()), "")
            raise UserError(f"{what} fails on {told} with {type(error).__name__} ({why[:200]})") from error
        if not fits or len(outside) not in (1, len(values)):
            got = f"{tuple(moved.shape)} {moved.dtype} and {tuple(outside.shape)} {outside.dtype}"
            raise UserError(f"{what} gives {got} for {told}; give such a map, and (1, H, W) bool of what is outside")
        return moved, outside

    def floor(self, layer: str, values: Tensor, point: GridPoint) -> tuple[Tensor, Tensor]:
        """S_g⁻¹ S_g of maps, and the positions of which something was outside on either way."""
        acted, lost = self.moved("act", layer, values, point)
        moved, outside = self.moved("undo", layer, acted, point)
        drawn, _ = self.moved("undo", layer, lost[:, None].to(values.dtype), point)
        return moved, outside | (drawn[:, 0] > 0)

    def answer(self, layer: str, values: Tensor, seen: Seen) -> Tensor:
        """f(gx) with maps in the place of those that a layer gives, (B, K)."""
        put = self.at[layer].put(values, seen.own[layer])
        return self.cut.classify(layer, put.flatten(1), seen.taken)
