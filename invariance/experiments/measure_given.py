"""A network that was not trained here, measured at its layers over grids: `invariance-measure model=timm …`."""

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from invariance.data.prepared import Prepared, prepare
from invariance.device import choose_device
from invariance.engine.grids import Grid, grids_for
from invariance.errors import Busy, UserError
from invariance.experiments.given import Given, given, seen_by, telling_colour
from invariance.experiments.recording import Key, Recording, samples
from invariance.maps.spec import MapSpec, parted
from invariance.models.layers import choose_layers
from invariance.models.positions import positions_of
from invariance.runs.files import DONE
from invariance.runs.outputs import require_writable
from invariance.runs.places import folder_name, given_place
from invariance.runs.run import Run
from invariance.runs.summary import of_measurement, way
from invariance.runs.wandb import Tracker
from invariance.settings.base import checked
from invariance.settings.parts import GivenModel
from invariance.settings.paths import folder

FAMILY = {"name": "baseline"}
"""A network that was not trained here has no family of its own."""


def measure_given(config: Mapping[str, Any], maps: list[MapSpec]) -> None:
    """Measure the network that `model=` names over every chosen grid, at all chosen layers in one pass.

    Args:
        config: the configuration of `conf/measure.yaml`, plain and resolved, with a model and its data.
        maps: the maps and solvers.

    Raises:
        UserError: for anything the user can mend.
    """
    network = given(checked(GivenModel, config["model"], "model"), choose_device(config["trainer"]["accelerator"]))
    data = config["data"]
    data = {**data, "fit": {**(data.get("fit") or {}), **(config["fit"] or {})}}
    data = {**data, "report": config["report"] or data.get("report")}
    work: _Work | None = None
    busy: list[Busy] = []
    for grid in grids_for(FAMILY, config["grids"], config["grid"] or {}):
        size = grid.transform.source_size(network.size)
        prepared = prepare(data, size, Path(config["prepared"]).expanduser(), progress=config["progress"])
        if work is None:
            work = _begun(network, data, prepared, grid, maps, config)
        try:
            work.measure(grid, prepared)
        except Busy as error:  # the other grids are measured all the same
            busy.append(error)
    if busy:
        raise busy[0]


def _begun(
    network: Given,
    data: Mapping[str, Any],
    prepared: Prepared,
    grid: Grid,
    maps: list[MapSpec],
    config: Mapping[str, Any],
) -> "_Work":
    """What is to be done alike over all grids, chosen on the images of the first; and the line that says it."""
    images = seen_by(prepared, grid.transform)
    with telling_colour(prepared):
        layers = choose_layers(network.model, config["layers"], images)
    placed = _placed(network, layers, maps, images)
    places = network.places(prepared.classes, config["labels"], images)
    metrics = _metrics(config["metrics"], network, places)
    if config["unseen_classes"] and places is None:
        raise UserError("unseen_classes: the images' classes are not known to be the network's; leave it out")
    count = len(prepared.split(prepared.report))
    print(
        f"{network.told}; {count:,} images of {prepared.name} ({prepared.report}), warped to {network.size} × "
        f"{network.size}; layers {', '.join(layers)}",
        flush=True,
    )
    return _Work(network, data["fit"], layers, placed, places, maps, {**config, "metrics": metrics})


def _placed(network: Given, layers: list[str], maps: list[MapSpec], images: Tensor) -> dict[str, str]:
    """The layers that have positions, and where these lie, where maps on these are measured.

    Raises:
        UserError: if none has, and they are wanted.
    """
    if not parted(maps)[1]:
        return {}
    found, why = positions_of(network.model, layers, images)
    if not found:
        layer = next(iter(why))
        raise UserError(
            f"map=spatial, warp: layer {layer} {why[layer]}; choose layers with positions, or leave them out"
        )
    return {layer: str(at) for layer, at in found.items()}


def _metrics(chosen: list[str], network: Given, places: NDArray[np.int64] | None) -> list[str]:
    """The metrics that apply: without labels of the network's own there is nothing to be right about.

    Raises:
        UserError: if none is left.
    """
    if places is not None or "error_rate" not in chosen:
        return list(chosen)
    left = [metric for metric in chosen if metric != "error_rate"]
    why = f"the images' classes are not known to be those of {network.called}"
    if not left:
        raise UserError(f"metrics={chosen}: {why}; say that they are by labels=true, or give [l2_distance]")
    print(f"error_rate is left out: {why} (labels=true says that they are, in its order)", file=sys.stderr)
    return left


