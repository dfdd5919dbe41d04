"""Scale about the centre."""

from collections.abc import Sequence

import torch
from torch import Tensor

from invariance.transforms.base import GridPoint, Params, range_grid
from invariance.transforms.checks import grid_values, needed_range, trained_range
from invariance.transforms.feature_maps import Size, through
from invariance.transforms.warp import Homographic, change_along, velocity

LEAST, MOST = -90.0, 400.0
"""Percent by which an image is measured at smallest and largest."""


class Scale(Homographic):
    """Scale by s % about the centre of the image: lengths become 1 + s/100 of what they were.

    Convention: positive s enlarges, and what does not fit is cut off; negative s shrinks, and what is around is 0.
    Sampling is bilinear without smoothing before, as in every family.

    Args:
        range: trained s ~ U(−range, range), in percent, at most 90; None for measuring alone.
        percents: measured s.

    Raises:
        UserError: for arguments that are not such numbers.
    """

    unit = "%"
    tangent_unit = "%"
    uniforms = 1

    def __init__(self, range: float | None = None, percents: Sequence[float] = ()) -> None:
        self.range = trained_range("scale", range, 0, -LEAST, "percent", "range=20")
        self.percents = grid_values("scale", "percents", percents, LEAST, MOST)

    def params_of(self, uniforms: Tensor) -> Params:
        """`percent` (n,) ~ U(−range, range)."""
        return {"percent": needed_range("scale", self.range) * (2 * uniforms[:, 0] - 1)}

    def grid(self) -> list[GridPoint]:
        """The measured percents."""
        return range_grid(self.percents, "percent", self.range)

    def backward(self, params: Params, size: Size) -> Tensor:
        """See `Homographic.backward`: the inverses of scalings by `percent`."""
        return _by(1 / _factor(params))

    def goes_to(self, places: Tensor, params: Params, size: Size) -> Tensor:
        """See `Transform.goes_to`."""
        return through(places, _by(_factor(params)), size)

    def tangent(self, x: Tensor) -> Tensor:
        """See `Transform.tangent`: per percent of enlarging."""
        return change_along(x, velocity(x, -torch.diag(torch.tensor([0.01, 0.01, 0.0], dtype=torch.float64))))


def _factor(params: Params) -> Tensor:
    return 1 + params["percent"] / 100


def _by(factor: Tensor) -> Tensor:
    """The scalings (n, 3, 3) float64."""
    one = torch.ones_like(factor)
    return torch.diag_embed(torch.stack([factor, factor, one], dim=1))
