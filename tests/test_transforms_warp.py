"""The two warps against scipy in float64 and OpenCV, on non-square images."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from invariance.transforms.warp import warp_displacement, warp_homography

H, W = 21, 34


def images(n=3, channels=2, dtype=torch.float64, height=H, width=W):
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(1), dtype=dtype) * 255


def homographies(n, strength=0.2):
    noise = torch.randn(n, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    matrix = torch.eye(3, dtype=torch.float64) + strength * noise
    matrix[:, :2, 2] *= 20
    matrix[:, 2, :2] = noise[:, 2, :2] * 0.004
    matrix[:, 2, 2] = 1
    return matrix


def scipy_at(x, right, down):
    """Bilinear values of x (B, C, H, W) at places (n, H, W) in array coordinates, 0 all around."""
    out = np.empty(x.shape)
    for b in range(len(x)):
        n = b if len(right) > 1 else 0
        for c in range(x.shape[1]):
            out[b, c] = ndimage.map_coordinates(
                x[b, c].numpy().astype(float), [down[n], right[n]], order=1, mode="grid-constant", cval=0
            )
    return out


def places(backward, height=H, width=W):
    down, right = np.meshgrid(np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij")
    u, v, w = np.einsum("nij,jhw->inhw", backward.numpy(), np.stack([right, down, np.ones_like(right)]))
    return u / w + (width - 1) / 2, v / w + (height - 1) / 2


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(21, 34), (40, 17), (1, 9), (9, 1)])
def test_homography_is_scipys(n, height, width):
    x, backward = images(height=height, width=width), homographies(n)
    right, down = places(backward, height, width)
    expected = scipy_at(x, right, down)
    assert np.abs(warp_homography(x, backward).numpy() - expected).max() < 1e-9
    single = warp_homography(x.float(), backward)
    assert single.dtype == torch.float32 and np.abs(single.numpy() - expected).max() < 0.02


@pytest.mark.parametrize("n", [1, 3])
def test_displacement_is_scipys(n):
    x = images()
    field = 4 * torch.randn(n, 2, H, W, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    down, right = np.meshgrid(np.arange(H), np.arange(W), indexing="ij")
    expected = scipy_at(x, right + field[:, 0].numpy(), down + field[:, 1].numpy())
    assert np.abs(warp_displacement(x, field).numpy() - expected).max() < 1e-9


def test_homography_is_opencvs():
    """OpenCV rounds places to 1/32 pixel, so a smooth image is compared."""
    x = torch.from_numpy(ndimage.gaussian_filter(images(1, 1).numpy(), (0, 0, 3, 3)))
    backward = homographies(1, 0.1)
    centre = np.array([[1, 0, -(W - 1) / 2], [0, 1, -(H - 1) / 2], [0, 0, 1]])
    corner = np.linalg.inv(centre) @ backward[0].numpy() @ centre
    expected = cv2.warpPerspective(
        x[0, 0].numpy().astype(np.float32), corner, (W, H), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    ours = warp_homography(x, backward)[0, 0].numpy()
    # at the border the image falls from some 130 to 0 within a pixel, of which 1/32 is 4
    assert np.abs(ours - expected).max() < 5
    assert np.abs(ours - expected).mean() < 0.3


def translation(right, down):
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[:2, 2] = torch.tensor([-right, -down], dtype=torch.float64)
    return matrix[None]


@settings(max_examples=40, deadline=None)
@given(st.integers(-40, 40), st.integers(-25, 25))
def test_whole_shifts_move_pixels_and_bring_in_zeros(right, down):
    x = images(1, 1)
    expected = torch.zeros_like(x)
    top, bottom, left, end = max(0, down), min(H, H + down), max(0, right), min(W, W + right)
    if top < bottom and left < end:
        expected[..., top:bottom, left:end] = x[..., top - down : bottom - down, left - right : end - right]
    assert torch.allclose(warp_homography(x, translation(right, down)), expected, atol=1e-9)
    field = torch.tensor([-right, -down], dtype=torch.float64)[None, :, None, None].expand(1, 2, H, W)
    assert torch.allclose(warp_displacement(x, field), expected, atol=1e-9)


def test_values_blend_into_zero_within_a_pixel_of_the_border():
    x = torch.full((1, 1, H, W), 200.0, dtype=torch.float64)
    out = warp_homography(x, translation(0.25, 0))
    assert torch.allclose(out[..., 0], torch.tensor(150.0, dtype=torch.float64))
    assert torch.allclose(out[..., 1:], torch.tensor(200.0, dtype=torch.float64))


def test_what_is_behind_the_horizon_is_zero():
    """w = 0 runs down the middle column: to its left is behind, and a division would show the image a second time."""
    x = torch.full((2, 1, 21, 35), 255.0)
    backward = torch.tensor([[[1.0, 0, 0], [0, 1.0, 0], [1.0, 0, 0]]], dtype=torch.float64)
    out = warp_homography(x, backward)
    assert torch.isfinite(out).all()
    assert (out[..., :18] == 0).all()
    assert (out[..., 10, 18:] > 0).all()


@pytest.mark.parametrize("w", [[0.0, 0.0, 0.0], [0.0, 0.0, -1.0], [1e-300, 0.0, 0.0], [1e30, 0.0, 1.0]])
def test_degenerate_homographies_give_numbers(w):
    backward = torch.eye(3, dtype=torch.float64)[None].clone()
    backward[0, 2] = torch.tensor(w, dtype=torch.float64)
    out = warp_homography(images(dtype=torch.float32), backward)
    assert torch.isfinite(out).all() and out.min() >= 0 and out.max() <= 255


def test_the_identity_is_exact_for_each_image_that_has_it():
    x = images(3, dtype=torch.float32)
    backward = homographies(3)
    backward[1] = torch.eye(3)
    out = warp_homography(x, backward)
    assert torch.equal(out[1], x[1]) and not torch.equal(out[0], x[0])
    same = warp_homography(x, torch.eye(3, dtype=torch.float64)[None])
    assert torch.equal(same, x) and same.data_ptr() != x.data_ptr()
