"""Perspective (A.7): homographies given by where the corners of a square go."""

from collections.abc import Sequence

import torch
from kornia.geometry.transform import get_perspective_transform
from torch import Tensor

from invariance.errors import UserError
from invariance.settings.fields import native
from invariance.transforms.base import UNTOUCHED, GridPoint, Params, frame_scale, line_grid, unscaled
from invariance.transforms.checks import choice, flag, needed_range, trained_range, whole
from invariance.transforms.counter import SEEDS, fixed_seed, normal_from
from invariance.transforms.feature_maps import Size
from invariance.transforms.warp import Homographic, change_along, velocity

UNIT_SQUARE = torch.tensor([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=torch.float64)
"""Corners of the square, x first: top left, top right, bottom right, bottom left."""

GRID_STEP = 0.2
"""Draw k of the grid moves every coordinate by k to k + 1 of these steps, in the unit of the range (2e-5 pixels)."""


class Perspective(Homographic):
    """The homography that takes the corners of a square to corners moved at random, applied to the whole image.

    Training draws σ ~ U(0, range) for each image and moves every coordinate of the four corners by N(0, σ²). The
    measured draw k moves every coordinate by a random sign times U(k, k+1)/5. If `moves` are given, they are measured
    instead: each says by how much the four corners move.

    The square is one pixel, (0, 0) … (1, 1), at the centre of the top-left pixel, and the unit of the range is 1e-4
    pixels: what the authors' released code does, and about as strong as Figure 6. The text of A.7 moves the corners of
    "the unit square" by σ up to 0.001 to 0.004; with `square="image"` that is the image's outline and the unit is 1e-3
    of its side, which moves corners by less than two pixels.

    Args:
        range: largest trained σ, in 1e-4 pixels of a 227-pixel frame (1e-3 of the side for "image"), at most 100; None
            for measuring alone.
        draws: how many measured draws, of increasing magnitude.
        moves: measured transformations instead of draws, each as eight numbers: how far the top left, top right, bottom
            right and bottom left corner move, right and down, in the unit of the range, at most ±100.
        square: "pixel" or "image".
        scale_lengths: whether the frame scales with the images; if not, the pixel is their own.
        grid_seed: number that fixes the measured draws.

    Raises:
        UserError: for arguments that are not such values.
    """

    uniforms = 9

    def __init__(
        self,
        range: float | None = None,
        draws: int = 0,
        square: str = "pixel",
        scale_lengths: bool = True,
        grid_seed: int = 0,
        moves: Sequence[Sequence[float]] = (),
    ) -> None:
        self.range = trained_range("perspective", range, 0, 100, "units of 1e-4", "range=4")
        self.draws = whole("perspective", "draws", draws, 0, 100)
        self.moves = _moves(moves)
        self.unit = "move" if self.moves else "draw"
        self.tangent_unit = f"{self.unit} 1"
        if self.draws and self.moves:
            raise UserError(f"perspective: draws={draws} and {len(self.moves)} moves are two grids; set one to 0 or []")
        self.square = choice("perspective", "square", square, ("pixel", "image"))
        self.scale_lengths = flag("perspective", "scale_lengths", scale_lengths)
        self._length = 1e-4 if self.square == "pixel" else 1e-3
        self.grid_seed = whole("perspective", "grid_seed", grid_seed, 0, SEEDS)

    def params_of(self, uniforms: Tensor) -> Params:
        """`corners` (n, 4, 2): how far each corner moves, right and down, in the unit of the range.

        The corners are top left, top right, bottom right and bottom left.
        """
        sigma = needed_range("perspective", self.range) * uniforms[:, :1]
        return {"corners": (sigma * normal_from(uniforms[:, 1:])).view(-1, 4, 2)}

    def grid(self) -> list[GridPoint]:
        """The fixed draws 1 … `draws`, or the moves ("move 1", …).

        Covered: a draw's typical move, (k + ½)/5, or the moves' root mean square, is within the range of σ.
        """
        if self.moves:
            return self._listed()
        return line_grid(
            range(1, self.draws + 1),
            self._draw,
            lambda k: self.range is not None and (k + 0.5) * GRID_STEP <= self.range,
        )

    def beside(self) -> dict[str, object]:
        """The square, if it is the image, and whether lengths are the images' own."""
        return {**({} if self.square == "pixel" else {"square": self.square}), **unscaled(self.scale_lengths)}

    def tangent(self, x: Tensor) -> Tensor:
        """See `Transform.tangent`: along the first of the grid, draw 1 or move 1, per its own length."""
        corners = self._listed()[1].params["corners"] if self.moves else self._draw(1)["corners"]
        frame = self._frame(x.shape)
        rate = frame @ square_rate(corners[0] * self._length) @ torch.linalg.inv(frame)
        return change_along(x, velocity(x, -rate))  # the inverse of I + t rate is I − t rate + …

    def backward(self, params: Params, size: Size) -> Tensor:
        """See `Homographic.backward`: those of `corners`; what comes from behind the horizon is 0."""
        corners = params["corners"].double()  # a corner moves by 1e-5 of its square, of which float32 keeps two digits
        same = (corners == 0).flatten(1).all(dim=1)
        forward = square_to(UNIT_SQUARE + corners * self._length)
        frame = self._frame(size)
        backward = frame @ torch.linalg.inv(forward) @ torch.linalg.inv(frame)
        return torch.where(same[:, None, None], torch.eye(3, dtype=torch.float64), backward)

    def _frame(self, shape: Sequence[int]) -> Tensor:
        """From the coordinates of the square to pixels of images (…, H, W) about their centre."""
        height, width = shape[-2:]
        if self.square == "image":
            return torch.tensor([[width, 0, -width / 2], [0, height, -height / 2], [0, 0, 1]], dtype=torch.float64)
        pixel = frame_scale(shape, self.scale_lengths)
        # images of any size share the frame's outline; the square starts half a pixel of the frame inside it
        left, top = (pixel - width) / 2, (pixel - height) / 2
        return torch.tensor([[pixel, 0, left], [0, pixel, top], [0, 0, 1]], dtype=torch.float64)

    def _draw(self, k: float) -> Params:
        if k == 0:
            return {"corners": torch.zeros(1, 4, 2, dtype=torch.float64)}
        generator = torch.Generator().manual_seed(fixed_seed("perspective", self.grid_seed, k))
        size, side = torch.rand(2, 1, 4, 2, generator=generator, dtype=torch.float64)
        return {"corners": GRID_STEP * (k + size) * torch.where(side < 0.5, -1.0, 1.0)}

    def _listed(self) -> list[GridPoint]:
        points = [GridPoint(UNTOUCHED, 0.0, self._draw(0), covered=True)]
        for number, move in enumerate(self.moves, start=1):
            corners = torch.tensor(move, dtype=torch.float64).view(1, 4, 2)
            within = self.range is not None and float(corners.square().mean().sqrt()) <= self.range
            points.append(GridPoint(f"move {number}", float(number), {"corners": corners}, within))
        return points


def _moves(values: object) -> tuple[tuple[float, ...], ...]:
    """The moves of a measured grid, checked: distinct, eight numbers each, not all of them 0."""
    expected = (
        "it takes a list of distinct moves, each of eight numbers from -100 to 100: x and y of the top left, "
        "top right, bottom right and bottom left corner"
    )
    values = native(values)
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise UserError(f"perspective: moves={values!r} is no list; {expected}")
    for move in values:
        numbers = (
            isinstance(move, Sequence)
            and not isinstance(move, str)
            and len(move) == 8
            and all(isinstance(one, int | float) and not isinstance(one, bool) and -100 <= one <= 100 for one in move)
        )
        if not numbers:
            raise UserError(f"perspective: {move!r} in moves is out of place; {expected}")
        if not any(move):
            raise UserError("perspective: a move by 0 is the untouched point, which every grid has; leave it out")
    moves = tuple(tuple(float(one) for one in move) for move in values)
    if len(set(moves)) < len(moves):
        raise UserError(f"perspective: moves names a move twice; {expected}")
    return moves


def square_to(corners: Tensor) -> Tensor:
    """Homographies (n, 3, 3) from the unit square to quadrilaterals (n, 4, 2), corners as `UNIT_SQUARE` has them."""
    found: Tensor = get_perspective_transform(UNIT_SQUARE.expand_as(corners), corners)
    return found


def square_rate(corners: Tensor) -> Tensor:
    """The derivative (3, 3) of `square_to` at the unit square, as its corners move with these velocities (4, 2)."""
    c0, c1, c2, c3 = corners
    # the third corner, to first order: −h to the right and −g down are c₀ − c₁ + c₂ − c₃
    h, g = c1 - c0 + c3 - c2
    one = torch.eye(2, dtype=corners.dtype)
    top = torch.stack([c1 - c0 + g * one[0], c3 - c0 + h * one[1], c0], dim=1)
    return torch.cat([top, torch.stack([g, h, torch.zeros_like(g)])[None]])
