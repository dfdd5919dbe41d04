"""The jobs of a sweep on a SLURM cluster, through submitit: how they are submitted, and waited for."""

from __future__ import annotations

import dataclasses
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from io import StringIO
from pathlib import Path
from typing import Any

from invariance.errors import UserError, nearest
from invariance.launch.jobs import BUSY, Failure, Job, Later, cause, report
from invariance.launch.slurm_job import SlurmJob
from invariance.launch.slurm_memory import memory_of
from invariance.launch.slurm_states import SlurmStates, ended_as, final_state, states
from invariance.progress import bar, say

Executor = Any
Handle = Any
"""Submitit's executor and its handle of a job; the library is optional."""

AGAIN = 60.0
"""Seconds until a job is submitted again whose runs another process worked at; they double from time to time."""

_TRIES = 3
"""Questions to squeue, of a minute each at most, before it counts as not answering."""
_LOOK_EVERY, _GONE = 1.0, 25.0
"""Seconds between looks for results, and from a job's end to the certainty that none comes (files may show late)."""
_ARRAY = 1000
"""Jobs of one job array; SLURM's `MaxArraySize` is 1001 unless a cluster says otherwise."""


def build_executor(
    settings: Mapping[str, Any], folder: Path, memory_gb: float | None = None, images: int = 0
) -> Executor:
    """Submitit's executor for the settings of `conf/hydra/launcher/slurm.yaml`.

    Args:
        settings: hydra-submitit-launcher's settings.
        folder: for submitit's files; `%j` in it stands for a job's id.
        memory_gb: the bound to what a job's command holds in host memory, where it has one.
        images: bytes that a job reads again and again.

    Raises:
        UserError: for what this machine lacks, or settings that make no sense.
    """
    settings = checked(settings, memory_gb, images)
    import submitit  # of the extra `slurm`

    executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=settings["max_num_timeout"])
    general = (
        "timeout_min",
        "cpus_per_task",
        "gpus_per_node",
        "tasks_per_node",
        "mem_gb",
        "nodes",
        "name",
        "stderr_to_stdout",
    )
    own = {"submitit_folder", "max_num_timeout", "setup", "additional_parameters"}
    executor.update_parameters(
        **{key if key in general else f"slurm_{key}": value for key, value in settings.items() if key not in own},
        # since SLURM 22.05 a step does not have its job's CPUs unless it asks for them
        slurm_setup=["export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}", *(settings["setup"] or [])],
        slurm_additional_parameters={"requeue": True, **(settings["additional_parameters"] or {})},
    )
    return executor


def checked(settings: Mapping[str, Any], memory_gb: float | None = None, images: int = 0) -> dict[str, Any]:
    """Settings that jobs can be submitted with, the memory of a job among them; arguments as `build_executor`.

    Raises:
        UserError: for what this machine lacks, or settings that make no sense.
    """
    for command in ("sbatch", "squeue", "srun"):
        if shutil.which(command) is None:
            raise UserError(
                f"hydra/launcher=slurm: there is no {command} here; run it on a login node, or use hydra/launcher=local"
            )
    check(settings)
    return {**settings, "mem_gb": memory_of(settings, memory_gb, images)}


def check(settings: Mapping[str, Any]) -> None:
    """Refuse settings that make no sense, or that nothing knows.

    Raises:
        UserError: naming the setting.
    """
    from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf  # of the extra `slurm`

    known = {field.name for field in dataclasses.fields(SlurmQueueConf)}
    for key in sorted(settings.keys() - known):
        raise UserError(
            f"unknown key 'hydra.launcher.{key}'{nearest(key, sorted(known))} (what sbatch knows beside goes into "
            "hydra.launcher.additional_parameters)"
        )
    least = {
        "timeout_min": 2,
        "signal_delay_s": 30,
        "max_num_timeout": 0,
        "array_parallelism": 1,
        "cpus_per_task": 1,
        "gpus_per_node": 0,
        "mem_gb": 1,
    }
    for key, lowest in least.items():
        value = settings[key]
        absent = value is None and key in ("cpus_per_task", "gpus_per_node", "mem_gb")
        if not absent and (isinstance(value, bool) or not isinstance(value, int) or value < lowest):
            raise UserError(f"hydra.launcher.{key}={value!r}: give a whole number from {lowest}")
    for key in ("nodes", "tasks_per_node"):
        if settings[key] != 1:
            raise UserError(f"hydra.launcher.{key}={settings[key]}: a job is one process on one node; leave it at 1")
    if settings["signal_delay_s"] >= 60 * settings["timeout_min"] - 60:
        raise UserError(
            f"hydra.launcher.signal_delay_s={settings['signal_delay_s']}: a job of "
            f"timeout_min={settings['timeout_min']} would be told to end as soon as it begins; give less"
        )


