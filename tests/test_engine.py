"""The engine: scores of every image, the unseen-class control, any module at any layer, and what Python callers get."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import linear_model
from torch import nn

import invariance
from invariance import ColorJitter, Mirror, Ridge, Rotation, UserError, load, measure_model, wrap
from invariance.engine.recorder import Listed
from invariance.maps.unseen import HALVES, closed_by_halves, deal_classes
from invariance.runs.parts import Parts
from invariance.runs.rows import COLUMNS, FIRST_COLUMNS, OF_CONTROL, check_values, read_rows


class Skip(nn.Module):
    """Logits that also see the image past the layer `inner`."""

    def __init__(self):
        super().__init__()
        self.first, self.inner, self.head = nn.Linear(120, 12), nn.Linear(12, 12), nn.Linear(12, 4)

    def forward(self, x):
        x = self.first(x.flatten(1))
        return self.head(torch.relu(self.inner(x)) + x)


def images_of(count, seed, shape=(1, 10, 12)):
    return torch.randint(0, 256, (count, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    module = nn.Sequential(nn.Flatten(), nn.Linear(120, 20), nn.ReLU(), nn.Linear(20, 8))
    return wrap(module, preprocess=([0.4], [0.3]), name="mine")


@pytest.fixture(scope="module")
def given():
    """Images with classes, to report on and to fit on."""
    report, fit = images_of(67, 1), images_of(150, 2)
    labels = torch.arange(67) % 8, torch.arange(150) % 8
    return {"images": report, "labels": labels[0], "fit": fit, "fit_labels": labels[1]}


TURNS = {"turned": Rotation(angles=[-30, 20])}


@pytest.fixture(scope="module")
def results(network, given):
    return measure_model(network, **given, transforms=TURNS, layers=["2"], memory_gb=1e-9)


def ordinary(rows):
    return rows[rows["fit_classes"].isin(["", "all"]) & ~rows["metric"].isin(OF_CONTROL)]


def test_rows_are_means_of_the_scores_of_every_image_and_carry_their_hash(results, given):
    rows = ordinary(results)
    assert len(rows) == 3 * (2 * 2 + 1) and rows["scores"].str.fullmatch("[0-9a-f]{24}").all()
    for g in rows["g"].unique():
        scores = results.images(g)
        for (split, kind), of_map in scores.groupby(["split", "map"]):
            here = rows[(rows["g"] == g) & (rows["split"] == split) & (rows["map"] == kind)].set_index("metric")[
                "score"
            ]
            assert here["l2_distance"] == of_map["l2_distance"].to_numpy().astype(np.float64).mean()
            if split == "fit":  # how near a map came to the images that it was fitted on, and no more
                assert kind != "identity" and list(here.index) == ["l2_distance"]
                continue
            assert here["error_rate"] == (of_map["predicted"].to_numpy() != given["labels"].numpy()).mean()
            assert of_map["confidence"].between(1 / 8, 1).all() and of_map["l2_distance"].dtype == np.float32
            assert scores["predicted"].dtype == "Int32"  # NA at the fit images


def test_scores_that_are_not_those_of_the_rows_are_refused(results):
    spoilt = results.copy()
    spoilt.kept = [
        type(one)(one.about, one.g, {name: values.copy() for name, values in one.arrays.items()})
        for one in results.kept
    ]
    spoilt.kept[0].arrays["report/l2_distance"][...] += 1
    with pytest.raises(UserError, match="are not those that its rows were made from"):
        spoilt.images(str(results["g"].iloc[0]))


def test_without_a_map_scores_are_those_of_the_network_itself(network, given, results):
    turned = Rotation(angles=[-30, 20])
    point = next(point for point in turned.grid() if point.label == "20")
    gx = turned.apply(given["images"].float(), point.params)
    with torch.no_grad():
        logits = network.module((gx / 255 - 0.4) / 0.3)
    identity = results.images("turned:20").query("map == 'identity' and split == 'report'")
    assert (identity["predicted"].to_numpy() == logits.argmax(1).numpy()).all()
    np.testing.assert_allclose(identity["confidence"], logits.double().softmax(1).amax(1).numpy(), rtol=1e-5)


def by_hand(r, t, fit_labels, r_report, t_report, labels, head, strength):
    """Error rates and L_L2 of the unseen-class control at one g, from its definition, in float64 with scikit-learn."""
    deal = deal_classes(fit_labels, 8)
    rms = np.sqrt((t**2).mean(0))
    alive = rms > 0
    size = np.linalg.norm(t_report[:, alive] / rms[alive], axis=1)
    found = {(way, name): np.zeros(len(labels)) for way in ("same", "unseen") for name in ("l2", "all", "half")}
    for number in range(3):
        halves = [np.flatnonzero(np.isin(deal.group, HALVES[2 * number + k])) for k in range(2)]
        maps = []
        for k in range(2):
            images = np.concatenate([deal.images[group] for group in HALVES[2 * number + k]])
            assert set(fit_labels[images]) <= set(halves[k])
            damping = strength * len(images) * r[images].var(0).mean()
            maps.append(linear_model.Ridge(alpha=damping).fit(r[images], (t - r)[images]))
        for i, label in enumerate(labels):
            own = int(label in halves[1])
            for way, k in (("same", own), ("unseen", 1 - own)):
                back = np.maximum(r_report[i] + maps[k].predict(r_report[i : i + 1])[0], 0)
                logits = head(back)
                off = np.linalg.norm((back - t_report[i])[alive] / rms[alive]) / size[i] if size[i] else np.nan
                found[way, "l2"][i] += off / 3
                found[way, "all"][i] += (logits.argmax() != label) / 3
                found[way, "half"][i] += (halves[own][logits[halves[own]].argmax()] != label) / 3
    return {key: np.nanmean(values) for key, values in found.items()}


def test_the_unseen_class_control_is_its_definition(network, given):
    turned = {"turned": Rotation(angles=[25])}
    rows = measure_model(network, **given, transforms=turned, layers=["2"], maps=["identity", Ridge(strengths=(0.1,))])
    rows = rows[(rows["split"] == "report") & (rows["g"] == "turned:25")]
    first, head = network.module[:3], network.module[3]

    def features(x, angle=None):
        transform = Rotation(angles=[25])
        x = x.float() if angle is None else transform.apply(x.float(), transform.grid()[-1].params)
        with torch.no_grad():
            return first((x / 255 - 0.4) / 0.3).double().numpy()

    assert Rotation(angles=[25]).grid()[-1].label == "25"
    weight, bias = head.weight.detach().double().numpy(), head.bias.detach().double().numpy()
    r, t = features(given["fit"], 25), features(given["fit"])
    r_report, t_report = features(given["images"], 25), features(given["images"])
    labels = given["labels"].numpy()
    wanted = by_hand(
        r, t, given["fit_labels"].numpy(), r_report, t_report, labels, lambda one: weight @ one + bias, 0.1
    )
    score = rows.set_index(["fit_classes", "metric", "map"])["score"]
    for way in ("same", "unseen"):
        assert score[way, "l2_distance", "residual"] == pytest.approx(wanted[way, "l2"], rel=1e-4)
        assert score[way, "error_rate", "residual"] == pytest.approx(wanted[way, "all"], abs=1e-6)
        assert score[way, "half_error_rate", "residual"] == pytest.approx(wanted[way, "half"], abs=1e-6)
    deal = deal_classes(given["fit_labels"].numpy(), 8)
    plain = np.mean(
        [
            [
                (classes := deal.classes_of(int(half)))[(weight @ one + bias)[classes].argmax()] != label
                for one, label, half in zip(r_report, labels, deal.half_of(labels, number), strict=True)
            ]
            for number in range(3)
        ]
    )
    assert score["", "half_error_rate", "identity"] == pytest.approx(plain, abs=1e-6)
    images = 2 * min(len(one) for one in deal.images)
    per = rows[rows["metric"] == "fit_images_per_dimension"].set_index("fit_classes")
    assert per.loc["unseen", "score"] == images / 20 and per.loc["all", "score"] == 150 / 20


def spread(labels, generator, dim=24):
    """Features that say their class and, in other dimensions, more than that."""
    centres = torch.randn(8, dim, generator=torch.Generator().manual_seed(0)).abs() * 4 + 6
    return centres[labels] + torch.rand(len(labels), dim, generator=generator)


def test_a_map_that_undoes_g_serves_unseen_classes_and_one_that_knows_the_classes_does_not():
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(800) % 8
    t = spread(labels, generator)
    turn = torch.linalg.qr(torch.randn(24, 24, generator=generator)).Q
    deal = deal_classes(labels.numpy(), 8)
    own, other = deal.half_of(labels.numpy(), 0), deal.half_of(labels.numpy(), 0, unseen=True)

    def distance(r, halves):
        maps = closed_by_halves(r, t, deal, Ridge(strengths=(1e-8,)))
        back = torch.stack([maps.module(int(half))(one) for half, one in zip(halves, r, strict=True)])
        return float((back - t).norm(dim=1).mean() / t.norm(dim=1).mean())

    assert distance(t @ turn, own) < 1e-3 and distance(t @ turn, other) < 1e-3
    hot = nn.functional.one_hot(labels, 8).float()  # nothing but the class is left of φ(gx)
    classes = torch.cat([hot, torch.rand(800, 16, generator=generator) * 1e-3], 1)
    assert distance(classes, own) < 0.1 and distance(classes, other) > 3 * distance(classes, own)


def test_classes_are_dealt_evenly_once_and_for_all():
    labels = np.repeat(np.arange(10), 7)
    deal = deal_classes(labels, 10)
    assert sorted(np.bincount(deal.group)) == [2, 2, 3, 3] and {len(one) for one in deal.images} == {14}
    again = deal_classes(labels[::-1].copy(), 10)
    assert (again.group == deal.group).all() and deal_classes(labels, 10, seed=1).group.tolist() != deal.group.tolist()
    for number in range(3):
        own, other = (deal.half_of(labels, number, unseen=unseen) for unseen in (False, True))
        assert (own + other == 4 * number + 1).all()
        assert sorted([*deal.classes_of(2 * number), *deal.classes_of(2 * number + 1)]) == list(range(10))
    assert deal_classes(labels, 3) is None and deal_classes(np.array([0, 1, 2]), 8) is None


def test_few_images_a_dimension_are_marked_and_keep_their_number(network, given):
    few = {**given, "fit": given["fit"][:60], "fit_labels": given["fit_labels"][:60]}
    rows = measure_model(network, **few, transforms=TURNS, layers=["2"])
    halves = rows[rows["fit_classes"].isin(["same", "unseen"]) & (rows["metric"] != "fit_images_per_dimension")]
    assert set(halves["status"]) == {"few_images"} and halves["score"].notna().all()
    assert set(ordinary(rows)["status"]) == {"ok"}
    check_values("rows.csv", pd.DataFrame(rows))


def test_c_behind_a_layer_that_is_passed_by_is_the_network_with_the_layer_replaced(given):
    torch.manual_seed(1)
    module = Skip().eval()
    model = wrap(module, preprocess=([0.4], [0.3]), name="skip")
    labels = {"labels": given["labels"] % 4, "fit_labels": given["fit_labels"] % 4}
    rows = measure_model(
        model, given["images"], fit=given["fit"], **labels, transforms=TURNS, layers=["inner", "first"]
    )
    at = rows[(rows["split"] == "report") & (rows["map"] == "identity") & (rows["metric"] == "error_rate")]
    inner, first = (at[at["layer"] == name].set_index("g") for name in ("inner", "first"))
    assert (inner["score"] == first["score"]).all()  # without a map it is the network, at every layer
    assert (inner["bypass"] > 0.05).all() and (first["bypass"] < 1e-4).all()
    turned = Rotation(angles=[-30, 20])
    point = next(point for point in turned.grid() if point.label == "20")
    x, gx = (
        (one / 255 - 0.4) / 0.3
        for one in (given["images"].float(), turned.apply(given["images"].float(), point.params))
    )
    with torch.no_grad():
        past, through = module.first(gx.flatten(1)), module.inner(module.first(x.flatten(1)))
        wrong = (module.head(torch.relu(through) + past).argmax(1) != labels["labels"]).double().mean()
    assert inner.loc["turned:20", "reference"] == pytest.approx(float(wrong))
    assert first.loc["turned:20", "reference"] == first.loc["turned:untouched", "score"]


def test_groups_of_any_size_give_the_same_rows(network, given, results):
    whole = measure_model(network, **given, transforms=TURNS, layers=["2"])
    keys = ["g", "split", "map", "metric", "fit_classes"]
    pd.testing.assert_frame_equal(
        pd.DataFrame(whole).sort_values(keys, ignore_index=True),
        pd.DataFrame(results).sort_values(keys, ignore_index=True),
        check_exact=False,
        rtol=1e-9,
    )


def test_an_interrupted_call_goes_on_and_a_finished_one_is_read(network, given, tmp_path, monkeypatch):
    asked = {**given, "transforms": TURNS, "layers": ["1", "2"], "memory_gb": 1e-9}
    undisturbed = measure_model(network, **asked)
    write, written = Parts.write, []

    def stop(*part):
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(part)
        write(*part)

    monkeypatch.setattr(Parts, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        measure_model(network, **asked, keep=tmp_path / "kept")
    monkeypatch.setattr(Parts, "write", lambda *part: (written.append(part), write(*part)))
    rows = measure_model(network, **asked, keep=tmp_path / "kept")
    assert len(written) == 3 * 2 * 2  # no group twice
    columns = [name for name in COLUMNS if name != "run"]
    pd.testing.assert_frame_equal(pd.DataFrame(rows)[columns], pd.DataFrame(undisturbed)[columns])
    again = measure_model(network, **asked, keep=tmp_path / "kept")
    pd.testing.assert_frame_equal(pd.DataFrame(again)[columns], pd.DataFrame(rows)[columns])
    pd.testing.assert_frame_equal(again.images("turned:20"), undisturbed.images("turned:20"))
    assert load(tmp_path / "kept").attrs == undisturbed.attrs
    with pytest.raises(UserError, match="holds other results; choose another folder"):
        measure_model(network, **{**asked, "layers": ["2"]}, keep=tmp_path / "kept")


def test_results_stay_results_when_filtered_and_plot(results, given, network):
    only = results[results["metric"] == "l2_distance"]
    assert isinstance(only, invariance.Results) and len(only.images("turned:20"))
    figure = only.plot()
    [axes] = figure.axes
    assert axes.get_ylabel() and sorted(axes.lines[0].get_xdata().tolist()) == [-30, 0, 20]
    other = wrap(nn.Sequential(nn.Flatten(), nn.Linear(120, 8)), preprocess=([0.4], [0.3]), name="other")
    both = measure_model([network, other], given["images"], given["labels"], transforms=[Mirror()], layers=["logits"])
    assert set(both["network"]) == {"mine", "other"} and len(both.plot("error_rate").axes) == 1
    with pytest.raises(UserError, match="no such rows"):
        both.plot("cka")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"network": nn.Linear(1, 1)}, r"a Linear is no model; give wrap\(module"),
        ({"images": torch.rand(70, 1, 10, 12)}, "multiply them by 255"),
        ({"images": torch.zeros(67, 10, 12, dtype=torch.uint8)}, "N, C, H, W"),
        ({"images": torch.full((67, 1, 10, 12), torch.nan)}, "images"),
        ({"labels": torch.arange(66)}, "labels"),
        ({"labels": torch.arange(67) * 1.5}, "labels"),
        ({"fit": None, "fit_labels": None, "maps": ["ridge"]}, "no fit images"),
        ({"fit": None}, "fit_labels are of fit images"),
        ({"fit": 1.5, "fit_labels": None}, "a share between 0 and 1"),
        ({"fit": images_of(67, 1), "fit_labels": None}, "fit holds the images that are reported on"),
        ({"fit": images_of(9, 0, (1, 9, 12))}, "shape"),
        ({"transforms": ["rotaton"]}, "did you mean 'rotation'"),
        ({"transforms": [3]}, "a int is none"),
        ({"transforms": []}, "at least one"),
        ({"transforms": [Mirror(), Mirror()]}, "several are called mirror"),
        ({"layers": ["7"]}, "7"),
        ({"layers": []}, "layers"),
        ({"maps": ["ridg"]}, "did you mean 'ridge'"),
        ({"maps": "ridge"}, "give a list"),
        ({"maps": ["ridge", Ridge()]}, "each solver once"),
        ({"measures": ["error"]}, "there are error_rate, l2_distance"),
        ({"labels": None, "measures": ["error_rate"]}, "error_rate needs labels"),
        ({"batch": 0}, "batch=0"),
    ],
)
def test_mistakes_are_named(network, given, change, said):
    asked = {"network": network, **given, "transforms": TURNS, "layers": ["2"], **change}
    if asked["fit"] is not None and isinstance(asked["fit"], torch.Tensor) and asked["fit_labels"] is not None:
        asked["fit_labels"] = asked["fit_labels"][: len(asked["fit"])]
    with pytest.raises(UserError, match=said):
        measure_model(**asked)


def test_a_dealt_share_never_fits_on_report_images(network, given):
    rows = measure_model(network, given["images"], fit=0.4, transforms=[Mirror()], layers=["2"], seed=7)
    assert set(rows[rows["split"] == "fit"]["n_images"]) == {27} and set(
        rows[rows["split"] == "report"]["n_images"]
    ) == {40}


def test_files_of_the_first_columns_alone_are_read(tmp_path):
    values = "measure,digits,baseline,baseline,,0,relu7,rotation:5,5,°,test,identity,,error_rate,0.5,0.4,0.6,9,ok,a/b"
    (tmp_path / "rows.csv").write_text(f"{','.join(FIRST_COLUMNS)}\n{values}\n")
    rows = read_rows(tmp_path / "rows.csv")
    assert list(rows.columns) == COLUMNS and rows["fit_classes"][0] == "" and np.isnan(rows["bypass"][0])


def test_a_list_recorder_skips_what_it_has():
    keep = Listed()
    keep.add("a", 1)
    assert keep.has("a") and not keep.has("b") and keep.results == [1]


def test_importing_the_package_costs_nothing_and_gives_every_public_name():
    code = (
        "import sys, invariance\n"
        "assert not {'torch', 'numpy', 'pandas', 'hydra'} & set(sys.modules)\n"
        "for name in invariance.__all__: getattr(invariance, name)\n"
        "assert not {'hydra', 'pytorch_lightning'} & set(sys.modules), 'Hydra or Lightning'\n"
        "assert set(invariance.__all__) <= set(dir(invariance))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_public_function_has_the_name_of_a_module():
    from pathlib import Path

    folder = Path(invariance.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} | {path.name for path in folder.iterdir() if path.is_dir()}
    assert not modules & set(invariance.__all__)


def test_a_scale_over_the_report_images_is_told(network, given):
    rows = measure_model(network, given["images"], given["labels"], transforms=TURNS, layers=["2"])
    assert set(rows.loc[rows["metric"] == "l2_distance", "status"]) == {"report_scale"}
    assert set(rows.loc[rows["metric"] == "error_rate", "status"]) == {"ok"}
    assert rows["score"].notna().all() and rows.plot("l2_distance") is not None
    fitted = measure_model(
        network, given["images"], fit=given["fit"], maps=["identity"], transforms=TURNS, layers=["2"]
    )
    assert set(fitted["status"]) == {"ok"}


def test_a_mirror_of_the_pixels_is_a_rotation_of_them_and_of_half_their_rank(network, given):
    rows = measure_model(
        network,
        **given,
        transforms=[Mirror()],
        layers=["0"],  # pixels about 0, so that σ is no ReLU; 10 × 12 of them
        maps=["identity", "orthogonal", "low_rank:60", "low_rank:8", Ridge(strengths=(1e-9,)), "mlp"],
    )
    moved = rows[~rows["g"].str.endswith("untouched") & rows["fit_classes"].isin(["", "all"])]
    score = moved[moved["metric"] == "l2_distance"].groupby(["map", "solver", "split"])["score"].max()
    assert score["orthogonal", "procrustes", "report"] < 1e-5
    assert score["low_rank:60", "ridge", "fit"] < 0.01
    assert score["low_rank:8", "ridge", "fit"] > 0.1 > score["residual", "ridge", "fit"]
    assert score["identity", "", "report"] > 0.5
    unseen = rows[(rows["fit_classes"] == "unseen") & (rows["metric"] == "l2_distance")]
    assert set(unseen["map"]) == {"orthogonal", "low_rank:60", "low_rank:8", "residual"}
    figure = moved.plot("l2_distance", split="fit")
    ways = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
    assert {"equivariance (ridge)", "equivariance (low rank 8, ridge)", "equivariance (orthogonal, procrustes)"} < ways


@pytest.mark.parametrize(
    ("maps", "said"),
    [
        (["orthgonal"], "'orthgonal' is none.* did you mean 'orthogonal'"),
        (["low_rank"], "map='low_rank': give its rank"),
        (["low_rank:none"], "map='low_rank:none': give its rank"),
        (["residual"], "'residual' is fitted by online_sgd or ridge; give one of these names"),
        (["orthogonal", "procrustes"], "each solver once"),
    ],
)
def test_maps_are_named_with_their_rank(network, given, maps, said):
    with pytest.raises(UserError, match=said):
        measure_model(network, **given, transforms=[Mirror()], layers=["2"], maps=maps)


def test_fewer_fit_images_than_dimensions_are_told(network, given, capsys):
    few = {**given, "fit": given["fit"][:60], "fit_labels": None}
    few |= {"layers": ["0"], "maps": ["ridge", "low_rank:2"], "measures": ["l2_distance"]}
    rows = measure_model(network, **few, transforms=[Mirror()])
    assert "layer 0: 60 fit images for 120 dimensions" in capsys.readouterr().out
    assert set(rows["status"]) == {"ok"} and set(rows["map"]) == {"residual", "low_rank:2"}


class Gated(nn.Module):
    """Something goes past the body, but not for dark images; a forward pass that no trace follows."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        y = self.body(x).relu()
        y = y if float(y.sum()) > -1 else -y
        gate = (x.mean((1, 2, 3)) - 0.5).relu()[:, None] * torch.tensor([[9.0, -9.0, 0.0]])
        return self.head(y.mean((2, 3))) * 0.05 + gate


