"""L_L2: how far a representation is from another, image by image, in units of its own size (Sec. 3.3)."""

import torch
from torch import Tensor

from invariance.errors import UserError

_CHUNK = 4096
"""Images worked on at a time."""

_NUMBERS = 2**24
"""Numbers worked on at a time, where an image has many."""

LEAST_SCALE = 0.01
"""The least scale of a dimension, as a share of the layer's RMS."""


def rms(r: Tensor) -> Tensor:
    """Root mean square of every dimension of r (N, D), as (D,) float64: the scale of L_L2, taken over the fit split."""
    total = torch.zeros(r.shape[1], dtype=torch.float64, device=r.device)
    for part in torch.split(r, _at_a_time(r)):
        total += part.double().square().sum(0)
    return (total / len(r)).sqrt()


def scale_of_layer(scale: Tensor, channel_of: Tensor) -> Tensor:
    """The scale of L_L2 at a layer of any network, (D,) float64: one a channel, and never near 0.

    The RMS of each channel over images and positions, which all of its dimensions share, and at least 1 % of the RMS of
    all dimensions: else dimensions that hardly ever differ from 0 decide the distance.

    Args:
        scale: (D,), the RMS of every dimension over the images that give the scale.
        channel_of: (D,) int64, which channel each dimension is of.
    """
    pooled = rms_of_channels(scale, channel_of)
    finite = pooled[pooled.isfinite()]  # a dimension that overflows says nothing of the others
    return pooled.clamp(min=LEAST_SCALE * float(finite.square().mean().sqrt()) if len(finite) else 0.0)


def rms_of_channels(scale: Tensor, channel_of: Tensor) -> Tensor:
    """The RMS of each dimension's channel, (D,), from that of every dimension (D,) and the channel it is of (D,)."""
    channel_of = channel_of.to(scale.device)
    square = torch.zeros(int(channel_of.max()) + 1, dtype=scale.dtype, device=scale.device)
    count = torch.zeros_like(square).index_add_(0, channel_of, torch.ones_like(scale))
    mean: Tensor = square.index_add_(0, channel_of, scale.square()) / count.clamp(min=1)
    return mean.sqrt()[channel_of]


def _at_a_time(r: Tensor) -> int:
    """Images worked on at a time."""
    return max(1, min(_CHUNK, _NUMBERS // max(1, r.shape[1])))


def l2_distance_per_image(r_hat: Tensor, r: Tensor, scale: Tensor) -> Tensor:
    """‖r̂ − r‖ / ‖r‖ of every image, each dimension first divided by `scale` (Sec. 3.3); L_L2 is the mean over images.

    A dimension whose scale is 0 (a unit that the fit split never woke) cannot be normalised and is left out. An image
    with ‖r‖ = 0 in what remains is NaN: it is left out of the mean and counted.

    Args:
        r_hat: (N, D).
        r: (N, D), the representation to compare with.
        scale: (D,), from `rms`.

    Returns:
        (N,) float64.

    Raises:
        UserError: for other shapes, or a scale that is no tensor.
    """
    shapes = tuple(r_hat.shape), tuple(r.shape)
    if r.ndim != 2 or shapes[0] != shapes[1]:
        raise UserError(f"representations of shapes {shapes[0]} and {shapes[1]}: give two of one shape (N, D)")
    if not isinstance(scale, Tensor) or scale.shape != r.shape[1:]:
        given = f"shape {tuple(scale.shape)}" if isinstance(scale, Tensor) else repr(scale)
        raise UserError(f"a scale of {given}: give a tensor of shape ({r.shape[1]},), from rms")
    alive = scale > 0
    weight = torch.where(alive, 1 / torch.where(alive, scale, 1.0), 0.0).double()
    result = torch.empty(len(r), dtype=torch.float64, device=r.device)
    for rows in torch.split(torch.arange(len(r), device=r.device), _at_a_time(r)):
        wanted = r[rows].double()
        # Where alive is false the difference may be anything, infinite too: 0 · ∞ would be NaN.
        off = torch.where(alive, r_hat[rows].double() - wanted, 0.0).mul_(weight).norm(dim=1)
        size = (wanted * weight).norm(dim=1)
        result[rows] = torch.where(size > 0, off / size, torch.nan)
    return result
