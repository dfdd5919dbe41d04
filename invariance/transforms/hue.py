"""Hue."""

from collections.abc import Sequence

import torch
from kornia.enhance import adjust_hue
from torch import Tensor

from invariance.errors import UnfitImages
from invariance.transforms.base import GridPoint, Params, Still, range_grid
from invariance.transforms.checks import grid_values, needed_range, trained_range
from invariance.transforms.tabled import Mover, Shape, Tabled, Tables, with_staying


class Hue(Tabled, Still):
    """Every pixel's hue, in HSV, is turned by h degrees; its saturation and value stay.

    Convention: positive h takes red over yellow to green.

    Args:
        range: trained h ~ U(−range, range), in degrees, at most 180; None for measuring alone.
        angles: measured h.

    Raises:
        UserError: for arguments that are not such numbers.
    """

    by_image = True

    unit = "°"
    uniforms = 1

    def __init__(self, range: float | None = None, angles: Sequence[float] = ()) -> None:
        self.range = trained_range("hue", range, 0, 180, "degrees", "range=30")
        self.angles = grid_values("hue", "angles", angles, -180, 180)

    def params_of(self, uniforms: Tensor) -> Params:
        """`angle` (n,) ~ U(−range, range), in degrees."""
        return {"angle": needed_range("hue", self.range) * (2 * uniforms[:, 0] - 1)}

    def grid(self) -> list[GridPoint]:
        """The measured angles."""
        return range_grid(self.angles, "angle", self.range)

    def tables(self, params: Params, shape: Shape) -> Tables:
        """See `Tabled.tables`: `angle` in radians, for RGB images.

        Raises:
            UnfitImages: for images that are not RGB.
        """
        if shape[0] != 3:
            raise UnfitImages(f"hue: images of {shape[0]} channels have no colours; it takes RGB")
        return with_staying({"angle": torch.deg2rad(params["angle"])}, params["angle"] == 0)

    def mover(self, tables: Tables, like: Tensor) -> Mover:
        """See `Tabled.mover`: images with their hues turned by `angle`."""
        angle = tables["angle"].to(like.dtype)

        def turned(x: Tensor) -> Tensor:
            """In [0, 1] and back."""
            hues: Tensor = adjust_hue(x / 255, angle.expand(len(x)))
            return hues.mul_(255).clamp_(0, 255)

        return turned
