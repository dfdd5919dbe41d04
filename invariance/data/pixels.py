"""Pixels that a user gives as arrays, checked, and warped to a size."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from invariance.data.decode import COLOURS, decode
from invariance.errors import UserError

FORM = "(N, C, H, W) with 1 or 3 channels"


def of_array(given: torch.Tensor | NDArray[Any], size: int | None, colour: str) -> NDArray[Any]:
    """Arrays that are checked, all of them, and as uint8 where they hold whole numbers."""
    if isinstance(given, torch.Tensor):
        given = given.detach().cpu()
        given = (given.float() if given.dtype == torch.bfloat16 else given).numpy()
    if given.ndim != 4 or given.shape[1] not in COLOURS.values():
        turned = "; they seem to be (N, H, W, C): give images.transpose(0, 3, 1, 2)"
        hint = turned if given.ndim == 4 and given.shape[3] in COLOURS.values() else f"; give {FORM}"
        raise UserError(f"images of shape {given.shape} are not images {FORM}{hint}")
    if not given.size:
        raise UserError(f"images of shape {given.shape}: there are none; give at least one")
    pixels = _in_bytes(given)
    if size is None or pixels.shape[2:] == (size, size):
        return pixels
    if pixels.dtype != np.uint8:
        raise UserError(f"images of sides {pixels.shape[2:]} are to be resized to {size}: give uint8 images")
    return np.stack([picture_of(one, size, colour if one.shape[0] == 3 else "gray") for one in pixels])


def _in_bytes(given: NDArray[Any]) -> NDArray[Any]:
    """Numbers in [0, 255] as uint8 if they are whole, else as float32.

    Raises:
        UserError: for other numbers.
    """
    if given.dtype == np.uint8:
        return np.ascontiguousarray(given)
    if given.dtype.kind not in "iuf":
        raise UserError(f"images of type {given.dtype}: give uint8, or floats in [0, 255]")
    low, high = float(given.min()), float(given.max())
    if not np.isfinite(low) or not np.isfinite(high):
        raise UserError("images hold numbers that are not finite (NaN); give uint8, or floats in [0, 255]")
    if low < 0:
        raise UserError(f"images hold {low:g}: they seem to be normalised; give them in [0, 255], as they were before")
    if high > 255:
        raise UserError(f"images hold {high:g}: give uint8, or floats in [0, 255]")
    if given.dtype.kind == "f" and high <= 1:
        raise UserError(
            f"images are floats of at most {high:g}: they seem to be in [0, 1]; multiply them by 255 (ToTensor divides)"
        )
    whole = given.dtype.kind in "iu" or bool((given == np.rint(given)).all())
    return np.ascontiguousarray(given, dtype=np.uint8 if whole else np.float32)


def picture_of(pixels: NDArray[np.uint8], size: int, colour: str) -> NDArray[np.uint8]:
    """Pixels (C, H, W) warped to a square."""
    return decode(np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)), size, colour)
