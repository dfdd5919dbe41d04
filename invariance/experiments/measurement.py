"""One network over one grid: features, maps, scores, rows (Sec. 5.2), in groups that survive an interruption."""

import hashlib
import math
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.progress import Progress
from torch import Tensor, nn

from invariance.data.prepared import Prepared, Split
from invariance.device import full_float32
from invariance.engine.grids import Grid
from invariance.engine.stream import extract
from invariance.maps import FittedMaps, require_room
from invariance.maps.spec import Fit
from invariance.measures import MEASURES
from invariance.measures.distance import l2_distance_per_image, rms
from invariance.measures.error import errors_per_image
from invariance.progress import bar
from invariance.runs.checked import write_facts
from invariance.runs.files import DONE, atomic_path, write_text
from invariance.runs.parts import Parts
from invariance.runs.rows import Row, to_frame
from invariance.runs.run import Run
from invariance.runs.seal import rows_of
from invariance.runs.summary import of_measurement, way
from invariance.runs.wandb import Tracker
from invariance.training.trained import Network
from invariance.transforms.base import UNTOUCHED, GridPoint, Transform
from invariance.transforms.near import near_copies, told

EXAMPLES = 4
FITS = "g,status,error,reference,strength\n"
"""Columns of `fits.csv`: mean squared error over the fit images, the identity's, and the strength ridge chose."""

_CHUNK = 2048
_GPU_SHARE = 0.8


@dataclass(frozen=True)
class _Side:
    """A split as one measurement sees it: which images, and φ(x) of them."""

    name: str
    split: Split
    indices: np.ndarray
    reference: Tensor
    labels: Tensor


def measure_grid(
    network: Network,
    grid: Grid,
    fits: list[Fit],
    config: dict[str, Any],
    stage: str = "measure",
    before: Network | None = None,
) -> None:
    """Measure one network over one grid and write the rows of every fit that has none yet.

    Args:
        network: the trained network.
        grid: the transformations.
        fits: the maps and solvers.
        config: the configuration: metrics, batch, memory_gb, prepared, logger and progress of `conf/measure.yaml`.
        stage: what the measurement is a part of: "measure" or "finetune".
        before: the network that this one was finetuned from, measured already, for W&B to show beside it.

    Raises:
        UserError: for anything the user can mend.
    """
    folder = network.runs / stage / network.place / grid.name
    size = grid.transform.source_size(network.input_size)
    prepared = network.data(size, Path(config["prepared"]).expanduser(), config["progress"])
    runs = {fit: _open(network, grid, fit, prepared, config, stage) for fit in fits}
    todo = {fit: run for fit, run in runs.items() if not run.done}
    if not todo:
        print(f"finished already: {folder}")
        return
    _require_room(network, prepared, list(todo))
    with ExitStack() as held:
        for run in todo.values():
            held.enter_context(run)
        todo = {fit: run for fit, run in todo.items() if not run.done}  # some by another process, meanwhile
        if not todo:
            print(f"finished already: {folder}")
            return
        for run in todo.values():
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
        if near := told(near_copies(grid.transform, network.input_size), grid.name, network.input_size):
            print(near, flush=True)
        with bar(config["progress"]) as progress:
            _Measurement(network, grid, prepared, config, progress, stage).run(todo, folder)
        _show(network, grid, runs, todo, prepared, config, stage, before)
    print(f"measured {network.place} over {len(grid.transform.grid())} g of {grid.name}: {folder}")


def _require_room(network: Network, prepared: Prepared, fits: list[Fit]) -> None:
    """Refuse maps that cannot fit into memory, before any features are computed."""
    fitted = [fit.settings for fit in fits if fit.settings is not None]
    dim = network.dim(prepared.channels) if fitted else 0
    for solver in fitted:
        images = len(prepared.fit_indices(network.settings["fit"]))
        require_room(solver, dim, dim, images, device=network.device)


def _show(
    network: Network,
    grid: Grid,
    runs: dict[Fit, Run],
    new: dict[Fit, Run],
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
        "maps": list(dict.fromkeys(fit.map for fit in runs)),
        "solvers": list(dict.fromkeys(fit.solver for fit in runs if fit.solver)),
    }
    if stage == "finetune":
        about, name = {**about, "phase": phase}, f"{name} {phase}"
    covered = {point.label: grid.covered(point) for point in grid.transform.grid()}
    identity = {fit.name: run.identity for fit, run in runs.items()}
    with Tracker(
        config["logger"], network.runs / stage / network.place / grid.name, name=name, about=about, identity=identity
    ) as tracker:
        for run in new.values():
            tracker.record_in(run)
        rows = {way(fit): run.rows() for fit, run in runs.items()}
        tracker.table("rows", pd.concat(rows.values(), ignore_index=True))
        prefix = f"{stage}/{phase}" if stage == "finetune" else stage
        tracker.summarise(of_measurement(rows, covered, prepared.report, prefix))
        if before is not None:
            folder = network.runs / stage / before.name / grid.name
            found = {way(fit): folder / fit.name for fit in runs if (folder / fit.name / DONE).exists()}
            old = {name: rows_of(path) for name, path in found.items()}
            tracker.summarise(of_measurement(old, covered, prepared.report, f"{stage}/before"))


