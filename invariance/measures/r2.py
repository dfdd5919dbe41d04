"""Adjusted R² of one representation from another: a similarity with a direction, at most 1.

It is about 0 for unrelated representations. No invertible affine map of the source changes it; of the target rotation,
reflection, offset and one scale do not.
"""

import math
from typing import Self

import torch
from torch import Tensor

from invariance.measures.moments import Centred, Pairing, check_product, cross_product, mean_of


def r2(pairing: Pairing) -> float:
    """`Regression.r2` of the second representation from the first."""
    return pairing.x.once(Regression).r2(pairing.y.about, pairing.cross)


class Regression:
    """Least squares from one representation: its Gram matrix is decomposed once, for any number of targets.

    Args:
        x: X, (N, D).

    Attributes:
        rank: how many of X's dimensions differ.
    """

    def __init__(self, x: Tensor) -> None:
        self._decompose(cross_product(x, x), len(x), mean_of(x))

    @classmethod
    def of_gram(cls, gram: Tensor, images: int, mean: Tensor) -> Self:
        """The same from XᵀX (D, D) about the mean (D,) over so many images."""
        made = cls.__new__(cls)
        made._decompose(gram, images, mean)
        return made

    def _decompose(self, gram: Tensor, images: int, mean: Tensor) -> None:
        values, vectors = torch.linalg.eigh(gram)
        about = images * mean.square().sum() * 1e-12  # what rounding leaves of a constant
        kept = (values > values.max() * len(values) * torch.finfo(values.dtype).eps) & (values > about)
        self._images, self.rank = images, int(kept.sum())
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
        check_product(self._images, len(self._whiten), y, cross)
        left = self._images - self.rank - 1
        if left < 1 or self.rank == 0 or y.constant:
            return math.nan
        plain = float((self._whiten.T @ cross).square().sum()) / y.total
        return 1 - (1 - plain) * (self._images - 1) / left
