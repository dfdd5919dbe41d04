"""What a sweep leaves for those who watch it, locks, and two launchers at one sweep."""

import errno
import json
import os
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from invariance.errors import Busy, UserError
from invariance.launch.jobs import BUSY, Job, run_jobs
from invariance.launch.slots import Slot
from invariance.runs import sweep
from invariance.runs.files import DONE
from invariance.runs.locks import holder, lock, me
from invariance.runs.mending import Mending, failed_alike
from invariance.runs.run import PROGRESS, PROVENANCE, Run
from invariance.runs.sweep import Attempt, begin_sweep, opened, read_sweeps, sweep_folder
from invariance.runs.sweep_names import title
from invariance.runs.watch import read_runs


def test_a_lock_tells_who_holds_it_and_ends_with_its_process(tmp_path):
    path = tmp_path / ".lock"
    assert holder(path) is None and not path.exists()
    code = f"""
    import time
    from pathlib import Path
    from invariance.runs.locks import lock
    assert lock(Path({str(path)!r})) is not None
    print("held", flush=True)
    time.sleep(60)
    """
    other = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    assert holder(path).startswith(f"process {other.pid} on ")
    assert lock(path) is None
    other.kill()
    other.wait()
    assert holder(path) is None
    mine = lock(path)
    assert mine is not None and holder(path).startswith(f"process {os.getpid()} on ")
    os.close(mine)


def test_looking_at_a_lock_does_not_keep_others_from_it(tmp_path):
    path = tmp_path / ".lock"
    os.close(lock(path))
    code = f"""
    from pathlib import Path
    from invariance.runs.locks import holder
    print("begun", flush=True)
    while True:
        holder(Path({str(path)!r}))
    """
    looking = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    looking.stdout.readline()
    try:
        for _ in range(200):
            taken = lock(path)
            assert taken is not None
            os.close(taken)
    finally:
        looking.kill()
        looking.wait()


def test_a_lock_that_cannot_be_looked_at_counts_as_held(tmp_path, monkeypatch):
    path = tmp_path / "train/a/.lock"
    with Run(tmp_path, "train/a", {}) as run:
        pass
    real = os.open

    def refuse(what, *rest):
        if what == path:
            raise PermissionError(errno.EACCES, "no", str(what))
        return real(what, *rest)

    monkeypatch.setattr(os, "open", refuse)
    assert [one.state for one in read_runs(tmp_path)] == ["running"]
    assert holder(path) == "somebody (its lock cannot be read)"
    run.leave_to_others()  # nobody is waited for who may not be there
    with pytest.raises(UserError, match=r"cannot write .*/a/\.lock: it may not be written to"):
        run.__enter__()


def test_a_folder_in_the_place_of_a_lock_is_a_line(tmp_path):
    (tmp_path / "train/a/.lock").mkdir(parents=True)
    assert holder(tmp_path / "train/a/.lock") is None and holder(tmp_path / "train/a/.lock/x/y") is None
    with pytest.raises(UserError, match=r"cannot write .*/a/\.lock: a folder stands where a file is needed"):
        Run(tmp_path, "train/a", {}).__enter__()


def ended(folder, number, error=None):
    try:
        with Attempt(folder, number):
            if error is not None:
                raise error
    except BaseException as raised:
        assert raised is error


def test_where_the_jobs_of_a_sweep_stand(tmp_path):
    jobs = [f"invariance-train range={k}" for k in range(7)]
    folder = sweep_folder(tmp_path, "train", jobs)
    assert read_sweeps(tmp_path) == []
    begin_sweep(folder, jobs)
    ended(folder, 0)
    ended(folder, 1, UserError("range=1: no"))
    ended(folder, 2, KeyboardInterrupt())
    ended(folder, 3, Busy("somebody is at it"))
    ended(folder, 4, ValueError("odd"))
    ended(folder, 4)  # again, and well this time
    with Attempt(folder, 5):
        [state] = read_sweeps(tmp_path)
    assert [job.state for job in state.jobs] == ["done", "failed", "stopped", "to do", "done", "running", "to do"]
    assert state.jobs[1].why == "range=1: no" and state.jobs[1].shown == jobs[1]
    assert state.jobs[5].where.startswith(f"process {os.getpid()} on ")
    assert (state.page, state.count("done")) == ("train", 2)


