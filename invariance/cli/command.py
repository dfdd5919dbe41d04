"""The edge to the command line: Hydra composes, a page runs, a mistake becomes one line."""

import gc
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from invariance.cli.messages import of_hydra, one_line, say_error
from invariance.errors import Busy, UserError
from invariance.launch.heeded import check_heeded
from invariance.launch.jobs import BUSY, shown
from invariance.runs.mending import Mending, failed_alike, shown_of
from invariance.runs.processes import signals_interrupt, was_interrupted
from invariance.runs.surroundings import Streams, require_utf8_names, undisturbed
from invariance.runs.sweep import JOB_VARIABLE, SWEEP_VARIABLE, Attempt, find_jobs, to_the_end
from invariance.settings.files import check_choices, check_keys, conf_dir, page_keys
from invariance.settings.nested import check_value
from invariance.settings.numbers import with_canonical_names
from invariance.settings.paths import folder

Experiment = Callable[[dict[str, Any]], None]
MISTAKE, INTERRUPTED = 2, 130
_WITH_VALUE = (
    "--package",
    "-p",
    "--config-path",
    "-cp",
    "--config-name",
    "-cn",
    "--config-dir",
    "-cd",
    "--cfg",
    "-c",
    "--experimental-rerun",
)
_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


def command(page: str, experiment: str | Experiment) -> None:
    """Run one page as a Hydra command: `conf/<page>.yaml` and the command line, handed to `experiment` as plain data.

    Args:
        page: the command's name, and that of its file in `conf/`.
        experiment: what it does, as `module:function`, which is imported once the configuration is composed, so that
            `--help` waits for nothing; or the function itself.

    A `UserError` is printed as one line and the process exits with status 2, or with 75 if nothing is wrong but that
    another process works at the same. A job of a sweep hands its error on to the launcher, as a `UserError`.
    HYDRA_FULL_ERROR=1 shows every traceback. What a shell or a scheduler sets around it changes no number
    (`invariance.runs.surroundings`).
    """
    with undisturbed() as (streams, ignored):
        _command(page, experiment, streams, ignored)


def _command(page: str, experiment: str | Experiment, streams: Streams, ignored: list[str]) -> None:
    find_plugins()

    tracebacks = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on instead of printing them over several lines
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    statuses, begun = set(), False

    def task(config: DictConfig) -> None:
        """What Hydra runs once the configuration is composed."""
        nonlocal begun
        begun = True
        try:
            require_utf8_names()
            tell_ignored(ignored)
            streams.tell = page != "status"  # which is for looking at, also through `head`
            with attempt(page, config), to_the_end():
                plain = plain_of(page, config)
                function_of(experiment)(plain)
        except Exception as error:
            line = one_line(error, page)
            if number_in_sweep() is not None:
                raise told(error, line, tracebacks) from None
            if tracebacks or line is None:
                raise
            # not handed on to Hydra, which would add lines of its own and end the sweep
            statuses.add(BUSY if isinstance(error, Busy) else MISTAKE)
            say_error(line)
        finally:
            streams.look()

    task.__module__ = f"invariance.{page}"
    sys.argv[1:] = flags_last(sys.argv[1:])
    try:
        with signals_interrupt():
            try:
                for argument in sys.argv[1:]:
                    check_value(argument)
                hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=page)(task)()
            except Exception as error:  # in the middle of an import an interruption can come out as anything
                if was_interrupted():
                    raise KeyboardInterrupt from error
                raise
    except Exception as error:
        line = one_line(error, page)
        if line is None and not begun and of_hydra(error):
            said = f"{type(error).__name__}: {error}".rstrip(": ")
            line = f"Hydra refuses this command line ({said}); invariance-{page} --hydra-help shows its flags and keys"
        if tracebacks or line is None:
            raise
        say_error(line)
        sys.exit(MISTAKE)
    except KeyboardInterrupt:
        say_error("interrupted; the same command continues where this one stopped")
        sys.exit(INTERRUPTED)
    finally:
        if not tracebacks:
            del os.environ["HYDRA_FULL_ERROR"]
    if statuses:
        sys.exit(MISTAKE if MISTAKE in statuses else BUSY)


def function_of(experiment: str | Experiment) -> Experiment:
    """A command's function, imported where it is named."""
    if not isinstance(experiment, str):
        return experiment
    module, _, name = experiment.partition(":")
    with _uncollected():
        function: Experiment = getattr(import_module(module), name)
    return function


