"""A network that was trained here, measured over one grid (Sec. 5.2): `invariance-measure networks=…`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from invariance.data.prepared import Prepared
from invariance.engine.grids import Grid
from invariance.engine.stream import Sample
from invariance.experiments.recording import Recording, identity_of, samples
from invariance.maps.spec import MapSpec
from invariance.models.readout import Flatten
from invariance.runs.files import DONE
from invariance.runs.outputs import require_writable
from invariance.runs.run import Run
from invariance.runs.seal import rows_of
from invariance.runs.summary import of_measurement, way
from invariance.runs.wandb import Tracker
from invariance.training.trained import Network


def measure_grid(
    network: Network,
    grid: Grid,
    maps: list[MapSpec],
    config: dict[str, Any],
    stage: str = "measure",
    before: Network | None = None,
) -> None:
    """Measure one network over one grid and write the rows of every fit that has none yet.

    Args:
        network: the trained network.
        grid: the transformations.
        maps: the maps and solvers.
        config: the configuration: metrics, batch, memory_gb, prepared, logger and progress of `conf/measure.yaml`.
        stage: what the measurement is a part of: "measure" or "finetune".
        before: the network that this one was finetuned from, measured already, for W&B to show beside it.

    Raises:
        UserError: for anything the user can mend.
    """
    folder = network.runs / stage / network.place / grid.name
    size = grid.transform.source_size(network.input_size)
    if not all((folder / spec.name / DONE).exists() for spec in maps):  # what is finished may lie where nobody writes
        require_writable(folder, "runs")
    prepared = network.data(size, Path(config["prepared"]).expanduser(), config["progress"], images=False)
    runs = {spec: _open(network, grid, spec, prepared, config, stage) for spec in maps}
    keep = Recording(grid, prepared, {(network.layer, spec): run for spec, run in runs.items()}, _about(network, stage))
    if keep.finished:
        print(f"finished already: {folder}")
        return
    keep.prepared = prepared = prepared.with_images(config["progress"])
    facts = {
        "upstream": {network.directory.as_posix(): network.weights},
        "device": str(network.device),
        "trained_on": network.trained_on,
    }
    images, readouts = samples_of(network, prepared), {network.layer: Flatten.name}
    with keep.measuring(network.model, images, folder, facts, config, readouts):
        new = {spec: run for (_, spec), run in keep.runs.items()}
        if new:
            _show(network, grid, runs, new, prepared, config, stage, before)
    if new:
        print(f"measured {network.place} over {len(grid.transform.grid())} g of {grid.name}: {folder}")
    else:
        print(f"finished already: {folder}")


def samples_of(network: Network, prepared: Prepared) -> tuple[Sample, Sample]:
    """The images that a network's maps are fitted on, and those that are reported on."""
    own = network.measured_on == network.trained_on  # another data set's classes are not the network's
    return samples(prepared, network.settings["fit"], np.arange(len(prepared.classes)) if own else None)


def _show(
    network: Network,
    grid: Grid,
    runs: Mapping[MapSpec, Run],
    new: Mapping[MapSpec, Run],
    prepared: Prepared,
    config: dict[str, Any],
    stage: str,
    before: Network | None,
) -> None:
    """The measurement in W&B: its rows and means; those of the network it was finetuned from, too."""
    trained, name, phase = network.config, f"{network.place}/{grid.name}", "after" if before else "before"
    about: dict[str, Any] = {
        **_about(network, stage),
        "range": trained["transform"].get("range"),
        "grid": grid.name,
        "layer": network.layer,
        "maps": list(dict.fromkeys(spec.map for spec in runs)),
        "solvers": list(dict.fromkeys(spec.solver for spec in runs if spec.solver)),
    }
    if stage == "finetune":
        about, name = {**about, "phase": phase}, f"{name} {phase}"
    covered = {point.label: grid.covered(point) for point in grid.transform.grid()}
    identity = {spec.name: run.identity for spec, run in runs.items()}
    with Tracker(
        config["logger"], network.runs / stage / network.place / grid.name, name=name, about=about, identity=identity
    ) as tracker:
        for run in new.values():
            tracker.record_in(run)
        rows = {way(spec): run.rows() for spec, run in runs.items()}
        tracker.table("rows", pd.concat(rows.values(), ignore_index=True))
        prefix = f"{stage}/{phase}" if stage == "finetune" else stage
        tracker.summarise(of_measurement(rows, covered, prepared.report, prefix))
        if before is not None:
            folder = network.runs / stage / before.name / grid.name
            found = {way(spec): folder / spec.name for spec in runs if (folder / spec.name / DONE).exists()}
            old = {name: rows_of(path) for name, path in found.items()}
            tracker.summarise(of_measurement(old, covered, prepared.report, f"{stage}/before"))


def _open(network: Network, grid: Grid, spec: MapSpec, prepared: Prepared, config: dict[str, Any], stage: str) -> Run:
    identity: dict[str, Any] = {
        "network": network.name,
        "weights": network.weights,
        "data": {
            "name": prepared.name,
            "sha256": prepared.sha256,
            "fit": network.settings["fit"],
            "report": prepared.report,
        },
        "grid": grid.identity,
        "layer": network.layer,
        **identity_of(spec, config),
    }
    return Run(network.runs, f"{stage}/{network.place}/{grid.name}/{spec.name}", identity)


def _about(network: Network, stage: str) -> dict[str, Any]:
    """What the rows of a network that was trained here say of it."""
    trained = network.config
    return {
        "stage": stage,
        "data": network.measured_on,
        "network": trained["name"],
        "family": trained["transform"]["name"],
        "range": _text(trained["transform"].get("range")),
        "seed": trained["seed"],
    }


def _text(value: object) -> str:
    return "" if value is None else str(value)
