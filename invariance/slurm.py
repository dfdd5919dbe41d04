"""The jobs of a sweep on a SLURM cluster, through submitit: what runs on a node, and who waits for it."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from io import StringIO
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from invariance.errors import UserError
from invariance.launch import BUSY, Failure, Job, cause, last_line, start
from invariance.progress import bar

if TYPE_CHECKING:
    import submitit
    from rich.progress import Progress

AGAIN = 60.0
"""Seconds until a job is submitted again whose runs another process worked at."""

_INTERRUPTED = 130
_SUBMITITS = (signal.SIGUSR2,)
"""What submitit has SLURM send before a time limit; the command, which does not know it, gets it too. (SIGUSR1, which
a user can choose in its place, ends one in order.)"""
_SIGNALS_COME = 3.0
"""Seconds within which SLURM's signal has reached every process of a job."""
_TRIES = 3
"""Questions to squeue, of a minute each at most, before it counts as not answering."""
_LOOK_EVERY, _ASK_EVERY, _GONE = 1.0, 10.0, 25.0
"""Seconds between looks for results, between questions to SLURM, and from a job's end to the certainty that no result
comes (shared file systems show files late)."""
_BESIDE = 16
"""GB of a job beside what its command's `memory_gb` bounds: libraries, the network, workers that read images."""
_ARRAY = 1000
"""Jobs of one job array; SLURM's `MaxArraySize` is 1001 unless a cluster says otherwise."""
_LIVE = ("RUNNING", "COMPLETING", "PENDING")
_PATIENT = {"None", "Priority", "Resources", "BeginTime", "JobArrayTaskLimit", "Dependency", "Prolog", "Cleaning", ""}
"""Reasons to wait that pass by themselves."""
_SENSE = {
    "OUT_OF_MEMORY": "raise hydra.launcher.mem_gb", "TIMEOUT": "raise hydra.launcher.signal_delay_s",
    "NODE_FAIL": "its node was lost and SLURM did not requeue it", "CANCELLED": "by scancel or an administrator",
}  # fmt: skip


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
        threads = {"OMP_NUM_THREADS": os.environ.get("SLURM_CPUS_PER_TASK", "1")}
        signal.signal(signal.SIGTERM, self._told_to_end)
        self._process = start(self.job, threads, ignore=_SUBMITITS)
        status = self._process.wait()
        if status == _INTERRUPTED:
            time.sleep(_SIGNALS_COME)  # the command has had SLURM's signal before this process
        if status in (0, BUSY):
            return status
        raise CommandFailed(cause(self.job.log, status))

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """End the command in order, for submitit, which then requeues the job."""
        import submitit

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
            _ask("scontrol", "requeue", number)
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


def build_executor(settings: Mapping[str, Any], folder: Path, memory_gb: float | None = None) -> submitit.AutoExecutor:
    """Submitit's executor for the settings of `conf/hydra/launcher/slurm.yaml`.

    Args:
        settings: hydra-submitit-launcher's settings.
        folder: for submitit's files; `%j` in it stands for a job's id.
        memory_gb: the bound to what a job's command holds in host memory, where it has one.

    Raises:
        UserError: for what this machine lacks, or settings that make no sense.
    """
    for command in ("sbatch", "squeue", "srun"):
        if shutil.which(command) is None:
            raise UserError(
                f"hydra/launcher=slurm: there is no {command} here; run it on a login node, or use hydra/launcher=local"
            )
    check(settings)
    settings = {**settings, "mem_gb": memory_of(settings["mem_gb"], memory_gb)}
    import submitit

    executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=settings["max_num_timeout"])
    general = ("timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name",
               "stderr_to_stdout")  # fmt: skip
    own = {"submitit_folder", "max_num_timeout", "setup", "additional_parameters"}
    executor.update_parameters(
        **{key if key in general else f"slurm_{key}": value for key, value in settings.items() if key not in own},
        # since SLURM 22.05 a step does not have its job's CPUs unless it asks for them
        slurm_setup=["export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}", *(settings["setup"] or [])],
        slurm_additional_parameters={"requeue": True, **(settings["additional_parameters"] or {})},
    )
    return executor


