"""What training and finetuning have in common as Lightning modules: SGD by a recipe, and an end in order."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from invariance.runs.processes import heed_signals, raise_if_interrupted


def rate_factor(recipe: Mapping[str, Any], update: int) -> float:
    """What the rate of an update, counted from 0, is of the recipe's: risen linearly, then fallen by its schedule."""
    if update < recipe["warmup"]:
        return float((update + 1) / recipe["warmup"])
    if recipe["schedule"] == "step":
        return float(10.0 ** -(update // recipe["step"]))
    progress = (update - recipe["warmup"]) / max(1, recipe["updates"] - recipe["warmup"])
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def sgd(named: Sequence[tuple[str, nn.Parameter]], recipe: Mapping[str, Any]) -> torch.optim.SGD:
    """SGD as in the released code: biases at twice the rate, without decay; on a GPU one kernel for many parameters."""
    weights = [p for name, p in named if not name.endswith("bias")]
    biases = [p for name, p in named if name.endswith("bias")]
    return torch.optim.SGD(
        [
            {"params": weights, "weight_decay": recipe["weight_decay"]},
            {"params": biases, "weight_decay": 0.0, "lr": 2 * recipe["rate"]},
        ],
        lr=recipe["rate"],
        momentum=recipe["momentum"],
        nesterov=recipe["nesterov"],
        fused=True if all(p.is_cuda for _, p in named) else None,
    )


def all_finite(module: nn.Module) -> Tensor:
    """Whether every weight and buffer of a module is a finite number, as a boolean () on their device."""
    values = [one for one in module.state_dict().values() if one.is_floating_point()]
    return torch.stack([torch.isfinite(one).all() for one in values]).all()


class RecipeModule(pl.LightningModule):
    """A module that is trained by a recipe, and ends between two batches when a signal came.

    Args:
        recipe: rate, momentum, weight_decay, schedule and so on (conf/recipe/).
        seed: seed of all that is random.

    Attributes:
        started: whether training has begun, and a checkpoint, if there was one, has been taken up.
        memory_format: the layout of the images that its network takes.
    """

    network: nn.Module

    def __init__(self, recipe: Mapping[str, Any], seed: int) -> None:
        super().__init__()
        self.recipe, self.seed = dict(recipe), seed
        self.started = False
        self.memory_format = torch.contiguous_format

    def speed_up(self, channels_last: bool, compiled: bool = False) -> None:
        """Run the network in the channels-last layout, or compiled; checkpoints stay the same files."""
        if channels_last:
            self.memory_format = torch.channels_last
            self.network.to(memory_format=torch.channels_last)
        if compiled:
            self.network.compile(dynamic=False)  # so that no smaller batch makes it compile anew

    def on_train_start(self) -> None:
        """Note that a checkpoint, if there was one, has been taken up."""
        self.started = True
        self.train()  # Lightning keeps the mode that a module comes in
        heed_signals()  # Lightning's own handler of SIGTERM waits for other devices, which may wait for this one

    def on_train_batch_end(self, *_: object) -> None:
        """End here if a signal came."""
        raise_if_interrupted()

    def on_validation_batch_end(self, *_: object) -> None:
        """End here if a signal came."""
        raise_if_interrupted()

    def trained_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The parameters that are trained, by name."""
        return list(self.network.named_parameters())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """SGD, biases at twice the rate; the rate by the recipe's schedule."""
        optimizer = sgd(self.trained_parameters(), self.recipe)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(rate_factor, self.recipe))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
