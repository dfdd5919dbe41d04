"""Transformations of albumentations, kornia and torchvision as families."""

import os
import random
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torchvision.transforms import v2

from invariance import UserError, measure_model, wrap
from invariance.settings.files import family_config
from invariance.training.classifier import Classifier
from invariance.transforms.base import UNTOUCHED
from invariance.transforms.foreign import Foreign, foreign
from tests import foreign_sweep
from tests.foreign_sweep import pictures

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations
import kornia.augmentation as kornia

SOME = {
    "grid": lambda: albumentations.GridDistortion(p=1),
    "fog": lambda: albumentations.GaussNoise(p=1),
    "one of": lambda: albumentations.Compose([albumentations.OneOf([albumentations.Blur(), albumentations.Rotate()])]),
    "noise": lambda: kornia.RandomGaussianNoise(p=1.0),
    "affine": lambda: kornia.RandomAffine(20.0, p=1.0),
    "chain": lambda: kornia.AugmentationSequential(kornia.RandomSharpness(p=1.0), kornia.RandomRotation(9.0, p=1.0)),
    "turn": lambda: v2.RandomRotation((10, 30)),
    "gauss": lambda: v2.GaussianNoise(),
    "jpeg": lambda: v2.JPEG((5, 60)),
    "several": lambda: [v2.RandomAdjustSharpness(3, p=1), albumentations.RandomGamma(p=1), kornia.RandomBoxBlur(p=1.0)],
}


@pytest.fixture
def global_states():
    """The global random states stay as they were."""
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    yield
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()
    assert (before[2] == np.random.get_state()[1]).all()


