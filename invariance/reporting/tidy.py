"""The tidy frame of figures: a row a point, a colour a `who`, a dash a `way`, axes a `panel`."""

from collections.abc import Iterable, Sequence
from itertools import groupby

import pandas as pd

from invariance.reporting.curves import IDENTITY, Fit, MeasuredFamily, Subject, curve, way, words
from invariance.reporting.grids import GridFacts, Point
from invariance.reporting.lines import DOTTED, Axis
from invariance.reporting.metrics import HALF_ERROR, METRICS
from invariance.reporting.rows import UNSEEN

COLUMNS = [
    *("family", "row", "panel", "who", "way", "data", "layer", "grid", "network", "seed", "map", "solver"),
    *("fit_classes", "metric", "g", "x", "y", "low", "high", "shown", "status", "run"),
]
Spans = tuple[tuple[float, float], ...]


def curves_of(
    family: MeasuredFamily, subjects: Iterable[tuple[str, Subject]], fits: Sequence[Fit], metric: str, **place: str
) -> list[pd.DataFrame]:
    """The curves of some networks through some maps, each map that has it followed by its control.

    The control's dotted curve is over the classes that its map was not fitted on: on an axis of accuracies by the
    argmax among the classes of the reported half.

    Args:
        family: what was measured.
        subjects: the networks, each with what the legend calls it.
        fits: the maps.
        metric: as rows name it.
        place: the `row` and the `panel` they are drawn in.
    """
    halves = HALF_ERROR if metric == "error_rate" else metric
    made = []
    for who, subject in subjects:
        for fit in dict.fromkeys(fits):
            for classes, of in (("", metric), (UNSEEN, halves)) if fit != IDENTITY else (("", metric),):
                drawn = curve(family, subject, fit, of, classes)
                if drawn is not None:
                    made.append(
                        drawn.assign(
                            who=who,
                            way=f"{way(fit)}, {DOTTED}" if classes == UNSEEN else way(fit),
                            shown=METRICS[metric].label,
                            **place,
                        )
                    )
    return made


def tidy(curves: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Curves as one frame with the columns of `COLUMNS`; panels without any number are left out."""
    frames = [one.assign(**{name: "" for name in ("row", "panel") if name not in one}) for one in curves]
    if not frames:
        return pd.DataFrame(columns=COLUMNS)
    frame = pd.concat(frames, ignore_index=True)[COLUMNS]
    there = frame["y"].notna().groupby([frame[name] for name in ("row", "panel", "family")]).transform("any")
    return frame[there].reset_index(drop=True)


def said(frame: pd.DataFrame) -> str:
    """What a frame shows, for those who do not see it: the least and the largest number of every curve."""
    told = []
    for (row, panel), part in frame.groupby(["row", "panel"], sort=False):
        ends = []
        for (who, through), one in part.groupby(["who", "way"], sort=False):
            known = one["y"].dropna()
            range_ = f"from {known.min():.3g} to {known.max():.3g}" if len(known) else "without a number"
            ends.append(f"{who}, {through}, {range_}")
        told.append(f"{', '.join(filter(None, (row, panel)))}: {'; '.join(ends)}")
    return ". ".join(told)


def axis_of(family: MeasuredFamily, subjects: Sequence[Subject], *, shade: bool) -> Axis:
    """The x axis of networks of a family: all their g, and what the network of the largest range was trained with."""
    points = {point.value: point for subject in subjects for point in subject.facts.points}
    facts = subjects[0].facts
    spans = _spans(family.trained[-1], ordinal=facts.ordinal) if shade else ()
    return axis_over(facts, points.values(), shaded=spans)


def axis_over(facts: GridFacts, points: Iterable[Point], shaded: Spans = (), marked: tuple[float, ...] = ()) -> Axis:
    """The x axis of a grid, through some points."""
    ordered = sorted(points, key=lambda point: point.value)
    labels = tuple(point.label for point in ordered) if facts.ordinal else None
    label = f"{words(facts.family)} ({facts.unit})" if facts.unit else words(facts.family)
    return Axis(label, tuple(point.value for point in ordered), labels, shaded, marked)


def _spans(subject: Subject, *, ordinal: bool) -> Spans:
    """Neighbouring covered points as spans: on a number line from point to point, on labels around each."""
    edge = 0.5 if ordinal else 0.0
    points = sorted(subject.facts.points, key=lambda point: point.value)
    runs = [(covered, [point.value for point in run]) for covered, run in groupby(points, key=lambda p: p.covered)]
    return tuple((values[0] - edge, values[-1] + edge) for covered, values in runs if covered)
