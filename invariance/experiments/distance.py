"""Measure how far apart the representations of networks are (Sec. 5.3, 6.2, B.3): `python -m invariance.distance`."""

from __future__ import annotations

from typing import Any

from invariance.device import choose_device, keep_freed
from invariance.experiments.pairs import measure_distances
from invariance.maps.spec import fits_of
from invariance.runs.find import find_runs
from invariance.runs.wandb import check_logger
from invariance.settings.base import checked
from invariance.settings.pages import Distance
from invariance.settings.paths import folder
from invariance.training.trained import Network


def distance(config: dict[str, Any]) -> None:
    """Every pair of the chosen networks: features once, maps to all targets of a source fitted together, rows.

    Args:
        config: the configuration of `conf/distance.yaml`, plain and resolved.

    Raises:
        UserError: for anything the user can mend.
    """
    check(config)
    keep_freed()
    runs = folder(config["runs"], "runs")
    fits = fits_of({"linear": {}}, config.get("solver") or {}) if "l2_distance" in config["metrics"] else []
    networks = [
        Network(
            runs,
            directory,
            layer=config["layer"],
            accelerator=config["trainer"]["accelerator"],
            fit=config["fit"],
            report=config["report"],
        )
        for directory in find_runs(runs / "train", config["networks"])
    ]
    measure_distances(networks, fits, config)


def check(config: dict[str, Any]) -> None:
    """Refuse what can be refused before a network is loaded.

    Raises:
        UserError: for a value that makes no sense, a map without a solver, an unknown logger.
    """
    checked(Distance, config)
    check_logger(config["logger"])
    choose_device(config["trainer"]["accelerator"])
    for key in ("runs", "prepared", "features"):
        folder(config[key], key)
    if "l2_distance" in config["metrics"]:
        fits_of({"linear": {}}, config.get("solver") or {})
