"""What g does to an image, done to a feature map: the positions of a layer lie on a strided grid in the image.

Position (i, j) of a map (B, C, H, W) lies at pixel offset + stride · (i, j) of the image, counted from the centre of
its first pixel; stride and offset are pairs, down and right. Places are tensors (n, 2, H, W), float64, in these pixels:
right (0) and down (1), n = B or 1.
"""

import torch
from torch import Tensor

Pair = tuple[float, float]
"""Down and right."""

Size = tuple[int, int]
"""Height and width of images in pixels."""

_SNAP = 1e-6
"""How far from a position a source may lie by rounding and still be the position itself."""


def places_of(values: Tensor, stride: Pair, offset: Pair) -> Tensor:
    """Where the positions of a map (B, C, H, W) lie in the image, (1, 2, H, W)."""
    down, right = (
        offset[k] + stride[k] * torch.arange(values.shape[k + 2], dtype=torch.float64, device=values.device)
        for k in (0, 1)
    )
    return torch.stack([right.expand(len(down), -1), down[:, None].expand(-1, len(right))])[None]


def through(places: Tensor, homographies: Tensor, size: Size) -> Tensor:
    """Where homographies (n, 3, 3), in pixels about the centre of the images, take places; infinitely far if behind."""
    centre = torch.tensor([(size[1] - 1) / 2, (size[0] - 1) / 2], dtype=torch.float64, device=places.device)
    about = places - centre[:, None, None]
    matrix = homographies.to(places.device)[..., None, None]
    taken = matrix[:, :, 0] * about[:, :1] + matrix[:, :, 1] * about[:, 1:] + matrix[:, :, 2]
    depth = taken[:, 2:]
    return torch.where(depth > 0, taken[:, :2] / depth.clamp(min=1e-12) + centre[:, None, None], torch.inf)


def taken_from(values: Tensor, places: Tensor, stride: Pair, offset: Pair) -> tuple[Tensor, Tensor]:
    """A map whose every position takes the value at another place, bilinear between the positions about it.

    A place beyond the outermost positions is outside: the position keeps its own value.

    Args:
        values: the map (B, C, H, W).
        places: where each position takes its value from, in pixels of the image.
        stride: of the map's grid.
        offset: of the map's grid.

    Returns:
        The map, and the positions whose source lies outside, (n, H, W) bool.
    """
    index, outside = _indices(places, values.shape[2:], stride, offset)
    return torch.where(outside[:, None], values, bilinear(values, index)), outside


def bilinear(values: Tensor, index: Tensor) -> Tensor:
    """Values (B, C, H, W) at fractional positions, (B, C, H', W'); the nearest on the border beyond it.

    Args:
        values: the map.
        index: (n, 2, H', W') float64, n = B or 1, column (0) and row (1).
    """
    height, width = values.shape[2:]
    low, high = [], []
    share = []
    for axis, length in ((0, width), (1, height)):
        at = index[:, axis].nan_to_num(0.0).clamp(0, length - 1)
        first = at.floor()
        low.append(first.long())
        high.append((first.long() + 1).clamp(max=length - 1))
        share.append((at - first).to(values.dtype)[:, None])
    flat = values.flatten(2)

    def at_positions(column: Tensor, row: Tensor) -> Tensor:
        """The values at whole positions."""
        places = (row * width + column).flatten(1)
        if len(places) == 1:
            found = flat[:, :, places[0]]
        else:
            found = flat.gather(2, places[:, None].expand(-1, flat.shape[1], -1))
        return found.reshape(*values.shape[:2], *index.shape[2:])

    upper = torch.lerp(at_positions(low[0], low[1]), at_positions(high[0], low[1]), share[0])
    lower = torch.lerp(at_positions(low[0], high[1]), at_positions(high[0], high[1]), share[0])
    return torch.lerp(upper, lower, share[1])


def _indices(places: Tensor, shape: torch.Size, stride: Pair, offset: Pair) -> tuple[Tensor, Tensor]:
    """Places as fractional positions of a grid, column and row, and which of them lie beyond the outermost."""
    found, outside = [], torch.zeros(1, dtype=torch.bool, device=places.device)
    for axis, k in ((0, 1), (1, 0)):
        index = (places[:, axis] - offset[k]) / stride[k]
        whole = index.round()
        index = torch.where((index - whole).abs() <= _SNAP, whole, index)
        outside = outside | ~((index >= 0) & (index <= shape[k] - 1))
        found.append(index)
    return torch.stack(found, dim=1), outside
