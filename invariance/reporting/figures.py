"""Drawing: figures as files, light and dark, and their panels as SVG for the page; the same plot, the same bytes."""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, MaxNLocator

from invariance.reporting.plots import INK, MARK_ROOM, Line, Panel, Plot
from invariance.reporting.vector import embedded, png, standalone, style, svg

_PANEL = (4.3, 3.1)
_MOST_UPRIGHT = 44
"""Characters of all labels of an axis together beyond which they are turned."""


def files(plot: Plot) -> dict[str, bytes]:
    """A figure's files, by path in the report: SVG, which follows the reader's colours, PNG for light and for dark."""
    return rendered(lambda: _whole(plot), plot.name, plot.title, drawn([plot]))


def rendered(
    draw: Callable[[], Figure], name: str, title: str, numbers: pd.DataFrame | None = None
) -> dict[str, bytes]:
    """Files of a figure, by path in the report; it is drawn once, and coloured for each.

    Args:
        draw: draws it, in the style of `INK`.
        name: name of its files.
        title: its title.
        numbers: the numbers it shows, for the CSV; None for a figure of images.
    """
    with style(INK):
        figure = draw()
        made = {f"figures/{name}.svg": standalone(svg(figure), title).encode()}
    if numbers is not None:
        made[f"figures/{name}.csv"] = numbers.to_csv(index=False, lineterminator="\n").encode()
    for folder, dark in (("figures", False), ("figures/dark", True)):
        made[f"{folder}/{name}.png"] = png(figure, dark=dark)
    return made


def drawn(plots: Iterable[Plot]) -> pd.DataFrame:
    """The numbers of figures as they are drawn: a row a point, gaps with their reason."""
    return pd.DataFrame(
        {
            "panel": panel.title,
            "curve": line.label,
            **dict(line.curve.of),
            "g": label,
            "x": line.curve.x[k],
            "y": line.curve.y[k],
            "low": line.curve.low[k],
            "high": line.curve.high[k],
            "shown": plot.y_label,
            "status": line.curve.status[k],
            "run": line.curve.runs[k],
        }
        for plot in plots
        for panel in plot.panels
        for line in panel.lines
        for k, label in enumerate(line.curve.labels)
    )


def inline(plot: Plot) -> list[str]:
    """A figure's panels as SVG elements for a page; they take the page's colour of text and say what they show."""
    panels = []
    with style(INK):
        for k, panel in enumerate(plot.panels):
            figure = canvas(_PANEL)
            draw(figure.add_subplot(), panel, plot)
            label = f"{plot.title}; {panel.title}" if k else plot.alt
            panels.append(embedded(svg(figure), f"{plot.name}-{k}-", label))
    return panels


def swatches(plot: Plot) -> list[tuple[str, str]]:
    """The legend for a page: a piece of every curve as an SVG element, and its name."""
    with style(INK):
        return [(_swatch(handle).replace(INK, "currentColor"), str(handle.get_label())) for handle in handles(plot)]


def _swatch(handle: Line2D | Patch) -> str:
    """A legend's entry as SVG, written out: a hundred small drawings would take longer than the figures."""
    parts = []
    if isinstance(handle, Patch):
        parts.append(f'<rect x="4" y="1" width="28" height="10" fill="{INK}" fill-opacity="{handle.get_alpha()}"/>')
    else:
        colour = to_hex(handle.get_color())
        if handle.get_linestyle() != "None":
            dash = ' stroke-dasharray="6.8 3.1"' if handle.get_linestyle() == "--" else ""
            parts.append(f'<path d="M0 6H36" stroke="{colour}" stroke-width="1.8"{dash}/>')
        marker = MarkerStyle(handle.get_marker())
        outline = marker.get_path().transformed(marker.get_transform())
        size, edge = handle.get_markersize() * 1.3, handle.get_markeredgewidth()
        for corners in outline.to_polygons(closed_only=False):
            d = "L".join(f"{18 + size * x:.2f} {6 - size * y:.2f}" for x, y in np.asarray(corners))
            parts.append(f'<path d="M{d}" fill="{colour}" stroke="{colour}" stroke-width="{edge}"/>')
    return f'<svg viewBox="0 0 36 12" aria-hidden="true">{"".join(parts)}</svg>'


