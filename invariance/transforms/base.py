"""What every family of transformations is: drawing apart from applying, so that training draws and measuring fixes."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

Params = dict[str, Tensor]
"""Parameters of n transformations: each tensor is (n, …) on the CPU, float64 or int64."""


@dataclass(frozen=True)
class GridPoint:
    """One fixed transformation g of a family's measured grid.

    Attributes:
        label: its name within the family, as "-15" or "untouched"; unique in the grid.
        value: its place on the family's axis, in the family's unit.
        params: its parameters, with n = 1.
        covered: whether training at this range could have drawn it (shaded in the figures).
    """

    label: str
    value: float
    params: Params
    covered: bool


class Transform(ABC):
    """A family of transformations of images (B, C, H, W), floats in [0, 255].

    Conventions shared by all: x runs right and y down, the origin of geometry is the image's centre (W−1)/2, (H−1)/2,
    sampling is bilinear at pixel centres, what comes from outside is 0, results are clamped to [0, 255], and every
    image in a batch may have its own parameters.

    Lengths are pixels in a 227-pixel frame and scale with the input's shorter side unless `scale_lengths` is false.

    Attributes:
        unit: unit of the grid's axis ("°", "px", …; "" for an axis that only counts).
        ordinal: whether the axis only counts (mirror, crop): its figures show labels, not a number line.
        uniforms: how many uniform numbers one image's parameters take.
    """

    unit: ClassVar[str] = ""
    ordinal: ClassVar[bool] = False
    uniforms: ClassVar[int] = 0

    def sample(self, n: int, generator: torch.Generator) -> Params:
        """Draw parameters for n images as training does (Appendix A).

        Image i takes the i-th row of uniforms from `generator` (a CPU generator), so drawing 4 and then 4 gives what
        drawing 8 gives. The global random state is not touched.

        Raises:
            UserError: if the family was built without a range.
        """
        uniforms = torch.rand(n, self.uniforms, generator=generator, dtype=torch.float64)
        return self.params_of(uniforms)

    @abstractmethod
    def params_of(self, uniforms: Tensor) -> Params:
        """Parameters from uniform numbers (n, `uniforms`) in [0, 1): the family's distribution, by inversion."""

    @abstractmethod
    def grid(self) -> list[GridPoint]:
        """The measured grid, in the order of its axis, with the untouched point (label "untouched") among its points."""

    @abstractmethod
    def apply(self, x: Tensor, params: Params) -> Tensor:
        """g x, for images (B, C, H, W) on any device and parameters of n = B or n = 1; pure."""

    def source_size(self, input_size: int) -> int:
        """Side in pixels at which images must be prepared so that `apply` gives `input_size` (Crop: larger)."""
        return input_size
