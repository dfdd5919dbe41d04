"""Means over a set of grids, as of all corruptions at all severities: one number for a network."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from invariance.engine.grid_sets import sets
from invariance.reporting.curves import IDENTITY, words
from invariance.reporting.grids import grid_label, grid_name
from invariance.reporting.metrics import METRICS
from invariance.reporting.rows import Collected
from invariance.reporting.table import GAP, Cell, Table
from invariance.runs.rows import WITH_SCORE
from invariance.transforms.base import UNTOUCHED

_TOLD = ("error_rate", "agreement")
_OF = ["data", "model", "network", "seed", "metric"]


def set_means(collected: Collected) -> list[Table]:
    """A table for each set of grids over which any network was measured without a map, a line a network and measure."""
    rows = pd.concat([collected.reported("measure", given=given) for given in (False, True)], ignore_index=True)
    rows = rows.assign(grid=grid_name(rows["g"].fillna("")), label=grid_label(rows["g"].fillna("")))
    rows = rows[(rows["map"] == IDENTITY[0]) & rows["metric"].isin(_TOLD) & rows["status"].isin(WITH_SCORE)]
    # without a map, what a network answers does not hang on the layer that is looked at
    rows = rows.drop_duplicates([*_OF, "grid", "label"])
    found = []
    for name, grids in sets().items():
        there = rows[rows["grid"].isin(grids)]
        if len(there):
            found.append(_table(name, grids, there))
    return found


def _table(name: str, grids: Sequence[str], rows: pd.DataFrame) -> Table:
    moved = rows[rows["label"] != UNTOUCHED]
    severities = sorted(moved["label"].unique(), key=float)
    several = rows["data"].nunique() > 1
    seeds = rows.groupby(["data", "network"])["seed"].nunique().max() > 1
    header = [*(["data"] if several else []), "network", "measure", "untouched", "mean", "lost"]
    header += [f"severity {one}" for one in severities] + ["worst"]
    lines, partly = [], False
    for (data, _, network, seed, metric), part in rows.groupby(_OF, sort=True, dropna=False):
        shown = METRICS[str(metric)]
        best = part.loc[part["label"] == UNTOUCHED, "score"].mean()
        of_moved = part[part["label"] != UNTOUCHED].pivot_table(index="grid", columns="label", values="score")
        of_moved = of_moved.reindex(columns=severities)
        whole = of_moved.notna().all(axis=1)
        partly = partly or whole.sum() < len(grids)
        mean = float(of_moved.to_numpy().mean()) if whole.sum() == len(grids) else np.nan
        runs = tuple(sorted(set(part["run"])))
        called = f"{network}, seed {seed}" if seeds else str(network)
        line = [Cell(str(data), {"data": data})] if several else []
        line += [Cell(called, {"network": network, "seed": seed}), Cell(shown.short, {"metric": metric})]
        line.append(Cell(shown.text(shown.shown(best)), {"untouched": shown.shown(best)}))
        if np.isnan(mean):
            line += [Cell(f"{whole.sum()} of {len(grids)} measured", {"mean": np.nan}), Cell(GAP, {"lost": np.nan})]
        else:
            lost = float(shown.loss(mean, best))
            line.append(
                Cell(shown.text(shown.shown(mean)), {"mean": shown.shown(mean)}, runs if len(runs) == 1 else ())
            )
            line.append(Cell(shown.text(lost), {"lost": lost}))
        for one in severities:
            at = float(of_moved[one].mean()) if whole.sum() == len(grids) else np.nan
            told = shown.shown(at)
            line.append(Cell(GAP if np.isnan(at) else shown.text(told), {f"severity_{one}": told}))
        by_grid = shown.loss(of_moved[whole].mean(axis=1), best)
        worst = str(by_grid.idxmax()) if len(by_grid) == len(grids) else ""
        line.append(Cell(words(worst.partition(".")[2]) or GAP, {"worst": worst}))
        lines.append(line)
    caption = (
        f"Means over {words(name)}, {len(grids)} grids at {len(severities)} severities, without a map, in percent; "
        "each grid counts alike. Lost: points that it is worse than untouched; worst: the grid that loses most."
        + (" A mean is given where every grid is measured." if partly else "")
    )
    return Table.of(f"mean-{name}", caption, header, lines, worded=(len(header) - 1,))
