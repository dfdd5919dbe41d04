"""What holds for every family found in conf/transform, and what each refuses."""

import math
import random
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import invariance.transforms
from invariance.errors import UserError
from invariance.transforms import UNTOUCHED, Transform, build
from invariance.transforms.crop import Crop
from invariance.transforms.perspective import Perspective
from invariance.transforms.rotation import Rotation

CONF = Path(__file__).parents[1] / "conf" / "transform"
FAMILIES = sorted(path.stem for path in CONF.glob("*.yaml"))
LIBRARY = {name: of for name in FAMILIES if (of := OmegaConf.load(CONF / f"{name}.yaml").get("of"))}
"""Families of other libraries, which compute in numbers and on devices of their own."""
COLOURED = {"hue", "saturation"}
"""Families that refuse gray images."""
COUNTS = {
    "baseline": 1,
    "blur": 11,
    "color_jitter": 17,
    "crop": 25,
    "elastic": 13,
    "mirror": 4,
    "noise": 11,
    "perspective": 11,
    "rotation": 17,
    "shear": 13,
}
GRIDS = {
    "blur": [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5],
    "color_jitter": [-45, -30, -25, -20, -15, -10, -5, -2, 0, 2, 5, 10, 15, 20, 25, 30, 45],
    "crop": list(range(1, 26)),
    "elastic": list(range(13)),
    "mirror": [0, 1, 2, 3],
    "noise": [0, 2.5, 5, 7.5, 10, 12.5, 15, 20, 25, 30, 40],
    "perspective": list(range(11)),
    "rotation": [-45, -30, -25, -20, -15, -10, -5, -2.5, 0, 2.5, 5, 10, 15, 20, 25, 30, 45],
    "shear": [-30, -25, -20, -15, -10, -5, 0, 5, 10, 15, 20, 25, 30],
}
NETWORKS = {
    "baseline": 1,
    "blur": 2,
    "color_jitter": 4,
    "crop": 4,
    "elastic": 4,
    "mirror": 3,
    "noise": 4,
    "perspective": 4,
    "rotation": 4,
    "shear": 4,
}


def config_of(family, trained=None, **more):
    """The resolved content of a family's file, as the commands hand it over."""
    content = OmegaConf.merge(OmegaConf.load(CONF / f"{family}.yaml"), more)
    config = OmegaConf.create({"range": trained, "transform": content})
    return OmegaConf.to_container(config, resolve=True)["transform"]


def ranges_of(family):
    return OmegaConf.load(CONF / f"{family}.yaml").sweep.get("range", [None])


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def trained(family):
    return build(config_of(family, ranges_of(family)[-1]))


def images(n=5, channels=3, height=24, width=37, dtype=torch.float32):
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(1), dtype=dtype) * 255


def draw(transform, n, seed=0):
    return transform.sample(n, torch.Generator().manual_seed(seed))


def row(params, n):
    return {key: value[n : n + 1] for key, value in params.items()}


def test_there_are_the_ten_families_of_the_paper():
    assert set(FAMILIES) >= set(COUNTS)


@pytest.mark.parametrize("family", COUNTS)
def test_the_files_hold_the_papers_networks_and_grids(family):
    sweep = OmegaConf.load(CONF / f"{family}.yaml").sweep
    assert math.prod(len(values) for values in sweep.values()) == NETWORKS[family]
    grid = build(config_of(family)).grid()
    assert len(grid) == COUNTS[family]
    assert [point.value for point in grid] == GRIDS.get(family, [0])


def test_every_network_of_the_sweep_is_built_and_has_its_own_label(family):
    config = OmegaConf.load(CONF / f"{family}.yaml")
    labels = set()
    for trained in ranges_of(family):
        for sigma in config.sweep.get("transform.sigma", [None]):
            content = config_of(family, trained, **({"sigma": sigma} if sigma else {}))
            assert content["name"] == family and isinstance(build(content), Transform)
            labels.add(content["label"])
    assert len(labels) == math.prod(len(values) for values in config.sweep.values())
    assert all(label.startswith(family) for label in labels)


def test_names_of_networks():
    assert config_of("rotation", 20)["label"] == "rotation_20"
    assert config_of("elastic", 10, sigma=3)["label"] == "elastic_10_sigma3"
    assert config_of("baseline")["label"] == "baseline"


def test_grids_have_one_untouched_point_and_unique_labels_in_order(family):
    for trained in (None, *ranges_of(family)):
        grid = build(config_of(family, trained)).grid()
        labels, values = [point.label for point in grid], [point.value for point in grid]
        assert len(set(labels)) == len(labels) and labels.count(UNTOUCHED) == 1
        assert values == sorted(values) and len(set(values)) == len(values)
        for point in grid:
            assert {len(value) for value in point.params.values()} == {1}
            assert {value.dtype for value in point.params.values()} <= {torch.float64, torch.int64}
            assert point.covered if point.label == UNTOUCHED else trained is not None or not point.covered


