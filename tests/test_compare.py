"""Comparing in Python: two networks on images at hand, against float64 formulas; and the loop that does it."""

import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.linear_model import LinearRegression
from sklearn.linear_model import Ridge as Reference
from torch import nn

import invariance.measures.moments
from invariance.engine.between import compare_models
from invariance.engine.comparing import INDICES, Held, PairUnit, Renewed, compare, units_of
from invariance.engine.features import InMemory
from invariance.engine.recorder import Listed
from invariance.errors import UserError
from invariance.maps import MinibatchSGD, OnlineSGD, Ridge
from invariance.maps.spec import MapSpec
from invariance.measures import INDEX_NAMES, MEASURES
from invariance.measures.cka import linear_cka
from invariance.measures.moments import ComparedSide, Pairing, centred, cross_product
from invariance.measures.r2 import r2
from invariance.models.model import wrap
from invariance.runs.rows import COLUMNS

CPU = torch.device("cpu")
GIGABYTE = 1e9


class Net(nn.Module):
    """A convolution, and two layers of features; `turn` multiplies the last."""

    def __init__(self, seed, features=5, hidden=9, turn=None):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(1, 2, 3, stride=2)
            self.relu = nn.ReLU()
            self.hidden = nn.Linear(2 * 3 * 4, hidden)
            self.act = nn.ReLU()
            self.last = nn.Linear(hidden, features)
        if turn is not None:
            with torch.no_grad():
                self.last.weight.copy_(turn @ self.last.weight)
                self.last.bias.copy_(turn @ self.last.bias)

    def forward(self, x):
        return self.last(self.act(self.hidden(self.relu(self.conv(x)).flatten(1))))


def model(net, name="net"):
    return wrap(net.eval(), preprocess=lambda x: x / 255 - 0.4, name=name)


def drawn(n, seed=0, low=0, high=256, shape=(1, 7, 9)):
    return torch.randint(low, high, (n, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def rotation(d, seed=5):
    return torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed)))[0]


def score(table, metric, split="report", network=None):
    rows = table[(table["metric"] == metric) & (table["split"] == split)]
    rows = rows if network is None else rows[rows["network"] == network]
    assert len(rows) == 1
    return rows.iloc[0]


def test_a_network_whose_last_layer_is_turned_is_at_no_distance():
    a, b = model(Net(1), "a"), model(Net(1, turn=rotation(5)), "b")
    table = compare_models(a, b, drawn(300), fit=drawn(200, 1), layers="last")
    assert list(table.columns) == COLUMNS and set(table["status"]) == {"ok"} and set(table["stage"]) == {"distance"}
    assert score(table, "cka").score == pytest.approx(1, abs=1e-5)
    assert score(table, "procrustes").score < 2e-3
    for name in ("a", "b"):
        assert score(table, "r2", network=name).score == pytest.approx(1, abs=1e-5)
        for split, n in (("fit", 200), ("report", 300)):
            row = score(table, "l2_distance", split, name)
            assert 0 <= row.low <= row.score <= row.high < 0.01 and row.n_images == n
    assert table["g"].tolist().count("network:b:last") == 9  # 2 · 3 through E, and three indices
    scaled = compare_models(a, b, drawn(300), fit=drawn(200, 1), layers="last", maps=(), scaled=True)
    assert score(scaled, "procrustes").score > 0.01  # one scale a dimension is not what a rotation leaves alone


def test_identical_networks_and_one_network_with_itself():
    one = model(Net(2))
    for other in (model(Net(2)), one):
        table = compare_models(one, other, drawn(200), fit=drawn(150, 1), layers=["act", "last"])
        same = table[table["layer"] == table["g"].str.rsplit(":", n=1).str[1]]
        assert set(table["network"]) == {"net (a)", "net (b)"}
        assert same.loc[same["metric"] == "l2_distance", "score"].max() < 0.01
        assert same.loc[same["metric"] == "l2_distance_difference", "score"].abs().max() < 1e-6
        assert same.loc[same["metric"].isin(["cka", "r2"]), "score"].min() > 1 - 1e-5
    table = table.matrix("cka")
    assert np.diag(table) == pytest.approx(1, abs=1e-5) and table.loc["act", "last"] == table.loc["last", "act"]


