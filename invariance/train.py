"""Train a network under one family of transformations (Sec. 5): `python -m invariance.train -m transform=rotation`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from invariance.cli import command, folder, require_range
from invariance.errors import UserError

if TYPE_CHECKING:  # torch takes seconds to import, and --help must not wait for it
    import pandas as pd
    import pytorch_lightning as pl

    from invariance.data.prepared import Prepared
    from invariance.runs.run import Run
    from invariance.tracking import Tracker


def train(config: dict[str, Any]) -> None:
    """One network, from prepared data to rows: continued if it was interrupted, skipped if it is finished.

    Args:
        config: the configuration of `conf/train.yaml`, plain and resolved.

    Raises:
        UserError: for anything the user can mend.
    """
    check(config)
    from invariance.data.prepared import prepare
    from invariance.runs.run import Run
    from invariance.tracking import Tracker
    from invariance.transforms import build as build_transform

    size = build_transform(config["transform"]).source_size(config["model"]["input_size"])
    prepared = prepare(config["data"], size, folder(config["prepared"], "prepared"), progress=config["progress"])
    identity = {key: config[key] for key in ("name", "seed", "model", "transform", "recipe")}
    identity["precision"] = config["trainer"]["precision"]
    identity["data"] = {"name": prepared.name, "sha256": prepared.sha256}
    run = Run(
        folder(config["runs"], "runs"), f"train/{prepared.name}/{config['name']}/seed{config['seed']}", identity
    )
    if run.done:
        print(f"finished already: {run.directory}")
        return
    with run:
        run.record({"data": config["data"], "prepared": str(prepared.directory), "trainer": config["trainer"]})
        with Tracker(
            config["logger"], run.directory, name=f"{config['name']}/seed{config['seed']}", stage="train",
            group=prepared.name, config=identity, tags=[config["transform"]["name"], prepared.name],
        ) as tracker:
            fit(config, prepared, run, tracker)
            rows = evaluate(config, prepared, run, tracker)
            tracker.table("rows", rows)
            run.finish(rows)
    last = rows.iloc[-1]
    print(f"{run.name}: error {last['score']:.2%} on {last['n_images']} images of {last['split']}; {run.directory}")


def check(config: dict[str, Any]) -> None:
    """Refuse what can be refused before anything is prepared.

    Raises:
        UserError: for a missing range, a recipe or a seed that makes no sense, an unknown logger.
    """
    from invariance.features import choose_device
    from invariance.tracking import check_logger
    from invariance.transforms import build as build_transform

    require_range(config["transform"])
    build_transform(config["transform"])
    check_logger(config["logger"])
    choose_device(config["trainer"]["accelerator"])
    if config["trainer"]["devices"] != 1:
        raise UserError(f"trainer.devices={config['trainer']['devices']}: a network trains on one device; give 1")
    if isinstance(config["seed"], bool) or not isinstance(config["seed"], int) or config["seed"] < 0:
        raise UserError(f"seed={config['seed']!r}: give a whole number from 0")
    name = str(config["name"])
    if not name or name.startswith(".") or set(name) & set("/\\ \0"):
        raise UserError(f"name={name!r} cannot name a folder; use letters, digits, '.', '_' and '-'")
    for key in ("batch", "updates", "step", "val_every"):
        value = config["recipe"][key]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"recipe.{key}={value!r}: give a whole number from 1")
    for key, most in (("rate", math.inf), ("momentum", 1.0), ("weight_decay", math.inf)):
        value = config["recipe"][key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < most:
            raise UserError(f"recipe.{key}={value!r}: give a number from 0" + (", less than 1" if most == 1 else ""))


def build_trainer(config: dict[str, Any], **settings: Any) -> pl.Trainer:  # noqa: ANN401
    """Lightning's trainer from the `trainer` part of the configuration.

    Raises:
        UserError: if the machine has no such device.
    """
    import pytorch_lightning as pl
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    from invariance.features import choose_device
    from invariance.modules import quieten_lightning

    quieten_lightning()
    device = choose_device(config["trainer"]["accelerator"])
    asked = {"accelerator": device.type, "devices": 1, "precision": config["trainer"]["precision"]}
    try:
        return pl.Trainer(
            **asked, enable_progress_bar=bool(config["progress"]), enable_model_summary=False, num_sanity_val_steps=0,
            **settings,
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        wish = ", ".join(f"{key}={value}" for key, value in asked.items())
        why = str(error).splitlines()[0]
        raise UserError(f"trainer: {wish} cannot be had on this machine ({why}); try trainer=auto") from error


def fit(config: dict[str, Any], prepared: Prepared, run: Run, tracker: Tracker) -> None:
    """Train for `recipe.updates` updates, from the last whole checkpoint if there is one."""
    from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

    from invariance.data.module import PreparedData
    from invariance.modules.checkpoint import LAST, AtomicCheckpointIO, checkpoints
    from invariance.modules.classifier import Classifier

    recipe = config["recipe"]
    classifier = Classifier(
        model=config["model"], transform=config["transform"], recipe=recipe, classes=prepared.classes,
        channels=prepared.channels, mean=prepared.mean, seed=config["seed"],
    )
    data = PreparedData(
        prepared, batch_size=recipe["batch"], updates=recipe["updates"], val_every=recipe["val_every"],
        seed=config["seed"], workers=config["trainer"]["workers"],
    )
    logger: Logger = (
        CSVLogger(run.directory, name="curves") if tracker.run is None else WandbLogger(experiment=tracker.run)
    )
    # max_steps stays unset: with it Lightning counts a checkpoint at a span's end as one in its middle
    trainer = build_trainer(
        config, max_epochs=math.ceil(recipe["updates"] / recipe["val_every"]), logger=logger,
        callbacks=checkpoints(run.directory), plugins=[AtomicCheckpointIO()],
        log_every_n_steps=min(50, recipe["val_every"]), reload_dataloaders_every_n_epochs=1,
    )
    last = run.directory / LAST
    try:
        trainer.fit(classifier, datamodule=data, ckpt_path=last if last.exists() else None, weights_only=True)
    except SystemExit as error:  # how Lightning ends on SIGINT, and on SIGTERM even with status 0
        raise KeyboardInterrupt from error


def evaluate(config: dict[str, Any], prepared: Prepared, run: Run, tracker: Tracker) -> pd.DataFrame:
    """Error of the best network on the validation and the report split, untouched (Table 3)."""
    import numpy as np
    import pandas as pd
    import torch

    from invariance.features import choose_device, extract
    from invariance.metrics import bootstrap, errors_per_image
    from invariance.models.representation import Representation
    from invariance.modules.checkpoint import BEST
    from invariance.modules.classifier import load_classifier
    from invariance.runs.files import sha256
    from invariance.runs.rows import Row, to_frame

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
        pd.crosstab(labels.numpy(), predicted.numpy()).reindex(
            index=range(len(prepared.classes)), columns=range(len(prepared.classes)), fill_value=0
        ).to_csv(run.directory / f"confusion_{name}.csv")
    return to_frame(rows)


def main() -> None:
    """The command `invariance-train`."""
    command("train", train)


if __name__ == "__main__":
    main()
