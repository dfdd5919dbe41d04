"""`invariance-measure model=…`: a network that was not trained here, at its layers, in runs like any other."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from invariance.data.prepared import prepare
from invariance.engine.measuring import Effort
from invariance.engine.notebook import measure_model
from invariance.errors import UserError
from invariance.experiments import recording
from invariance.experiments.layers import layers as list_them
from invariance.experiments.measure import measure
from invariance.experiments.status import look
from invariance.maps.ridge import Ridge
from invariance.reporting.depth import spread
from invariance.reporting.given import given_networks
from invariance.reporting.page import make_report, report_of
from invariance.reporting.rows import collect
from invariance.runs.parts import Parts
from invariance.runs.rows import read_rows
from invariance.runs.run import read_config, read_provenance
from invariance.runs.seal import check, rows_of
from invariance.transforms.rotation import Rotation
from tests.given_networks import CLASSES, model

ROOT = Path(__file__).parents[1]
OF = "model.name=tests.given_networks:"
SMALL = ["model=function", f"{OF}model", "model.label=small"]
ROTATION = ["grids=[rotation]", "grid={rotation: {angles: [-30, 10, 45]}}"]
KEY = ["layer", "g", "split", "map", "solver", "metric", "fit_classes"]
PLACE = "measure/digits/function/small/rotation"


@pytest.fixture(scope="module")
def prepared_once(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture
def composed(compose, tmp_path, prepared_once):
    """The configuration of a measurement in a folder of the test's own."""
    places = [f"runs={tmp_path}/runs", f"prepared={prepared_once}", "logger=csv", "trainer=cpu", "progress=false"]
    return lambda *overrides: compose("measure", *places, "data=digits", "solver=ridge", *ROTATION, *overrides)


def all_rows(folder):
    import pandas as pd

    paths = sorted(folder.glob("runs/measure/**/rows.csv"))
    return pd.concat([read_rows(path) for path in paths], ignore_index=True)


def test_rows_are_those_of_python_on_the_same_images(composed, tmp_path, prepared_once, capsys):
    measure(composed(*SMALL))
    first = capsys.readouterr().out.splitlines()[1]
    assert "function/tests.given_networks:model" in first and "size 17" in first
    assert "images of digits (test)" in first and first.endswith("layers relu, pool, head")
    rows = all_rows(tmp_path)
    assert set(rows["layer"]) == {"input", "relu", "pool", "head"}
    assert set(rows["model"]) == {"function/tests.given_networks:model"} and set(rows["network"]) == {"small"}
    assert (
        set(rows["data"]) == {"digits"}
        and set(rows["readout"]) == {"flatten"}
        and set(rows["metric"]) >= {"error_rate"}
    )

    data = prepare(composed(*SMALL)["data"], 17, prepared_once, progress=False)
    test, val = data.split("test"), data.split("val")
    python = measure_model(
        model(),
        np.array(test.images),
        test.labels,
        np.array(val.images),
        val.labels,
        transforms={"rotation": Rotation(angles=[-30, 10, 45])},
        layers=["input", "relu", "pool", "head"],
        maps=["identity", Ridge(**composed()["solver"]["ridge"])],
    )
    splits = {"report": "test", "fit": "val"}
    expected = python.assign(split=python["split"].map(splits)).set_index(KEY)["score"].sort_index()
    assert len(expected) == len(rows)
    np.testing.assert_allclose(rows.set_index(KEY)["score"].sort_index(), expected, atol=1e-6)


