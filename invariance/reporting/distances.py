"""From rows to distances between networks (Sec. 6.2, B.3): matrices, neighbours, families, embeddings."""

from collections import Counter
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform
from sklearn.manifold import TSNE

from invariance.reporting.curves import BASELINE, Floats, extent, words
from invariance.reporting.grids import grid_label
from invariance.reporting.rows import Collected, of_given

INDICES = ("cka", "procrustes", "r2")
ONE_WAY = ("l2_distance", "r2")
_PERMUTATIONS = 2000
_PERPLEXITY = 8.0


@dataclass(frozen=True)
class Node:
    """A network that was compared.

    Attributes:
        network: its name.
        family: the family it was trained with.
        range: its trained range as text.
        seed: its seed.
        label: its name in figures: with the seed where there are several of one name.
    """

    network: str
    family: str
    range: str
    seed: int
    label: str


@dataclass(frozen=True)
class Numbers:
    """A number of every ordered pair, (n, n) from row to column, NaN on the diagonal and where there is none.

    Attributes:
        score: the numbers.
        low: lower ends of their intervals.
        high: upper ends.
    """

    score: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Distances:
    """The networks of a data set at one layer, and all numbers of their pairs over the reported split.

    Attributes:
        data: the data set.
        layer: where φ ends.
        split: the reported split.
        images: how many images.
        nodes: the networks, by family and growing `extent`.
        one_way: one-way distances by solver.
        mean: Eq. 4, symmetric, by solver.
        difference: Eq. 9, antisymmetric, by solver.
        indices: cka and procrustes, symmetric, and r2, from row to column.
        statuses: how often each reason why a number was withheld occurs, by way of comparing.
        runs: the run of a number, by metric, solver ("" for an index), and the networks' places as rows have them.
    """

    data: str
    layer: str
    split: str
    images: str
    nodes: tuple[Node, ...]
    one_way: dict[str, Numbers]
    mean: dict[str, Numbers]
    difference: dict[str, Numbers]
    indices: dict[str, Numbers]
    statuses: dict[str, dict[str, int]]
    runs: dict[tuple[str, str, int, int], str]

    @property
    def families(self) -> list[str]:
        """The families of the networks, each once, in the order of the networks."""
        return list(dict.fromkeys(node.family for node in self.nodes))

    def run(self, metric: str, solver: str, i: int, j: int) -> tuple[str, ...]:
        """The run of a number of a pair, which a symmetric one has in one order alone; empty where there is none."""
        turned = ((i, j),) if metric in ONE_WAY else ((i, j), (j, i))
        return tuple(run for a, b in turned if (run := self.runs.get((metric, solver, a, b))))

    def matrices(self) -> dict[str, Floats]:
        """Every symmetric distance by the name of its way: Eq. 4 by solver, then 1 − CKA and Procrustes."""
        found = {words(solver): numbers.score for solver, numbers in self.mean.items()}
        if "cka" in self.indices:
            found["1 − CKA"] = 1 - self.indices["cka"].score
        if "procrustes" in self.indices:
            found["Procrustes"] = self.indices["procrustes"].score
        return found


def distances(collected: Collected) -> list[Distances]:
    """What was compared, a data set and layer each."""
    rows = collected.reported("distance")
    found = []
    for (data, layer), of in rows.groupby(["data", "layer"], sort=True):
        trained = collected.rows[(collected.rows["data"] == data) & ~of_given(collected.rows)]
        nodes = _nodes(trained, of)
        if len(nodes) < 2:
            continue
        place = {f"{node.network}/seed{node.seed}": k for k, node in enumerate(nodes)}
        held = of.assign(
            i=[place.get(f"{n}/seed{s}", -1) for n, s in zip(of["network"], of["seed"], strict=True)],
            j=[place.get(label, -1) for label in grid_label(of["g"])],
        )
        held = held[(held["i"] >= 0) & (held["j"] >= 0)]
        solvers = [str(name) for name in held["solver"].unique() if name]
        n = len(nodes)
        by = {
            metric: {s: _numbers(held[(held["metric"] == metric) & (held["solver"] == s)], n, sign) for s in solvers}
            for metric, sign in (("l2_distance", 0), ("l2_distance_mean", 1), ("l2_distance_difference", -1))
        }
        indices = {
            name: _numbers(held[held["metric"] == name], n, 0 if name == "r2" else 1)
            for name in INDICES
            if (held["metric"] == name).any()
        }
        used = held.loc[held["score"].notna(), "n_images"]
        found.append(
            Distances(
                str(data),
                str(layer),
                str(of["split"].iloc[0]),
                f"{int(used.max()):,}" if len(used) else "0",
                tuple(nodes),
                by["l2_distance"],
                by["l2_distance_mean"],
                by["l2_distance_difference"],
                indices,
                _statuses(held),
                _runs(held),
            )
        )
    return found


