"""L_L2: how far a representation is from another, image by image, in units of its own size (Sec. 3.3)."""

import torch
from torch import Tensor

from invariance.errors import UserError

_CHUNK = 4096
"""Images worked on at a time."""

_NUMBERS = 2**24
"""Numbers worked on at a time, where an image has many."""

_SUMMED = 32
"""Images whose sum in float32 is right to 1e-6."""

_LEAST = 1e-12
"""The least scale whose squares float32 holds, and one over the largest."""

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


def squares(r: Tensor) -> Tensor:
    """The sum of squares of every dimension of r (N, D), (D,) float64, few images at a time in float32."""
    return torch.stack([part.square().sum(0) for part in torch.split(r, _SUMMED)]).sum(0, dtype=torch.float64)


class Distances:
    """L_L2 of one layer, batch by batch, in float32 and in memory of one image: `l2_distance_per_image` to 1e-6.

    Args:
        scale: (D,), from `rms` or `scale_of_layer`.
        channel_of: (D,) int64, which channel each dimension is of; where all dimensions of a channel lie together and
            share its scale, that is divided by once a channel.
    """

    def __init__(self, scale: Tensor, channel_of: Tensor) -> None:
        self._scale = scale
        weight = torch.where(scale > 0, 1 / torch.where(scale > 0, scale, 1.0), 0.0)
        rows = weight.view(_channels(channel_of), -1)
        finite = scale[scale.isfinite()]
        fits = len(finite) > 0 and _LEAST < float(finite.max()) < 1 / _LEAST  # float32 holds squares of such numbers
        self._within: Tensor | None = weight.float()[None]
        self._across: Tensor | None = None
        if fits and rows.shape[1] > 1 and bool((rows == rows[:, :1]).all()):
            self._within, self._across = None, rows[:, 0].square()
        self._shape = (len(rows), -1) if self._within is None else (1, -1)
        self._dead = scale <= 0 if bool((scale <= 0).any()) else None

    def sizes(self, r: Tensor) -> Tensor:
        """‖r‖ of r (B, D), (B,) float64."""
        return self._norms(r, None)

    def between(self, r_hat: Tensor, r: Tensor, sizes: Tensor) -> Tensor:
        """‖r̂ − r‖ / ‖r‖ of every image, (B,) float64; NaN where ‖r‖ = 0.

        Args:
            r_hat: (B, D).
            r: (B, D).
            sizes: (B,), of `sizes(r)`.
        """
        found = torch.where(sizes > 0, self._norms(r_hat, r) / sizes, torch.nan)
        if bool((lost := ~found.isfinite()).any()):  # float32 may have been too small for a square
            found[lost] = l2_distance_per_image(r_hat[lost].float(), r[lost].float(), self._scale)
        return found

    def _norms(self, r_hat: Tensor, r: Tensor | None) -> Tensor:
        """The norm of r̂, or of r̂ − r, for every image."""
        held, found = torch.empty_like(self._scale, dtype=torch.float32).view(self._shape), []
        for k in range(len(r_hat)):
            own = r_hat[k].float().reshape(self._shape)
            if r is None:
                held.copy_(own)
            else:
                torch.sub(own, r[k].float().reshape(self._shape), out=held)
            if self._across is not None:
                sums = held.square_().sum(1).double()
                found.append((torch.where(self._across > 0, sums, 0.0) * self._across).sum())
                continue
            assert self._within is not None
            if self._dead is not None:
                held.masked_fill_(self._dead, 0.0)
            found.append(held.mul_(self._within).square_().sum().double())
        return torch.stack(found).sqrt()


def _channels(channel_of: Tensor) -> int:
    """How many channels there are whose dimensions lie together, as many in each; 1 where they do not."""
    channels = int(channel_of.max()) + 1
    if len(channel_of) % channels:
        return 1
    own = torch.arange(channels, device=channel_of.device)[:, None]
    return channels if bool((channel_of.view(channels, -1) == own).all()) else 1


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