def draws_of(family, count, seed=3):
    return family.sample(count, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("channels", [1, 3])
def test_one_seed_is_one_g_for_every_image_of_whatever_batch(name, channels, global_states):
    x = pictures(channels=channels)
    family = Foreign(SOME[name]())
    points = family.grid()
    assert [point.label for point in points] == [UNTOUCHED, "1", "2", "3", "4", "5"]
    assert torch.equal(family.apply(x, points[0].params), x)
    before = x.clone()
    changed = [family.apply(x, point.params) for point in points[1:]]
    assert torch.equal(x, before)
    assert all(one.shape == x.shape and 0 <= one.min() and one.max() <= 255 for one in changed)
    assert all(float((one - x).abs().mean()) > 0 for one in changed)
    assert len({one.numpy().tobytes() for one in changed}) > 1
    for point, one in zip(points[1:], changed, strict=True):
        assert torch.equal(family.apply(x.flip(0), point.params).flip(0), one)
        assert torch.equal(family.apply(x[2:3], point.params), one[2:3])
    # another object of the same settings draws the same
    assert torch.equal(Foreign(SOME[name]()).apply(x, points[2].params), changed[1])


@pytest.mark.parametrize("name", SOME)
def test_training_draws_anew_for_every_image_by_its_own_seed(name, global_states):
    x, family = pictures(), Foreign(SOME[name]())
    drawn = draws_of(family, 4)
    changed = family.apply(x, drawn)
    apart = [family.apply(x[k : k + 1], {key: values[k : k + 1] for key, values in drawn.items()}) for k in range(4)]
    assert torch.equal(changed, torch.cat(apart))
    assert torch.equal(family.apply(x, draws_of(family, 4)), changed)
    first = draws_of(family, 2)
    assert torch.equal(first["seed"], drawn["seed"][:2]) and len(set(drawn["seed"].tolist())) == 4
    same = family.apply(x[:1].expand(4, -1, -1, -1), drawn)
    assert not all(torch.equal(same[0], one) for one in same[1:])


def test_what_is_drawn_is_what_the_library_draws():
    x = pictures()
    point = Foreign(SOME["fog"](), seed=8).grid()[1].params
    own = albumentations.GaussNoise(p=1)
    own.set_random_seed(8)
    wanted = own(image=np.ascontiguousarray(x[0].permute(1, 2, 0).byte().numpy()))["image"]
    assert (Foreign(SOME["fog"]()).apply(x[:1], point)[0].permute(1, 2, 0).numpy() == wanted).all()
    torch.manual_seed(8)
    assert torch.equal(Foreign(SOME["affine"](), seed=8).apply(x[:1], point), SOME["affine"]()(x[:1] / 255) * 255)
    torch.manual_seed(8)
    assert torch.equal(Foreign(SOME["turn"](), seed=8).apply(x, point), SOME["turn"]()(x / 255) * 255)


def test_strengths_are_one_draw_of_each_and_have_an_axis():
    family = Foreign({np.int64(n): v2.GaussianBlur(9, (float(n), float(n))) for n in (4, 1, 2)})
    points = family.grid()
    assert [(point.label, point.value) for point in points] == [(UNTOUCHED, 0), ("1", 1), ("2", 2), ("4", 4)]
    assert not family.ordinal and Foreign({"a": v2.RandomRotation((9, 9))}).ordinal and Foreign(SOME["fog"]()).ordinal
    x = pictures()
    off = [float((family.apply(x, point.params) - x).abs().mean()) for point in points]
    assert off[0] == 0 and off == sorted(off)
    assert len({int(point.params["seed"]) for point in points[1:]}) == 1
    with pytest.raises(UserError, match="strengths 1, 1 are not told apart"):
        Foreign({1: v2.RandomSolarize(9.0), 1.0000001: v2.RandomSolarize(10.0)})
    for strength in (0, True, float("nan"), float("inf"), "a:b", " ", None):
        with pytest.raises(UserError, match="is no strength; give numbers apart from 0"):
            Foreign({strength: v2.RandomSolarize(9.0)})
    with pytest.raises(UserError, match="is no strength; .* and not both"):
        Foreign({"weak": v2.RandomSolarize(9.0), 1: v2.RandomSolarize(9.0)})


@pytest.mark.parametrize(
    "of",
    [
        lambda: albumentations.Compose([albumentations.InvertImg(p=0.01)], p=0.5),
        lambda: kornia.AugmentationSequential(kornia.RandomInvert(p=0.01)),
        lambda: v2.Compose([v2.RandomApply([v2.RandomInvert(p=0.01)], p=0.5)]),
    ],
)
def test_measured_it_is_always_applied_and_that_is_said(of, capsys):
    x, given = pictures(), of()
    results = measure_model(model(), x.byte(), transforms=[given], layers=["0"], measures=["l2_distance"])
    assert "always applied, whatever the p that was given" in capsys.readouterr().out
    assert (results.query("not g.str.endswith('untouched')")["score"] > 0).all()
    family = Foreign(of())
    for point in family.grid()[1:]:
        torch.testing.assert_close(family.apply(x, point.params), 255 - x, rtol=0, atol=1e-4)
    trained = family.apply(x[:1].expand(60, -1, -1, -1), draws_of(family, 60))
    assert sum(torch.equal(one, x[0]) for one in trained) > 50  # drawn as it was given


def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    return wrap(net, preprocess=([0.5] * 3, [0.25] * 3), name="small")


def test_a_model_is_measured_under_what_a_user_has():
    x = pictures(12)
    given = [albumentations.GridDistortion(p=1), kornia.RandomPlanckianJitter(p=1.0), v2.GaussianBlur(5, (1.0, 2.0))]
    given += [[v2.GaussianBlur(3, (1.0, 2.0)), albumentations.HorizontalFlip(p=1)]]
    results = measure_model(model(), x.byte(), transforms=given, layers=["1"], measures=["l2_distance"])
    names = {g.partition(":")[0] for g in results["g"]}
    assert names == {"GridDistortion", "RandomPlanckianJitter", "GaussianBlur", "GaussianBlur_HorizontalFlip"}
    untouched = results["g"].str.endswith("untouched")
    assert (results[untouched]["score"] == 0).all() and (results[~untouched]["score"] > 0).all()


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (lambda: albumentations.RandomScale(p=1), "RandomScale makes .*; one that changes the size cannot be measured"),
        (lambda: albumentations.MaskDropout(p=1), r"MaskDropout of albumentations fails on .*'mask'"),
        (lambda: albumentations.ToFloat(p=1), "ToFloat gives float32, and not uint8"),
        (lambda: v2.Compose([v2.Normalize([0.5] * 3, [0.2] * 3)]), "leave a normalisation out"),
        (lambda: kornia.AugmentationSequential(kornia.Normalize(0.5, 0.2)), "leave a normalisation out"),
        (lambda: v2.RandomRotation((45, 45), fill=128), "give colours in .0, 1."),
        (lambda: v2.CutMix(num_classes=3), "CutMix of torchvision fails on .*labels"),
        (lambda: [], "transforms: a list is none"),
        (
            lambda: v2.RandomRotation,
            "transforms: a type is none; .* of albumentations, kornia.augmentation or torchvis",
        ),
        (lambda: [v2.RandomRotation(9), 3], "a int is of none of albumentations, kornia"),
        (lambda: nn.ReLU(), "transforms: a ReLU is none"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(of, said):
    with pytest.raises(UserError, match=said):
        measure_model(model(), pictures().byte(), transforms=[of()], layers=["0"], measures=["l2_distance"])


def test_chains_that_end_in_bytes_are_pictures():
    x = pictures()
    for of in (
        v2.ToDtype(torch.uint8, scale=True),
        v2.Compose([v2.RandomInvert(p=1), v2.ToDtype(torch.uint8, scale=True)]),
    ):
        family = Foreign(of)
        wanted = x if isinstance(of, v2.ToDtype) else 255 - x
        torch.testing.assert_close(family.apply(x, family.grid()[1].params), wanted, rtol=0, atol=1.0)


def test_what_chooses_between_parts_goes_on_choosing():
    invert, other = albumentations.InvertImg(p=0.3), albumentations.Solarize(threshold_range=(0.0, 0.0), p=0.3)
    either = Foreign(albumentations.OneOrOther(invert, albumentations.ToGray(p=0.1)), draws=12)
    x = pictures(1)
    seen = {either.apply(x, point.params).numpy().tobytes() for point in either.grid()[1:]}
    assert len(seen) == 2 and x.numpy().tobytes() not in seen
    some = Foreign(albumentations.SomeOf([invert, other], n=1, p=1), draws=8)
    assert some.certain == ["SomeOf"]
    assert all(torch.equal(some.apply(x, point.params), 255 - x) for point in some.grid()[1:])
    off = Foreign([v2.RandomInvert(p=0.0), kornia.RandomInvert(p=torch.tensor(0.2))])
    for point in off.grid()[1:]:
        torch.testing.assert_close(off.apply(x, point.params), 255 - x, rtol=0, atol=1e-3)


class Restless(v2.Transform):
    """Draws from a state of its own."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def transform(self, inpt, params):
        self.calls += 1
        return inpt * (1 - 0.1 * self.calls)


def test_what_a_seed_does_not_fix_is_refused():
    with pytest.raises(UserError, match="Restless gives other numbers under the same seed, and cannot be measured"):
        family = Foreign(Restless())
        family.apply(pictures(), family.grid()[1].params)
    assert foreign("rotation") is None


@pytest.mark.long
@pytest.mark.parametrize("library", foreign_sweep.LIBRARIES)
def test_every_transformation_is_fixed_by_a_seed_or_refused_as_the_page_says(library, global_states):
    found = foreign_sweep.tried(library)
    works = [one.name for one in found if not one.refused]
    assert len(works) > 20, found
    page = Path(__file__).parents[1].joinpath("docs", "transformations", "libraries.md").read_text(encoding="utf-8")
    if foreign_sweep.versions() in page:  # other releases have others
        line = next(one for one in page.splitlines() if one.startswith(f"| {library} |"))
        _, there, refused = line.strip("| ").split(" | ")
        assert re.findall(r"`(\w+)`", there) == works
        assert set(re.findall(r"`(\w+)`", refused)) == {one.name for one in found if one.refused}


def classifier(transform):
    """A small network with dropout that is trained under a family."""
    model = {"_target_": "invariance.models.caffenet.CaffeNet", "width": 0.03125, "features": 64, "input_size": 28}
    recipe = {"label_smoothing": 0.0}
    made = Classifier({**model, "groups": 2, "dropout": 0.5}, transform, recipe, ["a", "b"], 1, [120.0], 3)
    made.log = lambda *_, **__: None
    return made


@pytest.mark.parametrize("family", ["sharpness", "fog", "jpeg"])
def test_an_update_is_the_same_whatever_was_trained_before(family):
    config = OmegaConf.to_container(family_config(family))
    config = {**config, "range": config["sweep"]["range"][-1]}
    images, y = torch.randint(0, 256, (6, 1, 28, 28), dtype=torch.uint8), torch.tensor([0, 1] * 3)

    def loss_of(module, step):
        module._trainer = SimpleNamespace(global_step=step, global_rank=0, world_size=1)
        return module.training_step((images, y), 0).item()

    begun, resumed = classifier(config), classifier(config)
    whole = [loss_of(begun, step) for step in range(1, 5)]
    assert [loss_of(resumed, step) for step in range(3, 5)] == whole[2:] and len(set(whole)) == 4


def test_training_and_drawing_on_other_threads_do_not_meet():
    """Dropout of an update is the same while another thread seeds the global states for its transformations."""
    noisy, x = foreign(kornia.RandomGaussianNoise(p=1.0)), pictures(2)
    module = classifier({"name": "baseline", "_target_": "invariance.transforms.baseline.Baseline"})
    images, y = torch.randint(0, 256, (8, 1, 28, 28), dtype=torch.uint8), torch.tensor([0, 1] * 4)

    def losses():
        found = []
        for step in range(1, 21):
            module._trainer = SimpleNamespace(global_step=step, global_rank=0, world_size=1)
            found.append(module.training_step((images, y), 0).item())
        return found

    def drawn():
        return noisy.apply(x, noisy.grid()[1].params)

    alone, expected = losses(), drawn()
    ended, made = threading.Event(), []

    def draw():
        while not ended.is_set():
            made.append(torch.equal(drawn(), expected))

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        while not made:
            assert thread.is_alive()
        assert losses() == alone
    finally:
        ended.set()
        thread.join()
    assert all(made)