def _nodes(rows: pd.DataFrame, of: pd.DataFrame) -> list[Node]:
    """The networks that rows compare; what a target was trained with is in its own rows, of any stage."""
    targets = set(grid_label(of["g"]))
    names = rows[["network", "family", "range", "seed"]].drop_duplicates().itertuples(index=False, name=None)
    sources = set(of[["network", "seed"]].itertuples(index=False, name=None))
    chosen = [one for one in names if (one[0], one[3]) in sources or f"{one[0]}/seed{one[3]}" in targets]
    chosen.sort(key=lambda one: (one[1] != BASELINE, one[1], extent(one[2], one[0]), one[3]))
    seeds = Counter(network for network, *_ in chosen)
    return [
        Node(network, family, reach, seed, f"{network}, seed {seed}" if seeds[network] > 1 else network)
        for network, family, reach, seed in chosen
    ]


def _numbers(rows: pd.DataFrame, n: int, sign: int) -> Numbers:
    """Rows as matrices; where the sign is not 0, row (i, j) also gives (j, i), with that sign."""
    score, low, high = (np.full((n, n), np.nan) for _ in range(3))
    i, j = rows["i"].to_numpy(), rows["j"].to_numpy()
    ends = [rows[name].to_numpy(dtype=float) for name in ("score", "low", "high")]
    for matrix, values in zip((score, low, high), ends, strict=True):
        matrix[i, j] = values
    if sign:
        mirrored = ends if sign > 0 else [-ends[0], -ends[2], -ends[1]]
        for matrix, values in zip((score, low, high), mirrored, strict=True):
            matrix[j, i] = values
    return Numbers(score, low, high)


def _statuses(rows: pd.DataFrame) -> dict[str, dict[str, int]]:
    """One-way distances and indices that were withheld, counted by solver or index and by reason."""
    withheld = rows[(rows["status"] != "ok") & ~rows["metric"].isin(["l2_distance_mean", "l2_distance_difference"])]
    ways = withheld["solver"].where(withheld["solver"] != "", withheld["metric"])
    found: dict[str, dict[str, int]] = {}
    for (way, status), count in withheld.groupby([ways, "status"]).size().items():
        found.setdefault(str(way), {})[str(status)] = int(count)
    return found


def _runs(rows: pd.DataFrame) -> dict[tuple[str, str, int, int], str]:
    columns = (rows[name].tolist() for name in ("metric", "solver", "i", "j", "run"))
    return {(metric, solver, i, j): run for metric, solver, i, j, run in zip(*columns, strict=True)}


def complete(matrix: Floats) -> NDArray[np.intp]:
    """Which networks have a distance to every other one of them: those without any are left out first."""
    kept = np.arange(len(matrix))
    while len(kept) > 1:
        gaps = np.isnan(matrix[np.ix_(kept, kept)]).sum(1) - 1  # the diagonal is one
        if not gaps.any():
            break
        kept = np.delete(kept, int(gaps.argmax()))
    return kept


@dataclass(frozen=True)
class Neighbours:
    """Fig. 3a: how near networks of one family are to each other among all.

    Attributes:
        share: (n − 1,) share of the ordered same-family pairs (i, j) with j among the K nearest of i, K = 1 … n − 1.
        chance: (n − 1,) what random neighbours give: K / (n − 1).
        low: (n − 1,) lower end of the middle 95 % when families are dealt out anew at random.
        high: (n − 1,) upper end.
        p: how often, when families are dealt out anew, the mean share over all K is as large.
        pairs: ordered same-family pairs.
        networks: n.
    """

    share: Floats
    chance: Floats
    low: Floats
    high: Floats
    p: float
    pairs: int
    networks: int

    @property
    def near(self) -> int:
        """The K that summaries give: 5, or as many neighbours as there are."""
        return min(5, self.networks - 1)


