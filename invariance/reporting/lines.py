"""Curves of a tidy frame, drawn with seaborn: a colour a network, a dash a way, axes a panel."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, MaxNLocator

from invariance.reporting.style import GRAY, INK, canvas
from invariance.runs.rows import FEW_IMAGES, WITH_SCORE

INVARIANCE, DOTTED = "invariance", "unseen classes"
"""The way that is solid, as one without a name is; and what ends the name of a dotted one. All others are dashed."""

_SOLID = (INVARIANCE, "")

PASSED = "passed"
"""Status of a number at a layer that some of the logits go past."""

MISSING = (*WITH_SCORE, PASSED, "not measured")
"""Statuses of points that are drawn, and of one that is a gap; all others are a cross."""

FEW = "fewer than 2 fit images a dimension"
"""What the legend calls hollow marks: numbers that too few images decided."""

HOLLOW = {FEW_IMAGES: FEW, PASSED: "logits go past the layer"}
"""What the legend calls hollow marks, by the status of their numbers."""

_DASHES = ((4, 1.8), (7, 1.6, 1.6, 1.6), (2.4, 1.2))
_MARKERS = ("s", "^", "D", "P", "X", "p")
_DOTS = (1, 1.5)
_ROOM = 0.05
"""Share of the axes' height kept free below the curves for the crosses of every curve."""

_LABEL_ROOM = 8.5
"""Points that a turned label takes of the axis."""

_KEY = 2.1
"""Inches of the legend."""


@dataclass(frozen=True)
class Axis:
    """An x axis.

    Attributes:
        label: what it counts, with the unit.
        values: places of all points; none for an axis that matplotlib may choose.
        labels: their labels where the axis only counts, as with layers or draws; otherwise None: a number line.
        shaded: spans that training covered.
        marked: places with a dotted line.
    """

    label: str
    values: tuple[float, ...] = ()
    labels: tuple[str, ...] | None = None
    shaded: tuple[tuple[float, float], ...] = ()
    marked: tuple[float, ...] = ()


