"""The parts of a report: which networks are compared, what is shaded, tables, galleries, files left from before."""

import base64
import io
import json
import math
import os
import re
import threading
from contextlib import contextmanager, suppress
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from invariance.errors import UserError
from invariance.reporting import gallery, tables
from invariance.reporting.curves import IDENTITY, curve, families, gaps, natural
from invariance.reporting.distances import Node, sizes
from invariance.reporting.finetuned import studies
from invariance.reporting.forms import against_baseline, ranges_compared
from invariance.reporting.gallery import examples
from invariance.reporting.lines import FEW, Axis, Lines
from invariance.reporting.page import LOCK, PAGE, make_report, overview
from invariance.reporting.paper.tables import accuracy
from invariance.reporting.rows import collect, refuse_twice
from invariance.reporting.style import DARK, INK, LIGHT, canvas, embedded, png, standalone, style, svg
from invariance.runs import files
from invariance.runs.locks import lock
from invariance.runs.rows import Row, read_rows, write_rows
from tests.reporting_runs import finish, measured, trained

RIDGE = ("residual", "ridge")
SGD = ("residual", "online_sgd")


def only(root):
    (family,) = families(collect(root))
    return family


def test_numbers_sort_before_words_and_by_size():
    names = ["elastic_10_sigma3", "both", "elastic_5_sigma2", "10", "5", "1.5", "elastic_10_sigma2"]
    assert sorted(names, key=natural) == [
        "1.5",
        "5",
        "10",
        "both",
        "elastic_5_sigma2",
        "elastic_10_sigma2",
        "elastic_10_sigma3",
    ]


def test_the_widest_mirror_is_the_one_that_covers_most(tmp_path):
    for reach in ("both", "horizontal", "vertical"):
        measured(tmp_path, "made_up", f"mirror_{reach}", "mirror", reach, "mirror")
    assert [s.network for s in only(tmp_path).trained] == ["mirror_horizontal", "mirror_vertical", "mirror_both"]


def test_the_most_extreme_elastic_network_is_the_one_of_the_papers_tables(tmp_path):
    for reach, sigma in ((10, 2), (5, 3), (10, 3), (5, 2)):
        measured(tmp_path, "made_up", f"elastic_{reach}_sigma{sigma}", "elastic", reach, "elastic")
    assert [s.network for s in only(tmp_path).trained] == [
        "elastic_5_sigma3",
        "elastic_5_sigma2",
        "elastic_10_sigma3",
        "elastic_10_sigma2",
    ]
    nodes = tuple(Node(s.network, s.family, s.range, 0, s.network) for s in only(tmp_path).trained)
    assert sizes(nodes).tolist() == [0.25, 0.5, 0.75, 1.0]


def test_a_crop_network_is_compared_with_the_baseline_at_its_own_size(tmp_path):
    for reach in (240, 320):
        measured(tmp_path, "made_up", f"crop_{reach}", "crop", reach, "crop")
        measured(tmp_path, "made_up", "baseline", "baseline", None, "crop", grid_range=reach)
    family = only(tmp_path)
    assert [(s.network, s.facts.grid) for s in family.trained] == [("crop_240", "crop_240"), ("crop_320", "crop_320")]
    assert family.baseline is not None and family.baseline.facts.grid == "crop_320"
    assert "the baseline over crop_320" in ranges_compared(family, "error_rate", "x").caption


def test_a_figure_takes_the_lowest_seed_and_the_table_all(tmp_path):
    for seed in (2, 1):
        measured(tmp_path, "made_up", "rotation_20", "rotation", 20, "rotation", seed=seed)
    family = only(tmp_path)
    assert [s.seed for s in family.compared] == [1]
    header = tables.measurements(family, "error_rate", "x").header
    assert "rotation_20, seed 2, no map" in header and "rotation_20, seed 1, residual map, ridge" in header


@pytest.mark.parametrize(
    ("name", "reach", "spans"),
    [
        ("rotation", 20, [(-20, 20)]),
        ("blur", 1.5, [(0, 1.5)]),
        ("mirror", "vertical", [(-0.5, 0.5), (1.5, 2.5)]),
        ("crop", 256, [(0.5, 25.5)]),
    ],
)
def test_what_training_covered_is_shaded(tmp_path, name, reach, spans):
    measured(tmp_path, "made_up", f"{name}_{reach}", name, reach, name)
    axis = against_baseline(only(tmp_path), "error_rate", "x").draw.axes[name]
    assert list(axis.shaded) == spans
    assert (axis.labels is None) == (name in ("rotation", "blur"))


