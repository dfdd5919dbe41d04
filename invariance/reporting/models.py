"""Networks that were not trained here, beside each other: a sentence each, a ranking by area, paired differences."""

import math
import re
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from invariance.engine.paired import AREA, Measurement, compared
from invariance.errors import UserError
from invariance.reporting.curves import IDENTITY, words
from invariance.reporting.depth import heat_map
from invariance.reporting.figure import Figure
from invariance.reporting.given import MAIN, GivenNetwork
from invariance.reporting.metrics import METRICS, Metric
from invariance.reporting.sections import Making, Section
from invariance.reporting.sentences import area_of, last_cut, lead, losses
from invariance.reporting.table import GAP, Cell, Table

_PAIRS = 66
"""Pairs of networks that are compared: all of twelve."""


def models_section(making: Making, data: str, networks: Sequence[GivenNetwork]) -> Section | None:
    """The networks of one data set beside each other; None for one alone."""
    if len(networks) < 2:
        return None
    slug = f"{re.sub(r'[^-A-Za-z0-9_.@]+', '_', data)[:60]}-models"
    main = _common(networks)
    told = [lead(one, losses(one)) for one in networks if one.main]
    pairs, lacking = _pairs(networks)
    tables, shown, ranked = [], [], None
    if main is not None:
        areas = _areas(networks, main)
        ranked = making.table(_ranking(networks, main, areas, slug))
        if areas["score"].notna().any():
            shown = [making.figure(_heat(main, areas, slug, data))]
    if len(pairs):
        tables.append(("Is one more invariant than another? Paired differences", making.table(_paired(pairs, slug))))
    return Section(
        anchor=slug,
        data=data,
        title=f"{data}: {len(networks)} networks compared",
        about=_about(networks, main),
        figures=shown,
        first=ranked,
        tables=tables,
        gaps=lacking,
        words=told,
        unfolded=tuple(table.name for _, table in tables),
    )


def _common(networks: Sequence[GivenNetwork]) -> Metric | None:
    """The metric that they are ranked by: the first that was measured of all."""
    of_all = set.intersection(*(set(one.metrics()) for one in networks))
    return next((METRICS[name] for name in MAIN if name in of_all), None)


def _about(networks: Sequence[GivenNetwork], main: Metric | None) -> str:
    names = ", ".join(one.title for one in networks)
    if main is None:
        return f"{names}. They have no metric in common by which they could be ranked."
    return (
        f"{names}. Each is told by {main.short} without a map, at its last true cut that was measured, and ranked by "
        "the mean of its areas over the families that all were measured under."
    )


def _areas(networks: Sequence[GivenNetwork], metric: Metric) -> pd.DataFrame:
    """The area of every network's curve under every family, at its last true cut, without a map."""
    records = []
    for grid in dict.fromkeys(grid for one in networks for grid in one.grids):
        for one in networks:
            found = area_of(one, metric.name, last_cut(one), grid, IDENTITY) if one.inner else None
            known = {name: math.nan if found is None else found[name] for name in ("score", "low", "high")}
            status = "not measured" if found is None else str(found["status"])
            about = {"network": one.title, "layer": last_cut(one) if one.inner else "", "grid": grid, "way": ""}
            records.append({**about, "metric": metric.name, **known, "status": status, "bypass": 0.0})
    return pd.DataFrame(records)


def _ranking(networks: Sequence[GivenNetwork], metric: Metric, areas: pd.DataFrame, slug: str) -> Table:
    """A line a network, the one of the best mean area first."""
    wide = areas.pivot(index="network", columns="grid", values="score")
    grids = list(dict.fromkeys(areas["grid"]))
    common = [grid for grid in grids if wide[grid].notna().all()]
    means = wide[common].mean(axis=1) if common else pd.Series(np.nan, index=wide.index)
    order = means.map(metric.shown).sort_values(ascending=metric.better == "lower", kind="stable").index
    held = areas.set_index(["network", "grid"])
    layers = {one.title: last_cut(one) if one.inner else "" for one in networks}
    lines = []
    for k, name in enumerate(order, 1):
        mean = float(metric.shown(means[name]))
        rank = {} if math.isnan(mean) else {"rank": k}
        line = [Cell(str(name), {"network": name, **rank}), Cell(layers[str(name)], {"layer": layers[str(name)]})]
        line.append(Cell(GAP if math.isnan(mean) else metric.text(mean), {"mean": mean}))
        for grid in grids:
            row = held.loc[(name, grid)]
            there = not math.isnan(row["score"])
            text = metric.said(row["score"], row["low"], row["high"]) if there else GAP
            line.append(Cell(text, {grid: metric.shown(row["score"])}))
        lines.append(line)
    over = ", ".join(words(grid) for grid in common) or "none"
    caption = (
        f"{metric.what}{' in percent' if metric.points else ''} without a map: the area of each curve over the g, "
        "divided by the range of the axis, the untouched image aside. Ranked by the mean over "
        f"{over}; the best network first. Brackets: 95 % intervals over images, where scores of images were kept."
    )
    header = ["network", "layer", "mean", *(words(grid) for grid in grids)]
    return Table.of(f"{slug}-ranking", caption, header, lines, worded=(1,))


