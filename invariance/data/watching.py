"""Whether the folders of a source are as they were when every file in them was looked at: told by the folders alone."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from stat import S_ISDIR
from typing import Protocol, runtime_checkable

from invariance.data.manifest import read_sealed, sealed_text
from invariance.data.sources.base import Source
from invariance.data.sources.trees import FOLDER, Stamp
from invariance.errors import UserError
from invariance.runs.files import write_text

FOLDERS = "folders.json"
_MANY = 20_000  # files; of fewer each is looked at, which takes a fifth of a second
_SETTLED = 2 * 10**9  # ns; a file system may give two changes in less the same time


@runtime_checkable
class Watched(Source, Protocol):
    """A source that lies in folders below a root, whose own times tell of what was added, removed or renamed."""

    root: Path

    def watched(self, now: Mapping[str, Stamp]) -> dict[str, Stamp]:
        """What is to be looked at in place of every file: all folders, and those files whose content decides the rest.

        Args:
            now: what `stamps` gave.

        Returns:
            Stamps by their paths below the root; of a folder the size is `FOLDER`. None where there are no folders.
        """


def note(directory: Path, source: Source, now: Mapping[str, Stamp], begun: int) -> None:
    """Note the times of the folders of a source beside what was prepared of it, if it has many files.

    A folder that changed just before is not noted, since its time could be the same after another change.

    Args:
        directory: the prepared data.
        source: their source, which is as it was when they were prepared.
        now: size and time of all its files, looked at one by one.
        begun: when that began, in ns.
    """
    watched = source.watched(now) if isinstance(source, Watched) and len(now) > _MANY else {}
    if any(time > begun - _SETTLED for size, time in watched.values() if size == FOLDER):
        watched = {}
    text = sealed_text({"watched": watched})
    with suppress(UserError, OSError):  # a store that may only be read serves all the same
        if not watched:
            forget(directory)
        elif not (directory / FOLDERS).exists() or (directory / FOLDERS).read_text() != text:
            write_text(directory / FOLDERS, text)


def forget(directory: Path) -> None:
    """Let the next command look at every file."""
    with suppress(OSError):
        (directory / FOLDERS).unlink(missing_ok=True)


def unchanged(directory: Path, source: Source) -> bool:
    """Whether the folders of the source have the times that were noted beside what was prepared of it."""
    if not isinstance(source, Watched):
        return False
    try:
        watched = read_sealed((directory / FOLDERS).read_bytes())["watched"]
        return all(_stamp(source.root / path) == tuple(stamp) for path, stamp in watched.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _stamp(path: Path) -> Stamp:
    status = os.stat(path)
    return (FOLDER if S_ISDIR(status.st_mode) else status.st_size), status.st_mtime_ns
