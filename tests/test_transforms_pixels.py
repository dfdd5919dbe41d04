"""Color jitter, blur, noise and elastic against literal formulas, scipy and OpenCV."""

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from invariance.errors import UserError
from invariance.transforms.blur import Blur
from invariance.transforms.color_jitter import ColorJitter
from invariance.transforms.counter import normal, uniform
from invariance.transforms.elastic import Elastic
from invariance.transforms.noise import Noise
from invariance.transforms.smoothing import kernel, square_norm

H, W = 29, 44


def draw(transform, n, seed=0):
    return transform.sample(n, torch.Generator().manual_seed(seed))


def images(n=3, channels=2, height=H, width=W, dtype=torch.float64):
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(1), dtype=dtype) * 255


def column(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_color_jitter_adds_to_each_channel_and_clamps():
    x = images(2, 3)
    params = {"offset": torch.tensor([[10.0, -20.0, 3.0], [0.0, 200.0, -300.0]], dtype=torch.float64)}
    out = ColorJitter(range=5).apply(x, params).numpy()
    for n in range(2):
        for c in range(3):
            assert np.allclose(out[n, c], np.clip(x[n, c].numpy() + params["offset"][n, c].item(), 0, 255))
    gray = ColorJitter(range=5).apply(x[:, :1], params).numpy()
    assert np.array_equal(gray, out[:, :1])


def test_color_jitter_draws_independent_normals():
    offset = draw(ColorJitter(range=15), 4000)["offset"].numpy()
    assert offset.shape == (4000, 3)
    for c in range(3):
        assert stats.kstest(offset[:, c], stats.norm(0, 15).cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(offset.T) - np.eye(3)).max() < 0.06


def test_color_jitter_measures_all_channels_alike_and_takes_three():
    point = next(p for p in ColorJitter(brightness=[-5, 5]).grid() if p.label == "-5")
    out = ColorJitter().apply(torch.full((2, 3, 4, 5), 100.0), point.params)
    assert torch.equal(out, torch.full((2, 3, 4, 5), 95.0))
    with pytest.raises(UserError, match="4 channels"):
        ColorJitter().apply(torch.zeros(1, 4, 5, 5), point.params)


@pytest.mark.parametrize(("border", "mode"), [("zero", "constant"), ("reflect", "reflect"), ("reflect_101", "mirror")])
@pytest.mark.parametrize("shape", [(29, 44), (44, 13), (5, 3), (1, 6)])
@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.5, 3.3, 5.0])
def test_blur_is_scipys(border, mode, shape, sigma):
    x = images(2, 3, *shape)
    if int(4 * sigma + 0.5) < 1:
        # scipy's kernel is a single 1 here; at σ = 0.1 a neighbour's weight is e⁻⁵⁰
        expected = x.numpy()
    else:
        expected = ndimage.gaussian_filter(x.numpy(), (0, 0, sigma, sigma), mode=mode, truncate=4)
    ours = Blur(border=border, scale_lengths=False).apply(x, {"sigma": column(sigma)}).numpy()
    assert np.abs(ours - expected).max() < 1e-9
    single = Blur(border=border, scale_lengths=False).apply(x.float(), {"sigma": column(sigma)}).numpy()
    assert np.abs(single - expected).max() < 1e-3


@pytest.mark.parametrize("sigma", [1.0, 2.5])
def test_blur_is_opencvs(sigma):
    x = images(1, 3, dtype=torch.float32)
    size = 2 * int(4 * sigma + 0.5) + 1
    modes = {"zero": cv2.BORDER_CONSTANT, "reflect": cv2.BORDER_REFLECT, "reflect_101": cv2.BORDER_REFLECT_101}
    for border, mode in modes.items():
        image = np.ascontiguousarray(x[0].permute(1, 2, 0).numpy())
        expected = cv2.GaussianBlur(image, (size, size), sigma, borderType=mode)
        ours = Blur(border=border, scale_lengths=False).apply(x, {"sigma": column(sigma)})
        assert np.abs(ours[0].permute(1, 2, 0).numpy() - expected).max() < 0.01


