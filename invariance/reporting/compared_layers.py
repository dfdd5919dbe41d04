"""Networks compared layer by layer (`invariance-distance models=…`), on the page: heat maps, nearest layers."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd
from scipy.stats import spearmanr

from invariance.reporting.curves import counts, words
from invariance.reporting.depth import MOST_TOLD, Heat, spread
from invariance.reporting.figure import Figure
from invariance.reporting.grids import grid_label
from invariance.reporting.metrics import METRICS, Metric
from invariance.reporting.rows import Collected
from invariance.reporting.sections import Making, Section
from invariance.reporting.table import GAP, Cell, Table
from invariance.runs.rows import WITH_SCORE

WAYS = {"cka": "cka", "l2_distance_mean": "l2_distance", "procrustes": "procrustes", "r2": "r2"}
"""What layers are compared by, in this order, each with the measure that it is shown as."""

ONE_WAY = ("r2",)
"""Those that are another number the other way round."""

_WHAT = {
    "l2_distance": "L_L2 between what a linear map makes of the one and the other, the mean of both ways (Eq. 4)",
    "cka": "CKA, unbiased; 1 where they are alike",
    "procrustes": "Procrustes distance: what the best rotation leaves; 0 where one is a rotation of the other",
    "r2": "R² of the second from the first by a linear map",
}
_LONGEST = 100
"""Characters of a beginning of file names."""

_FEW = 4
"""Layers below which a rank correlation says nothing."""

_CLEAR = 0.5
"""A rank correlation beyond which depth decides which layer is the nearest."""


@dataclass(frozen=True)
class ComparedLayers:
    """Two networks, or one and itself, and the numbers of their pairs of layers over the reported split.

    Attributes:
        data: the data set.
        networks: what rows call the two.
        run: the run.
        split: the reported split.
        images: how many images.
        pairs: a row a number: `way` (a measure of `WAYS`), `solver` ("" for an index), `forth` (whether from the first
            network to the second), layers `a` of the first and `b` of the second in the order of their depth, `score`,
            `low`, `high` and `status`.
    """

    data: str
    networks: tuple[str, str]
    run: str
    split: str
    images: str
    pairs: pd.DataFrame

    @property
    def slug(self) -> str:
        """A beginning of file names, of this pair alone."""
        name = f"{self.data}-layers-{'+'.join(self.networks)}"
        plain = re.sub(r"[^-A-Za-z0-9_.@+]+", "_", name)
        if plain == name and len(plain) <= _LONGEST:
            return plain
        return f"{plain[: _LONGEST - 9]}-{hashlib.sha256(self.run.encode()).hexdigest()[:8]}"

    def layers(self, side: str) -> list[str]:
        """The layers of the first network ("a") or of the second ("b")."""
        return list(dict.fromkeys(self.pairs[side]))

    def ways(self) -> list[tuple[str, str]]:
        """The measures that have a number, with their solvers."""
        there = self.pairs[self.pairs["score"].notna()][["way", "solver"]].drop_duplicates()
        found = list(there.itertuples(index=False, name=None))
        return sorted(found, key=lambda one: (list(WAYS).index(one[0]), one[1]))

    def matrix(self, way: str, solver: str, forth: bool = True) -> pd.DataFrame:
        """The scores of a measure, layers of the first network × layers of the second; NaN where there is none."""
        rows = self.pairs[(self.pairs["way"] == way) & (self.pairs["solver"] == solver)]
        rows = rows[(rows["forth"] == forth) & rows["status"].isin(WITH_SCORE)]
        wide = rows.pivot(index="a", columns="b", values="score")
        return wide.reindex(index=self.layers("a"), columns=self.layers("b"))


def compared_layers(collected: Collected) -> list[ComparedLayers]:
    """The pairs of networks that were compared layer by layer."""
    found = []
    for run, rows in collected.reported("distance", given=True).groupby("run", sort=True):
        first = str(rows["network"].iloc[0])
        target = grid_label(rows["g"]).str.rsplit(":", n=1)
        forth = rows["network"] == first
        others = [*rows.loc[~forth, "network"].unique(), *target.str[0][forth].unique()]
        ours, theirs = rows["layer"], target.str[1]
        pairs = rows.assign(way=rows["metric"], forth=forth, a=ours.where(forth, theirs), b=theirs.where(forth, ours))
        pairs = pairs[pairs["way"].isin(WAYS)]
        if len(pairs):
            used = pairs.loc[pairs["score"].notna(), "n_images"]
            images = counts(n for n in used if n > 0) if len(used) else "0"
            of = (str(rows["data"].iloc[0]), (first, str(others[0])), str(run), str(rows["split"].iloc[0]), images)
            found.append(ComparedLayers(*of, pairs))
    return found


def layers_section(making: Making, pair: ComparedLayers) -> Section:
    """The part of the page on two networks that were compared layer by layer."""
    a, b = pair.networks
    shown = [making.figure(_heat(pair, way, solver)) for way, solver in pair.ways()]
    nearest = [(way, solver, _nearest(pair, way, solver)) for way, solver in pair.ways()]
    tables = [(f"The nearest layer by {_titled(way, solver)}", making.table(table)) for way, solver, table in nearest]
    withheld = int((~pair.pairs["status"].isin(WITH_SCORE)).sum())
    return Section(
        anchor=pair.slug,
        data=pair.data,
        title=f"{pair.data}: {a} and {b}, layer by layer",
        about=(
            f"{len(pair.layers('a'))} layers of {a} beside {len(pair.layers('b'))} of {b}, on the same {pair.images} "
            f"images of {pair.split}."
        ),
        figures=shown[:1],
        first=None,
        tables=tables,
        gaps=[f"{withheld} numbers of pairs of layers were withheld; rows.csv says why."] if withheld else [],
        words=[told for way, solver in pair.ways()[:1] if (told := _said(pair, way, solver))],
        aside=shown[1:],
        unfolded=tuple(table.name for _, _, table in nearest[:1]),
    )


def _metric(way: str) -> Metric:
    return METRICS[WAYS[way]]


def _titled(way: str, solver: str) -> str:
    return f"{_metric(way).short}, {words(solver)}" if solver else _metric(way).short


def _heat(pair: ComparedLayers, way: str, solver: str) -> Figure:
    """A measure of all pairs of layers, in numbers."""
    metric, (a, b) = _metric(way), pair.networks
    name = "-".join(filter(None, (pair.slug, WAYS[way], solver.replace(":", "."))))
    directions = {True: f"from {a} (lines) to {b}", False: f"from {b} to {a} (lines)"} if way in ONE_WAY else {True: ""}
    kept = spread(pair.layers("a"), MOST_TOLD), spread(pair.layers("b"), MOST_TOLD)
    rows = pair.pairs[(pair.pairs["way"] == way) & (pair.pairs["solver"] == solver)]
    rows = rows[rows["forth"].isin(list(directions)) & rows["a"].isin(kept[0]) & rows["b"].isin(kept[1])]
    frame = pd.DataFrame(
        {
            "panel": rows["forth"].map(directions),
            "line": rows["a"],
            "column": rows["b"],
            "y": metric.shown(rows["score"].where(rows["status"].isin(WITH_SCORE))),
            "status": rows["status"],
        }
    )
    few = (
        f" Of the layers of {a} and {b} so many are drawn: {len(kept[0])} and {len(kept[1])}; the CSV of rows has all."
    )
    cut = len(kept[0]) < len(pair.layers("a")) or len(kept[1]) < len(pair.layers("b"))
    return Figure(
        name=name,
        title=f"{a} and {b}, {_titled(way, solver)}",
        caption=(
            f"{_WHAT[WAYS[way]]}. Layers of {a} down, of {b} across, each from the first to the last; dark is the "
            f"nearer.{few if cut else ''}"
        ),
        alt=f"Heat map of {metric.short} between layers of {a} and of {b}; {_said(pair, way, solver)}",
        frame=frame.reset_index(drop=True),
        draw=Heat(metric, metric.label, titled=len(directions) > 1, families=False),
        data=pair.data,
    )


def _best(pair: ComparedLayers, way: str, solver: str) -> pd.Series:
    """The nearest layer of the second network of each layer of the first that has a number."""
    matrix = pair.matrix(way, solver)
    matrix = matrix[matrix.notna().any(axis=1)]
    return matrix.idxmin(axis=1) if _metric(way).better == "lower" else matrix.idxmax(axis=1)


def _said(pair: ComparedLayers, way: str, solver: str) -> str:
    """Whether layers are nearest to those of the same depth, in plain words."""
    best, (a, b) = _best(pair, way, solver), pair.networks
    if not len(best):
        return ""
    theirs = pair.layers("b")
    if len(best) < _FEW or len(theirs) < _FEW:
        told = ", ".join(f"{layer} to {nearest}" for layer, nearest in best.items())
        return f"By {_titled(way, solver)} layers of {a} are nearest to these of {b}: {told}."
    if best.nunique() == 1:
        return f"By {_titled(way, solver)} every layer of {a} is nearest to the same of {b}: {best.iloc[0]}."
    rho = float(spearmanr(range(len(best)), [theirs.index(layer) for layer in best]).statistic)
    how = "depth says little of which is the nearest"
    if abs(rho) > _CLEAR:
        how = f"the deeper a layer, the {'deeper' if rho > 0 else 'shallower'} the nearest one"
    return (
        f"By {_titled(way, solver)} {how} (ρ {rho:+.2f} over {len(best)} layers of {a}): {best.index[0]} is nearest to "
        f"{best.iloc[0]} of {b}, {best.index[-1]} to {best.iloc[-1]}."
    )


def _nearest(pair: ComparedLayers, way: str, solver: str) -> Table:
    """A line a layer of the first network: the nearest of the second, and the next."""
    metric, matrix, (a, b) = _metric(way), pair.matrix(way, solver), pair.networks
    sign = 1 if metric.better == "lower" else -1
    rows = pair.pairs[(pair.pairs["way"] == way) & (pair.pairs["solver"] == solver) & pair.pairs["forth"]]
    rows = rows.set_index(["a", "b"])
    lines: list[Sequence[Cell]] = []
    for layer, scores in matrix.iterrows():
        there = (sign * scores.dropna()).sort_values(kind="stable")
        line = [Cell(str(layer), {"layer": layer})]
        for rank, other in enumerate(there.index[:2], start=1):
            row = rows.loc[(layer, other)]
            told = metric.said(float(row["score"]), float(row["low"]), float(row["high"]))
            known = {f"layer_{rank}": other, f"score_{rank}": row["score"]}
            line += [Cell(str(other), known), Cell(told, {}, (pair.run,) if rank == 1 else ())]
        lines.append(line or [Cell(GAP)])
    header = [f"layer of {a}", f"nearest of {b}", metric.short, "second", metric.short]
    caption = f"{_WHAT[WAYS[way]]}: of each layer of {a} the nearest of {b}, and the second nearest."
    table = Table.of(
        "-".join(filter(None, (pair.slug, "nearest", WAYS[way], solver.replace(":", ".")))), caption, header, lines
    )
    return replace(table, worded=(1, 3))
