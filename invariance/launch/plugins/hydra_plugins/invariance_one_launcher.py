"""`hydra/launcher=one`: the jobs of a sweep one after another in this process (conf/hydra/launcher/one.yaml)."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn, run_job
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from invariance.errors import Busy
from invariance.launch.jobs import AGAIN, LOOK_EVERY, Failure, Later, done, options_of, shown, tell
from invariance.runs.processes import was_interrupted
from invariance.runs.sweep import SWEEP_VARIABLE, launching


class OneLauncher(Launcher):
    """Runs the jobs in their order; one that fails harms no other, and one that another process works at is put off."""

    def __init__(self) -> None:
        self.config: DictConfig | None = None
        self.context: HydraContext | None = None
        self.task: TaskFunction | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take the sweep's configuration and what a job runs."""
        self.config, self.context, self.task = config, hydra_context, task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs, and say at the end which failed, why, and how to repeat them.

        Raises:
            UserError: if any failed.
            KeyboardInterrupt: if it was interrupted.
        """
        assert self.config is not None
        page, options = self.config.hydra.job.name, options_of(self.config)
        names = [shown(page, overrides, options) for overrides in job_overrides]
        waiting, later = list(range(len(names))), Later[int](AGAIN)
        failures: list[Failure] = []
        begun: set[int] = set()
        with launching(Path(os.environ[SWEEP_VARIABLE])):
            while waiting or later:
                if not (waiting := waiting or later.due()):
                    time.sleep(LOOK_EVERY)
                    continue
                n = waiting.pop(0)
                if n not in begun:  # one that is put off is tried many times
                    print(f"job {n + 1} of {len(names)}: {names[n]}", flush=True)
                begun.add(n)
                error = self._run(job_overrides[n], initial_job_idx + n)
                if error is None:
                    continue
                why, busy = error
                if not busy:
                    failures.append(Failure(names[n], why))
                    print(f"failed: {names[n]}: {why}", file=sys.stderr, flush=True)
                elif said := later.put_off(n, names[n], why):
                    print(said, file=sys.stderr, flush=True)
        tell(failures, len(names))
        return done(job_overrides)

    def _run(self, overrides: Sequence[str], number: int) -> tuple[str, bool] | None:
        """Run a job.

        Returns:
            What ended it, in a line, and whether another process works at it; None if it is done. The error itself is
            let go: it would keep what the job had in memory.
        """
        assert self.config is not None and self.context is not None
        config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
            config.hydra.sweep.dir = self.config.hydra.sweep.dir  # with the user's home in it
        raised: list[tuple[str, bool]] = []

        def task(chosen: DictConfig) -> None:
            """The job, whose error is noted and goes no further."""
            assert self.task is not None
            try:
                self.task(chosen)
            except Exception as error:
                if was_interrupted():  # in the middle of an import an interruption can come out as anything
                    raise KeyboardInterrupt from error
                raised.append((str(error), isinstance(error, Busy)))

        run_job(
            task, config, job_dir_key="hydra.sweep.dir", job_subdir_key="hydra.sweep.subdir", hydra_context=self.context
        )
        return raised[0] if raised else None
