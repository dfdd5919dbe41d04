"""Gaussian smoothing as a product with banded matrices, shared by blur and elastic."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

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


def matrix(sigma: Tensor, size: int, border: str, dtype: torch.dtype) -> tuple[Tensor, int]:
    """Matrices K (n, size, size) with K v the smoothed v, for σ (n,) in pixels, and r: K[i, j] = 0 where |i − j| > r.

    Args:
        sigma: standard deviations.
        size: length of v.
        border: what v continues with: "zero"; "reflect", about the edge of the last pixel (d c b a | a b c d); or
            "reflect_101", about its centre (d c b | a b c d).
        dtype: of the matrices; the weights are computed in float64.
    """
    weights = kernel(sigma).to(dtype)
    radius = weights.shape[1] // 2
    span = size + 2 * radius
    # row i holds the kernel about place i, for places −radius … size−1+radius
    rows = F.pad(weights, (size - 1, size - 1)).unfold(1, span, 1)
    if border == "zero":
        return rows[:, :, radius : radius + size].flip(1), radius
    shared = int(border == "reflect_101")  # the outermost pixel is the mirror, and stands once
    if radius + shared <= size:
        folded = rows[:, :, radius : radius + size].flip(1)
        folded[:, :, shared : radius + shared] += rows[:, :, :radius].flip(1, 2)
        folded[:, :, size - radius - shared : size - shared] += rows[:, :, size + radius :].flip(1, 2)
        return folded, radius
    period = max(1, 2 * (size - shared))
    place = torch.arange(-radius, size + radius) % period  # about both edges, more than once
    place = torch.where(place < size, place, period - 1 + shared - place)
    return weights.new_zeros(len(sigma), size, size).index_add_(2, place, rows.flip(1)), radius


def smooth(x: Tensor, sigma: Tensor, border: str = "zero") -> Tensor:
    """Images or fields (B, C, H, W) smoothed along both axes, for σ (n,) in pixels, n = B or 1; float32 or float64.

    Two products with banded matrices, of which only the blocks about the diagonal are taken. One σ for all costs as
    much as one per image. Convolutions were measured slower on CPUs from σ = 2 on, and three times slower at σ = 5.
    """
    batch, channels, height, width = x.shape
    across, radius = matrix(sigma, width, border, x.dtype)
    down = across if height == width else matrix(sigma, height, border, x.dtype)[0]
    across, down = across.to(x.device).mT.expand(batch, -1, -1), down.to(x.device)
    # reduced precision in mixed-precision training is for the network, not for its input
    with torch.autocast(x.device.type, enabled=False):
        source, rows = x.reshape(batch, channels * height, width), x.new_empty(batch, channels * height, width)
        for block, band in _blocks(width, radius):
            rows[:, :, block] = torch.bmm(source[:, :, band], across[:, band, block])
        rows, out = rows.view(batch, channels, height, width), x.new_empty(batch, channels, height, width)
        for block, band in _blocks(height, radius):
            for channel in range(channels):  # a matrix repeated for the channels would be copied for each
                out[:, channel, block] = torch.bmm(down[:, block, band].expand(batch, -1, -1), rows[:, channel, band])
    return out


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
