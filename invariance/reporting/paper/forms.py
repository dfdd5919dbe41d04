"""All families of a data set in one figure: the forms of Figs. 1 and 7, 8 and 9, and 10."""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from invariance.reporting import forms
from invariance.reporting.curves import IDENTITY, Fit, MeasuredFamily, Subject, fit_title, way, words
from invariance.reporting.figure import Figure
from invariance.reporting.forms import ranges_of, remarks, source
from invariance.reporting.lines import Axis, Lines
from invariance.reporting.metrics import METRICS, PAPER, file_name
from invariance.reporting.paper.figures import called, number
from invariance.reporting.style import BLUE, GRAY, INK, ORANGE
from invariance.reporting.tidy import axis_of, curves_of, said, tidy
from invariance.settings.files import conf_dir

_PAGES = {
    "all-1": ("blur", "color_jitter", "crop", "elastic", "mirror"),
    "all-2": ("noise", "perspective", "rotation", "shear"),
}
"""The families of Figs. 8 and 9; others go with the second."""

PAPER_FIT: Fit = ("residual", "online_sgd")
_LARGEST = "largest range"


def ranges_compared(family: MeasuredFamily, metric: str, slug: str) -> Figure | None:
    """The form of Fig. 2 by the paper's number for it; see `invariance.reporting.forms.ranges_compared`."""
    return forms.ranges_compared(family, metric, slug, called("ranges", family.data))


def overviews(families: Sequence[MeasuredFamily], slug: str) -> list[Figure]:
    """Every figure of all families of one data set and layer that there are numbers for.

    Args:
        families: what was measured on it.
        slug: what its files' names end on, before the metric.
    """
    there = {metric for family in families for metric in family.metrics()}
    ordered = [metric for metric in PAPER if metric in there]
    made: list[Figure | None] = []
    for metric in ordered:
        aside = metric != ordered[0]
        for k, fit in enumerate(_fits(families)):
            made.append(_extremes(families, metric, fit, slug, first=k == 0, aside=aside or k > 0))
        made += [_all_networks(families, form, metric, slug, aside=aside) for form in _PAGES]
    return [one for one in made if one is not None]


def _fits(families: Sequence[MeasuredFamily]) -> list[Fit]:
    """The fitted maps, the paper's first; no map where none was fitted."""
    fits = dict.fromkeys(fit for family in families for fit in family.fits)
    return sorted(fits, key=lambda fit: (fit != PAPER_FIT, fit[0] != "residual", fit)) or [IDENTITY]


def _extremes(
    families: Sequence[MeasuredFamily], metric: str, fit: Fit, slug: str, *, first: bool, aside: bool
) -> Figure | None:
    """The form of Figs. 1 and 7: a panel a family, its network of the largest range against the baseline."""
    frame = tidy(
        drawn
        for family in families
        for drawn in curves_of(family, _pair(family), (IDENTITY, fit), metric, panel=_extreme(family))
    )
    shown = _shown(families, frame)
    if not shown:
        return None
    axes = {one.name: axis_of(one, one.compared, shade=bool(one.trained)) for one in shown}
    told = METRICS[metric]
    through = f" M_g: {fit_title(fit)}." if fit != IDENTITY else " No map was fitted."
    caption = (
        f"{told.what} of the network trained with the largest range of each family (blue) and of the baseline "
        f"(black or white) under each g of the family’s grid, over {source(families, metric)}. {told.how}{through} "
        "Shaded: what training drew from. Bands: 95 % intervals over images."
    )
    solver = "" if first else f"-{_file(fit)}"
    about = f"largest range against baseline, {METRICS[metric].short} ({_short(fit)})"
    colours = {"baseline": INK, _LARGEST: BLUE}
    draw = Lines(colours, axes, METRICS[metric].label, bounds=METRICS[metric].bounds)
    caption += _without(shown) + remarks(frame, metric)
    return _figure("extremes", families, slug, file_name(metric) + solver, about, caption, frame, draw, aside=aside)


