"""Tables: the same cells as HTML and Markdown, and the numbers behind them as CSV."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from invariance.reporting.collect import Collected
from invariance.reporting.curves import (
    BASELINE,
    IDENTITY,
    Family,
    Fit,
    Subject,
    counts,
    curve,
    fit_title,
    natural,
    words,
)

GAP = "–"
"""A number that is not there."""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: name of its files.
        caption: what its numbers are.
        header: names of the columns.
        cells: the rows as text; the first cell of each names the row.
        numbers: the numbers in full, for the CSV.
    """

    name: str
    caption: str
    header: list[str]
    cells: list[list[str]]
    numbers: pd.DataFrame

    def html(self) -> str:
        """The table as an HTML element."""
        text = [
            not any(row[k].lstrip("+-")[:1].isdigit() or row[k] == GAP for row in self.cells)
            for k in range(len(self.header))
        ]
        left = [' class="text"' if is_text else "" for is_text in text]
        head = "".join(f'<th scope="col"{at}>{escape(name)}</th>' for name, at in zip(self.header, left, strict=True))
        body = "\n".join(
            f'<tr><th scope="row">{escape(row[0])}</th>'
            + "".join(f"<td{at}>{escape(cell)}</td>" for cell, at in zip(row[1:], left[1:], strict=True))
            + "</tr>"
            for row in self.cells
        )
        return (
            f"<table>\n<caption><span>{escape(self.caption)}</span></caption>\n<thead><tr>{head}</tr></thead>\n"
            f"<tbody>\n{body}\n</tbody>\n</table>\n"
        )

    def markdown(self) -> str:
        """The table in Markdown."""

        def line(cells: Iterable[str]) -> str:
            return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

        rule = "|---|" + "---:|" * (len(self.header) - 1)
        return "\n".join([line(self.header), rule, *map(line, self.cells), "", self.caption, ""])

    def files(self) -> dict[str, bytes]:
        """The table's files, by path in the report."""
        buffer = io.StringIO()
        self.numbers.to_csv(buffer, index=False, lineterminator="\n")
        head = f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(self.name)}</title>'
        page = f"{head}\n{self.html()}</html>\n"
        return {
            f"tables/{self.name}.html": page.encode(),
            f"tables/{self.name}.md": self.markdown().encode(),
            f"tables/{self.name}.csv": buffer.getvalue().encode(),
        }


def percent(score: float, low: float, high: float) -> str:
    """A score and its interval in percent; a gap where there is no score."""
    return GAP if np.isnan(score) else f"{100 * score:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def plain(score: float, low: float, high: float) -> str:
    """A score and its interval; a gap where there is no score."""
    return GAP if np.isnan(score) else f"{score:.3f} [{low:.3f}, {high:.3f}]"


def accuracy(collected: Collected) -> Table | None:
    """Accuracy of every trained network on untouched images of the reported split (Table 3), or None without any."""
    rows = collected.reported("train")
    rows = rows[rows["metric"] == "error_rate"]
    if rows.empty:
        return None
    numbers = rows[["data", "network", "family", "range", "seed", "split"]].assign(
        accuracy=1 - rows["score"],
        low=1 - rows["high"],
        high=1 - rows["low"],
        n_images=rows["n_images"],
        status=rows["status"],
        run=rows["run"],
    )
    keys = numbers[["family", "range", "network", "seed"]].drop_duplicates().itertuples(index=False, name=None)
    order = sorted(keys, key=lambda k: (k[0] != BASELINE, k[0], natural(k[1]), natural(k[2]), k[3]))
    sets = list(
        numbers[["data", "split"]].drop_duplicates().sort_values(["data", "split"]).itertuples(index=False, name=None)
    )
    header, cells = ["network", "seed"], [[network, str(seed)] for *_, network, seed in order]
    for data, split in sets:
        of = numbers[(numbers["data"] == data) & (numbers["split"] == split)]
        header.append(f"{data}, {counts(of['n_images'])} images of {split}")
        found = of.set_index(["family", "range", "network", "seed"])[["accuracy", "low", "high"]]
        for key, row in zip(order, cells, strict=True):
            row.append(percent(*found.loc[key]) if key in found.index else GAP)
    place = {key: k for k, key in enumerate(order)}
    numbers = numbers.iloc[
        np.argsort(
            [place[key] for key in numbers[["family", "range", "network", "seed"]].itertuples(index=False, name=None)],
            kind="stable",
        )
    ]
    caption = "Accuracy on untouched images, in percent, with the bootstrap 95 % interval over images."
    return Table("accuracy", caption, header, cells, numbers)


