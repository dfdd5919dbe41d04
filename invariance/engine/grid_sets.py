"""Sets of grids that are chosen by one name, as `grids=[corruptions]`: the files of `conf/sets/`."""

from collections.abc import Mapping
from typing import Any

from invariance.settings.files import conf_dir, set_config

SEVERITIES = "invariance.transforms.severities.Severities"


def sets() -> dict[str, list[str]]:
    """The sets, and the names of the grids in each: `corruptions` has `corruptions.fog`."""
    names = sorted(path.stem for path in (conf_dir() / "sets").glob("*.yaml"))
    return {name: [f"{name}.{entry}" for entry in set_config(name)] for name in names}


def in_set(grid: str) -> tuple[str, dict[str, Any]]:
    """The family of a grid in a set, and its settings."""
    name, _, entry = grid.partition(".")
    settings = dict(set_config(name)[entry])
    return str(settings.pop("family")), settings


def severities(grid: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a grid in a set, of its family's."""
    return {"name": grid, "_target_": SEVERITIES, "of": dict(config)}
