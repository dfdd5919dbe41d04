"""Measuring: numbers against a transcription of the paper's definitions, and rows that survive any interruption."""

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage
from sklearn import linear_model

import invariance.device
import invariance.engine.measuring
import invariance.training.trained
from invariance.data.prepared import prepare
from invariance.errors import UserError
from invariance.experiments.measure import measure
from invariance.experiments.report import report
from invariance.maps import order
from invariance.runs.files import sha256
from invariance.runs.parts import Parts
from invariance.runs.rows import OF_CONTROL, read_rows
from invariance.runs.seal import write_marker
from invariance.training.classifier import load_classifier

GRID = "grid={rotation: {angles: [-30, 10, 45]}}"
ROTATION = ["grids=[rotation]", GRID]


@pytest.fixture
def place(trained, tmp_path):
    """A copy of the trained networks to measure in."""
    folder, places = trained
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy", [text.replace(str(folder), str(tmp_path / "copy")) for text in places]


def all_rows_of(folder, network, unit):
    return read_rows(folder / "runs/measure/digits" / network / "seed0" / unit / "rows.csv")


def rows_of(folder, network, unit):
    """Without those of the unseen-class control."""
    rows = all_rows_of(folder, network, unit)
    return rows[rows["fit_classes"].isin(["", "all"]) & ~rows["metric"].isin(OF_CONTROL)]


def opened(folder, network):
    """The trained network, and its data."""
    run = folder / "runs/train/digits" / network / "seed0"
    settings = json.loads((run / "provenance.json").read_text())["data"]
    return load_classifier(run / "best.ckpt"), prepare(settings, 32, folder / "prepared", progress=False)


def fc7(module, images):
    """φ of images (N, 1, 32, 32), by the layers of the network one after another, as float64 (N, D)."""
    x = (torch.from_numpy(images).float() - module.mean) / 255
    return torch.nn.Sequential(*list(module.network.children())[:-2])(x).detach().double().numpy()


def rotated(images, degrees):
    """Counter-clockwise as seen, y down: output (y, x) takes its value from this place of the input."""
    angle = math.radians(degrees)
    matrix = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    centre = np.array([15.5, 15.5])
    options = {"order": 1, "mode": "grid-constant", "cval": 0}
    turned = [
        ndimage.affine_transform(image[0].astype(float), matrix, centre - matrix @ centre, **options)[None]
        for image in images
    ]
    return np.stack(turned)


def test_numbers_are_the_papers_definitions(place, compose):
    folder, places = place
    measure(compose("measure", *places, *ROTATION, "networks=rotation_20", "solver=ridge"))
    rows = rows_of(folder, "rotation_20", "rotation/identity")
    assert len(rows) == 4 * 2 * 2 and set(rows["status"]) == {"ok"} and set(rows["split"]) == {"val", "test"}
    assert set(rows["g"]) == {"rotation:-30", "rotation:untouched", "rotation:10", "rotation:45"}

    module, data = opened(folder, "rotation_20")
    test, val = data.split("test"), data.split("val")
    r, rms = fc7(module, np.array(test.images)), np.sqrt((fc7(module, np.array(val.images)) ** 2).mean(0))
    alive = rms > 0
    rms = rms[alive]
    wanted = rows[(rows["split"] == "test")].set_index(["g", "metric"])["score"]
    for degrees in (-30, 10, 45):
        changed = fc7(module, rotated(np.array(test.images), degrees))
        logits = module.network.fc8(torch.from_numpy(changed).float()).detach()
        error = float((logits.argmax(1).numpy() != test.labels).mean())
        distance = np.mean(
            np.linalg.norm((changed - r)[:, alive] / rms, axis=1) / np.linalg.norm(r[:, alive] / rms, axis=1)
        )
        assert wanted[f"rotation:{degrees}", "error_rate"] == pytest.approx(error, abs=2 / len(r))
        assert wanted[f"rotation:{degrees}", "l2_distance"] == pytest.approx(distance, rel=1e-3)
    assert wanted["rotation:untouched", "l2_distance"] == 0

    untouched = read_rows(folder / "runs/train/digits/rotation_20/seed0/rows.csv").set_index("split")["score"]
    assert wanted["rotation:untouched", "error_rate"] == pytest.approx(untouched["test"], abs=1e-12)


def one_by_one(r, t, epochs, rate):
    """Sec. 5.2 as it is written, in float64: M_g by `torch.optim.SGD`, one image an update."""
    n, dim = r.shape
    weight, bias = (torch.zeros(size, dtype=torch.float64, requires_grad=True) for size in ((dim, dim), (dim,)))
    optimizer = torch.optim.SGD([weight, bias], lr=rate, momentum=0.9, weight_decay=1e-5)
    for epoch in range(epochs):
        for i in order(n, 0, epoch).tolist():
            optimizer.zero_grad()
            loss = (torch.relu(weight @ r[i] + r[i] + bias) - t[i]).square().sum() / (2 * dim)
            loss.backward()
            optimizer.step()
    return weight.detach().numpy(), bias.detach().numpy()


