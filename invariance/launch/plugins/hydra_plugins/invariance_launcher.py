"""`hydra/launcher=local`: the jobs of a sweep side by side on one machine (conf/hydra/launcher/local.yaml)."""

import os
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, ListConfig, OmegaConf

from invariance.launch.jobs import done, jobs_of, options_of, run_jobs, tell
from invariance.launch.slots import Slot, slots_of
from invariance.runs.sweep import SWEEP_VARIABLE, launching


class LocalLauncher(Launcher):
    """Runs every job as the command that a user would type for it alone.

    Args:
        gpus: how many GPUs, or which by number; None for all, empty for none.
        slots: jobs at once where no GPU is used; None for as many as the cores allow.
        cores: CPU cores of a slot where no GPU is used.
    """

    def __init__(self, gpus: ListConfig | int | None = None, slots: int | None = None, cores: int = 1) -> None:
        self.gpus = OmegaConf.to_container(gpus) if isinstance(gpus, ListConfig) else gpus
        self.slots, self.cores = slots, cores
        self.config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take the sweep's configuration."""
        self.config = config

    def check(self) -> list[Slot]:
        """The slots that its settings give.

        Raises:
            UserError: for settings that make no sense, or GPUs that are not there.
        """
        return slots_of(self.gpus, self.slots, self.cores, _count_gpus)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs, and say at the end which failed, why, and how to repeat them.

        Raises:
            UserError: if any failed.
        """
        assert self.config is not None
        slots = self.check()[: len(job_overrides)]
        page, options = self.config.hydra.job.name, options_of(self.config)
        folder = Path(os.environ[SWEEP_VARIABLE])
        jobs = jobs_of(page, job_overrides, options, folder, initial_job_idx)
        where = f"{len(slots)} × {slots[0].name.split()[0]}" if len(slots) > 1 else slots[0].name
        print(f"{len(jobs)} jobs on {where}; what they print is in {folder / 'logs'}", flush=True)
        with launching(folder):
            failures = run_jobs(jobs, slots, progress=bool(self.config.get("progress", True)))
        tell(failures, len(jobs))
        return done(job_overrides)


def _count_gpus() -> int:
    import torch  # takes seconds, and Hydra imports this module for every --help

    return torch.cuda.device_count()
