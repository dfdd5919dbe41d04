"""What convolutions, pooling and resizing do to the places of a map, an axis at a time.

An axis is (n, 3): the first and the last row (or column) of the image that each place sees, and how many lie between it
and the next.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor


def _at(axis: Tensor, column: int, index: Tensor) -> Tensor:
    """A column of an axis (n, 3) at fractional places, straight on beyond its ends."""
    values = axis[:, column]
    if len(values) == 1:
        return values + axis[0, 2] * index
    low = index.floor().clamp(0, len(values) - 2).long()
    return values[low] + (values[low + 1] - values[low]) * (index - low)


def straight(axis: Tensor) -> Tensor:
    """An axis whose ends turn back, as what is padded in circles or mirrored does, going straight on there."""
    step = axis[:, 0].diff()
    if len(axis) < 3 or not bool((step <= 0).any()) or not bool((step > 0).any()):
        return axis
    turns = [-1, *torch.nonzero(step != step[step > 0].median()).flatten().tolist(), len(step)]
    length, first = max((after - before, before + 1) for before, after in pairwise(turns))
    last = first + length - 1
    if 2 * length < len(step):
        return axis
    place = _count(len(axis)) - first
    middle = axis[first : last + 1]
    return torch.stack([_at(middle, 0, place), _at(middle, 1, place), axis[:, 2]], dim=1)


def _windowed(axis: Tensor, first: Tensor, last: Tensor, stride: float) -> Tensor:
    """The axis of windows from one place to another of an axis."""
    low, high = _at(axis, 0, first), _at(axis, 1, last)
    step = low.diff().mean() if len(low) > 1 else axis[0, 2] * stride
    return torch.stack([low, high, step.expand(len(low))], dim=1)


def _each(value: Any, default: Any = None) -> list[Any]:  # noqa: ANN401
    """A setting of a window for both axes."""
    value = default if value in (None, []) else value
    return [value, value] if isinstance(value, int) else list(value) * (2 if len(value) == 1 else 1)


def _count(length: int) -> Tensor:
    return torch.arange(length, dtype=torch.float64)


def _convolved(axes: Sequence[Tensor], given: dict[str, Any], shape: Sequence[int]) -> list[Tensor]:
    """The axes behind a convolution, a transposed one included."""
    kernel, stride, padding, dilation = (
        list(given["weight"].shape[2:]),
        *(_each(given[name]) for name in ("stride", "padding", "dilation")),
    )
    if len(kernel) != 2:
        raise ValueError("not of two dimensions")
    found = []
    for k, axis in enumerate(axes):
        reach = dilation[k] * (kernel[k] - 1)
        if given.get("transposed"):  # a place lies between those that it is made of, half a kernel about it
            centre = (_count(shape[k]) + padding[k] - reach / 2) / stride[k]
            half = reach / 2 / stride[k]
            found.append(_windowed(axis, centre - half, centre + half, 1 / stride[k]))
        else:
            first = _count(shape[k]) * stride[k] - padding[k]
            found.append(_windowed(axis, first, first + reach, stride[k]))
    return found


def _pooled(axes: Sequence[Tensor], given: dict[str, Any], shape: Sequence[int]) -> list[Tensor]:
    """The axes behind pooling."""
    kernel = _each(given["kernel_size"])
    stride, padding = _each(given.get("stride"), kernel), _each(given.get("padding"), 0)
    dilation = _each(given.get("dilation"), 1)
    found = []
    for k, axis in enumerate(axes):
        first = _count(shape[k]) * stride[k] - padding[k]
        found.append(_windowed(axis, first, first + dilation[k] * (kernel[k] - 1), stride[k]))
    return found


def _adapted(axes: Sequence[Tensor], given: dict[str, Any], shape: Sequence[int]) -> list[Tensor] | None:
    """The axes behind adaptive pooling; all of it in one is no place."""
    if 1 in shape:
        return None
    found = []
    for axis, length in zip(axes, shape, strict=True):
        first = (_count(length) * len(axis) / length).floor()
        last = ((_count(length) + 1) * len(axis) / length).ceil() - 1
        found.append(_windowed(axis, first, last, len(axis) / length))
    return found


def _resized(axes: Sequence[Tensor], given: dict[str, Any], shape: Sequence[int]) -> list[Tensor]:
    """The axes of a map that is resized: a place lies where it does among the old ones, whatever it is made of."""
    found = []
    for axis, length in zip(axes, shape, strict=True):
        place = (_count(length) + 0.5) * len(axis) / length - 0.5
        if given.get("align_corners") and length > 1:
            place = _count(length) * (len(axis) - 1) / (length - 1)
        found.append(_windowed(axis, place, place, len(axis) / length))
    return found


WINDOWS: dict[str, Callable[[Sequence[Tensor], dict[str, Any], Sequence[int]], list[Tensor] | None]] = {
    **dict.fromkeys(("convolution", "conv2d", "mkldnn_convolution", "cudnn_convolution"), _convolved),
    **dict.fromkeys(("max_pool2d_with_indices", "max_pool2d", "avg_pool2d", "mkldnn_max_pool2d"), _pooled),
    **dict.fromkeys(("_adaptive_avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"), _adapted),
    **dict.fromkeys(("upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_bilinear2d"), _resized),
    **dict.fromkeys(("upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"), _resized),
}
"""What windows do to the axes: from both axes, the arguments of the operation and the sides of what it gives."""
