"""What units of comparing networks came to, on disk: verified when it is read, and computed again if it is damaged."""

import io
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from invariance.engine.comparing import PairUnit, Result
from invariance.runs.checked import DamagedFile, digest, made_again, read_part, write_part
from invariance.settings.nested import load_json

PLAN = "plan.json"


class UnitResults:
    """What the units of one piece of work came to, a file each, found again by which unit it is.

    Args:
        folder: the work's.
        work: what its results depend on, plain data; None: the folder is named after it.
    """

    def __init__(self, folder: Path, work: Mapping[str, Any] | None = None) -> None:
        self._folder, self._work = folder, folder.name if work is None else dict(work)

    def plan(self) -> list[PairUnit] | None:
        """What was planned; None if nothing was, or what was is damaged and is planned again."""
        path = self._folder / PLAN
        try:
            content = read_part(path, self._about("plan"))
            if content is None:
                return None
            return [PairUnit(kind, source, tuple(targets)) for kind, source, targets in load_json(content)]
        except (DamagedFile, ValueError, TypeError) as why:
            made_again(path, why if isinstance(why, DamagedFile) else "it is no plan")
            return None

    def write_plan(self, units: Sequence[PairUnit]) -> None:
        """Keep a plan."""
        content = json.dumps([[unit.kind, unit.source, unit.targets] for unit in units])
        write_part(self._folder / PLAN, self._about("plan"), content.encode())

    def read(self, unit: PairUnit) -> Result | None:
        """What a unit came to; None if it is yet to be computed, or what is there is damaged and is computed again."""
        path = self._path(unit)
        try:
            content = read_part(path, self._about(unit))
            if content is None:
                return None
            with np.load(io.BytesIO(content), allow_pickle=False) as held:
                return {name: held[name] for name in held.files}
        except DamagedFile as why:
            made_again(path, why)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error):
            made_again(path, "it holds no arrays")
        return None

    def write(self, unit: PairUnit, result: Result) -> None:
        """Keep what a unit came to."""
        content = io.BytesIO()
        np.savez(content, **result)
        write_part(self._path(unit), self._about(unit), content.getvalue())

    def _path(self, unit: PairUnit) -> Path:
        told = json.dumps([unit.kind, unit.source, unit.targets])
        return self._folder / "units" / f"{digest(told.encode())}.npz"

    def _about(self, what: PairUnit | str) -> dict[str, Any]:
        told = what if isinstance(what, str) else [what.kind, what.source, list(what.targets)]
        return {"work": self._work, "what": told}
