"""The page on networks that were not trained here: depth curves, heat maps, rankings, comparisons, plain words."""

import math
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from invariance import Mirror, Results, Rotation, Shear, load, measure_model, wrap
from invariance.errors import UserError
from invariance.experiments.report import report
from invariance.measures import MEASURES
from invariance.reporting.curves import fit_title, order_of, way
from invariance.reporting.depth import short, shortened, spread
from invariance.reporting.given import given_networks
from invariance.reporting.lines import PASSED
from invariance.reporting.metrics import METRICS
from invariance.reporting.models import models_section
from invariance.reporting.page import make_report, report_of
from invariance.reporting.rows import collect
from invariance.reporting.sections import Making
from invariance.reporting.sentences import lead, losses, sentence, where_it_arises
from invariance.runs.rows import Row, to_frame
from tests.conftest import draw_nothing

FAMILIES = {"turned": Rotation(angles=[-30, -10, 20]), "shear": Shear(angles=[-20, 10]), "mirror": Mirror()}
COUNT, CLASSES = 47, 4
MEASURED = ["error_rate", "agreement", "effective_invariance", "l2_distance", "cka", "procrustes", "r2", "derivative"]


class Skip(nn.Module):
    """Logits of ten classes that also see the image past the layer `inner`."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.inner = (nn.Sequential(nn.Linear(*sides), nn.ReLU()) for sides in ((120, 12), (12, 9)))
        self.head, self.past = nn.Linear(9, 10), nn.Linear(12, 10)

    def forward(self, x):
        x = self.first(x.flatten(1))
        return self.head(self.inner(x)) + self.past(x)


def images_of(count, seed):
    return torch.randint(0, 256, (count, 1, 10, 12), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Two networks, measured on the same images and kept."""
    folder = tmp_path_factory.mktemp("kept")
    networks = [wrap(Skip(seed), preprocess=([0.4], [0.3]), name=name) for seed, name in ((1, "a"), (2, "b"))]
    asked = {"images": images_of(COUNT, 1), "labels": torch.arange(COUNT) % CLASSES, "fit": images_of(60, 2)}
    more = {"maps": ["identity", "ridge", "low_rank:2"], "measures": MEASURED, "transforms": FAMILIES}
    measure_model(networks, **asked, **more, layers=["first", "inner", "logits"], keep=folder)
    return folder


@pytest.fixture(scope="module")
def made(kept, tmp_path_factory):
    """Their report, without its drawings."""
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        return make_report(kept, tmp_path_factory.mktemp("report")).parent


def network_of(folder, name="a"):
    return next(one for one in given_networks(collect(folder)) if one.network == name)


def csv_of(report, kind, name):
    return pd.read_csv(next((report / kind).glob(f"*-{name}.csv")), keep_default_na=False, na_values=[""])


def by_hand(rows, folder, **about):
    """Results with rows of one's own, kept in a folder."""
    told = {"ordinal": [], "images": {"report": "0123456789abcdef"}, "networks": [{"name": "n", "recipe": "as it is"}]}
    Results.from_parts(to_frame(rows), [], {**told, **about}).save(folder)
    return folder


def row(layer, label, score, *, metric="l2_distance", grid="turned", network="n", **more):
    value = 0.0 if label == "untouched" else float(label)
    about = {
        "stage": "measure",
        "network": network,
        "layer": layer,
        "g": f"{grid}:{label}",
        "value": value,
        "unit": "°",
    }
    about |= {"split": "report", "map": "identity", "metric": metric, "n_images": 100, "readout": "flatten"}
    about |= {"low": score - 0.01, "high": score + 0.02, "score": score}
    return Row(**{**about, **more})


def test_every_measure_of_images_and_between_representations_is_shown():
    inner = {
        "accuracy",
        "half_error_rate",
        "fit_images_per_dimension",
        "positions_outside",
        "l2_distance_mean",
        "l2_distance_difference",
    }
    assert set(METRICS) == set(MEASURES) - inner
    for name, metric in METRICS.items():
        better = MEASURES[name].better
        assert metric.better == ({"lower": "higher", "higher": "lower"}[better] if metric.rest else better)
        assert metric.loss(*((0.4, 0.1) if better == "lower" else (0.1, 0.4))) > 0
    assert METRICS["error_rate"].said(0.25, 0.2, 0.4) == "75.0 [60.0, 80.0]"
    assert METRICS["agreement"].said(0.25, 0.2, 0.4) == "25.0 [20.0, 40.0]"


