"""What maps in closed form are made of: sums over images in float64, and the linear systems that follow from them.

R (n, D_in) and T (n, D_out) are the features of n images and what a map has to reach, each about its mean. With the
Gram matrix G = RᵀR and the cross products C = RᵀT, ridge of damping δ is W = (G + δI)⁻¹ C, here as (D_in, D_out).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

_CHUNK = 1024
"""Images turned to float64 at a time."""


@dataclass(frozen=True)
class Spectrum:
    """Ridge solutions of every damping δ at once: W = basis · diag(1 / (values + δ)) · vectorsᵀ · right.

    Attributes:
        values: (m,) eigenvalues, ascending.
        vectors: (m, m) eigenvectors, as columns.
        basis: (D_in, m).
        right: (m, D_out).
        unit: the damping that a strength of 1 stands for: n times the mean variance of a feature.
    """

    values: Tensor
    vectors: Tensor
    basis: Tensor
    right: Tensor
    unit: Tensor


class System(Protocol):
    """What ridge solutions are computed from: sums over images (`Moments`), or the images themselves (`Images`).

    Attributes:
        count: n.
        sum_r: (D_in,) sum of the features.
        sum_t: (D_out,) sum of what is to be reached.
    """

    count: int
    sum_r: Tensor
    sum_t: Tensor

    def numbers(self) -> tuple[Tensor, ...]:
        """All that its solutions depend on, beside the count."""

    def finite(self) -> bool:
        """Whether all images were finite numbers; decompositions refuse anything else."""

    def spectrum(self) -> Spectrum:
        """The solutions of every damping."""

    def solve(self, strengths: Sequence[float]) -> tuple[Tensor, Tensor]:
        """W (D_in, D_out) and b (D_out,) in float64, each stacked target at its own strength."""

    def reduced(self, strengths: Sequence[float], rank: int) -> tuple[Tensor, Tensor, Tensor]:
        """The best W of a rank at most, as factors: see `LowRankMap`.

        Returns:
            A (D_out, k), B (k times the stacked targets, D_in) and b (D_out,) in float64, k the least of the rank and
            the dimensions; of stacked target i the rows of A, B and b that are its own.
        """


class Moments:
    """Sums over images, in float64, from which closed forms follow: never more than one block in float64 at a time.

    Args:
        inputs: D_in.
        outputs: D_out.
        device: where the sums are kept.
        gram: whether the Gram matrix is wanted, which rotations do without.
    """

    def __init__(self, inputs: int, outputs: int, device: torch.device | str = "cpu", *, gram: bool = True) -> None:
        def zeros(*size: int) -> Tensor:
            """Sums, in float64."""
            return torch.zeros(size, dtype=torch.float64, device=device)

        self.count = 0
        self.sum_r, self.sum_t = zeros(inputs), zeros(outputs)
        self.gram, self.cross = zeros(inputs, inputs) if gram else zeros(0, 0), zeros(inputs, outputs)

    def add(self, r: Tensor, t: Tensor) -> None:
        """Take in images r (B, D_in) with targets t (B, D_out)."""
        for part_r, part_t in zip(torch.split(r, _CHUNK), torch.split(t, _CHUNK), strict=True):
            wide_r, wide_t = part_r.double(), part_t.double()
            self.sum_r += wide_r.sum(0)
            self.sum_t += wide_t.sum(0)
            if len(self.gram):
                self.gram.addmm_(wide_r.T, wide_r)
            self.cross.addmm_(wide_r.T, wide_t)
            self.count += len(wide_r)

    def __add__(self, other: Self) -> Self:
        """The sums over the images of both."""
        both = type(self)(len(self.sum_r), len(self.sum_t), self.cross.device, gram=bool(len(self.gram)))
        for name in ("sum_r", "sum_t", "gram", "cross"):
            torch.add(getattr(self, name), getattr(other, name), out=getattr(both, name))
        both.count = self.count + other.count
        return both

    def numbers(self) -> tuple[Tensor, ...]:
        """See `System`."""
        return self.sum_r, self.sum_t, self.gram, self.cross

    def finite(self) -> bool:
        """See `System`."""
        return bool(torch.isfinite(self.gram.sum() + self.cross.sum()))

    def centred(self) -> tuple[Tensor, Tensor]:
        """Gram matrix (D_in, D_in) and cross products (D_in, D_out) about the means."""
        mean_r = self.sum_r / self.count
        gram = torch.addr(self.gram, mean_r, self.sum_r, alpha=-1)
        return (gram + gram.T) / 2, torch.addr(self.cross, mean_r, self.sum_t, alpha=-1)

    def spectrum(self) -> Spectrum:
        """See `System`."""
        gram, cross = self.centred()
        values, vectors = torch.linalg.eigh(gram)
        return Spectrum(values, vectors, vectors, cross, gram.diagonal().mean())

    def solve(self, strengths: Sequence[float]) -> tuple[Tensor, Tensor]:
        """See `System`."""
        gram, cross = self.centred()
        weight = solve_each(gram, cross, gram.diagonal().mean(), strengths)
        bias: Tensor = (self.sum_t - self.sum_r @ weight) / self.count  # the residuals' mean is 0
        return weight, bias

    def reduced(self, strengths: Sequence[float], rank: int) -> tuple[Tensor, Tensor, Tensor]:
        """See `System`: V of `LowRankMap` are eigenvectors of Cᵀ W, the Gram matrix of what ridge fits."""
        weight, _ = self.solve(strengths)
        _, cross = self.centred()
        factors = []
        for own, target in zip(weight.chunk(len(strengths), 1), cross.chunk(len(strengths), 1), strict=True):
            fitted = target.T @ own
            _, vectors = torch.linalg.eigh((fitted + fitted.T) / 2)
            leading = vectors[:, vectors.shape[1] - min(rank, *own.shape) :]
            factors.append((leading, (own @ leading).T))
        return with_bias(self, factors)


def with_bias(system: System, factors: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Factors A and B of every stacked target as one, and the b that goes with them: the residuals' mean is 0."""
    mean_r, mean_t = system.sum_r / system.count, system.sum_t / system.count
    shifts = [left @ (right @ mean_r) for left, right in factors]
    left, right = (torch.cat(one) for one in zip(*factors, strict=True))
    return left, right, mean_t - torch.cat(shifts)


