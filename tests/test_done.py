"""A job is done when its runs have their markers: no launcher goes by a status alone."""

import signal
import sys
import textwrap
from pathlib import Path

import pytest

from invariance.cli.command import command, find_plugins
from invariance.errors import Busy, UserError
from invariance.launch.jobs import Job, run_jobs
from invariance.launch.slots import Slot
from invariance.launch.slurm_job import CommandFailed, SlurmJob
from invariance.runs.rows import to_frame
from invariance.runs.run import Run
from invariance.runs.sweep import (
    JOB_VARIABLE,
    SWEEP_VARIABLE,
    Attempt,
    begin_sweep,
    read_sweeps,
    removed,
    sweep_folder,
    to_the_end,
)

WAYS = {
    "early": "",
    "midway": "with Attempt(folder, number): os._exit(0)",
    "unfinished": """
        with Attempt(folder, number): opened(folder.parents[2] / "train/unfinished")
        os._exit(0)""",
    "undone": """
        done = folder.parents[2] / "train/undone/done.json"
        done.parent.mkdir(parents=True)
        done.touch()
        with Attempt(folder, number): opened(done.parent)
        done.unlink()""",
    "fine": """
        done = folder.parents[2] / "train/fine/done.json"
        done.parent.mkdir(parents=True)
        done.touch()
        with Attempt(folder, number): opened(done.parent)""",
}
WHY = {
    "early": "ended with status 0 before its work began",
    "midway": "ended with status 0 before its work was done",
    "unfinished": "ended with status 0 before its work was done: train/unfinished is not finished, though nothing "
    "failed",
    "undone": "ended with status 0, but train/undone is not finished",
}
HEAD = f"""
import os
from pathlib import Path
from invariance.runs.sweep import Attempt, opened
folder, number = Path(os.environ[{SWEEP_VARIABLE!r}]), int(os.environ[{JOB_VARIABLE!r}])
"""


@pytest.fixture
def jobs(tmp_path):
    """Commands that all end with status 0, each in its way, as the jobs of a sweep."""
    begin_sweep(folder := sweep_folder(tmp_path, "train", list(WAYS)), list(WAYS))
    return [
        Job(
            [sys.executable, "-c", HEAD + textwrap.dedent(code)],
            name,
            folder / "logs" / f"{name}.log",
            {SWEEP_VARIABLE: str(folder), JOB_VARIABLE: str(number)},
        )
        for number, (name, code) in enumerate(WAYS.items())
    ]


def test_a_job_that_ends_with_status_0_and_without_its_markers_has_failed(jobs, tmp_path):
    failures = run_jobs(jobs, [Slot("a", {}), Slot("b", {})], progress=False)
    assert {failure.shown: failure.why for failure in failures} == WHY
    [sweep] = read_sweeps(tmp_path)
    states = {job.shown: job.state for job in sweep.jobs}
    assert states == {"early": "to do", "midway": "stopped", "unfinished": "failed", "undone": "to do", "fine": "done"}


def test_on_a_node_too(jobs, monkeypatch):
    held = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    try:
        with pytest.raises(CommandFailed, match=WHY["undone"]):
            SlurmJob(jobs[3], 1.0)()
        assert SlurmJob(jobs[4], 1.0)() == 0
    finally:
        signal.signal(signal.SIGTERM, held)


@pytest.fixture
def run_command(tmp_path, monkeypatch, capfd):
    """Runs `do(size)` as a command; gives its status, and what was printed."""
    find_plugins()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(SWEEP_VARIABLE, "")
    monkeypatch.delenv(JOB_VARIABLE, raising=False)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def run(do, *arguments):
        monkeypatch.setattr(sys, "argv", ["invariance-prepare", *arguments])
        status = 0
        try:
            command("prepare", lambda config: do(config["size"]))
        except SystemExit as end:
            status = end.code
        return status, *capfd.readouterr()

    return run


def ways(size):
    run = Run(Path("runs"), f"train/{size}", {"size": size})
    if size == 1:
        return
    if size == 2:
        sys.exit(0)
    with run:
        run.finish(to_frame([]))


def test_one_after_another_in_one_process(run_command):
    status, out, err = run_command(ways, "-m", "size=1,2,3")
    assert status == 2 and err.endswith("error: 2 of 3 jobs failed, for the reasons above; the others are done\n")
    assert "runs/train/1 is not finished, though nothing failed; repeat" in out
    assert "  again: invariance-prepare size=1\n" in out and "  again: invariance-prepare size=2\n" in out
    assert "failed: it ended itself with status 0 before its work was done; repeat it\n" in out
    assert [job.state for job in read_sweeps(Path("runs"))[0].jobs] == ["failed", "failed", "done"]


@pytest.mark.parametrize(("size", "said"), [(1, "runs/train/1 is not finished"), (2, "ended itself with status 0")])
def test_typed_alone(run_command, size, said):
    status, _, err = run_command(ways, f"size={size}")
    assert status == 2 and said in err and err.count("\n") == 1
    assert run_command(ways, "size=3")[0] == 0


def test_what_is_removed_at_its_end_is_no_result(tmp_path):
    begin_sweep(folder := sweep_folder(tmp_path, "distance", ["a"]), ["a"])
    with Attempt(folder, 0), to_the_end():
        Run(tmp_path, "distance/digits/unfinished-1", {})
        with Run(tmp_path, "distance/digits/a+b/ridge", {}) as pair:
            pair.finish(to_frame([]))
        removed(tmp_path / "distance/digits/unfinished-1")
    assert read_sweeps(tmp_path)[0].count("done") == 1


def test_other_errors_pass_as_they_are(tmp_path):
    with pytest.raises(Busy), to_the_end():
        Run(tmp_path, "train/a", {})
        raise Busy("it is being worked on")
    with to_the_end():  # what a job before this one left is not its own
        pass
    with pytest.raises(UserError, match="train/a and 1 more are not finished"), to_the_end():
        Run(tmp_path, "train/a", {})
        Run(tmp_path, "train/b", {})
