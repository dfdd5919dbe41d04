"""What a sweep leaves for those who watch it: its jobs, and every attempt at one of them.

`runs/.sweeps/<page>/<sweep>/` holds `jobs.json`, the jobs in their order, and `attempts/`, a file for every process
that worked at one. A process holds the lock of its file for as long as it lives, so an attempt that says nothing of its
end and whose lock is free was killed. No clock is compared with another: durations are those of each process's own, and
the attempts at a job are counted. `launchers/` holds a lock for every process that launches the sweep's jobs, while it
does.
"""

import hashlib
import json
import math
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from types import TracebackType
from typing import Self

from invariance.errors import Busy, UserError
from invariance.runs.files import DONE, disk_errors, write_text
from invariance.runs.locks import holder, lock
from invariance.runs.processes import was_interrupted
from invariance.runs.sweep_names import title
from invariance.settings.nested import load_json

SWEEPS, JOBS, ATTEMPTS, LAUNCHERS = ".sweeps", "jobs.json", "attempts", "launchers"
SWEEP_VARIABLE, JOB_VARIABLE = "INVARIANCE_SWEEP", "INVARIANCE_JOB"
"""Variables that tell a process which sweep, and which job of it, it works at."""

_NOTE_EVERY = 30.0
_here: list["Attempt"] = []
_opened: dict[Path, None] = {}


def sweep_folder(runs: Path, page: str, jobs: Sequence[str]) -> Path:
    """The folder of a sweep: the same jobs have the same one.

    Args:
        runs: the runs folder.
        page: the command.
        jobs: the jobs, as a user would type each alone.
    """
    return runs / SWEEPS / page / hashlib.sha256(json.dumps(list(jobs)).encode()).hexdigest()[:12]


def begin_sweep(folder: Path, jobs: Sequence[str]) -> None:
    """Write down which jobs a sweep has.

    Raises:
        UserError: if the disk refuses.
    """
    write_text(folder / JOBS, json.dumps({"jobs": list(jobs)}, indent=1, ensure_ascii=False) + "\n")


def find_jobs(runs: Path, page: str, shown: str) -> list[tuple[Path, int]]:
    """The jobs of sweeps that a command, typed alone, is: each with its sweep's folder, and its number.

    Args:
        runs: the runs folder.
        page: the command.
        shown: the command as a user types it.
    """
    found = []
    for path in _found(runs / SWEEPS / page, f"*/{JOBS}"):
        held = _read(path).get("jobs")
        found += [(path.parent, n) for n, one in enumerate(held) if one == shown] if isinstance(held, list) else []
    return found


@contextmanager
def launching(folder: Path) -> Iterator[None]:
    """Tell those who watch that this process launches the jobs of a sweep.

    Args:
        folder: the sweep's.

    Raises:
        UserError: if the disk refuses.
    """
    path, held = folder / LAUNCHERS / f"{socket.gethostname()}.{os.getpid()}.lock", None
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            held = lock(path)
        yield
    finally:
        if held is not None:
            _give_up(path, held)