def solve_each(square: Tensor, right: Tensor, unit: Tensor, strengths: Sequence[float]) -> Tensor:
    """(square + strength · unit · I)⁻¹ right, each of the targets stacked along the columns at its own strength.

    Args:
        square: (m, m), symmetric, no eigenvalue below 0.
        right: (m, D_out).
        unit: the damping that a strength of 1 stands for.
        strengths: one a stacked target.
    """
    solution = torch.empty_like(right)
    stacked = len(strengths)
    parts, out = right.chunk(stacked, dim=1), solution.chunk(stacked, dim=1)
    for strength in sorted(set(strengths)):
        members = [k for k, one in enumerate(strengths) if one == strength]
        solved = _solve_damped(square, strength * unit, torch.cat([parts[k] for k in members], 1))
        for k, part in zip(members, solved.chunk(len(members), dim=1), strict=True):
            out[k].copy_(part)
    return solution


def above_rounding(values: Tensor) -> Tensor:
    """Eigenvalues of a Gram matrix, those that are nothing but rounding as 0."""
    floor = values.abs().max() * len(values) * torch.finfo(values.dtype).eps
    return torch.where(values > floor, values, 0.0)


def inverse_of(values: Tensor, damping: Tensor) -> Tensor:
    """1 / (values + damping) for eigenvalues of a Gram matrix; 0 where both are nothing, the least solution."""
    damped = above_rounding(values) + damping
    return torch.where(damped > 0, 1 / torch.where(damped > 0, damped, 1.0), 0.0)


def _solve_damped(square: Tensor, damping: Tensor, right: Tensor) -> Tensor:
    """(square + damping · I)⁻¹ right; the least solution where that is singular, as without damping it may be."""
    solution: Tensor
    if damping > 0:
        damped = square.clone()
        damped.diagonal().add_(damping)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            solution = torch.cholesky_solve(right, factor)
            return solution
    values, vectors = torch.linalg.eigh(square)
    solution = vectors @ (inverse_of(values, damping)[:, None] * (vectors.T @ right))
    return solution
