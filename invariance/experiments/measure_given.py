"""A network that was not trained here, measured at its layers over grids: `invariance-measure model=timm …`."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from invariance.data.prepared import Prepared, prepare
from invariance.device import choose_device
from invariance.engine.at_layer import Effort
from invariance.engine.derivative import DERIVATIVE, with_tangent
from invariance.engine.foreseen import Share, foresee
from invariance.engine.given import more_given
from invariance.engine.grids import Grid, grids_for
from invariance.engine.inputs import MEASURE, has_input, layers_and_input
from invariance.engine.replaced import no_classes
from invariance.errors import UserError
from invariance.experiments.families import EachGrid
from invariance.experiments.given import Given, given, seen_by, telling_colour, told_layers, told_size
from invariance.experiments.recording import DERIVED, Key, Recording, identity_of, of_grids, samples
from invariance.maps.spec import CLOSED, MapSpec, parted
from invariance.models.derivative import INPUT
from invariance.models.layers import choose_layers, choose_readouts
from invariance.models.positions import positions_of
from invariance.models.readout import Flatten
from invariance.models.recipe import KEPT, Resize
from invariance.runs.files import DONE
from invariance.runs.outputs import require_writable
from invariance.runs.places import given_place, layer_folder
from invariance.runs.run import Run
from invariance.runs.summary import of_measurement, way
from invariance.runs.wandb import Tracker
from invariance.settings.base import checked
from invariance.settings.parts import GivenModel
from invariance.settings.paths import folder

FAMILY = {"name": "baseline"}
"""A network that was not trained here has no family of its own."""

_BLANK = torch.zeros(1, 3, 8, 8)
"""An image by which it is seen whether a family has a derivative at all."""


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
    resize = network.resize(config["resize"])
    work: _Work | None = None
    grids = _grids(config)
    each = EachGrid(len(grids))
    _check_sizes({grid.name: grid.transform.source_size(network.size) for grid in grids}, resize)
    for grid in grids:
        size = grid.transform.source_size(network.size)
        root = Path(config["prepared"]).expanduser()
        prepared = prepare(data, size, root, progress=config["progress"], resize=resize)
        if work is None:
            work = _begun(network, data, prepared, grid, maps, config)
            print(work.foreseen(grids, prepared), flush=True)
            print(work.told(prepared), flush=True)
            if config["plan"]:
                return
        with each.trying(grid):
            work.measure(grid, prepared)
    each.end()
    if each.busy:
        raise each.busy[0]


def _check_sizes(sizes: Mapping[str, int], resize: Resize | None) -> None:
    """Refuse grids that take images of several sizes where pictures keep the one that they have.

    Raises:
        UserError: naming two of them.
    """
    if resize != KEPT or len(set(sizes.values())) == 1:
        return
    least, most = min(sizes, key=lambda name: sizes[name]), max(sizes, key=lambda name: sizes[name])
    raise UserError(
        f"resize=none: {least} takes pictures of {sizes[least]} × {sizes[least]} pixels and {most} of {sizes[most]} × "
        f"{sizes[most]}, and none is resized; measure {most} apart, or by resize=own or warp"
    )


def _grids(config: Mapping[str, Any]) -> list[Grid]:
    """The chosen grids; without those that have no derivative, where nothing else is measured.

    Raises:
        UserError: if none is left.
    """
    grids = grids_for(FAMILY, config["grids"], config["grid"] or {})
    if DERIVATIVE not in (config["metrics"] or ()):
        return grids
    found = with_tangent({grid.name: grid.transform for grid in grids}, _BLANK)
    return grids if of_grids(config["metrics"]) else [grid for grid in grids if grid.name in found]


def _begun(
    network: Given,
    data: Mapping[str, Any],
    prepared: Prepared,
    grid: Grid,
    maps: list[MapSpec],
    config: Mapping[str, Any],
) -> "_Work":
    """What is to be done alike over all grids, chosen on the images of the first."""
    images = seen_by(prepared, grid.transform)
    with telling_colour(prepared):
        named, beside = layers_and_input(network.model, config["layers"])
        layers = choose_layers(network.model, named, images)
    placed = _placed(network, layers, maps, images)
    places = network.places(prepared.classes, config["labels"], images)
    if config["unseen_classes"] and places is None:
        raise UserError("unseen_classes: the images' classes are not known to be the network's; leave it out")
    fitted = any(spec.settings is not None for spec in parted(maps)[0]) and config["metrics"] != [DERIVATIVE]
    readouts = choose_readouts(network.model, layers, _asked(config["readout"]), images, fitted=fitted)
    metrics = _metrics(config["metrics"], network, places, images)  # last, as it says what it leaves out
    of_input = has_input(beside, maps, metrics)
    return _Work(network, data["fit"], readouts, placed, places, maps, {**config, "metrics": metrics}, of_input)


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


def _asked(readout: str | Mapping[object, str]) -> str | dict[str, str]:
    """Readouts as they are typed: a layer whose name is a number comes as one."""
    return readout if isinstance(readout, str) else {str(layer): name for layer, name in readout.items()}


def _metrics(chosen: list[str] | None, network: Given, places: NDArray[np.int64] | None, images: Tensor) -> list[str]:
    """The metrics that apply: without labels of the network's own there is nothing to be right about.

    Raises:
        UserError: if none is left of those that were typed.
    """
    why = f"the images' classes are not known to be those of {network.called}"
    if chosen is None:
        if places is not None:
            return ["error_rate", "l2_distance"]
        if none := no_classes(network.model.cut(["logits"]), network.model.prepare(images)):
            print(f"error_rate and agreement are left out: {network.called} names no classes ({none})", file=sys.stderr)
            return ["l2_distance"]
        told = f"error_rate is left out, and agreement takes its place: {why}"
        print(f"{told} (labels=true says that they are, in its order)", file=sys.stderr)
        return ["agreement", "l2_distance"]
    if places is not None or "error_rate" not in chosen:
        return list(chosen)
    left = [metric for metric in chosen if metric != "error_rate"]
    if not left:
        raise UserError(f"metrics={chosen}: {why}; say that they are by labels=true, or give [agreement]")
    print(f"error_rate is left out: {why} (labels=true says that they are, in its order)", file=sys.stderr)
    return left


@dataclass(frozen=True)
class _Work:
    """What is measured alike over every grid.

    Attributes:
        network: the network.
        fit: which images maps are fitted on.
        readouts: the readout of every layer.
        placed: where the positions lie of those that have any, where maps on these are measured.
        places: the network's number of each class of the images; None where these are not known to be its own.
        maps: the maps and solvers.
        config: the configuration, with the metrics that apply.
        of_input: the map under which the input has rows; None: it has none.
    """

    network: Given
    fit: Mapping[str, Any]
    readouts: Mapping[str, str]
    placed: dict[str, str]
    places: NDArray[np.int64] | None
    maps: list[MapSpec]
    config: Mapping[str, Any]
    of_input: MapSpec | None

    def told(self, prepared: Prepared) -> str:
        """The network, its images and layers, in a line."""
        count = len(prepared.split(prepared.report))
        how = told_size(self.network.resize(self.config["resize"]), self.network.size)
        images = f"{count:,} images of {prepared.name} ({prepared.report}), {how}"
        return f"{self.network.told}; {images}; layers {told_layers(self.readouts)}"

    def foreseen(self, grids: Sequence[Grid], prepared: Prepared) -> str:
        """What it will take to measure all that is not finished, in a line.

        Args:
            grids: all that are to be measured.
            prepared: the images of the first of them.
        """
        shares = [share for grid in grids if (share := self._left(grid, prepared)) is not None]
        if not shares:
            return "nothing is left to measure"
        fit, report = samples(prepared, self.fit, self.places)
        return foresee(
            self.network.model,
            report,
            fit,
            shares,
            transform=grids[0].transform,
            cut=self.network.model.cut(list(self.readouts), self.readouts),
            measures=of_grids(self.config["metrics"]),
            more=more_given(self.config["nulls"], self.config["intervals"]),
            unseen=[*CLOSED, *self.config["unseen_classes"]],
            effort=Effort(int(self.config["batch"]), self.config["memory_gb"] * 1e9),
        ).told

    def _left(self, grid: Grid, prepared: Prepared) -> Share | None:
        """What is not finished of a grid, if anything."""
        runs = folder(self.config["runs"], "runs")
        left = [key for key, name in self._names(grid, prepared).items() if not (runs / name / DONE).exists()]
        left = [key for key in left if key != self._input]  # it costs no pass
        of_maps = [key for key in left if key[1] != DERIVED]
        layers = list(dict.fromkeys(layer for layer, _ in of_maps)) or list(self.readouts)
        maps = list(dict.fromkeys(spec for _, spec in of_maps))
        return Share(len(grid.transform.grid()), layers, maps, len(of_maps) < len(left)) if left else None

    def _names(self, grid: Grid, prepared: Prepared) -> dict[Key, str]:
        """The run of every layer and map, by its path below the runs folder."""
        place = given_place(prepared.name, self.network.source, self.network.label, grid.name)
        return {
            (layer, spec): f"{place}/{layer_folder(layer, self._readout(layer, spec))}/{spec.name}"
            for layer, spec in self._keys(grid)
        }

    def measure(self, grid: Grid, prepared: Prepared) -> None:
        """Measure all layers over one grid, and write the rows of every layer and map that has none yet.

        Raises:
            UserError: for anything the user can mend.
        """
        runs_folder, network = folder(self.config["runs"], "runs"), self.network
        place = given_place(prepared.name, network.source, network.label, grid.name)
        names = self._names(grid, prepared)
        if not all((runs_folder / name / DONE).exists() for name in names.values()):
            require_writable(runs_folder / place, "runs")
        runs = {key: Run(runs_folder, name, self._identity(grid, prepared, *key)) for key, name in names.items()}
        about = {"stage": "measure", "data": prepared.name, "network": network.label, "model": network.called}
        keep = Recording(grid, prepared, runs, about, self.of_input)
        if keep.finished:
            print(f"finished already: {runs_folder / place}")
            return
        facts = {
            "model": {**network.identity, "versions": network.versions},
            "depths": self._depths(),
            **({"positions": self.placed} if self.placed else {}),
            "device": str(network.model.device),
        }
        images = samples(prepared, self.fit, self.places)
        with keep.measuring(network.model, images, runs_folder / place, facts, self.config, self.readouts):
            new = dict(keep.runs)
            if new:
                self._show(grid, prepared, runs, new, runs_folder / place)
        if new:
            count = len(keep.layers)
            layers = f"{count} layer{'s' * (count > 1)}" if count else "the input"
            at = f"{layers} of {network.label} over {len(grid.transform.grid())} g of {grid.name}"
            print(f"measured {at}: {runs_folder / place}")
        else:  # by another process, meanwhile
            print(f"finished already: {runs_folder / place}")

    def _depths(self) -> dict[str, int]:
        """The place of every layer in the network, the input first."""
        first = {INPUT: -1} if DERIVATIVE in self.config["metrics"] or self.of_input else {}
        return {**first, **self.network.depths(list(self.readouts))}

    @property
    def _input(self) -> Key | None:
        """What has the run of the input's own."""
        return None if self.of_input is None else (INPUT, self.of_input)

    def _keys(self, grid: Grid) -> list[Key]:
        """What has a run of its own: every layer and map, and the derivative at every layer and at the input."""
        metrics, layers = self.config["metrics"], list(self.readouts)
        whole, on_positions = parted(self.maps)
        keys: list[Key] = [*product(layers, whole), *product(self.placed, on_positions)] if of_grids(metrics) else []
        keys += [] if self._input is None else [self._input]
        if DERIVATIVE in metrics and grid.transform.tangent(_BLANK) is not None:
            keys += [(layer, DERIVED) for layer in dict.fromkeys([INPUT, *layers])]
        return keys

    def _readout(self, layer: str, spec: MapSpec) -> str:
        """How a layer is read for a map; the input, and what maps on positions take, is whole."""
        return Flatten.name if parted([spec])[1] else self.readouts.get(layer, Flatten.name)

    def _identity(self, grid: Grid, prepared: Prepared, layer: str, spec: MapSpec) -> dict[str, Any]:
        """What a run is of."""
        places = None if self.places is None else self.places.tolist()
        of_input = (layer, spec) == self._input
        measured = {**self.config, "metrics": [MEASURE]} if of_input else self.config
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
            **identity_of(spec, measured),
        }
        if (readout := self._readout(layer, spec)) != Flatten.name:  # which says nothing, as in runs of before
            identity["readout"] = readout
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
            "layers": list(self.readouts),
            "readouts": dict(self.readouts),
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
            for layer in self.readouts:
                of_layer = {way(spec): rows[at, spec] for at, spec in rows if at == layer and spec != DERIVED}
                tracker.summarise(of_measurement(of_layer, covered, prepared.report, f"measure/{layer}"))
