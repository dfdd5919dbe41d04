"""How fast a representation changes, image by image, in units of its own size (Lie derivative, arXiv 2210.02984)."""

import torch
from torch import Tensor

from invariance.errors import UserError
from invariance.measures.distance import scale_of_layer


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


class Rates:
    """‖d‖ / ‖r‖ of images whose own numbers give the scale, one a channel, which is known when all were seen.

    Args:
        channel_of: (D,) int64, which channel each dimension is of; every channel has as many, together or in turn.

    Raises:
        ValueError: if the channels lie otherwise: see `fits`.
    """

    def __init__(self, channel_of: Tensor) -> None:
        self.channels = int(channel_of.max()) + 1
        if not self.fits(channel_of):
            raise ValueError("channels of unlike sizes")
        together = bool((channel_of.view(self.channels, -1) == channel_of.view(self.channels, -1)[:, :1]).all())
        self._shape, self._over = ((self.channels, -1), 2) if together else ((-1, self.channels), 1)
        self._per_channel = len(channel_of) // self.channels
        self._parts: list[tuple[Tensor, Tensor]] = []

    @staticmethod
    def fits(channel_of: Tensor) -> bool:
        """Whether the dimensions of a channel lie all together, or every C-th is of it."""
        channels = int(channel_of.max()) + 1
        if len(channel_of) % channels:
            return False
        own = torch.arange(channels, device=channel_of.device)
        rows = channel_of.view(channels, -1), channel_of.view(-1, channels)
        return bool((rows[0] == own[:, None]).all()) or bool((rows[1] == own).all())

    def add(self, d: Tensor, r: Tensor) -> None:
        """Take in d and r (B, D) of some images."""
        wide = (one.to(torch.promote_types(one.dtype, torch.float32)) for one in (d, r))
        rate, size = (one.reshape(len(one), *self._shape).square().sum(self._over).cpu() for one in wide)
        self._parts.append((rate, size))

    @property
    def finite(self) -> bool:
        """Whether no square was too large for its type, nor any number itself broken."""
        return all(bool(one.isfinite().all()) for part in self._parts for one in part)

    def finish(self) -> Tensor:
        """Those of all images, (N,) float64, as `derivative_per_image` has them with the scale of `scale_of_layer`."""
        rate, size = (torch.cat(parts).double() for parts in zip(*self._parts, strict=True))
        mean = size.mean(0) / self._per_channel
        scale = scale_of_layer(mean.sqrt(), torch.arange(self.channels))
        weight = torch.where(scale > 0, 1 / torch.where(scale > 0, scale, 1.0).square(), 0.0)
        rate, size = (torch.where(scale > 0, one, 0.0) @ weight for one in (rate, size))
        return torch.where(size > 0, (rate / size).sqrt(), torch.nan)
