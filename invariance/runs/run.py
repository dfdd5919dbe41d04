"""A run directory: an identity, not a date. Its config, its provenance, its rows, and the marker that says done."""

import fcntl
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pandas as pd
import yaml

from invariance import __version__
from invariance.errors import UserError
from invariance.runs.files import disk_errors, write_text
from invariance.runs.rows import read_rows, write_rows

CONFIG, PROVENANCE, ROWS, DONE = "config.yaml", "provenance.json", "rows.csv", "done.json"
_PACKAGES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "kornia", "numpy")


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one of dotted keys; lists stay values."""
    result: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            result.update(flat(value, f"{prefix}{key}."))
        else:
            result[f"{prefix}{key}"] = value
    return result


def _same(one: object, other: object) -> bool:
    both_nan = isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other)
    return both_nan or one == other


def provenance() -> dict[str, Any]:
    """What made a run: commit and whether files differ from it, versions, machine, command."""
    root = Path(__file__).parents[2]
    commit, dirty = None, None
    if (root / ".git").exists():
        def git(*arguments: str) -> str:
            return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True).stdout.strip()

        commit, dirty = git("rev-parse", "HEAD") or None, bool(git("status", "--porcelain"))
    return {
        "commit": commit,
        "dirty": dirty,
        "python": platform.python_version(),
        "versions": {"invariance": __version__, **{name: version(name) for name in _PACKAGES}},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "command": " ".join(Path(part).name if i == 0 else part for i, part in enumerate(sys.argv)),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


class Run:
    """One run directory, opened for work.

    Use as a context manager: it holds the directory's lock, so that two processes never work in the same run.

    Attributes:
        directory: the run's folder.
        name: its path relative to the runs folder, as rows name it.
    """

    def __init__(self, runs: Path, name: str, config: Mapping[str, Any]) -> None:
        """Open or create the run `name` under `runs`; `config` is its identity (plain, resolved).

        Raises:
            UserError: if the directory holds another configuration, is in use, or cannot be written.
        """
        self.directory = runs / name
        self.name = name
        self._started = time.monotonic()
        self._lock: int | None = None
        self._config = json.loads(json.dumps(config))
        path = self.directory / CONFIG
        if path.exists():
            self._refuse_other(path)

    def _refuse_other(self, path: Path) -> None:
        with open(path, encoding="utf-8") as file:
            try:
                held = yaml.safe_load(file)
            except yaml.YAMLError as error:
                raise UserError(f"{path} cannot be read as YAML; delete the folder and repeat the run") from error
        if not isinstance(held, dict):
            raise UserError(f"{path} holds no configuration; delete the folder and repeat the run")
        ours, theirs = flat(self._config), flat(held)
        for key in sorted(set(ours) | set(theirs)):
            if key not in ours or key not in theirs or not _same(ours[key], theirs[key]):
                there, here = theirs.get(key, "nothing"), ours.get(key, "nothing")
                raise UserError(
                    f"{self.directory} holds another configuration: {key} is {there} there and {here} here; "
                    "choose another folder with runs=… or delete that one"
                )

    @property
    def done(self) -> bool:
        """Whether the run was finished."""
        return (self.directory / DONE).exists()

    def __enter__(self) -> Self:
        with disk_errors(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.directory / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            self._lock = None
            raise UserError(f"{self.directory} is being worked on by another process; wait for it to end") from error
        path = self.directory / CONFIG
        if path.exists():
            self._refuse_other(path)
        else:
            write_text(path, yaml.safe_dump(self._config, sort_keys=False, allow_unicode=True))
            self.record(provenance())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def record(self, facts: Mapping[str, Any]) -> None:
        """Add facts to the run's provenance."""
        path = self.directory / PROVENANCE
        held = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        write_text(path, json.dumps({**held, **facts}, indent=1, ensure_ascii=False) + "\n")

    def finish(self, rows: pd.DataFrame) -> None:
        """Write the run's rows and then, last of all, the marker that says done."""
        write_rows(self.directory / ROWS, rows)
        seconds = round(time.monotonic() - self._started, 1)
        facts = {"finished": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": seconds, "rows": len(rows)}
        write_text(self.directory / DONE, json.dumps(facts) + "\n")

    def rows(self) -> pd.DataFrame:
        """The rows of a finished run."""
        return read_rows(self.directory / ROWS)
