"""The paper's figures: what is drawn is what the rows say, what is missing is said, the same rows the same bytes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from invariance import reporting
from invariance.reporting.curves import families
from invariance.reporting.paper.figures import FIGURES, TABLES, Place, called, index, number
from invariance.reporting.paper.forms import cross, overviews
from invariance.reporting.rows import collect
from invariance.reporting.sections import places
from invariance.reporting.style import INK, style
from invariance.runs.rows import read_rows, write_rows
from tests.reporting_runs import measured

FITS = {"identity": "", "residual_online_sgd": "online_sgd", "residual_ridge": "ridge"}


def own(root, data):
    return [family for family in families(collect(root)) if family.data == data]


def made(root, data, slug=None):
    return {one.name: one for one in overviews(own(root, data), slug or data)}


def drawn(figure):
    return figure.frame


def axes_of(figure):
    """The axes that a figure is drawn on, by the title of each."""
    with style(INK):
        return figure.draw(figure.frame).axes


def abroad(root, data, foreign, network, family, reach, grid_family, **settings):
    """A network measured on another data set: L_L2 alone, at 0.8 of what it is on its own."""
    elsewhere = root.parent / f"{root.name}-elsewhere"
    measured(elsewhere, f"{data}@{foreign}", network, family, reach, grid_family, **settings)
    for path in elsewhere.glob("**/rows.csv"):
        rows = read_rows(path)
        rows = rows[rows["metric"] == "l2_distance"]
        write_rows(path, rows.assign(score=0.8 * rows["score"], low=0.8 * rows["low"], high=0.8 * rows["high"]))
    for path in sorted(elsewhere.glob("measure/*/*/*/*")):
        (root / path.relative_to(elsewhere)).parent.mkdir(parents=True, exist_ok=True)
        path.rename(root / path.relative_to(elsewhere))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("figures") / "runs"
    for reach in (5, 10, 20):
        bad = {"diverged": ("45",), "missing": ("-30",)} if reach == 20 else {}
        measured(root, "rvl_cdip", f"rotation_{reach}", "rotation", reach, "rotation", **bad)
    measured(root, "rvl_cdip", "blur_3", "blur", 3, "blur")
    measured(root, "rvl_cdip", "mirror_both", "mirror", "both", "mirror")
    for family in ("rotation", "blur", "noise"):
        measured(root, "rvl_cdip", "baseline", "baseline", None, family)
    abroad(root, "rvl_cdip", "historical", "rotation_20", "rotation", 20, "rotation")
    abroad(root, "rvl_cdip", "historical", "baseline", "baseline", None, "rotation")
    abroad(root, "rvl_cdip", "historical", "baseline", "baseline", None, "shear", seed=1)
    return root


@pytest.fixture(scope="module")
def figures(runs):
    return made(runs, "rvl_cdip")


def test_the_forms_there_are_by_the_papers_numbers(figures):
    assert list(figures) == [
        "fig7-rvl_cdip-accuracy",
        "fig7-rvl_cdip-accuracy-ridge",
        "fig8-rvl_cdip-accuracy",
        "fig9-rvl_cdip-accuracy",
        "fig7-rvl_cdip-distance",
        "fig7-rvl_cdip-distance-ridge",
        "fig8-rvl_cdip-distance",
        "fig9-rvl_cdip-distance",
    ]
    assert figures["fig7-rvl_cdip-accuracy"].title.startswith("Figure 7:")
    assert [name for name, one in figures.items() if not one.aside] == [
        "fig7-rvl_cdip-accuracy",
        "fig8-rvl_cdip-accuracy",
        "fig9-rvl_cdip-accuracy",
    ]


@pytest.mark.parametrize(
    ("data", "form", "file", "words"),
    [
        ("ilsvrc", "extremes", "1", "Figure 1"),
        ("rvl_cdip", "extremes", "7", "Figure 7"),
        ("digits", "extremes", "1", "Form of Figures 1 and 7"),
        ("rvl_cdip", "families", "3c", "Figure 3c"),
        ("digits", "all-2", "9", "Form of Figure 9"),
        ("digits", "no such", "", ""),
        ("rvl_cdip@historical", "cross", "10", "Figure 10"),
        ("rvl_cdip@photos", "cross", "10", "Form of Figure 10"),
        ("digits@historical", "cross", "10", "Form of Figure 10"),
    ],
)
def test_which_of_the_papers_figures_one_is(data, form, file, words):
    assert (number(form, data), called(form, data)) == (file, words)


@pytest.mark.parametrize("metric", ["accuracy", "distance"])
@pytest.mark.parametrize("solver", ["online_sgd", "ridge"])
def test_extremes_are_the_rows_of_the_largest_range_and_the_baseline(runs, figures, metric, solver):
    shown = drawn(figures[f"fig7-rvl_cdip-{metric}{'' if solver == 'online_sgd' else '-ridge'}"])
    assert shown.groupby("family")["network"].agg(set).to_dict() == {
        "rotation": {"rotation_20", "baseline"},
        "blur": {"blur_3", "baseline"},
        "mirror": {"mirror_both"},
        "noise": {"baseline"},
    }
    for (network, kind, grid), part in shown.groupby(["network", "way", "grid"]):
        fit = "identity" if kind == "invariance" else f"residual_{solver}"
        compare(runs / f"measure/rvl_cdip/{network}/seed0/{grid}/{fit}/rows.csv", part)


def compare(path, part, scale=None):
    """Every point of a curve against the row it is of."""
    name = "error_rate" if part["metric"].iloc[0] == "error_rate" else "l2_distance"
    rows = read_rows(path)
    rows = rows[(rows["split"] == "test") & (rows["metric"] == name)]
    rows = rows.set_index(rows["g"].str.split(":").str[1])
    turn = scale or ((lambda v: 100 * (1 - v)) if name == "error_rate" else (lambda v: v))
    for point in part.itertuples():
        if point.g not in rows.index:
            assert point.status == "not measured" and np.isnan(point.y)
        elif rows.loc[point.g, "status"] != "ok":
            assert point.status == rows.loc[point.g, "status"] and np.isnan(point.y)
        else:
            low, high = turn(rows.loc[point.g, "low"]), turn(rows.loc[point.g, "high"])
            assert [point.x, point.y, point.low, point.high] == pytest.approx(
                [rows.loc[point.g, "value"], turn(rows.loc[point.g, "score"]), min(low, high), max(low, high)]
            )
    return part


def test_all_networks_has_a_row_a_family_a_column_a_way_and_a_curve_a_range(runs, figures):
    overview = figures["fig9-rvl_cdip-accuracy"]
    shown = drawn(overview)
    assert set(shown["row"]) == {"Rotation"}
    assert list(shown["panel"].unique()) == ["Invariance", "Equivariance (online SGD)", "Equivariance (ridge)"]
    names = ["baseline", "rotation_5", "rotation_10", "rotation_20"]
    for (panel, part), axes in zip(shown.groupby("panel", sort=False), axes_of(overview), strict=True):
        assert list(part["who"].unique()) == names and axes.get_title("left") == panel
        curves = [line for line in axes.lines if len(line.get_xdata()) > 2]
        assert len({line.get_color() for line in curves}) == 4
        assert {line.is_dashed() for line in curves} == {panel != "Invariance"}
    for (network, kind, solver), part in shown.groupby(["network", "map", "solver"]):
        fit = next(name for name, of in FITS.items() if of == solver)
        assert fit.startswith(kind)
        compare(runs / f"measure/rvl_cdip/{network}/seed0/rotation/{fit}/rows.csv", part)
    assert "rotation_15" in overview.caption and "shear_20" in overview.caption
    assert "rotation_5," not in overview.caption


def test_every_number_of_a_figure_names_its_run(runs, figures):
    for overview in figures.values():
        shown = drawn(overview)
        assert ((shown["run"] == "") == (shown["status"] == "not measured")).all()
        for of in shown[shown["run"] != ""].to_dict("records"):
            fit = "_".join(filter(None, (of["map"], of["solver"])))
            assert of["run"] == f"measure/rvl_cdip/{of['network']}/seed0/{of['grid']}/{fit}"


def test_gaps_and_divergence_are_marked_and_said(figures):
    shown = drawn(figures["fig7-rvl_cdip-accuracy"])
    bad = shown[(shown["network"] == "rotation_20") & (shown["g"] == "45") & (shown["solver"] != "")]
    assert bad["status"].tolist() == ["diverged"] and bad["y"].isna().all()
    (rotation,) = (
        axes for axes in axes_of(figures["fig7-rvl_cdip-accuracy"]) if axes.get_title("left") == "rotation_20"
    )
    crosses = [line for line in rotation.lines if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in crosses] == [[45]] and "A cross" in figures[
        "fig7-rvl_cdip-accuracy"
    ].caption
    shown = drawn(figures["fig7-rvl_cdip-accuracy-ridge"])
    missing = shown[(shown["network"] == "rotation_20") & (shown["g"] == "-30") & (shown["status"] != "ok")]
    assert missing["status"].tolist() == ["not measured"] and missing["y"].isna().all()
    assert "A cross" not in figures["fig7-rvl_cdip-accuracy-ridge"].caption
    caption = figures["fig7-rvl_cdip-accuracy"].caption
    assert "Not measured: color jitter, crop, elastic, perspective, shear." in caption
    assert "No network trained with it was measured: noise." in caption
    assert "No baseline was measured: mirror." in caption


def test_panels_share_their_axis_where_they_are_to_be_compared(figures):
    for name in ("fig7-rvl_cdip-accuracy", "fig8-rvl_cdip-distance"):
        drawn_on = axes_of(figures[name])
        assert len({axes.get_ylim() for axes in drawn_on}) == drawn(figures[name])["row"].nunique()
        for axes in drawn_on:
            shown = [y for line in axes.lines if line.get_marker() != "x" for y in line.get_ydata()]
            assert axes.get_ylim()[0] < min(shown) and max(shown) < axes.get_ylim()[1], name


def test_cross_data_shows_nearness_on_both_data_and_what_has_no_own(runs):
    overview = cross(own(runs, "rvl_cdip@historical"), own(runs, "rvl_cdip"), "rvl_cdip@historical")
    assert overview.name == "fig10-rvl_cdip@historical-distance"
    shown = drawn(overview)
    assert list(shown["row"].unique()) == ["Rotation: rotation_20", "Shear: baseline alone"]
    assert set(shown["shown"]) == {"1 − L_L2"}
    rotation = shown[shown["family"] == "rotation"]
    assert set(rotation["who"]) == {
        f"{who}, on {data}" for who in ("baseline", "trained") for data in ("rvl_cdip", "historical")
    }
    for (data, network, kind, solver), part in rotation.groupby(["data", "network", "map", "solver"]):
        fit = next(name for name, of in FITS.items() if of == solver)
        assert fit.startswith(kind)
        path = runs / f"measure/{data}/{network}/seed0/rotation/{fit}/rows.csv"
        compare(path, part, scale=lambda value: 1 - value)
    assert set(shown.loc[shown["family"] == "shear", "data"]) == {"rvl_cdip@historical"}
    assert overview.lacking == (
        "baseline (seed 1) over shear was not measured on rvl_cdip, or over other transformations of the same names",
    )


def test_the_title_and_the_index_agree_on_which_is_figure_10(runs):
    foreign = own(runs, "rvl_cdip@historical")
    photos = [replace(family, data="rvl_cdip@photos") for family in foreign]
    for families_of, itself in ((foreign, True), (photos, False)):
        overview = cross(families_of, [], families_of[0].data)
        assert overview.title.startswith("Figure 10:" if itself else "Form of Figure 10:")
        entries = index(places([overview], [], None))
        entry = next(entry for entry in entries if entry.name == "Figure 10")
        assert (len(entry.here), len(entry.alike), entry.command == "") == (itself, not itself, itself)


def test_a_report_on_one_data_set_has_its_networks_on_other_data_too(runs):
    assert set(collect(runs, "rvl_cdip").rows["data"]) == {"rvl_cdip", "rvl_cdip@historical"}
    assert set(collect(runs, "rvl_cdip@historical").rows["data"]) == {"rvl_cdip@historical"}


def test_cross_data_is_not_laid_beside_other_transformations(runs):
    foreign, mine = own(runs, "rvl_cdip@historical"), own(runs, "rvl_cdip")
    without = cross(foreign, [], "x")
    assert len(without.lacking) == 3
    assert set(drawn(without)["who"]) == {"trained, on historical", "baseline, on historical"}
    assert len(cross(foreign, mine, "x").lacking) == 1


def test_the_index_leads_to_what_is_there_and_says_what_would_make_the_rest():
    places = [
        Place("extremes", "digits", "a", ""),
        Place("extremes", "rvl_cdip", "b", ""),
        Place("ranges", "digits", "c", "rotation"),
        Place("all-1", "ilsvrc", "d", ""),
    ]
    entries = {entry.name.removeprefix("Figure "): entry for entry in index(places)}
    assert list(entries) == [*(figure.number for figure in FIGURES), *(table.name for table in TABLES)]
    assert len(entries) == 14 + 4
    assert [p.anchor for p in entries["7"].here] == ["b"] and entries["7"].command == ""
    assert entries["1"].here == [] and entries["1"].command == "make paper-networks paper-measure DATA=ilsvrc"
    assert [p.anchor for p in entries["1"].alike] == ["a", "b"]
    assert [p.anchor for p in entries["2"].alike] == ["c"] and entries["2"].command == ""
    assert [p.anchor for p in entries["8"].here] == ["d"]
    assert entries["8"].command == "make paper-networks paper-measure DATA=rvl_cdip"
    assert entries["9"].command == "make paper-networks paper-measure DATA='ilsvrc rvl_cdip'"
    assert entries["10"].command.startswith("make paper-cross") and entries["4"].command == ""
    assert entries["Table 1"].command == "" and entries["Table 2"].command.endswith("paper-finetune DATA=rvl_cdip")
    assert entries["Table 3"].command == "make paper-networks DATA='ilsvrc rvl_cdip'"


def test_a_table_that_is_there_in_part_has_its_command_too():
    places = [Place("accuracy", "ilsvrc", "a", ""), Place("accuracy", "rvl_cdip", "a", "9 of 36", whole=False)]
    entry = next(entry for entry in index(places) if entry.name == "Table 3")
    assert len(entry.here) == 2 and entry.lacking == ["the rest of rvl_cdip"]
    assert entry.command == "make paper-networks DATA=rvl_cdip"


def test_the_untouched_image_is_the_same_whatever_its_parameters(tmp_path):
    for network, family, reach in (("elastic_10_sigma3", "elastic", 10), ("baseline", "baseline", None)):
        measured(tmp_path, "made_up", network, family, reach, "elastic")
        path = tmp_path / f"measure/made_up/{network}/seed0/elastic/grid.json"
        held = json.loads(path.read_text())
        for point in held["points"]:
            point["params"] = network if point["label"] == "untouched" else point["label"]
        path.write_text(json.dumps(held))
    (family,) = families(collect(tmp_path))
    assert family.apart == () and [one.network for one in family.compared] == ["elastic_10_sigma3", "baseline"]
    held["points"][3]["params"] = "another"
    path.write_text(json.dumps(held))
    assert families(collect(tmp_path))[0].apart == ("baseline",)


def test_what_is_about_the_paper_is_brought_in_by_the_page_and_its_sections_alone():
    folder = Path(reporting.__file__).parent
    knowing = {
        path.stem for path in folder.glob("*.py") if "invariance.reporting.paper" in path.read_text(encoding="utf-8")
    }
    assert knowing == {"page", "sections", "workspace", "figure"}  # the last by names alone, in its list
