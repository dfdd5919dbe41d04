"""`hydra/launcher=dry`: the jobs of a sweep, and how far each is; none is run (conf/hydra/launcher/dry.yaml)."""

import os
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from invariance.launch.jobs import done, options_of, shown
from invariance.runs.sweep import read_sweeps


class DryLauncher(Launcher):
    """Tells what a launcher would run.

    Attributes:
        dry: that nothing is to be written for it.
        elsewhere: that its jobs need nothing of this machine.
    """

    dry = elsewhere = True

    def __init__(self) -> None:
        self.config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take the sweep's configuration."""
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Print how many jobs there are, in which state, and those that are not done."""
        assert self.config is not None
        page, options = self.config.hydra.job.name, options_of(self.config)
        known: dict[str, str] = {}
        for sweep in read_sweeps(Path(os.path.expandvars(str(self.config.runs))).expanduser()):
            for job in sweep.jobs if sweep.page == page else ():
                if known.get(job.shown) != "done":
                    known[job.shown] = job.state
        jobs = [shown(page, overrides, options) for overrides in job_overrides]
        states = [known.get(job, "to do") for job in jobs]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        print(f"{len(jobs)} {'job' if len(jobs) == 1 else 'jobs'}: {counts}")
        for command, state in zip(jobs, states, strict=True):
            if state != "done":
                print(f"  {state}: {command}")
        return done(job_overrides)
