"""Rotation about the centre (A.8)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from invariance.transforms.base import GridPoint, Params, range_grid
from invariance.transforms.checks import grid_values, needed_range, trained_range
from invariance.transforms.feature_maps import Size, through
from invariance.transforms.warp import Homographic, change_along, velocity


class Rotation(Homographic):
    """Rotation by θ about the centre of the image.

    Convention: positive θ turns the image counter-clockwise as seen. Corners that come from outside are 0.

    Args:
        range: trained angles are θ ~ U(−range, range), in degrees, at most 180; None for measuring alone.
        angles: measured θ in degrees.

    Raises:
        UserError: for arguments that are not such numbers.

    Example:
        >>> family = Rotation(range=20, angles=[-30, 30])
        >>> [point.label for point in family.grid()]  # what is measured
        ['-30', 'untouched', '30']
        >>> drawn = family.sample(4, torch.Generator().manual_seed(0))  # what training draws for 4 images
        >>> family.apply(torch.rand(4, 3, 16, 24), drawn).shape
        torch.Size([4, 3, 16, 24])
    """

    unit = "°"
    tangent_unit = "°"
    uniforms = 1

    def __init__(self, range: float | None = None, angles: Sequence[float] = ()) -> None:
        self.range = trained_range("rotation", range, 0, 180, "degrees", "range=20")
        self.angles = grid_values("rotation", "angles", angles, -180, 180)

    def params_of(self, uniforms: Tensor) -> Params:
        """`angle` (n,) ~ U(−range, range), in degrees."""
        return {"angle": needed_range("rotation", self.range) * (2 * uniforms[:, 0] - 1)}

    def grid(self) -> list[GridPoint]:
        """The measured angles."""
        return range_grid(self.angles, "angle", self.range)

    def backward(self, params: Params, size: Size) -> Tensor:
        """See `Homographic.backward`: rotations by `angle`."""
        angle = torch.deg2rad(params["angle"])
        cos, sin = angle.cos(), angle.sin()
        zero, one = torch.zeros_like(angle), torch.ones_like(angle)
        # y runs down: a counter-clockwise turn takes (1, 0) up, to (cos, −sin), and this is its inverse
        backward = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=1)
        return backward.view(-1, 3, 3)

    def goes_to(self, places: Tensor, params: Params, size: Size) -> Tensor:
        """See `Transform.goes_to`."""
        return through(places, self.backward(params, size).mT, size)

    def tangent(self, x: Tensor) -> Tensor:
        """See `Transform.tangent`: per degree, counter-clockwise."""
        quarter = torch.tensor([[0, -1, 0], [1, 0, 0], [0, 0, 0]], dtype=torch.float64)
        return change_along(x, velocity(x, math.radians(1) * quarter))
