"""`hydra/launcher=module:Class`: a launcher from outside the package, named on the command line."""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from invariance.errors import UserError
from invariance.settings.named import named


class NamedLauncher(Launcher):
    """Hands the jobs of a sweep on.

    Args:
        launcher: `module:Class`, a subclass of Hydra's `Launcher`.
        settings: the arguments of that class, as `+hydra.launcher.KEY=` gives them.
    """

    def __init__(self, launcher: str, **settings: Any) -> None:  # noqa: ANN401
        kind = named(launcher, "hydra/launcher")
        if not (isinstance(kind, type) and issubclass(kind, Launcher)):
            raise UserError(f"hydra/launcher={launcher} is no launcher; give a subclass of hydra's Launcher")
        try:
            self.launcher = kind(**settings)
        except Exception as error:  # whatever its code raises
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(f"hydra/launcher={launcher} cannot be made with these settings ({why})") from error

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Whatever else the sweeper asks of a launcher: `dry`, `elsewhere`, `check`."""
        if name == "launcher":
            raise AttributeError(name)
        return getattr(self.launcher, name)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take the sweep's configuration."""
        self.launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs."""
        jobs: Sequence[JobReturn] = self.launcher.launch(job_overrides, initial_job_idx=initial_job_idx)
        return jobs
