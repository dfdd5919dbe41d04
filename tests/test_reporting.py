"""The report: made from rows alone, the same from the same rows, with gaps where nothing was measured."""

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pandas as pd
import pytest
from PIL import Image

from invariance.errors import UserError
from invariance.reporting.curves import IDENTITY, curve, families
from invariance.reporting.page import make_report
from invariance.reporting.rows import collect
from invariance.runs.rows import COLUMNS, read_rows, write_rows
from tests.reporting_runs import measured, trained

RIDGE = ("residual", "ridge")
SGD = ("residual", "online_sgd")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for network, family, reach in (
        ("baseline", "baseline", None),
        ("rotation_5", "rotation", 5),
        ("rotation_20", "rotation", 20),
    ):
        trained(root, "made_up", network, family, reach)
        measured(
            root,
            "made_up",
            network,
            family,
            reach,
            "rotation",
            diverged=("-15",) if reach == 20 else (),
            missing=("30",) if reach == 20 else (),
        )
    measured(root, "made_up", "baseline", "baseline", None, "mirror")
    trained(root, "made_up", "mirror_both", "mirror", "both")
    measured(root, "made_up", "mirror_both", "mirror", "both", "mirror")
    return root


@pytest.fixture(scope="module")
def report(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    make_report(runs, out)
    return out


def family_named(runs, name):
    return next(family for family in families(collect(runs)) if family.name == name)


def test_curves_are_the_rows_scores(runs):
    family = family_named(runs, "rotation")
    assert [subject.network for subject in family.compared] == ["rotation_20", "baseline"]
    assert [subject.network for subject in family.trained] == ["rotation_5", "rotation_20"]
    drawn = curve(family, family.trained[-1], RIDGE, "error_rate")
    rows = read_rows(runs / "measure/made_up/rotation_20/seed0/rotation/residual_ridge/rows.csv")
    rows = rows[(rows["split"] == "test") & (rows["metric"] == "error_rate")].set_index("value")
    for x, y, low, high in zip(drawn.x, drawn.y, drawn.low, drawn.high, strict=True):
        if x == 30:
            assert pd.isna(y)
        else:
            wanted = 100 * (1 - rows.loc[x, ["score", "high", "low"]].astype(float))
            assert [y, low, high] == pytest.approx(wanted.tolist())


def test_missing_and_diverged_points_are_gaps_and_named(runs, report):
    family = family_named(runs, "rotation")
    drawn = curve(family, family.trained[-1], SGD, "error_rate")
    at = {x: (y, why == "diverged") for x, y, why in zip(drawn.x, drawn.y, drawn.status, strict=True)}
    assert pd.isna(at[-15][0]) and at[-15][1] and not pd.isna(at[-10][0])
    page = (report / "index.html").read_text()
    assert "diverged at -15" in page and "not measured at 30" in page


def test_identity_is_one_curve_and_a_map_never_fitted_is_none(runs):
    family = family_named(runs, "mirror")
    assert curve(family, family.trained[0], IDENTITY, "error_rate") is not None
    assert curve(family, family.trained[0], ("mlp", "minibatch_sgd_32"), "error_rate") is None


def test_the_report_holds_every_row_and_file(runs, report):
    rows = read_rows(report / "rows.csv")
    assert list(rows.columns) == COLUMNS
    held = sum(len(read_rows(path)) for path in runs.glob("**/rows.csv"))
    assert len(rows) == held
    for kind in ("baseline-accuracy", "baseline-distance", "ranges-accuracy", "gallery"):
        assert (report / f"figures/made_up-rotation-{kind}.svg").stat().st_size > 1000
        with Image.open(report / f"figures/made_up-rotation-{kind}.png") as picture:
            assert min(picture.size) > 100
    accuracy = pd.read_csv(report / "tables/accuracy.csv")
    assert {"baseline", "rotation_20"} <= set(accuracy["network"])
    for svg in report.glob("figures/*.svg"):
        ElementTree.parse(svg)


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.tags, self.loaded = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        held = dict(attrs)
        self.tags.append(tag)
        self.ids += [held["id"]] if "id" in held else []
        self.links += [held["href"]] if tag == "a" and "href" in held else []
        self.loaded += [held[key] for key in ("src", "srcset", "data") if key in held]
        self.loaded += [held["href"]] if tag == "link" else []


def test_the_page_is_self_contained_and_its_links_lead_somewhere(report):
    text = (report / "index.html").read_text()
    page = Page(text)
    assert "script" not in page.tags and all(source.startswith("data:") for source in page.loaded)
    assert not re.search(r"url\((?!['\"]?(#|data:))", text)
    assert len(page.ids) == len(set(page.ids)), "ids of inline figures clash"
    for link in page.links:
        assert link[1:] in page.ids if link.startswith("#") else (report / link).exists(), link
    assert 'name="viewport"' in text and "prefers-color-scheme" in text and '<html lang="en"' in text
    assert page.tags.count("svg") >= 6


def test_the_same_rows_give_the_same_bytes(runs, report, tmp_path):
    make_report(runs, tmp_path)
    ours = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    theirs = {path.relative_to(report): path.read_bytes() for path in report.rglob("*") if path.is_file()}
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_training_alone_makes_a_report(tmp_path, undrawn):
    trained(tmp_path / "runs", "made_up", "baseline", "baseline", None)
    page = make_report(tmp_path / "runs", tmp_path / "out").read_text()
    assert "88.0" in page and "baseline" in page


def test_remarks_on_the_data_and_unreadable_images_are_on_the_page(tmp_path, undrawn):
    trained(tmp_path / "runs", "made_up", "baseline", "baseline", None)
    path = tmp_path / "runs/train/made_up/baseline/seed0/provenance.json"
    notes = {"remarks": ["some labels are <wrong>"], "skipped": ["test: a/b.tif is cut off"]}
    notes["left_out"] = ["3 files deeper than <class>/*: a/more/ (3 files)"]
    path.write_text(json.dumps({**json.loads(path.read_text()), **notes}))
    page = make_report(tmp_path / "runs", tmp_path / "out").read_text()
    assert "made_up: some labels are &lt;wrong&gt;." in page
    assert "1 image could not be read and is left out" in page and "<code>test: a/b.tif is cut off</code>" in page
    assert "made_up, left out: 3 files deeper than &lt;class&gt;/*: a/more/ (3 files)." in page


def test_a_network_over_another_familys_grid_alone_makes_a_report(tmp_path, undrawn):
    trained(tmp_path / "runs", "made_up", "rotation_20", "rotation", 20)
    measured(tmp_path / "runs", "made_up", "rotation_20", "rotation", 20, "shear")
    assert "no network trained with shear" in make_report(tmp_path / "runs", tmp_path / "out").read_text()


def test_grids_of_the_same_names_and_other_transformations_are_not_compared(tmp_path, undrawn):
    root = tmp_path / "runs"
    for network, family, reach in (("baseline", "baseline", None), ("rotation_20", "rotation", 20)):
        measured(root, "made_up", network, family, reach, "rotation")
        path = root / "measure/made_up" / network / "seed0/rotation/grid.json"
        held = json.loads(path.read_text())
        for point in held["points"]:
            point["params"] = f"{network} {point['label']}"
        path.write_text(json.dumps(held))
    family = family_named(root, "rotation")
    assert family.baseline is None and [subject.network for subject in family.trained] == ["rotation_20"]
    assert "baseline was measured over other transformations" in make_report(root, tmp_path / "out").read_text()


def test_what_cannot_be_reported_is_named(runs, tmp_path):
    with pytest.raises(UserError, match="no finished run below"):
        make_report(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(UserError, match="did you mean 'made_up'"):
        make_report(runs, tmp_path / "out", data="madeup")
    root = tmp_path / "twice"
    trained(root, "made_up", "baseline", "baseline", None)
    path = root / "train/made_up/baseline/seed0/rows.csv"
    write_rows(path, pd.concat([read_rows(path)] * 2))
    with pytest.raises(UserError, match="the same number .* is in .*, twice"):
        make_report(root, tmp_path / "out")


def test_an_unfinished_run_is_left_out_and_named(tmp_path, undrawn):
    root = tmp_path / "runs"
    trained(root, "made_up", "baseline", "baseline", None)
    trained(root, "made_up", "blur_3", "blur", 3)
    (root / "train/made_up/blur_3/seed0/done.json").unlink()
    page = make_report(root, tmp_path / "out").read_text()
    assert "train/made_up/blur_3/seed0" in page
    assert set(read_rows(tmp_path / "out/rows.csv")["network"]) == {"baseline"}
