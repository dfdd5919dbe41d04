"""What a report leaves out, or cannot be sure of, is named on the page, on standard error, and counted; and sealed."""

import json
import os

import pytest

from invariance.errors import UserError
from invariance.experiments.report import report
from invariance.experiments.status import status
from invariance.reporting.page import make_report
from invariance.reporting.rows import collect
from invariance.runs.rows import Row, read_rows, to_frame, write_rows
from invariance.runs.run import Run
from invariance.runs.seal import check
from tests.reporting_runs import measured, trained
from tests.test_walk import a_user, place  # noqa: F401 - a fixture

NETWORKS = ("baseline", "wide", "narrow")


def sealed(root, network="baseline", error=0.1):
    """A finished training run as this version leaves it."""
    name = f"train/digits/{network}/seed0"
    about = {"stage": "train", "data": "digits", "network": network, "family": "baseline", "seed": 0, "run": name}
    identity = {"name": network, "seed": 0, "transform": {"name": "baseline"}, "data": {"name": "digits"}}
    with Run(root, name, identity) as run:
        run.finish(
            to_frame(
                [
                    Row(
                        **about,
                        split=split,
                        metric="error_rate",
                        score=error,
                        low=error / 2,
                        high=2 * error,
                        n_images=77,
                    )
                    for split in ("val", "test")
                ]
            )
        )
    return root / name


def config(root, out):
    return {
        "runs": str(root),
        "out": str(out),
        "dataset": None,
        "progress": False,
        "figures": [],
        "logger": {"kind": "csv"},
    }


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


