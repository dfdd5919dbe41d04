"""Contrast and saturation: how far pixels are from the picture's mean, and from gray."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from kornia.color import rgb_to_grayscale
from kornia.enhance import adjust_contrast_with_mean_subtraction, adjust_saturation_with_gray_subtraction
from torch import Tensor

from invariance.errors import UnfitImages
from invariance.transforms.base import GridPoint, Params, Still, range_grid
from invariance.transforms.checks import grid_values, needed_range, trained_range
from invariance.transforms.tabled import Mover, Shape, Tabled, Tables, with_staying

MOST = 10.0
"""The largest strength."""


class _Stretch(Tabled, Still):
    """What both are: every pixel nearer to something of the picture, or farther from it."""

    family: ClassVar[str]
    uniforms = 1

    def __init__(self, range: float | None = None, strengths: Sequence[float] = ()) -> None:
        self.range = trained_range(self.family, range, 0, 1, "a share of the picture's own", "range=0.5")
        self.strengths = grid_values(self.family, "strengths", strengths, -1, MOST)

    @property
    def tangent_unit(self) -> str:  # type: ignore[override]
        """What `tangent` is per."""
        return f"{self.family} (s)"

    def params_of(self, uniforms: Tensor) -> Params:
        """`strength` (n,) ~ U(−range, range)."""
        return {"strength": needed_range(self.family, self.range) * (2 * uniforms[:, 0] - 1)}

    def grid(self) -> list[GridPoint]:
        """The measured strengths."""
        return range_grid(self.strengths, "strength", self.range)

    def tables(self, params: Params, shape: Shape) -> Tables:
        """See `Tabled.tables`: `factor`, 1 + s.

        Raises:
            UnfitImages: for images of another number of channels than the family takes.
        """
        self._check(shape)
        return with_staying({"factor": 1 + params["strength"]}, params["strength"] == 0)

    def mover(self, tables: Tables, like: Tensor) -> Mover:
        """See `Tabled.mover`: images stretched by `strength`."""
        factor = tables["factor"].to(like.dtype)
        return lambda x: self._stretched(x / 255, factor.expand(len(x))).mul_(255).clamp_(0, 255)

    def tangent(self, x: Tensor) -> Tensor:
        """See `Transform.tangent`: x − m, per unit of s."""
        self._check(x.shape[1:])
        return x - self._middle(x)

    def _check(self, shape: Shape) -> None:
        if shape[0] not in (1, 3):
            raise UnfitImages(f"{self.family}: images of {shape[0]} channels; it takes gray ones or RGB")

    @abstractmethod
    def _middle(self, x: Tensor) -> Tensor:
        """M, of a shape that broadcasts over images (B, C, H, W)."""

    @abstractmethod
    def _stretched(self, x: Tensor, factor: Tensor) -> Tensor:
        """Images in [0, 1], by 1 + s for each (B,)."""


class Contrast(_Stretch):
    """Contrast: m is the mean over the picture of its gray values, .299 R + .587 G + .114 B.

    x becomes clamp(m + (1 + s)(x − m), 0, 255): s = −1 leaves m alone, 0 the image, 1 doubles its distance from m.

    Args:
        range: trained s ~ U(−range, range), at most 1; None for measuring alone.
        strengths: measured s, from −1 to 10.

    Raises:
        UserError: for arguments that are not such numbers.
    """

    family = "contrast"

    def _middle(self, x: Tensor) -> Tensor:
        return _gray(x).mean(dim=(1, 2, 3), keepdim=True)

    def _stretched(self, x: Tensor, factor: Tensor) -> Tensor:
        stretched: Tensor = adjust_contrast_with_mean_subtraction(x, factor)
        return stretched


class Saturation(_Stretch):
    """Saturation: m is the gray value of each pixel, .299 R + .587 G + .114 B. Gray images have none.

    x becomes clamp(m + (1 + s)(x − m), 0, 255): s = −1 leaves m alone, 0 the image, 1 doubles its distance from m.

    Args:
        range: trained s ~ U(−range, range), at most 1; None for measuring alone.
        strengths: measured s, from −1 to 10.

    Raises:
        UserError: for arguments that are not such numbers.
    """

    by_image = True

    family = "saturation"

    def _check(self, shape: Shape) -> None:
        if shape[0] != 3:
            raise UnfitImages(f"saturation: images of {shape[0]} channels have no colours; it takes RGB")

    def _middle(self, x: Tensor) -> Tensor:
        return _gray(x)

    def _stretched(self, x: Tensor, factor: Tensor) -> Tensor:
        stretched: Tensor = adjust_saturation_with_gray_subtraction(x, factor)
        return stretched


def _gray(x: Tensor) -> Tensor:
    """Gray values (B, 1, H, W)."""
    gray: Tensor = rgb_to_grayscale(x) if x.shape[1] == 3 else x
    return gray