def test_networks_of_unrelated_features_are_far_apart():
    """Two networks of different parts of images of noise."""
    halves = []
    for k, part in enumerate((slice(0, 5), slice(5, 10))):
        halves.append(model(Net(k, features=4), f"half {k}"))
        halves[k].preprocess = lambda x, part=part: x[..., part, :] / 255 - 0.5
        with torch.random.fork_rng():
            torch.manual_seed(k)
            halves[k].module.hidden = nn.Linear(2 * 2 * 4, 9)
    images = drawn(1200, 3, shape=(1, 10, 9))
    table = compare_models(*halves, images, fit=0.5, layers="last")
    assert abs(score(table, "cka").score) < 0.05 and score(table, "procrustes").score > 1.2
    for name in ("half 0", "half 1"):
        assert abs(score(table, "r2", network=name).score) < 0.03
        target = halves[1 - int(name[-1])]
        r = target.module(target.preprocess(images.float())).detach().double()
        scaled = r / r.square().mean(0).sqrt()
        of_mean = ((scaled - scaled.mean(0)).norm(dim=1) / scaled.norm(dim=1)).mean()
        assert (
            score(table, "l2_distance", network=name).score > 0.95 * of_mean
        )  # the best that knows nothing of the source


def literal(net, images):
    """Features of a layer's output in float64."""
    net = net.double()
    hidden = net.act(net.hidden(net.relu(net.conv(images.double() / 255 - 0.4)).flatten(1)))
    return {"act": hidden.detach().numpy(), "last": net.last(hidden).detach().numpy()}


def literal_cka(x, y):
    """Kornblith et al. 2019 with HSIC_1 of Song et al. 2012, as printed."""

    def hsic(k, m):
        n, one = len(k), np.ones(len(k))
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        middle = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        return (np.trace(k @ m) + middle - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))

    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))


def literal_l2(r, t, strength):
    """Sec. 5.3 with ridge's map: r → t on the fit images; ‖E r − t‖ / ‖t‖ of every image of both sides."""
    scale_r, scale_t = (np.sqrt((one["fit"] ** 2).mean(0)) for one in (r, t))
    r, t = (
        {k: np.divide(v, s, out=np.zeros_like(v), where=s > 0) for k, v in one.items()}
        for one, s in ((r, scale_r), (t, scale_t))
    )
    damping = strength * len(r["fit"]) * r["fit"].var(0).mean()
    fitted = Reference(alpha=damping).fit(r["fit"], t["fit"])
    found = {}
    for side in ("fit", "report"):
        back = fitted.predict(r[side])
        back = np.maximum(back, 0) if t["fit"].min() >= 0 else back
        alive, size = scale_t > 0, np.linalg.norm(t[side], axis=1)
        off = np.linalg.norm((back - t[side])[:, alive], axis=1)
        found[side] = np.where(size > 0, off / np.where(size > 0, size, 1), np.nan)
    return found


