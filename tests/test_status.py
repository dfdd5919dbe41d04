"""`invariance-status`: what it says of sweeps and runs, from their folders alone."""

import json
import os
import re
import threading
import time
from contextlib import ExitStack

import pytest
from rich.console import Console

from invariance.errors import UserError
from invariance.experiments.status import duration, status
from invariance.runs.locks import me
from invariance.runs.rows import to_frame
from invariance.runs.run import PROGRESS, Run
from invariance.runs.sweep import Attempt, JobState, SweepState, begin_sweep, launching, read_sweeps, sweep_folder
from invariance.runs.watch import read_runs, seconds_a_job, seconds_left


def said(capsys, runs, every=None):
    status({"runs": str(runs), "every": every, "progress": True})
    return re.sub(" +", " ", capsys.readouterr().out)


def test_it_tells_done_running_stopped_failed_and_to_do(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    jobs = ["invariance-train range=5", "invariance-train range=999", "invariance-train range=20"]
    begin_sweep(folder := sweep_folder(tmp_path, "train", jobs), jobs)
    with pytest.raises(UserError), Attempt(folder, 1):
        raise UserError("range=999: too far")
    for name in ("train/digits/a/seed0", "train/digits/b/seed0"):
        with Run(tmp_path, name, {}) as run:
            run.finish(to_frame([]))
    with Run(tmp_path, "train/digits/killed/seed0", {}) as run:
        run.note(3, 10, "updates")
    with Run(tmp_path, "measure/digits/a/seed0/rotation/identity", {}) as run, Attempt(folder, 0):
        run.note(4, 16, "g")
        text = said(capsys, tmp_path)
    assert f"train, range=5,999,20 ({folder.name}) 1 1 1" in text
    assert "measure digits 1" in text and "train digits 2 1" in text
    assert f"measure/digits/a/seed0/rotation/identity process {os.getpid()} on" in text and "4 of 16 g" in text
    assert "failed: range=999: too far\n again: invariance-train range=999" in text


def test_the_pace_is_of_the_process_that_works_and_needs_no_clock(tmp_path):
    with Run(tmp_path, "train/digits/a/seed0", {}) as run:
        run.note(600, 1000, "updates")
        held = {"done": 800, "of": 1000, "unit": "updates", "since": 600, "seconds": 50.0}
        path = run.directory / PROGRESS
        path.write_text(json.dumps(held))
        os.utime(path, (4e9, 4e9))  # a file of the year 2096: the clocks of two machines disagree
        [state] = read_runs(tmp_path)
        assert (state.rate, state.seconds_left) == (4.0, 50.0)
        for damaged in (
            "",
            "[]",
            '{"done": 1}',
            json.dumps({**held, "done": "x"}),
            json.dumps({**held, "done": 1e400}),
        ):
            path.write_text(damaged)
            [state] = read_runs(tmp_path)
            assert (state.state, state.seconds_left) == ("running", None)
    assert read_runs(tmp_path)[0].state == "stopped"


def test_time_left_goes_on_at_the_pace_of_the_jobs_that_are_done():
    def sweep(*states):
        return SweepState("train", "x", tuple(JobState(str(k), state, seconds=100.0) for k, state in enumerate(states)))

    assert seconds_left(sweep("done", "running", "running", "to do", "to do", "stopped", "failed")) == 200.0
    assert seconds_left(sweep("running", "to do")) is None
    assert seconds_left(sweep("done", "to do")) is None


def test_jobs_that_were_found_finished_say_nothing_of_the_time_that_jobs_take(tmp_path):
    begin_sweep(folder := sweep_folder(tmp_path, "train", list("abc")), list("abc"))
    run = lambda name: Run(tmp_path, f"train/{name}", {"name": name})  # noqa: E731
    for _ in range(2):
        with Attempt(folder, 0), run("a") as work:
            if not work.done:
                time.sleep(0.3)
                work.finish(to_frame([]))
    with run("b") as elsewhere:
        elsewhere.finish(to_frame([]))
    with Attempt(folder, 1):
        assert run("b").done
        [sweep] = read_sweeps(tmp_path)
        assert 0.3 <= seconds_a_job(sweep) < 10 and sweep.jobs[0].seconds == seconds_a_job(sweep)
    with Attempt(folder, 2):
        [sweep] = read_sweeps(tmp_path)
        assert sweep.count("done") == 2 and sweep.jobs[1].seconds == 0
        assert seconds_a_job(sweep) == sweep.jobs[0].seconds and seconds_left(sweep) > 0
    (tmp_path / "train/a/done.json").unlink()  # what worked is no longer done: nothing is left to go by
    with Attempt(folder, 2):
        assert seconds_left(read_sweeps(tmp_path)[0]) is None


def test_it_stays_live_while_jobs_are_launched_though_none_runs(tmp_path, capsys, monkeypatch):
    begin_sweep(folder := sweep_folder(tmp_path, "train", ["a"]), ["a"])
    command = "invariance-train " + " ".join(f"key_{k}=value" for k in range(20))
    begin_sweep(other := sweep_folder(tmp_path, "train", [command]), [command])
    with pytest.raises(UserError), Attempt(other, 0):
        raise UserError("no")
    monkeypatch.setattr(Console, "is_terminal", property(lambda _: True))
    looks, sleep, here = [], time.sleep, threading.current_thread()
    with ExitStack() as launcher:
        launcher.enter_context(launching(folder))

        def look(seconds):
            if threading.current_thread() is not here:  # one of wandb's, left by another test
                return sleep(seconds)
            looks.append(seconds)
            return launcher.close() if len(looks) == 3 else None

        monkeypatch.setattr(time, "sleep", look)
        text = said(capsys, tmp_path, every=1)
    assert len(looks) == 3 and f"launched by {me()}: train ({folder.name})" in text
    assert text.endswith(f"failed: no\n again: {command}\n")

    def interrupted(seconds):  # by Ctrl-C, which a suite that runs in the background would not hear
        if threading.current_thread() is not here:
            return sleep(seconds)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), launching(folder):
        monkeypatch.setattr(time, "sleep", interrupted)
        said(capsys, tmp_path, every=1)
    assert f" again: {command}\n" in re.sub(" +", " ", capsys.readouterr().out)


def test_a_command_to_repeat_is_printed_in_one_line(tmp_path, capsys):
    command = "invariance-train " + " ".join(f"'key_{k}=[value]'" for k in range(20))
    begin_sweep(folder := sweep_folder(tmp_path, "train", [command]), [command])
    with pytest.raises(UserError), Attempt(folder, 0):
        raise UserError("no")
    assert f"\n again: {command}\n" in said(capsys, tmp_path)


def test_times_read_as_people_say_them():
    assert [duration(s) for s in (None, 0, 89, 90, 3600, 100000)] == ["", "0 s", "89 s", "2 min", "1.0 h", "1.2 d"]


def test_nothing_to_tell_and_nowhere_to_look(tmp_path, capsys):
    assert "nothing in" in said(capsys, tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        status({"runs": str(tmp_path / "none"), "every": None, "progress": True})
    with pytest.raises(UserError, match="every=0: give a number"):
        status({"runs": str(tmp_path), "every": 0, "progress": True})