def _all_networks(
    families: Sequence[MeasuredFamily], form: str, metric: str, slug: str, *, aside: bool
) -> Figure | None:
    """The form of Figs. 8 and 9: a row a family, columns no map and each solver, a curve for every trained range."""
    rest = {name for names in _PAGES.values() for name in names}
    held = [f for f in families if f.trained and (f.name in _PAGES[form] or (form == "all-2" and f.name not in rest))]
    frame = tidy(
        drawn[drawn["fit_classes"] == ""]
        for family in held
        for kind in dict.fromkeys((IDENTITY, *_fits(held)))
        for drawn in curves_of(family, _named(family), (kind,), metric, row=family.title, panel=_upper(way(kind)))
    )
    shown = _shown(held, frame)
    if not shown:
        return None
    colours = {subject.network: colour for family in shown for subject, colour in ranges_of(family).items()}
    axes = {family.name: axis_of(family, list(ranges_of(family)), shade=False) for family in shown}
    caption = (
        f"{METRICS[metric].what} of every network trained with a family, coloured from the smallest range to "
        f"the largest, and of the baseline (gray), under each g of the family’s grid, over {source(held, metric)}; one "
        f"seed each. {METRICS[metric].how} The rows have y axes of their own; the intervals are in the tables."
        f"{_networks_without(held, form)}{remarks(frame, metric)}"
    )
    about = f"all networks, {METRICS[metric].short}, {_names(shown)}"
    draw = Lines(colours, axes, METRICS[metric].label, bounds=METRICS[metric].bounds, bands=False)
    return _figure(form, families, slug, file_name(metric), about, caption, frame, draw, aside=aside)


def cross(foreign: Sequence[MeasuredFamily], own: Sequence[MeasuredFamily], slug: str) -> Figure | None:
    """The form of Fig. 10: 1 − L_L2 of networks on data they were not trained on, beside the data they were.

    Args:
        foreign: what was measured on one foreign data set at one layer; `data` is `<trained on>@<measured on>`.
        own: what was measured on the networks' own data at the same layer.
        slug: what its files' names end on.
    """
    if not foreign:
        return None
    trained_on, _, measured_on = foreign[0].data.partition("@")
    beside = {family.name: family for family in own}
    curves, lacking = [], []
    for family in foreign:
        mine = beside.get(family.name)
        for who, subject in _pair(family, "trained"):
            twin = _same(mine, subject)
            if mine and twin:
                curves += _nearness(mine, twin, family.fits, f"{who}, on {trained_on}", _row(family))
            else:
                lacking.append(
                    f"{subject.network} (seed {subject.seed}) over {subject.facts.grid} was not measured on "
                    f"{trained_on}, or over other transformations of the same names"
                )
            curves += _nearness(family, subject, family.fits, f"{who}, on {measured_on}", _row(family))
    frame = tidy(curves)
    shown = _shown(foreign, frame)
    if not shown:
        return None
    kinds = {_upper(way(kind)): k for k, kind in enumerate(dict.fromkeys((IDENTITY, *_fits(shown))))}
    frame = frame.sort_values("panel", key=lambda panel: panel.map(kinds), kind="stable")
    frame = frame.sort_values("family", kind="stable").reset_index(drop=True)
    caption = (
        f"Networks trained on {trained_on}, measured on {measured_on} and on {trained_on} itself: 1 − L_L2, so higher "
        f"is better and 1 is untouched; over {source(foreign, 'l2_distance')}. The network of the family’s largest "
        "range, and the baseline. Maps are fitted on images of the data measured on. Bands: 95 % intervals "
        f"over images. The rows have y axes of their own.{remarks(frame, 'l2_distance')}"
    )
    if lacking:
        caption += f" Not beside it: {len(lacking)} curves on {trained_on} (see the gaps)."
    places = [f"{who}, on {data}" for who in ("baseline", "trained") for data in (trained_on, measured_on)]
    colours = dict(zip(places, (INK, GRAY, BLUE, ORANGE), strict=True))
    axes: dict[str, Axis] = {family.name: axis_of(family, family.compared, shade=False) for family in shown}
    about = f"trained on {trained_on}, measured on {measured_on}"
    draw = Lines(colours, axes, "1 − L_L2")
    return _figure("cross", foreign, slug, "distance", about, caption, frame, draw, lacking=tuple(lacking))


