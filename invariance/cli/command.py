"""The edge to the command line: Hydra composes, a page runs, a mistake becomes one line."""

import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from invariance.cli.heeded import check_heeded
from invariance.errors import Busy, UserError, nearest
from invariance.launch.jobs import BUSY, shown
from invariance.launch.known import unknown_setting
from invariance.runs.files import disk_refusal
from invariance.runs.mending import Mending, failed_alike, shown_of
from invariance.runs.processes import signals_interrupt, was_interrupted
from invariance.runs.surroundings import Streams, require_utf8_names, undisturbed
from invariance.runs.sweep import JOB_VARIABLE, SWEEP_VARIABLE, Attempt, find_jobs, to_the_end
from invariance.settings.files import check_choices, check_keys, conf_dir, family_sweep, page_keys
from invariance.settings.nested import check_value
from invariance.settings.numbers import with_canonical_names

Job = Callable[[dict[str, Any]], None]
MISTAKE, INTERRUPTED = 2, 130
LAUNCHER = "hydra.launcher."
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
_COMPOSING = ("hydra._internal.config_loader_impl", "hydra._internal.defaults_list", "hydra.core.override_parser.")
_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


def command(page: str, job: str | Job) -> None:
    """Run one page as a Hydra command: `conf/<page>.yaml` and the command line, handed to `job` as plain data.

    Args:
        page: the command's name, and that of its file in `conf/`.
        job: what it does, as `module:function`, which is imported once the configuration is composed, so that `--help`
            waits for nothing; or the function itself.

    A `UserError` is printed as one line and the process exits with status 2, or with 75 if nothing is wrong but that
    another process works at the same. A job of a sweep hands its error on to the launcher, as a `UserError`.
    HYDRA_FULL_ERROR=1 shows every traceback. What a shell or a scheduler sets around it changes no number
    (`invariance.runs.surroundings`).
    """
    with undisturbed() as (streams, ignored):
        _command(page, job, streams, ignored)


def _command(page: str, job: str | Job, streams: Streams, ignored: list[str]) -> None:
    find_plugins()
    import hydra

    tracebacks = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on instead of printing them over several lines
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    statuses, begun = set(), False

    def task(config: DictConfig) -> None:
        nonlocal begun
        begun = True
        try:
            require_utf8_names()
            tell_ignored(ignored)
            streams.tell = page != "status"  # which is for looking at, also through `head`
            with attempt(page, config), to_the_end():
                plain = plain_of(page, config)
                function_of(job)(plain)
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
        if line is None and not begun and _of_hydra(error):
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


def function_of(job: str | Job) -> Job:
    """A command's function, imported where it is named."""
    if not isinstance(job, str):
        return job
    module, _, name = job.partition(":")
    function: Job = getattr(import_module(module), name)
    return function


def tell_ignored(names: list[str]) -> None:
    """Say, once, which variables of the environment were not heeded; the list is empty then."""
    if names:
        print(f"note: not heeded, for the configuration decides: {', '.join(names)}", file=sys.stderr, flush=True)
        names.clear()


def plain_of(page: str, config: DictConfig) -> dict[str, Any]:
    """A command's configuration as plain data, without keys that are there only to be referred to.

    Raises:
        UserError: for a key that the command does not have, and that nothing refers to.
        OmegaConfBaseException: for what cannot be resolved, or is not set.
    """
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    template = None if hydra.job.config_name == page else hydra.job.config_name
    return resolved(page, config, hydra, template)  # type: ignore[arg-type]


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
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

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


def one_line(error: Exception, page: str) -> str | None:
    """What to tell a user, in one line, of an error that they can mend; None for one that they cannot."""
    said = _said(error, page)
    return None if said is None else " ".join(said.split())