def patience_of(settings: Mapping[str, Any]) -> float:
    """Seconds for a command to end in order before its time limit; a third is left for the requeue."""
    return float(settings["signal_delay_s"]) * 2 / 3


@contextmanager
def sbatch_errors() -> Iterator[None]:
    """Say in one line what sbatch refuses.

    Raises:
        UserError: with sbatch's own words.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError  # of the extra `slurm`

    try:
        with redirect_stderr(StringIO()):  # submitit prints the same
            yield
    except (FailedJobError, FailedSubmissionError) as error:
        said = [line.split("error: ", 1)[-1] for line in str(error).splitlines() if "error: " in line]
        raise UserError(
            f"sbatch refuses these jobs: {'; '.join(said) or error} (see partition, account, qos, gpus_per_node, "
            "mem_gb, timeout_min and constraint of hydra.launcher, and what `sinfo` lists)"
        ) from error


def run_on_slurm(jobs: Sequence[Job], executor: Executor, patience: float, *, progress: bool) -> list[Failure]:
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
    ready = [job for job in jobs if all(job.shown != other.shown for other, _ in waiting.values())]
    failures: list[Failure] = []
    watch, later = SlurmStates(), Later[Job](AGAIN)
    with bar(progress) as shown:
        task = shown.add_task("jobs", total=len(jobs))
        try:
            while waiting or ready or later:
                if ready := ready or later.due():
                    waiting |= _submit(ready, executor, patience)
                    ready = []
                    watch.at_once()
                time.sleep(_LOOK_EVERY)
                watch.look(shown)
                for number, (job, handle) in list(waiting.items()):
                    status, why = _outcome(number, handle, watch)
                    if status is None:
                        continue
                    del waiting[number]
                    if status != BUSY:
                        report(job, status, why, failures, shown)
                        shown.advance(task)
                    elif told := later.put_off(job, job.shown, cause(job.log, status)):
                        say(shown, told)
        except KeyboardInterrupt:
            if waiting:
                print(
                    f"{len(waiting)} jobs go on; this command finds them when it is repeated. To end them: scancel "
                    + " ".join(waiting),
                    flush=True,
                )
            raise
    return failures


def find(jobs: Sequence[Job], folder: Path) -> dict[str, tuple[Job, Handle]]:
    """The jobs that are on the cluster already, by their SLURM ids: another launcher submitted them and is gone.

    Args:
        jobs: the jobs.
        folder: submitit's, with `%j` in it.

    Raises:
        UserError: if SLURM does not answer.
    """
    import submitit  # of the extra `slurm`

    wanted = {job.shown: job for job in jobs}
    found: dict[str, tuple[Job, Handle]] = {}
    known = next((asked for _ in range(_TRIES) if (asked := states()) is not None), None)
    if known is None:
        raise UserError(
            "squeue does not answer, so it is not known which of these jobs are on the cluster already; repeat the "
            "command when it does"
        )
    for number, (state, _) in known.items():
        if state == "COMPLETING" or not Path(str(folder).replace("%j", number)).is_dir():
            continue
        handle: Handle = submitit.SlurmJob(folder=folder, job_id=number)
        try:
            theirs = handle.submission().function
        except Exception:  # noqa: BLE001 - unpickling can raise anything; what cannot be read is submitted again
            continue
        if isinstance(theirs, SlurmJob) and theirs.job.shown in wanted:
            del wanted[theirs.job.shown]
            found[number] = theirs.job, handle
    return found


def _submit(jobs: Sequence[Job], executor: Executor, patience: float) -> dict[str, tuple[Job, Handle]]:
    submitted: dict[str, tuple[Job, Handle]] = {}
    for begin in range(0, len(jobs), _ARRAY):
        part = jobs[begin : begin + _ARRAY]
        with sbatch_errors():
            handles = executor.submit_array([SlurmJob(job, patience) for job in part])
        submitted |= {handle.job_id: (job, handle) for job, handle in zip(part, handles, strict=True)}
    return submitted


def _outcome(number: str, handle: Handle, watch: SlurmStates) -> tuple[int | None, str]:
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
