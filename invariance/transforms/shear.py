"""Shear about the centre (A.9)."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from invariance.transforms.base import UNTOUCHED, GridPoint, Params, line_grid
from invariance.transforms.checks import choice, grid_values, needed_range, trained_range
from invariance.transforms.feature_maps import Size
from invariance.transforms.warp import Homographic, change_along, velocity

STEEPEST = 89.0


class Shear(Homographic):
    """Shear by θ about the centre of the image: a rectangle becomes a parallelogram with corners of 90° ± θ.

    Convention, that of the authors' code, y being down: a horizontal shear slides rows, and positive θ moves the top to
    the left: (x, y) → (x + y tan θ, y). A vertical shear slides columns, and positive θ moves the right side down:
    (x, y) → (x, y + x tan θ).

    Training draws the way, each with probability 1/2, and the angle.

    Args:
        range: trained angles are θ ~ U(−range, range), in degrees, at most 89; None for measuring alone.
        angles: measured θ of horizontal shears, in degrees.
        vertical: measured θ of vertical shears, in degrees.
        positive: where a positive θ moves the top: "left", as above, or "right", all angles then meaning the opposite.

    Raises:
        UserError: for arguments that are not such numbers.
    """

    unit = "°"
    uniforms = 2

    def __init__(
        self,
        range: float | None = None,
        angles: Sequence[float] = (),
        vertical: Sequence[float] = (),
        positive: str = "left",
    ) -> None:
        self.range = trained_range("shear", range, 0, STEEPEST, "degrees", "range=20")
        self.angles = grid_values("shear", "angles", angles, -STEEPEST, STEEPEST)
        self.vertical = grid_values("shear", "vertical", vertical, -STEEPEST, STEEPEST)
        self.sign = 1.0 if choice("shear", "positive", positive, ("left", "right")) == "left" else -1.0
        self._upright = bool(self.vertical) and not self.angles
        self.tangent_unit = "° (vertical)" if self._upright else "°"

    def params_of(self, uniforms: Tensor) -> Params:
        """`theta` (n,) ~ U(−range, range), in degrees, and `vertical` (n,), 0 or 1, each with probability 1/2."""
        theta = needed_range("shear", self.range) * (2 * uniforms[:, 0] - 1)
        return {"theta": theta, "vertical": (uniforms[:, 1] < 0.5).to(torch.int64)}

    def grid(self) -> list[GridPoint]:
        """The measured angles, horizontal, and after them those of vertical shears ("vertical 15").

        Parameters are in the class's convention, labels and values in the one that `positive` chooses.
        """
        vertical = [point for point in self._ways(self.vertical, 1) if point.label != UNTOUCHED]
        return self._ways(self.angles, 0) + [replace(point, label=f"vertical {point.label}") for point in vertical]

    def _ways(self, angles: Sequence[float], vertical: int) -> list[GridPoint]:
        def params(theta: float) -> Params:
            """The parameters of an angle."""
            signed = torch.tensor([self.sign * theta], dtype=torch.float64)
            return {"theta": signed, "vertical": torch.tensor([vertical])}

        return line_grid(angles, params, lambda theta: self.range is not None and abs(theta) <= self.range)

    def backward(self, params: Params, size: Size) -> Tensor:
        """See `Homographic.backward`: shears by `theta`, along rows or, where `vertical` is 1, along columns."""
        slope = -torch.deg2rad(params["theta"]).tan()
        vertical = params["vertical"] != 0
        backward = torch.eye(3, dtype=torch.float64).repeat(len(slope), 1, 1)
        backward[:, 0, 1] = torch.where(vertical, 0.0, slope)
        backward[:, 1, 0] = torch.where(vertical, slope, 0.0)
        return backward

    def tangent(self, x: Tensor) -> Tensor:
        """See `Transform.tangent`: per degree of a horizontal shear, or a vertical one if the grid has these alone."""
        rate = torch.zeros(3, 3, dtype=torch.float64)
        rate[(1, 0) if self._upright else (0, 1)] = -self.sign * math.radians(1)
        return change_along(x, velocity(x, rate))
