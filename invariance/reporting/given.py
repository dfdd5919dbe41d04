"""Networks that were not trained here, as the page shows them: a section each, a curve a layer, a table of means."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from invariance.reporting.curves import IDENTITY, METRICS, Fit, MeasuredFamily, Subject, counts, curve, fit_title, words
from invariance.reporting.figure import Figure
from invariance.reporting.forms import HOW, SHORT, remarks, what_of
from invariance.reporting.grids import GivenKey, GridFacts, grid_label, grid_name
from invariance.reporting.lines import MISSING, Lines
from invariance.reporting.rows import Collected, of_given
from invariance.reporting.sections import Making, Section
from invariance.reporting.style import growing
from invariance.reporting.table import GAP, Table
from invariance.reporting.tidy import BOUNDS, axis_of, curves_of, said, tidy
from invariance.runs.places import folder_name
from invariance.transforms.base import UNTOUCHED

_KEY = ["data", "model", "network"]

MOST = 12
"""Layers that a figure shows; of more, so many from the first to the last."""


@dataclass(frozen=True)
class GivenNetwork:
    """A network that was not trained here, measured on one data set.

    Attributes:
        data: the data set.
        model: its source and name.
        network: what rows call it.
        layers: the layers, by their depth.
        fits: the maps and solvers that were fitted.
        grids: the grids by name.
        rows: ordinary rows over the reported split, with columns `grid` and `label`.
        control: rows of maps that were fitted on some classes alone, with the same columns.
        recipe: how it takes its images.
    """

    data: str
    model: str
    network: str
    layers: tuple[str, ...]
    fits: tuple[Fit, ...]
    grids: dict[str, GridFacts]
    rows: pd.DataFrame
    control: pd.DataFrame
    recipe: str

    @property
    def slug(self) -> str:
        """A beginning of file names."""
        return re.sub(r"[^\w.@-]+", "_", f"{self.data}-{self.model.partition('/')[0]}-{self.network}")

    @property
    def ways(self) -> tuple[Fit, ...]:
        """No map, where that was measured, and every map."""
        plain = (self.rows["map"] == IDENTITY[0]).any()
        return (*((IDENTITY,) if plain else ()), *self.fits)

    def metrics(self) -> list[str]:
        """The metrics that have a number anywhere."""
        scored = self.rows.loc[self.rows["score"].notna(), "metric"]
        return [name for name in METRICS if (scored == name).any()]

    def of(self, layer: str, grid: str) -> tuple[MeasuredFamily, Subject]:
        """One of its layers over a grid, as curves are taken from."""
        facts = self.grids[grid]
        rows, control = (
            one[(one["layer"] == layer) & (one["grid"] == grid)] if len(one) else one
            for one in (self.rows, self.control)
        )
        subject = Subject(self.network, "", "", 0, facts)
        return MeasuredFamily(self.data, layer, facts.family, (), subject, self.fits, rows, (), control), subject


def given_networks(collected: Collected) -> list[GivenNetwork]:
    """The networks that were not trained here, by data set, source and name."""
    rows, control = (_placed(collected.reported("measure", control=which, given=True)) for which in (False, True))
    apart = {key: group for key, group in control.groupby(_KEY)} if len(control) else {}
    found = []
    for key, group in rows.groupby(_KEY, sort=True) if len(rows) else ():
        data, model, network = key
        grids = {
            one.grid: facts for one, facts in collected.given.items() if one == GivenKey(data, model, network, one.grid)
        }
        fits = group.loc[group["map"] != IDENTITY[0], ["map", "solver"]].drop_duplicates()
        found.append(
            GivenNetwork(
                data,
                model,
                network,
                _by_depth(collected, group),
                tuple(sorted(fits.itertuples(index=False, name=None))),
                grids,
                group,
                apart.get(key, control[:0]),
                _recipe(collected, group),
            )
        )
    return found


def _placed(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(grid=grid_name(rows["g"]), label=grid_label(rows["g"]))


def _by_depth(collected: Collected, rows: pd.DataFrame) -> tuple[str, ...]:
    """Layers in the order in which the network has them, as the runs wrote it down."""
    depth: dict[str, float] = {}
    for layer, run in rows[["layer", "run"]].drop_duplicates().itertuples(index=False, name=None):
        depths = collected.runs[run].provenance.get("depths")
        place = depths.get(layer) if isinstance(depths, dict) else None
        depth[layer] = float(place) if isinstance(place, int) else np.inf
    return tuple(sorted(depth, key=lambda layer: (depth[layer], layer)))


def _recipe(collected: Collected, rows: pd.DataFrame) -> str:
    model = collected.runs[str(rows["run"].iloc[0])].config.get("model")
    return str(model.get("recipe", "")) if isinstance(model, dict) else ""


def given_section(making: Making, network: GivenNetwork) -> Section:
    """A network's part of the page."""
    figures = [
        figure
        for grid in network.grids
        for metric in network.metrics()
        if (figure := _figure(network, grid, metric)) is not None
    ]
    means = [
        (f"Means over each grid: {what_of(metric, short=True)}", making.table(_means(network, metric)))
        for metric in network.metrics()
    ]
    return Section(
        f"{network.slug}-layers",
        network.data,
        _title(network),
        _about(network),
        [making.figure(one) for one in figures],
        means[0][1] if means else None,
        means[1:],
        _gaps(figures),
    )