@pytest.mark.parametrize("layers", [("act", "act"), ("act", "last"), ("last", "last")])
def test_rows_are_the_papers_formulas(layers):
    images, fit = drawn(160, 8), drawn(240, 9)
    nets = Net(3, hidden=9), Net(4, hidden=7)
    table = compare_models(
        model(nets[0], "a"),
        model(nets[1], "b"),
        images,
        fit=fit,
        layers=layers[0],
        layers_b=layers[1],
        maps=Ridge(strengths=[0.02]),
        batch=37,
    )
    x, y = (
        {side: literal(net, of)[layer] for side, of in (("fit", fit), ("report", images))}
        for net, layer in zip(nets, layers, strict=True)
    )
    there, back = literal_l2(x, y, 0.02), literal_l2(y, x, 0.02)
    for side in ("fit", "report"):
        one, other = np.nanmean(there[side]), np.nanmean(back[side])
        assert score(table, "l2_distance", side, "a").score == pytest.approx(one, rel=2e-4)
        assert score(table, "l2_distance", side, "b").score == pytest.approx(other, rel=2e-4)
        assert score(table, "l2_distance_mean", side).score == pytest.approx((one + other) / 2, rel=2e-4)
        assert score(table, "l2_distance_difference", side).score == pytest.approx(one - other, abs=2e-4)
        assert score(table, "l2_distance", side, "a").n_images == np.isfinite(there[side]).sum()
    spread = np.nanstd(there["report"]) / math.sqrt(160)
    row = score(table, "l2_distance", "report", "a")
    assert row.high - row.low == pytest.approx(2 * 1.96 * spread, rel=0.15)
    x, y = x["report"], y["report"]
    assert score(table, "cka").score == pytest.approx(literal_cka(x, y), rel=1e-4)
    wide = max(x.shape[1], y.shape[1])
    p, q = (np.pad(one - one.mean(0), ((0, 0), (0, wide - one.shape[1]))) for one in (x, y))
    p, q = p / np.linalg.norm(p), q / np.linalg.norm(q)
    assert score(table, "procrustes").score == pytest.approx(
        np.linalg.norm(p @ scipy.linalg.orthogonal_procrustes(p, q)[0] - q), rel=1e-4
    )
    for one, other, name in ((x, y, "a"), (y, x, "b")):
        rest = ((other - LinearRegression().fit(one, other).predict(one)) ** 2).sum() / (
            (other - other.mean(0)) ** 2
        ).sum()
        rank = np.linalg.matrix_rank(one - one.mean(0))
        assert score(table, "r2", network=name).score == pytest.approx(1 - rest * 159 / (160 - rank - 1), rel=1e-4)


def test_a_matrix_of_layers():
    a, b = model(Net(5), "a"), model(Net(6, hidden=7), "b")
    table = compare_models(
        a, b, drawn(150), fit=drawn(150, 1), layers=["relu", "act"], layers_b=["act", "last", "relu"]
    )
    for metric, back in (("cka", False), ("l2_distance", False), ("l2_distance", True), ("l2_distance_mean", False)):
        found = table.matrix(metric, back=back)
        assert (
            found.shape == (2, 3) and found.notna().all().all() and (found.index.name, found.columns.name) == ("a", "b")
        )
        alone = compare_models(a, b, drawn(150), fit=drawn(150, 1), layers="act", layers_b="last")
        wanted = score(alone, metric, network="b" if back else "a").score
        assert found.loc["act", "last"] == pytest.approx(wanted, rel=1e-4)
    for wrong, told in ((("distance",), "there are rows of"), (("cka", "ridge"), "there are rows of")):
        with pytest.raises(UserError, match=told):
            table.matrix(wrong[0], solver=dict(enumerate(wrong)).get(1))
    both = compare_models(a, b, drawn(60), fit=0.5, layers="act", maps=["ridge", OnlineSGD(rate=0.01, epochs=1)])
    with pytest.raises(UserError, match="there are ridge and online_sgd; choose one"):
        both.matrix("l2_distance")
    assert np.isfinite(both.matrix("l2_distance", solver="ridge", split="fit").iloc[0, 0])


def test_images_are_dealt_by_the_seed():
    a, b, images = model(Net(1), "a"), model(Net(2), "b"), drawn(101)
    once, again, other = (
        compare_models(a, b, images, fit=0.3, layers="act", maps=Ridge(strengths=[0.1]), seed=seed)
        for seed in (4, 4, 5)
    )
    assert once.equals(again) and not once.equals(other)
    assert once.attrs["images"] == (30, 71)
    plain = compare_models(a, b, images, layers="act")
    assert (
        set(plain["metric"]) == set(INDEX_NAMES)
        and set(plain["n_images"]) == {101}
        and plain.attrs["images"] == (0, 101)
    )
    floats = compare_models(a, b, images.numpy().astype(np.float64), layers="act")
    assert floats.equals(plain)


