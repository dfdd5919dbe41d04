"""Train a network under one family of transformations (Sec. 5): `python -m invariance.train -m transform=rotation`."""

from typing import Any

from invariance.data.decode import COLOURS
from invariance.data.prepared import prepare
from invariance.data.sources.base import data_config
from invariance.device import check_devices, keep_freed
from invariance.errors import UserError
from invariance.models import outline
from invariance.runs.files import DONE
from invariance.runs.outputs import require_writable
from invariance.runs.run import Run
from invariance.runs.wandb import check_logger
from invariance.settings.base import checked
from invariance.settings.fields import LARGEST_SIZE
from invariance.settings.files import require_range
from invariance.settings.numbers import with_names_of
from invariance.settings.outside import take
from invariance.settings.pages import TrainPage
from invariance.settings.parts import TransformSettings
from invariance.settings.paths import folder
from invariance.transforms import build as build_transform


def train(config: dict[str, Any]) -> None:
    """One network, from prepared data to rows: continued if it was interrupted, skipped if it is finished.

    Args:
        config: the configuration of `conf/train.yaml`, plain and resolved.

    Raises:
        UserError: for anything the user can mend.
    """
    config = with_names_of("train", config)
    check(config)
    keep_freed()
    size = build_transform(config["transform"]).source_size(config["model"]["input_size"])
    root = folder(config["prepared"], "prepared")
    prepared = prepare(config["data"], size, root, progress=config["progress"], images=False)
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
    prepared = prepared.with_images(config["progress"])
    from invariance.experiments.training import train_network  # Lightning takes seconds, which what is done spares

    train_network(config, prepared, run)


def check(config: dict[str, Any]) -> None:
    """Refuse what can be refused before anything is prepared.

    Raises:
        UserError: for a missing range, a value that makes no sense, a network that this machine cannot hold.
    """
    if isinstance(config, dict) and "transform" in config:  # first, for the name is made of its range
        checked(TransformSettings, config["transform"], "transform")
        take(config["transform"])
        require_range(config["transform"])
        build_transform(config["transform"])
    checked(TrainPage, config)
    ranges = config["transform"].get("range"), config["range"]
    trained, named = ("null" if value is None else value for value in ranges)
    if trained != named:
        raise UserError(
            f"transform.range={trained} is not range={named}, which the network's name and rows go by; "
            f"give range={trained} alone"
        )
    transform = build_transform(config["transform"])
    check_logger(config["logger"])
    check_devices(config["trainer"]["accelerator"], config["trainer"]["devices"])
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