def _title(network: GivenNetwork) -> str:
    name = network.model.partition("/")[2]
    called = "" if network.network == folder_name(name) else f" ({network.network})"
    return f"{network.data}: {network.model}{called}"


def _about(network: GivenNetwork) -> str:
    """What was measured, and how, in a few sentences."""
    images = counts(n for n in network.rows["n_images"] if n > 0)
    splits = ", ".join(sorted(network.rows["split"].unique()))
    fits = "; ".join(fit_title(fit) for fit in network.fits)
    return (
        f"Not trained here, and measured as it is. It takes its images so: {network.recipe}. φ ends at "
        f"{len(network.layers)} layers, from {network.layers[0]} to {network.layers[-1]}; {images} images of {splits}. "
        f"{f'M_g: {fits}.' if fits else 'No map was fitted.'}"
    )


def _figure(network: GivenNetwork, grid: str, metric: str) -> Figure | None:
    """A curve a layer over one grid, a panel a way; None where there is no number to draw."""
    layers = spread(network.layers, MOST)
    found = [(layer, *network.of(layer, grid)) for layer in layers]
    frame = tidy(
        drawn
        for fit in network.ways
        for layer, family, subject in found
        for drawn in curves_of(family, [(layer, subject)], (fit,), metric, panel=fit_title(fit))
    )
    if frame.empty:
        return None
    _, family, subject = found[0]
    draw = Lines(
        dict(zip(layers, growing(len(layers)), strict=True)),
        {family.name: axis_of(family, [subject], shade=False)},
        METRICS[metric],
        heading="layer",
        bounds=BOUNDS[metric],
        size=(3.6, 2.9),
    )
    title = f"{network.model} under {words(subject.facts.grid)}, layer by layer: {what_of(metric, short=True)}"
    few = f"{len(layers)} of its {len(network.layers)}" if len(layers) < len(network.layers) else "its"
    caption = (
        f"{what_of(metric)} of {network.network} at {few} layers, coloured by depth, under each g of {grid}, over "
        f"{counts(n for n in network.rows['n_images'] if n > 0)} images of {network.data}. {HOW[metric]} Bands: 95 % "
        "intervals over images."
    )
    name = f"{network.slug}-{re.sub(r'[^-A-Za-z0-9_.]+', '_', grid)}-layers-{SHORT[metric]}"
    return Figure(name, title, caption + remarks(frame, metric), f"{title}. {said(frame)}", frame, draw)


def spread(layers: Sequence[str], most: int) -> list[str]:
    """At most so many of some layers, from the first to the last, as evenly as can be."""
    if len(layers) <= most:
        return list(layers)
    return [layers[round(k * (len(layers) - 1) / (most - 1))] for k in range(most)]


def _means(network: GivenNetwork, metric: str) -> Table:
    """The mean over the g of each grid but the untouched image, a line a layer; a gap where any g is missing."""
    records: list[dict[str, Any]] = []
    columns = [(grid, fit) for grid in network.grids for fit in network.ways]
    cells: list[list[str]] = []
    runs: dict[tuple[int, int], tuple[str, ...]] = {}
    for layer in network.layers:
        row = [layer]
        for grid, fit in columns:
            family, subject = network.of(layer, grid)
            drawn = curve(family, subject, fit, metric)
            mean = np.nan if drawn is None else float(drawn.loc[drawn["g"] != UNTOUCHED, "y"].mean(skipna=False))
            records.append({"layer": layer, "grid": grid, "map": fit[0], "solver": fit[1], "mean": mean})
            if drawn is not None:
                runs[len(cells), len(row)] = tuple(sorted(set(drawn["run"]) - {""}))
            row.append(GAP if np.isnan(mean) else f"{mean:.1f}" if metric == "error_rate" else f"{mean:.3f}")
        cells.append(row)
    header = ["layer", *(f"{words(grid)}, {fit_title(fit)}" for grid, fit in columns)]
    what = "Accuracy in percent" if metric == "error_rate" else "Distance L_L2"
    caption = (
        f"{what} of {network.network} on {network.data}: the mean over the g of each grid, the untouched image aside. "
        "No map: invariance, else equivariance. A mean with any g missing is a gap."
    )
    return Table(f"{network.slug}-means-{SHORT[metric]}", caption, header, cells, pd.DataFrame(records), runs=runs)


def _gaps(figures: Sequence[Figure]) -> list[str]:
    """What the figures lack, in words."""
    found = []
    for figure in figures:
        for (layer, panel), part in figure.frame.groupby(["who", "panel"], sort=False):
            lacking = part[part["y"].isna() & ~part["status"].isin(MISSING) | (part["status"] == "not measured")]
            for status, of in lacking.groupby("status", sort=True):
                at = ", ".join(of["g"].astype(str))
                found.append(f"{of['grid'].iloc[0]} at {layer}, {panel}, {of['metric'].iloc[0]}: {status} at {at}")
    return found


def trained_data(collected: Collected) -> list[str]:
    """The data sets of networks that were trained here."""
    rows = collected.rows
    return sorted(set(rows.loc[~of_given(rows), "data"]))
