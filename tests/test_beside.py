"""What stands beside L_L2 and errors: agreement, nulls, calibrated scores, and φ(gx) and φ(x) as a whole."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import torch
from sklearn import linear_model
from torch import nn

from invariance import Mirror, OnlineSGD, Ridge, Rotation, UserError, measure_model, wrap
from invariance.engine.nulls import without_fixed_points
from invariance.measures.agreement import agreement_per_image, effective_invariance_per_image
from invariance.measures.cka import linear_cka
from invariance.measures.jackknife import jackknife
from invariance.measures.moments import centred, cross_product, thin
from invariance.measures.procrustes import procrustes_distance
from invariance.runs.rows import OF_CONTROL, check_values

MEAN, STD = 0.4, 0.3
TURN = {"turned": Rotation(angles=[25])}


def images_of(count, seed, shape=(1, 10, 12)):
    return torch.randint(0, 256, (count, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    module = nn.Sequential(nn.Flatten(), nn.Linear(120, 20), nn.ReLU(), nn.Linear(20, 8))
    return wrap(module, preprocess=([MEAN], [STD]), name="mine")


@pytest.fixture(scope="module")
def given():
    report, fit = images_of(67, 1), images_of(150, 2)
    return {"images": report, "labels": torch.arange(67) % 8, "fit": fit, "fit_labels": torch.arange(150) % 8}


@pytest.fixture(scope="module")
def results(network, given):
    return measure_model(
        network,
        **given,
        transforms=TURN,
        layers=["2"],
        maps=["identity", Ridge(strengths=(0.1,))],
        measures=["error_rate", "agreement", "effective_invariance", "l2_distance", "cka", "procrustes", "r2"],
        intervals=True,
    )


def prepared(x, angle=None):
    x = (
        x.float()
        if angle is None
        else Rotation(angles=[angle]).apply(x.float(), Rotation(angles=[angle]).grid()[-1].params)
    )
    return (x / 255 - MEAN) / STD


def one(results, metric, kind="identity", g="turned:25", split="report"):
    here = results[(results["metric"] == metric) & (results["map"] == kind) & (results["g"] == g)]
    here = here[(here["split"] == split) & here["fit_classes"].isin(["", "all"])]
    assert len(here) == 1
    return here.iloc[0]


@pytest.fixture(scope="module")
def features(network, given):
    """φ(x) and φ(gx) of the fit and the report images, in float64."""
    with torch.no_grad():
        return {
            (side, angle): network.module[:3](prepared(given[name], angle)).double().numpy()
            for side, name in (("report", "images"), ("fit", "fit"))
            for angle in (None, 25)
        }


@pytest.fixture(scope="module")
def head(network):
    weight, bias = (one.detach().double().numpy() for one in network.module[3].parameters())
    return lambda r: r @ weight.T + bias


def said(logits):
    """Classes and confidences."""
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return logits.argmax(1), (odds / odds.sum(1, keepdims=True)).max(1)


def distances(r_hat, r, scale):
    alive = scale > 0
    return np.linalg.norm((r_hat - r)[:, alive] / scale[alive], axis=1) / np.linalg.norm(
        r[:, alive] / scale[alive], axis=1
    )


def by_sklearn(r, t, strength=0.1):
    """The residual map of ridge, from its definition."""
    damping = strength * len(r) * r.var(0).mean()
    fitted = linear_model.Ridge(alpha=damping).fit(r, t - r)
    return lambda one: np.maximum(one + fitted.predict(one), 0)


def test_agreement_and_effective_invariance_are_their_definitions(results, features, head):
    for kind in ("identity", "residual"):
        r = features["report", 25]
        back = r if kind == "identity" else by_sklearn(features["fit", 25], features["fit", None])(r)
        (named, sure), (untouched, before) = said(head(back)), said(head(features["report", None]))
        row = one(results, "agreement", kind)
        assert row["score"] == (named == untouched).mean() and 0 < row["low"] < row["score"] < row["high"] < 1
        wanted = np.where(named == untouched, np.sqrt(sure * before), 0).mean()
        assert one(results, "effective_invariance", kind)["score"] == pytest.approx(wanted, rel=1e-5)
    assert one(results, "agreement", g="turned:untouched")["score"] == 1
    assert one(results, "agreement")["reference"] == 1 and one(results, "agreement")["bypass"] < 1e-4
    assert one(results, "effective_invariance")["reference"] == pytest.approx(before.mean(), rel=1e-6)
    check_values("rows.csv", pd.DataFrame(results).assign(run="a"))


def test_an_image_without_a_class_is_left_out_untouched_and_counts_as_changed_under_g():
    untouched, predicted = np.array([1, 1, -1, 2]), np.array([1, -1, 0, 0])
    np.testing.assert_array_equal(agreement_per_image(predicted, untouched), [1, 0, np.nan, 0])
    sure = np.array([0.25, np.nan, 0.5, 0.5])
    found = effective_invariance_per_image(predicted, sure, untouched, np.array([1, 0.5, np.nan, 0.5]))
    np.testing.assert_array_equal(found, [0.5, 0, np.nan, 0])


@pytest.mark.parametrize("count", [2, 3, 5, 50, 51])
def test_a_permutation_without_fixed_points_leaves_nothing_in_its_place(count):
    permutation = without_fixed_points(count, 0, "here").numpy()
    assert sorted(permutation) == list(range(count)) and (permutation != np.arange(count)).all()
    assert (without_fixed_points(count, 0, "here").numpy() == permutation).all()
    assert without_fixed_points(1, 0).tolist() == [0]


def test_nulls_and_calibrated_scores_are_their_definitions(results, features, head, given):
    labels = given["labels"].numpy()
    (r, t), (r_fit, t_fit) = ((features[side, 25], features[side, None]) for side in ("report", "fit"))
    scale = np.sqrt((t_fit**2).mean(0))
    other = without_fixed_points(67, 0, "other images").numpy()
    shuffled = by_sklearn(r_fit, t_fit[without_fixed_points(150, 0, "shuffled pairs").numpy()])(r)
    nulls = {"null_image": t[other], "null_constant": np.tile(t_fit.mean(0), (67, 1)), "null_shuffled": shuffled}
    untouched = said(head(t))[0]
    scores = {
        "l2_distance": lambda back: distances(back, t, scale).mean(),
        "agreement": lambda back: (said(head(back))[0] == untouched).mean(),
        "error_rate": lambda back: (said(head(back))[0] != labels).mean(),
    }
    best = {"l2_distance": 0, "agreement": 1, "error_rate": (untouched != labels).mean()}
    better = {"l2_distance": min, "agreement": max, "error_rate": min}
    for metric, score in scores.items():
        wanted = {name: score(back) for name, back in nulls.items()}
        for kind in ("identity", "residual"):
            row = one(results, metric, kind)
            there = ["null_image", "null_constant", *(["null_shuffled"] if kind == "residual" else [])]
            for name in there:
                assert row[name] == pytest.approx(wanted[name], rel=1e-4)
            null = wanted["null_image"]
            if kind == "residual":
                null = better[metric](wanted["null_constant"], wanted["null_shuffled"])
            if metric == "error_rate":  # this network knows no class: nothing can be told
                assert math.isnan(row["calibrated"])
            else:
                assert row["calibrated"] == pytest.approx((null - row["score"]) / (null - best[metric]), rel=1e-4)
    assert math.isnan(one(results, "agreement")["null_shuffled"])
    assert math.isnan(one(results, "effective_invariance")["calibrated"])
    assert one(results, "effective_invariance")["null_image"] > 0
    assert results.loc[results["split"] == "fit", "null_image"].isna().all()
    assert one(results, "l2_distance", g="turned:untouched")["calibrated"] == 1


def test_nulls_change_no_other_number_and_are_left_out_on_request(network, given):
    asked = {**given, "transforms": TURN, "layers": ["2"], "maps": ["ridge", OnlineSGD(epochs=2, rate=0.01)]}
    without = measure_model(network, **asked, nulls=False)
    columns = ["null_image", "null_constant", "null_shuffled", "calibrated"]
    assert without[columns].isna().all(axis=None)
    beside = measure_model(network, **asked, nulls=["online_sgd"])
    left = [name for name in without if name not in (*columns, "scores")]
    pd.testing.assert_frame_equal(pd.DataFrame(without)[left], pd.DataFrame(beside)[left], rtol=1e-6)
    plain = measure_model(network, **asked)
    for rows, there in ((beside, {"ridge", "online_sgd"}), (plain, {"ridge"})):
        assert set(rows.loc[rows["null_shuffled"].notna(), "solver"]) == there
    ordinary = plain[(plain["split"] == "report") & plain["fit_classes"].eq("all") & ~plain["metric"].isin(OF_CONTROL)]
    assert ordinary["null_constant"].notna().all() and plain.loc[plain["fit_classes"] == "same", columns].isna().all(
        axis=None
    )


class Averaged(nn.Module):
    """A network of the orbit of an image under mirror: h summed over the image and its three reflections."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Sequential(nn.Flatten(), nn.Linear(120, 16), nn.ReLU()), nn.Linear(16, 5)
        self.sum = nn.Identity()

    def forward(self, x):
        return self.head(self.sum(sum(self.first(x.flip(axes)) for axes in ((), (-1,), (-2,), (-1, -2)))))