def test_the_forms_of_figures_1_and_2(tmp_path):
    measured(tmp_path, "made_up", "baseline", "baseline", None, "blur")
    for reach in (1.5, 3):
        measured(tmp_path, "made_up", f"blur_{reach}", "blur", reach, "blur", diverged=("2",) if reach == 3 else ())
    family = only(tmp_path)
    first, second = against_baseline(family, "error_rate", "x"), ranges_compared(family, "error_rate", "x")
    assert list(first.frame["panel"].unique()) == ["residual map, online SGD", "residual map, ridge"]
    ways = first.frame[first.frame["panel"] == "residual map, online SGD"][["who", "way"]].drop_duplicates()
    assert [" ".join(pair) for pair in ways.itertuples(index=False)] == [
        "baseline invariance",
        "baseline equivariance (online SGD)",
        "blur_3 invariance",
        "blur_3 equivariance (online SGD)",
    ]
    assert "A cross" in first.caption and list(second.frame["who"].unique()) == ["baseline", "blur_1.5", "blur_3"]
    for figure, who in ((first, ["baseline", "blur_3"]), (second, ["baseline", "blur_1.5", "blur_3"])):
        with style(INK):
            drawing = figure.draw(figure.frame)
        for axes in drawing.axes:
            assert axes.get_ylim()[0] < figure.frame["y"].min() and figure.frame["y"].max() < axes.get_ylim()[1]
        keys = [text.get_text() for text in drawing.legends[0].get_texts()]
        assert keys[:5] == ["network", *who, "way", "invariance"][:5] and keys[-1] == "diverged: no number"
        assert ("covered by training" in keys) == (figure is first)
    element, files = first.drawn()
    assert INK not in element and "currentColor" in element and len(files) == 4
    # a point without a number breaks the line: the curve has two pieces, each with more than its key in the legend
    lines = first.draw(first.frame).axes[0].lines
    xs = [sorted(line.get_xdata()) for line in lines if line.is_dashed() and len(line.get_xdata())]
    assert xs == [[0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5], [0, 0.5, 1, 1.5], [2.5, 3, 3.5, 4, 4.5, 5]]


def test_a_number_that_few_images_decided_is_drawn_with_a_hollow_mark_and_not_withheld():
    frame = pd.DataFrame({"x": [0, 1, 2], "y": [1.0, 2.0, math.nan], "status": ["ok", "few_images", "diverged"]})
    frame = frame.assign(row="", panel="", family="", who="baseline", way="invariance", low=math.nan, high=math.nan)
    drawing = Lines({"baseline": INK}, {"": Axis("°")}, "L_L2")(frame)
    lines = {line.get_marker(): line for line in drawing.axes[0].lines if len(line.get_xdata()) == 1}
    assert lines["o"].get_xydata().tolist() == [[1, 2]] and lines["o"].get_markerfacecolor() == "white"
    assert lines["x"].get_xdata().tolist() == [2]
    told = [text.get_text() for text in drawing.legends[0].get_texts()]
    assert FEW in told and "diverged: no number" in told and len(told) == len(set(told))


def test_a_figure_over_layers_goes_by_their_order():
    layers = ("conv1", "relu5", "fc7")
    frame = pd.DataFrame(
        {"row": "", "panel": "rotation", "family": "", "who": who, "way": "invariance", "x": k, "y": y}
        for who, scores in {"baseline": (1, math.nan, 3), "rotation_20": (2, 3, 5)}.items()
        for k, y in enumerate(scores)
    ).assign(low=math.nan, high=math.nan, status="ok")
    frame.loc[frame["y"].isna(), "status"] = "diverged"
    drawing = Lines({"baseline": INK, "rotation_20": "#2f7fd6"}, {"": Axis("layer", (0, 1, 2), layers)}, "CKA")(frame)
    [axes] = drawing.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == list(layers)
    drawn = [list(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) and line.get_marker() != "x"]
    assert drawn == [[0], [2], [0, 1, 2]]
    assert [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "x"] == [[1]]


