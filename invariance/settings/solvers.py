"""How maps are fitted: the maps and solvers of `conf/map/` and `conf/solver/`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from invariance.settings.base import Settings
from invariance.settings.fields import LARGEST_RATE, Batch, Least, Positive, Rate, Seed, Share, distinct

Loss = Annotated[Literal["scaled", "square"], Field(description="choose scaled, for ‖·‖² / (2D), or square, for ‖·‖²")]


class OnlineSGDSettings(Settings):
    """Settings of online SGD; what is left out keeps its default."""

    rate: Rate = 0.1
    momentum: Share = 0.9
    weight_decay: Least = 1e-5
    epochs: Positive = 10
    loss: Loss = "scaled"
    relu: bool = True
    seed: Seed = 0
    block: Batch = 256
    inner: Batch = 16


class RidgeSettings(Settings):
    """Settings of ridge; what is left out keeps its default."""

    strengths: Annotated[list[Least], Field(min_length=1), AfterValidator(distinct)] = Field(
        default=[], description=f"give a list of different numbers from 0 to {LARGEST_RATE}, as [1e-3, 1e-2, 1e-1]"
    )
    held_out: Annotated[float, Field(gt=0, lt=1, description="give a share between 0 and 1")] = 0.1
    seed: Seed = 0
    block: Batch = 1024


class ProcrustesSettings(Settings):
    """Settings of the closed form of orthogonal maps; what is left out keeps its default."""

    block: Batch = 1024


class MinibatchSGDSettings(Settings):
    """Settings of minibatch SGD; what is left out keeps its default."""

    rate: Rate = 0.3
    momentum: Share = 0.9
    weight_decay: Least = 1e-5
    epochs: Positive = 10
    batch: Batch = 32
    hidden: Positive | None = None
    loss: Loss = "scaled"
    seed: Seed = 0


class NoSettings(Settings):
    """Of a map, which has none but the rank in its name."""
