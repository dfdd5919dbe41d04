"""Train a network under one family of transformations (Sec. 5): `python -m invariance.train -m transform=rotation`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from invariance.cli import command, folder, require_range
from invariance.errors import UserError, nearest

if TYPE_CHECKING:  # torch takes seconds to import, and --help must not wait for it
    from pathlib import Path

    import pandas as pd
    import pytorch_lightning as pl

    from invariance.data.module import PreparedData
    from invariance.data.prepared import Prepared
    from invariance.modules.classifier import Classifier
    from invariance.ranks import Ranks
    from invariance.runs.run import Run
    from invariance.tracking import Tracker


PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
LARGEST_SIZE = 4096
SCHEDULES = ("step", "cosine")
RECIPE = (
    "rate", "momentum", "weight_decay", "batch", "updates", "schedule", "step", "warmup", "label_smoothing", "nesterov",
    "val_every",
)  # fmt: skip


def train(config: dict[str, Any]) -> None:
    """One network, from prepared data to rows: continued if it was interrupted, skipped if it is finished.

    Args:
        config: the configuration of `conf/train.yaml`, plain and resolved.

    Raises:
        UserError: for anything the user can mend.
    """
    check(config)
    from invariance.data.prepared import prepare
    from invariance.memory import keep_freed
    from invariance.ranks import Ranks
    from invariance.runs.run import PREVIOUS, Run
    from invariance.tracking import Tracker
    from invariance.transforms import build as build_transform

    keep_freed()
    size = build_transform(config["transform"]).source_size(config["model"]["input_size"])
    prepared = prepare(config["data"], size, folder(config["prepared"], "prepared"), progress=config["progress"])
    if "train" not in prepared.splits or not prepared.classes:
        raise UserError(f"{prepared.name} has no labelled images to train on; it is for measuring other networks")
    identity = {key: config[key] for key in ("name", "seed", "model", "transform", "recipe")}
    identity |= {key: config["trainer"][key] for key in ("precision", "compile")}  # what changes more than rounding
    identity["data"] = {"name": prepared.name, "sha256": prepared.sha256}
    run = Run(
        folder(config["runs"], "runs"), f"train/{prepared.name}/{config['name']}/seed{config['seed']}", identity
    )
    if run.done:
        print(f"finished already: {run.directory}")
        return
    prepared.fit_indices(config["data"].get("fit"))  # what measuring would refuse is better known before training
    ranks = Ranks(config["trainer"]["devices"])
    with ranks.environment():
        classifier, trainer = build(config, prepared, run)  # before the run is entered: a mistake leaves no directory
    with run:
        run.record({
            "data": config["data"], "prepared": str(prepared.directory), "trainer": config["trainer"],
            "remarks": prepared.remarks, "skipped": prepared.skipped,
        })  # fmt: skip
        with Tracker(
            config["logger"], run.directory, name=f"{config['name']}/seed{config['seed']}", stage="train",
            group=prepared.name, config=identity, tags=[config["transform"]["name"], prepared.name],
        ) as tracker:
            with ranks.environment():
                fit(config, prepared, run, tracker, classifier, trainer, ranks)
            (run.directory / PREVIOUS).unlink(missing_ok=True)
            rows = evaluate(config, prepared, run, tracker)
            tracker.table("rows", rows)
            run.finish(rows)
    last = rows.iloc[-1]
    print(f"{run.name}: error {last['score']:.2%} on {last['n_images']} images of {last['split']}; {run.directory}")


def check(config: dict[str, Any]) -> None:
    """Refuse what can be refused before anything is prepared.

    Raises:
        UserError: for a missing range, a value that makes no sense, an unknown logger.
    """
    from invariance.features import choose_device
    from invariance.tracking import check_logger
    from invariance.transforms import build as build_transform

    require_range(config["transform"])
    build_transform(config["transform"])
    check_logger(config["logger"])
    choose_device(config["trainer"]["accelerator"])
    check_devices(config)
    if isinstance(config["seed"], bool) or not isinstance(config["seed"], int) or config["seed"] < 0:
        raise UserError(f"seed={config['seed']!r}: give a whole number from 0")
    name = config["name"] if isinstance(config["name"], str) else ""
    if not name or name.startswith(".") or set(name) & set("/\\ \0"):
        raise UserError(f"name={config['name']!r} cannot name a folder; give a text of letters, digits and . _ -")
    if config["trainer"]["precision"] not in PRECISIONS:
        raise UserError(f"trainer.precision={config['trainer']['precision']!r}: choose one of {', '.join(PRECISIONS)}")
    workers, size = config["trainer"]["workers"], config["model"].get("input_size")
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
        raise UserError(f"trainer.workers={workers!r}: give a whole number from 0")
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= LARGEST_SIZE:
        raise UserError(f"model.input_size={size!r}: give a whole number of pixels, up to {LARGEST_SIZE}")
    for key in ("channels_last", "compile"):
        if not isinstance(config["trainer"][key], bool):
            raise UserError(f"trainer.{key}={config['trainer'][key]!r}: give true or false")
    check_recipe(config["recipe"])


def check_devices(config: dict[str, Any]) -> None:
    """Refuse a number of devices that is none, that is not there, or that does not divide a batch.

    Raises:
        UserError: naming the number.
    """
    import torch

    from invariance.features import choose_device

    devices, batch = config["trainer"]["devices"], config["recipe"]["batch"]
    if isinstance(devices, bool) or not isinstance(devices, int) or devices < 1:
        raise UserError(f"trainer.devices={devices!r}: give a whole number from 1")
    if choose_device(config["trainer"]["accelerator"]).type == "cuda" and devices > torch.cuda.device_count():
        raise UserError(f"trainer.devices={devices}: this machine has {torch.cuda.device_count()} GPUs")
    if devices > 1 and isinstance(batch, int) and batch % devices:
        raise UserError(
            f"trainer.devices={devices}: recipe.batch={batch} cannot be cut into as many equal parts; choose another"
        )


def check_recipe(recipe: Mapping[str, Any]) -> None:
    """Refuse a recipe that lacks something, has what is unknown, or makes no sense.

    Raises:
        UserError: naming the key.
    """
    for key in recipe:
        if key not in RECIPE:
            raise UserError(f"unknown key recipe.{key}{nearest(key, RECIPE)} (there are: {', '.join(RECIPE)})")
    for key in RECIPE:
        if key not in recipe:
            raise UserError(f"recipe.{key} is missing; the files in conf/recipe/ show what a recipe holds")
    if recipe["schedule"] not in SCHEDULES:
        raise UserError(f"recipe.schedule={recipe['schedule']!r}: choose {' or '.join(SCHEDULES)}")
    least = {"batch": 1, "updates": 1, "val_every": 1, "warmup": 0}
    if recipe["schedule"] == "step":
        least["step"] = 1
    for key, lowest in least.items():
        value = recipe[key]
        if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
            raise UserError(f"recipe.{key}={value!r}: give a whole number from {lowest}")
    for key, most in (("rate", math.inf), ("momentum", 1.0), ("weight_decay", math.inf), ("label_smoothing", 1.0)):
        value = recipe[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < most:
            raise UserError(f"recipe.{key}={value!r}: give a number from 0" + (", less than 1" if most == 1 else ""))
    if not isinstance(recipe["nesterov"], bool) or (recipe["nesterov"] and not recipe["momentum"]):
        raise UserError(f"recipe.nesterov={recipe['nesterov']!r}: give true (with momentum above 0) or false")


def build_trainer(config: dict[str, Any], plugins: Sequence[Any] = (), **settings: Any) -> pl.Trainer:  # noqa: ANN401
    """Lightning's trainer from the `trainer` part of the configuration.

    Raises:
        UserError: if the machine has no such device.
    """
    import pytorch_lightning as pl
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    from invariance.features import choose_device
    from invariance.modules import quieten_lightning

    quieten_lightning()
    device = choose_device(config["trainer"]["accelerator"])
    devices, precision = config["trainer"]["devices"], config["trainer"]["precision"]
    asked = {"accelerator": device.type, "devices": devices, "precision": precision}
    strategy = "ddp" if devices > 1 else "auto"
    try:
        return pl.Trainer(
            **asked, enable_progress_bar=bool(config["progress"]), enable_model_summary=False, num_sanity_val_steps=0,
            # whatever scheduler this runs under: it is the launcher's business, and Lightning would requeue by itself
            plugins=[LightningEnvironment(), *plugins], strategy=strategy, use_distributed_sampler=False, **settings,
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        wish = ", ".join(f"{key}={value}" for key, value in asked.items())
        why = str(error).splitlines()[0]
        raise UserError(f"trainer: {wish} cannot be had on this machine ({why}); try trainer=auto") from error


def build(config: dict[str, Any], prepared: Prepared, run: Run) -> tuple[Classifier, pl.Trainer]:
    """The network with its initial weights, and the trainer that will train it.

    Raises:
        UserError: if the network or the trainer cannot be had as configured.
    """
    from invariance.modules.checkpoint import AtomicCheckpointIO, checkpoints
    from invariance.modules.classifier import Classifier

    recipe = config["recipe"]
    classifier = Classifier(
        model=config["model"], transform=config["transform"], recipe=recipe, classes=prepared.classes,
        channels=prepared.channels, mean=prepared.mean, seed=config["seed"],
    )
    classifier.speed_up(config["trainer"]["channels_last"], config["trainer"]["compile"])
    # max_steps stays unset: with it Lightning counts a checkpoint at a span's end as one in its middle
    trainer = build_trainer(
        config, max_epochs=math.ceil(recipe["updates"] / recipe["val_every"]), logger=False,
        callbacks=checkpoints(run.directory), plugins=[AtomicCheckpointIO()],
        log_every_n_steps=min(50, recipe["val_every"]), reload_dataloaders_every_n_epochs=1,
    )
    return classifier, trainer


def fit(
    config: dict[str, Any], prepared: Prepared, run: Run, tracker: Tracker, classifier: Classifier,
    trainer: pl.Trainer, ranks: Ranks,
) -> None:
    """Train for `recipe.updates` updates, from the last whole checkpoint if there is one.

    Raises:
        UserError: if the checkpoints of an interrupted run cannot serve.
    """
    from pytorch_lightning.loggers import CSVLogger, WandbLogger

    from invariance.modules.resume import resume_point
    from invariance.runs.processes import gently

    checkpoint, done = resume_point(run.directory, classifier, trainer)
    if done >= config["recipe"]["updates"]:
        return
    trainer.logger = (
        CSVLogger(run.directory, name="curves") if tracker.run is None else WandbLogger(experiment=tracker.run)
    )
    try:
        with gently(), ranks.running(fit_as_rank, config, prepared, run, checkpoint):
            trainer.fit(classifier, datamodule=data_of(config, prepared), ckpt_path=checkpoint, weights_only=True)
    except SystemExit as error:  # how Lightning ends on SIGINT, and on SIGTERM even with status 0
        raise KeyboardInterrupt from error
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        if not done or classifier.started or isinstance(error, UserError):
            raise
        remedy = f"delete {run.directory} to start over"
        raise UserError(f"checkpoint {checkpoint} is damaged ({error!r}); {remedy}") from error


def data_of(config: dict[str, Any], prepared: Prepared) -> PreparedData:
    """The batches of a training."""
    from invariance.data.module import PreparedData

    recipe = config["recipe"]
    return PreparedData(
        prepared, batch_size=recipe["batch"], updates=recipe["updates"], val_every=recipe["val_every"],
        seed=config["seed"], workers=config["trainer"]["workers"],
    )


def fit_as_rank(config: dict[str, Any], prepared: Prepared, run: Run, checkpoint: Path | None) -> None:
    """What another rank than the first does, in a process of its own: train along, and write nothing."""
    from invariance.memory import keep_freed

    keep_freed()
    classifier, trainer = build(config, prepared, run)
    trainer.fit(classifier, datamodule=data_of(config, prepared), ckpt_path=checkpoint, weights_only=True)


def evaluate(config: dict[str, Any], prepared: Prepared, run: Run, tracker: Tracker) -> pd.DataFrame:
    """Error of the best network on the validation and the report split, untouched (Table 3)."""
    import numpy as np
    import pandas as pd
    import torch

    from invariance.features import choose_device, extract
    from invariance.metrics import bootstrap, errors_per_image
    from invariance.models.representation import Representation
    from invariance.modules.classifier import load_classifier
    from invariance.runs.files import sha256, write_text
    from invariance.runs.rows import Row, to_frame
    from invariance.runs.run import BEST

    classifier = load_classifier(run.directory / BEST)
    device = choose_device(config["trainer"]["accelerator"])
    classifier.to(device)
    run.record({"weights_sha256": sha256(run.directory / BEST), "device": str(device)})
    everything = Representation(classifier.network, [name for name, _ in classifier.network.named_children()][-1])
    rows = []
    for name in dict.fromkeys(["val", prepared.report]):
        split = prepared.split(name)
        logits = extract(
            everything, classifier.normalise, split.images, np.arange(len(split.labels)), classifier.transform,
            classifier.untouched, device=device,
        )
        labels = torch.from_numpy(np.asarray(split.labels))
        interval = bootstrap(errors_per_image(logits, labels))
        error, low, high = (float(end[0]) for end in (interval.mean, interval.low, interval.high))
        rows.append(Row(
            stage="train", data=prepared.name, network=config["name"], family=config["transform"]["name"],
            range=str(config["range"] if config["range"] is not None else ""), seed=config["seed"], split=name,
            metric="error_rate", score=error, low=low, high=high, n_images=len(labels), run=run.name,
        ))
        tracker.summarise({f"{name}/accuracy": 1 - error})
        predicted = logits.argmax(1)
        tracker.confusion(f"{name}/confusion", labels.tolist(), predicted.tolist(), prepared.classes)
        confusion = pd.crosstab(labels.numpy(), predicted.numpy()).reindex(
            index=range(len(prepared.classes)), columns=range(len(prepared.classes)), fill_value=0
        )
        write_text(run.directory / f"confusion_{name}.csv", confusion.to_csv())
    return to_frame(rows)


def main() -> None:
    """The command `invariance-train`."""
    command("train", train)


if __name__ == "__main__":
    main()
