"""Networks that were not trained here, as the page has them: rows by depth, areas, scores of every image."""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from invariance.engine.per_image import OF, GroupScores, PerImage
from invariance.engine.scoring import digest_of
from invariance.errors import UserError
from invariance.measures import INDEX_NAMES
from invariance.models.derivative import INPUT
from invariance.reporting.curves import IDENTITY, Fit, MeasuredFamily, Subject, order_of
from invariance.reporting.depth import BYPASS, areas_of, in_order, ways_of
from invariance.reporting.grids import GivenKey, GridFacts, grid_label, grid_name
from invariance.reporting.kept import SOURCE
from invariance.reporting.metrics import metrics_in
from invariance.reporting.rows import Collected, RunFacts, of_given
from invariance.runs.places import folder_name
from invariance.runs.rows import OF_CONTROL
from invariance.runs.scores import read_scores
from invariance.transforms.base import UNTOUCHED

_KEY = ["data", "model", "network"]
_LONGEST = 80
"""Characters of a beginning of file names."""

MAIN = ("error_rate", "agreement", "l2_distance")
"""What a network is ranked and told by: the first that was measured."""


@dataclass(frozen=True)
class GivenNetwork:
    """A network that was not trained here, measured on one data set.

    Attributes:
        data: the data set.
        model: its source and name.
        network: what rows call it.
        slug: a beginning of file names, of this network alone.
        layers: the layers, by their depth; the preprocessed pixels, `input`, first.
        fits: the maps and solvers that were fitted, and what stands in the place of one.
        grids: the grids by name.
        rows: ordinary rows over the reported split, by depth, with columns `grid` and `label`.
        control: rows of maps that were fitted on some classes alone, with the same columns.
        recipe: how it takes its images.
        runs: the runs, or the kept results, that the rows are from.
    """

    data: str
    model: str
    network: str
    slug: str
    layers: tuple[str, ...]
    fits: tuple[Fit, ...]
    grids: dict[str, GridFacts]
    rows: pd.DataFrame
    control: pd.DataFrame
    recipe: str
    runs: Sequence[RunFacts] = field(default=(), repr=False)

    @property
    def title(self) -> str:
        """Its source and name, or the folder that it is kept in, and what rows call it where that is another name."""
        source, _, name = self.model.partition("/")
        if source == SOURCE:
            return self.network if name == self.network else f"{self.network} (kept in {name})"
        return f"{self.model}{'' if self.network == folder_name(name) else f' ({self.network})'}"

    @property
    def ways(self) -> tuple[Fit, ...]:
        """No map, where that was measured, and every map."""
        plain = (self.rows["map"] == IDENTITY[0]).any()
        return (*((IDENTITY,) if plain else ()), *self.fits)

    @property
    def inner(self) -> list[str]:
        """Its layers, without its input."""
        return [layer for layer in self.layers if layer != INPUT]

    @cached_property
    def cuts(self) -> list[str]:
        """Its true cuts: the layers that nothing of the logits goes past, or of which it is not known."""
        bypass = self.rows.groupby("layer")["bypass"].max()
        return [layer for layer in self.inner if not bypass[layer] > BYPASS]

    def metrics(self) -> list[str]:
        """The metrics that have a number anywhere."""
        return metrics_in(self.rows)

    @property
    def main(self) -> str:
        """The metric that it is ranked and told by; "" where there is none of them."""
        there = self.metrics()
        return next((name for name in MAIN if name in there), "")

    @property
    def counted(self) -> list[str]:
        """The grids whose axis only counts."""
        return [name for name, facts in self.grids.items() if facts.ordinal]

    @property
    def split(self) -> str:
        """The split that is reported on."""
        return str(self.rows["split"].iloc[0])

    @property
    def about(self) -> Mapping[str, Any]:
        """What decides whether another network's images and g are the same: see `engine.paired`."""
        looks = {name: [[point.label, point.params] for point in facts.points] for name, facts in self.grids.items()}
        return {"images": {self.split: self._images()}, "transforms": looks, "ordinal": self.counted}

    def _images(self) -> str:
        """What tells the images that it was measured on from others; empty where nothing does."""
        for run in self.runs:
            if run.results is not None:
                return str(dict(run.results.attrs.get("images") or {}).get(self.split, ""))
            if isinstance(data := run.config.get("data"), dict):
                return f"{data.get('sha256')} {data.get('report')}"
        return ""

    @cached_property
    def _read(self) -> tuple[PerImage, tuple[str, ...]]:
        kept: list[GroupScores] = []
        unread: list[str] = []
        labels: Mapping[str, Any] = {}
        for run in self.runs:
            if run.results is not None:
                kept += [part for part in run.results.kept if part.about["network"] == self.network]
                labels = run.results.labels
                continue
            try:
                found, classes = _scores_of(run, self.rows[self.rows["run"] == run.name], self.split)
                kept += found
                labels = labels if classes is None else {self.split: classes}
            except UserError as error:
                unread.append(str(error))
        return PerImage(kept, labels, self.split), tuple(unread)

    @property
    def per_image(self) -> PerImage:
        """The scores of every image, as far as they were kept."""
        return self._read[0]

    @property
    def unread(self) -> tuple[str, ...]:
        """Why scores of single images that should be there cannot be read."""
        return self._read[1]

    @cached_property
    def areas(self) -> pd.DataFrame:
        """The area of every curve of every metric, with `way` beside what `areas_of` gives, by depth and by map."""
        parts = []
        for name in self.metrics():
            rows = self.rows[self.rows["metric"] == name]
            curves = pd.Series(list(zip(*(rows[column] for column in OF), strict=True)), index=rows.index)
            there = curves.map({of: self.per_image.holds(of) for of in set(curves)})
            for part, scored in ((rows[there], True), (rows[~there], False)):
                if (part["label"] != UNTOUCHED).any():
                    parts.append(self._areas(part, scored=scored and name not in INDEX_NAMES))
        if not parts:
            return pd.DataFrame()
        found = in_order(pd.concat(parts, ignore_index=True))
        passed = found.groupby("layer")["bypass"].transform("max")  # which rows between representations do not say
        found = found.assign(bypass=found["bypass"].fillna(passed))
        rank = {layer: k for k, layer in enumerate(self.layers)}
        found = found.iloc[np.argsort(found["layer"].map(rank), kind="stable")]
        return found.assign(way=ways_of(found)).reset_index(drop=True)

    def _areas(self, rows: pd.DataFrame, *, scored: bool) -> pd.DataFrame:
        try:
            return areas_of(rows, self.counted, self.per_image if scored else None)
        except UserError:  # errors of single images need labels, which runs of before did not keep
            return areas_of(rows, self.counted, None)

    @cached_property
    def covered(self) -> int | None:
        """How many of the network's classes the images have, where these are a part; None where they are all."""
        named = [part.arrays for part in self.per_image.kept if f"{self.split}/among" in part.arrays]
        if all(np.array_equal(one[f"{self.split}/among"], one[f"{self.split}/predicted"]) for one in named):
            return None
        labels = self.per_image.labels.get(self.split)
        if labels is not None:
            return len(set(labels[labels >= 0].tolist()))
        data = [run.config.get("data") for run in self.runs]
        places = [one.get("classes") for one in data if isinstance(one, dict)]
        return next((len(set(one)) for one in places if isinstance(one, list)), None)

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
    if rows.empty:
        return []
    apart = {key: group for key, group in control.groupby(_KEY)} if len(control) else {}
    found = []
    for key, group in rows.groupby(_KEY, sort=True):
        data, model, network = (str(part) for part in key)
        grids = {
            one.grid: facts for one, facts in collected.given.items() if one == GivenKey(data, model, network, one.grid)
        }
        layers = _by_depth(collected, group)
        rank = {layer: k for k, layer in enumerate(layers)}
        fits = group.loc[group["map"] != IDENTITY[0], ["map", "solver"]].drop_duplicates()
        found.append(
            GivenNetwork(
                data,
                model,
                network,
                _slug(data, model, network),
                layers,
                tuple(sorted(fits.itertuples(index=False, name=None), key=order_of)),
                grids,
                group.iloc[np.argsort(group["layer"].map(rank), kind="stable")],
                apart.get(key, control[:0]),
                _recipe(collected, group, network),
                [collected.runs[name] for name in group["run"].unique()],
            )
        )
    twice = {slug for slug, count in Counter(one.slug for one in found).items() if count > 1}
    return [replace(one, slug=_hashed(one)) if one.slug in twice else one for one in found]