def measurements(family: Family, metric: str, slug: str) -> Table:
    """Every number of a metric over a family's grids on the reported split: a row a g, a column a network and a map."""
    rows = family.rows[family.rows["metric"] == metric]
    rank = {subject.network: k for k, subject in enumerate(family.trained, 1)}
    fits = [fit for fit in (IDENTITY, *family.fits)]
    keys = rows[["network", "seed", "grid", "map", "solver", "family"]].drop_duplicates()
    order = sorted(
        keys.itertuples(index=False, name=None),
        key=lambda k: (
            k[5] != BASELINE,
            rank.get(k[0], len(rank) + 1),
            natural(k[0]),
            k[1],
            natural(k[2]),
            fits.index((k[3], k[4])),
        ),
    )
    many_seeds = keys.groupby("network")["seed"].nunique().max() > 1
    many_grids = keys["grid"].nunique() > 1
    places = rows[["value", "label"]].drop_duplicates().sort_values("value", kind="stable")
    labels = list(dict.fromkeys(places["label"]))
    header, cells = ["g"], [[label] for label in labels]
    found = rows.set_index(["network", "seed", "grid", "map", "solver", "label"])[["score", "low", "high", "status"]]
    for network, seed, grid, kind, solver, _ in order:
        parts = [network, f"seed {seed}" if many_seeds else "", grid if many_grids else ""]
        header.append(", ".join([*filter(None, parts), fit_title((kind, solver))]))
        for label, row in zip(labels, cells, strict=True):
            key = (network, seed, grid, kind, solver, label)
            row.append(_cell(found.loc[key], metric) if key in found.index else GAP)
    what = "Accuracy in percent" if metric == "error_rate" else "Distance L_L2"
    caption = (
        f"{what} under each g of {words(family.name)} on {family.data}, {counts(rows['n_images'])} images of "
        f"{rows['split'].iloc[0]}, with the bootstrap 95 % interval over images. No map: invariance, else equivariance."
    )
    name = f"{slug}-{'accuracy' if metric == 'error_rate' else 'distance'}"
    return Table(name, caption, header, cells, rows.drop(columns=["grid", "label", "grid_family"]))


def _cell(row: pd.Series, metric: str) -> str:
    if row["status"] != "ok":
        return str(row["status"])
    score, low, high = (float(row[name]) for name in ("score", "low", "high"))
    return percent(1 - score, 1 - high, 1 - low) if metric == "error_rate" else plain(score, low, high)


def summary(family: Family, slug: str) -> Table | None:
    """Mean accuracy untouched, inside and beyond the largest trained range, or None without a network of the family."""
    if not family.trained or "error_rate" not in family.metrics():
        return None
    covered = {p.label: p.covered for p in family.trained[-1].facts.points}
    untouched = {label: label == "untouched" for label in covered}
    parts = {
        "untouched": [untouched[label] for label in covered],
        "inside": [covered[label] and not untouched[label] for label in covered],
        "beyond": [not covered[label] and not untouched[label] for label in covered],
    }
    records: list[dict[str, Any]] = []
    for subject in [*family.compared[1:], *family.trained]:
        for fit in (IDENTITY, *family.fits):
            records.append(_means(family, subject, fit, list(covered), parts))
    numbers = pd.DataFrame(records)
    reach = family.trained[-1].network
    header = ["network", "map", "untouched", f"mean inside {reach}'s range", "mean beyond it"]
    cells = [
        [
            f"{r['network']}, seed {r['seed']}",
            fit_title((r["map"], r["solver"])),
            *(GAP if np.isnan(r[part]) else f"{100 * r[part]:.1f}" for part in parts),
        ]
        for r in records
    ]
    inside, beyond = sum(parts["inside"]), sum(parts["beyond"])
    caption = (
        f"Accuracy in percent, untouched and as the mean over the {inside} other g that {reach}'s training covered and "
        f"over the {beyond} that it did not. A mean with any g missing is a gap."
    )
    return Table(f"{slug}-summary", caption, header, cells, numbers)


def _means(
    family: Family, subject: Subject, fit: Fit, labels: list[str], parts: dict[str, list[bool]]
) -> dict[str, object]:
    """One row of the summary, accuracies as shares; NaN where any g is missing or the part has none."""
    drawn = curve(family, subject, fit, "error_rate")
    by_label = {p.label: y / 100 for p, y in zip(subject.facts.points, drawn.y, strict=True)} if drawn else {}
    y = np.array([by_label.get(label, np.nan) for label in labels])
    means = {part: float(y[mask].mean()) if any(mask) else np.nan for part, mask in parts.items()}
    names = {"data": family.data, "family": family.name, "network": subject.network, "seed": subject.seed}
    return {**names, "map": fit[0], "solver": fit[1], **means}
