"""Families of other libraries by name, their strengths, and sets of grids."""

from enum import Enum
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from invariance import UserError
from invariance.engine.grid_sets import sets
from invariance.engine.grids import check_grids, check_wanted, grids_for
from invariance.experiments.families import EachGrid
from invariance.settings.files import families, family_config, paper_families
from invariance.settings.outside import outside_config
from invariance.transforms import build
from invariance.transforms.base import UNTOUCHED
from invariance.transforms.foreign import Foreign
from invariance.transforms.of_library import OfLibrary, _put, checked_arguments
from invariance.transforms.severities import Severities

BASELINE = {"name": "baseline"}
NEW = [family for family in families() if family not in paper_families()]
FOG = {"of": "albumentations:RandomFog", "arguments": {"p": 1}, "measured": {"alpha_coef": "s"}}


def photos(height=60, width=84):
    """Colour images with detail at every scale."""
    seeded = torch.Generator().manual_seed(2)
    sums = torch.zeros(2, 3, height, width)
    for side in (3, 9, 27):
        rough = torch.rand(2, 3, side, side + 2, generator=seeded)
        sums += nn.functional.interpolate(rough, (height, width), mode="bilinear") * 85
    return sums.round()


def changes(transform, x):
    """How much each g of a grid changes images, by its value."""
    return {point.value: float((transform.apply(x, point.params) - x).abs().mean()) for point in transform.grid()}


def grows(changed):
    """Whether images change more, the farther from the untouched, on either side of it."""
    sides = [sorted(value for value in changed if value >= 0), sorted((v for v in changed if v <= 0), reverse=True)]
    return all(changed[one] < changed[other] for side in sides for one, other in zip(side, side[1:], strict=False))


@pytest.mark.parametrize("family", NEW)
def test_a_grid_begins_at_the_untouched_and_grows(family):
    transform = grids_for(BASELINE, [family], {})[0].transform
    changed = changes(transform, photos())
    assert changed[0.0] == 0 and len(changed) > 4
    # turned by 180 degrees hues are as far as they get, and 150 is hardly nearer
    assert grows({value: one for value, one in changed.items() if not (family == "hue" and abs(value) > 150)})


def test_the_corruptions_are_fifteen_at_five_severities_that_grow():
    grids = grids_for(BASELINE, ["corruptions"], {})
    assert len(grids) == 15 and {grid.name.partition(".")[0] for grid in grids} == {"corruptions"}
    for grid in grids:
        points = grid.transform.grid()
        assert [point.label for point in points] == [UNTOUCHED, "1", "2", "3", "4", "5"], grid.name
        assert [point.value for point in points] == [0, 1, 2, 3, 4, 5] and not points[-1].covered
        assert grows(changes(grid.transform, photos())), grid.name


def test_one_of_a_set_is_chosen_by_its_name_and_none_twice():
    assert [grid.name for grid in grids_for(BASELINE, ["corruptions.fog", "rotation"], {})] == [
        "rotation",
        "corruptions.fog",
    ]
    assert len(grids_for(BASELINE, ["corruptions", "corruptions.fog"], {})) == 15
    check_wanted(["corruptions", "corruptions.fog", "albumentations:RandomFog"])
    with pytest.raises(UserError, match="did you mean 'corruptions.fog'"):
        check_wanted(["corruptions.fgo"])


@pytest.mark.parametrize("name", ["corruptions", "corruptions.fog", "corruptions.fgo"])
def test_the_grids_of_a_set_have_no_other_settings(name):
    with pytest.raises(UserError, match=r"the grids of a set are fixed; measure grids=\[fog\] with grid.fog"):
        check_grids({name: {}})


