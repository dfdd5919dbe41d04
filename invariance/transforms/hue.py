"""Hue."""

from collections.abc import Sequence

import torch
from kornia.enhance import adjust_hue
from torch import Tensor

from invariance.errors import UnfitImages
from invariance.transforms.base import GridPoint, Params, Still, check_batch, range_grid
from invariance.transforms.checks import grid_values, needed_range, trained_range
from invariance.transforms.warp import keep


class Hue(Still):
    """Every pixel's hue, in HSV, is turned by h degrees; its saturation and value stay.

    Convention: positive h takes red over yellow to green.

    Args:
        range: trained h ~ U(−range, range), in degrees, at most 180; None for measuring alone.
        angles: measured h.

    Raises:
        UserError: for arguments that are not such numbers.
    """

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

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """RGB images with their hues turned by `angle`.

        Raises:
            UnfitImages: for images that are not RGB.
        """
        check_batch(x, params)
        if x.shape[1] != 3:
            raise UnfitImages(f"hue: images of {x.shape[1]} channels have no colours; it takes RGB")
        same = params["angle"] == 0
        if bool(same.all()):
            return x.clone()
        angle = torch.deg2rad(params["angle"]).to(x.device, x.dtype).expand(len(x))
        return keep(adjust_hue(x / 255, angle).mul_(255).clamp_(0, 255), x, same)
