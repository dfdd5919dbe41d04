"""Tables of one family: every number, means inside and beyond the trained range, the control over unseen classes."""

from typing import Any

import numpy as np
import pandas as pd

from invariance.reporting.curves import (
    BASELINE,
    IDENTITY,
    Fit,
    MeasuredFamily,
    Subject,
    counts,
    curve,
    fit_title,
    natural,
    words,
)
from invariance.reporting.lines import FEW, MISSING
from invariance.reporting.rows import HALF_ERROR, SAME, UNSEEN
from invariance.reporting.table import GAP, Table, percent, plain
from invariance.runs.rows import FEW_IMAGES


def measurements(family: MeasuredFamily, metric: str, slug: str) -> Table:
    """Every number of a metric over a family's grids on the reported split: a row a g, a column a network and a map."""
    rows = family.rows[family.rows["metric"] == metric]
    rank = {subject.network: k for k, subject in enumerate(family.trained, 1)}
    fits = [fit for fit in (IDENTITY, *family.fits)]
    keys = rows[["network", "seed", "grid", "map", "solver", "family"]].drop_duplicates()

    def place(key: tuple[str, int, str, str, str, str]) -> tuple[Any, ...]:
        network, seed, grid, kind, solver, trained_with = key
        ranked = trained_with != BASELINE, rank.get(network, len(rank) + 1), natural(network)
        return *ranked, seed, natural(grid), fits.index((kind, solver))

    order = sorted(keys.itertuples(index=False, name=None), key=place)
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


def summary(family: MeasuredFamily, slug: str) -> Table | None:
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
    family: MeasuredFamily, subject: Subject, fit: Fit, labels: list[str], parts: dict[str, list[bool]]
) -> dict[str, object]:
    """One row of the summary, accuracies as shares; NaN where any g is missing or the part has none."""
    drawn = curve(family, subject, fit, "error_rate")
    by_label = {} if drawn is None else dict(zip(drawn["g"], drawn["y"] / 100, strict=True))
    y = np.array([by_label.get(label, np.nan) for label in labels])
    means = {part: float(y[mask].mean()) if any(mask) else np.nan for part, mask in parts.items()}
    names = {"data": family.data, "family": family.name, "network": subject.network, "seed": subject.seed}
    runs = [] if drawn is None else drawn.loc[drawn["run"] != "", "run"].unique()
    return {**names, "map": fit[0], "solver": fit[1], **means, "run": "; ".join(runs)}


def unseen(family: MeasuredFamily, slug: str) -> Table | None:
    """Whether M_g undoes g or knows the classes: no map, maps of the same and of unseen classes; None without any.

    A line a network and g. All three are over the same images, by the argmax among the classes of the reported half.
    """
    fits = [fit for fit in family.fits if any(_control(family, one, fit) for one in _networks(family))]
    if not fits:
        return None
    header, cells, records = ["network and g", "no map"], list[list[str]](), list[dict[str, Any]]()
    header += [f"{classes} classes, {fit_title(fit)}" for fit in fits for classes in (SAME, UNSEEN)]
    ways: list[tuple[Fit, str]] = [(IDENTITY, ""), *((fit, classes) for fit in fits for classes in (SAME, UNSEEN))]
    runs: dict[tuple[int, int], tuple[str, ...]] = {}
    for subject in (one for one in _networks(family) if any(_control(family, one, fit) for fit in fits)):
        curves = [curve(family, subject, fit, HALF_ERROR, classes) for fit, classes in ways]
        for k, point in enumerate(subject.facts.points):
            row = [f"{subject.network} (seed {subject.seed}): {point.label}"]
            about = {"network": subject.network, "seed": subject.seed, "grid": subject.facts.grid, "g": point.label}
            for (fit, classes), drawn in zip(ways, curves, strict=True):
                if drawn is not None:
                    records.append({**about, "map": fit[0], "solver": fit[1], "fit_classes": classes})
                    records[-1] |= {name: drawn[name][k] / 100 for name in ("y", "low", "high")}
                    records[-1] |= {name: drawn[name][k] for name in ("status", "run")}
                    runs[len(cells), len(row)] = tuple(filter(None, (drawn["run"][k],)))
                status = "not measured" if drawn is None else str(drawn["status"][k])
                ends = (np.nan,) * 3 if drawn is None else tuple(drawn[name][k] / 100 for name in ("y", "low", "high"))
                number = percent(*ends) + (" *" if status == FEW_IMAGES else "")
                row.append(number if status in MISSING else status)
            cells.append(row)
    caption = (
        f"Does M_g undo g, or does it know the classes? Accuracy in percent under each g of {words(family.name)} on "
        f"{family.data}, by the argmax among the classes of the reported half, with the 95 % interval over images: "
        "without a map, through maps fitted on the same classes, and through maps fitted on other classes alone."
    )
    if any(cell.endswith("*") for row in cells for cell in row):
        caption += f" *: {FEW}, so that the map's start at the identity decides much."
    numbers = pd.DataFrame(records).rename(columns={"y": "accuracy"})
    return Table(f"{slug}-unseen", caption, header, cells, numbers, runs=runs)


def _networks(family: MeasuredFamily) -> list[Subject]:
    return [*([family.baseline] if family.baseline else []), *family.trained]


def _control(family: MeasuredFamily, subject: Subject, fit: Fit) -> bool:
    return curve(family, subject, fit, HALF_ERROR, UNSEEN) is not None