def test_maps_have_names_for_people_and_an_order():
    fits = [
        ("floor", ""),
        ("warp", ""),
        ("identity_inside", ""),
        ("spatial", "ridge"),
        ("mlp", "minibatch_sgd"),
        ("orthogonal", "procrustes"),
    ]
    fits += [("low_rank:10", "ridge"), ("low_rank:2", "ridge"), ("residual", "ridge"), ("identity", "")]
    assert [fit_title(fit) for fit in sorted(fits, key=order_of)] == [
        "no map",
        "residual map, ridge",
        "low rank 2 map, ridge",
        "low rank 10 map, ridge",
        "orthogonal map, procrustes",
        "MLP map, minibatch SGD",
        "spatial map, ridge",
        "no map, inside positions",
        "warp alone (S_g⁻¹)",
        "floor of interpolation (S_g⁻¹ S_g)",
    ]
    assert way(("residual", "ridge")) == "equivariance (ridge)" and way(("identity", "")) == "invariance"
    assert len({way(fit) for fit in fits}) == len(fits)


def test_kept_results_are_on_the_page_and_in_its_rows(made, kept):
    text = (made / "index.html").read_text(encoding="utf-8")
    assert ": a</h2>" in text and ": b</h2>" in text and "2 networks compared" in text
    assert 'id="paper-figures"' not in text and 'id="claims"' not in text  # nothing was trained here
    rows = pd.read_csv(made / "rows.csv")
    assert set(rows["model"]) == {"kept/a", "kept/b"} and rows["data"].str.startswith("images_").all()
    results = load(kept)
    assert len(rows) == len(results)
    names = {path.name for path in (made / "figures").iterdir()}
    for metric in (
        "accuracy",
        "agreement",
        "distance",
        "effective_invariance",
        "cka",
        "procrustes",
        "r2",
        "derivative",
    ):
        assert any(name.endswith(f"-a-depth-{metric}.svg") for name in names), metric
        assert any(name.endswith(f"-a-heatmap-{metric}.png") for name in names), metric


def test_depth_curves_and_heat_maps_have_the_areas_of_the_results(made, kept):
    areas = load(kept).area(intervals=True)
    areas = areas[areas["network"] == "a"].set_index(["layer", "map", "grid", "metric"])
    drawn = csv_of(made, "figures", "a-depth-accuracy")
    lines = drawn[~drawn["who"].isin(["nulls", "untouched"])]
    assert len(lines) == 3 * 3 * 3
    for _, point in lines.iterrows():
        kind = {"invariance": "identity", "equivariance (ridge)": "residual"}.get(point["panel"], "low_rank:2")
        area = areas.loc[point["layer"], kind, point["who"], "error_rate"]
        assert [point["y"], point["low"], point["high"]] == pytest.approx(
            [100 * (1 - area["area"]), 100 * (1 - area["high"]), 100 * (1 - area["low"])]
        )
        assert point["status"] == (PASSED if point["layer"] == "inner" else "ok")
    assert set(drawn["who"]) == {*FAMILIES, "nulls", "untouched"}
    told = csv_of(made, "figures", "a-heatmap-distance").set_index(["panel", "line", "column"])["y"]
    assert told["invariance", "inner ○", "shear"] == pytest.approx(
        areas.loc["inner", "identity", "shear", "l2_distance"]["area"]
    )
    assert {line for _, line, _ in told.index} == {"first", "inner ○", "logits"}


def test_the_input_stands_beside_the_layers_and_derivatives_are_told_in_multiples_of_its(made, kept):
    results = load(kept)
    rates = results[(results["metric"] == "derivative") & (results["network"] == "a")].set_index(["layer", "g"])[
        "score"
    ]
    drawn = csv_of(made, "figures", "a-depth-derivative").set_index(["layer", "who"])["y"]
    wanted = rates["inner", "turned:derivative"] / rates["input", "turned:derivative"]
    assert drawn["inner", "turned"] == pytest.approx(wanted)
    table = csv_of(made, "tables", "a-areas-derivative")
    assert table["layer"].iloc[0] == "input" and table["score"].iloc[0] == pytest.approx(
        rates["input", "turned:derivative"]
    )


