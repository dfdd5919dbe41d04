"""Distances: numbers against a transcription of the paper's definitions, rows that survive any interruption."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from sklearn import linear_model

import invariance.device
import invariance.engine.store
from invariance.data.manifest import sealed_text
from invariance.engine.pair_units import UnitResults
from invariance.engine.store import images_of
from invariance.errors import UserError
from invariance.experiments import pair_runs
from invariance.experiments.distance import distance
from invariance.experiments.train import train
from invariance.maps import order
from invariance.measures.bootstrap import bootstrap
from invariance.measures.cka import linear_cka
from invariance.measures.moments import centred, cross_product
from invariance.measures.procrustes import procrustes_distance
from invariance.measures.r2 import Regression
from invariance.runs.files import sha256
from invariance.runs.rows import COLUMNS, read_rows
from invariance.runs.seal import write_marker
from invariance.training.classifier import load_classifier
from tests.test_measure import fc7, opened

QUICK = ["solver.online_sgd.epochs=2", "solver.online_sgd.rate=0.02", "solver.ridge.strengths=[0.03]"]
NAMES = ["baseline/seed0", "baseline/seed1", "narrow/seed2", "rotation_20/seed0"]


@pytest.fixture(scope="module")
def four(trained, tmp_path_factory, compose):
    """Four networks: two baselines, one of rotation, and one of fewer features."""
    source, places = trained
    folder = tmp_path_factory.mktemp("four") / "four"
    shutil.copytree(source, folder)
    places = [text.replace(str(source), str(folder)) for text in places]
    quick = ["model=tiny", "recipe=smoke", "recipe.updates=60", "recipe.val_every=60", "recipe.step=50"]
    train(compose("train", *places, *quick, "seed=1"))
    train(compose("train", *places, *quick, "seed=2", "name=narrow", "model.features=96"))
    return folder, [*places, f"features={folder}/features"]


def copied(four, target):
    folder, places = four
    shutil.copytree(folder, target)
    return target, [text.replace(str(folder), str(target)) for text in places]


@pytest.fixture
def place(four, tmp_path):
    return copied(four, tmp_path / "copy")


@pytest.fixture(scope="module")
def undisturbed(four, compose, tmp_path_factory):
    """All pairs, compared without an interruption."""
    folder, places = copied(four, tmp_path_factory.mktemp("undisturbed") / "copy")
    distance(compose("distance", *places, *QUICK))
    return folder


def pair_rows(folder, one, other, unit):
    a, b = sorted((one, other))
    path = folder / f"runs/distance/digits/{a.replace('/', '-')}+{b.replace('/', '-')}" / unit / "rows.csv"
    return read_rows(path)


def everything(folder):
    """Bytes of every table below a folder's distances, by path."""
    root = folder / "runs/distance"
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.csv"))}


def literal_features(folder, label):
    """φ of fit and report images in float64, each dimension divided by its RMS over the fit images."""
    module = load_classifier(folder / "runs/train/digits" / label / "best.ckpt")
    _, data = opened(folder, "baseline")
    val, test = (fc7(module, np.array(data.split(split).images)) for split in ("val", "test"))
    scale = np.sqrt((val**2).mean(0))
    alive = scale > 0
    return [torch.from_numpy(np.where(alive, r / np.where(alive, scale, 1), 0)) for r in (val, test)], alive


def one_by_one(r, t, epochs, rate):
    """E of Sec. 5.3 in float64: `torch.optim.SGD`, one image an update, from 0 and so without σ in the loss."""
    weight, bias = torch.zeros(t.shape[1], r.shape[1]).double(), torch.zeros(t.shape[1]).double()
    weight.requires_grad_(), bias.requires_grad_()
    optimizer = torch.optim.SGD([weight, bias], lr=rate, momentum=0.9, weight_decay=1e-5)
    for epoch in range(epochs):
        for i in order(len(r), 0, epoch).tolist():
            optimizer.zero_grad()
            loss = (weight @ r[i] + bias - t[i]).square().sum() / (2 * t.shape[1])
            loss.backward()
            optimizer.step()
    return weight.detach(), bias.detach()


def least_squares(r, t, strength):
    damping = strength * len(r) * float(r.var(0, correction=0).mean())
    fitted = linear_model.Ridge(alpha=damping).fit(r.numpy(), t.numpy())
    return torch.from_numpy(fitted.coef_), torch.from_numpy(fitted.intercept_)


