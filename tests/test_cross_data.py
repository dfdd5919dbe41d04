"""Networks measured on other images than they were trained on (Sec. B.2, Fig. 10)."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from invariance.data.prepared import prepare
from invariance.data.sources.unlabelled import Unlabelled
from invariance.errors import UserError
from invariance.experiments.measure import measure
from invariance.experiments.report import report
from invariance.runs.rows import read_rows
from invariance.training.classifier import load_classifier


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A folder of pages: not square, gray and in colour, of several sizes, in folders that mean nothing."""
    folder = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(3)
    for k in range(30):
        (folder / f"box{k % 3}").mkdir(exist_ok=True)
        shape = (40 + k, 61 - k) + ((3,) if k % 2 else ())
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / f"box{k % 3}" / f"{k:02d}.png")
    return folder


@pytest.fixture(scope="module")
def measured(trained, scans, compose, tmp_path_factory):
    """The baseline and a rotation network of digits, measured on the pages over mirror."""
    folder, places = trained
    runs = tmp_path_factory.mktemp("cross") / "runs"
    shutil.copytree(folder / "runs/train", runs / "train")
    chosen = [*places, f"runs={runs}", "data=historical", f"data.root={scans}", "grids=[mirror]", "solver=ridge"]
    measure(compose("measure", *chosen, "networks=digits"))
    return runs, chosen


def test_l2_distance_is_that_of_an_independent_computation(measured, trained, scans):
    runs, _ = measured
    folder, _ = trained
    classifier = load_classifier(runs / "train/digits/baseline/seed0/best.ckpt").double().eval()
    data = yaml.safe_load((runs.parent / "runs/train/digits/baseline/seed0/provenance.json").read_text())["data"]
    assert data["colour"] == "gray"
    settings = {**_historical(), "root": str(scans)}
    prepared = prepare(settings, 32, folder / "prepared", progress=False)
    caught = {}
    dict(classifier.network.named_modules())["relu7"].register_forward_hook(
        lambda module, given, out: caught.update(r=out.flatten(1).clone())
    )

    def features(split, flip):
        x = torch.from_numpy(np.array(prepared.split(split).images)[..., :: -1 if flip else 1].copy())
        with torch.no_grad():
            classifier.network(classifier.normalise(x.double()))
        return caught["r"]

    scale = features("val", False).square().mean(0).sqrt()
    alive = scale > 0
    r, gr = (features("test", flip)[:, alive] / scale[alive] for flip in (False, True))
    some = r.norm(dim=1) > 0
    expected = ((gr - r).norm(dim=1)[some] / r.norm(dim=1)[some]).mean()
    rows = read_rows(runs / "measure/digits@historical/baseline/seed0/mirror/identity/rows.csv")
    row = rows[(rows["g"] == "mirror:horizontal") & (rows["split"] == "test")].iloc[0]
    assert row["score"] == pytest.approx(float(expected), rel=1e-4) and row["score"] > 0.05
    assert row["n_images"] == int(some.sum())


def _historical():
    from invariance.settings.files import conf_dir

    return yaml.safe_load((conf_dir() / "data" / "historical.yaml").read_text())


def test_rows_say_which_network_on_which_data_and_hold_no_error_rate(measured, capsys, compose):
    runs, chosen = measured
    rows = read_rows(runs / "measure/digits@historical/rotation_20/seed0/mirror/residual_ridge/rows.csv")
    assert set(rows["metric"]) == {"l2_distance"} and set(rows["data"]) == {"digits@historical"}
    assert set(rows["network"]) == {"rotation_20"} and set(rows["split"]) == {"val", "test"}
    held = json.loads(
        (runs / "measure/digits@historical/rotation_20/seed0/mirror/identity/provenance.json").read_text()
    )
    assert held["trained_on"] == "digits"
    measure(compose("measure", *chosen, "networks=digits"))
    said = capsys.readouterr()
    assert said.out.count("finished already") == 2 and "error_rate is left out" in said.err
    assert len(np.load(runs / "measure/digits@historical/baseline/seed0/mirror/examples.npz")["images"][0]) == 4


def test_what_cannot_be_measured_is_refused(measured, compose):
    _, chosen = measured
    with pytest.raises(UserError, match="no labels of the networks' own"):
        measure(compose("measure", *chosen, "networks=digits/baseline", "metrics=[error_rate]"))
    with pytest.raises(UserError, match="was trained on digits; leave data= out"):
        measure(compose("measure", *chosen, "networks=digits/baseline", "data.name=digits"))
    with pytest.raises(UserError, match="no class folders|there is no|is not"):
        measure(compose("measure", *chosen, "networks=digits/baseline", "data.root=/nowhere"))


def test_other_images_of_the_same_name_are_not_mixed_in(measured, compose, tmp_path, scans):
    _, chosen = measured
    shutil.copytree(scans, tmp_path / "others")
    Image.new("L", (40, 50), 9).save(tmp_path / "others" / "one_more.png")
    with pytest.raises(UserError, match="holds another configuration: data.sha256"):
        measure(compose("measure", *chosen, "networks=digits/baseline", f"data.root={tmp_path}/others"))


def test_measuring_on_the_own_data_is_the_run_that_it_was(trained, compose, tmp_path):
    folder, places = trained
    shutil.copytree(folder / "runs/train", tmp_path / "runs/train")
    measure(compose("measure", *places, f"runs={tmp_path}/runs", "networks=baseline", "grids=[mirror]", "map=identity"))
    held = yaml.safe_load((tmp_path / "runs/measure/digits/baseline/seed0/mirror/identity/config.yaml").read_text())
    assert list(held) == ["network", "weights", "data", "grid", "layer", "metrics", "map", "solver"]
    assert held["network"] == "digits/baseline/seed0" and held["metrics"] == ["error_rate", "l2_distance"]
    assert held["data"]["name"] == "digits" and list(held["data"]) == ["name", "sha256", "fit", "report"]


def test_the_report_tells_them_from_those_on_the_own_data(measured, compose, tmp_path, undrawn):
    runs, chosen = measured
    own = [one for one in chosen if not one.startswith("data")]
    measure(compose("measure", *own, "networks=digits"))
    report(compose("report", f"runs={runs}", f"out={tmp_path}/report", "logger=csv", "progress=false"))
    page = (tmp_path / "report/index.html").read_text()
    assert 'id="data-digits"' in page and 'id="data-digits@historical"' in page
    rows = read_rows(tmp_path / "report/rows.csv")
    assert set(rows["data"]) == {"digits", "digits@historical"}


def test_an_archive_in_the_folder_that_was_named_is_pointed_at(tmp_path):
    (tmp_path / "scans.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"holds 0 images; two or more are needed; name its archive, as .*/scans\.zip"):
        Unlabelled(str(tmp_path)).splits()
