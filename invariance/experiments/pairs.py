"""How far apart networks are (Sec. 5.3, 6.2, B.3): every ordered pair of a set, in units that survive interruptions.

A unit is one source network, a group of targets that fit into memory together, and one way of comparing: a solver,
whose maps to all these targets are one stacked fit, or the indices. Which units there are is planned once and written
down, so that a command given again after an interruption does exactly what is left. A pair is a run: its rows appear
when both of its directions are there.
"""

import hashlib
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor

from invariance.device import full_float32
from invariance.engine.store import Features, Store, images_of
from invariance.errors import UserError
from invariance.experiments.pair_rows import INDICES, Member, Pair, PairRows, Result, account, run_name
from invariance.experiments.pair_units import PLAN, Held, Results, Unit, part_of
from invariance.maps import FittedMaps, Ridge, require_room
from invariance.maps.spec import Fit
from invariance.measures import INDEX_NAMES
from invariance.measures.cka import linear_cka
from invariance.measures.distance import l2_distance_per_image
from invariance.measures.moments import cross_product
from invariance.measures.procrustes import procrustes_distance
from invariance.measures.r2 import Regression
from invariance.progress import bar
from invariance.runs.files import DONE, write_text
from invariance.runs.outputs import require_writable
from invariance.runs.rows import Row, to_frame
from invariance.runs.run import CONFIG, Run, read_config
from invariance.runs.summary import of_distances
from invariance.runs.sweep import removed
from invariance.runs.wandb import Tracker
from invariance.training.trained import Network

_CHUNK = 4096
_BYTES_OF_WEIGHT = {"online_sgd": 28, "ridge": 56, INDICES: 16}
"""Memory that a way of comparing takes for every weight of a map, at its peak."""

_GPU_SHARE = 0.8


def measure_distances(networks: Sequence[Network], fits: Sequence[Fit], config: dict[str, Any]) -> None:
    """Compare every pair of networks and write the rows of every pair that has none yet.

    Args:
        networks: two or more trained networks.
        fits: the maps and solvers.
        config: the configuration of `conf/distance.yaml`.

    Raises:
        UserError: for networks that cannot be compared, and for anything else the user can mend.
    """
    root = Path(config["prepared"]).expanduser()
    _one_data_set(networks)
    members = [Member(network, images_of(network, root, config["progress"])) for network in networks]
    for member in members:
        own = f"{member.network.config['name']}/seed{member.network.config['seed']}"
        if member.label != own:  # rows name networks as their training did
            raise UserError(
                f"{member.network.directory} holds the network {own}; a copied or renamed run cannot be compared: give "
                "it its own name back, or leave it out with networks=…"
            )
    _same_images(members)
    _Study(sorted(members, key=lambda member: member.label), fits, config).run()


def _one_data_set(networks: Sequence[Network]) -> None:
    """Refuse what cannot be compared before any data are opened."""
    if len(networks) < 2:
        names = "".join(f" ({network.name} alone)" for network in networks)
        raise UserError(f"a distance needs two finished networks or more{names}; choose them with networks=…")
    by_data: dict[str, list[str]] = {}
    for network in networks:
        by_data.setdefault(network.name.split("/", 1)[0], []).append(network.name)
    if len(by_data) > 1:
        told = ", ".join(f"{len(names)} of {data}" for data, names in by_data.items())
        raise UserError(
            f"networks of different data sets cannot be compared ({told}); choose one set, as "
            f"networks={next(iter(by_data))}"
        )


def _same_images(members: Sequence[Member]) -> None:
    """Refuse networks that do not see the same images, in the same order, of the same classes: by their manifests."""
    first = members[0]
    for member in members[1:]:
        for key, value in first.images.identity.items():
            other = member.images.identity[key]
            if other == value:
                continue
            told = f" ({value} and {other})" if key in ("data set", "fit split", "report split") else ""
            raise UserError(
                f"{first.network.name} and {member.network.name} cannot be compared: the {key} of their data "
                f"differ{told}; image by image they must be the same"
            )


