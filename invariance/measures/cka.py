"""Linear CKA: how alike two representations are; a similarity, at most 1 and about 0 for unrelated ones.

It is symmetric; rotation, reflection, offset and one scale of either representation change nothing.
"""

import math

from torch import Tensor

from invariance.measures.moments import Centred, Pairing, check_product


def cka(pairing: Pairing) -> float:
    """`linear_cka` of two representations."""
    return linear_cka(pairing.x.about, pairing.y.about, pairing.cross, pairing.both)


def linear_cka(x: Centred, y: Centred, cross: Tensor, both: float | None = None) -> float:
    """Linear CKA with the unbiased estimate of HSIC (Kornblith et al. 2019; Song et al. 2012, Eq. 5); a similarity.

    Without the correction two unrelated representations of many dimensions look alike. It can be a little below 0.
    NaN for fewer than 4 images, or where a representation is constant.

    Args:
        x: X about its mean.
        y: Y about its mean.
        cross: XᵀY, from `cross_product`.
        both: Σ ‖x_i‖² ‖y_i‖² about the means; None: of the squares that x and y hold.

    Raises:
        UserError: if these are not of the same images, or `cross` has another shape.
    """
    check_product(x.images, len(x.mean), y, cross)
    if x.images < 4 or x.constant or y.constant:
        return math.nan
    if both is None:
        assert x.square is not None and y.square is not None
        both = float(x.square @ y.square)
    own = _hsic(x, x, x.gram_square, x.fourth) * _hsic(y, y, y.gram_square, y.fourth)
    return _hsic(x, y, float(cross.square().sum()), both) / math.sqrt(own) if own > 0 else math.nan


def _hsic(x: Centred, y: Centred, cross_square: float, both: float) -> float:
    """Unbiased HSIC of linear kernels K = XXᵀ and L = YYᵀ without their diagonals, from D × D products alone.

    About the means the rows of K sum to 0, so those of K without its diagonal sum to −‖x_i‖².
    """
    n = x.images
    trace = cross_square - both
    return (trace + x.total * y.total / ((n - 1) * (n - 2)) - 2 * both / (n - 2)) / (n * (n - 3))
