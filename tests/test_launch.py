"""Jobs side by side on one machine: slots, failures that harm no other, and interruptions."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from invariance.errors import UserError
from invariance.launch import Job, Slot, run_jobs, slots_of

SLEEPER = """
import signal, sys, time
def ended(*_):
    print("ended in order", flush=True)
    sys.exit(130)
signal.signal(signal.SIGTERM, ended)
print("begun", flush=True)
time.sleep(60)
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
    begun = time.monotonic()
    assert run_jobs([job(tmp_path, f"j{k}", code) for k in range(4)], slots(2), progress=False) == []
    assert time.monotonic() - begun < 30
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
    failures = {one.job.shown: one.why for one in run_jobs(jobs, slots(2), progress=False)}
    assert failures == {
        "wrong": "rate=-1: give a number from 0", "killed": "killed by signal 9 (SIGKILL)",
        "crashed": "ValueError: no", "silent": "ended with status 3",
    }  # fmt: skip
    assert "all is well" in (tmp_path / "fine.log").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_when_the_launcher_ends_its_jobs_end_in_order(tmp_path, number):
    script = f"""
    import sys
    from pathlib import Path
    from invariance.launch import Job, Slot, run_jobs
    from invariance.runs.processes import signals_interrupt
    logs = [Path({str(tmp_path)!r}) / f"j{{k}}.log" for k in range(3)]
    jobs = [Job([sys.executable, "-c", {SLEEPER!r}], log.stem, log) for log in logs]
    with signals_interrupt():
        run_jobs(jobs, [Slot("a", {{}}), Slot("b", {{}})], progress=False)
    """
    launcher = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stderr=subprocess.PIPE)
    logs = [tmp_path / f"j{k}.log" for k in range(2)]
    until(lambda: all(log.exists() and "begun" in log.read_text() for log in logs))
    os.kill(launcher.pid, number)
    assert launcher.wait(60) != 0
    until(lambda: all("ended in order" in log.read_text() for log in logs))
    assert not (tmp_path / "j2.log").exists()


def until(holds):
    over = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < over, "nothing came"
        time.sleep(0.05)


def test_a_slot_is_a_gpu_or_some_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [one.environment for one in slots_of(None, None, 3, lambda: 0)] == [
        {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "3"}
    ] * 2
    assert [one.environment["CUDA_VISIBLE_DEVICES"] for one in slots_of(2, None, 1, lambda: 4)] == ["0", "1"]
    assert len(slots_of(None, 5, 1, lambda: 0)) == 5 and len(slots_of([], None, 1, lambda: 4)) == 8
    assert [one.environment["CUDA_VISIBLE_DEVICES"] for one in slots_of(None, None, 1, lambda: 4)] == list("0123")
    fourth = {"CUDA_VISIBLE_DEVICES": "3", "OMP_NUM_THREADS": "4"}
    assert slots_of([3, 1], None, 1, lambda: 4)[0] == Slot("GPU 3", fourth)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7f")
    assert [one.environment["CUDA_VISIBLE_DEVICES"] for one in slots_of(None, None, 1, lambda: 2)] == ["5", "GPU-7f"]


@pytest.mark.parametrize(
    ("gpus", "count", "cores", "said"),
    [
        ([2], None, 1, "this machine has 2 GPUs, numbered from 0; no 2"), ([0, 0], None, 1, "twice"),
        (3, None, 1, "gpus=3: this machine has 2 GPUs"), (0, None, 1, "give how many"),
        (True, None, 1, "give how many"),
        ("0", None, 1, "give how many"), (None, 3, 1, "one slot each"), ([], 0, 1, "slots=0"), ([], None, 0, "cores=0"),
        ([], None, 1.5, "cores=1.5"), ([-1], None, 1, "no -1"),
    ],
)  # fmt: skip
def test_what_the_machine_has_not_is_refused(gpus, count, cores, said):
    with pytest.raises(UserError, match=said):
        slots_of(gpus, count, cores, lambda: 2)


def test_a_sweep_side_by_side_ends_as_one_after_another(tmp_path, compose):
    from invariance.train import train

    quick = ["transform=rotation", "model=tiny", "recipe=smoke", "logger=csv", "trainer=cpu", "progress=false"]
    base = [sys.executable, "-m", "invariance.train", "-m", *quick, f"prepared={tmp_path}/prepared"]
    local = ["hydra/launcher=local", "hydra.launcher.slots=2", f"runs={tmp_path}/beside"]
    ended = subprocess.run([*base, *local, "range=5,10,999"], capture_output=True, text=True, timeout=280)
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
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert ended.stdout == "saved again\n", ended.stderr