def _nearness(family: MeasuredFamily, subject: Subject, fits: Sequence[Fit], who: str, row: str) -> list[pd.DataFrame]:
    """1 − L_L2 of a network, a panel no map and each fitted one."""
    return [
        drawn.assign(y=1 - drawn["y"], low=1 - drawn["high"], high=1 - drawn["low"], shown="1 − L_L2")
        for kind in (IDENTITY, *fits)
        for drawn in curves_of(family, [(who, subject)], (kind,), "l2_distance", row=row, panel=_upper(way(kind)))
        if drawn["fit_classes"].iloc[0] == ""
    ]


def _same(mine: MeasuredFamily | None, subject: Subject) -> Subject | None:
    """The same network on its own data, over the same transformations."""
    wanted = subject.network, subject.seed, subject.facts.grid
    alike = (one for one in (mine.drawn if mine else ()) if (one.network, one.seed, one.facts.grid) == wanted)
    return next((one for one in alike if one.facts.same_g(subject.facts)), None)


def _figure(
    form: str,
    families: Sequence[MeasuredFamily],
    slug: str,
    end: str,
    about: str,
    caption: str,
    frame: pd.DataFrame,
    draw: Lines,
    **more: Any,  # noqa: ANN401
) -> Figure:
    """A figure by the paper's number for its form; `more`: its other attributes."""
    data = families[0].data
    title = f"{called(form, data)}: {about}"
    layer = f"φ at {families[0].layer}" if slug != data else ""
    name = f"fig{number(form, data)}-{slug}-{end}"
    return Figure(name, title, caption, f"{title}. {said(frame)}", frame, draw, form, data, layer, **more)


def _pair(family: MeasuredFamily, trained: str = _LARGEST) -> list[tuple[str, Subject]]:
    """The baseline and the network of the largest range, whichever there is, by those names."""
    return [("baseline" if one == family.baseline else trained, one) for one in reversed(family.compared)]


def _named(family: MeasuredFamily) -> list[tuple[str, Subject]]:
    return [(subject.network, subject) for subject in ranges_of(family)]


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _extreme(family: MeasuredFamily) -> str:
    return family.trained[-1].network if family.trained else f"{words(family.name)}: baseline alone"


def _row(family: MeasuredFamily) -> str:
    return f"{family.title}: {family.trained[-1].network if family.trained else 'baseline alone'}"


def _shown(families: Iterable[MeasuredFamily], frame: pd.DataFrame) -> list[MeasuredFamily]:
    """The families that a frame has numbers of."""
    there = set(frame["family"])
    return [family for family in families if family.name in there]


def _file(fit: Fit) -> str:
    """A fit in the name of a file."""
    kind, solver = fit
    return solver if kind == PAPER_FIT[0] else "_".join(filter(None, fit))


def _short(fit: Fit) -> str:
    """A fit in a heading."""
    return "no map" if fit == IDENTITY else fit_title(fit).replace("residual map, ", "")


def _names(families: Sequence[MeasuredFamily]) -> str:
    return ", ".join(words(family.name) for family in families)


def _without(shown: Sequence[MeasuredFamily]) -> str:
    """Which of the paper's families a figure is without."""
    there = {family.name for family in shown}
    lacking = [name for names in _PAGES.values() for name in names if name not in there]
    alone = [family for family in shown if not family.trained]
    bare = [family for family in shown if family.baseline is None]
    told = f" Not measured: {', '.join(map(words, lacking))}." if lacking else ""
    told += f" No network trained with it was measured: {_names(alone)}." if alone else ""
    return told + (f" No baseline was measured: {_names(bare)}." if bare else "")


def _networks_without(held: Sequence[MeasuredFamily], form: str) -> str:
    """Which of the paper's networks (Table 3) a figure is without."""
    there = {subject.network for family in held for subject in family.trained}
    expected = sorted(path.stem for path in (conf_dir() / "network").glob("*.yaml"))
    lacking = [name for name in expected if name.startswith(_PAGES[form]) and name not in there]
    if not lacking:
        return ""
    return f" Of the paper’s networks not measured: {', '.join(lacking)}."
