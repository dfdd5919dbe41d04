"""`hydra/launcher=local`: the jobs of a sweep side by side on one machine (conf/hydra/launcher/local.yaml)."""

import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, ListConfig, OmegaConf

from invariance.errors import UserError
from invariance.launch.forks import Forks
from invariance.launch.jobs import done, jobs_of, options_of, run_jobs, tell
from invariance.launch.slots import Slot, shown_slots, slots_of
from invariance.runs.sweep import SWEEP_VARIABLE, launching


class LocalLauncher(Launcher):
    """Runs every job as the command that a user would type for it alone.

    Args:
        gpus: how many GPUs, or which by number; None for all, empty for none.
        slots: jobs at once where no GPU is used; None for as many as the cores allow.
        cores: CPU cores of a slot where no GPU is used.
        per_gpu: jobs at once on each GPU.
        fork: whether jobs start from one process that has imported what they need.
    """

    def __init__(
        self,
        gpus: ListConfig | int | None = None,
        slots: int | None = None,
        cores: int = 1,
        per_gpu: int = 1,
        fork: bool = True,
    ) -> None:
        self.gpus = OmegaConf.to_container(gpus) if isinstance(gpus, ListConfig) else gpus
        self.slots, self.cores, self.per_gpu, self.fork = slots, cores, per_gpu, fork
        self.config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take the sweep's configuration."""
        self.config = config

    def check(self) -> list[Slot]:
        """The slots that its settings give.

        Raises:
            UserError: for settings that make no sense, or GPUs that are not there.
        """
        if not isinstance(self.fork, bool):
            raise UserError(f"hydra.launcher.fork={self.fork!r}: give true or false")
        return slots_of(self.gpus, self.slots, self.cores, _count_gpus, self.per_gpu)

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
        print(f"{len(jobs)} jobs on {shown_slots(slots)}; what they print is in {folder / 'logs'}", flush=True)
        progress = bool(self.config.get("progress", True))
        with launching(folder), ExitStack() as stack:
            begin = None
            if self.fork and len(jobs) > 1:
                log = folder / "logs" / f"imports.{socket.gethostname()}-{os.getpid()}.log"
                begin = stack.enter_context(Forks(page, slots[0].environment, log)).start
            failures = run_jobs(jobs, slots, progress=progress, begin=begin)
        tell(failures, len(jobs))
        return done(job_overrides)


def _count_gpus() -> int:
    import torch  # takes seconds, and Hydra imports this module for every --help

    return torch.cuda.device_count()
