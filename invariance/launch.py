"""The jobs of a sweep on one machine: each a process of its own, as many at once as there are slots."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress, TaskID

from invariance.errors import UserError
from invariance.progress import bar
from invariance.runs.processes import die_with

GRACE = 90.0
"""Seconds that jobs have to end in order after an interruption; a checkpoint of the full network takes a few."""

_LOOK_EVERY = 0.1


@dataclass(frozen=True)
class Slot:
    """A share of the machine for one job at a time.

    Attributes:
        name: how it is called in messages.
        environment: variables by which a job sees only this share.
    """

    name: str
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Job:
    """One job.

    Attributes:
        command: what is run.
        shown: the command as a user would type it.
        log: file for its output.
    """

    command: Sequence[str]
    shown: str
    log: Path


@dataclass(frozen=True)
class Failure:
    """A job that did not end well.

    Attributes:
        job: the job.
        why: its cause, in a line.
    """

    job: Job
    why: str


def slots_of(gpus: object, slots: object, cores: object, count_gpus: Callable[[], int]) -> list[Slot]:
    """The slots of this machine: one a GPU, or, where none is used, one for every `cores` CPU cores.

    Args:
        gpus: numbers of the GPUs to use; None for all, [] for none.
        slots: how many where no GPU is used; None for as many as the cores allow.
        cores: CPU cores of a slot where no GPU is used.
        count_gpus: how many GPUs this process sees.

    Raises:
        UserError: for GPUs that are not there, or numbers that make no sense.
    """
    if gpus is not None and not isinstance(gpus, list):
        raise UserError(f"hydra.launcher.gpus={gpus!r}: give a list of numbers, as [0,1], [] for none, or null for all")
    for key, value in (("slots", slots), ("cores", cores)):
        absent = value is None and key == "slots"
        if not absent and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise UserError(f"hydra.launcher.{key}={value!r}: give a whole number from 1")
    there = count_gpus() if gpus != [] else 0
    chosen = list(range(there)) if gpus is None else gpus
    for gpu in chosen:
        if isinstance(gpu, bool) or not isinstance(gpu, int) or not 0 <= gpu < there:
            raise UserError(f"hydra.launcher.gpus={gpus}: this machine has {there} GPUs, numbered from 0; no {gpu!r}")
    if len(set(chosen)) < len(chosen):
        raise UserError(f"hydra.launcher.gpus={gpus}: a GPU is named twice")
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if chosen:
        if slots is not None:
            raise UserError(f"hydra.launcher.slots={slots}: with GPUs there is one slot each; choose them with gpus=")
        seen = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
        threads = str(max(1, mine // len(chosen)))
        return [
            Slot(f"GPU {gpu}", {"CUDA_VISIBLE_DEVICES": seen[gpu] if seen else str(gpu), "OMP_NUM_THREADS": threads})
            for gpu in chosen
        ]
    assert isinstance(cores, int)
    count = slots if isinstance(slots, int) else max(1, mine // cores)
    hidden = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(cores)}
    return [Slot(f"slot {k}", hidden) for k in range(count)]


def run_jobs(jobs: Sequence[Job], slots: Sequence[Slot], *, progress: bool) -> list[Failure]:
    """Run jobs, in their order, each in the first slot that is free; a job that fails harms no other.

    Interrupted, it passes the interruption on to the jobs that run, waits for them to end in order, and starts no
    other. If this process is killed, so are they told to end.

    Args:
        jobs: the jobs.
        slots: where they run.
        progress: whether a bar shows how many are done.

    Returns:
        The jobs that failed.

    Raises:
        KeyboardInterrupt: if it was interrupted.
    """
    waiting, free = list(jobs), list(slots)
    running: list[tuple[Job, Slot, subprocess.Popen[bytes]]] = []
    failures: list[Failure] = []
    with bar(progress) as shown:
        task = shown.add_task("jobs", total=len(jobs))
        try:
            while waiting or running:
                while waiting and free:
                    job, slot = waiting.pop(0), free.pop(0)
                    running.append((job, slot, _start(job, slot)))
                time.sleep(_LOOK_EVERY)
                for one in list(running):
                    job, slot, process = one
                    status = process.poll()
                    if status is not None:
                        running.remove(one)
                        free.append(slot)
                        _ended(job, status, failures, shown, task)
        except BaseException:
            _end([process for _, _, process in running])
            raise
    return failures


def _start(job: Job, slot: Slot) -> subprocess.Popen[bytes]:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    # set by a command for Hydra in its own process; a job that inherited it would print tracebacks
    inherited = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
    with open(job.log, "wb") as log:
        return subprocess.Popen(
            list(job.command), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            env={**inherited, **slot.environment}, start_new_session=True,  # a terminal's Ctrl-C comes to us alone
            preexec_fn=die_with(os.getpid()),
        )  # fmt: skip


def _ended(job: Job, status: int, failures: list[Failure], shown: Progress, task: TaskID) -> None:
    lines = [line for line in job.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    if status == 0:
        shown.console.print(last or f"done: {job.shown}", highlight=False, markup=False, soft_wrap=True)
    else:
        why = next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), last)
        if status < 0:
            why = f"killed by signal {-status} ({signal.Signals(-status).name})"
        failures.append(Failure(job, why or f"ended with status {status}"))
        shown.console.print(f"failed: {job.shown}: {why}", highlight=False, markup=False, soft_wrap=True, style="red")
    shown.advance(task)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask jobs to end in order, and make those end that do not."""
    for process in processes:
        process.terminate()
    over = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0.0, over - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def python_module(page: str, overrides: Sequence[str], options: Sequence[str]) -> list[str]:
    """The command that runs one job of a page."""
    return [sys.executable, "-m", f"invariance.{page}", *overrides, *options]
