"""Gaussian noise (A.5): independent at every pixel and channel."""

from collections.abc import Sequence

import torch
from torch import Tensor

from invariance.transforms.base import GridPoint, Params, Still, line_grid
from invariance.transforms.checks import grid_values, needed_range, trained_range, whole
from invariance.transforms.counter import SEEDS, fixed_seed, keys_of, normal, normal_by, seeds_from
from invariance.transforms.tabled import Mover, Shape, Tabled, Tables


class Noise(Tabled, Still):
    """clamp(x + σ ε, 0, 255), ε ~ N(0, 1) at every pixel and channel.

    Training draws σ ~ U(0, range) and a new field ε for every image. Measuring takes one fixed field per σ, the same
    for every image, independent per channel.

    Args:
        range: largest trained σ, in intensity, at most 255; None for measuring alone.
        sigmas: measured σ.
        grid_seed: number that fixes the measured fields.

    Raises:
        UserError: for arguments that are not such numbers.
    """

    by_image = True

    unit = "intensity"
    tangent_unit = "σ"
    uniforms = 2

    def __init__(self, range: float | None = None, sigmas: Sequence[float] = (), grid_seed: int = 0) -> None:
        self.range = trained_range("noise", range, 0, 255, "intensity (σ)", "range=20")
        self.sigmas = grid_values("noise", "sigmas", sigmas, 0, 255)
        self.grid_seed = whole("noise", "grid_seed", grid_seed, 0, SEEDS)

    def params_of(self, uniforms: Tensor) -> Params:
        """`sigma` (n,) ~ U(0, range) and `seed` (n,), int64, of each image's field."""
        return {"sigma": needed_range("noise", self.range) * uniforms[:, 0], "seed": seeds_from(uniforms[:, 1])}

    def grid(self) -> list[GridPoint]:
        """One fixed field per σ."""
        return line_grid(
            self.sigmas,
            lambda sigma: {
                "sigma": torch.tensor([sigma], dtype=torch.float64),
                "seed": torch.tensor([fixed_seed("noise", self.grid_seed, sigma)]),
            },
            lambda sigma: self.range is not None and sigma <= self.range,
        )

    def tables(self, params: Params, shape: Shape) -> Tables:
        """See `Tabled.tables`: keys of the fields, and `sigma`."""
        return {"keys": keys_of(params["seed"]), "sigma": params["sigma"]}

    def mover(self, tables: Tables, like: Tensor) -> Mover:
        """See `Tabled.mover`: images with σ times the field of `seed` added."""
        sigma = tables["sigma"][:, None, None, None].to(like.dtype)
        field = normal_by(tables["keys"], tuple(like.shape[1:])).to(like.dtype)
        return lambda x: torch.addcmul(x, field, sigma).clamp_(0, 255)

    def tangent(self, x: Tensor) -> Tensor:
        """See `Transform.tangent`: a field ε, that of σ = 1, the same for every image."""
        seed = torch.tensor([fixed_seed("noise", self.grid_seed, 1.0)])
        return normal(seed, tuple(x.shape[1:]), x.device).to(x.dtype).repeat(len(x), 1, 1, 1)