@pytest.mark.parametrize("bright", ["images", "g"])
def test_what_goes_past_a_layer_for_some_images_alone_is_seen(bright):
    """The first images, on which layers are looked at, are dark; others, or all under a g, are not."""
    torch.manual_seed(0)
    fit, images = torch.randint(0, 90, (2, 32, 1, 9, 11), dtype=torch.uint8)
    if bright == "images":
        images[8:] += 150
    model, brighter = wrap(Gated(), preprocess=lambda x: x / 255, name="gated"), ColorJitter(brightness=[120])
    params = next(point.params for point in brighter.grid() if point.label == "120")
    with torch.no_grad():
        wanted = model.module(brighter.apply(images.float(), params) / 255).argmax(1).numpy()
    assert 0 < (wanted == 0).sum()
    for readout in ("mean", "flatten"):
        given = {"transforms": {"b": brighter}, "layers": ["body"], "readout": readout, "measures": ["agreement"]}
        rows = measure_model(model, images, fit=fit, maps=["identity", "ridge"], **given)
        scores = rows.images("b:120").query("map == 'identity'")
        assert (scores["predicted"].to_numpy(int) == wanted).all()
        plain = measure_model(model, images, fit=fit, maps=["identity"], **given)
        columns = ["score", "reference", "bypass"]
        agreement = (one.query("map == 'identity'").set_index("g")[columns] for one in (rows, plain))
        pd.testing.assert_frame_equal(*agreement)
