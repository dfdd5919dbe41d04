"""What every family of transformations is: drawing apart from applying, so that training draws and measuring fixes.

A family of one's own gives `params_of`, `grid` and `apply`. Those of this package give, in place of `apply`, the steps
it is made of (`tabled`), so that what parameters come to is worked out once, and away from the device.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invariance.errors import UserError
from invariance.transforms.feature_maps import Pair, Size, places_of, taken_from

UNTOUCHED = "untouched"
"""Label of the grid point at which nothing is done."""

FRAME = 227
"""Side in pixels of the frame in which lengths are given: the paper's input size."""

_UNDO = (
    "give it a method undo(map, params, stride, offset, size), as Transform.undo tells, or leave spatial and warp out"
)

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
    ordinal: bool = False
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

    def fixed(self, params: Params, like: Tensor) -> Callable[[Tensor], Tensor]:
        """One g as a function of images, for batches of the size, type and device of `like`; pure, as `apply`.

        Args:
            params: its parameters, with n = 1, or the n of all batches.
            like: images (B, C, H, W), of which the numbers do not matter.
        """
        return lambda x: self.apply(x, params)

    def beside(self) -> dict[str, object]:
        """What decides g beside its parameters, where two grids of the same labels may differ in it."""
        return {}

    def tangent(self, x: Tensor) -> Tensor | None:
        """How images (B, C, H, W) change at first, d g_t x / dt at t = 0 per `tangent_unit`: of their shape.

        The clamp to [0, 255] is left out. None for a family of which no g does arbitrarily little, as a flip.
        """
        return None

    def undo(self, map: Tensor, params: Params, stride: Pair, offset: Pair, size: Size) -> tuple[Tensor, Tensor]:
        """S_g⁻¹: a feature map of gx with its positions moved back to where they are in that of x.

        Args:
            map: (B, C, H, W), of a layer, on any device.
            params: parameters of g, n = B or 1.
            stride: pixels of gx from a position to the next, down and right.
            offset: where position (0, 0) lies, in pixels from the centre of the first pixel of gx, down and right.
            size: height and width of the images x that `apply` takes.

        Returns:
            The map, bilinear between positions; and those positions whose source lies beyond the outermost ones, (n, H,
            W) bool, which keep their own value.

        Raises:
            UserError: if the family moves pixels and does not say where to.
        """
        places = self.goes_to(places_of(map, stride, offset), params, size)
        return taken_from(map, places, stride, offset)

    def act(self, map: Tensor, params: Params, stride: Pair, offset: Pair, size: Size) -> tuple[Tensor, Tensor]:
        """S_g: a feature map of x with its positions moved as g moves the image; arguments and errors as `undo`."""
        places = self.comes_from(places_of(map, stride, offset), params, size)
        return taken_from(map, places, stride, offset)

    def goes_to(self, places: Tensor, params: Params, size: Size) -> Tensor:
        """Where in gx that lies which x has at some places: (1, 2, H, W) to (n, 2, H, W), as `feature_maps` has them.

        Raises:
            UserError: if the family does not say so.
        """
        raise UserError(f"spatial: {type(self).__name__} has no undo; {_UNDO}")

    def comes_from(self, places: Tensor, params: Params, size: Size) -> Tensor:
        """Where in x that lies which gx has at some places, the inverse of `goes_to`; arguments and errors alike."""
        raise UserError(f"spatial: {type(self).__name__} has no act; {_UNDO}")

    @property
    def undoes(self) -> bool:
        """Whether there is S_g⁻¹."""
        own = type(self)
        return own.undo is not Transform.undo or own.goes_to is not Transform.goes_to

    @property
    def acts(self) -> bool:
        """Whether there is S_g."""
        own = type(self)
        return own.act is not Transform.act or own.comes_from is not Transform.comes_from

    def source_size(self, input_size: int) -> int:
        """Side in pixels at which images must be prepared so that `apply` gives `input_size` (Crop: larger)."""
        return input_size


class Still(Transform):
    """A family that leaves everything where it is, so that on a feature map there is nothing to undo."""

    def undo(self, map: Tensor, params: Params, stride: Pair, offset: Pair, size: Size) -> tuple[Tensor, Tensor]:
        """The map itself, no position of which has its source outside."""
        return map, torch.zeros(1, *map.shape[2:], dtype=torch.bool, device=map.device)

    def act(self, map: Tensor, params: Params, stride: Pair, offset: Pair, size: Size) -> tuple[Tensor, Tensor]:
        """As `undo`."""
        return self.undo(map, params, stride, offset, size)


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


def frame_scale(shape: Sequence[int], scale_lengths: bool) -> float:
    """Pixels of images of a shape (…, H, W) per pixel of the 227-pixel frame, by the shorter side; 1 if unscaled."""
    return min(shape[-2:]) / FRAME if scale_lengths else 1.0


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


def range_grid(values: Iterable[float], key: str, trained: float | None) -> list[GridPoint]:
    """A grid on a number line of a family with one number, `key`, of which training draws U(−range, range)."""
    return line_grid(
        values,
        lambda value: {key: torch.tensor([value], dtype=torch.float64)},
        lambda value: trained is not None and abs(value) <= trained,
    )