class _Study:
    """The work on one set of networks.

    Args:
        members: the networks, sorted by label.
        fits: the maps and solvers.
        config: the configuration.
    """

    def __init__(self, members: list[Member], fits: Sequence[Fit], config: dict[str, Any]) -> None:
        self.members = {member.label: member for member in members}
        self.config = config
        chosen = config["metrics"]
        self.kinds: dict[str, Fit | None] = {fit.name: fit for fit in fits} if "l2_distance" in chosen else {}
        if INDICES in chosen:
            self.kinds[INDICES] = None
        first = members[0]
        self.runs, self.data = first.network.runs, first.network.name.split("/", 1)[0]
        self.device, self.layer = first.network.device, first.network.layer
        self.folder = self.runs / "distance" / self.data
        self.store = Store(Path(config["features"]).expanduser(), self.layer, int(config["batch"]))
        self.pairs = {
            (a.label, b.label): {kind: self._pair_run(a, b, kind) for kind in self.kinds}
            for a, b in combinations(members, 2)
        }
        self.features: dict[str, Features] = {}

    def _pair_run(self, a: Member, b: Member, kind: str) -> Run:
        fit = self.kinds[kind]
        images = json.dumps(a.images.identity, sort_keys=True)
        identity = {
            "networks": {member.label: member.network.weights for member in (a, b)},
            "data": {
                "name": a.images.prepared.name,
                "report": a.images.report_split,
                "images": hashlib.sha256(images.encode()).hexdigest(),
            },
            "layer": self.layer,
        }
        if fit is not None:
            identity["map"] = fit.map
            identity["solver"] = {"name": fit.solver, **(asdict(fit.settings) if fit.settings else {})}
        return Run(self.runs, run_name(a, b, kind), identity)

    def missing(self) -> list[tuple[str, str, str]]:
        """(kind, a, b) of every pair that has no rows yet."""
        return [(kind, a, b) for (a, b), runs in self.pairs.items() for kind, run in runs.items() if not run.done]

    def run(self) -> None:
        """Everything: features, fits, rows."""
        unfinished, new = self.folder / self._work_name(), self.missing()
        if new:
            self._compute()
        elif not unfinished.exists():
            print(f"finished already: {len(self.pairs)} pairs of {len(self.members)} networks in {self.folder}")
            return
        with Tracker(
            self.config["logger"],
            self.folder,
            name=f"{self.data}/{len(self.members)} networks",
            about={
                "stage": "distance",
                "data": self.data,
                "layer": self.layer,
                "networks": len(self.members),
                "solvers": [fit.solver for fit in self.kinds.values() if fit],
            },
            identity={"networks": list(self.members)},
        ) as tracker:
            for kind, a, b in new:
                tracker.record_in(self.pairs[a, b][kind])
            rows = pd.concat([run.rows() for runs in self.pairs.values() for run in runs.values()], ignore_index=True)
            tracker.table("rows", rows)
            report = next(iter(self.members.values())).images.report_split
            tracker.summarise(of_distances(rows, report))
        _remove(unfinished)
        self._remove_superseded()
        print(f"compared {len(self.members)} networks, {len(self.pairs)} pairs: {self.folder}")
        if held := sum(one.bytes for one in self.features.values()):
            print(f"their features are kept for further networks: {self.store.root} ({held / 1e9:.2g} GB)")

    def _compute(self) -> None:
        """Whatever is missing."""
        with bar(self.config["progress"]) as progress:
            self._extract(progress)  # before the run is entered: a mistake leaves no directory
        about = {"networks": list(self.members), "kinds": list(self.kinds), "memory_gb": self.config["memory_gb"]}
        work = Run(self.runs, f"distance/{self.data}/{self._work_name()}", about, progress=(PLAN,))
        with work, bar(self.config["progress"]) as progress:
            work.record({"device": str(self.device)})
            self.rows = PairRows(self.members, self.layer, self._counts())
            self._finish_flawed()
            results = Results(work.directory)
            units = self._plan(results)
            task = progress.add_task("pairs", total=sum(len(unit.targets) for unit in units))
            self._work_through(units, results, work, progress, lambda n: progress.advance(task, n))
            if left := self.missing():
                kind, a, b = left[0]
                raise UserError(
                    f"{len(left)} comparisons are not finished ({kind} of {a} and {b} the first): delete "
                    f"{work.directory} and repeat"
                )

    def _remove_superseded(self) -> None:
        """Remove what interrupted commands left whose pairs have all been finished by others since."""
        for left in self.folder.glob(f"unfinished-*/{CONFIG}"):
            about = read_config(left.parent)
            names = [str(label).replace("/", "-") for label in about.get("networks", ())]
            ends = [f"{a}+{b}/{kind}" for a, b in combinations(names, 2) for kind in about.get("kinds", ())]
            if all((self.folder / end / DONE).exists() for end in ends):
                _remove(left.parent)

    def _work_name(self) -> str:
        """Folder of unfinished work on exactly these networks with these settings; removed at the end."""
        identity = {
            "pairs": {run.name: run.identity for runs in self.pairs.values() for run in runs.values()},
            "memory_gb": self.config["memory_gb"],
        }
        return "unfinished-" + hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]

    def _extract(self, progress: Progress) -> None:
        """Features of every network, those that are kept and those that are not yet."""
        found = {label: self.store.find(one.network, one.images) for label, one in self.members.items()}
        absent = [label for label, features in found.items() if features is None]
        if absent:
            require_writable(self.store.root, "features")
        images = self.members[next(iter(self.members))].images
        count = len(images.fit_indices) + len(images.prepared.split(images.report_split))
        task = progress.add_task("φ", total=count * len(absent))
        for label, features in found.items():
            member = self.members[label]
            try:
                if features is None:
                    self._require_room(member)
                self.features[label] = features or self.store.make(member.network, member.images, progress, task)
            except UserError as error:
                raise UserError(f"{member.network.name}: {error}") from error
            member.network.forget()
        progress.remove_task(task)
        for label, features in self.features.items():
            if features.flaw:
                why = "the same for all fit images" if features.flaw == "constant" else "not all finite numbers"
                print(f"{label}: φ is {why}; the rows of its pairs say so and hold no number", file=sys.stderr)

    def _require_room(self, member: Member) -> None:
        """Refuse maps of a network's features that cannot fit into memory, before the features are computed."""
        fitted = [fit.settings for fit in self.kinds.values() if fit is not None and fit.settings is not None]
        dim = member.network.dim(member.images.prepared.channels) if fitted else 0
        for solver in fitted:
            require_room(solver, dim, dim, len(member.images.fit_indices), device=self.device)

    def _make_again(self, label: str, progress: Progress) -> Features:
        """Features of a network whose own were found damaged in the middle of the work."""
        member, features = self.members[label], self.features[label]
        task = progress.add_task("φ", total=features.n_fit + features.n_report)
        try:
            return self.store.make(member.network, member.images, progress, task)
        finally:
            member.network.forget()
            progress.remove_task(task)

    def _plan(self, results: Results) -> list[Unit]:
        """What is to be computed, in order; what was planned before an interruption is what is done after it."""
        if (planned := results.plan()) is not None:
            return planned
        missing = set(self.missing())
        units = [
            Unit(kind, source, targets)
            for group in self._groups()
            for source in self.members
            for kind in self.kinds
            if (targets := tuple(t for t in group if (kind, *sorted((source, t))) in missing))
        ]
        results.write_plan(units)
        return units

    def _groups(self) -> Iterator[list[str]]:
        """Targets that are held in memory together: all of one D, as many as the bound allows, and at least one."""
        by_dim: dict[int, list[str]] = {}
        for label, features in self.features.items():
            if not features.flaw:
                by_dim.setdefault(features.dim, []).append(label)
        for dim, labels in sorted(by_dim.items()):
            size = group_size(
                dim,
                max(by_dim),
                *self._counts(),
                fits=[fit for fit in self.kinds.values() if fit],
                memory=float(self.config["memory_gb"]) * 1e9,
                device=self.device,
            )
            yield from (labels[start : start + size] for start in range(0, len(labels), size))

    def _counts(self) -> tuple[int, int]:
        features = next(iter(self.features.values()))
        return features.n_fit, features.n_report

    def _work_through(
        self, units: list[Unit], results: Results, work: Run, progress: Progress, advance: Callable[[int], None]
    ) -> None:
        """Compute what no file holds yet; write the rows of a pair as soon as both of its directions are there."""
        place = {(unit.kind, unit.source, target): k for k, unit in enumerate(units) for target in unit.targets}
        held = Held(self.features, self.device, lambda label: self._make_again(label, progress))
        for k, unit in enumerate(units):
            result = results.read(unit)
            if result is None:
                held.keep({unit.source, *unit.targets})
                fit = self.kinds[unit.kind]
                result = self._indices(unit, held) if fit is None else self._fit(unit, fit, held, progress)
                work.require_here()
                results.write(unit, result)
            advance(len(unit.targets))
            work.note(k + 1, len(units), "units")
            ready = [target for target in unit.targets if place[unit.kind, target, unit.source] < k]
            if any(not self._run_of(unit.kind, unit.source, target).done for target in ready):
                back = {t: place[unit.kind, t, unit.source] for t in ready}
                other = {t: part_of(results.read(units[j]), units[j], unit.source) for t, j in back.items()}
                self._finish(unit, {t: (part_of(result, unit, t), other[t]) for t in ready})

    def _run_of(self, kind: str, one: str, other: str) -> Run:
        a, b = sorted((one, other))
        return self.pairs[a, b][kind]

    def _fit(self, unit: Unit, fit: Fit, held: Held, progress: Progress) -> Result:
        """E of one source to all targets of a unit in one stacked fit, and L_L2 of every image."""
        from invariance.engine.fit import fit_maps  # Lightning, which a finished set need not wait for

        fitted = fit_maps(
            [held.fit(unit.source)],
            [held.fit(target) for target in unit.targets],
            fit.map,
            fit.settings,
            device=self.device,
            progress=progress if self.config["progress"] else False,
        )
        result: Result = {
            "status": np.array(list(fitted.status)),
            "error": fitted.error.numpy(),
            "reference": fitted.reference.numpy(),
            "strength": np.array(list(fitted.strength) or [math.nan] * len(fitted)),
        }
        for side in ("fit", "report"):
            r = held.side(unit.source, side)
            result[side] = np.stack(
                [
                    self._distances(fitted, k, r, held.side(target, side), self.features[target].alive)
                    for k, target in enumerate(unit.targets)
                ]
            )
        return result

    def _distances(self, fitted: FittedMaps, k: int, r: Tensor, wanted: Tensor, alive: Tensor) -> NDArray[np.float32]:
        """‖E φ_i(x) − φ_j(x)‖ / ‖φ_j(x)‖ of every image, (n,)."""
        module, parts = fitted.module(k).to(self.device), []
        scale = alive.double().to(self.device)  # the features are normalised; what is left is which units count
        with torch.no_grad(), full_float32(self.device):
            for part, target in zip(torch.split(r, _CHUNK), torch.split(wanted, _CHUNK), strict=True):
                back = module(part.to(self.device))
                parts.append(l2_distance_per_image(back, target.to(self.device), scale).float().cpu())
        return torch.cat(parts).numpy()

    def _indices(self, unit: Unit, held: Held) -> Result:
        """The indices of one source with every target over the report images; the symmetric ones in one direction."""
        result: Result = {name: np.full(len(unit.targets), math.nan) for name in INDEX_NAMES}
        x, own = held.side(unit.source, "report").to(self.device), held.about_mean(unit.source)
        regression = Regression(x)
        for k, target in enumerate(unit.targets):
            cross, other = cross_product(x, held.side(target, "report").to(self.device)), held.about_mean(target)
            result["r2"][k] = regression.r2(other, cross)
            if unit.source < target:
                result["cka"][k] = linear_cka(own, other, cross)
                result["procrustes"][k] = procrustes_distance(own, other, cross)
        return result

    def _finish(self, unit: Unit, both: dict[str, tuple[Result, Result]]) -> None:
        """Write the rows of every pair of which this unit was the second direction.

        All of them are resampled together, those too that were written before an interruption.
        """
        computed: dict[Pair, tuple[Result, Result]] = {}
        for target, (there, back) in both.items():
            if unit.source < target:
                computed[unit.source, target] = there, back
            else:
                computed[target, unit.source] = back, there
        fit = self.kinds[unit.kind]
        rows = self.rows.of_indices(computed) if fit is None else self.rows.of_fit(fit, computed)
        for pair, of_pair in rows.items():
            if not self.pairs[pair][unit.kind].done:
                self._write(pair, unit.kind, of_pair, "" if fit is None else account(pair, computed[pair]))

    def _finish_flawed(self) -> None:
        """Write the rows of the pairs of which nothing can be said."""
        for kind, a, b in self.missing():
            flaw = self.features[a].flaw or self.features[b].flaw
            if flaw:
                self._write((a, b), kind, self.rows.of_flawed((a, b), self.kinds[kind], flaw))

    def _write(self, pair: Pair, kind: str, rows: list[Row], fits: str = "") -> None:
        """Finish the run of a pair."""
        with self.pairs[pair][kind] as run:
            if run.done:  # by a command on other networks, meanwhile
                return
            self._record(run, pair)
            if fits:
                write_text(run.directory / "fits.csv", fits)
            run.finish(to_frame(rows))

    def _record(self, run: Run, pair: Pair) -> None:
        networks = [self.members[label].network for label in pair]
        run.record(
            {
                "device": str(self.device),
                "upstream": {network.directory.as_posix(): network.weights for network in networks},
                "dimensions": {label: self.features[label].dim for label in pair},
                "dead": {label: int((~self.features[label].alive).sum()) for label in pair},
            }
        )


