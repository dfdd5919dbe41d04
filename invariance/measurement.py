"""One network over one grid: features, maps, scores, rows (Sec. 5.2), in groups that survive an interruption."""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from rich.progress import Progress
from torch import Tensor

from invariance.data.prepared import Prepared, Split, prepare
from invariance.errors import UserError
from invariance.features import choose_device, extract
from invariance.grids import Grid
from invariance.maps import SOLVERS_OF, FittedMaps, Solver, solver_from_config
from invariance.metrics import Interval, bootstrap, errors_per_image, l2_distance_per_image, rms
from invariance.models.representation import Representation
from invariance.modules.checkpoint import BEST
from invariance.modules.classifier import load_classifier
from invariance.modules.map_fit import fit_maps
from invariance.progress import bar
from invariance.runs.files import atomic_path, sha256, write_text
from invariance.runs.rows import Row, read_rows, to_frame, write_rows
from invariance.runs.run import CONFIG, PROVENANCE, Run
from invariance.tracking import Tracker
from invariance.transforms.base import GridPoint

EXAMPLES = 4
_CHUNK = 2048


@dataclass(frozen=True)
class Fit:
    """One way of taking φ(gx) back to φ(x).

    Attributes:
        map: identity, residual or mlp.
        solver: name of the solver; empty for the identity.
        settings: settings of the solver; None for the identity.
    """

    map: str
    solver: str = ""
    settings: Solver | None = None

    @property
    def name(self) -> str:
        """Name of its run directory."""
        return f"{self.map}_{self.solver}" if self.solver else self.map


def fits_of(maps: Mapping[str, Any], solvers: Mapping[str, Any]) -> list[Fit]:
    """Every map with every solver that fits it.

    A map with one solver only is fitted by it, with its default settings, though the configuration does not choose it.

    Args:
        maps: the `map` part of the configuration, by name.
        solvers: the `solver` part: name → settings.

    Raises:
        UserError: for settings that make no sense, or a map without a solver that fits it.
    """
    chosen = {name: solver_from_config(name, settings or {}) for name, settings in solvers.items()}
    fits = []
    for kind in maps:
        able = SOLVERS_OF[kind]
        if not able:
            fits.append(Fit(kind))
            continue
        usable = {name: chosen[name] for name in able if name in chosen}
        if not usable and len(able) == 1:
            usable = {able[0]: solver_from_config(able[0], {})}
        if not usable:
            raise UserError(f"map={kind} needs a solver: choose solver=[{','.join(able)}] or one of them")
        fits += [Fit(kind, name, solver) for name, solver in usable.items()]
    return fits


class Network:
    """A trained network, cut at a layer, with the data it was trained on.

    Attributes:
        config: the configuration of its training run.
        directory: its training run.
        phi: φ and C.
        device: where it runs.
    """

    def __init__(self, runs: Path, directory: Path, *, layer: str, accelerator: str) -> None:
        """Load a finished training run.

        Raises:
            UserError: if its checkpoint cannot be used or it has no such layer.
        """
        self.runs = runs
        self.directory = directory
        self.name = directory.relative_to(runs / "train").as_posix()
        self.config: dict[str, Any] = yaml.safe_load((directory / CONFIG).read_text(encoding="utf-8"))
        self.provenance: dict[str, Any] = json.loads((directory / PROVENANCE).read_text(encoding="utf-8"))
        self.device = choose_device(accelerator)
        self.classifier = load_classifier(directory / BEST).to(self.device)
        self.layer = layer
        self.phi = Representation(self.classifier.network, layer)
        self.weights = sha256(directory / BEST)

    def data(self, size: int, root: Path, progress: bool) -> Prepared:
        """The network's data set at a size in pixels.

        Raises:
            UserError: if the data are not those the network was trained on.
        """
        prepared = prepare(self.provenance["data"], size, root, progress=progress)
        if prepared.classes != self.config_classes:
            raise UserError(f"{prepared.directory} has other classes than {self.directory}; train the network again")
        return prepared

    @property
    def config_classes(self) -> list[str]:
        """The classes the network tells apart."""
        return list(self.classifier.hparams["classes"])


@dataclass(frozen=True)
class _Side:
    """A split as one measurement sees it: which images, and φ(x) of them."""

    name: str
    split: Split
    indices: np.ndarray
    reference: Tensor
    labels: Tensor


