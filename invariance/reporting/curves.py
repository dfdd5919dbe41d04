"""From rows to curves: which networks a figure compares, and where their curves have gaps."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from invariance.reporting.grids import GridFacts, GridKey, grid_label, grid_name
from invariance.reporting.rows import HALF_ERROR, Collected, fit_classes
from invariance.runs.rows import WITH_SCORE

BASELINE = "baseline"
IDENTITY = ("identity", "")
Fit = tuple[str, str]
"""A map and its solver, as rows name them."""

Floats = NDArray[np.float64]

METRICS = {"error_rate": "accuracy (%)", "l2_distance": "distance L_L2"}
"""The metrics that figures and tables show, each as its axis is labelled."""

ERRORS = ("error_rate", HALF_ERROR)
"""Metrics that are shown as accuracies in percent."""

_FAMILY = ["data", "layer", "grid_family"]


@dataclass(frozen=True)
class Subject:
    """A network measured over a grid.

    Attributes:
        network: its name.
        family: the family it was trained with.
        range: its trained range as text.
        seed: its seed.
        facts: the grid, with what this network's training covered.
    """

    network: str
    family: str
    range: str
    seed: int
    facts: GridFacts


@dataclass(frozen=True)
class MeasuredFamily:
    """All that was measured over a family's grids on one data set at one layer.

    Attributes:
        data: the data set.
        layer: where φ ends.
        name: the family.
        trained: its own networks over the grid each is compared on, by growing `extent`; one seed each, the lowest.
        baseline: the baseline over the last one's grid.
        fits: the maps and solvers that were fitted.
        rows: rows over the reported split, of all networks and seeds, with columns `grid` and `label`.
        apart: networks measured over other transformations of the same names, which are compared with no other.
        control: rows of maps that were fitted on some classes alone, with the same columns.
    """

    data: str
    layer: str
    name: str
    trained: tuple[Subject, ...]
    baseline: Subject | None
    fits: tuple[Fit, ...]
    rows: pd.DataFrame
    apart: tuple[str, ...] = ()
    control: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def compared(self) -> list[Subject]:
        """The network with the largest range, and the baseline: whichever there is."""
        return [*self.trained[-1:], *([self.baseline] if self.baseline else [])]

    @property
    def title(self) -> str:
        """The family's name for people."""
        return words(self.name).capitalize()

    def metrics(self) -> list[str]:
        """The metrics that have a number anywhere."""
        scored = self.rows[self.rows["score"].notna()]
        return [name for name in self.rows["metric"].unique() if name in METRICS and (scored["metric"] == name).any()]


def words(name: str) -> str:
    """A name of the code as words: `online_sgd` is online SGD."""
    return name.replace("_", " ").replace("sgd", "SGD").replace("mlp", "MLP")


def fit_title(fit: Fit) -> str:
    """A map and its solver for people."""
    kind, solver = fit
    return f"{words(kind)} map, {words(solver)}" if solver else "no map"


def natural(text: str) -> list[tuple[int, float, str]]:
    """Sort key under which 5 comes before 10 and numbers before words."""
    parts = re.findall(r"\d+(?:\.\d+)?|[^\d]+", text)
    return [(0, float(part), "") if part[0].isdigit() else (1, 0.0, part) for part in parts]


def extent(reach: str, network: str) -> tuple[list[tuple[int, float, str]], list[tuple[int, float, str]]]:
    """Sort key of a family's networks from the mildest to the most extreme, by trained range and name.

    They go by growing range, and at one range by falling further numbers of the name. Only Elastic has any, its σ: the
    less its displacements are smoothed, the larger they stay. So elastic_10_sigma2 is the most extreme, and it is the
    one that the paper takes in Tables 2 and 4.
    """
    return natural(reach), [(kind, -number, part) for kind, number, part in natural(network)]


def families(collected: Collected) -> list[MeasuredFamily]:
    """What was measured, one entry a data set, layer and family, in that order."""
    rows, control = (_placed(collected, collected.reported("measure", control=which)) for which in (False, True))
    apart = {key: group for key, group in control.groupby(_FAMILY)} if len(control) else {}
    return [
        replace(_family(collected, str(data), str(layer), str(name), group), control=apart.get(key, control[:0]))
        for key, group in (rows.groupby(_FAMILY, sort=True) if len(rows) else ())
        for data, layer, name in (key,)
    ]


