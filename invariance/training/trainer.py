"""What training and finetuning share: Lightning's trainer, batches, and going on after an interruption."""

import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor

from invariance.data.batches import PreparedData
from invariance.data.prepared import Prepared
from invariance.device import choose_device, training_arithmetic
from invariance.errors import UserError
from invariance.runs.processes import gently
from invariance.runs.run import Run
from invariance.runs.wandb import Tracker
from invariance.training.beside import BesideCheckpointIO
from invariance.training.curves import TrackedCurves
from invariance.training.module import RecipeModule
from invariance.training.noting import noting
from invariance.training.saving import checkpoints


def quieten_lightning() -> None:
    """Keep Lightning's advertisements and its advice that does not hold here out of what a user reads."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # prepared data seldom need any
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")  # a run that continues is just that
    warnings.filterwarnings("ignore", message=".*srun.*is available on your system")  # a network trains in one process
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # every rank validates on everything
    warnings.filterwarnings("ignore", message="The `srun` command is available.*")  # the launchers' business
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")


def build_trainer(
    trainer: Mapping[str, Any],
    plugins: Sequence[Any] = (),
    *,
    progress: bool,
    **settings: Any,  # noqa: ANN401
) -> pl.Trainer:
    """Lightning's trainer.

    Args:
        trainer: accelerator, devices and precision (conf/trainer/).
        plugins: Lightning's.
        progress: whether it shows a bar.
        **settings: more of Lightning's settings.

    Raises:
        UserError: if the machine has no such device.
    """
    quieten_lightning()
    device = choose_device(trainer["accelerator"])
    devices, precision = trainer["devices"], trainer["precision"]
    lightnings = "32-true" if precision == "tf32" else precision  # which float32 that is, `arithmetic` sees to
    asked = {"accelerator": device.type, "devices": devices, "precision": lightnings}
    strategy = "ddp" if devices > 1 else "auto"
    try:
        return pl.Trainer(
            **asked,
            enable_progress_bar=progress,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            # whatever scheduler this runs under: it is the launcher's business, and Lightning would requeue by itself
            plugins=[LightningEnvironment(), *plugins],
            strategy=strategy,
            use_distributed_sampler=False,
            **settings,
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        wish = ", ".join(f"{key}={value}" for key, value in asked.items())
        why = str(error).splitlines()[0]
        raise UserError(f"trainer: {wish} cannot be had on this machine ({why}); try trainer=auto") from error


def trainer_of(
    trainer: Mapping[str, Any], recipe: Mapping[str, Any], run: Run, *, best: bool, progress: bool
) -> pl.Trainer:
    """The trainer of a run, which saves the whole state after every span.

    Args:
        trainer: accelerator, devices and precision (conf/trainer/).
        recipe: updates, and after how many of them validation comes (conf/recipe/).
        run: the run.
        best: whether the network that does best on the validation split is saved, too.
        progress: whether a bar is shown.

    Raises:
        UserError: if the trainer cannot be had as configured.
    """
    callbacks = [*checkpoints(run.directory, best=best), noting(run, recipe["updates"])]
    # max_steps stays unset: with it Lightning counts a checkpoint at a span's end as one in its middle
    return build_trainer(
        trainer,
        progress=progress,
        max_epochs=math.ceil(recipe["updates"] / recipe["val_every"]),
        logger=False,
        callbacks=callbacks,
        plugins=[BesideCheckpointIO(run)],
        log_every_n_steps=min(50, recipe["val_every"]),
        reload_dataloaders_every_n_epochs=1,
    )


def arithmetic(trainer: Mapping[str, Any]) -> AbstractContextManager[None]:
    """How a GPU computes while a trainer of these settings trains (conf/trainer/); it has to be entered around that.

    Raises:
        UserError: at its end, if trainer.deterministic cannot be had for this network.
    """
    return training_arithmetic(choose_device(trainer["accelerator"]), trainer["precision"], trainer["deterministic"])


def trained_on(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """What a provenance says of a trainer (conf/trainer/): its settings, its device, and whether it gives equal bits.

    On a CPU the same command gives the same bits, and on a GPU where trainer.deterministic says so.
    """
    device = choose_device(trainer["accelerator"])
    gpu = device.type == "cuda"
    return {
        "trainer": dict(trainer),
        "device": torch.cuda.get_device_name(device) if gpu else "cpu",
        "same_bits_again": bool(trainer["deterministic"]) or not gpu,
    }


def data_of(
    prepared: Prepared,
    recipe: Mapping[str, Any],
    seed: int,
    workers: int,
    draw: Callable[[int, int], dict[str, Tensor]] | None = None,
) -> PreparedData:
    """The batches of a training.

    Args:
        prepared: the images.
        recipe: batch, updates and after how many of them validation comes (conf/recipe/).
        seed: seed of their order.
        workers: threads that read them.
        draw: what is drawn for an update and the number of all devices' images in it, as `PreparedData` takes it.
    """
    return PreparedData(
        prepared,
        batch_size=recipe["batch"],
        updates=recipe["updates"],
        val_every=recipe["val_every"],
        seed=seed,
        workers=workers,
        draw=draw,
    )


def fit(
    module: RecipeModule,
    trainer: pl.Trainer,
    data: PreparedData,
    run: Run,
    tracker: Tracker,
    checkpoint: Path | None,
    settings: Mapping[str, Any],
    beside: AbstractContextManager[None] | None = None,
) -> None:
    """Train to the end, from a checkpoint if there is one; what was to be saved is on the disk then, however it ends.

    Args:
        module: what is trained.
        trainer: its trainer, of `trainer_of`.
        data: its batches.
        run: the run.
        tracker: where curves go.
        checkpoint: where `resume_point` says that training goes on; None at the beginning.
        settings: what the trainer was made of (conf/trainer/).
        beside: what runs along, as other ranks do.

    Raises:
        UserError: if the checkpoint cannot serve, or one could not be written.
    """
    saving = trainer.strategy.checkpoint_io
    assert isinstance(saving, BesideCheckpointIO)
    # the files have the curves whatever becomes of W&B
    trainer.loggers = [CSVLogger(run.directory, name="curves"), *([TrackedCurves(tracker)] if tracker.run else [])]
    try:
        with gently(), saving.written(), arithmetic(settings), beside or nullcontext():
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as error:  # how Lightning ends on SIGINT, and on SIGTERM even with status 0
        raise KeyboardInterrupt from error
    except OSError:
        run.require_here()  # Lightning's curves miss a deleted folder first
        raise
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        if checkpoint is None or module.started or isinstance(error, UserError):
            raise
        remedy = f"delete {run.directory} to start over"
        raise UserError(f"checkpoint {checkpoint} is damaged ({error!r}); {remedy}") from error
