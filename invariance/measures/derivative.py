"""How fast a representation changes, image by image, in units of its own size (Lie derivative, arXiv 2210.02984)."""

import torch
from torch import Tensor

from invariance.errors import UserError


def derivative_per_image(d: Tensor, r: Tensor, scale: Tensor) -> Tensor:
    """‖d‖ / ‖r‖ of every image, each dimension first divided by `scale`, as L_L2 has it.

    A dimension whose scale is 0 is left out. An image with ‖r‖ = 0 in what remains is NaN: it is left out of the mean
    and counted.

    Args:
        d: (N, D), d φ(g_t x) / dt at t = 0.
        r: (N, D), φ(x).
        scale: (D,), from `invariance.measures.distance.rms`.

    Returns:
        (N,) float64.

    Raises:
        UserError: for other shapes.
    """
    if r.ndim != 2 or d.shape != r.shape or scale.shape != r.shape[1:]:
        shapes = ", ".join(str(tuple(one.shape)) for one in (d, r, scale))
        raise UserError(f"a derivative, a representation and a scale of shapes {shapes}: give (N, D), (N, D) and (D,)")
    alive = scale > 0
    weight = torch.where(alive, 1 / torch.where(alive, scale, 1.0), 0.0).to(r.dtype)
    # where alive is false the derivative may be infinite, and 0 · ∞ would be NaN
    whole = bool(alive.all())
    rate, size = (_norm(one if whole else torch.where(alive, one, 0.0), weight) for one in (d, r))
    return torch.where(size > 0, rate / size, torch.nan)


def _norm(r: Tensor, weight: Tensor) -> Tensor:
    """‖r · weight‖ of every image, (N,) float64."""
    norm: Tensor = torch.linalg.vector_norm(r * weight, dim=1, dtype=torch.float64)
    return norm
