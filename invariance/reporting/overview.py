"""All families of a data set in one figure: the forms of Figs. 1 and 7, 8 and 9, and 10, still without a drawing."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from invariance.reporting.curves import IDENTITY, Curve, Family, Fit, Subject, counts, curve, fit_title, words
from invariance.reporting.paper_figures import called, number
from invariance.reporting.plots import (
    BLUE,
    GRAY,
    HOW,
    INK,
    ORANGE,
    SHORT,
    Y_LABEL,
    Line,
    Panel,
    Plot,
    axis_of,
    compared_lines,
    limits,
    range_lines,
    what_of,
)
from invariance.settings.files import conf_dir

_PAGES = {
    "all-1": ("blur", "color_jitter", "crop", "elastic", "mirror"),
    "all-2": ("noise", "perspective", "rotation", "shear"),
}
"""The families of Figs. 8 and 9; others go with the second."""

PAPER_FIT: Fit = ("residual", "online_sgd")

_CROSSES = " A cross: the fit ended worse than no map on its own images, or not in numbers; no score is drawn."


@dataclass(frozen=True)
class Block:
    """Panels under one legend.

    Attributes:
        title: its heading, "" without one.
        plots: one figure of one panel for every set of axes.
    """

    title: str
    plots: tuple[Plot, ...]

    @property
    def whole(self) -> Plot:
        """All panels as one figure: what the legend is of."""
        panels = tuple(panel for plot in self.plots for panel in plot.panels)
        shaded = next((plot.axis.shaded for plot in self.plots if plot.axis.shaded), ())
        return replace(self.plots[0], panels=panels, axis=replace(self.plots[0].axis, shaded=shaded))


@dataclass(frozen=True)
class Overview:
    """A figure of many small panels.

    Attributes:
        name: name of its files.
        form: its form, as `paper_figures` names it.
        data: the data set, as rows name it: `<trained on>@<measured on>` where these are two.
        about: what sets it apart from others of its form.
        title: its heading.
        caption: what is drawn.
        blocks: its panels.
        across: panels in a row.
        aside: whether it is one to look up: another solver's, or of the other metric.
        lacking: what it could not show, in words.
    """

    name: str
    form: str
    data: str
    about: str
    title: str
    caption: str
    blocks: tuple[Block, ...]
    across: int
    aside: bool = False
    lacking: list[str] = field(default_factory=list)


def overviews(families: Sequence[Family], slug: str) -> list[Overview]:
    """Every overview of one data set and layer that there are numbers for.

    Args:
        families: what was measured on it.
        slug: what its files' names end on, before the metric.
    """
    metrics = dict.fromkeys(metric for family in families for metric in family.metrics())
    ordered = sorted(metrics, key=lambda metric: metric != "error_rate")
    made: list[Overview | None] = []
    for metric in ordered:
        aside = metric != ordered[0]
        for k, fit in enumerate(_fits(families)):
            made.append(_extremes(families, metric, fit, slug, first=k == 0, aside=aside or k > 0))
        made += [_all_networks(families, form, metric, slug, aside=aside) for form in _PAGES]
    return [one for one in made if one is not None]


def _fits(families: Sequence[Family]) -> list[Fit]:
    """The fitted maps, the paper's first; no map where none was fitted."""
    fits = dict.fromkeys(fit for family in families for fit in family.fits)
    return sorted(fits, key=lambda fit: (fit != PAPER_FIT, fit[0] != "residual", fit)) or [IDENTITY]


def _extremes(
    families: Sequence[Family], metric: str, fit: Fit, slug: str, *, first: bool, aside: bool
) -> Overview | None:
    """The form of Figs. 1 and 7: a panel a family, its network of the largest range against the baseline."""
    shown: list[tuple[Family, Panel]] = []
    for family in families:
        lines = compared_lines(family, fit, metric, ("baseline", "trained"))
        if _numbers(lines):
            title = family.trained[-1].network if family.trained else "baseline alone"
            shown.append((family, Panel(title, tuple(lines))))
    if not shown:
        return None
    data, ends = families[0].data, limits([panel for _, panel in shown], metric)
    plots = tuple(
        _small(family, panel, family.compared, metric, ends, shade=bool(family.trained)) for family, panel in shown
    )
    through = f" M_g: {fit_title(fit)}." if fit != IDENTITY else " No map was fitted."
    caption = (
        f"{what_of(metric)} of the network trained with the largest range of each family (green, blue) and of the "
        f"baseline (black or white, red) under each g of the family’s grid, over {_source(families, metric)}. "
        f"{HOW[metric]}{through} Shaded: what training drew from. Bands: 95 % intervals over images."
        f"{_without([family for family, _ in shown])}{_crosses(plots)}"
    )
    solver = "" if first else f"-{_file(fit)}"
    return Overview(
        f"fig{number('extremes', data)}-{slug}-{SHORT[metric]}{solver}",
        "extremes",
        data,
        _where(families, slug),
        _title("extremes", data, f"largest range against baseline, {_of(metric)} ({_short(fit)})"),
        caption,
        (Block("", plots),),
        3,
        aside,
    )


