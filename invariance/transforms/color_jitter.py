"""Color jitter (A.1): every channel is brighter or darker by its own amount."""

from collections.abc import Sequence

import torch
from torch import Tensor

from invariance.errors import UnfitImages
from invariance.transforms.base import GridPoint, Params, Still, line_grid
from invariance.transforms.checks import grid_values, needed_range, trained_range
from invariance.transforms.counter import normal_from
from invariance.transforms.tabled import Mover, Shape, Tabled, Tables

CHANNELS = 3


class ColorJitter(Tabled, Still):
    """Every channel c becomes clamp(x_c + offset_c, 0, 255).

    Training draws offset_c ~ N(0, range²) for each channel; measuring moves all channels alike, which is brightness.
    How many channels the images have is not known when drawing: three offsets are drawn and the first C are used.

    A grid point counts as covered up to two standard deviations, between which lie 95 % of the trained offsets.

    Args:
        range: σ of the trained offsets, in intensity, at most 255; None for measuring alone.
        brightness: measured offsets.

    Raises:
        UserError: for a range or offsets that are not such numbers.
    """

    by_image = True

    unit = "intensity"
    tangent_unit = "intensity"
    uniforms = CHANNELS

    def __init__(self, range: float | None = None, brightness: Sequence[float] = ()) -> None:
        self.range = trained_range("color_jitter", range, 0, 255, "intensity (σ)", "range=20")
        self.brightness = grid_values("color_jitter", "brightness", brightness, -255, 255)

    def params_of(self, uniforms: Tensor) -> Params:
        """`offset` (n, 3) ~ N(0, range²)."""
        return {"offset": needed_range("color_jitter", self.range) * normal_from(uniforms)}

    def grid(self) -> list[GridPoint]:
        """One offset for all channels."""
        return line_grid(
            self.brightness,
            lambda offset: {"offset": torch.full((1, CHANNELS), offset, dtype=torch.float64)},
            lambda offset: self.range is not None and abs(offset) <= 2 * self.range,
        )

    def tables(self, params: Params, shape: Shape) -> Tables:
        """See `Tabled.tables`: `offset` (n, C), for images of one to three channels.

        Raises:
            UnfitImages: for images of more channels.
        """
        channels = shape[0]
        if channels > CHANNELS:
            raise UnfitImages(f"color_jitter: images of {channels} channels; it takes {CHANNELS} at most")
        return {"offset": params["offset"][:, :channels]}

    def mover(self, tables: Tables, like: Tensor) -> Mover:
        """See `Tabled.mover`: images with `offset` added."""
        offset = tables["offset"][..., None, None].to(like.dtype)
        return lambda x: (x + offset).clamp_(0, 255)

    def tangent(self, x: Tensor) -> Tensor:
        """See `Transform.tangent`: 1, as brightness moves all channels alike."""
        return torch.ones_like(x)
