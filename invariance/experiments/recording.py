"""One network over one grid: features, maps, scores, rows (Sec. 5.2), in groups that survive an interruption."""

import hashlib
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from invariance.data.prepared import Prepared
from invariance.engine.grids import Grid
from invariance.engine.groups import Ended, Group, Measured
from invariance.engine.measuring import Effort, check, measure
from invariance.engine.stream import Sample
from invariance.maps.spec import CLOSED, MapSpec, leaning
from invariance.models.model import Model
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

Key = tuple[str, MapSpec]
"""What has a run of its own: a layer, and a map with its solver."""


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
    keep = Recording(grid, prepared, {(network.layer, spec): run for spec, run in runs.items()}, _about(network, stage))
    if keep.finished:
        print(f"finished already: {folder}")
        return
    facts = {
        "upstream": {network.directory.as_posix(): network.weights},
        "device": str(network.device),
        "trained_on": network.trained_on,
    }
    with keep.measuring(network.model, samples_of(network, prepared), folder, facts, config):
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


def samples(
    prepared: Prepared, fit: Mapping[str, Any] | None, places: NDArray[np.int64] | None
) -> tuple[Sample, Sample]:
    """The images of a data set that maps are fitted on, and those that are reported on.

    Args:
        prepared: the data set.
        fit: which images maps are fitted on, as its `fit` says.
        places: the network's number of each class of the data set; None where the classes are not the network's.

    Raises:
        UserError: if there is no split to fit on.
    """
    name, report = prepared.fit_split(fit), prepared.split(prepared.report)
    chosen = [
        (name, prepared.split(name), prepared.fit_indices(fit)),
        (prepared.report, report, np.arange(len(report))),
    ]
    fitted, reported = (
        Sample(split_name, split.images, indices, _labels(np.asarray(split.labels[indices]), places))
        for split_name, split, indices in chosen
    )
    return fitted, reported


def _labels(labels: NDArray[np.int64], places: NDArray[np.int64] | None) -> torch.Tensor | None:
    """Labels as the network numbers its classes; −1 where an image has none."""
    return None if places is None else torch.from_numpy(np.append(places, -1)[labels])


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
        "metrics": list(config["metrics"]),
        "map": spec.map,
        "solver": {"name": spec.solver, **(asdict(spec.settings) if spec.settings else {})},
    }
    if spec.solver in config["unseen_classes"]:  # in closed form always, so that it says nothing
        identity["unseen_classes"] = True
    return Run(network.runs, f"{stage}/{network.place}/{grid.name}/{spec.name}", identity)