def _open(network: Network, grid: Grid, fit: Fit, prepared: Prepared, config: dict[str, Any], stage: str) -> Run:
    identity = {
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
        "map": fit.map,
        "solver": {"name": fit.solver, **(asdict(fit.settings) if fit.settings else {})},
    }
    return Run(network.runs, f"{stage}/{network.place}/{grid.name}/{fit.name}", identity)


class _Measurement:
    """The work of `measure_grid`: everything that its fits share."""

    def __init__(
        self, network: Network, grid: Grid, prepared: Prepared, config: dict[str, Any], progress: Progress, stage: str
    ) -> None:
        self.network, self.grid, self.prepared, self.config = network, grid, prepared, config
        self.points, self.stage = grid.transform.grid(), stage
        self.progress, self.home, self.room = progress, torch.device("cpu"), math.inf
        fit = network.settings["fit"]
        fit_name, report = prepared.fit_split(fit), prepared.split(prepared.report)
        chosen = [
            (fit_name, prepared.split(fit_name), prepared.fit_indices(fit)),
            (prepared.report, report, np.arange(len(report))),
        ]
        self.task = progress.add_task("φ", total=sum(len(i) for _, _, i in chosen) * len(self.points))
        untouched = next(point for point in self.points if point.label == UNTOUCHED)
        self.sides = [
            _Side(
                name,
                split,
                indices,
                self._features(split, indices, untouched),
                torch.from_numpy(np.asarray(split.labels[indices])),
            )
            for name, split, indices in chosen
        ]
        self.scale = rms(self.sides[0].reference)
        self._settle()

    def _settle(self) -> None:
        """Keep all features on the GPU if it holds those of one g beside φ(x): nothing is copied again for any fit."""
        device = self.network.device
        room = _GPU_SHARE * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0.0
        if self._fitting(room) < 1:
            return
        self.home, self.room, self.scale = device, room, self.scale.to(device)
        self.sides = [replace(side, reference=side.reference.to(device)) for side in self.sides]

    def _features(self, split: Split, indices: np.ndarray, point: GridPoint) -> Tensor:
        return extract(
            self.network.phi,
            self.network.classifier.normalise,
            split.images,
            indices,
            self.grid.transform,
            point.params,
            device=self.network.device,
            batch=int(self.config["batch"]),
            advance=lambda n: self.progress.advance(self.task, n),
            home=self.home,
        )

    def group_size(self) -> int:
        """How many g are held and fitted together: as many as the memory bound allows beside φ(x), and at least one."""
        return max(1, min(len(self.points), self._fitting(min(self.config["memory_gb"] * 1e9, self.room))))

    def _fitting(self, memory: float) -> int:
        """How many g fit into so many bytes beside φ(x)."""
        dim = self.scale.numel()
        features = 4 * dim * sum(len(side.indices) for side in self.sides)
        map_and_solver = 32 * dim * dim  # the hungriest: an mlp's two layers, their gradients and momentum
        return int((memory - features) // (features + map_and_solver))

    def run(self, todo: dict[Fit, Run], folder: Path) -> None:
        """Measure all points in groups; a finished group of a fit is a file, and is not measured again."""
        for one in todo.values():
            one.require_here()
        self._write_grid(folder)
        size = self.group_size()
        groups = [self.points[i : i + size] for i in range(0, len(self.points), size)]
        labels = [[point.label for point in group] for group in groups]
        parts = {fit: Parts(run, size) for fit, run in todo.items()}
        for k, group in enumerate(groups):
            for run in todo.values():
                run.note(min(k * size, len(self.points)), len(self.points), "g")
            missing = [fit for fit in todo if parts[fit].read(k, labels[k]) is None]
            if not missing:
                skipped = sum(point.label != UNTOUCHED for point in group)
                self.progress.advance(self.task, skipped * sum(len(side.indices) for side in self.sides))
                continue
            features = [[self._under(side, point) for point in group] for side in self.sides]
            for fit in missing:
                fitted = self._fit(fit, group, features[0])
                rows = to_frame(self._rows(fit, todo[fit], group, features, fitted))
                todo[fit].require_here()
                parts[fit].write(k, labels[k], rows, "" if fitted is None else _account(group, fitted))
            del features
        for fit, run in todo.items():
            run.require_here()
            whole = parts[fit].all(labels)
            if fit.settings is not None:
                write_text(run.directory / "fits.csv", FITS + "".join(account for _, account in whole))
            run.finish(pd.concat([rows for rows, _ in whole], ignore_index=True))
            parts[fit].remove()

    def _under(self, side: _Side, point: GridPoint) -> Tensor:
        """φ(gx) of a side; of the untouched it is there already."""
        return side.reference if point.label == UNTOUCHED else self._features(side.split, side.indices, point)

    def _fit(self, fit: Fit, group: list[GridPoint], features: list[Tensor]) -> FittedMaps | None:
        """The maps of a group, fitted together; None for the identity."""
        if fit.learned is not None:
            return fit.learned.maps([point.label for point in group])
        if fit.settings is None:
            return None
        from invariance.engine.fit import fit_maps  # Lightning, which a finished measurement need not wait for

        return fit_maps(
            features,
            self.sides[0].reference,
            fit.map,
            fit.settings,
            device=self.network.device,
            progress=self.progress if self.config["progress"] else False,
        )

    def _rows(
        self, fit: Fit, run: Run, group: list[GridPoint], features: list[list[Tensor]], fitted: FittedMaps | None
    ) -> list[Row]:
        """L_err and L_L2 of M_g φ(gx) for every g of a group over both splits, with intervals over images."""
        rows = []
        for side, of_side in zip(self.sides, features, strict=True):
            values = [
                self._score(side, r, nn.Identity() if fitted is None else fitted.module(j))
                for j, r in enumerate(of_side)
            ]
            ends = {
                metric: MEASURES[metric].interval(torch.stack([one[place] for one in values]))
                for place, metric in enumerate(self.config["metrics"])
            }
            for (j, point), metric in product(enumerate(group), self.config["metrics"]):
                status, of_g = "ok" if fitted is None else fitted.status[j], ends[metric]
                if status == "ok" and not math.isfinite(of_g.mean[j]):
                    status = "not_finite"
                trusted = status == "ok"
                rows.append(
                    Row(
                        **self._common(fit, run, point, side),
                        metric=metric,
                        status=status,
                        n_images=int(of_g.n_used[j]) if trusted else len(side.indices),
                        score=float(of_g.mean[j]) if trusted else math.nan,
                        low=float(of_g.low[j]) if trusted else math.nan,
                        high=float(of_g.high[j]) if trusted else math.nan,
                    )
                )
        return rows

    def _common(self, fit: Fit, run: Run, point: GridPoint, side: _Side) -> dict[str, Any]:
        """What the rows of one g say alike."""
        trained = self.network.config
        return {
            "stage": self.stage,
            "data": self.network.measured_on,
            "network": trained["name"],
            "family": trained["transform"]["name"],
            "range": _text(trained["transform"].get("range")),
            "seed": trained["seed"],
            "layer": self.network.layer,
            "g": f"{self.grid.name}:{point.label}",
            "value": point.value,
            "unit": self.grid.transform.unit,
            "split": side.name,
            "map": fit.map,
            "solver": fit.label,
            "run": run.name,
        }

    @torch.no_grad()
    def _score(self, side: _Side, r: Tensor, back_to: nn.Module) -> list[Tensor]:
        """Each metric of every image, (n,) on the CPU, in the order of the configuration."""
        device = self.network.device
        back_to, scale = back_to.to(device), self.scale.to(device)
        values: dict[str, list[Tensor]] = {metric: [] for metric in self.config["metrics"]}
        answered = False
        for start in range(0, len(r), _CHUNK):
            span = slice(start, start + _CHUNK)
            with full_float32(device):
                back = back_to(r[span].to(device))
            if "error_rate" in values:
                logits = self.network.phi.classify(back).cpu()
                answered |= bool(logits.isfinite().all(1).any())
                values["error_rate"].append(errors_per_image(logits, side.labels[span]))
            if "l2_distance" in values:
                wanted = side.reference[span].to(device)
                values["l2_distance"].append(l2_distance_per_image(back, wanted, scale).cpu())
        if "error_rate" in values and not answered:  # what gives no number for any image is not wrong, but broken
            values["error_rate"] = [torch.full((len(r),), torch.nan)]
        return [torch.cat(parts) for parts in values.values()]

    def _write_grid(self, folder: Path) -> None:
        """What the figures need to know of the grid: its axis, what training covered, and some examples."""
        transform = self.grid.transform
        facts = {
            "grid": self.grid.name,
            "family": self.grid.family,
            "unit": transform.unit,
            "ordinal": transform.ordinal,
            "points": [
                {"label": p.label, "value": p.value, "covered": self.grid.covered(p), "params": _hash(transform, p)}
                for p in self.points
            ],
        }
        write_facts(folder / "grid.json", facts)
        side = self.sides[-1]
        _, first = np.unique(np.asarray(side.split.labels), return_index=True)
        chosen = np.sort(first[:EXAMPLES]) if self.prepared.classes else np.arange(min(EXAMPLES, len(side.split)))
        x = torch.from_numpy(np.asarray(side.split.images[chosen])).float()
        images = [transform.apply(x, point.params).round().to(torch.uint8).numpy() for point in self.points]
        with atomic_path(folder / "examples.npz") as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, images=np.stack(images), labels=np.asarray(side.split.labels)[chosen])


def _account(group: list[GridPoint], fitted: FittedMaps) -> str:
    """How the fits of a group ended: lines of `fits.csv`."""
    strengths = [f"{one:g}" for one in fitted.strength] or [""] * len(group)
    return "".join(
        f"{point.label},{fitted.status[j]},{fitted.error[j]:.9g},{fitted.reference[j]:.9g},{strengths[j]}\n"
        for j, point in enumerate(group)
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
