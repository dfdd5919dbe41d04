"""Drawing what finetuning did: the trade-off over λ3, and the family's grid before and after."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawing

from invariance.reporting.curves import Fit, words
from invariance.reporting.figure import Figure
from invariance.reporting.finetuned import LEARNED, NO_MAP, FinetunedNetworks, Finetuning, way
from invariance.reporting.grids import GridFacts
from invariance.reporting.lines import INVARIANCE, Axis, Lines
from invariance.reporting.style import BLUE, GRAY, GREEN, RED
from invariance.reporting.tidy import way as through

_COLOURS = (GREEN, BLUE, RED, "#b0479a", "#d8921f")
_SIZE = (3.7, 2.9)


def drawings(study: FinetunedNetworks, slug: str, lambda3: float, whose: str) -> list[Figure]:
    """Every figure that there are numbers for; all are of accuracies.

    Args:
        study: what was finetuned.
        slug: beginning of the files' names.
        lambda3: of several, the λ3 whose nearest is drawn along the family's grid.
        whose: whose λ3 it is, in words.
    """
    if not study.scores:
        return []
    return [one for one in (_trade_off(study, slug), _grids(study, slug, lambda3, whose)) if one is not None]


def _over(study: FinetunedNetworks) -> str:
    return f"Over {study.images:,} images of {study.data} ({study.split}), φ at {study.layer}."


def _trade_off(study: FinetunedNetworks, slug: str) -> Figure | None:
    """Accuracy untouched against accuracy over G, along λ3, one panel a network; over the seeds that have every λ3."""
    told, rows = [], list[dict[str, object]]()
    for ones in study.sweeps():
        network, curves = ones[0].network, _curves(study, ones)
        if curves is None:
            continue
        seeds, points, start = curves
        plural = "s" if len(seeds) > 1 else ""
        title = f"{words(network)}, seed{plural} {', '.join(map(str, seeds))}"
        lambdas = ", ".join(f"{value:g}" for value in sorted(next(iter(points.values()))))
        told.append(f"{network} at λ3 = {lambdas}")
        before = {fit: {math.nan: place} for fit, place in start.items()}
        rows += [
            {
                "panel": title,
                "who": way(fit),
                "when": when,
                "lambda3": value,
                "x": untouched,
                "y": over_g,
                "run": "; ".join(one.run for one in ones if one.seed in seeds and one.lambda3 == value),
            }
            for when, of in (("before", before), ("after", points))
            for fit, held in of.items()
            for value, (untouched, over_g) in sorted(held.items())
        ]
    if not rows:
        return None
    frame = pd.DataFrame(rows).assign(row="", family="", way="", low=np.nan, high=np.nan, status="ok")
    caption = (
        "Accuracy on untouched images against its mean over G, for each λ3 (the numbers at the points; 0 is plain "
        f"training). Star: before finetuning. {_over(study)}"
    )
    alt = "Trade-off between untouched and transformed accuracy: " + "; ".join(told)
    draw = _along(dict(zip(dict.fromkeys(frame["who"]), _COLOURS, strict=False)))
    return Figure(f"{slug}-trade-off", "Trade-off over λ3", caption, alt, frame, draw)


Points = dict[Fit, dict[float, tuple[float, float]]]


def _curves(
    study: FinetunedNetworks, ones: list[Finetuning]
) -> tuple[list[int], Points, dict[Fit, tuple[float, float]]] | None:
    """Seeds, (untouched, over G) by map and λ3, and the same before; None for fewer than two λ3."""
    lambdas = sorted({one.lambda3 for one in ones})
    by_seed = {seed: {one.lambda3: one for one in ones if one.seed == seed} for seed in {one.seed for one in ones}}
    most = max(len(held) for held in by_seed.values())
    seeds = sorted(seed for seed, held in by_seed.items() if len(held) == most)
    lambdas = [value for value in lambdas if all(value in by_seed[seed] for seed in seeds)]
    if len(lambdas) < 2:
        return None
    points: Points = {}
    start = {}
    for fit in (*study.fits, LEARNED):
        along = {value: _place(study, [by_seed[seed][value] for seed in seeds], True, fit) for value in lambdas}
        if found := {value: place for value, place in along.items() if np.isfinite(place).all()}:
            points[fit] = found
        before = _place(study, [by_seed[seed][lambdas[0]] for seed in seeds], False, fit)
        if fit != LEARNED and np.isfinite(before).all():
            start[fit] = before
    return (seeds, points, start) if points else None


def _place(study: FinetunedNetworks, ones: list[Finetuning], after: bool, fit: Fit) -> tuple[float, float]:
    """Accuracies untouched and over G, each the mean of some finetunings."""
    untouched = np.mean([study.untouched(one, after) for one in ones])
    return float(untouched), float(np.mean([study.over_g(one, after, fit) for one in ones]))


def _along(colours: dict[str, str]) -> Callable[[pd.DataFrame], Drawing]:
    """What draws a trade-off: curves along λ3, which stands at their points, and a star where each began."""
    lines = Lines(
        *(colours, {"": Axis("untouched (%)")}, "mean over G (%)"),
        heading="accuracy through",
        shared=False,
        across=2,
        size=_SIZE,
        bands=False,
        sort=False,
    )

    def draw(frame: pd.DataFrame) -> Drawing:
        """Draw the accuracies after, and before."""
        after = frame[frame["when"] == "after"]
        figure = lines(after)
        for axes, panel in zip(figure.axes, dict.fromkeys(after["panel"]), strict=True):
            for of in frame[frame["panel"] == panel].to_dict("records"):
                colour, at = colours[of["who"]], (of["x"], of["y"])
                if of["when"] == "before":
                    axes.plot(*at, color=colour, marker="*", markersize=9)
                else:
                    told, near = f"{of['lambda3']:g}", "offset points"
                    axes.annotate(told, at, (3, 3), textcoords=near, fontsize=6.5, color=colour)
            axes.autoscale()
            axes.margins(0.12)
        return figure

    return draw


def _grids(study: FinetunedNetworks, slug: str, lambda3: float, whose: str) -> Figure | None:
    """Accuracy along the family's whole grid before and after, one panel a network."""
    names, rows = [], list[dict[str, object]]()
    drawn: set[tuple[str, str]] = set()
    axes: dict[str, Axis] = {}
    for name, network, ones in sorted(study.groups(), key=lambda group: abs(group[2][0].lambda3 - lambda3)):
        facts = [one for one in (study.whole_grid(one) for one in ones) if one is not None]
        if len(facts) == len(ones) and (network, ones[0].family) not in drawn:
            drawn.add((network, ones[0].family))
            title = f"{words(network)}, {name}"
            axes[title] = _axis(study, ones[0], facts[0])
            rows += [{"panel": title, **of} for of in _before_after(study, ones, facts[0])]
            names.append(f"{network} ({name})")
    if not rows:
        return None
    dashed = f" and dashed through {way(_chosen(study))}" if _chosen(study) != NO_MAP else ""
    caption = (
        f"Accuracy along the family's grid before (gray) and after finetuning (blue): solid without a map{dashed}. "
        "Mean over seeds, the band from the lowest to the highest; dotted: G. Of several λ3 the one nearest to "
        f"{whose} {lambda3:g}. {_over(study)}"
    )
    alt = f"Accuracy along the grid before and after finetuning of {', '.join(names)}"
    frame = pd.DataFrame(rows).assign(row="", family="")
    draw = Lines({"before": GRAY, "after": BLUE}, axes, "accuracy (%)", "finetuning", across=2, size=_SIZE)
    return Figure(f"{slug}-grids", "The family's grid, before and after", caption, alt, frame, draw)


