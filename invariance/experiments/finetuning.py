"""The finetuning of one network, to its rows; `invariance.experiments.finetune` says when there is something to do.

Apart from it because a command whose run is finished need not wait for Lightning, which takes seconds to import.
"""

import json
from typing import Any

from invariance.engine.grids import Grid
from invariance.experiments.evaluation import evaluate
from invariance.runs.processes import gently
from invariance.runs.run import BEST, LAST, PREVIOUS, Run, read_provenance
from invariance.runs.summary import of_training
from invariance.runs.wandb import Tracker
from invariance.settings.paths import folder
from invariance.training.checkpoint import read_checkpoint, require_sealed
from invariance.training.classifier import load_classifier
from invariance.training.joint import JointFinetune
from invariance.training.joint_loss import JointWeights
from invariance.training.resume import resume_point
from invariance.training.saving import AtomicCheckpointIO
from invariance.training.trained import Network
from invariance.training.trainer import data_of, fit, trained_on, trainer_of


def train_jointly(run: Run, original: Network, grid: Grid, config: dict[str, Any]) -> None:
    """Finetune one network with one map for every g of G (Eq. 7), to the end.

    Args:
        run: its run; where it is finished, and only the copy of its network is absent, that is written again.
        original: the network.
        grid: G.
        config: the configuration of `conf/finetune.yaml`.

    Raises:
        UserError: for anything the user can mend.
    """
    if run.done:
        with run, gently():  # a copy of what its last checkpoint holds
            save_network(original, run)
        print(f"written again from {LAST}: {run.directory / BEST}\nfinished already: {run.directory}")
        return
    root, size = folder(config["prepared"], "prepared"), grid.transform.source_size(original.input_size)
    prepared, untouched = (original.data(one, root, config["progress"]) for one in (size, original.own_size))
    module = build(original, grid, (prepared.channels, size, size), config)
    trainer = trainer_of(config["trainer"], config["recipe"], run, best=False, progress=config["progress"])
    about = about_of(run, original)
    with run:
        if run.finished():  # by another process, meanwhile
            print(f"finished already: {run.directory}")
            return
        record(config, original, grid, str(prepared.directory), module, run)
        data_name = original.name.split("/")[0]
        name = f"{data_name}/{about['network']}/seed{about['seed']}"
        shown = {**about, "phase": "joint", "data": data_name, "grid": grid.name}
        shown |= {"range": original.transform.get("range"), "lambda3": module.weights.equivariance}
        with Tracker(config["logger"], run.directory, name=name, about=shown, identity=run.identity) as tracker:
            tracker.record_in(run)
            checkpoint, done = resume_point(run.directory, module, trainer)
            if done < config["recipe"]["updates"]:
                data = data_of(prepared, config["recipe"], about["seed"], config["trainer"]["workers"])
                fit(module, trainer, data, run, tracker, checkpoint, config["trainer"])
            with gently():
                save_network(original, run)
            (run.directory / PREVIOUS).unlink(missing_ok=True)
            rows = evaluate(about, untouched, run, tracker, config["trainer"]["accelerator"])
            tracker.table("rows", rows)
            tracker.summarise(of_training(rows))
            run.finish(rows)
    last = rows.iloc[-1]
    print(f"{run.name}: error {last['score']:.2%} on {last['n_images']} images of {last['split']}; {run.directory}")


def about_of(run: Run, original: Network) -> dict[str, Any]:
    """What rows say of the finetuned network."""
    return {
        "stage": "finetune",
        "network": run.identity["name"],
        "family": original.transform["name"],
        "range": str(original.transform.get("range") or ""),
        "seed": run.identity["seed"],
        "layer": original.layer,
    }


def record(
    config: dict[str, Any], original: Network, grid: Grid, prepared: str, module: JointFinetune, run: Run
) -> None:
    """Write down from which network, on what and with what loss a network is finetuned."""
    weights = module.weights
    run.record(
        {
            "data": read_provenance(original.directory)["data"],
            "size": original.own_size,
            "prepared": prepared,
            **trained_on(config["trainer"]),
            "upstream": {original.directory.as_posix(): original.weights},
            "joint": {
                "network": original.name,
                "grid": grid.name,
                "family": grid.family,
                "g": [point.label for point in module.points],
                "lambda1": weights.recovery,
                "lambda2": weights.invariance,
                "lambda3": weights.equivariance,
                "name": config["name"],
                "setting": json.dumps([config["recipe"], config["trainer"]["precision"]], sort_keys=True),
            },
        }
    )


def build(original: Network, grid: Grid, image_shape: tuple[int, int, int], config: dict[str, Any]) -> JointFinetune:
    """The network with its trained weights, and its maps, to be finetuned.

    Raises:
        UserError: if the network's checkpoint cannot be read, or the layer cannot be cut at.
    """
    classifier = load_classifier(original.directory / BEST).to(original.device)
    module = JointFinetune(
        classifier.network,
        classifier.normalise,
        layer=original.layer,
        transform=grid.transform,
        recipe=config["recipe"],
        seed=classifier.seed,
        image_shape=image_shape,
        copies=config["copies"],
    )
    module.weights = weights_of(config, module.dim)
    module.speed_up(config["trainer"]["channels_last"])
    return module.train()


def weights_of(config: dict[str, Any], dim: int) -> JointWeights:
    """λ1, λ2 and λ3 for D features."""
    given = config["joint"]
    own = JointWeights.of(dim)
    return JointWeights(
        own.recovery if given["lambda1"] is None else float(given["lambda1"]),
        own.invariance if given["lambda2"] is None else float(given["lambda2"]),
        float(given["lambda3"]),
    )


def save_network(original: Network, run: Run) -> None:
    """Write the finetuned network as training writes one, from the last checkpoint of its finetuning."""
    require_sealed(run.directory / LAST, f"delete {run.directory} to start over")
    held = read_checkpoint(run.directory / LAST, f"delete {run.directory} to start over")
    classifier = load_classifier(original.directory / BEST)
    prefix = "network."
    classifier.network.load_state_dict(
        {key.removeprefix(prefix): value for key, value in held["state_dict"].items() if key.startswith(prefix)}
    )
    content = {
        "state_dict": classifier.state_dict(),
        "hyper_parameters": dict(classifier.hparams),
        "global_step": held["global_step"],
    }
    AtomicCheckpointIO(run).save_checkpoint(content, run.directory / BEST)