def test_an_orbit_averaged_network_loses_nothing():
    torch.manual_seed(0)
    model = wrap(Averaged(), preprocess=([MEAN], [STD]), name="averaged")
    measures = ["agreement", "effective_invariance", "l2_distance", "cka", "procrustes", "r2"]
    rows = measure_model(model, images_of(51, 4), transforms=[Mirror()], layers=["sum"], measures=measures)
    moved = rows[~rows["g"].str.endswith("untouched")].set_index("metric")
    wanted = {"agreement": 1, "l2_distance": 0, "cka": 1, "procrustes": 0, "r2": 1}
    for metric, score in wanted.items():
        assert len(moved.loc[metric]) == 3
        assert (moved.loc[metric, "score"] - score).abs().max() < (1e-5 if metric != "procrustes" else 1e-3)
    assert (moved.loc["l2_distance", "null_image"] > 0.1).all() and (moved.loc["agreement", "null_image"] < 1).all()
    assert (moved.loc["agreement", "calibrated"] == 1).all()
    assert moved.loc["l2_distance", "calibrated"].to_numpy() == pytest.approx(np.ones(3))
    assert moved.loc[["l2_distance", "agreement"], "null_constant"].isna().all()  # there are no fit images
    kept = rows.consistency()
    assert kept["consistency"].tolist() == [1] and kept["low"].iloc[0] < 1 and kept["n_images"].iloc[0] == 51


