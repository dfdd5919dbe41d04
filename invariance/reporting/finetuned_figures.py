"""Drawing what finetuning did: the trade-off over λ3, and the family's grid before and after."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from invariance.reporting.collect import GridFacts
from invariance.reporting.curves import Fit, words
from invariance.reporting.drawing import Drawing, Panel
from invariance.reporting.finetuned import LEARNED, NO_MAP, Finetuning, Study, way
from invariance.reporting.plots import BLUE, GRAY, GREEN, RED
from invariance.reporting.printed import LAMBDA_3

_COLOURS = (GREEN, BLUE, RED, "#b0479a", "#d8921f")
_SIZE = (3.7, 3.2)


def drawings(study: Study, slug: str) -> list[Drawing]:
    """Every figure that there are numbers for; all are of accuracies."""
    if not study.scores:
        return []
    return [one for one in (_trade_off(study, slug), _grids(study, slug)) if one is not None]


def _over(study: Study) -> str:
    return f"over {study.images:,} images of {study.data} ({study.split}), φ at {study.layer}"


def _trade_off(study: Study, slug: str) -> Drawing | None:
    """Accuracy untouched against accuracy over G, along λ3, one panel a network; over the seeds that have every λ3."""
    panels, said, rows = [], [], []
    for ones in study.sweeps():
        network, curves = ones[0].network, _curves(study, ones)
        if curves:
            seeds, points, start = curves
            plural = "s" if len(seeds) > 1 else ""
            title = f"{words(network)}, seed{plural} {', '.join(map(str, seeds))}"
            panels.append(Panel(title, _SIZE, _along(points, start)))
            lambdas = ", ".join(f"{value:g}" for value in sorted(next(iter(points.values()))))
            said.append(f"{network} at λ3 = {lambdas}")
            rows += [
                {
                    "panel": title,
                    "map": way(fit),
                    "when": when,
                    "lambda3": value,
                    "untouched": x,
                    "over_g": y,
                    "run": "; ".join(one.run for one in ones if one.seed in seeds and one.lambda3 == value),
                }
                for when, of in (("before", {f: {math.nan: at} for f, at in start.items()}), ("after", points))
                for fit, held in of.items()
                for value, (x, y) in held.items()
            ]
    if not panels:
        return None
    caption = (
        "Accuracy on untouched images against its mean over G, for each λ3 (the numbers at the points; 0 is plain "
        f"training). Star: before finetuning. {_over(study)[0].upper()}{_over(study)[1:]}."
    )
    alt = "Trade-off between untouched and transformed accuracy: " + "; ".join(said)
    return Drawing(f"{slug}-trade-off", "Trade-off over λ3", caption, alt, tuple(panels), numbers=pd.DataFrame(rows))


Points = dict[Fit, dict[float, tuple[float, float]]]


def _curves(study: Study, ones: list[Finetuning]) -> tuple[list[int], Points, dict[Fit, tuple[float, float]]] | None:
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
        found = {}
        for value in lambdas:
            held = [by_seed[seed][value] for seed in seeds]
            place = (
                float(np.mean([study.untouched(one, True) for one in held])),
                float(np.mean([study.over_g(one, True, fit) for one in held])),
            )
            if np.isfinite(place).all():
                found[value] = place
        if found:
            points[fit] = found
        if fit != LEARNED:
            held = [by_seed[seed][lambdas[0]] for seed in seeds]
            place = (
                float(np.mean([study.untouched(one, False) for one in held])),
                float(np.mean([study.over_g(one, False, fit) for one in held])),
            )
            if np.isfinite(place).all():
                start[fit] = place
    return (seeds, points, start) if points else None


def _along(points: Points, start: dict[Fit, tuple[float, float]]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        handles = []
        for colour, (fit, found) in zip(_COLOURS, points.items(), strict=False):
            x, y = zip(*(found[value] for value in sorted(found)), strict=True)
            axes.plot(x, y, color=colour, marker="o", markersize=4)
            for value in sorted(found):
                axes.annotate(
                    f"{value:g}", found[value], (3, 3), textcoords="offset points", fontsize=6.5, color=colour
                )
            if fit in start:
                axes.plot(*start[fit], color=colour, marker="*", markersize=9, linestyle="none")
            handles.append(Line2D([], [], color=colour, marker="o", markersize=4, label=way(fit)))
        axes.legend(handles=handles, frameon=False, fontsize=7)
        axes.set(xlabel="untouched (%)", ylabel="mean over G (%)")
        axes.grid(color=GRAY, alpha=0.25, linewidth=0.6)
        axes.margins(0.12)

    return draw


def _grids(study: Study, slug: str) -> Drawing | None:
    """Accuracy along the family's whole grid before and after, one panel a network."""
    panels, names, rows = [], [], []
    drawn: set[tuple[str, str]] = set()
    for name, network, ones in sorted(study.groups(), key=lambda group: abs(group[2][0].lambda3 - LAMBDA_3)):
        facts = [one for one in (study.whole_grid(one) for one in ones) if one is not None]
        if len(facts) == len(ones) and (network, ones[0].family) not in drawn:
            drawn.add((network, ones[0].family))
            title = f"{words(network)}, {name}"
            panels.append(Panel(title, _SIZE, _before_after(study, ones, facts[0])))
            rows += [
                {
                    "panel": title,
                    "map": way(fit),
                    "when": "after" if after else "before",
                    "g": point.label,
                    "x": point.value,
                    "mean": np.mean(values),
                    "lowest": np.min(values),
                    "highest": np.max(values),
                    "run": "; ".join(r for one in ones for r in study.run(one, after, facts[0].grid, point.label, fit)),
                }
                for fit in dict.fromkeys((NO_MAP, _chosen(study)))
                for after in (False, True)
                for point in facts[0].points
                for values in [[study.accuracy(one, after, facts[0].grid, point.label, fit) for one in ones]]
            ]
            names.append(f"{network} ({name})")
    if not panels:
        return None
    through = f" and dashed through {way(_chosen(study))}" if _chosen(study) != NO_MAP else ""
    caption = (
        f"Accuracy along the family's grid before (gray) and after finetuning (blue): solid without a map{through}. "
        "Mean over seeds, the band from the lowest to the highest; dotted: G. Of several λ3 the one nearest to the "
        f"paper's {LAMBDA_3:g}. "
        f"{_over(study)[0].upper()}{_over(study)[1:]}."
    )
    alt = f"Accuracy along the grid before and after finetuning of {', '.join(names)}"
    title = "The family's grid, before and after"
    return Drawing(f"{slug}-grids", title, caption, alt, tuple(panels), numbers=pd.DataFrame(rows))


