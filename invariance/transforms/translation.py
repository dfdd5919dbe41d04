"""Translation."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from invariance.transforms.base import FRAME, UNTOUCHED, GridPoint, Params, frame_scale, line_grid, unscaled
from invariance.transforms.checks import flag, grid_values, needed_range, trained_range
from invariance.transforms.feature_maps import Size, through
from invariance.transforms.warp import Homographic, change_along, velocity


class Translation(Homographic):
    """Translation by (dx, dy).

    Convention: positive dx moves the image to the right, positive dy down. What comes from outside is 0.

    Args:
        range: trained dx and dy are each U(−range, range), in pixels of a 227-pixel frame, at most 227; None for
            measuring alone.
        right: measured dx of horizontal translations, in the same unit.
        down: measured dy of vertical translations.
        scale_lengths: whether lengths scale with the size of the images; if not, they are in their own pixels.

    Raises:
        UserError: for arguments that are not such numbers.
    """

    unit = "px"
    uniforms = 2

    def __init__(
        self,
        range: float | None = None,
        right: Sequence[float] = (),
        down: Sequence[float] = (),
        scale_lengths: bool = True,
    ) -> None:
        self.range = trained_range("translation", range, 0, FRAME, "pixels", "range=16")
        self.right = grid_values("translation", "right", right, -FRAME, FRAME)
        self.down = grid_values("translation", "down", down, -FRAME, FRAME)
        self.scale_lengths = flag("translation", "scale_lengths", scale_lengths)
        self._upright = bool(self.down) and not self.right
        self.tangent_unit = "px (down)" if self._upright else "px"

    def params_of(self, uniforms: Tensor) -> Params:
        """`right` and `down` (n,) ~ U(−range, range), in pixels of the frame."""
        moved = needed_range("translation", self.range) * (2 * uniforms - 1)
        return {"right": moved[:, 0], "down": moved[:, 1]}

    def grid(self) -> list[GridPoint]:
        """The measured dx, and after them the measured dy ("down 8")."""
        down = [point for point in self._along("down", self.down) if point.label != UNTOUCHED]
        return self._along("right", self.right) + [replace(point, label=f"down {point.label}") for point in down]

    def _along(self, axis: str, values: Sequence[float]) -> list[GridPoint]:
        def params(value: float) -> Params:
            """The parameters of one translation."""
            nothing = {key: torch.zeros(1, dtype=torch.float64) for key in ("right", "down")}
            return {**nothing, axis: torch.tensor([value], dtype=torch.float64)}

        return line_grid(values, params, lambda value: self.range is not None and abs(value) <= self.range)

    def beside(self) -> dict[str, object]:
        """Whether lengths are the images' own."""
        return unscaled(self.scale_lengths)

    def backward(self, params: Params, size: Size) -> Tensor:
        """See `Homographic.backward`: translations by `right` and `down`."""
        return _moved(params, -frame_scale(size, self.scale_lengths))

    def goes_to(self, places: Tensor, params: Params, size: Size) -> Tensor:
        """See `Transform.goes_to`."""
        return through(places, _moved(params, frame_scale(size, self.scale_lengths)), size)

    def tangent(self, x: Tensor) -> Tensor:
        """See `Transform.tangent`: per pixel of the frame to the right, or down if the grid has these alone."""
        rate = torch.zeros(3, 3, dtype=torch.float64)
        rate[1 if self._upright else 0, 2] = -frame_scale(x.shape, self.scale_lengths)
        return change_along(x, velocity(x, rate))


def _moved(params: Params, scale: float) -> Tensor:
    """The translations (n, 3, 3) float64, of so many pixels per pixel of the frame."""
    matrices = torch.eye(3, dtype=torch.float64).repeat(len(params["right"]), 1, 1)
    matrices[:, 0, 2], matrices[:, 1, 2] = scale * params["right"], scale * params["down"]
    return matrices
