"""What `measure_model` keeps is taken up by the same call alone, never written over, never believed when damaged."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from invariance import (
    Blur,
    Rotation,
    UserError,
    compare_models,
    list_layers,
    load,
    load_images,
    load_model,
    measure_model,
    wrap,
)
from invariance.engine.kept import BEGUN
from invariance.runs.parts import Parts
from invariance.transforms.base import GridPoint, Transform


def module_of(width=16):
    torch.manual_seed(4)
    return nn.Sequential(nn.Flatten(), nn.Linear(88, width), nn.ReLU(), nn.Linear(width, 5))


NETWORK = wrap(module_of(), preprocess=([0.4], [0.3]), name="mine")
X = torch.randint(0, 256, (40, 1, 8, 11), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
ASKED = {"images": X, "transforms": {"turned": Rotation(angles=[-30, 20])}, "layers": ["2"]}


def measured(keep=None, network=NETWORK, **other):
    return measure_model(network, **{**ASKED, **other}, keep=keep)


def same(one, other):
    columns = [name for name in one.columns if name != "run"]
    pd.testing.assert_frame_equal(pd.DataFrame(one)[columns], pd.DataFrame(other)[columns])


@pytest.fixture
def kept(tmp_path):
    measured(tmp_path / "kept")
    return tmp_path / "kept"


@pytest.mark.parametrize(
    "other",
    [
        {"transforms": {"turned": Blur(sigmas=[2], border="zero")}},
        {"images": X.reshape(40, 1, 11, 8)},
        {"images": X.float() + 0.5 * (X < 255)},
        {"network": wrap(module_of(), preprocess=lambda x: x / 255, name="mine")},
        {"measures": ["l2_distance"], "transforms": {"turned": Rotation(angles=[-30])}},
    ],
)
def test_what_is_kept_is_of_one_call(kept, other):
    with pytest.raises(UserError, match="holds other results; choose another folder"):
        measured(kept, **other)
    same(load(kept), measured())


def test_two_functions_of_one_name_are_two_preprocessings(tmp_path):
    one, other = (wrap(module_of(), preprocess=made, name="mine") for made in (lambda x: x / 255, lambda x: x / 100))
    assert one.recipe == other.recipe
    measured(tmp_path, network=one)
    with pytest.raises(UserError, match="other results"):
        measured(tmp_path, network=other)


@pytest.mark.parametrize("border", ["zero", "reflect"])
def test_what_decides_g_beside_its_parameters_tells_two_grids_apart(tmp_path, border):
    first = {"blurred": Blur(sigmas=[2])}
    measured(tmp_path, transforms=first)
    with pytest.raises(UserError, match="other results"):
        measured(tmp_path, transforms={"blurred": Blur(sigmas=[2], border=border)})
    same(load(tmp_path), measured(transforms=first))


@pytest.mark.parametrize("there", ["rows.csv", "notes.txt", "parts/8_0.part", "best.ckpt"])
def test_a_folder_of_something_else_is_left_as_it_is(tmp_path, there):
    path = tmp_path / "theirs" / there
    path.parent.mkdir(parents=True)
    path.write_text("precious\n")
    with pytest.raises(UserError, match=f"holds {path.name}, and no results of measure_model; choose an empty folder"):
        measured(tmp_path / "theirs")
    assert path.read_text() == "precious\n" and len([one for one in tmp_path.rglob("*") if one.is_file()]) == 1
    with pytest.raises(UserError, match="is no folder"):
        measured(path)
    if there == "rows.csv":
        with pytest.raises(UserError, match=r"holds rows.csv of something else"):
            measured().save(tmp_path / "theirs")
        assert path.read_text() == "precious\n"


class Stop(Exception):
    pass


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """A folder of a call that ended after its first part."""
    write, done = Parts.write, []

    def once(parts, k, g, part):
        if done:
            raise Stop
        done.append(k)
        write(parts, k, g, part)

    with monkeypatch.context() as patch:
        patch.setattr(Parts, "write", once)
        with pytest.raises(Stop):
            measured(tmp_path / "kept", layers=["2", "3"])
    return tmp_path / "kept"


def test_an_interrupted_call_goes_on_and_another_leaves_its_parts(interrupted):
    [part] = interrupted.glob("parts/*/parts/*.part")
    with pytest.raises(UserError, match="holds the beginning of other results"):
        measured(interrupted, layers=["1"])
    assert part.exists()
    same(measured(interrupted, layers=["2", "3"]), measured(layers=["2", "3"]))
    assert sorted(one.name for one in interrupted.iterdir()) == ["results.json", "rows.csv", "scores.npz"]


@pytest.mark.parametrize("moment", ["rows.csv", "scores.npz"])
def test_an_end_while_results_are_saved_loses_nothing(interrupted, monkeypatch, moment):
    import invariance.engine.results as results

    def stop(*_):
        raise Stop

    name = {"rows.csv": "write_arrays", "scores.npz": "write_facts"}[moment]
    with monkeypatch.context() as patch:
        patch.setattr(results, name, stop)
        with pytest.raises(Stop):
            measured(interrupted, layers=["2", "3"])
    assert (interrupted / moment).exists() and (interrupted / BEGUN).exists()
    same(measured(interrupted, layers=["2", "3"]), measured(layers=["2", "3"]))


@pytest.mark.parametrize("name", ["rows.csv", "scores.npz", "results.json"])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone", "empty"])
def test_a_damaged_file_is_named(kept, name, how):
    path = kept / name
    content = bytearray(path.read_bytes())
    if how == "flipped":
        digit = next(k for k in range(len(content) // 2, len(content)) if 48 <= content[k] < 57)
        content[digit] += 1
    path.write_bytes({"cut": content[: len(content) // 2], "empty": b""}.get(how, content))
    if how == "gone":
        path.unlink()
    with pytest.raises(UserError, match="is damaged|is not as it was written|holds no results") as caught:
        load(kept)
    if name != "results.json":
        assert f"{name} is not as it was written" in str(caught.value)
        with pytest.raises(UserError, match="delete it and measure again"):
            measured(kept)


def test_results_that_were_filtered_do_not_take_the_place_of_all(kept):
    found = load(kept)
    some = found[found["g"] == "turned:20"]
    with pytest.raises(UserError, match="holds other results"):
        some.save(kept)
    found.save(kept)
    same(load(kept), found)


def test_results_in_memory_are_saved_and_read_back(tmp_path):
    found = measured(fit=0.5)
    found.save(tmp_path / "saved")
    same(load(tmp_path / "saved"), found)
    assert json.loads((tmp_path / "saved/results.json").read_text())["about"] == found.attrs


def test_several_networks_are_kept_in_one_folder(tmp_path):
    networks = [wrap(module_of(width), preprocess=([0.4], [0.3]), name=name) for name, width in (("a", 6), ("b/c", 9))]
    both = measured(tmp_path / "kept", network=networks)
    found = load(tmp_path / "kept")
    same(found, both)
    assert [one["name"] for one in found.attrs["networks"]] == ["a", "b/c"]
    for name in ("../out", "/out", "a/../../out"):
        with pytest.raises(UserError, match="names no folder inside"):
            measured(tmp_path / "kept", network=[networks[0], wrap(module_of(), preprocess=([0.4], [0.3]), name=name)])
    assert sorted(one.name for one in tmp_path.iterdir()) == ["kept"]


def test_names_of_grids_lead_nowhere(tmp_path):
    measured(tmp_path / "kept", transforms={"../../out": Rotation(angles=[20])})
    assert sorted(one.name for one in tmp_path.iterdir()) == ["kept"]
    assert set(load(tmp_path / "kept")["g"]) == {"../../out:untouched", "../../out:20"}
    with pytest.raises(UserError, match="without a colon"):
        measured(transforms={"a:b": Rotation(angles=[20])})


class Odd(Transform):
    """A family of a user's own that does what it is told to."""

    def __init__(self, points, apply=lambda x, params: x.clone()):
        self.points, self.function = points, apply

    def params_of(self, uniforms):
        return {}

    def grid(self):
        return self.points

    def apply(self, x, params):
        return self.function(x, params)


