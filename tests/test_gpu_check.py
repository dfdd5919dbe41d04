"""The machinery of `make gpu-check`: no check takes another with it, and what is not there is said."""

import argparse
import json
import sys
from pathlib import Path

import pytest

from invariance.runs.sweep import ATTEMPTS, SWEEPS, Attempt

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

CHECKS = '''
"""Checks that end in every way."""
import os, signal, time
from pathlib import Path
from gpu_rows import Check

def fine(check, at):
    yield check.at_most("small", 1.0, 2.0)
    yield check.at_most("nan", float("nan"), 2.0)
    yield check.at_least("fast", 1.0, 2.0)
    yield from check.each("ab", lambda case: check.told(case, 1 / (case == "b"), "s"))

def raises(check, at):
    yield check.holds("first", True, "")
    raise ValueError("no")

def dies(check, at):
    yield check.holds("first", True, "")
    os._exit(3)

def hangs(check, at):
    time.sleep(600)
    yield

def killed(check, at):
    if not os.fork():
        time.sleep(60)
        Path(__file__).with_name("outlived").touch()
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)
    yield

def silent(check, at):
    yield from ()

MIXED = [Check(f.__name__, "", "= 1", f) for f in (fine, raises, dies, hangs)]
KILLED = [Check(f.__name__, "", "= 1", f) for f in (fine, silent, killed, hangs)]
HANGING = [Check("hangs", "", "= 1", hangs)]
GPUS = [Check("gpus", "", "= 1", fine, gpu=True)]
'''


@pytest.fixture
def gpu_check(tmp_path, monkeypatch):
    """The script, with other checks, in its own processes too."""
    (tmp_path / "ended.py").write_text(CHECKS)
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(BENCHMARKS), *sys.path])
    import gpu_check

    seconds = {"mixed": 60, "killed": 60, "hanging": 1, "gpus": 60}
    groups = {name: (f"ended.{name.upper()}", limit) for name, limit in seconds.items()}
    start = "import sys; sys.path[:0] = {}; import gpu_check; gpu_check.GROUPS = {}; gpu_check.main()"
    script = tmp_path / "script.py"
    script.write_text(start.format([str(tmp_path), str(BENCHMARKS)], groups))
    monkeypatch.setattr(gpu_check, "GROUPS", groups)
    monkeypatch.setattr(gpu_check, "__file__", str(script))
    yield gpu_check
    for name in ("ended", "gpu_check", "gpu_rows"):
        sys.modules.pop(name, None)


@pytest.mark.long
def test_a_check_that_raises_or_dies_takes_no_other_with_it(gpu_check):
    given = argparse.Namespace(device="cpu", only=[])
    rows = {row["name"]: row for row in gpu_check.run("mixed", given)}
    states = {name: row["state"] for name, row in rows.items()}
    assert states == {
        "fine_small": "ok",
        "fine_nan": "failed",
        "fine_fast": "slow",
        "fine_a": "failed",
        "fine_b": "ok",
        "raises_first": "ok",
        "raises": "failed",
        "dies_first": "ok",
        "dies_rest": "failed",
        "hangs_rest": "not run",
    }
    assert rows["raises"]["why"] == "ValueError: no" and "status 3" in rows["dies_rest"]["why"]
    assert "ZeroDivisionError" in rows["fine_a"]["why"]
    [row] = gpu_check.run("gpus", given)
    assert (row["state"], row["why"]) == ("not run", "no GPU")


def test_a_check_that_the_system_kills_failed_and_what_it_began_ends_with_it(gpu_check, tmp_path):
    rows = gpu_check.run("killed", argparse.Namespace(device="cpu", only=["silent", "killed", "hangs"]))
    assert [(row["name"], row["state"]) for row in rows] == [("killed_rest", "failed"), ("hangs_rest", "not run")]
    assert "killed by SIGKILL" in rows[0]["why"] and not (tmp_path / "outlived").exists()


@pytest.mark.parametrize(("of_speed", "state", "status"), [((), "failed", "1"), (("hanging",), "not run", "0")])
def test_a_group_whose_time_is_over_is_ended_and_said(gpu_check, monkeypatch, tmp_path, of_speed, state, status):
    monkeypatch.setattr(gpu_check, "SLACK_OF_A_CPU", 0.5)
    monkeypatch.setattr(gpu_check, "OF_SPEED", of_speed)
    monkeypatch.setattr(gpu_check, "GROUPS", {"hanging": gpu_check.GROUPS["hanging"]})
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--device", "cpu", "--json", str(tmp_path / "figures.json")])
    with pytest.raises(SystemExit, match=status):
        gpu_check.main()
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["state_hangs_rest"] == state and "were over" in figures["why_hangs_rest"]


def test_all_limits_together_are_below_eight_minutes():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import gpu_check

        assert sum(limit for _, limit in gpu_check.GROUPS.values()) < 480
    finally:
        sys.path.remove(str(BENCHMARKS))
        sys.modules.pop("gpu_check", None)


@pytest.mark.parametrize(("seconds", "most"), [(4.0, 1), (6.0, 2)])
def test_jobs_that_ran_at_once_are_told_from_those_that_took_turns(monkeypatch, tmp_path, seconds, most):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from gpu_launch import at_once

    sweep = tmp_path / SWEEPS / "train/20261130"
    with Attempt(sweep, 0):
        pass
    [told] = (sweep / ATTEMPTS).glob("*.json")
    begun = int(told.stem.split(".")[-1])
    told.write_text(json.dumps({**json.loads(told.read_text()), "seconds": seconds}))
    told.with_name(told.name.replace(str(begun), str(begun + 5_000_000_000))).write_text(told.read_text())
    assert at_once(tmp_path) == most


def test_the_figures_are_one_flat_object(gpu_check, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_check, "GROUPS", {"gpus": gpu_check.GROUPS["gpus"]})
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--device", "cpu", "--json", str(tmp_path / "figures.json")])
    with pytest.raises(SystemExit, match="0"):
        gpu_check.main()
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["not run"] == 1 and figures["why_gpus"] == "no GPU"
    assert not any(isinstance(value, dict | list) for value in figures.values())
    assert "no GPU" in capsys.readouterr().out