def test_blur_of_a_batch_has_a_sigma_for_each_image():
    x = images(4)
    out = Blur(scale_lengths=False).apply(x, {"sigma": column(0, 0.7, 4, 2)}).numpy()
    for n, sigma in enumerate((0, 0.7, 4, 2)):
        expected = ndimage.gaussian_filter(x[n].numpy(), (0, sigma, sigma), mode="mirror", truncate=4)
        assert np.abs(out[n] - expected).max() < 1e-9
    assert np.array_equal(out[0], x[0].numpy())


def test_blur_scales_with_the_shorter_side():
    x = images(1, 1, 454, 500)
    ours = Blur().apply(x, {"sigma": column(1.5)}).numpy()
    expected = ndimage.gaussian_filter(x.numpy(), (0, 0, 3, 3), mode="mirror", truncate=4)
    assert np.abs(ours - expected).max() < 1e-9


@pytest.mark.parametrize("transform", [Blur(range=3), Noise(range=3)], ids=["blur", "noise"])
def test_sigma_is_uniform_from_zero(transform):
    assert stats.kstest(draw(transform, 4000)["sigma"].numpy(), stats.uniform(0, 3).cdf).pvalue > 1e-3


def test_noise_adds_its_field_and_clamps():
    x = images(2, 3)
    params = {"sigma": column(10, 60), "seed": torch.tensor([3, 4])}
    out = Noise().apply(x, params).numpy()
    for n in range(2):
        field = normal(params["seed"][n : n + 1], (3, H, W))[0].double().numpy()
        assert np.allclose(out[n], np.clip(x[n].numpy() + params["sigma"][n].item() * field, 0, 255))
    assert out.min() == 0 and out.max() == 255


