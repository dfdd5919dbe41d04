"""Figures: one class for all, each a tidy frame and what draws it; their files, and their element on the page."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

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
    found: list[Figure] = []
    for name in (*FIGURES[part], *more):
        made = named(name, "figure")(*about)
        figures = made if isinstance(made, Iterable) else () if made is None else (made,)
        for figure in figures:
            if not isinstance(figure, Figure):
                raise UserError(f"figure {name!r} gave a {type(figure).__name__}; let it give a Figure, or several")
            found.append(figure)
    return found
