"""A run directory: an identity, not a date. Its config, its provenance, its rows, and the marker that says done."""

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import pandas as pd
import yaml

from invariance.errors import Busy, UserError
from invariance.runs.facts import BEST, CONFIG, LAST, LOCK, PREVIOUS, PROVENANCE, ROWS, read_config, read_provenance
from invariance.runs.files import DONE, disk_errors, remove_temporaries, write_text
from invariance.runs.locks import UNREADABLE, SharedLock, holder, lock, others_at, still_there
from invariance.runs.origin import made_by
from invariance.runs.pace import Pace
from invariance.runs.rows import write_rows
from invariance.runs.seal import check, rows_of, write_marker
from invariance.runs.sweep import alive, opened, working
from invariance.version import __version__

__all__ = [
    "BEST",
    "CONFIG",
    "LAST",
    "LOCK",
    "PREVIOUS",
    "PROGRESS",
    "PROVENANCE",
    "ROWS",
    "Run",
    "flat",
    "provenance",
    "read_config",
    "read_provenance",
]

PROGRESS = "progress.json"

_CONTINUED = ("commit", "dirty", "started")


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
    """What made a run: commit and whether files differ from it, versions, machine, command; and when it began."""
    return {**made_by(), "started": datetime.now(UTC).isoformat(timespec="seconds")}


