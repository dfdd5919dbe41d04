"""Any two networks compared layer by layer: `invariance-distance models=…`, and what `compare_models` keeps."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from invariance import compare_models
from invariance.data.prepared import prepare
from invariance.engine import layer_pairs
from invariance.engine.pair_units import UnitResults
from invariance.errors import UserError
from invariance.experiments.distance import distance
from invariance.maps import Ridge
from invariance.reporting.compared_layers import compared_layers, layers_section
from invariance.reporting.page import make_report
from invariance.reporting.rows import collect
from invariance.reporting.sections import Making
from invariance.runs.rows import read_rows
from tests.given_networks import model, other

OF = "tests.given_networks"
TWO = f"models=[{{name: '{OF}:model', label: one}},{{name: '{OF}:other', label: two}}]"
IDENTITY = ["network", "layer", "g", "metric", "split"]


@pytest.fixture(scope="module")
def prepared_once(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture
def composed(compose, tmp_path, prepared_once):
    """The configuration of a comparison in a folder of the test's own."""
    places = [f"runs={tmp_path}/runs", f"prepared={prepared_once}", "logger=csv", "trainer=cpu", "progress=false"]
    few = ["data=digits", "fit={images: 90}", "solver=ridge", "solver.ridge.strengths=[0.1]"]
    return lambda *overrides: compose("distance", *places, *few, *overrides)


def test_rows_and_matrices_are_those_of_python(composed, tmp_path, prepared_once, capsys):
    config = composed(TWO, "layers={one: [relu,pool], two: [relu,'h*']}", "readout={rel*: mean}")
    distance(config)
    out = capsys.readouterr().out
    assert "layers relu (mean), pool" in out and "compared one and two, 2 × 2 layers" in out
    folder = tmp_path / "runs/distance/digits/one+two/layers"
    rows = read_rows(folder / "rows.csv")
    assert set(rows["model"]) == {f"function/{OF}:model", f"function/{OF}:other"} and set(rows["data"]) == {"digits"}
    assert set(rows[rows["layer"] == "relu"]["readout"]) == {"mean"}
    data = prepare(config["data"], 17, prepared_once, progress=False)
    fit = np.array(data.split("val").images)[data.fit_indices({"images": 90})]
    a, b = model().renamed("one"), other().renamed("two")
    given = {"layers": ["relu", "pool"], "layers_b": ["relu", "head"], "fit": fit, "readout": {"relu": "mean"}}
    table = compare_models(a, b, np.array(data.split("test").images), **given, maps=Ridge(strengths=[0.1]))
    named = rows.replace({"split": {"test": "report", "val": "fit"}}).set_index(IDENTITY)["score"].sort_index()
    expected = table.set_index(IDENTITY)["score"].sort_index()
    assert len(named) == len(expected) > 40
    np.testing.assert_allclose(named, expected, atol=1e-6)
    for name, matrix in (
        ("cka_test", table.matrix("cka")),
        ("l2_distance_ridge_test", table.matrix("l2_distance")),
        ("l2_distance_ridge_test_back", table.matrix("l2_distance", back=True)),
    ):
        np.testing.assert_allclose(pd.read_csv(folder / f"{name}.csv", index_col=0), matrix, atol=1e-6)
    assert len(collect(tmp_path / "runs").runs) == 1 and not (folder / "parts").exists()


def test_the_page_has_the_layers_beside_each_other(composed, tmp_path):
    distance(composed(TWO, "layers={one: [relu,pool], two: [relu,'h*']}"))
    folder = tmp_path / "runs/distance/digits/one+two/layers"
    [pair] = compared_layers(collect(tmp_path / "runs"))
    assert (pair.networks, pair.layers("a"), pair.layers("b")) == (("one", "two"), ["relu", "pool"], ["relu", "head"])
    for name, of in (
        ("cka_test", ("cka", "")),
        ("l2_distance_mean_ridge_test", ("l2_distance_mean", "ridge")),
        ("r2_test_back", ("r2", "", False)),
    ):
        matrix = pair.matrix(*of)
        written = pd.read_csv(folder / f"{name}.csv", index_col=0).to_numpy()
        np.testing.assert_allclose(matrix, written, atol=1e-6)
    section = layers_section(Making({}), pair)
    nearest = {str(table.name): table for _, table in section.tables}
    cka = pair.matrix("cka", "")
    table = nearest["digits-layers-one+two-nearest-cka"]
    assert [row[:2] for row in table.cells] == [[layer, cka.loc[layer].idxmax()] for layer in ("relu", "pool")]
    procrustes, least = nearest["digits-layers-one+two-nearest-procrustes"], pair.matrix("procrustes", "")
    assert [row[1] for row in procrustes.cells] == list(least.idxmin(axis=1))
    assert f"relu to {cka.loc['relu'].idxmax()}" in section.words[0] and "359 images of test" in section.about
    both = next(one.figure for one in section.aside if one.figure.name.endswith("r2")).frame
    assert both.groupby("panel", sort=False)["y"].count().to_dict() == {
        "from one (lines) to two": 4,
        "from two to one (lines)": 4,
    }
    slugs = {
        replace(pair, networks=(a, b), run=f"{a}+{b}").slug
        for a, b in (("a" * 80, "b" * 80), ("a" * 80, "b" * 79 + "c"), ("one net", "two"), ("one_net", "two"))
    }
    assert len(slugs) == 4 and max(map(len, slugs)) <= 100
    make_report(tmp_path / "runs", tmp_path / "report")
    assert "digits: one and two, layer by layer" in (tmp_path / "report/index.html").read_text()