def check(settings: Mapping[str, Any]) -> None:
    """Refuse settings that make no sense.

    Raises:
        UserError: naming the setting.
    """
    least = {"timeout_min": 2, "signal_delay_s": 30, "max_num_timeout": 0, "array_parallelism": 1, "cpus_per_task": 1,
             "gpus_per_node": 0, "mem_gb": 1}  # fmt: skip
    for key, lowest in least.items():
        value = settings[key]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < lowest):
            raise UserError(f"hydra.launcher.{key}={value!r}: give a whole number from {lowest}")
    for key in ("nodes", "tasks_per_node"):
        if settings[key] != 1:
            raise UserError(f"hydra.launcher.{key}={settings[key]}: a job is one process on one node; leave it at 1")
    if settings["signal_delay_s"] >= 60 * settings["timeout_min"] - 60:
        raise UserError(
            f"hydra.launcher.signal_delay_s={settings['signal_delay_s']}: a job of "
            f"timeout_min={settings['timeout_min']} would be told to end as soon as it begins; give less"
        )


def memory_of(asked: int | None, memory_gb: float | None) -> int:
    """Memory that a job asks of SLURM, in GB: as set, else `_BESIDE` and what its command is allowed to hold.

    Args:
        asked: hydra.launcher.mem_gb.
        memory_gb: the command's own bound, where it has one.

    Raises:
        UserError: if less is asked for than the command may hold.
    """
    held = 0 if memory_gb is None else math.ceil(memory_gb)
    if asked is not None and asked < held:
        raise UserError(
            f"hydra.launcher.mem_gb={asked}: memory_gb={memory_gb:g} lets a job hold more than that; give a smaller "
            f"memory_gb, or leave mem_gb out, which asks for {held + _BESIDE}"
        )
    return held + _BESIDE if asked is None else asked


def patience_of(settings: Mapping[str, Any]) -> float:
    """Seconds for a command to end in order before its time limit; a third is left for the requeue."""
    return float(settings["signal_delay_s"]) * 2 / 3