def test_all_are_the_papers_and_a_new_one_is_named():
    assert {grid.family for grid in grids_for(BASELINE, "all", {})} == set(paper_families()) - {"baseline"}
    assert [grid.name for grid in grids_for(BASELINE, ["fog"], {})] == ["fog"]
    trained = OmegaConf.to_container(OmegaConf.merge(family_config("fog"), {"range": 0.2, "label": "fog_0.2"}))
    own = grids_for(trained, "own", {})
    assert [point.label for point in own[0].transform.grid() if own[0].covered(point)] == [
        UNTOUCHED,
        "0.02",
        "0.05",
        "0.1",
        "0.2",
    ]
    assert "fog" in {grid.name for grid in grids_for(trained, "all", {})}


@pytest.mark.parametrize("set_name", sets())
def test_every_grid_of_a_set_is_built_of_a_family_that_there_is(set_name):
    for grid in grids_for(BASELINE, [set_name], {}):
        assert isinstance(grid.transform, Severities) and grid.settings["of"]["name"] in families()


def test_a_strength_is_the_librarys_own_at_that_argument():
    import albumentations

    x = photos()
    family = OfLibrary(**FOG, strengths=[0.1, 0.3])
    for strength, point in zip((0.1, 0.3), family.grid()[1:], strict=True):
        own = albumentations.RandomFog(alpha_coef=strength, p=1)
        own.set_random_seed(0)
        image = own(image=x[0].byte().permute(1, 2, 0).numpy())["image"]
        assert torch.equal(family.apply(x, point.params)[0], torch.from_numpy(image).permute(2, 0, 1).float())


@pytest.mark.parametrize(
    ("text", "expected"),
    [("s", 0.3), ("-s", -0.3), ("1-s", 0.7), ("1 + 2*s", 1.6), ("100 - s", 99.7), ("0.5*s", 0.15), ("texts", "texts")],
)
def test_where_a_strength_stands_in_an_argument(text, expected):
    assert _put({"a": [text, {"b": text}]}, 0.3) == {"a": (expected, {"b": expected})}


def test_named_strengths_are_an_ordinal_grid():
    family = OfLibrary("kornia:RandomPlanckianJitter", strengths={"3000 K": {"select_from": 0, "p": 1.0}})
    assert family.ordinal and [point.label for point in family.grid()] == [UNTOUCHED, "3000 K"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"of": "albumentations:RandomFgo"}, "did you mean 'RandomFog'"),
        ({"of": "albumentations:np"}, "is not there|no transformation"),
        ({"of": "kornia:RandomFog"}, "is not there"),
        ({"of": "mine:Fog"}, "give one of albumentations:Class"),
        ({"of": "fog"}, "give one of albumentations:Class"),
        ({**FOG, "arguments": {"fog_coef": 1}, "strengths": [0.1]}, "takes no fog_coef; did you mean 'fog_coef_range'"),
        ({**FOG, "arguments": [1]}, "give arguments by name"),
        ({**FOG, "strengths": [3]}, "at strength 3 .*less than or equal to 1"),
        ({**FOG, "strengths": [0, 0.1]}, "apart from 0, which is the untouched"),
        ({**FOG, "strengths": [0.1, 0.1]}, "names one twice"),
        ({**FOG, "strengths": ["a"]}, "'a' in strengths is no number"),
        ({**FOG, "strengths": 5}, "give a list of numbers"),
        (FOG, "takes strengths; give them"),
        ({"of": FOG["of"], "strengths": [1]}, "strengths are put nowhere"),
        ({"of": FOG["of"], "range": 1}, "range=1 is put nowhere"),
        ({"of": "torchvision:RandomPosterize"}, "needs bits: give transform.bits=…, or grid="),
        ({"of": "albumentations:RandomCrop", "arguments": {"height": -1}}, "needs width"),
        ({"of": "kornia:RandomHorizontalFlip", "arguments": {"p": 2}}, "p=2: give a probability"),
        ({"of": "torchvision:Compose"}, "chains are given in Python"),
        ({"of": "kornia:AugmentationBase2D"}, "no transformation of its own"),
        ({**FOG, "whole": True, "strengths": [0.5]}, "0.5 is no whole number"),
        ({**FOG, "range": 3, "most": 1}, "at most 1"),
    ],
)
def test_bad_input_is_one_line(arguments, said):
    with pytest.raises(UserError, match=said) as told:
        OfLibrary(**arguments)
    assert "\n" not in str(told.value)


