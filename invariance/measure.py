"""Measure invariance and equivariance (Sec. 5.2, 6.1): `python -m invariance.measure networks=rotation_20`."""

from __future__ import annotations

from typing import Any

from invariance.cli import command, folder
from invariance.errors import UserError

METRICS = ("error_rate", "l2_distance")


def measure(config: dict[str, Any]) -> None:
    """Every chosen network over its grids: features under each g, maps fitted, rows written.

    Args:
        config: the configuration of `conf/measure.yaml`, plain and resolved.

    Raises:
        UserError: for anything the user can mend.
    """
    check(config)
    from invariance.grids import grids_for
    from invariance.measurement import Network, fits_of, measure_grid
    from invariance.runs.find import find_runs

    runs = folder(config["runs"], "runs")
    fits = fits_of(config["map"], config["solver"])
    found = find_runs(runs / "train", config["networks"])
    for directory in found:
        network = Network(runs, directory, layer=config["layer"], accelerator=config["trainer"]["accelerator"])
        for grid in grids_for(network.config["transform"], config["grids"], config["grid"] or {}):
            measure_grid(network, grid, fits, config)


def check(config: dict[str, Any]) -> None:
    """Refuse what can be refused before a network is loaded.

    Raises:
        UserError: for an unknown metric, a batch or a memory bound that makes no sense, an unknown logger.
    """
    from invariance.tracking import check_logger

    check_logger(config["logger"])
    for metric in config["metrics"] or ["nothing"]:
        if metric not in METRICS:
            raise UserError(f"metrics={metric}: choose from {', '.join(METRICS)}")
    for key, least in (("batch", 1), ("memory_gb", 0.01)):
        value = config[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
            raise UserError(f"{key}={value!r}: give a number from {least}")


def main() -> None:
    """The command `invariance-measure`."""
    command("measure", measure)


if __name__ == "__main__":
    main()