def test_every_layer_and_map_is_a_sealed_run_that_says_what_it_is_of(composed, tmp_path, capsys):
    measure(composed(*SMALL, "layers=[relu,pool]"))
    runs = sorted(path.parent for path in tmp_path.glob("runs/**/done.json"))
    places = [f"{layer}/{way}" for layer in ("pool", "relu") for way in ("identity", "residual_ridge")]
    assert [run.relative_to(tmp_path / "runs" / PLACE).as_posix() for run in runs] == places
    for run in runs:
        assert check(run) and len(rows_of(run))
        config, made = read_config(run), read_provenance(run)
        assert config["model"]["name"] == "function/tests.given_networks:model"
        assert config["model"]["weights"] == model().weights and "size 17" in config["model"]["recipe"]
        assert config["layer"] == run.parent.name and config["data"]["classes"] == list(range(10))
        assert made["depths"] == {"relu": 1, "pool": 3} and made["device"] == "cpu"
        assert not (run / "parts").exists() and (run / "scores.npz").exists()
    capsys.readouterr()
    before = {run: (run / "done.json").stat().st_mtime_ns for run in runs}
    measure(composed(*SMALL, "layers=[relu,pool]"))
    assert "finished already: " in capsys.readouterr().out
    measure(composed(*SMALL, "layers=[relu,pool,head]"))
    assert "measured 1 layer of small over 4 g of rotation" in capsys.readouterr().out
    assert {run: (run / "done.json").stat().st_mtime_ns for run in runs} == before


def test_an_interrupted_measurement_ends_with_the_same_rows(composed, tmp_path, monkeypatch):
    config, runs = composed(*SMALL, "layers=[relu,pool,head]"), tmp_path / "runs"
    monkeypatch.setattr(recording, "Effort", lambda batch, _, shown: Effort(batch, 6e5, shown))  # one g at a time
    measure(config)
    undisturbed = {path.relative_to(runs): path.read_bytes() for path in runs.glob("**/rows.csv")}
    assert len(undisturbed) == 6
    write, survive = Parts.write, 13
    shutil.rmtree(runs)
    written = []

    def stop(*part):
        if len(written) == survive:
            raise KeyboardInterrupt
        written.append(part)
        write(*part)

    monkeypatch.setattr(Parts, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        measure(config)
    assert not list(runs.glob("**/done.json")) and len(list(runs.glob("**/*.part"))) == survive
    again = []
    monkeypatch.setattr(Parts, "write", lambda *part: (again.append(part), write(*part)))
    measure(config)
    assert len(again) == 4 * 6 - survive
    assert {path.relative_to(runs): path.read_bytes() for path in runs.glob("**/rows.csv")} == undisturbed


def test_other_weights_under_the_same_name_are_refused_and_under_another_are_not(composed, tmp_path):
    measure(composed(*SMALL, "layers=pool", "map=identity"))
    with pytest.raises(UserError, match="holds another configuration: model.name is "):
        measure(composed("model=function", f"{OF}other", "model.label=small", "layers=pool", "map=identity"))
    measure(composed("model=function", f"{OF}other", "layers=pool", "map=identity"))
    assert (tmp_path / "runs/measure/digits/function/tests.given_networks_other/rotation/pool/identity").is_dir()


def test_layers_are_found_by_a_pattern_and_a_crop_takes_larger_images(composed, tmp_path):
    measure(composed(*SMALL, "layers='[pr]*'", "map=identity", "grids=[crop]", "grid=null"))
    rows = all_rows(tmp_path)
    assert set(rows["layer"]) == {"input", "relu", "pool"} and {g.split(":")[0] for g in rows["g"]} >= {"crop_256"}


def test_without_labels_of_its_own_there_is_no_error_rate(composed, tmp_path, capsys):
    measure(composed("model=function", f"{OF}unnamed", "layers=pool", "map=identity"))
    assert "error_rate is left out, and agreement takes its place: " in capsys.readouterr().err
    assert set(all_rows(tmp_path)["metric"]) == {"agreement", "l2_distance"}
    typed = ["model.label=typed", "metrics=[error_rate,l2_distance]"]
    measure(composed("model=function", f"{OF}unnamed", "layers=pool", "map=identity", *typed))
    assert "error_rate is left out: " in capsys.readouterr().err
    rows = read_rows(tmp_path / "runs/measure/digits/function/typed/rotation/pool/identity/rows.csv")
    assert set(rows["metric"]) == {"l2_distance"}
    with pytest.raises(UserError, match=r"the images have 10 classes and .*unnamed has 7"):
        measure(composed("model=function", f"{OF}unnamed", "layers=pool", "labels=true"))
    with pytest.raises(UserError, match="labels=true"):
        measure(composed("model=function", f"{OF}unnamed", "layers=pool", "metrics=[error_rate]"))
    with pytest.raises(UserError, match="unseen_classes"):
        measure(composed("model=function", f"{OF}unnamed", "solver=online_sgd", "unseen_classes=[online_sgd]"))


def test_labels_are_the_networks_by_its_own_order(composed, tmp_path, monkeypatch):
    import tests.given_networks as given

    measure(composed(*SMALL, "layers=pool", "map=identity"))
    turned = CLASSES[3:] + CLASSES[:3]
    monkeypatch.setattr(given, "CLASSES", turned)
    measure(composed(*SMALL, "model.label=turned", "layers=pool", "map=identity"))
    measure(composed(*SMALL, "model.label=said", "layers=pool", "map=identity", "labels=true"))
    one, other, said = (
        read_rows(tmp_path / f"runs/measure/digits/function/{name}/rotation/pool/identity/rows.csv")
        for name in ("small", "turned", "said")
    )
    assert one["score"].equals(said["score"]) and not one["score"].equals(other["score"])
    config = read_config(tmp_path / "runs/measure/digits/function/turned/rotation/pool/identity")
    assert [turned[place] for place in config["data"]["classes"]] == CLASSES


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["model=function"], "model.name is not set"),
        (["model=small"], "measured by networks= then"),
        (["model=resnet"], "there is no such model"),
        (["model=run", "model.name=runs/x"], "measured by networks= then"),
        (["model=function", f"{OF}model", "~data"], "data=folder data.root=photos"),
        (["model=function", f"{OF}model", "layer=relu"], "layer: invariance-measure does not read it"),
        (["model=function", f"{OF}model", "networks=digits"], "networks: invariance-measure does not read it"),
        (["layers=relu"], "layers: invariance-measure does not read it"),
        (["labels=true"], "labels: invariance-measure does not read it"),
        (["model=function", f"{OF}nothing"], "has no nothing"),
        (["model=function", f"{OF}model", "layers=haed"], "'haed' matches no layer; did you mean 'head'?"),
        (["model=function", f"{OF}model", "layers=idle"], "layer='idle' is not run by the network's forward pass"),
        (["model=function", f"{OF}model", "layers='idl*'"], "none can be measured"),
        (["model=function", f"{OF}sizeless"], "model.size=224"),
        (["model=function", f"{OF}colour"], "data.colour=rgb"),
        (["model=function", f"{OF}model", "fit={split: test}"], "also the split results are reported on"),
        (["model=function", f"{OF}model", "layers=[pool,pool]"], "layers"),
        (["model=function", f"{OF}model", "model.weights=x.pt"], "model.weights"),
        (["model=nowhere_at_all:source", "model.name=x"], "cannot be imported"),
    ],
)
def test_what_does_not_serve_is_one_line(given, said, mistake, tmp_path, prepared_once):
    line = mistake("measure", f"prepared={prepared_once}", "logger=csv", "progress=false", "data=digits", *given)
    assert said in line