def _slug(data: str, model: str, network: str) -> str:
    """A beginning of file names: of kept results with their folder, for networks of several may have one name."""
    source, _, name = model.partition("/")
    parts = [data, source, *([name] if source == SOURCE else []), network]
    return re.sub(r"[^\w.@-]+", "_", "-".join(dict.fromkeys(parts)))[:_LONGEST]


def _hashed(network: GivenNetwork) -> str:
    """A beginning of file names that tells networks apart whose names do not once they are files'."""
    told = "/".join((network.data, network.model, network.network)).encode()
    return f"{network.slug[: _LONGEST - 7]}-{hashlib.blake2b(told, digest_size=3).hexdigest()}"


def _placed(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the grid and label of their g; a layer of several readouts is several layers."""
    rows = rows.assign(grid=grid_name(rows["g"]), label=grid_label(rows["g"]))
    of_layer = rows.groupby([*_KEY, "layer"])["readout"]
    several = of_layer.transform("nunique") > 1 if len(rows) else pd.Series(False, index=rows.index)
    return rows.assign(layer=rows["layer"].where(~several, rows["layer"] + " (" + rows["readout"] + ")"))


def _by_depth(collected: Collected, rows: pd.DataFrame) -> tuple[str, ...]:
    """Layers in the order in which the network has them, as the runs wrote it down; of kept results as they were given.

    The input comes first.
    """
    depth: dict[str, float] = {}
    pairs = rows[["layer", "readout", "run"]].drop_duplicates()
    for k, (layer, readout, run) in enumerate(pairs.itertuples(index=False, name=None)):
        facts = collected.runs[run]
        depths = facts.provenance.get("depths")
        place = depths.get(layer.removesuffix(f" ({readout})")) if isinstance(depths, dict) else None
        known = float(place) if isinstance(place, int) else np.inf if facts.results is None else float(k)
        depth.setdefault(layer, -1.0 if layer == INPUT else known)
    return tuple(sorted(depth, key=lambda layer: (depth[layer], layer)))


def _recipe(collected: Collected, rows: pd.DataFrame, network: str) -> str:
    facts = collected.runs[str(rows["run"].iloc[0])]
    if facts.results is not None:
        told = [one for one in facts.results.attrs.get("networks") or [] if one.get("name") == network]
        return str(told[0].get("recipe", "")) if told else ""
    model = facts.config.get("model")
    return str(model.get("recipe", "")) if isinstance(model, dict) else ""


def _scores_of(run: RunFacts, rows: pd.DataFrame, split: str) -> tuple[list[GroupScores], NDArray[np.int64] | None]:
    """The scores of every image of a run over one split, none where it kept none, and the classes where they are known.

    Raises:
        UserError: if they cannot be read, or are not those that its rows are means of.
    """
    labels, arrays, classes = read_scores(run.folder)
    prefix = f"{split}/"
    kept = {name: one for name, one in arrays.items() if name.startswith(prefix) and name.count("/") == 1}
    if not labels or not kept or rows.empty:
        return [], None
    told = rows[~rows["metric"].isin([*OF_CONTROL, *INDEX_NAMES]) & (rows["scores"] != "")]
    wanted = dict(zip(told["label"], told["scores"], strict=True))
    for j, label in enumerate(labels):
        scores = {name.removeprefix(prefix): values[j] for name, values in kept.items()}
        if label in wanted and digest_of(scores) != wanted[label]:
            raise UserError(f"{run.name}: the scores of its images at {label} are not those that its rows are means of")
    if classes is not None and f"{prefix}predicted" in kept:
        wrong = dict(zip(labels, (kept[f"{prefix}predicted"] != classes)[:, classes >= 0].mean(1), strict=True))
        errors = told[told["metric"] == "error_rate"].dropna(subset=["score"])
        if not np.allclose([wrong[label] for label in errors["label"]], errors["score"], atol=1e-9):
            raise UserError(f"{run.name}: the classes beside its scores are not those that its rows were made with")
    about = {name: str(rows[name].iloc[0]) for name in OF}
    return [GroupScores(about, labels, kept)], classes


def trained_data(collected: Collected) -> list[str]:
    """The data sets of networks that were trained here."""
    rows = collected.rows
    return sorted(set(rows.loc[~of_given(rows), "data"]))