def test_distances_are_not_turned_into_accuracies(tmp_path):
    measured(tmp_path, "made_up", "blur_3", "blur", 3, "blur")
    family = only(tmp_path)
    drawn = curve(family, family.trained[0], IDENTITY, "l2_distance")
    rows = read_rows(tmp_path / "measure/made_up/blur_3/seed0/blur/identity/rows.csv")
    rows = rows[(rows["split"] == "test") & (rows["metric"] == "l2_distance")]
    assert drawn.y.tolist() == rows["score"].tolist() and drawn.high.tolist() == rows["high"].tolist()


def test_the_table_of_accuracies_turns_errors_and_their_intervals(tmp_path):
    trained(tmp_path, "one", "rotation_20", "rotation", 20, error=0.20)
    trained(tmp_path, "one", "rotation_5", "rotation", 5, error=0.25)
    trained(tmp_path, "two", "baseline", "baseline", None, error=0.10)
    table = accuracy(collect(tmp_path))
    assert table.header == ["network", "seed", "one, 2,000 images of test", "two, 2,000 images of test"]
    assert table.cells == [
        ["baseline", "0", "–", "88.0 [86.8, 89.0]"],
        ["rotation_5", "0", "73.0 [71.8, 74.0]", "–"],
        ["rotation_20", "0", "78.0 [76.8, 79.0]", "–"],
    ]
    numbers = pd.read_csv(io.BytesIO(table.files()["tables/accuracy.csv"]))
    assert numbers["accuracy"].tolist() == pytest.approx([0.88, 0.73, 0.78]) and set(numbers["split"]) == {"test"}
    assert table.markdown().splitlines()[2] == "| baseline | 0 | – | 88.0 [86.8, 89.0] |"


def test_the_summary_means_over_what_training_covered(tmp_path):
    measured(tmp_path, "made_up", "blur_3", "blur", 3, "blur", diverged=("5",))
    family = only(tmp_path)
    numbers = tables.summary(family, "x").numbers.set_index(["map", "solver"])
    rows = read_rows(tmp_path / "measure/made_up/blur_3/seed0/blur/residual_ridge/rows.csv")
    rows = rows[(rows["split"] == "test") & (rows["metric"] == "error_rate")].set_index("value")["score"]
    assert numbers.loc[RIDGE, "untouched"] == pytest.approx(1 - rows[0])
    assert numbers.loc[RIDGE, "inside"] == pytest.approx(1 - rows[[0.5, 1, 1.5, 2, 2.5, 3]].mean())
    assert numbers.loc[RIDGE, "beyond"] == pytest.approx(1 - rows[[3.5, 4, 4.5, 5]].mean())
    assert np.isnan(numbers.loc[SGD, "beyond"]) and not np.isnan(numbers.loc[SGD, "inside"])


def test_gaps_name_the_metric_only_where_the_other_has_its_number(tmp_path):
    measured(tmp_path, "made_up", "blur_3", "blur", 3, "blur", diverged=("5",))
    path = tmp_path / "measure/made_up/blur_3/seed0/blur/identity/rows.csv"
    rows = read_rows(path)
    write_rows(path, rows[~((rows["g"] == "blur:4") & (rows["metric"] == "l2_distance"))])
    collected = collect(tmp_path)
    lacking = gaps(collected, families(collected)[0])
    assert lacking == [
        "blur_3 (seed 0) over blur, no map, l2 distance alone: not measured at 4",
        "blur_3 (seed 0) over blur, residual map, online SGD: diverged at 5",
        "no baseline was measured over blur",
    ]


@pytest.mark.parametrize(("side", "kind"), [(30, "PNG"), (130, "JPEG")])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_gallery_shows_every_image_under_every_g(tmp_path, side, kind, channels):
    measured(tmp_path, "made_up", "mirror_both", "mirror", "both", "mirror")
    path = tmp_path / "measure/made_up/mirror_both/seed0/mirror/examples.npz"
    images = np.random.default_rng(0).integers(0, 256, (4, 3, channels, side, 2 * side), dtype=np.uint8)
    np.savez_compressed(path, images=images)
    shown = gallery.gallery(only(tmp_path), "x")
    columns = shown.columns
    assert [label for _, label in columns] == ["untouched", "horizontal", "vertical", "both"]
    assert f"3 images of made_up at {2 * side} × {side} pixels" in shown.caption
    picture = Image.open(io.BytesIO(base64.b64decode(columns[2][0][1].partition(",")[2])))
    assert picture.format == kind
    if kind == "PNG":
        wanted = images[2, 1, 0] if channels == 1 else images[2, 1].transpose(1, 2, 0)
        assert np.array_equal(np.asarray(picture), wanted)
    else:
        assert picture.size == (96, 48)


