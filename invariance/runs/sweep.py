"""What a sweep leaves for those who watch it: its jobs, and every attempt at one of them.

`runs/.sweeps/<page>/<sweep>/` holds `jobs.json`, the jobs in their order, and `attempts/`, a file for every process
that worked at one. A process holds the lock of its file for as long as it lives, so an attempt that says nothing of its
end and whose lock is free was killed. No clock is compared with another: durations are those of each process's own.
"""

import hashlib
import json
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from invariance.errors import Busy, UserError
from invariance.runs.files import disk_errors, write_text
from invariance.runs.locks import holder, lock

SWEEPS, JOBS, ATTEMPTS = ".sweeps", "jobs.json", "attempts"
SWEEP_VARIABLE, JOB_VARIABLE = "INVARIANCE_SWEEP", "INVARIANCE_JOB"
"""Variables that tell a process which sweep, and which job of it, it works at."""


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


class Attempt:
    """One process at one job of a sweep; a context manager around the work.

    How it ended is "done", "failed" (with the cause), "busy" (another process works on its runs) or "interrupted".

    Args:
        folder: the sweep's.
        number: the job's, from 0.
    """

    def __init__(self, folder: Path, number: int) -> None:
        name = f"{number}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        self._path, self._lock_path = folder / ATTEMPTS / f"{name}.json", folder / ATTEMPTS / f"{name}.lock"
        self._number = number
        self._lock: int | None = None
        self._begun = time.monotonic()

    def __enter__(self) -> Self:
        with disk_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = lock(self._lock_path)
        self._write("running")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._write("done")
        elif isinstance(error, Busy):
            self._write("busy", str(error))
        elif isinstance(error, Exception):
            self._write("failed", str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")
        else:
            self._write("interrupted")
        assert self._lock is not None
        self._lock_path.unlink(missing_ok=True)
        os.close(self._lock)

    def _write(self, state: str, why: str = "") -> None:
        seconds = round(time.monotonic() - self._begun, 2)
        facts = {"job": self._number, "state": state, "why": why, "host": socket.gethostname(), "seconds": seconds}
        write_text(self._path, json.dumps(facts, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class JobState:
    """Where a job of a sweep stands.

    Attributes:
        shown: the command that runs it alone.
        state: "done", "running", "failed", "stopped" (begun, and nobody works at it) or "to do".
        why: the cause of a failure.
        where: who works at it.
        seconds: how long all attempts took that have ended.
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
    """

    page: str
    name: str
    jobs: tuple[JobState, ...]

    def count(self, state: str) -> int:
        """How many jobs are in a state."""
        return sum(job.state == state for job in self.jobs)


def read_sweeps(runs: Path) -> list[SweepState]:
    """Every sweep below a runs folder. Nothing is written, and what is damaged or half-written counts as absent."""
    sweeps = []
    for path in sorted((runs / SWEEPS).glob(f"*/*/{JOBS}")):
        held = _read(path).get("jobs")
        if isinstance(held, list):
            sweeps.append(SweepState(path.parent.parent.name, path.parent.name, _states(path.parent, held)))
    return sweeps


def _states(folder: Path, jobs: list[object]) -> tuple[JobState, ...]:
    attempts: dict[int, list[tuple[str, str, str, float]]] = {}
    for path in sorted((folder / ATTEMPTS).glob("*.json")):
        held = _read(path)
        state, seconds = held.get("state"), held.get("seconds")
        if not isinstance(state, str) or not isinstance(seconds, int | float) or not isinstance(held.get("job"), int):
            continue
        where = ""
        if state == "running":
            where = holder(path.with_suffix(".lock")) or ""
            state = "running" if where else "stopped"
        attempts.setdefault(int(str(held["job"])), []).append((state, str(held.get("why", "")), where, float(seconds)))
    return tuple(_state(str(shown), attempts.get(number, [])) for number, shown in enumerate(jobs))


def _state(shown: str, attempts: list[tuple[str, str, str, float]]) -> JobState:
    """A job's state: the best of its attempts, but that one which runs tells more than one that failed."""
    seconds = sum(one[3] for one in attempts if one[0] != "busy")
    for wanted in ("done", "running", "failed", "stopped", "interrupted"):
        for state, why, where, _ in attempts:
            if state == wanted:
                return JobState(shown, "stopped" if state == "interrupted" else state, why, where, seconds)
    return JobState(shown, "to do")


def _read(path: Path) -> dict[str, object]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}
