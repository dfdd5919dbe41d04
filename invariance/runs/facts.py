"""The files of a run directory that say what it is: its configuration, its provenance, and what else has a name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from invariance.errors import UserError
from invariance.runs.locks import others_at
from invariance.settings.nested import load_json, load_yaml

CONFIG, PROVENANCE, ROWS = "config.yaml", "provenance.json", "rows.csv"
LOCK = ".lock"
BEST, LAST, PREVIOUS = "best.ckpt", "last.ckpt", "previous.ckpt"
"""A training run's checkpoints: the best on the validation split, where it stands, and where it stood before that."""


def read_config(directory: Path) -> dict[str, Any]:
    """The configuration that a run directory holds.

    Raises:
        UserError: if it is absent, cannot be read or is no mapping.
    """
    return _read(directory / CONFIG, load_yaml)


def read_provenance(directory: Path) -> dict[str, Any]:
    """The provenance that a run directory holds.

    Raises:
        UserError: if it is absent, cannot be read or is no mapping.
    """
    return _read(directory / PROVENANCE, load_json)


def _read(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        held = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is absent; {_remedy(path)}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); see to it and repeat") from error
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} is damaged; {_remedy(path)}") from error
    except UserError as error:  # which knows no path
        raise UserError(f"{path} is damaged ({error}); {_remedy(path)}") from error
    if not isinstance(held, dict):
        raise UserError(f"{path} holds no mapping; {_remedy(path)}")
    return held


def _remedy(path: Path) -> str:
    who = others_at(path.with_name(LOCK))
    return (f"{who} works there: wait for it to end, then " if who else "") + "delete its folder and repeat the run"
