"""Derivatives of representations as g sets in: by hand for a linear network, by float64 differences for others."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.autograd import forward_ad

from invariance import Blur, ColorJitter, Mirror, Noise, Rotation, Transform, UserError, load, measure_model, wrap
from invariance.engine import derivative as engine
from invariance.engine.kept import Kept
from invariance.measures.derivative import Rates, derivative_per_image
from invariance.measures.distance import rms, scale_of_layer
from invariance.models.affine import AffineByInput
from invariance.models.cut import Cut
from invariance.models.derivative import derivatives, features

MEAN, STD = 0.4, 0.3
HEIGHT, WIDTH = 9, 13


def images_of(count, seed=1, shape=(1, HEIGHT, WIDTH)):
    return torch.randint(0, 256, (count, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def wrapped(module, channels=1):
    return wrap(module, preprocess=([MEAN] * channels, [STD] * channels), name="mine")


def measured(model, x, transforms, layers, **more):
    more = {"measures": ["derivative"], **more}
    return measure_model(model, x, transforms=transforms, layers=layers, **more)


def score_of(rows, layer, grid="turned"):
    (score,) = rows.loc[(rows["layer"] == layer) & (rows["g"] == f"{grid}:derivative"), "score"]
    return score


@pytest.fixture(scope="module")
def linear():
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(HEIGHT * WIDTH, 7), nn.Linear(7, 4))


def turned_by_hand(x):
    """d/dt of the images (N, 1, H, W), turned counter-clockwise by t degrees, in numpy."""
    x = np.pad(x.double().numpy()[:, 0], ((0, 0), (1, 1), (1, 1)))
    right = np.arange(WIDTH) - (WIDTH - 1) / 2
    down = (np.arange(HEIGHT) - (HEIGHT - 1) / 2)[:, None]
    across, along = (x[:, 1:-1, 2:] - x[:, 1:-1, :-2]) / 2, (x[:, 2:, 1:-1] - x[:, :-2, 1:-1]) / 2
    return np.pi / 180 * (-down * across + right * along)


def linear_by_hand(linear, x, scale_over):
    """‖d‖ / ‖φ‖ of every image at the input and both layers: J is a product of matrices."""
    flat = (x.double().numpy().reshape(len(x), -1) / 255 - MEAN) / STD
    over = (scale_over.double().numpy().reshape(len(scale_over), -1) / 255 - MEAN) / STD
    rate = turned_by_hand(x).reshape(len(x), -1) / (255 * STD)
    found = {}
    for layer in ("input", "1", "2"):
        if layer != "input":
            weight, bias = (one.detach().double().numpy() for one in linear[int(layer)].parameters())
            flat, over, rate = flat @ weight.T + bias, over @ weight.T + bias, rate @ weight.T
        rms = np.sqrt((over**2).mean(0))
        whole = np.sqrt((over**2).mean())
        rms = np.full_like(rms, whole) if layer == "input" else np.maximum(rms, 0.01 * whole)  # one colour there is
        found[layer] = np.linalg.norm(rate / rms, axis=1) / np.linalg.norm(flat / rms, axis=1)
    return found


def test_a_linear_networks_derivative_is_its_matrix_times_the_images(linear):
    x = images_of(23)
    rows = measured(wrapped(linear), x, {"turned": Rotation(angles=[-10, 20])}, ["1", "2"])
    assert list(rows["layer"]) == ["input", "1", "2"] and set(rows["metric"]) == {"derivative"}
    assert set(rows["unit"]) == {"per °"} and set(rows["status"]) == {"report_scale"} and set(rows["n_images"]) == {23}
    for layer, wanted in linear_by_hand(linear, x, x).items():
        assert score_of(rows, layer) == pytest.approx(wanted.mean(), rel=1e-5)
        scores = rows.images("turned:derivative", layer)["derivative"].to_numpy()
        np.testing.assert_allclose(scores, wanted, rtol=1e-5)
    assert (rows["low"] < rows["score"]).all() and (rows["score"] < rows["high"]).all()


def test_the_scale_is_over_the_fit_images_where_there_are_any(linear):
    x, fit = images_of(23), images_of(40, seed=2) // 3
    turned = {"turned": Rotation(angles=[5])}
    both = ["l2_distance", "derivative"]
    rows = measured(wrapped(linear), x, turned, ["1", "2"], fit=fit, measures=both)
    rows = rows[rows["metric"] == "derivative"]
    assert set(rows["status"]) == {"ok"} and set(rows["split"]) == {"report"} and len(rows) == 3
    for layer, wanted in linear_by_hand(linear, x, fit).items():
        assert score_of(rows, layer) == pytest.approx(wanted.mean(), rel=1e-5)


def convolutional():
    torch.manual_seed(5)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.SiLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.LazyLinear(5),
    )
    network(torch.rand(8, 3, 19, 24))  # the lazy layer, and statistics that are not 0 and 1
    return network, ["0", "1", "3", "5", "logits"], (19, 24)


def attentive():
    torch.manual_seed(6)
    network = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=24, num_classes=5
    )
    nn.init.normal_(network.heads.head.weight)
    layers = ["conv_proj", "encoder.layers.encoder_layer_0.self_attention[0]", "encoder.ln", "logits"]
    return network, layers, (32, 32)


def residual():
    torch.manual_seed(7)
    return torchvision.models.resnet18(num_classes=6), ["conv1", "layer1.0", "layer3.1.conv2", "avgpool"], (33, 47)


def by_differences(network, layers, x, tangent, step=1e-7):
    """φ(x) and its derivative at layers, in float64, by central differences."""
    cut = Cut(copy.deepcopy(network).double(), layers)

    def phi(moved):
        prepared = (x.double() + moved * tangent.double()) / 255
        return {"input": ((prepared - MEAN) / STD).flatten(1), **cut.phi((prepared - MEAN) / STD)}

    here, there, back = phi(0.0), phi(step), phi(-step)
    return {name: (r, (there[name] - back[name]) / (2 * step)) for name, r in here.items()}


FAMILIES = {"turned": Rotation(), "bright": ColorJitter(), "noisy": Noise(), "blurred": Blur()}


@pytest.mark.parametrize("made", [convolutional, attentive, residual])
def test_it_is_the_float64_difference_at_every_layer(made):
    network, layers, size = made()
    x, model = images_of(5, shape=(3, *size)), wrapped(network, 3)
    cut = model.cut(layers)
    features(model, cut, x.float())
    for name, family in FAMILIES.items():
        tangent = family.tangent(x.float())
        told = derivatives(model, cut, x.float(), tangent)
        for layer, (r, d) in by_differences(network, layers, x, tangent).items():
            for one, wanted in zip(told[layer], (r, d), strict=True):
                assert one.dtype == torch.float32 and one.shape == wanted.shape
                assert (one - wanted).norm() < 2e-5 * wanted.norm(), (name, layer)


def test_scores_are_those_of_the_float64_difference():
    network, layers, size = convolutional()
    x = images_of(5, shape=(3, *size))
    rows = measured(wrapped(network, 3), x, FAMILIES, layers)
    cut = wrapped(network, 3).cut(layers)
    cut.phi(wrapped(network, 3).prepare(x))
    for name, family in FAMILIES.items():
        for layer, (r, d) in by_differences(network, layers, x, family.tangent(x.float())).items():
            channels = {"input": 3}.get(layer) or cut.shape(layer)[0]
            square = r.square().mean(0).reshape(channels, -1)
            scale = (
                square.mean(1, keepdim=True).expand_as(square).flatten().sqrt().clamp(min=0.01 * square.mean().sqrt())
            )
            wanted = derivative_per_image(d, r, scale).numpy()
            told = rows.images(f"{name}:derivative", layer)["derivative"].to_numpy()
            np.testing.assert_allclose(told, wanted, rtol=2e-4, err_msg=f"{name} at {layer}")


def affine_by_input():
    weight = torch.randn(4, 3, 3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    line, wide = weight[:, 0, :, :], weight.flatten(1)
    bias, variance = weight[:, 0, 0, 0], weight[:3, 0, 0, 1].square() + 0.1
    mean = weight[0, :, 0, 0]
    return {
        "conv1d": (lambda x: F.conv1d(x[:, :, 0], line, bias, 2, 1), (2, 3, 4, 9)),
        "conv2d in groups": (lambda x: F.conv2d(x, weight[:3, :1], None, (2, 1), (0, 1), 1, 3), (2, 3, 7, 5)),
        "conv2d by name": (lambda x: F.conv2d(x, weight, bias=bias, stride=2), (2, 3, 7, 5)),
        "conv3d": (lambda x: F.conv3d(x[:, None], weight[:, :1, None], bias), (2, 3, 7, 5)),
        "linear": (lambda x: F.linear(x.flatten(1), wide, bias), (2, 3, 3, 2)),
        "batch norm": (lambda x: F.batch_norm(x, mean, variance, mean, None, False, 0.1, 1e-3), (2, 3, 4, 5)),
        "batch norm of the batch": (lambda x: F.batch_norm(x, None, None, mean, mean, True, 0.1, 1e-3), (4, 3, 4, 5)),
    }


@pytest.mark.parametrize("name", affine_by_input())
def test_what_is_affine_in_the_image_has_torchs_own_derivative(name):
    run, shape = affine_by_input()[name]
    x, rate = torch.randn(2, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with forward_ad.dual_level(), torch.no_grad():
        x = forward_ad.make_dual(x, rate)
        wanted = forward_ad.unpack_dual(run(x))
        with AffineByInput():
            told = forward_ad.unpack_dual(run(x))
    assert torch.equal(told.primal, wanted.primal)
    assert torch.allclose(told.tangent, wanted.tangent, atol=1e-12, rtol=1e-10)


def test_weights_that_depend_on_the_image_have_their_derivative():
    x, rate = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with forward_ad.dual_level(), AffineByInput():
        x = forward_ad.make_dual(x, rate)
        told = forward_ad.unpack_dual(F.linear(x, 2 * x, x[:, 0])).tangent
    x = forward_ad.unpack_dual(x).primal
    assert torch.allclose(told, 2 * (rate @ x.mT + x @ rate.mT) + rate[:, 0])


class Centred(nn.Module):
    """Does not see how bright its images are."""

    def __init__(self):
        super().__init__()
        self.less, self.head = nn.Identity(), nn.Linear(HEIGHT * WIDTH, 4)

    def forward(self, x):
        return self.head(self.less((x - x.mean((1, 2, 3), keepdim=True)).flatten(1)))


class Blind(nn.Module):
    """Gives the same whatever it sees, at a layer."""

    def __init__(self):
        super().__init__()
        self.weight, self.same, self.head = nn.Parameter(torch.arange(1.0, 6)), nn.Identity(), nn.Linear(117, 4)

    def forward(self, x):
        return self.head(x.flatten(1)) + self.same(self.weight.expand(len(x), 5))[:, :4]


def test_an_invariant_network_has_a_derivative_of_0():
    rows = measured(wrapped(Centred()), images_of(9), {"bright": ColorJitter(), "turned": Rotation()}, ["less"])
    assert score_of(rows, "less", "bright") < 1e-8 < 1e-3 < score_of(rows, "input", "bright")
    assert score_of(rows, "less") > 1e-3
    rows = measured(wrapped(Blind()), images_of(9), {"turned": Rotation()}, ["same"])
    assert score_of(rows, "same") == 0 and score_of(rows, "input") > 0


def test_batches_and_memory_change_nothing():
    network, layers, size = convolutional()
    x = images_of(11, shape=(3, *size))
    whole = measured(wrapped(network, 3), x, FAMILIES, layers)
    for how in ({"batch": 4}, {"memory_gb": 1e-9}):
        parts = measured(wrapped(network, 3), x, FAMILIES, layers, **how)
        np.testing.assert_allclose(parts["score"], whole["score"], rtol=1e-5)


def test_a_layer_that_is_overwritten_has_the_derivative_that_it_had():
    network, _, size = convolutional()
    apart = copy.deepcopy(network)
    apart[2].inplace = False
    x = images_of(6, shape=(3, *size))
    rows, wanted = (measured(wrapped(one, 3), x, {"turned": Rotation()}, ["1", "2"]) for one in (network, apart))
    np.testing.assert_array_equal(rows["score"], wanted["score"])
    assert score_of(rows, "1") != score_of(rows, "2")


class Stopped(nn.Module):
    """Leaves torch's derivatives on its way."""

    def __init__(self, stop):
        super().__init__()
        self.stop, self.first, self.head = stop, nn.Linear(HEIGHT * WIDTH, 6), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.stop(self.first(x.flatten(1))))


