"""The jobs of a sweep on one machine: each a process of its own, as many at once as there are slots."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from hydra.core.utils import JobReturn, JobStatus
from rich.progress import Progress

from invariance.errors import Busy, UserError
from invariance.launch.slots import Slot
from invariance.progress import bar, say
from invariance.runs.processes import die_with, uninterrupted
from invariance.runs.sweep import JOB_VARIABLE, SWEEP_VARIABLE, not_done

GRACE = 90.0
"""Seconds that jobs have to end in order after an interruption; a checkpoint of the full network takes a few."""

BUSY = 75
"""Exit status of a command whose runs another process works at; EX_TEMPFAIL in `sysexits.h`."""

AGAIN, SELDOM = 15.0, 300.0
"""Seconds until a job that another process works at is tried again; they double from try to try, up to the second."""

_ROOM = 1 << 24
"""Bytes of room below which a disk counts as full: what a job took with it when it failed is free again."""

LOOK_EVERY = 0.1
"""Seconds between two looks at jobs."""

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """One job.

    Attributes:
        command: what is run.
        shown: the command as a user would type it.
        log: file for its output.
        environment: variables that it needs besides those of its place.
    """

    command: Sequence[str]
    shown: str
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)


class Process(Protocol):
    """A job that was started, as `subprocess.Popen` has it."""

    pid: int

    def poll(self) -> int | None:
        """Its status, negative for a signal that killed it; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, or raise `subprocess.TimeoutExpired`."""

    def terminate(self) -> None:
        """Tell it to end."""

    def kill(self) -> None:
        """End it."""


@dataclass(frozen=True)
class Failure:
    """A job that did not end well.

    Attributes:
        shown: its command, as a user would type it.
        why: its cause, in a line.
        log: the file with its output, where it has one.
    """

    shown: str
    why: str
    log: Path | None = None


class Later(Generic[T]):
    """Jobs that another process works at: each is tried again after a while, ever more seldom.

    Args:
        first: seconds until a job is tried for the second time.
    """

    def __init__(self, first: float) -> None:
        self._first = first
        self._jobs: list[tuple[float, T]] = []
        self._seconds: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def put_off(self, job: T, shown: str, why: str) -> str:
        """Put a job off.

        Args:
            job: the job.
            shown: its command.
            why: what it said of the other process.

        Returns:
            What to tell of it: who works at it; nothing if that was told before.
        """
        seconds = self._seconds.get(shown, 0.0)
        self._seconds[shown] = min(SELDOM, 2 * seconds) if seconds else self._first
        self._jobs.append((time.monotonic() + self._seconds[shown], job))
        return "" if seconds else f"put off: {shown}: {why.removesuffix(Busy.remedy)}"

    def due(self) -> list[T]:
        """The jobs whose time has come, which are put off no more."""
        now = time.monotonic()
        due = [job for when, job in self._jobs if when <= now]
        self._jobs = [one for one in self._jobs if one[0] > now]
        return due


def jobs_of(
    page: str, job_overrides: Sequence[Sequence[str]], options: Sequence[str], folder: Path, first: int = 0
) -> list[Job]:
    """The jobs of a sweep, each the command that a user would type for it alone.

    Args:
        page: the command.
        job_overrides: the overrides of every job.
        options: Hydra's flags that all of them need.
        folder: the sweep's (`runs.sweep`); a log has the launcher's name in it, for two may share a sweep.
        first: number of the first job.
    """
    mine = f"{socket.gethostname()}-{os.getpid()}"
    jobs = []
    for number, overrides in enumerate(job_overrides, start=first):
        quiet = [] if any(one.startswith("progress=") for one in overrides) else ["progress=false"]
        command = [sys.executable, "-m", f"invariance.{page}", *overrides, *quiet, *options]
        environment = {SWEEP_VARIABLE: str(folder.absolute()), JOB_VARIABLE: str(number)}
        log = folder / "logs" / f"{number}.{mine}.log"
        jobs.append(Job(command, shown(page, overrides, options), log, environment))
    return jobs


def options_of(config: Any) -> list[str]:  # noqa: ANN401
    """Hydra's flags that every job of a sweep needs: where a template is, and which.

    Args:
        config: the sweep's configuration, with Hydra's own.
    """
    options = []
    for source in config.hydra.runtime.config_sources:
        if source.provider == "command-line":
            options += ["--config-dir", source.path]
    if config.hydra.job.config_name not in (None, config.hydra.job.name):
        options += ["--config-name", config.hydra.job.config_name]
    return options


def shown(page: str, overrides: Sequence[str], options: Sequence[str]) -> str:
    """The command that runs one job alone, as a user would type it."""
    return shlex.join([f"invariance-{page}", *overrides, *options])


def tell(failures: Sequence[Failure], count: int) -> None:
    """Say which jobs failed, why, and how to repeat each.

    Raises:
        UserError: if any failed.
    """
    for failure in failures:
        log = f"\n  log: {failure.log}" if failure.log is not None else ""
        print(f"failed: {failure.why}\n  again: {failure.shown}{log}", flush=True)
    if failures:
        rest = "; the others are done" if len(failures) < count else ""
        raise UserError(f"{len(failures)} of {count} jobs failed, for the reasons above{rest}")


def done(job_overrides: Sequence[Sequence[str]]) -> list[JobReturn]:
    """What Hydra wants to know of jobs that all ended well."""
    results = []
    for overrides in job_overrides:
        result = JobReturn()
        result.overrides, result.status, result.return_value = list(overrides), JobStatus.COMPLETED, None
        results.append(result)
    return results


def run_jobs(
    jobs: Sequence[Job],
    slots: Sequence[Slot],
    *,
    progress: bool,
    begin: Callable[[Job, Mapping[str, str]], Process] | None = None,
) -> list[Failure]:
    """Run jobs, in their order, each in the first slot that is free; a job that fails harms no other.

    A job that another process works at is put off: it is tried again when the others are done, until it is done too.

    Interrupted, it passes the interruption on to the jobs that run, waits for them to end in order, and starts no
    other. If this process is killed, so are they told to end.

    Args:
        jobs: the jobs.
        slots: where they run.
        progress: whether a bar shows how many are done.
        begin: starts a job in the environment of its place; None for `start`.

    Returns:
        The jobs that failed.

    Raises:
        KeyboardInterrupt: if it was interrupted.
    """
    waiting, free, later = list(jobs), list(slots), Later[Job](AGAIN)
    running: list[tuple[Job, Slot, Process]] = []
    failures: list[Failure] = []
    with bar(progress) as shown:
        task = shown.add_task("jobs", total=len(jobs))
        try:
            while waiting or running or later:
                waiting = waiting or later.due()
                while waiting and free:
                    job, slot = waiting.pop(0), free.pop(0)
                    with uninterrupted():  # one that is begun, and not noted, would be left to itself
                        running.append((job, slot, (begin or start)(job, slot.environment)))
                time.sleep(LOOK_EVERY)
                for one in list(running):
                    job, slot, process = one
                    status = process.poll()
                    if status is None:
                        continue
                    running.remove(one)
                    free.append(slot)
                    status, why = outcome(job, process.pid, status)
                    if status != BUSY:
                        report(job, status, why, failures, shown)
                        shown.advance(task)
                    elif told := later.put_off(job, job.shown, why):
                        say(shown, told)
        except BaseException:
            _end([process for _, _, process in running], shown)
            raise
    return failures


def environment_of(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of a job: this process's, and `variables`."""
    # set by a command for Hydra in its own process; a job that inherited it would print tracebacks
    return {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"} | dict(variables)


def start(job: Job, environment: Mapping[str, str], ignore: Sequence[signal.Signals] = ()) -> subprocess.Popen[bytes]:
    """Start a job's command, which is told to end when this process ends.

    Args:
        job: the job.
        environment: variables of its place.
        ignore: signals that the command is not to know.
    """
    job.log.parent.mkdir(parents=True, exist_ok=True)
    tied = die_with(os.getpid())

    def first() -> None:
        """What the child does before it becomes the command."""
        for number in ignore:
            signal.signal(number, signal.SIG_IGN)
        tied()

    with open(job.log, "wb") as log:
        return subprocess.Popen(
            list(job.command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**environment_of(job.environment), **environment},
            start_new_session=True,  # a terminal's Ctrl-C comes to us alone
            preexec_fn=first,
        )


def report(job: Job, status: int, why: str, failures: list[Failure], shown: Progress) -> None:
    """Say how a job ended, and keep it if it failed.

    Args:
        job: the job.
        status: 0 if it ended well.
        why: its cause if not.
        failures: gets it then.
        shown: the bar to print above.
    """
    if status == 0:
        say(shown, [f"done: {job.shown}", *_lines(job.log)][-1])
    else:
        failures.append(Failure(job.shown, why, job.log))
        say(shown, f"failed: {job.shown}: {why}", "red")


def outcome(job: Job, process: int, status: int) -> tuple[int, str]:
    """How a job ended: its status, and why it failed. One of a sweep that ended with 0 is done if its runs are.

    Args:
        job: the job.
        process: id of the process that ran it on this machine.
        status: that process's.
    """
    if status == 0 and SWEEP_VARIABLE in job.environment:
        left = not_done(Path(job.environment[SWEEP_VARIABLE]), int(job.environment[JOB_VARIABLE]), process)
        return (1, left) if left else (0, "")
    return status, cause(job.log, status)


def cause(log: Path, status: int) -> str:
    """Why a job failed, in a line: the error it printed last, else its last line, else how it ended."""
    if status < 0:
        return f"killed by signal {-status} ({signal.Signals(-status).name})"
    lines = _lines(log)
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    how = f"ended with status {status}"
    if not lines and _full(log.parent):
        how = f"{how} and could not write why: the disk of {log.parent} is full; make room, then repeat"
    return [how, *lines[-1:], *errors[-1:]][-1]


def _full(folder: Path) -> bool:
    """Whether a folder's disk has next to no room."""
    try:
        return shutil.disk_usage(folder).free < _ROOM
    except OSError:
        return False


def _lines(log: Path) -> list[str]:
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return [line for line in text.splitlines() if line.strip()]


def _end(processes: Sequence[Process], shown: Progress) -> None:
    """Ask jobs to end in order, and make those end that do not."""
    for process in processes:
        process.terminate()
    if processes:
        with suppress(OSError):  # the terminal may be gone
            say(shown, f"waiting for {len(processes)} jobs to end in order, {GRACE:.0f} seconds at most …")
    over = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0.0, over - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
