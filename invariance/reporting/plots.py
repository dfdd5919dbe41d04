"""Which lines a figure has: the forms of Fig. 1 and Fig. 2, still without a drawing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import seaborn as sns
from matplotlib.colors import to_hex

from invariance.reporting.curves import BASELINE, IDENTITY, Curve, Family, Fit, Subject, counts, curve, fit_title, words
from invariance.reporting.paper_figures import called

INK = "#010203"
"""Stands for the colour of text: the page's own, dark on light or light on dark."""

# The paper's colours (Fig. 1), in lightnesses that hold on white and on near-black.
BLUE, GREEN, RED, GRAY = "#2f7fd6", "#1f9a55", "#e0483e", "#868c96"
ORANGE = "#d8921f"
_RANGES = (ORANGE, "#d9604c", "#b0479a", "#6f5bd0")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

MARK_ROOM = 0.045
"""Share of the axes' height kept free below the curves for every curve with marks of divergence."""

SHORT = {"error_rate": "accuracy", "l2_distance": "distance"}
"""What a figure of a metric shows, as its file is named."""

Y_LABEL = {"error_rate": "accuracy (%)", "l2_distance": "distance L_L2"}


@dataclass(frozen=True)
class Line:
    """One curve as it is drawn: solid for invariance, dashed for equivariance.

    Attributes:
        label: network and kind.
        key: its name in the legend; curves of one key share an entry, which shows the first.
        colour: a colour, or `INK`.
        dashed: dashed or solid.
        marker: matplotlib's name of its marker.
        curve: the numbers.
        band: whether its intervals are drawn.
    """

    label: str
    key: str
    colour: str
    dashed: bool
    marker: str
    curve: Curve
    band: bool


@dataclass(frozen=True)
class Panel:
    """One set of axes."""

    title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Axis:
    """The x axis of a grid.

    Attributes:
        label: what it counts, with the unit.
        values: places of all g.
        labels: their labels where the axis is ordinal, otherwise None: then it is a number line.
        shaded: spans that training covered.
    """

    label: str
    values: tuple[float, ...]
    labels: tuple[str, ...] | None
    shaded: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Plot:
    """A figure.

    Attributes:
        name: name of its files.
        title: its heading.
        caption: what is drawn.
        alt: what it shows, for those who do not see it.
        axis: the x axis of all panels.
        y_label: the y axis of all panels.
        limits: ends of the y axis of all panels.
        panels: one a solver.
    """

    name: str
    title: str
    caption: str
    alt: str
    axis: Axis
    y_label: str
    limits: tuple[float, float]
    panels: tuple[Panel, ...]
    legend: tuple[Line, ...] = field(init=False)

    def __post_init__(self) -> None:
        lines: dict[str, Line] = {}
        for panel in self.panels:
            for line in panel.lines:
                lines.setdefault(line.key, line)
        object.__setattr__(self, "legend", tuple(lines.values()))

    @property
    def shared(self) -> bool:
        """Whether entries of the legend stand for a solid and a dashed curve each."""
        return any(line.label != line.key for panel in self.panels for line in panel.lines)

    @property
    def diverged(self) -> bool:
        """Whether any point is marked as diverged."""
        return any(line.curve.diverged.any() for panel in self.panels for line in panel.lines)


def against_baseline(family: Family, metric: str, slug: str) -> Plot | None:
    """The form of Fig. 1: the network of the largest range against the baseline.

    Args:
        family: what was measured.
        metric: error_rate or l2_distance.
        slug: beginning of the file's name.

    Returns:
        The figure, or None where there is no number to draw.
    """
    if not family.compared:
        return None

    def lines(fit: Fit) -> list[Line]:
        return compared_lines(family, fit, metric)

    names = " and ".join(_named(subject) for subject in family.compared)
    shaded = " Shaded: what training drew from." if family.trained else ""
    caption = (
        f"{what_of(metric)} of {names} under each g of {family.compared[-1].facts.grid}, "
        f"over {source(family, metric)}. {HOW[metric]}{shaded} "
        f"Bands: 95 % intervals over images. {_untouched(family)}"
    )
    form = "trained against baseline" if len(family.compared) == 2 else family.compared[0].network
    name = f"{slug}-baseline-{SHORT[metric]}"
    return _plot(family, metric, name, form, caption, family.compared, lines, shade=bool(family.trained))


