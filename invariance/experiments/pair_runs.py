"""Where comparisons of networks are kept: a run for every pair and way of comparing, and what is not finished yet.

What a unit came to stands in a folder of unfinished work, so that a command given again after an interruption does
exactly what is left. The rows of a pair appear when both of its directions are there.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
from rich.progress import Progress

from invariance.engine.comparing import INDICES, PairUnit, Result, part_of, units_of
from invariance.engine.pair_rows import Pair, PairRows, account
from invariance.engine.pair_units import PLAN, UnitResults
from invariance.errors import UserError
from invariance.experiments.pair_features import Member, Stored
from invariance.maps.spec import MapSpec
from invariance.measures import Measure
from invariance.runs.files import DONE, write_text
from invariance.runs.rows import Row, to_frame
from invariance.runs.run import CONFIG, Run, read_config
from invariance.runs.sweep import removed


class PairRuns:
    """The runs of all pairs of a set of networks.

    Args:
        members: the networks, sorted by label.
        fits: the maps and solvers.
        indices: the measures that need no fit.
        config: the configuration of `conf/distance.yaml`.

    Attributes:
        members: the networks by label.
        fits: the maps and solvers.
        indices: the measures that need no fit.
        kinds: the ways of comparing, as runs are named: a fit's name, or `INDICES`.
        data: name of the data set.
        folder: the folder of all pairs.
        memory: bound in bytes on features and maps in host memory.
        unfinished: folder of unfinished work on exactly these networks with these settings; removed at the end.
    """

    def __init__(
        self, members: Sequence[Member], fits: Sequence[MapSpec], indices: Sequence[Measure], config: Mapping[str, Any]
    ) -> None:
        self.members = {member.label: member for member in members}
        self.fits, self.indices = {fit.name: fit for fit in fits}, indices
        self.kinds = [*self.fits, *([INDICES] if indices else [])]
        first = members[0]
        self.data = first.network.name.split("/", 1)[0]
        self._root = first.network.runs
        self.folder = self._root / "distance" / self.data
        self.memory = float(config["memory_gb"]) * 1e9
        self._runs: dict[Pair, dict[str, Run]] = {
            (a.label, b.label): {kind: self._run(a, b, kind) for kind in self.kinds}
            for a, b in combinations(members, 2)
        }
        self._memory_gb = config["memory_gb"]
        self.unfinished = self.folder / self._work_name()

    def __len__(self) -> int:
        return len(self._runs)

    def _run(self, a: Member, b: Member, kind: str) -> Run:
        images = json.dumps(a.images.identity, sort_keys=True)
        identity = {
            "networks": {member.label: member.network.weights for member in (a, b)},
            "data": {
                "name": a.images.prepared.name,
                "report": a.images.report_split,
                "images": hashlib.sha256(images.encode()).hexdigest(),
            },
            "layer": a.network.layer,
        }
        if kind in self.fits:
            fit = self.fits[kind]
            identity["map"] = fit.map
            identity["solver"] = {"name": fit.solver, **(asdict(fit.settings) if fit.settings else {})}
        return Run(self._root, self._name((a.label, b.label), kind), identity)

    def _name(self, pair: Pair, kind: str) -> str:
        """Name of the run that holds a pair's rows of one kind."""
        a, b = (self.members[label].slug for label in pair)
        return f"distance/{self.data}/{a}+{b}/{kind}"

    def _work_name(self) -> str:
        identity = {
            "pairs": {run.name: run.identity for runs in self._runs.values() for run in runs.values()},
            "memory_gb": self._memory_gb,
        }
        return "unfinished-" + hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]

    def of(self, kind: str, one: str, other: str) -> Run:
        """The run of a pair, its networks in either order."""
        a, b = sorted((one, other))
        return self._runs[a, b][kind]

    def missing(self) -> list[tuple[str, str, str]]:
        """(kind, a, b) of every pair that has no rows yet."""
        return [(kind, a, b) for (a, b), runs in self._runs.items() for kind, run in runs.items() if not run.done]

    def work(self) -> Run:
        """The run of unfinished work."""
        about = {"networks": list(self.members), "kinds": self.kinds, "memory_gb": self._memory_gb}
        return Run(self._root, f"distance/{self.data}/{self.unfinished.name}", about, progress=(PLAN,))

    def makes_rows(self, counts: tuple[int, int]) -> PairRows:
        """What makes their rows, of so many fit and report images."""
        images = next(iter(self.members.values())).images
        named = {label: member.named for label, member in self.members.items()}
        return PairRows(named, (images.fit_split, images.report_split), counts, self.indices, self._name)

    def rows(self) -> pd.DataFrame:
        """The rows of all pairs, all finished."""
        return pd.concat([run.rows() for runs in self._runs.values() for run in runs.values()], ignore_index=True)

    def tidy(self) -> None:
        """Remove the unfinished work, and what interrupted commands left whose pairs others have finished since."""
        _remove(self.unfinished)
        for left in self.folder.glob(f"unfinished-*/{CONFIG}"):
            about = read_config(left.parent)
            names = [str(label).replace("/", "-") for label in about.get("networks", ())]
            ends = [f"{a}+{b}/{kind}" for a, b in combinations(names, 2) for kind in about.get("kinds", ())]
            if all((self.folder / end / DONE).exists() for end in ends):
                _remove(left.parent)