def measure_grid(network: Network, grid: Grid, fits: list[Fit], config: dict[str, Any]) -> None:
    """Measure one network over one grid and write the rows of every fit that has none yet.

    Args:
        network: the trained network.
        grid: the transformations.
        fits: the maps and solvers.
        config: the configuration of `conf/measure.yaml`.

    Raises:
        UserError: for anything the user can mend.
    """
    folder = network.runs / "measure" / network.name / grid.name
    size = grid.transform.source_size(network.config["model"]["input_size"])
    prepared = network.data(size, Path(config["prepared"]).expanduser(), config["progress"])
    runs = {fit: _open(network, grid, fit, prepared, config) for fit in fits}
    todo = {fit: run for fit, run in runs.items() if not run.done}
    if not todo:
        print(f"finished already: {folder}")
        return
    with ExitStack() as held, bar(config["progress"]) as progress:
        for run in todo.values():
            held.enter_context(run)
            run.record({"upstream": {network.directory.as_posix(): network.weights}, "device": str(network.device)})
        _Measurement(network, grid, prepared, config, progress).run(todo, folder)
    with Tracker(
        config["logger"], folder, name=f"{network.name}/{grid.name}", stage="measure", group=prepared.name,
        config={"network": network.name, "grid": grid.name}, tags=[grid.family, prepared.name],
    ) as tracker:
        tracker.table("rows", pd.concat([run.rows() for run in runs.values()], ignore_index=True))
    print(f"measured {network.name} over {len(grid.transform.grid())} g of {grid.name}: {folder}")


def _open(network: Network, grid: Grid, fit: Fit, prepared: Prepared, config: dict[str, Any]) -> Run:
    identity = {
        "network": network.name,
        "weights": network.weights,
        "data": {"name": prepared.name, "sha256": prepared.sha256, "fit": network.provenance["data"]["fit"]},
        "grid": {"name": grid.name, "points": [point.label for point in grid.transform.grid()]},
        "layer": network.layer,
        "metrics": list(config["metrics"]),
        "map": fit.map,
        "solver": {"name": fit.solver, **(asdict(fit.settings) if fit.settings else {})},
    }
    return Run(network.runs, f"measure/{network.name}/{grid.name}/{fit.name}", identity)


