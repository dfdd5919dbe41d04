"""Measures as figures and tables show them: their axis, their unit, which way is better, what they mean in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from invariance.measures import Measure

HALF_ERROR = "half_error_rate"
"""The error rate of the unseen-class control, by the argmax among half of the classes."""


@dataclass(frozen=True)
class Metric:
    """How a measure is shown.

    Attributes:
        name: as rows name it.
        label: the axis, with the unit.
        short: in titles and names of files.
        what: to begin a caption with.
        better: which shown numbers are the better ones: higher, lower or neither.
        how: what its curves mean, in a caption.
        scale: what a score is multiplied by: 100 for percent.
        rest: whether 1 less the score is shown, as accuracy for an error rate.
        bounds: ends that its axis stays within.
        digits: decimals of a number in a table.
    """

    name: str
    label: str
    short: str
    what: str
    better: str
    how: str = ""
    scale: float = 1.0
    rest: bool = False
    bounds: tuple[float, float] = (-np.inf, np.inf)
    digits: int = 3

    @property
    def points(self) -> bool:
        """Whether its numbers are percent, so that differences are points."""
        return self.scale == 100.0

    @property
    def unit(self) -> str:
        """What follows a number in a text."""
        return " %" if self.points else ""

    def shown(self, score: Any) -> Any:  # noqa: ANN401
        """A score of a row, or many, as it is shown."""
        return self.scale * (1 - score if self.rest else score)

    def ends(self, low: Any, high: Any) -> tuple[Any, Any]:  # noqa: ANN401
        """An interval of a row, or many, as it is shown: the least first."""
        low, high = (high, low) if self.rest else (low, high)
        return self.shown(low), self.shown(high)

    def loss(self, score: Any, untouched: Any) -> Any:  # noqa: ANN401
        """How much worse a score is than untouched, in what is shown."""
        change = self.shown(score) - self.shown(untouched)
        return change if self.better == "lower" else -change

    def text(self, shown: float) -> str:
        """A shown number for a table."""
        return f"{round(float(shown), self.digits) + 0.0:.{self.digits}f}".replace("-", "−")

    def said(self, score: float, low: float = np.nan, high: float = np.nan) -> str:
        """A score with its interval, where it has one, as a table has it."""
        if np.isnan(low) or np.isnan(high):
            return self.text(self.shown(score))
        first, last = self.ends(low, high)
        return f"{self.text(self.shown(score))} [{self.text(first)}, {self.text(last)}]"


_READ = (
    "Invariance (solid): the classifier reads φ(gx) as it is. Equivariance (dashed): it reads M_g φ(gx), "
    "with M_g fitted to undo g."
)
_PERCENT: dict[str, Any] = {"scale": 100.0, "bounds": (-1.0, 101.0), "digits": 1}
_BETWEEN = "Between φ(gx) and φ(x) over all images, without a map"

METRICS: dict[str, Metric] = {
    one.name: one
    for one in (
        Metric("error_rate", "accuracy (%)", "accuracy", "Accuracy", "higher", _READ, rest=True, **_PERCENT),
        Metric(
            "agreement",
            "agreement (%)",
            "agreement",
            "Agreement with the class named untouched",
            "higher",
            f"The share of images that are given the same class for gx as for x; it needs no labels. {_READ}",
            **_PERCENT,
        ),
        Metric(
            "effective_invariance",
            "effective invariance",
            "effective invariance",
            "Effective invariance",
            "higher",
            f"√(p̂ p̂_g) where gx is given the class of x, else 0; p̂ is its confidence. {_READ}",
            bounds=(-0.01, 1.01),
        ),
        Metric(
            "l2_distance",
            "distance L_L2",
            "distance L_L2",
            "Distance to the untouched representation",
            "lower",
            "L_L2 is the mean of ‖r̂ − φ(x)‖ / ‖φ(x)‖, every dimension first divided by its RMS; lower is nearer, and 0 "
            "is untouched. Invariance (solid): r̂ = φ(gx). Equivariance (dashed): r̂ = M_g φ(gx), with M_g fitted to "
            "undo g.",
        ),
        Metric("cka", "CKA", "CKA", "CKA", "higher", f"{_BETWEEN}; unbiased, 1 where they are alike.", digits=2),
        Metric(
            "procrustes",
            "Procrustes distance",
            "Procrustes",
            "Procrustes distance",
            "lower",
            f"{_BETWEEN}: what the best rotation leaves; 0 where one is a rotation of the other.",
            digits=2,
        ),
        Metric("r2", "R²", "R²", "R²", "higher", f"{_BETWEEN}: of φ(x) from φ(gx) by a linear map.", digits=2),
        Metric(
            "derivative",
            "‖dφ/dt‖ / ‖φ‖ a unit of g",
            "derivative",
            "How fast the representation changes as g sets in",
            "lower",
            "The mean over images of ‖dφ(g_t x)/dt‖ / ‖φ(x)‖ at t = 0; 0 where a layer is invariant.",
            digits=4,
        ),
    )
}
"""The measures that figures and tables show, those first that say more of what a network does."""

PAPER = ("error_rate", "l2_distance")
"""Those of the paper's own figures and claims."""


def metric_of(measure: Measure) -> Metric:
    """How a measure is shown; one from outside the package by its own words."""
    known = METRICS.get(measure.name)
    return known or Metric(measure.name, measure.label, measure.label, measure.label, measure.better)


def metrics_in(rows: Any) -> list[str]:  # noqa: ANN401
    """The measures of a table of rows that have a number anywhere, in the order of `METRICS`."""
    scored = set(rows.loc[rows["score"].notna(), "metric"])
    return [name for name in METRICS if name in scored]


def file_name(metric: str) -> str:
    """A measure in names of files."""
    return {"error_rate": "accuracy", "l2_distance": "distance"}.get(metric, metric)


def label_of(unit: Sequence[str], metric: str) -> str:
    """The axis of a measure whose rows have these units: a derivative says what it is per, where that is one thing."""
    if metric == "derivative" and len(set(unit)) == 1 and unit[0]:
        return f"‖dφ/dt‖ / ‖φ‖ per {unit[0]}"
    return METRICS[metric].label
