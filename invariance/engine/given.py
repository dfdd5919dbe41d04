"""Images as they are handed over in Python: checked, and dealt to those to fit and those to report on."""

import numpy as np
import torch
from torch import Tensor

from invariance.errors import UserError
from invariance.seeds import generator

_CHUNK = 1024
"""Images looked at at once."""


def images_given(images: object, what: str = "images") -> Tensor:
    """Images of a user, checked: (N, C, H, W), uint8 or float32 in [0, 255].

    Args:
        images: uint8 array or tensor (N, C, H, W), or one of floats in [0, 255].
        what: the argument's name, for errors.

    Raises:
        UserError: for anything else, numbers that are none, and floats that are never above 1: those are images in
            [0, 1], on which a network's own preprocessing does something else without a word.
    """
    if isinstance(images, np.ndarray):
        if images.dtype != np.uint8 and images.dtype.kind != "f":
            raise UserError(f"{what}: an array of {images.dtype}; give uint8, or floats in [0, 255]")
        images = torch.from_numpy(np.ascontiguousarray(images))
    if not isinstance(images, Tensor):
        raise UserError(
            f"{what}: a {type(images).__name__}; give an array or tensor (N, C, H, W), uint8 or in [0, 255]"
        )
    images = images.detach()
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise UserError(f"{what}: a tensor of {images.dtype}; give uint8, or floats in [0, 255]")
    shape = tuple(images.shape)
    if len(shape) != 4 or 0 in shape:
        raise UserError(f"{what} of shape {shape}: give (N, C, H, W), with an image at least")
    if shape[3] in (1, 3, 4) and shape[1] > 4:
        raise UserError(
            f"{what} of shape {shape} look like (N, H, W, C): give (N, C, H, W), as by transpose(0, 3, 1, 2)"
        )
    return images if images.dtype == torch.uint8 else _in_pixels(images, what)


def _in_pixels(images: Tensor, what: str) -> Tensor:
    """Float images as float32, if they can be in [0, 255]."""
    low, high = np.inf, -np.inf
    for part in torch.split(images, _CHUNK):
        if not bool(torch.isfinite(part).all()):
            raise UserError(f"{what}: some values are NaN or infinite; give numbers in [0, 255]")
        low, high = min(low, float(part.min())), max(high, float(part.max()))
    if low < 0 or high > 255:
        raise UserError(
            f"{what}: values from {low:g} to {high:g}; give images in [0, 255], which no one has normalised yet"
        )
    if high <= 1:
        raise UserError(f"{what}: floats up to {high:g}, as images in [0, 1] have; multiply them by 255, or give uint8")
    return images.float()


def dealt(images: Tensor, fit: object, seed: int) -> tuple[Tensor | None, Tensor]:
    """The images to fit maps on, if any, and those to report on.

    Args:
        images: checked images (N, C, H, W).
        fit: images of their own; or a share of `images` to deal out, between 0 and 1; or None.
        seed: seed of the deal.

    Raises:
        UserError: for a share that leaves a side without images, or fit images that are of another shape or are those
            to report on.
    """
    if fit is None:
        return None, images
    if isinstance(fit, bool) or isinstance(fit, int | float | np.number):
        count = round(float(fit) * len(images)) if 0 < float(fit) < 1 else 0
        if isinstance(fit, bool) or not 0 < count < len(images):
            raise UserError(f"fit={fit!r} of {len(images)} images: give images, or a share between 0 and 1 as 0.5")
        order = torch.randperm(len(images), generator=generator(seed, "images to fit maps on"))
        fitted, reported = order[:count].sort().values, order[count:].sort().values
        return images[fitted.to(images.device)], images[reported.to(images.device)]
    own = images_given(fit, "fit")
    if own.shape[1:] != images.shape[1:]:
        raise UserError(
            f"fit images {tuple(own.shape[1:])} are not of the shape {tuple(images.shape[1:])} of the images"
        )
    if own.shape == images.shape and torch.equal(own.to(images.device, images.dtype), images):
        raise UserError("fit holds the images that are reported on; give others, or fit=0.5 to deal them")
    return own, images
