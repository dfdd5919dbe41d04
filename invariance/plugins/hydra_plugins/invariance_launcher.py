"""`hydra/launcher=local`: the jobs of a sweep side by side on one machine (conf/hydra/launcher/local.yaml)."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, ListConfig, OmegaConf

from invariance.errors import UserError
from invariance.launch import Job, python_module, run_jobs, slots_of


class LocalLauncher(Launcher):
    """Runs every job as the command that a user would type for it alone.

    Args:
        gpus: GPUs by number; None for all, empty for none.
        slots: jobs at once where no GPU is used; None for as many as the cores allow.
        cores: CPU cores of a slot where no GPU is used.
    """

    def __init__(self, gpus: ListConfig | None = None, slots: int | None = None, cores: int = 1) -> None:
        self.gpus = OmegaConf.to_container(gpus) if isinstance(gpus, ListConfig) else gpus
        self.slots, self.cores = slots, cores
        self.config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take the sweep's configuration."""
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs, and say at the end which failed, why, and how to repeat them.

        Raises:
            UserError: if any failed.
        """
        assert self.config is not None
        slots = slots_of(self.gpus, self.slots, self.cores, _count_gpus)
        page = self.config.hydra.job.name
        options = []
        for source in self.config.hydra.runtime.config_sources:
            if source.provider == "command-line":
                options += ["--config-dir", source.path]
        if self.config.hydra.job.config_name not in (None, page):
            options += ["--config-name", self.config.hydra.job.config_name]
        jobs = []
        for number, overrides in enumerate(job_overrides, start=initial_job_idx):
            log = Path(self.config.hydra.sweep.dir) / "logs" / f"{number}.log"
            shown = shlex.join([f"invariance-{page}", *overrides, *options])
            quiet = [] if any(one.startswith("progress=") for one in overrides) else ["progress=false"]
            jobs.append(Job(python_module(page, [*overrides, *quiet], options), shown, log))
        where = f"{len(slots)} × {slots[0].name.split()[0]}" if len(slots) > 1 else slots[0].name
        print(f"{len(jobs)} jobs on {where}; what they print is in {log.parent}")
        failures = run_jobs(jobs, slots, progress=bool(self.config.get("progress", True)))
        for failure in failures:
            print(f"failed: {failure.why}\n  again: {failure.job.shown}\n  log: {failure.job.log}")
        if failures:
            raise UserError(f"{len(failures)} of {len(jobs)} jobs failed, for the reasons above; the others are done")
        done = []
        for overrides in job_overrides:
            result = JobReturn()
            result.overrides, result.status, result.return_value = list(overrides), JobStatus.COMPLETED, None
            done.append(result)
        return done


def _count_gpus() -> int:
    import torch

    return torch.cuda.device_count()
