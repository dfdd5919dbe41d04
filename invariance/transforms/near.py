"""Which g of a grid do next to nothing at a size, or the same as their neighbour: smaller images have such."""

import torch
from torch import Tensor

from invariance.transforms.base import UNTOUCHED, Transform

LEAST = 1.0
"""Mean change of the probe's pixels, of 255, below which two of its images are near copies."""

_DEVIATION = 50.0


def probe(size: int, channels: int = 1) -> Tensor:
    """One image (1, channels, size, size) in [0, 255], 1/f noise that is fixed: detail at every scale, and colours."""
    return torch.cat([_channel(size, seed) for seed in range(channels)], dim=1)


def _channel(size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    waves = torch.fft.rfft2(torch.randn(size, size, generator=generator, dtype=torch.float64))
    frequency = (torch.fft.fftfreq(size)[:, None] ** 2 + torch.fft.rfftfreq(size)[None] ** 2).sqrt()
    image = torch.fft.irfft2(waves / frequency.clamp(min=1 / size), s=(size, size))
    image = (image - image.mean()) / image.std().clamp(min=1e-12) * _DEVIATION + 127.5
    gray: Tensor = image.clamp(0, 255).float()[None, None]
    return gray


def near_copies(transform: Transform, size: int, channels: int = 1) -> list[tuple[str, str]]:
    """Pairs of labels of a grid whose images at `size` pixels are near copies: (g, untouched), or (g, its neighbour).

    Args:
        transform: the family with its grid.
        size: side of the images after g, in pixels.
        channels: how many the images have.
    """
    x = probe(transform.source_size(size), channels)
    images = {point.label: transform.apply(x, point.params) for point in transform.grid()}
    labels = list(images)
    neighbours = list(zip(labels[1:], labels[:-1], strict=True))
    pairs = [(label, UNTOUCHED) for label in labels if label != UNTOUCHED]
    pairs += [pair for pair in neighbours if UNTOUCHED not in pair]
    return [(g, other) for g, other in pairs if float((images[g] - images[other]).abs().mean()) < LEAST]


def told(pairs: list[tuple[str, str]], grid: str, size: int) -> str:
    """What to tell of a grid's near copies, in a line; nothing where there are none."""
    if not pairs:
        return ""
    listed = ", ".join(f"{g} and {other}" for g, other in pairs[:8]) + (" and more" if len(pairs) > 8 else "")
    return f"at {size} pixels these g of {grid} differ by less than {LEAST:g} of 255 on average: {listed}"
