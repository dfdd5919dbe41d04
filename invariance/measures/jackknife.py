"""Intervals of one number over all images, as CKA is: a delete-a-group jackknife over ten groups of images."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from invariance.seeds import generator

GROUPS = 10
FEWEST = 2 * GROUPS
"""Images below which a group would be one image, and there is no interval."""

_QUANTILE = 2.262157
"""Student's t with nine degrees of freedom, at 97.5 %."""


def jackknife(
    measure: Callable[[Tensor], float],
    whole: float,
    images: int,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    seed: int = 0,
) -> tuple[float, float]:
    """The ends of a 95 % interval of a number θ over all images.

    The images are dealt into ten groups of nearly one size, and θ is taken ten times without one of them: the interval
    is θ ± t s with s² = 9/10 Σ (θ_j − θ)² and t Student's of nine degrees of freedom (Kott 2001). Where a number is
    none, there is no interval: NaN, NaN; so for fewer than twenty images.

    Args:
        measure: the number over the images at indices (n,), in growing order.
        whole: θ, the number over all images.
        images: how many there are.
        bounds: the least and the greatest that the number can be; the interval ends there.
        seed: seed of the deal.
    """
    if images < FEWEST:
        return math.nan, math.nan
    group = torch.randperm(images, generator=generator(seed, "jackknife")) % GROUPS
    without = np.array([measure(torch.nonzero(group != k).squeeze(1)) for k in range(GROUPS)])
    spread = math.sqrt((GROUPS - 1) / GROUPS * float(np.square(without - whole).sum()))
    if not math.isfinite(spread):
        return math.nan, math.nan
    return max(bounds[0], whole - _QUANTILE * spread), min(bounds[1], whole + _QUANTILE * spread)