def least_squares(r, t, strength):
    """Ridge towards the identity, in float64: scikit-learn's, with the strength times n and the mean variance."""
    damping = strength * len(r) * float(r.var(0, correction=0).mean())
    fitted = linear_model.Ridge(alpha=damping).fit(r.numpy(), (t - r).numpy())
    return fitted.coef_, fitted.intercept_


@pytest.mark.parametrize("solver", ["online_sgd", "ridge"])
def test_rows_of_fitted_maps_are_the_papers_definitions(place, compose, solver):
    """In several groups of g, so that a map taken for another's would show."""
    folder, places = place
    settings = {
        "online_sgd": ["solver.online_sgd.epochs=2", "solver.online_sgd.rate=0.02"],
        "ridge": ["solver.ridge.strengths=[0.01]"],
    }[solver]
    fit = ["fit={images: 90}", f"solver={solver}", *settings, "memory_gb=0.01"]
    measure(compose("measure", *places, *ROTATION, "networks=baseline", *fit))
    rows = rows_of(folder, "baseline", f"rotation/residual_{solver}")
    module, data = opened(folder, "baseline")
    chosen = data.fit_indices({"images": 90})
    val, test = np.array(data.split("val").images[chosen]), np.array(data.split("test").images)
    r, labels = fc7(module, test), data.split("test").labels
    rms = np.sqrt((fc7(module, val) ** 2).mean(0))
    alive = rms > 0
    wanted = rows[rows["split"] == "test"].set_index(["g", "metric"])
    for degrees in (-30, 10, 45):
        pair = torch.from_numpy(fc7(module, rotated(val, degrees))), torch.from_numpy(fc7(module, val))
        weight, bias = one_by_one(*pair, 2, 0.02) if solver == "online_sgd" else least_squares(*pair, 0.01)
        changed = fc7(module, rotated(test, degrees))
        back = np.maximum(changed @ (weight.T + np.eye(len(bias))) + bias, 0)
        logits = module.network.fc8(torch.from_numpy(back).float()).detach()
        distance = np.mean(
            np.linalg.norm((back - r)[:, alive] / rms[alive], axis=1) / np.linalg.norm(r[:, alive] / rms[alive], axis=1)
        )
        error = float((logits.argmax(1).numpy() != labels).mean())
        assert wanted.loc[(f"rotation:{degrees}", "l2_distance"), "score"] == pytest.approx(distance, rel=1e-3)
        assert wanted.loc[(f"rotation:{degrees}", "error_rate"), "score"] == pytest.approx(error, abs=2 / len(r))
    assert (rows["n_images"] > 80).all() and set(rows["status"]) == {"ok"}


def test_intervals_hold_their_scores_and_the_closed_form_beats_the_identity_where_it_was_fitted(place, compose):
    folder, places = place
    measure(compose("measure", *places, *ROTATION, "networks=baseline", "solver=[ridge,online_sgd]"))
    identity, ridge = (
        rows_of(folder, "baseline", "rotation/identity"),
        rows_of(folder, "baseline", "rotation/residual_ridge"),
    )
    for rows in (identity, ridge):
        assert ((rows["low"] <= rows["score"]) & (rows["score"] <= rows["high"])).all()
        assert (rows["n_images"] > 300).all()

    def fitted(rows):
        return rows[(rows["split"] == "val") & (rows["metric"] == "l2_distance")].set_index("g")["score"]

    far = ["rotation:-30", "rotation:45"]
    assert (fitted(ridge)[far] < fitted(identity)[far]).all()
    assert set(rows_of(folder, "baseline", "rotation/residual_online_sgd")["solver"]) == {"online_sgd"}


