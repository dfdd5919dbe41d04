"""A family's grid as severities 1, 2, …: what makes families of different units comparable."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from invariance.errors import UserError
from invariance.transforms import build
from invariance.transforms.base import UNTOUCHED, GridPoint, Params, Transform
from invariance.transforms.feature_maps import Pair, Size


class Severities(Transform):
    """A family whose g, beside the untouched, are called by their place: 1 is the mildest.

    The family's grid goes one way from the untouched, and stands in the order of its severities.

    Args:
        of: the family's configuration (`conf/transform/`).

    Raises:
        UserError: for a configuration that makes no family, and a grid that goes both ways.
    """

    unit = "severity"

    def __init__(self, of: Mapping[str, Any]) -> None:
        self.of = build(of)
        points = [point for point in self.of.grid() if point.label != UNTOUCHED]
        if not self.of.ordinal:
            points.sort(key=lambda point: abs(point.value))
            if len({point.value > 0 for point in points}) > 1:
                raise UserError(f"{of.get('name')}: severities go one way from the untouched, and this grid both ways")
        self._points = points

    def params_of(self, uniforms: Tensor) -> Params:
        """See `Transform.params_of`: those of the family."""
        return self.of.params_of(uniforms)

    def grid(self) -> list[GridPoint]:
        """The untouched, and then the severities."""
        untouched = next(point for point in self.of.grid() if point.label == UNTOUCHED)
        severities = enumerate(self._points, start=1)
        return [untouched, *(GridPoint(f"{k}", float(k), point.params, point.covered) for k, point in severities)]

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """See `Transform.apply`."""
        return self.of.apply(x, params)

    def fixed(self, params: Params, like: Tensor) -> Callable[[Tensor], Tensor]:
        """See `Transform.fixed`."""
        return self.of.fixed(params, like)

    def beside(self) -> dict[str, object]:
        """What decides g beside its parameters, of the family."""
        return self.of.beside()

    def source_size(self, input_size: int) -> int:
        """See `Transform.source_size`."""
        return self.of.source_size(input_size)

    def undo(self, map: Tensor, params: Params, stride: Pair, offset: Pair, size: Size) -> tuple[Tensor, Tensor]:
        """See `Transform.undo`."""
        return self.of.undo(map, params, stride, offset, size)

    def act(self, map: Tensor, params: Params, stride: Pair, offset: Pair, size: Size) -> tuple[Tensor, Tensor]:
        """See `Transform.act`."""
        return self.of.act(map, params, stride, offset, size)

    @property
    def undoes(self) -> bool:
        """Whether the family has S_g⁻¹."""
        return self.of.undoes

    @property
    def acts(self) -> bool:
        """Whether the family has S_g."""
        return self.of.acts
