"""Crop (A.2): a window of an image prepared at a larger size."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from invariance.errors import UserError
from invariance.transforms.base import FRAME, UNTOUCHED, GridPoint, Params, check_batch
from invariance.transforms.checks import flag, needed_range, one_range, whole
from invariance.transforms.feature_maps import Size
from invariance.transforms.tabled import Mover, Shape, Tabled, Tables


class Crop(Tabled):
    """A window of 227/range of each side: images are prepared at the larger `source_size`, and cut to the input size.

    Training cuts at random, every place equally likely; measuring cuts at evenly spaced places in scan order, and the
    window in the middle is the untouched point, to which the others are compared.

    Unlike the other families, `apply` makes images smaller: (H, W) → (round(227 H / range), round(227 W / range)).

    Args:
        range: side in pixels, for an input of 227, to which images are resized before cutting: a whole number above
            227, at most 2270. None lists the grid only.
        windows: measured windows along each side, an odd number.
        corners: measure only the windows in the four corners, and the middle.

    Raises:
        UserError: for a range or a number of windows that is not such a number.
    """

    by_image = True

    unit = "window"
    ordinal = True
    uniforms = 2

    def __init__(self, range: int | None = None, windows: int = 1, corners: bool = False) -> None:
        one_range("crop", range, "range=256")
        self.range = None if range is None else whole("crop", "range", range, FRAME + 1, 10 * FRAME)
        self.windows = whole("crop", "windows", windows, 1, 99)
        if windows % 2 == 0:
            raise UserError(f"crop: windows={windows} has no window in the middle; take an odd number, as 5")
        self.corners = flag("crop", "corners", corners)

    def params_of(self, uniforms: Tensor) -> Params:
        """`place` (n, 2) ~ U[0, 1), down and right: the window starts at pixel ⌊place · (slack + 1)⌋."""
        needed_range("crop", self.range)
        return {"place": uniforms}

    def grid(self) -> list[GridPoint]:
        """windows² windows in scan order, numbered from 1; or the corners ("upper left", …) around the middle."""
        places = _spaced(self.windows)
        middle = (self.windows**2 + 1) // 2
        if self.corners:
            return self._corners()
        points = []
        for number, (down, right) in enumerate(((a, b) for a in places for b in places), start=1):
            params = {"place": torch.tensor([[down, right]], dtype=torch.float64)}
            label = UNTOUCHED if number == middle else str(number)
            points.append(GridPoint(label, float(number), params, number == middle or self.range is not None))
        return points

    def _corners(self) -> list[GridPoint]:
        first, half, last = _spaced(3)
        named = {
            "upper left": (first, first),
            "upper right": (first, last),
            UNTOUCHED: (half, half),
            "lower left": (last, first),
            "lower right": (last, last),
        }
        return [
            GridPoint(
                label,
                float(number),
                {"place": torch.tensor([place], dtype=torch.float64)},
                label == UNTOUCHED or self.range is not None,
            )
            for number, (label, place) in enumerate(named.items(), start=1)
        ]

    def tables(self, params: Params, shape: Shape) -> Tables:
        """See `Tabled.tables`: where windows of images prepared at `source_size` start, (n, 2), down and right."""
        return {"start": self._starts(shape[-2:], params)}

    def mover(self, tables: Tables, like: Tensor) -> Mover:
        """See `Tabled.mover`."""
        height, width = self._window(like.shape[-2:])
        tops, lefts = tables["start"].unbind(dim=1)

        def cut(x: Tensor) -> Tensor:
            """Each image's window."""
            windows = x.unfold(2, height, 1).unfold(3, width, 1)
            return windows[torch.arange(len(x), device=x.device), :, tops, lefts]

        return cut

    def by_tables(self, params: Params, like: Tensor) -> Mover:
        """See `Tabled.by_tables`: one window of all images is a slice, whose place is known here."""
        if check_batch(like, params) != 1:
            return super().by_tables(params, like)
        size = like.shape[-2:]
        down, right = (
            slice(start, start + length)
            for start, length in zip(self._starts(size, params)[0].tolist(), self._window(size), strict=True)
        )
        return lambda x: x[:, :, down, right].clone(memory_format=torch.contiguous_format)

    def goes_to(self, places: Tensor, params: Params, size: Size) -> Tensor:
        """See `Transform.goes_to`: of windows, x being the one in the middle; `size` is of what they are cut out of."""
        return places - self._shift(params, size).to(places.device)

    def comes_from(self, places: Tensor, params: Params, size: Size) -> Tensor:
        """See `Transform.comes_from`."""
        return places + self._shift(params, size).to(places.device)

    def _shift(self, params: Params, size: Size) -> Tensor:
        """How far the windows lie from the one in the middle, right and down, (n, 2, 1, 1) float64."""
        middle = {"place": torch.tensor([[0.5, 0.5]], dtype=torch.float64)}
        start, home = (self._starts(size, of) for of in (params, middle))
        return (start - home).flip(1)[..., None, None].double()

    def _window(self, size: Sequence[int]) -> list[int]:
        """Height and width of windows of images (H, W)."""
        side = needed_range("crop", self.range)
        return [round(length * FRAME / side) for length in size]

    def _starts(self, size: Sequence[int], params: Params) -> Tensor:
        """Where windows of images (H, W) start, (n, 2) int64, down and right."""
        slack = torch.tensor(size) - torch.tensor(self._window(size))
        return (params["place"] * (slack + 1)).floor().to(torch.int64)

    def source_size(self, input_size: int) -> int:
        """Side in pixels at which images are prepared for windows of `input_size`: round(range · input_size / 227)."""
        return round(needed_range("crop", self.range) * input_size / FRAME)


def _spaced(windows: int) -> Sequence[float]:
    """Places k/(windows − 1), those past the middle a hair smaller, so that ⌊place · (slack + 1)⌋ is symmetric."""
    if windows == 1:
        return [0.5]
    return [k / (windows - 1) if 2 * k < windows else math.nextafter(k / (windows - 1), 0) for k in range(windows)]