@pytest.mark.parametrize("page", ["train", "finetune"])
def test_what_trains_takes_no_such_network(page, mistake):
    line = mistake(page, "model=function", f"{OF}model")
    assert ("caffenet, small, tiny" in line) if page == "train" else ("model" in line)


def test_a_sweep_measures_each_model_in_a_place_of_its_own(tmp_path, prepared_once):
    command = [
        *(sys.executable, "-m", "invariance.measure", "-m", "model=function"),
        *(f"{OF}model,tests.given_networks:other", "layers=pool", "map=identity", "data=digits", *ROTATION),
        *(f"runs={tmp_path}/runs", f"prepared={prepared_once}", "logger=csv", "trainer=cpu", "progress=false"),
    ]
    dry = subprocess.run([*command, "hydra/launcher=dry"], cwd=ROOT, capture_output=True, text=True)
    assert dry.returncode == 0 and dry.stdout.count("model=function") == 2, dry.stderr
    assert not (tmp_path / "runs").exists()
    swept = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert swept.returncode == 0, swept.stderr
    found = sorted(path.name for path in (tmp_path / "runs/measure/digits/function").iterdir())
    assert found == ["tests.given_networks_model", "tests.given_networks_other"]
    [sweep] = (tmp_path / "runs/.sweeps/measure").glob("*/jobs.json")
    assert len(json.loads(sweep.read_text())["jobs"]) == 2