class _Measurement:
    """The work of `measure_grid`: everything that its fits share."""

    def __init__(
        self, network: Network, grid: Grid, prepared: Prepared, config: dict[str, Any], progress: Progress
    ) -> None:
        self.network, self.grid, self.prepared, self.config = network, grid, prepared, config
        self.points = grid.transform.grid()
        self.progress = progress
        data = network.provenance["data"]
        fit_name, report = prepared.fit_split(data["fit"]), prepared.split(prepared.report)
        chosen = [
            (fit_name, prepared.split(fit_name), prepared.fit_indices(data["fit"])),
            (prepared.report, report, np.arange(len(report))),
        ]
        self.task = progress.add_task("φ", total=sum(len(i) for _, _, i in chosen) * (len(self.points) + 1))
        untouched = next(point for point in self.points if point.label == "untouched")
        self.sides = [
            _Side(name, split, indices, self._features(split, indices, untouched),
                  torch.from_numpy(np.asarray(split.labels[indices])))
            for name, split, indices in chosen
        ]
        self.scale = rms(self.sides[0].reference)

    def _features(self, split: Split, indices: np.ndarray, point: GridPoint) -> Tensor:
        return extract(
            self.network.phi, self.network.classifier.normalise, split.images, indices, self.grid.transform,
            point.params, device=self.network.device, batch=int(self.config["batch"]),
            advance=lambda n: self.progress.advance(self.task, n),
        )

    def group_size(self) -> int:
        """How many g are held and fitted together: as many as the memory bound allows, features and maps counted."""
        dim = self.scale.numel()
        images = sum(len(side.indices) for side in self.sides)
        per_g = 4 * dim * images + 16 * dim * dim
        return max(1, min(len(self.points), int(self.config["memory_gb"] * 1e9 // per_g)))

    def run(self, todo: dict[Fit, Run], folder: Path) -> None:
        """Measure all points in groups; a finished group of a fit is a file, and is not measured again."""
        self._write_grid(folder)
        size = self.group_size()
        groups = [self.points[i : i + size] for i in range(0, len(self.points), size)]
        parts = {
            fit: [run.directory / "parts" / f"{size}_{k}.csv" for k in range(len(groups))] for fit, run in todo.items()
        }
        for k, group in enumerate(groups):
            missing = [fit for fit in todo if not parts[fit][k].exists()]
            if not missing:
                self.progress.advance(self.task, len(group) * sum(len(side.indices) for side in self.sides))
                continue
            features = [
                torch.stack([self._features(side.split, side.indices, point) for point in group]) for side in self.sides
            ]
            for fit in missing:
                rows = self._rows(fit, todo[fit], group, features)
                write_rows(parts[fit][k], to_frame(rows))
        for fit, run in todo.items():
            run.finish(pd.concat([read_rows(part) for part in parts[fit]], ignore_index=True))
            shutil.rmtree(run.directory / "parts")

    def _rows(self, fit: Fit, run: Run, group: list[GridPoint], features: list[Tensor]) -> list[Row]:
        """Fit the maps of a group together and score each on both splits."""
        fitted: FittedMaps | None = None
        if fit.settings is not None:
            fitted = fit_maps(
                features[0], self.sides[0].reference, fit.map, fit.settings, device=self.network.device,
                progress=self.progress if self.config["progress"] else False,
            )
        rows = []
        for j, point in enumerate(group):
            apply = torch.nn.Identity() if fitted is None else partial(fitted.apply, j)
            status = "ok" if fitted is None else fitted.status[j]
            for side, r in zip(self.sides, features, strict=True):
                rows += self._score(fit, run, point, side, r[j], apply, status)
        return rows

    def _score(
        self, fit: Fit, run: Run, point: GridPoint, side: _Side, r: Tensor, apply: Callable[[Tensor], Tensor],
        status: str,
    ) -> list[Row]:
        """L_err and L_L2 of M_g φ(gx) over a split, with bootstrap intervals over its images."""
        values: dict[str, list[Tensor]] = {metric: [] for metric in self.config["metrics"]}
        for start in range(0, len(r), _CHUNK):
            span = slice(start, start + _CHUNK)
            back = apply(r[span])
            if "error_rate" in values:
                logits = self.network.phi.classify(back.to(self.network.device)).cpu()
                values["error_rate"].append(errors_per_image(logits, side.labels[span]))
            if "l2_distance" in values:
                values["l2_distance"].append(l2_distance_per_image(back.cpu(), side.reference[span], self.scale))
        trained = self.network.config
        common: dict[str, Any] = {
            "stage": "measure", "data": self.prepared.name, "network": trained["name"],
            "family": trained["transform"]["name"], "range": _text(trained["transform"].get("range")),
            "seed": trained["seed"], "layer": self.network.layer, "g": f"{self.grid.name}:{point.label}",
            "value": point.value, "unit": self.grid.transform.unit, "split": side.name, "map": fit.map,
            "solver": fit.settings.label if fit.settings else "", "status": status, "run": run.name,
        }
        interval = bootstrap(torch.stack([torch.cat(parts) for parts in values.values()]))
        ends = interval if status == "ok" else untrusted(interval, len(r))
        return [
            Row(
                **common, metric=metric, n_images=int(ends.n_used[k]), score=float(ends.mean[k]),
                low=float(ends.low[k]), high=float(ends.high[k]),
            )
            for k, metric in enumerate(values)
        ]

    def _write_grid(self, folder: Path) -> None:
        """What the figures need to know of the grid: its axis, what training covered, and some examples."""
        transform = self.grid.transform
        points = [{"label": p.label, "value": p.value, "covered": p.covered} for p in self.points]
        facts = {
            "grid": self.grid.name, "family": self.grid.family, "unit": transform.unit, "ordinal": transform.ordinal,
            "points": points,
        }
        write_text(folder / "grid.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
        side = self.sides[-1]
        _, first = np.unique(np.asarray(side.split.labels), return_index=True)
        chosen = np.sort(first[:EXAMPLES])
        x = torch.from_numpy(np.asarray(side.split.images[chosen])).float()
        images = [transform.apply(x, point.params).round().to(torch.uint8).numpy() for point in self.points]
        with atomic_path(folder / "examples.npz") as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, images=np.stack(images), labels=np.asarray(side.split.labels)[chosen])


def untrusted(interval: Interval, images: int) -> Interval:
    """No numbers over so many images: what a fit that diverged has to show."""
    nothing = np.full_like(interval.mean, math.nan)
    return Interval(nothing, nothing, nothing, np.full_like(interval.n_used, images))


def _text(value: object) -> str:
    return "" if value is None else str(value)
