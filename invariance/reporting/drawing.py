"""Figures as panels, each of which draws itself: their files, and their elements on a page."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from invariance.reporting.figures import canvas, rendered
from invariance.reporting.paper_figures import called, number
from invariance.reporting.plots import INK
from invariance.reporting.vector import embedded, style, svg


@dataclass(frozen=True)
class Panel:
    """One set of axes: its heading, its size in inches, and what draws on it."""

    title: str
    size: tuple[float, float]
    draw: Callable[[Axes], None]


@dataclass(frozen=True)
class Drawing:
    """A figure.

    Attributes:
        name: name of its files.
        title: its heading.
        caption: what is drawn.
        alt: what it shows, for those who do not see it.
        panels: its axes, side by side.
        form: the form of the paper's figure, as `paper_figures` names it; "" where it is none of the paper's.
        numbers: the numbers drawn, for the CSV.
    """

    name: str
    title: str
    caption: str
    alt: str
    panels: tuple[Panel, ...]
    form: str = ""
    numbers: pd.DataFrame | None = None

    def numbered(self, data: str) -> "Drawing":
        """The same with the paper's number, where it is the form of one of the paper's figures."""
        if not self.form:
            return self
        name, title = f"fig{number(self.form, data)}-{self.name}", f"{called(self.form, data)}: {self.title}"
        return replace(self, name=name, title=title)

    def files(self) -> dict[str, bytes]:
        """The figure's files, by path in the report."""
        return rendered(self._whole, self.name, self.title, self.numbers)

    def inline(self) -> list[str]:
        """The panels as SVG elements for a page."""
        shown = []
        with style(INK):
            for k, panel in enumerate(self.panels):
                figure = canvas(panel.size)
                _on(figure.add_subplot(), panel)
                label = f"{self.title}; {panel.title}" if k else self.alt
                shown.append(embedded(svg(figure), f"{self.name}-{k}-", label))
        return shown

    def _whole(self) -> Figure:
        widths = [panel.size[0] for panel in self.panels]
        figure = canvas((sum(widths), max(panel.size[1] for panel in self.panels) + 0.4))
        figure.suptitle(self.title, fontsize=11, fontweight="bold")
        for axes, panel in zip(
            figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0], self.panels, strict=True
        ):
            _on(axes, panel)
        return figure


def _on(axes: Axes, panel: Panel) -> None:
    panel.draw(axes)
    axes.set_title(panel.title, loc="left")
