"""Jobs side by side on one machine: slots, failures that harm no other, and interruptions."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from importlib import import_module
from pathlib import Path

import pytest
import torch

from invariance.cli.command import command, find_plugins
from invariance.device import gpu_room
from invariance.errors import Busy, UserError
from invariance.launch.jobs import Job, Later, run_jobs, start
from invariance.launch.slots import Slot, shown_slots, slots_of
from invariance.runs import processes
from invariance.runs.locks import me
from invariance.runs.processes import signals_interrupt, uninterrupted
from invariance.runs.sweep import SWEEP_VARIABLE, Attempt, begin_sweep, read_sweeps, sweep_folder

SLEEPER = """
import signal, sys, time
def ended(*_):
    print("ended in order", flush=True)
    sys.exit(130)
signal.signal(signal.SIGTERM, ended)
print("begun", flush=True)
while True:
    signal.pause()
"""


def job(folder, name, code):
    return Job([sys.executable, "-c", textwrap.dedent(code)], name, folder / f"{name}.log")


def slots(n):
    return [Slot(f"slot {k}", {"PLACE": str(k)}) for k in range(n)]


def test_jobs_share_the_slots_and_each_sees_its_own(tmp_path):
    code = f"""
    import os, pathlib, time
    here = pathlib.Path({str(tmp_path)!r}) / f"in_{{os.environ['PLACE']}}"
    here.touch(exist_ok=False)  # nobody else is in this slot
    time.sleep(0.3)
    here.unlink()
    print("slot", os.environ["PLACE"])
    """
    assert run_jobs([job(tmp_path, f"j{k}", code) for k in range(4)], slots(2), progress=False) == []
    said = [(tmp_path / f"j{k}.log").read_text() for k in range(4)]
    assert {line.strip() for line in said} == {"slot 0", "slot 1"}


def test_a_job_that_fails_or_is_killed_harms_no_other(tmp_path):
    jobs = [
        job(tmp_path, "wrong", "import sys; print('error: rate=-1: give a number from 0'); sys.exit(2)"),
        job(tmp_path, "killed", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
        job(tmp_path, "crashed", "raise ValueError('no')"),
        job(tmp_path, "silent", "import sys; sys.exit(3)"),
        job(tmp_path, "fine", "print('all is well')"),
    ]
    failures = {one.shown: one.why for one in run_jobs(jobs, slots(2), progress=False)}
    assert failures == {
        "wrong": "rate=-1: give a number from 0",
        "killed": "killed by signal 9 (SIGKILL)",
        "crashed": "ValueError: no",
        "silent": "ended with status 3",
    }
    assert "all is well" in (tmp_path / "fine.log").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_when_the_launcher_ends_its_jobs_end_in_order(tmp_path, number):
    script = f"""
    import sys
    from pathlib import Path
    from invariance.launch.jobs import Job, run_jobs
    from invariance.launch.slots import Slot
    from invariance.runs.processes import signals_interrupt
    logs = [Path({str(tmp_path)!r}) / f"j{{k}}.log" for k in range(3)]
    jobs = [Job([sys.executable, "-c", {SLEEPER!r}], log.stem, log) for log in logs]
    with signals_interrupt():
        run_jobs(jobs, [Slot("a", {{}}), Slot("b", {{}})], progress=False)
    """
    launcher = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stderr=subprocess.PIPE, text=True)
    logs = [tmp_path / f"j{k}.log" for k in range(2)]
    until(lambda: all(log.exists() and "begun" in log.read_text() for log in logs))
    os.kill(launcher.pid, number)
    said = launcher.communicate()[1]
    assert launcher.returncode != 0
    assert ("waiting for 2 jobs to end in order" in said) == (number != signal.SIGKILL)
    until(lambda: all("ended in order" in log.read_text() for log in logs))
    assert not (tmp_path / "j2.log").exists()


def test_a_job_that_an_interruption_finds_at_its_start_is_waited_for_and_heeds_signals(tmp_path):
    sleeper, started = job(tmp_path, "j0", SLEEPER), []

    def begin(one, environment):
        started.append(start(one, environment))
        os.kill(os.getpid(), signal.SIGINT)
        until(lambda: "begun" in one.log.read_text())
        return started[0]

    try:
        with signals_interrupt(), pytest.raises(KeyboardInterrupt):
            run_jobs([sleeper], slots(1), progress=False, begin=begin)
        assert started[0].returncode is not None and "ended in order" in sleeper.log.read_text()
    finally:
        started[0].kill()
        started[0].wait()


def test_signals_that_another_thread_catches_wait_too():
    over, done = threading.Event(), []
    other = threading.Thread(target=over.wait)
    other.start()
    try:
        with signals_interrupt(), pytest.raises(KeyboardInterrupt):
            with uninterrupted():
                signal.pthread_kill(other.ident, signal.SIGTERM)
                until(lambda: processes._hold.came)
                done.append("in order")
        assert done
    finally:
        over.set()
        other.join()


def until(holds):
    while not holds():  # what never comes is ended by the suite's own limit
        time.sleep(0.05)


def test_a_job_that_could_not_write_why_it_failed_has_a_full_disk(tmp_path, monkeypatch):
    silent = job(tmp_path, "silent", "import sys; sys.exit(2)")
    [failure] = run_jobs([silent], slots(1), progress=False)
    assert failure.why == "ended with status 2"
    full = shutil.disk_usage(tmp_path)._replace(free=4096)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    [failure] = run_jobs([silent, job(tmp_path, "fine", "")], slots(1), progress=False)
    assert failure.why.startswith("ended with status 2 and could not write why: the disk of ") and failure.log.exists()


def test_what_is_put_off_is_tried_ever_more_seldom_and_told_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    later = Later(15.0)
    tries, told = [0.0], [later.put_off("a", "a", "runs/a is being worked on by process 7 on b" + Busy.remedy)]
    while len(tries) < 8:
        now[0] += 5
        for one in later.due():
            tries.append(now[0])
            told.append(later.put_off(one, one, "still"))
    assert [b - a for a, b in zip(tries, tries[1:], strict=False)] == [15, 30, 60, 120, 240, 300, 300]
    assert told == ["put off: a: runs/a is being worked on by process 7 on b", *[""] * 7]


@pytest.fixture
def one_after_another(tmp_path, monkeypatch, capfd):
    """Runs `do(size)` as the jobs of a sweep in this process; gives its status, and what was printed."""
    find_plugins()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(import_module("hydra_plugins.invariance_one_launcher"), "AGAIN", 0.2)
    monkeypatch.setenv(SWEEP_VARIABLE, "")
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def run(sizes, do, *more):
        monkeypatch.setattr(sys, "argv", ["invariance-prepare", "-m", f"size={sizes}", *more])
        status = 0
        try:
            command("prepare", lambda config: do(config["size"]))
        except SystemExit as end:
            status = end.code
        return status, *capfd.readouterr()

    return run


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ("range(1,1000000000)", "error: size=range(1,1000000000): these are more than 100,000 jobs; sweep over fewer"),
        ("range(1,inf)", "error: size=range(1,inf): these are more than"),
        ("range(1.5,9.5,0)", "error: size=range(1.5,9.5,0): a step of 0 leads nowhere"),
        ("range(5,1)", "error: size=range(5,1): this names nothing"),
        ("interval(1,5)", "error: "),
        ("0,-1", "error: size=0: give"),
        (
            "2,1,3,1,3",
            "error: size=2,1,3,1,3: 1, 3 are there more than once, and two jobs would be the same; write each",
        ),
        ("choice(7,7)", "error: size=choice(7,7): 7 is there more than once"),
        (
            "7,7.0",
            "error: two jobs of this sweep are the same: invariance-prepare size=7 data=digits and invariance-prep",
        ),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_before_its_first_job(one_after_another, tmp_path, sizes, said):
    done = []
    status, _, err = one_after_another(sizes, done.append, "data=digits")
    assert status == 2 and err.splitlines()[-1].startswith(said) and "Traceback" not in err and not done
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["runs=[a]"], "error: runs=['a'] is not a folder; give a path"),
        (["runs=null"], "error: runs=None is not a"),
        (["runs='~nobody at all/r'"], "error: runs='~nobody at all/r': there is no such user's home folder"),
        (["hydra.sweep.dir=[a]"], "error: hydra.sweep.dir=[a]: Cannot convert 'list' to string"),
        (["hydra.job.name=foo"], "error: hydra.job.name=foo: a sweep of invariance-prepare goes by the name prepare"),
        (
            ["hydra.job.name=train"],
            "error: hydra.job.name=train: a sweep of invariance-prepare goes by the name prepare",
        ),
    ],
)
def test_a_sweep_without_a_folder_or_its_name_is_refused_and_writes_nothing(one_after_another, tmp_path, more, said):
    for launcher in ("one", "dry"):
        done = []
        status, _, err = one_after_another("1,2", done.append, "data=digits", f"hydra/launcher={launcher}", *more)
        assert status == 2 and err.startswith(said) and len(err.splitlines()) == 1 and not done
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("launcher", ["one", "dry"])
def test_a_sweep_none_of_whose_jobs_has_right_keys_is_refused(one_after_another, launcher):
    done = []
    arguments = ("1,2", done.append, "data=digits", f"hydra/launcher={launcher}")
    status, _, err = one_after_another(*arguments, "+foo=1,2")
    assert status == 2 and err.startswith("error: unknown key 'foo'") and not done and not Path("runs").exists()
    status, _, err = one_after_another(*arguments, "+foo=1,2", "prepared=p${foo}")  # one of one's own
    assert (status, done) == (0, [1, 1, 2, 2] if launcher == "one" else [])


def test_a_sweep_s_home_is_the_user_s(one_after_another, tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    done = []
    assert one_after_another("1,2", done.append, "data=digits", "runs='~/r'")[0] == 0 and done == [1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert list(tmp_path.glob("home/r/.sweeps/prepare/*/jobs.json"))


def test_a_sweep_in_batches_is_one_sweep(one_after_another, tmp_path):
    done = []
    status, out, _ = one_after_another("1,2,3", done.append, "data=digits", "hydra.sweeper.max_batch_size=2")
    assert (status, done) == (0, [1, 2, 3]) and "job 2 of 2" in out and "job 1 of 1" in out
    [sweep] = read_sweeps(tmp_path / "runs")
    assert [job.state for job in sweep.jobs] == ["done"] * 3


def test_a_family_is_swept_over_once():
    find_plugins()
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra_plugins.invariance_sweeper import FamilySweeper

    with pytest.raises(UserError, match="transform=rotation,blur,rotation: rotation is there more than once"):
        FamilySweeper.split_arguments(OverridesParser.create().parse_overrides(["transform=rotation,blur,rotation"]), 3)


def test_one_after_another_a_failure_harms_no_other_and_is_named_at_the_end(one_after_another):
    done = []

    def do(size):
        if size == 1:
            raise UserError("size=1: no")
        if size == 2:
            raise ZeroDivisionError("by\nnothing")
        done.append(size)

    status, out, err = one_after_another("1,2,3", do)
    assert (status, done) == (2, [3])
    assert "failed: size=1: no\n  again: invariance-prepare size=1\n" in out
    assert "failed: ZeroDivisionError: by nothing\n  again: invariance-prepare size=2\n" in out
    assert err.count("Traceback") == 1 and err.index("Traceback") < err.index("failed: invariance-prepare size=2: Zero")
    assert err.splitlines()[-1] == "error: 2 of 3 jobs failed, for the reasons above; the others are done"
    assert [job.state for job in read_sweeps(Path("runs"))[0].jobs] == ["failed", "failed", "done"]


def test_one_after_another_a_failure_keeps_nothing_in_memory(one_after_another):
    class Big:
        pass

    held, alive = [], []

    def do(size):
        alive.append(sum(one() is not None for one in held))
        big = Big()
        held.append(weakref.ref(big))
        if size != 3:
            raise UserError("no") if size == 1 else RuntimeError("out of memory")

    gc.disable()
    try:
        assert one_after_another("1,2,3", do)[0] == 2
    finally:
        gc.enable()
    assert alive == [0, 0, 0]


def test_one_after_another_what_others_work_at_is_waited_for(one_after_another):
    tries = []

    def do(size):
        tries.append(size)
        assert [sweep.launchers for sweep in read_sweeps(Path("runs"))] == [(me(),)]
        if size == 1 and len(tries) < 4:
            raise Busy("runs/a is being worked on by process 7 on b")

    status, _, err = one_after_another("1,2", do)
    assert (status, tries) == (0, [1, 2, 1, 1])
    assert err == "put off: invariance-prepare size=1: runs/a is being worked on by process 7 on b\n"
    [sweep] = read_sweeps(Path("runs"))
    assert sweep.count("done") == 2 and sweep.launchers == ()
    assert len(list(Path("runs").rglob("attempts/*"))) == 2  # tries leave none


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_after_another_an_interruption_ends_all(one_after_another, number):
    done = []

    def do(size):
        done.append(size)
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt as error:
            raise ImportError("what an interruption can become") from error

    status, _, err = one_after_another("1,2", do)
    assert (status, done) == (130, [1]) and err.startswith("error: interrupted") and "Traceback" not in err


def test_one_after_another_all_tracebacks_are_shown_if_wanted(one_after_another, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    def do(size):
        raise UserError(f"size={size}: no")

    with pytest.raises(UserError, match="2 of 2 jobs failed"):
        one_after_another("1,2", do)


def test_a_slot_is_a_gpu_or_some_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("TORCHINDUCTOR_COMPILE_THREADS", raising=False)
    assert [one.environment for one in slots_of(None, None, 3, lambda: 0)] == [
        {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "3", "TORCHINDUCTOR_COMPILE_THREADS": "3"}
    ] * 2
    assert [one.environment["CUDA_VISIBLE_DEVICES"] for one in slots_of(2, None, 1, lambda: 4)] == ["0", "1"]
    assert len(slots_of(None, 5, 1, lambda: 0)) == 5 and len(slots_of([], None, 1, lambda: 4)) == 8
    assert [one.environment["CUDA_VISIBLE_DEVICES"] for one in slots_of(None, None, 1, lambda: 4)] == list("0123")
    fourth = {"CUDA_VISIBLE_DEVICES": "3", "OMP_NUM_THREADS": "4", "TORCHINDUCTOR_COMPILE_THREADS": "4"}
    assert slots_of([3, 1], None, 1, lambda: 4)[0] == Slot("GPU 3", fourth)
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "9")  # which was meant
    assert slots_of([3, 1], None, 1, lambda: 4)[0].environment == {**fourth, "TORCHINDUCTOR_COMPILE_THREADS": "9"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7f")
    assert [one.environment["CUDA_VISIBLE_DEVICES"] for one in slots_of(None, None, 1, lambda: 2)] == ["5", "GPU-7f"]


def test_a_gpu_has_as_many_slots_as_wanted_and_few_jobs_have_one_each(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(13)), raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    there = slots_of(None, None, 1, lambda: 2, 3)
    assert [one.name for one in there] == [f"GPU {gpu} ({k} of 3)" for k in (1, 2, 3) for gpu in (0, 1)]
    assert [one.environment["CUDA_VISIBLE_DEVICES"] for one in there] == ["5", "7"] * 3
    assert {one.environment["OMP_NUM_THREADS"] for one in there} == {"2"}
    assert shown_slots(there) == "6 slots on 2 × GPU" and shown_slots(there[:2]) == "2 × GPU"
    assert shown_slots(there[:1]) == "GPU 0 (1 of 3)" and shown_slots(slots(4)) == "4 × slot"
    memory = {"whole": 140.0, "free": 140.0}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (memory["free"], memory["whole"]))
    assert gpu_room(torch.device("cuda")) == 140
    for name, value in slots_of([1], None, 1, lambda: 2, 2)[0].environment.items():
        monkeypatch.setenv(name, value)
    assert gpu_room(torch.device("cuda")) == 70  # what two that begin together see
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 10)
    assert gpu_room(torch.device("cuda")) == 60  # of its share, ten are in use
    memory["free"] = 50.0
    assert gpu_room(torch.device("cuda")) == 50
    for gpus, per_gpu, said in (([], 2, "per_gpu=2: no GPU is used"), (None, 0, "per_gpu=0: give a whole number")):
        with pytest.raises(UserError, match=said):
            slots_of(gpus, None, 1, lambda: 2, per_gpu)


@pytest.mark.parametrize(
    ("gpus", "count", "cores", "said"),
    [
        ([2], None, 1, "this machine has 2 GPUs, numbered from 0; no 2"),
        ([0, 0], None, 1, "twice"),
        (3, None, 1, "gpus=3: this machine has 2 GPUs"),
        (0, None, 1, "give how many"),
        (True, None, 1, "give how many"),
        ("0", None, 1, "give how many"),
        (None, 3, 1, "per_gpu=1 slots on each"),
        ([], 0, 1, "slots=0"),
        ([], None, 0, "cores=0"),
        ([], None, 1.5, "cores=1.5"),
        ([-1], None, 1, "no -1"),
        ([], 200_000_000, 1, "slots=200000000: give a whole number from 1 to 4096"),
        ([], None, 4097, "cores=4097"),
    ],
)
def test_what_the_machine_has_not_is_refused(gpus, count, cores, said):
    with pytest.raises(UserError, match=said):
        slots_of(gpus, count, cores, lambda: 2)


def test_there_are_no_more_slots_than_jobs(one_after_another, tmp_path, monkeypatch):
    launcher = import_module("hydra_plugins.invariance_launcher")
    had = []
    monkeypatch.setattr(launcher, "run_jobs", lambda jobs, slots, **_: had.append((len(jobs), len(slots))) or [])
    for slots in (1, 4096):
        local = ("hydra/launcher=local", "hydra.launcher.gpus=[]", "hydra.launcher.fork=false")
        local += (f"hydra.launcher.slots={slots}",)
        one_after_another("1,2", None, "data=digits", *local)
    assert had == [(2, 1), (2, 2)]


@pytest.mark.long
def test_a_sweep_side_by_side_ends_as_one_after_another(tmp_path, compose):
    from invariance.experiments.train import train

    quick = ["transform=rotation", "model=tiny", "recipe=smoke", "logger=csv", "trainer=cpu", "progress=false"]
    base = [sys.executable, "-m", "invariance.train", "-m", *quick, f"prepared={tmp_path}/prepared"]
    local = ["hydra/launcher=local", "hydra.launcher.slots=2", f"runs={tmp_path}/beside"]
    ended = subprocess.run([*base, *local, "range=5,10,999"], capture_output=True, text=True)
    assert ended.returncode == 2
    assert "failed: rotation: range=999" in ended.stdout
    [again] = [line for line in ended.stdout.splitlines() if line.startswith("  again: invariance-train ")]
    assert again.endswith("range=999")
    assert ended.stderr.strip().splitlines()[-1].startswith("error: 1 of 3 jobs failed")
    for reach in (5, 10):
        train(compose("train", *quick, f"prepared={tmp_path}/prepared", f"runs={tmp_path}/after", f"range={reach}"))
    for network in ("rotation_5", "rotation_10"):
        place = f"train/digits/{network}/seed0/rows.csv"
        assert (tmp_path / "beside" / place).read_bytes() == (tmp_path / "after" / place).read_bytes()


@pytest.mark.skipif(not hasattr(os, "login_tty"), reason="no terminals here")
def test_a_terminal_that_closes_lets_a_command_save_its_state(tmp_path):
    code = f"""
    import os, sys, time
    from pathlib import Path
    os.login_tty(0)
    from invariance.cli.command import command
    def job(config):
        try:
            print("begun", flush=True)
            while True:
                time.sleep(0.01)
        finally:
            print("what a progress bar prints at its end", flush=True)
            Path({str(tmp_path / "saved")!r}).touch()
    sys.argv = ["invariance-prepare"]
    command("prepare", job)
    """
    here, there = os.openpty()
    one = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdin=there, cwd=tmp_path)
    os.close(there)
    while b"begun" not in os.read(here, 1000):
        pass
    os.close(here)
    assert one.wait() == 130 and (tmp_path / "saved").exists()


def test_signals_that_come_together_are_one():
    code = """
    import os, signal, sys, time
    from invariance.runs import processes
    processes._TOGETHER = 0.5
    kept = []
    with processes.signals_interrupt():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            os.kill(os.getpid(), signal.SIGTERM)  # SLURM's, by way of another process: must not end the ending
            kept.append("saved")
        try:
            time.sleep(0.6)
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            kept.append("again")
    print(*kept)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert ended.stdout == "saved again\n", ended.stderr


