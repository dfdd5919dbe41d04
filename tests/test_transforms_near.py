"""No g of a grid may be a near copy of the untouched image, nor of its neighbour, at the paper's size."""

import pytest
import torch
from omegaconf import OmegaConf

from invariance.engine.grids import grids_for, joint_grid
from invariance.settings.files import family_config, family_sweep, paper_families
from invariance.transforms.blur import Blur
from invariance.transforms.color_jitter import ColorJitter
from invariance.transforms.hue import Hue
from invariance.transforms.near import near_copies, probe, told
from invariance.transforms.perspective import Perspective

BASELINE = {"name": "baseline", "label": "baseline", "_target_": "invariance.transforms.baseline.Baseline"}
GRIDS = grids_for(BASELINE, "all", {})


def sets_g():
    for family in paper_families():
        if family_sweep(family):
            config = OmegaConf.to_container(family_config(family))
            trained = {key: value for key, value in config.items() if key not in ("label", "grid")}
            yield joint_grid({**trained, "range": {"crop": 256, "mirror": "both"}.get(family, 4)}, {})


@pytest.mark.parametrize("grid", [*GRIDS, *sets_g()], ids=lambda grid: grid.name)
def test_at_the_papers_size_every_g_does_something_of_its_own(grid):
    assert len(grid.transform.grid()) > 2
    assert near_copies(grid.transform, 227) == []


def test_every_family_is_asked():
    assert {grid.family for grid in GRIDS} == {family for family in paper_families() if family_sweep(family)}


def test_near_copies_are_found_and_told():
    # every coordinate but one moved alike is nearly a shift of the pixel that the square is: signs that cancel
    still = Perspective(moves=[[0.01] * 8, [2, -2, 1, 1, 0, 1, 1, -1]])
    assert near_copies(still, 227) == [("move 1", "untouched")]
    blur = Blur(sigmas=[0.5, 0.6, 3])
    assert near_copies(blur, 56) == [("0.5", "untouched"), ("0.6", "untouched"), ("0.6", "0.5")]
    assert near_copies(Blur(sigmas=[0.5, 3]), 227) == []
    line = told(near_copies(blur, 56), "blur", 56)
    assert "at 56 pixels" in line and "0.5 and untouched" in line and "\n" not in line
    assert told([], "blur", 227) == ""
    assert near_copies(ColorJitter(brightness=[-0.5, 2]), 31) == [("-0.5", "untouched")]


def test_the_probe_is_fixed_and_has_detail_at_every_scale():
    image = probe(227)
    assert torch.equal(image, probe(227)) and image.shape == (1, 1, 227, 227)
    assert image.min() >= 0 and image.max() <= 255 and 40 < image.std() < 55
    power = torch.fft.rfft2(image[0, 0].double() - image.mean()).abs().square()[:100, 0]
    assert power[1:4].mean() > 20 * power[20:40].mean() > 20 * power[60:100].mean() / 2


def test_images_of_colours_are_asked_with_colours():
    hue = Hue(angles=[1, 40])
    assert near_copies(hue, 40, 3) == [("1", "untouched")]
    assert torch.equal(probe(31, 3)[:, :1], probe(31)) and not torch.equal(probe(31, 3)[:, 1:2], probe(31))
