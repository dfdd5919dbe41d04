"""What a user's code does to a few images: whether it serves, and a text that tells it from other code of its name."""

import torch
from torch import Tensor

from invariance.errors import UserError
from invariance.models.model import Model
from invariance.transforms.base import UNTOUCHED, GridPoint, Transform

_PLACES = 16
_STEPS = 1000
"""Numbers are told in thousandths of the largest, so that rounding on another device tells the same."""


def look_of(values: Tensor) -> str:
    """Shape, and some of the numbers of a tensor in three digits: another function gives others."""
    flat = values.detach().double().cpu().flatten()
    places = torch.linspace(0, len(flat) - 1, min(_PLACES, len(flat)), dtype=torch.float64).round().long()
    some = flat[places]
    largest = float(some.abs().max()) if len(some) else 0.0
    unit = largest / _STEPS if 0 < largest < torch.inf else 1.0
    steps = (some / unit).round().tolist()
    return f"{tuple(values.shape)} {largest:.3g} {' '.join(f'{one + 0.0:g}' for one in steps)}"


def looks_of_grid(name: str, transform: Transform, x: Tensor) -> list[list[str]]:
    """Label and look of every g of a grid on an image.

    Args:
        name: how rows name the grid.
        transform: the transformations.
        x: (1, C, H, W), floats in [0, 255].

    Raises:
        UserError: for a grid, or an image under some g, that is not what measuring takes.
    """
    points = grid_of(name, transform)
    looks = [(point, _under(name, transform, point, x)) for point in points]
    sizes = {tuple(gx.shape) for _, gx in looks}
    if len(sizes) > 1:
        raise UserError(
            f"transforms: {name} gives images of {' and '.join(map(str, sorted(sizes)))}; let g keep the size"
        )
    return [[point.label, look_of(gx)] for point, gx in looks]


def grid_of(name: str, transform: Transform) -> list[GridPoint]:
    """The grid of a family, with one untouched point and labels of one g each.

    Raises:
        UserError: if it is none.
    """
    points = transform.grid()
    if not isinstance(points, list | tuple) or not all(isinstance(one, GridPoint) for one in points):
        raise UserError(f"transforms: the grid of {name} is no list of GridPoint")
    labels = [point.label for point in points]
    if labels.count(UNTOUCHED) != 1:
        raise UserError(
            f"transforms: the grid of {name} has {labels.count(UNTOUCHED)} points {UNTOUCHED!r}; give it one"
        )
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise UserError(
            f"transforms: the grid of {name} has {twice[0]!r} more than once; give each g a label of its own"
        )
    for point in points:
        if any(not isinstance(value, Tensor) or not value.ndim or len(value) != 1 for value in point.params.values()):
            raise UserError(f"transforms: {name} at {point.label}: parameters of one g are tensors (1, …)")
    return list(points)


def _under(name: str, transform: Transform, point: GridPoint, x: Tensor) -> Tensor:
    """An image under one g, as `Transform.apply` promises it."""
    where, before = f"transforms: {name} at {point.label}", x.clone()
    try:
        gx = transform.apply(x, point.params)
    except UserError:
        raise
    except Exception as error:  # whatever the user's code does
        why = next(iter(str(error).splitlines()), "")
        raise UserError(
            f"{where} fails on images {tuple(x.shape)} with {type(error).__name__} ({why[:200]})"
        ) from error
    if not isinstance(gx, Tensor) or gx.ndim != 4 or gx.shape[:2] != x.shape[:2] or not gx.is_floating_point():
        got = f"{gx.dtype} {tuple(gx.shape)}" if isinstance(gx, Tensor) else f"a {type(gx).__name__}"
        raise UserError(f"{where} gives {got} for images {tuple(x.shape)}; let it give floats (B, C, H, W)")
    if not torch.equal(before, x):
        raise UserError(f"{where} changes its images in place; let it give new ones")
    if not bool(gx.isfinite().all()):
        raise UserError(f"{where} gives numbers that are not finite; let it give images in [0, 255]")
    return gx


def look_of_model(model: Model, x: Tensor) -> str:
    """What a model's preprocessing makes of an image: two functions may have one name, as <lambda>.

    Args:
        model: the model.
        x: (1, C, H, W), floats in [0, 255].
    """
    return look_of(model.prepare(x))