def test_a_process_that_was_killed_is_not_running(tmp_path):
    begin_sweep(folder := sweep_folder(tmp_path, "train", ["a"]), ["a"])
    code = f"""
    import os, signal
    from pathlib import Path
    from invariance.runs.sweep import Attempt
    with Attempt(Path({str(folder)!r}), 0):
        os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)])
    assert read_sweeps(tmp_path)[0].jobs[0].state == "stopped"


@pytest.mark.parametrize("error", [None, UserError("rate=-1"), KeyboardInterrupt()])
def test_a_disk_that_refuses_an_attempt_hides_nothing_of_what_ended_it(tmp_path, monkeypatch, error):
    begin_sweep(folder := sweep_folder(tmp_path, "train", ["a"]), ["a"])

    def refuse(*_):
        raise UserError("its disk is full")

    begun = Attempt(folder, 0).__enter__()
    monkeypatch.setattr(sweep, "write_text", refuse)
    monkeypatch.setattr(sweep, "_NOTE_EVERY", 0.0)
    sweep.alive()
    begun.__exit__(type(error), error, None)  # which Python raises again if this raises nothing
    assert not list(folder.glob("attempts/*.lock")) and read_sweeps(tmp_path)[0].count("stopped") == 1
    with pytest.raises(UserError, match="full"):
        Attempt(folder, 0).__enter__()
    assert not list(folder.glob("attempts/*.lock"))


def test_another_s_work_leaves_no_trace_unless_a_part_was_done(tmp_path):
    begin_sweep(folder := sweep_folder(tmp_path, "train", ["a"]), ["a"])
    ended(folder, 0, Busy("somebody is at it"))
    assert not list((folder / sweep.ATTEMPTS).iterdir()) and read_sweeps(tmp_path)[0].count("to do") == 1
    with pytest.raises(Busy), Attempt(folder, 0):
        with Run(tmp_path, "measure/a", {}):
            time.sleep(0.02)  # times are kept to hundredths of a second
        raise Busy("somebody is at the rest")
    [job] = read_sweeps(tmp_path)[0].jobs
    assert job.state == "stopped" and job.seconds > 0


def test_a_sweep_that_is_deleted_meanwhile_is_left_out(tmp_path, monkeypatch):
    for job in "ab":
        begin_sweep(sweep_folder(tmp_path, "train", [job]), [job])
    gone, real = sweep_folder(tmp_path, "train", ["a"]).name, os.scandir

    def vanish(path):
        if gone in str(path):
            raise FileNotFoundError(path)
        return real(path)

    monkeypatch.setattr(os, "scandir", vanish)
    ended(sweep_folder(tmp_path, "train", ["b"]), 0)
    assert "b" in [job.shown for state in read_sweeps(tmp_path) for job in state.jobs]


def test_damaged_records_count_as_absent(tmp_path):
    begin_sweep(folder := sweep_folder(tmp_path, "train", ["a", "b"]), ["a", "b"])
    ended(folder, 0)
    [path] = (folder / sweep.ATTEMPTS).glob("*.json")
    for text in (
        "",
        "[]",
        '{"job": 0',
        '{"job": 0, "state": 3}',
        '{"job": "x", "state": "done", "seconds": 1}',
        '{"job": true, "state": "done", "seconds": 1}',
        '{"job": 0, "state": "done", "seconds": 1e999}',
        '{"job": 0, "turn": [], "state": "done", "seconds": 1}',
    ):
        path.write_text(text)
        assert read_sweeps(tmp_path)[0].count("to do") == 2
    (folder / sweep.JOBS).write_text("{}")
    assert read_sweeps(tmp_path) == []


def test_a_job_that_another_process_works_at_is_put_off_until_that_is_done(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("invariance.launch.jobs.AGAIN", 0.3)
    flag, order = tmp_path / "free", tmp_path / "order"
    code = f"""
    import pathlib, sys
    name = sys.argv[1]
    if name == "held" and not pathlib.Path({str(flag)!r}).exists():
        print("error: runs/held is being worked on by process 7 on b")
        sys.exit({BUSY})
    with open({str(order)!r}, "a") as file:
        file.write(name + "\\n")
    if name == "last":
        pathlib.Path({str(flag)!r}).touch()
    """
    jobs = [
        Job([sys.executable, "-c", textwrap.dedent(code), name], name, tmp_path / f"{name}.log")
        for name in ("held", "other", "last")
    ]
    assert run_jobs(jobs, [Slot("one", {})], progress=False) == []
    assert order.read_text().split() == ["other", "last", "held"]
    assert capfd.readouterr().err.count("put off: held: runs/held is being worked on by process 7 on b\n") == 1


@pytest.mark.long
def test_two_launchers_at_one_sweep_share_it(tmp_path):
    command = [
        sys.executable,
        "-m",
        "invariance.train",
        "-m",
        "transform=rotation",
        "range=5,20",
        "model=tiny",
        "recipe=smoke",
        "logger=csv",
        "trainer=cpu",
        "progress=false",
        f"prepared={tmp_path}/prepared",
        f"runs={tmp_path}/runs",
        "hydra/launcher=local",
        "hydra.launcher.slots=1",
    ]
    with ThreadPoolExecutor(2) as both:
        ends = list(both.map(lambda _: subprocess.run(command, capture_output=True, text=True, check=False), range(2)))
    assert [one.returncode for one in ends] == [0, 0], [one.stdout + one.stderr for one in ends]
    [state] = read_sweeps(tmp_path / "runs")
    assert state.count("done") == 2
    # every network was trained by one of them; the other found it at work, or finished
    logs = list((tmp_path / "runs/.sweeps").glob("*/*/logs/*.log"))
    said = [log.read_text() for log in logs]
    assert sum("error " in text and "images of" in text for text in said) == 2, said
    assert {log.suffixes[-2] for log in logs} and len({log.name.split(".", 1)[1] for log in logs}) == 2


def test_another_s_training_is_left_to_it_before_anything_takes_long(tmp_path, compose, monkeypatch):
    from invariance.experiments import train, training

    monkeypatch.setattr(training, "train_network", lambda *_: pytest.fail("nothing is built"))
    quick = ["transform=rotation", "range=5", "model=tiny", "recipe=smoke", "logger=csv", "progress=false"]
    (place := tmp_path / "runs/train/digits/rotation_5/seed0").mkdir(parents=True)
    held = lock(place / ".lock")
    with pytest.raises(Busy, match="is being worked on by process"):
        train.train(compose("train", *quick, f"prepared={tmp_path}/prepared", f"runs={tmp_path}/runs"))
    os.close(held)


def test_one_process_writes_its_sweep_down_too(tmp_path):
    command = [
        sys.executable,
        "-m",
        "invariance.prepare",
        "-m",
        "data=digits",
        "size=16,0",
        "progress=false",
        f"prepared={tmp_path}/prepared",
        f"runs={tmp_path}/runs",
    ]
    assert subprocess.run(command, capture_output=True).returncode == 2
    [state] = read_sweeps(tmp_path / "runs")
    assert [job.state for job in state.jobs] == ["done", "failed"]
    assert "size=0" in state.jobs[1].why and state.jobs[1].shown.startswith("invariance-prepare data=digits size=0")


def test_who_launches_a_sweep_stands_in_its_folder_while_it_lives(tmp_path):
    begin_sweep(folder := sweep_folder(tmp_path, "train", ["a"]), ["a"])
    code = f"""
    import time
    from pathlib import Path
    from invariance.runs.sweep import launching
    with launching(Path({str(folder)!r})):
        print("begun", flush=True)
        time.sleep(60)
    """
    other = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    other.stdout.readline()
    with sweep.launching(folder):
        both = {me(), me().replace(f" {os.getpid()} ", f" {other.pid} ")}
        assert set(read_sweeps(tmp_path)[0].launchers) == both
    other.kill()
    other.wait()
    assert read_sweeps(tmp_path)[0].launchers == ()


def test_work_that_another_version_began_is_not_gone_on_with(tmp_path):
    with Run(tmp_path, "train/a", {"name": "a"}, progress=("part",)) as run:
        (run.directory / "part").touch()
    path = tmp_path / "train/a" / PROVENANCE
    held = json.loads(path.read_text())
    with Run(tmp_path, "train/a", {"name": "a"}, progress=("part",)):
        assert "continued" not in json.loads(path.read_text())
    path.write_text(json.dumps({**held, "commit": "0" * 40}))
    with Run(tmp_path, "train/a", {"name": "a"}, progress=("part",)):
        pass
    [again] = json.loads(path.read_text())["continued"]
    assert again["commit"] == held["commit"]
    path.write_text(json.dumps({**held, "commit": "0" * 40, "continued": 3}))  # damaged
    with Run(tmp_path, "train/a", {"name": "a"}, progress=("part",)):
        assert [one["commit"] for one in json.loads(path.read_text())["continued"]] == [held["commit"]]
    path.write_text(json.dumps({**held, "versions": {**held["versions"], "invariance": "0.0.9"}}))
    with pytest.raises(UserError, match=r"begun by invariance 0\.0\.9, and this is .*finish it with that version"):
        Run(tmp_path, "train/a", {"name": "a"}, progress=("part",)).__enter__()


def test_how_far_a_run_is_stands_in_its_folder_until_it_is_done(tmp_path):
    from invariance.runs.rows import to_frame

    with Run(tmp_path, "train/a", {"name": "a"}) as run:
        run.note(40, 100, "updates")
        run.note(41, 100, "updates")  # too soon after
        held = json.loads((run.directory / PROGRESS).read_text())
        assert (held["done"], held["of"], held["since"], held["unit"]) == (40, 100, 40, "updates")
        time.sleep(1.1)
        run.note(60, 100, "updates")
        held = json.loads((run.directory / PROGRESS).read_text())
        assert (held["done"], held["since"]) == (60, 40) and held["seconds"] >= 1
        run.finish(to_frame([]))
        assert not (run.directory / PROGRESS).exists()


def test_what_another_process_measures_is_left_to_it_and_the_rest_is_done(trained, compose, tmp_path):
    from shutil import copytree

    from invariance.experiments.measure import measure

    folder, places = trained
    copytree(folder / "runs/train", tmp_path / "runs/train")
    chosen = compose(
        "measure", *places, f"runs={tmp_path}/runs", "networks=baseline", "grids=[rotation,mirror]", "map=identity"
    )
    [rotation, mirror] = (tmp_path / "runs/measure/digits/baseline/seed0" / name for name in ("rotation", "mirror"))
    (rotation / "identity").mkdir(parents=True)
    held = lock(rotation / "identity" / ".lock")
    with pytest.raises(Busy, match="rotation/identity is being worked on by process"):
        measure(chosen)
    assert (mirror / "identity/done.json").exists() and not (rotation / "identity/done.json").exists()
    os.close(held)
    measure(chosen)
    assert (rotation / "identity/done.json").exists()


def test_what_another_process_finished_meanwhile_is_not_done_again(trained, compose, tmp_path, monkeypatch, capsys):
    from shutil import copytree

    from invariance.experiments.measure import measure
    from invariance.experiments.train import train

    folder, places = trained
    copytree(folder / "runs/train", tmp_path / "runs/train")
    places = [*places, f"runs={tmp_path}/runs"]
    quick = ["model=tiny", "recipe=smoke", "recipe.updates=120", "recipe.val_every=60", "recipe.step=100"]
    chosen = compose("measure", *places, "networks=baseline", "grids=[mirror]", "map=identity")
    measure(chosen)
    ends = {path: path.read_bytes() for path in (tmp_path / "runs").glob("**/done.json")}
    # as if they were finished right after the first look, before the lock was taken
    monkeypatch.setattr(Run, "done", property(lambda run: run._lock is not None and run.finished()))
    capsys.readouterr()
    train(compose("train", *places, *quick))
    measure(chosen)
    assert capsys.readouterr().out.count("finished already") == 2
    assert {path: path.read_bytes() for path in (tmp_path / "runs").glob("**/done.json")} == ends


def test_the_newest_attempt_decides_and_one_cut_short_takes_nothing_back(tmp_path):
    begin_sweep(folder := sweep_folder(tmp_path, "train", ["a"]), ["a"])
    state = lambda: read_sweeps(tmp_path)[0].jobs[0].state  # noqa: E731
    ended(folder, 0, UserError("no"))
    ended(folder, 0)
    assert state() == "done"
    ended(folder, 0, KeyboardInterrupt())
    ended(folder, 0, Busy("somebody is at it"))
    assert state() == "done"
    ended(folder, 0, UserError("another configuration"))
    assert state() == "failed" and read_sweeps(tmp_path)[0].jobs[0].why == "another configuration"
    ended(folder, 0, KeyboardInterrupt())
    assert state() == "stopped"
    with Attempt(folder, 0):
        assert state() == "running"


def test_a_job_is_done_for_as_long_as_its_runs_are_there(tmp_path):
    from shutil import rmtree

    from invariance.runs.rows import to_frame

    begin_sweep(folder := sweep_folder(tmp_path, "train", ["a"]), ["a"])
    with Attempt(folder, 0), Run(tmp_path, "train/a", {"name": "a"}) as run:
        run.finish(to_frame([]))
    assert read_sweeps(tmp_path)[0].count("done") == 1
    rmtree(tmp_path / "train")
    assert read_sweeps(tmp_path)[0].count("to do") == 1


def test_what_an_attempt_took_stands_there_also_when_it_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "_NOTE_EVERY", 0.0)
    begin_sweep(folder := sweep_folder(tmp_path, "train", ["a"]), ["a"])
    with Attempt(folder, 0), Run(tmp_path, "train/a", {"name": "a"}) as run:
        time.sleep(0.3)
        run.note(1, 2, "updates")
        assert read_sweeps(tmp_path)[0].jobs[0].seconds >= 0.3


def test_the_command_of_a_failed_job_typed_alone_is_an_attempt_at_it(tmp_path):
    command = [sys.executable, "-m", "invariance.prepare", f"runs={tmp_path}/runs", "data=digits"]
    alone = [*command, f"prepared={tmp_path}/file/x"]
    shown = ["invariance-prepare", *alone[3:]]
    begin_sweep(folder := sweep_folder(tmp_path / "runs", "prepare", [" ".join(shown)]), [" ".join(shown)])
    (tmp_path / "file").touch()
    assert subprocess.run(alone, capture_output=True).returncode == 2
    assert read_sweeps(tmp_path / "runs")[0].count("failed") == 1
    (tmp_path / "file").unlink()
    assert subprocess.run(alone, capture_output=True).returncode == 0
    assert read_sweeps(tmp_path / "runs")[0].count("done") == 1 and folder.is_dir()


def failing(folder, number, run=None):
    """An attempt that fails, at a run that it leaves undone."""
    with pytest.raises(UserError), Attempt(folder, number) as attempt:
        if run is not None:
            attempt.opened(run)
        raise UserError("no GPU")


def states_of(runs):
    return {job.shown: job.state for sweep in read_sweeps(runs) for job in sweep.jobs}


def test_a_failure_is_forgotten_once_its_runs_are_done_by_whatever_command(tmp_path):
    first, other = (tmp_path / f"train/digits/{name}/seed0" for name in ("blur_3", "shear_5"))
    jobs = ["invariance-train range=1", "invariance-train range=2", "invariance-train range=3"]
    begin_sweep(folder := sweep_folder(tmp_path, "train", jobs), jobs)
    other.mkdir(parents=True)
    (other / DONE).touch()
    failing(folder, 0, first)
    failing(folder, 1, other)  # what was done already says nothing of why it failed
    failing(folder, 2)
    assert set(states_of(tmp_path).values()) == {"failed"}
    first.mkdir(parents=True)
    (first / DONE).touch()
    assert list(states_of(tmp_path).values()) == ["done", "failed", "failed"]


def test_a_failure_before_any_run_is_mended_by_a_command_that_is_about_the_same(tmp_path):
    here = f"runs={tmp_path}"
    flags = "--config-dir /t --config-name paper_networks"
    jobs = [f"invariance-train data=ilsvrc network={name} {here} trainer=gpu {flags}" for name in ("blur_3", "shear_5")]
    begin_sweep(folder := sweep_folder(tmp_path, "train", jobs), jobs)
    failing(folder, 0)
    failing(folder, 1)
    other = f"invariance-train data=ilsvrc network=blur_3 {here} prepared=p trainer=cpu recipe.updates=3 {flags}"
    for unlike in (other.replace("blur_3", "blur_1.5"), other.replace("paper_networks", "mine"), jobs[1] + " range=3"):
        assert not failed_alike(tmp_path, "train", unlike, [])
    [found] = failed_alike(tmp_path, "train", other, [])
    assert found == (folder, 0) and failed_alike(tmp_path, "train", jobs[0], [(folder, 0)]) == []
    with pytest.raises(UserError), Mending(*found):
        raise UserError("again")
    assert states_of(tmp_path)[jobs[0]] == "failed"
    run = tmp_path / "train/ilsvrc/blur_3/seed0"
    with Mending(*found):
        opened(run)
        run.mkdir(parents=True)
        (run / DONE).touch()
    assert states_of(tmp_path) == {jobs[0]: "done", jobs[1]: "failed"}
    assert not failed_alike(tmp_path, "train", other, [])
    (run / DONE).unlink()
    assert states_of(tmp_path)[jobs[0]] == "to do"


def test_a_sweep_is_called_by_what_it_is():
    flags = "--config-dir /t --config-name paper_networks"
    names = [f"baseline_{k}" for k in range(1, 35)]
    jobs = [f"invariance-train data=ilsvrc 'data.root=/a b' network={name} 'runs=my runs' {flags}" for name in names]
    assert title("train", jobs) == "train paper_networks data=ilsvrc, network=baseline_1 … baseline_34"
    jobs = [f"invariance-measure networks=digits/{name} solver=ridge logger=csv" for name in ("a", "b")]
    assert title("measure", jobs) == "measure solver=ridge, networks=digits/a,digits/b"
    assert title("distance", ["invariance-distance 'networks=[a,b]'"]) == "distance networks=[a,b]"
    assert title("train", ["'"]) == title("train", []) == "train"
