"""What a user is told: a mistake of theirs in one line, be it ours, Hydra's, or a file's or a disk's."""

import os
import re
import sys
import traceback

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from invariance.errors import UserError, nearest
from invariance.launch.known import unknown_setting
from invariance.runs.files import disk_refusal
from invariance.settings.files import choices, conf_dir, page_keys
from invariance.settings.named import is_named
from invariance.settings.outside import FAMILY, outside_config

LAUNCHER = "hydra.launcher."
_COMPOSING = ("hydra._internal.config_loader_impl", "hydra._internal.defaults_list", "hydra.core.override_parser.")


def one_line(error: Exception, page: str) -> str | None:
    """What to tell a user, in one line, of an error that they can mend; None for one that they cannot."""
    said = _said(error, page)
    return None if said is None else " ".join(said.split())


def _said(error: Exception, page: str) -> str | None:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, HydraException) and isinstance(error.__cause__, UserError):  # of a class that Hydra makes
        return str(error.__cause__)
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


def of_hydra(error: Exception) -> bool:
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
    overrides = OverridesParser.create().parse_overrides([one for one in arguments if not one.startswith("-")])
    for override in overrides:
        group = override.key_or_group
        if (conf_dir() / group).is_dir() and not isinstance(override.value(), str | list) and not override.is_delete():
            there = ", ".join(choices(group))
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
        chosen = any(one.lstrip("+").startswith(f"{group}=") for one in sys.argv[1:])
        if key != group and key in known_keys(page) and group in _unset_groups(page) and not chosen:
            there = choices(group, page)
            return f"{key}: there is no {group} yet; choose it, as {group}={there[0]} (there are: {', '.join(there)})"
        if (conf_dir() / key).is_dir() and key not in page_keys(page):
            taken = "; networks= names what it takes" if "networks" in page_keys(page) else ""
            return f"{key}: invariance-{page} has no choice of that{taken} (invariance-{page} --help lists its groups)"
        others = [other for other in known_keys(page) if other != key]
        named = next((one.partition("=")[2] for one in sys.argv[1:] if one.startswith("transform=")), "")
        if group == "transform" and is_named(named):
            others = [f"transform.{one}" for one in outside_config(named) if one == "label" or one not in FAMILY]
            return f"unknown key {key!r}{nearest(key, others)} ({named} has: {', '.join(others)})"
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
        key = getattr(error, "full_key", None) or match[1]
        return f"{key} is not set; set it on the command line: {key}=…"
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
