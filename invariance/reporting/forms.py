"""The figures of one family: the forms of Fig. 1 and Fig. 2."""

from collections.abc import Sequence

import pandas as pd

from invariance.reporting.curves import BASELINE, IDENTITY, MeasuredFamily, Subject, counts, fit_title, words
from invariance.reporting.figure import Figure
from invariance.reporting.lines import DOTTED, MISSING, Lines
from invariance.reporting.metrics import METRICS, file_name
from invariance.reporting.style import BLUE, GRAY, INK, growing
from invariance.reporting.tidy import axis_of, curves_of, said, tidy

_CROSS = " A cross: the fit ended worse than no map on its own images, or not in numbers; no score is drawn."
_CONTROL = {
    "error_rate": (
        " Dotted: M_g fitted on other classes than it is scored on, by the argmax among the reported half of the "
        "classes; the table of unseen classes has no map and the same classes beside it."
    ),
    "l2_distance": " Dotted: M_g fitted on other classes than it is scored on.",
}


def against_baseline(family: MeasuredFamily, metric: str, slug: str) -> Figure | None:
    """The form of Fig. 1: the network of the largest range against the baseline.

    Args:
        family: what was measured.
        metric: as rows name it.
        slug: beginning of the file's name.

    Returns:
        The figure, or None where there is no number to draw.
    """
    if not family.compared:
        return None
    names = " and ".join(_named(subject) for subject in family.compared)
    shaded = " Shaded: what training drew from." if family.trained else ""
    caption = (
        f"{METRICS[metric].what} of {names} under each g of {family.compared[-1].facts.grid}, "
        f"over {source([family], metric)}. {METRICS[metric].how}{shaded} "
        f"Bands: 95 % intervals over images. {_untouched(family)}"
    )
    form = "trained against baseline" if len(family.compared) == 2 else family.compared[0].network
    return _figure(
        family, metric, f"{slug}-baseline-{file_name(metric)}", form, caption, colours_of(family), bands=True
    )


def ranges_compared(family: MeasuredFamily, metric: str, slug: str, known: str = "") -> Figure | None:
    """The form of Fig. 2: all networks of a family, from the smallest range to the largest, and the baseline.

    As `against_baseline`, and None for fewer than two networks; `known`: what it is elsewhere, as `Form of Figure 2`.
    """
    if len(family.trained) < 2:
        return None
    colours = ranges_of(family)
    last, shown = list(colours)[-1].facts.grid, METRICS[metric]
    sizes = len({subject.facts.grid for subject in colours}) > 1
    own = f" Each network over the grid of its own size, the baseline over {last}." if sizes else ""
    caption = (
        f"{shown.what} of all networks trained with {words(family.name)}, from the smallest range to the largest"
        f"{', and of the baseline' if family.baseline else ''}, over {source([family], metric)}. {shown.how}{own} "
        f"The intervals are in the tables. {_untouched(family)}{f' ({known}.)' if known else ''}"
    )
    return _figure(
        family, metric, f"{slug}-ranges-{file_name(metric)}", "ranges compared", caption, colours, bands=False
    )


def colours_of(family: MeasuredFamily) -> dict[Subject, str]:
    """The baseline and the network of the largest range, each with its colour."""
    return {subject: INK if subject == family.baseline else BLUE for subject in reversed(family.compared)}


def ranges_of(family: MeasuredFamily) -> dict[Subject, str]:
    """The baseline and every network of a family, coloured by range."""
    baseline = {family.baseline: GRAY} if family.baseline else {}
    return {**baseline, **dict(zip(family.trained, growing(len(family.trained)), strict=True))}


def _figure(
    family: MeasuredFamily, metric: str, name: str, form: str, caption: str, colours: dict[Subject, str], *, bands: bool
) -> Figure | None:
    """A panel a fitted map: no map and this one, of every network."""
    subjects = [(subject.network, subject) for subject in colours]
    frame = tidy(
        drawn
        for fit in family.fits or (IDENTITY,)
        for drawn in curves_of(family, subjects, (IDENTITY, fit), metric, panel=fit_title(fit))
    )
    if frame.empty:
        return None
    draw = Lines(
        {subject.network: colour for subject, colour in colours.items()},
        {family.name: axis_of(family, list(colours), shade=bands and bool(family.trained))},
        METRICS[metric].label,
        bounds=METRICS[metric].bounds,
        bands=bands,
        size=(3.6, 2.9),
    )
    title = f"{family.title}, {form}: {METRICS[metric].short}"
    return Figure(name, title, caption + remarks(frame, metric), f"{title}. {said(frame)}", frame, draw)


def remarks(frame: pd.DataFrame, metric: str) -> str:
    """What a caption adds where a frame has crosses or dotted curves."""
    crosses = _CROSS if not frame["status"].isin(MISSING).all() else ""
    return crosses + (_CONTROL.get(metric, "") if frame["way"].str.endswith(DOTTED).any() else "")


def source(families: Sequence[MeasuredFamily], metric: str) -> str:
    """The images that the numbers of a metric are over, in words."""
    numbers, splits = list[int](), set[str]()
    for family in families:
        rows = family.rows[(family.rows["metric"] == metric) & family.rows["score"].notna()]
        numbers += rows["n_images"].tolist()
        splits |= set(rows["split"])
    return f"{counts(numbers)} images of {families[0].data.rpartition('@')[2]} ({', '.join(sorted(splits))})"


def _untouched(family: MeasuredFamily) -> str:
    """Which point of the axis is the untouched image."""
    facts = family.compared[-1].facts
    point = next((point for point in facts.points if point.label == "untouched"), None)
    if point is None:
        return "The untouched image is not on this axis."
    return f"The untouched image is the point {'“untouched”' if facts.ordinal else f'{point.value:g}'}."


def _named(subject: Subject) -> str:
    kind = "the baseline" if subject.family == BASELINE and subject.network == BASELINE else subject.network
    return f"{kind} (seed {subject.seed})"