def test_interrupted_after_any_group_and_repeated_gives_the_same_rows(place, compose, monkeypatch):
    folder, places = place
    grid = ["grids=[rotation]", "grid={rotation: {angles: [-40, -30, -20, -10, 10, 20, 30, 40]}}"]
    config = compose(
        "measure",
        *places,
        *grid,
        "networks=rotation_20",
        "solver=online_sgd",
        "memory_gb=0.01",
        "solver.online_sgd.epochs=2",
        "fit={images: 150}",
    )
    measure(config)
    units = ("rotation/identity", "rotation/residual_online_sgd")
    runs = folder / "runs/measure/digits/rotation_20/seed0"
    undisturbed = {unit: (runs / unit / "rows.csv").read_bytes() for unit in units}
    assert len(undisturbed) == 2
    write = Parts.write
    for survive in range(1, 4):  # two groups of two fits
        shutil.rmtree(runs)
        written = 0

        def stop(*part, survive=survive):
            nonlocal written
            if written == survive:
                raise KeyboardInterrupt
            written += 1
            write(*part)

        monkeypatch.setattr(Parts, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            measure(config)
        assert not list(runs.glob("**/done.json"))
        monkeypatch.setattr(Parts, "write", write)
        measure(config)
        assert {unit: (runs / unit / "rows.csv").read_bytes() for unit in units} == undisturbed


def test_finished_fits_are_kept_and_new_ones_added(place, compose, capsys):
    folder, places = place
    measure(compose("measure", *places, *ROTATION, "networks=baseline", "solver=ridge"))
    marker = folder / "runs/measure/digits/baseline/seed0/rotation/residual_ridge/done.json"
    before = marker.stat().st_mtime_ns
    measure(compose("measure", *places, *ROTATION, "networks=baseline", "solver=ridge"))
    assert "finished already" in capsys.readouterr().out
    measure(compose("measure", *places, *ROTATION, "networks=baseline", "solver=ridge", "map=[identity,residual,mlp]"))
    assert marker.stat().st_mtime_ns == before
    [rows] = [read_rows(path) for path in folder.glob("runs/measure/digits/baseline/seed0/rotation/mlp_*/rows.csv")]
    assert set(rows["map"]) == {"mlp"} and set(rows["solver"]) == {"minibatch_sgd_32"}


def test_any_measure_is_asked_for_by_its_name_and_the_report_reads_the_rows(place, compose, undrawn):
    folder, places = place
    metrics = "metrics=[agreement,effective_invariance,l2_distance,cka,procrustes,r2]"
    measure(compose("measure", *places, *ROTATION, "networks=baseline", "solver=ridge", metrics))
    rows = {unit: rows_of(folder, "baseline", f"rotation/{unit}") for unit in ("identity", "residual_ridge")}
    assert set(rows["residual_ridge"]["metric"]) == {"agreement", "effective_invariance", "l2_distance"}
    assert set(rows["identity"]["metric"]) == {*rows["residual_ridge"]["metric"], "cka", "procrustes", "r2"}
    untouched = rows["identity"][rows["identity"]["g"] == "rotation:untouched"].set_index("metric")["score"]
    assert (untouched["agreement"] == 1).all() and untouched["cka"] == pytest.approx(1)
    nulls = ["null_image", "null_constant", "null_shuffled", "calibrated"]
    assert all(of_unit[nulls].isna().all(axis=None) for of_unit in rows.values())
    report(compose("report", f"runs={folder}/runs", f"out={folder}/report", "logger=csv", "progress=false"))
    assert (folder / "report" / "index.html").is_file()


def test_a_fit_that_diverges_is_marked_and_shows_no_number(place, compose):
    folder, places = place
    wild = ["solver=online_sgd", "solver.online_sgd.rate=1000", "map=residual"]
    measure(compose("measure", *places, *ROTATION, "networks=baseline", *wild))
    rows = rows_of(folder, "baseline", "rotation/residual_online_sgd")
    rows = rows[rows["g"] != "rotation:untouched"]  # there nothing has to be learned, and nothing can diverge
    assert set(rows["status"]) == {"diverged"} and rows["g"].nunique() == 3
    assert rows[["score", "low", "high"]].isna().all(axis=None) and (rows["n_images"] > 0).all()


def test_a_baseline_is_measured_at_the_size_of_the_crop_network(place, compose):
    folder, places = place
    measure(compose("measure", *places, "grids=[crop_256]", "networks=baseline", "map=identity"))
    rows = rows_of(folder, "baseline", "crop_256/identity")
    assert rows["g"].nunique() == 25 and rows[rows["g"] == "crop_256:untouched"]["value"].unique() == [13]
    examples = np.load(folder / "runs/measure/digits/baseline/seed0/crop_256/examples.npz")["images"]
    assert examples.shape == (25, 4, 1, 32, 32) and examples.dtype == np.uint8
    assert list((folder / "prepared/digits").glob("36-gray-*"))
    about = json.loads((folder / "runs/measure/digits/baseline/seed0/crop_256/grid.json").read_text())
    assert about["family"] == "crop" and about["ordinal"] and len(about["points"]) == 25


def test_covered_points_are_those_of_the_trained_range(place, compose):
    folder, places = place
    measure(compose("measure", *places, "networks=rotation_20", "map=identity"))
    about = json.loads((folder / "runs/measure/digits/rotation_20/seed0/rotation/grid.json").read_text())
    covered = {point["value"] for point in about["points"] if point["covered"]}
    assert covered == {-20, -10, -5, 0, 5, 10, 20} and len(about["points"]) == 9


def test_retrained_weights_do_not_pass_for_the_measured_ones(place, compose):
    folder, places = place
    measure(compose("measure", *places, *ROTATION, "networks=baseline", "map=identity"))
    path = folder / "runs/train/digits/baseline/seed0/best.ckpt"
    held = torch.load(path, weights_only=True)
    held["state_dict"]["network.fc8.bias"] += 1
    torch.save(held, path)
    with pytest.raises(UserError, match=r"best\.ckpt is not what its run was finished with"):
        measure(compose("measure", *places, *ROTATION, "networks=baseline", "map=identity"))
    provenance = json.loads((path.parent / "provenance.json").read_text())
    (path.parent / "provenance.json").write_text(json.dumps({**provenance, "weights_sha256": sha256(path)}))
    write_marker(path.parent, {"rows": 2}, "train/digits/baseline/seed0")  # as a training of its own would
    with pytest.raises(UserError, match="weights is .* there and .* here"):
        measure(compose("measure", *places, *ROTATION, "networks=baseline", "map=identity"))


def test_maps_that_no_memory_holds_are_refused_before_any_features(place, compose, monkeypatch):
    folder, places = place
    monkeypatch.setattr(invariance.device, "machine_bytes", lambda: 10**6)
    monkeypatch.setattr(invariance.engine.measuring, "_OfFamily", None)
    with pytest.raises(UserError, match=r"solver=ridge for maps of .* and this machine has 1,000,000 bytes"):
        measure(compose("measure", *places, "networks=baseline", "grids=[mirror]", "map=residual", "solver=ridge"))
    assert not (folder / "runs/measure").exists()
    monkeypatch.undo()
    measure(compose("measure", *places, "networks=baseline", "grids=[mirror]", "map=identity"))


def test_rotations_and_low_rank_maps_are_rows_of_their_own_and_say_their_sigma(place, compose):
    folder, places = place
    fits = ["map=[orthogonal,'low_rank:3',residual]", "solver=[ridge,online_sgd]", "solver.online_sgd.epochs=1"]
    for layer, sigma in (("fc7", "identity"), ("relu7", "relu")):
        runs = [f"runs={folder}/{layer}" if one.startswith("runs=") else one for one in places]
        shutil.copytree(folder / "runs/train", folder / layer / "train")
        measure(compose("measure", *runs, *ROTATION, *fits, "networks=baseline", f"layer={layer}"))
        base = folder / layer / "measure/digits/baseline/seed0/rotation"
        solvers = {"orthogonal": "procrustes", "low_rank:3": "ridge", "residual": "online_sgd"}
        for kind, solver in solvers.items():
            run = base / f"{kind.replace(':', '.')}_{solver}"
            rows, fits_csv = read_rows(run / "rows.csv"), pd.read_csv(run / "fits.csv")
            assert set(rows["map"]) == {kind} and set(rows["solver"]) == {solver}
            assert ("unseen" in set(rows["fit_classes"])) == (solver != "online_sgd")
            assert set(fits_csv["sigma"]) == {sigma} and set(fits_csv["status"]) == {"ok"}
            assert (fits_csv["strength"].notna()).all() == (solver == "ridge")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["map=low_rank", "solver=ridge"], "map='low_rank': give its rank"),
        (["map=low_rank:x", "solver=ridge"], "map='low_rank:x': give its rank"),
        (["layer=rel7"], "did you mean 'relu7'"),
        (["grids=[rotaton]"], "did you mean 'rotation'"),
        (["grids=[baseline]"], "grids=baseline: no such family or grid"),
        (["grid={rotaton: {angles: [1]}}"], "did you mean 'rotation'"),
        (["grid={rotation: {angels: [1]}}"], "did you mean 'angles'"),
        (["networks=baselin"], "did you mean 'baseline'"),
        (["map=residual", "solver=minibatch_sgd"], "map=residual needs a solver"),
        (["metrics=[agrement]"], "did you mean 'agreement'"),
        (["metrics=[cka]", "solver=ridge"], "cka say nothing of a map"),
        (["metrics=[cka,l2_distance]", "map=residual", "solver=ridge"], "cka is between φ.* add identity to the maps"),
    ],
)
def test_mistakes_are_named_before_data_are_prepared(place, compose, overrides, said, monkeypatch):
    _, places = place
    monkeypatch.setattr(invariance.training.trained, "prepare", None)
    with pytest.raises(UserError, match=said):
        measure(compose("measure", *places, "networks=baseline", *overrides))
