"""One number, one name, however it is written."""

import pytest

from invariance.engine.grids import joint_grid
from invariance.settings.numbers import canonical, with_names_of
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
    trained = {"name": "rotation", "_target_": "invariance.transforms.rotation.Rotation", "range": 20}
    whole, written = (joint_grid(trained, {"rotation": {"angles": angles}}) for angles in ([-10, 10], [-10.0, 10.0]))
    assert whole.name == written.name
    assert joint_grid(trained, {"rotation": {"range": 20.0, "angles": [5]}}).family == "rotation"


def test_canonical_leaves_alone_what_is_no_whole_number():
    given = {"a": [1.5, True, "20.0", None, float("nan"), float("inf")], "b": -0.0}
    assert repr(canonical(given)) == "{'a': [1.5, True, '20.0', None, nan, inf], 'b': 0}"


@pytest.mark.parametrize(
    ("page", "written", "plain", "name"),
    [
        ("train", ["transform=rotation", "range=20.0"], ["transform=rotation", "range=20"], "rotation_20"),
        (
            "train",
            ["transform=elastic", "range=5.0", "transform.sigma=2.0"],
            ["transform=elastic", "range=5", "transform.sigma=2"],
            "elastic_5_sigma2",
        ),
        ("train", ["transform=crop", "range=256.0"], ["transform=crop", "range=256"], "crop_256"),
        ("train", ["transform=blur", "range=1.5"], ["transform=blur", "range=1.50"], "blur_1.5"),
        ("train", ["range=20.0", "transform=rotation", "name=mine_20.0"], None, "mine_20.0"),
        ("train", [], [], "baseline"),
        ("finetune", ["joint.lambda3=1.0"], ["joint.lambda3=1"], "joint_1"),
    ],
)
def test_a_configuration_composed_in_python_has_the_same_names(compose, page, written, plain, name):
    made = with_names_of(page, compose(page, *written))
    assert made["name"] == name
    if plain is not None:
        assert repr(made) == repr(with_names_of(page, compose(page, *plain)))
    if page == "train" and plain:
        own = typed(page, *written)
        assert repr(made["transform"]) == repr(own["transform"])


def test_a_network_trained_from_python_has_the_command_s_place(compose, tmp_path, capsys):
    from invariance.experiments.train import train

    options = ["model=tiny", "recipe=smoke", "recipe.updates=2", "recipe.val_every=2", "recipe.step=2", "logger=csv"]
    places = [f"runs={tmp_path}/runs", f"prepared={tmp_path}/prepared", "trainer=cpu", "progress=false"]
    for written in ("20.0", "20"):
        train(compose("train", "transform=rotation", f"range={written}", *options, *places))
    assert "finished already" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "runs/train/digits").iterdir()] == ["rotation_20"]
