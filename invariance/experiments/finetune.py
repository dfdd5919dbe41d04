"""Raise equivariance with the joint loss (Sec. 5.4, 6.3): `python -m invariance.finetune networks=rotation_20`."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from invariance.cli.messages import say_error
from invariance.device import check_devices, keep_freed
from invariance.engine.alike import check_alike
from invariance.engine.grids import Grid, check_joint, check_wanted, grids_for, joint_grid
from invariance.errors import Busy, UserError
from invariance.experiments.families import tell_unchosen, tell_unused
from invariance.experiments.measure_trained import measure_grid
from invariance.maps.spec import JOINT, Learned, MapSpec, check_unseen, maps_of, parted
from invariance.runs.find import find_runs
from invariance.runs.outputs import require_writable
from invariance.runs.run import BEST, LAST, Run, read_config
from invariance.runs.wandb import check_logger
from invariance.settings.base import checked
from invariance.settings.files import varies
from invariance.settings.numbers import with_names_of
from invariance.settings.pages import FinetunePage
from invariance.settings.paths import folder
from invariance.training.checkpoint import read_checkpoint, require_sealed
from invariance.training.trained import Network
from invariance.transforms.base import UNTOUCHED


def finetune(config: dict[str, Any]) -> None:
    """Every chosen network: measured, finetuned with its maps, and measured again in the same way.

    Args:
        config: the configuration of `conf/finetune.yaml`, plain and resolved.

    Raises:
        UserError: for anything the user can mend.
    """
    config = with_names_of("finetune", config)
    check(config)
    keep_freed()
    runs = folder(config["runs"], "runs")
    fits = maps_of(config["map"], config.get("solver") or {})
    tell_unchosen(fits, config.get("solver") or {})
    found, failed, busy = find_runs(runs / "train", config["networks"]), 0, []
    tell_unused("G", config["G"] or {}, found)
    for directory in found:
        if len(found) > 1 and not config["G"] and not has_family(directory):
            print(f"left out, trained with no family; give G=…: {directory.relative_to(runs)}", file=sys.stderr)
            continue
        try:
            finetune_one(runs, directory, fits, config)
        except Busy as error:  # the other networks are finetuned all the same
            busy.append(error)
        except UserError as error:
            if len(found) == 1:
                raise
            say_error(f"{directory.relative_to(runs)}: {error}")
            failed += 1
    if failed:
        raise UserError(f"{failed} of {len(found)} networks could not be finetuned, for the reasons above")
    if busy:
        raise busy[0]


def has_family(directory: Path) -> bool:
    """Whether a network was trained with transformations, and so has a set G of its own."""
    return varies(read_config(directory).get("transform", {}))


def check(config: dict[str, Any]) -> None:
    """Refuse what can be refused before a network is loaded.

    Raises:
        UserError: for a value that makes no sense, an unknown logger, a trainer that cannot serve.
    """
    checked(FinetunePage, config)
    check_logger(config["logger"])
    check_devices(config["trainer"]["accelerator"], config["trainer"]["devices"])
    for key in ("runs", "prepared"):
        folder(config[key], key)
    fits = maps_of(config["map"], config.get("solver") or {})
    if on := parted(fits)[1]:
        raise UserError(
            f"map={on[0].map} is of feature maps, which finetuning does not raise: measure it before and after"
        )
    check_unseen(config["unseen_classes"], fits)
    check_alike(config["metrics"], [fit.map for fit in fits])
    check_wanted(config["grids"])
    check_joint(config["G"] or {})


def finetune_one(runs: Path, directory: Path, fits: list[MapSpec], config: dict[str, Any]) -> None:
    """One network: before, the finetuning itself, and after.

    Raises:
        UserError: for anything the user can mend.
    """
    options = {
        "layer": config["layer"],
        "accelerator": config["trainer"]["accelerator"],
        "fit": config["fit"],
        "report": config["report"],
    }
    original = Network(runs, directory, **options)
    grid = joint_grid(original.transform, config["G"] or {})
    beyond = [point.label for point in grid.transform.grid() if not grid.covered(point)]
    if beyond and grid.own:
        print(f"{original.name}: G has {', '.join(beyond)}, which training did not cover")
    own = config["grids"] == "own" and not grid.own
    grids = [grid, *grids_for(original.transform, grid.family if own else config["grids"], {})]
    run = run_of(original, grid, config)  # before anything is measured: it may be another's
    if not run.done:
        require_writable(run.directory, "runs")
    for one in grids:
        measure_grid(original, one, fits, config, stage="finetune")
    train_jointly(run, original, grid, config)
    finetuned = Network(runs, run.directory, **options)
    learned = MapSpec("residual", JOINT, learned=Learned(partial(learned_maps, run.directory, grid)))
    for one in grids:
        all_fits = [*fits, learned] if one is grid else fits
        measure_grid(finetuned, one, all_fits, config, stage="finetune", before=original)


def run_of(original: Network, grid: Grid, config: dict[str, Any]) -> Run:
    """The run of a finetuning.

    Raises:
        UserError: if its folder holds another one.
    """
    trained = original.config
    name, seed = f"{trained['name']}+{config['name']}", trained["seed"]
    identity = {
        "name": name,
        "seed": seed,
        "model": trained["model"],
        "transform": trained["transform"],
        "data": trained["data"],
        "recipe": config["recipe"],
        "joint": config["joint"],
        "G": grid.identity,
        "network": {"name": original.name, "weights": original.weights},
        "layer": original.layer,
        "precision": config["trainer"]["precision"],
    }
    try:
        return Run(original.runs, f"finetune/{original.name.split('/')[0]}/{name}/seed{seed}", identity)
    except UserError as error:
        raise UserError(f"{error}; or give this finetuning another name=…") from error


def train_jointly(run: Run, original: Network, grid: Grid, config: dict[str, Any]) -> None:
    """Finetune one network with one map for every g of G (Eq. 7), to the end, unless that is done.

    Raises:
        UserError: for anything the user can mend.
    """
    if run.done and (run.directory / BEST).exists():
        print(f"finished already: {run.directory}")
        return
    # Lightning, which takes seconds to import: a finished finetuning need not wait for it
    from invariance.experiments.finetuning import train_jointly

    train_jointly(run, original, grid, config)


def learned_maps(directory: Path, grid: Grid) -> dict[str, tuple[Tensor, Tensor]]:
    """Weight and bias of M_g by every g of G, as the last checkpoint of a finetuning holds them.

    Raises:
        UserError: if the checkpoint cannot be read.
    """
    remedy = f"delete {directory} and repeat"
    require_sealed(directory / LAST, remedy)
    state = read_checkpoint(directory / LAST, remedy)["state_dict"]
    labels = [point.label for point in grid.transform.grid() if point.label != UNTOUCHED]
    return {label: (state[f"maps.{k}.weight"], state[f"maps.{k}.bias"]) for k, label in enumerate(labels)}