@pytest.mark.parametrize(
    ("family", "trained", "covered"),
    [
        ("rotation", 10, ["-10", "-5", "-2.5", UNTOUCHED, "2.5", "5", "10"]),
        ("shear", 5, ["-5", UNTOUCHED, "5"]),
        ("color_jitter", 5, ["-10", "-5", "-2", UNTOUCHED, "2", "5", "10"]),
        ("noise", 5, [UNTOUCHED, "2.5", "5"]),
        ("blur", 1.5, [UNTOUCHED, "0.5", "1", "1.5"]),
        ("perspective", 1, [UNTOUCHED, "1", "2", "3", "4"]),
    ],
)
def test_covered_is_what_training_draws(family, trained, covered):
    assert [point.label for point in build(config_of(family, trained)).grid() if point.covered] == covered


def test_the_untouched_point_is_exact(family, trained):
    point = next(point for point in trained.grid() if point.label == UNTOUCHED)
    for dtype in (torch.float32, torch.float64):
        x = images(dtype=dtype)
        # crop's is the window in the middle: 17 × 26 of 24 × 37 at range 320
        expected = x[:, :, 4:21, 6:32] if family == "crop" else x
        assert torch.equal(trained.apply(x, point.params), expected)


@pytest.mark.parametrize("family", ["rotation", "shear", "perspective", "blur", "elastic", "noise", "color_jitter"])
def test_a_tiny_range_changes_next_to_nothing(family):
    transform = build(config_of(family, 1e-6))
    x = images()
    inside = (transform.apply(x, draw(transform, 5)) - x)[..., 1:-1, 1:-1]
    assert inside.abs().max() < 0.01


def test_four_and_four_draws_are_eight(trained):
    generator = torch.Generator().manual_seed(7)
    parts = [trained.sample(4, generator), trained.sample(4, generator)]
    whole = draw(trained, 8, seed=7)
    for key, value in whole.items():
        assert len(value) == 8 and value.dtype in (torch.float64, torch.int64)
        assert torch.equal(value, torch.cat([part[key] for part in parts]))
        assert torch.isfinite(value).all()


@pytest.mark.parametrize("generator", [None, 0])
def test_nothing_is_drawn_without_a_generator(generator):
    before = torch.get_rng_state()
    with pytest.raises(UserError, match=f"generator={generator}: give a torch.Generator"):
        Rotation(range=20).sample(3, generator)
    assert torch.equal(torch.get_rng_state(), before)


def test_numbers_of_numpy_and_torch_are_numbers():
    wanted = Rotation(range=20, angles=[-5, 2.5])
    for kind in (np.asarray, torch.tensor):
        found = Rotation(range=kind(20), angles=kind([-5, 2.5]))
        assert (found.range, found.angles) == (wanted.range, wanted.angles)
    assert Rotation(range=np.int64(20), angles=[np.float32(2.5), torch.tensor(-5)]).angles == wanted.angles
    assert Crop(range=np.int64(256)).range == 256
    moves = np.arange(16).reshape(2, 8)
    assert Perspective(moves=moves).moves == Perspective(moves=moves.tolist()).moves
    with pytest.raises(UserError, match="is a list"):
        Rotation(range=np.array([20, 30]))
    with pytest.raises(UserError, match="must be a number"):
        Rotation(range=np.bool_(True))
    with pytest.raises(UserError, match="out of place"):
        Rotation(angles=np.array([[5.0]]))
    with pytest.raises(UserError, match="must be a number"):
        Rotation(range=np.ndarray)


def test_parameters_follow_from_uniforms_at_their_ends(trained):
    ends = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)[:, None].expand(2, trained.uniforms)
    x = images(2)
    out = trained.apply(x, trained.params_of(ends))
    assert torch.isfinite(out).all()


def test_a_batch_is_its_images_one_by_one(trained):
    x, params = images(), draw(trained, 5)
    together = trained.apply(x, params)
    for n in range(5):
        alone = trained.apply(x[n : n + 1], row(params, n))
        assert torch.allclose(together[n], alone[0], atol=1e-3, rtol=0)


def test_one_g_is_the_same_for_every_image(trained):
    x, params = images(), row(draw(trained, 2), 1)
    together = trained.apply(x, params)
    repeated = trained.apply(x, {key: value.repeat(5, *[1] * (value.ndim - 1)) for key, value in params.items()})
    assert torch.allclose(together, repeated, atol=1e-3, rtol=0)