def test_layers_of_one_network_and_all_pairs_of_several(composed, tmp_path, capsys):
    distance(composed(f"models=['{OF}:model']", "layers=[relu,pool]", "metrics=[indices]"))
    folder = tmp_path / f"runs/distance/digits/{OF}_model+{OF}_model/layers"
    cka = pd.read_csv(folder / "cka_test.csv", index_col=0)
    np.testing.assert_allclose(np.diag(cka), 1, atol=1e-6)
    np.testing.assert_allclose(cka, cka.T, atol=1e-6)
    three = f"models=['{OF}:model','{OF}:other',{{name: '{OF}:model', label: again}}]"
    distance(composed(three, "layers=[pool]", "metrics=[indices]"))
    capsys.readouterr()
    distance(composed(three, "layers=[pool]", "metrics=[indices]"))
    assert capsys.readouterr().out.count("finished already: ") == 3
    with pytest.raises(UserError, match="holds another configuration"):
        distance(composed(three, "layers=[relu]", "metrics=[indices]"))
    assert len(collect(tmp_path / "runs").runs) == 4


def test_a_run_of_this_project_is_one_of_them(trained, composed, tmp_path):
    folder, _ = trained
    run = folder / "runs/train/digits/baseline/seed0"
    distance(composed(f"models=['{run}','{OF}:model']", "layers={digits_baseline_seed0: [conv3,relu7]}"))
    [rows] = (tmp_path / "runs/distance/digits").glob("digits_baseline_seed0+*/layers/rows.csv")
    assert {"conv3", "relu7", "relu", "pool", "head"} == set(read_rows(rows)["layer"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([f"models=['{OF}:model']"], "models=: give the images"),
        ([f"models=['{OF}:model','{OF}:model']", "data=digits"], "several are called"),
        (["models=[]", "data=digits"], "models=[]: give networks"),
        (["models=[5]", "data=digits"], "models=[5]: give networks"),
        (["models=[{weights: random}]", "data=digits"], "models[0]: give a name"),
        (["models=[{name: timm/resnet18, wieghts: random}]", "data=digits"], "did you mean 'weights'?"),
        (["models=[tim/resnet18]", "data=digits"], "there is no such folder"),
        ([TWO, "data=digits", "layers={ona: pool}"], "layers: 'ona' is none of the models; did you mean 'one'?"),
        ([TWO, "data=digits", "readout=meen"], "did you mean 'mean'?"),
        ([TWO, "data=digits", "networks=digits"], "networks: invariance-distance does not read it"),
        (["readout=mean"], "readout: invariance-distance does not read it"),
        (["data=digits"], "data: invariance-distance does not read it"),
    ],
)
def test_what_does_not_serve_is_one_line(given, said, mistake, prepared_once):
    line = mistake("distance", f"prepared={prepared_once}", "logger=csv", "progress=false", "solver=ridge", *given)
    assert said in line


def images_of(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 17, 17), generator=generator, dtype=torch.uint8)


def test_a_comparison_that_is_kept_is_read_and_is_of_one_call_alone(tmp_path, monkeypatch):
    given = {"layers": ["relu", "pool"], "fit": 0.5, "readout": {"relu": "mean"}, "keep": tmp_path / "kept"}
    table = compare_models(model(), other().renamed("two"), images_of(80), **given)
    monkeypatch.setattr(layer_pairs, "phi", None)  # nothing is computed again
    again = compare_models(model(), other().renamed("two"), images_of(80), **given)
    pd.testing.assert_frame_equal(again.matrix("cka"), table.matrix("cka"))
    assert again.attrs == table.attrs and len(again) == len(table)
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["comparison.json", "rows.csv"]
    with pytest.raises(UserError, match="holds another comparison"):
        compare_models(model(), other().renamed("two"), images_of(80, 1), **given)
    rows = tmp_path / "kept/rows.csv"
    rows.write_bytes(rows.read_bytes().replace(b"1", b"2", 1))
    with pytest.raises(UserError, match="is not as it was written"):
        compare_models(model(), other().renamed("two"), images_of(80), **given)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").touch()
    with pytest.raises(UserError, match=r"holds thesis\.tex, and no comparison"):
        compare_models(model(), other().renamed("two"), images_of(80), **{**given, "keep": tmp_path / "mine"})


def test_an_interrupted_comparison_goes_on(tmp_path, monkeypatch):
    given = {"layers": ["relu", "pool"], "fit": 0.5, "keep": tmp_path / "kept"}
    write, written, all_units = UnitResults.write, [], []
    monkeypatch.setattr(UnitResults, "write", lambda *unit: (all_units.append(unit), write(*unit)))
    whole = compare_models(model(), other().renamed("two"), images_of(80), **{**given, "keep": tmp_path / "whole"})

    def stop(*unit):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(unit)
        write(*unit)

    monkeypatch.setattr(UnitResults, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        compare_models(model(), other().renamed("two"), images_of(80), **given)
    rest = []
    monkeypatch.setattr(UnitResults, "write", lambda *unit: (rest.append(unit), write(*unit)))
    table = compare_models(model(), other().renamed("two"), images_of(80), **given)
    assert len(rest) + 3 == len(all_units)
    np.testing.assert_array_equal(table["score"], whole["score"])
