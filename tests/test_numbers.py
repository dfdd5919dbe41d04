"""One number, one name, however it is written."""

import pytest

from invariance.engine.grids import joint_grid
from invariance.settings.numbers import canonical
from tests.test_heeded import typed


@pytest.mark.parametrize("written", ["20", "20.0", "2e1", "20.", "+20", "2_0"])
def test_a_range_has_one_name(written):
    config = typed("train", "transform=rotation", f"range={written}")
    assert config["name"] == "rotation_20" and repr(config["range"]) == repr(config["transform"]["range"]) == "20"


def test_so_has_what_else_stands_in_a_name():
    assert typed("train", "transform=elastic", "range=5.0", "transform.sigma=2.0")["name"] == "elastic_5_sigma2"
    assert typed("train", "transform=crop", "range=256.0")["transform"]["grid"] == "crop_256"
    assert typed("train", "transform=blur", "range=1.50")["name"] == "blur_1.5"
    assert typed("finetune", "joint.lambda3=1.0")["name"] == typed("finetune", "joint.lambda3=1")["name"] == "joint_1"
    assert typed("train", "network=rotation_20", "range=20.0")["name"] == "rotation_20"


def test_a_set_G_goes_by_its_numbers():
    trained = {"name": "rotation", "range": 20}
    whole, written = (joint_grid(trained, {"rotation": {"angles": angles}}) for angles in ([-10, 10], [-10.0, 10.0]))
    assert whole.name == written.name
    assert joint_grid(trained, {"rotation": {"range": 20.0, "angles": [5]}}).family == "rotation"


def test_canonical_leaves_alone_what_is_no_whole_number():
    given = {"a": [1.5, True, "20.0", None, float("nan"), float("inf")], "b": -0.0}
    assert repr(canonical(given)) == "{'a': [1.5, True, '20.0', None, nan, inf], 'b': 0}"
