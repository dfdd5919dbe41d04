"""Tables: the same cells as HTML, Markdown and LaTeX, and the numbers behind them as CSV."""

import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from invariance.engine.grids import grids_for
from invariance.reporting import printed
from invariance.reporting.collect import Collected, run_anchor
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
from invariance.reporting.latex import latex_table
from invariance.reporting.paper_figures import Place
from invariance.settings.files import conf_dir, families, family_sweep
from invariance.transforms.base import UNTOUCHED

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
        links: where on the page the cells at some (row, column) lead, as `#anchor`.
        runs: the runs that the numbers at some (row, column) are from: the page's list of runs is where they lead.
        worded: columns that hold words, though some begin with a digit.
    """

    name: str
    caption: str
    header: list[str]
    cells: list[list[str]]
    numbers: pd.DataFrame
    links: Mapping[tuple[int, int], str] = field(default_factory=dict)
    runs: Mapping[tuple[int, int], tuple[str, ...]] = field(default_factory=dict)
    worded: tuple[int, ...] = ()

    @property
    def text(self) -> list[bool]:
        """Which columns hold words rather than numbers."""

        def words_only(cells: list[str]) -> bool:
            some = [cell for cell in cells if cell != GAP]
            return bool(some) and not any(cell.lstrip("+-−")[:1].isdigit() for cell in some)

        return [k in self.worded or words_only([row[k] for row in self.cells]) for k in range(len(self.header))]

    def html(self, page: str = "") -> str:
        """The table as an HTML element.

        Args:
            page: the page that its links lead to, where that is another one.
        """
        left = [' class="text"' if is_text else "" for is_text in self.text]
        head = "".join(f'<th scope="col"{at}>{escape(name)}</th>' for name, at in zip(self.header, left, strict=True))

        def shown(place: tuple[int, int], cell: str) -> str:
            runs = [f"#{run_anchor(run)}" for run in self.runs.get(place, ()) if cell != GAP]
            link = self.links.get(place) or (runs[0] if len(runs) == 1 else "")
            if link:
                return f'<a href="{escape(page + link)}">{escape(cell)}</a>'
            several = (f'<a href="{escape(page + run)}">{k}</a>' for k, run in enumerate(runs, 1))
            return escape(cell) + (f" <small>[{' '.join(several)}]</small>" if runs else "")

        body = "\n".join(
            f'<tr><th scope="row">{shown((n, 0), row[0])}</th>'
            + "".join(f"<td{left[k]}>{shown((n, k), row[k])}</td>" for k in range(1, len(row)))
            + "</tr>"
            for n, row in enumerate(self.cells)
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

    def latex(self) -> str:
        """The table in LaTeX: see `latex`."""
        return latex_table(self.name, self.caption, self.header, self.cells, self.text)

    def files(self) -> dict[str, bytes]:
        """The table's files, by path in the report."""
        buffer = io.StringIO()
        self.numbers.to_csv(buffer, index=False, lineterminator="\n")
        head = f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(self.name)}</title>'
        page = f"{head}\n{self.html('../index.html')}</html>\n"
        return {
            f"tables/{self.name}.html": page.encode(),
            f"tables/{self.name}.md": self.markdown().encode(),
            f"tables/{self.name}.tex": self.latex().encode(),
            f"tables/{self.name}.csv": buffer.getvalue().encode(),
        }


def percent(score: float, low: float, high: float) -> str:
    """A score and its interval in percent; a gap where there is no score."""
    return GAP if np.isnan(score) else f"{100 * score:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def plain(score: float, low: float, high: float) -> str:
    """A score and its interval; a gap where there is no score."""
    return GAP if np.isnan(score) else f"{score:.3f} [{low:.3f}, {high:.3f}]"


def accuracy(collected: Collected) -> Table | None:
    """Accuracy of every trained network on untouched images of the reported split (Table 3), or None without any.

    On the paper's data sets every network of Table 3 has its line, and the printed accuracy stands beside ours.
    """
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
    numbers = numbers.assign(
        paper=[
            printed.accuracy(data, network, seed)
            for data, network, seed in numbers[["data", "network", "seed"]].itertuples(index=False, name=None)
        ]
    )
    keys = set(numbers[["family", "range", "network", "seed"]].itertuples(index=False, name=None))
    there = {(network, seed) for *_, network, seed in keys}
    paper = [data for data in sorted(set(numbers["data"])) if printed.networks(data)]
    absent = {one for data in paper for one in printed.networks(data)} - there
    order = sorted(
        [
            *((network, seed, (family != BASELINE, family, natural(reach))) for family, reach, network, seed in keys),
            *((network, seed, (network != BASELINE, *_beginning(network))) for network, seed in absent),
        ],
        key=lambda one: (one[2], natural(one[0]), one[1]),
    )
    sets = list(
        numbers[["data", "split"]].drop_duplicates().sort_values(["data", "split"]).itertuples(index=False, name=None)
    )
    header, cells = ["network", "seed"], [[network, str(seed)] for network, seed, _ in order]
    runs: dict[tuple[int, int], tuple[str, ...]] = {}
    for data, split in sets:
        of = numbers[(numbers["data"] == data) & (numbers["split"] == split)]
        header.append(f"{data}, {counts(of['n_images'])} images of {split}")
        found = of.set_index(["network", "seed"])[["accuracy", "low", "high", "run"]]
        for k, ((network, seed, _), row) in enumerate(zip(order, cells, strict=True)):
            if (network, seed) not in found.index:
                row.append(GAP)
                continue
            *ends, run = found.loc[(network, seed)]
            runs[k, len(row)] = (run,)
            row.append(percent(*ends))
        if data in paper:
            header.append(f"{data}, printed in Table 3")
            for (network, seed, _), row in zip(order, cells, strict=True):
                value = printed.accuracy(data, network, seed)
                row.append(GAP if np.isnan(value) else f"{100 * value:.2f}")
    place = {(network, seed): k for k, (network, seed, _) in enumerate(order)}
    places = [place[key] for key in numbers[["network", "seed"]].itertuples(index=False, name=None)]
    numbers = numbers.iloc[np.argsort(places, kind="stable")]
    of = "Table 3" if paper else "Form of Table 3"
    others = sorted(set(numbers["data"]) - set(paper)) if paper else []
    of += f" on {' and '.join(paper)}, and its form on {', '.join(others)}" if others else ""
    caption = f"{of}: accuracy on untouched images, in percent, with the 95 % interval over images."
    if paper:
        caption += (
            " The paper's Mirror Horz. and Vert. stand beside our vertical and horizontal, which is what its code did; "
            "its baselines 1 to 3 beside our seeds 0 to 2, though its seeds are not ours."
        )
    return Table("accuracy", caption, header, cells, numbers, runs=runs)


