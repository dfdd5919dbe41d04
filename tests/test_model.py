"""A network with what belongs to it: wrapped, loaded by name, and what is refused."""

import sys

import pytest
import torch
from torch import nn

from invariance.errors import UserError
from invariance.models import sources
from invariance.models.model import Model, hash_of_weights, wrap
from invariance.training.loading import load_model

HALVES = ([0.5] * 3, [0.25] * 3)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def test_mean_and_std_are_of_images_in_0_to_1():
    model = wrap(network(), {"mean": [0.1, 0.2, 0.3], "std": torch.tensor([0.5, 0.25, 1])}, size=4)
    x = torch.full((2, 3, 4, 4), 51.0)
    assert model.prepare(x)[0, :, 0, 0].tolist() == pytest.approx([0.2, 0, -0.1])
    assert model.recipe == "size 4; (x / 255 − [0.1, 0.2, 0.3]) / [0.5, 0.25, 1.0]" and model.name == "Sequential"
    cut = model.cut(["0"])
    assert cut.phi(model.prepare(x.byte()))["0"].shape == (2, 8)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "preprocess= is missing"),
        ({"preprocess": 3}, "neither mean and std nor a function"),
        ({"preprocess": ([0.5], [0.0])}, "std above 0"),
        ({"preprocess": ([123.0] * 3, [58.0] * 3)}, r"is not of images in \[0, 1\]; divide"),
        ({"preprocess": ([float("nan")], [1.0])}, r"is not of images in \[0, 1\]"),
        ({"preprocess": (["a"], [1.0])}, "one number a channel"),
        ({"preprocess": HALVES, "size": 0}, "size=0"),
        ({"preprocess": HALVES, "size": (224, 224)}, "side of square images"),
        ({"preprocess": HALVES, "classes": "cat"}, "classes='cat'"),
        ({"preprocess": HALVES, "name": ""}, "is no name"),
        ({"preprocess": HALVES, "device": "tpu9"}, "device='tpu9'"),
    ],
)
def test_what_cannot_be_wrapped_is_one_line(given, said):
    with pytest.raises(UserError, match=said):
        wrap(network(), **given)
    with pytest.raises(UserError, match="is no torch module"):
        wrap(len, HALVES)


@pytest.mark.parametrize(
    ("preprocess", "said"),
    [
        (lambda x: x.div_(255), "changes its images in place"),
        (lambda x: x[:1], r"preprocess gives \(1, 3, 4, 4\) for images \(2, 3, 4, 4\)"),
        (lambda x: None, "preprocess gives NoneType"),
        (lambda x: x @ torch.ones(7), "preprocess fails on images"),
        (lambda x: x.to("meta"), "images on meta, not on cpu"),
        (([0.5] * 2, [0.5] * 2), "images have 3 channels, and the mean of the network has 2"),
    ],
)
def test_a_preprocessing_that_does_not_serve_is_refused_at_its_first_images(preprocess, said):
    with pytest.raises(UserError, match=said):
        wrap(network(), preprocess).prepare(torch.rand(2, 3, 4, 4) * 255)


def test_the_hash_is_of_the_weights_and_of_nothing_else():
    one, other = network(), network()
    assert hash_of_weights(one) == hash_of_weights(other.train()) == wrap(one, HALVES).weights
    assert hash_of_weights(one) != hash_of_weights(network(1))
    turned = network()
    turned.load_state_dict(dict(reversed(turned.state_dict().items())))
    assert hash_of_weights(turned) == hash_of_weights(one)
    with torch.no_grad():
        other[1].running_mean[0] += 1e-6
    assert hash_of_weights(one) != hash_of_weights(other)
    assert hash_of_weights(one.half()) != hash_of_weights(one.bfloat16())


MINE = """
from torch import nn
from invariance.models.model import wrap

def module():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))

def model():
    return wrap(module(), ([0.5] * 3, [0.25] * 3), name="own", size=2, classes=["a", "b", "c"])

def number():
    return 3

def broken():
    raise RuntimeError("no weights here")

def source(name, **settings):
    return model().renamed(f"source {name}").moved(settings["device"]) if name != "odd" else name
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine_for_a_test.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "mine_for_a_test"
    sys.modules.pop("mine_for_a_test", None)


def test_a_function_gives_a_model_or_a_module_with_its_preprocessing(mine):
    made = load_model(f"{mine}:model", device="cpu")
    assert (made.name, made.size, made.classes) == ("own", 2, ["a", "b", "c"])
    assert load_model(f"function/{mine}:model").name == "own"
    made = load_model(f"{mine}:module", HALVES, size=2)
    assert made.name == f"{mine}:module" and made.size == 2


def test_a_source_from_outside_is_found_where_it_is_named(mine):
    assert load_model(f"{mine}:source/best", device="cpu").name == "source best"
    with pytest.raises(UserError, match="the source mine_for_a_test:source gave a str"):
        load_model(f"{mine}:source/odd")


def test_a_source_of_the_registry_is_found_by_its_name(monkeypatch):
    monkeypatch.setitem(sources.SOURCES, "dummy", lambda name, **_: wrap(network(), HALVES, name=name))
    assert isinstance(load_model("dummy/one"), Model) and load_model("dummy/one").name == "one"
    with pytest.raises(UserError, match=r"did you mean 'dummy'\? \(there are: function/…, .*dummy/…; module:function"):
        load_model("dumy/one")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("{}:module", "preprocess= is missing"),
        ("{}:number", "gave a int"),
        ("{}:broken", r"failed with RuntimeError \(no weights here\)"),
        ("{}:modle", "did you mean 'model'|did you mean 'module'"),
        ("nowhere_at_all:f", "cannot be imported .*PYTHONPATH"),
        (":f", "names no function"),
        ("resnet50", "is not known"),
        ("", "is not known"),
    ],
)
def test_unknown_models_are_one_line(mine, name, said):
    with pytest.raises(UserError, match=said):
        load_model(name.format(mine))


def test_a_folder_that_is_no_run_is_refused(tmp_path, mine):
    with pytest.raises(UserError, match="is no training run: it holds no best.ckpt"):
        load_model(tmp_path)
    with pytest.raises(UserError, match="is no training run: it holds no best.ckpt"):
        load_model(tmp_path, size=3)
    with pytest.raises(UserError, match="a Model, which has its own classes; leave that out"):
        load_model(f"{mine}:model", classes=["a"])