def compared_lines(family: Family, fit: Fit, metric: str, names: tuple[str, str] | None = None) -> list[Line]:
    """The four curves of Fig. 1: invariance and equivariance of the baseline and of the network of the largest range.

    Args:
        family: what was measured.
        fit: the map.
        metric: error_rate or l2_distance.
        names: what the legend calls the baseline and the network; their own names without it.
    """
    styles = [
        (subject, names[k] if names else subject.network, colours, markers)
        for k, (found, colours, markers) in enumerate(
            (
                ([family.baseline] if family.baseline else [], (INK, RED), ("D", "^")),
                (family.trained[-1:], (GREEN, BLUE), ("s", "o")),
            )
        )
        for subject in found
    ]
    return [
        Line(f"{name}: {what}", f"{name}: {what}", colours[k], bool(k), markers[k], drawn, band=True)
        for subject, name, colours, markers in styles
        for k, (what, kind) in enumerate((("invariance", IDENTITY), ("equivariance", fit)))
        if (kind != IDENTITY or k == 0) and (drawn := curve(family, subject, kind, metric)) is not None
    ]


def range_lines(family: Family, kind: Fit, metric: str) -> list[Line]:
    """Invariance (no map) or equivariance of the baseline and of every network of a family, coloured by range."""
    palette = [to_hex(colour) for colour in sns.blend_palette(_RANGES, max(len(family.trained), 2))]
    styles = [(s, palette[k], _MARKERS[k % len(_MARKERS)]) for k, s in enumerate(family.trained)]
    if family.baseline:
        styles.insert(0, (family.baseline, GRAY, "h"))
    what = "invariance" if kind == IDENTITY else "equivariance"
    return [
        Line(f"{subject.network}: {what}", subject.network, colour, kind != IDENTITY, marker, drawn, band=False)
        for subject, colour, marker in styles
        if (drawn := curve(family, subject, kind, metric)) is not None
    ]


def ranges_compared(family: Family, metric: str, slug: str) -> Plot | None:
    """The form of Fig. 2: all networks of a family, from the smallest range to the largest, and the baseline.

    Args:
        family: what was measured.
        metric: error_rate or l2_distance.
        slug: beginning of the file's name.

    Returns:
        The figure, or None where there is no number to draw or fewer than two networks of the family.
    """
    if len(family.trained) < 2:
        return None
    subjects = [*([family.baseline] if family.baseline else []), *family.trained]

    def lines(fit: Fit) -> list[Line]:
        return [line for kind in dict.fromkeys((IDENTITY, fit)) for line in range_lines(family, kind, metric)]

    sizes = len({subject.facts.grid for subject in subjects}) > 1
    own = f" Each network over the grid of its own size, the baseline over {subjects[-1].facts.grid}." if sizes else ""
    caption = (
        f"{what_of(metric)} of all networks trained with {words(family.name)}, from the smallest range to the largest"
        f"{', and of the baseline' if family.baseline else ''}, over {source(family, metric)}. {HOW[metric]}{own} "
        f"The intervals are in the tables. {_untouched(family)} ({called('ranges', family.data)}.)"
    )
    name = f"{slug}-ranges-{SHORT[metric]}"
    return _plot(family, metric, name, "ranges compared", caption, subjects, lines, shade=False)


HOW = {
    "error_rate": (
        "Invariance (solid): the classifier reads φ(gx) as it is. Equivariance (dashed): it reads M_g φ(gx), "
        "with M_g fitted to undo g."
    ),
    "l2_distance": (
        "L_L2 is the mean of ‖r̂ − φ(x)‖ / ‖φ(x)‖, every dimension first divided by its RMS; lower is nearer, and 0 is "
        "untouched. Invariance (solid): r̂ = φ(gx). Equivariance (dashed): r̂ = M_g φ(gx), with M_g fitted to undo g."
    ),
}


def what_of(metric: str) -> str:
    """What a metric is, to begin a caption with."""
    return "Accuracy" if metric == "error_rate" else "Distance to the untouched representation"


def _untouched(family: Family) -> str:
    """Which point of the axis is the untouched image."""
    facts = family.compared[-1].facts
    point = next((point for point in facts.points if point.label == "untouched"), None)
    if point is None:
        return "The untouched image is not on this axis."
    return f"The untouched image is the point {'“untouched”' if facts.ordinal else f'{point.value:g}'}."


