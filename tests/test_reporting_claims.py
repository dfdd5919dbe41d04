"""The paper's claims: verdicts from rows whose truth is known by construction."""

from types import SimpleNamespace

import numpy as np
import pytest

from invariance.reporting.curves import curve, families
from invariance.reporting.finetuned import LEARNED, NO_MAP, FinetunedNetworks, Finetuning
from invariance.reporting.paper.claims import claims
from invariance.reporting.paper.verdicts import CLAIMS, details, summary, verdict
from invariance.reporting.rows import collect
from invariance.runs.rows import read_rows, write_rows
from tests.reporting_runs import finetuned_numbers, measured


@pytest.fixture
def runs(tmp_path):
    """A baseline and two rotation networks: the rows of `reporting_runs`, in which claims (a), (b), (h) are true."""
    measured(tmp_path, "digits", "baseline", "baseline", None, "rotation")
    measured(tmp_path, "digits", "rotation_5", "rotation", 5, "rotation")
    measured(tmp_path, "digits", "rotation_20", "rotation", 20, "rotation")
    return tmp_path


def found(root):
    return claims([(family, "here") for family in families(collect(root))], [], [])


def change(root, pattern, **columns):
    """Set columns of rows over some runs, as functions of the rows."""
    paths = list(root.glob(pattern))
    assert paths
    for path in paths:
        rows = read_rows(path)
        write_rows(path, rows.assign(**{name: value(rows) for name, value in columns.items()}))


def of(comparisons, claim, way=None):
    return [one for one in comparisons if one.claim == claim and way in (None, one.way)]


def test_differences_are_means_over_g_of_accuracies(runs):
    [family] = families(collect(runs))
    inside = next(one for one in of(found(runs), "a") if one.what.endswith("inside"))
    ours, plain = (curve(family, one, ("identity", ""), "error_rate") for one in (family.trained[-1], family.baseline))
    labels = [point.label for point in family.trained[-1].facts.points]
    rows = [k for k, label in enumerate(labels) if label != "untouched" and abs(float(label)) <= 20]
    assert len(rows) == 10 == inside.counted == inside.of
    assert inside.difference == pytest.approx(np.mean([ours.y[k] - plain.y[k] for k in rows]))
    halves = [np.mean([(one.high[k] - one.low[k]) / 2 for k in rows]) for one in (ours, plain)]
    assert inside.margin == pytest.approx(np.sqrt(halves[0] ** 2 + halves[1] ** 2))


def test_what_is_true_by_construction_holds(runs):
    comparisons = found(runs)
    assert [one.says for one in of(comparisons, "a") if one.what == "rotation inside"] == ["yes"]
    assert {one.says for one in of(comparisons, "b")} == {"yes"}
    assert len(of(comparisons, "b")) == 2 and len(of(comparisons, "h")) == 2
    assert {one.says for one in of(comparisons, "h")} == {"yes"}


def test_each_claim_can_fail(runs):
    ends = {end: (lambda rows: rows["score"]) for end in ("low", "high")}
    change(runs, "measure/digits/rotation_20/seed0/*/identity/rows.csv", score=lambda rows: rows["score"] * 0 + 0.999)
    change(runs, "measure/digits/rotation_20/seed0/*/identity/rows.csv", **ends)
    comparisons = found(runs)
    assert {one.says for one in of(comparisons, "a")} == {"no"}
    assert [one.says for one in of(comparisons, "d")] == ["no"]
    assert {one.says for one in of(comparisons, "c")} == {"no"}  # maps add much inside the range
    change(runs, "measure/digits/baseline/seed0/*/residual_*/rows.csv", score=lambda rows: rows["score"] * 0 + 0.999)
    change(runs, "measure/digits/baseline/seed0/*/residual_*/rows.csv", **ends)
    comparisons = found(runs)
    assert {one.says for one in of(comparisons, "b")} == {"no"}
    assert [one.says for one in of(comparisons, "h") if one.what == "rotation, baseline"] == ["open"]


