"""What every family of transformations is: drawing apart from applying, so that training draws and measuring fixes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invariance.errors import UserError

UNTOUCHED = "untouched"
"""Label of the grid point at which nothing is done."""

FRAME = 227
"""Side in pixels of the frame in which lengths are given: the paper's input size."""

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
        tangent_unit: what `tangent` is per: one ° of a rotation, one σ² of a blur; "" for a family that has none.
    """

    unit: str = ""
    ordinal: ClassVar[bool] = False
    uniforms: ClassVar[int] = 0
    tangent_unit: str = ""

    def sample(self, n: int, generator: torch.Generator) -> Params:
        """Draw parameters for n images as training does (Appendix A).

        Image i takes the i-th row of uniforms from `generator` (a CPU generator), so drawing 4 and then 4 gives what
        drawing 8 gives. The global random state is not touched.

        Raises:
            UserError: if the family was built without a range, or without a generator.
        """
        if not isinstance(generator, torch.Generator):
            raise UserError(f"generator={generator!r}: give a torch.Generator, as torch.Generator().manual_seed(0)")
        uniforms = torch.rand(n, self.uniforms, generator=generator, dtype=torch.float64)
        return self.params_of(uniforms)

    @abstractmethod
    def params_of(self, uniforms: Tensor) -> Params:
        """Parameters from uniform numbers (n, `uniforms`) in [0, 1): the family's distribution, by inversion."""

    @abstractmethod
    def grid(self) -> list[GridPoint]:
        """The measured grid, in the order of its axis, with the untouched point (label "untouched") among them."""

    @abstractmethod
    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Images g x, for x (B, C, H, W) on any device and parameters of n = B or n = 1; pure."""

    def beside(self) -> dict[str, object]:
        """What decides g beside its parameters, where two grids of the same labels may differ in it."""
        return {}

    def tangent(self, x: Tensor) -> Tensor | None:
        """How images (B, C, H, W) change at first, d g_t x / dt at t = 0 per `tangent_unit`: of their shape.

        The clamp to [0, 255] is left out. None for a family of which no g does arbitrarily little, as a flip.
        """
        return None

    def source_size(self, input_size: int) -> int:
        """Side in pixels at which images must be prepared so that `apply` gives `input_size` (Crop: larger)."""
        return input_size


def check_batch(x: Tensor, params: Params) -> int:
    """Number n of parameters, after making sure that they belong to images (B, C, H, W): n is B or 1.

    Raises:
        ValueError: for images that are not a floating-point batch, or parameters of another number of images.
    """
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"images of shape {tuple(x.shape)} and {x.dtype}: a transform takes floats (B, C, H, W)")
    counts = {len(value) for value in params.values()}
    if len(counts) > 1 or not counts <= {1, len(x)}:
        raise ValueError(f"parameters for {sorted(counts)} images on a batch of {len(x)}: it takes 1 or {len(x)}")
    return counts.pop() if counts else 1


def frame_scale(x: Tensor, scale_lengths: bool) -> float:
    """Pixels of the images (…, H, W) per pixel of the 227-pixel frame, by their shorter side; 1 if unscaled."""
    return min(x.shape[-2:]) / FRAME if scale_lengths else 1.0


def unscaled(scale_lengths: bool) -> dict[str, object]:
    """What `Transform.beside` says of lengths: nothing where they scale with the images, as they do by default."""
    return {} if scale_lengths else {"scale_lengths": False}


def line_grid(
    values: Iterable[float], params_at: Callable[[float], Params], covered: Callable[[float], bool]
) -> list[GridPoint]:
    """A grid on a number line: the values and 0, in order; labels are the numbers as text, "untouched" at 0."""
    return [
        GridPoint(f"{value:g}" if value else UNTOUCHED, value, params_at(value), value == 0 or covered(value))
        for value in sorted({0.0, *values})
    ]
