"""A recorder that keeps groups in a folder, so that an interrupted call from Python goes on where it was."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invariance.engine.groups import Group, Measured
from invariance.errors import UserError
from invariance.runs.checked import DamagedFile, read_facts
from invariance.runs.parts import Part, Parts
from invariance.runs.rows import Row, to_frame

ABOUT = "results.json"


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
        UserError: if the folder holds other results.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder, self.about = folder, about
        self.groups: list[Group] = []
        self._parts: dict[tuple[str, str, str, int], Parts] = {}
        self.finished = self._finished()

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
        shutil.rmtree(self.folder / "parts")

    def _of(self, group: Group) -> Parts:
        key = (group.grid, group.layer, group.map.name, group.size)
        if key not in self._parts:
            name = "/".join(key[:3])
            place = _Place(self.folder / "parts" / group.grid / group.layer / group.map.name, name, self.about)
            self._parts[key] = Parts(place, group.size)
        return self._parts[key]

    def _finished(self) -> bool:
        try:
            facts, _ = read_facts(self.folder / ABOUT)
        except FileNotFoundError:
            return False
        except (DamagedFile, OSError) as error:
            raise UserError(
                f"{self.folder / ABOUT} is damaged ({error}); delete the folder and measure again"
            ) from error
        if facts.get("about") != self.about:
            raise UserError(f"{self.folder} holds other results; choose another folder")
        return True