def test_no_examples_no_gallery_and_a_damaged_one_is_named(tmp_path):
    measured(tmp_path, "made_up", "mirror_both", "mirror", "both", "mirror")
    path = tmp_path / "measure/made_up/mirror_both/seed0/mirror/examples.npz"
    facts = only(tmp_path).trained[0].facts
    held = path.read_bytes()
    damages = (held[:50], b"", b"no archive", held[:200] + bytes(100) + held[300:])
    for damage in damages:
        path.write_bytes(damage)
        with pytest.raises(UserError, match=r"examples\.npz cannot be read"):
            examples(facts)
    np.savez(path, images=np.zeros((2, 1, 1, 8, 8), np.uint8))
    with pytest.raises(UserError, match="expected uint8 images under 4 g"):
        examples(facts)
    path.unlink()
    assert gallery.gallery(only(tmp_path), "x") is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "it is not as it was written"),
        ('{"grid": "blur"}', "does not describe a grid"),
        (None, "blur"),
    ],
)
def test_a_damaged_grid_is_named(tmp_path, content, said):
    measured(tmp_path, "made_up", "blur_3", "blur", 3, "blur")
    path = tmp_path / "measure/made_up/blur_3/seed0/blur/grid.json"
    if content is None:
        path.write_text(json.dumps({**json.loads(path.read_text()), "grid": "noise"}))
        said = "is of noise, but the rows of"
    else:
        path.write_text(content)
    with pytest.raises(UserError, match=said) as caught:
        collect(tmp_path)
    assert "grid.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../../evil", "a/b", "..", ".a", "x" * 240, "a\x07b", ""])
@pytest.mark.parametrize("column", ["data", "network", "family"])
def test_a_name_that_no_file_may_have_is_refused(tmp_path, column, name):
    measured(tmp_path / "runs", "made_up", "mirror_both", "mirror", "both", "mirror")
    path = tmp_path / "runs/measure/made_up/mirror_both/seed0/mirror/identity/rows.csv"
    whole = path.parents[1] / "residual_ridge/rows.csv"
    write_rows(path, read_rows(path).assign(**{column: name}))
    collected = collect(tmp_path / "runs")
    [(run, why)] = collected.damaged.items()
    assert run.endswith("mirror/identity") and f"{path} is damaged: {column} is " in why and "\n" not in why
    assert run not in collected.runs and set(collected.rows[column]) == {read_rows(whole)[column][0]}


def test_names_that_commands_write_are_taken(tmp_path, undrawn):
    network = f"{'n' * 100}+joint_0.3"
    measured(tmp_path / "runs", "rvl_cdip@historical", network, "mirror", "both", "mirror")
    for path in tmp_path.glob("runs/**/rows.csv"):
        write_rows(path, read_rows(path).assign(layer="features.3/relu"))
    assert network in make_report(tmp_path / "runs", tmp_path / "out").read_text()


@pytest.mark.parametrize(
    "damage",
    [
        lambda held: {**held, "points": []},
        lambda held: {**held, "family": "../../evil"},
        lambda held: {**held, "points": [{**held["points"][0], "value": math.inf}, *held["points"][1:]]},
    ],
)
def test_a_grid_without_points_or_with_an_odd_name_is_refused(tmp_path, damage):
    measured(tmp_path, "made_up", "mirror_both", "mirror", "both", "mirror")
    path = tmp_path / "measure/made_up/mirror_both/seed0/mirror/grid.json"
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=r"grid\.json does not describe a grid"):
        collect(tmp_path)


@pytest.mark.parametrize("column", ["score", "low", "value"])
def test_infinite_numbers_are_refused(tmp_path, column):
    measured(tmp_path, "made_up", "mirror_both", "mirror", "both", "mirror")
    path = tmp_path / "measure/made_up/mirror_both/seed0/mirror/identity/rows.csv"
    write_rows(path, read_rows(path).assign(**{column: math.inf}))
    [why] = collect(tmp_path).damaged.values()
    assert f"{path} is damaged: {column} is infinite" in why


