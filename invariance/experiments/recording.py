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
from invariance.engine.derivative import DERIVATIVE
from invariance.engine.given import more_given
from invariance.engine.grids import Grid
from invariance.engine.groups import Ended, Group, Measured
from invariance.engine.inputs import measure_input
from invariance.engine.measuring import Effort, check, measure
from invariance.engine.stream import Sample
from invariance.maps.spec import CLOSED, MapSpec, leaning
from invariance.measures import INDEX_NAMES
from invariance.models.derivative import INPUT
from invariance.models.model import Model
from invariance.progress import bar
from invariance.runs.checked import write_facts
from invariance.runs.files import atomic_path, write_text
from invariance.runs.locks import SharedLock
from invariance.runs.parts import Part, Parts
from invariance.runs.rows import to_frame
from invariance.runs.run import Run
from invariance.runs.scores import write_scores
from invariance.transforms.base import GridPoint, Transform
from invariance.transforms.foreign import always_applied
from invariance.transforms.near import near_copies, told

EXAMPLES = 4
FITS = "g,status,error,reference,strength,sigma\n"
"""Columns of `fits.csv`: mean squared error over the fit images, the identity's, the strength ridge chose, and σ."""

Key = tuple[str, MapSpec]
"""What has a run of its own: a layer, and a map with its solver."""

DERIVED = MapSpec(DERIVATIVE)
"""Stands for a map in the keys of derivatives, which have runs of their own and rows of the identity."""


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


