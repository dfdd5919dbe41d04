"""Tables of results: areas, consistency, the images that lose most, paired comparisons, and their figures."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from scipy import integrate
from torch import nn

from invariance import Mirror, Results, Rotation, Shear, UserError, load, measure_model, wrap
from invariance.engine.summaries import weights_of
from invariance.measures.bootstrap import bootstrap, wilson
from invariance.reporting.lines import HOLLOW, PASSED

FAMILIES = {"turned": Rotation(angles=[-30, -10, 20, 25]), "shear": Shear(angles=[-20, 10]), "mirror": Mirror()}
COUNT = 61


class Skip(nn.Module):
    """Logits that also see the image past the layer `inner`."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.inner = (nn.Sequential(nn.Linear(*sides), nn.ReLU()) for sides in ((120, 12), (12, 9)))
        self.head, self.past = nn.Linear(9, 4), nn.Linear(12, 4)

    def forward(self, x):
        x = self.first(x.flatten(1))
        return self.head(self.inner(x)) + self.past(x)


def images_of(count, seed, shape=(1, 10, 12)):
    return torch.randint(0, 256, (count, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture(scope="module")
def given():
    return {"images": images_of(COUNT, 1), "labels": torch.arange(COUNT) % 4, "fit": images_of(90, 2)}


@pytest.fixture(scope="module")
def networks():
    return [wrap(Skip(seed), preprocess=([0.4], [0.3]), name=name) for seed, name in ((1, "a"), (2, "b"))]


def measured(networks, given, **more):
    asked = {"measures": ["error_rate", "agreement", "l2_distance"], "transforms": FAMILIES}
    return measure_model(networks, **given, layers=["first", "inner"], **{**asked, **more})


@pytest.fixture(scope="module")
def results(networks, given):
    return measured(networks, given)


def values(results, g, network="a", layer="first", kind="identity", split="report"):
    """The scores of every image."""
    scores = results.images(g)
    here = (scores["network"] == network) & (scores["layer"] == layer) & (scores["map"] == kind)
    return scores[here & (scores["split"] == split)].sort_values("image")


def test_an_area_is_the_trapezoid_over_the_axis_divided_by_its_range(results):
    areas = results.area()
    assert len(areas) == 2 * 2 * 2 * 3 * 3 and areas["area"].notna().all() and set(areas["split"]) == {"report"}
    for (network, layer, kind, grid, metric), part in areas.groupby(["network", "layer", "map", "grid", "metric"]):
        rows = results[(results["network"] == network) & (results["layer"] == layer) & (results["map"] == kind)]
        rows = rows[(rows["metric"] == metric) & (rows["split"] == "report") & rows["g"].str.startswith(f"{grid}:")]
        rows = rows[~rows["g"].str.endswith("untouched")].sort_values("value")
        wanted = rows["score"].mean()
        if grid != "mirror":
            wanted = integrate.trapezoid(rows["score"], rows["value"]) / np.ptp(rows["value"])
        assert part["area"].iloc[0] == pytest.approx(wanted, abs=1e-12) and part["n_g"].iloc[0] == len(rows)


def test_weights_of_an_axis():
    places = np.array([3.0, -1.0, 0.5])
    scores = np.array([2.0, 1.0, 5.0])
    order = np.argsort(places)
    assert weights_of(places, False) @ scores == pytest.approx(integrate.trapezoid(scores[order], places[order]) / 4)
    assert weights_of(places, True).tolist() == [1 / 3] * 3 and weights_of(places[:1], False).tolist() == [1]


def test_an_area_has_an_interval_over_images(results):
    areas = results.area(intervals=True).set_index(["network", "layer", "map", "grid", "metric"])
    one = areas.loc["b", "inner", "identity", "shear", "l2_distance"]
    per_image = [values(results, f"shear:{g}", "b", "inner")["l2_distance"].to_numpy(dtype=float) for g in (-20, 10)]
    interval = bootstrap(np.mean(per_image, axis=0))
    assert (one["low"], one["high"]) == pytest.approx((interval.low[0], interval.high[0]), abs=1e-9)
    assert ((areas["low"] <= areas["area"]) & (areas["area"] <= areas["high"])).all()


def test_consistency_is_the_share_of_images_that_keep_their_class_everywhere(results):
    kept = results.consistency().set_index(["network", "layer", "map", "grid"])
    for kind in ("identity", "residual"):
        untouched = values(results, "turned:untouched", layer="inner")["predicted"].to_numpy()
        everywhere = np.all(
            [
                values(results, f"turned:{g}", layer="inner", kind=kind)["predicted"].to_numpy() == untouched
                for g in (-30, -10, 20, 25)
            ],
            axis=0,
        )
        row, ends = kept.loc["a", "inner", kind, "turned"], wilson(everywhere)
        assert (row["consistency"], row["n_images"], row["n_g"]) == (everywhere.mean(), COUNT, 4)
        assert (row["low"], row["high"]) == (ends.low[0], ends.high[0])


def test_the_images_that_lose_most_come_first(results, given):
    worst = results.worst(5, "l2_distance", transform="turned")
    assert worst.groupby(["network", "layer", "map"]).size().eq(5).all()
    here = worst[(worst["network"] == "a") & (worst["layer"] == "first") & (worst["map"] == "identity")]
    loss = np.mean([values(results, f"turned:{g}")["l2_distance"].to_numpy(dtype=float) for g in (-30, -10, 20, 25)], 0)
    assert here["image"].tolist() == np.argsort(-loss)[:5].tolist()
    np.testing.assert_allclose(here["loss"], np.sort(loss)[::-1][:5])
    wrong = results.worst(COUNT, "error_rate", transform="mirror")
    wrong = wrong[(wrong["network"] == "b") & (wrong["layer"] == "inner") & (wrong["map"] == "identity")]
    named = {g: values(results, f"mirror:{g}", "b", "inner") for g in ("untouched", "horizontal", "vertical", "both")}
    missed = {g: one["predicted"].to_numpy() != given["labels"].numpy() for g, one in named.items()}
    lost = np.mean([missed[g] for g in ("horizontal", "vertical", "both")], axis=0) - missed["untouched"]
    assert dict(zip(wrong["image"], wrong["loss"], strict=True)) == pytest.approx(dict(enumerate(lost)))
    tied = wrong[wrong["loss"] == wrong["loss"].iloc[0]]["image"].to_numpy()
    assert (np.diff(named["untouched"]["confidence"].to_numpy()[tied]) <= 0).all()
    assert set(results.worst()["metric"]) == {"agreement"}


def test_a_comparison_is_of_paired_images(results):
    compared = results.compare("a", "b", measure="l2_distance")
    row = compared[(compared["g"] == "turned:-30") & (compared["layer"] == "inner") & (compared["map"] == "residual")]
    [row] = row.to_dict("records")
    a, b = (
        values(results, "turned:-30", network, "inner", "residual")["l2_distance"].to_numpy(dtype=float)
        for network in "ab"
    )
    interval = bootstrap(a - b)
    assert row["difference"] == pytest.approx((a - b).mean()) and row["n_images"] == COUNT
    assert (row["low"], row["high"]) == pytest.approx((interval.low[0], interval.high[0]))
    assert (row["score"], row["other_score"]) == pytest.approx((a.mean(), b.mean()))
    assert row["better"] == ("a" if row["high"] < 0 else "b" if row["low"] > 0 else "")
    areas = results.area().set_index(["network", "layer", "map", "grid", "metric"])["area"]
    whole = compared[(compared["g"] == "shear:area") & (compared["layer"] == "first") & (compared["map"] == "identity")]
    of_both = [areas[network, "first", "identity", "shear", "l2_distance"] for network in "ab"]
    assert whole["difference"].iloc[0] == pytest.approx(of_both[0] - of_both[1], abs=1e-9)
    assert set(results.compare("a", "b")["metric"]) == {"agreement"}
    back = results.compare("b", "a", measure="l2_distance")
    np.testing.assert_allclose(back["difference"], -compared["difference"])
    same = results.compare("a", "b", layers={"first": "first"}, measure="error_rate")
    assert set(same["layer"]) == {"first"} and (same["g"] == "mirror:area").any()


def test_a_network_is_compared_with_itself_after_a_change(networks, given, results):
    after = measured(networks[:1], given)
    same = results.compare("a", "a", other=after)
    assert (same["difference"] == 0).all() and (same["better"] == "").all() and set(same["other"]) == {"a (b)"}
    others = measured(networks[:1], {**given, "images": images_of(COUNT, 9)})
    with pytest.raises(UserError, match="were not measured on the same images"):
        results.compare("b", "a", other=others)
    turned = measured(networks[:1], given, transforms={"turned": Rotation(angles=[-30, -11, 20, 25])})
    with pytest.raises(UserError, match="other transformations of the same names"):
        results.compare("b", "a", other=turned)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda rows: rows.compare("a", "c"), "network='c' was not measured"),
        (lambda rows: rows.compare("a", "a"), "give two networks"),
        (lambda rows: rows.compare("a", "b", measure="cka"), "can be compared by error_rate, agreement, l2_distance"),
        (lambda rows: rows.compare("a", "b", layers={"frst": "first"}), "did you mean 'first'"),
        (lambda rows: rows.worst(0), "n=0"),
        (lambda rows: rows.worst(3, "cka"), "was not measured of single images"),
        (lambda rows: rows.worst(transform="turn"), "did you mean 'turned'"),
        (lambda rows: rows.area(split="test"), "split='test': no such rows; there are report, fit"),
        (lambda rows: rows.plot("depth", transform="blur"), "transform='blur' was not measured"),
        (lambda rows: rows.plot("heatmap", way="mlp"), "there are identity, ridge"),
        (lambda rows: rows.plot("agrement"), "did you mean 'agreement'"),
        (lambda rows: rows.plot("agreement", measure="l2_distance"), "or one measure"),
        (lambda rows: rows[rows["metric"] == "l2_distance"].plot("error_rate"), "there are l2_distance"),
    ],
)
def test_mistakes_are_named(results, call, said):
    with pytest.raises(UserError, match=said):
        call(results)