class NoJvp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


def in_inference_mode(x):
    with torch.inference_mode():
        return x * 2


LOSING = {
    "detached": lambda x: x.detach(),
    "by numpy": lambda x: torch.from_numpy(x.detach().numpy().copy()),
    "inference": in_inference_mode,
    "straight through": lambda x: x * 0.1 + (3 * x).detach(),
}


@pytest.mark.parametrize("how", LOSING)
def test_derivatives_that_are_lost_on_the_way_are_no_invariance(how):
    network = wrapped(Stopped(LOSING[how]))
    with pytest.raises(UserError, match="layer='head' of mine does not move as its derivative says"):
        measured(network, images_of(6), {"turned": Rotation()}, ["first", "head"])
    rows = measured(network, images_of(6), {"turned": Rotation()}, ["first"])
    assert score_of(rows, "first") > 0


def warped(x):
    place = torch.linspace(-0.5, 0.5, 10).reshape(1, 1, 5, 2).expand(len(x), -1, -1, -1)
    return F.grid_sample(x[:, None, None], place, align_corners=False).flatten(1).repeat(1, 2)[:, :6]


@pytest.mark.parametrize(("op", "named"), [(warped, "grid_sampler_2d"), (NoJvp.apply, "jvp")])
def test_what_has_no_forward_derivative_is_named_in_one_line(op, named):
    with pytest.raises(UserError, match=named) as caught:
        measured(wrapped(Stopped(op)), images_of(6), {"turned": Rotation()}, ["head"])
    assert str(caught.value).startswith("derivative: mine ") and "leave derivative out" in str(caught.value)
    untouched_state()