def test_a_gain_within_its_margin_is_open_and_one_surely_small_is_nothing(runs):
    wide = {"low": lambda rows: rows["score"] - 0.2, "high": lambda rows: rows["score"] + 0.2}
    for network in ("baseline", "rotation_20"):
        for fit in ("residual_ridge", "residual_online_sgd"):
            here = read_rows(runs / f"measure/digits/{network}/seed0/rotation/identity/rows.csv")
            path = runs / f"measure/digits/{network}/seed0/rotation/{fit}/rows.csv"
            rows = read_rows(path)
            write_rows(path, rows.assign(**{name: here[name].to_numpy() for name in ("score", "low", "high")}))
    narrow = {end: (lambda rows: rows["score"]) for end in ("low", "high")}
    change(runs, "measure/digits/*/seed0/rotation/*/rows.csv", **narrow)
    comparisons = found(runs)
    assert {one.says for one in of(comparisons, "c")} == {"yes"}  # no map changes anything, and no image could
    assert {one.says for one in of(comparisons, "b")} == {"open"}
    change(runs, "measure/digits/*/seed0/rotation/*/rows.csv", **wide)
    assert {one.says for one in of(found(runs), "c")} == {"open"}  # nor could one tell


def test_diverged_and_missing_g_are_left_out_of_both_sides_and_counted(tmp_path):
    measured(tmp_path, "digits", "baseline", "baseline", None, "rotation", diverged=("-45", "45"))
    [online] = of(found(tmp_path), "b", "residual map, online SGD")
    assert (online.counted, online.of) == (14, 16) and "14 of 16 g" in online.told
    [h] = of(found(tmp_path), "h")
    assert h.counted == 14


ALL_BUT_ONE = tuple(str(x) for x in (-45, -30, -25, -20, -15, -10, -5, 2.5, 5, 10, 15, 20, 25, 30, 45))


def test_a_comparison_over_too_few_g_is_open_and_one_over_fewer_says_so(tmp_path):
    measured(tmp_path, "digits", "baseline", "baseline", None, "rotation", diverged=ALL_BUT_ONE)
    measured(tmp_path, "digits", "rotation_20", "rotation", 20, "rotation", diverged=ALL_BUT_ONE)
    comparisons = found(tmp_path)
    for claim, way in (("b", "residual map, online SGD"), ("c", "residual map, online SGD"), ("h", "residual map")):
        for one in of(comparisons, claim, way):
            assert one.says == "open" and one.counted == 1 and f"1 of {one.of} g" in one.told
    told = {(row[0][1], row[2]): row[3:] for row in summary(comparisons, ["digits"]).cells}
    assert told["b", "residual map, online SGD"][0] == "not shown" and told["b", "residual map, ridge"][0] == "holds"
    measured(tmp_path, "digits", "baseline", "baseline", None, "rotation", diverged=ALL_BUT_ONE[:4])
    told = {(row[0][1], row[2]): row[3:] for row in summary(found(tmp_path), ["digits"]).cells}
    ended, evidence = told["b", "residual map, online SGD"]
    assert ended == "holds" and "rotation 12 of 16 g" in evidence


@pytest.mark.parametrize(("within", "says"), [(0.5, "yes"), (1.0, "open"), (1.5, "no")])
def test_families_are_near_by_the_ranks_of_all_neighbours(within, says):
    """Whatever stands within five neighbours: what counts is p, over all K."""
    names = [f"{k // 4}" for k in range(24)]
    d = np.random.default_rng(1).uniform(0.9, 1.1, (24, 24))
    d = np.triu(d, 1) + np.triu(d, 1).T
    same = np.equal.outer(names, names)
    d[same] *= within
    np.fill_diagonal(d, np.nan)
    stand_in = SimpleNamespace(
        nodes=[SimpleNamespace(family=name) for name in names], matrices=lambda: {"cka": d}, data="made_up", layer="fc7"
    )
    [e] = claims([], [(stand_in, "there")], [])
    assert (e.claim, e.says) == ("e", says)


