"""Orthogonal Procrustes distance of two representations: a metric from 0 to √2.

Rotation, reflection, offset and one scale of either representation change nothing.
"""

import math

import torch
from torch import Tensor

from invariance.measures.moments import Centred, Pairing, check_product

LARGE = 512
"""Singular values of products with more rows and columns than this are tried by eigenvalues; others take no time."""

TOLERANCE = 1e-7
"""The largest share of a distance that may be in doubt; else the singular values themselves are computed."""


def procrustes(pairing: Pairing) -> float:
    """`procrustes_distance` of two representations."""
    return procrustes_distance(pairing.x.about, pairing.y.about, pairing.cross)


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
    check_product(x.images, len(x.mean), y, cross)
    if x.constant or y.constant:
        return math.nan
    size = math.sqrt(x.total * y.total)
    if min(cross.shape) > LARGE:
        nuclear, bound = nuclear_by_eigenvalues(cross, x.images - 1)
        square = 2 - 2 * nuclear / size
        if bound / size <= TOLERANCE * square:  # an error e of d² is one of e / 2d of d: e / 2d² of it
            return math.sqrt(square)
    nuclear = float(torch.linalg.svdvals(cross).sum())
    return math.sqrt(max(0.0, 2 - 2 * nuclear / size))


def nuclear_by_eigenvalues(cross: Tensor, rank: int) -> tuple[float, float]:
    """‖C‖_*, the sum of singular values σ of C (D_x, D_y), from the eigenvalues λ = σ² of CᵀC, and its error at most.

    CᵀC and its eigenvalues are right to δ = D u λ₁, D being the larger side and u the spacing of float64 at 1; what was
    seen is a tenth of that at D = 500. With |λ̂ − λ| ≤ δ, σ̂ = √λ̂ is off by |λ̂ − λ| / (σ̂ + σ): by δ / σ̂ at most, and
    by √δ where σ̂ is nothing. So singular values below √δ are lost, and the error is at most Σ min(√δ, δ / σ̂).

    Args:
        cross: C, float64.
        rank: what its rank cannot exceed; further eigenvalues are 0.

    Returns:
        The sum and the bound of its error; that is NaN where C is 0.
    """
    upright = cross if cross.shape[0] >= cross.shape[1] else cross.T
    values = torch.linalg.eigvalsh(upright.T @ upright).clamp(min=0)[max(0, upright.shape[1] - rank) :]
    sigma, delta = values.sqrt(), len(upright) * torch.finfo(values.dtype).eps * values[-1]
    bound = torch.minimum(delta.sqrt(), delta / sigma)
    return float(sigma.sum()), float(bound.sum())
