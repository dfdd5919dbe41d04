"""One network over one grid: features, maps, scores, rows (Sec. 5.2), in groups that survive an interruption."""

import hashlib
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch

from invariance.data.prepared import Prepared
from invariance.engine.grids import Grid
from invariance.engine.groups import Ended, Group, Measured
from invariance.engine.measuring import Effort, check, measure
from invariance.engine.stream import Sample
from invariance.maps.spec import CLOSED, MapSpec, leaning
from invariance.progress import bar
from invariance.runs.checked import write_facts
from invariance.runs.files import DONE, atomic_path, write_text
from invariance.runs.outputs import require_writable
from invariance.runs.parts import Part, Parts
from invariance.runs.rows import to_frame
from invariance.runs.run import Run
from invariance.runs.scores import write_scores
from invariance.runs.seal import rows_of
from invariance.runs.summary import of_measurement, way
from invariance.runs.wandb import Tracker
from invariance.training.trained import Network
from invariance.transforms.base import GridPoint, Transform
from invariance.transforms.near import near_copies, told

EXAMPLES = 4
FITS = "g,status,error,reference,strength,sigma\n"
"""Columns of `fits.csv`: mean squared error over the fit images, the identity's, the strength ridge chose, and σ."""


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
    prepared = network.data(size, Path(config["prepared"]).expanduser(), config["progress"])
    runs = {spec: _open(network, grid, spec, prepared, config, stage) for spec in maps}
    new = {spec: run for spec, run in runs.items() if not run.done}
    if not new:
        print(f"finished already: {folder}")
        return
    fit, report = samples_of(network, prepared)
    _check(network, grid, list(new), config, fit, report)
    with Recording(network, grid, prepared, new, stage) as keep:
        if not keep.runs:  # by another process, meanwhile
            print(f"finished already: {folder}")
            return
        if near := told(near_copies(grid.transform, network.input_size), grid.name, network.input_size):
            print(near, flush=True)
        keep.begin(folder)
        with bar(config["progress"]) as progress:
            measure(
                network.model,
                report,
                fit=fit,
                families=[grid],
                layers=[network.layer],
                maps=list(keep.runs),
                measures=config["metrics"],
                keep=keep,
                unseen=[*CLOSED, *config["unseen_classes"]],
                effort=Effort(
                    int(config["batch"]), config["memory_gb"] * 1e9, progress if config["progress"] else None
                ),
            )
        keep.finish()
        _show(network, grid, runs, keep.runs, prepared, config, stage, before)
    print(f"measured {network.place} over {len(grid.transform.grid())} g of {grid.name}: {folder}")


def _check(
    network: Network, grid: Grid, maps: list[MapSpec], config: dict[str, Any], fit: Sample, report: Sample
) -> None:
    """Refuse what cannot be measured, and say what maps lean on."""
    layers = [network.layer]
    dims = check(network.model, report, fit=fit, family=grid, layers=layers, maps=maps, measures=config["metrics"])
    for line in leaning(maps, dims, len(fit)):
        print(line, file=sys.stderr)


def samples_of(network: Network, prepared: Prepared) -> tuple[Sample, Sample]:
    """The images that a network's maps are fitted on, and those that are reported on."""
    name, report = prepared.fit_split(network.settings["fit"]), prepared.split(prepared.report)
    own = network.measured_on == network.trained_on  # another data set's classes are not the network's
    chosen = [
        (name, prepared.split(name), prepared.fit_indices(network.settings["fit"])),
        (prepared.report, report, np.arange(len(report))),
    ]
    fit, reported = (
        Sample(split_name, split.images, indices, torch.from_numpy(np.asarray(split.labels[indices])) if own else None)
        for split_name, split, indices in chosen
    )
    return fit, reported


def _show(
    network: Network,
    grid: Grid,
    runs: dict[MapSpec, Run],
    new: dict[MapSpec, Run],
    prepared: Prepared,
    config: dict[str, Any],
    stage: str,
    before: Network | None,
) -> None:
    """The measurement in W&B: its rows and means; those of the network it was finetuned from, too."""
    trained, name, phase = network.config, f"{network.place}/{grid.name}", "after" if before else "before"
    about = {
        "stage": stage,
        "data": network.measured_on,
        "network": trained["name"],
        "family": trained["transform"]["name"],
        "range": trained["transform"].get("range"),
        "seed": trained["seed"],
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
        "metrics": list(config["metrics"]),
        "map": spec.map,
        "solver": {"name": spec.solver, **(asdict(spec.settings) if spec.settings else {})},
    }
    if spec.solver in config["unseen_classes"]:  # in closed form always, so that it says nothing
        identity["unseen_classes"] = True
    return Run(network.runs, f"{stage}/{network.place}/{grid.name}/{spec.name}", identity)


