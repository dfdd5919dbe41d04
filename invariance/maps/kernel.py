"""Ridge in its dual form: where there are fewer images than dimensions, n × n takes the place of D × D.

With K = RRᵀ, the inner products of n images about their mean, W = Rᵀ (K + δI)⁻¹ T is the same solution as
(RᵀR + δI)⁻¹ RᵀT: Rᵀ (RRᵀ + δI) = (RᵀR + δI) Rᵀ.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from invariance.maps.moments import Spectrum, above_rounding, inverse_of, solve_each, with_bias


def fewer_images(images: int, inputs: int) -> bool:
    """Whether the dual form is the one to take: it then costs less than the other, and takes less memory."""
    return images < inputs


class Images:
    """Images from which ridge solutions follow in the dual form; see `System`.

    Args:
        r: (n, D_in) features, which are not copied.
        t: (n, D_out) what is to be reached.
    """

    def __init__(self, r: Tensor, t: Tensor) -> None:
        self._r, self._t = r, t
        self.count = len(r)
        self.sum_r, self.sum_t = r.sum(0, dtype=torch.float64), t.sum(0, dtype=torch.float64)

    def numbers(self) -> tuple[Tensor, ...]:
        """See `System`."""
        return self._r, self._t

    def finite(self) -> bool:
        """See `System`."""
        return bool(torch.isfinite(self.sum_r.sum() + self.sum_t.sum()))

    def spectrum(self) -> Spectrum:
        """See `System`."""
        r, t = self._centred()
        kernel = r @ r.T
        values, vectors = torch.linalg.eigh(kernel)
        return Spectrum(values, vectors, r.T @ vectors, t, self._unit(kernel))

    def solve(self, strengths: Sequence[float]) -> tuple[Tensor, Tensor]:
        """See `System`."""
        r, t = self._centred()
        kernel = r @ r.T
        weight = r.T @ solve_each(kernel, t, self._unit(kernel), strengths)
        return weight, (self.sum_t - self.sum_r @ weight) / self.count

    def reduced(self, strengths: Sequence[float], rank: int) -> tuple[Tensor, Tensor, Tensor]:
        """See `System`: what ridge fits has the Gram matrix Tᵀ K (K + δI)⁻¹ T, of rank n at most: nothing is D × D."""
        r, t = self._centred()
        kernel = r @ r.T
        values, vectors = torch.linalg.eigh(kernel)
        unit, factors = self._unit(kernel), []
        for target, strength in zip(t.chunk(len(strengths), 1), strengths, strict=True):
            loads, inverse = vectors.T @ target, inverse_of(values, strength * unit)
            shares = above_rounding(values) * inverse
            width = min(rank, r.shape[1], target.shape[1])
            leading = torch.linalg.svd(shares.sqrt()[:, None] * loads, full_matrices=False).Vh[:width].T
            right = (r.T @ (vectors @ (inverse[:, None] * (loads @ leading)))).T
            missing = width - leading.shape[1]  # n dimensions fit n images, and more would fit nothing
            factors.append((functional.pad(leading, (0, missing)), functional.pad(right, (0, 0, 0, missing))))
        return with_bias(self, factors)

    def _centred(self) -> tuple[Tensor, Tensor]:
        """R and T about their means, float64."""
        return self._r.double() - self.sum_r / self.count, self._t.double() - self.sum_t / self.count

    def _unit(self, kernel: Tensor) -> Tensor:
        """The damping that a strength of 1 stands for: the trace of RᵀR is that of RRᵀ."""
        return kernel.diagonal().sum() / len(self.sum_r)