@pytest.mark.parametrize(
    "notes", [{"versions": [1, 2]}, {"versions": "x"}, {"remarks": "abc"}, {"skipped": 5}, {"left_out": 5}]
)
def test_a_provenance_of_other_kinds_is_refused(tmp_path, notes):
    trained(tmp_path, "made_up", "baseline", "baseline", None)
    path = tmp_path / "train/made_up/baseline/seed0/provenance.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **notes}))
    with pytest.raises(UserError, match=rf"{path} is damaged: its {next(iter(notes))} are no"):
        collect(tmp_path)


JOINT = {
    "network": "made_up/blur_3/seed0",
    "grid": "blur_G",
    "family": "blur",
    "g": ["2"],
    "lambda1": 1,
    "lambda2": 1,
    "lambda3": 0.3,
    "name": "joint_0.3",
}


def as_finetuned(root):
    """Let the measurements below a runs folder be a finetuning's."""
    (root / "measure").rename(root / "finetune")
    for path in root.glob("finetune/**/rows.csv"):
        rows = read_rows(path)
        write_rows(path, rows.assign(stage="finetune", run=rows["run"].str.replace("measure/", "finetune/")))


@pytest.mark.parametrize("damage", [{"name": "../../evil"}, {"lambda3": "much"}, {"g": 3}, {"network": "blur_3"}])
def test_a_finetuning_that_is_not_described_is_refused(tmp_path, damage):
    name = "finetune/made_up/blur_3+joint_0.3/seed0"
    measured(tmp_path, "made_up", "blur_3+joint_0.3", "blur", 3, "blur")
    as_finetuned(tmp_path)
    about = {"stage": "finetune", "data": "made_up", "network": "blur_3+joint_0.3", "family": "blur", "layer": "fc7"}
    row = Row(**about, seed=0, run=name, split="test", metric="error_rate", score=0.1, n_images=9)
    finish(tmp_path / name, [row], joint=JOINT)
    assert len(studies(collect(tmp_path))) == 1
    assert "0 networks (0 with an accuracy, 0 measured); 1 finetuned" in dict(overview(collect(tmp_path)))["made_up"]
    finish(tmp_path / name, [row], joint={**JOINT, **damage})
    with pytest.raises(UserError, match=rf"{name.replace('+', '.')}/provenance.json does not describe a finetuning"):
        studies(collect(tmp_path))


def test_files_of_an_earlier_report_go_and_those_of_the_user_stay(tmp_path, undrawn):
    runs, out = tmp_path / "runs", tmp_path / "out"
    trained(runs, "made_up", "baseline", "baseline", None)
    (out / "figures").mkdir(parents=True)
    for name in ("figures/mine.png", "notes.txt", "figures/old.svg"):
        (out / name).write_text("kept?")
    (tmp_path / "precious.txt").write_text("kept")
    (out / "files.txt").write_text("figures/old.svg\nnotes.txt\nfigures/../../precious.txt\n")
    make_report(runs, out)
    assert not (out / "figures/old.svg").exists()
    assert (out / "figures/mine.png").exists() and (out / "notes.txt").exists() and (tmp_path / "precious.txt").exists()
    listed = (out / "files.txt").read_text().split()
    assert {f"tables/accuracy.{kind}" for kind in ("csv", "html", "md", "tex")} <= set(listed)
    assert sorted(listed) == sorted(
        path.relative_to(out).as_posix() for path in out.glob("*/*") if path.name != "mine.png"
    )


@pytest.mark.parametrize("writes", [1, 2, 9, 18, 10_000])
def test_a_report_that_is_killed_leaves_nothing_the_next_does_not_know(tmp_path, undrawn, monkeypatch, writes):
    runs, other, out = tmp_path / "runs", tmp_path / "other", tmp_path / "out"
    trained(runs, "made_up", "baseline", "baseline", None)
    measured(other, "another", "mirror_both", "mirror", "both", "mirror")
    make_report(runs, out)
    for folder in ("", "figures", "figures/dark", "tables"):
        (out / folder / ".half.png.123.tmp").parent.mkdir(exist_ok=True)
        (out / folder / ".half.png.123.tmp").write_text("ha")
    written = 0

    @contextmanager
    def atomic_path(path):
        nonlocal written
        written += 1
        if written > writes:
            raise KeyboardInterrupt
        with files.atomic_path(path) as temporary:
            yield temporary

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr("invariance.reporting.page.atomic_path", atomic_path)
        make_report(other, out)
    assert written > 1
    make_report(runs, out)
    there = {path.relative_to(out).as_posix() for path in out.glob("*/**/*") if path.is_file()}
    assert there == set((out / "files.txt").read_text().split()) and not list(out.rglob(".*.tmp"))