DAMAGE = {
    "a digit": lambda run: change(run / "rows.csv", "0.1,", "0.2,"),
    "a line lost": lambda run: (run / "rows.csv").write_text("".join((run / "rows.csv").open().readlines()[:-1])),
    "no rows": lambda run: (run / "rows.csv").unlink(),
    "no table": lambda run: (run / "rows.csv").write_bytes(b"\xff\x00"),
    "a setting": lambda run: change(run / "config.yaml", "seed: 0", "seed: 1"),
    "a marker": lambda run: change(run / "done.json", '"rows": 2', '"rows": 3'),
    "an empty marker": lambda run: (run / "done.json").write_text(""),
    "provenance": lambda run: (run / "provenance.json").write_text("["),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_run_is_left_out_by_name_and_the_others_are_reported(tmp_path, undrawn, capsys, damage):
    runs = tmp_path / "runs"
    damage([sealed(runs, network) for network in NETWORKS][1])
    with pytest.raises(UserError, match="^1 finished run is damaged and left out.*it holds the other 2$"):
        report(config(runs, tmp_path / "out"))
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out, damaged")]
    assert line.startswith("left out, damaged: train/digits/wide/seed0: ")
    page = (tmp_path / "out/index.html").read_text()
    assert "1 finished run is damaged and left out of every number" in page and "unverified" not in page
    assert set(read_rows(tmp_path / "out/rows.csv")["network"]) == {"baseline", "narrow"}


def test_when_all_are_damaged_there_is_no_report(tmp_path):
    for network in NETWORKS[:2]:
        DAMAGE["a digit"](sealed(tmp_path, network))
    with pytest.raises(UserError, match="all 2 finished runs are damaged: train/digits/baseline/seed0: "):
        collect(tmp_path)


def test_a_damaged_grid_takes_its_own_measurements_with_it_alone(tmp_path, undrawn, capsys):
    for network in ("blur_3", "blur_1.5"):
        measured(tmp_path / "runs", "made_up", network, "blur", float(network[5:]), "blur")
    path = tmp_path / "runs/measure/made_up/blur_3/seed0/blur/grid.json"
    held = json.loads(path.read_text())
    path.write_text(json.dumps({**held, "xxh3": "0" * 32}))
    page = make_report(tmp_path / "runs", tmp_path / "out").read_text()
    assert "3 finished runs are damaged" in page and "grid.json cannot be read (it is not as it was written)" in page
    assert set(read_rows(tmp_path / "out/rows.csv")["network"]) == {"blur_1.5"}
    assert capsys.readouterr().err.count("left out, damaged") == 3


def test_runs_of_before_seals_are_marked_and_offered_to_be_sealed(tmp_path, undrawn, capsys):
    runs = tmp_path / "runs"
    sealed(runs)
    trained(runs, "digits", "old", "baseline", None)
    old = runs / "train/digits/old/seed0"
    (old / "config.yaml").write_text("name: old\nseed: 0\ntransform: {name: baseline}\ndata: {name: digits}\n")
    report(config(runs, tmp_path / "out"))
    page = (tmp_path / "out/index.html").read_text()
    assert '1 of 2 finished runs are <a href="#provenance">unverified</a>' in page
    assert "train/digits/old/seed0</a> (unverified)" in page and page.count("(unverified)") == 1
    looked = {"runs": str(runs), "every": None, "progress": True}
    status({**looked, "seal": False})
    said = capsys.readouterr().out
    assert "unverified, finished before runs had seals: train/digits/old/seed0\n" in said
    assert f"to check their values and seal them: invariance-status runs={runs} seal=true\n" in said
    rows = read_rows(old / "rows.csv")
    write_rows(old / "rows.csv", rows.assign(score=7.5))
    with pytest.raises(UserError, match="1 of 1 runs are not sealed"):
        status({**looked, "seal": True})
    assert "score is 7.5" in capsys.readouterr().err and not check_of(old)
    write_rows(old / "rows.csv", rows)
    status({**looked, "seal": True})
    assert "sealed: train/digits/old/seed0\nsealed 1 runs\n" in capsys.readouterr().out and check(old)
    status({**looked, "seal": True})
    assert "every finished run that can be read has a seal" in capsys.readouterr().out
    assert "unverified" not in make_report(runs, tmp_path / "out").read_text()
    with pytest.raises(UserError, match="seal='yes': give true or false"):
        status({**looked, "seal": "yes"})


def check_of(run):
    return json.loads((run / "done.json").read_text()).get("seal")


def test_a_damaged_marker_is_named_by_status(tmp_path, capsys):
    DAMAGE["an empty marker"](sealed(tmp_path))
    status({"runs": str(tmp_path), "every": None, "progress": True})
    said = capsys.readouterr().out
    assert f"cannot be looked into: {tmp_path}/train/digits/baseline/seed0/done.json (damaged)" in said


@pytest.mark.parametrize("what", ["", "done.json", "rows.csv", "provenance.json"])
def test_what_may_not_be_read_is_named_and_counted(place, undrawn, capsys, what):  # noqa: F811
    runs = place / "runs"
    theirs = sealed(runs, "theirs") / what
    sealed(runs, "ours")
    (place / "out").mkdir()
    (place / "out").chmod(0o777)
    theirs.chmod(0)
    with a_user():
        report(config(runs, place / "out"))
    assert f"left out, cannot be looked into: {theirs} (permission denied)" in capsys.readouterr().err
    page = (place / "out/index.html").read_text()
    assert "1 place could not be looked into" in page and f"<code>{theirs} (permission denied)</code>" in page
    assert set(read_rows(place / "out/rows.csv")["network"]) == {"ours"}


def test_nothing_is_said_to_be_absent_where_it_could_not_be_seen(place):  # noqa: F811
    sealed(place / "runs")
    with pytest.raises(
        UserError, match="no finished run below .*run invariance-train, then invariance-measure, or name a folder"
    ):
        collect(place / "none")
    (place / "runs/train").chmod(0)
    with a_user(), pytest.raises(UserError) as caught:
        collect(place / "runs")
    (place / "runs/train").chmod(0o755)
    assert "no finished run that can be read below" in str(caught.value)
    assert f"could not be looked into: {place}/runs/train (permission denied)" in str(caught.value)


def test_runs_in_a_linked_folder_are_reported(tmp_path, undrawn):
    run = sealed(tmp_path / "elsewhere")
    (tmp_path / "runs").mkdir()
    os.symlink(tmp_path / "elsewhere/train", tmp_path / "runs/train")
    assert list(collect(tmp_path / "runs").runs) == ["train/digits/baseline/seed0"] and check(run)