def test_one_that_changes_the_size_or_needs_boxes_is_refused_where_images_are_there():
    for of, arguments in (
        ("albumentations:RandomCrop", {"height": 9, "width": 9}),
        ("albumentations:RandomSizedBBoxSafeCrop", {"height": 9, "width": 9}),
        ("albumentations:ToFloat", {}),
        ("torchvision:Resize", {"size": 9}),
    ):
        family = OfLibrary(of, arguments=arguments)
        with pytest.raises(UserError, match=of.partition(":")[2]):
            family.apply(photos(), family.grid()[1].params)


def test_a_transformation_by_name_is_a_configuration_with_its_own_arguments():
    config = outside_config("albumentations:RandomFog")
    assert (
        config["alpha_coef"] == 0.08
        and config["fog_coef_range"] == [0.3, 1]
        and config["name"] == "albumentations.RandomFog"
    )
    assert outside_config("torchvision:RandomRotation")["interpolation"] == "nearest"
    for trained, label in ((None, "albumentations.RandomFog"), (0.5, "albumentations.RandomFog_0.5")):
        made = OmegaConf.to_container(OmegaConf.create({"range": trained, "transform": config}), resolve=True)[
            "transform"
        ]
        assert made["label"] == label
        settings = {**made, "trained": {"alpha_coef": "s"}} if trained else made
        drawn = build(settings).sample(3, torch.Generator().manual_seed(0))
        assert build(settings).apply(photos()[:1].repeat(3, 1, 1, 1), drawn).shape == (3, 3, 60, 84)


def test_what_torchvision_enumerates_is_typed_as_a_word():
    config = outside_config("torchvision:RandomRotation") | {
        "degrees": [20, 20],
        "interpolation": "bilinear",
        "range": None,
    }
    smooth = build(config)
    rough = build(config | {"interpolation": "nearest"})
    x = photos()
    made = [one.apply(x, one.grid()[1].params) for one in (smooth, rough)]
    assert not torch.equal(*made)
    with pytest.raises(UserError, match="cubist"):  # at once where the library has an enumeration, else at the images
        wrong = build(config | {"interpolation": "cubist"})
        wrong.apply(x, wrong.grid()[1].params)


def test_what_a_class_enumerates_is_a_word():
    class Way(Enum):
        NEAR = 0
        FAR = 1

    def family(way=Way.NEAR):
        return way

    assert checked_arguments("it", family, {"way": "far"}) == {"way": Way.FAR}
    with pytest.raises(UserError, match="way='fra'; did you mean 'far'"):
        checked_arguments("it", family, {"way": "fra"})


def test_every_yaml_of_a_library_says_all_that_decides_it():
    for family in NEW:
        text = Path(__file__).parents[1].joinpath("conf", "transform", f"{family}.yaml").read_text(encoding="utf-8")
        if "of_library" in text:
            assert "p: 1" in text, family  # not applied at random