def test_two_reports_at_once_are_written_one_after_the_other(tmp_path, undrawn):
    runs, out = tmp_path / "runs", tmp_path / "out"
    trained(runs, "made_up", "baseline", "baseline", None)
    out.mkdir()
    theirs = lock(out / LOCK)
    half = out / ".rows.csv.elsewhere.17.tmp"
    half.write_text("theirs, which they are about to put in its place")
    ours = threading.Thread(target=make_report, args=(runs, out))
    ours.start()
    ours.join(1.0)
    assert half.exists() and not (out / PAGE).exists()
    os.close(theirs)
    ours.join(60)
    assert (out / PAGE).exists() and not half.exists() and (out / LOCK).read_text() == ""


def test_progress_is_shown_if_it_is_asked_for(tmp_path, undrawn, capsys):
    measured(tmp_path / "runs", "made_up", "mirror_both", "mirror", "both", "mirror")
    make_report(tmp_path / "runs", tmp_path / "out")
    assert capsys.readouterr().err == ""
    make_report(tmp_path / "runs", tmp_path / "out", progress=True)
    told = capsys.readouterr().err
    assert "figures" in told and re.search(r"\b(\d+)/\1\b", told)


def test_names_from_runs_are_text_not_markup(tmp_path, undrawn):
    runs = tmp_path / "runs"
    name = "a<b>&\"'$x$"
    trained(runs, "made_up", name, "rotation", 20)
    measured(runs, "made_up", name, "rotation", 20, "rotation")
    page = make_report(runs, tmp_path / "out").read_text()
    assert "<b>" not in page and "a&lt;b&gt;&amp;" in page and "$x$" in page


def test_an_svg_in_a_page_has_ids_of_its_own():
    inside = '<g id="{0}a"/><use {1}href="#{0}a" clip-path="url(#{0}a)"/></svg>'
    text = '<svg width="9" height="9" viewBox="0 0 9 9" xmlns="u">' + inside.format("", "xlink:")
    wanted = (
        '<svg viewBox="0 0 9 9" style="min-width:9px;max-width:15px" role="img" aria-label="&lt;x&gt;">'
        + inside.format("p-", "")
    )
    assert embedded(text, "p-", "<x>") == wanted
    assert 'aria-hidden="true"' in embedded(text, "p-", None)
    assert "<title>a &lt; b</title>" in standalone(text, "a < b") and "prefers-color-scheme:dark" in standalone(
        text, "x"
    )


def coloured(ink):
    """A figure with everything that can have a colour, some of it that of text."""
    from matplotlib.collections import PolyCollection

    figure = canvas((3.0, 2.0))
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], marker="o", color=ink)
    axes.plot([0, 1], [1, 0], color="#e0483e")
    axes.fill_between([0, 1], [0, 0.2], [0.1, 0.4], color=ink, alpha=0.3)
    axes.axvspan(0.2, 0.4, color=ink, alpha=0.1)
    axes.scatter([0.1, 0.6], [0.5, 0.5], c=[ink, "#2f7fd6"])
    axes.add_collection(PolyCollection([[(0.7, 0.1), (0.9, 0.1), (0.8, 0.3)]], facecolor="none", edgecolor=ink))
    axes.set(xlabel="along", title="A title")
    axes.text(0.5, 0.8, "said", color=ink)
    axes.legend(handles=[axes.lines[0]], labels=["a line"])
    return figure


@pytest.mark.parametrize("dark", [False, True])
def test_a_picture_is_what_is_drawn_in_its_colours_from_the_start(dark):
    ink, paper = DARK if dark else LIGHT
    with style(INK):
        found = png(coloured(INK), dark=dark)
    wanted = io.BytesIO()
    with style(ink):
        figure = coloured(ink)
        figure.get_layout_engine().execute(figure)
        figure.set_layout_engine(None)
        figure.savefig(wanted, format="png", dpi=160, facecolor=paper)
    found, wanted = (np.asarray(Image.open(one).convert("RGB"), int) for one in (io.BytesIO(found), wanted))
    assert np.array_equal(found, wanted)


