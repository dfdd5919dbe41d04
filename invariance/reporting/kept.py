"""Results that were measured from Python and kept in a folder, as rows and grids of a report."""

from pathlib import Path

import numpy as np
import pandas as pd

from invariance.engine.derivative import DERIVATIVE
from invariance.engine.results import Results, load
from invariance.engine.summaries import plain
from invariance.reporting.grids import GivenKey, GridFacts, GridKey, Point
from invariance.runs.rows import check_values
from invariance.transforms.base import UNTOUCHED

SOURCE = "kept"
"""What stands in the place of a network's source: the folder follows it."""

_HASH = 8


def read_kept(folder: Path, name: str) -> tuple[pd.DataFrame, Results, dict[GridKey | GivenKey, GridFacts]]:
    """The results in a folder: their rows as a report names them, themselves, and the grids that they are over.

    The images that they are of have no name, but a hash: networks that were measured on the same are of one data set.

    Args:
        folder: the folder of `measure_model(keep=…)` or `Results.save`.
        name: what the report calls it.

    Raises:
        UserError: if it is damaged, or holds no rows.
    """
    results = load(folder)
    check_values(folder, pd.DataFrame(results))
    rows = plain(results)
    images = dict(results.attrs.get("images") or {}).get(str(rows["split"].iloc[0]), "")
    data = f"images_{images[:_HASH]}" if images else "images"
    model = f"{SOURCE}/{name}"
    told = pd.DataFrame(results).assign(data=data, model=model, run=name)
    grids: dict[GridKey | GivenKey, GridFacts] = {
        GivenKey(data, model, str(network), str(grid)): _facts(results, str(grid), part, folder)
        for (network, grid), part in rows.groupby(["network", "grid"], sort=False)
    }
    return told, results, grids


def _facts(results: Results, grid: str, rows: pd.DataFrame, folder: Path) -> GridFacts:
    """What a grid is, as far as rows and results say so; how fast φ changes is at no place of it."""
    settled = dict(results.attrs.get("transforms") or {}).get(grid) or {}
    params = {str(label): str(look) for label, look in settled.get("g") or []}
    here = rows[rows["label"] != DERIVATIVE].drop_duplicates("label")
    places = here["value"].where(here["value"].notna() | (here["label"] != UNTOUCHED), 0.0)
    points = tuple(
        Point(str(label), float(place), False, params.get(str(label), ""))
        for label, place in sorted(zip(here["label"], places, strict=True), key=lambda point: point[1])
        if np.isfinite(place)
    )
    unit = str(here["unit"].iloc[0]) if len(here) else ""
    return GridFacts(grid, grid, unit, grid in (results.attrs.get("ordinal") or []), points, folder)