def untouched_state():
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert forward_ad._current_level == -1
    assert torch.backends.mha.get_fastpath_enabled() and torch.backends.cuda.flash_sdp_enabled()


def test_nothing_is_left_behind(linear):
    linear.train()
    x = images_of(7)
    measured(wrapped(linear), x, {"turned": Rotation()}, ["1"])
    untouched_state()
    assert linear.training and all(one.grad is None for one in linear.parameters())
    linear.eval()


def test_it_is_the_same_in_inference_mode(linear):
    wanted = measured(wrapped(linear), images_of(7), {"turned": Rotation()}, ["1"])
    with torch.inference_mode():
        rows = measured(wrapped(linear), images_of(7), {"turned": Rotation()}, ["1"])
    np.testing.assert_array_equal(rows["score"], wanted["score"])


def test_families_without_one_are_left_out_in_a_line_and_alone_refused(linear, capsys):
    both = {"turned": Rotation(angles=[5]), "flipped": Mirror()}
    rows = measured(wrapped(linear), images_of(7), both, ["1"], measures=["l2_distance", "derivative"])
    assert "derivative: flipped has none, as no g of the family does arbitrarily little; left out" in (
        capsys.readouterr().out.splitlines()
    )
    assert {"flipped:both", "turned:5", "turned:derivative"} < set(rows["g"])
    with pytest.raises(UserError, match="derivative: mirror has none, .* leave derivative out"):
        measured(wrapped(linear), images_of(7), [Mirror()], ["1"])


