"""The training of one network, to its rows; `invariance.experiments.train` says when there is something to do.

Apart from it because a command whose run is finished need not wait for Lightning, which takes seconds to import.
"""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from invariance.data.batches import PreparedData
from invariance.data.prepared import Prepared
from invariance.device import keep_freed
from invariance.experiments.evaluation import evaluate
from invariance.runs.run import PREVIOUS, Run
from invariance.runs.summary import of_training
from invariance.runs.wandb import Tracker
from invariance.settings.outside import take
from invariance.training.classifier import Classifier
from invariance.training.ranks import Ranks
from invariance.training.resume import resume_point
from invariance.training.trainer import arithmetic, data_of, fit, trained_on, trainer_of


def train_network(config: dict[str, Any], prepared: Prepared, run: Run) -> None:
    """Train, from the last checkpoint if there is one, evaluate, and finish the run.

    Args:
        config: the configuration of `conf/train.yaml`.
        prepared: its data.
        run: the run.

    Raises:
        UserError: for anything the user can mend.
    """
    prepared.fit_indices(config["data"].get("fit"))  # what measuring would refuse is better known before training
    ranks = Ranks(config["trainer"]["devices"])
    with ranks.environment():
        classifier, trainer = build(config, prepared, run)  # before the run is entered: a mistake leaves no directory
    about = {
        "stage": "train",
        "network": config["name"],
        "family": config["transform"]["name"],
        "range": config["range"],
        "seed": config["seed"],
    }
    with run:
        if run.finished():  # by another process, meanwhile
            print(f"finished already: {run.directory}")
            return
        record(config, prepared, run)
        name = f"{prepared.name}/{config['name']}/seed{config['seed']}"
        shown = {**about, "data": prepared.name}
        with Tracker(config["logger"], run.directory, name=name, about=shown, identity=run.identity) as tracker:
            tracker.record_in(run)
            with ranks.environment():
                checkpoint, done = resume_point(run.directory, classifier, trainer)
                if done < config["recipe"]["updates"]:
                    beside = ranks.running(fit_as_rank, config, prepared, run, checkpoint)
                    data = batches(config, prepared, classifier)
                    fit(classifier, trainer, data, run, tracker, checkpoint, config["trainer"], beside)
            (run.directory / PREVIOUS).unlink(missing_ok=True)
            told = {**about, "range": "" if config["range"] is None else str(config["range"])}
            rows = evaluate(told, prepared, run, tracker, config["trainer"]["accelerator"])
            tracker.table("rows", rows)
            tracker.summarise(of_training(rows))
            run.finish(rows)
    last = rows.iloc[-1]
    print(f"{run.name}: error {last['score']:.2%} on {last['n_images']} images of {last['split']}; {run.directory}")


def record(config: dict[str, Any], prepared: Prepared, run: Run) -> None:
    """Write down on what a network is trained, and with what."""
    run.record(
        {
            "data": config["data"],
            "prepared": str(prepared.directory),
            "size": prepared.size,
            **trained_on(config["trainer"]),
            "remarks": prepared.remarks,
            "skipped": prepared.skipped,
            "left_out": prepared.left_out,
        }
    )


def build(config: dict[str, Any], prepared: Prepared, run: Run) -> tuple[Classifier, pl.Trainer]:
    """The network with its initial weights, and the trainer that will train it.

    Raises:
        UserError: if the network or the trainer cannot be had as configured.
    """
    take(config["transform"])  # this may be another rank, in a process of its own
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
    return classifier, trainer_of(config["trainer"], config["recipe"], run, best=True, progress=config["progress"])


def batches(config: dict[str, Any], prepared: Prepared, classifier: Classifier) -> PreparedData:
    """The batches of a training, with the g that are drawn for them."""
    draw = classifier.draw(prepared.split("train").images.shape[1:])
    return data_of(prepared, config["recipe"], config["seed"], config["trainer"]["workers"], draw)


def fit_as_rank(config: dict[str, Any], prepared: Prepared, run: Run, checkpoint: Path | None) -> None:
    """What another rank than the first does, in a process of its own: train along, and write nothing."""
    keep_freed()
    classifier, trainer = build(config, prepared, run)
    with arithmetic(config["trainer"]):
        trainer.fit(
            classifier, datamodule=batches(config, prepared, classifier), ckpt_path=checkpoint, weights_only=True
        )
