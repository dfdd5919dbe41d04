"""What an interrupted measurement leaves: what every finished group of g came to, verified when taken up."""

import io
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from invariance.errors import UserError
from invariance.runs.checked import DamagedFile, made_again, read_part, write_part
from invariance.runs.rows import read_rows, rows_text

_ROWS = 2
"""Which rows and scores a part holds: one of a version before is measured again."""


@dataclass(frozen=True)
class Part:
    """What a group came to.

    Attributes:
        rows: its rows.
        fits: how its fits ended, as lines of `fits.csv`.
        scores: of every image, by name.
    """

    rows: pd.DataFrame
    fits: str
    scores: Mapping[str, NDArray[Any]]


class Identified(Protocol):
    """Something measured, with a folder of its own."""

    @property
    def directory(self) -> Path:
        """Its folder."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its numbers."""


class Parts:
    """The parts of one run; a part is of this run's identity and of certain g, and no other is taken for it.

    Args:
        run: the run, or whatever else is measured in parts.
        size: g of a group, except for the last.
    """

    def __init__(self, run: Identified, size: int) -> None:
        self._run, self._size = run, size
        self._folder = run.directory / "parts"
        for old in sorted(self._folder.glob("*.csv")):
            made_again(old, "a version that kept no hashes wrote it")
            old.unlink()
            old.with_suffix(".fits").unlink(missing_ok=True)

    def read(self, k: int, g: Sequence[str]) -> Part | None:
        """What a group came to; None if it is yet to be measured, or again.

        Args:
            k: the group's number.
            g: the labels of its g.
        """
        path = self._path(k)
        try:
            content = read_part(path, self._about(g))
            if content is None:
                return None
            with np.load(io.BytesIO(content), allow_pickle=False) as held:
                scores = {name.removeprefix("scores/"): held[name] for name in held.files if name.startswith("scores/")}
                return Part(read_rows(path, held["rows"].tobytes()), held["fits"].tobytes().decode(), scores)
        except (DamagedFile, UserError, OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as why:
            made_again(path, why if isinstance(why, DamagedFile) else "it holds no rows")
            return None

    def write(self, k: int, g: Sequence[str], part: Part) -> None:
        """Keep what a group came to."""
        texts = {"rows": rows_text(part.rows), "fits": part.fits}
        arrays: dict[str, Any] = {name: np.frombuffer(text.encode(), np.uint8) for name, text in texts.items()}
        arrays |= {f"scores/{name}": values for name, values in part.scores.items()}
        content = io.BytesIO()
        np.savez(content, **arrays)
        write_part(self._path(k), self._about(g), content.getvalue())

    def all(self, groups: Sequence[Sequence[str]]) -> list[Part]:
        """Every part, once all are there.

        Raises:
            UserError: if one was damaged since it was written.
        """
        parts = [self.read(k, g) for k, g in enumerate(groups)]
        if any(part is None for part in parts):
            raise UserError(f"{self._folder} was changed while it was worked in; repeat the command")
        return [part for part in parts if part is not None]

    def remove(self) -> None:
        """Remove all parts, whose rows are the run's."""
        shutil.rmtree(self._folder)

    def _path(self, k: int) -> Path:
        return self._folder / f"{self._size}_{k}.part"

    def _about(self, g: Sequence[str]) -> dict[str, object]:
        return {"run": self._run.name, "identity": self._run.identity, "g": list(g), "rows": _ROWS}