@dataclass(frozen=True)
class Lines:
    """How a frame with the columns `row, panel, family, who, way, x, y, low, high, status` is drawn.

    A point whose y is NaN breaks its line; where its status is another than `MISSING`, a cross below says so. A number
    of a status of `HOLLOW` has a hollow mark.

    Attributes:
        colours: the colour of every `who`, in the legend's order; `INK` is that of text.
        axes: the x axis of every family, or of single panels.
        y_label: the y axis.
        heading: what the legend calls `who`.
        bounds: ends that the y axis stays within.
        shared: whether panels of a row share their y axis.
        across: panels in a row, where all are of one.
        size: inches of a panel.
        bands: whether intervals are drawn.
        sort: whether a line goes by x, or in the order of the rows.
        references: every `who` that is measured of nothing here, as a null is: gray, a band or a dotted line.
    """

    colours: Mapping[str, str]
    axes: Mapping[str, Axis]
    y_label: str
    heading: str = "network"
    bounds: tuple[float, float] = (-np.inf, np.inf)
    shared: bool = True
    across: int = 3
    size: tuple[float, float] = (2.7, 2.1)
    bands: bool = True
    sort: bool = True
    references: tuple[str, ...] = ()

    def __call__(self, frame: pd.DataFrame) -> Figure:
        """The drawing of a frame."""
        measured = frame[~frame["who"].isin(self.references)]
        ways = sorted(measured["way"].unique(), key=lambda way: (way not in _SOLID, way.endswith(DOTTED)))
        panels = [part for _, part in frame.groupby(["row", "panel", "family"], sort=False)]
        rows = list(dict.fromkeys(frame["row"]))
        places, shape = self._places(panels, rows)
        figure = canvas((self.size[0] * shape[1] + _KEY, self.size[1] * shape[0]))
        grid = figure.subplots(*shape, squeeze=False)
        ends = {row: self._limits(frame[frame["row"] == row]) for row in rows}
        who = [one for one in self.colours if one in set(measured["who"])]
        for k, (part, place) in enumerate(zip(panels, places, strict=True)):
            refers = part["who"].isin(self.references)
            self._draw(grid[place], part[~refers], who, ways, legend=k == 0)
            _refer(grid[place], part[refers])
            grid[place].set_ylim(*(ends[part["row"].iloc[0]] if self.shared else self._limits(part)))
            self._name(grid[place], part, place, rows)
        for place in np.ndindex(shape):
            if place not in places:
                grid[place].remove()
        self._legend(figure, grid[places[0]], frame)
        return figure

    def _places(self, panels: list[pd.DataFrame], rows: list[str]) -> tuple[list[tuple[int, int]], tuple[int, int]]:
        """Row and column of every panel, and how many there are of each."""
        if len(rows) == 1:
            across = min(self.across, len(panels))
            return [divmod(k, across) for k in range(len(panels))], (-(-len(panels) // across), across)
        of = [rows.index(part["row"].iloc[0]) for part in panels]
        columns = [of[:k].count(row) for k, row in enumerate(of)]
        return list(zip(of, columns, strict=True)), (len(rows), max(columns) + 1)

    def _draw(self, axes: Axes, part: pd.DataFrame, who: list[str], ways: list[str], *, legend: bool) -> None:
        pieces = part.groupby(["who", "way"], sort=False)["y"].transform(lambda y: y.isna().cumsum())
        others = [way for way in ways if way not in _SOLID]
        sns.lineplot(
            part.assign(piece=pieces),
            x="x",
            y="y",
            hue="who",
            hue_order=who,
            palette={one: self.colours[one] for one in who},
            style="way",
            style_order=ways,
            dashes={way: _dashes(way, others) for way in ways},
            markers={way: "o" if way in _SOLID else _MARKERS[others.index(way) % len(_MARKERS)] for way in ways},
            units="piece",
            estimator=None,
            sort=self.sort,
            markersize=3.6,
            markeredgewidth=0,
            linewidth=1.4,
            solid_capstyle="round",
            legend="full" if legend else False,
            ax=axes,
        )
        crosses = 0
        for (one, _), curve in part.groupby(["who", "way"], sort=False):
            colour = self.colours[one]
            if self.bands:
                axes.fill_between(curve["x"], curve["low"], curve["high"], color=colour, alpha=0.14, linewidth=0)
            few = curve[curve["status"].isin(list(HOLLOW))]
            axes.plot(few["x"], few["y"], "o", color=colour, mfc="white", ms=4.4, mew=1.1, zorder=3)
            bad = curve[~curve["status"].isin(MISSING)]
            if len(bad):
                height = np.full(len(bad), (crosses + 0.6) * _ROOM)
                place = axes.get_xaxis_transform()
                axes.plot(bad["x"], height, "x", color=colour, ms=4.5, mew=1.3, transform=place, clip_on=False)
                crosses += 1

    def _limits(self, part: pd.DataFrame) -> tuple[float, float]:
        """One y axis for all panels of a part: all that is drawn, with a little room and some for crosses."""
        ends = self.bands | part["who"].isin(self.references)  # a reference has its band always
        known = np.stack([part["y"], *(part[name].where(ends) for name in ("low", "high"))]).astype(np.float64)
        if not np.isfinite(known).any():
            return 0.0, 1.0
        low, high = float(np.nanmin(known)), float(np.nanmax(known))
        room = 0.05 * (high - low) or 1.0
        bottom, top = max(self.bounds[0], low - room), min(self.bounds[1], high + room)
        bad = part[~part["status"].isin(MISSING)]
        curves = bad.drop_duplicates(["panel", "family", "who", "way"]).groupby(["panel", "family"]).size()
        marked = _ROOM * int(curves.max()) if len(curves) else 0.0
        return bottom - marked * (top - bottom) / (1 - marked), top

    def _name(self, axes: Axes, part: pd.DataFrame, place: tuple[int, int], rows: list[str]) -> None:
        row, panel, family = (part[name].iloc[0] for name in ("row", "panel", "family"))
        axis = self.axes.get(panel) or self.axes[family]
        axes.set_title(panel, loc="left")
        axes.set_xlabel(axis.label)
        axes.set_ylabel((f"{row}\n{self.y_label}" if len(rows) > 1 else self.y_label) if place[1] == 0 else "")
        axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.7)
        axes.set_axisbelow(True)
        sns.despine(ax=axes)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        for left, right in axis.shaded:
            axes.axvspan(left, right, color=INK, alpha=0.075, linewidth=0, zorder=0)
        for value in axis.marked:
            axes.axvline(value, color=GRAY, linestyle=":", linewidth=0.8, zorder=0)
        if axis.labels is not None:
            self._count(axes, axis.values, axis.labels)
        elif axis.values:
            edge = 0.03 * (axis.values[-1] - axis.values[0]) or 0.5
            axes.set_xlim(axis.values[0] - edge, axis.values[-1] + edge)
            whole = all(value == int(value) for value in axis.values)
            axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 1.5, 2, 2.5, 3, 5, 10], integer=whole))
            axes.xaxis.set_minor_locator(FixedLocator(axis.values))

    def _count(self, axes: Axes, values: tuple[float, ...], labels: tuple[str, ...]) -> None:
        """Label an axis that counts; where there is no room for all labels, every so many from the untouched."""
        step = int(np.ceil(len(labels) * _LABEL_ROOM / (0.75 * 72 * self.size[0])))
        middle = labels.index("untouched") if "untouched" in labels else 0
        kept = [k for k in range(len(labels)) if (k - middle) % step == 0]
        turned = sum(len(labels[k]) + 2 for k in kept) > 15 * self.size[0]
        axes.set_xlim(values[0] - 0.5, values[-1] + 0.5)
        axes.set_xticks([values[k] for k in kept], [labels[k] for k in kept], rotation=90 if turned else 0, fontsize=7)

    def _legend(self, figure: Figure, axes: Axes, frame: pd.DataFrame) -> None:
        """Seaborn's legend of the first panel, with all networks and ways, beside all panels."""
        handles, labels = taken(axes)
        measured = frame[~frame["who"].isin(self.references)]
        if measured["way"].nunique() == 1:  # then only networks are told apart
            keys = 1 + measured["who"].nunique()
            handles, labels = handles[:keys], labels[:keys]
        for one in [one for one in self.references if (frame["who"] == one).any()]:
            band = frame.loc[frame["who"] == one, "low"].notna().any()
            key = Patch(color=GRAY, alpha=0.3, lw=0) if band else Line2D([], [], color=GRAY, linestyle=(0, _DOTS))
            handles, labels = [*handles, key], [*labels, one]
        for handle, label in zip(handles, labels, strict=True):
            if label not in self.colours and label not in self.references:
                handle.set(color=INK)
        if any(axis.shaded for axis in self.axes.values()):
            handles, labels = [*handles, Patch(color=INK, alpha=0.15, lw=0)], [*labels, "covered by training"]
        for status in [one for one in HOLLOW if (frame["status"] == one).any()]:
            hollow = Line2D([], [], color=INK, marker="o", mfc="white", ms=5, mew=1.1, linestyle="")
            handles, labels = [*handles, hollow], [*labels, HOLLOW[status]]
        for status in sorted(set(frame["status"]) - set(MISSING)):
            cross = Line2D([], [], color=INK, marker="x", ms=5, mew=1.4, linestyle="")
            handles, labels = [*handles, cross], [*labels, f"{status}: no number"]
        labels = [{"who": self.heading}.get(label, label) for label in labels]
        legend = figure.legend(handles, labels, loc="outside right upper", frameon=False, handlelength=3)
        for text in legend.get_texts():
            text.set_fontweight("bold" if text.get_text() in (self.heading, "way") else "normal")


def _refer(axes: Axes, part: pd.DataFrame) -> None:
    """What curves are set beside: bands with dotted ends, which would be faint among other bands, or dotted lines."""
    for _, one in part.groupby("who", sort=False):
        axes.fill_between(one["x"], one["low"], one["high"], color=GRAY, alpha=0.2, linewidth=0, zorder=0)
        for name in ("y", "low", "high"):
            if one[name].notna().any():
                axes.plot(one["x"], one[name], linestyle=(0, _DOTS), color=GRAY, linewidth=1.1, zorder=1)


def taken(axes: Axes) -> tuple[list[Artist], list[str]]:
    """Seaborn's legend of a panel, taken away from it: what stands in it, and its names."""
    handles, labels = axes.get_legend_handles_labels()
    legend = axes.get_legend()
    if legend is not None:
        legend.remove()
    return list(handles), list(labels)


def _dashes(way: str, others: list[str]) -> tuple[float, ...] | str:
    if way in _SOLID:
        return ""
    return (1, 1.2) if way.endswith(DOTTED) else _DASHES[others.index(way) % len(_DASHES)]
