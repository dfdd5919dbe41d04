"""φ of a split, streamed: the same numbers as all at once, in the order asked for."""

import numpy as np
import pytest
import torch

from invariance.engine.grids import grids_for
from invariance.engine.stream import extract
from invariance.errors import UserError
from invariance.models.caffenet import CaffeNet
from invariance.models.representation import Representation
from invariance.transforms.rotation import Rotation

BASELINE = {"_target_": "invariance.transforms.baseline.Baseline", "name": "baseline", "range": None}
ROTATION = {"_target_": "invariance.transforms.rotation.Rotation", "name": "rotation", "range": 20, "angles": [-5, 7]}


@pytest.mark.parametrize("batch", [1, 3, 7, 64])
def test_streamed_features_are_those_of_one_pass(tmp_path, batch):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "images.npy", rng.integers(0, 256, (11, 1, 28, 28), dtype=np.uint8))
    images = np.load(tmp_path / "images.npy", mmap_mode="r")
    cut = Representation(CaffeNet(3, 1, 28, 0.125, 16), "relu7")
    family = Rotation(range=20, angles=[30])
    g = {point.label: point.params for point in family.grid()}["30"]
    indices = np.array([7, 2, 2, 10, 0, 5, 9])
    seen = []
    got = extract(
        cut, lambda x: x / 255, images, indices, family, g, device=torch.device("cpu"), batch=batch, advance=seen.append
    )
    x = family.apply(torch.from_numpy(images[indices]).float(), g)
    assert torch.allclose(got, cut.phi(x / 255), atol=1e-5)
    assert got.shape == (7, 16) and sum(seen) == 7


def names(*arguments):
    return [grid.name for grid in grids_for(*arguments)]


def test_a_network_is_measured_over_its_own_grid_and_a_baseline_over_all():
    everything = names(BASELINE, "own", {})
    assert names(ROTATION, "own", {}) == ["rotation"]
    assert everything == names(BASELINE, "all", {}) and "baseline" not in everything
    assert [name for name in everything if name.startswith("crop")] == ["crop_240", "crop_256", "crop_288", "crop_320"]
    assert len(everything) == 8 + 4
    assert names(BASELINE, ["crop_288", "shear"], {}) == ["crop_288", "shear"]
    assert names(BASELINE, "crop", {}) == ["crop_240", "crop_256", "crop_288", "crop_320"]


def test_own_values_and_range_hold_on_the_own_grid_alone():
    [own] = grids_for(ROTATION, "own", {})
    assert [(p.label, own.covered(p)) for p in own.transform.grid()] == [("-5", True), ("untouched", True), ("7", True)]
    [other] = grids_for(BASELINE, "rotation", {"rotation": {"angles": [80]}})
    assert [(p.label, other.covered(p)) for p in other.transform.grid()] == [("untouched", True), ("80", False)]
    [crop] = grids_for(BASELINE, "crop_256", {})
    assert [p.label for p in crop.transform.grid() if crop.covered(p)] == ["untouched"]
    with pytest.raises(UserError, match="did you mean 'angles'"):
        grids_for(BASELINE, "rotation", {"rotation": {"angle": [80]}})
    with pytest.raises(UserError, match="did you mean 'shear'"):
        grids_for(BASELINE, "sheer", {})
