"""No transformation (Sec. 5.1): the network against which the trained families are compared."""

import torch
from torch import Tensor

from invariance.errors import UserError
from invariance.transforms.base import UNTOUCHED, GridPoint, Params, Still, check_batch


class Baseline(Still):
    """Nothing is done to the images. The grid is the untouched point; the other families' grids measure a baseline.

    Args:
        range: must be None, as there is nothing to vary.

    Raises:
        UserError: for a range.
    """

    def __init__(self, range: None = None) -> None:
        if range is not None:
            raise UserError(f"baseline: range={range!r} has no meaning, as nothing is transformed; leave range out")

    def params_of(self, uniforms: Tensor) -> Params:
        """One number that means nothing for each image, so that the count of images is kept."""
        return {"nothing": torch.zeros(len(uniforms), dtype=torch.float64)}

    def grid(self) -> list[GridPoint]:
        """The untouched point alone."""
        return [GridPoint(UNTOUCHED, 0.0, {"nothing": torch.zeros(1, dtype=torch.float64)}, covered=True)]

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """The images themselves, copied."""
        check_batch(x, params)
        return x.clone()