def _said(error: Exception, page: str) -> str | None:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, YAMLError):
        return no_yaml(error)
    if isinstance(error, ValueError) and str(error).startswith("Config group override must be"):
        return no_choice(sys.argv[1:])
    if isinstance(error, OSError) and not isinstance(error, HydraException):  # one of Hydra's is both
        return disk_refusal(error)
    if isinstance(error, RuntimeError) and "home directory" in str(error):  # pathlib's
        return "a folder begins with ~, and this user has no home folder: set HOME, or write the folder out"
    if isinstance(error, HydraException | OmegaConfBaseException):
        return explain(error, page)
    return uncomposed(error, page) if _in_composition(error) else None


def _in_composition(error: Exception) -> bool:
    """Whether Hydra was reading a command line or its files when an error came."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(str(frame.f_globals.get("__name__")).startswith(_COMPOSING) for frame, _ in frames)


def _of_hydra(error: Exception) -> bool:
    """Whether an error came out of Hydra, of its plugins or of what it starts, and out of nothing of ours."""
    frames = [str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    ours = [k for k, name in enumerate(frames) if name.startswith("invariance") or "invariance_" in name]
    return any(name.startswith("hydra") for name in frames[ours[-1] if ours else 0 :])


def uncomposed(error: Exception, page: str) -> str:
    """One line for what Hydra's own code trips over: an entry of a group that is no name, thousands of brackets.

    Args:
        error: Python's own, raised inside of Hydra.
        page: the command.
    """
    if isinstance(error, RecursionError):
        return "a value of the command line or of a file is nested too deeply; write it flat"
    return (
        f"Hydra cannot compose this configuration ({type(error).__name__}: {error}); give names of its files to "
        f"groups, as trainer=cpu, and plain values to keys (invariance-{page} --help lists them)"
    )


def no_choice(arguments: list[str]) -> str:
    """What to tell of a command line on which a group is set to null, or to what else names no file."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    overrides = OverridesParser.create().parse_overrides([one for one in arguments if not one.startswith("-")])
    for override in overrides:
        group = override.key_or_group
        if (conf_dir() / group).is_dir() and not isinstance(override.value(), str | list) and not override.is_delete():
            there = ", ".join(sorted(path.stem for path in (conf_dir() / group).glob("*.yaml")))
            given = str(override.input_line).partition("=")[2]
            return f"{group}={given}: choose one by its name, or leave it out (there are: {there})"
    return "a group of the configuration is set to null, or to what names no file; choose one of its files"


def no_yaml(error: Exception) -> str:
    """Where a file stops being YAML, and why, in a line.

    Args:
        error: PyYAML's.
    """
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None:
        return f"not YAML: {' '.join(str(error).split())}"
    return f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}: not YAML: {problem}"


def find_plugins() -> None:
    """Let Hydra find the project's own plugins, in `invariance/launch/plugins/hydra_plugins/`."""
    folder = str(Path(__file__).parents[1] / "launch" / "plugins")
    if folder not in sys.path:
        sys.path.append(folder)


def say_error(message: str) -> None:
    """Print one line to standard error; where it cannot be written, as to a log on a full disk, it is given up."""
    try:
        print("error: " + " ".join(message.split()), file=sys.stderr, flush=True)
        sys.stdout.flush()
    except OSError:
        give_up_output()


