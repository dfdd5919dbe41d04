"""What an interrupted measurement leaves: the rows of every group of g that it finished, verified when taken up."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from invariance.errors import UserError
from invariance.runs.checked import Damaged, made_again, read_part, write_part
from invariance.runs.rows import read_rows, rows_text
from invariance.runs.run import Run
from invariance.settings.nested import load_json


class Parts:
    """The parts of one run; a part is of this run's identity and of certain g, and no other is taken for it.

    Args:
        run: the run.
        size: g of a group, except for the last.
    """

    def __init__(self, run: Run, size: int) -> None:
        self._run, self._size = run, size
        self._folder = run.directory / "parts"
        for old in sorted(self._folder.glob("*.csv")):
            made_again(old, "a version that kept no hashes wrote it")
            old.unlink()
            old.with_suffix(".fits").unlink(missing_ok=True)

    def read(self, k: int, g: Sequence[str]) -> tuple[pd.DataFrame, str] | None:
        """The rows of a group and the account of its fits; None if it is yet to be measured, or again.

        Args:
            k: the group's number.
            g: the labels of its g.
        """
        path = self._path(k)
        try:
            content = read_part(path, self._about(g))
            if content is None:
                return None
            held = load_json(content)
            return read_rows(path, str(held["rows"]).encode()), str(held["fits"])
        except (Damaged, UserError, ValueError, KeyError, TypeError) as why:
            made_again(path, why if isinstance(why, Damaged) else "it holds no rows")
            return None

    def write(self, k: int, g: Sequence[str], rows: pd.DataFrame, fits: str) -> None:
        """Keep the rows of a group and the account of its fits."""
        content = json.dumps({"rows": rows_text(rows), "fits": fits}, ensure_ascii=False)
        write_part(self._path(k), self._about(g), content.encode())

    def all(self, groups: Sequence[Sequence[str]]) -> list[tuple[pd.DataFrame, str]]:
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
        return {"run": self._run.name, "identity": self._run.identity, "g": list(g)}
