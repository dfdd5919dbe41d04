"""Training a network under one family of transformations (Eq. 5)."""

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from invariance.errors import UserError
from invariance.models import build_model, outline
from invariance.seeds import derive, generator, own_states
from invariance.settings.named import is_outside
from invariance.training.checkpoint import read_checkpoint, require_sealed
from invariance.training.module import RecipeModule, all_finite
from invariance.transforms import UNTOUCHED, Params, Transform
from invariance.transforms import build as build_transform
from invariance.transforms.tabled import Fixed, Shape, Tables, tabled

_CHECK_EVERY = 50


class Classifier(RecipeModule):
    """A network trained with cross-entropy on g x, with a new g for every image (Eq. 5).

    Everything random is keyed by (seed, update), so that update t is the same whether training reached it in one go or
    after any interruption: the transformations, dropout, and (in the data module) the images of the batch.

    Args:
        model: configuration of the network, as in `conf/model/`, plain containers.
        transform: configuration of the family, as in `conf/transform/`, plain containers, its range set.
        recipe: rate, momentum, weight_decay, schedule and so on (Sec. 5; conf/recipe/).
        classes: names of the classes, in the order of the labels.
        channels: channels of the images.
        mean: channel means in [0, 255], subtracted before the division by 255.
        seed: seed of initialisation, transformations and dropout.
    """

    mean: Tensor
    diverged: Tensor

    def __init__(
        self,
        model: dict[str, Any],
        transform: dict[str, Any],
        recipe: dict[str, Any],
        classes: list[str],
        channels: int,
        mean: list[float],
        seed: int,
    ) -> None:
        super().__init__(recipe, seed)
        if not all(math.isfinite(one) for one in mean):
            raise UserError(f"mean={mean}: the mean of every channel has to be a finite number; prepare the data again")
        self.save_hyperparameters()
        self._family = transform
        if not is_outside(transform.get("_target_")):
            self.transform.grid()  # a mistake in it comes to light here
        with own_states(torch.device("cpu")):
            torch.default_generator.manual_seed(derive(seed, "initialisation"))
            self.network = build_model(model, len(classes), channels)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("diverged", torch.tensor(False), persistent=False)

    @cached_property
    def transform(self) -> Transform:
        """The family. One from outside the package is found when it is asked for: no trained network needs it.

        Raises:
            UserError: if nobody named it in this process.
        """
        return build_transform(self._family)

    @cached_property
    def moved(self) -> Fixed:
        """Images under a fixed g of the family."""
        return Fixed(self.transform)

    @cached_property
    def untouched(self) -> Params:
        """Parameters of the family's untouched point."""
        return next(point.params for point in self.transform.grid() if point.label == UNTOUCHED)

    def normalise(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 255] as the network takes them: (x − mean) / 255."""
        return (x - self.mean).div_(255)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W) in [0, 255]."""
        logits: Tensor = self.network(self.normalise(x.float()))
        return logits

    def draw(self, shape: Shape) -> Callable[[int, int], Tables] | None:
        """What draws the g of an update where its images (C, H, W) are read, as `PreparedData` takes it.

        Returns:
            Of an update and its images, all devices' together, what this device's g need; None for a family that takes
            its parameters itself: they are drawn in the step.
        """
        family = tabled(self.transform)
        return None if family is None else lambda update, n: family.tables(self._drawn(update, n), shape)

    def _drawn(self, update: int, n: int) -> Params:
        """Parameters of this device's images, its slice of the n that all devices have in an update."""
        drawn, share = self.transform.sample(n, generator(self.seed, "transform", update)), n // self.trainer.world_size
        mine = slice(self.trainer.global_rank * share, (self.trainer.global_rank + 1) * share)
        return {name: values[mine] for name, values in drawn.items()}

    def training_step(self, batch: tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tables], batch_idx: int) -> Tensor:
        """Mean cross-entropy of a batch (x uint8 (B, C, H, W), y (B,)), each image under its own g.

        What `draw` gave stands behind them; where nothing does, g is drawn here, and is the same.
        """
        x, y, rank, world = batch[0].float(), batch[1], self.trainer.global_rank, self.trainer.world_size
        family = tabled(self.transform)
        if family is not None and len(batch) == 3:
            gx = family.ready(batch[2], x)(x)
        else:
            gx = self.transform.apply(x, self._drawn(self.global_step, world * len(x)))
        with own_states(self.device):
            torch.manual_seed(derive(self.seed, "dropout", self.global_step, *([rank] if world > 1 else [])))
            logits = self.network(self.normalise(gx).contiguous(memory_format=self.memory_format))
        loss = functional.cross_entropy(logits, y, label_smoothing=self.recipe["label_smoothing"])
        self.diverged = self.diverged | ~torch.isfinite(loss.detach())
        if self.global_step % _CHECK_EVERY == 0:
            self._refuse_divergence()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def on_train_epoch_end(self) -> None:
        """Look once more before the span's checkpoint is written, at the weights, too."""
        self.diverged = self.diverged | ~all_finite(self.network)
        self._refuse_divergence()

    def _refuse_divergence(self) -> None:
        strategy, mine = self.trainer.strategy, bool(self.diverged)
        if strategy.reduce_boolean_decision(mine, all=False):  # all devices end together
            raise UserError(
                f"training diverged: the loss or a weight was no longer finite by update {self.global_step}; "
                f"lower recipe.rate (it is {self.recipe['rate']}) and repeat, with another name=… or after "
                "deleting the run directory if it holds checkpoints"
            )

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Accuracy and loss of untouched images (Crop: their centre window)."""
        x, y = batch
        logits = self(self.moved(x.float(), self.untouched))
        self.log("val/accuracy", (logits.argmax(1) == y).float().mean(), batch_size=len(y), prog_bar=True)
        self.log("val/loss", functional.cross_entropy(logits, y), batch_size=len(y))


def load_classifier(path: Path, remedy: str = "train the network again (delete its run directory)") -> Classifier:
    """A trained network from its checkpoint. Code in the file is never run.

    Args:
        path: the checkpoint.
        remedy: what the user is to do if it cannot serve, for the error's last words.

    Raises:
        UserError: if the file is absent, truncated, holds code, is not what its run was finished with, holds what is no
            finite number, or belongs to another architecture.
    """
    require_sealed(path, remedy)
    held = read_checkpoint(path, remedy)
    try:
        named = held["hyper_parameters"]
        shapes = outline(named["model"], len(named["classes"]), named["channels"])  # before any memory is taken for it
        check_architecture(path, held["state_dict"], nn.ModuleDict({"network": shapes}), remedy)
        classifier = Classifier(**named)
    except UserError as error:
        if str(path) in str(error):
            raise
        raise UserError(f"checkpoint {path}: {error}; {remedy}") from error
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError, ArithmeticError) as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"checkpoint {path} comes from another version ({why}); {remedy}") from error
    classifier.load_state_dict(held["state_dict"])
    return classifier.eval()


def check_architecture(path: Path, state: object, module: nn.Module, remedy: str) -> None:
    """Refuse a checkpoint whose weights do not fit the network.

    Args:
        path: the checkpoint.
        state: what it holds as the network's state.
        module: the network.
        remedy: what the user is to do, for the error's last words.

    Raises:
        UserError: naming the first weight that differs.
    """
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"checkpoint {path} is not one of invariance.train; {remedy}")
    ours = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    theirs = {str(key): tuple(value.shape) for key, value in state.items()}
    for key in sorted(set(ours) | set(theirs)):
        if ours.get(key) != theirs.get(key):
            raise UserError(
                f"checkpoint {path} is of another architecture: {key} is {theirs.get(key, 'absent')} there and "
                f"{ours.get(key, 'absent')} in the network it names; {remedy}"
            )