class Mine(Transform):
    """From outside the package."""

    tangent_unit = "step"

    def __init__(self, tangent):
        self._tangent = tangent

    def params_of(self, uniforms):
        return {}

    def grid(self):
        return Rotation().grid()

    def apply(self, x, params):
        return x.clone()

    def tangent(self, x):
        return self._tangent(x)


def test_a_family_of_ones_own_has_one_if_it_says_so(linear):
    rows = measured(wrapped(linear), images_of(7), {"mine": Mine(torch.ones_like)}, ["1"])
    wanted = measured(wrapped(linear), images_of(7), {"mine": ColorJitter()}, ["1"])
    np.testing.assert_array_equal(rows["score"], wanted["score"])
    assert set(rows["unit"]) == {"per step"}
    with pytest.raises(UserError, match=r"Mine.tangent gives torch.float32 of shape \(2, 1, 9\)"):
        measured(wrapped(linear), images_of(7), {"mine": Mine(lambda x: x[..., 0])}, ["1"])


def test_results_are_kept_and_an_interrupted_call_goes_on(linear, tmp_path, monkeypatch):
    x, families = images_of(7), {"turned": Rotation(angles=[5]), "bright": ColorJitter(brightness=[5])}
    asked = {"measures": ["l2_distance", "derivative"], "keep": tmp_path / "kept", "memory_gb": 1e-9}
    wanted = measured(wrapped(linear), x, families, ["1", "2"], measures=asked["measures"])
    added = []

    def add(self, group, result, plain=Kept.add):
        if group.g == ("derivative",) and group.grid == "bright":
            raise KeyboardInterrupt
        plain(self, group, result)

    def passes(*arguments, plain=engine.derivatives):
        added.append(arguments)
        return plain(*arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Kept, "add", add)
        measured(wrapped(linear), x, families, ["1", "2"], **asked)
    monkeypatch.setattr(engine, "derivatives", passes)
    rows = measured(wrapped(linear), x, families, ["1", "2"], **asked)
    assert len(added) == 7  # of one family, an image a pass
    for found in (rows, load(tmp_path / "kept"), measured(wrapped(linear), x, families, ["1", "2"], **asked)):
        assert list(found["g"]) == list(wanted["g"]) and list(found["unit"]) == list(wanted["unit"])
        np.testing.assert_allclose(found["score"], wanted["score"], rtol=1e-5)
        kept = found.images("bright:derivative", "input")["derivative"]
        np.testing.assert_allclose(kept, wanted.images("bright:derivative", "input")["derivative"], rtol=1e-6)
    other = {"turned": families["turned"], "bright": families["bright"], "noisy": Noise(grid_seed=4)}
    with pytest.raises(UserError, match="holds other results"):
        measured(wrapped(linear), x, other, ["1", "2"], **asked)


