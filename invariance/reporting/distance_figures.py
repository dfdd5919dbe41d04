"""Drawing distances between networks: Fig. 3, 11 and 12, a dendrogram, and a heat map that tells its numbers."""

from collections.abc import Callable
from dataclasses import replace
from html import escape

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap, Normalize, to_hex
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy.cluster.hierarchy import dendrogram

from invariance.reporting.curves import BASELINE, Floats, words
from invariance.reporting.distances import (
    Distances,
    Neighbours,
    Numbers,
    embedding,
    family_means,
    neighbours,
    sizes,
    tree,
)
from invariance.reporting.drawing import Drawing, Panel
from invariance.reporting.plots import BLUE, GREEN

_SEEDS = (0, 1, 2, 3)
_MARKERS = "osD^vP*Xhp<>"
_GRAY = "#868c96"
_PAPER = {"rvl_cdip": ((5, 0.724), (6, 0.806)), "ilsvrc": ((10, 0.776),)}
"""K and the share of same-family pairs, from the plots of the authors' code, for the paper's 36 networks."""

_PAPER_NETWORKS = 36
_LARGE = 20
"""Networks from which on labels are set smaller."""


def drawings(found: Distances, slug: str) -> list[Drawing]:
    """Every figure of a set of networks that there are numbers for.

    Args:
        found: the numbers.
        slug: beginning of the files' names.
    """
    made = [_neighbours(found, slug), _families(found, slug), *_embeddings(found, slug), _differences(found, slug)]
    made += [_trees(found, slug)]
    drawn = [one.numbered(found.data) for one in made if one is not None]
    lacking = f" Of the paper’s networks not compared: {', '.join(found.absent)}." if found.absent else ""
    return [replace(one, caption=one.caption + lacking) if one.form else one for one in drawn]


def _pairs(labels: list[str], solver: str, **numbers: Floats) -> list[dict[str, object]]:
    """The entries of square tables (n, n), a row an ordered pair of two."""
    n = len(labels)
    return [
        {"solver": solver, "row": labels[i], "column": labels[j], **{name: of[i, j] for name, of in numbers.items()}}
        for i in range(n)
        for j in range(n)
        if i != j
    ]


def _pairs_of(found: Distances, metric: str, solver: str, **numbers: Floats) -> list[dict[str, object]]:
    """The entries of a table of all networks, with the run of each."""
    n = range(len(found.nodes))
    runs = (found.run(metric, solver, i, j) for i in n for j in n if i != j)
    entries = _pairs([node.label for node in found.nodes], solver, **numbers)
    return [{**entry, "run": "; ".join(run)} for entry, run in zip(entries, runs, strict=True)]


def _over(found: Distances) -> str:
    return f"over {found.images} images of {found.data} ({found.split}), φ at {found.layer}"


def _neighbours(found: Distances, slug: str) -> Drawing | None:
    """Fig. 3a."""
    families = [node.family for node in found.nodes]
    ways = {way: one for way, matrix in found.matrices().items() if (one := neighbours(matrix, families)) is not None}
    if not ways:
        return None
    panels = tuple(
        Panel(f"{way}, {one.networks} networks: p = {one.p:.2g}", (3.7, 3.1), _knn_axes(one, _paper(found, one)))
        for way, one in ways.items()
    )
    most = max(one.pairs for one in ways.values())
    caption = (
        f"Of the ordered pairs (i, j) of networks trained with one family (up to {most}), the share in which j is one "
        "of the K networks nearest to i, by the mean of the two one-way distances (Eq. 4), and by indices. Dashed: "
        "random neighbours, K/(n − 1). Gray: the middle 95 % when the families are dealt out anew; p: how often the "
        "mean over all K is then as large. Two networks of one family are of different ranges, baselines of "
        f"different seeds; {_over(found)}."
    )
    if any(_paper(found, one) for one in ways.values()):
        caption += " Diamonds: the paper's networks."
    alt = "Share of same-family pairs among the K nearest: " + "; ".join(
        f"{way} {one.share[one.near - 1]:.2f} at K = {one.near}, by chance {one.chance[one.near - 1]:.2f}"
        for way, one in ways.items()
    )
    numbers = pd.DataFrame(
        {
            "way": way,
            "K": k + 1,
            "share": one.share[k],
            "random": one.chance[k],
            "low": one.low[k],
            "high": one.high[k],
            "p": one.p,
            "pairs": one.pairs,
            "networks": one.networks,
        }
        for way, one in ways.items()
        for k in range(one.networks - 1)
    )
    title = "Networks of one family among nearest neighbours"
    return Drawing(f"{slug}-neighbours", title, caption, alt, panels, "neighbours", numbers)


def _paper(found: Distances, one: Neighbours) -> tuple[tuple[int, float], ...]:
    return _PAPER.get(found.data, ()) if one.networks == _PAPER_NETWORKS else ()