NONE = GridPoint("untouched", 0.0, {"a": torch.zeros(1)}, True)
ONE = GridPoint("1", 1.0, {"a": torch.ones(1)}, False)


@pytest.mark.parametrize(
    ("points", "apply", "said"),
    [
        ([ONE], None, "has 0 points 'untouched'"),
        ([NONE, NONE, ONE], None, "has 2 points 'untouched'"),
        ([NONE, ONE, ONE], None, "has '1' more than once"),
        ("abc", None, "no list of GridPoint"),
        ([NONE, GridPoint("1", 1.0, {"a": torch.ones(2)}, False)], None, "at 1: parameters of one g are tensors"),
        ([NONE, ONE], lambda x, p: x.to(torch.uint8), "at untouched gives torch.uint8"),
        (
            [NONE, ONE],
            lambda x, p: x[:, :, : 8 - int(p["a"][0])],
            r"gives images of \(1, 1, 7, 11\) and \(1, 1, 8, 11\)",
        ),
        ([NONE, ONE], lambda x, p: x / (1 - p["a"][0]), "at 1 gives numbers that are not finite"),
        ([NONE, ONE], lambda x, p: x.add_(1), "at untouched changes its images in place"),
        ([NONE, ONE], lambda x, p: x @ x, "at untouched fails on images .* with RuntimeError"),
        ([NONE, ONE], lambda x, p: None, "gives a NoneType"),
    ],
)
def test_a_family_that_does_not_serve_is_named(points, apply, said):
    family = Odd(points) if apply is None else Odd(points, apply)
    with pytest.raises(UserError, match=said):
        measured(transforms=[family])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"network": []}, "network: give at least one"),
        ({"network": [NETWORK, NETWORK]}, "several are called mine"),
        ({"network": module_of()}, "give wrap"),
        ({"layers": []}, "layers"),
        ({"layers": 5}, "layers"),
        ({"layers": [5]}, "layers"),
        ({"transforms": {}}, "transforms: give at least one"),
        ({"transforms": None}, "transforms"),
        ({"transforms": 5}, "transforms"),
        ({"maps": 5}, "maps=5"),
        ({"maps": "ridge", "fit": 0.5}, "maps='ridge'"),
        ({"measures": "l2_distance"}, "measures='l2_distance'"),
        ({"measures": []}, "measures"),
        ({"measures": [[]]}, "measures"),
        ({"batch": 2.5}, "batch=2.5"),
        ({"batch": "many"}, "batch='many'"),
        ({"memory_gb": 0}, "memory_gb=0"),
        ({"memory_gb": float("nan")}, "memory_gb=nan"),
        ({"memory_gb": None}, "memory_gb=None"),
        ({"seed": -1, "fit": 0.5}, "seed=-1"),
        ({"progress": "yes"}, "progress='yes'"),
        ({"device": 5}, "device"),
        ({"device": "tpu"}, "device"),
        ({"keep": 5}, "keep=5"),
        ({"keep": ""}, "keep=''"),
        ({"fit": "nowhere"}, "fit: images: nowhere does not exist"),
        ({"fit": 1.5}, "fit=1.5"),
        ({"fit_labels": [1]}, "fit_labels"),
        ({"labels": [0.5] * 40}, "labels of type float64"),
        ({"labels": ["a"] * 40}, "labels of type"),
        ({"labels": [[1], [1, 2]]}, "labels="),
        ({"labels": list(range(40))}, "labels: .*class 39"),
        ({"labels": pd.Series([0] * 39)}, "for 40 images"),
        ({"images": (one for one in X)}, "a generator is none"),
        ({"images": X[:0]}, "there are none"),
        ({"images": X.bool()}, "images of type bool"),
        ({"images": X.to(torch.complex64)}, "images of type complex64"),
        ({"images": X.float() / 255}, "seem to be in"),
        ({"images": X[0]}, "not images"),
        ({"images": None}, "a NoneType is none"),
        ({"images": []}, "empty"),
        ({"images": [(X[0], 0.5), (X[1], 1)]}, r"item 0 of the Dataset has the label 0.5"),
        ({"images": [(X[0], "cat"), (X[1], "dog")]}, r"item 0 of the Dataset has the label 'cat'"),
        ({"images": [(X[0], torch.eye(5)[0]), (X[1], torch.eye(5)[1])]}, "item 0 of the Dataset has the label"),
    ],
)
def test_a_bad_argument_is_named(arguments, said):
    given = {**ASKED, "network": NETWORK, **arguments}
    with pytest.raises(UserError, match=said) as caught:
        measure_model(**given)
    assert "\n" not in str(caught.value)


