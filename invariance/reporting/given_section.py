"""The part of the page on a network that was not trained here: depth curves, heat maps, a ranking, words."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from invariance.engine.derivative import DERIVATIVE
from invariance.engine.summaries import consistency, worst
from invariance.errors import UserError
from invariance.measures import INDEX_NAMES
from invariance.models.derivative import INPUT
from invariance.reporting.curves import IDENTITY, counts, fit_title, words
from invariance.reporting.depth import (
    BYPASS,
    NULLS,
    calibrated_areas,
    colours_of,
    depth_curves,
    heat_map,
    short,
    shortened,
    spread,
)
from invariance.reporting.figure import Figure
from invariance.reporting.forms import remarks
from invariance.reporting.given import GivenNetwork
from invariance.reporting.lines import MISSING, Lines
from invariance.reporting.metrics import METRICS, Metric, file_name, label_of
from invariance.reporting.sections import Making, Section, Shown
from invariance.reporting.sentences import ABOVE, Loss, area_of, last_cut, lead, losses, sentence, where_it_arises
from invariance.reporting.style import growing
from invariance.reporting.table import GAP, Cell, Table
from invariance.reporting.tidy import axis_of, curves_of, said, tidy

MOST = 12
"""Layers that a figure of curves shows; of more, so many from the first to the last."""

WORST = 12
"""Images that lose most, of each family."""

_ABOVE = f"{ABOVE}: above the untouched score, which undoing g alone does not give: the map has learned the classes."
_AREA = "the area of its curve over the g divided by the range of the axis, the untouched image aside"


def given_section(making: Making, network: GivenNetwork) -> Section:
    """A network's part of the page."""
    found = losses(network)
    shown, aside = _figures(making, network)
    ranked, lost = _ranking(network, found), _worst(network)
    tables = [(f"The {WORST} images that lose most under each family", making.table(lost))] if lost else []
    tables += [
        (f"By layer: {METRICS[metric].short}", making.table(table))
        for metric in network.metrics()
        if (table := _by_layer(network, metric)) is not None
    ]
    return Section(
        anchor=f"{network.slug}-layers",
        data=network.data,
        title=f"{network.data}: {network.title}",
        about=_about(network),
        figures=shown,
        first=making.table(ranked) if ranked else None,
        tables=tables,
        gaps=_gaps(network, [one.figure for one in (*shown, *aside)]),
        words=_words(network, found),
        aside=aside,
        unfolded=(lost.name,) if lost else (),
    )


def _words(network: GivenNetwork, found: Sequence[Loss]) -> list[str]:
    """What the network loses, in plain words: all in all, then family by family."""
    told = [lead(network, found)] if network.main else []
    told += [f"{words(loss.grid).capitalize()}: it {sentence(network, loss)}" for loss in found[1:]]
    return told + [line for grid in network.grids if (line := where_it_arises(network, grid))]


def _about(network: GivenNetwork) -> str:
    """What was measured, and how, in a few sentences."""
    images = counts(n for n in network.rows["n_images"] if n > 0)
    fits = "; ".join(fit_title(fit) for fit in network.fits)
    inner = network.inner or list(network.layers)
    where = f"{len(inner)} layers, from {inner[0]} to {inner[-1]}" if len(inner) > 1 else inner[0]
    few = f" The images have {network.covered} of its classes." if network.covered else ""
    takes = f" It takes its images so: {network.recipe}." if network.recipe else ""
    return (
        f"Not trained here, and measured as it is.{takes} φ ends at {where}; {images} images of {network.split}."
        f"{few} {f'M_g: {fits}.' if fits else 'No map was fitted.'}"
    )


def _figures(making: Making, network: GivenNetwork) -> tuple[list[Shown], list[Shown]]:
    """Depth curves and heat maps of what a network is told by, and of L_L2; and all other figures, to look up."""
    shown: list[Shown] = []
    aside: list[Shown] = []
    for name in network.metrics():
        made = [one for one in (_depth(network, name), _heat(network, name)) if one is not None]
        (shown if name in (network.main, "l2_distance") else aside).extend(making.figure(one) for one in made)
    told = [name for name in network.metrics() if name in (network.main, "l2_distance")]
    curves = (_over_g(network, grid, name) for grid in network.grids for name in told)
    return shown, [*aside, *(making.figure(one) for one in curves if one is not None)]


