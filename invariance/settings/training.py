"""What a training is: its recipe, the trainer it runs on, the weights of the joint loss."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from invariance.errors import UserError, shown
from invariance.settings.base import Settings
from invariance.settings.fields import LARGEST_RATE, Batch, Count, Least, Positive, Share


class Recipe(Settings):
    """How a network is trained (Sec. 5): the files of `conf/recipe/`."""

    rate: Least
    momentum: Share
    weight_decay: Least
    batch: Batch
    updates: Positive
    schedule: Literal["step", "cosine"]
    step: Positive | None = Field(description="give a whole number from 1 (with schedule=cosine: or null)")
    warmup: Count
    label_smoothing: Share
    nesterov: bool
    val_every: Positive

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.schedule == "step" and self.step is None:
            raise UserError("recipe.step=None: give a whole number from 1")
        if self.nesterov and not self.momentum:
            raise UserError("recipe.nesterov=True: give true (with momentum above 0) or false")
        return self


class Trainer(Settings):
    """What a network is trained and run on: the files of `conf/trainer/`."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda"] = Field(description="choose auto, cpu or gpu")
    devices: Annotated[int, Field(ge=1, le=1024, description="give a whole number from 1")]
    precision: Literal["32-true", "tf32", "bf16-mixed", "16-mixed"]
    deterministic: bool
    workers: Annotated[int, Field(ge=0, le=1024, description="give a whole number from 0 to 1024")]
    channels_last: bool
    compile: bool

    def divides(self, batch: int) -> None:
        """Refuse a number of devices that does not divide a batch.

        Raises:
            UserError: naming both.
        """
        if batch % self.devices:
            raise UserError(
                f"trainer.devices={self.devices}: recipe.batch={shown(batch)} cannot be cut into as many equal parts; "
                "choose another"
            )


class Joint(Settings):
    """The weights of the joint loss (Eq. 6 and 7); null is the released code's for as many features."""

    lambda1: Least | None
    lambda2: Least | None
    lambda3: Least = Field(description=f"give a number from 0 to {LARGEST_RATE}; the paper's is 0.3")
