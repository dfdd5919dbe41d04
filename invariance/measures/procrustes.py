"""Orthogonal Procrustes distance of two representations: a metric from 0 to √2.

Rotation, reflection, offset and one scale of either representation change nothing.
"""

import math

import torch
from torch import Tensor

from invariance.measures.moments import Centred, Pairing, check_product


def procrustes(pairing: Pairing) -> float:
    """`procrustes_distance` of two representations."""
    return procrustes_distance(pairing.x.about, pairing.y.about, pairing.cross)


def procrustes_distance(x: Centred, y: Centred, cross: Tensor) -> float:
    """Least ‖X Q − Y‖ over orthogonal Q, X and Y of norm 1: √(2 − 2 ‖XᵀY‖_*) (Schönemann 1966); a metric.

    A representation of fewer dimensions is filled up with zeros. NaN where a representation is constant.

    Args:
        x: X about its mean.
        y: Y about its mean.
        cross: XᵀY, from `cross_product`.

    Raises:
        UserError: if these are not of the same images, or `cross` has another shape.
    """
    check_product(x.images, len(x.mean), y, cross)
    if x.constant or y.constant:
        return math.nan
    nuclear = float(torch.linalg.svdvals(cross).sum()) / math.sqrt(x.total * y.total)
    return math.sqrt(max(0.0, 2 - 2 * nuclear))
