"""Damage to stored files is never silent: some cases of tests/damage.py, and that its judge can say so."""

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from damage import DAMAGES, cases, judge, run  # noqa: E402

ROWS = {"rows.csv:a": "a", "rows.csv:b": "b", "tables/t.csv:0": "x"}
SAID = {"report": "written\nstatus 0"}


@pytest.mark.long
def test_twenty_damages_are_told_or_change_nothing(tmp_path):
    results = run(20, 1, tmp_path)
    assert len(results) >= 15
    faults = [one for one in results if one["verdict"] not in ("same", "told")]
    assert not faults, faults
    assert sum(one["verdict"] == "told" for one in results) > 5


@pytest.mark.parametrize(
    ("said", "found", "verdict"),
    [
        (SAID, ROWS, "same"),
        ({"report": "error: a is damaged\nstatus 2"}, ROWS, "same"),
        (SAID, {**ROWS, "tables/t.csv:0": "y"}, "silent"),
        (SAID, {"rows.csv:a": "a"}, "silent"),
        ({"report": "error: b is damaged\nstatus 2"}, {"rows.csv:a": "a"}, "told"),
        ({"report": "error: b is damaged\nstatus 2"}, {"rows.csv:a": "a", "rows.csv:c": "c"}, "wrong"),
        ({"report": "Traceback (most recent call last):\nstatus 1"}, ROWS, "traceback"),
    ],
)
def test_what_came_of_a_case_is_judged(said, found, verdict):
    assert judge(said, found, (SAID, ROWS), "/case")[0] == verdict


@pytest.mark.parametrize("how", sorted(DAMAGES))
def test_every_damage_changes_a_file(tmp_path, how):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rows.csv").write_text(f"score\n0.12{folder}\n0.5\n")
    files = sorted(tmp_path.rglob("*.csv"))
    before = files[0].read_bytes()
    assert DAMAGES[how](files[0], random.Random(3), files)
    assert not files[0].exists() if how == "delete" else files[0].read_bytes() != before


def test_cases_cover_every_kind_of_file(tmp_path):
    for name in ("runs/train/d/a/rows.csv", "runs/train/d/b/rows.csv", "runs/train/d/a/best.ckpt", "prepared/d/x.npy"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    chosen = cases(tmp_path, 28, 0)
    assert {Path(name).name for name, _ in chosen} == {"rows.csv", "best.ckpt", "x.npy"} and len(set(chosen)) == 28
    assert chosen == cases(tmp_path, 28, 0)