@contextmanager
def recording(pairs: PairRuns, sources: Mapping[str, Stored], progress: Progress) -> Iterator["PairRecorder"]:
    """The recorder of these pairs, while it has their unfinished work to itself.

    Args:
        pairs: the runs.
        sources: the networks' features, by label.
        progress: where a bar shows how far the work is.

    Raises:
        UserError: if another process is at the same work.
    """
    with pairs.work() as work:
        work.record({"device": str(next(iter(pairs.members.values())).network.device)})
        yield PairRecorder(pairs, sources, work, progress)


class PairRecorder:
    """Keeps what units came to, and writes the rows of a pair as soon as both of its directions are there.

    Args:
        pairs: the runs.
        sources: the networks' features, by label.
        work: the run of unfinished work, entered.
        progress: where a bar shows how far the work is.
    """

    def __init__(self, pairs: PairRuns, sources: Mapping[str, Stored], work: Run, progress: Progress) -> None:
        self._pairs, self._sources, self._work, self._progress = pairs, sources, work, progress
        first = next(iter(sources.values()))
        self._device = next(iter(pairs.members.values())).network.device
        self._rows = pairs.makes_rows((first.n_fit, first.n_report))
        self._results = UnitResults(work.directory)
        self._units: list[PairUnit] = []
        self._place: dict[tuple[str, str, str], int] = {}
        self._latest: Result | None = None

    def plan(self) -> list[PairUnit]:
        """What is to be computed, in order; what was planned before an interruption is what is done after it."""
        planned = self._results.plan()
        if planned is None:
            missing = set(self._pairs.missing())
            planned = units_of(
                self._sources,
                list(self._pairs.fits.values()),
                bool(self._pairs.indices),
                memory=self._pairs.memory,
                device=self._device,
                wanted=lambda kind, source, target: (kind, *sorted((source, target))) in missing,
            )
            self._results.write_plan(planned)
        self._units = planned
        self._place = {(unit.kind, unit.source, target): k for k, unit in enumerate(planned) for target in unit.targets}
        self._task = self._progress.add_task("pairs", total=len(self._place))
        return planned

    def has(self, group: PairUnit) -> bool:
        """Whether a file holds what a unit came to; it then is at hand."""
        self._latest = self._results.read(group)
        return self._latest is not None

    def add(self, group: PairUnit, result: Result) -> None:
        """Write what a unit came to."""
        self._work.require_here()
        self._results.write(group, result)
        self._latest = result

    def note(self, done: int, of: int) -> None:
        """Say how far the work is, on the bar and to those who watch."""
        self._progress.advance(self._task, len(self._units[done - 1].targets))
        self._work.note(done, of, "units")

    def finish(self, unit: PairUnit) -> None:
        """Write the rows of every pair of which this unit, the latest, was the second direction.

        All of them are resampled together, those too that were written before an interruption.
        """
        k = self._place[unit.kind, unit.source, unit.targets[0]]
        back = {target: self._place[unit.kind, target, unit.source] for target in unit.targets}
        ready = [target for target, place in back.items() if place < k]
        if all(self._pairs.of(unit.kind, unit.source, target).done for target in ready):
            return
        computed: dict[Pair, tuple[Result, Result]] = {}
        for target in ready:
            there = self._part(self._latest, unit, target)
            other = self._units[back[target]]
            both = there, self._part(self._results.read(other), other, unit.source)
            if unit.source < target:
                computed[unit.source, target] = both
            else:
                computed[target, unit.source] = both[::-1]
        fit = self._pairs.fits.get(unit.kind)
        rows = self._rows.of_indices(computed) if fit is None else self._rows.of_fit(fit, computed)
        for pair, of_pair in rows.items():
            if not self._pairs.of(unit.kind, *pair).done:
                self._write(pair, unit.kind, of_pair, "" if fit is None else account(pair, computed[pair]))

    def _part(self, result: Result | None, unit: PairUnit, target: str) -> Result:
        """One target's part of what a unit came to, which may have been damaged since."""
        if result is None:
            raise UserError(f"what was computed of {unit.source} is damaged; repeat the command")
        return part_of(result, unit, target)

    def finish_flawed(self) -> None:
        """Write the rows of the pairs of which nothing can be said."""
        for kind, a, b in self._pairs.missing():
            if flaw := self._sources[a].flaw or self._sources[b].flaw:
                self._write((a, b), kind, self._rows.of_flawed((a, b), self._pairs.fits.get(kind), flaw))

    def require_all(self) -> None:
        """Look whether every pair has its rows.

        Raises:
            UserError: if one has none, as of a plan that others have damaged.
        """
        if left := self._pairs.missing():
            kind, a, b = left[0]
            raise UserError(
                f"{len(left)} comparisons are not finished ({kind} of {a} and {b} the first): delete "
                f"{self._work.directory} and repeat"
            )

    def _write(self, pair: Pair, kind: str, rows: list[Row], fits: str = "") -> None:
        """Finish the run of a pair."""
        with self._pairs.of(kind, *pair) as run:
            if run.done:  # by a command on other networks, meanwhile
                return
            networks = [self._pairs.members[label].network for label in pair]
            run.record(
                {
                    "device": str(self._device),
                    "upstream": {network.directory.as_posix(): network.weights for network in networks},
                    "dimensions": {label: self._sources[label].dim for label in pair},
                    "dead": {label: int((~self._sources[label].alive).sum()) for label in pair},
                }
            )
            if fits:
                write_text(run.directory / "fits.csv", fits)
            run.finish(to_frame(rows))


def _remove(folder: Path) -> None:
    """Remove a folder of unfinished work; the plan first, so that what a kill leaves of it is no work."""
    (folder / PLAN).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    removed(folder)