def accuracy_places(table: Table) -> list[Place]:
    """Where the page has Table 3, or its form: of every data set, and how many of the paper's networks it has."""
    found = []
    for data, own in table.numbers.groupby("data", sort=True):
        wanted = set(printed.networks(str(data)))
        there = len(wanted & set(own[["network", "seed"]].itertuples(index=False, name=None)))
        what = f"{there} of its {len(wanted)} networks" if wanted else ""
        found.append(Place("accuracy", str(data), "accuracy", what, whole=there == len(wanted)))
    return found


def _beginning(network: str) -> tuple[str, Any]:
    """Family and range of a network of Table 3, by its name, to put it among those that are there."""
    family = next((one for one in families() if network.startswith(f"{one}_")), network)
    return family, natural(network.removeprefix(f"{family}_").partition("_")[0])


def transformations() -> Table:
    """The families and the ranges that networks are trained and measured over (Table 1), from their own files."""
    cells, records = [], []
    everything = grids_for({"name": BASELINE, "label": BASELINE}, "all", {})
    for family in sorted(families(), key=lambda name: (name != BASELINE, name)):
        sweep = family_sweep(family)
        text = (conf_dir() / "transform" / f"{family}.yaml").read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        trained = "; ".join(f"{key.removeprefix('transform.')} {', '.join(values)}" for key, values in sweep.items())
        points = {point.label for one in everything if one.family == family for point in one.transform.grid()}
        points -= {UNTOUCHED}
        networks = math.prod(len(values) for values in sweep.values())
        cells.append([words(family), text, trained or GAP, str(networks), str(len(points)) if points else GAP])
        records.append(
            {"family": family, "description": text, "trained": trained, "networks": networks, "measured_g": len(points)}
        )
    header = ["family", "transformation", "trained ranges", "networks", "measured g"]
    caption = (
        "The families of transformations (Table 1): the ranges of their networks, and how many fixed g, the untouched "
        "image aside, a network is measured under; where the grid depends on the network, as Crop's, those of one."
    )
    return Table("transformations", caption, header, cells, pd.DataFrame(records))


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
    kept = ["score", "low", "high", "status", "run"]
    found = rows.set_index(["network", "seed", "grid", "map", "solver", "label"])[kept]
    runs: dict[tuple[int, int], tuple[str, ...]] = {}
    for network, seed, grid, kind, solver, _ in order:
        parts = [network, f"seed {seed}" if many_seeds else "", grid if many_grids else ""]
        header.append(", ".join([*filter(None, parts), fit_title((kind, solver))]))
        for k, (label, row) in enumerate(zip(labels, cells, strict=True)):
            key = (network, seed, grid, kind, solver, label)
            if key in found.index:
                runs[k, len(row)] = (str(found.loc[key, "run"]),)
            row.append(_cell(found.loc[key], metric) if key in found.index else GAP)
    what = "Accuracy in percent" if metric == "error_rate" else "Distance L_L2"
    caption = (
        f"{what} under each g of {words(family.name)} on {family.data}, {counts(rows['n_images'])} images of "
        f"{rows['split'].iloc[0]}, with the 95 % interval over images. No map: invariance, else equivariance."
    )
    name = f"{slug}-{'accuracy' if metric == 'error_rate' else 'distance'}"
    return Table(name, caption, header, cells, rows.drop(columns=["grid", "label", "grid_family"]), runs=runs)


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
    runs = {
        (k, column): tuple(r["run"].split("; "))
        for k, r in enumerate(records)
        if r["run"]
        for column in range(2, len(header))
    }
    return Table(f"{slug}-summary", caption, header, cells, numbers, runs=runs)


def _means(
    family: Family, subject: Subject, fit: Fit, labels: list[str], parts: dict[str, list[bool]]
) -> dict[str, object]:
    """One row of the summary, accuracies as shares; NaN where any g is missing or the part has none."""
    drawn = curve(family, subject, fit, "error_rate")
    by_label = {p.label: y / 100 for p, y in zip(subject.facts.points, drawn.y, strict=True)} if drawn else {}
    y = np.array([by_label.get(label, np.nan) for label in labels])
    means = {part: float(y[mask].mean()) if any(mask) else np.nan for part, mask in parts.items()}
    names = {"data": family.data, "family": family.name, "network": subject.network, "seed": subject.seed}
    rows = family.rows
    of = {
        "network": subject.network,
        "seed": subject.seed,
        "grid": subject.facts.grid,
        "map": fit[0],
        "solver": fit[1],
        "metric": "error_rate",
    }
    own = rows[np.logical_and.reduce([rows[name] == value for name, value in of.items()])]
    return {**names, "map": fit[0], "solver": fit[1], **means, "run": "; ".join(own["run"].unique())}
