"""What a sweep is called, and which jobs of different sweeps are about the same: told from their commands alone."""

import re
import shlex
from collections.abc import Sequence

_PLACES = (
    "runs",
    "prepared",
    "features",
    "progress",
    "logger",
    "trainer",
    "memory_gb",
    "hydra",
    "data.root",
    "data.verify",
)
"""Keys that say where and how a job runs, not what it is about; with the keys below them."""

_MAKING = ("recipe", "model")
"""Keys that do not stand in a run's name either."""

_LONGEST = 80
"""Characters of what a name says of what is swept."""


def overrides_of(shown: str) -> tuple[str, dict[str, str]]:
    """The template of a job's command, "" without one, and its overrides by key; the last of a key counts.

    Args:
        shown: the command as a user types it.
    """
    try:
        words = shlex.split(shown)[1:]
    except ValueError:
        return "", {}
    template, found, flag = "", dict[str, str](), ""
    for word in words:
        if flag:
            template, flag = word if flag == "--config-name" else template, ""
        elif word.startswith("-"):
            flag = word if word.startswith("--config-") else ""
        else:
            key, _, value = word.partition("=")
            found.pop(key.lstrip("+"), None)
            found[key.lstrip("+")] = value
    return template, found


def subject(shown: str) -> tuple[str, frozenset[tuple[str, str]]]:
    """What a job is about: jobs of one subject make the same runs, wherever and however they run."""
    template, overrides = overrides_of(shown)
    return template, frozenset(one for one in overrides.items() if not _is_one_of(one[0], (*_PLACES, *_MAKING)))


def title(page: str, jobs: Sequence[str]) -> str:
    """What a sweep is: `train paper_networks data=ilsvrc, network=baseline_1 … shear_20`.

    Args:
        page: the command.
        jobs: its jobs, as a user would type each alone.
    """
    told = [overrides_of(job) for job in jobs]
    if not told:
        return page
    first = told[0][1]
    keys = [key for key in first if not _is_one_of(key, _PLACES)]
    same = [key for key in keys if all(overrides.get(key) == first[key] for _, overrides in told)]
    swept = []
    for key in (key for key in keys if key not in same):
        values = list(dict.fromkeys(overrides.get(key, "") for _, overrides in told))
        listed = ",".join(values)
        swept.append(f"{key}={listed if len(listed) <= _LONGEST // 2 else f'{values[0]} … {values[-1]}'}")
    common = " ".join(filter(None, [page, told[0][0], *(f"{key}={first[key]}" for key in same)]))
    whole = ", ".join([common, *swept])
    return whole if len(whole) <= 2 * _LONGEST else f"{whole[: 2 * _LONGEST]}…"


def _is_one_of(key: str, names: Sequence[str]) -> bool:
    return any(key == name or re.match(rf"{re.escape(name)}[./@]", key) is not None for name in names)