class Constant(nn.Module):
    """A layer that says nothing, and logits that go past it."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(120, 7), nn.Linear(120, 4)
        nn.init.zeros_(self.inner.weight), nn.init.ones_(self.inner.bias)

    def forward(self, x):
        x = x.flatten(1)
        return self.head(x) + self.inner(x).sum(1, keepdim=True)


def test_what_cannot_be_told_from_its_null_is_not_calibrated():
    torch.manual_seed(0)
    model = wrap(Constant(), preprocess=([MEAN], [STD]), name="constant")
    measures = ["agreement", "l2_distance", "cka", "procrustes", "r2"]
    rows = measure_model(model, images_of(33, 4), transforms=[Mirror()], layers=["inner"], measures=measures)
    moved = rows[rows["g"] == "mirror:both"].set_index("metric")
    assert moved.loc["l2_distance", "score"] == 0 == moved.loc["l2_distance", "null_image"]
    assert math.isnan(moved.loc["l2_distance", "calibrated"]) and moved.loc["agreement", "bypass"] == pytest.approx(1)
    assert set(moved.loc[["cka", "procrustes", "r2"], "status"]) == {"undefined"}


def hsic(k, m):
    """Song et al. 2012, Eq. 5."""
    n, one = len(k), np.ones(len(k))
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    middle = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ m) + middle - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


def whole(x, y):
    """CKA, Procrustes distance and adjusted R² of Y from X, from their formulas."""
    k, m = x @ x.T, y @ y.T
    a, b = ((z - z.mean(0)) / np.linalg.norm(z - z.mean(0)) for z in (x, y))
    rotation, _ = scipy.linalg.orthogonal_procrustes(a, b)
    left = np.linalg.norm(b - a @ np.linalg.lstsq(a, b, rcond=1e-9)[0]) ** 2
    rank = np.linalg.matrix_rank(a, tol=1e-6)
    return {
        "cka": hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m)),
        "procrustes": np.linalg.norm(a @ rotation - b),
        "r2": 1 - left * (len(x) - 1) / (len(x) - rank - 1) if len(x) > rank + 1 else math.nan,
    }


def test_phi_of_gx_and_phi_of_x_as_a_whole(results, features):
    wanted = whole(features["report", 25], features["report", None])
    for metric, score in wanted.items():
        row = one(results, metric)
        assert row["score"] == pytest.approx(score, rel=1e-4) and row["scores"] == ""
        assert row["low"] < row["score"] < row["high"] and row["n_images"] == 67
    only = results[results["metric"].isin(list(wanted))]
    assert set(only["map"]) == {"identity"} and set(only["split"]) == {"report"}


def test_more_dimensions_than_images_are_turned_into_as_many():
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(23, 90, generator=generator, dtype=torch.float64) + 1 for _ in range(2))
    assert thin(x).shape == (23, 23) and thin(x[:, :5]).shape == (23, 5)
    wide, narrow = ((centred(a), centred(b), cross_product(a, b)) for a, b in ((x, y), (thin(x), thin(y))))

    wanted = whole(x.numpy(), y.numpy())
    assert linear_cka(*narrow) == pytest.approx(linear_cka(*wide)) == pytest.approx(wanted["cka"])
    assert procrustes_distance(*narrow) == pytest.approx(procrustes_distance(*wide))
    assert procrustes_distance(*narrow) == pytest.approx(wanted["procrustes"])


def test_a_layer_of_more_dimensions_than_images_has_cka_and_no_r2(network):
    rows = measure_model(
        network, images_of(15, 3), transforms=TURN, layers=["1"], measures=["cka", "r2", "l2_distance"], intervals=True
    )
    at = rows[rows["g"] == "turned:25"].set_index("metric")
    with torch.no_grad():
        x, y = (network.module[:2](prepared(images_of(15, 3), angle)).double().numpy() for angle in (25, None))
    assert at.loc["cka", "score"] == pytest.approx(whole(x, y)["cka"], rel=1e-4) and math.isnan(at.loc["cka", "low"])
    assert at.loc["r2", "status"] == "undefined" and math.isnan(at.loc["r2", "score"])


def test_the_jackknife_is_its_formula():
    values = np.random.default_rng(2).normal(size=43)
    without = []

    def mean(images):
        without.append(values[images.numpy()].mean())
        return without[-1]

    low, high = jackknife(mean, values.mean(), 43)
    spread = math.sqrt(0.9 * np.square(np.array(without) - values.mean()).sum())
    assert (low, high) == pytest.approx((values.mean() - 2.262157 * spread, values.mean() + 2.262157 * spread))
    # of a mean it is about the usual standard error
    assert spread == pytest.approx(values.std(ddof=1) / math.sqrt(43), rel=0.6)
    assert jackknife(mean, 0.99, 43, (-1, 1))[1] == 1 and math.isnan(jackknife(mean, 0.0, 19)[0])


def test_without_labels_agreement_takes_the_place_of_the_error(network, given, capsys):
    rows = measure_model(network, given["images"], transforms=TURN, layers=["2"])
    assert list(dict.fromkeys(rows["metric"])) == ["agreement", "l2_distance"]
    silent = wrap(nn.Sequential(nn.Flatten(), nn.Linear(120, 6), nn.Unflatten(1, (2, 3))), preprocess=([MEAN], [STD]))
    rows = measure_model(silent, given["images"], transforms=TURN, layers=["1"])
    assert set(rows["metric"]) == {"l2_distance"} and "agreement is left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"measures": ["agrement"]}, "did you mean 'agreement'"),
        ({"measures": "cka"}, "measures='cka': give a list of"),
        ({"measures": []}, "measures=.*: give a list of"),
        ({"measures": ["half_error_rate"]}, "is none"),
        ({"measures": ["cka", "l2_distance"], "maps": ["ridge"]}, "add identity to the maps"),
        ({"measures": ["cka"]}, "say nothing of a map"),
        ({"nulls": "online_sgd"}, "give True, False, or a list of solvers"),
        ({"nulls": ["online_sgd"]}, "fits no map here"),
    ],
)
def test_mistakes_are_named(network, given, change, said):
    with pytest.raises(UserError, match=said):
        measure_model(network, **given, transforms=TURN, layers=["2"], **change)
