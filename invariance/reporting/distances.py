"""From rows to distances between networks (Sec. 6.2, B.3): matrices, neighbours, families, embeddings."""

from collections import Counter
from dataclasses import dataclass
from itertools import combinations, groupby
from typing import Any, NamedTuple

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
_OF_PAIRS = ("l2_distance_mean", "l2_distance_difference")
_PERMUTATIONS = 2000
_PERPLEXITY = 8.0


class Node(NamedTuple):
    """A network that was compared, as rows name it; its label in figures has the seed where there are several."""

    network: str
    family: str
    range: str
    seed: int
    label: str


@dataclass(frozen=True)
class Distances:
    """The networks of a data set at one layer, and all numbers of their pairs over the reported split.

    Attributes:
        data: the data set.
        layer: where φ ends.
        split: the reported split.
        images: how many images.
        nodes: the networks, by family and growing `extent`.
        pairs: a row a number of an ordered pair: its `metric`, `solver` ("" for an index), the networks' places `i` and
            `j`, `score`, `low`, `high`, `status` and `run`. A pair's own number stands in both orders: Eq. 9 with
            either sign, all others alike.
    """

    data: str
    layer: str
    split: str
    images: str
    nodes: tuple[Node, ...]
    pairs: pd.DataFrame

    @property
    def families(self) -> list[str]:
        """The families of the networks, each once, in the order of the networks."""
        return list(dict.fromkeys(node.family for node in self.nodes))

    @property
    def solvers(self) -> list[str]:
        """The solvers that maps from network to network were fitted by."""
        return [str(name) for name in self.pairs["solver"].unique() if name]

    @property
    def indices(self) -> list[str]:
        """The indices that networks were compared by."""
        return [name for name in INDICES if (self.pairs["metric"] == name).any()]

    def matrix(self, metric: str, solver: str = "", of: str = "score") -> NDArray[Any]:
        """A number of every ordered pair, (n, n) from row to column, NaN where there is none; or its ends, or `run`."""
        rows = self.pairs[(self.pairs["metric"] == metric) & (self.pairs["solver"] == solver)]
        n, empty = len(self.nodes), "" if of == "run" else np.nan
        matrix = np.full((n, n), empty, dtype=object if of == "run" else np.float64)
        matrix[rows["i"], rows["j"]] = rows[of]
        return matrix

    def by_solver(self, metric: str, of: str = "score") -> dict[str, NDArray[Any]]:
        """The matrix of every solver."""
        return {solver: self.matrix(metric, solver, of) for solver in self.solvers}

    def matrices(self) -> dict[str, Floats]:
        """Every symmetric distance by the name of its way: Eq. 4 by solver, then 1 − CKA and Procrustes."""
        found = {words(solver): mean for solver, mean in self.by_solver("l2_distance_mean").items()}
        if "cka" in self.indices:
            found["1 − CKA"] = 1 - self.matrix("cka")
        if "procrustes" in self.indices:
            found["Procrustes"] = self.matrix("procrustes")
        return found

    def withheld(self) -> dict[tuple[str, str], int]:
        """How many one-way distances and indices were withheld, by solver or index and by reason."""
        rows = self.pairs[(self.pairs["status"] != "ok") & ~self.pairs["metric"].isin(_OF_PAIRS)]
        ways = rows["solver"].where(rows["solver"] != "", rows["metric"])
        once = rows["metric"].isin(ONE_WAY) | (rows["i"] < rows["j"])
        return {
            (str(way), str(status)): int(n) for (way, status), n in rows[once].groupby([ways, "status"]).size().items()
        }


def distances(collected: Collected) -> list[Distances]:
    """What was compared, a data set and layer each."""
    found = []
    trained = collected.rows[~of_given(collected.rows)]
    for (data, layer), rows in collected.reported("distance").groupby(["data", "layer"], sort=True):
        nodes = _nodes(trained[trained["data"] == data], rows)
        if len(nodes) > 1:
            pairs = _pairs(rows, nodes)
            used = pairs.loc[pairs["score"].notna(), "n_images"]
            images = f"{int(used.max()):,}" if len(used) else "0"
            found.append(Distances(str(data), str(layer), str(rows["split"].iloc[0]), images, tuple(nodes), pairs))
    return found


def _pairs(rows: pd.DataFrame, nodes: list[Node]) -> pd.DataFrame:
    """Rows of pairs as `Distances.pairs` has them."""
    place = {f"{node.network}/seed{node.seed}": k for k, node in enumerate(nodes)}
    sources = rows["network"] + "/seed" + rows["seed"].astype(str)
    rows = rows.assign(i=sources.map(place), j=grid_label(rows["g"]).map(place))
    rows = rows[rows["i"].notna() & rows["j"].notna()].astype({"i": int, "j": int})
    turned = rows[~rows["metric"].isin(ONE_WAY)].rename(columns={"i": "j", "j": "i"})
    signed = turned["metric"] == "l2_distance_difference"
    turned.loc[signed, ["score", "low", "high"]] = -turned.loc[signed, ["score", "high", "low"]].to_numpy()
    return pd.concat([rows, turned], ignore_index=True)


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


def complete(matrix: Floats) -> NDArray[np.intp]:
    """Which networks have a distance to every other one of them: those without any are left out first."""
    kept = np.arange(len(matrix))
    while len(kept) > 1:
        gaps = np.isnan(matrix[np.ix_(kept, kept)]).sum(1) - 1  # the diagonal is one
        if not gaps.any():
            break
        kept = np.delete(kept, int(gaps.argmax()))
    return kept


def _whole(matrix: Floats, diagonal: float = 0.0) -> tuple[NDArray[np.intp], Floats]:
    """The networks that have all distances, and those with a number on their diagonal."""
    kept = complete(matrix)
    distances = matrix[np.ix_(kept, kept)].copy()
    np.fill_diagonal(distances, diagonal)
    return kept, distances


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
    kept, d = _whole(matrix, diagonal=np.inf)
    names, n = np.array(families)[kept], len(kept)
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


class GroupRank(NamedTuple):
    """The mean of a group's family-by-family distances, and its rank among all groups of as many, 1 for the nearest."""

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
    kept, d = _whole(matrix)
    return (kept, linkage(squareform(d, checks=False), "average")) if len(kept) > 2 else None


def embedding(matrix: Floats, seed: int) -> tuple[NDArray[np.intp], Floats] | None:
    """t-SNE in two dimensions (Fig. 11) of the networks that have all distances; None below 4."""
    kept, d = _whole(matrix)
    if len(kept) < 4:
        return None
    near = min(_PERPLEXITY, (len(kept) - 1) / 3)
    tsne = TSNE(metric="precomputed", init="random", random_state=seed, method="exact", perplexity=near)
    return kept, np.asarray(tsne.fit_transform(np.clip(d, 0, None)), dtype=np.float64)


def sizes(nodes: tuple[Node, ...]) -> Floats:
    """Relative size of every network's range within its family: from 1/m for the smallest of m to 1; baselines 0.5."""
    found = np.full(len(nodes), 0.5)
    for family in {node.family for node in nodes} - {BASELINE}:
        own = {k: extent(node.range, node.network) for k, node in enumerate(nodes) if node.family == family}
        ranges = [key for key, _ in groupby(sorted(own.values()))]
        for k, key in own.items():
            found[k] = (1 + ranges.index(key)) / len(ranges)
    return found