class Recording:
    """The recorder of a command: a run directory for every map, of one network over one grid.

    What a group came to is a part of its run, and is not measured again after an interruption; a run gets its rows and
    its marker once all of its parts are there. Use as a context manager: it holds the locks of the runs.

    Args:
        network: the trained network.
        grid: the transformations.
        prepared: the images.
        runs: the run of every map that is not measured yet.
        stage: what the measurement is a part of.
    """

    def __init__(
        self, network: Network, grid: Grid, prepared: Prepared, runs: Mapping[MapSpec, Run], stage: str
    ) -> None:
        self.network, self.grid, self.prepared, self.stage = network, grid, prepared, stage
        self.runs = dict(runs)
        self._locks = ExitStack()
        self._parts: dict[MapSpec, Parts] = {}
        self._groups: dict[MapSpec, list[tuple[str, ...]]] = {}

    def __enter__(self) -> Self:
        """Take the locks; runs that another process finished meanwhile are left out."""
        with ExitStack() as locks:
            for run in self.runs.values():
                locks.enter_context(run)
            self._locks = locks.pop_all()
        self.runs = {spec: run for spec, run in self.runs.items() if not run.done}
        self._groups = {spec: [] for spec in self.runs}
        return self

    def __exit__(self, *raised: object) -> None:
        """Give up the locks."""
        self._locks.close()

    def begin(self, folder: Path) -> None:
        """Write down what is measured: provenance, the grid, and a few of its images."""
        prepared, network = self.prepared, self.network
        for run in self.runs.values():
            run.record(
                {
                    "upstream": {network.directory.as_posix(): network.weights},
                    "device": str(network.device),
                    "trained_on": network.trained_on,
                    "remarks": prepared.remarks,
                    "skipped": prepared.skipped,
                    "left_out": prepared.left_out,
                }
            )
        _write_grid(folder, self.grid, prepared)

    def has(self, group: Group) -> bool:
        """See `Recorder`."""
        run = self.runs[group.map]
        if group.map not in self._parts:
            self._parts[group.map] = Parts(run, group.size)
        self._groups[group.map].append(group.g)
        return self._parts[group.map].read(group.number, group.g) is not None

    def add(self, group: Group, result: Measured) -> None:
        """See `Recorder`."""
        run = self.runs[group.map]
        facts = {**self._facts(), "run": run.name}
        rows = to_frame(replace(row, **facts) for row in result.rows)
        run.require_here()
        self._parts[group.map].write(group.number, group.g, Part(rows, _account(result.fits), result.scores))

    def note(self, done: int, of: int) -> None:
        """See `Recorder`."""
        for run in self.runs.values():
            run.note(done, of, "g")

    def finish(self) -> None:
        """Make a finished run of the parts of every map."""
        for spec, run in self.runs.items():
            run.require_here()
            parts = self._parts[spec].all(self._groups[spec])
            if spec.settings is not None:
                write_text(run.directory / "fits.csv", FITS + "".join(part.fits for part in parts))
            scores = {name: np.concatenate([part.scores[name] for part in parts]) for name in parts[0].scores}
            write_scores(run.directory, [label for labels in self._groups[spec] for label in labels], scores)
            run.finish(pd.concat([part.rows for part in parts], ignore_index=True))
            self._parts[spec].remove()

    def _facts(self) -> dict[str, Any]:
        """What the rows of a network trained here say of it."""
        trained = self.network.config
        return {
            "stage": self.stage,
            "data": self.network.measured_on,
            "network": trained["name"],
            "family": trained["transform"]["name"],
            "range": _text(trained["transform"].get("range")),
            "seed": trained["seed"],
        }


def _write_grid(folder: Path, grid: Grid, prepared: Prepared) -> None:
    """What the figures need to know of a grid: its axis, what training covered, and some examples."""
    transform = grid.transform
    points = transform.grid()
    facts = {
        "grid": grid.name,
        "family": grid.family,
        "unit": transform.unit,
        "ordinal": transform.ordinal,
        "points": [
            {"label": p.label, "value": p.value, "covered": grid.covered(p), "params": _hash(transform, p)}
            for p in points
        ],
    }
    write_facts(folder / "grid.json", facts)
    split = prepared.split(prepared.report)
    _, first = np.unique(np.asarray(split.labels), return_index=True)
    chosen = np.sort(first[:EXAMPLES]) if prepared.classes else np.arange(min(EXAMPLES, len(split)))
    x = torch.from_numpy(np.asarray(split.images[chosen])).float()
    images = [transform.apply(x, point.params).round().to(torch.uint8).numpy() for point in points]
    with atomic_path(folder / "examples.npz") as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, images=np.stack(images), labels=np.asarray(split.labels)[chosen])


def _account(fits: Sequence[Ended]) -> str:
    """How the fits of a group ended: lines of `fits.csv`."""
    strengths = ["" if math.isnan(one.strength) else f"{one.strength:g}" for one in fits]
    return "".join(
        f"{one.g},{one.status},{one.error:.9g},{one.reference:.9g},{strength},{'relu' if one.relu else 'identity'}\n"
        for one, strength in zip(fits, strengths, strict=True)
    )


def _hash(transform: Transform, point: GridPoint) -> str:
    """A short hash of what decides a g, to tell grids of the same labels apart."""
    digest = hashlib.sha256()
    for name in sorted(point.params):
        digest.update(name.encode() + point.params[name].numpy().tobytes())
    for name, value in sorted(transform.beside().items()):
        digest.update(f"{name}={value}".encode())
    return digest.hexdigest()[:12]


def _text(value: object) -> str:
    return "" if value is None else str(value)