def group_size(
    dim: int, largest: int, n_fit: int, n_report: int, *, fits: Sequence[Fit], memory: float, device: torch.device
) -> int:
    """How many targets of D dimensions fit into memory together, and at least one.

    Args:
        dim: D of the targets.
        largest: D of the largest source.
        n_fit: fit images.
        n_report: report images.
        fits: what is fitted.
        memory: bound in bytes on features and maps in host memory.
        device: where fits run; on a GPU its free memory bounds the group too.
    """
    weights = largest * dim * max((_BYTES_OF_WEIGHT[fit.solver] for fit in fits), default=_BYTES_OF_WEIGHT[INDICES])
    held_out = max((fit.settings.held_out for fit in fits if isinstance(fit.settings, Ridge)), default=0.0)
    of_target = 4 * dim * (n_fit * (1 + 2 * held_out) + n_report) + weights
    of_source = 4 * largest * (n_fit * (1 + 2 * held_out) + n_report) + 40 * largest * largest
    size = (memory - of_source) // of_target
    if device.type == "cuda":
        free = _GPU_SHARE * torch.cuda.mem_get_info(device)[0]
        size = min(size, (free - of_source) // of_target)
    return max(1, int(size))


def _remove(folder: Path) -> None:
    """Remove a folder of unfinished work; the plan first, so that what a kill leaves of it is no work."""
    (folder / PLAN).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    removed(folder)
