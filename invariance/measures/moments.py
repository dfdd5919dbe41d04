"""What measures of two representations are made of: means, norms and products over images, in float64.

X (N, D_x) and Y (N, D_y) are of the same N images; each dimension is taken about its mean over them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from invariance.errors import UserError

_CHUNK = 2048
"""Images in float64 at a time."""

Made = TypeVar("Made")


@dataclass(frozen=True)
class Centred:
    """What an index needs of one representation.

    Attributes:
        images: N.
        mean: (D,) float64.
        gram_square: ‖XᵀX‖², X about its mean.
        total: Σ ‖x_i‖² about the mean: N times the variance, all dimensions together.
        fourth: Σ ‖x_i‖⁴ about the mean.
        square: (N,) ‖x_i‖² about the mean; None where there were sums alone.
    """

    images: int
    mean: Tensor
    gram_square: float
    total: float
    fourth: float
    square: Tensor | None = None

    @property
    def constant(self) -> bool:
        """Whether nothing changes from image to image, to rounding: no index is defined then."""
        return self.total <= self.images * float(self.mean.square().sum()) * 1e-12


def centred(x: Tensor) -> Centred:
    """A representation (N, D) about its mean, on the device of x."""
    mean = mean_of(x)
    square = torch.cat([(part.double() - mean).square().sum(1) for part in torch.split(x, _CHUNK)])
    gram_square = float(cross_product(x, x).square().sum())
    return Centred(len(x), mean, gram_square, float(square.sum()), float(square @ square), square)


def cross_product(x: Tensor, y: Tensor) -> Tensor:
    """XᵀY (D_x, D_y) of representations (N, D_x) and (N, D_y) about their means, float64, on the device of x.

    Raises:
        UserError: if they are not two tables of as many images.
    """
    check_tables(x, y)
    mean_x, mean_y = mean_of(x), mean_of(y)
    product = torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64, device=x.device)
    for part_x, part_y in zip(torch.split(x, _CHUNK), torch.split(y, _CHUNK), strict=True):
        product.addmm_((part_x.double() - mean_x).T, part_y.double() - mean_y)
    return product


class ComparedSide:
    """One of two representations that are compared, with what is computed of it once for any number of others.

    Args:
        values: (N, D); None where there are sums alone.
        about: it about its mean, where that is known already.
    """

    def __init__(self, values: Tensor | None, about: Centred | None = None) -> None:
        self._values = values
        self._made: dict[object, Any] = {} if about is None else {centred: about}

    @property
    def values(self) -> Tensor:
        """(N, D)."""
        assert self._values is not None, "there are sums alone"
        return self._values

    @property
    def about(self) -> Centred:
        """It about its mean."""
        return self.once(centred)

    def once(self, make: Callable[[Tensor], Made]) -> Made:
        """What `make(values)` gives, computed when it is first asked for."""
        if make not in self._made:
            self._made[make] = self._make(make)
        made: Made = self._made[make]
        return made

    def _make(self, make: Any) -> Any:  # noqa: ANN401
        return make(self.values)


class Pairing:
    """Two representations X and Y of the same images, and what measures of them share.

    Args:
        x: X.
        y: Y, on the device of X.
        cross: XᵀY (D_x, D_y) about the means, float64, or what gives it; None: it is made of the values.
        both: Σ ‖x_i‖² ‖y_i‖² about the means; None: likewise.

    Raises:
        UserError: if they are not two tables of as many images.
    """

    def __init__(
        self,
        x: ComparedSide,
        y: ComparedSide,
        *,
        cross: Tensor | Callable[[], Tensor] | None = None,
        both: float | None = None,
    ) -> None:
        if cross is None:
            check_tables(x.values, y.values)
        self.x, self.y, self._cross, self.both = x, y, cross, both

    @cached_property
    def cross(self) -> Tensor:
        """XᵀY (D_x, D_y) about the means, float64."""
        if self._cross is None:
            return cross_product(self.x.values, self.y.values)
        return self._cross if isinstance(self._cross, Tensor) else self._cross()

    def back(self) -> "Pairing":
        """Y and X, whose product is this one's, made once for both when it is first asked for."""
        return Pairing(self.y, self.x, cross=lambda: self.cross.T, both=self.both)


def check_tables(x: Tensor, y: Tensor) -> None:
    """Refuse what are not two tables of as many images."""
    if x.ndim != 2 or y.ndim != 2:
        raise UserError(f"representations of shapes {tuple(x.shape)} and {tuple(y.shape)}: give two of (N, D)")
    if len(x) != len(y):
        raise UserError(f"{len(x)} and {len(y)} images are not the same images")


def check_product(images: int, dims: int, y: Centred, cross: Tensor) -> None:
    """Refuse X of other images than Y, and a product that is not that of X and Y."""
    if images != y.images:
        raise UserError(f"{images} and {y.images} images are not the same images")
    wanted = (dims, len(y.mean))
    if tuple(cross.shape) != wanted:
        raise UserError(f"a product of shape {tuple(cross.shape)} is not {wanted}, that of cross_product(x, y)")


def thin(x: Tensor) -> Tensor:
    """A representation (N, D) of more dimensions than images, turned into N of them: (N, N), float64.

    XXᵀ about the mean stays what it is, and with it all that a rotation of X does not change: CKA, Procrustes, R².
    One of no more dimensions than images is given back as it is.
    """
    images, dims = x.shape
    if dims <= images:
        return x
    mean = mean_of(x)
    gram = torch.zeros(images, images, dtype=torch.float64, device=x.device)
    for columns in torch.split(torch.arange(dims, device=x.device), _CHUNK):
        part = x[:, columns].double() - mean[columns]
        gram.addmm_(part, part.T)
    values, vectors = torch.linalg.eigh(gram)
    turned: Tensor = vectors * values.clamp(min=0).sqrt()
    return turned


def mean_of(x: Tensor) -> Tensor:
    """Mean (D,) of a representation (N, D) over its images, float64."""
    total = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    for part in torch.split(x, _CHUNK):
        total += part.sum(0, dtype=torch.float64)
    return total / len(x)