def _all_networks(families: Sequence[Family], form: str, metric: str, slug: str, *, aside: bool) -> Overview | None:
    """The form of Figs. 8 and 9: a row a family, columns no map and each solver, a curve for every trained range."""
    rest = {name for names in _PAGES.values() for name in names}
    held = [f for f in families if f.trained and (f.name in _PAGES[form] or (form == "all-2" and f.name not in rest))]
    kinds = [IDENTITY, *(fit for fit in _fits(held) if fit != IDENTITY)]
    grid = [(family, [_column(family, kind, metric) for kind in kinds]) for family in held]
    grid = [(family, row) for family, row in grid if any(_numbers(panel.lines) for panel in row)]
    if not grid:
        return None
    data, blocks = families[0].data, []
    for family, row in grid:
        ends = limits([panel for panel in row if _numbers(panel.lines)], metric)
        subjects = [*([family.baseline] if family.baseline else []), *family.trained]
        blocks.append(
            Block(family.title, tuple(_small(family, panel, subjects, metric, ends, shade=False) for panel in row))
        )
    plots = [plot for block in blocks for plot in block.plots]
    caption = (
        f"{what_of(metric)} of every network trained with a family, coloured from the smallest range to the largest, "
        f"and of the baseline (gray), under each g of the family’s grid, over {_source(held, metric)}; one seed each. "
        f"{HOW[metric]} The rows have y axes of their own; the intervals are in the tables."
        f"{_networks_without(held, form)}{_crosses(plots)}"
    )
    return Overview(
        f"fig{number(form, data)}-{slug}-{SHORT[metric]}",
        form,
        data,
        _where(families, slug),
        _title(form, data, f"all networks, {_of(metric)}, {_names([family for family, _ in grid])}"),
        caption,
        tuple(blocks),
        len(kinds),
        aside,
    )


def cross(foreign: Sequence[Family], own: Sequence[Family], slug: str) -> Overview | None:
    """The form of Fig. 10: 1 − L_L2 of networks on data they were not trained on, beside the data they were.

    Args:
        foreign: what was measured on one foreign data set at one layer; `data` is `<trained on>@<measured on>`.
        own: what was measured on the networks' own data at the same layer.
        slug: what its files' names end on.
    """
    if not foreign:
        return None
    data = foreign[0].data
    trained_on, _, measured_on = data.partition("@")
    beside = {family.name: family for family in own}
    blocks, lacking = [], []
    for family in foreign:
        mine = beside.get(family.name)
        pairs = [(subject, _same(mine, subject)) for subject in family.compared]
        lacking += [
            f"{subject.network} (seed {subject.seed}) over {subject.facts.grid} was not measured on {trained_on}, "
            "or over other transformations of the same names"
            for subject, twin in pairs
            if twin is None
        ]
        kinds = [IDENTITY, *family.fits]
        panels = [Panel(_way(kind), tuple(_cross_lines(family, mine, pairs, kind))) for kind in kinds]
        panels = [panel for panel in panels if _numbers(panel.lines)]
        if panels:
            ends = limits(panels, "l2_distance")
            plots = tuple(
                replace(_small(family, panel, family.compared, "l2_distance", ends, shade=False), y_label="1 − L_L2")
                for panel in panels
            )
            title = f"{family.title}: {family.trained[-1].network if family.trained else 'baseline alone'}"
            blocks.append(Block(title, plots))
    if not blocks:
        return None
    caption = (
        f"Networks trained on {trained_on}, measured on {measured_on} and on {trained_on} itself: 1 − L_L2, so higher "
        f"is better and 1 is untouched; over {_source(foreign, 'l2_distance')}. The network of the family’s largest "
        "range, and the baseline. Maps are fitted on images of the data measured on. Bands: 95 % intervals "
        f"over images. The rows have y axes of their own.{_crosses([plot for block in blocks for plot in block.plots])}"
    )
    if lacking:
        caption += f" Not beside it: {len(lacking)} curves on {trained_on} (see the gaps)."
    name = f"fig{number('cross', data)}-{slug}-distance"
    return Overview(
        name,
        "cross",
        data,
        _where(foreign, slug),
        _title("cross", data, f"trained on {trained_on}, measured on {measured_on}"),
        caption,
        tuple(blocks),
        max(len(b.plots) for b in blocks),
        lacking=lacking,
    )


def _same(mine: Family | None, subject: Subject) -> Subject | None:
    """The same network on its own data, over the same transformations."""
    held = [] if mine is None else [*mine.trained, *([mine.baseline] if mine.baseline else [])]
    return next(
        (
            one
            for one in held
            if (one.network, one.seed, one.facts.grid) == (subject.network, subject.seed, subject.facts.grid)
            and one.facts.same_g(subject.facts)
        ),
        None,
    )