def _heat(metric: Metric, areas: pd.DataFrame, slug: str, data: str) -> Figure:
    """Networks × families, in numbers."""
    label = metric.label
    drawing = heat_map(areas, metric, "way", label, line="network")
    title = f"Networks on {data} by family: {metric.short}"
    caption = (
        f"{metric.what} of each network under each family, without a map, at its last true cut: the area of the curve. "
        "Dark is the better."
    )
    return Figure(f"{slug}-heatmap", title, caption, title, drawing.frame, drawing.draw)


def _pairs(networks: Sequence[GivenNetwork]) -> tuple[pd.DataFrame, list[str]]:
    """The paired differences of areas of every two networks, and why others have none."""
    frames, lacking = [], []
    pairs = list(combinations(networks, 2))
    for one, other in pairs[:_PAIRS]:
        try:
            frames.append(_difference(one, other))
        except UserError as error:
            lacking.append(str(error))
    if len(pairs) > _PAIRS:
        lacking.append(f"{len(pairs) - _PAIRS} pairs of networks are left out of the paired differences")
    return (pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()), lacking


def _difference(one: GivenNetwork, other: GivenNetwork) -> pd.DataFrame:
    """What one network's areas are less another's, without a map, each at its last true cut.

    Raises:
        UserError: if they were not measured on the same images and g, or scores of single images were not kept.
    """
    if not one.inner or not other.inner:
        raise UserError(f"{one.title} and {other.title}: one of them has no layer but its input")
    grids = set(one.grids) & set(other.grids)
    both = [_measurement(network, grids) for network in (one, other)]
    why: UserError | None = None
    for metric in MAIN:
        if all((of.rows["metric"] == metric).any() for of in both):
            try:
                found = compared(both[0], both[1], metric, {last_cut(one): last_cut(other)})
            except UserError as error:
                why = why or error
                continue
            return found[found["g"].str.endswith(f":{AREA}")]
    raise why or UserError(f"{one.title} and {other.title} have no measure of single images in common")


def _measurement(network: GivenNetwork, grids: set[str]) -> Measurement:
    rows = network.rows[(network.rows["map"] == IDENTITY[0]) & network.rows["grid"].isin(grids)]
    return Measurement(network.network, network.title, rows, network.per_image, network.about)


def _paired(pairs: pd.DataFrame, slug: str) -> Table:
    """The paired differences, in what is shown: a line a pair and family."""
    lines = []
    for row in pairs.to_dict("records"):
        metric = METRICS[str(row["metric"])]
        sign = -1 if metric.rest else 1
        ends = sorted(sign * metric.scale * row[name] for name in ("low", "high"))
        difference = sign * metric.scale * row["difference"]
        text = f"{metric.text(difference)} [{metric.text(ends[0])}, {metric.text(ends[1])}]"
        unknown = math.isnan(difference)
        numbers = {**row, "difference": difference, "low": ends[0], "high": ends[1]}
        lines.append(
            [
                Cell(f"{row['network']} less {row['other']}", numbers),
                Cell(words(str(row["grid"]))),
                Cell(f"{metric.short}{' (points)' if metric.points else ''}"),
                Cell(GAP if unknown else text),
                Cell(GAP if unknown else row["better"] or "neither"),
                Cell(f"{row['n_images']:,}"),
            ]
        )
    caption = (
        "The area of the one's curve less that of the other's, without a map, each at its last true cut; brackets: "
        "95 % intervals that resample images with what both networks made of them. More invariant: the network of the "
        "better numbers, where the interval leaves out 0."
    )
    header = ["networks", "family", "metric", "difference", "more invariant", "images"]
    return Table.of(f"{slug}-paired", caption, header, lines, worded=(1, 2, 4))