@contextmanager
def sbatch_errors() -> Iterator[None]:
    """Say in one line what sbatch refuses.

    Raises:
        UserError: with sbatch's own words.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        with redirect_stderr(StringIO()):  # submitit prints the same
            yield
    except (FailedJobError, FailedSubmissionError) as error:
        said = [line.split("error: ", 1)[-1] for line in str(error).splitlines() if "error: " in line]
        raise UserError(
            f"sbatch refuses these jobs: {'; '.join(said) or error} (see partition, account, qos, gpus_per_node, "
            "mem_gb, timeout_min and constraint of hydra.launcher, and what `sinfo` lists)"
        ) from error


def run_on_slurm(
    jobs: Sequence[Job], executor: submitit.AutoExecutor, patience: float, *, progress: bool
) -> list[Failure]:
    """Submit jobs, those that are not on the cluster yet, and wait for all of them.

    A job whose runs another process works at is submitted again later, until it is done too. Interrupted, it leaves the
    jobs on the cluster; the next call with the same jobs finds them.

    Args:
        jobs: the jobs.
        executor: submitit's, of `build_executor`.
        patience: see `SlurmJob`.
        progress: whether a bar shows how many are done.

    Returns:
        The jobs that failed.

    Raises:
        UserError: if sbatch refuses them, or SLURM does not answer.
        KeyboardInterrupt: if it was interrupted.
    """
    waiting = find(jobs, executor.folder)
    if waiting:
        print(f"{len(waiting)} of {len(jobs)} jobs are on the cluster already, and are not submitted again", flush=True)
    put_off = [job for job in jobs if all(job.shown != other.shown for other, _ in waiting.values())]
    failures: list[Failure] = []
    watch = Watch()
    again = 0.0
    with bar(progress) as shown:
        task = shown.add_task("jobs", total=len(jobs))
        try:
            while waiting or put_off:
                if put_off and time.monotonic() >= again:
                    waiting |= _submit(put_off, executor, patience)
                    put_off = []
                    watch.at_once()
                time.sleep(_LOOK_EVERY)
                watch.look(shown)
                for number, (job, handle) in list(waiting.items()):
                    status, why = _outcome(number, handle, watch)
                    if status is None:
                        continue
                    del waiting[number]
                    if status == BUSY:
                        put_off.append(job)
                        again = time.monotonic() + AGAIN
                        continue
                    _tell(job, status, why, failures, shown)
                    shown.advance(task)
        except KeyboardInterrupt:
            if waiting:
                print(f"{len(waiting)} jobs go on; this command finds them when it is repeated. To end them: scancel "
                      + " ".join(waiting), flush=True)  # fmt: skip
            raise
    return failures


def find(jobs: Sequence[Job], folder: Path) -> dict[str, tuple[Job, submitit.Job[int]]]:
    """The jobs that are on the cluster already, by their SLURM ids: another launcher submitted them and is gone.

    Args:
        jobs: the jobs.
        folder: submitit's, with `%j` in it.

    Raises:
        UserError: if SLURM does not answer.
    """
    import submitit

    wanted = {job.shown: job for job in jobs}
    found: dict[str, tuple[Job, submitit.Job[int]]] = {}
    known = next((asked for _ in range(_TRIES) if (asked := states()) is not None), None)
    if known is None:
        raise UserError(
            "squeue does not answer, so it is not known which of these jobs are on the cluster already; repeat the "
            "command when it does"
        )
    for number, (state, _) in known.items():
        if state == "COMPLETING" or not Path(str(folder).replace("%j", number)).is_dir():
            continue
        handle: submitit.Job[int] = submitit.SlurmJob(folder=folder, job_id=number)
        try:
            theirs = handle.submission().function
        except Exception:  # noqa: BLE001 - unpickling can raise anything; what cannot be read is submitted again
            continue
        if isinstance(theirs, SlurmJob) and theirs.job.shown in wanted:
            del wanted[theirs.job.shown]
            found[number] = theirs.job, handle
    return found


def _submit(
    jobs: Sequence[Job], executor: submitit.AutoExecutor, patience: float
) -> dict[str, tuple[Job, submitit.Job[int]]]:
    submitted: dict[str, tuple[Job, submitit.Job[int]]] = {}
    for begin in range(0, len(jobs), _ARRAY):
        part = jobs[begin : begin + _ARRAY]
        with sbatch_errors():
            handles = executor.submit_array([SlurmJob(job, patience) for job in part])
        submitted |= {handle.job_id: (job, handle) for job, handle in zip(part, handles, strict=True)}
    return submitted


def _tell(job: Job, status: int, why: str, failures: list[Failure], shown: Progress) -> None:
    if status == 0:
        line, style = last_line(job.log) or f"done: {job.shown}", None
    else:
        failures.append(Failure(job, why))
        line, style = f"failed: {job.shown}: {why}", "red"
    shown.console.print(line, highlight=False, markup=False, soft_wrap=True, style=style)


def _outcome(number: str, handle: submitit.Job[int], watch: Watch) -> tuple[int | None, str]:
    """How a job ended: 0, `BUSY`, or 1 and why; None while nothing is known."""
    with suppress(OSError):
        handle.paths.folder.chmod(handle.paths.folder.stat().st_mode)  # makes NFS look again
    gone = watch.gone(number)
    if not handle.paths.result_pickle.exists():
        return (1, ended_as(number, handle.paths.stderr)) if gone > _GONE else (None, "")
    error = handle.exception()
    if error is None:
        return handle.result(), ""
    said = re.findall(r"^[\w.]+(?:Error|Failed|Exception|Interrupt): (.+)$", str(error), flags=re.MULTILINE)
    why = said[-1] if said else "submitit wrote no cause; see its files"
    if "timed-out too many times" in why:
        return 1, "its time limit came once more than hydra.launcher.max_num_timeout; raise that or timeout_min"
    if why.startswith("killed by signal"):  # perhaps by SLURM, whose word comes at the job's end
        if not gone:
            return None, ""
        if final_state(number) not in ("FAILED", "UNKNOWN"):
            why = f"{why}; {ended_as(number, handle.paths.stderr)}"
    return 1, why


class Watch:
    """What SLURM says about this user's jobs, asked seldom."""

    def __init__(self) -> None:
        self._states: dict[str, tuple[str, str]] = {}
        self._last_seen: dict[str, float] = {}
        self._told: set[tuple[str, str]] = set()
        self._next = 0.0

    def at_once(self) -> None:
        """Ask at the next look."""
        self._next = 0.0

    def look(self, shown: Progress) -> None:
        """Ask, if it is time, and say which jobs wait for what will not come by itself."""
        if time.monotonic() < self._next:
            return
        asked = states()
        self._next = time.monotonic() + _ASK_EVERY
        if asked is None:  # its controller does not answer: nothing is known
            self._last_seen = dict.fromkeys(self._last_seen, time.monotonic())
            return
        self._states = asked
        self._last_seen |= dict.fromkeys(asked, time.monotonic())
        for number, (state, reason) in asked.items():
            if state == "PENDING" and reason.strip("()") not in _PATIENT and (number, reason) not in self._told:
                self._told.add((number, reason))
                line = f"SLURM does not start job {number}: {reason} (scancel {number} gives it up)"
                shown.console.print(line, highlight=False, markup=False, soft_wrap=True, style="yellow")

    def gone(self, number: str) -> float:
        """Seconds since SLURM knew a job last, or 0 if it is on the cluster."""
        if number in self._states:
            return 0.0
        return time.monotonic() - self._last_seen.setdefault(number, time.monotonic())