def test_a_report_and_the_status_have_them(composed, tmp_path, undrawn):
    measure(composed(*SMALL, "layers=[pool,relu]"))
    measure(composed("model=function", f"{OF}unnamed", "layers=pool", "map=identity"))
    page, collected = report_of(tmp_path / "runs", tmp_path / "report")
    assert not collected.damaged and len(collected.given) == 2 and not collected.grids
    text = page.read_text(encoding="utf-8")
    assert "digits: function/tests.given_networks:model (small)" in text and "from relu to pool" in text
    assert "digits: function/tests.given_networks:unnamed" in text and "digits: 2 networks compared" in text
    assert "loses nothing under rotation" in text and "at pool, the last true cut, wins back 0.0" in text
    written = (tmp_path / "report/files.txt").read_text().split()
    assert "figures/digits-function-small-rotation-layers-distance.svg" in written
    assert "tables/digits-function-small-areas-accuracy.csv" in written
    frame = (tmp_path / "report/figures/digits-function-small-rotation-layers-accuracy.csv").read_text()
    assert "equivariance (ridge)" in frame and "pool" in frame
    shown = look(tmp_path / "runs").shown()
    assert shown and "measure" in {one.stage for one in _states(tmp_path / "runs")}


def test_scores_of_images_that_are_damaged_or_exchanged_are_a_gap_of_the_report(composed, tmp_path, undrawn):
    measure(composed(*SMALL, "layers=[pool,relu]", "map=identity", "metrics=[agreement,l2_distance]"))
    pool, relu = (tmp_path / f"runs/{PLACE}/{layer}/identity/scores.npz" for layer in ("pool", "relu"))
    text = make_report(tmp_path / "runs", tmp_path / "report").read_text(encoding="utf-8")
    assert "keep their class at every g" in text and "None: every measured grid is whole" in text
    pool.write_bytes(relu.read_bytes())
    text = make_report(tmp_path / "runs", tmp_path / "report").read_text(encoding="utf-8")
    assert "the scores of its images at" in text and "keep their class at every g" not in text
    pool.write_bytes(b"no archive")
    text = make_report(tmp_path / "runs", tmp_path / "report").read_text(encoding="utf-8")
    assert "scores.npz is damaged" in text and "points of agreement under rotation" in text


def _states(runs):
    from invariance.runs.watch import read_runs

    return read_runs(runs)


def test_a_report_keeps_networks_that_were_trained_here_as_they_are(trained, compose, tmp_path, undrawn):
    folder, places = trained
    shutil.copytree(folder, tmp_path / "copy")
    places = [text.replace(str(folder), str(tmp_path / "copy")) for text in places]
    measure(compose("measure", *places, *ROTATION, "networks=baseline", "map=identity"))
    alone = make_report(tmp_path / "copy/runs", tmp_path / "alone")
    of = ["model=function", f"{OF}model", "model.label=baseline", "layers=pool", "map=identity", "data=digits"]
    measure(compose("measure", *places, *ROTATION, *of))
    both = make_report(tmp_path / "copy/runs", tmp_path / "both")
    assert {path.name for path in (alone.parent / "tables").iterdir()} < {
        path.name for path in (both.parent / "tables").iterdir()
    }
    for name in ("figures/digits-rotation-baseline-accuracy.csv", "tables/digits-rotation-accuracy.csv"):
        assert (alone.parent / name).read_bytes() == (both.parent / name).read_bytes()


def test_layers_that_are_listed_are_those_that_are_measured(composed, compose, tmp_path, prepared_once, capsys):
    measure(composed(*SMALL, "map=identity"))
    capsys.readouterr()
    list_them(compose("layers", *SMALL, "data=digits", "layers=auto", f"prepared={prepared_once}", "progress=false"))
    listed = ["input", *(line.split()[0] for line in capsys.readouterr().out.splitlines()[3:])]
    assert sorted(listed) == sorted(path.name for path in (tmp_path / "runs" / PLACE).iterdir() if path.is_dir())