def identity_of(spec: MapSpec, config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a run's identity that its map makes, and what is measured through it.

    Args:
        spec: the map and its solver, or `DERIVED`.
        config: metrics, unseen_classes, and nulls and intervals where there are any.
    """
    if spec == DERIVED:
        return {"metrics": [DERIVATIVE], "map": "identity", "solver": {"name": ""}}
    metrics, more = of_grids(config["metrics"]), more_given(config.get("nulls", False), config.get("intervals", False))
    identity: dict[str, Any] = {
        "metrics": metrics,
        "map": spec.map,
        "solver": {"name": spec.solver, **(asdict(spec.settings) if spec.settings else {})},
    }
    # what is not there says nothing, so that runs of before are what they were
    if spec.solver in config["unseen_classes"]:  # in closed form always
        identity["unseen_classes"] = True
    if more.nulls:
        identity["nulls"] = "shuffled" if spec.solver in more.shuffled else True
    if more.intervals and spec.map == "identity" and set(metrics) & set(INDEX_NAMES):
        identity["intervals"] = True
    return identity


def of_grids(metrics: Sequence[str]) -> list[str]:
    """The metrics that are taken under every g of a grid: all but the derivative."""
    return [metric for metric in metrics if metric != DERIVATIVE]


class Recording:
    """The recorder of a command: a run directory for every layer and map, of one network over one grid.

    What a group came to is a part of its run, and is not measured again after an interruption; a run gets its rows and
    its marker once all of its parts are there. Use as a context manager: it holds the locks of the runs.

    Args:
        grid: the transformations.
        prepared: the images.
        runs: the run of every layer and map; those that are measured already are left out.
        about: what rows say of the network.
        of_input: the identity, under which one of the runs is of the network's input; None: none is.
    """

    def __init__(
        self,
        grid: Grid,
        prepared: Prepared,
        runs: Mapping[Key, Run],
        about: Mapping[str, Any],
        of_input: MapSpec | None = None,
    ) -> None:
        self.grid, self.prepared, self.about = grid, prepared, about
        self._input: Key | None = None if of_input is None else (INPUT, of_input)
        self.runs = dict(runs)
        self._locks = ExitStack()
        self._parts: dict[Key, Parts] = {}
        self._groups: dict[Key, list[tuple[str, ...]]] = {}
        self._labels: NDArray[np.int64] | None = None

    def __enter__(self) -> Self:
        """Take the locks; runs that another process finished meanwhile are left out."""
        with ExitStack() as locks:
            shared = SharedLock()  # layers × maps are more than the files that a process may open
            locks.callback(shared.close)
            for run in self.runs.values():
                run.shared = shared
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
        return list(dict.fromkeys(key[0] for key in self.runs if key != self._input))

    def _asked(self, metrics: Sequence[str], readouts: Mapping[str, str]) -> list[dict[str, Any]]:
        """What is left to measure, as arguments of `measure`: through maps, and derivatives, which are of all layers.

        Args:
            metrics: those that are wanted.
            readouts: the readout of every layer that is measured, also of those that are finished.
        """
        of_maps = [key for key in self.runs if key[1] != DERIVED and key != self._input]
        asked: list[dict[str, Any]] = []
        if of_maps:
            there = list(dict.fromkeys(layer for layer, _ in of_maps))
            of_these = {layer: readouts[layer] for layer in there}
            asked.append({"layers": there, "maps": self.maps, "measures": of_grids(metrics), "readouts": of_these})
        if any(spec == DERIVED for _, spec in self.runs):
            asked.append({"layers": list(readouts), "maps": [], "measures": [DERIVATIVE], "readouts": readouts})
        return asked

    @property
    def maps(self) -> list[MapSpec]:
        """The maps through which something is to be measured."""
        return list(dict.fromkeys(key[1] for key in self.runs if key[1] != DERIVED and key != self._input))

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
        readouts: Mapping[str, str],
    ) -> Iterator[None]:
        """Measure what has no rows yet, under the locks of the runs, which are held until the context is left.

        Args:
            model: the network.
            images: those that maps are fitted on, and those that are reported on.
            folder: of the grid.
            facts: what made the network, for the provenance of every run.
            config: metrics, unseen_classes, batch, memory_gb and progress; nulls and intervals where there are any.
            readouts: the readout of every layer.

        Raises:
            UserError: for anything the user can mend.
        """
        grid, (fit, report), metrics = self.grid, images, config["metrics"]
        if report.labels is not None and not model.ours:  # of which the report takes intervals
            self._labels = report.labels.numpy()
        more = more_given(config.get("nulls", False), config.get("intervals", False))
        self.runs = {key: run for key, run in self.runs.items() if not run.done}
        for asked in self._asked(metrics, readouts):
            if asked["maps"]:
                cut = check(model, report, fit=fit, family=grid, **asked)
                dims = {layer: cut.reading(layer).dim for layer in cut.layers}
                for line in leaning(self.maps, dims, len(fit)):
                    print(line, file=sys.stderr)
        with self:
            if self.runs:  # not finished by another process, meanwhile
                side = int(model.size or report.pixels.shape[-1])
                if near := told(near_copies(grid.transform, side, report.pixels.shape[1]), grid.name, side):
                    print(near, flush=True)
                if always := always_applied(grid.transform):
                    print(always, flush=True)
                self._begin(folder, facts)
                with bar(config["progress"]) as progress:
                    shown = progress if config["progress"] else None
                    effort = Effort(int(config["batch"]), config["memory_gb"] * 1e9, shown)
                    common: dict[str, Any] = {"families": [grid], "keep": self, "more": more, "effort": effort}
                    if self._input in self.runs:
                        measure_input(model, report, fit=fit, spec=self._input[1], **common)
                    for asked in self._asked(metrics, readouts):
                        measure(model, report, fit=fit, **asked, **common, unseen=[*CLOSED, *config["unseen_classes"]])
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
        key = _key_of(group)
        if key not in self.runs:
            return True
        if key not in self._parts:
            self._parts[key] = Parts(self.runs[key], group.size)
        self._groups[key].append(group.g)
        return self._parts[key].read(group.number, group.g) is not None

    def add(self, group: Group, result: Measured) -> None:
        """See `Recorder`."""
        key = _key_of(group)
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
            g = [label for labels in self._groups[key] for label in labels]
            write_scores(run.directory, g, scores, self._labels)
            run.finish(pd.concat([part.rows for part in parts], ignore_index=True))
            self._parts[key].remove()


def _key_of(group: Group) -> Key:
    """What a group is a part of."""
    return group.layer, DERIVED if group.g == (DERIVATIVE,) and not group.size else group.map


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