def _give_up(path: Path, held: int | None) -> None:
    """Remove a lock's file and close it; only this process has one of that name."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
    if held is not None:
        os.close(held)


def opened(run: Path) -> None:
    """Let this process and its attempts know of a run directory that their job is about."""
    _opened[Path(os.path.abspath(run))] = None
    for attempt in _here:
        attempt.opened(run)


def removed(run: Path) -> None:
    """Let go of a run directory that was a help on the way, and of which nothing is to be left."""
    _opened.pop(Path(os.path.abspath(run)), None)
    for attempt in _here:
        attempt.removed(run)


@contextmanager
def to_the_end() -> Iterator[None]:
    """Hold a job to its runs: it is done when every run that it opened has its marker, whatever it says itself.

    Raises:
        UserError: if one has none, or something inside ended the process, with whatever status.
    """
    _opened.clear()
    try:
        yield
    except SystemExit as error:
        if was_interrupted():
            raise KeyboardInterrupt from error
        raise UserError(f"it ended itself with status {error.code or 0} before its work was done; repeat it") from error
    left = [run for run in _opened if not os.path.exists(run / DONE)]
    if left:
        more = f" and {len(left) - 1} more are" if len(left) > 1 else " is"
        raise UserError(f"{left[0]}{more} not finished, though nothing failed; repeat the command to finish it")


def not_done(folder: Path, number: int, process: int) -> str:
    """Why a job is not done though its process, on this machine, ended with status 0; nothing if it is.

    Args:
        folder: the sweep's.
        number: the job's.
        process: the process id.
    """
    mine = f"{number}.{socket.gethostname()}.{process}."
    told = [one for one in _attempts(folder / ATTEMPTS, number) if one.path.name.startswith(mine)]
    if not told:
        return "ended with status 0 before its work began"
    if told[-1].state != "done":
        return f"ended with status 0 before its work was done{': ' * bool(told[-1].why)}{told[-1].why}"
    left = [run for run in told[-1].runs if not os.path.exists(folder.parents[2] / run / DONE)]
    return f"ended with status 0, but {left[0]} is not finished" if left else ""


def working() -> None:
    """Let the attempts of this process know that they do work, and do not only find it done."""
    for attempt in _here:
        attempt.worked = True


def alive() -> None:
    """Write down how long the attempts of this process have taken so far, twice a minute at most."""
    for attempt in _here:
        attempt.alive()


class Attempt:
    """One process at one job of a sweep; a context manager around the work.

    How it ended is "done", "failed" (with the cause) or "interrupted", which one is, too, that did a part and left the
    rest to another process. One that another process left nothing to do leaves no trace. Once it has begun, a disk that
    refuses to take this down ends no job, and hides nothing of what did.

    Args:
        folder: the sweep's.
        number: the job's, from 0.

    Attributes:
        worked: whether it did work, and did not only find it done.
    """

    def __init__(self, folder: Path, number: int) -> None:
        name = f"{number}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        self._path, self._lock_path = folder / ATTEMPTS / f"{name}.json", folder / ATTEMPTS / f"{name}.lock"
        self._number, self._turn = number, 0
        self._lock: int | None = None
        self._begun = self._written = time.monotonic()
        self.worked = False
        self._runs: dict[str, None] = {}
        self._root = Path(os.path.abspath(folder)).parents[2]

    def __enter__(self) -> Self:
        try:
            with disk_errors(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._lock = lock(self._lock_path)
            self._turn = 1 + max((one.turn for one in _attempts(self._path.parent, self._number)), default=0)
            self._write("running")
        except BaseException:
            _give_up(self._lock_path, self._lock)
            raise
        _here.append(self)
        return self

    def opened(self, run: Path) -> None:
        """A run directory that the job is about."""
        with suppress(OSError):
            path = Path(os.path.abspath(run))
            if path.is_relative_to(self._root):
                self._runs[path.relative_to(self._root).as_posix()] = None

    def removed(self, run: Path) -> None:
        """A run directory of which nothing is to be left."""
        path = Path(os.path.abspath(run))
        if path.is_relative_to(self._root):
            self._runs.pop(path.relative_to(self._root).as_posix(), None)

    def alive(self) -> None:
        """Write down how long it has taken so far, twice a minute at most."""
        if time.monotonic() - self._written >= _NOTE_EVERY:
            with suppress(UserError, OSError):
                self._write("running")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _here.remove(self)
        try:
            with suppress(UserError, OSError):
                self._end(error)
        finally:
            _give_up(self._lock_path, self._lock)

    def _end(self, error: BaseException | None) -> None:
        left = [run for run in self._runs if not os.path.exists(self._root / run / DONE)]
        if error is None and left:
            self._write("failed", f"{left[0]} is not finished, though nothing failed")
        elif error is None:
            self._write("done")
        elif isinstance(error, Busy) and not self.worked:
            self._path.unlink(missing_ok=True)
        elif isinstance(error, Exception) and not isinstance(error, Busy) and not was_interrupted():
            self._write("failed", str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")
        else:
            self._write("interrupted")

    def _write(self, state: str, why: str = "") -> None:
        self._written = time.monotonic()
        facts = {
            "job": self._number,
            "turn": self._turn,
            "state": state,
            "why": why,
            "host": socket.gethostname(),
            "seconds": round(self._written - self._begun, 2),
            "worked": self.worked,
            "runs": list(self._runs),
            "undone": [run for run in self._runs if not os.path.exists(self._root / run / DONE)],
        }
        write_text(self._path, json.dumps(facts, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class JobState:
    """Where a job of a sweep stands.

    Attributes:
        shown: the command that runs it alone.
        state: "done", "running", "failed", "stopped" (begun, and nobody works at it) or "to do".
        why: the cause of a failure.
        where: who works at it.
        seconds: how long all attempts took that did work; 0 where none did.
    """

    shown: str
    state: str
    why: str = ""
    where: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class SweepState:
    """Where a sweep stands.

    Attributes:
        page: the command.
        name: the sweep's folder.
        jobs: its jobs.
        launchers: the processes that launch its jobs.
    """

    page: str
    name: str
    jobs: tuple[JobState, ...]
    launchers: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What it is, in words: its command, template, data and what is swept."""
        return title(self.page, [job.shown for job in self.jobs])

    def count(self, state: str) -> int:
        """How many jobs are in a state."""
        return sum(job.state == state for job in self.jobs)


