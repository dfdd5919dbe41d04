"""Where the positions of a layer lie in the image, whatever the network and the layer's layout."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from invariance.errors import UserError
from invariance.models.hooks import evaluating, forward
from invariance.models.model import Model
from invariance.models.naming import read_layer, submodules
from invariance.models.sight import Entries, Sight
from invariance.transforms.feature_maps import Pair

_LOOKED_AT = 2
"""Images of the pass that is followed."""

_ROUNDING = 1e-6


@dataclass(frozen=True)
class Positions:
    """The grid on which the positions of a layer lie, and how its activation is a map (B, C, H, W) of them.

    Attributes:
        kind: channels_first (B, C, H, W), channels_last (B, H, W, C), or tokens (B, T, C).
        shape: H and W.
        stride: pixels from a position to the next, down and right.
        offset: where the first lies, in pixels from the centre of the image's first pixel, down and right: the middle
            of what it sees.
        prefix: tokens that stand before those with a place.
    """

    kind: Literal["channels_first", "channels_last", "tokens"]
    shape: tuple[int, int]
    stride: Pair
    offset: Pair
    prefix: int = 0

    def __str__(self) -> str:
        """As "8 × 8 every 4 px from 1.5"."""
        stride, offset = (
            f"{pair[0]:g}" if pair[0] == pair[1] else f"{pair[0]:g} × {pair[1]:g}"
            for pair in (self.stride, self.offset)
        )
        return f"{self.shape[0]} × {self.shape[1]} every {stride} px from {offset}"

    def map_of(self, value: Tensor) -> Tensor:
        """An activation (B, …) as a map (B, C, H, W), a view where that is possible."""
        if self.kind == "channels_first":
            return value
        if self.kind == "channels_last":
            return value.permute(0, 3, 1, 2)
        return value[:, self.prefix :].transpose(1, 2).reshape(len(value), -1, *self.shape)

    def put(self, map: Tensor, own: Tensor) -> Tensor:
        """An activation with a map (B, C, H, W) in the place of its own; tokens without a place stay."""
        if self.kind == "channels_first":
            return map
        if self.kind == "channels_last":
            return map.permute(0, 2, 3, 1)
        return torch.cat([own[:, : self.prefix], map.flatten(2).transpose(1, 2).to(own.dtype)], dim=1)


def positions_of(model: Model, layers: Sequence[str], x: Tensor) -> tuple[dict[str, Positions], dict[str, str]]:
    """Where the positions of layers lie, and of those without why they have none, or why it is not known where.

    Args:
        model: the network.
        layers: names of layers that can be measured.
        x: some images (B, C, H, W) as the network is shown them, in [0, 255].

    Raises:
        UserError: if the network has no such layer.
    """
    known = submodules(model.module)
    wanted = {name: read_layer(name, known) for name in layers}
    sight, x = Sight(), x[:_LOOKED_AT].to(model.device).float()
    with evaluating(model.module, model.device), sight:
        sight.begin(x)
        seen = forward(model.module, model.prepare(x), list(wanted.values()), stop=True)
        found: dict[str, Positions] = {}
        why: dict[str, str] = {}
    for name, layer in wanted.items():
        value = seen.outputs.get(layer)
        if value is None:
            raise UserError(f"layer={name!r} {seen.flaws.get(layer, 'was not run')}; choose another layer")
        entries = sight.of(value)
        one = None if entries is None else _found(sight, entries)
        if one is not None:
            found[name] = one
        elif lost := sight.lost(value):
            why[name] = f"where its positions lie is not known behind {lost}"
        else:
            why[name] = _flaw(value, entries)
    return found, why


def _flaw(value: Tensor, entries: Entries | None) -> str:
    """Why a layer has no positions."""
    shape = tuple(value.shape[1:])
    if entries is None and sum(side > 1 for side in shape) > 1:  # something hides the image from torch
        return f"gives {shape} for an image, and where that lies in it cannot be followed"
    if entries is None or value.ndim < 3:
        return f"gives {shape} for an image, and no positions"
    return f"gives {shape} for an image, which is no regular grid of several positions"


def _found(sight: Sight, entries: Entries) -> Positions | None:
    """The grid that the entries of an activation (B, …) are, if they are one."""
    if entries.ndim == 4:
        for kind, planes in (("channels_first", entries), ("channels_last", entries.permute(0, 3, 1, 2))):
            grid = _grid(sight, planes)
            if grid is not None:
                return Positions(kind, *grid)  # type: ignore[arg-type]
    if entries.ndim == 3:
        return _tokens(sight, entries)
    return None


def _tokens(sight: Sight, entries: Entries) -> Positions | None:
    """The grid of tokens (B, T, C) in the order of reading, the first ones perhaps without a place."""
    placed = (entries != 0).any(dim=2).all(dim=0)
    prefix = int((~placed).sum())
    if not bool(placed[prefix:].all()):
        return None
    seen = sight.ledger.reduced(entries[:, prefix:], [0, 2])
    if seen is None:
        return None
    rows = sight.ledger.lines[seen][:, :2].mean(1)
    height = len(torch.unique(rows))
    if len(rows) % height:
        return None
    grid = _grid(sight, seen.reshape(1, 1, height, -1))
    return None if grid is None else Positions("tokens", *grid, prefix)


def _grid(sight: Sight, entries: Entries) -> tuple[tuple[int, int], Pair, Pair] | None:
    """Shape, stride and offset of a map's grid; None where it is none, or of one position."""
    try:
        axes = sight.axes(entries)
    except ValueError:
        return None
    stride, offset = [], []
    for axis in axes:
        centre = axis[:, :2].mean(1)
        step = float((centre[-1] - centre[0]) / (len(centre) - 1)) if len(centre) > 1 else float(axis[0, 2])
        regular = centre[0] + step * torch.arange(len(centre), dtype=torch.float64)
        if not step > 0 or not bool(((regular - centre).abs() <= _ROUNDING * step).all()):
            return None
        stride.append(step)
        offset.append(float(centre[0]))
    shape = (len(axes[0]), len(axes[1]))
    return None if shape == (1, 1) else (shape, (stride[0], stride[1]), (offset[0], offset[1]))
