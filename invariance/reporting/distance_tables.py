"""Tables of distances between networks: families, and every pair."""

from itertools import combinations

import numpy as np
import pandas as pd

from invariance.reporting.curves import words
from invariance.reporting.distances import INDICES, Distances, family_means
from invariance.reporting.table import GAP, Table, plain


def tables(found: Distances, slug: str) -> list[tuple[str, Table]]:
    """Every table of a set of networks, each with what it holds; `slug` begins the files' names."""
    families = [(f"Families, {words(solver)}", _families(found, solver, slug)) for solver in found.mean]
    return [*((name, table) for name, table in families if table is not None), ("Every pair", _pairs(found, slug))]


def _families(found: Distances, solver: str, slug: str) -> Table | None:
    """Fig. 3b, c in numbers."""
    names, means = family_means(found.mean[solver].score, [node.family for node in found.nodes])
    if len(names) < 2:
        return None
    cells = [
        [words(name), *(f"{value:.3f}" if np.isfinite(value) else GAP for value in row)]
        for name, row in zip(names, means, strict=True)
    ]
    caption = f"Mean distance (Eq. 4, {words(solver)}) between two families’ networks; on the diagonal within a family."
    numbers = pd.DataFrame(means, columns=names).assign(family=names).set_index("family").reset_index()
    return Table(f"{slug}-families-{solver}", caption, ["family", *map(words, names)], cells, numbers)


def _pairs(found: Distances, slug: str) -> Table:
    """Every pair with all its numbers."""
    cells: list[list[str]] = []
    records: list[dict[str, object]] = []
    runs: dict[tuple[int, int], tuple[str, ...]] = {}
    for i, j in combinations(range(len(found.nodes)), 2):
        one, other = found.nodes[i], found.nodes[j]
        record: dict[str, object] = {"network": one.network, "seed": one.seed}
        record |= {"other_network": other.network, "other_seed": other.seed}
        row = [f"{one.label} – {other.label}"]
        for solver in found.mean:
            for name, metric, numbers, (a, b) in (
                ("mean", "l2_distance_mean", found.mean[solver], (i, j)),
                ("there", "l2_distance", found.one_way[solver], (i, j)),
                ("back", "l2_distance", found.one_way[solver], (j, i)),
                ("difference", "l2_distance_difference", found.difference[solver], (i, j)),
            ):
                runs[len(cells), len(row)] = found.run(metric, solver, a, b)
                ends = numbers.score[a, b], numbers.low[a, b], numbers.high[a, b]
                keys = (f"{solver}_{name}{end}" for end in ("", "_low", "_high"))
                record |= dict(zip(keys, ends, strict=True))
                row.append(plain(*ends))
        for index in INDICES:
            for name, (a, b) in ((index, (i, j)), *(((f"{index}_back", (j, i)),) if index == "r2" else ())):
                if index in found.indices:
                    value = found.indices[index].score[a, b]
                    runs[len(cells), len(row)] = found.run(index, "", a, b)
                    record[name] = value
                    row.append(f"{value:.3f}" if np.isfinite(value) else GAP)
        records.append(record)
        cells.append(row)
    header = ["pair"]
    for solver in found.mean:
        title = words(solver)
        header += [f"{title}: distance (Eq. 4)", f"{title}: →", f"{title}: ←", f"{title}: difference (Eq. 9)"]
    titles = {"cka": ["CKA"], "procrustes": ["Procrustes"], "r2": ["R² →", "R² ←"]}
    header += [title for index in INDICES if index in found.indices for title in titles[index]]
    caption = (
        "Every pair: the distance and both one-way distances with bootstrap 95 % intervals over images, and the "
        f"indices over the same {found.images} images. CKA and R² are similarities."
    )
    return Table(f"{slug}-pairs", caption, header, cells, pd.DataFrame(records), runs=runs)