@pytest.mark.parametrize("solver", ["online_sgd", "ridge"])
@pytest.mark.parametrize(
    ("one", "other"), [("baseline/seed0", "rotation_20/seed0"), ("narrow/seed2", "baseline/seed1")]
)
def test_rows_are_the_papers_definitions(undisturbed, solver, one, other):
    sides, alive = zip(*(literal_features(undisturbed, label) for label in (one, other)), strict=True)
    assert {side.shape[1] for side in sides[0]} <= {96, 256}
    values = {}
    for source, target in ((0, 1), (1, 0)):
        r, t = sides[source][0], sides[target][0]
        weight, bias = one_by_one(r, t, 2, 0.02) if solver == "online_sgd" else least_squares(r, t, 0.03)
        for split, k in (("val", 0), ("test", 1)):
            back = torch.relu(sides[source][k] @ weight.T + bias)[:, alive[target]]
            wanted = sides[target][k][:, alive[target]]
            values[split, source] = ((back - wanted).norm(dim=1) / wanted.norm(dim=1)).numpy()
    rows = pair_rows(undisturbed, one, other, f"linear_{solver}")
    assert set(rows["status"]) == {"ok"} and set(rows["map"]) == {"linear"} and set(rows["solver"]) == {solver}
    labels = [f"{network}/seed{seed}" for network, seed in zip(rows["network"], rows["seed"], strict=True)]
    found = rows.assign(source=labels).set_index(["split", "metric", "source", "g"])["score"]
    for split in ("val", "test"):
        ends = [(one, f"network:{other}"), (other, f"network:{one}")]
        for k, way in enumerate(ends):
            assert found[(split, "l2_distance", *way)] == pytest.approx(values[split, k].mean(), rel=1e-3)
        first = ends[0] if one < other else ends[1]
        sign = 1 if one < other else -1
        mean, difference = ((values[split, 0].mean() + sign2 * values[split, 1].mean()) for sign2 in (1, -1))
        assert found[(split, "l2_distance_mean", *first)] == pytest.approx(mean / 2, rel=1e-3)
        assert found[(split, "l2_distance_difference", *first)] == pytest.approx(sign * difference, abs=2e-3)
    assert ((rows["low"] <= rows["score"]) & (rows["score"] <= rows["high"])).all() and (rows["n_images"] > 300).all()


def test_indices_are_those_of_the_report_features(undisturbed):
    (_, x), (_, y) = (literal_features(undisturbed, label)[0] for label in ("baseline/seed0", "narrow/seed2"))
    rows = pair_rows(undisturbed, "baseline/seed0", "narrow/seed2", "indices").set_index(["network", "metric"])["score"]
    a, b, cross = centred(x), centred(y), cross_product(x, y)
    assert rows["baseline", "cka"] == pytest.approx(linear_cka(a, b, cross), rel=1e-4)
    assert rows["baseline", "procrustes"] == pytest.approx(procrustes_distance(a, b, cross), rel=1e-4)
    assert rows["baseline", "r2"] == pytest.approx(Regression(x).r2(b, cross), rel=1e-3)
    assert rows["narrow", "r2"] == pytest.approx(Regression(y).r2(a, cross.T), rel=1e-3)
    assert ("narrow", "cka") not in rows.index


def test_every_pair_is_there_once_and_the_work_is_tidied_away(undisturbed):
    root = undisturbed / "runs/distance/digits"
    assert len(list(root.iterdir())) == 6 and not list(root.glob("unfinished-*"))
    tables = [read_rows(path) for path in root.glob("*/linear_ridge/rows.csv")]
    ways = {
        (row.network, row.seed, row.g)
        for table in tables
        for row in table.itertuples()
        if row.split == "test" and row.metric == "l2_distance"
    }
    assert len(ways) == 12
    made = json.loads((root / "baseline-seed0+narrow-seed2/linear_ridge/provenance.json").read_text())
    assert made["dimensions"] == {"baseline/seed0": 256, "narrow/seed2": 96} and len(made["upstream"]) == 2


def test_interrupted_at_any_moment_and_repeated_gives_the_same_rows(place, undisturbed, compose, monkeypatch):
    """Killed before each of its writes in turn, every time going on with what there is."""
    folder, places = place
    config = compose("distance", *places, *QUICK)
    unit, finish = UnitResults.write, pair_runs.Run.finish
    left = [0]

    def fragile(call):
        def called(*arguments):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return call(*arguments)

        return called

    monkeypatch.setattr(UnitResults, "write", fragile(unit))
    monkeypatch.setattr(pair_runs.Run, "finish", fragile(finish))
    for interruptions in range(40):
        left[0] = 1 + interruptions % 3
        try:
            distance(config)
            break
        except KeyboardInterrupt:
            assert list((folder / "runs/distance/digits").glob("unfinished-*"))
    assert 5 < interruptions < 39
    assert everything(folder) == everything(undisturbed)
    assert not list((folder / "runs/distance/digits").glob("unfinished-*"))


