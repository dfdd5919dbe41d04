"""Indices of how alike two representations are that fit no map: linear CKA, orthogonal Procrustes, linear regression.

All three compare representations X (N, D_x) and Y (N, D_y) of the same N images, each dimension first taken about its
mean over them, and follow from one product XᵀY. They are computed in float64.

- `linear_cka`: a symmetric similarity, at most 1 and about 0 for unrelated representations; rotation, reflection,
  offset and one scale of either change nothing.
- `procrustes_distance`: a metric from 0 to √2; the same changes nothing.
- `Regression.r2`: a similarity with a direction, Y from X, at most 1 and about 0 for unrelated representations; no
  invertible affine map of X changes it, and of Y none of the above.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from invariance.errors import UserError

_CHUNK = 2048
"""Images in float64 at a time."""


@dataclass(frozen=True)
class Centred:
    """What an index needs of one representation.

    Attributes:
        images: N.
        mean: (D,) float64.
        square: (N,) squared norm of every image about the mean.
        gram_square: ‖XᵀX‖², X about its mean.
    """

    images: int
    mean: Tensor
    square: Tensor
    gram_square: float

    @property
    def total(self) -> float:
        """Sum of the squared norms: N times the variance, all dimensions together."""
        return float(self.square.sum())

    @property
    def constant(self) -> bool:
        """Whether nothing changes from image to image, to rounding: no index is defined then."""
        return self.total <= self.images * float(self.mean.square().sum()) * 1e-12


def centred(x: Tensor) -> Centred:
    """A representation (N, D) about its mean, on the device of x."""
    mean = _mean(x)
    square = torch.cat([(part.double() - mean).square().sum(1) for part in torch.split(x, _CHUNK)])
    return Centred(len(x), mean, square, float(cross_product(x, x).square().sum()))


def cross_product(x: Tensor, y: Tensor) -> Tensor:
    """XᵀY (D_x, D_y) of representations (N, D_x) and (N, D_y) about their means, float64, on the device of x.

    Raises:
        UserError: if they are not two tables of as many images.
    """
    if x.ndim != 2 or y.ndim != 2:
        raise UserError(f"representations of shapes {tuple(x.shape)} and {tuple(y.shape)}: give two of (N, D)")
    if len(x) != len(y):
        raise UserError(f"{len(x)} and {len(y)} images are not the same images")
    mean_x, mean_y = _mean(x), _mean(y)
    product = torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64, device=x.device)
    for part_x, part_y in zip(torch.split(x, _CHUNK), torch.split(y, _CHUNK), strict=True):
        product.addmm_((part_x.double() - mean_x).T, part_y.double() - mean_y)
    return product


def linear_cka(x: Centred, y: Centred, cross: Tensor) -> float:
    """Linear CKA with the unbiased estimate of HSIC (Kornblith et al. 2019; Song et al. 2012, Eq. 5); a similarity.

    Without the correction two unrelated representations of many dimensions look alike. It can be a little below 0.
    NaN for fewer than 4 images, or where a representation is constant.

    Args:
        x: X about its mean.
        y: Y about its mean.
        cross: XᵀY, from `cross_product`.

    Raises:
        UserError: if these are not of the same images, or `cross` has another shape.

    Example:
        >>> r = torch.rand(50, 8, generator=torch.Generator().manual_seed(0))
        >>> round(linear_cka(centred(r), centred(3 * r.flip(1)), cross_product(r, 3 * r.flip(1))), 6)
        1.0
    """
    _check(x.images, len(x.mean), y, cross)
    if x.images < 4 or x.constant or y.constant:
        return math.nan
    own = _hsic(x, x, x.gram_square) * _hsic(y, y, y.gram_square)
    return _hsic(x, y, float(cross.square().sum())) / math.sqrt(own) if own > 0 else math.nan


def procrustes_distance(x: Centred, y: Centred, cross: Tensor) -> float:
    """Least ‖X Q − Y‖ over orthogonal Q, X and Y of norm 1: √(2 − 2 ‖XᵀY‖_*) (Schönemann 1966); a metric.

    A representation of fewer dimensions is filled up with zeros. NaN where a representation is constant.

    Args:
        x: X about its mean.
        y: Y about its mean.
        cross: XᵀY, from `cross_product`.

    Raises:
        UserError: if these are not of the same images, or `cross` has another shape.
    """
    _check(x.images, len(x.mean), y, cross)
    if x.constant or y.constant:
        return math.nan
    nuclear = float(torch.linalg.svdvals(cross).sum()) / math.sqrt(x.total * y.total)
    return math.sqrt(max(0.0, 2 - 2 * nuclear))


class Regression:
    """Least squares from one representation: its Gram matrix is decomposed once, for any number of targets.

    Args:
        x: X, (N, D).

    Attributes:
        rank: how many of X's dimensions differ.
    """

    def __init__(self, x: Tensor) -> None:
        values, vectors = torch.linalg.eigh(cross_product(x, x))
        about = len(x) * _mean(x).square().sum() * 1e-12  # what rounding leaves of a constant
        kept = (values > values.max() * len(values) * torch.finfo(values.dtype).eps) & (values > about)
        self._images, self.rank = len(x), int(kept.sum())
        self._whiten = vectors[:, kept] / values[kept].sqrt()

    def r2(self, y: Centred, cross: Tensor) -> float:
        """Share of Y's variance that the best linear map of X explains, adjusted for the dimensions of X.

        R² = 1 − (1 − R²_plain)(N − 1)/(N − p − 1), p the rank of X: the plain share grows with p though nothing be
        explained. NaN for N ≤ p + 1 images, or where a representation is constant.

        Args:
            y: Y about its mean.
            cross: XᵀY, from `cross_product`.

        Raises:
            UserError: if these are not of the same images, or `cross` has another shape.
        """
        _check(self._images, len(self._whiten), y, cross)
        left = self._images - self.rank - 1
        if left < 1 or self.rank == 0 or y.constant:
            return math.nan
        plain = float((self._whiten.T @ cross).square().sum()) / y.total
        return 1 - (1 - plain) * (self._images - 1) / left


def _check(images: int, dims: int, y: Centred, cross: Tensor) -> None:
    """Refuse X of other images than Y, and a product that is not that of X and Y."""
    if images != y.images:
        raise UserError(f"{images} and {y.images} images are not the same images")
    wanted = (dims, len(y.mean))
    if tuple(cross.shape) != wanted:
        raise UserError(f"a product of shape {tuple(cross.shape)} is not {wanted}, that of cross_product(x, y)")


def _mean(x: Tensor) -> Tensor:
    total = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    for part in torch.split(x, _CHUNK):
        total += part.sum(0, dtype=torch.float64)
    return total / len(x)


def _hsic(x: Centred, y: Centred, cross_square: float) -> float:
    """Unbiased HSIC of linear kernels K = XXᵀ and L = YYᵀ without their diagonals, from D × D products alone.

    About the means the rows of K sum to 0, so those of K without its diagonal sum to −‖x_i‖².
    """
    n = x.images
    both = float(x.square @ y.square)
    trace = cross_square - both
    return (trace + x.total * y.total / ((n - 1) * (n - 2)) - 2 * both / (n - 2)) / (n * (n - 3))
