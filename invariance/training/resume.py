"""Where an interrupted training continues: at its last checkpoint, or at the one before where that cannot serve."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint

from invariance.errors import UserError
from invariance.runs.files import sha256
from invariance.runs.run import BEST, LAST, PREVIOUS
from invariance.training.checkpoint import RUN, read_checkpoint
from invariance.training.classifier import check_architecture, load_classifier
from invariance.training.module import sgd


def resume_point(directory: Path, module: pl.LightningModule, trainer: pl.Trainer) -> tuple[Path | None, int]:
    """The checkpoint from which a training continues, and its update; None and 0 where there is none.

    Training is deterministic, so what is repeated from the checkpoint before the last one gives the same scores, and
    the same best network again. That it is used is said in one line on standard error.

    Args:
        directory: the run's folder.
        module: what is to be trained.
        trainer: its trainer, with the callbacks that wrote the checkpoints; where one of them chooses the best network,
            that network has to be whole, too.

    Raises:
        UserError: if there are checkpoints and none can serve.
    """
    last, previous, remedy = directory / LAST, directory / PREVIOUS, f"delete {directory} to start over"
    if not last.exists() and not previous.exists():
        return None, 0
    held: Mapping[str, Any] | None = None
    try:
        held = _whole(last, module, trainer, remedy)
        if _chooses(trainer):
            _check_best(directory / BEST, held, module, remedy)
    except UserError as error:
        before = _before(directory, held, module, trainer)
        if before is None:
            raise
        why = str(error).removesuffix(f"; {remedy}")
        print(f"{why}; continuing from update {before['global_step']}, the checkpoint before", file=sys.stderr)
        if held is not None:  # the last one stays until the best network is written again
            return previous, before["global_step"]
        os.replace(previous, last)
        return last, before["global_step"]
    return last, held["global_step"]


def _before(
    directory: Path, last: Mapping[str, Any] | None, module: pl.LightningModule, trainer: pl.Trainer
) -> Mapping[str, Any] | None:
    """The checkpoint before the last one, if it can serve.

    Args:
        directory: the run's folder.
        last: the last checkpoint where that is whole: then it is the best network that cannot be read.
        module: what is to be trained.
        trainer: its trainer.
    """
    try:
        held = _whole(directory / PREVIOUS, module, trainer, "")
        if last is None:
            if _chooses(trainer):
                _check_best(directory / BEST, held, module, "")
        elif not _best_score(held, trainer) < _best_score(last, trainer):  # written earlier, so never written again
            return None
    except (UserError, LookupError, TypeError):
        return None
    return held


def _chooses(trainer: pl.Trainer) -> bool:
    """Whether a callback keeps the network that does best on the validation split."""
    return any(isinstance(one, ModelCheckpoint) and one.monitor for one in trainer.checkpoint_callbacks)


def _best_score(held: Mapping[str, Any], trainer: pl.Trainer) -> float:
    [key] = [one.state_key for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint) and one.monitor]
    return float(held["callbacks"][key]["best_model_score"])


def _whole(path: Path, module: pl.LightningModule, trainer: pl.Trainer, remedy: str) -> Mapping[str, Any]:
    """What a checkpoint holds, if it is whole and of this training.

    Raises:
        UserError: if it is absent or cannot serve.
    """
    held = read_checkpoint(path, remedy)
    check_architecture(path, held["state_dict"], module, remedy)
    if not {"loops", "optimizer_states", "lr_schedulers", "callbacks"} <= set(held) or not all(
        callback.state_key in held["callbacks"] for callback in trainer.checkpoint_callbacks
    ):  # Lightning would go on without, and forget the best score so far
        raise UserError(f"checkpoint {path} is not whole, or of another version; {remedy}")
    _check_owner(path, held, module, remedy)
    done, recipe = held["global_step"], module.hparams["recipe"]
    if isinstance(done, bool) or not isinstance(done, int) or done < 1:
        raise UserError(f"checkpoint {path} is damaged (global_step={done!r}); {remedy}")
    try:
        told = {
            "epoch": min((held["epoch"] + 1) * recipe["val_every"], recipe["updates"]),
            "loops": held["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["completed"],
            **{f"lr_schedulers.{k}": one["last_epoch"] for k, one in enumerate(held["lr_schedulers"])},
        }
        states = held["optimizer_states"]
        whole = len(held["lr_schedulers"]) == len(states) == 1 and _optimizer_fits(states, module)
    except (LookupError, TypeError, AttributeError):
        told, whole = {}, False
    if not whole:
        raise UserError(f"checkpoint {path} lacks states of its optimizer, schedule or loops; {remedy}")
    for where, update in told.items():
        if update != done:
            raise UserError(f"checkpoint {path} is damaged: global_step is {done}, by its {where} {update}; {remedy}")
    return held


def _optimizer_fits(states: list[Mapping[str, Any]], module: pl.LightningModule) -> bool:
    """Whether an optimizer's state is one of this module's: all groups, and a momentum of every weight's shape."""
    optimizer = sgd([(name, one) for name, one in module.named_parameters()], module.hparams["recipe"])
    shapes = [one.shape for group in optimizer.param_groups for one in group["params"]]
    [state] = states
    sizes = [len(group["params"]) for group in state["param_groups"]]
    momenta = {k: one.get("momentum_buffer") for k, one in state["state"].items()}
    if sizes != [len(group["params"]) for group in optimizer.param_groups]:
        return False
    if module.hparams["recipe"]["momentum"] and not momenta:
        return False
    return all(value is None or value.shape == shapes[k] for k, value in momenta.items())


def _check_owner(path: Path, held: Mapping[str, Any], module: pl.LightningModule, remedy: str) -> None:
    """Refuse a checkpoint of another run: another network, seed, recipe or mean, or one that says so itself."""
    ours, theirs = dict(module.hparams), dict(held["hyper_parameters"])
    for key in sorted(set(ours) | set(theirs)):
        if ours.get(key) != theirs.get(key):
            raise UserError(f"checkpoint {path} is another network's: its {key} differs; {remedy}")
    name = held.get(RUN, {}).get("name")
    if name is not None and path.parent.parts[-len(PurePosixPath(name).parts) :] != PurePosixPath(name).parts:
        raise UserError(f"checkpoint {path} is another network's: it is of {name}; {remedy}")


def _check_best(path: Path, last: Mapping[str, Any], module: pl.LightningModule, remedy: str) -> None:
    """Refuse a best network that is not this training's: neither the one that `last` knows, nor one of after it.

    One of after it, whose training was killed before its state was written, is written again when training is there.

    Raises:
        UserError: if it is absent or cannot serve.
    """
    load_classifier(path, remedy)
    held, known = read_checkpoint(path, remedy), last.get(RUN, {}).get("best")
    _check_owner(path, held, module, remedy)
    if known is not None and sha256(path) != known and not held["global_step"] > last["global_step"]:
        raise UserError(f"checkpoint {path} is not the one that its training wrote; {remedy}")
