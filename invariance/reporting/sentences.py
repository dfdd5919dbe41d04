"""What a network loses under each family, and what a map wins back: as numbers, and in plain words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from invariance.engine.derivative import DERIVATIVE
from invariance.engine.per_image import Of
from invariance.errors import UserError
from invariance.measures.bootstrap import bootstrap
from invariance.models.derivative import INPUT
from invariance.reporting.curves import IDENTITY, Fit, fit_title, words
from invariance.reporting.given import GivenNetwork
from invariance.reporting.grids import GridFacts
from invariance.reporting.metrics import METRICS, Metric
from invariance.runs.rows import WITH_SCORE
from invariance.transforms.base import UNTOUCHED

ABOVE = "↑"
"""Marks a score through a map that is above the untouched one: the map has learned the classes."""

_LINEAR = ("residual", "low_rank", "orthogonal")
_FALLS = 0.9
"""Share of the first layer's distance below which a layer is nearer."""


@dataclass(frozen=True)
class Span:
    """A number and its interval over images, where there is one."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def told(self, metric: Metric, unit: str = "") -> str:
        """The number in the metric's decimals, with the interval."""
        ends = "" if math.isnan(self.low) else f" [{metric.text(self.low)}, {metric.text(self.high)}]"
        return f"{metric.text(self.value)}{unit}{ends}"


@dataclass(frozen=True)
class Mended:
    """What a map at a layer wins back at one g.

    Attributes:
        fit: the map.
        layer: where.
        won: how much, in what the metric shows.
        score: the score through it, as shown.
        above: whether it is above the untouched score; and whether beyond its interval.
        surely: likewise.
    """

    fit: Fit
    layer: str
    won: Span
    score: float
    above: bool
    surely: bool


@dataclass(frozen=True)
class Loss:
    """What a network loses under a family where it loses most.

    Attributes:
        grid: the family's grid.
        metric: what is lost.
        layer: the layer whose rows say so: the last true cut.
        label: the g.
        at: the g for people, as 30°.
        lost: how much, in what the metric shows.
        best: the untouched score of rows; the best that there is where it was not measured.
        score: the score under the g, as shown.
        area: the area of the curve, as a row of `GivenNetwork.areas`; None without one.
        count: images that the score is a mean over.
        mended: what each map wins back there.
        among: how much is lost among the classes of the images alone; None where they have all.
    """

    grid: str
    metric: Metric
    layer: str
    label: str
    at: str
    lost: Span
    best: float
    score: float
    area: "pd.Series[float] | None"
    count: int
    mended: tuple[Mended, ...]
    among: Span | None

    @property
    def mean(self) -> float:
        """What is lost on average over the g, as the area has it."""
        if self.area is None:
            return math.nan
        return float(self.metric.loss(self.area["score"], self.best))

    @property
    def untouched(self) -> float:
        """The untouched score, as shown."""
        return float(self.metric.shown(self.best))

    @property
    def linear(self) -> Mended | None:
        """Through the linear map of the fewest restraints that was fitted."""
        return next((one for one in self.mended if one.fit[0].partition(":")[0] in _LINEAR), None)


def losses(network: GivenNetwork) -> list[Loss]:
    """What a network loses under each family, that of the greatest loss on average first."""
    if not network.main or not network.inner:
        return []
    metric = METRICS[network.main]
    found = [loss for grid in network.grids if (loss := _loss(network, grid, metric)) is not None]
    return sorted(found, key=lambda loss: -np.nan_to_num(loss.mean, nan=-np.inf))


def last_cut(network: GivenNetwork) -> str:
    """The last true cut that was measured; the last layer where there is none."""
    return (network.cuts or network.inner)[-1]


def _loss(network: GivenNetwork, grid: str, metric: Metric) -> Loss | None:
    rows = network.rows[(network.rows["grid"] == grid) & (network.rows["metric"] == metric.name)]
    rows = rows[(rows["map"] == IDENTITY[0]) & rows["status"].isin(WITH_SCORE)]
    there = [layer for layer in (network.cuts or network.inner) if (rows["layer"] == layer).any()]
    if not there:
        return None
    rows = rows[rows["layer"] == there[-1]].set_index("label")
    moved = rows[(rows.index != UNTOUCHED) & (rows.index != DERIVATIVE)]
    if moved.empty:
        return None
    best = float(rows["score"].get(UNTOUCHED, math.nan))
    best = (0.0 if metric.better == "lower" else 1.0) if math.isnan(best) else best
    lost = moved["score"].map(lambda score: metric.loss(score, best))
    label = str(lost.idxmax())
    row, of = moved.loc[label], (network.network, there[-1], *IDENTITY, grid)
    among = None if network.covered is None else _among(network, of, label)
    return Loss(
        grid,
        metric,
        there[-1],
        label,
        at_g(network.grids[grid], label),
        Span(float(lost[label]), *_paired(network, (of, label), (of, UNTOUCHED), metric, row)),
        best,
        float(metric.shown(row["score"])),
        area_of(network, metric.name, there[-1], grid, IDENTITY),
        int(row["n_images"]),
        tuple(one for fit in network.fits if (one := _mended(network, of, label, fit, metric, row, best)) is not None),
        among,
    )


