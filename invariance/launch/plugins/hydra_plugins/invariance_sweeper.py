"""The sweep of `-m transform=…`: each family brings the ranges of its own networks.

Hydra finds plugins in packages named `hydra_plugins` alone; `invariance.cli.command` puts the folder around it on
the path.
"""

import hashlib
import os
from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from invariance.errors import UserError
from invariance.launch.heeded import check_heeded
from invariance.launch.jobs import options_of, shown
from invariance.launch.sweeping import jobs_of_sweep
from invariance.runs.sweep import SWEEP_VARIABLE, begin_sweep, sweep_folder
from invariance.settings.files import check_keys, page_keys
from invariance.settings.numbers import canonical, with_canonical_names
from invariance.settings.paths import folder as folder_of


class FamilySweeper(BasicSweeper):
    """Hydra's basic sweeper, with a family's own ranges swept wherever the command line names none.

    `-m transform=rotation` trains the four networks of the family; `-m transform=rotation,blur` six;
    `-m transform=rotation range=5` one. The ranges stand in the family's yaml, under `sweep`.

    Before any job is launched all are written down for those who watch, in the sweep's folder, which the processes that
    work at them find in their environment.
    """

    @staticmethod
    def split_arguments(overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:
        """Every job's overrides: the product of all sweeps, a family's own ones included."""
        jobs = jobs_of_sweep(overrides)
        size = max_batch_size or len(jobs)
        return [jobs[i : i + size] for i in range(0, len(jobs), size)]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take the sweep's configuration.

        Raises:
            UserError: if its command is given another name, by which it would be started and looked for.
        """
        page, name = task_function.__module__.rpartition(".")[2], config.hydra.job.get("name")
        if name != page:
            raise UserError(
                f"hydra.job.name={name}: a sweep of invariance-{page} goes by the name {page}; leave this out (with "
                "hydra/launcher=slurm, hydra.launcher.name is what its jobs are called)"
            )
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> object:
        """Run the sweep, once all of its jobs are found right; where nothing is to be written, nothing is.

        Raises:
            UserError: if its folders are none, or its jobs cannot be; before anything is written.
        """
        assert self.config is not None and self.launcher is not None and self.hydra_context is not None
        folder_of(self.config.runs, "runs")
        folder = folder_of(self.config.hydra.sweep.dir, "hydra.sweep.dir")
        with read_write(self.config), open_dict(self.config):  # Hydra takes ~ for a name
            self.config.hydra.sweep.dir = str(folder)
        dry = getattr(self.launcher, "dry", False)
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        self.overrides = self.split_arguments(overrides, None if dry else self.max_batch_size)
        self.validate_batch_is_legal([job for part in self.overrides for job in part])
        if not dry:
            folder.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(self.config, folder / "multirun.yaml")
        begun, results = 0, []
        for part in self.overrides:
            results.append(self.launcher.launch(part, initial_job_idx=begun))
            begun += len(part)
        return results

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Refuse a sweep of which some job cannot be composed, or run on this machine; then write all its jobs down."""
        self._compose(batch)
        assert self.config is not None
        page, options = self.config.hydra.job.name, options_of(self.config)
        if getattr(self.launcher, "dry", False):
            return
        if check := getattr(self.launcher, "check", None):
            check()
        jobs = [shown(page, job, options) for job in batch]
        folder = sweep_folder(folder_of(self.config.runs, "runs"), page, jobs)
        begin_sweep(folder, jobs)
        os.environ[SWEEP_VARIABLE] = str(folder.absolute())

    def _compose(self, batch: Sequence[Sequence[str]]) -> None:
        """Compose every job; refuse a key or a value that no job can have, and a device that none of them would find.

        Raises:
            UserError: where all jobs would fail for it, one after another; or two of them are the same.
        """
        assert self.config is not None and self.hydra_context is not None
        loader, wanted, wrong = self.hydra_context.config_loader, set(), list[UserError]()
        page, options, known = self.config.hydra.job.name, options_of(self.config), dict[bytes, str]()
        for overrides in batch:
            job = loader.load_sweep_config(master_config=self.config, sweep_overrides=list(overrides))
            wanted.add(str(OmegaConf.select(job, "trainer.accelerator", default="")))
            wrong += mistakes(page, job)
            command = shown(page, overrides, options)
            if (other := known.setdefault(_digest(job), command)) != command:
                raise UserError(f"two jobs of this sweep are the same: {other} and {command}; leave one of them out")
        if len(wrong) == len(batch):
            raise wrong[0]
        if wanted <= {"gpu", "cuda"} and not getattr(self.launcher, "elsewhere", False):
            from invariance.device import choose_device  # torch: Hydra imports this module for every --help

            for accelerator in sorted(wanted):
                choose_device(accelerator)


def mistakes(page: str, config: DictConfig) -> list[UserError]:
    """What in a job's configuration is not as its command's schema has it: at most one mistake is told."""
    from invariance.settings.base import checked  # pydantic: Hydra imports this module for every --help
    from invariance.settings.pages import SCHEMAS

    own = sorted(page_keys(page) & {str(key) for key in config} - {"hydra"})
    template = config.hydra.job.config_name
    try:
        check_keys(config, config.hydra, page, None if template == page else template)
        check_heeded(page, config.hydra.overrides.task, config)
        config = with_canonical_names(config)
        chosen = {key: OmegaConf.select(config, key, throw_on_missing=True) for key in own}
        values = {
            key: OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
            if OmegaConf.is_config(value)
            else value
            for key, value in chosen.items()
        }
        checked(SCHEMAS[page], values)
        if isinstance(solvers := values.get("solver"), dict):
            from invariance.maps.spec import maps_of  # torch, which few sweeps need

            maps_of({}, {str(name): settings for name, settings in solvers.items()})
    except UserError as error:
        return [error]
    except OmegaConfBaseException:  # what only the running job knows, or lacks: it says so itself
        pass
    return []


def _digest(job: DictConfig) -> bytes:
    """What two jobs of the same settings have in common, however their numbers are written."""
    settings = OmegaConf.to_container(job, resolve=False)
    assert isinstance(settings, dict)
    text = repr(canonical({key: value for key, value in settings.items() if key != "hydra"}))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