def test_killed_while_the_work_is_tidied_away(place, undisturbed, compose, monkeypatch, capsys):
    folder, places = place
    config = compose("distance", *places, *QUICK)

    def killed(path, **settings):
        (path / "config.yaml").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pair_runs.shutil, "rmtree", killed)
        distance(config)
    distance(config)
    assert everything(folder) == everything(undisturbed)
    assert not list((folder / "runs/distance/digits").glob("unfinished-*"))
    distance(config)
    assert "finished already" in capsys.readouterr().out


def test_work_whose_pairs_others_have_finished_is_removed(place, compose, monkeypatch):
    folder, places = place
    some = compose("distance", *places, *QUICK, "networks=[baseline,rotation_20]")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pair_runs.PairRecorder, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        distance(some)
    assert len(list((folder / "runs/distance/digits").glob("unfinished-*"))) == 1
    distance(compose("distance", *places, *QUICK))
    assert not list((folder / "runs/distance/digits").glob("unfinished-*"))


def test_a_damaged_unit_is_computed_again(place, undisturbed, compose, monkeypatch, capsys):
    folder, places = place
    config = compose("distance", *places, *QUICK)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pair_runs.PairRecorder, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        distance(config)
    first, second, *_ = sorted((folder / "runs/distance/digits").glob("unfinished-*/units/*.npz"))
    first.write_bytes(second.read_bytes())
    second.write_bytes(second.read_bytes()[:-200])
    distance(config)
    said = capsys.readouterr().err
    assert f"{first} is not used (it is of something else)" in said
    assert f"{second} is not used (it is not as it was written)" in said
    assert everything(folder) == everything(undisturbed)


def test_in_small_groups_the_numbers_are_the_same(place, undisturbed, compose):
    folder, places = place
    distance(compose("distance", *places, *QUICK, "memory_gb=0.01"))
    ours, theirs = everything(folder), everything(undisturbed)
    assert ours.keys() == theirs.keys()
    for one, other in ((one, other) for one in NAMES for other in NAMES if one < other):
        for unit in ("linear_online_sgd", "linear_ridge", "indices"):
            tables = [pair_rows(root, one, other, unit) for root in (folder, undisturbed)]
            numbers = [table[["score", "low", "high"]].to_numpy() for table in tables]
            np.testing.assert_allclose(*numbers, rtol=1e-4, atol=1e-5)


def test_a_network_that_is_added_leaves_the_other_pairs_alone(place, compose, capsys):
    folder, places = place
    some = "networks=[baseline,rotation_20]"
    distance(compose("distance", *places, *QUICK, some))
    before = everything(folder)
    assert len({name.split("/")[1] for name in before}) == 3
    features = {path: path.stat().st_mtime_ns for path in (folder / "features").rglob("*.npy")}
    distance(compose("distance", *places, *QUICK))
    after = everything(folder)
    assert {name: after[name] for name in before} == before and len({name.split("/")[1] for name in after}) == 6
    assert all(path.stat().st_mtime_ns == then for path, then in features.items())
    distance(compose("distance", *places, *QUICK, some))
    assert "finished already: 3 pairs of 3 networks" in capsys.readouterr().out


def silence(folder, name, weight, bias):
    """Change a network's fc7."""
    path = folder / "runs/train/digits" / name / "best.ckpt"
    held = torch.load(path, weights_only=True)
    key = next(key for key in held["state_dict"] if key.endswith("fc7.weight"))
    weight(held["state_dict"][key])
    bias(held["state_dict"][key.replace("weight", "bias")])
    torch.save(held, path)
    sealed_anew(folder, name)


def sealed_anew(folder, name):
    """A network's run as if it had been finished with what it holds now."""
    run = folder / "runs/train/digits" / name
    about = json.loads((run / "provenance.json").read_text())
    about["weights_sha256"] = sha256(run / "best.ckpt")
    (run / "provenance.json").write_text(json.dumps(about))
    write_marker(run, {"rows": len(read_rows(run / "rows.csv"))}, f"train/digits/{name}")