def states() -> dict[str, tuple[str, str]] | None:
    """State and reason of every job of this user that is on the cluster, by id; None if SLURM does not answer."""
    said = _ask("squeue", "--me", "--noheader", "--array", "--format=%i|%T|%r")
    if said is None:
        return None
    rows = [line.strip().split("|", 2) for line in said.splitlines() if line.count("|") >= 2]
    return {number: (state, reason) for number, state, reason in rows}


def state_now(number: str) -> str:
    """The state of a job that has not ended long ago, such as RUNNING or CANCELLED; UNKNOWN if SLURM has forgotten."""
    found = re.search(r"\bJobState=(\S+)", _ask("scontrol", "--oneliner", "show", "job", number) or "")
    return found[1] if found else "UNKNOWN"


def final_state(number: str) -> str:
    """The state in which a job ended, from SLURM's accounting, or from its controller where there is none."""
    said = _ask("sacct", "--noheader", "--parsable2", "--allocations", "--format=State", f"--jobs={number}") or ""
    states = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith(_LIVE)]
    return states[-1] if states else state_now(number)


def ended_as(number: str, errors: Path) -> str:
    """How a job ended, in SLURM's words.

    Args:
        number: its id.
        errors: submitit's file of errors, to which SLURM's own daemon writes what it ended a job for.
    """
    state = final_state(number)
    sense = _SENSE.get(state.split()[0], "")
    if state == "FAILED" and errors.exists():
        said = re.findall(r"^slurmstepd.*?: error: (.+)$", errors.read_text(errors="replace"), flags=re.MULTILINE)
        sense = next((line for line in said if "memory" in line or "oom" in line), said[-1] if said else "")
    return f"SLURM job {number} ended as {state}" + (f" ({sense})" if sense else "")


def _ask(*command: str) -> str | None:
    """What one of SLURM's commands prints; None if it fails."""
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout if asked.returncode == 0 else None
