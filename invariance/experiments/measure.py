"""Measure invariance and equivariance (Sec. 5.2, 6.1): `python -m invariance.measure networks=rotation_20`."""

from __future__ import annotations

import sys
from typing import Any

from invariance.cli.messages import say_error
from invariance.data.sources.base import data_config
from invariance.device import choose_device, keep_freed
from invariance.engine.alike import check_alike
from invariance.engine.given import check_shuffled, more_given
from invariance.engine.grids import check_grids, check_wanted, grids_for
from invariance.errors import Busy, UserError
from invariance.experiments.families import EachGrid, tell_unchosen, tell_unused
from invariance.experiments.measure_given import measure_given
from invariance.experiments.measure_trained import measure_grid
from invariance.maps.spec import check_unseen, maps_of
from invariance.models.readout import AUTO, read_readout
from invariance.runs.find import find_runs
from invariance.runs.wandb import check_logger
from invariance.settings.base import checked
from invariance.settings.named import dotted
from invariance.settings.pages import MeasurePage
from invariance.settings.paths import folder
from invariance.training.trained import Network


def measure(config: dict[str, Any]) -> None:
    """Every chosen network over its grids, or the one of `model=`: features under each g, maps fitted, rows written.

    Args:
        config: the configuration of `conf/measure.yaml`, plain and resolved.

    Raises:
        UserError: for anything the user can mend.
    """
    check(config)
    keep_freed()
    runs = folder(config["runs"], "runs")
    given = config.get("model") is not None
    config = {"data": None, "solver": {}, **config, "metrics": config["metrics"] if given else metrics_of(config)}
    solvers = config.get("solver") or {}
    fits = maps_of(config["map"], solvers)
    tell_unchosen(fits, solvers)
    if given:
        measure_given({"layers": AUTO, "readout": AUTO, "resize": "own", "labels": None, "plan": False, **config}, fits)
        return
    found, failed = find_runs(runs / "train", config["networks"]), 0
    busy: list[Busy] = []
    if config["grids"] == "own":
        tell_unused("grid", config["grid"] or {}, found)
    for directory in found:
        try:
            network = Network(
                runs,
                directory,
                layer=config["layer"],
                accelerator=config["trainer"]["accelerator"],
                fit=config["fit"],
                report=config["report"],
                data=config["data"],
            )
            grids = grids_for(network.transform, config["grids"], config["grid"] or {})
            each = EachGrid(len(grids))
            for grid in grids:
                with each.trying(grid):
                    measure_grid(network, grid, fits, config)
            busy += each.busy
            each.end()
        except UserError as error:  # the other networks are measured all the same
            if len(found) == 1:
                raise
            say_error(f"{directory.relative_to(runs)}: {error}")
            failed += 1
    if failed:
        raise UserError(f"{failed} of {len(found)} networks could not be measured, for the reasons above")
    if busy:
        raise busy[0]


def check(config: dict[str, Any]) -> None:
    """Refuse what can be refused before a network is loaded.

    Raises:
        UserError: for a value that makes no sense, a map without a solver, an unknown logger.
    """
    checked(MeasurePage, config)
    check_logger(config["logger"])
    choose_device(config["trainer"]["accelerator"])
    for key in ("runs", "prepared"):
        folder(config[key], key)
    fits = maps_of(config["map"], config.get("solver") or {})
    trained = config.get("model") is None  # else its classes are known once it is loaded
    check_unseen(config["unseen_classes"], fits, labels=config.get("data") is None or not trained)
    labelled = config.get("data") is None or not trained
    if config["metrics"] is not None:
        check_alike([name for name in config["metrics"] if labelled or name != "error_rate"], [fit.map for fit in fits])
    check_shuffled(more_given(config.get("nulls", False), config.get("intervals", False)), fits)
    readout = config.get("readout", AUTO)
    for name in [readout] if isinstance(readout, str) else readout.values():
        if name != AUTO:
            read_readout(name)
    check_wanted(config["grids"])
    check_grids(config["grid"] or {})
    wanted = [dotted(one) for one in ([config["grids"]] if isinstance(config["grids"], str) else config["grids"])]
    for family in config["grid"] or {}:
        if not {"own", "all"} & set(wanted) and not any(f"{name}_".startswith(f"{family}_") for name in wanted):
            raise UserError(f"grid.{family}: grids={config['grids']} has no {family}; add it there, or leave this out")
    if config.get("data") is not None:
        data_config(config["data"])


def metrics_of(config: dict[str, Any]) -> list[str]:
    """The metrics that apply: on another data set than a network's own there are no labels to be right about.

    Raises:
        UserError: if none is left.
    """
    chosen = ["error_rate", "l2_distance"] if config["metrics"] is None else list(config["metrics"])
    if config.get("data") is None or "error_rate" not in chosen:
        return chosen
    left = [metric for metric in chosen if metric != "error_rate"]
    if not left:
        raise UserError(f"metrics={chosen}: with data= there are no labels of the networks' own; give [l2_distance]")
    print("error_rate is left out: with data= there are no labels of the networks' own (Sec. B.2)", file=sys.stderr)
    return left