class Recording:
    """The recorder of a command: a run directory for every layer and map, of one network over one grid.

    What a group came to is a part of its run, and is not measured again after an interruption; a run gets its rows and
    its marker once all of its parts are there. Use as a context manager: it holds the locks of the runs.

    Args:
        grid: the transformations.
        prepared: the images.
        runs: the run of every layer and map; those that are measured already are left out.
        about: what rows say of the network.
    """

    def __init__(self, grid: Grid, prepared: Prepared, runs: Mapping[Key, Run], about: Mapping[str, Any]) -> None:
        self.grid, self.prepared, self.about = grid, prepared, about
        self.runs = dict(runs)
        self._locks = ExitStack()
        self._parts: dict[Key, Parts] = {}
        self._groups: dict[Key, list[tuple[str, ...]]] = {}

    def __enter__(self) -> Self:
        """Take the locks; runs that another process finished meanwhile are left out."""
        with ExitStack() as locks:
            for run in self.runs.values():
                locks.enter_context(run)
            self._locks = locks.pop_all()
        self.runs = {key: run for key, run in self.runs.items() if not run.done}
        self._groups = {key: [] for key in self.runs}
        return self

    def __exit__(self, *raised: object) -> None:
        """Give up the locks."""
        self._locks.close()

    @property
    def layers(self) -> list[str]:
        """The layers of which something is to be measured."""
        return list(dict.fromkeys(layer for layer, _ in self.runs))

    @property
    def maps(self) -> list[MapSpec]:
        """The maps through which something is to be measured."""
        return list(dict.fromkeys(spec for _, spec in self.runs))

    @property
    def finished(self) -> bool:
        """Whether nothing is left to measure."""
        return all(run.done for run in self.runs.values())

    @contextmanager
    def measuring(
        self,
        model: Model,
        images: tuple[Sample, Sample],
        folder: Path,
        facts: Mapping[str, Any],
        config: Mapping[str, Any],
    ) -> Iterator[None]:
        """Measure what has no rows yet, under the locks of the runs, which are held until the context is left.

        Args:
            model: the network.
            images: those that maps are fitted on, and those that are reported on.
            folder: of the grid.
            facts: what made the network, for the provenance of every run.
            config: metrics, unseen_classes, batch, memory_gb and progress.

        Raises:
            UserError: for anything the user can mend.
        """
        grid, (fit, report) = self.grid, images
        self.runs = {key: run for key, run in self.runs.items() if not run.done}
        asked: dict[str, Any] = {"fit": fit, "layers": self.layers, "maps": self.maps, "measures": config["metrics"]}
        for line in leaning(self.maps, check(model, report, family=grid, **asked), len(fit)):
            print(line, file=sys.stderr)
        with self:
            if self.runs:  # not finished by another process, meanwhile
                side = int(model.size or report.pixels.shape[-1])
                if near := told(near_copies(grid.transform, side), grid.name, side):
                    print(near, flush=True)
                self._begin(folder, facts)
                with bar(config["progress"]) as progress:
                    shown = progress if config["progress"] else None
                    measure(
                        model,
                        report,
                        families=[grid],
                        **{**asked, "layers": self.layers, "maps": self.maps},
                        keep=self,
                        unseen=[*CLOSED, *config["unseen_classes"]],
                        effort=Effort(int(config["batch"]), config["memory_gb"] * 1e9, shown),
                    )
                self._finish()
            yield

    def _begin(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """Write down what is measured: provenance, the grid, and a few of its images.

        Args:
            folder: of the grid.
            facts: what made the network, for the provenance of every run.
        """
        prepared = self.prepared
        for run in self.runs.values():
            run.record(
                {**facts, "remarks": prepared.remarks, "skipped": prepared.skipped, "left_out": prepared.left_out}
            )
        _write_grid(folder, self.grid, prepared)

    def has(self, group: Group) -> bool:
        """See `Recorder`; what is of no run here was measured before."""
        key = group.layer, group.map
        if key not in self.runs:
            return True
        if key not in self._parts:
            self._parts[key] = Parts(self.runs[key], group.size)
        self._groups[key].append(group.g)
        return self._parts[key].read(group.number, group.g) is not None

    def add(self, group: Group, result: Measured) -> None:
        """See `Recorder`."""
        key = group.layer, group.map
        run = self.runs[key]
        rows = to_frame(replace(row, **self.about, run=run.name) for row in result.rows)
        run.require_here()
        self._parts[key].write(group.number, group.g, Part(rows, _account(result.fits), result.scores))

    def note(self, done: int, of: int) -> None:
        """See `Recorder`."""
        for run in self.runs.values():
            run.note(done, of, "g")

    def _finish(self) -> None:
        """Make a finished run of the parts of every layer and map."""
        for key, run in self.runs.items():
            run.require_here()
            _, spec = key
            parts = self._parts[key].all(self._groups[key])
            if spec.settings is not None:
                write_text(run.directory / "fits.csv", FITS + "".join(part.fits for part in parts))
            scores = {name: np.concatenate([part.scores[name] for part in parts]) for name in parts[0].scores}
            write_scores(run.directory, [label for labels in self._groups[key] for label in labels], scores)
            run.finish(pd.concat([part.rows for part in parts], ignore_index=True))
            self._parts[key].remove()


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
