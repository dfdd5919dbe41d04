"""How images change as g sets in: against differences of `apply`, by hand on ramps, and scipy's Laplacian."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from invariance import Blur, ColorJitter, Crop, Elastic, Mirror, Noise, Perspective, Rotation, Shear
from invariance.transforms.base import FRAME
from invariance.transforms.baseline import Baseline
from invariance.transforms.warp import warp_displacement

H, W = 21, 34
MOVE = [0.3, -0.2, 0.5, 0.1, -0.4, 0.25, 0.15, -0.6]


def images(n=3, channels=3, height=H, width=W):
    generator = torch.Generator().manual_seed(1)
    return 50 + 150 * torch.rand(n, channels, height, width, generator=generator, dtype=torch.float64)


def column(value):
    return torch.tensor([value], dtype=torch.float64)


def shear(sign=1.0, vertical=0):
    return lambda t: {"theta": column(sign * t), "vertical": torch.tensor([vertical])}


def corners_of(transform):
    corners = transform.grid()[1].params["corners"]
    return lambda t: {"corners": t * corners}


FROM_PLACES = {
    "rotation": (Rotation(), lambda t: {"angle": column(t)}, 1e-4),
    "shear": (Shear(angles=[5]), shear(), 1e-4),
    "shear to the right": (Shear(angles=[5], vertical=[5], positive="right"), shear(-1.0), 1e-4),
    "vertical shear": (Shear(vertical=[5]), shear(1.0, 1), 1e-4),
    "perspective": (Perspective(draws=2), corners_of(Perspective(draws=2)), 1e-5),
    "perspective of the image": (Perspective(draws=1, square="image"), corners_of(Perspective(draws=1)), 1e-5),
    "perspective unscaled": (Perspective(draws=1, scale_lengths=False), corners_of(Perspective(draws=1)), 1e-5),
    "perspective by moves": (Perspective(moves=[MOVE]), corners_of(Perspective(moves=[MOVE])), 1e-5),
}


@pytest.mark.parametrize("name", FROM_PLACES)
@pytest.mark.parametrize(("height", "width"), [(H, W), (40, 17), (1, 9)])
def test_where_pixels_move_it_is_the_central_difference_of_what_g_does(name, height, width):
    transform, at, step = FROM_PLACES[name]
    x = images(height=height, width=width)
    wanted = (transform.apply(x, at(step)) - transform.apply(x, at(-step))) / (2 * step)
    told = transform.tangent(x)
    assert told.shape == x.shape and told.dtype == x.dtype
    largest = float(wanted.abs().max())
    assert largest > 0 or height == 1
    assert float((told - wanted).abs().max()) <= 1e-4 * largest + 1e-6


@pytest.mark.parametrize("scaled", [True, False])
def test_elastic_goes_along_the_field_of_its_grid(scaled):
    family, x = Elastic(alphas=[1], sigmas=[3], scale_lengths=scaled), images()
    field = family.field(x, family.grid()[1].params).double()  # in float32 no difference of small steps is seen
    wanted = (warp_displacement(x, 1e-5 * field) - warp_displacement(x, -1e-5 * field)) / 2e-5
    assert float((family.tangent(x) - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())
    assert torch.equal(family.tangent(x), Elastic(scale_lengths=scaled).tangent(x))


def test_signs_are_those_of_the_families_on_a_ramp():
    right, down = torch.arange(W).double() - (W - 1) / 2, (torch.arange(H).double() - (H - 1) / 2)[:, None]
    x = (100 + 0.7 * right - 1.3 * down).expand(1, 1, H, W)
    inside = (..., slice(1, -1), slice(1, -1))
    degree = math.pi / 180
    # the value at the place a little clockwise comes here
    turned = degree * (0.7 * -down - 1.3 * right).expand(1, 1, H, W)
    assert torch.allclose(Rotation().tangent(x)[inside], turned[inside], atol=1e-9)
    slid = degree * (0.7 * -down).expand(1, 1, H, W)
    assert torch.allclose(Shear().tangent(x)[inside], slid[inside], atol=1e-9)


def test_noise_and_brightness_are_exact():
    x = images()
    noise = Noise(sigmas=[1], grid_seed=3)
    there = noise.apply(x, noise.grid()[1].params)
    assert torch.allclose(noise.tangent(x), there - x, atol=1e-12, rtol=0)
    assert not torch.equal(noise.tangent(x), Noise(grid_seed=4).tangent(x))
    jitter = ColorJitter(brightness=[1])
    assert torch.allclose(jitter.tangent(x), jitter.apply(x, jitter.grid()[1].params) - x, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("border", "mode"), [("reflect_101", "mirror"), ("reflect", "reflect"), ("zero", "constant")])
@pytest.mark.parametrize(("height", "width"), [(H, W), (9, 4), (2, 5)])
def test_blur_is_half_of_scipys_laplacian(border, mode, height, width):
    x = images(height=height, width=width)
    wanted = np.stack([[0.5 * ndimage.laplace(plane, mode=mode) for plane in image] for image in x.numpy()])
    scale = min(height, width) / FRAME
    assert np.allclose(Blur(border=border).tangent(x).numpy(), wanted * scale**2, atol=1e-10)
    assert np.allclose(Blur(border=border, scale_lengths=False).tangent(x).numpy(), wanted, atol=1e-10)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (7, 1)])
def test_blur_of_a_row_of_pixels_changes_nothing_across_it(height, width):
    x = images(height=height, width=width)
    for border in ("reflect_101", "reflect"):
        family = Blur(border=border, scale_lengths=False)
        line = ndimage.laplace(x[0, 0].flatten().numpy(), mode="mirror" if border == "reflect_101" else "reflect")
        assert np.allclose(family.tangent(x)[0, 0].flatten().numpy(), 0.5 * line, atol=1e-10)


def test_blur_is_what_smoothing_does_to_waves():
    right, down = torch.arange(80.0), torch.arange(64.0)[:, None]
    x = (127 + 60 * torch.cos(0.3 * right) * torch.cos(0.2 * down))[None, None].double()
    family = Blur(sigmas=[1], scale_lengths=False)
    inside = (..., slice(8, -8), slice(8, -8))
    there = (family.apply(x, family.grid()[1].params) - x)[inside]
    assert float((family.tangent(x)[inside] - there).norm() / there.norm()) < 0.05


SMOOTH = [Rotation(), Shear(), Perspective(), Elastic(), Blur(), Noise(), ColorJitter()]


@pytest.mark.parametrize("transform", SMOOTH, ids=lambda one: type(one).__name__)
def test_it_is_pure_and_the_same_in_any_batch(transform):
    x = images().float()
    before = x.clone()
    told = transform.tangent(x)
    assert torch.equal(x, before) and told.dtype == torch.float32 and transform.tangent_unit
    assert torch.equal(told[1:2], transform.tangent(x[1:2]))
    assert torch.allclose(told.double(), transform.tangent(x.double()), atol=1e-4)


@pytest.mark.parametrize("transform", [Mirror(), Crop(range=256), Baseline()], ids=lambda one: type(one).__name__)
def test_families_without_small_g_have_none(transform):
    assert transform.tangent(images()) is None and transform.tangent_unit == ""


def test_the_unit_says_which_way():
    assert Shear(vertical=[5]).tangent_unit == "° (vertical)" and Shear(angles=[5], vertical=[5]).tangent_unit == "°"
    assert Perspective(moves=[MOVE]).tangent_unit == "move 1" and Perspective().tangent_unit == "draw 1"
    assert Elastic().tangent_unit == "α (px) at σ 3" and Blur().tangent_unit == "σ² (px²)"
