"""Gaussian smoothing as a product with banded matrices, shared by blur and elastic."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from invariance.transforms.tabled import Mover

TRUNCATE = 4.0
"""Standard deviations after which the kernel is cut off."""

BLOCK = 32
"""Places that one product smooths; measured at 227² and σ up to 3."""


def kernel(sigma: Tensor) -> Tensor:
    """Gaussian kernels (n, 2 r + 1) that sum to 1, for σ (n,) in pixels, float64; σ = 0 gives a single 1.

    Each is cut off at its own radius max(1, round(4 σ)); r is the largest of them.
    """
    own = (TRUNCATE * sigma + 0.5).floor().clamp(min=1)[:, None]
    radius = int(own.max())
    offset = torch.arange(-radius, radius + 1, dtype=torch.float64)[None]
    # a σ this small has its neighbours' weights at exactly 0, as σ = 0 must
    weights = torch.exp(-0.5 * (offset / sigma[:, None].clamp(min=1e-3)) ** 2) * (offset.abs() <= own)
    return weights / weights.sum(dim=1, keepdim=True)


def square_norm(sigma: Tensor) -> Tensor:
    """‖k_σ‖² (n,) of the kernels for σ (n,): what smoothing in two dimensions multiplies the noise's deviation by."""
    return kernel(sigma).square().sum(dim=1)


def banded(weights: Tensor, size: int, border: str) -> Tensor:
    """Matrices K (n, size, size) with K v the smoothed v: K[i, j] = 0 where |i − j| > r.

    Args:
        weights: kernels (n, 2 r + 1).
        size: length of v.
        border: what v continues with: "zero"; "reflect", about the edge of the last pixel (d c b a | a b c d); or
            "reflect_101", about its centre (d c b | a b c d).
    """
    radius = weights.shape[1] // 2
    span = size + 2 * radius
    # row i holds the kernel about place i, for places −radius … size−1+radius
    rows = F.pad(weights, (size - 1, size - 1)).unfold(1, span, 1)
    if border == "zero":
        return rows[:, :, radius : radius + size].flip(1)
    shared = int(border == "reflect_101")  # the outermost pixel is the mirror, and stands once
    if radius + shared <= size:
        folded = rows[:, :, radius : radius + size].flip(1)
        folded[:, :, shared : radius + shared] += rows[:, :, :radius].flip(1, 2)
        folded[:, :, size - radius - shared : size - shared] += rows[:, :, size + radius :].flip(1, 2)
        return folded
    rows, folded = rows.flip(1), weights.new_zeros(len(weights), size, size)
    for place, length, first, rising in _runs(size, radius, shared):  # about both edges, more than once
        piece = rows[:, :, place : place + length]
        if rising:
            folded[:, :, first : first + length] += piece
        else:
            folded[:, :, first - length + 1 : first + 1] += piece.flip(2)
    return folded


def _runs(size: int, radius: int, shared: int) -> Iterator[tuple[int, int, int, bool]]:
    """Runs of the places −radius … size−1+radius, counted from 0, that come from neighbouring places.

    Yields:
        The run's first place, its length, where its first place comes from, and whether the next is one up or down.
    """
    period, place, stop = max(1, 2 * (size - shared)), 0, size + 2 * radius
    while place < stop:
        turn = (place - radius) % period
        rising = turn < size
        length = min((size if rising else period) - turn, stop - place)
        yield place, length, turn if rising else period - 1 + shared - turn, rising
        place += length


def smooth(x: Tensor, sigma: Tensor, border: str = "zero") -> Tensor:
    """Images or fields (B, C, H, W) smoothed along both axes, for σ (n,) in pixels, n = B or 1; float32 or float64."""
    return smoother(kernel(sigma).to(x.device), x, border)(x)


def smoother(weights: Tensor, like: Tensor, border: str = "zero") -> Mover:
    """What smooths images like some (B, C, H, W) along both axes, by kernels (n, 2 r + 1), n = B or 1, on their device.

    Two products with banded matrices, of which only the blocks about the diagonal are taken. One σ for all costs as
    much as one per image. Convolutions were measured slower on CPUs from σ = 2 on, and three times slower at σ = 5.
    """
    height, width = like.shape[2:]
    radius, weights = weights.shape[1] // 2, weights.to(like.dtype)
    across = banded(weights, width, border)
    down = across if height == width else banded(weights, height, border)
    to_right = [(band, across[:, block, band].mT.contiguous()) for block, band in _blocks(width, radius)]
    to_below = [(band, down[:, block, band].contiguous()) for block, band in _blocks(height, radius)]

    def smoothed(x: Tensor) -> Tensor:
        """The two products."""
        # one σ for all smooths each channel as an image; of several a matrix would be copied for each channel
        images = x.reshape(-1, 1, height, width) if len(weights) == 1 else x
        batch, channels = images.shape[:2]
        # reduced precision in mixed-precision training is for the network, not for its input
        with torch.autocast(x.device.type, enabled=False):
            source = images.reshape(batch, channels * height, width)
            parts = [torch.bmm(source[:, :, band], block.expand(batch, -1, -1)) for band, block in to_right]
            rows = torch.cat(parts, dim=2).view(batch, channels, height, width)
            of_channels = [
                torch.cat([torch.bmm(block.expand(batch, -1, -1), one[:, band]) for band, block in to_below], dim=1)
                for one in rows.unbind(dim=1)
            ]
        return torch.stack(of_channels, dim=1).view(x.shape)

    return smoothed


def laplacian(x: Tensor, border: str) -> Tensor:
    """Δx: the sum of the second differences along both axes of images (…, H, W), continued as `matrix` says."""
    total = x * -4
    for dim in (-2, -1):
        size = x.shape[dim]
        if border == "zero":
            longer = F.pad(x, (1, 1) if dim == -1 else (0, 0, 1, 1))
            total.add_(longer.narrow(dim, 0, size)).add_(longer.narrow(dim, 2, size))
            continue
        # the outermost pixel is its own neighbour, or the mirror, with the next on both of its sides
        next_in = min(int(border == "reflect_101"), size - 1)
        places = list(range(size))
        for neighbours in ([next_in, *places[:-1]], [*places[1:], size - 1 - next_in]):
            total.add_(x.index_select(dim, torch.tensor(neighbours, device=x.device)))
    return total


def _blocks(size: int, radius: int) -> Iterator[tuple[slice, slice]]:
    """Blocks of places, and the places from which a kernel of that radius brings anything to them."""
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        yield slice(start, stop), slice(max(0, start - radius), min(size, stop + radius))