def test_the_measured_grid_does_something(family, trained):
    # at the paper's size: a blur of 0.5 pixels there is none at all on a thumbnail
    x = images(1, 3 if family in COLOURED else 1, 227, 230)
    reference = next(trained.apply(x, p.params) for p in trained.grid() if p.label == UNTOUCHED)
    for point in trained.grid():
        if point.label != UNTOUCHED and family != "crop":
            change = (trained.apply(x, point.params) - reference).abs().mean()
            assert change > 0.05, f"{point.label} leaves the image as it is"


def test_input_parameters_and_random_state_are_left_alone(trained):
    x, params = images(), draw(trained, 5)
    before, kept = x.clone(), {key: value.clone() for key, value in params.items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first = trained.apply(x, params)
    again = trained.apply(x, params)
    grid = trained.grid()
    draw(trained, 3)
    assert torch.equal(first, again)
    for point, same in zip(grid, trained.grid(), strict=True):
        assert all(torch.equal(point.params[key], same.params[key]) for key in point.params)
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1]) and states[2] == random.getstate()
    first.fill_(-1)
    untouched = trained.apply(x, next(p for p in grid if p.label == UNTOUCHED).params)
    untouched.fill_(-1)
    assert torch.equal(x, before)
    assert all(torch.equal(params[key], kept[key]) for key in kept)


def test_mixed_precision_leaves_the_images_precise(trained):
    x, params = images(), draw(trained, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = trained.apply(x, params)
    assert mixed.dtype == torch.float32 and torch.equal(mixed, trained.apply(x, params))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in LIBRARY])
def test_everything_is_computed_on_the_images_device(trained, monkeypatch):
    """The meta device computes nothing, but refuses to mix with tensors that stayed on the CPU."""
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: nullcontext())
    x = torch.empty(4, 3, 24, 37, device="meta")
    for params in (draw(trained, 4), trained.grid()[0].params):
        assert trained.apply(x, params).device.type == "meta"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_type_channels_and_values_stay(family, trained, channels, dtype):
    x = images(4, channels, dtype=dtype)
    x[0], x[1] = 0, 255
    for params in (draw(trained, 4), trained.grid()[-1].params):
        if channels == 1 and family in COLOURED:
            with pytest.raises(UserError, match="it takes RGB"):
                trained.apply(x, params)
            continue
        out = trained.apply(x, params)
        assert out.dtype == dtype and out.shape[:2] == x.shape[:2] and out.is_contiguous()
        assert out.min() >= 0 and out.max() <= 255


def test_float32_agrees_with_float64(trained):
    x, params = images(dtype=torch.float64), draw(trained, 5)
    assert torch.allclose(trained.apply(x.float(), params).double(), trained.apply(x, params), atol=0.02, rtol=0)


def test_input_that_is_not_contiguous_is_read_right(trained):
    x, params = images(), draw(trained, 5)
    for other in (x.to(memory_format=torch.channels_last), x.mT.contiguous().mT):
        assert torch.allclose(trained.apply(other, params), trained.apply(x, params), atol=1e-3, rtol=0)


def test_wrong_batches_are_refused(trained):
    params = draw(trained, 3)
    for x in (images(5), images(3)[0], images(3).to(torch.uint8)):
        with pytest.raises(ValueError, match="it takes 1 or 5|floats"):
            trained.apply(x, params)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "baseline"])
def test_drawing_needs_a_range(family):
    with pytest.raises(UserError, match=f"{LIBRARY.get(family, family)}: .*range"):
        draw(build(config_of(family)), 2)