@dataclass(frozen=True)
class _Work:
    """What is measured alike over every grid.

    Attributes:
        network: the network.
        fit: which images maps are fitted on.
        layers: the layers.
        placed: where the positions lie of those that have any, where maps on these are measured.
        places: the network's number of each class of the images; None where these are not known to be its own.
        maps: the maps and solvers.
        config: the configuration, with the metrics that apply.
    """

    network: Given
    fit: Mapping[str, Any]
    layers: list[str]
    placed: dict[str, str]
    places: NDArray[np.int64] | None
    maps: list[MapSpec]
    config: Mapping[str, Any]

    def measure(self, grid: Grid, prepared: Prepared) -> None:
        """Measure all layers over one grid, and write the rows of every layer and map that has none yet.

        Raises:
            UserError: for anything the user can mend.
        """
        runs_folder, network = folder(self.config["runs"], "runs"), self.network
        place = given_place(prepared.name, network.source, network.label, grid.name)
        whole, on_positions = parted(self.maps)
        keys = [*product(self.layers, whole), *product(self.placed, on_positions)]
        names = {(layer, spec): f"{place}/{folder_name(layer)}/{spec.name}" for layer, spec in keys}
        if not all((runs_folder / name / DONE).exists() for name in names.values()):
            require_writable(runs_folder / place, "runs")
        runs = {key: Run(runs_folder, name, self._identity(grid, prepared, *key)) for key, name in names.items()}
        about = {"stage": "measure", "data": prepared.name, "network": network.label, "model": network.called}
        keep = Recording(grid, prepared, runs, about)
        if keep.finished:
            print(f"finished already: {runs_folder / place}")
            return
        facts = {
            "model": {**network.identity, "versions": network.versions},
            "depths": network.depths(self.layers),
            **({"positions": self.placed} if self.placed else {}),
            "device": str(network.model.device),
        }
        images = samples(prepared, self.fit, self.places)
        with keep.measuring(network.model, images, runs_folder / place, facts, self.config):
            new = dict(keep.runs)
            if new:
                self._show(grid, prepared, runs, new, runs_folder / place)
        if new:
            layers = f"{len(keep.layers)} layer{'s' * (len(keep.layers) > 1)}"
            at = f"{layers} of {network.label} over {len(grid.transform.grid())} g of {grid.name}"
            print(f"measured {at}: {runs_folder / place}")
        else:  # by another process, meanwhile
            print(f"finished already: {runs_folder / place}")

    def _identity(self, grid: Grid, prepared: Prepared, layer: str, spec: MapSpec) -> dict[str, Any]:
        """What a run is of."""
        places = None if self.places is None else self.places.tolist()
        identity: dict[str, Any] = {
            "model": self.network.identity,
            "data": {
                "name": prepared.name,
                "sha256": prepared.sha256,
                "fit": dict(self.fit),
                "report": prepared.report,
                "classes": places,
            },
            "grid": grid.identity,
            "layer": layer,
            "metrics": list(self.config["metrics"]),
            "map": spec.map,
            "solver": {"name": spec.solver, **(asdict(spec.settings) if spec.settings else {})},
        }
        if spec.solver in self.config["unseen_classes"]:  # by ridge always, so that it says nothing
            identity["unseen_classes"] = True
        return identity

    def _show(
        self, grid: Grid, prepared: Prepared, runs: Mapping[Key, Run], new: Mapping[Key, Run], place: Path
    ) -> None:
        """The measurement in W&B: the rows of all layers, and their means by layer."""
        about = {
            "stage": "measure",
            "data": prepared.name,
            "network": self.network.label,
            "model": self.network.called,
            "grid": grid.name,
            "layers": list(self.layers),
            "maps": list(dict.fromkeys(spec.map for spec in self.maps)),
            "solvers": list(dict.fromkeys(spec.solver for spec in self.maps if spec.solver)),
        }
        covered = {point.label: grid.covered(point) for point in grid.transform.grid()}
        identity = {f"{layer}/{spec.name}": run.identity for (layer, spec), run in runs.items()}
        name = f"{prepared.name}/{self.network.source}/{self.network.label}/{grid.name}"
        with Tracker(self.config["logger"], place, name=name, about=about, identity=identity) as tracker:
            for run in new.values():
                tracker.record_in(run)
            rows = {key: run.rows() for key, run in runs.items()}
            tracker.table("rows", pd.concat(rows.values(), ignore_index=True))
            for layer in self.layers:
                of_layer = {way(spec): rows[at, spec] for at, spec in rows if at == layer}
                tracker.summarise(of_measurement(of_layer, covered, prepared.report, f"measure/{layer}"))
