"""Elastic deformations (A.3): displacement fields of smoothed noise (Simard et al., 2003)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from invariance.transforms.base import UNTOUCHED, GridPoint, Params, frame_scale, unscaled
from invariance.transforms.checks import flag, grid_values, needed_range, number, trained_range, whole
from invariance.transforms.counter import SEEDS, fixed_seed, keys_of, seeds_from, uniform_by
from invariance.transforms.feature_maps import Size, bilinear
from invariance.transforms.smoothing import kernel, smoother, square_norm
from invariance.transforms.tabled import Mover, Shape, Tabled, Tables, with_staying
from invariance.transforms.warp import change_along, displacement_mover

LARGEST = 227.0
WIDEST = 113.0
_STEPS, _NEAR = 100, 1e-4
"""Most steps of the iteration that inverts a field, and how near in pixels it has to come."""

TANGENT_SIGMA = 3.0
"""σ of the field that `Elastic.tangent` goes along."""


class Elastic(Tabled):
    """Every pixel takes its value from a place moved by a smooth random displacement.

    The displacement of each pixel along each axis is U(−α, α), smoothed with a Gaussian of standard deviation σ (0
    outside the image); it is a backward map (output pixel p takes the value at p + displacement).

    Training fixes σ and draws α ~ U(0, range) and a new field for each image; measuring takes one fixed field for each
    (α, σ), the same for every image.

    At another size s than 227, σ and α scale by s/227. Smoothing independent noise shrinks it by the squared norm
    ‖k_σ‖² of the (one-dimensional, discrete) kernel, less so for a smaller kernel; α is therefore also multiplied by
    ‖k_σ‖² / ‖k_{σ s/227}‖², so that displacements keep their standard deviation in units of the frame.

    Args:
        range: largest trained α, in pixels of a 227-pixel frame, at most 227; None for measuring alone.
        sigma: trained σ, in the same unit, at most 113.
        alphas: measured α; every α is combined with every σ.
        sigmas: measured σ.
        scale_lengths: whether α and σ scale with the size of the images; if not, they are in their own pixels.
        grid_seed: number that fixes the measured fields.

    Raises:
        UserError: for arguments that are not such values.
    """

    by_image = True

    ordinal = True
    uniforms = 2
    tangent_unit = f"α (px) at σ {TANGENT_SIGMA:g}"

    def __init__(
        self,
        range: float | None = None,
        sigma: float = 2.0,
        alphas: Sequence[float] = (),
        sigmas: Sequence[float] = (),
        scale_lengths: bool = True,
        grid_seed: int = 0,
    ) -> None:
        self.range = trained_range("elastic", range, 0, LARGEST, "pixels (α)", "range=10")
        self.sigma = number("elastic", "sigma", sigma, 0, WIDEST, "it is in pixels, as transform.sigma=2")
        self.alphas = grid_values("elastic", "alphas", alphas, 0, LARGEST)
        self.sigmas = grid_values("elastic", "sigmas", sigmas, 0, WIDEST)
        self.scale_lengths = flag("elastic", "scale_lengths", scale_lengths)
        self.grid_seed = whole("elastic", "grid_seed", grid_seed, 0, SEEDS)

    def params_of(self, uniforms: Tensor) -> Params:
        """`alpha` (n,) ~ U(0, range), `sigma` (n,), the trained one, and `seed` (n,), int64, of each image's field."""
        alpha = needed_range("elastic", self.range) * uniforms[:, 0]
        return {"alpha": alpha, "sigma": torch.full_like(alpha, self.sigma), "seed": seeds_from(uniforms[:, 1])}

    def grid(self) -> list[GridPoint]:
        """Untouched, then every α with every σ, σ running faster. Covered: the trained σ, with α within the range."""
        points = [GridPoint(UNTOUCHED, 0.0, self._fixed(0.0, self.sigma), covered=True)]
        for alpha in self.alphas:
            for sigma in self.sigmas:
                covered = self.range is not None and alpha <= self.range and sigma == self.sigma
                params = self._fixed(alpha, sigma)
                points.append(GridPoint(f"α{alpha:g} σ{sigma:g}", float(len(points)), params, covered))
        return points

    def beside(self) -> dict[str, object]:
        """Whether lengths are the images' own."""
        return unscaled(self.scale_lengths)

    def tables(self, params: Params, shape: Shape) -> Tables:
        """See `Tabled.tables`: kernels, keys and strengths of the fields."""
        return with_staying(self._of_field(params, shape), params["alpha"] == 0)

    def mover(self, tables: Tables, like: Tensor) -> Mover:
        """See `Tabled.mover`: images displaced by the field of `seed`, of strength `alpha` and smoothness `sigma`."""
        return displacement_mover(_field(tables, like), like)

    def goes_to(self, places: Tensor, params: Params, size: Size) -> Tensor:
        """See `Transform.goes_to`: v with v + field(v) = u, by fixed-point iteration.

        Where the field folds the image there is no one such v, and the iteration comes to no end: infinitely far.
        """
        field = self._of_size(places, params, size)
        found = places.expand(len(field), -1, -1, -1)
        left = torch.ones_like(found[:, :1], dtype=torch.bool)
        for _ in range(_STEPS):
            step = places - bilinear(field, found) - found
            found = torch.where(left, found + step, found)  # a place that is found does not wait for others
            left = left & (step.abs() > _NEAR).any(dim=1, keepdim=True)
            if not bool(left.any()):
                break
        return torch.where(left, torch.inf, found)

    def comes_from(self, places: Tensor, params: Params, size: Size) -> Tensor:
        """See `Transform.comes_from`: between pixels the displacement is bilinear."""
        return places + bilinear(self._of_size(places, params, size), places)

    def _of_size(self, places: Tensor, params: Params, size: Size) -> Tensor:
        field = self.field(torch.empty(1, 1, *size, device=places.device), params)
        return torch.where((params["alpha"] == 0).to(places.device)[:, None, None, None], 0.0, field.double())

    def tangent(self, x: Tensor) -> Tensor:
        """See `Transform.tangent`: per pixel of α in the frame, along the field of α = 1 and σ = 3."""
        return change_along(x, self.field(x, self._fixed(1.0, TANGENT_SIGMA)))

    def field(self, x: Tensor, params: Params) -> Tensor:
        """The displacements (n, 2, H, W) for images x (B, C, H, W): right (0) and down (1), in pixels of x."""
        tables = self._of_field(params, x.shape)
        return _field({name: table.to(x.device) for name, table in tables.items()}, x)

    def _of_field(self, params: Params, shape: Sequence[int]) -> Tables:
        """What `_field` takes, for images (…, H, W)."""
        scale = frame_scale(shape, self.scale_lengths)
        sigma = params["sigma"] * scale
        alpha = params["alpha"] * scale * square_norm(params["sigma"]) / square_norm(sigma)
        # training has one σ for all images, and one matrix smooths them all
        one = sigma[:1] if bool((sigma == sigma[0]).all()) else sigma
        return {"weights": kernel(one), "keys": keys_of(params["seed"]), "alpha": alpha}

    def _fixed(self, alpha: float, sigma: float) -> Params:
        return {
            "alpha": torch.tensor([alpha], dtype=torch.float64),
            "sigma": torch.tensor([sigma], dtype=torch.float64),
            "seed": torch.tensor([fixed_seed("elastic", self.grid_seed, alpha, sigma)]),
        }


def _field(tables: Tables, like: Tensor) -> Tensor:
    """The displacements (n, 2, H, W) float32 for images like some (B, C, H, W), from tables on their device."""
    noise = uniform_by(tables["keys"], (2, *like.shape[-2:])).mul_(2).sub_(1)
    return smoother(tables["weights"], noise)(noise).mul_(tables["alpha"][:, None, None, None].to(noise.dtype))
