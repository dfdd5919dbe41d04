"""S_g⁻¹ on feature maps: against scipy in float64, by exact flips and turns, and with what lies outside."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from invariance import (
    Blur,
    ColorJitter,
    Crop,
    Elastic,
    Mirror,
    Noise,
    Perspective,
    Rotation,
    Shear,
    Transform,
    UserError,
)
from invariance.transforms.base import line_grid

SIZE, STRIDE, OFFSET = (41, 57), (4.0, 5.0), (1.5, -0.5)  # not square, and another grid down than right
SHAPE = (10, 11)


def maps_of(shape=SHAPE, count=2, channels=3, seed=0):
    return torch.randn(count, channels, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_scipy(values, homography, stride, offset, size):
    """Every position takes the value at H (place), places about the centre of the image, in numpy."""
    height, width = values.shape[2:]
    down, right = (o + s * np.arange(n) for o, s, n in zip(offset, stride, (height, width), strict=True))
    y, x = np.meshgrid(down - (size[0] - 1) / 2, right - (size[1] - 1) / 2, indexing="ij")
    u, v, w = np.einsum("ij,jhw->ihw", homography, np.stack([x, y, np.ones_like(x)]))
    row = (v / w + (size[0] - 1) / 2 - offset[0]) / stride[0]
    column = (u / w + (size[1] - 1) / 2 - offset[1]) / stride[1]
    outside = (row < 0) | (row > height - 1) | (column < 0) | (column > width - 1) | (w <= 0)
    found = [
        [map_coordinates(one, [row, column], order=1, mode="nearest") for one in image] for image in values.numpy()
    ]
    return np.where(outside, values.numpy(), np.array(found)), outside


def rotation(angle):
    a = math.radians(angle)
    return np.array([[math.cos(a), math.sin(a), 0], [-math.sin(a), math.cos(a), 0], [0, 0, 1]])  # y down, ccw as seen


def shear(angle, vertical):
    tan = math.tan(math.radians(angle))
    return np.array([[1, 0 if vertical else tan, 0], [tan if vertical else 0, 1, 0], [0, 0, 1]])


def perspective(corners, size):
    """The homography from the unit square to its moved corners, by solving for its eight numbers."""
    scale = min(size) / 227
    frame = np.array([[scale, 0, (scale - size[1]) / 2], [0, scale, (scale - size[0]) / 2], [0, 0, 1]])
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    rows, right = [], []
    for (x, y), (u, v) in zip(square, square + 1e-4 * corners, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    found = np.append(np.linalg.solve(np.array(rows), np.array(right)), 1).reshape(3, 3)
    return frame @ found @ np.linalg.inv(frame)


CASES = {
    "rotation": (Rotation(angles=[23]), "23", lambda _: rotation(23)),
    "rotation back": (Rotation(angles=[-100]), "-100", lambda _: rotation(-100)),
    "shear": (Shear(angles=[17]), "17", lambda _: shear(17, False)),
    "vertical shear": (Shear(vertical=[-31]), "vertical -31", lambda _: shear(-31, True)),
    "perspective": (
        Perspective(moves=[[3, -2, 5, 1, -4, 2, 1, 6]]),
        "move 1",
        lambda size: perspective(np.array([[3, -2], [5, 1], [-4, 2], [1, 6]], float), size),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_geometric_families_are_their_warp_in_units_of_the_grid(name):
    family, label, forward = CASES[name]
    params = {point.label: point.params for point in family.grid()}[label]
    values = maps_of()
    for way, homography in (("undo", forward(SIZE)), ("act", np.linalg.inv(forward(SIZE)))):
        wanted, outside = by_scipy(values, homography, STRIDE, OFFSET, SIZE)
        found, left = getattr(family, way)(values, params, STRIDE, OFFSET, SIZE)
        assert 0.05 < outside.mean() < 0.8 and left.shape == (1, *SHAPE)
        np.testing.assert_array_equal(left[0], outside)
        np.testing.assert_allclose(found, wanted, atol=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_the_grid_of_the_pixels_themselves_is_undone_where_apply_went(name):
    """At stride 1 S_g is what `apply` does to an image, and `undo` finds its content again."""
    family, label, _ = CASES[name]
    params = {point.label: point.params for point in family.grid()}[label]
    y, x = torch.meshgrid(torch.arange(41.0), torch.arange(57.0), indexing="ij")
    image = (100 + 1.5 * x - 0.7 * y)[None, None]  # bilinear sampling takes a slope as it is
    gx = family.apply(image, params)
    acted, outside = family.act(image, params, (1, 1), (0, 0), SIZE)
    torch.testing.assert_close(gx[~outside[None]], acted[~outside[None]], atol=1e-2, rtol=0)
    back, left = family.undo(acted, params, (1, 1), (0, 0), SIZE)
    drawn, _ = family.undo(outside[None].float(), params, (1, 1), (0, 0), SIZE)
    inside = ~(left | (drawn[0] > 0))[0]
    assert inside.float().mean() > 0.4
    torch.testing.assert_close(back[0, 0][inside], image[0, 0][inside], atol=1e-2, rtol=0)


@pytest.mark.parametrize("angle", [90, 180, -90])
def test_a_square_map_turned_by_quarters_is_exact(angle):
    family, values = Rotation(angles=[angle]), maps_of((6, 6)).float()
    params = family.grid()[0 if angle < 0 else -1].params
    turned = values.rot90(angle // 90, (2, 3))
    back, outside = family.undo(turned, params, (4, 4), (1.5, 1.5), (24, 24))
    assert torch.equal(back, values) and not outside.any()
    acted, outside = family.act(values, params, (4, 4), (1.5, 1.5), (24, 24))
    assert torch.equal(acted, turned) and not outside.any()


WAYS = {point.label: point.params for point in Mirror().grid()}


def test_a_flip_of_a_grid_in_the_middle_is_exact():
    values = maps_of((5, 8))
    for way, axes in (("horizontal", [3]), ("vertical", [2]), ("both", [2, 3])):
        back, outside = Mirror().undo(values, WAYS[way], (4, 3), (2, 1.5), (21, 25))
        assert torch.equal(back, values.flip(axes)) and not outside.any()


def test_a_flip_of_a_grid_off_the_middle_moves_it():
    """A convolution of stride 2 and padding 1 sees pixels 0, 2, …: of an even side it begins at 1 when flipped."""
    values = maps_of((3, 4))
    back, outside = Mirror().undo(values, WAYS["horizontal"], (2, 2), (0, 0), (5, 8))
    # position j lies at 2 j, flipped at 7 − 2 j, which is position 3.5 − j
    assert outside[0].tolist() == [[True, False, False, False]] * 3
    torch.testing.assert_close(back[..., 1:], (values[..., [2, 1, 0]] + values[..., [3, 2, 1]]) / 2)
    assert torch.equal(back[..., 0], values[..., 0])  # keeps its own
    back, outside = Mirror().undo(values, WAYS["vertical"], (2, 2), (0, 0), (5, 8))
    assert torch.equal(back, values.flip(2)) and not outside.any()  # an odd side has 0, 2, 4
    back, outside = Mirror().undo(values, WAYS["horizontal"], (2, 2), (0, 1), (5, 11))
    assert torch.equal(back[..., 1:], values[..., [3, 2, 1]]) and outside[0, :, 0].all()  # at 1, 3, 5, 7 of 0 to 10


def test_crop_is_a_shift_from_the_window_in_the_middle():
    family = Crop(range=288, windows=3)
    size = (66, 90)  # windows of 52 × 71, with a slack of 14 and 19
    points = {point.label: point.params for point in family.grid()}
    x = torch.rand(2, 1, *size) * 255
    middle = family.apply(x, points["untouched"])
    for label, params in points.items():
        gx = family.apply(x, params)
        back, outside = family.undo(gx, params, (1, 1), (0, 0), size)
        assert torch.equal(back[~outside.expand(2, -1, -1)[:, None]], middle[~outside.expand(2, -1, -1)[:, None]])
        assert bool(outside.any()) == (label != "untouched")
        coarse, _ = family.undo(gx[..., ::2, ::3].double(), params, (2, 3), (0, 0), size)
        assert coarse.shape == gx[..., ::2, ::3].shape


def test_an_elastic_field_is_inverted():
    family = Elastic(alphas=[5], sigmas=[3], scale_lengths=False)
    params = family.grid()[1].params
    y, x = torch.meshgrid(
        torch.arange(3.0, 35, dtype=torch.float64), torch.arange(3.0, 50, dtype=torch.float64), indexing="ij"
    )
    places = torch.stack([x, y])[None]
    there = family.goes_to(places, params, SIZE)
    assert float((there - places).abs().max()) > 0.3
    torch.testing.assert_close(family.comes_from(there, params, SIZE), places, atol=2e-4, rtol=0)
    field = family.field(torch.zeros(1, 1, *SIZE), params)[0].double().numpy()
    at = there[0].flip(0).numpy()  # down, right
    moved = np.stack([map_coordinates(one, at, order=1, mode="nearest") for one in field])
    np.testing.assert_allclose(there[0].numpy() + moved, places[0].numpy(), atol=2e-4)
    slope = torch.stack([torch.arange(57.0).expand(41, -1), torch.arange(41.0)[:, None].expand(-1, 57)])[None]
    gx = family.apply(slope, params)
    back, outside = family.undo(gx, params, (1, 1), (0, 0), SIZE)
    inside = ~outside[0]
    inside[:3], inside[-3:], inside[:, :3], inside[:, -3:] = False, False, False, False  # apply draws on 0 outside
    assert inside.float().mean() > 0.7
    error = (back - slope)[0][:, inside].abs()
    assert float(error.mean()) < 0.1 * float((gx - slope)[0][:, inside].abs().mean())


def test_where_a_field_folds_the_image_there_is_no_source():
    family = Elastic(alphas=[200], sigmas=[2], scale_lengths=False)
    values = maps_of((20, 20))
    back, outside = family.undo(values, family.grid()[1].params, (2, 2), (0, 0), (40, 40))
    assert outside.float().mean() > 0.3 and bool(back.isfinite().all())
    assert torch.equal(back[:, :, outside[0]], values[:, :, outside[0]])


@pytest.mark.parametrize("family", [Blur(sigmas=[2]), Noise(sigmas=[5]), ColorJitter(brightness=[9])])
def test_what_leaves_everything_in_its_place_undoes_nothing(family):
    values = maps_of()
    for way in (family.undo, family.act):
        back, outside = way(values, family.grid()[-1].params, STRIDE, OFFSET, SIZE)
        assert torch.equal(back, values) and outside.shape == (1, *SHAPE) and not outside.any()


@pytest.mark.parametrize(
    "family", [Rotation(range=40), Shear(range=30), Perspective(range=4), Mirror("both"), Elastic(range=10), Crop(256)]
)
def test_every_image_may_have_its_own_g(family):
    values, params = maps_of(count=5), family.sample(5, torch.Generator().manual_seed(3))
    back, outside = family.undo(values, params, STRIDE, OFFSET, SIZE)
    assert back.shape == values.shape and outside.shape == (5, *SHAPE)
    for k in range(5):
        own = {name: one[k : k + 1] for name, one in params.items()}
        alone, left = family.undo(values[k : k + 1], own, STRIDE, OFFSET, SIZE)
        torch.testing.assert_close(back[k : k + 1], alone, atol=1e-6, rtol=0)
        assert torch.equal(outside[k : k + 1], left)


def test_nothing_moves_untouched():
    values = maps_of()
    for family in (Rotation(angles=[5]), Shear(angles=[5]), Perspective(draws=1), Elastic(alphas=[5], sigmas=[2])):
        params = next(point.params for point in family.grid() if point.label == "untouched")
        back, outside = family.undo(values, params, STRIDE, OFFSET, SIZE)
        assert torch.equal(back, values) and not outside.any()


def test_a_family_of_ones_own_without_undo_says_so():
    class Slide(Transform):
        def params_of(self, uniforms):
            return {"by": uniforms[:, 0]}

        def grid(self):
            return line_grid([1.0], lambda by: {"by": torch.tensor([by])}, lambda _: False)

        def apply(self, x, params):
            return x.roll(1, -1)

    assert not Slide().undoes and not Slide().acts and Rotation().undoes and Blur().acts
    with pytest.raises(UserError, match="Slide has no undo; give it a method undo"):
        Slide().undo(maps_of(), {"by": torch.ones(1)}, STRIDE, OFFSET, SIZE)