def test_the_ranking_goes_by_what_is_lost_on_average(made, kept):
    ranking, results = csv_of(made, "tables", "a-ranking"), load(kept)
    lost = ranking["lost_on_average"].tolist()
    assert lost == sorted(lost, reverse=True) and set(ranking["grid"]) == set(FAMILIES)
    here = results[(results["network"] == "a") & (results["layer"] == "logits") & (results["map"] == "identity")]
    here = here[(here["metric"] == "error_rate") & (here["split"] == "report")].set_index("g")["score"]
    for line in ranking.to_dict("records"):
        of_grid = here[here.index.str.startswith(f"{line['grid']}:")]
        untouched = of_grid.pop(f"{line['grid']}:untouched")
        assert line["lost"] == pytest.approx(100 * (of_grid.max() - untouched))
        assert of_grid[f"{line['grid']}:{line['g']}"] == of_grid.max()
        assert line["low"] <= line["lost"] <= line["high"]


def test_a_comparison_is_that_of_the_results(made, kept):
    paired = csv_of(made, "tables", "models-paired").set_index("grid")
    wanted = load(kept).compare("a", "b", measure="error_rate", layers={"logits": "logits"})
    wanted = wanted[wanted["g"].str.endswith(":area") & (wanted["map"] == "identity")].set_index("grid")
    assert set(paired["metric"]) == {"error_rate"} and len(paired) == 3
    for grid in FAMILIES:
        assert paired.loc[grid, "difference"] == pytest.approx(-100 * wanted.loc[grid, "difference"])
        ends = [-100 * wanted.loc[grid, "high"], -100 * wanted.loc[grid, "low"]]
        assert paired.loc[grid, ["low", "high"]].tolist() == pytest.approx(ends)


def test_networks_on_other_images_are_not_paired_and_it_is_said(kept, tmp_path, undrawn):
    folder = shutil.copytree(kept, tmp_path / "runs")
    network = wrap(Skip(3), preprocess=([0.4], [0.3]), name="c")
    measure_model(network, images_of(30, 5), transforms=FAMILIES, layers=["logits"], keep=folder / "c")
    text = make_report(folder, tmp_path / "report").read_text(encoding="utf-8")
    assert text.count("networks compared") >= 1 and ": c</h2>" in text
    one, other = network_of(folder, "a"), network_of(folder, "c")
    section = models_section(Making({}), "images", [one, other])
    assert any("were not measured on the same images" in line for line in section.gaps)
    assert section.first is not None and not section.tables


def test_the_images_that_lose_most_are_named_with_what_they_lose(made, kept):
    found = csv_of(made, "tables", "a-worst")
    wanted = load(kept).worst(12, "error_rate")
    wanted = wanted[(wanted["network"] == "a") & (wanted["layer"] == "logits") & (wanted["map"] == "identity")]
    wanted = wanted[wanted["loss"] > 0]
    assert found[["grid", "image"]].values.tolist() == wanted[["grid", "image"]].values.tolist()
    text = next((made / "tables").glob("*-a-worst.md")).read_text()
    assert (
        text.count("\n| ") == wanted.groupby("grid").size().max()
        and f"{wanted['image'].iloc[0]}: {100 * wanted['loss'].iloc[0]:.1f}" in text
    )


def test_plain_words_are_made_from_rows(kept):
    network, results = network_of(kept), load(kept)
    loss = losses(network)[0]
    told = lead(network, losses(network))
    rows = results[(results["network"] == "a") & (results["metric"] == "error_rate") & (results["split"] == "report")]
    at = rows[(rows["layer"] == "logits") & (rows["g"] == f"{loss.grid}:{loss.label}")].set_index("map")["score"]
    assert f"loses {loss.lost.value:.1f} [" in told and f"under {loss.grid} at {loss.at}" in told and "n = 47" in told
    won = 100 * (at["identity"] - at["residual"])
    assert loss.linear.won.value == pytest.approx(won) and loss.linear.layer == "logits"
    verb = "wins back" if won >= 0 else "makes that"
    assert f"a linear map (residual map, ridge) at logits, the last true cut, {verb} {abs(won):.1f} [" in told
    assert f"By the argmax among the {CLASSES} classes that the images have it loses" in told
    assert "falls from" in where_it_arises(network, "turned") or "no layer is much" in where_it_arises(
        network, "turned"
    )