def _axis(study: FinetunedNetworks, one: Finetuning, facts: GridFacts) -> Axis:
    """The axis of a family's grid, with G marked on it."""
    points = sorted(facts.points, key=lambda point: point.value)
    labels = tuple(point.label for point in points) if facts.ordinal else None
    marked = tuple(point.value for point in points if point.params in study.in_g(one))
    label = f"{words(facts.family)}{f' ({facts.unit})' if facts.unit else ''}"
    return Axis(label, tuple(point.value for point in points), labels, marked=marked)


def _chosen(study: FinetunedNetworks) -> Fit:
    """The map that is drawn: ridge where there is one."""
    fitted = [fit for fit in study.fits if fit != NO_MAP]
    return next((fit for fit in fitted if fit[1] == "ridge"), fitted[0] if fitted else NO_MAP)


def _before_after(study: FinetunedNetworks, ones: list[Finetuning], facts: GridFacts) -> list[dict[str, object]]:
    """The points of one panel: means over seeds along a grid, before and after, without a map and through one."""
    rows: list[dict[str, object]] = []
    for fit in dict.fromkeys((NO_MAP, _chosen(study))):
        for after in (False, True):
            for point in facts.points:
                values = np.array([study.accuracy(one, after, facts.grid, point.label, fit) for one in ones])
                runs = (run for one in ones for run in study.run(one, after, facts.grid, point.label, fit))
                ends = {"y": values.mean(), "low": values.min(), "high": values.max()}
                status = "ok" if np.isfinite(values).all() else "not measured"
                who, named = "after" if after else "before", INVARIANCE if fit == NO_MAP else through(fit)
                place = {"who": who, "way": named, "g": point.label, "x": point.value}
                rows.append({**place, **ends, "status": status, "run": "; ".join(runs)})
    return rows