def canvas(size: tuple[float, float]) -> Figure:
    """An empty figure of a size in inches, outside pyplot's global list."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _whole(plot: Plot) -> Figure:
    """All panels side by side under one legend."""
    n = len(plot.panels)
    keys = handles(plot)
    columns = min(len(keys), 4 if n > 1 else 3)
    head = 0.5 + 0.19 * -(-len(keys) // columns)
    figure = canvas((max(_PANEL[0] * n, 6.2), _PANEL[1] + head))
    for k, axes in enumerate(figure.subplots(1, n, sharey=True, squeeze=False)[0]):
        draw(axes, plot.panels[k], plot)
        if k:
            axes.set_ylabel("")
    figure.legend(
        handles=keys,
        title=plot.title,
        title_fontproperties={"size": 11, "weight": "bold"},
        loc="outside upper center",
        ncols=columns,
        frameon=False,
        handlelength=3.4,
        columnspacing=2.0,
        labelspacing=0.35,
    )
    return figure


def draw(axes: Axes, panel: Panel, plot: Plot) -> None:
    """Draw one panel of a figure."""
    ink = mpl.rcParams["text.color"]
    for left, right in plot.axis.shaded:
        axes.axvspan(left, right, color=ink, alpha=0.075, linewidth=0, zorder=0)
    diverged = [line for line in panel.lines if line.curve.diverged.any()]
    for line in panel.lines:
        _curve(axes, line)
    for k, line in enumerate(diverged):
        _mark(axes, line, (k + 0.6) * MARK_ROOM)
    axes.set(xlabel=plot.axis.label, ylabel=plot.y_label, ylim=plot.limits)
    axes.set_title(panel.title, loc="left")
    axes.grid(axis="y", color=ink, alpha=0.12, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    _x_axis(axes, plot)


def _x_axis(axes: Axes, plot: Plot) -> None:
    values, labels = plot.axis.values, plot.axis.labels
    if labels is None:
        edge = 0.03 * (values[-1] - values[0]) or 0.5
        axes.set_xlim(values[0] - edge, values[-1] + edge)
        axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 1.5, 2, 2.5, 3, 5, 10]))
        axes.xaxis.set_minor_locator(FixedLocator(values))
        return
    axes.set_xlim(values[0] - 0.5, values[-1] + 0.5)
    turned = sum(len(label) + 1 for label in labels) > _MOST_UPRIGHT
    axes.set_xticks(values, labels, rotation=90 if turned else 0, fontsize=7 if turned else 8)


def _curve(axes: Axes, line: Line) -> None:
    held = line.curve
    order = np.argsort(held.x, kind="stable")
    x, y = held.x[order], held.y[order]
    handle = _key(line, label=None)
    handle.set_data(x, y)
    axes.add_line(handle)
    if line.band:
        axes.fill_between(x, held.low[order], held.high[order], color=handle.get_color(), alpha=0.14, linewidth=0)


def _mark(axes: Axes, line: Line, height: float) -> None:
    """Crosses at a height of the axes, where the numbers of a curve were withheld."""
    x = line.curve.x[line.curve.diverged]
    crosses = Line2D(x, np.full(len(x), height), linestyle="", marker="x", color=_colour(line), zorder=3)
    crosses.set(markersize=5.5, markeredgewidth=1.5, clip_on=False, transform=axes.get_xaxis_transform())
    axes.add_line(crosses)


def _colour(line: Line) -> str:
    return str(mpl.rcParams["text.color"]) if line.colour == INK else line.colour


def _key(line: Line, label: str | None) -> Line2D:
    """A line without points in the style of a curve."""
    return Line2D(
        [],
        [],
        color=_colour(line),
        linestyle=_dashes(line.dashed),
        marker=line.marker,
        markersize=4.2,
        markeredgewidth=0,
        label=label,
        zorder=2.5,
        solid_capstyle="round",
    )


def _dashes(dashed: bool) -> Literal["--", "-"]:
    return "--" if dashed else "-"


def handles(plot: Plot) -> Sequence[Line2D | Patch]:
    """The entries of a figure's legend."""
    found: list[Line2D | Patch] = [_key(line, line.key) for line in plot.legend]
    ink = mpl.rcParams["text.color"]
    if plot.shared:
        found += [
            Line2D([], [], color=ink, linestyle=_dashes(dashed), label=label)
            for dashed, label in ((False, "solid: invariance"), (True, "dashed: equivariance"))
        ]
    if plot.axis.shaded:
        found.append(Patch(facecolor=ink, alpha=0.15, linewidth=0, label="covered by training"))
    if plot.diverged:
        found.append(
            Line2D(
                [],
                [],
                linestyle="",
                marker="x",
                color=ink,
                markersize=6,
                markeredgewidth=1.6,
                label="diverged: no number",
            )
        )
    return found