def test_layers_have_verdicts_of_their_own(tmp_path):
    for layer in ("fc7", "fc6"):
        for network, family, reach in (("baseline", "baseline", None), ("rotation_20", "rotation", 20)):
            measured(tmp_path / layer, "digits", network, family, reach, "rotation")
        change(tmp_path, f"{layer}/**/rows.csv", layer=lambda rows, layer=layer: layer)
    perfect = {name: (lambda rows: rows["score"] * 0) for name in ("score", "low", "high")}
    change(tmp_path, "fc6/measure/digits/baseline/**/identity/rows.csv", **perfect)
    told = {(row[0][1], row[2]): row[3] for row in summary(found(tmp_path), ["digits"]).cells}
    assert told["a", "invariance, φ at fc6"] == "contradicted" and told["a", "invariance, φ at fc7"] != "contradicted"
    assert told["b", "residual map, ridge, φ at fc6"] == "contradicted"
    assert told["b", "residual map, ridge, φ at fc7"] == "holds"
    assert {way for letter, way in told if letter == "h"} == {"residual map, φ at fc6", "residual map, φ at fc7"}


def test_wider_ranges_are_ranked_over_the_g_that_all_of_them_have(runs):
    measured(runs, "digits", "rotation_10", "rotation", 10, "rotation", missing=("30",))
    measured(runs, "digits", "rotation_15", "rotation", 15, "rotation", diverged=("-25",))
    [one] = of(found(runs), "d")
    assert "over 4 ranges" in one.what and np.isfinite(one.difference)
    with_gap = one.difference
    for path in runs.glob("measure/digits/rotation_10/**/rows.csv"):
        rows = read_rows(path)
        write_rows(path, rows[rows["g"] == ""])
    [one] = of(found(runs), "d")
    assert "over 3 ranges" in one.what and one.difference == with_gap


def test_elastic_networks_of_one_sigma_are_asked_for_the_larger_range(tmp_path):
    for reach in (5, 10):
        for sigma, gain in ((2, 0.1), (3, -0.1)):
            measured(tmp_path, "digits", f"elastic_{reach}_sigma{sigma}", "elastic", reach, "elastic")
            error = 0.5 - gain * (reach == 10)
            level = {name: (lambda rows, error=error: rows["score"] * 0 + error) for name in ("score", "low", "high")}
            change(tmp_path, f"measure/digits/elastic_{reach}_sigma{sigma}/**/identity/rows.csv", **level)
    comparisons = {one.what.split(" (")[0]: one for one in of(found(tmp_path), "d")}
    assert {what: one.says for what, one in comparisons.items()} == {"elastic sigma2": "yes", "elastic sigma3": "no"}
    assert comparisons["elastic sigma2"].difference == pytest.approx(10)
    for reach in ("horizontal", "both"):  # no order among their ranges
        measured(tmp_path, "digits", f"mirror_{reach}", "mirror", reach, "mirror")
    for reach in (240, 320):  # grids of their own
        measured(tmp_path, "digits", f"crop_{reach}", "crop", reach, "crop")
    assert len(of(found(tmp_path), "d")) == 2


@pytest.mark.parametrize(
    ("gains", "half", "says"),
    [
        ([0.7], 2.0, "open"),
        ([0.7], 0.2, "yes"),
        ([-0.5], 2.0, "open"),
        ([-5.0], 2.0, "no"),
        ([3.0, -0.1], 0.1, "open"),
        ([3.0, 1.0], 0.1, "yes"),
        ([3.0, 1.0], 2.0, "open"),
    ],
)
def test_the_joint_loss_raised_what_images_could_not_explain(gains, half, says):
    ridge = ("residual", "ridge")
    ones = tuple(
        Finetuning("a_1", "a_1+j", "j", "a", "a_G", seed, 0.3, (1, 1), ("2", "3"), "", f"finetune/seed{seed}")
        for seed in range(len(gains))
    )
    scores = {
        (network, seed, "a_G", g, fit): 50.0 + (gains[seed] if fit == LEARNED else 0.0) - (fit == NO_MAP)
        for seed in range(len(gains))
        for g in ("2", "3")
        for network, fit in (("a_1", NO_MAP), ("a_1", ridge), ("a_1+j", LEARNED))
    }
    study = FinetunedNetworks(
        "digits", "fc7", 9, "test", ones, (NO_MAP, ridge), numbers=finetuned_numbers(scores, half)
    )
    [one] = claims([], [], [(study, "here")])
    assert (one.says, one.difference) == (says, pytest.approx(np.mean(gains)))
    assert one.margin == pytest.approx(half * np.sqrt(2))


