"""Figures of a table of results, as notebooks draw them: curves over a grid, over depth, layer × family heat maps."""

from collections.abc import Callable
from dataclasses import dataclass

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from invariance.engine.derivative import DERIVATIVE
from invariance.engine.results import Results
from invariance.engine.summaries import chosen, plain
from invariance.errors import UserError, nearest
from invariance.measures import measure_named
from invariance.models.derivative import INPUT
from invariance.reporting.curves import IDENTITY, words
from invariance.reporting.depth import Drawing, areas_of, colours_of, depth_curves, heat_map, in_order, numbers, ways_of
from invariance.reporting.lines import Axis, Lines
from invariance.reporting.metrics import METRICS, Metric, label_of, metric_of
from invariance.reporting.style import LIGHT, style
from invariance.runs.rows import WITH_SCORE
from invariance.transforms.base import UNTOUCHED


@dataclass(frozen=True)
class _Asked:
    """What is to be drawn.

    Attributes:
        results: the results.
        rows: their rows of one measure over one split, with `grid`, `label` and `way`.
        metric: the measure, as it is shown.
    """

    results: Results
    rows: pd.DataFrame
    metric: Metric

    @property
    def label(self) -> str:
        """The axis."""
        known = self.metric.name in METRICS
        return label_of(list(self.rows["unit"].unique()), self.metric.name) if known else self.metric.label

    def areas(self, rows: pd.DataFrame, *, intervals: bool) -> pd.DataFrame:
        """The areas of curves, with what layers say of themselves and through what they were measured."""
        per_image = self.results.per_image(rows) if intervals else None
        areas = areas_of(rows, self.results.attrs.get("ordinal"), per_image)
        return areas.assign(way=ways_of(areas))


def curves(
    results: Results,
    *,
    measure: str | None = None,
    transform: str | None = None,
    way: str | None = None,
    split: str | None = None,
) -> Figure:
    """The score over each grid's axis: a panel a grid and layer, a colour a network, a dash a way.

    Args:
        results: the results.
        measure: of which; None: the first that there is.
        transform: one family; None: all.
        way: "identity", or a solver's name; None: all.
        split: the split; None: the one reported on.

    Raises:
        UserError: if there are no such rows.
    """
    asked = _asked(results, measure, split, way)
    rows = chosen(asked.rows, "grid", transform, "transform")
    rows = rows[rows["label"] != DERIVATIVE]
    if rows["layer"].nunique() > 1:  # the pixels are no layer; a layer of that name alone is one
        rows = rows[rows["layer"] != INPUT]
    if rows.empty:
        raise UserError(f"measure={asked.metric.name!r} has no curve over g, but a number a layer; plot 'depth'")
    places = rows["value"].where(rows["value"].notna() | (rows["label"] != UNTOUCHED), 0.0)
    layers = rows["layer"].nunique() > 1
    frame = pd.DataFrame(
        {
            "row": rows["layer"] if layers else "",
            "panel": rows["grid"],
            "family": rows["grid"],
            "who": rows["network"],
            "way": rows["way"],
            "x": places,
            **numbers(rows, asked.metric),
        }
    )
    counted, axes = results.attrs.get("ordinal") or [], {}
    for grid, part in rows.groupby("grid", sort=False):
        here = part.assign(x=places).drop_duplicates("x").sort_values("x")
        label = " ".join(filter(None, (words(str(grid)), f"({part['unit'].iloc[0]})" if part["unit"].iloc[0] else "")))
        names = tuple(here["label"]) if grid in counted else None
        axes[str(grid)] = Axis(label, tuple(here["x"]), names)
    draw = Lines(colours_of(frame["who"]), axes, asked.label, bounds=asked.metric.bounds, size=(3.3, 2.3))
    return _drawn(lambda: Drawing(frame, draw))


def depth(
    results: Results,
    *,
    measure: str | None = None,
    transform: str | None = None,
    way: str | None = None,
    split: str | None = None,
) -> Figure:
    """The score over the layers in their order: a panel a network, a line a family, or a way of one family.

    A family's score is the area of its curve; that of one g, as `rotation:30`, is its own. The nulls are grey: from the
    least to the largest of those that there are. A layer that some of the logits go past is drawn hollow.

    Args:
        results: the results.
        measure: of which; None: the first that there is.
        transform: one family, or one g; None: all families.
        way: "identity", or a solver's name; None: the identity of all families, every way of one.
        split: the split; None: the one reported on.

    Raises:
        UserError: if there are no such rows.
    """
    asked = _asked(results, measure, split, IDENTITY[0] if transform is None and way is None else way)
    rows, at_g = asked.rows, transform is not None and ":" in transform
    rows = chosen(rows, "g", transform, "transform") if at_g else chosen(rows, "grid", transform, "transform")
    scores = rows.assign(untouched=float("nan")) if at_g else asked.areas(rows, intervals=True)
    scores = in_order(scores).assign(family=[words(str(name)) for name in in_order(scores)["grid"]])
    who, heading = ("family", "family") if transform is None else ("way", "way")
    about = asked.label if transform is None else f"{asked.label}, {transform}"
    return _drawn(lambda: depth_curves(scores, asked.metric, "network", who, heading, about, None))


def heatmap(
    results: Results,
    *,
    measure: str | None = None,
    transform: str | None = None,
    way: str | None = None,
    split: str | None = None,
) -> Figure:
    """Layers × families, the areas of the curves told in numbers: a panel a network, on one scale; dark is the better.

    Args:
        results: the results.
        measure: of which; None: the first that there is.
        transform: one family; None: all.
        way: "identity", or a solver's name; None: the identity.
        split: the split; None: the one reported on.

    Raises:
        UserError: if there are no such rows.
    """
    asked = _asked(results, measure, split, way or IDENTITY[0])
    areas = asked.areas(chosen(asked.rows, "grid", transform, "transform"), intervals=False)
    return _drawn(lambda: heat_map(areas, asked.metric, "network", asked.label))


def _asked(results: Results, measure: str | None, split: str | None, way: str | None) -> _Asked:
    """The rows of one measure, and of one way where it is told.

    Raises:
        UserError: if there are none.
    """
    rows = plain(results, split)
    there = [str(name) for name in dict.fromkeys(rows["metric"])]
    name = there[0] if measure is None else measure
    if name not in there:
        raise UserError(f"measure={name!r}: no such rows{nearest(name, there)}; there are {', '.join(there)}")
    rows = rows[rows["metric"] == name]
    if not rows["status"].isin(WITH_SCORE).any():
        raise UserError(f"measure={name!r}: no number of it can be trusted; see the column status")
    if way is not None:
        # a map is found by its solver, or where several are of one, as the ranks of low_rank are, by its own name
        apart = rows["map"] == (way if way in set(rows["map"]) else IDENTITY[0])
        rows = chosen(rows.assign(fit=rows["map"].where(apart, rows["solver"])), "fit", way, "way")
    return _Asked(results, rows.assign(way=ways_of(rows)), metric_of(measure_named(name)))


def _drawn(plan: Callable[[], Drawing]) -> Figure:
    """A figure in the style of all figures, dark on white, which a notebook shows once, where it is returned."""
    ink, paper = LIGHT
    plt.close(plt.figure())  # chooses the notebook's way of showing figures
    with style(ink):
        drawing = plan()
        figure = drawing.draw(drawing.frame)
    figure.set_facecolor(paper)
    return figure