def _cross_lines(
    family: Family, mine: Family | None, pairs: list[tuple[Subject, Subject | None]], kind: Fit
) -> list[Line]:
    trained_on, _, measured_on = family.data.partition("@")
    lines = []
    for subject, twin in pairs:
        baseline = subject == family.baseline
        who = "baseline" if baseline else "trained"
        styles = (
            (mine, twin, trained_on, INK if baseline else BLUE, "D" if baseline else "o"),
            (family, subject, measured_on, GRAY if baseline else ORANGE, "h" if baseline else "^"),
        )
        for of, one, data, colour, marker in styles:
            drawn = curve(of, one, kind, "l2_distance") if of and one else None
            if drawn is not None:
                key = f"{who}, on {data}"
                lines.append(Line(key, key, colour, kind != IDENTITY, marker, _nearness(drawn), band=True))
    return lines


def _nearness(drawn: Curve) -> Curve:
    """1 − L_L2."""
    return replace(drawn, y=1 - drawn.y, low=1 - drawn.high, high=1 - drawn.low)


def _column(family: Family, kind: Fit, metric: str) -> Panel:
    return Panel(_way(kind), tuple(replace(line, label=line.key) for line in range_lines(family, kind, metric)))


def _way(kind: Fit) -> str:
    return "Invariance" if kind == IDENTITY else f"Equivariance, {_short(kind)}"


def _small(
    family: Family, panel: Panel, subjects: Sequence[Subject], metric: str, ends: tuple[float, float], *, shade: bool
) -> Plot:
    axis = axis_of(family, subjects, shade=shade)
    said = "; ".join(f"{line.key} {_ends(line)}" for line in panel.lines)
    alt = f"{words(family.name)}, {panel.title}: {_of(metric)}, {said}"
    return Plot(family.name, panel.title, "", alt, axis, Y_LABEL[metric], ends, (panel,))


def _ends(line: Line) -> str:
    known = line.curve.y[np.isfinite(line.curve.y)]
    return f"from {known.min():.3g} to {known.max():.3g}" if len(known) else "without a number"


def _numbers(lines: Sequence[Line]) -> bool:
    return any(np.isfinite(line.curve.y).any() for line in lines)


def _where(families: Sequence[Family], slug: str) -> str:
    """The layer, where the data set was measured at several."""
    return f"φ at {families[0].layer}" if slug != families[0].data else ""


def _of(metric: str) -> str:
    return Y_LABEL[metric].partition(" (")[0]


def _file(fit: Fit) -> str:
    """A fit in the name of a file."""
    kind, solver = fit
    return solver if kind == PAPER_FIT[0] else "_".join(filter(None, fit))


def _short(fit: Fit) -> str:
    """A fit in a heading."""
    return "no map" if fit == IDENTITY else fit_title(fit).replace("residual map, ", "")


def _title(form: str, data: str, said: str) -> str:
    return f"{called(form, data)}: {said}"


def _names(families: Sequence[Family]) -> str:
    return ", ".join(words(family.name) for family in families)


def _source(families: Sequence[Family], metric: str) -> str:
    """The images that the numbers of a metric are over, in words."""
    numbers, splits = [], set()
    for family in families:
        rows = family.rows[(family.rows["metric"] == metric) & family.rows["score"].notna()]
        numbers += rows["n_images"].tolist()
        splits |= set(rows["split"])
    return f"{counts(numbers)} images of {families[0].data.rpartition('@')[2]} ({', '.join(sorted(splits))})"


def _without(shown: Sequence[Family]) -> str:
    """Which of the paper's families a figure is without."""
    there = {family.name for family in shown}
    lacking = [name for names in _PAGES.values() for name in names if name not in there]
    alone = [family for family in shown if not family.trained]
    bare = [family for family in shown if family.baseline is None]
    said = f" Not measured: {', '.join(map(words, lacking))}." if lacking else ""
    said += f" No network trained with it was measured: {_names(alone)}." if alone else ""
    return said + (f" No baseline was measured: {_names(bare)}." if bare else "")


def _networks_without(held: Sequence[Family], form: str) -> str:
    """Which of the paper's networks (Table 3) a figure is without."""
    there = {subject.network for family in held for subject in family.trained}
    expected = sorted(path.stem for path in (conf_dir() / "network").glob("*.yaml"))
    lacking = [name for name in expected if name.startswith(_PAGES[form]) and name not in there]
    if not lacking:
        return ""
    return f" Of the paper’s networks not measured: {', '.join(lacking)}."


def _crosses(plots: Sequence[Plot]) -> str:
    return _CROSSES if any(plot.diverged for plot in plots) else ""