def overlap(x, y):
    """A measure from outside the package: the share of variance in one direction of each, by its own lights."""
    return torch.corrcoef(torch.stack([x.sum(1), y.sum(1)]))[0, 1]


def test_a_measure_from_outside_is_a_row_both_ways():
    table = compare_models(
        model(Net(1), "a"), model(Net(2), "b"), drawn(50), layers="act", indices=[f"{__name__}:overlap", "cka"]
    )
    rows = table[table["metric"] == f"{__name__}:overlap"]
    assert rows["network"].tolist() == ["a", "b"] and rows["score"].iloc[0] == pytest.approx(rows["score"].iloc[1])


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (drawn(8).float() / 255, "floats of at most .* seem to be in .0, 1."),
        (drawn(8).float() - 9, "images hold -9"),
        (drawn(8).float() * 2, "give uint8, or floats in .0, 255."),
        (torch.full((8, 1, 7, 9), math.nan), "NaN"),
        (drawn(8)[:, 0], r"of shape \(8, 7, 9\) are not images \(N, C, H, W\)"),
        (drawn(8, shape=(7, 9, 3)), "seem to be .N, H, W, C."),
        (drawn(8)[:0], "there are none"),
        (drawn(8).numpy() > 9, "of type bool"),
        (3, "images: a int"),
    ],
)
def test_what_are_no_images_is_refused_in_one_line(images, told):
    with pytest.raises(UserError, match=told) as caught:
        compare_models(model(Net(1)), model(Net(2)), images, layers="act")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"maps": "ridge"}, "maps=ridge without fit images, and no map is fitted on the images that are reported on"),
        ({"maps": [Ridge(), OnlineSGD()]}, "maps=ridge, online_sgd without fit images"),
        ({"maps": ["rigde"], "fit": 0.5}, "did you mean 'ridge'"),
        ({"maps": [MinibatchSGD()], "fit": 0.5}, "minibatch_sgd cannot fit E; choose of online_sgd, ridge"),
        ({"maps": [Ridge(), "ridge"], "fit": 0.5}, "ridge is there twice"),
        ({"maps": [], "indices": []}, "nothing to compare by"),
        ({"indices": ["l2_distance"]}, "l2_distance is taken through maps"),
        ({"indices": ["ckaa"]}, "did you mean 'cka'"),
        ({"fit": 1.0}, "fit=1.0 of 40 images"),
        ({"fit": True}, "fit=True"),
        ({"fit": 0.001}, "fit=0.001 of 40 images"),
        ({"fit": drawn(40)}, "fit holds the images that are reported on"),
        ({"fit": drawn(9, shape=(3, 7, 9))}, "fit images .3, 7, 9. are not of the shape .1, 7, 9."),
        ({"fit": drawn(40).float() / 300}, "fit: images are floats of at most"),
        ({"layers": "acti"}, "layers: 'acti' matches no layer; did you mean 'act'"),
        ({"layers": []}, "layers=.*give the name of a layer"),
        ({"layers_b": ["act", "act"]}, "layers_b=.*is there twice"),
        ({"batch": 0}, "batch=0: give a whole number from 1"),
        ({"seed": -1}, "seed=-1"),
        ({"memory_gb": 0}, "memory_gb=0"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(settings, told):
    with pytest.raises(UserError, match=told) as caught:
        compare_models(model(Net(1)), model(Net(2)), drawn(40), **{"layers": "act", **settings})
    assert "\n" not in str(caught.value)


def test_a_module_alone_and_a_preprocessing_that_loses_images_are_refused():
    with pytest.raises(UserError, match=r"a: a Net is no model; give wrap\(module, preprocess=…\)"):
        compare_models(Net(1), model(Net(2)), drawn(4), layers="act")
    half = model(Net(1))
    half.preprocess = lambda x: x[:1]
    with pytest.raises(UserError, match="net: preprocess gives .* for images"):
        compare_models(model(Net(2)), half, drawn(4), layers="act")


@pytest.mark.parametrize(
    ("kill", "flaw"), [(lambda w: w.zero_(), "constant"), (lambda w: w.fill_(math.inf), "not_finite")]
)
def test_a_layer_of_which_nothing_can_be_said_is_marked(kill, flaw):
    broken = Net(1)
    with torch.no_grad():
        kill(broken.last.weight)
    table = compare_models(
        model(broken, "a"), model(Net(2), "b"), drawn(60), fit=0.5, layers=["act", "last"], layers_b="act"
    )
    of_last = (table["layer"] == "last") | (table["g"] == "network:a:last")
    assert set(table.loc[of_last, "status"]) == {flaw} and table.loc[of_last, "score"].isna().all()
    assert set(table.loc[~of_last, "status"]) == {"ok"} and of_last.sum() == 12


# ---- the loop


def sources(count=4, n_fit=60, n_report=50):
    generator = torch.Generator().manual_seed(7)
    base = torch.rand(n_fit + n_report, 6, generator=generator)
    found = {}
    for k in range(count):
        values = torch.relu(base @ torch.randn(6, 5 + k % 2, generator=generator))
        found[f"s{k}"] = InMemory(values[:n_fit], values[n_fit:])
    return found


FITS = [MapSpec("linear", "ridge", Ridge(strengths=[0.1]))]
ALL = [MEASURES[name] for name in INDEX_NAMES]


def outcomes(found, **settings):
    return {
        (unit.kind, unit.source, target, name): values[k]
        for unit, result in compare(found, FITS, ALL, device=CPU, **{"memory": GIGABYTE, **settings})
        for k, target in enumerate(unit.targets)
        for name, values in result.items()
    }


def test_in_small_groups_the_loop_gives_the_same():
    found = sources()
    whole, parts = outcomes(found), outcomes(found, memory=1.0)
    assert whole.keys() == parts.keys() and len({key[:3] for key in whole}) == 2 * 12
    for key, value in whole.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(value, parts[key], rtol=1e-4, atol=1e-6)
    assert len(units_of(found, FITS, True, memory=1.0, device=CPU)) == 24
    assert len(units_of(found, FITS, True, memory=GIGABYTE, device=CPU)) == 16
    assert np.isnan(whole[INDICES, "s1", "s0", "cka"]) and np.isfinite(whole[INDICES, "s0", "s1", "cka"])
    assert np.isfinite(whole[INDICES, "s1", "s0", "r2"])


def test_the_product_of_two_is_made_once_for_both_ways(monkeypatch):
    found, made, product = sources(4), [], invariance.measures.moments.cross_product
    counted = lambda x, y: made.append(x is y) or product(x, y)  # noqa: E731
    monkeypatch.setattr(invariance.measures.moments, "cross_product", counted)
    whole = outcomes(found)
    assert made.count(False) == 6 and made.count(True) == 4
    x, y = (ComparedSide(found[label].load("report")) for label in ("s2", "s1"))
    assert float(whole[INDICES, "s2", "s1", "r2"]) == pytest.approx(r2(Pairing(x, y)), rel=1e-12)
    units = [one for one in units_of(found, FITS, True, memory=GIGABYTE, device=CPU) if one.kind == INDICES]
    for unit in units:  # as where everything else was computed before
        [(_, alone)] = compare(found, FITS, ALL, units=[unit], memory=GIGABYTE, device=CPU)
        for k, target in enumerate(unit.targets):
            for name, values in alone.items():
                np.testing.assert_array_equal(values[k], whole[INDICES, unit.source, target, name])


def test_the_loop_skips_what_the_recorder_has():
    found, keep = sources(3), Listed()
    loop = compare(found, FITS, ALL, keep=keep, memory=GIGABYTE, device=CPU)
    first = [next(loop) for _ in range(3)]
    assert keep.groups == [unit for unit, _ in first]
    rest = list(compare(found, FITS, ALL, keep=keep, memory=GIGABYTE, device=CPU))
    assert [unit for unit, _ in rest[:3]] == keep.groups[:3] and all(result is None for _, result in rest[:3])
    assert all(result is not None for _, result in rest[3:]) and len(keep.groups) == len(rest)


def test_features_made_anew_in_the_middle_are_those_that_count():
    found = sources(2)

    class Renewing:
        """Its report features turn out damaged when they are first asked for, and all of it is made anew."""

        def __init__(self, old, new):
            self.now, self.new, self.dim, self.alive, self.flaw = old, new, old.dim, old.alive, ""
            self.n_fit, self.n_report = old.n_fit, old.n_report

        def load(self, side):
            if side == "report" and self.now is not self.new:
                self.now = self.new
                raise Renewed
            return self.now.load(side)

    old = InMemory(found["s1"].load("fit") * 3, found["s1"].load("report") * 3, scaled=False)
    held = Held({"s0": found["s0"], "s1": Renewing(old, found["s1"])}, CPU)
    assert torch.equal(held.fit("s1"), old.load("fit"))
    assert torch.equal(held.compared("s1").values, found["s1"].load("report"))
    assert torch.equal(held.fit("s1"), found["s1"].load("fit"))


def test_sources_of_other_images_and_maps_without_images_are_refused():
    found = sources(2)
    with pytest.raises(UserError, match="s0 and other cannot be compared: .60, 50. and .60, 40. images"):
        list(compare({**found, "other": sources(1, 60, 40)["s0"]}, FITS, memory=1, device=CPU))
    bare = {label: InMemory(None, one.load("report")) for label, one in found.items()}
    with pytest.raises(UserError, match="s0 has no fit images"):
        list(compare(bare, FITS, memory=GIGABYTE, device=CPU))
    assert len(list(compare(bare, (), ALL, memory=GIGABYTE, device=CPU))) == 2


def test_the_relu_stands_where_the_target_is_never_negative():
    generator = torch.Generator().manual_seed(1)
    r = torch.randn(200, 4, generator=generator)
    below = r @ torch.randn(4, 3, generator=generator)
    found = {"r": InMemory(r[:150], r[150:]), "t": InMemory(below[:150], below[150:])}
    unit = [PairUnit("linear_ridge", "r", ("t",))]
    results = [
        next(compare(found, FITS, units=unit, memory=GIGABYTE, device=CPU, relu=relu))[1]
        for relu in (None, False, True)
    ]
    free, plain, bent = (result["report"].mean() for result in results)
    assert free == plain < 0.2 < bent


def test_comparing_needs_neither_hydra_nor_lightning_nor_wandb():
    code = (
        "import sys, invariance.engine.between, invariance.engine.comparing;"
        "sys.exit(bool({'hydra', 'pytorch_lightning', 'wandb', 'omegaconf'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_maps_are_compared_by_a_readout_and_an_unknown_one_is_refused():
    a, b, x = model(Net(1), "a"), model(Net(2), "b"), drawn(60)
    table = compare_models(a, b, x, layers="conv", indices=["cka"], readout="mean")
    means = [one.cut(["conv"]).phi(one.prepare(x))["conv"].view(60, 2, -1).mean(2).double() for one in (a, b)]
    wanted = linear_cka(*map(centred, means), cross_product(*means))
    assert score(table, "cka", network="a").score == pytest.approx(wanted, abs=1e-6)
    with pytest.raises(UserError, match="did you mean 'mean'"):
        compare_models(a, b, x, layers="conv", readout="meen")
