"""Seals of finished runs: what the marker that says done holds of everything that others believe of a run.

A marker (`done.json`) seals the rows (how many, and the SHA-256 of the file), the configuration and the provenance (of
what they say, not of how it is written), the name of the run, and the files that other commands read. A marker of
before seals holds none of it, and says no more than how many rows there are: such a run counts as unverified.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from invariance.errors import UserError
from invariance.runs.belonging import check_belonging
from invariance.runs.facts import BEST, CONFIG, LAST, PROVENANCE, ROWS, read_config, read_provenance
from invariance.runs.files import DONE, sha256, write_text
from invariance.runs.rows import check_values, read_rows
from invariance.settings.nested import load_json

_LATER = ("wandb",)
"""What is written into a run's provenance after its end: where to see it in W&B."""

_REMEDY = "put it back as it was, or delete the run's folder and repeat the run"


def check(directory: Path, *, files: bool = True) -> bool:
    """Whether a finished run is what its marker seals.

    Args:
        directory: the run's folder.
        files: whether its checkpoints are looked at, too. A file that is absent is nobody's number: who needs it says
            so.

    Returns:
        True if the marker seals the run and everything is as it was; False if it is of before seals.

    Raises:
        UserError: naming what differs, or what cannot be read.
    """
    marker = read_marker(directory)
    seal = marker.get("seal")
    if seal is None and "sha256" not in marker:
        return False
    path = directory / DONE
    if not isinstance(seal, dict) or marker.get("sha256") != _hash_of_marker(marker, path):
        raise UserError(f"{path} is damaged: it is not what the run was finished with; {_REMEDY}")
    _check_place(directory, str(seal.get("run")))
    for name, said in _facts_of(directory).items():
        if seal.get(name) != said:
            raise UserError(f"{directory / name} is not what its run was finished with ({path}); {_REMEDY}")
    for name, said in dict(seal.get("files") or {}).items():
        looked_at = files or not name.endswith(".ckpt")
        if looked_at and (directory / name).exists() and hash_of(directory / name) != said:
            raise UserError(f"{directory / name} is not what its run was finished with ({path}); {_REMEDY}")
    return True


def seal(directory: Path) -> None:
    """Seal a finished run as it is now; one that is sealed is checked, and stays as it is.

    Raises:
        UserError: if the run is not finished, its rows are not as many as its marker says or cannot be its own, or the
            weights are not those that it wrote down.
    """
    if check(directory):
        return
    rows = rows_of(directory)
    weights = read_provenance(directory).get("weights_sha256")
    if weights is not None and (directory / BEST).exists() and hash_of(directory / BEST) != weights:
        raise UserError(f"{directory / BEST} is not what its run was finished with ({PROVENANCE}); {_REMEDY}")
    name = str(rows["run"].iloc[0]) if len(rows) else directory.name
    write_marker(directory, {**read_marker(directory), "rows": len(rows)}, name)


def rows_of(directory: Path) -> pd.DataFrame:
    """The rows of a finished run, if they are its own and what it was finished with.

    Raises:
        UserError: if they cannot be read, lack some, hold values that no measurement gives, or are another run's.
    """
    check(directory, files=False)
    path = directory / ROWS
    rows = read_rows(path)
    count = read_marker(directory).get("rows")
    if count is not None and count != len(rows):
        raise UserError(f"{path} holds {len(rows)} rows, and its run was finished with {count}; {_REMEDY}")
    check_values(path, rows)
    check_belonging(directory, read_config(directory), rows)
    return rows


def sealed_hash(directory: Path, name: str) -> str | None:
    """The SHA-256 that a finished run seals of one of its files; None if it is not finished, or does not seal it.

    Raises:
        UserError: if the marker is damaged.
    """
    if not (directory / DONE).exists():
        return None
    files = (read_marker(directory).get("seal") or {}).get("files")
    found = files.get(name) if isinstance(files, dict) else None
    return None if found is None else str(found)


def read_marker(directory: Path) -> dict[str, Any]:
    """What the marker of a finished run holds.

    Raises:
        UserError: if it is absent or damaged.
    """
    path = directory / DONE
    try:
        held = load_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{directory} is not finished; repeat its command to finish it") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); see to it and repeat") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged; {_REMEDY}") from error
    if not isinstance(held, dict) or not isinstance(held.get("seal", {}), dict | None):
        raise UserError(f"{path} is damaged; {_REMEDY}")
    return held


def write_marker(directory: Path, facts: Mapping[str, Any], name: str) -> None:
    """Write the marker that says done, with the seal of everything that is in the run's folder now.

    Args:
        directory: the run's folder.
        facts: what it says beside.
        name: the run's path below the runs folder.
    """
    files = {path.name: sha256(path) for path in _files(directory)}
    about = {"run": name, **_facts_of(directory), "files": files}
    marker = {**{key: value for key, value in facts.items() if key != "sha256"}, "seal": about}
    write_text(directory / DONE, json.dumps({**marker, "sha256": _hash_of_marker(marker, directory / DONE)}) + "\n")


def hash_of(path: Path) -> str:
    """The SHA-256 of a run's file.

    Raises:
        UserError: if it cannot be read.
        FileNotFoundError: if it is absent.
    """
    try:
        return sha256(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); see to it and repeat") from error


def _files(directory: Path) -> list[Path]:
    """What others read of a run beside its rows: the network, how fits ended, confusions, maps learned jointly."""
    named = [directory / BEST, directory / "fits.csv", *sorted(directory.glob("confusion_*.csv"))]
    if "joint" in read_config(directory):
        named.append(directory / LAST)
    return [path for path in named if path.is_file()]


def _facts_of(directory: Path) -> dict[str, str]:
    """Hashes of the rows, and of what the configuration and the provenance say, by the names of their files."""
    held = {key: value for key, value in read_provenance(directory).items() if key not in _LATER}
    try:
        rows = hash_of(directory / ROWS)
    except FileNotFoundError as error:
        raise UserError(f"{directory} is marked finished but has no {ROWS}; {_REMEDY}") from error
    config = _hash(read_config(directory), directory / CONFIG)
    return {ROWS: rows, CONFIG: config, PROVENANCE: _hash(held, directory / PROVENANCE)}


def _check_place(directory: Path, name: str) -> None:
    """Refuse a run that lies elsewhere than where it was made; folders above the runs folder may be any."""
    here, parts = Path(os.path.abspath(directory)).parts, PurePosixPath(name).parts
    if here[-len(parts) :] != parts:
        raise UserError(
            f"{directory} holds the run {name}, copied or renamed; give it that name back below its runs folder, or "
            "delete it"
        )


def _hash_of_marker(marker: Mapping[str, Any], path: Path) -> str:
    return _hash({key: value for key, value in marker.items() if key != "sha256"}, path)


def _hash(value: object, path: Path) -> str:
    """A hash of what a plain value of a file says, whatever the order of its keys."""
    try:
        text = json.dumps(_plain(value), sort_keys=True, ensure_ascii=False)
    except RecursionError as error:
        raise UserError(f"{path} is damaged: it is nested too deeply; {_REMEDY}") from error
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _plain(value: object) -> object:
    """A value of JSON with every key as a text and every number as it is read back."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)