def test_numbers_of_numpy_and_pandas_stand_for_pythons():
    plain = measured(batch=7, seed=3, memory_gb=1.0, fit=0.5, labels=[0, 1] * 20)
    other = measured(
        batch=np.int64(7),
        seed=torch.tensor(3),
        memory_gb=np.float32(1.0),
        fit=np.float64(0.5),
        labels=pd.Series([0, 1] * 20),
        images=X.numpy().astype(np.float32),
    )
    same(plain, other)
    assert wrap(module_of(), preprocess=([0.4], [0.3]), size=np.int64(8)).size == 8


class Two(nn.Module):
    """Gives two answers, of which nobody knows which are the logits."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(88, 5), nn.Linear(88, 5)

    def forward(self, x):
        return self.a(x.flatten(1)), self.b(x.flatten(1))


def test_a_network_whose_logits_are_unknown_has_representations_all_the_same():
    model = wrap(Two(), preprocess=([0.4], [0.3]), name="two")
    found = measured(network=model, layers=["a"])
    assert set(found["metric"]) == {"l2_distance"} and found["score"].notna().all()
    with pytest.raises(UserError, match="which of it are the logits is unknown"):
        measured(network=model, layers=["a"], labels=[0, 1] * 20)
    with pytest.raises(UserError, match=r"which logits .* is unknown .*bypass=False"):
        list_layers(model, X)
    assert list(list_layers(model, X, bypass=False)["layer"]) == ["a", "b", "logits"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: list_layers("abc", X), "a str is no network"),
        (lambda: list_layers(NETWORK, "abc"), "images='abc'"),
        (lambda: list_layers(NETWORK, X, 5), "layers=5"),
        (lambda: wrap(module_of(), preprocess=([0.4], [0.3]), classes=5), "classes=5"),
        (lambda: wrap(module_of(), preprocess=([0.4], [0.3]), name="a\nb"), "text of one line"),
        (
            lambda: measured(network=wrap(module_of(), preprocess=lambda x: 1 / 0)),
            "preprocess fails .*division by zero",
        ),
        (lambda: load_model("/", preprocess=([0.4], [0.3])), "is no training run"),
        (lambda: load(None), "None: give the path"),
        (lambda: load("/"), "holds no results"),
        (lambda: compare_models(NETWORK, NETWORK, X, layers=5), "layers=5"),
        (lambda: compare_models(NETWORK, NETWORK, X, layers="2", indices=5), "indices=5"),
        (lambda: compare_models(NETWORK, NETWORK, X, layers="2", indices=["cka", "cka"]), "cka is there twice"),
        (lambda: compare_models(NETWORK, NETWORK, X, layers="2", indices=["os:getcwd"]), "failed with TypeError"),
        (lambda: compare_models(NETWORK, NETWORK, X, layers="2", scaled="yes"), "scaled='yes'"),
        (lambda: measured().images(5), "g=5, layer=None was not measured"),
        (lambda: pd.concat([measured(), measured()]).images("turned:20"), "lost the scores of images"),
        (lambda: measured().drop(columns=["g"]).plot(), "no column g any more"),
        (lambda: measured().save(5), "5: give the path"),
        (lambda: load_images({"a": 1}), "item 0 of a dict fails with KeyError"),
    ],
)
def test_other_functions_name_a_bad_argument_too(call, said):
    with pytest.raises(UserError, match=said) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_reported_images_among_the_fit_images_are_said(capsys):
    with pytest.raises(UserError, match="fit holds the images that are reported on"):
        measured(images=X[:20], fit=X[:30])
    measured(images=X[:20], fit=X[15:])
    assert "note: 5 of 20 reported images are among the fit images" in capsys.readouterr().err
