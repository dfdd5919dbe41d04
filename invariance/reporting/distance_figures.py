"""Drawing distances between networks: Fig. 3, 11 and 12, a dendrogram, and a heat map that tells its numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import Colormap, ListedColormap, to_hex
from matplotlib.figure import Figure as Drawing
from numpy.typing import NDArray
from scipy.cluster.hierarchy import dendrogram

from invariance.reporting.curves import BASELINE, Floats, words
from invariance.reporting.distances import Distances, Neighbours, embedding, family_means, neighbours, sizes, tree
from invariance.reporting.figure import Figure
from invariance.reporting.lines import Axis, Lines, taken
from invariance.reporting.style import BLUE, GRAY, INK, canvas
from invariance.reporting.table import GAP, styled

_SEEDS = (0, 1, 2, 3)
_MARKERS = "osD^vP*Xhp<>"
_LARGE = 20
"""Networks from which on labels are set smaller."""


def drawings(found: Distances, slug: str) -> list[Figure]:
    """Every figure of a set of networks that there are numbers for.

    Args:
        found: the numbers.
        slug: beginning of the files' names.
    """
    made = [_neighbours(found, slug), _families(found, slug), *_embeddings(found, slug), _differences(found, slug)]
    return [one for one in (*made, _tree(found, slug)) if one is not None]


def _entries(labels: list[str], **numbers: dict[str, NDArray[Any]]) -> pd.DataFrame:
    """The entries of square tables (n, n) by solver, a row an ordered pair of two."""
    i, j = np.nonzero(~np.eye(len(labels), dtype=bool))
    named, first = np.array(labels), next(iter(numbers.values()))
    parts = [
        pd.DataFrame(
            {"solver": s, "row": named[i], "column": named[j], **{name: of[s][i, j] for name, of in numbers.items()}}
        )
        for s in first
    ]
    return pd.concat(parts, ignore_index=True)


def _labels(found: Distances) -> list[str]:
    return [node.label for node in found.nodes]


def _over(found: Distances) -> str:
    return f"over {found.images} images of {found.data} ({found.split}), φ at {found.layer}"


def _neighbours(found: Distances, slug: str) -> Figure | None:
    """Fig. 3a."""
    families = [node.family for node in found.nodes]
    ways = {way: one for way, matrix in found.matrices().items() if (one := neighbours(matrix, families)) is not None}
    if not ways:
        return None
    frame = pd.concat([_shares(way, one) for way, one in ways.items()], ignore_index=True)
    most = max(one.pairs for one in ways.values())
    caption = (
        f"Of the ordered pairs (i, j) of networks trained with one family (up to {most}), the share in which j is one "
        "of the K networks nearest to i, by the mean of the two one-way distances (Eq. 4), and by indices. Gray: "
        "random neighbours, K/(n − 1), and the middle 95 % when the families are dealt out anew; p: how often the "
        "mean over all K is then as large. Two networks of one family are of different ranges, baselines of "
        f"different seeds; {_over(found)}."
    )
    alt = "Share of same-family pairs among the K nearest: " + "; ".join(
        f"{way} {one.share[one.near - 1]:.2f} at K = {one.near}, by chance {one.chance[one.near - 1]:.2f}"
        for way, one in ways.items()
    )
    colours = {"same family": BLUE, "random": GRAY}
    axes = {"": Axis("K", tuple(range(1, max(one.networks for one in ways.values()))))}
    draw = Lines(colours, axes, "share of same-family pairs", "pairs", (0, 1.03))
    title = "Networks of one family among nearest neighbours"
    return Figure(f"{slug}-neighbours", title, caption, alt, frame, draw, "neighbours", found.data)


def _shares(way: str, one: Neighbours) -> pd.DataFrame:
    """The points of one panel of Fig. 3a."""
    panel = f"{way}, {one.networks} networks: p = {one.p:.2g}"
    of: dict[str, object] = {"row": "", "panel": panel, "family": "", "way": ""}
    of |= {"through": way, "p": one.p, "pairs": one.pairs, "networks": one.networks}
    k, none = np.arange(1, one.networks), np.nan
    same = pd.DataFrame({**of, "who": "same family", "x": k, "y": one.share, "low": none, "high": none})
    random = pd.DataFrame({**of, "who": "random", "x": k, "y": one.chance, "low": one.low, "high": one.high})
    return pd.concat([same, random]).sort_values("x", kind="stable").assign(status="ok")


@dataclass(frozen=True)
class _Heat:
    """Draws square tables, a panel a solver; dark is near, and gaps are left.

    Attributes:
        labels: names of the rows and columns.
        value: the column of the numbers.
        annotate: whether the numbers are written into the cells.
        least: the number that is darkest; None for the least there is.
    """

    labels: list[str]
    value: str
    annotate: bool = False
    least: float | None = None

    def __call__(self, frame: pd.DataFrame) -> Drawing:
        panels = list(frame.groupby("solver", sort=False))
        large = len(self.labels) > _LARGE
        side = 1.6 + (0.3 if self.annotate else 0.17 if large else 0.24) * len(self.labels)
        figure = canvas(((side + 1.0) * len(panels), side))
        for axes, (solver, part) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            table = part.pivot(index="row", columns="column", values=self.value)
            table = table.reindex(index=self.labels, columns=self.labels)
            written = {"annot": self.annotate, "fmt": ".2f", "annot_kws": {"fontsize": 6}}
            look = {"cmap": _colours(), "vmin": self.least, "square": True, "cbar_kws": {"shrink": 0.75}, **written}
            sns.heatmap(table, xticklabels=True, yticklabels=True, ax=axes, **look)
            axes.tick_params(length=0, labelsize=5.5 if large else 7.5)
            axes.tick_params(axis="x", rotation=90)
            axes.tick_params(axis="y", rotation=0)
            axes.set(title=words(str(solver)), xlabel="", ylabel="")
        return figure


def _colours() -> Colormap:
    """Dark is near, but never as dark as a dark page, on which gaps are left."""
    return ListedColormap(sns.color_palette("mako", as_cmap=True)(np.linspace(0.2, 1, 256)))


def _families(found: Distances, slug: str) -> Figure | None:
    """Fig. 3b, c."""
    names, tables = [words(name) for name in found.families], {}
    for solver, mean in found.by_solver("l2_distance_mean").items():
        _, means = family_means(mean, [node.family for node in found.nodes])
        np.fill_diagonal(means, np.nan)
        if np.isfinite(means).any():
            tables[solver] = means
    if not tables:
        return None
    caption = (
        "Mean distance (Eq. 4) between the networks of two families; dark is near. The diagonal, pairs within a "
        f"family, is left blank and stands in the table; {_over(found)}."
    )
    near = []
    for solver, means in tables.items():
        a, b = np.unravel_index(int(np.nanargmin(means)), means.shape)
        near.append(f"{words(solver)}: nearest {names[a]} and {names[b]} at {means[a, b]:.3f}")
    alt = f"Heat map of families; {'; '.join(near)}"
    frame, draw = _entries(names, mean=tables), _Heat(names, "mean", annotate=True)
    return Figure(f"{slug}-families", "Mean distance of families", caption, alt, frame, draw, "families", found.data)


def _differences(found: Distances, slug: str) -> Figure | None:
    """Fig. 12."""
    metric = "l2_distance_difference"
    tables = {s: np.abs(table) for s, table in found.by_solver(metric).items() if np.isfinite(table).any()}
    if not tables:
        return None
    means = {s: np.nanmean(table) for s, table in found.by_solver("l2_distance_mean").items() if s in tables}
    typical = ", ".join(
        f"{words(s)} {np.nanmean(table):.3f} beside a mean distance of {means[s]:.3f}" for s, table in tables.items()
    )
    caption = (
        "Absolute difference of the two one-way distances of a pair (Eq. 9); light is large. On average it is "
        f"{typical}; {_over(found)}."
    )
    alt = f"Heat map of absolute one-way differences, on average {typical}"
    frame = _entries(_labels(found), difference=tables, run=found.by_solver(metric, "run"))
    draw, title = _Heat(_labels(found), "difference", least=0), "One-way differences |Eq. 9|"
    return Figure(f"{slug}-differences", title, caption, alt, frame, draw, "differences", found.data)


def _embeddings(found: Distances, slug: str) -> list[Figure]:
    """Fig. 11, one figure a solver, several seeds side by side."""
    made = []
    for solver, mean in found.by_solver("l2_distance_mean").items():
        maps = [(seed, one) for seed in _SEEDS if (one := embedding(mean, seed)) is not None]
        if not maps:
            continue
        caption = (
            f"t-SNE of the distances (Eq. 4, {words(solver)}) for {len(maps)} seeds. Where the seeds agree there is "
            "structure; where they do not, there is only an embedding. Markers: the family trained with; the larger, "
            f"the larger the range; {_over(found)}."
        )
        size, nodes = sizes(found.nodes), found.nodes
        frame = pd.DataFrame(
            {"seed": seed, "network": nodes[k].label, "family": words(nodes[k].family), "size": size[k], "x": x, "y": y}
            for seed, (kept, at) in maps
            for k, (x, y) in zip(kept, at, strict=True)
        )
        title, name = f"t-SNE of distances, {words(solver)}", f"{slug}-tsne-{solver}"
        alt = f"t-SNE of {len(maps[0][1][0])} networks, {len(maps)} seeds"
        made.append(Figure(name, title, caption, alt, frame, _points(found.families), "tsne", found.data))
    return made


def _points(families: list[str]) -> Callable[[pd.DataFrame], Drawing]:
    """What draws embeddings: a panel a seed, a colour and a marker a family."""
    names = [name for name in families if name != BASELINE]
    palette = sns.husl_palette(max(len(names), 1), l=0.6)
    looks = {words(name): (to_hex(palette[k]), _MARKERS[k % len(_MARKERS)]) for k, name in enumerate(names)}
    looks = {BASELINE: (GRAY, "H"), **looks} if BASELINE in families else looks

    def draw(frame: pd.DataFrame) -> Drawing:
        """Draw a panel a seed."""
        figure, panels = canvas((10.4, 2.5)), list(frame.groupby("seed"))
        for k, (axes, (seed, part)) in enumerate(zip(figure.subplots(1, len(panels)), panels, strict=True)):
            colours, markers = ({name: of[which] for name, of in looks.items()} for which in (0, 1))
            hue = {"hue": "family", "hue_order": list(looks), "palette": colours}
            style = {"style": "family", "style_order": list(looks), "markers": markers}
            size = {"size": "size", "sizes": (14, 80), "size_norm": (0, 1), "linewidth": 0, "alpha": 0.85}
            legend = "full" if k == 0 else False
            sns.scatterplot(part, x="x", y="y", ax=axes, legend=legend, **hue, **style, **size)
            axes.set(title=f"seed {seed}", xticks=[], yticks=[], xlabel="", ylabel="")
            axes.margins(0.12)
        handles, labels = taken(figure.axes[0])
        keys = dict(zip(labels, handles, strict=True))
        figure.legend([keys[name] for name in looks], list(looks), loc="outside right center", frameon=False)
        return figure

    return draw


def _tree(found: Distances, slug: str) -> Figure | None:
    """A dendrogram for every solver."""
    means = found.by_solver("l2_distance_mean")
    trees = {s: one for s, mean in means.items() if (one := tree(mean)) is not None}
    if not trees:
        return None
    large = len(found.nodes) > _LARGE

    def draw(_: pd.DataFrame) -> Drawing:
        """Draw a tree a solver."""
        figure = canvas((4.6 * len(trees), 0.9 + (0.15 if large else 0.2) * len(found.nodes)))
        for axes, (solver, (kept, links)) in zip(
            figure.subplots(1, len(trees), squeeze=False)[0], trees.items(), strict=True
        ):
            labels, size = [found.nodes[k].label for k in kept], 6 if large else 8
            look = {"link_color_func": lambda _: INK, "leaf_font_size": size}
            dendrogram(links, labels=labels, orientation="right", ax=axes, **look)
            axes.set_title(words(solver), loc="left")
            axes.set_xlabel("distance (Eq. 4)")
            sns.despine(ax=axes, left=True)
            axes.tick_params(axis="y", length=0)
        return figure

    caption = f"Networks joined by average linkage of their distances (Eq. 4); {_over(found)}."
    alt = "Dendrogram: " + ", ".join(f"{words(s)}, {len(kept)} networks" for s, (kept, _) in trees.items())
    return Figure(f"{slug}-tree", "Dendrogram", caption, alt, _joins(found, trees), draw, data=found.data)


def _joins(found: Distances, trees: dict[str, tuple[NDArray[np.intp], Floats]]) -> pd.DataFrame:
    """The joins of dendrograms in their order: what is joined, at which distance; `join 3` is what the third made."""
    rows = []
    for solver, (kept, links) in trees.items():
        names = [found.nodes[k].label for k in kept] + [f"join {k + 1}" for k in range(len(links))]
        rows += [
            (solver, k + 1, names[int(a)], names[int(b)], at, int(size)) for k, (a, b, at, size) in enumerate(links)
        ]
    return pd.DataFrame(rows, columns=["solver", "join", "one", "other", "distance", "networks"])


def heat_map(found: Distances, solver: str, slug: str) -> Figure:
    """The heat map of all distances as a figure for files."""
    caption = (
        f"Distance (Eq. 4) of every two networks, {words(solver)}; dark is near. Point at a cell for the pair and all "
        f"its numbers, which are in the table of pairs too; {_over(found)}."
    )
    ends = {"distance": "score", "low": "low", "high": "high", "run": "run"}
    numbers = {name: {solver: found.matrix("l2_distance_mean", solver, of)} for name, of in ends.items()}
    frame, draw = _entries(_labels(found), **numbers), _Heat(_labels(found), "distance")
    title = f"All distances, {words(solver)}"
    alt = f"Heat map of all distances, {words(solver)}"
    return Figure(f"{slug}-distances-{solver}", title, caption, alt, frame, draw, data=found.data)


def telling_map(found: Distances, solver: str) -> str:
    """The heat map of all distances for a page: a table; a cell that is pointed at says its pair and numbers."""
    values = pd.DataFrame(found.matrix("l2_distance_mean", solver))
    labels = [escape(label) for label in _labels(found)]
    styler = styled(
        ["", *labels], [[label] for label in labels], f"telling {found.data} {found.layer} {solver}", values
    )
    styler = styler.format(lambda value: f"{value:.2f}".lstrip("0"), na_rep=GAP)
    styler = styler.background_gradient(cmap=_colours(), axis=None).highlight_null(
        props="background: none; color: inherit"
    )
    styler = styler.set_tooltips(_told(found, solver), as_title_attribute=True)
    return str(styler.set_table_attributes('class="telling"').to_html())


def _told(found: Distances, solver: str) -> pd.DataFrame:
    """All that is known of every pair (n, n), a line each."""

    def told(metric: str, solver: str = "") -> NDArray[Any]:
        ends = (found.matrix(metric, solver, of) for of in ("score", "low", "high"))
        texts: NDArray[Any] = np.vectorize(_number, otypes=[object])(*ends)
        return texts

    mean, one_way, difference = (told(f"l2_distance{end}", solver) for end in ("_mean", "", "_difference"))
    indices = {name: told(name) for name in found.indices}
    titles = {"cka": "CKA: {}", "procrustes": "Procrustes distance: {}", "r2": "R²: {} and back {}"}
    texts = np.full(mean.shape, "", dtype=object)
    for i, j in zip(*np.nonzero(~np.eye(len(texts), dtype=bool)), strict=True):
        one, other = found.nodes[i].label, found.nodes[j].label
        lines = [
            f"{one} and {other}",
            f"distance (Eq. 4): {mean[i, j]}",
            f"{one} → {other}: {one_way[i, j]}",
            f"{other} → {one}: {one_way[j, i]}",
            f"difference (Eq. 9): {difference[i, j]}",
            *(titles[name].format(of[i, j], of[j, i]) for name, of in indices.items()),
        ]
        texts[i, j] = escape("\n".join(lines))
    return pd.DataFrame(texts)


def _number(score: float, low: float, high: float) -> str:
    if np.isnan(score):
        return "no number"
    return f"{score:.3f}" if np.isnan(low) else f"{score:.3f} [{low:.3f}, {high:.3f}]"
