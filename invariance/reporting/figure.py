"""Figures: one class for all, each a tidy frame and what draws it; their files, and their element on the page."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure as Drawing

from invariance.errors import UserError
from invariance.reporting.style import INK, embedded, png, standalone, style, svg
from invariance.settings.named import named

FIGURES: dict[str, tuple[str, ...]] = {
    "family": ("invariance.reporting.forms:against_baseline", "invariance.reporting.paper.forms:ranges_compared"),
    "distances": ("invariance.reporting.paper.distances:drawings",),
    "finetuning": ("invariance.reporting.paper.finetuned:drawings",),
    "rows": (),
}
"""What draws the figures of each part of the page, in their order; the only list. Each gives a `Figure`, several, or
None where there is nothing to draw. Of `family` it takes the family, a metric and a beginning of file names; of
`distances` and `finetuning` the study and the beginning; of `rows` all rows of the finished runs, as a frame."""


@dataclass(frozen=True)
class Figure:
    """A figure.

    Attributes:
        name: name of its files.
        title: its heading.
        caption: what is drawn.
        alt: what it shows, for those who do not see it.
        frame: the numbers drawn, a row a point: its CSV.
        draw: draws a frame, as `lines.Lines` does.
        form: the form of the paper's figure, as `paper.figures` names it; "" where it is none of the paper's.
        data: the data set, as rows name it.
        about: what sets it apart from others of its form.
        aside: whether it is one to look up.
        lacking: what it could not show, in words.
    """

    name: str
    title: str
    caption: str
    alt: str
    frame: pd.DataFrame
    draw: Callable[[pd.DataFrame], Drawing]
    form: str = ""
    data: str = ""
    about: str = ""
    aside: bool = False
    lacking: tuple[str, ...] = ()

    def drawn(self) -> tuple[Markup, dict[str, bytes]]:
        """The figure as an SVG element for a page, and its files by path in the report; it is drawn once for all."""
        numbers = self.frame.to_csv(index=False, lineterminator="\n").encode()
        text, files = rendered(lambda: self.draw(self.frame), self.name, self.title)
        element = Markup(embedded(text, f"{self.name}-", self.alt))  # noqa: S704  # matplotlib escapes its texts
        return element, {**files, f"figures/{self.name}.csv": numbers}


def rendered(draw: Callable[[], Drawing], name: str, title: str) -> tuple[str, dict[str, bytes]]:
    """A drawing as SVG, and as files by path in the report: SVG that follows the reader's colours, two PNGs.

    Args:
        draw: draws it, in the style of `INK`.
        name: name of its files.
        title: its title.
    """
    with style(INK):
        drawing = draw()
        text = svg(drawing)
        made = {f"figures/{name}.svg": standalone(text, title).encode()}
    for folder, dark in (("figures", False), ("figures/dark", True)):
        made[f"{folder}/{name}.png"] = png(drawing, dark=dark)
    return text, made


def figures_of(part: str, *about: object, more: Sequence[str] = ()) -> list[Figure]:
    """The figures of a part of the page.

    Args:
        part: one of `FIGURES`.
        about: what their functions take.
        more: functions from outside the package, as `module:function`.

    Raises:
        UserError: for a function that is not there, or gives no figure.
    """
    found = [figure for name in FIGURES[part] for figure in _given(named(name, "figure")(*about))]
    for name in more:
        with telling(name):
            figures = list(_given(figure_named(name)(*about)))
        for figure in figures:
            if not isinstance(figure, Figure):
                raise UserError(f"figure {name!r} gave a {type(figure).__name__}; let it give a Figure, or several")
            if not re.fullmatch(r"[\w+-][\w.+-]*", figure.name):
                raise UserError(
                    f"figure {name!r}: name={figure.name!r} is that of its files; give letters, digits, . _ -"
                )
        found += [replace(figure, draw=partial(_told, name, figure.draw)) for figure in figures]
    return found


def figure_named(name: str) -> Callable[..., object]:
    """A function from outside the package that draws figures.

    Raises:
        UserError: for a name of nothing, or of no function.
    """
    there = named(name, "figure")
    if not callable(there):
        raise UserError(f"figure {name!r} is a {type(there).__name__}; give a function of the rows that draws a Figure")
    function: Callable[..., object] = there
    return function


@contextmanager
def telling(name: str) -> Iterator[None]:
    """Make one line of whatever goes wrong in a figure from outside the package.

    Raises:
        UserError: naming the figure and what its code raised.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        why = next(iter(str(error).splitlines()), "")
        raise UserError(f"figure {name!r} failed with {type(error).__name__} ({why[:200]}); mend its code") from error


def _told(name: str, draw: Callable[[pd.DataFrame], Drawing], frame: pd.DataFrame) -> Drawing:
    """What a figure from outside draws."""
    with telling(name):
        return draw(frame)


def _given(made: Any) -> Iterable[Any]:  # noqa: ANN401
    """What a function of figures gave, one by one."""
    return made if isinstance(made, Iterable) else () if made is None else (made,)