def test_what_takes_colours_alone_gets_a_gray_image_as_three_channels():
    gray = photos()[:, :1]
    for family in ("fog", "snow", "spatter"):
        transform = grids_for(BASELINE, [family], {})[0].transform
        for point in transform.grid():
            of_three = transform.apply(gray.repeat(1, 3, 1, 1), point.params)
            weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
            expected = (of_three * weights).sum(1, keepdim=True)
            assert torch.allclose(transform.apply(gray, point.params), expected, atol=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_of_gray_images_some_of_which_are_left_as_they_are_the_rest_is_changed(seed):
    import albumentations

    gray = photos(40, 52)[:, :1].repeat(4, 1, 1, 1)
    for of in (
        albumentations.RandomFog(p=0.5),
        albumentations.OneOf([albumentations.RandomSnow(p=1), albumentations.HorizontalFlip(p=1)], p=1),
    ):
        family, fresh = Foreign(of), Foreign(of)
        drawn = family.sample(8, torch.Generator().manual_seed(seed))
        first = family.apply(gray, drawn)
        assert torch.equal(family.apply(gray, drawn), first)  # that it has been used changes nothing
        last = {key: values[5:] for key, values in drawn.items()}
        assert torch.equal(fresh.apply(gray[5:], last), first[5:])


@pytest.mark.parametrize(
    ("family", "trained", "covered"),
    [
        ("gamma", 50, ["-50", "-30", "-15", UNTOUCHED, "15", "30"]),
        ("lens", 0.1, ["-0.1", "-0.05", UNTOUCHED, "0.05", "0.1"]),
        ("posterize", 4, [UNTOUCHED, "4"]),
        ("jpeg", 50, [UNTOUCHED, "10", "30", "50"]),
        ("grid_distortion", 0.2, [UNTOUCHED, "0.1", "0.2"]),
    ],
)
def test_covered_is_what_training_draws(family, trained, covered):
    config = OmegaConf.to_container(family_config(family))
    transform = build({**config, "range": trained})
    assert [point.label for point in transform.grid() if point.covered] == covered


def test_a_strength_may_stand_in_an_argument_that_must_be_given_or_in_the_classs_own():
    turned = {**outside_config("torchvision:RandomRotation"), "range": 20}
    family = build({**turned, "trained": {"degrees": ["-s", "s"]}})
    assert family.apply(photos(), family.sample(2, torch.Generator().manual_seed(0))).shape == photos().shape
    assert build({**turned, "degrees": ["-s", "s"]}).grid()[1].covered
    measured = OfLibrary("torchvision:RandomPosterize", strengths={1: {"bits": 7}, 2: {"bits": 6}})
    with pytest.raises(UserError, match="training needs bits"):
        measured.sample(2, torch.Generator())


def test_what_is_never_applied_is_not_called_always_applied():
    assert OfLibrary("kornia:RandomHorizontalFlip", arguments={"p": 0.0}).certain == []
    assert OfLibrary("kornia:RandomHorizontalFlip", arguments={"p": 0.4}).certain == ["RandomHorizontalFlip"]


def test_names_with_a_dot_are_those_with_a_colon():
    for name in ("albumentations:GaussNoise", "albumentations.GaussNoise"):
        check_wanted([name])
        assert [grid.name for grid in grids_for(BASELINE, [name], {})] == ["albumentations.GaussNoise"]


def test_a_transformation_that_does_not_take_the_images_stops_no_other(capsys):
    grids, done = grids_for(BASELINE, ["hue", "mirror", "albumentations:ToFloat"], {}), []
    each = EachGrid(len(grids))
    for grid in grids:
        with each.trying(grid):
            for point in grid.transform.grid():
                grid.transform.apply(photos()[:, :1], point.params)
            done.append(grid.name)
    with pytest.raises(UserError, match="2 of 3 grids could not be measured"):
        each.end()
    told = capsys.readouterr().err.splitlines()
    assert done == ["mirror"] and len(told) == 2 and told[0].startswith("error: hue: images of 1 channels")


def test_what_a_gray_image_becomes_does_not_hang_on_what_was_drawn_before():
    """Noise beside fog draws other numbers for one channel than for three, whether or not there was fog before."""
    import albumentations

    gray = photos(40, 52)[:1, :1].repeat(12, 1, 1, 1)
    of = albumentations.OneOf([albumentations.RandomFog(p=1), albumentations.GaussNoise(p=1)], p=1)
    family = Foreign(of)
    drawn = family.sample(12, torch.Generator().manual_seed(1))
    together = family.apply(gray, drawn)
    for k in range(12):
        one = {key: values[k : k + 1] for key, values in drawn.items()}
        assert torch.equal(Foreign(of).apply(gray[:1], one)[0], together[k])