def test_results_that_are_kept_say_the_same(results, tmp_path):
    results.save(tmp_path / "kept")
    kept = load(tmp_path / "kept")
    for what in (lambda one: one.area(intervals=True), lambda one: one.consistency(), lambda one: one.worst(3)):
        pd.testing.assert_frame_equal(what(kept), what(results))
    pd.testing.assert_frame_equal(
        kept.compare("a", "b", measure="error_rate"), results.compare("a", "b", measure="error_rate")
    )


def test_frames_group_and_filter(results):
    only = results[(results["metric"] == "agreement") & (results["layer"] == "inner")]
    assert isinstance(only, Results) and set(only.area()["layer"]) == {"inner"} and len(only.consistency()) == 2 * 2 * 3
    means = results.groupby(["network", "metric"])["score"].mean()
    assert means.loc["a", "l2_distance"] > 0 and results.groupby("layer").size().sum() == len(results)
    made_anew = Results(pd.DataFrame(results))
    with pytest.raises(UserError, match="no scores of single images were kept"):
        made_anew.worst(measure="l2_distance")


def lines_of(axes):
    return [line for line in axes.lines if len(line.get_xdata()) > 1]


def test_depth_curves_go_over_the_layers_and_passed_ones_are_hollow(results):
    figure = results.plot("depth", measure="agreement", transform="turned")
    assert isinstance(figure, Figure) and [axes.get_title(loc="left") for axes in figure.axes] == ["a", "b"]
    areas = results.area().set_index(["network", "layer", "map", "grid", "metric"])["area"]
    for axes, network in zip(figure.axes, "ab", strict=True):
        assert [label.get_text() for label in axes.get_xticklabels()] == ["first", "inner"]
        drawn = {tuple(np.round(line.get_ydata(), 9)) for line in lines_of(axes)}
        for kind in ("identity", "residual"):
            wanted = tuple(
                np.round([100 * areas[network, layer, kind, "turned", "agreement"] for layer in ("first", "inner")], 9)
            )
            assert wanted in drawn
        hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white" and len(line.get_xdata())]
        assert {float(x) for line in hollow for x in line.get_xdata()} == {1.0}
        assert len(axes.collections)  # intervals, and the nulls
        nulls = results.loc[results["network"] == network, ["null_image", "null_constant", "null_shuffled"]]
        assert nulls.notna().any(axis=None)
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert HOLLOW[PASSED] in told and "nulls" in told and "equivariance (ridge)" in told
    at_g = results.plot("depth", measure="l2_distance", transform="turned:20", way="ridge")
    ordinary = results[(results["g"] == "turned:20") & (results["solver"] == "ridge") & (results["network"] == "a")]
    ordinary = ordinary[(ordinary["metric"] == "l2_distance") & (ordinary["split"] == "report")]
    assert any(np.allclose(line.get_ydata(), ordinary["score"]) for line in lines_of(at_g.axes[0]))
    families = results.plot("depth")
    assert {"turned", "shear", "mirror"} <= {text.get_text() for text in families.legends[0].get_texts()}


