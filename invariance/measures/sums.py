"""Sums over images from which measures of two representations follow, so that no representation need be kept.

X (N, D_x) and Y (N, D_y) are of the same N images, a batch at a time. Sums are of a = x − x₀ and b = y − y₀, in
float64, x₀ and y₀ fixed points near the means, so that little cancels. From these the means are δ = Σ a / N and ε off.
"""

from typing import Protocol, TypeVar

import torch
from torch import Tensor

from invariance.measures.moments import Centred, ComparedSide, Pairing

Made = TypeVar("Made", covariant=True)


class FromGram(Protocol[Made]):
    """What can be made of a Gram matrix about the mean."""

    def of_gram(self, gram: Tensor, images: int, mean: Tensor) -> Made:
        """It, of XᵀX (D, D) about the mean (D,) over so many images."""


class SideSums:
    """Sums over images of one representation.

    Args:
        near: x₀, (D,), near the mean.
    """

    def __init__(self, near: Tensor) -> None:
        self.near = near.double()
        self.images = 0
        dims = len(near)
        self.sum, self.by_square = self.near.new_zeros(dims), self.near.new_zeros(dims)
        self.square, self.fourth = self.near.new_zeros(()), self.near.new_zeros(())
        self.gram = self.near.new_zeros(dims, dims)

    def add(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Take in images x (B, D).

        Returns:
            a (B, D) and ‖a‖² (B,), float64, of which sums of two sides are made.
        """
        a = x.double() - self.near
        square = a.square().sum(1)
        self.images += len(x)
        self.sum += a.sum(0)
        self.square += square.sum()
        self.fourth += square @ square
        self.by_square.addmv_(a.T, square)
        self.gram.addmm_(a.T, a)
        return a, square

    @property
    def offset(self) -> Tensor:
        """δ (D,): the mean less x₀."""
        return self.sum / self.images

    def centred_gram(self) -> Tensor:
        """XᵀX (D, D), X about its mean."""
        return torch.addr(self.gram, self.offset, self.sum, alpha=-1)

    def about(self, gram: Tensor) -> Centred:
        """It about its mean, of its Gram matrix about the mean."""
        fourth = _products(
            self.fourth,
            (self.by_square, self.by_square),
            self.gram,
            (self.offset,) * 2,
            (self.square,) * 2,
            self.images,
        )
        total = float(self.square - self.images * self.offset.square().sum())
        return Centred(self.images, self.near + self.offset, float(gram.square().sum()), total, fourth)


class PairSums:
    """Sums over images of two representations, of which one is shared with other pairs.

    Args:
        x: of X, which are this pair's own.
        y: of Y.
    """

    def __init__(self, x: SideSums, y: SideSums) -> None:
        self.x, self.y = x, y
        new = x.near.new_zeros
        self.cross = new(len(x.near), len(y.near))
        self.squares, self.y_by_x, self.x_by_y = new(()), new(len(y.near)), new(len(x.near))

    def add(self, x: Tensor, y: tuple[Tensor, Tensor]) -> None:
        """Take in images x (B, D_x), with what `SideSums.add` gave for the same images' y."""
        a, square_a = self.x.add(x)
        b, square_b = y
        self.cross.addmm_(a.T, b)
        self.squares += square_a @ square_b
        self.y_by_x.addmv_(b.T, square_a)
        self.x_by_y.addmv_(a.T, square_b)

    def finite(self) -> bool:
        """Whether all images were finite numbers."""
        return bool(torch.isfinite(self.x.gram.sum() + self.y.gram.sum() + self.cross.sum()))

    def pairing(self, y: "SummedSide") -> Pairing:
        """What measures take, for the finished sums of Y."""
        shifts, totals = (self.x.offset, self.y.offset), (self.x.square, self.y.square)
        both = _products(self.squares, (self.y_by_x, self.x_by_y), self.cross, shifts, totals, self.x.images)
        cross = torch.addr(self.cross, self.x.offset, self.y.sum, alpha=-1)
        return Pairing(SummedSide(self.x), y, cross=cross, both=both)


class SummedSide(ComparedSide):
    """One of two representations that are compared, of which there are sums alone.

    Args:
        sums: over all images.
    """

    def __init__(self, sums: SideSums) -> None:
        self._gram = sums.centred_gram()
        super().__init__(None, sums.about(self._gram))

    def _make(self, make: FromGram[Made]) -> Made:
        about = self.about
        return make.of_gram(self._gram, about.images, about.mean)


def _products(
    squares: Tensor,
    by_square: tuple[Tensor, Tensor],
    cross: Tensor,
    offsets: tuple[Tensor, Tensor],
    totals: tuple[Tensor, Tensor],
    images: int,
) -> float:
    """Σ ‖x_i‖² ‖y_i‖² about the means, from sums about points near them.

    With ‖x_i‖² = ‖a_i‖² − 2 a_i·δ + ‖δ‖², and so of y, the product is multiplied out.

    Args:
        squares: Σ ‖a‖² ‖b‖².
        by_square: Σ ‖a‖² b and Σ ‖b‖² a.
        cross: Σ a bᵀ.
        offsets: δ and ε.
        totals: Σ ‖a‖² and Σ ‖b‖².
        images: N.
    """
    (b_by_a, a_by_b), (delta, epsilon), (total_a, total_b) = by_square, offsets, totals
    off_a, off_b = delta.square().sum(), epsilon.square().sum()
    linear = b_by_a @ epsilon + a_by_b @ delta
    found = squares - 2 * linear + 4 * (delta @ cross @ epsilon) + off_b * total_a + off_a * total_b
    return float(found - 3 * images * off_a * off_b)