def test_dead_units_are_left_out_and_counted(place, compose):
    folder, places = place

    def kill(values):
        values[:40] = 0

    silence(folder, "rotation_20/seed0", kill, kill)
    distance(compose("distance", *places, *QUICK, "networks=[baseline/seed0,rotation_20]"))
    rows = pair_rows(folder, "baseline/seed0", "rotation_20/seed0", "linear_ridge")
    assert set(rows["status"]) == {"ok"} and np.isfinite(rows["score"]).all()
    run = folder / "runs/distance/digits/baseline-seed0+rotation_20-seed0/linear_ridge"
    assert json.loads((run / "provenance.json").read_text())["dead"]["rotation_20/seed0"] >= 40


@pytest.mark.parametrize("flaw", ["constant", "not_finite"])
def test_a_network_of_which_nothing_can_be_said_is_marked(place, compose, capsys, flaw):
    folder, places = place
    silence(folder, "rotation_20/seed0", lambda w: w.fill_(0 if flaw == "constant" else 1e38), lambda b: b.fill_(1))
    distance(compose("distance", *places, *QUICK, "networks=[baseline,rotation_20]"))
    why = "the same" if flaw == "constant" else "not all finite"
    assert f"rotation_20/seed0: φ is {why}" in capsys.readouterr().err
    for unit, count in (("linear_ridge", 8), ("linear_online_sgd", 8), ("indices", 4)):
        rows = pair_rows(folder, "baseline/seed0", "rotation_20/seed0", unit)
        assert set(rows["status"]) == {flaw} and rows[["score", "low", "high"]].isna().all().all()
        assert len(rows) == count and list(rows.columns) == COLUMNS
        assert set(pair_rows(folder, "baseline/seed0", "baseline/seed1", unit)["status"]) == {"ok"}


def refused(config):
    with pytest.raises(UserError) as caught:
        distance(config)
    return str(caught.value)


def test_one_network_has_no_distance(place, compose):
    _, places = place
    assert "two finished networks or more (digits/rotation_20/seed0 alone)" in refused(
        compose("distance", *places, "networks=rotation_20")
    )


@pytest.mark.parametrize("pairs", ["true", "false"])
def test_maps_that_no_memory_holds_are_refused_before_any_features(place, compose, monkeypatch, pairs):
    folder, places = place
    monkeypatch.setattr(invariance.device, "machine_bytes", lambda: 10**6)
    monkeypatch.setattr(invariance.engine.store, "extract", None)
    chosen = [f"features={folder}/others", "networks=[baseline,rotation_20]", f"pairs={pairs}"]
    said = refused(compose("distance", *places, *chosen))
    assert "for maps of 256 to 256 features takes" in said and not (folder / "runs/distance").exists()


def test_a_run_that_is_not_finished_is_left_out_by_name(place, compose, capsys):
    folder, places = place
    (folder / "runs/train/digits/rotation_20/seed0/done.json").unlink()
    said = refused(compose("distance", *places, "networks=[baseline/seed0,rotation_20]"))
    assert "rotation_20/seed0" in said and "is not finished" in said
    said = refused(compose("distance", *places, "networks='*20*,narrow'"))
    assert "no run" in said


def test_a_copied_run_is_refused_by_name(place, compose):
    folder, places = place
    shutil.copytree(folder / "runs/train/digits/rotation_20/seed0", folder / "runs/train/digits/rotation_20/copy")
    assert "rotation_20/copy holds the run train/digits/rotation_20/seed0, copied" in refused(
        compose("distance", *places)
    )


def test_networks_of_different_data_sets_are_refused(place, compose):
    folder, places = place
    shutil.copytree(folder / "runs/train/digits", folder / "runs/train/letters")
    for marker in (folder / "runs/train/letters").glob("*/*/done.json"):
        marker.write_text('{"rows": 2}')  # as before seals: sealed, it is told to be a copy
    said = refused(compose("distance", *places))
    assert "different data sets" in said and "4 of digits, 4 of letters" in said and "networks=digits" in said


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("classes", lambda manifest: manifest["classes"].reverse()),
        ("files of the report split", lambda manifest: manifest["splits"]["test"].update(files_sha256="0" * 64)),
    ],
)
def test_other_classes_or_files_are_refused_by_the_manifest(place, compose, key, change, monkeypatch):
    """A network whose manifest says otherwise though its images be as many."""
    folder, places = place
    seen = images_of

    def told(network, root, progress):
        images = seen(network, root, progress)
        if network.name.startswith("digits/rotation"):
            copy = folder / "other" / images.prepared.directory.name
            shutil.copytree(images.prepared.directory, copy, dirs_exist_ok=True)
            manifest = json.loads((copy / "manifest.json").read_text())
            change(manifest)
            (copy / "manifest.json").write_text(sealed_text(manifest))
            prepared = type(images.prepared)(copy, images.report_split)
            images = type(images)(prepared, images.fit_split, images.fit_indices)
        return images

    monkeypatch.setattr("invariance.experiments.distance.images_of", told)
    said = refused(compose("distance", *places))
    assert f"digits/rotation_20/seed0 cannot be compared: the {key} of their data differ" in said


