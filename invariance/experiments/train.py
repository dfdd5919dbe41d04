"""Train a network under one family of transformations (Sec. 5): `python -m invariance.train -m transform=rotation`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from invariance.cli.command import folder, require_range
from invariance.data.decode import COLOURS
from invariance.data.prepared import Prepared, prepare
from invariance.data.sources.base import data_config
from invariance.device import keep_freed
from invariance.errors import UserError
from invariance.models import outline
from invariance.runs.files import DONE
from invariance.runs.outputs import require_writable
from invariance.runs.run import PREVIOUS, Run
from invariance.runs.summary import of_training
from invariance.runs.wandb import Tracker, check_logger
from invariance.settings.base import checked
from invariance.settings.fields import LARGEST_SIZE
from invariance.settings.pages import Train
from invariance.settings.parts import Transform
from invariance.training.ranks import Ranks
from invariance.training.trainer import check_devices, data_of, evaluate, fit, trainer_of
from invariance.transforms import build as build_transform

if TYPE_CHECKING:  # Lightning takes seconds to import, which what is finished need not wait for
    import pytorch_lightning as pl

    from invariance.training.classifier import Classifier


def train(config: dict[str, Any]) -> None:
    """One network, from prepared data to rows: continued if it was interrupted, skipped if it is finished.

    Args:
        config: the configuration of `conf/train.yaml`, plain and resolved.

    Raises:
        UserError: for anything the user can mend.
    """
    check(config)
    keep_freed()
    size = build_transform(config["transform"]).source_size(config["model"]["input_size"])
    prepared = prepare(config["data"], size, folder(config["prepared"], "prepared"), progress=config["progress"])
    if "train" not in prepared.splits or not prepared.classes:
        raise UserError(f"{prepared.name} has no labelled images to train on; it is for measuring other networks")
    identity = {key: config[key] for key in ("name", "seed", "model", "recipe")}
    identity["transform"] = {key: value for key, value in config["transform"].items() if key != "joint"}
    identity |= {key: config["trainer"][key] for key in ("precision", "compile")}  # what changes more than rounding
    identity["data"] = {"name": prepared.name, "sha256": prepared.sha256}
    run = Run(folder(config["runs"], "runs"), f"train/{prepared.name}/{config['name']}/seed{config['seed']}", identity)
    if run.done:
        print(f"finished already: {run.directory}")
        return
    run.leave_to_others()
    # importing Lightning takes seconds, which a finished training, or another's, need not wait for
    from invariance.training.resume import resume_point

    prepared.fit_indices(config["data"].get("fit"))  # what measuring would refuse is better known before training
    ranks = Ranks(config["trainer"]["devices"])
    with ranks.environment():
        classifier, trainer = build(config, prepared, run)  # before the run is entered: a mistake leaves no directory
    with run:
        if run.finished():  # by another process, meanwhile
            print(f"finished already: {run.directory}")
            return
        run.record(
            {
                "data": config["data"],
                "prepared": str(prepared.directory),
                "trainer": config["trainer"],
                "remarks": prepared.remarks,
                "skipped": prepared.skipped,
                "left_out": prepared.left_out,
            }
        )
        with Tracker(
            config["logger"],
            run.directory,
            name=f"{prepared.name}/{config['name']}/seed{config['seed']}",
            about={
                "stage": "train",
                "data": prepared.name,
                "network": config["name"],
                "family": config["transform"]["name"],
                "range": config["range"],
                "seed": config["seed"],
            },
            identity=identity,
        ) as tracker:
            tracker.record_in(run)
            with ranks.environment():
                checkpoint, done = resume_point(run.directory, classifier, trainer)
                if done < config["recipe"]["updates"]:
                    beside = ranks.running(fit_as_rank, config, prepared, run, checkpoint)
                    data = data_of(config, prepared, config["seed"])
                    fit(classifier, trainer, data, run, tracker, checkpoint, beside)
            (run.directory / PREVIOUS).unlink(missing_ok=True)
            about = {
                "stage": "train",
                "network": config["name"],
                "family": config["transform"]["name"],
                "range": "" if config["range"] is None else str(config["range"]),
                "seed": config["seed"],
            }
            rows = evaluate(config, about, prepared, run, tracker)
            tracker.table("rows", rows)
            tracker.summarise(of_training(rows))
            run.finish(rows)
    last = rows.iloc[-1]
    print(f"{run.name}: error {last['score']:.2%} on {last['n_images']} images of {last['split']}; {run.directory}")


def check(config: dict[str, Any]) -> None:
    """Refuse what can be refused before anything is prepared.

    Raises:
        UserError: for a missing range, a value that makes no sense, a network that this machine cannot hold.
    """
    if isinstance(config, dict) and "transform" in config:  # first, for the name is made of its range
        checked(Transform, config["transform"], "transform")
        require_range(config["transform"])
        build_transform(config["transform"])
    checked(Train, config)
    ranges = config["transform"].get("range"), config["range"]
    trained, named = ("null" if value is None else value for value in ranges)
    if trained != named:
        raise UserError(
            f"transform.range={trained} is not range={named}, which the network's name and rows go by; "
            f"give range={trained} alone"
        )
    transform = build_transform(config["transform"])
    check_logger(config["logger"])
    check_devices(config)
    for key in ("runs", "prepared"):
        folder(config[key], key)
    data = data_config(config["data"])
    directory = folder(config["runs"], "runs") / "train" / data.name / config["name"] / f"seed{config['seed']}"
    if not (directory / DONE).exists():  # one that is finished may lie where nobody writes
        require_writable(directory, "runs")
    outline(config["model"], 2, COLOURS[data.colour])
    size = transform.source_size(config["model"]["input_size"])
    if not 1 <= size <= LARGEST_SIZE:
        name = config["transform"]["name"]
        raise UserError(f"transform={name} takes images of {size} pixels; 1 to {LARGEST_SIZE} can be prepared")


def build(config: dict[str, Any], prepared: Prepared, run: Run) -> tuple[Classifier, pl.Trainer]:
    """The network with its initial weights, and the trainer that will train it.

    Raises:
        UserError: if the network or the trainer cannot be had as configured.
    """
    from invariance.training.classifier import Classifier

    classifier = Classifier(
        model=config["model"],
        transform=config["transform"],
        recipe=config["recipe"],
        classes=prepared.classes,
        channels=prepared.channels,
        mean=prepared.mean,
        seed=config["seed"],
    )
    classifier.speed_up(config["trainer"]["channels_last"], config["trainer"]["compile"])
    return classifier, trainer_of(config, run, best=True)


def fit_as_rank(config: dict[str, Any], prepared: Prepared, run: Run, checkpoint: Path | None) -> None:
    """What another rank than the first does, in a process of its own: train along, and write nothing."""
    keep_freed()
    classifier, trainer = build(config, prepared, run)
    data = data_of(config, prepared, config["seed"])
    trainer.fit(classifier, datamodule=data, ckpt_path=checkpoint, weights_only=True)
