"""Where runs stand, for those who watch: read from run directories alone, on whatever machine they are worked at."""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from invariance.errors import UserError
from invariance.runs.files import DONE
from invariance.runs.find import Unseen, Walk, locked_file, walk
from invariance.runs.locks import holder
from invariance.runs.run import LOCK, PROGRESS, PROVENANCE
from invariance.runs.seal import read_marker
from invariance.runs.sweep import ATTEMPTS, JOBS, SWEEPS, SweepState


@dataclass(frozen=True)
class RunState:
    """Where a run stands.

    Attributes:
        name: path below the runs folder.
        state: "done", "running", or "stopped": begun, and nobody works at it.
        where: who works at it.
        done: how much is done, in units; 0 where it does not say.
        of: how much there is; 0 where it does not say.
        unit: what is counted.
        rate: units a second, of the process that works at it; 0 where it does not say yet.
    """

    name: str
    state: str
    where: str = ""
    done: int = 0
    of: int = 0
    unit: str = ""
    rate: float = 0.0

    @property
    def stage(self) -> str:
        """The command that makes it."""
        return self.name.split("/", 1)[0]

    @property
    def data(self) -> str:
        """The data set."""
        return [*self.name.split("/"), ""][1]

    @property
    def seconds_left(self) -> float | None:
        """Seconds to its end at its pace, or None."""
        return (self.of - self.done) / self.rate if self.rate > 0 and self.of >= self.done else None


def read_runs(runs: Path, found: Walk | None = None) -> list[RunState]:
    """Every run below a folder. Nothing is written, and no clock of a file is looked at.

    Args:
        runs: the folder.
        found: what is below it, where that is known.
    """
    # another program may keep configurations here too; only a run has its provenance beside its own
    return [_state(path, runs) for path in (found or walk(runs)).runs if os.path.exists(path / PROVENANCE)]


def unverified(found: Walk) -> tuple[list[Path], list[Unseen]]:
    """The finished runs whose marker is of before seals, and the markers that are damaged."""
    without, damaged = [], []
    for path in found.runs:
        if not os.path.exists(path / DONE) or not os.path.exists(path / PROVENANCE):
            continue
        try:
            if read_marker(path).get("seal") is None:
                without.append(path)
        except UserError:
            damaged.append(locked_file(path, [DONE]) or Unseen(path / DONE, "damaged"))
    return without, damaged


def unseen_sweeps(runs: Path) -> list[Unseen]:
    """The parts of a runs folder's list of sweeps that cannot be read or are damaged, so that their jobs lack."""
    unseen: list[Unseen] = []

    def inside(folder: Path) -> list[Path]:
        """What is in a folder that may vanish meanwhile."""
        try:
            return sorted(folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            unseen.append(Unseen(folder, (error.strerror or "it cannot be read").lower()))
            return []

    for sweep in (sweep for page in inside(runs / SWEEPS) for sweep in inside(page)):
        with suppress(FileNotFoundError, NotADirectoryError):
            try:
                jobs = json.loads((sweep / JOBS).read_text(encoding="utf-8"))["jobs"]
                if not isinstance(jobs, list):
                    raise TypeError(jobs)
                inside(sweep / ATTEMPTS)
            except (ValueError, TypeError, KeyError, RecursionError):
                unseen.append(Unseen(sweep / JOBS, "damaged; the sweep's command writes it anew"))
            except PermissionError as error:
                unseen.append(Unseen(sweep / JOBS, (error.strerror or "it cannot be read").lower()))
    return unseen


def _state(path: Path, runs: Path) -> RunState:
    name = path.relative_to(runs).as_posix()
    if os.path.exists(path / DONE):
        return RunState(name, "done")
    where = holder(path / LOCK) or ""
    state = "running" if where else "stopped"
    try:
        held = json.loads((path / PROGRESS).read_text(encoding="utf-8"))
        done, of, since, seconds = (float(held[key]) for key in ("done", "of", "since", "seconds"))
        rate = (done - since) / seconds if seconds > 0 and where else 0.0
        return RunState(name, state, where, int(done), int(of), str(held["unit"]), max(0.0, rate))
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return RunState(name, state, where)


def seconds_a_job(sweep: SweepState) -> float | None:
    """How long the finished jobs of a sweep took, on average, all their attempts together; None if there is none.

    Those that were found finished say nothing of it.
    """
    done = [job.seconds for job in sweep.jobs if job.state == "done" and job.seconds > 0]
    return sum(done) / len(done) if done else None


def seconds_left(sweep: SweepState) -> float | None:
    """Seconds to a sweep's end, if as many jobs as now go on at the pace of the finished ones; None if none does.

    A job that runs counts as half done, and one that failed as none.
    """
    each, running = seconds_a_job(sweep), sweep.count("running")
    if each is None or not running:
        return None
    return each * (sweep.count("to do") + sweep.count("stopped") + running / 2) / running