def _knn_axes(one: Neighbours, paper: tuple[tuple[int, float], ...]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        k = np.arange(1, one.networks)
        axes.fill_between(k, one.low, one.high, color=_GRAY, alpha=0.25, linewidth=0)
        axes.plot(k, one.chance, linestyle="--", color=_GRAY, label="random")
        axes.plot(k, one.share, color=BLUE, marker="o", markersize=3, label="same family")
        for x, y in paper:
            axes.plot([x], [y], linestyle="", marker="D", color=GREEN, markersize=6)
        axes.set(xlabel="K", ylabel="share of same-family pairs", ylim=(0, 1.03), xlim=(0.5, one.networks - 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=mpl.rcParams["text.color"], alpha=0.12, linewidth=0.7)

    return draw


def _families(found: Distances, slug: str) -> Drawing | None:
    """Fig. 3b, c."""
    families = [node.family for node in found.nodes]
    tables = {}
    for solver, numbers in found.mean.items():
        names, means = family_means(numbers.score, families)
        np.fill_diagonal(means, np.nan)
        if len(names) > 1 and np.isfinite(means).any():
            tables[solver] = (names, means)
    if not tables:
        return None
    side = 1.5 + 0.3 * len(found.families)
    panels = tuple(
        Panel(words(solver), (side + 1.0, side), _heat([words(name) for name in names], means, annotate=True))
        for solver, (names, means) in tables.items()
    )
    caption = (
        "Mean distance (Eq. 4) between the networks of two families; dark is near. The diagonal, pairs within a "
        f"family, is left blank as in the paper and stands in the table; {_over(found)}."
    )
    near = "; ".join(f"{words(solver)}: nearest {_extreme(*table)}" for solver, table in tables.items())
    numbers = pd.DataFrame(row for s, (names, means) in tables.items() for row in _pairs(names, s, mean=means))
    alt = f"Heat map of families; {near}"
    return Drawing(f"{slug}-families", "Mean distance of families", caption, alt, panels, "families", numbers)


def _extreme(names: list[str], means: Floats) -> str:
    a, b = np.unravel_index(int(np.nanargmin(means)), means.shape)
    return f"{words(names[a])} and {words(names[b])} at {means[a, b]:.3f}"


def _differences(found: Distances, slug: str) -> Drawing | None:
    """Fig. 12."""
    tables = {s: np.abs(numbers.score) for s, numbers in found.difference.items() if np.isfinite(numbers.score).any()}
    if not tables:
        return None
    side = 1.6 + (0.17 if len(found.nodes) > _LARGE else 0.24) * len(found.nodes)
    labels = [node.label for node in found.nodes]
    panels = tuple(Panel(words(s), (side + 1.0, side), _heat(labels, table, least=0)) for s, table in tables.items())
    typical = ", ".join(
        f"{words(s)} {np.nanmean(table):.3f} beside a mean distance of {np.nanmean(found.mean[s].score):.3f}"
        for s, table in tables.items()
    )
    caption = (
        "Absolute difference of the two one-way distances of a pair (Eq. 9); light is large. On average it is "
        f"{typical}; {_over(found)}."
    )
    alt = f"Heat map of absolute one-way differences, on average {typical}"
    numbers = pd.DataFrame(
        row for s, table in tables.items() for row in _pairs_of(found, "l2_distance_difference", s, difference=table)
    )
    title = "One-way differences |Eq. 9|"
    return Drawing(f"{slug}-differences", title, caption, alt, panels, "differences", numbers)


def _heat(
    labels: list[str], table: Floats, *, annotate: bool = False, least: float | None = None
) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        n = len(table)
        mesh = axes.pcolormesh(np.ma.masked_invalid(table), cmap=_colours(), vmin=least, edgecolors="none")
        small = 5.5 if n > _LARGE else 7.5
        axes.set_xticks(np.arange(n) + 0.5, labels, rotation=90, fontsize=small)
        axes.set_yticks(np.arange(n) + 0.5, labels, fontsize=small)
        axes.set(ylim=(n, 0), aspect="equal")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.figure.colorbar(mesh, ax=axes, shrink=0.75).outline.set_visible(False)
        if annotate:
            middle = (np.nanmin(table) + np.nanmax(table)) / 2
            for i, j in np.argwhere(np.isfinite(table)):
                colour = "#ffffff" if table[i, j] < middle else "#10131a"
                axes.text(j + 0.5, i + 0.5, f"{table[i, j]:.2f}", ha="center", va="center", fontsize=6, color=colour)

    return draw


def _colours() -> Colormap:
    """Dark is near, but never as dark as a dark page, on which gaps are left."""
    return ListedColormap(sns.color_palette("mako", as_cmap=True)(np.linspace(0.2, 1, 256)))


def _embeddings(found: Distances, slug: str) -> list[Drawing | None]:
    """Fig. 11, one figure a solver, several seeds side by side."""
    made: list[Drawing | None] = []
    for solver, numbers in found.mean.items():
        maps = [(seed, one) for seed in _SEEDS if (one := embedding(numbers.score, seed)) is not None]
        if not maps:
            continue
        panels = [Panel(f"seed {seed}", (2.6, 2.5), _points(found, *one)) for seed, one in maps]
        panels.append(Panel("", (1.7, 2.5), _family_key(found)))
        caption = (
            f"t-SNE of the distances (Eq. 4, {words(solver)}) for {len(maps)} seeds. Where the seeds agree there is "
            "structure; where they do not, there is only an embedding. Markers: the family trained with; the larger, "
            f"the larger the range; {_over(found)}."
        )
        drawn = pd.DataFrame(
            {"seed": seed, "network": found.nodes[k].label, "family": found.nodes[k].family, "x": x, "y": y}
            for seed, (kept, at) in maps
            for k, (x, y) in zip(kept, at, strict=True)
        )
        made.append(
            Drawing(
                f"{slug}-tsne-{solver}",
                f"t-SNE of distances, {words(solver)}",
                caption,
                f"t-SNE of {len(maps[0][1][0])} networks for {len(maps)} seeds",
                tuple(panels),
                "tsne",
                drawn,
            )
        )
    return made


def _looks(found: Distances) -> dict[str, tuple[str, str]]:
    """Colour and marker of every family that was compared."""
    names = [name for name in found.families if name != BASELINE]
    palette = sns.husl_palette(max(len(names), 1), l=0.6)
    looks = {name: (to_hex(palette[k]), _MARKERS[k % len(_MARKERS)]) for k, name in enumerate(names)}
    return {BASELINE: (_GRAY, "H"), **looks}


def _points(found: Distances, kept: np.ndarray, at: Floats) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        size, looks = sizes(found.nodes), _looks(found)
        for k, (x, y) in zip(kept, at, strict=True):
            colour, marker = looks[found.nodes[k].family]
            axes.scatter([x], [y], s=14 + 66 * size[k], color=colour, marker=marker, linewidths=0, alpha=0.85)
        axes.set(xticks=[], yticks=[])
        axes.margins(0.12)

    return draw


def _family_key(found: Distances) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        looks = _looks(found)
        handles = [
            Line2D([], [], linestyle="", marker=looks[name][1], color=looks[name][0], markersize=6, label=words(name))
            for name in found.families
        ]
        axes.legend(handles=handles, loc="center left", frameon=False, borderaxespad=0)
        axes.set_axis_off()

    return draw


def _trees(found: Distances, slug: str) -> Drawing | None:
    """A dendrogram for every solver."""
    trees = {s: one for s, numbers in found.mean.items() if (one := tree(numbers.score)) is not None}
    if not trees:
        return None
    height = 0.9 + (0.15 if len(found.nodes) > _LARGE else 0.2) * len(found.nodes)

    def branches(kept: np.ndarray, links: Floats) -> Callable[[Axes], None]:
        def draw(axes: Axes) -> None:
            ink = mpl.rcParams["text.color"]
            labels = [found.nodes[k].label for k in kept]
            dendrogram(
                links,
                labels=labels,
                orientation="right",
                ax=axes,
                link_color_func=lambda _: ink,
                leaf_font_size=6 if len(kept) > _LARGE else 8,
            )
            axes.set_xlabel("distance (Eq. 4)")
            axes.spines[["top", "left", "right"]].set_visible(False)
            axes.tick_params(axis="y", length=0)

        return draw

    panels = tuple(Panel(words(s), (4.6, height), branches(*one)) for s, one in trees.items())
    caption = f"Networks joined by average linkage of their distances (Eq. 4); {_over(found)}."
    alt = "Dendrogram: " + ", ".join(f"{words(s)}, {len(kept)} networks" for s, (kept, _) in trees.items())
    return Drawing(f"{slug}-tree", "Dendrogram", caption, alt, panels, numbers=_joins(found, trees))


def _joins(found: Distances, trees: dict[str, tuple[NDArray[np.intp], Floats]]) -> pd.DataFrame:
    """The joins of dendrograms in their order: what is joined, at which distance; `join 3` is what the third made."""
    rows = []
    for solver, (kept, links) in trees.items():
        names = [found.nodes[k].label for k in kept] + [f"join {k + 1}" for k in range(len(links))]
        rows += [
            {
                "solver": solver,
                "join": k + 1,
                "one": names[int(a)],
                "other": names[int(b)],
                "distance": at,
                "networks": int(size),
            }
            for k, (a, b, at, size) in enumerate(links)
        ]
    return pd.DataFrame(rows)


def heat_map(found: Distances, solver: str, slug: str) -> Drawing:
    """The heat map of all distances as a figure for files."""
    side = 1.6 + (0.17 if len(found.nodes) > _LARGE else 0.24) * len(found.nodes)
    labels = [node.label for node in found.nodes]
    caption = (
        f"Distance (Eq. 4) of every two networks, {words(solver)}; dark is near. Point at a cell for the pair and all "
        f"its numbers, which are in the table of pairs too; {_over(found)}."
    )
    panel = Panel(words(solver), (side + 1.0, side), _heat(labels, found.mean[solver].score))
    title = f"All distances, {words(solver)}"
    alt = f"Heat map of all distances, {words(solver)}"
    mean = found.mean[solver]
    numbers = pd.DataFrame(
        _pairs_of(found, "l2_distance_mean", solver, distance=mean.score, low=mean.low, high=mean.high)
    )
    return Drawing(f"{slug}-distances-{solver}", title, caption, alt, (panel,), numbers=numbers)


_CELL, _LEFT, _TOP, _LETTER = 16, 8, 8, 6.2


def telling_map(found: Distances, solver: str) -> str:
    """The heat map of all distances for a page: an SVG element; a cell that is pointed at says its pair and numbers."""
    table, labels = found.mean[solver].score, [node.label for node in found.nodes]
    known = table[np.isfinite(table)]
    scale = Normalize(float(known.min()), float(known.max())) if len(known) else Normalize(0, 1)
    colours, n = _colours(), len(labels)
    room = _LETTER * max(map(len, labels)) + 10
    left, top = _LEFT + room, _TOP + room
    parts = []
    for k, label in enumerate(labels):
        middle = (k + 0.5) * _CELL
        parts.append(f'<text x="{left - 6:.0f}" y="{top + middle + 4:.0f}" text-anchor="end">{escape(label)}</text>')
        x, y = left + middle + 4, top - 6
        parts.append(f'<text x="{x:.0f}" y="{y:.0f}" transform="rotate(-90 {x:.0f} {y:.0f})">{escape(label)}</text>')
    for i in range(n):
        for j in range(n):
            if i == j:
                continue
            fill = to_hex(colours(scale(table[i, j]))) if np.isfinite(table[i, j]) else "none"
            parts.append(
                f'<rect x="{left + j * _CELL:.0f}" y="{top + i * _CELL:.0f}" width="{_CELL - 1}" height="{_CELL - 1}" '
                f'fill="{fill}"{"" if fill != "none" else " class=gap"}><title>{escape(_told(found, solver, i, j))}'
                "</title></rect>"
            )
    width, height = left + n * _CELL + _LEFT, top + n * _CELL + 34
    for k in range(48):
        x, fill = left + k * 4, to_hex(colours(k / 47))
        parts.append(f'<rect x="{x:.0f}" y="{height - 26:.0f}" width="4" height="8" fill="{fill}"/>')
    ends = (scale.vmin, scale.vmax)
    for x, anchor, value in ((left, "start", ends[0]), (left + 192, "end", ends[1])):
        parts.append(f'<text x="{x:.0f}" y="{height - 6:.0f}" text-anchor="{anchor}">{value:.3f}</text>')
    said = escape(f"Heat map of the distances of {n} networks, {words(solver)}; the numbers are in the table of pairs")
    return (
        f'<svg class="telling" viewBox="0 0 {width:.0f} {height:.0f}" style="min-width:{0.62 * width:.0f}px;'
        f'max-width:{1.4 * width:.0f}px" role="img" aria-label="{said}">{"".join(parts)}</svg>'
    )


def _told(found: Distances, solver: str, i: int, j: int) -> str:
    """All that is known of a pair, a line each."""
    one, other = found.nodes[i].label, found.nodes[j].label
    lines = [
        f"{one} and {other}",
        f"distance (Eq. 4): {_number(found.mean[solver], i, j)}",
        f"{one} → {other}: {_number(found.one_way[solver], i, j)}",
        f"{other} → {one}: {_number(found.one_way[solver], j, i)}",
        f"difference (Eq. 9): {_number(found.difference[solver], i, j)}",
    ]
    for name, title in (("cka", "CKA"), ("procrustes", "Procrustes distance")):
        if name in found.indices:
            lines.append(f"{title}: {_number(found.indices[name], i, j)}")
    if "r2" in found.indices:
        lines.append(f"R²: {_number(found.indices['r2'], i, j)} and back {_number(found.indices['r2'], j, i)}")
    return "\n".join(lines)


def _number(numbers: Numbers, i: int, j: int) -> str:
    score, low, high = (matrix[i, j] for matrix in (numbers.score, numbers.low, numbers.high))
    if np.isnan(score):
        return "no number"
    return f"{score:.3f}" if np.isnan(low) else f"{score:.3f} [{low:.3f}, {high:.3f}]"