def area_of(network: GivenNetwork, metric: str, layer: str, grid: str, fit: Fit) -> "pd.Series[float] | None":
    """The area of one curve; None where there is none, or it lacks a number."""
    areas = network.areas
    if areas.empty:
        return None
    here = (areas["metric"] == metric) & (areas["layer"] == layer) & (areas["grid"] == grid)
    found = areas[here & (areas["map"] == fit[0]) & (areas["solver"] == fit[1]) & areas["score"].notna()]
    return None if found.empty else found.iloc[0]


def _mended(
    network: GivenNetwork, of: Of, label: str, fit: Fit, metric: Metric, plain: "pd.Series[float]", best: float
) -> Mended | None:
    """What a map wins back at a g, against no map there."""
    rows = network.rows
    here = (rows["layer"] == of[1]) & (rows["grid"] == of[-1]) & (rows["label"] == label)
    here &= (rows["metric"] == metric.name) & (rows["map"] == fit[0]) & (rows["solver"] == fit[1])
    found = rows[here & rows["status"].isin(WITH_SCORE)]
    if found.empty:
        return None
    row = found.iloc[0]
    sign = 1 if metric.better == "lower" or metric.rest else -1  # of scores, not of what is shown
    above = sign * (row["score"] - best) < 0
    furthest = row["high"] if sign == 1 else row["low"]
    through = (*of[:2], *fit, of[-1])
    return Mended(
        fit,
        str(of[1]),
        Span(
            float(metric.loss(plain["score"], row["score"])), *_paired(network, (of, label), (through, label), metric)
        ),
        float(metric.shown(row["score"])),
        bool(above and metric.name != "l2_distance"),
        bool(sign * (furthest - best) < 0),
    )


def _paired(
    network: GivenNetwork,
    one: tuple[Of, str],
    other: tuple[Of, str],
    metric: Metric,
    row: "pd.Series[float] | None" = None,
) -> tuple[float, float]:
    """The interval of what one curve at a g loses against another: images are resampled with what both made of them.

    It is that of `row` where the other's score is the best that there is for every image; none where no scores of
    single images were kept, or no labels.
    """
    if row is not None and metric.name != "error_rate":
        ends = sorted(metric.loss(row[name], 0.0 if metric.better == "lower" else 1.0) for name in ("low", "high"))
        return float(ends[0]), float(ends[1])
    try:
        values = [network.per_image.values(of, [label], metric.name)[0] for of, label in (one, other)]
    except UserError:
        return math.nan, math.nan
    sign = 1 if metric.better == "lower" or metric.rest else -1
    interval = bootstrap(sign * metric.scale * (values[0] - values[1]))
    return float(interval.low[0]), float(interval.high[0])


def _among(network: GivenNetwork, of: Of, label: str) -> Span | None:
    """What is lost at a g by the argmax among the classes of the images alone: errors, or without labels other classes.

    It is in points.
    """
    named = [_named_among(network, of, one) for one in (label, UNTOUCHED)]
    if named[0] is None or named[1] is None:
        return None
    labels = network.per_image.labels.get(network.split)
    if labels is None or network.main != "error_rate":
        lost = (named[0] != named[1]).astype(float)
    else:
        lost = (named[0] != labels).astype(float) - (named[1] != labels)
        lost[labels < 0] = np.nan
    interval = bootstrap(100 * lost)
    return Span(float(interval.mean[0]), float(interval.low[0]), float(interval.high[0]))


def _named_among(network: GivenNetwork, of: Of, label: str) -> NDArray[np.int64] | None:
    """The class among those of the images that is named for each image under a g."""
    try:
        return network.per_image.named_among(of, label)
    except UserError:
        return None


def at_g(facts: GridFacts, label: str) -> str:
    """A g for people: 30°, 2 px, horizontal."""
    known = {point.label: point.value for point in facts.points}
    if facts.ordinal or not facts.unit or label not in known:
        return label
    value = f"{known[label]:g}".replace("-", "−")
    return f"{value}{'' if facts.unit == '°' else ' '}{words(facts.unit)}"


def lead(network: GivenNetwork, found: Sequence[Loss]) -> str:
    """A network in a sentence or two; what it loses most under, and least."""
    if not found:
        return f"{network.title}: no curve over the g of a family is whole."
    worst, mildest = found[0], found[-1]
    told = f"{network.title} {sentence(network, worst)}"
    if len(found) > 1 and not math.isnan(mildest.mean):
        least = _amount(mildest.metric, Span(mildest.mean))
        told += f" It loses least under {words(mildest.grid)}: {least} on average."
    return told


