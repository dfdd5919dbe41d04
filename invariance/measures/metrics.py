"""The former place of what is in `bootstrap`, `distance` and `error`."""

from collections.abc import Callable
from typing import Any

from invariance.measures import MEASURES
from invariance.measures.bootstrap import Interval, bootstrap, wilson
from invariance.measures.distance import l2_distance_per_image, rms
from invariance.measures.error import errors_per_image

__all__ = ["Interval", "bootstrap", "errors_per_image", "interval_of", "l2_distance_per_image", "rms", "wilson"]


def interval_of(metric: str) -> Callable[[Any], Interval]:
    """`Measure.interval` of a metric."""
    return MEASURES[metric].interval
