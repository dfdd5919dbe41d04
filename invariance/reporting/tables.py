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
from invariance.reporting.metrics import HALF_ERROR, METRICS, file_name
from invariance.reporting.rows import SAME, UNSEEN
from invariance.reporting.table import GAP, Cell, Table, percent
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
    header, lines = ["g"], [[Cell(label)] for label in labels]
    found = rows.set_index(["network", "seed", "grid", "map", "solver", "label"]).to_dict("index")
    for network, seed, grid, kind, solver, _ in order:
        parts = [network, f"seed {seed}" if many_seeds else "", grid if many_grids else ""]
        header.append(", ".join([*filter(None, parts), fit_title((kind, solver))]))
        for label, line in zip(labels, lines, strict=True):
            row = found.get((network, seed, grid, kind, solver, label))
            line.append(Cell(_told(row, metric), runs=(row["run"],)) if row else Cell(GAP))
    shown = METRICS[metric]
    caption = (
        f"{shown.what}{' in percent' if shown.points else ''} under each g of {words(family.name)} on {family.data}, "
        f"{counts(rows['n_images'])} images of {rows['split'].iloc[0]}, with the 95 % interval over images. No map: "
        "invariance, else equivariance."
    )
    name = f"{slug}-{file_name(metric)}"
    return Table.of(name, caption, header, lines, numbers=rows.drop(columns=["grid", "label", "grid_family"]))


def _told(row: dict[Any, Any], metric: str) -> str:
    if row["status"] != "ok":
        return str(row["status"])
    score, low, high = (float(row[name]) for name in ("score", "low", "high"))
    return GAP if np.isnan(score) else METRICS[metric].said(score, low, high)


def summary(family: MeasuredFamily, slug: str) -> Table | None:
    """Mean accuracy untouched, inside and beyond the largest trained range, or None without a network of the family."""
    if not family.trained or "error_rate" not in family.metrics():
        return None
    reach = family.trained[-1]
    labels, parts = [point.label for point in reach.facts.points], reach.facts.parts
    lines, records = [], list[dict[str, Any]]()
    for subject in family.drawn:
        for fit in (IDENTITY, *family.fits):
            drawn = curve(family, subject, fit, "error_rate")
            y = np.full(len(labels), np.nan)
            if drawn is not None:
                y = drawn.set_index("g")["y"].reindex(labels).to_numpy() / 100
            means = {part: float(y[mask].mean()) if mask.any() else np.nan for part, mask in parts.items()}
            runs = () if drawn is None else tuple(filter(None, drawn["run"].unique()))
            about = {"data": family.data, "family": family.name, "network": subject.network, "seed": subject.seed}
            records.append({**about, "map": fit[0], "solver": fit[1], **means, "run": "; ".join(runs)})
            told = [GAP if np.isnan(mean) else f"{100 * mean:.1f}" for mean in means.values()]
            first = [Cell(f"{subject.network}, seed {subject.seed}"), Cell(fit_title(fit))]
            lines.append([*first, *(Cell(mean, runs=runs) for mean in told)])
    header = ["network", "map", "untouched", f"mean inside {reach.network}'s range", "mean beyond it"]
    inside, beyond = (int(parts[part].sum()) for part in ("inside", "beyond"))
    caption = (
        f"Accuracy in percent, untouched and as the mean over the {inside} other g that "
        f"{reach.network}'s training covered and over the {beyond} that it did not. A mean with any g missing is a gap."
    )
    return Table.of(f"{slug}-summary", caption, header, lines, numbers=pd.DataFrame(records))


def unseen(family: MeasuredFamily, slug: str) -> Table | None:
    """Whether M_g undoes g or knows the classes: no map, maps of the same and of unseen classes; None without any.

    A line a network and g. All three are over the same images, by the argmax among the classes of the reported half.
    """
    fits = [fit for fit in family.fits if any(_control(family, one, fit) for one in family.drawn)]
    if not fits:
        return None
    header = ["network and g", "no map"]
    header += [f"{classes} classes, {fit_title(fit)}" for fit in fits for classes in (SAME, UNSEEN)]
    ways: list[tuple[Fit, str]] = [(IDENTITY, ""), *((fit, classes) for fit in fits for classes in (SAME, UNSEEN))]
    lines, parts = [], []
    for subject in (one for one in family.drawn if any(_control(family, one, fit) for fit in fits)):
        curves = [curve(family, subject, fit, HALF_ERROR, classes) for fit, classes in ways]
        parts.append(pd.concat(curves).sort_index(kind="stable"))
        for k, point in enumerate(subject.facts.points):
            first = Cell(f"{subject.network} (seed {subject.seed}): {point.label}")
            lines.append([first, *(Cell(GAP) if drawn is None else _of_control(drawn.iloc[k]) for drawn in curves)])
    caption = (
        f"Does M_g undo g, or does it know the classes? Accuracy in percent under each g of {words(family.name)} on "
        f"{family.data}, by the argmax among the classes of the reported half, with the 95 % interval over images: "
        "without a map, through maps fitted on the same classes, and through maps fitted on other classes alone."
    )
    if any(cell.text.endswith("*") for line in lines for cell in line):
        caption += f" *: {FEW}, so that the map's start at the identity decides much."
    numbers = pd.concat(parts, ignore_index=True).rename(columns={"y": "accuracy"})
    ends, about = ["accuracy", "low", "high"], ["network", "seed", "grid", "g", "map", "solver", "fit_classes"]
    numbers[ends] /= 100
    return Table.of(f"{slug}-unseen", caption, header, lines, numbers=numbers[[*about, *ends, "status", "run"]])


def _of_control(at: pd.Series) -> Cell:
    """A point of a curve as a cell."""
    number = percent(*(at[name] / 100 for name in ("y", "low", "high")))
    number += " *" if at["status"] == FEW_IMAGES else ""
    return Cell(number if at["status"] in MISSING else at["status"], runs=(at["run"],) if at["run"] else ())


def _control(family: MeasuredFamily, subject: Subject, fit: Fit) -> bool:
    return curve(family, subject, fit, HALF_ERROR, UNSEEN) is not None
