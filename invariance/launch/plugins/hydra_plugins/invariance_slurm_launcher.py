"""`hydra/launcher=slurm`: the jobs of a sweep on a SLURM cluster (conf/hydra/launcher/slurm.yaml)."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from invariance.launch.jobs import done, jobs_of, options_of, tell
from invariance.launch.slurm import build_executor, checked, patience_of, run_on_slurm
from invariance.launch.slurm_memory import read_again
from invariance.runs.sweep import SWEEP_VARIABLE, launching
from invariance.settings.paths import folder as folder_of


class SlurmLauncher(Launcher):
    """Runs every job as a SLURM job: the command that a user would type for it alone.

    Args:
        settings: those of hydra-submitit-launcher.

    Attributes:
        elsewhere: that its jobs need nothing of this machine.
    """

    elsewhere = True

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401
        self.settings = {
            key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for key, value in settings.items()
        }
        self.config: DictConfig | None = None
        self.context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take the sweep's configuration, and what composes a job's."""
        self.config, self.context = config, hydra_context

    def check(self) -> None:
        """Refuse settings that make no sense, and a machine that cannot submit jobs.

        Raises:
            UserError: naming what is wrong.
        """
        assert self.config is not None
        checked(self.settings, self.config.get("memory_gb"))

    def _images(self, job_overrides: Sequence[Sequence[str]]) -> int:
        """Bytes that a job reads again and again: of the job with the most, for jobs of an array ask for the same."""
        assert self.config is not None and self.context is not None
        page, prepared = self.config.hydra.job.name, folder_of(self.config.prepared, "prepared")
        jobs = {tuple(one for one in job if one.startswith(("data=", "data."))): job for job in job_overrides}
        configs = [self.context.config_loader.load_sweep_config(self.config, list(job)) for job in jobs.values()]
        names = {OmegaConf.select(config, "data.name", default=None) for config in configs}
        return max((read_again(page, prepared, name) for name in names), default=0)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs, and say at the end which failed, why, and how to repeat them.

        Raises:
            UserError: if any failed.
        """
        assert self.config is not None
        folder = Path(os.environ[SWEEP_VARIABLE])
        files = folder / str(self.settings["submitit_folder"])
        images = self._images(job_overrides)
        executor = build_executor(self.settings, files, self.config.get("memory_gb"), images)
        jobs = jobs_of(self.config.hydra.job.name, job_overrides, options_of(self.config), folder, initial_job_idx)
        print(f"{len(jobs)} jobs on SLURM; what they print is in {folder / 'logs'}", flush=True)
        progress = bool(self.config.get("progress", True))
        with launching(folder):
            failures = run_on_slurm(jobs, executor, patience_of(self.settings), progress=progress)
        tell(failures, len(jobs))
        return done(job_overrides)
