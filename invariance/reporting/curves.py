"""From rows to curves: which networks a figure compares, and where their curves have gaps."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from invariance.engine.grid_sets import sets
from invariance.reporting.grids import GridFacts, GridKey, grid_label, grid_name
from invariance.reporting.metrics import HALF_ERROR, METRICS, metrics_in
from invariance.reporting.rows import Collected, fit_classes
from invariance.runs.rows import WITH_SCORE

BASELINE = "baseline"
IDENTITY = ("identity", "")
Fit = tuple[str, str]
"""A map and its solver, as rows name them."""

Floats = NDArray[np.float64]

_KINDS = ("identity", "residual", "low_rank", "orthogonal", "mlp", "spatial", "identity_inside", "warp", "floor")
_WITHOUT_FIT = {
    "identity_inside": "no map, inside positions",
    "warp": "warp alone (S_g⁻¹)",
    "floor": "floor of interpolation (S_g⁻¹ S_g)",
}
"""What rows name in the place of a map and fit none, for people."""

_FAMILY = ["data", "layer", "grid_family"]


class Subject(NamedTuple):
    """A network measured over a grid, as rows name it; the grid's facts say what this network's training covered."""

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
    def drawn(self) -> list[Subject]:
        """The baseline, where there is one, and all of the family's own networks."""
        return [*([self.baseline] if self.baseline else []), *self.trained]

    @property
    def title(self) -> str:
        """The family's name for people."""
        return words(self.name).capitalize()

    def metrics(self) -> list[str]:
        """The metrics that have a number anywhere."""
        return metrics_in(self.rows)


def words(name: str) -> str:
    """A name of the code as words: `online_sgd` is online SGD, and `corruptions.fog` fog (corruptions)."""
    held, _, inside = name.partition(".")
    name = f"{inside} ({held})" if inside and held in sets() else name
    return name.replace("_", " ").replace("sgd", "SGD").replace("mlp", "MLP")


def fit_title(fit: Fit) -> str:
    """A map and its solver for people."""
    kind, solver = fit
    if kind == IDENTITY[0]:
        return "no map"
    if kind in _WITHOUT_FIT:
        return _WITHOUT_FIT[kind]
    return ", ".join(filter(None, (f"{_kind(kind)} map", words(solver))))


def way(fit: Fit) -> str:
    """Through what a curve was measured, as legends have it: `invariance`, or `equivariance (ridge)`."""
    kind, solver = fit
    if kind == IDENTITY[0]:
        return "invariance"
    if kind in _WITHOUT_FIT:
        return _WITHOUT_FIT[kind]
    return f"equivariance ({', '.join(filter(None, (_kind(kind) if kind != 'residual' else '', words(solver))))})"


def _kind(kind: str) -> str:
    """A map for people: `low_rank:8` is low rank 8."""
    return words(kind).replace(":", " ")


def order_of(fit: Fit) -> tuple[Any, ...]:
    """Sort key of maps: no map, the paper's residual, then from the simplest to what is no fitted map."""
    kind = fit[0].partition(":")[0]
    return (_KINDS.index(kind) if kind in _KINDS else len(_KINDS), natural(fit[0]), fit[1])


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
    return rows.assign(grid_family=[collected.grids[GridKey("measure", *values)].family for values in keys])


def _family(collected: Collected, data: str, layer: str, name: str, rows: pd.DataFrame) -> MeasuredFamily:
    columns = ["network", "family", "range", "seed", "grid"]
    measured = [
        Subject(network, family, reach, seed, collected.grids[GridKey("measure", data, network, seed, grid)])
        for network, family, reach, seed, grid in rows[columns].drop_duplicates().itertuples(index=False, name=None)
    ]

    def first(s: Subject) -> tuple[Any, ...]:
        """The lowest seed of each network, over the grid of its own size where the family has a grid a size."""
        return s.seed, s.facts.grid != f"{name}_{s.range}", natural(s.facts.grid)

    own: dict[str, Subject] = {}
    for subject in sorted((s for s in measured if s.family == name), key=first):
        own.setdefault(subject.network, subject)
    trained = sorted(own.values(), key=lambda s: (s.facts.n_covered, extent(s.range, s.network)))
    plain = [s for s in measured if s.family == BASELINE]
    plain.sort(key=lambda s: (natural(s.facts.grid), -s.seed, natural(s.network)))
    apart = set[str]()
    if trained:
        last = trained[-1].facts
        plain = [s for s in plain if s.facts.grid == last.grid]
        alike = [*plain, *(s for s in trained if s.facts.grid == last.grid)]
        apart = {s.network for s in alike if not s.facts.same_g(last)}
        trained, plain = ([s for s in subjects if s.network not in apart] for subjects in (trained, plain))
    fits = rows.loc[rows["map"] != IDENTITY[0], ["map", "solver"]].drop_duplicates()
    order = sorted(
        fits.itertuples(index=False, name=None), key=lambda fit: (fit[0] != "residual", fit[0] == "mlp", fit)
    )
    baseline = plain[-1] if plain else None
    return MeasuredFamily(data, layer, name, tuple(trained), baseline, tuple(order), rows, tuple(sorted(apart)))


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
    metric_shown = METRICS["error_rate" if metric == HALF_ERROR else metric]
    score, (low, high) = metric_shown.shown(score), metric_shown.ends(low, high)
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
        facts = collected.grids[GridKey("measure", family.data, network, int(seed), grid)]
        said = rows["status"].mask((rows["status"] == "ok") & rows["score"].isna(), "no image to average over")
        states = rows.assign(said=said).pivot(index="label", columns="metric", values="said")
        states = states.reindex([point.label for point in facts.points]).fillna("not measured")
        lacking: dict[tuple[str, tuple[str, ...]], list[str]] = {}
        for metric, state in states.items():
            for name, part in state[state != "ok"].groupby(state):
                lacking.setdefault((str(name), tuple(part.index)), []).append(str(metric))
        for (name, labels), metrics in sorted(lacking.items()):
            only = "" if len(metrics) == len(everything) else f", {' and '.join(words(m) for m in metrics)} alone"
            where = f"{network} (seed {seed}) over {grid}, {fit_title((kind, solver))}{only}"
            found.append(f"{where}: {name} at {', '.join(labels)}")
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
