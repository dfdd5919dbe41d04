"""A table: the same cells as HTML and LaTeX, through pandas' Styler, and Markdown; the numbers behind them as CSV."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from invariance.reporting.rows import run_anchor

GAP = "–"
"""A number that is not there."""

_LONG = 40
"""Characters of a cell from which on its column breaks lines in LaTeX."""

_LATEX = {letter: f"\\{letter}" for letter in "{}$&#%_"}
_LATEX |= {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}


class Cell(NamedTuple):
    """A cell of a line: its text, the numbers behind it by column of the CSV, and the runs that they are from."""

    text: str
    numbers: Mapping[str, object] = {}
    runs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: name of its files.
        caption: what its numbers are.
        header: names of the columns.
        cells: the rows as text; the first cell of each names the row.
        numbers: the numbers in full, for the CSV.
        links: where on the page the cells at some (row, column) lead, as `#anchor`.
        runs: the runs that the numbers at some (row, column) are from: the page's list of runs is where they lead.
        worded: columns that hold words, though some begin with a digit.
    """

    name: str
    caption: str
    header: list[str]
    cells: list[list[str]]
    numbers: pd.DataFrame
    links: Mapping[tuple[int, int], str] = field(default_factory=dict)
    runs: Mapping[tuple[int, int], tuple[str, ...]] = field(default_factory=dict)
    worded: tuple[int, ...] = ()

    @classmethod
    def of(cls, name: str, caption: str, header: list[str], lines: Iterable[Sequence[Cell]], **more: Any) -> "Table":  # noqa: ANN401
        """A table of lines of cells; a line that ends early has gaps. `more`: other attributes, as `numbers`."""
        lines = list(lines)
        cells = [[cell.text for cell in line] + [GAP] * (len(header) - len(line)) for line in lines]
        runs = {(n, k): cell.runs for n, line in enumerate(lines) for k, cell in enumerate(line) if cell.runs}
        records = [{key: number for cell in line for key, number in cell.numbers.items()} for line in lines]
        return cls(name, caption, header, cells, **{"numbers": pd.DataFrame(records), "runs": runs, **more})

    @property
    def text(self) -> list[bool]:
        """Which columns hold words rather than numbers."""

        def words_only(cells: list[str]) -> bool:
            some = [cell for cell in cells if cell != GAP]
            return bool(some) and not any(cell.lstrip("+-−")[:1].isdigit() for cell in some)

        return [k in self.worded or words_only([row[k] for row in self.cells]) for k in range(len(self.header))]

    def html(self, page: str = "") -> str:
        """The table as an HTML element.

        Args:
            page: the page that its links lead to, where that is another one.
        """
        cells = [[self._linked((n, k), cell, page) for k, cell in enumerate(row)] for n, row in enumerate(self.cells)]
        words = ", ".join(f".col{k - 1}" for k, is_text in enumerate(self.text) if is_text and k)
        styler = styled([escape(name) for name in self.header], cells, self.name)
        styler = styler.set_caption(f"<span>{escape(self.caption)}</span>")
        if words:
            styler = styler.set_table_styles([{"selector": f":is({words})", "props": "text-align: left"}])
        return str(styler.to_html())

    def _linked(self, place: tuple[int, int], cell: str, page: str) -> str:
        """A cell as HTML, with what it leads to."""
        runs = [f"#{run_anchor(run)}" for run in self.runs.get(place, ()) if cell != GAP]
        link = self.links.get(place) or (runs[0] if len(runs) == 1 else "")
        if link:
            return f'<a href="{escape(page + link)}">{escape(cell)}</a>'
        several = (f'<a href="{escape(page + run)}">{k}</a>' for k, run in enumerate(runs, 1))
        return escape(cell) + (f" <small>[{' '.join(several)}]</small>" if runs else "")

    def markdown(self) -> str:
        """The table in Markdown."""

        def line(cells: Iterable[str]) -> str:
            return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

        rule = "|---|" + "---:|" * (len(self.header) - 1)
        return "\n".join([line(self.header), rule, *map(line, self.cells), "", self.caption, ""])

    def latex(self) -> str:
        """The table in LaTeX, for lualatex and a document that loads array, booktabs and longtable.

        Words stand to the left and numbers to the right; columns of long words break lines.
        """
        long = [max((len(row[k]) for row in self.cells), default=0) > _LONG for k in range(len(self.header))]
        broken = rf">{{\raggedright\arraybackslash}}p{{{0.7 / max(sum(long), 1):.2f}\linewidth}}"
        ends = ["l" if k == 0 or is_text else "r" for k, is_text in enumerate(self.text)]
        cells = [[latex_text(cell) for cell in row] for row in self.cells]
        return str(
            styled([latex_text(name) for name in self.header], cells, self.name).to_latex(
                column_format="".join(broken if is_long else end for end, is_long in zip(ends, long, strict=True)),
                hrules=True,
                environment="longtable",
                caption=latex_text(self.caption),
                label=f"tab:{self.name}",
            )
        )

    def files(self) -> dict[str, bytes]:
        """The table's files, by path in the report."""
        head = f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(self.name)}</title>'
        page = f"{head}\n{self.html('../index.html')}</html>\n"
        return {
            f"tables/{self.name}.html": page.encode(),
            f"tables/{self.name}.md": self.markdown().encode(),
            f"tables/{self.name}.tex": self.latex().encode(),
            f"tables/{self.name}.csv": self.numbers.to_csv(index=False, lineterminator="\n").encode(),
        }


def styled(header: list[str], cells: list[list[str]], name: str, values: pd.DataFrame | None = None) -> Styler:
    """A table for pandas to set: the first cell of a row names it, names may stand twice, all text is as it is given.

    Args:
        header: names of the columns.
        cells: the rows; with `values`, their names alone.
        name: what its ids on a page are made from.
        values: numbers behind the cells, where these are to colour them; then every cell has an id.
    """
    of_text = values is None
    if values is None:
        values = pd.DataFrame([row[1:] for row in cells], columns=range(len(header) - 1), dtype=object)
    shown = values.rename_axis(columns=header[0])
    uuid = hashlib.blake2b(name.encode(), digest_size=6).hexdigest()
    styler = Styler(shown, uuid=uuid, cell_ids=not of_text)
    names = [row[0] for row in cells]
    return styler.format_index(lambda k: names[k], axis=0).format_index(lambda k: header[k + 1], axis=1)


def latex_text(text: str) -> str:
    """A text as LaTeX prints it: what has a meaning there escaped; all else is UTF-8."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def percent(score: float, low: float, high: float) -> str:
    """A score and its interval in percent; a gap where there is no score."""
    return GAP if np.isnan(score) else f"{100 * score:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def plain(score: float, low: float, high: float) -> str:
    """A score and its interval; a gap where there is no score."""
    return GAP if np.isnan(score) else f"{score:.3f} [{low:.3f}, {high:.3f}]"