def give_up_output() -> None:
    """Let what cannot be written go nowhere: Python would try again at its end, and end with a status of its own."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def explain(error: Exception, page: str) -> str:
    """One line for an error of composing the configuration: what, where, what to do."""
    from hydra.errors import MissingConfigException, OverrideParseException

    text = str(error) or f"the configuration cannot be composed: {error.__cause__ or type(error).__name__}"
    first = next(iter(text.strip().splitlines()), type(error).__name__)
    if "hydra/launcher/submitit_slurm" in text:  # whose settings conf/hydra/launcher/slurm.yaml begins with
        return "hydra/launcher=slurm: hydra-submitit-launcher is not installed; pip install 'invariance[slurm]'"
    if isinstance(error, MissingConfigException) and error.options is not None and error.missing_cfg_file:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        options = list(error.options)
        return f"{group}={choice}: there is no such {group}{nearest(choice, options)} (there are: {', '.join(options)})"
    if match := re.search(r"Ambiguous value for argument '(.+?)'", text):
        return f"{match[1]} names several values: add -m to run each of them, or write one value"
    if match := re.search(r"Could not override '(.+?)'", text):
        key = match[1].split("@")[0]
        if key.startswith(LAUNCHER):
            return unknown_setting(key.removeprefix(LAUNCHER), sys.argv[1:])
        group = key.partition(".")[0]
        if key != group and key in known_keys(page) and group in _unset_groups(page):
            there = sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))
            return f"{key}: there is no {group} yet; choose it, as {group}={there[0]} (there are: {', '.join(there)})"
        others = [other for other in known_keys(page) if other != key]
        return f"unknown key {key!r}{nearest(key, others)} (invariance-{page} --help lists them)"
    if "Launcher'" in first and (match := re.search(r"unexpected keyword argument '(\w+)'", text)):
        return unknown_setting(match[1], sys.argv[1:])
    if match := re.match("Error merging override (.+)", first):  # what Hydra's own schema refuses
        why = next(iter(str(error.__cause__).splitlines()), "")
        return f"{match[1]}: {'it cannot be null; give a value' if why.endswith('is not Optional') else why}"
    if isinstance(error, OverrideParseException):
        key, _, value = error.override.partition("=")
        if value and not set(value) & set("'\""):
            out = f", or write the path out, as {key}={os.path.expanduser(value)}" if value.startswith("~") else ""
            return f"{error.override}: Hydra cannot read this value; quote it for Hydra, as '{key}=\"{value}\"'{out}"
        return f"{error.override!r} is no override; give key=value (invariance-{page} --help lists the keys)"
    if match := re.search(r"Interpolation key '(.+?)' not found", text):
        return f"the configuration refers to {match[1]!r}, which is not set; set it on the command line: {match[1]}=…"
    if match := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{match[1]} is not set; set it on the command line: {match[1]}=…"
    return first


def _unset_groups(page: str) -> list[str]:
    """The groups of a page from which nothing is chosen unless the command line does."""
    defaults = OmegaConf.to_container(OmegaConf.load(conf_dir() / f"{page}.yaml").defaults, resolve=False)
    assert isinstance(defaults, list)
    chosen = [one for entry in defaults if isinstance(entry, dict) for one in entry.items()]
    return [str(group) for group, choice in chosen if not choice]


def known_keys(page: str) -> list[str]:
    """Every key a command line of the page may set: its own, its groups, and the keys of their options."""
    keys: set[str] = set()
    for path in [conf_dir() / f"{page}.yaml", *sorted(conf_dir().glob("*/*.yaml"))]:
        group = "" if path.parent == conf_dir() else path.parent.name
        keys |= {group} if group else set()
        own = [key for key in map(str, OmegaConf.load(path)) if key != "defaults"]
        keys |= {f"{group}.{key}" if group else key for key in own}
    return sorted(keys)


def require_range(transform: Mapping[str, Any]) -> None:
    """Refuse to train a family without its range.

    Raises:
        UserError: naming the family's own ranges.
    """
    sweep = family_sweep(str(transform["name"]))
    if transform.get("range") is None and "range" in sweep:
        own = ", ".join(sweep["range"])
        raise UserError(
            f"transform={transform['name']} needs a range, as range={sweep['range'][-1]}; "
            f"-m transform={transform['name']} trains one network for each of its own ({own})"
        )


def folder(value: object, key: str) -> Path:
    """A folder named in the configuration, with ~ and $VARIABLES expanded.

    Raises:
        UserError: if it is not a path.
    """
    if not isinstance(value, str) or not value:
        raise UserError(f"{key}={value!r} is not a folder; give a path")
    from invariance.settings.base import shown as shown_value
    from invariance.settings.fields import path_of

    expanded = os.path.expandvars(value)
    try:
        path_of(expanded)
    except ValueError as error:
        raise UserError(f"{key}={shown_value(value)}: {error}") from error
    return Path(expanded).expanduser()