def _placed(collected: Collected, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with what their g says: its grid and label, and the family that the grid is of."""
    rows = rows.assign(grid=grid_name(rows["g"]), label=grid_label(rows["g"]))
    keys = rows[["data", "network", "seed", "grid"]].itertuples(index=False, name=None)
    return rows.assign(grid_family=[collected.grids[GridKey(*values)].family for values in keys])


def _family(collected: Collected, data: str, layer: str, name: str, rows: pd.DataFrame) -> MeasuredFamily:
    columns = ["network", "family", "range", "seed", "grid"]
    held = rows[columns].drop_duplicates().itertuples(index=False, name=None)
    measured = [
        (grid, Subject(network, family, reach, seed, collected.grids[GridKey(data, network, seed, grid)]))
        for network, family, reach, seed, grid in held
    ]
    own: dict[str, Subject] = {}
    # the lowest seed of each network, over the grid of its own size where the family has a grid a size
    for _, subject in sorted(
        ((grid, s) for grid, s in measured if s.family == name),
        key=lambda pair: (pair[1].seed, pair[0] != f"{name}_{pair[1].range}", natural(pair[0])),
    ):
        own.setdefault(subject.network, subject)
    trained = tuple(sorted(own.values(), key=lambda s: (s.facts.n_covered, extent(s.range, s.network))))
    plain = sorted(
        ((grid, s) for grid, s in measured if s.family == BASELINE),
        key=lambda pair: (natural(pair[0]), -pair[1].seed, natural(pair[1].network)),
    )
    if trained:
        plain = [(grid, s) for grid, s in plain if grid == trained[-1].facts.grid]
    others = [s for _, s in plain if trained and not s.facts.same_g(trained[-1].facts)]
    others += [
        s for s in trained[:-1] if s.facts.grid == trained[-1].facts.grid and not s.facts.same_g(trained[-1].facts)
    ]
    apart = tuple(sorted({s.network for s in others}))
    plain = [(grid, s) for grid, s in plain if s.network not in apart]
    trained = tuple(s for s in trained if s.network not in apart)
    fits = rows.loc[rows["map"] != IDENTITY[0], ["map", "solver"]].drop_duplicates()
    order = sorted(
        fits.itertuples(index=False, name=None), key=lambda fit: (fit[0] != "residual", fit[0] == "mlp", fit)
    )
    return MeasuredFamily(data, layer, name, trained, plain[-1][1] if plain else None, tuple(order), rows, apart)


def curve(family: MeasuredFamily, subject: Subject, fit: Fit, metric: str, classes: str = "") -> pd.DataFrame | None:
    """A metric of a network along its grid, or None where that map was never measured: a row a g, in the axis' order.

    Its columns are those of `of` (data, layer, grid, network, seed, map, solver, fit_classes, metric), then `g`, `x`,
    `y`, `low`, `high`, `status` and `run`. An error rate becomes an accuracy in percent. Where there is no number
    because it is missing or not to be trusted, y and its interval are NaN, and the status says why.

    Args:
        family: what was measured.
        subject: the network.
        fit: the map and its solver.
        metric: as rows name it.
        classes: the control's classes, `same` or `unseen`; empty for the ordinary rows.
    """
    rows = family.control if classes or metric == HALF_ERROR else family.rows
    if rows.empty:
        return None
    of = {"grid": subject.facts.grid, "network": subject.network, "seed": subject.seed}
    of |= {"map": fit[0], "solver": fit[1], "metric": metric}
    chosen = rows[np.logical_and.reduce([rows[name] == value for name, value in of.items()])]
    chosen = chosen[fit_classes(chosen).isin((classes,) if classes else ("", "all"))]
    if chosen.empty:
        return None
    points = subject.facts.points
    placed = chosen.set_index("label").reindex([point.label for point in points])
    trusted = placed["status"].isin(WITH_SCORE).to_numpy(dtype=bool)
    score, low, high = (
        np.where(trusted, placed[name].to_numpy(dtype=np.float64), np.nan) for name in ("score", "low", "high")
    )
    if metric in ERRORS:
        score, low, high = 100 * (1 - score), 100 * (1 - high), 100 * (1 - low)
    first = {"data": family.data, "layer": family.layer, "family": family.name}
    drawn = pd.DataFrame({**first, **of, "fit_classes": classes, "g": placed.index}, index=range(len(points)))
    return drawn.assign(
        x=np.array([point.value for point in points], dtype=np.float64),
        y=score,
        low=low,
        high=high,
        status=placed["status"].fillna("not measured").to_numpy(),
        run=placed["run"].fillna("").to_numpy(),
    )


def counts(values: Iterable[int]) -> str:
    """Numbers of images as text: one, or from the least to the most."""
    least, most = min(values := list(values)), max(values)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def gaps(collected: Collected, family: MeasuredFamily) -> list[str]:
    """What the figures of a family lack, in words: points that diverged, were not measured or count no image."""
    found = []
    everything = family.rows["metric"].unique()
    for values, rows in family.rows.groupby(["network", "seed", "grid", "map", "solver"], sort=True):
        network, seed, grid, kind, solver = (str(value) for value in values)
        facts = collected.grids[GridKey(family.data, network, int(seed), grid)]
        states = {str(metric): _states(part, facts) for metric, part in rows.groupby("metric", sort=True)}
        lacking = sorted({lack for states_of in states.values() for lack in states_of.items()})
        for state, labels in lacking:
            metrics = [metric for metric, states_of in states.items() if states_of.get(state) == labels]
            only = "" if len(metrics) == len(everything) else f", {' and '.join(words(m) for m in metrics)} alone"
            where = f"{network} (seed {seed}) over {grid}, {fit_title((kind, solver))}{only}"
            found.append(f"{where}: {state} at {', '.join(labels)}")
    for subject in family.compared:
        for fit in (IDENTITY, *family.fits):
            if all(curve(family, subject, fit, metric) is None for metric in family.metrics()):
                where = f"{subject.network} (seed {subject.seed}) over {subject.facts.grid}"
                found.append(f"{where}: {fit_title(fit)} not measured")
    for network in family.apart:
        found.append(f"{network} was measured over other transformations of the same names, so it is not compared")
    if not family.trained:
        found.append(f"no network trained with {family.name} was measured over its grid")
    elif family.baseline is None:
        found.append(f"no baseline was measured over {family.trained[-1].facts.grid}")
    return found


def _states(rows: pd.DataFrame, facts: GridFacts) -> dict[str, tuple[str, ...]]:
    """The g at which a metric has no number, by the reason."""
    status = rows.set_index("label")["status"].to_dict()
    empty = set(rows.loc[rows["score"].isna() & (rows["status"] == "ok"), "label"])
    found: dict[str, tuple[str, ...]] = {}
    for point in facts.points:
        state = "no image to average over" if point.label in empty else str(status.get(point.label, "not measured"))
        if state != "ok":
            found[state] = (*found.get(state, ()), point.label)
    return found
