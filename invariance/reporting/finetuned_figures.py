"""Drawing what finetuning did: the trade-off over λ3, and the family's grid before and after."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawing

from invariance.reporting.curves import Fit, words
from invariance.reporting.curves import way as through
from invariance.reporting.figure import Figure
from invariance.reporting.finetuned import LEARNED, NO_MAP, FinetunedNetworks, Finetuning, of_every_weight, way
from invariance.reporting.grids import GridFacts
from invariance.reporting.lines import INVARIANCE, Axis, Lines
from invariance.reporting.style import BLUE, GRAY, GREEN, RED
from invariance.reporting.tidy import axis_over

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
    if not study.has("accuracy"):
        return []
    return [one for one in (_trade_off(study, slug), _grids(study, slug, lambda3, whose)) if one is not None]


def _over(study: FinetunedNetworks) -> str:
    return f"Over {study.images:,} images of {study.data} ({study.split}), φ at {study.layer}."


def _trade_off(study: FinetunedNetworks, slug: str) -> Figure | None:
    """Accuracy untouched against accuracy over G, along λ3, one panel a network; over the seeds that have every λ3."""
    told, parts = [], []
    for ones in study.sweeps():
        points = _points(study, of_every_weight(ones))
        if "after" not in set(points["when"]):
            continue
        parts.append(points)
        lambdas = ", ".join(f"{value:g}" for value in sorted(points["lambda3"].dropna().unique()))
        told.append(f"{ones[0].network} at λ3 = {lambdas}")
    if not parts:
        return None
    frame = pd.concat(parts, ignore_index=True)
    frame = frame.assign(row="", family="", way="", low=np.nan, high=np.nan, status="ok")
    caption = (
        "Accuracy on untouched images against its mean over G, for each λ3 (the numbers at the points; 0 is plain "
        f"training). Star: before finetuning. {_over(study)}"
    )
    alt = "Trade-off between untouched and transformed accuracy: " + "; ".join(told)
    draw = _along(dict(zip(dict.fromkeys(frame["who"]), _COLOURS, strict=False)))
    return Figure(f"{slug}-trade-off", "Trade-off over λ3", caption, alt, frame, draw)


def _points(study: FinetunedNetworks, ones: list[Finetuning]) -> pd.DataFrame:
    """The points of one panel, each the mean over all seeds: before, and after at every λ3; none for a single λ3."""
    by_weight: dict[float, dict[int, Finetuning]] = {}
    for one in sorted(ones, key=lambda one: (one.lambda3, one.seed)):
        by_weight.setdefault(one.lambda3, {})[one.seed] = one
    seeds = sorted({one.seed for one in ones})
    whole = {value: list(held.values()) for value, held in by_weight.items() if len(held) == len(seeds)}
    if len(whole) < 2:
        return pd.DataFrame(columns=["when"])
    places = [(False, fit, min(whole)) for fit in study.fits]
    places += [(True, fit, value) for fit in (*study.fits, LEARNED) for value in whole]
    points = pd.DataFrame(
        {
            "panel": f"{words(ones[0].network)}, seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}",
            "who": way(fit),
            "when": "after" if after else "before",
            "lambda3": value if after else math.nan,
            "x": np.mean([study.untouched(one, after) for one in whole[value]]),
            "y": np.mean([study.over_g(one, after, fit) for one in whole[value]]),
            "run": "; ".join(one.run for one in whole[value]) if after else "",
        }
        for after, fit, value in places
    )
    return points.dropna(subset=["x", "y"])


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
    names, parts = [], []
    drawn: set[tuple[str, str]] = set()
    axes: dict[str, Axis] = {}
    for name, network, ones in sorted(study.groups(), key=lambda group: abs(group[2][0].lambda3 - lambda3)):
        grids = [study.whole_grid(one) for one in ones]
        facts, family = grids[0], ones[0].family
        if facts is not None and None not in grids and (network, family) not in drawn:
            drawn.add((network, family))
            title = f"{words(network)}, {name}"
            marked = tuple(sorted(point.value for point in facts.points if point.params in study.in_g(ones[0])))
            axes[title] = axis_over(facts, facts.points, marked=marked)
            parts.append(_before_after(study, ones, facts, title))
            names.append(f"{network} ({name})")
    if not parts:
        return None
    dashed = f" and dashed through {way(_chosen(study))}" if _chosen(study) != NO_MAP else ""
    caption = (
        f"Accuracy along the family's grid before (gray) and after finetuning (blue): solid without a map{dashed}. "
        "Mean over seeds, the band from the lowest to the highest; dotted: G. Of several λ3 the one nearest to "
        f"{whose} {lambda3:g}. {_over(study)}"
    )
    alt = f"Accuracy along the grid before and after finetuning of {', '.join(names)}"
    frame = pd.concat(parts, ignore_index=True).assign(row="", family="")
    draw = Lines({"before": GRAY, "after": BLUE}, axes, "accuracy (%)", "finetuning", across=2, size=_SIZE)
    return Figure(f"{slug}-grids", "The family's grid, before and after", caption, alt, frame, draw)


def _chosen(study: FinetunedNetworks) -> Fit:
    """The map that is drawn: ridge where there is one."""
    fitted = [fit for fit in study.fits if fit != NO_MAP]
    return next((fit for fit in fitted if fit[1] == "ridge"), fitted[0] if fitted else NO_MAP)


def _before_after(study: FinetunedNetworks, ones: list[Finetuning], facts: GridFacts, panel: str) -> pd.DataFrame:
    """The points of one panel: means over seeds along a grid, before and after, without a map and through one."""
    labels, places = zip(*((point.label, point.value) for point in facts.points), strict=True)
    parts = []
    for fit in dict.fromkeys((NO_MAP, _chosen(study))):
        for after in (False, True):
            of_seeds = [study.at(one, after, fit, labels, facts.grid) for one in ones]
            y = np.stack([numbers["accuracy"] for numbers in of_seeds])
            status = np.where(np.isfinite(y).all(0), "ok", "not measured")
            runs = zip(*(numbers["run"] for numbers in of_seeds), strict=True)
            named = {"who": "after" if after else "before", "way": INVARIANCE if fit == NO_MAP else through(fit)}
            ends = {"y": y.mean(0), "low": y.min(0), "high": y.max(0), "status": status}
            run = ["; ".join(filter(pd.notna, at)) for at in runs]
            parts.append(pd.DataFrame({"panel": panel, **named, "g": labels, "x": places, **ends, "run": run}))
    return pd.concat(parts)