@contextmanager
def _uncollected() -> Iterator[None]:
    """Collect no garbage while modules are imported: they leave hardly any, and looking for it takes time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def require_sweep(hydra: DictConfig) -> None:
    """Refuse a launcher that is typed where there is no sweep, whose jobs alone it runs: `dry` would be no dry run.

    Args:
        hydra: Hydra's own part of the configuration.

    Raises:
        UserError: naming what was typed.
    """
    launching = ("hydra/launcher=", "hydra.launcher.")
    typed = [one for one in hydra.overrides.hydra if one.lstrip("+").startswith(launching)]
    if typed and hydra.mode == RunMode.RUN:
        raise UserError(f"{typed[0]}: it runs the jobs of a sweep, and this is one command; add -m, or leave it out")


def tell_ignored(names: list[str]) -> None:
    """Say, once, which variables of the environment were not heeded; the list is empty then."""
    if names:
        print(f"note: not heeded, for the configuration decides: {', '.join(names)}", file=sys.stderr, flush=True)
        names.clear()


def plain_of(page: str, config: DictConfig) -> dict[str, Any]:
    """A command's configuration as plain data, without keys that are there only to be referred to.

    Raises:
        UserError: for a key that the command does not have, and that nothing refers to; for a launcher without a sweep.
        OmegaConfBaseException: for what cannot be resolved, or is not set.
    """
    hydra = HydraConfig.get()
    require_sweep(hydra)  # type: ignore[arg-type]
    template = None if hydra.job.config_name == page else hydra.job.config_name
    return resolved(page, config, hydra, template)  # type: ignore[arg-type]


@contextmanager
def noting_deprecations() -> Iterator[None]:
    """Say in a line what a configuration marks as out of date (OmegaConf's `oc.deprecated`), and not as Python does."""
    with warnings.catch_warnings(record=True) as said:
        warnings.filterwarnings("always", message=".* is deprecated. Change your code and config")
        yield
    for text in dict.fromkeys(str(one.message) for one in said):
        if not text.startswith("'hydra."):  # Hydra's list of what was typed has it, too
            print(f"note: {text}", file=sys.stderr, flush=True)


@noting_deprecations()
def resolved(page: str, config: DictConfig, hydra: DictConfig, template: str | None = None) -> dict[str, Any]:
    """As `plain_of`, of a configuration with Hydra's own part of it beside."""
    check_keys(config, hydra, page, template)
    config = with_canonical_names(config)
    check_choices(page, config, hydra)
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except RecursionError as error:
        raise UserError("a value of the configuration refers to itself; write it out") from error
    assert isinstance(plain, dict)
    check_heeded(page, hydra.overrides.task, config)
    known = page_keys(page)
    return {str(key): value for key, value in plain.items() if key in known - {"hydra"}}


def attempt(page: str, config: DictConfig) -> AbstractContextManager[object]:
    """What tells those who watch a sweep that this process works at one of its jobs; nothing outside of all sweeps.

    A command that is typed alone, as a failed job is repeated, is a job of the sweeps that have the same; and what
    failed in other sweeps is mended by one that is about the same, and ends well.
    """
    launched, number, here = os.environ.get(SWEEP_VARIABLE), os.environ.get(JOB_VARIABLE), number_in_sweep()
    attempts = ExitStack()
    value = config.get("runs")
    runs = folder(value, "runs") if isinstance(value, str) else Path("runs")
    if launched and (number is not None or here is not None):
        own = [(Path(launched), int(number) if number is not None else here or 0)]
    else:
        own = find_jobs(runs, page, shown(page, sys.argv[1:], [])) if here is None else []
    for sweep, job in own:
        attempts.enter_context(Attempt(sweep, job))
    mine = shown_of(*own[0]) if own else shown(page, sys.argv[1:], []) if here is None else ""
    for sweep, job in failed_alike(runs, page, mine, own) if mine else ():
        attempts.enter_context(Mending(sweep, job))
    return attempts


def number_in_sweep() -> int | None:
    """The number of the job that runs now, of a sweep whose jobs run one after another in this process; else None."""
    hydra = HydraConfig.get()
    return int(hydra.job.num) if hydra.mode == RunMode.MULTIRUN else None


def told(error: Exception, line: str | None, tracebacks: bool) -> UserError:
    """What a sweep is told of a job's error; of one that no user can mend the traceback is printed here and now.

    Args:
        error: the error.
        line: what to tell a user of it; None if nothing can be told in a line.
        tracebacks: whether every traceback is wanted.
    """
    if (line is None or tracebacks) and not was_interrupted():
        print("".join(traceback.format_exception(error)), end="", file=sys.stderr, flush=True)
    if isinstance(error, UserError):
        return error
    return UserError(line or " ".join(f"{type(error).__name__}: {error}".split()))


def flags_last(arguments: list[str]) -> list[str]:
    """The command line with Hydra's flags behind the overrides: it refuses overrides on both sides of a flag."""
    overrides: list[str] = []
    flags: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            return arguments
        if not argument.startswith("-"):
            # --info takes a word only if it is one of its own
            (flags if flags and flags[-1] in ("--info", "-i") and argument in _INFO else overrides).append(argument)
            continue
        flags.append(argument)
        if argument in _WITH_VALUE:
            flags += [value for value in [next(rest, None)] if value is not None]
    return overrides + flags


def find_plugins() -> None:
    """Let Hydra find the project's own plugins, in `invariance/launch/plugins/hydra_plugins/`."""
    folder = str(Path(__file__).parents[1] / "launch" / "plugins")
    if folder not in sys.path:
        sys.path.append(folder)