def test_a_heat_map_tells_its_numbers(results):
    figure = results.plot("heatmap", measure="l2_distance")
    areas = results.area().set_index(["network", "layer", "map", "grid", "metric"])["area"]
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_title(loc="left")}
    for network in "ab":
        told = [text.get_text() for text in panels[network].texts]
        wanted = [
            f"{areas[network, layer, 'identity', grid, 'l2_distance']:.2f}"
            for layer in ("first", "inner")
            for grid in ("turned", "shear", "mirror")
        ]
        assert told == wanted
    assert [label.get_text() for label in panels["a"].get_xticklabels()] == ["turned", "shear", "mirror"]


def test_curves_have_a_panel_a_grid_and_layer(results):
    figure = results.plot("l2_distance", transform="turned")
    assert len(figure.axes) == 2 and all(axes.get_xlabel() for axes in figure.axes)
    assert len(results.plot("curves", way="identity").axes) == 6
    assert sorted(set(figure.axes[0].lines[0].get_xdata())) == [-30, -10, 0, 20, 25]


def test_what_has_no_number_is_left_out_of_figures_and_areas(results):
    spoilt = results.copy()
    here = (spoilt["layer"] == "inner") & (spoilt["map"] == "residual") & (spoilt["g"] == "turned:20")
    spoilt.loc[here, ["score", "low", "high"]] = math.nan
    spoilt.loc[here, "status"] = "diverged"
    areas = spoilt.area(intervals=True).set_index(["network", "layer", "map", "grid", "metric"])
    assert math.isnan(areas.loc["a", "inner", "residual", "turned", "agreement"]["area"])
    told = [text.get_text() for text in spoilt.plot("l2_distance").legends[0].get_texts()]
    assert "diverged: no number" in told
    kept = spoilt.consistency().set_index(["network", "layer", "map", "grid"])
    assert math.isnan(kept.loc["a", "inner", "residual", "turned"]["consistency"])
    compared = spoilt.compare("a", "b").set_index(["layer", "map", "g"])
    assert math.isnan(compared.loc["inner", "residual", "turned:20"]["difference"])
    assert math.isnan(compared.loc["inner", "residual", "turned:area"]["difference"])
    assert isinstance(spoilt.plot("depth", transform="turned"), Figure)
