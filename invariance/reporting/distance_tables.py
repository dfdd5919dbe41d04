"""Tables of distances between networks: what the paper says of them, families, and every pair."""

from itertools import combinations

import numpy as np
import pandas as pd

from invariance.reporting.curves import words
from invariance.reporting.distances import INDICES, Distances, family_means, group_rank, neighbours
from invariance.reporting.paper.printed import GROUPS
from invariance.reporting.table import GAP, Table, plain


def tables(found: Distances, slug: str) -> list[Table]:
    """Every table of a set of networks.

    Args:
        found: the numbers.
        slug: beginning of the files' names.
    """
    made = [_claims(found, slug), *(_families(found, solver, slug) for solver in found.mean), _pairs(found, slug)]
    return [table for table in made if table is not None]


def _claims(found: Distances, slug: str) -> Table | None:
    """Claims (e) and (f): same-family networks are nearer than chance; two groups of families are mutually near."""
    families = [node.family for node in found.nodes]
    records, cells = [], []
    for way, matrix in found.matrices().items():
        near = neighbours(matrix, families)
        same = np.array(families)[:, None] == np.array(families)[None, :]
        upper = np.triu(np.ones_like(matrix, dtype=bool), 1) & np.isfinite(matrix)
        means = [float(matrix[upper & mask].mean()) if (upper & mask).any() else np.nan for mask in (same, ~same)]
        known = f"{int(upper.sum())} of {len(families) * (len(families) - 1) // 2}"
        record: dict[str, object] = {
            "way": way,
            "pairs": int(upper.sum()),
            "same_family": means[0],
            "other_families": means[1],
        }
        row = [way, known, *(f"{value:.3f}" if np.isfinite(value) else GAP for value in means)]
        if near is None:
            row += [GAP, GAP, GAP]
        else:
            k = near.near
            record |= {"k": k, "share": near.share[k - 1], "chance": near.chance[k - 1], "p": near.p}
            row += [f"{near.share[k - 1]:.2f} (K = {k})", f"{near.chance[k - 1]:.2f}", f"{near.p:.2g}"]
        for group in GROUPS:
            rank = group_rank(matrix, families, group)
            name = "_".join(group)
            record |= {f"{name}_mean": rank.mean if rank else np.nan, f"{name}_rank": rank.rank if rank else np.nan}
            row.append(f"{rank.mean:.3f}, {rank.rank} of {rank.groups}" if rank else GAP)
        records.append(record)
        cells.append(row)
    if not cells:
        return None
    header = [
        "way of comparing",
        "pairs with a distance",
        "same family, mean",
        "different families, mean",
        "same-family pairs within K neighbours",
        "by chance",
        "p",
        *(", ".join(words(name) for name in group) for group in GROUPS),
    ]
    caption = (
        "Whether networks of one family are nearer to each other than chance, and the two groups of families that the "
        "paper finds mutually near: the mean of the group's family-by-family distances, and its place among all groups "
        f"of three families, 1 being the nearest. p as in the figure of neighbours. {found.images} images of "
        f"{found.data} ({found.split})."
    )
    return Table(f"{slug}-distance-claims", caption, header, cells, pd.DataFrame(records))


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


def _pairs(found: Distances, slug: str) -> Table | None:
    """Every pair with all its numbers."""
    cells: list[list[str]] = []
    records: list[dict[str, object]] = []
    runs: dict[tuple[int, int], tuple[str, ...]] = {}
    for i, j in combinations(range(len(found.nodes)), 2):
        one, other = found.nodes[i], found.nodes[j]
        record: dict[str, object] = {
            "network": one.network,
            "seed": one.seed,
            "other_network": other.network,
            "other_seed": other.seed,
        }
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