def test_dimensions_that_never_woke_and_images_of_nothing_are_left_out():
    d, r = torch.tensor([[3.0, torch.inf], [1.0, 2.0]]), torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    found = derivative_per_image(d, r, torch.tensor([0.5, 0.0], dtype=torch.float64))
    assert found[0] == 1.5 and found[1].isnan()
    with pytest.raises(UserError, match=r"\(2, 2\), \(2, 2\), \(3,\)"):
        derivative_per_image(d, r, torch.ones(3))


@pytest.mark.parametrize("together", [True, False])
def test_rates_are_those_of_the_scale_that_the_images_give(together):
    torch.manual_seed(5)
    channels, positions, images = 6, 8, 50
    channel_of = torch.arange(channels).repeat_interleave(positions)
    channel_of = channel_of if together else torch.arange(channels).repeat(positions)
    size = torch.tensor([3.0, 0.0, 1e-6, 40.0, 1.0, 0.2])[channel_of]
    r, d = torch.randn(2, images, channels * positions) * size
    r[7] = 0
    rates = Rates(channel_of)
    for part in range(0, images, 16):
        rates.add(d[part : part + 16], r[part : part + 16])
    scale = scale_of_layer(rms(r), channel_of)
    torch.testing.assert_close(rates.finish(), derivative_per_image(d, r, scale), rtol=1e-6, atol=0.0, equal_nan=True)
    assert not Rates.fits(torch.tensor([0, 1, 1])) and not Rates.fits(torch.tensor([0, 1, 1, 0]))


def test_one_family_and_several_have_the_same_derivatives(monkeypatch):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * (HEIGHT - 2) * (WIDTH - 2), 5))
    model, x, layers = wrapped(net), images_of(21), ["0", "1", "3"]
    turned, blurred = Rotation(angles=[10]), Blur(sigmas=[1])
    both = measured(model, x, {"turned": turned, "blurred": blurred}, layers)
    monkeypatch.setattr(engine.Derivatives, "_scale", None)  # one pass serves
    alone = measured(model, x, {"turned": turned}, layers)
    wanted = both[both["g"] == "turned:derivative"]
    np.testing.assert_allclose(alone["score"], wanted["score"], rtol=1e-6)
    assert list(alone["layer"]) == ["input", *layers] and set(alone["status"]) == {"report_scale"}


def test_small_numbers_of_a_narrow_type_are_not_lost():
    torch.manual_seed(2)
    channel_of = torch.arange(3).repeat_interleave(40)
    r, d = torch.randn(9, 120), torch.randn(9, 120) * 2e-5
    rates = Rates(channel_of)
    rates.add(d.half(), r.half())
    wanted = derivative_per_image(d.half().float(), r.half().float(), scale_of_layer(rms(r.half()), channel_of))
    torch.testing.assert_close(rates.finish(), wanted.double(), rtol=1e-5, atol=0.0)
    rates.add(torch.full((1, 120), 1e30), r[:1])
    assert not rates.finite