def test_finetunings_of_another_name_have_verdicts_of_their_own_and_the_control_has_none():
    ridge, gains = ("residual", "ridge"), {0: -5.0, 0.1: 0.2, 0.3: 4.0}
    ones, scores = [], {}
    for network in ("a_1", "b_1"):
        scores |= {(network, 0, "G", "2", fit): 50.0 for fit in (NO_MAP, ridge)}
        for value, gain in gains.items():
            after = f"{network}+joint_{value:g}"
            name = f"joint_{value:g}"
            ones.append(Finetuning(network, after, name, network[0], "G", 0, value, (1, 1), ("2",), "", ""))
            scores[after, 0, "G", "2", LEARNED] = 50.0 + gain
    study = FinetunedNetworks(
        "digits", "fc7", 9, "test", tuple(ones), (NO_MAP, ridge), numbers=finetuned_numbers(scores, 1.0)
    )
    comparisons = claims([], [], [(study, "here")])
    assert {(one.way, one.says) for one in comparisons} == {
        ("learned maps, joint_0.1", "open"),
        ("learned maps, joint_0.3", "yes"),
    }
    lines = {row[2]: row[3] for row in summary(comparisons, ["digits"]).cells if row[0].startswith("(g)")}
    assert lines == {"learned maps, joint_0.1": "not shown", "learned maps, joint_0.3": "holds"}


def test_verdicts():
    assert verdict([]) == "not measured"
    assert verdict(["yes", "yes"]) == "holds"
    assert verdict(["yes", "yes", "no"]) == "holds for most"
    assert verdict(["yes", "open", "no", "yes"]) == "not shown"
    assert verdict(["no", "no", "yes"]) == "contradicted"
    assert verdict(["open"]) == "not shown"


def test_every_claim_has_a_line_for_every_data_set_and_what_lacks_is_named(runs):
    table = summary(found(runs), ["digits", "digits@photos", "rvl_cdip"])
    lines = {(row[0][1], row[1]) for row in table.cells}
    assert lines == {(letter, data) for letter in CLAIMS for data in ("digits", "rvl_cdip")}
    told = {(row[0][1], row[1]): row[3:] for row in table.cells}
    assert told["e", "digits"][0] == "not measured" and told["e", "digits"][1].startswith("lacks distances")
    assert told["a", "rvl_cdip"][0] == "not measured"
    assert told["b", "digits"][0] == "holds"
    places = [k for k, row in enumerate(table.cells) if row[3] != "not measured"]
    assert set(table.links) == {(k, 2) for k in places} and set(table.links.values()) == {"#here"}
    assert 'href="#here"' in table.html() and 'href="../index.html#here"' in table.html("../index.html")


def test_details_list_every_comparison_in_an_order_of_their_own(runs):
    comparisons = found(runs)
    table, other = details(comparisons), details(comparisons[::-1])
    assert len(table.cells) == len(comparisons) and table.files() == other.files()
    assert details([]) is None


def test_only_distances_serve_where_there_is_no_accuracy(runs):
    for path in runs.glob("measure/**/rows.csv"):
        rows = read_rows(path)
        write_rows(path, rows[rows["metric"] == "l2_distance"])
    comparisons = found(runs)
    [inside] = [one for one in of(comparisons, "a") if one.what == "rotation inside"]
    assert inside.says == "yes" and "of −L_L2" in inside.told and 0 < inside.difference < 2


def test_networks_trained_at_another_sigma_are_compared_with_the_baseline_over_the_same_g(
    trained, compose, tmp_path, undrawn
):
    """Elastic's untouched point names the trained σ too, though nothing is done there."""
    import shutil

    from invariance.experiments.measure import measure
    from invariance.experiments.train import train

    folder, places = trained
    shutil.copytree(folder / "runs/train/digits/baseline", tmp_path / "runs/train/digits/baseline")
    places = [*places, f"runs={tmp_path}/runs"]
    quick = ["model=tiny", "recipe=smoke", "recipe.updates=4", "recipe.val_every=4", "recipe.step=4"]
    train(compose("train", *places, *quick, "network=elastic_10_sigma3"))
    measure(compose("measure", *places, "grids=[elastic]", "map=identity", "fit={images: 20}"))
    [family] = families(collect(tmp_path / "runs"))
    assert family.apart == () and family.baseline is not None and len(family.trained) == 1