def test_noise_is_normal_and_independent_per_pixel_and_channel():
    x = torch.full((1, 3, 120, 121), 127.0, dtype=torch.float64)
    point = Noise(sigmas=[12.5]).grid()[1]
    field = (Noise().apply(x, point.params) - x)[0].numpy()
    assert stats.kstest(field.ravel(), stats.norm(0, 12.5).cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(field.reshape(3, -1)) - np.eye(3)).max() < 0.04
    for a, b in ((field[:, 1:], field[:, :-1]), (field[..., 1:], field[..., :-1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.02


def test_measured_noise_is_one_field_for_all_images_and_another_for_each_sigma():
    x = torch.full((2, 1, 20, 21), 127.0, dtype=torch.float64)
    fields = {}
    for point in Noise(sigmas=[5, 10]).grid()[1:]:
        out = Noise().apply(x, point.params)
        assert torch.equal(out[0], out[1])
        fields[point.label] = (out[0] - 127).flatten() / point.value
    assert abs(np.corrcoef(fields["5"], fields["10"])[0, 1]) < 0.2
    other = Noise(sigmas=[5], grid_seed=1).grid()[1]
    assert not torch.equal(Noise().apply(x, other.params), Noise().apply(x, Noise(sigmas=[5]).grid()[1].params))


@pytest.mark.parametrize("transform", [Elastic(range=5), Noise(range=3)], ids=["elastic", "noise"])
def test_strength_says_nothing_about_the_field(transform):
    uniforms = torch.rand(2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one, other = (transform.params_of(torch.tensor([[u, uniforms[0, 1]]]))["seed"] for u in uniforms[:, 0])
    assert torch.equal(one, other)
    assert not torch.equal(one, transform.params_of(uniforms[1:])["seed"])


def test_trained_noise_is_a_new_field_for_every_image():
    x = torch.full((40, 1, 20, 21), 127.0)
    params = draw(Noise(range=20), 40)
    assert len(set(params["seed"].tolist())) == 40
    fields = ((Noise().apply(x, params) - x).flatten(1).double() / params["sigma"][:, None]).numpy()
    assert np.abs(np.corrcoef(fields) - np.eye(40)).max() < 0.25


@pytest.mark.parametrize("n", [1, 3])
def test_elastic_is_scipys(n):
    """The field is smoothed by scipy and the image sampled by scipy; only the noise itself is taken from here."""
    x = images(3, 2)
    transform = Elastic(scale_lengths=False)
    params = {"alpha": column(12, 7, 9)[:n], "sigma": column(2, 3.5, 2.5)[:n], "seed": torch.tensor([5, 6, 7])[:n]}
    ours = transform.apply(x, params).numpy()
    down, right = np.meshgrid(np.arange(H), np.arange(W), indexing="ij")
    for b in range(3):
        i = b if n == 3 else 0
        alpha, sigma = params["alpha"][i].item(), params["sigma"][i].item()
        noise = alpha * (2 * uniform(params["seed"][i : i + 1], (2, H, W))[0].double().numpy() - 1)
        field = [ndimage.gaussian_filter(axis, sigma, mode="constant", truncate=4) for axis in noise]
        assert max(np.abs(axis).max() for axis in field) > 0.5
        for c in range(2):
            expected = ndimage.map_coordinates(
                x[b, c].numpy(), [down + field[1], right + field[0]], order=1, mode="grid-constant"
            )
            assert np.abs(ours[b, c] - expected).max() < 2e-3


def test_elastic_draws_its_strength_and_a_new_field_for_every_image():
    params = draw(Elastic(range=10, sigma=3), 4000)
    assert stats.kstest(params["alpha"].numpy(), stats.uniform(0, 10).cdf).pvalue > 1e-3
    assert (params["sigma"] == 3).all() and len(set(params["seed"].tolist())) == 4000


@pytest.mark.parametrize("sigma", [2, 3])
@pytest.mark.parametrize("size", [32, 64, 128, 227, 384])
def test_elastic_is_as_strong_at_any_size(size, sigma):
    """Displacements in units of the frame have the standard deviation they have at 227: α ‖k‖² / √3."""
    params = {
        "alpha": torch.full((24,), 10.0, dtype=torch.float64),
        "sigma": torch.full((24,), float(sigma), dtype=torch.float64),
        "seed": torch.arange(24),
    }
    # wide images: their borders, where zeros are averaged in, are left out
    field = Elastic().field(torch.zeros(24, 1, size, 2 * size), params) * 227 / size
    edge = size // 5
    deviation = field[:, :, edge:-edge, edge:-edge].std().item()
    line = np.exp(-0.5 * (np.arange(-4 * sigma, 4 * sigma + 1) / sigma) ** 2)
    expected = 10 / 3**0.5 * ((line / line.sum()) ** 2).sum()
    assert deviation == pytest.approx(expected, rel=0.05)


def test_elastic_at_227_is_unscaled():
    x = torch.zeros(1, 1, 227, 300)
    params = {"alpha": column(10), "sigma": column(2), "seed": torch.tensor([1])}
    assert torch.equal(Elastic().field(x, params), Elastic(scale_lengths=False).field(x, params))


def test_kernel_norm_is_what_smoothing_does_to_noise():
    impulse = np.zeros((41, 41))
    impulse[20, 20] = 1
    for sigma in (0.25, 1.0, 3.0):
        response = ndimage.gaussian_filter(impulse, sigma, truncate=max(4, 1 / sigma))
        assert square_norm(column(sigma)).item() == pytest.approx(np.sqrt((response**2).sum()))
    assert kernel(column(0.0)).tolist() == [[0.0, 1.0, 0.0]]


def test_elastic_grid_names_alpha_and_sigma():
    points = Elastic(range=5, sigma=2, alphas=[5, 10], sigmas=[2, 2.5]).grid()
    assert [p.label for p in points] == ["untouched", "α5 σ2", "α5 σ2.5", "α10 σ2", "α10 σ2.5"]
    assert [p.value for p in points] == [0, 1, 2, 3, 4]
    assert [p.covered for p in points] == [True, True, False, False, False]
    assert len({p.params["seed"].item() for p in points}) == 5


def test_measured_elastic_is_one_field_for_all_images():
    x = images(1, 1).expand(3, 2, H, W)
    point = Elastic(alphas=[15], sigmas=[2]).grid()[1]
    out = Elastic(scale_lengths=False).apply(x, point.params)
    assert torch.equal(out, out[:1, :1].expand_as(out)) and not torch.equal(out, x)