def sentence(network: GivenNetwork, loss: Loss) -> str:
    """What a network loses under a family where it loses most, and what a linear map wins back there."""
    metric = loss.metric
    if metric.name == "error_rate":
        change = f"{metric.text(loss.untouched)} → {metric.text(loss.score)} %, n = {loss.count:,}"
    else:
        change = f"n = {loss.count:,}"
    none = metric.text(loss.lost.value) == metric.text(0)
    verb = "loses" if loss.lost.value > 0 else "does not lose, but wins"
    amount = _amount(
        metric, loss.lost if loss.lost.value > 0 else Span(-loss.lost.value, -loss.lost.high, -loss.lost.low)
    )
    family = words(loss.grid)
    if metric.points:
        told = f"loses nothing under {family}" if none else f"{verb} {amount} under {family} at {loss.at} ({change})"
    else:
        told = f"moves furthest under {family} at {loss.at}: {amount} ({change})"
    if not math.isnan(loss.mean):
        told += f", {_amount(metric, Span(loss.mean), short=True)} on average"
    return f"{told}{_mending(network, loss)}.{_claim(loss)}{_among_told(network, loss)}"


def _mending(network: GivenNetwork, loss: Loss) -> str:
    one = loss.linear
    if one is None:
        return ""
    where = "the last true cut" if network.cuts else "which some of the logits go past"
    amount = _amount(loss.metric, Span(abs(one.won.value), *sorted(_signed(one.won))), short=True)
    what = f"; a linear map ({fit_title(one.fit)}) at {one.layer}, {where}, "
    if loss.metric.points:
        return what + (f"wins back {amount}" if one.won.value >= 0 else f"makes that {amount} worse")
    return what + f"takes that to {loss.metric.text(one.score)}"


def _signed(won: Span) -> tuple[float, float]:
    return (won.low, won.high) if won.value >= 0 else (-won.low, -won.high)


def _amount(metric: Metric, span: Span, *, short: bool = False) -> str:
    """A loss in words: points of accuracy, points of agreement, or a distance."""
    if not metric.points:
        return f"{metric.short} {span.told(metric)}" if not short else span.told(metric)
    ends = "" if math.isnan(span.low) else f" [{metric.text(span.low)}, {metric.text(span.high)}]"
    return f"{metric.text(span.value)}{ends}{'' if short else f' points of {metric.short}'}"


def _claim(loss: Loss) -> str:
    """What a score above the untouched one says."""
    one = loss.linear
    if one is None or not one.above:
        return ""
    if not one.surely:
        return f" {ABOVE} Through the map it is above the untouched score, by no more than its interval explains."
    return (
        f" {ABOVE} Through the map it is above the untouched score: the map has learned the classes, not only undone g."
    )


def _among_told(network: GivenNetwork, loss: Loss) -> str:
    if loss.among is None or not loss.metric.points:
        return ""
    told = loss.among.told(loss.metric)
    return f" By the argmax among the {network.covered} classes that the images have it loses {told} points."


def where_it_arises(network: GivenNetwork, grid: str) -> str:
    """At which depth invariance arises, in a sentence; "" where nothing says so.

    By the distance L_L2 without a map, its area, else by the derivative: where along the depth it falls most.
    """
    areas = network.areas
    if areas.empty:
        return ""
    for name in ("l2_distance", DERIVATIVE):
        here = (areas["metric"] == name) & (areas["map"] == IDENTITY[0]) & (areas["grid"] == grid)
        known = areas[here & areas["score"].notna()]
        if len(known) < 2:
            continue
        first, least = known.iloc[0], known.loc[known["score"].idxmin()]
        metric, what = METRICS[name], "distance L_L2" if name == "l2_distance" else "derivative"
        begin = "its input" if first["layer"] == INPUT else first["layer"]
        if not least["score"] < _FALLS * first["score"]:
            told = f"no layer is much nearer than {begin} ({what} {metric.text(first['score'])})"
            return f"{words(grid).capitalize()}: {told}."
        steps = [(one["score"] - other["score"], one, other) for one, other in pairwise(r for _, r in known.iterrows())]
        _, before, after = max(steps, key=lambda step: step[0])
        told = f"{metric.text(first['score'])} at {begin} to {metric.text(least['score'])} at {least['layer']}"
        step = f"{metric.text(before['score'])} → {metric.text(after['score'])}"
        most = f", most of all from {before['layer']} to {after['layer']} ({step})" if len(steps) > 1 else ""
        return f"{words(grid).capitalize()}: the {what} falls from {told}{most}."
    return ""