def _scores(network: GivenNetwork, name: str) -> tuple[pd.DataFrame, str]:
    """The areas of a metric for figures over depth, with panels, and their axis.

    Derivatives of families are per other things; they are set in one figure as multiples of the input's own.
    """
    areas = network.areas
    scores = areas[areas["metric"] == name] if len(areas) else areas
    if scores.empty or not scores["score"].notna().any():
        return scores[:0], ""
    if name in INDEX_NAMES or name == DERIVATIVE:
        scores = scores.assign(way="")
    label = label_of(list(scores["unit"].unique()), name)
    inputs = scores[scores["layer"] == INPUT].set_index("grid")["score"]
    if name == DERIVATIVE and len(inputs):
        scores = scores[scores["layer"] != INPUT]
        of_input = scores["grid"].map(inputs)
        scores = scores.assign(**{column: scores[column] / of_input for column in ("score", "low", "high")})
        label = "derivative, times the input's"
    return scores.assign(family=[words(str(grid)) for grid in scores["grid"]]), label


def _depth(network: GivenNetwork, name: str) -> Figure | None:
    """A metric over the layers: a line a family, a panel a way; None for a layer alone."""
    scores, label = _scores(network, name)
    if scores["layer"].nunique() < 2:
        return None
    metric = METRICS[name]
    colours = colours_of(words(grid) for grid in network.grids)  # a family has one colour in all figures
    drawing = depth_curves(scores, metric, "way", "family", "family", label, colours)
    layers = scores["layer"].nunique()
    title = f"{network.title}, {metric.short} over depth"
    notes = [
        f"{metric.what} at {layers} layers, by depth; of each family {_AREA}. {metric.how} Bands in the colours of "
        "lines: 95 % intervals over images, of few families; the CSV has all."
    ]
    for there, note in (
        (
            (drawing.frame["who"] == NULLS).any(),
            "Gray: the nulls, from the least to the largest: nothing of x is left.",
        ),
        ((scores["bypass"] > BYPASS).any(), "Hollow: some of the logits go past the layer."),
        ((scores["layer"] == INPUT).any(), "The input is the preprocessed pixels."),
    ):
        notes += [note] if there else []
    figure = f"{network.slug}-depth-{file_name(name)}"
    alt = f"{title}. {said(drawing.frame[drawing.frame['who'] != NULLS])}"
    return Figure(figure, title, " ".join(notes), alt, drawing.frame, drawing.draw)


def _heat(network: GivenNetwork, name: str) -> Figure | None:
    """A metric at every layer under every family, in numbers: a panel a way."""
    scores, label = _scores(network, name)
    if scores.empty:
        return None
    metric = METRICS[name]
    drawing = heat_map(scores, metric, "way", label)
    there = scores.loc[scores["score"].notna(), "layer"].nunique()
    drawn = drawing.frame["line"].nunique()
    few = f"{drawn} of {there} layers, from the first to the last" if drawn < there else "every layer"
    passed = " ○: some of the logits go past the layer." if (scores["bypass"] > BYPASS).any() else ""
    title = f"{network.title}, {metric.short} by layer and family"
    caption = (
        f"{metric.what} at {few} under every family: {_AREA}. {metric.how} Dark is the better; one scale for all "
        f"panels.{passed} The table by layer tells all of them."
    )
    least, most = drawing.frame["y"].min(), drawing.frame["y"].max()
    alt = f"{title}: from {metric.text(least)} to {metric.text(most)}"
    return Figure(f"{network.slug}-heatmap-{file_name(name)}", title, caption, alt, drawing.frame, drawing.draw)


def _over_g(network: GivenNetwork, grid: str, name: str) -> Figure | None:
    """A curve a layer over one grid, a panel a way; None where there is no number to draw."""
    metric, layers = METRICS[name], spread(network.inner, MOST)
    told = shortened(layers)
    found = [(told[layer], *network.of(layer, grid)) for layer in layers]
    frame = tidy(
        drawn
        for fit in network.ways
        for layer, family, subject in found
        for drawn in curves_of(family, [(layer, subject)], (fit,), name, panel=fit_title(fit))
    )
    if frame.empty:
        return None
    _, family, subject = found[0]
    draw = Lines(
        dict(zip(told.values(), growing(len(layers)), strict=True)),
        {family.name: axis_of(family, [subject], shade=False)},
        metric.label,
        heading="layer",
        bounds=metric.bounds,
        size=(3.6, 2.9),
    )
    title = f"{network.title} under {words(subject.facts.grid)}, layer by layer: {metric.short}"
    few = f"{len(layers)} of its {len(network.inner)}" if len(layers) < len(network.inner) else "its"
    caption = (
        f"{metric.what} of {network.network} at {few} layers, coloured by depth, under each g of {grid}, over "
        f"{counts(n for n in network.rows['n_images'] if n > 0)} images of {network.data}. {metric.how} Bands: 95 % "
        "intervals over images."
    )
    slug = f"{network.slug}-{re.sub(r'[^-A-Za-z0-9_.]+', '_', grid)[:60]}-layers-{file_name(name)}"
    return Figure(slug, title, caption + remarks(frame, name), f"{title}. {said(frame)}", frame, draw)


