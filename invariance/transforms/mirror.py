"""Mirror (A.6): flips left–right, up–down, or both."""

from typing import ClassVar

import torch
from torch import Tensor

from invariance.transforms.base import UNTOUCHED, GridPoint, Params
from invariance.transforms.checks import choice, needed_range, one_range
from invariance.transforms.feature_maps import Size
from invariance.transforms.tabled import Mover, Shape, Tabled, Tables

_AXES = {"vertical": 2, "horizontal": 3}


class Mirror(Tabled):
    """Flips of the image. Convention: a horizontal flip swaps left and right, a vertical one top and bottom.

    Training flips each image with probability 1/2; with "both", each way independently. The grid is all four
    combinations. (In the paper's Table 3 the names of the two ways are swapped.)

    Args:
        range: "horizontal", "vertical" or "both"; None for measuring alone.

    Raises:
        UserError: for another name.
    """

    by_image = True

    ordinal = True
    uniforms = 2

    # each way: whether it flips left–right, and top–bottom
    WAYS: ClassVar[dict[str, tuple[int, int]]] = {"horizontal": (1, 0), "vertical": (0, 1), "both": (1, 1)}

    def __init__(self, range: str | None = None) -> None:
        one_range("mirror", range, "range=horizontal")
        self.range = None if range is None else choice("mirror", "range", range, tuple(self.WAYS))

    def params_of(self, uniforms: Tensor) -> Params:
        """`horizontal` and `vertical` (n,), 0 or 1: each 1 with probability 1/2 where the range has it."""
        horizontal, vertical = self.WAYS[needed_range("mirror", self.range)]
        flips = (uniforms < 0.5).to(torch.int64)
        return {"horizontal": horizontal * flips[:, 0], "vertical": vertical * flips[:, 1]}

    def grid(self) -> list[GridPoint]:
        """Untouched, horizontal, vertical, both."""
        own = self.WAYS[self.range] if self.range else (0, 0)
        points = []
        for value, (label, way) in enumerate({UNTOUCHED: (0, 0), **self.WAYS}.items()):
            params = {"horizontal": torch.tensor([way[0]]), "vertical": torch.tensor([way[1]])}
            points.append(GridPoint(label, float(value), params, way[0] <= own[0] and way[1] <= own[1]))
        return points

    def tables(self, params: Params, shape: Shape) -> Tables:
        """See `Tabled.tables`: each way in which some image is flipped, (n,) bool, or (1,) where all are."""
        flips = {name: params[name] != 0 for name in _AXES}
        return {name: flip[:1] if bool(flip.all()) else flip for name, flip in flips.items() if bool(flip.any())}

    def mover(self, tables: Tables, like: Tensor) -> Mover:
        """See `Tabled.mover`: images flipped where `horizontal` and `vertical` are 1."""
        whole = [axis for name, axis in _AXES.items() if name in tables and len(tables[name]) == 1]
        some = {axis: tables[name][:, None, None, None] for name, axis in _AXES.items() if name in tables}

        def flipped(x: Tensor) -> Tensor:
            """Flipped as a whole, and then where only some are."""
            out = x.flip(whole) if whole else x
            for axis, where in some.items():
                if axis not in whole:
                    out = torch.where(where, out.flip(axis), out)
            return out

        return flipped

    def goes_to(self, places: Tensor, params: Params, size: Size) -> Tensor:
        """See `Transform.goes_to`: flipped about the middle of the image, which need not be that of the positions."""
        flips = torch.stack([params["horizontal"], params["vertical"]], dim=1) != 0
        last = torch.tensor([size[1] - 1.0, size[0] - 1.0], dtype=torch.float64, device=places.device)
        return torch.where(flips.to(places.device)[..., None, None], last[:, None, None] - places, places)

    def comes_from(self, places: Tensor, params: Params, size: Size) -> Tensor:
        """See `Transform.comes_from`: a flip is its own inverse."""
        return self.goes_to(places, params, size)
