"""Jobs that are forked from a process with their libraries: each to itself all the same, and none lost with it."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from invariance.launch.forks import Forked, Forks
from invariance.launch.jobs import Job, run_jobs
from invariance.launch.slots import Slot

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="jobs are forked on Linux alone")

TASK = """
import json, os, signal, sys, threading, time

if __name__ == "__main__":
    match sys.argv[1:]:
        case ["tell"]:
            import numpy as np
            here = {"argv": sys.argv, "session": os.getsid(0), "process": os.getpid(), "parent": os.getppid()}
            here |= {"spec": sys.modules["__main__"].__spec__.name, "stdin": sys.stdin.read()}
            here |= {"environment": dict(os.environ), "open": sorted(os.listdir("/proc/self/fd"))}
            here |= {"drawn": np.random.random(), "forked": "invariance.experiments.status" in sys.modules}
            here |= {"frozen": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "threads": threading.active_count()}
            here |= {"blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))}
            print(json.dumps(here))
        case ["wrong"]:
            print("error: rate=-1: give a number from 0")
            sys.exit(2)
        case ["killed"]:
            os.kill(os.getpid(), signal.SIGKILL)
        case ["crashed"]:
            raise ValueError("no")
        case ["silent"]:
            sys.exit(3)
        case ["wait"]:
            def ended(*_):
                print("ended in order", flush=True)
                sys.exit(130)
            signal.signal(signal.SIGTERM, ended)
            print("begun", flush=True)
            while True:
                signal.pause()
        case ["once", seen]:
            if os.path.exists(seen):
                print("forked" if "invariance.experiments.status" in sys.modules else "whole")
                sys.exit()
            open(seen, "x").close()
            while True:
                time.sleep(1)
        case ["leave"]:
            here = os.getpid()
            if (left := os.fork()) == 0:
                while os.getppid() == here:
                    time.sleep(0.01)
                os._exit(0)
            print(left)
            sys.exit(3)
"""


@pytest.fixture
def task(tmp_path, monkeypatch):
    """Makes jobs of a module that does as it is told."""
    (tmp_path / "task_of_forks.py").write_text(TASK, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    def make(name, number=0, *more, **environment):
        command = [sys.executable, "-m", "task_of_forks", name, *more]
        return Job(command, f"{name} {number}", tmp_path / "logs" / f"{name}{number}.log", environment)

    return make


def sharing(folder):
    """Forks jobs from a process that has imported what `invariance-status` needs: little."""
    return Forks("status", {"PLACE": "here"}, folder / "logs" / "imports.log")


def until(holds):
    while not holds():  # what never comes is ended by the suite's own limit
        time.sleep(0.02)


def test_each_job_is_to_itself_as_if_it_was_started_whole(task, tmp_path):
    jobs = [task("tell", k, INVARIANCE_JOB=str(k)) for k in range(2)]
    places = [Slot(f"GPU {k}", {"PLACE": "here", "CUDA_VISIBLE_DEVICES": str(k)}) for k in range(2)]
    other, whole = task("tell", 2), task("tell", 3, INVARIANCE_JOB="3")
    with sharing(tmp_path) as forks:
        assert run_jobs(jobs, places, progress=False, begin=forks.start) == []
        # a variable that libraries may have read while they were imported
        assert run_jobs([other], [Slot("slot", {"PLACE": "there"})], progress=False, begin=forks.start) == []
    assert run_jobs([whole], places[1:], progress=False) == []
    told = [json.loads(job.log.read_text()) for job in [*jobs, other, whole]]
    assert [one["forked"] for one in told] == [True, True, False, False]
    assert told.pop(2)["environment"]["PLACE"] == "there"
    assert told[0]["parent"] == told[1]["parent"] not in (os.getpid(), told[0]["process"])
    assert len({one["drawn"] for one in told}) == len({one["process"] for one in told}) == 3
    own = [(one["environment"].pop("INVARIANCE_JOB"), one["environment"].pop("CUDA_VISIBLE_DEVICES")) for one in told]
    assert own == [("0", "0"), ("1", "1"), ("3", "1")]
    for one in told:
        assert one["session"] == one["process"] and one["environment"]["PLACE"] == "here"
        assert "HYDRA_FULL_ERROR" not in one["environment"]
        for same in ("argv", "spec", "stdin", "environment", "frozen", "threads", "blocked", "open"):
            assert one[same] == told[2][same], same


def test_a_job_that_fails_or_is_killed_harms_no_other(task, tmp_path):
    jobs = [task(name) for name in ("wrong", "killed", "crashed", "silent", "tell")]
    slots = [Slot(f"slot {k}", {"PLACE": "here"}) for k in range(2)]
    with sharing(tmp_path) as forks:
        failures = {one.shown: one.why for one in run_jobs(jobs, slots, progress=False, begin=forks.start)}
    assert failures == {
        "wrong 0": "rate=-1: give a number from 0",
        "killed 0": "killed by signal 9 (SIGKILL)",
        "crashed 0": "ValueError: no",
        "silent 0": "ended with status 3",
    }


def test_a_signal_that_comes_with_the_start_is_not_lost(task, tmp_path):
    with sharing(tmp_path) as forks:
        started = [forks.start(task("wait", k), {"PLACE": "here"}) for k in range(12)]
        assert all(isinstance(process, Forked) for process in started)
        for process in started:
            process.terminate()
        assert {process.wait(60) for process in started} <= {-signal.SIGTERM, 130}
    with pytest.raises(ProcessLookupError):
        os.kill(started[0].pid, 0)


def test_when_the_process_that_jobs_come_from_is_killed_they_end_in_order_and_begin_again_whole(task, tmp_path, capfd):
    slots = [Slot("a", {"PLACE": "here"}), Slot("b", {"PLACE": "here"})]
    seen = tmp_path / "seen"
    jobs, begun = [task("once", 0, str(seen)), task("wait"), task("tell")], []

    def begin(job, environment):
        begun.append(forks.start(job, environment))
        if job is jobs[0]:
            until(seen.exists)
        if job is jobs[1]:
            until(lambda: "begun" in job.log.read_text())
            os.kill(server_of(begun[0]), signal.SIGKILL)
            begun[1].terminate()  # one that is told to end is not begun again
        return begun[-1]

    with sharing(tmp_path) as forks:
        failures = run_jobs(jobs, slots, progress=False, begin=begin)
    assert [one.shown for one in failures] == ["wait 0"]
    assert failures[0].log.read_text().splitlines() == ["begun", "ended in order"]
    assert jobs[0].log.read_text() == "whole\n" and not json.loads(jobs[2].log.read_text())["forked"]
    assert capfd.readouterr().out.count("the process that jobs came from is lost (it ended with status -9)") == 1


def server_of(process):
    return int(Path(f"/proc/{process.pid}/stat").read_text().split()[3])


def test_an_answer_that_is_lost_is_asked_for_again_and_what_a_job_leaves_behind_is_waited_for(task, tmp_path):
    with sharing(tmp_path) as forks:
        job = task("leave")
        process = forks.start(job, {"PLACE": "here"})
        until(lambda: forks.ask("poll", process=process.pid)["status"] is not None)
        assert process.poll() == forks.ask("poll", process=process.pid)["status"] == 3
        left = Path("/proc") / job.log.read_text().strip()
        until(lambda: forks.ask("poll", process=process.pid) and not left.exists())


def test_a_folder_that_matplotlib_makes_where_it_may_write_nowhere_goes_with_the_process(tmp_path):
    code = """
    import os, socket, sys
    from invariance.cli import fork_server
    here, there = socket.socketpair()
    def imported(page):
        import matplotlib
        return fork_server.unfit() + os.environ["MPLCONFIGDIR"]
    fork_server.import_for = imported
    sys.argv[1:] = [str(there.detach()), str(os.getpid()), "report"]
    here.shutdown(socket.SHUT_WR)  # nobody asks for a job
    if os.fork() == 0:
        fork_server.main()
    os.wait()
    os.close(int(sys.argv[1]))
    print(here.recv(9999).decode())
    """
    nowhere = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"), "/dev/null/none")
    environment = {**os.environ, **nowhere, "TMPDIR": str(tmp_path)}
    environment.pop("MPLCONFIGDIR", None)
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=environment
    )
    assert f"{tmp_path}/matplotlib-" in ended.stdout, ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_when_the_launcher_ends_its_jobs_end_in_order(task, tmp_path, number):
    script = f"""
    from pathlib import Path
    import sys
    from invariance.launch.forks import Forks
    from invariance.launch.jobs import Job, run_jobs
    from invariance.launch.slots import Slot
    from invariance.runs.processes import signals_interrupt
    folder = Path({str(tmp_path)!r})
    jobs = [Job([sys.executable, "-m", "task_of_forks", "wait"], str(k), folder / f"{{k}}.log") for k in range(3)]
    with signals_interrupt(), Forks("status", {{}}, folder / "imports.log") as forks:
        run_jobs(jobs, [Slot("a", {{}}), Slot("b", {{}})], progress=False, begin=forks.start)
    """
    launcher = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stderr=subprocess.PIPE, text=True)
    logs = [tmp_path / f"{k}.log" for k in range(2)]
    until(lambda: all(log.exists() and "begun" in log.read_text() for log in logs))
    os.kill(launcher.pid, number)
    said = launcher.communicate()[1]
    assert launcher.returncode != 0
    assert ("waiting for 2 jobs to end in order" in said) == (number != signal.SIGKILL)
    until(lambda: all("ended in order" in log.read_text() for log in logs))
    assert not (tmp_path / "2.log").exists() and not (tmp_path / "imports.log").exists() == (number != signal.SIGKILL)


def test_where_libraries_cannot_be_shared_it_is_said_and_jobs_start_whole(task, tmp_path, capfd):
    log = tmp_path / "logs" / "imports.log"
    with Forks("nothing", {}, log) as forks:
        assert run_jobs([task("tell")], [Slot("a", {})], progress=False, begin=forks.start) == []
    assert "they cannot be shared: ModuleNotFoundError: No module named 'invariance.exp" in capfd.readouterr().out
    assert not json.loads(task("tell").log.read_text())["forked"] and not log.exists()


def test_a_process_with_threads_or_a_gpu_is_not_forked():
    code = """
    import sys, threading
    from types import SimpleNamespace as Namespace
    from invariance.cli.fork_server import unfit
    print(unfit() or "fit")
    for cuda in (Namespace(is_initialized=lambda: True), Namespace(is_initialized=int, _is_in_bad_fork=lambda: True)):
        sys.modules["torch"] = Namespace(cuda=cuda)
        print(unfit())
    del sys.modules["torch"]
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    print(unfit())
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    gpu = "a library uses a GPU as soon as it is imported"
    threads = "a library runs threads as soon as it is imported (python, python)"
    assert ended.stdout.splitlines() == ["fit", gpu, gpu, threads], ended.stderr


def test_variables_that_libraries_set_are_there_in_jobs(task, tmp_path):
    log = tmp_path / "log"
    log.touch()
    job = {"module": "task_of_forks", "arguments": ["tell"], "environment": {"A": "1"}, "log": str(log)}
    code = f"from invariance.cli.fork_server import become; become({job}, {{'TORCHINDUCTOR_CACHE_DIR': 'here'}})"
    subprocess.run([sys.executable, "-c", code], check=True)
    told = json.loads(log.read_text())
    assert told["environment"].items() >= {"A": "1", "TORCHINDUCTOR_CACHE_DIR": "here"}.items()


@pytest.mark.long
def test_rows_and_provenance_are_those_of_jobs_that_are_started_whole(tmp_path):
    quick = ["model=tiny", "recipe=smoke", "recipe.updates=40", "recipe.val_every=20", "recipe.step=30", "logger=csv"]
    places = [f"prepared={tmp_path}/prepared", "trainer=cpu", "progress=false"]
    local = ["hydra/launcher=local", "hydra.launcher.slots=1", "hydra.launcher.cores=2"]
    for fork in ("true", "false"):
        sweep = ["-m", "invariance.train", "-m", "seed=0,1", f"runs={tmp_path}/{fork}", f"hydra.launcher.fork={fork}"]
        subprocess.run([sys.executable, *sweep, *quick, *places, *local], check=True, capture_output=True)
    for seed in (0, 1):
        forked, whole = (tmp_path / fork / f"train/digits/baseline/seed{seed}" for fork in ("true", "false"))
        assert (forked / "rows.csv").read_bytes() == (whole / "rows.csv").read_bytes()
        told, other = (json.loads(Path(run / "provenance.json").read_text()) for run in (forked, whole))
        assert told["threads"] == other["threads"] == 2 and told["environment"] == other["environment"]
