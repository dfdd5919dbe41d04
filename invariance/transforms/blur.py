"""Gaussian blur (A.4)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from invariance.transforms.base import GridPoint, Params, Still, frame_scale, line_grid, unscaled
from invariance.transforms.checks import choice, flag, grid_values, needed_range, trained_range
from invariance.transforms.smoothing import kernel, laplacian, smoother
from invariance.transforms.tabled import Mover, Shape, Tabled, Tables, with_staying

WIDEST = 113.0


class Blur(Tabled, Still):
    """Every pixel becomes the average of its neighbours with Gaussian weights of standard deviation σ, cut off at 4 σ.

    Args:
        range: trained blurs are σ ~ U(0, range), in pixels of a 227-pixel frame, at most 113; None for measuring alone.
        sigmas: measured σ, in the same unit.
        border: what lies outside: "reflect_101" for the image mirrored about its outermost pixels, as OpenCV does, and
            the authors' code with it; "reflect" for the image mirrored at its edges; or "zero".
        scale_lengths: whether σ scales with the size of the images; if not, it is in their own pixels.

    Raises:
        UserError: for arguments that are not such values.
    """

    by_image = True

    unit = "px"
    tangent_unit = "σ² (px²)"
    uniforms = 1

    def __init__(
        self,
        range: float | None = None,
        sigmas: Sequence[float] = (),
        border: str = "reflect_101",
        scale_lengths: bool = True,
    ) -> None:
        self.range = trained_range("blur", range, 0, WIDEST, "pixels (σ)", "range=3")
        self.sigmas = grid_values("blur", "sigmas", sigmas, 0, WIDEST)
        self.border = choice("blur", "border", border, ("reflect_101", "reflect", "zero"))
        self.scale_lengths = flag("blur", "scale_lengths", scale_lengths)

    def params_of(self, uniforms: Tensor) -> Params:
        """`sigma` (n,) ~ U(0, range)."""
        return {"sigma": needed_range("blur", self.range) * uniforms[:, 0]}

    def grid(self) -> list[GridPoint]:
        """The measured σ."""
        return line_grid(
            self.sigmas,
            lambda sigma: {"sigma": torch.tensor([sigma], dtype=torch.float64)},
            lambda sigma: self.range is not None and sigma <= self.range,
        )

    def beside(self) -> dict[str, object]:
        """The border, and whether lengths are the images' own."""
        return {"border": self.border, **unscaled(self.scale_lengths)}

    def tables(self, params: Params, shape: Shape) -> Tables:
        """See `Tabled.tables`: kernels for `sigma`."""
        sigma = params["sigma"] * frame_scale(shape, self.scale_lengths)
        return with_staying({"weights": kernel(sigma)}, sigma == 0)

    def mover(self, tables: Tables, like: Tensor) -> Mover:
        """See `Tabled.mover`: images blurred by `sigma`."""
        smoothed = smoother(tables["weights"], like, self.border)
        return lambda x: smoothed(x).clamp_(0, 255)

    def tangent(self, x: Tensor) -> Tensor:
        """See `Transform.tangent`: ½ Δx per σ² in the frame, as Gaussian smoothing is heat that spreads for σ² / 2.

        A kernel sampled at pixels does nothing at the smallest σ; this is what it does from about one pixel on, for an
        image that is smooth.
        """
        return laplacian(x, self.border).mul_(0.5 * frame_scale(x.shape, self.scale_lengths) ** 2)
