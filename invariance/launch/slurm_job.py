"""What runs on a node of a SLURM cluster: a job's command, which ends in order and goes on as SLURM wants."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from invariance.launch.jobs import BUSY, Job, outcome, start
from invariance.launch.slots import threads
from invariance.launch.slurm_states import ask, state_now

_INTERRUPTED = 130
_SUBMITITS = (signal.SIGUSR2,)
"""What submitit has SLURM send before a time limit; the command, which does not know it, gets it too. (SIGUSR1, which
a user can choose in its place, ends one in order.)"""
_SIGNALS_COME = 3.0
"""Seconds within which SLURM's signal has reached every process of a job."""


class CommandFailed(Exception):
    """A job's command did not end well; the message is its cause, in a line."""


class SlurmJob:
    """One job of a sweep, as submitit runs it on a node.

    The command ends in order, with a checkpoint, whenever SLURM wants the job to end, and goes on when SLURM starts the
    job again: after a preemption (SIGTERM), before its time limit (submitit's signal), and after the loss of its node.

    Args:
        job: the job.
        patience: seconds that the command has to end in order before the time limit.
    """

    def __init__(self, job: Job, patience: float) -> None:
        self.job, self.patience = job, patience
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Run the command.

        Returns:
            0, or `BUSY` if another process works on its runs.

        Raises:
            CommandFailed: if it failed.
        """
        keep_log(self.job.log)
        place = threads(os.environ.get("SLURM_CPUS_PER_TASK", "1"))
        signal.signal(signal.SIGTERM, self._told_to_end)
        self._process = start(self.job, place, ignore=_SUBMITITS)
        status = self._process.wait()
        if status == _INTERRUPTED:
            time.sleep(_SIGNALS_COME)  # the command has had SLURM's signal before this process
        status, why = outcome(self.job, self._process.pid, status)
        if status in (0, BUSY):
            return status
        raise CommandFailed(why)

    def checkpoint(self) -> Any:  # noqa: ANN401
        """End the command in order, for submitit, which then requeues the job."""
        import submitit  # of the extra `slurm`

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._end_command(self.patience)
        return submitit.helpers.DelayedSubmission(SlurmJob(self.job, self.patience))

    def _told_to_end(self, _number: int, _frame: FrameType | None) -> None:
        """End the command and leave no result, for SLURM knows what becomes of the job; but requeue it if not so.

        A partition with a `GraceTime` sends its signal to a job that still counts as running, and takes one that ends
        then for one that is done.
        """
        for repeated in (signal.SIGTERM, *_SUBMITITS):
            signal.signal(repeated, signal.SIG_IGN)
        self._end_command(math.inf)  # SLURM kills what takes too long
        number = job_id_here()
        if state_now(number) == "RUNNING":
            print(f"SLURM wants the place of job {number}: requeued", flush=True)
            ask("scontrol", "requeue", number)
        sys.exit(_INTERRUPTED)

    def _end_command(self, patience: float) -> None:
        """End the command in order, or at once after some seconds. In a signal's handler a lock of `Popen` is held."""
        if self._process is None:
            return
        begun, told = time.monotonic(), False
        while _lives(self._process.pid):
            if not told:
                os.kill(self._process.pid, signal.SIGTERM)
                told = True
            elif time.monotonic() - begun > patience:
                os.kill(self._process.pid, signal.SIGKILL)
            time.sleep(0.05)


def _lives(child: int) -> bool:
    """Whether a child lives; if not, it is left to be waited for."""
    try:
        return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def keep_log(log: Path) -> None:
    """Set aside what an attempt of this SLURM job has printed before, so that no cause is read from it."""
    count = os.environ.get("SLURM_RESTART_COUNT")
    if count and log.exists():
        log.rename(log.with_suffix(f".{int(count) - 1}.log"))


def job_id_here() -> str:
    """The id of the SLURM job that this process runs in."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
