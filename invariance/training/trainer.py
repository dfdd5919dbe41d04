"""What training and finetuning share: Lightning's trainer, going on after an interruption, the end."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from invariance.errors import UserError

if TYPE_CHECKING:  # torch takes seconds to import, and --help must not wait for it
    from pathlib import Path

    import pandas as pd
    import pytorch_lightning as pl

    from invariance.data.batches import PreparedData
    from invariance.data.prepared import Prepared
    from invariance.runs.run import Run
    from invariance.runs.wandb import Tracker
    from invariance.training.classifier import Classifier
    from invariance.training.joint import JointFinetune


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


def check_devices(config: dict[str, Any]) -> None:
    """Refuse devices that are not there.

    Raises:
        UserError: naming the accelerator or the number.
    """
    import torch

    from invariance.device import choose_device

    devices = config["trainer"]["devices"]
    if choose_device(config["trainer"]["accelerator"]).type == "cuda" and devices > torch.cuda.device_count():
        raise UserError(f"trainer.devices={devices}: this machine has {torch.cuda.device_count()} GPUs")


def build_trainer(config: dict[str, Any], plugins: Sequence[Any] = (), **settings: Any) -> pl.Trainer:  # noqa: ANN401
    """Lightning's trainer from the `trainer` part of the configuration.

    Raises:
        UserError: if the machine has no such device.
    """
    import pytorch_lightning as pl
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    from invariance.device import choose_device

    quieten_lightning()
    device = choose_device(config["trainer"]["accelerator"])
    devices, precision = config["trainer"]["devices"], config["trainer"]["precision"]
    asked = {"accelerator": device.type, "devices": devices, "precision": precision}
    strategy = "ddp" if devices > 1 else "auto"
    try:
        return pl.Trainer(
            **asked,
            enable_progress_bar=bool(config["progress"]),
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


def trainer_of(config: dict[str, Any], run: Run, *, best: bool) -> pl.Trainer:
    """The trainer of a run, which saves the whole state after every span.

    Args:
        config: the configuration.
        run: the run.
        best: whether the network that does best on the validation split is saved, too.

    Raises:
        UserError: if the trainer cannot be had as configured.
    """
    from invariance.training.checkpoint import AtomicCheckpointIO, checkpoints
    from invariance.training.noting import noting

    recipe = config["recipe"]
    callbacks = [*checkpoints(run.directory, best=best), noting(run, recipe["updates"])]
    # max_steps stays unset: with it Lightning counts a checkpoint at a span's end as one in its middle
    return build_trainer(
        config,
        max_epochs=math.ceil(recipe["updates"] / recipe["val_every"]),
        logger=False,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO(run)],
        log_every_n_steps=min(50, recipe["val_every"]),
        reload_dataloaders_every_n_epochs=1,
    )


def data_of(config: dict[str, Any], prepared: Prepared, seed: int) -> PreparedData:
    """The batches of a training."""
    from invariance.data.batches import PreparedData

    recipe = config["recipe"]
    return PreparedData(
        prepared,
        batch_size=recipe["batch"],
        updates=recipe["updates"],
        val_every=recipe["val_every"],
        seed=seed,
        workers=config["trainer"]["workers"],
    )


def fit(
    module: Classifier | JointFinetune,
    trainer: pl.Trainer,
    data: PreparedData,
    run: Run,
    tracker: Tracker,
    checkpoint: Path | None,
    beside: AbstractContextManager[None] | None = None,
) -> None:
    """Train to the end, from a checkpoint if there is one.

    Args:
        module: what is trained.
        trainer: its trainer.
        data: its batches.
        run: the run.
        tracker: where curves go.
        checkpoint: where `resume_point` says that training goes on; None at the beginning.
        beside: what runs along, as other ranks do.

    Raises:
        UserError: if the checkpoint cannot serve.
    """
    from pytorch_lightning.loggers import CSVLogger

    from invariance.runs.processes import gently
    from invariance.training.curves import TrackedCurves

    # the files have the curves whatever becomes of W&B
    trainer.loggers = [CSVLogger(run.directory, name="curves"), *([TrackedCurves(tracker)] if tracker.run else [])]
    try:
        with gently(), beside or nullcontext():
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


def evaluate(
    config: dict[str, Any], about: Mapping[str, Any], prepared: Prepared, run: Run, tracker: Tracker
) -> pd.DataFrame:
    """Error of a run's network on the validation and the report split, untouched (Table 3).

    Args:
        config: the configuration.
        about: what the rows say of the network: stage, network, family, range and seed.
        prepared: the data.
        run: the run, whose `best.ckpt` is evaluated.
        tracker: where the results go, too.
    """
    import numpy as np
    import pandas as pd
    import torch

    from invariance.device import choose_device
    from invariance.engine.stream import extract
    from invariance.measures.bootstrap import wilson
    from invariance.measures.error import errors_per_image
    from invariance.models.representation import Representation
    from invariance.runs.files import sha256, write_text
    from invariance.runs.rows import Row, to_frame
    from invariance.runs.run import BEST
    from invariance.training.classifier import load_classifier

    classifier = load_classifier(run.directory / BEST)
    device = choose_device(config["trainer"]["accelerator"])
    classifier.to(device)
    run.record({"weights_sha256": sha256(run.directory / BEST), "device": str(device)})
    everything = Representation(classifier.network, [name for name, _ in classifier.network.named_children()][-1])
    rows = []
    for name in dict.fromkeys(["val", prepared.report]):
        split = prepared.split(name)
        logits = extract(
            everything,
            classifier.normalise,
            split.images,
            np.arange(len(split.labels)),
            classifier.transform,
            classifier.untouched,
            device=device,
        )
        if not bool(logits.isfinite().all(1).any()):
            raise UserError(
                f"{run.directory / BEST} gives no finite number for any image of {name}: training diverged; delete "
                f"{run.directory} and repeat with a lower recipe.rate (it is {config['recipe']['rate']})"
            )
        labels = torch.from_numpy(np.asarray(split.labels))
        interval = wilson(errors_per_image(logits, labels))
        error, low, high = (float(end[0]) for end in (interval.mean, interval.low, interval.high))
        rows.append(
            Row(
                **about,
                data=prepared.name,
                split=name,
                metric="error_rate",
                score=error,
                low=low,
                high=high,
                n_images=len(labels),
                run=run.name,
            )
        )
        tracker.summarise({f"{name}/accuracy": 1 - error})
        predicted = logits.argmax(1)
        tracker.confusion(f"{name}/confusion", labels.tolist(), predicted.tolist(), prepared.classes)
        confusion = pd.crosstab(labels.numpy(), predicted.numpy()).reindex(
            index=range(len(prepared.classes)), columns=range(len(prepared.classes)), fill_value=0
        )
        run.require_here()
        write_text(run.directory / f"confusion_{name}.csv", confusion.to_csv())
    return to_frame(rows)