def test_networks_that_fit_on_other_images_are_refused_unless_told_alike(place, compose):
    folder, places = place
    path = folder / "runs/train/digits/rotation_20/seed0/provenance.json"
    held = json.loads(path.read_text())
    held["data"]["fit"]["images"] = 100
    path.write_text(json.dumps(held))
    sealed_anew(folder, "rotation_20/seed0")
    assert "the fit images of their data differ" in refused(compose("distance", *places))
    distance(compose("distance", *places, *QUICK, "fit={images: 50}", "networks=[baseline/seed0,rotation_20]"))


def test_a_network_trained_again_is_refused_where_its_pairs_are(place, compose):
    folder, places = place
    both = "networks=[baseline/seed0,rotation_20]"
    distance(compose("distance", *places, *QUICK, both))
    silence(folder, "rotation_20/seed0", lambda w: w.mul_(2), lambda b: b)
    assert "holds another configuration: networks.rotation_20/seed0" in refused(
        compose("distance", *places, *QUICK, both)
    )


def test_damaged_features_are_made_again_and_full_disks_told(place, compose, monkeypatch, capsys):
    folder, places = place
    config = compose("distance", *places, *QUICK, "networks=[baseline/seed0,rotation_20]")
    with monkeypatch.context() as patch:
        patch.setattr("invariance.engine.store.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))
        assert "choose another place with features=" in refused(config)
    distance(config)
    before = everything(folder)
    shutil.rmtree(folder / "runs/distance")
    cut = next((folder / "features/digits/baseline").rglob("fit.npy"))
    cut.write_bytes(cut.read_bytes()[:100])
    flipped = next((folder / "features/digits/rotation_20").rglob("report.npy"))
    content = bytearray(flipped.read_bytes())
    content[-9] ^= 1
    flipped.write_bytes(content)
    distance(config)
    said = capsys.readouterr().err
    assert f"{cut.parent} is not used (fit.npy is cut off): it is computed again" in said
    assert f"{flipped.parent} is not used (report.npy is not as it was written): it is computed again" in said
    assert everything(folder) == before


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("metrics=[indicies]", "did you mean"),
        ("metrics=indices", "give a list"),
        ("metrics=[]", "metrics="),
        ("memory_gb=1e400", "memory_gb"),
        ("memory_gb=-1", "memory_gb=-1"),
        ("memory_gb=nan", "memory_gb=nan"),
        ("batch=0", "batch=0"),
        ("batch=2.5", "batch=2.5: give a whole number"),
        ("layer=relu9", "relu9"),
        ("features=null", "features=None"),
        ("report=vall", "vall"),
        ("fit={split: test}", "reported on"),
        ("networks=nothing", "no run"),
    ],
)
def test_what_makes_no_sense_is_refused(place, compose, argument, said):
    folder, places = place
    assert said in refused(compose("distance", *places, argument))
    assert not (folder / "runs/distance").exists() or not list((folder / "runs/distance").rglob("rows.csv"))


def test_combinations_of_means_are_resampled_together():
    generator = np.random.default_rng(0)
    a = generator.random(400)
    b = a + 0.01 * generator.random(400)
    ends = bootstrap(np.stack([a, b]), combine=[[1, 0], [0.5, 0.5], [1, -1]])
    alone = bootstrap(a)
    assert ends.mean[0] == alone.mean[0] and ends.low[0] == pytest.approx(alone.low[0], abs=1e-12)
    assert ends.mean[1] == pytest.approx((a.mean() + b.mean()) / 2) and ends.mean[2] == pytest.approx((a - b).mean())
    paired = bootstrap(a - b)  # the difference image by image: what two separate intervals would overstate
    assert ends.high[2] - ends.low[2] == pytest.approx(paired.high[0] - paired.low[0], rel=1e-9)
    a[:10] = math.nan
    gaps = bootstrap(np.stack([a, b]), combine=[[0, 1], [1, -1]])
    assert gaps.n_used.tolist() == [400, 390] and np.isfinite(gaps.mean).all()
    assert gaps.mean[0] == pytest.approx(b.mean())