class Run:
    """One run directory, opened for work.

    Use as a context manager: it holds the directory's lock, so that two processes never work in the same run.

    Attributes:
        directory: the run's folder.
        name: its path relative to the runs folder, as rows name it.
        shared: a lock of many runs, whose maker closes it, of which its own is to be a part.
    """

    def __init__(
        self, runs: Path, name: str, config: Mapping[str, Any], progress: Sequence[str] = (LAST, PREVIOUS, "parts")
    ) -> None:
        """Open the run `name` under `runs`; nothing is written before it is entered.

        Args:
            runs: folder of all run directories.
            name: the run directory's path in it.
            config: its identity, plain and resolved.
            progress: files or folders that hold work. While there is none of them, nor the marker that says done, a
                directory of another configuration has nothing to lose, and becomes this run's when it is entered.

        Raises:
            UserError: if the directory holds work of another configuration, or a configuration that cannot be read.
        """
        self.directory = runs / name
        self.name = name
        self._started = time.monotonic()
        self._pace = Pace()
        self._lock: int | None = None
        self.shared: SharedLock | None = None
        self._config = json.loads(json.dumps(config))
        self._progress = progress
        if self._holds_work:
            self._refuse_other()
        if self.done:
            check(self.directory, files=False)
        opened(self.directory)

    @property
    def _holds_work(self) -> bool:
        return any((self.directory / name).exists() for name in (DONE, *self._progress))

    def _refuse_other(self) -> None:
        ours, theirs = flat(self._config), flat(read_config(self.directory))
        for key in sorted(set(ours) | set(theirs)):
            if key not in ours or key not in theirs or not _same(ours[key], theirs[key]):
                there, here = theirs.get(key, "nothing"), ours.get(key, "nothing")
                who = "" if self._lock is not None else others_at(self.directory / LOCK)
                working = f", and {who} works there" if who else ""
                remedy = "" if who else " or delete that one"
                raise UserError(
                    f"{self.directory} holds another configuration{working}: {key} is {there} there and {here} here; "
                    f"choose another folder with runs=…{remedy}"
                )

    @property
    def identity(self) -> dict[str, Any]:
        """The configuration that this run is, as its directory holds it."""
        return dict(self._config)

    @property
    def done(self) -> bool:
        """Whether the run was finished."""
        return self.finished()

    def finished(self) -> bool:
        """Whether it is finished now; as `done`, for a second look at what another process may have changed."""
        return (self.directory / DONE).exists()

    def leave_to_others(self) -> None:
        """Look whether another process works in the run, before anything that takes long.

        Raises:
            Busy: if one does.
        """
        who = holder(self.directory / LOCK)
        if who and who != UNREADABLE:  # which taking it will tell more of
            self._busy(who)

    def _busy(self, who: str) -> NoReturn:
        raise Busy(f"{self.directory} is being worked on by {who}{Busy.remedy}")

    def __enter__(self) -> Self:
        with disk_errors(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
        with disk_errors(self.directory / LOCK):
            self._lock = (self.shared.take if self.shared else lock)(self.directory / LOCK)
        if self._lock is None:
            self._busy(holder(self.directory / LOCK) or "another process, which just ended")
        try:
            self.require_here()  # it may have been deleted between opening its lock and taking it
            with disk_errors(self.directory):
                remove_temporaries(self.directory)
            if self._holds_work:
                self._refuse_other()
                if not self.done:
                    self._go_on()
            else:
                self._begin()
            if not self.done:
                working()
        except BaseException:
            self._release()
            raise
        return self

    def _begin(self) -> None:
        """Claim the directory; the configuration comes last, so that one that is there has its provenance."""
        for name in (CONFIG, PROVENANCE):
            with disk_errors(self.directory / name):
                (self.directory / name).unlink(missing_ok=True)
        self.record(provenance())
        write_text(self.directory / CONFIG, yaml.safe_dump(self._config, sort_keys=False, allow_unicode=True))

    def _go_on(self) -> None:
        """Take up unfinished work; a commit other than the one that began it is written down.

        Raises:
            UserError: if another version of invariance began it: its second half might be computed otherwise.
        """
        held, now = read_provenance(self.directory), provenance()
        _require_version(self.directory, held)
        continued = held.get("continued")
        earlier = [one for one in continued if isinstance(one, dict)] if isinstance(continued, list) else []
        if now["commit"] != [held, *earlier][-1].get("commit"):
            self.record({"continued": [*earlier, {key: now[key] for key in _CONTINUED}]})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def _release(self) -> None:
        if self._lock is not None and self.shared is None:
            os.close(self._lock)
        self._lock = None

    def require_here(self) -> None:
        """Look whether the folder is still the one that this process works in, before anything is written into it.

        Raises:
            UserError: if it was deleted or replaced since: what is there now is another's.
        """
        if self._lock is not None and not still_there(self._lock, self.directory / LOCK):
            who = others_at(self.directory / LOCK)
            there = f", and {who} works there now" if who else ""
            raise UserError(
                f"{self.directory} was deleted or replaced while this process worked in it{there}; it writes no more: "
                "repeat the command to start over, with another folder runs=… or name=… if that run is another one"
            )

    def record(self, facts: Mapping[str, Any]) -> None:
        """Add facts to the run's provenance.

        Raises:
            UserError: if the folder was deleted or replaced since it was entered.
        """
        self.require_here()
        path = self.directory / PROVENANCE
        held = read_provenance(self.directory) if path.exists() else {}
        write_text(path, json.dumps({**held, **facts}, indent=1, ensure_ascii=False) + "\n")

    def note(self, done: int, of: int, unit: str) -> None:
        """Say how far the work is, for those who watch; once a second at most.

        The pace is that since this process's first note, on its own clock.

        Args:
            done: how much is done, what earlier processes did included.
            of: how much there is.
            unit: what is counted.
        """
        if facts := self._pace.noted(done, of, unit):
            self.require_here()
            write_text(self.directory / PROGRESS, json.dumps(facts) + "\n")
            alive()

    def finish(self, rows: pd.DataFrame) -> None:
        """Write the run's rows and then, last of all, the marker that says done and seals them.

        Raises:
            UserError: if the folder was deleted or replaced since it was entered.
        """
        self.require_here()
        write_rows(self.directory / ROWS, rows)
        seconds = round(time.monotonic() - self._started, 1)
        facts = {"finished": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": seconds, "rows": len(rows)}
        self.require_here()
        write_marker(self.directory, facts, self.name)
        (self.directory / PROGRESS).unlink(missing_ok=True)

    def rows(self) -> pd.DataFrame:
        """The rows of a finished run.

        Raises:
            UserError: if they, or what says which run it is, are not what it was finished with.
        """
        return rows_of(self.directory)


def _require_version(directory: Path, held: Mapping[str, Any]) -> None:
    versions = held.get("versions")
    theirs, ours = versions.get("invariance") if isinstance(versions, dict) else None, __version__
    if theirs != ours:
        raise UserError(
            f"{directory} was begun by invariance {theirs or 'of an unknown version'}, and this is {ours}: "
            "finish it with that version, choose another folder with runs=…, or delete it to start over"
        )