NO_NUMBERS = [
    "abc",
    "",
    True,
    math.nan,
    math.inf,
    -math.inf,
    -1,
    0,
    0.0,
    {},
    [],
    {"a": 1},
    [5, 10],
    (5, 10),
    "5,10",
    1e9,
]


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_bad_ranges_are_refused_in_one_line(family, value):
    with pytest.raises(UserError) as caught:
        build({**config_of(family), "range": value})
    text = str(caught.value)
    assert "\n" not in text and text.startswith(f"{LIBRARY.get(family, family)}: ") and "range" in text
    assert repr(value) in text or value in (0, False)
    if value in ([5, 10], "5,10") and family != "baseline":
        assert "-m range=5,10" in text


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("rotation", "range", 180.5),
        ("rotation", "angles", 5),
        ("rotation", "angles", "5"),
        ("rotation", "angles", [5, 5]),
        ("rotation", "angles", [181]),
        ("rotation", "angles", [math.nan]),
        ("rotation", "angles", ["5"]),
        ("rotation", "angles", [True]),
        ("rotation", "angles", [0, 5]),
        ("rotation", "angles", None),
        ("shear", "range", 90),
        ("shear", "angles", [-90]),
        ("crop", "range", 227),
        ("crop", "range", 240.5),
        ("crop", "range", 2271),
        ("crop", "range", 100),
        ("crop", "windows", 4),
        ("crop", "windows", 0),
        ("crop", "windows", "5"),
        ("crop", "windows", 2.0),
        ("mirror", "range", "diagonal"),
        ("mirror", "range", 5),
        ("mirror", "range", ["horizontal", "both"]),
        ("elastic", "sigma", 0),
        ("elastic", "sigma", -1),
        ("elastic", "sigma", None),
        ("elastic", "sigma", [2, 3]),
        ("elastic", "sigma", math.inf),
        ("elastic", "alphas", [-5]),
        ("elastic", "sigmas", [0]),
        ("elastic", "range", 228),
        ("elastic", "scale_lengths", "false"),
        ("elastic", "grid_seed", -1),
        ("elastic", "grid_seed", 0.5),
        ("blur", "border", "wrap"),
        ("blur", "border", None),
        ("blur", "sigmas", [-1]),
        ("blur", "range", 114),
        ("blur", "scale_lengths", 1),
        ("noise", "sigmas", [256]),
        ("noise", "range", 256),
        ("noise", "grid_seed", True),
        ("color_jitter", "brightness", [300]),
        ("color_jitter", "range", 256),
        ("perspective", "square", "unit"),
        ("perspective", "draws", -1),
        ("perspective", "draws", "ten"),
        ("perspective", "scale_lengths", None),
        ("baseline", "range", 5),
    ],
)
def test_bad_arguments_are_refused_in_one_line(family, key, value):
    with pytest.raises(UserError) as caught:
        build({**config_of(family), key: value})
    text = str(caught.value)
    assert "\n" not in text and text.startswith(f"{family}: ") and key in text
    assert str(value) in text or repr(value) in text or any(repr(item) in text for item in value)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_argument_is_taken_or_refused(family, data):
    config = config_of(family)
    keys = [key for key in config if key not in ("name", "label", "sweep", "_target_")]
    key = data.draw(st.sampled_from(keys))
    try:
        built = build({**config, key: data.draw(ANYTHING)})
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert built.grid()


def test_unknown_arguments_name_the_nearest(family):
    with pytest.raises(UserError, match="transform.rnage is no argument.*'range'"):
        build({**config_of(family), "rnage": 5})


@pytest.mark.parametrize(
    "target",
    [
        None,
        "os.system",
        "invariance.errors.UserError",
        "invariance.transforms.rotation.Rotatoin",
        "invariance.transforms.nowhere.Rotation",
        "invariance.transforms.base.Transform",
        "invariance.transforms.rotation.warp_homography",
        "invariance.transforms.base.GridPoint",
        "invariance.transforms.",
        "invariance.transforms..Rotation",
    ],
)
def test_only_families_of_the_package_are_built(target):
    with pytest.raises(UserError, match="_target_"):
        build({"_target_": target})


ELEVENTH = '''
"""Darker images."""
import torch
from invariance.transforms.base import Transform, check_batch, line_grid


class Dim(Transform):
    uniforms = 1

    def __init__(self, range=None, factors=()):
        self.range, self.factors = range, factors

    def params_of(self, uniforms):
        return {"loss": self.range * uniforms[:, 0]}

    def grid(self):
        return line_grid(self.factors, lambda f: {"loss": torch.tensor([f]).double()}, lambda f: f <= self.range)

    def apply(self, x, params):
        check_batch(x, params)
        return x * (1 - params["loss"][:, None, None, None].to(x))
'''


def test_an_eleventh_family_is_one_module_and_one_file(tmp_path, monkeypatch):
    (tmp_path / "dim.py").write_text(ELEVENTH)
    (tmp_path / "dim.yaml").write_text(
        "name: dim\nlabel: dim_${range}\nsweep: {range: [0.5]}\n_target_: invariance.transforms.dim.Dim\n"
        "range: ${range}\nfactors: [0.1, 0.5]\n"
    )
    monkeypatch.setattr(invariance.transforms, "__path__", [*invariance.transforms.__path__, str(tmp_path)])
    config = OmegaConf.create({"range": 0.2, "transform": OmegaConf.load(tmp_path / "dim.yaml")})
    transform = build(OmegaConf.to_container(config, resolve=True)["transform"])
    sys.modules.pop("invariance.transforms.dim")
    assert [point.label for point in transform.grid() if point.covered] == [UNTOUCHED, "0.1"]
    x = images()
    assert torch.allclose(transform.apply(x, transform.grid()[2].params), x / 2)


def test_what_families_share_knows_none_of_them():
    folder = Path(invariance.transforms.__file__).parent
    shared = [path for path in folder.glob("*.py") if path.stem not in FAMILIES]
    assert len(shared) >= 5
    for path in shared:
        text = path.read_text().replace("transform=baseline", "").replace("rotation.Rotation", "")
        named = [family for family in FAMILIES if f"transforms.{family}" in text or f'"{family}"' in text]
        assert not named, f"{path.name} names {named}"
