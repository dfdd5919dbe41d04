"""Backward warps, the one way in which the geometric families move pixels.

Convention: a warp is given by its backward map, from a place in the output to the place in the input whose value it
takes. Places are in pixels from the centre of the image ((W−1)/2, (H−1)/2), x first and to the right, y down. Values
between pixel centres are bilinear; the image is surrounded by 0, so that within one pixel of its border values blend
into 0 (padding).
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from invariance.transforms.base import Params
from invariance.transforms.feature_maps import Size, through
from invariance.transforms.tabled import Mover, Shape, Tabled, Tables, but_for_staying, with_staying

# normalised coordinates: the image ends at ±1, and what is farther out than this is 0 at any image size
OUTSIDE = 4.0


class Homographic(Tabled):
    """A family that sees images through homographies."""

    by_image = True

    @abstractmethod
    def backward(self, params: Params, size: Size) -> Tensor:
        """The homographies (n, 3, 3) float64, from output to input in pixels about the centre, for images (H, W)."""

    def tables(self, params: Params, shape: Shape) -> Tables:
        """See `Tabled.tables`."""
        return homography_tables(self.backward(params, (shape[1], shape[2])), shape)

    def mover(self, tables: Tables, like: Tensor) -> Mover:
        """See `Tabled.mover`."""
        return homography_mover(tables, like)

    def goes_to(self, places: Tensor, params: Params, size: Size) -> Tensor:
        """See `Transform.goes_to`."""
        return through(places, torch.linalg.inv(self.backward(params, size)), size)

    def comes_from(self, places: Tensor, params: Params, size: Size) -> Tensor:
        """See `Transform.comes_from`."""
        return through(places, self.backward(params, size), size)


def warp_homography(x: Tensor, backward: Tensor) -> Tensor:
    """Images seen through a homography.

    Output pixel p takes the value at (u/w, v/w) with (u, v, w) = H (p_x, p_y, 1); where w ≤ 0, behind the plane's
    horizon, it is 0. Where H is exactly the identity, the image is returned as it is, to the bit.

    Args:
        x: images (B, C, H, W).
        backward: H, (n, 3, 3) float64, n = B or 1, from output to input in pixels about the centre.

    Returns:
        (B, C, H, W), of x's dtype, on its device.
    """
    tables = {name: table.to(x.device) for name, table in homography_tables(backward, x.shape).items()}
    return but_for_staying(tables, lambda: homography_mover(tables, x))(x)


def homography_tables(backward: Tensor, shape: Sequence[int]) -> Tables:
    """What `homography_mover` takes, for images (…, H, W): `rows` (n, 3, 3), or (n, 2, 3) where all are affine."""
    height, width = shape[-2:]
    stays = (backward == torch.eye(3, dtype=backward.dtype)).all(dim=2).all(dim=1)
    # the grid's units: ±1 at the image's ends
    rows = backward * torch.tensor([2 / width, 2 / height, 1.0], dtype=torch.float64)[:, None]
    affine = bool((backward[:, 2] == torch.tensor([0.0, 0.0, 1.0], dtype=backward.dtype)).all())
    return with_staying({"rows": rows[:, :2] if affine else rows}, stays)


def homography_mover(tables: Tables, like: Tensor) -> Mover:
    """See `Tabled.mover`."""
    height, width = like.shape[-2:]
    rows = tables["rows"][..., None, None]
    across = rows[:, :, 0] * _centred(width, like.device)[:, None, :] + rows[:, :, 2]
    down = rows[:, :, 1] * _centred(height, like.device)[:, :, None]
    # rounded once before the sum over the plane and once in it, which moves places by some 1e-5 pixels in float32
    across, down = across.to(like.dtype), down.to(like.dtype)
    grid = like.new_empty(len(rows), height, width, 2)
    for axis in (0, 1):
        torch.add(across[:, axis], down[:, axis], out=grid[..., axis])
    if rows.shape[1] == 3:
        depth = across[:, 2] + down[:, 2]
        behind = (depth <= 0)[..., None]
        grid.div_(depth.clamp_(min=1e-12)[..., None]).clamp_(-OUTSIDE, OUTSIDE).masked_fill_(behind, OUTSIDE)
    return lambda x: _sample(x, grid)


def warp_displacement(x: Tensor, field: Tensor) -> Tensor:
    """Images displaced pixel by pixel: output pixel p takes the value at p + field(p).

    Args:
        x: images (B, C, H, W).
        field: (n, 2, H, W), n = B or 1: displacement to the right (0) and down (1), in pixels, on x's device.

    Returns:
        (B, C, H, W), of x's dtype, on its device.
    """
    return displacement_mover(field, x)(x)


def displacement_mover(field: Tensor, like: Tensor) -> Mover:
    """`warp_displacement` along one field, for images like some: what does not depend on pixels is done here."""
    height, width = like.shape[-2:]
    grid = like.new_empty(len(field), height, width, 2)
    grid[..., 0] = (field[:, 0] + _centred(width, like.device).to(field.dtype)[:, None, :]) * (2 / width)
    grid[..., 1] = (field[:, 1] + _centred(height, like.device).to(field.dtype)[:, :, None]) * (2 / height)
    return lambda x: _sample(x, grid)


def velocity(x: Tensor, rate: Tensor) -> Tensor:
    """How fast the places that pixels are taken from move, where backward maps are I + t rate + … at small t.

    Args:
        x: images (B, C, H, W).
        rate: (3, 3) float64, the derivative of the homographies at t = 0, in pixels about the centre.

    Returns:
        (1, 2, H, W) float64 on the device of x: to the right (0) and down (1), in pixels per unit of t.
    """
    height, width = x.shape[-2:]
    right, down = _centred(width, x.device).expand(height, -1), _centred(height, x.device).mT.expand(-1, width)
    place = torch.stack([right, down, torch.ones_like(right)])
    moved = torch.einsum("ij,jhw->ihw", rate.to(x.device), place)
    return (moved[:2] - place[:2] * moved[2])[None]


def change_along(x: Tensor, field: Tensor) -> Tensor:
    """How images change as their pixels are taken from places that move off: d x(p + t field(p)) / dt at t = 0.

    Bilinear sampling has a kink at pixel centres, and another derivative on either side of it. This is the mean of the
    two, the central difference of the image, whose neighbours outside are 0.

    Args:
        x: images (B, C, H, W).
        field: (n, 2, H, W), n = B or 1, as `warp_displacement` takes it and `velocity` gives it.

    Returns:
        (B, C, H, W), of the dtype of x, on its device.
    """
    field = field.to(x.dtype)
    across, down = F.pad(x, (1, 1, 0, 0)), F.pad(x, (0, 0, 1, 1))
    right = (across[..., 2:] - across[..., :-2]).mul_(field[:, :1]).mul_(0.5)
    below = (down[..., 2:, :] - down[..., :-2, :]).mul_(field[:, 1:]).mul_(0.5)
    return right.add_(below)


def _centred(size: int, device: torch.device) -> Tensor:
    """Places of a row's pixel centres about its middle, (1, size) float64."""
    return (torch.arange(size, dtype=torch.float64, device=device) - (size - 1) / 2)[None]


def _sample(x: Tensor, grid: Tensor) -> Tensor:
    # measured at 227² on CPUs: faster than gathering with precomputed weights, and than one image of B·C channels
    grid = grid.expand(len(x), -1, -1, -1)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False).clamp_(0, 255)