def _named(subject: Subject) -> str:
    kind = "the baseline" if subject.family == BASELINE and subject.network == BASELINE else subject.network
    return f"{kind} (seed {subject.seed})"


def _plot(
    family: Family,
    metric: str,
    name: str,
    form: str,
    caption: str,
    subjects: Sequence[Subject],
    lines: Callable[[Fit], list[Line]],
    *,
    shade: bool,
) -> Plot | None:
    fits: Sequence[Fit] = family.fits or (IDENTITY,)
    panels = tuple(Panel(fit_title(fit), tuple(drawn)) for fit in fits if (drawn := lines(fit)))
    panels = tuple(panel for panel in panels if any(np.isfinite(line.curve.y).any() for line in panel.lines))
    if not panels:
        return None
    shown = Y_LABEL[metric].partition(" (")[0]
    alt = f"{family.title}, {form}: {shown} along {_axis_label(family)}; " + "; ".join(
        dict.fromkeys(f"{panel.title}: {_said(line, family)}" for panel in panels for line in panel.lines)
    )
    if any(line.curve.diverged.any() for panel in panels for line in panel.lines):
        caption += " A cross: the fit ended worse than no map on its own images, or not in numbers; no score is drawn."
    axis, ends = axis_of(family, subjects, shade=shade), limits(panels, metric)
    return Plot(name, f"{family.title}, {form}: {shown}", caption, alt, axis, Y_LABEL[metric], ends, panels)


def _said(line: Line, family: Family) -> str:
    """The two numbers of a curve that a reader would ask for first: its least and its largest."""
    known = line.curve.y[np.isfinite(line.curve.y)]
    return f"{line.label} from {known.min():.3g} to {known.max():.3g}" if len(known) else f"{line.label} has no number"


def _axis_label(family: Family) -> str:
    unit = family.compared[0].facts.unit if family.compared else ""
    return f"{words(family.name)} ({unit})" if unit else words(family.name)


def axis_of(family: Family, subjects: Sequence[Subject], *, shade: bool) -> Axis:
    """The x axis of networks of a family: all their g, and what the network of the largest range was trained with."""
    points = {point.value: point for subject in subjects for point in subject.facts.points}
    values = tuple(sorted(points))
    ordinal = subjects[0].facts.ordinal
    labels = tuple(points[value].label for value in values) if ordinal else None
    spans = _spans(family.trained[-1], ordinal=ordinal) if shade else ()
    return Axis(_axis_label(family), values, labels, spans)


def _spans(subject: Subject, *, ordinal: bool) -> tuple[tuple[float, float], ...]:
    """Neighbouring covered points as spans: on a number line from point to point, on labels around each."""
    spans: list[list[float]] = []
    before = False
    for point in sorted(subject.facts.points, key=lambda point: point.value):
        if point.covered and before:
            spans[-1][1] = point.value
        elif point.covered:
            spans.append([point.value, point.value])
        before = point.covered
    edge = 0.5 if ordinal else 0.0
    return tuple((left - edge, right + edge) for left, right in spans)


def limits(panels: Sequence[Panel], metric: str) -> tuple[float, float]:
    """One y axis for all panels: all numbers and drawn bands with a little room, inside what the metric can be."""
    ends = [
        values
        for panel in panels
        for line in panel.lines
        for values in ((line.curve.y, line.curve.low, line.curve.high) if line.band else (line.curve.y,))
    ]
    known = np.concatenate(ends)
    low, high = float(np.nanmin(known)), float(np.nanmax(known))
    room = 0.05 * (high - low) or 1.0
    if metric == "error_rate":
        bottom, top = max(-1.0, low - room), min(101.0, high + room)
    else:
        bottom, top = min(0.0, low) - room / 2, high + room
    marked = max(sum(bool(line.curve.diverged.any()) for line in panel.lines) for panel in panels)
    return bottom - marked * MARK_ROOM * (top - bottom) / (1 - marked * MARK_ROOM), top


def source(family: Family, metric: str) -> str:
    """The images that the numbers of a metric are over, in words."""
    rows = family.rows[(family.rows["metric"] == metric) & family.rows["score"].notna()]
    return f"{counts(rows['n_images'])} images of {family.data} ({rows['split'].iloc[0]})"
