"""What the paper says of distances (Sec. 6.2): its networks, its printed shares, claims (e) and (f) in numbers."""

from dataclasses import replace

import numpy as np
import pandas as pd

from invariance.reporting import distance_figures
from invariance.reporting.curves import BASELINE, words
from invariance.reporting.distances import Distances, group_rank, neighbours
from invariance.reporting.figure import Figure
from invariance.reporting.lines import Lines
from invariance.reporting.paper import printed
from invariance.reporting.paper.figures import called, command, number
from invariance.reporting.paper.printed import GROUPS
from invariance.reporting.style import GREEN
from invariance.reporting.table import GAP, Cell, Table

_PRINTED = "the paper’s"


def absent(found: Distances) -> list[str]:
    """The paper's networks that were not compared; none where the data are not the paper's."""
    there = {(node.network, node.seed) for node in found.nodes}
    return [
        f"{network}, seed {seed}" if network == BASELINE else network
        for network, seed in printed.networks(found.data)
        if (network, seed) not in there
    ]


def gaps(found: Distances) -> list[str]:
    """What is said of the paper's networks that were not compared."""
    without = ", ".join(absent(found))
    made_by = command("neighbours", found.data)
    return [f"of the paper’s networks not compared: {without} ({made_by})"] if without else []


def drawings(found: Distances, slug: str) -> list[Figure]:
    """Every figure of distances by the paper's number for its form; see `distance_figures.drawings`."""
    return [as_printed(one, found) for one in distance_figures.drawings(found, slug)]


def as_printed(figure: Figure, found: Distances) -> Figure:
    """A figure by the paper's number for its form, with what is printed beside it and the networks it is without."""
    if not figure.form:
        return figure
    figure = _beside_printed(figure)
    lacking = f" Of the paper’s networks not compared: {', '.join(absent(found))}." if absent(found) else ""
    return replace(
        figure,
        name=f"fig{number(figure.form, found.data)}-{figure.name}",
        title=f"{called(figure.form, found.data)}: {figure.title}",
        caption=figure.caption + lacking,
    )


def _beside_printed(figure: Figure) -> Figure:
    """Fig. 3a with the points that the authors' code shows; any other figure as it is."""
    if figure.form != "neighbours" or not isinstance(figure.draw, Lines):
        return figure
    known = pd.DataFrame(
        {**panel, "who": _PRINTED, "x": k, "y": share, "low": np.nan, "high": np.nan}
        for panel in figure.frame.drop_duplicates("panel").to_dict("records")
        for k, share in printed.neighbours(figure.data, panel["networks"])
    )
    if known.empty:
        return figure
    draw = replace(figure.draw, colours={**figure.draw.colours, _PRINTED: GREEN})
    caption = f"{figure.caption} Green: the paper’s networks."
    return replace(figure, frame=pd.concat([figure.frame, known], ignore_index=True), draw=draw, caption=caption)


def claims(found: Distances, slug: str) -> Table | None:
    """Claims (e) and (f): same-family networks are nearer than chance; two groups of families are mutually near."""
    families = [node.family for node in found.nodes]
    lines = []
    for way, matrix in found.matrices().items():
        near = neighbours(matrix, families)
        same = np.array(families)[:, None] == np.array(families)[None, :]
        upper = np.triu(np.ones_like(matrix, dtype=bool), 1) & np.isfinite(matrix)
        means = [float(matrix[upper & mask].mean()) if (upper & mask).any() else np.nan for mask in (same, ~same)]
        known = f"{int(upper.sum())} of {len(families) * (len(families) - 1) // 2}"
        line = [Cell(way, {"way": way}), Cell(known, {"pairs": int(upper.sum())})]
        for name, value in zip(("same_family", "other_families"), means, strict=True):
            line.append(Cell(f"{value:.3f}" if np.isfinite(value) else GAP, {name: value}))
        if near is None:
            line += [Cell(GAP)] * 3
        else:
            k, share, chance = near.near, near.share[near.near - 1], near.chance[near.near - 1]
            line.append(Cell(f"{share:.2f} (K = {k})", {"k": k, "share": share}))
            line += [Cell(f"{chance:.2f}", {"chance": chance}), Cell(f"{near.p:.2g}", {"p": near.p})]
        for group in GROUPS:
            rank, name = group_rank(matrix, families, group), "_".join(group)
            numbers = {f"{name}_mean": rank.mean if rank else np.nan, f"{name}_rank": rank.rank if rank else np.nan}
            line.append(Cell(f"{rank.mean:.3f}, {rank.rank} of {rank.groups}" if rank else GAP, numbers))
        lines.append(line)
    if not lines:
        return None
    header = ["way of comparing", "pairs with a distance", "same family, mean", "different families, mean"]
    header += ["same-family pairs within K neighbours", "by chance", "p"]
    header += [", ".join(words(name) for name in group) for group in GROUPS]
    caption = (
        "Whether networks of one family are nearer to each other than chance, and the two groups of families that the "
        "paper finds mutually near: the mean of the group's family-by-family distances, and its place among all groups "
        f"of three families, 1 being the nearest. p as in the figure of neighbours. {found.images} images of "
        f"{found.data} ({found.split})."
    )
    return Table.of(f"{slug}-distance-claims", caption, header, lines)
