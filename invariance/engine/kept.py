"""A recorder that keeps groups in a folder, so that an interrupted call from Python goes on where it was."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from invariance.engine.groups import Group, Measured
from invariance.errors import UserError
from invariance.runs.checked import DamagedFile, digest, read_facts, write_facts
from invariance.runs.files import BEGUN, RESULTS, disk_errors
from invariance.runs.parts import Part, Parts
from invariance.runs.rows import Row, to_frame

NETWORKS = "networks.json"
"""Which networks are kept in a folder, where there are several."""

_PARTS = "parts"


def place_of(keep: object, network: str | None) -> Path:
    """The folder in which one of several networks is kept, or the only one.

    Args:
        keep: what a user gave.
        network: the network's name, where there are several.

    Raises:
        UserError: for what is no path, or a name that would lead out of the folder.
    """
    folder = folder_of(keep, "keep=")
    inside = PurePosixPath(network or ".")
    if inside.is_absolute() or ".." in inside.parts or (network and not inside.parts):
        raise UserError(f"keep: {network!r} names no folder inside {keep}; give the network another name")
    return folder / inside


def folder_of(given: object, what: str = "") -> Path:
    """A folder that a user gives.

    Raises:
        UserError: for what is no path.
    """
    if not isinstance(given, str | os.PathLike) or not str(given):
        raise UserError(f"{what}{given!r}: give the path of a folder")
    return Path(given).expanduser()


def note_networks(keep: object, names: Sequence[str]) -> None:
    """Write down which networks' results are kept in a folder, each in one of its own, for `load`."""
    write_facts(folder_of(keep) / NETWORKS, {"networks": list(names)})


@dataclass(frozen=True)
class _Place:
    """Where the parts of one grid, layer and map are, and what they are of."""

    directory: Path
    name: str
    identity: dict[str, Any]


class Kept:
    """See `Recorder`; groups are files below `parts/` until the results are saved beside it.

    Args:
        folder: the folder.
        about: what is measured, plain data: a folder of something else is refused.

    Attributes:
        folder: the folder.
        groups: what was measured, by this call or before it.
        finished: whether the folder holds these results, finished.

    Raises:
        UserError: if the folder holds other results, or what is no results of `measure_model`.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder, self.about = folder, about
        self.groups: list[Group] = []
        self._parts: dict[tuple[str, str, str, int], Parts] = {}
        self.finished = self._finished()
        if not self.finished:
            self._begin()

    @property
    def results(self) -> list[Measured]:
        """What every group came to.

        Raises:
            UserError: if a part was damaged since it was written.
        """
        found = []
        for group in self.groups:
            part = self._of(group).read(group.number, group.g)
            if part is None:
                raise UserError(f"{self.folder} was changed while it was worked in; repeat the call")
            rows = [Row(**{str(key): value for key, value in row.items()}) for row in part.rows.to_dict("records")]
            found.append(Measured(rows, scores=dict(part.scores)))
        return found

    def has(self, group: Group) -> bool:
        """See `Recorder`."""
        self.groups.append(group)
        return self._of(group).read(group.number, group.g) is not None

    def add(self, group: Group, result: Measured) -> None:
        """See `Recorder`."""
        run = {"run": self.folder.name or "results"}  # rows in a file name where they are
        rows = to_frame(result.rows).assign(**run)
        self._of(group).write(group.number, group.g, Part(rows, "", result.scores))

    def note(self, done: int, of: int) -> None:
        """Nobody watches."""

    def remove(self) -> None:
        """Remove the parts, once the results are saved."""
        shutil.rmtree(self.folder / _PARTS)

    def _of(self, group: Group) -> Parts:
        key = (group.grid, group.layer, group.map.name, group.size)
        if key not in self._parts:
            name = json.dumps(key)  # of a user's own, so that it cannot name a folder
            place = _Place(self.folder / _PARTS / digest(name.encode()), name, self.about)
            self._parts[key] = Parts(place, group.size)
        return self._parts[key]

    def _begin(self) -> None:
        """Claim the folder: an empty one, or what an interrupted call of the same left."""
        begun = self.folder / BEGUN
        try:
            facts, _ = read_facts(begun)
        except (FileNotFoundError, NotADirectoryError):
            self._require_empty()
            with disk_errors(begun):
                begun.parent.mkdir(parents=True, exist_ok=True)
            write_facts(begun, {"about": self.about})
            return
        except (DamagedFile, OSError) as error:
            raise UserError(f"{begun} is damaged ({error}); delete {self.folder} and measure again") from error
        if facts.get("about") != self.about:
            raise UserError(f"{self.folder} holds the beginning of other results; choose another folder, or delete it")

    def _require_empty(self) -> None:
        if os.path.lexists(self.folder) and not self.folder.is_dir():
            raise UserError(f"keep={str(self.folder)!r} is no folder; choose another place")
        files = (one for one in self.folder.rglob("*") if not one.is_dir() and one.suffix != ".tmp")
        if (there := next(files, None)) is not None:
            raise UserError(
                f"{self.folder} holds {there.name}, and no results of measure_model; choose an empty folder"
            )

    def _finished(self) -> bool:
        try:
            facts, _ = read_facts(self.folder / RESULTS)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except (DamagedFile, OSError) as error:
            raise UserError(
                f"{self.folder / RESULTS} is damaged ({error}); delete the folder and measure again"
            ) from error
        if facts.get("about") != self.about:
            raise UserError(f"{self.folder} holds other results; choose another folder")
        return True