def _chosen(study: Study) -> Fit:
    """The map that is drawn: ridge where there is one."""
    fitted = [fit for fit in study.fits if fit != NO_MAP]
    return next((fit for fit in fitted if fit[1] == "ridge"), fitted[0] if fitted else NO_MAP)


def _before_after(study: Study, ones: list[Finetuning], facts: GridFacts) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        x = np.array([point.value for point in facts.points])
        for fit, dashes in {NO_MAP: "-", _chosen(study): "--"}.items() if _chosen(study) != NO_MAP else [(NO_MAP, "-")]:
            for after, colour in ((False, GRAY), (True, BLUE)):
                values = np.array(
                    [
                        [study.accuracy(one, after, facts.grid, point.label, fit) for point in facts.points]
                        for one in ones
                    ]
                )
                axes.plot(x, values.mean(axis=0), dashes, color=colour, marker="o", markersize=3, linewidth=1.4)
                axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, linewidth=0)
        chosen = study.in_g(ones[0])
        for point in facts.points:
            if point.params in chosen:
                axes.axvline(point.value, color=GRAY, linestyle=":", linewidth=0.8, zorder=0)
        if facts.ordinal:
            axes.set_xticks(x, [point.label for point in facts.points], rotation=30 if len(x) < 8 else 90, fontsize=6.5)
        axes.set(xlabel=f"{words(facts.family)}{f' ({facts.unit})' if facts.unit else ''}", ylabel="accuracy (%)")
        axes.grid(axis="y", color=GRAY, alpha=0.25, linewidth=0.6)

    return draw