def _ranking(network: GivenNetwork, found: Sequence[Loss]) -> Table | None:
    """The families by what the network loses on average over their g: a line a family, the greatest loss first."""
    if not found:
        return None
    metric = found[0].metric
    kept = _consistency(network)
    fits = [fit for fit in network.fits if any(one.fit == fit for loss in found for one in loss.mended)]
    partly = any(loss.among is not None for loss in found)
    header = ["family", f"{metric.short}, area without a map", "lost on average", "lost most at", "lost there"]
    header += [f"through it: {fit_title(fit)}" for fit in fits]
    header += ["images that keep their class at every g (%)"] if kept else []
    header += [f"lost there among {network.covered} classes (points)"] if partly else []
    header += ["distance L_L2, area"] if metric.name != "l2_distance" and "l2_distance" in network.metrics() else []
    lines = []
    for loss in found:
        line = [Cell(words(loss.grid), {"grid": loss.grid, "layer": loss.layer, "metric": metric.name})]
        line += [_area(metric, loss.area), _number("lost_on_average", loss.mean, metric)]
        line += [Cell(loss.at, {"g": loss.label})]
        line += [Cell(loss.lost.told(metric), {"lost": loss.lost.value, "low": loss.lost.low, "high": loss.lost.high})]
        for fit in fits:
            through = next((one for one in loss.mended if one.fit == fit), None)
            above = f" {ABOVE}" if through is not None and through.above else ""
            name = " ".join(filter(None, fit))
            score = np.nan if through is None else through.score
            line.append(Cell(GAP if through is None else f"{metric.text(score)}{above}", {name: score}))
        line += [kept.get(loss.grid, Cell(GAP))] if kept else []
        if partly:
            line.append(Cell(GAP if loss.among is None else metric.text(loss.among.value), {}))
        if header[-1] == "distance L_L2, area":
            area = area_of(network, "l2_distance", loss.layer, loss.grid, IDENTITY)
            line.append(_area(METRICS["l2_distance"], area, "l2_area"))
        lines.append(line)
    percent = " in percent, losses in points" if metric.points else ""
    caption = (
        f"What {network.title} loses under each family at {last_cut(network)}, the greatest loss on average first. "
        f"Area: {_AREA}. {metric.what}{percent}; lost there: how much worse than untouched at the g of the greatest "
        "loss; through it: the score through a map at that g. Brackets: 95 % intervals over images."
    )
    if any(one.above for loss in found for one in loss.mended):
        caption += f" {_ABOVE}"
    return Table.of(f"{network.slug}-ranking", caption, header, lines, worded=(3,))


def _area(metric: Metric, area: "pd.Series[float] | None", name: str = "area") -> Cell:
    """The area of a curve with its interval."""
    if area is None:
        return Cell(GAP, {name: np.nan})
    return Cell(metric.said(area["score"], area["low"], area["high"]), {name: metric.shown(area["score"])})


def _number(name: str, value: float, metric: Metric) -> Cell:
    return Cell(GAP if np.isnan(value) else metric.text(value), {name: value})


def _consistency(network: GivenNetwork) -> dict[str, Cell]:
    """The share of images that keep their class at every g of a grid, without a map, by grid."""
    rows = network.rows[(network.rows["map"] == IDENTITY[0]) & (network.rows["layer"] == last_cut(network))]
    try:
        found = consistency(rows, network.per_image)
    except UserError:  # no class was named, or its scores were not kept
        return {}
    return {
        str(row.grid): Cell(f"{100 * row.consistency:.1f}", {"consistency": row.consistency})
        for row in found.itertuples()
        if not np.isnan(row.consistency)
    }


def _worst(network: GivenNetwork) -> Table | None:
    """The images that lose most under each family without a map, most first: a column a family; those that lose."""
    if not network.main:
        return None
    rows = network.rows[(network.rows["map"] == IDENTITY[0]) & (network.rows["layer"] == last_cut(network))]
    found = None
    for name in dict.fromkeys((network.main, "agreement", "l2_distance")):
        try:
            found = worst(rows[rows["label"] != DERIVATIVE], network.per_image, name, WORST)
            break
        except UserError:  # it was not measured, or of single images not kept
            continue
    if found is None or (found := found[found["loss"] > 0]).empty:
        return None
    metric = METRICS[str(found["metric"].iloc[0])]
    header, columns = ["rank"], []
    for grid, part in found.groupby("grid", sort=False):
        header.append(words(str(grid)))
        columns.append(
            [
                f"{image}: {metric.text(metric.scale * loss)}"
                for image, loss in zip(part["image"], part["loss"], strict=True)
            ]
        )
    lines = [
        [Cell(str(k + 1)), *(Cell(column[k]) if k < len(column) else Cell(GAP) for column in columns)]
        for k in range(max(map(len, columns)))
    ]
    unit = " in points" if metric.points else ""
    caption = (
        f"The {WORST} images of {network.split} that lose most under each family, without a map, at "
        f"{last_cut(network)}: the "
        f"image's number, counted from 0 in the order of the split, and how much worse its {metric.short} is than "
        f"untouched, mean over the g{unit}. Of images that lose as much those come first of whose class the network "
        "was surer untouched."
    )
    return Table.of(f"{network.slug}-worst", caption, header, lines, numbers=found, worded=tuple(range(1, len(header))))