def read_sweeps(runs: Path) -> list[SweepState]:
    """Every sweep below a runs folder. Nothing is written, and what is damaged or half-written counts as absent."""
    sweeps = []
    for path in _found(runs / SWEEPS, f"*/*/{JOBS}"):
        held, folder = _read(path).get("jobs"), path.parent
        if isinstance(held, list):
            launchers = tuple(who for one in _found(folder, f"{LAUNCHERS}/*.lock") if (who := holder(one)))
            sweeps.append(SweepState(folder.parent.name, folder.name, _states(folder, held), launchers))
    return sweeps


@dataclass(frozen=True)
class _Told:
    """What an attempt has told of itself: turn, state, cause, seconds it worked, its runs, and those it left undone."""

    path: Path
    job: int
    turn: int
    state: str
    why: str
    seconds: float
    runs: tuple[str, ...]
    undone: tuple[str, ...] = ()


def _attempts(folder: Path, number: int | None = None) -> list[_Told]:
    """The attempts at all jobs, or at one, in their turn; what is damaged counts as absent."""
    found = []
    for path in _found(folder, "*.json" if number is None else f"{number}.*.json"):
        held = _read(path)
        job, state, seconds = held.get("job"), held.get("state"), held.get("seconds")
        turn, runs, undone = held.get("turn", 0), held.get("runs", []), held.get("undone", [])
        counted = all(isinstance(one, int) and not isinstance(one, bool) for one in (job, turn))
        timed = isinstance(seconds, int | float) and not isinstance(seconds, bool) and math.isfinite(seconds)
        if counted and timed and isinstance(state, str) and isinstance(runs, list) and isinstance(undone, list):
            why, seconds = str(held.get("why", "")), float(str(seconds)) if held.get("worked") is True else 0.0
            names = tuple(map(str, runs)), tuple(map(str, undone))
            found.append(_Told(path, int(str(job)), int(str(turn)), state, why, seconds, *names))
    return sorted(found, key=lambda one: one.turn)


def _states(folder: Path, jobs: list[object]) -> tuple[JobState, ...]:
    told: dict[int, list[_Told]] = {}
    for one in _attempts(folder / ATTEMPTS):
        told.setdefault(one.job, []).append(one)
    root = folder.parents[2]
    return tuple(_state(str(shown), told.get(number, []), root) for number, shown in enumerate(jobs))


def _state(shown: str, told: list[_Told], root: Path) -> JobState:
    """A job's state: running if any attempt is, else what the newest came to.

    An attempt that was cut short takes nothing back of one that was done before, and a job that was done is so for as
    long as its runs are there.
    """
    seconds = sum(one.seconds for one in told)
    for one in told:
        if one.state == "running" and (where := holder(one.path.with_suffix(".lock"))):
            return JobState(shown, "running", where=where, seconds=seconds)
    cut_short = ("running", "interrupted")
    newest = next((one for one in reversed(told) if one.state not in cut_short), None)
    if newest is not None and newest.state == "done" and all(os.path.exists(root / run / DONE) for run in newest.runs):
        return JobState(shown, "done", seconds=seconds)
    if told and told[-1].state in cut_short:
        return JobState(shown, "stopped", seconds=seconds)
    if newest is not None and newest.state == "failed":
        if newest.undone and all(os.path.exists(root / run / DONE) for run in newest.undone):  # another command did it
            return JobState(shown, "done", seconds=seconds)
        return JobState(shown, "failed", newest.why, seconds=seconds)
    return JobState(shown, "to do", seconds=seconds)


def _found(folder: Path, pattern: str) -> list[Path]:
    """The files below a folder that a pattern names, sorted; `Path.glob` would raise for what vanishes meanwhile."""
    return [folder / name for name in sorted(glob(pattern, root_dir=folder))]


def _read(path: Path) -> dict[str, object]:
    try:
        held = load_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}