def test_what_is_lost_among_the_covered_classes_is_of_their_argmax(kept):
    network = network_of(kept)
    assert network.covered == CLASSES
    loss = next(one for one in losses(network) if one.grid == "turned")
    scores = load(kept).images(f"turned:{loss.label}", "logits"), load(kept).images("turned:untouched", "logits")
    moved, plain = (
        one[(one["network"] == "a") & (one["map"] == "identity") & (one["split"] == "report")].sort_values("image")
        for one in scores
    )
    labels = np.arange(COUNT) % CLASSES
    wanted = 100 * ((moved["among"].to_numpy() != labels).mean() - (plain["among"].to_numpy() != labels).mean())
    assert loss.among.value == pytest.approx(wanted)


ABOVE = [
    *(
        row("last", label, score, metric="error_rate")
        for label, score in (("untouched", 0.3), ("30", 0.58), ("10", 0.35))
    ),
    row("last", "30", 0.2, metric="error_rate", map="residual", solver="ridge"),
    row("last", "10", 0.29, metric="error_rate", map="residual", solver="ridge"),
]


def test_a_score_above_the_untouched_one_is_marked(tmp_path, undrawn):
    by_hand(ABOVE, tmp_path / "kept/n")
    network = network_of(tmp_path / "kept", "n")
    [loss] = losses(network)
    said = sentence(network, loss)
    assert said.startswith("loses 28.0 points of accuracy under turned at 30° (70.0 → 42.0 %, n = 100)")
    assert "wins back 38.0" in said and "the map has learned the classes" in said
    page = make_report(tmp_path / "kept", tmp_path / "report").parent
    assert "80.0 ↑" in next((page / "tables").glob("*-ranking.md")).read_text()
    within = [
        one if one.map == "identity" or one.g != "turned:30" else row("last", "30", 0.295, **_ridge()) for one in ABOVE
    ]
    by_hand(within, tmp_path / "other/n")
    network = network_of(tmp_path / "other", "n")
    assert "by no more than its interval explains" in sentence(network, losses(network)[0])


def _ridge():
    return {"metric": "error_rate", "map": "residual", "solver": "ridge"}


def test_distances_alone_and_maps_that_hurt_are_told_too(tmp_path):
    rows = [row("stem", "30", 0.8), row("next", "30", 0.7), row("last", "30", 0.4), row("last", "10", 0.3)]
    rows += [row("last", "30", 0.5, map="low_rank:3", solver="ridge")]
    by_hand(rows, tmp_path / "kept/n")
    network = network_of(tmp_path / "kept", "n")
    told = lead(network, losses(network))
    assert "moves furthest under turned at 30°: distance L_L2 0.400 [0.390, 0.420]" in told
    assert "a linear map (low rank 3 map, ridge) at last, the last true cut, takes that to 0.500" in told
    step = "0.800 at stem to 0.350 at last, most of all from next to last (0.700 → 0.350)"
    assert where_it_arises(network, "turned") == f"Turned: the distance L_L2 falls from {step}."


def test_a_layer_that_is_passed_by_is_no_true_cut(tmp_path):
    rows = [row("early", "30", 0.7, bypass=0.0), row("late", "30", 0.2, bypass=0.3)]
    by_hand(rows, tmp_path / "kept/n")
    network = network_of(tmp_path / "kept", "n")
    assert network.cuts == ["early"] and losses(network)[0].layer == "early"


def test_spatial_rows_are_ways_of_their_own(tmp_path, undrawn):
    rows = [row(layer, "30", 0.5) for layer in ("stem", "last")]
    ways = (("spatial", "ridge", 0.2), ("warp", "", 0.3), ("floor", "", 0.1))
    rows += [row("stem", "30", score, map=kind, solver=solver) for kind, solver, score in ways]
    by_hand(rows, tmp_path / "kept/n")
    made = make_report(tmp_path / "kept", tmp_path / "report").parent
    assert set(csv_of(made, "figures", "n-heatmap-distance")["panel"]) >= {
        "invariance",
        "equivariance (spatial, ridge)",
        "warp alone (S_g⁻¹)",
        "floor of interpolation (S_g⁻¹ S_g)",
    }


