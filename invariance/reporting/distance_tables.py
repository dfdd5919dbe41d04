"""Tables of distances between networks: families, and every pair."""

from itertools import combinations

import numpy as np

from invariance.reporting.curves import words
from invariance.reporting.distances import Distances, family_means
from invariance.reporting.table import GAP, Cell, Table, plain


def tables(found: Distances, slug: str) -> list[tuple[str, Table]]:
    """Every table of a set of networks, each with what it holds; `slug` begins the files' names."""
    families = [(f"Families, {words(solver)}", _families(found, solver, slug)) for solver in found.solvers]
    return [*((name, table) for name, table in families if table is not None), ("Every pair", _pairs(found, slug))]


def _families(found: Distances, solver: str, slug: str) -> Table | None:
    """Fig. 3b, c in numbers."""
    names, means = family_means(found.matrix("l2_distance_mean", solver), [node.family for node in found.nodes])
    if len(names) < 2:
        return None
    lines = []
    for name, row in zip(names, means, strict=True):
        line = [Cell(words(name), {"family": name})]
        told = [f"{value:.3f}" if np.isfinite(value) else GAP for value in row]
        lines.append(line + [Cell(text, {other: value}) for text, other, value in zip(told, names, row, strict=True)])
    caption = f"Mean distance (Eq. 4, {words(solver)}) between two families’ networks; on the diagonal within a family."
    return Table.of(f"{slug}-families-{solver}", caption, ["family", *map(words, names)], lines)


def _pairs(found: Distances, slug: str) -> Table:
    """Every pair with all its numbers."""
    columns: list[tuple[str, str, str, str]] = []  # header, column of the CSV, metric, solver
    for solver in found.solvers:
        title = words(solver)
        columns += [
            (f"{title}: distance (Eq. 4)", f"{solver}_mean", "l2_distance_mean", solver),
            (f"{title}: →", f"{solver}_there", "l2_distance", solver),
            (f"{title}: ←", f"{solver}_back", "l2_distance", solver),
            (f"{title}: difference (Eq. 9)", f"{solver}_difference", "l2_distance_difference", solver),
        ]
    titles = {"cka": ["CKA"], "procrustes": ["Procrustes"], "r2": ["R² →", "R² ←"]}
    for index in found.indices:
        keys = (index, f"{index}_back")
        columns += [(title, key, index, "") for title, key in zip(titles[index], keys, strict=False)]
    lines = []
    for one, other in combinations(found.nodes, 2):
        about = {"network": one.network, "seed": one.seed, "other_network": other.network, "other_seed": other.seed}
        lines.append([Cell(f"{one.label} – {other.label}", about)])
    for _, key, metric, solver in columns:
        matrices = [found.matrix(metric, solver, of) for of in ("score", "low", "high", "run")]
        for line, pair in zip(lines, combinations(range(len(found.nodes)), 2), strict=True):
            score, low, high, run = (matrix[pair[::-1] if key.endswith("_back") else pair] for matrix in matrices)
            text = plain(score, low, high) if solver else f"{score:.3f}" if np.isfinite(score) else GAP
            ends = {f"{key}_low": low, f"{key}_high": high} if solver else {}
            line.append(Cell(text, {key: score, **ends}, (run,) if run else ()))
    caption = (
        "Every pair: the distance and both one-way distances with bootstrap 95 % intervals over images, and the "
        f"indices over the same {found.images} images. CKA and R² are similarities."
    )
    return Table.of(f"{slug}-pairs", caption, ["pair", *(title for title, *_ in columns)], lines)