def test_a_figure_can_be_coloured_again_and_again():
    with style(INK):
        figure = coloured(INK)
        first, dark, again, other = (png(figure, dark=dark) for dark in (False, True, False, True))
        assert first == again and dark == other and first != dark
        assert svg(figure).count("currentColor") == svg(coloured(INK)).count("currentColor") > 10


def test_the_last_digits_of_a_layout_turn_nothing():
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    class Nudged(ConstrainedLayoutEngine):
        """As the solver comes out another time: its order of adding up is that of addresses."""

        def execute(self, fig):
            super().execute(fig)
            for axes in fig.axes:
                axes.set_position([edge * (1 - 2e-15) for edge in axes.get_position().bounds])

    with style(INK):
        one, other = coloured(INK), coloured(INK)
        other.set_layout_engine(Nudged())
        assert svg(one) == svg(other)
        assert png(one, dark=False) == png(other, dark=False)


def with_control(collected):
    """The same with the control over classes, of the baseline by ridge: none at 90, same at 85, unseen at 60 %."""
    rows = collected.rows.assign(fit_classes="")
    base = rows[(rows["network"] == "baseline") & (rows["metric"] == "error_rate")]
    ridge, plain = base[base["solver"] == "ridge"], base[base["map"] == "identity"]

    def scored(part, metric, score, classes):
        ends = {"score": score, "low": score - 0.02, "high": score + 0.02}
        return part.assign(metric=metric, fit_classes=classes, **ends)

    extra = [scored(plain, "half_error_rate", 0.1, "")]
    for classes, score in (("same", 0.15), ("unseen", 0.4)):
        extra += [scored(ridge, metric, score, classes) for metric in ("half_error_rate", "error_rate", "l2_distance")]
    return replace(collected, rows=pd.concat([rows, *extra], ignore_index=True))


def test_the_control_over_classes_is_a_dotted_curve_and_a_table_and_in_no_other_number(tmp_path):
    for network, family, reach in (("baseline", "baseline", None), ("blur_3", "blur", 3), ("blur_1.5", "blur", 1.5)):
        measured(tmp_path, "made_up", network, family, reach, "blur")
    collected = collect(tmp_path)
    [plain], [family] = families(collected), families(with_control(collected))
    assert family.metrics() == plain.metrics() and len(family.rows) == len(plain.rows)
    assert gaps(with_control(collected), family) == gaps(collected, plain)
    for metric, level in (("error_rate", 60.0), ("l2_distance", 0.4)):
        for form in (against_baseline, ranges_compared):
            before, after = form(plain, metric, "x"), form(family, metric, "x")
            dotted = after.frame["way"] == "equivariance (ridge), unseen classes"
            assert after.frame[~dotted].reset_index(drop=True).equals(before.frame)
            assert (after.frame.loc[dotted, "y"] == level).all() and set(after.frame.loc[dotted, "who"]) == {"baseline"}
            assert set(after.frame.loc[dotted, "panel"]) == {"residual map, ridge"}
            assert "Dotted" in after.caption and "Dotted" not in before.caption
        for table in (tables.measurements, lambda of, _, slug: tables.summary(of, slug)):
            assert table(family, metric, "x").cells == table(plain, metric, "x").cells
    table = tables.unseen(family, "x")
    assert table.header[1:] == ["no map", "same classes, residual map, ridge", "unseen classes, residual map, ridge"]
    first = ["baseline (seed 0): untouched", "90.0 [88.0, 92.0]", "85.0 [83.0, 87.0]", "60.0 [58.0, 62.0]"]
    assert table.cells[0] == first and len(table.cells) == 11
    assert table.runs[0, 3] == ("measure/made_up/baseline/seed0/blur/residual_ridge",)
    assert tables.unseen(plain, "x") is None


def test_rows_of_the_control_are_no_second_numbers(tmp_path):
    measured(tmp_path, "made_up", "baseline", "baseline", None, "blur")
    rows = with_control(collect(tmp_path)).rows
    refuse_twice(rows)
    with pytest.raises(UserError, match="the same number"):
        refuse_twice(pd.concat([rows, rows.tail(1)], ignore_index=True))