def test_the_input_stands_beside_layers_and_is_the_distance_of_the_pixels(composed, tmp_path, prepared_once, capsys):
    asked = [*SMALL, "layers=[input,pool]", "nulls=true", "metrics=[error_rate,l2_distance]"]
    measure(composed(*asked))
    assert "measured 1 layer of small" in capsys.readouterr().out
    rows = all_rows(tmp_path)
    of_input = rows[rows["layer"] == "input"]
    assert set(of_input["metric"]) == {"l2_distance"} and set(of_input["map"]) == {"identity"}
    data = prepare(composed(*SMALL)["data"], 17, prepared_once, progress=False)
    model_, turned = model(), Rotation(angles=[45])
    params = next(point.params for point in turned.grid() if point.label == "45")
    x, fit = (model_.prepare(torch.from_numpy(np.array(data.split(name).images)).float()) for name in ("test", "val"))
    pixels = torch.from_numpy(np.array(data.split("test").images)).float()
    gx = model_.prepare(turned.apply(pixels, params))
    scale = fit.double().square().mean().sqrt()  # one a channel, of which there is one
    far = ((gx - x) / scale).double().flatten(1).norm(dim=1) / (x / scale).double().flatten(1).norm(dim=1)
    score = of_input.set_index("g")["score"]["rotation:45"]
    assert score == pytest.approx(float(far.mean()), rel=1e-5)
    assert of_input["null_image"].nunique() == 1 and of_input["calibrated"].notna().all()
    measure(composed(*asked))
    assert "finished already" in capsys.readouterr().out
    [network] = given_networks(collect(tmp_path / "runs"))
    assert network.layers[0] == "input" and list(network.inner) == ["pool"]
    with pytest.raises(UserError, match="layers=input: the input stands beside layers; name one of them, too"):
        measure(composed(*SMALL, "layers=input"))


def test_a_figure_shows_so_many_layers_from_the_first_to_the_last():
    many = [f"blocks.{k}" for k in range(50)]
    shown = spread(many, 12)
    assert len(shown) == len(set(shown)) == 12 and (shown[0], shown[-1]) == ("blocks.0", "blocks.49")
    assert shown == sorted(shown, key=many.index) and spread(many[:3], 12) == many[:3]


def test_maps_on_positions_have_runs_at_the_layers_that_have_them(composed, tmp_path, capsys):
    asked = [*SMALL, "map=[identity,spatial]", "layers=[stem,inner,head]", "labels=true"]
    measure(composed(*asked))
    assert "spatial: left out: head gives (10,)" in capsys.readouterr().out
    place = tmp_path / "runs" / PLACE
    ways = {"identity", "identity_inside", "warp", "floor", "spatial_ridge"}
    assert {path.name for path in (place / "stem").iterdir()} == ways
    assert {path.name for path in (place / "head").iterdir()} == {"identity"}
    rows = all_rows(tmp_path)
    on = rows[rows["map"] == "spatial"]
    assert set(on["readout"]) == {"positions"} and set(on["status"]) == {"ok"} and set(on["layer"]) == {"stem", "inner"}
    fits = (place / "stem" / "spatial_ridge" / "fits.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in fits[1:]] == [[g, "ok"] for g in ("-30", "untouched", "10", "45")]
    assert check(place / "stem" / "warp")
    assert read_provenance(place / "stem" / "warp")["positions"]["stem"] == "4 × 4 every 4 px from 1"
    measure(composed(*asked))
    assert "finished already" in capsys.readouterr().out
    shutil.rmtree(place / "inner" / "warp")  # it alone is measured again
    measure(composed(*asked))
    scores = [one.set_index(KEY)["score"].sort_index() for one in (rows, all_rows(tmp_path))]
    np.testing.assert_array_equal(*scores)
    with pytest.raises(UserError, match="layer head gives .* no positions; choose layers with positions"):
        measure(composed(*SMALL, "map=[warp]", "layers=[head]"))
