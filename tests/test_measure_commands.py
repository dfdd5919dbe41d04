"""Keys of `invariance-measure model=…`: readouts, nulls, intervals, derivatives, and how pictures are resized."""

import os
import shutil
from contextlib import ExitStack

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from invariance import Rotation, load_images, measure_model
from invariance.data.prepared import prepare
from invariance.errors import Busy, UserError
from invariance.experiments.given import given
from invariance.experiments.measure import measure
from invariance.models.model import Model, wrap
from invariance.models.recipe import Resize
from invariance.reporting.given import given_networks as networks_in
from invariance.reporting.rows import collect
from invariance.runs.locks import SharedLock, holder, me
from invariance.runs.rows import read_rows
from invariance.runs.run import Run, read_config
from invariance.runs.scores import read_scores, write_scores
from invariance.settings.base import checked
from invariance.settings.parts import GivenModel
from tests import given_networks
from tests.given_networks import model

OF = "model.name=tests.given_networks:"
SMALL = ["model=function", f"{OF}model", "model.label=small", "fit={images: 80}"]
ROTATION = ["grids=[rotation]", "grid={rotation: {angles: [-30, 45]}}"]
PLACE = "runs/measure/digits/function/small/rotation"


@pytest.fixture(scope="module")
def prepared_once(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture
def composed(compose, tmp_path, prepared_once):
    """The configuration of a measurement in a folder of the test's own."""
    places = [f"runs={tmp_path}/runs", f"prepared={prepared_once}", "logger=csv", "trainer=cpu", "progress=false"]
    return lambda *overrides: compose("measure", *places, "data=digits", *ROTATION, *overrides)


def rows_below(folder):
    paths = sorted(folder.glob("**/rows.csv"))
    return pd.concat([read_rows(path) for path in paths], ignore_index=True)


def test_readouts_have_runs_of_their_own_and_are_those_of_python(composed, tmp_path, prepared_once, capsys):
    of_two = [*SMALL, "layers=[relu,pool]", "map=identity"]
    measure(composed(*of_two))
    measure(composed(*of_two, "readout={pool: mean}"))
    assert "finished already" not in capsys.readouterr().out.replace("measured 1 layer", "")
    measure(composed(*of_two, "readout={relu: project:7, pool: mean}"))
    assert capsys.readouterr().out.splitlines()[1].endswith("layers relu (project:7), pool (mean)")
    there = sorted(path.name for path in (tmp_path / PLACE).iterdir() if path.is_dir())
    assert there == ["pool", "pool(mean)", "relu", "relu(project_7)"]
    assert read_config(tmp_path / PLACE / "pool(mean)/identity")["readout"] == "mean"
    assert "readout" not in read_config(tmp_path / PLACE / "pool/identity")
    assert len(collect(tmp_path / "runs").runs) == 4  # no two rows are one number, and none is another folder's

    data = prepare(composed(*SMALL)["data"], 17, prepared_once, progress=False)
    test, val = data.split("test"), data.split("val")
    fit = data.fit_indices({"images": 80})
    python = measure_model(
        model(),
        np.array(test.images),
        test.labels,
        np.array(val.images)[fit],
        val.labels[fit],
        transforms={"rotation": Rotation(angles=[-30, 45])},
        layers=["relu", "pool"],
        maps=["identity"],
        readout={"relu": "project:7", "pool": "mean"},
        nulls=False,
    )
    rows = rows_below(tmp_path / PLACE)
    rows = rows[rows["readout"] != "flatten"].replace({"split": {"test": "report", "val": "fit"}})
    key = ["layer", "readout", "g", "split", "metric"]
    both = rows.set_index(key)[["score"]].join(python.set_index(key)[["score"]], rsuffix="_python", how="outer")
    assert len(both) == len(rows) and set(rows["readout"]) == {"mean", "project:7"}
    np.testing.assert_allclose(both["score"], both["score_python"], atol=1e-6)


def test_nulls_and_intervals_are_asked_for_and_are_a_part_of_the_run(composed, tmp_path):
    of = [*SMALL, "layers=[pool]", "solver=[ridge,online_sgd]", "metrics=[l2_distance,cka]"]
    few = ["solver.online_sgd.epochs=1"]
    measure(composed(*of, *few, "nulls=[online_sgd]", "intervals=true"))
    rows = rows_below(tmp_path / PLACE)
    report = rows[(rows["split"] == "test") & rows["fit_classes"].isin(["", "all"])]
    fitted = report[
        (report["map"] == "residual") & (report["metric"] == "l2_distance") & (report["g"] != "rotation:untouched")
    ]
    assert set(fitted["solver"]) == {"ridge", "online_sgd"} and fitted["null_shuffled"].notna().all()
    alike = report[report["metric"] == "cka"]
    assert len(alike) == 3 and alike["low"].notna().sum() >= 2
    held = [read_config(path.parent) for path in sorted((tmp_path / PLACE / "pool").glob("*/done.json"))]
    assert [(one["map"], one["nulls"], one.get("intervals")) for one in held] == [
        ("identity", True, True),
        ("residual", "shuffled", None),
        ("residual", True, None),
    ]
    with pytest.raises(UserError, match="holds another configuration: .*nulls is True there and nothing here"):
        measure(composed(*of, *few, "nulls=false", "intervals=true"))
    with pytest.raises(UserError, match="'mlp' fits no map here"):
        measure(composed(*of, "nulls=[mlp]"))


def test_derivatives_have_runs_of_their_own_and_one_of_the_input(composed, tmp_path, prepared_once, capsys):
    of = [*SMALL, "layers=[relu,pool]", "grids=[rotation,mirror]"]
    measure(composed(*of, "metrics=[derivative]", "solver=ridge"))
    assert "derivative: mirror has none" in capsys.readouterr().out
    assert not (tmp_path / PLACE).with_name("mirror").exists()
    rows = rows_below(tmp_path / PLACE)
    assert sorted(rows["layer"]) == ["input", "pool", "relu"] and set(rows["g"]) == {"rotation:derivative"}
    data = prepare(composed(*SMALL)["data"], 17, prepared_once, progress=False)
    fit = np.array(data.split("val").images)[data.fit_indices({"images": 80})]
    python = measure_model(
        model(),
        np.array(data.split("test").images),
        fit=fit,
        transforms=["rotation"],
        layers=["relu", "pool"],
        maps=["identity"],
        measures=["derivative"],
    )
    both = rows.set_index("layer")["score"], python.set_index("layer")["score"]
    np.testing.assert_allclose(both[0].sort_index(), both[1].sort_index(), rtol=1e-5)
    measure(composed(*of, "metrics=[derivative,l2_distance]", "map=identity"))
    assert len(rows_below(tmp_path / "runs/measure")) == 3 + 2 * (3 + 4)
    measure(composed(*of, "metrics=[derivative]", "map=identity"))
    assert "finished already" in capsys.readouterr().out
    collected = collect(tmp_path / "runs")
    assert not collected.damaged and collected.runs[f"{PLACE[5:]}/input/derivative"].provenance["depths"]["input"] == -1
    with pytest.raises(UserError, match="derivative: mirror has none"):
        measure(composed(*SMALL, "grids=[mirror]", "grid=null", "metrics=[derivative]"))


@pytest.fixture
def photographs(tmp_path):
    """Pictures of other sides than squares, in two classes and three splits."""
    generator = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for label in "ab":
            folder = tmp_path / "photos" / split / label
            folder.mkdir(parents=True)
            for k in range(3):
                pixels = generator.integers(0, 256, (40, 30 + 10 * k), np.uint8)
                Image.fromarray(pixels).save(folder / f"{k}.png")
    return tmp_path / "photos"


@pytest.fixture
def cropping(monkeypatch):
    """A network whose source says how it wants pictures."""

    def made():
        inner = model()
        resize = Resize("shorter", 20, 17, "bicubic")
        return Model(
            inner.module, inner.preprocess, name="crop", size=17, resize=resize, recipe=f"{resize.told}; {inner.recipe}"
        )

    monkeypatch.setattr(given_networks, "cropping", made, raising=False)
    return made()


def test_pictures_are_resized_and_cropped_as_the_network_says(composed, tmp_path, photographs, cropping, capsys):
    of = ["model=function", f"{OF}cropping", "data=folder", f"data.root={photographs}", "data.colour=gray"]
    of += ["layers=[pool]", "map=identity", f"prepared={tmp_path}/prepared"]
    measure(composed(*of))
    first = capsys.readouterr().out.splitlines()[1]
    assert "(test), shorter side to 20 (bicubic, antialiased), centre 17 × 17; layers pool" in first
    [own] = (tmp_path / "prepared/photos").glob("17-gray-*/test.images.npy")
    wanted = load_images(photographs / "test", resize=cropping.resize, colour="gray").images
    assert np.array_equal(np.load(own), wanted)
    assert read_config(next(tmp_path.glob("runs/**/identity")))["data"]["sha256"]
    measure(composed(*of, "resize=warp", "model.label=warped"))
    assert "(test), warped to 17 × 17" in capsys.readouterr().out
    both = list((tmp_path / "prepared/photos").glob("17-gray-*/test.images.npy"))
    assert len(both) == 2 and not np.array_equal(*map(np.load, both))
    with pytest.raises(UserError, match="holds another configuration"):
        measure(composed(*of, "resize=warp"))
    with pytest.raises(UserError, match=r"\.png is 40 × \d\d pixels, and 17 × 17 are wanted; leave resize=none out"):
        measure(composed(*of, "resize=none", "model.label=plain"))


def test_a_crop_is_cut_out_of_a_larger_picture_by_the_same_recipe(composed, tmp_path, photographs, cropping):
    of = ["model=function", f"{OF}cropping", "data=folder", f"data.root={photographs}", "data.colour=gray"]
    measure(
        composed(*of, "layers=[pool]", "map=identity", f"prepared={tmp_path}/prepared", "grids=[crop_256]", "grid=null")
    )
    [larger] = (tmp_path / "prepared/photos").glob("*/test.images.npy")
    side = np.load(larger).shape[-1]
    assert side > 17
    wanted = load_images(photographs / "test", resize=cropping.resize.scaled(side), colour="gray").images
    assert np.array_equal(np.load(larger), wanted)


def test_pictures_of_the_networks_size_are_taken_as_they_are(composed, tmp_path, photographs, cropping):
    for path in photographs.glob("*/*/*.png"):
        Image.open(path).resize((17, 17)).save(path)
    of = ["model=function", f"{OF}cropping", "data=folder", f"data.root={photographs}", "data.colour=gray"]
    measure(composed(*of, "layers=[pool]", "map=identity", f"prepared={tmp_path}/prepared", "resize=none"))
    two = ["grids=[rotation,crop_256]", "grid=null", "model.label=two", f"prepared={tmp_path}/prepared"]
    with pytest.raises(
        UserError, match="resize=none: rotation takes pictures of 17 × 17 pixels and crop_256 of 19 × 19"
    ):
        measure(composed(*of, "layers=[pool]", "map=identity", "resize=none", *two))
    assert not (tmp_path / "runs/measure/photos/function/two").exists()
    [there] = (tmp_path / "prepared/photos").glob("17-gray-*/test.images.npy")
    pixels = [np.asarray(Image.open(path)) for path in sorted((photographs / "test").glob("*/*.png"))]
    assert np.array_equal(np.load(there)[:, 0], pixels)


def test_weights_under_other_names_are_put_in_by_position(composed, tmp_path):
    import torchvision

    torch.manual_seed(1)
    file = tmp_path / "renamed.pt"
    state = torchvision.models.shufflenet_v2_x0_5(weights=None).state_dict()
    state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    torch.save({f"tensor{k}": value for k, value in enumerate(state.values())}, file)
    of = ["model=torchvision", "model.name=shufflenet_v2_x0_5", f"model.weights={file}", "model.weights_by=position"]
    config = checked(GivenModel, composed(*of)["model"], "model")
    found = given(config, "cpu").model.module.state_dict()
    assert all(torch.equal(found[name], value) for name, value in state.items())
    with pytest.raises(UserError, match=r"model\.weights_by='order': choose name, or position"):
        checked(GivenModel, composed(*of[:-1], "model.weights_by=order")["model"], "model")


def test_the_classes_of_the_images_stay_beside_their_scores(composed, tmp_path):
    measure(composed(*SMALL, "layers=[pool]"))
    run = next(tmp_path.glob("runs/**/identity"))
    labels, scores, classes = read_scores(run)
    rows = read_rows(run / "rows.csv").query("split == 'test' and metric == 'error_rate'")
    rows = rows.set_index(rows["g"].str.removeprefix("rotation:"))["score"]
    wrong = (scores["test/predicted"] != classes).mean(1)
    assert rows[labels].to_numpy() == pytest.approx(wrong)
    [network] = networks_in(collect(tmp_path / "runs"))
    areas = network.areas.query("metric == 'error_rate'")
    assert not network.unread
    assert len(areas) and (areas["low"] < areas["score"]).all() and (areas["score"] < areas["high"]).all()


def test_classes_that_rows_were_not_made_with_are_told(composed, tmp_path):
    measure(composed(*SMALL, "layers=[pool]", "map=identity"))
    run = next(tmp_path.glob("runs/**/identity"))
    labels, scores, classes = read_scores(run)
    write_scores(run, labels, scores, np.roll(classes, 1))
    [network] = networks_in(collect(tmp_path / "runs"))
    [told] = network.unread
    assert "the classes beside its scores are not those that its rows were made with" in told


def test_damage_of_such_data_is_told_with_what_mends_them(composed, tmp_path, photographs, cropping):
    of = ["model=function", f"{OF}cropping", "data=folder", f"data.root={photographs}", "data.colour=gray"]
    of += ["layers=[pool]", "map=identity", f"prepared={tmp_path}/prepared"]
    measure(composed(*of))
    [path] = (tmp_path / "prepared/photos").glob("*/test.images.npy")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    shutil.rmtree(tmp_path / "runs")
    with pytest.raises(UserError, match="are damaged .*delete them and repeat the command"):
        measure(composed(*of))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["readout=meen"], "readout='meen' is none; did you mean 'mean'?"),
        (["readout={relu: [mean,cls]}"], "readout"),
        (["readout={haed: mean}"], "'haed' is none of the layers; did you mean 'head'?"),
        (["readout=cls"], "it has no tokens; choose flatten or mean"),
        (["readout=3"], "readout=3: give auto, a readout, as mean"),
        (["resize=crop"], "resize='crop': choose one of own, warp, none"),
        (["nulls=online_sgd"], "nulls='online_sgd': give true, false, or solvers"),
        (["intervals=2"], "intervals=2: give true or false"),
        (["metrics=derivative"], "give a list of different ones"),
        (["metrics=[derivate]"], "did you mean 'derivative'?"),
    ],
)
def test_what_does_not_serve_is_one_line(given, said, mistake, prepared_once):
    of = ["model=function", f"{OF}model", f"prepared={prepared_once}", "logger=csv", "progress=false", "data=digits"]
    assert said in mistake("measure", *of, *given)


