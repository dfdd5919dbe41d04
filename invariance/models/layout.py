"""What the dimensions of a layer's output mean: channels, positions of a map, tokens and those before the patches."""

import math
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor, nn

Kind = Literal["vector", "channels_first", "channels_last", "tokens", "unknown"]

_PREFIXES = (0, 1, 2, 5)
"""How many tokens stand before those of the patches, in the networks that there are."""


@dataclass(frozen=True)
class Layout:
    """What the dimensions of a layer's output for one image mean.

    Attributes:
        kind: vector (C,); channels_first (C, H, W), or any number of positions behind C; channels_last (H, W, C);
            tokens (T, C); unknown.
        shape: of the output for one image.
        prefix: tokens that stand before those of the patches, as a class token does.
    """

    kind: Kind
    shape: tuple[int, ...]
    prefix: int = 0

    @classmethod
    def of(cls, shape: tuple[int, ...], input_sides: tuple[int, ...], network: nn.Module | None = None) -> Self:
        """The layout that a shape most likely is.

        A map is told by sides in the proportion of the images'; tokens before the patches by what the network says
        (`num_prefix_tokens`, as timm's do), else by the rest being a grid of square patches of the images.

        Args:
            shape: of the output for one image.
            input_sides: (H, W) of the images.
            network: the network.
        """
        if len(shape) == 1:
            return cls("vector", shape)
        if len(shape) == 2:
            return cls("tokens", shape, _prefix(shape[0], input_sides, network))
        if len(shape) == 3 and len(input_sides) == 2:
            for is_map in (_in_proportion, _unpadded):
                if is_map(shape[1:], input_sides):
                    return cls("channels_first", shape)
                if is_map(shape[:2], input_sides):
                    return cls("channels_last", shape)
        return cls("unknown", shape)

    def __str__(self) -> str:
        """As "(B, C, H, W)", "(B, H, W, C)" or "(B, 1 + T, C)"."""
        sides = ["H", "W"] if len(self.shape) == 3 else ["T"] if len(self.shape) == 2 else ["…"]
        named = {
            "vector": ["C"],
            "channels_first": ["C", *sides],
            "channels_last": [*sides, "C"],
            "tokens": [f"{self.prefix} + T" if self.prefix else "T", "C"],
            "unknown": ["?"] * len(self.shape),
        }
        return f"(B, {', '.join(named[self.kind])})"

    @property
    def dim(self) -> int:
        """Numbers in the output for one image."""
        return torch.Size(self.shape).numel()

    @property
    def channels(self) -> int:
        """C; of an unknown layout all numbers."""
        if self.kind == "unknown":
            return self.dim
        return self.shape[0] if self.kind == "channels_first" else self.shape[-1]

    @property
    def positions(self) -> tuple[int, ...]:
        """The dimensions of a batch (B, …) that go over positions; none where there are none or they are not known."""
        if self.kind in ("vector", "unknown"):
            return ()
        first = self.kind == "channels_first"
        return tuple(range(2, len(self.shape) + 1)) if first else tuple(range(1, len(self.shape)))

    def patches(self, value: Tensor) -> Tensor:
        """A view of an output (B, …) without the tokens that stand before the patches."""
        return value[:, self.prefix :] if self.prefix else value

    def over_positions(self, r: Tensor) -> Tensor:
        """Channels (B, C) as they are laid beside an output (B, …): a 1 for each dimension of positions."""
        ones = [1] * len(self.positions)
        return r.reshape(len(r), -1, *ones) if self.kind == "channels_first" else r.reshape(len(r), *ones, -1)

    def channel_of(self) -> Tensor:
        """Which channel each number of the flattened output is of, (D,) int64, on the CPU.

        What is of no position is a channel of its own: all of a vector, and the tokens before the patches.
        """
        if not self.positions:
            return torch.arange(self.dim)
        before = self.prefix * self.channels
        count = (self.dim - before) // self.channels
        channels = torch.arange(before, before + self.channels)
        spread = channels.repeat_interleave(count) if self.kind == "channels_first" else channels.repeat(count)
        return torch.cat([torch.arange(before), spread])


def _in_proportion(sides: tuple[int, ...], input_sides: tuple[int, ...]) -> bool:
    """Whether two sides are in the images' proportion, to one position."""
    if sides[0] > input_sides[0] or sides[1] > input_sides[1]:
        return False
    return abs(sides[0] * input_sides[1] - sides[1] * input_sides[0]) <= max(input_sides)


def _unpadded(sides: tuple[int, ...], input_sides: tuple[int, ...]) -> bool:
    """Whether two sides are what convolutions without padding leave, which take as much off both."""
    if sides[0] == sides[1] or sides[0] > input_sides[0] or sides[1] > input_sides[1]:
        return False
    stride = (input_sides[1] - input_sides[0]) / (sides[1] - sides[0])
    return stride >= 1 and sides[0] * stride <= input_sides[0] + stride


def _prefix(tokens: int, input_sides: tuple[int, ...], network: nn.Module | None) -> int:
    """Tokens before those of the patches; 0 where the rest is no grid of patches."""
    for module in () if network is None else network.modules():  # it may stand inside another
        told = getattr(module, "num_prefix_tokens", None)
        if isinstance(told, int) and 0 <= told < tokens:
            # before the network puts its tokens there, and after it took them off, there are the patches alone
            alone = _is_grid(tokens, input_sides) and not _is_grid(tokens - told, input_sides)
            return 0 if alone else told
    return next((one for one in _PREFIXES if one < tokens and _is_grid(tokens - one, input_sides)), 0)


def _is_grid(patches: int, input_sides: tuple[int, ...]) -> bool:
    """Whether the images fall into so many square patches."""
    if len(input_sides) != 2:
        return False
    side = math.isqrt(math.prod(input_sides) // patches)
    return side > 0 and side**2 * patches == math.prod(input_sides) and all(one % side == 0 for one in input_sides)
