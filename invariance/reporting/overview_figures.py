"""Drawing overviews: many small panels at the width of a page, as files and as elements on the page."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from invariance.reporting import figures
from invariance.reporting.overview import Block, Overview
from invariance.reporting.plots import INK, Plot
from invariance.reporting.vector import embedded, style, svg

_WIDTH, _HEIGHT, _KEY = 2.35, 1.75, 1.45
"""Inches of a panel, and the width of a legend beside its row."""

_LINE, _MARKER, _FONT = 1.3, 2.7, 7
_LABEL_ROOM = 8.5
"""Points that a turned label takes of the axis."""


def files(overview: Overview) -> dict[str, bytes]:
    """The figure's files, by path in the report."""
    return figures.rendered(lambda: _whole(overview), overview.name, overview.title, numbers(overview))


def numbers(overview: Overview) -> pd.DataFrame:
    """The numbers as they are drawn: a row a point, with its family."""
    plots = [plot for block in overview.blocks for plot in block.plots]
    drawn = figures.drawn(plots)
    drawn.insert(0, "family", [plot.name for plot in plots for line in plot.panels[0].lines for _ in line.curve.labels])
    return drawn


def inline(overview: Overview) -> list[tuple[Block, list[tuple[str, str]], list[str]]]:
    """For the page: every block with its legend and its panels as SVG elements."""
    shown = []
    with style(INK):
        for k, block in enumerate(overview.blocks):
            panels = []
            for j, plot in enumerate(block.plots):
                figure = figures.canvas((_WIDTH, _HEIGHT))
                _small(figure.add_subplot(), plot)
                panels.append(embedded(svg(figure), f"{overview.name}-{k}-{j}-", plot.alt))
            shown.append((block, figures.swatches(block.whole), panels))
    return shown


def _whole(overview: Overview) -> Figure:
    return _under_one_legend(overview) if len(overview.blocks) == 1 else _row_by_row(overview)


def _under_one_legend(overview: Overview) -> Figure:
    """Panels in rows under a legend of all."""
    plots = overview.blocks[0].plots
    across = min(overview.across, len(plots))
    down = -(-len(plots) // across)
    keys = figures.handles(overview.blocks[0].whole)
    figure = figures.canvas((max(_WIDTH * across, 6.2), _HEIGHT * down + 0.45 + 0.19 * -(-len(keys) // 3)))
    grid = figure.subplots(down, across, sharey=True, squeeze=False)
    for k, axes in enumerate(grid.flat):
        if k < len(plots):
            _small(axes, plots[k], first=k % across == 0)
        else:
            axes.remove()
    figure.legend(
        handles=keys,
        title=overview.title,
        title_fontproperties={"size": 9.5, "weight": "bold"},
        loc="outside upper center",
        ncols=3,
        frameon=False,
        handlelength=3.2,
        columnspacing=2.0,
        labelspacing=0.35,
        fontsize=7.5,
    )
    return figure


def _row_by_row(overview: Overview) -> Figure:
    """A row of panels a block, its legend beside it."""
    across = overview.across
    size = (_WIDTH * across + _KEY, _HEIGHT * len(overview.blocks) + 0.4)
    figure = figures.canvas(size)
    figure.suptitle(overview.title, fontsize=9.5, fontweight="bold")
    widths = [*([_WIDTH] * across), _KEY]
    grid = figure.subplots(len(overview.blocks), across + 1, squeeze=False, width_ratios=widths)
    named: tuple[str, ...] = ()
    for block, row in zip(overview.blocks, grid, strict=True):
        titles = tuple(plot.title for plot in block.plots)
        for k, axes in enumerate(row[:-1]):
            if k < len(block.plots):
                _small(axes, block.plots[k], first=k == 0)
                axes.set_title("" if titles == named else titles[k], loc="left", fontsize=_FONT + 1)
            else:
                axes.remove()
        named = titles
        row[-1].set_axis_off()
        row[-1].legend(
            handles=figures.handles(block.whole),
            loc="center left",
            frameon=False,
            borderaxespad=0,
            fontsize=6.5,
            handlelength=2.6,
            labelspacing=0.3,
            title=block.title,
            title_fontproperties={"size": 7, "weight": "bold"},
            alignment="left",
        )
    return figure


def _small(axes: Axes, plot: Plot, *, first: bool = True) -> None:
    """A panel with letters and marks of its size."""
    figures.draw(axes, plot.panels[0], plot)
    for line in axes.lines:
        line.set(linewidth=_LINE, markersize=_MARKER if line.get_marker() != "x" else 4)
    axes.set_title(plot.title, loc="left", fontsize=_FONT + 1)
    axes.tick_params(labelsize=_FONT, length=3)
    axes.tick_params(which="minor", length=1.5)
    axes.xaxis.label.set_fontsize(_FONT + 0.5)
    axes.yaxis.label.set_fontsize(_FONT + 0.5)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    if not first:
        axes.set_ylabel("")
    labels = plot.axis.labels
    if labels is None:
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 1.5, 2, 2.5, 3, 5, 10]))
        return
    step = int(np.ceil(len(labels) * _LABEL_ROOM / (0.75 * 72 * _WIDTH)))
    turned = len(labels) > 6
    middle = labels.index("untouched") if "untouched" in labels else 0
    kept = [k for k in range(len(labels)) if (k - middle) % step == 0]
    axes.set_xticks(
        [plot.axis.values[k] for k in kept], [labels[k] for k in kept], rotation=90 if turned else 0, fontsize=6
    )