def sweep_of(*arguments):
    """A sweep's command and how it ended."""
    command = [sys.executable, "-m", "invariance.train", "-m", "model=tiny", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def test_a_gpu_that_is_not_there_is_refused_once_and_no_job_begins(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    ended = sweep_of("network=baseline_1,baseline_2", "trainer=gpu", "hydra/launcher=local", f"runs={tmp_path}/runs")
    assert ended.returncode == 2 and ended.stderr.count("torch finds no GPU on this machine") == 1
    assert not list(tmp_path.glob("runs/.sweeps/train/*/*"))


def test_a_dry_run_tells_every_job_and_how_far_it_is_and_writes_nothing(tmp_path):
    runs = tmp_path / "runs"
    arguments = ("network=baseline_1,baseline_2,blur_3", f"runs={runs}")
    told = sweep_of(*arguments, "trainer=gpu", "hydra/launcher=dry")
    assert told.returncode == 0 and told.stdout.startswith("3 jobs: 3 to do\n  to do: invariance-train model=tiny")
    assert not runs.exists()
    names = ("baseline_1", "baseline_2", "blur_3")
    jobs = [f"invariance-train model=tiny network={name} runs={runs}" for name in names]
    begin_sweep(folder := sweep_folder(runs, "train", jobs), jobs)
    with Attempt(folder, 1):
        pass
    with pytest.raises(UserError), Attempt(folder, 2):
        raise UserError("no")
    there = sorted(runs.rglob("*"))
    told = sweep_of(*arguments, "hydra/launcher=dry").stdout
    assert told == f"3 jobs: 1 to do, 1 done, 1 failed\n  to do: {jobs[0]}\n  failed: {jobs[2]}\n"
    assert sorted(runs.rglob("*")) == there
    assert "unknown key" in sweep_of("transfrm=blur", "seed=1,2", "hydra/launcher=dry").stderr