def neighbours(matrix: Floats, families: list[str]) -> Neighbours | None:
    """The K-NN analysis of Sec. 6.2; None where no two networks are of one family, or all are.

    Networks without a distance to some other are left out. j is among the K nearest of i if fewer than K networks are
    strictly nearer to i.

    Args:
        matrix: (n, n) symmetric distances, NaN on the diagonal.
        families: family of every network.
    """
    kept = complete(matrix)
    d, names = matrix[np.ix_(kept, kept)].copy(), np.array(families)[kept]
    n = len(kept)
    np.fill_diagonal(d, np.inf)
    ranks = np.stack([(row[:, None] > row[None, :]).sum(1) for row in d])  # 0 for the nearest
    same = names[:, None] == names[None, :]
    np.fill_diagonal(same, False)
    if not same.any() or same.sum() == n * (n - 1):
        return None

    def shares(mask: NDArray[np.bool_]) -> Floats:
        counted = np.bincount(ranks[mask], minlength=n)[: n - 1]
        return np.asarray(np.cumsum(counted) / mask.sum())

    share, rng = shares(same), np.random.default_rng(0)
    dealt = np.empty((_PERMUTATIONS, n - 1))
    for row in dealt:
        order = rng.permutation(n)
        row[:] = shares(same[np.ix_(order, order)])
    p = (1 + int((dealt.mean(1) >= share.mean() - 1e-12).sum())) / (1 + _PERMUTATIONS)
    low, high = np.quantile(dealt, [0.025, 0.975], axis=0)
    return Neighbours(share, np.arange(1, n) / (n - 1), low, high, p, int(same.sum()), n)


def family_means(matrix: Floats, families: list[str]) -> tuple[list[str], Floats]:
    """Mean distance of every two families' networks (Fig. 3b, c); the diagonal holds pairs within a family.

    Args:
        matrix: (n, n) symmetric distances, NaN on the diagonal.
        families: family of every network.

    Returns:
        The families' names, and (F, F) means over the pairs that have a distance, NaN where none has.
    """
    names = list(dict.fromkeys(families))
    member = np.array(families)
    means = np.full((len(names), len(names)), np.nan)
    for a, one in enumerate(names):
        for b, other in enumerate(names):
            part = matrix[np.ix_(member == one, member == other)]
            if np.isfinite(part).any():
                means[a, b] = np.nanmean(part)
    return names, means


@dataclass(frozen=True)
class GroupRank:
    """How near some families are to each other, among all groups of as many.

    Attributes:
        mean: mean of the group's family-by-family distances.
        rank: 1 for the nearest group.
        groups: how many groups there are.
    """

    mean: float
    rank: int
    groups: int


def group_rank(matrix: Floats, families: list[str], group: tuple[str, ...]) -> GroupRank | None:
    """Where a group of families stands among all groups of its size; None where a family or a distance is missing."""
    names, means = family_means(matrix, families)
    if not set(group) <= set(names):
        return None
    values = {
        chosen: float(np.mean([means[a, b] for a, b in combinations(chosen, 2)]))
        for chosen in combinations(range(len(names)), len(group))
    }
    own = values[tuple(sorted(names.index(name) for name in group))]
    if np.isnan(own):
        return None
    known = [value for value in values.values() if not np.isnan(value)]
    return GroupRank(own, 1 + sum(value < own for value in known), len(known))


def tree(matrix: Floats) -> tuple[NDArray[np.intp], Floats] | None:
    """Average linkage of the networks that have all distances: which they are, and scipy's linkage; None below 3."""
    kept = complete(matrix)
    if len(kept) < 3:
        return None
    d = matrix[np.ix_(kept, kept)].copy()
    np.fill_diagonal(d, 0)
    return kept, linkage(squareform(d, checks=False), "average")


def embedding(matrix: Floats, seed: int) -> tuple[NDArray[np.intp], Floats] | None:
    """t-SNE in two dimensions (Fig. 11) of the networks that have all distances; None below 4."""
    kept = complete(matrix)
    if len(kept) < 4:
        return None
    d = np.clip(matrix[np.ix_(kept, kept)], 0, None)
    np.fill_diagonal(d, 0)
    near = min(_PERPLEXITY, (len(kept) - 1) / 3)
    tsne = TSNE(metric="precomputed", init="random", random_state=seed, method="exact", perplexity=near)
    return kept, np.asarray(tsne.fit_transform(d), dtype=np.float64)


def sizes(nodes: tuple[Node, ...]) -> Floats:
    """Relative size of every network's range within its family: from 1/m for the smallest of m to 1; baselines 0.5."""
    found = np.full(len(nodes), 0.5)
    for family in {node.family for node in nodes} - {BASELINE}:
        own = [k for k, node in enumerate(nodes) if node.family == family]
        ranges = sorted({(node.range, node.network) for node in (nodes[k] for k in own)}, key=lambda one: extent(*one))
        place = {one: k for k, one in enumerate(ranges)}
        for k in own:
            found[k] = (1 + place[nodes[k].range, nodes[k].network]) / len(ranges)
    return found