@pytest.mark.parametrize("given", ["readout=mean", "resize=warp", "plan=true", "metrics=[derivative]"])
def test_what_is_of_other_networks_is_refused_for_those_that_were_trained_here(given, mistake):
    assert given.partition("=")[0] in mistake("measure", given)


def test_many_layers_need_one_open_file_and_are_locked_all_the_same(composed, tmp_path, monkeypatch):
    runs = [Run(tmp_path, f"measure/{k}", {"k": k}) for k in range(5)]
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):  # the second finds what the first left
        shared = SharedLock()
        with ExitStack() as stack:
            stack.callback(shared.close)
            for run in runs:
                run.shared = shared
                stack.enter_context(run)
            assert len(os.listdir("/proc/self/fd")) == before + 1
            assert all(holder(run.directory / ".lock") == me() for run in runs)
            other = Run(tmp_path, "measure/3", {"k": 3})
            with pytest.raises(Busy, match="is being worked on by process"), other:
                pass
            runs[2].require_here()
        assert len(os.listdir("/proc/self/fd")) == before
        assert not any(holder(run.directory / ".lock") for run in runs)
    first, second = SharedLock(), SharedLock()  # what was shared once is apart again
    assert first.take(runs[0].directory / ".lock") and second.take(runs[1].directory / ".lock")
    assert first.take(runs[1].directory / ".lock") is None
    first.close(), second.close()
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError("no links here")))
    alone = SharedLock()
    with ExitStack() as stack:
        for run in runs:
            run.shared = alone
            stack.enter_context(run)
        assert all(holder(run.directory / ".lock") == me() for run in runs)
    alone.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_folders_of_wordnet_ids_are_classes_of_imagenets_networks(composed, tmp_path, photographs, monkeypatch):
    for path in [*photographs.glob("*/a"), *photographs.glob("*/b")]:
        path.rename(path.with_name({"a": "n01440764", "b": "n02102040"}[path.name]))

    def thousand():
        return wrap(given_networks.seeded(classes=1000), preprocess=([0.3], [0.4]), size=17)

    monkeypatch.setattr(given_networks, "thousand", thousand, raising=False)
    of = ["data=folder", f"data.root={photographs}", "data.colour=gray", f"prepared={tmp_path}/prepared"]
    of += ["layers=[pool]", "map=identity"]
    measure(composed("model=function", f"{OF}thousand", *of))
    run = tmp_path / "runs/measure/photos/function/tests.given_networks_thousand/rotation/pool/identity"
    assert read_config(run)["data"]["classes"] == [0, 217]
    assert set(read_rows(run / "rows.csv")["metric"]) == {"error_rate", "l2_distance"}
    measure(composed("model=function", f"{OF}unnamed", *of))
    run = tmp_path / "runs/measure/photos/function/tests.given_networks_unnamed/rotation/pool/identity"
    assert set(read_rows(run / "rows.csv")["metric"]) == {"agreement", "l2_distance"}


def test_networks_that_were_trained_here_have_nulls_too(trained, compose, tmp_path):
    folder, places = trained
    shutil.copytree(folder / "runs/train", tmp_path / "runs/train")
    few = ["networks=baseline", "grids=[mirror]", "solver=ridge", "solver.ridge.strengths=[0.1]", "fit={images: 60}"]
    measure(compose("measure", *places, f"runs={tmp_path}/runs", *few, "nulls=true"))
    for way in ("identity", "residual_ridge"):
        run = tmp_path / "runs/measure/digits/baseline/seed0/mirror" / way
        rows = read_rows(run / "rows.csv")
        assert rows[(rows["split"] == "test") & (rows["metric"] == "l2_distance")]["null_image"].notna().any()
        assert read_config(run)["nulls"] is True and read_config(run)["metrics"] == ["error_rate", "l2_distance"]