HOSTILE = "<b onclick='x'>&amp; $\\frac{a}{b}$ _^{}% | \"quoted\" 名前" + "_long" * 60


def test_names_with_markup_and_of_any_length_make_a_page_that_holds(tmp_path):
    rows = [row(f"{HOSTILE}{k}", label, 0.5, network=HOSTILE) for k in range(3) for label in ("10", "30")]
    rows += [row("a/b.c#2", label, 0.4, network=HOSTILE, grid="a<i>b/../c") for label in ("10", "30")]
    by_hand(rows, tmp_path / "kept/n")
    by_hand(rows, tmp_path / "kept/<n>")
    page = make_report(tmp_path / "kept", tmp_path / "report")
    text = page.read_text(encoding="utf-8")
    assert "<b onclick" not in text and "<i>b" not in text and "&lt;b onclick" in text
    for path in page.parent.rglob("*"):
        assert len(path.name) < 200 and path.resolve().is_relative_to(page.parent.resolve())
    slugs = [one.slug for one in given_networks(collect(tmp_path / "kept"))]
    assert len(set(slugs)) == 2 and all(re.fullmatch(r"[\w.@-]+", slug) for slug in slugs)


def test_thousands_of_layers_make_a_page_that_holds(tmp_path, undrawn):
    rows = [row(f"blocks.{k}", label, 0.5 + k / 1e4) for k in range(1500) for label in ("10", "30")]
    by_hand(rows, tmp_path / "kept/n")
    made = make_report(tmp_path / "kept", tmp_path / "report").parent
    told = csv_of(made, "figures", "n-heatmap-distance")["line"].tolist()
    assert len(told) == 40 and (told[0], told[-1]) == ("blocks.0", "blocks.1499")
    assert len(csv_of(made, "tables", "n-areas-distance")) == 1500


def test_names_lose_their_middle_and_stay_apart():
    names = [f"vision_model.encoder.layers.{k}.self_attention.out_proj" for k in range(12)]
    assert len(set(shortened(names).values())) == 12 and max(map(len, shortened(names).values())) <= 31
    assert short("a\x00b\nc") == "a□b□c" and spread(list("abcdef"), 3) == ["a", "c", "f"]


def test_damaged_results_are_named_and_left_out(kept, tmp_path, undrawn):
    folder = shutil.copytree(kept, tmp_path / "runs")
    rows = (folder / "b/rows.csv").read_text()
    (folder / "b/rows.csv").write_text(rows.replace("0.", "1.", 1))
    page, collected = report_of(folder, tmp_path / "report")
    assert set(collected.damaged) == {"b"} and "rows.csv is not as it was written" in collected.damaged["b"]
    assert {one.network for one in given_networks(collected)} == {"a"} and "rows.csv is not as it" in page.read_text()
    (folder / "a/scores.npz").write_bytes(b"no archive")
    with pytest.raises(UserError, match="all 2 finished runs are damaged"):
        collect(folder)


def test_an_empty_folder_and_unfinished_results_are_a_line(kept, tmp_path):
    with pytest.raises(UserError, match=r"no finished run below .*measure_model\(keep=…\)"):
        collect(tmp_path)
    (tmp_path / "c/parts").mkdir(parents=True)
    (tmp_path / "c/parts/begun.json").write_text("{}")
    with pytest.raises(UserError, match="1 begun"):
        collect(tmp_path)
    shutil.copytree(kept / "a", tmp_path / "a")
    assert collect(tmp_path).unfinished == ["c"]


def test_a_folder_of_one_network_alone_is_read(kept, tmp_path, compose, undrawn, capsys):
    places = [f"runs={kept / 'a'}", f"out={tmp_path}/report", "logger=csv", "progress=false"]
    report(compose("report", *places))
    assert capsys.readouterr().out.strip().endswith("index.html")
    [network] = given_networks(collect(kept / "a"))
    assert network.model == "kept/a" and math.isfinite(losses(network)[0].lost.value)