def _by_layer(network: GivenNetwork, name: str) -> Table | None:
    """The areas of a metric at every layer: a line a layer, a column a grid and way; CSV has the nulls beside them."""
    areas = network.areas
    areas = areas[areas["metric"] == name] if len(areas) else areas
    if areas.empty:
        return None
    metric = METRICS[name]
    untouched = areas.drop_duplicates(["layer", "grid"]).set_index(["layer", "grid"])["untouched"]
    columns = areas[["grid", "map", "solver"]].drop_duplicates()
    keys = sorted(columns.itertuples(index=False, name=None), key=lambda key: list(network.grids).index(key[0]))
    units = dict(zip(areas["grid"], areas["unit"], strict=True))
    where = ["layer", "grid", "map", "solver"]
    found = areas.set_index(where)
    held = dict(zip(found.index, found[["score", "status"]].itertuples(index=False, name=None), strict=True))
    runs = (
        network.rows[network.rows["metric"] == name]
        .groupby(where, sort=False)["run"]
        .agg(lambda of: tuple(sorted(set(of))))
    )
    runs_of = runs.to_dict()
    lines, above = [], False
    for layer in dict.fromkeys(areas["layer"]):
        line = [Cell(str(layer))]
        for key in keys:
            score, _ = held.get((layer, *key), (np.nan, ""))
            if np.isnan(score):
                line.append(Cell(GAP))
                continue
            best = untouched.get((layer, key[0]), np.nan)
            marked = name == "error_rate" and key[1] != IDENTITY[0] and score < best
            above = above or marked
            text = f"{metric.text(metric.shown(score))}{f' {ABOVE}' if marked else ''}"
            line.append(Cell(text, runs=runs_of.get((layer, *key), ())))
        lines.append(line)

    def head(grid: str, kind: str, solver: str) -> str:
        per = f" (per {units[grid]})" if name == DERIVATIVE else ""
        through = "" if name in INDEX_NAMES or name == DERIVATIVE else f", {fit_title((kind, solver))}"
        return f"{words(grid)}{per}{through}"

    per = "per unit of g as it sets in" if name == DERIVATIVE else _AREA
    caption = (
        f"{metric.what}{' in percent' if metric.points else ''} of {network.title} at every layer: {per}. A curve with "
        f"any g missing is a gap.{f' {_ABOVE}' if above else ''}"
    )
    return Table.of(
        f"{network.slug}-areas-{file_name(name)}",
        caption,
        ["layer", *(head(*key) for key in keys)],
        lines,
        numbers=_numbers(network, areas),
    )


def _numbers(network: GivenNetwork, areas: pd.DataFrame) -> pd.DataFrame:
    """The areas in full, with the calibrated ones, as the CSV of a table has them."""
    rows = network.rows[network.rows["metric"] == areas["metric"].iloc[0]]
    calibrated = calibrated_areas(rows, network.counted)
    of = list(
        zip(
            areas["network"], areas["layer"], areas["map"], areas["solver"], areas["grid"], areas["metric"], strict=True
        )
    )
    known = {tuple(key): value for key, value in calibrated.items()}
    return areas.drop(columns=["way", "few"]).assign(calibrated=[known.get(key, np.nan) for key in of])


def _gaps(network: GivenNetwork, figures: Sequence[Figure]) -> list[str]:
    """What the figures lack, in words, and scores of single images that cannot be read."""
    found = list(network.unread)
    for figure in figures:
        if "g" not in figure.frame:
            continue
        for (layer, panel), part in figure.frame.groupby(["who", "panel"], sort=False):
            lacking = part[part["y"].isna() & ~part["status"].isin(MISSING) | (part["status"] == "not measured")]
            for status, of in lacking.groupby("status", sort=True):
                at = ", ".join(of["g"].astype(str))
                where = f"{of['grid'].iloc[0]} at {short(str(layer), 60)}"
                found.append(f"{where}, {panel}, {of['metric'].iloc[0]}: {status} at {at}")
    if network.inner and not network.cuts:
        found.append(f"{network.title}: some of the logits go past every layer that was measured")
    return found
