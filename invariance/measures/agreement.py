"""Whether a network names the same class for gx as for x, and how sure it is of it, image by image.

A class of −1 is none: the logits were not finite. An image that has none untouched is NaN: there is nothing to keep.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Classes = NDArray[Any]
"""(N,) the class named for every image, −1 where there is none."""


def agreement_per_image(predicted: Classes, untouched: Classes) -> NDArray[np.float64]:
    """1 where the class named for gx is the one named for x, else 0; (N,). It needs no labels.

    Args:
        predicted: (N,) argmax of f(gx), through a map or without.
        untouched: (N,) argmax of f(x).
    """
    return np.where(untouched < 0, np.nan, predicted == untouched)


def effective_invariance_per_image(
    predicted: Classes, confidence: NDArray[np.floating], untouched: Classes, sure: NDArray[np.floating]
) -> NDArray[np.float64]:
    """√(p̂ p̂_g) where the classes named for gx and x are the same, else 0; (N,) (Deng et al. 2022, arXiv 2207.07065).

    Args:
        predicted: (N,) argmax of f(gx), through a map or without.
        confidence: (N,) p̂_g, the softmax of that class.
        untouched: (N,) argmax of f(x).
        sure: (N,) p̂, the softmax of that class.
    """
    both = np.sqrt(confidence.astype(np.float64) * sure.astype(np.float64))
    return np.where(untouched < 0, np.nan, np.where(predicted == untouched, both, 0.0))
