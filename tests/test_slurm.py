"""The SLURM launcher: its settings and refusals anywhere, all else on a real cluster of one node (slurm_cluster.sh)."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from invariance.cli.messages import explain
from invariance.data.manifest import MANIFEST
from invariance.errors import UserError
from invariance.launch import slurm, slurm_memory, slurm_states
from invariance.launch.jobs import BUSY, Job

submitit = pytest.importorskip("submitit", reason="submitit is not installed: pip install 'invariance[slurm]'")
SCRIPT = Path(__file__).with_name("slurm_cluster.sh")
PROGRAMS = ("munged", "mariadbd", "my_print_defaults", "slurmdbd", "slurmctld", "slurmd", "sbatch")
QUICK = ["model=tiny", "recipe=smoke", "logger=csv", "trainer=cpu", "progress=false", "transform=rotation"]
TWO = min(2, len(os.sched_getaffinity(0)))
SMALL = {
    "gpus_per_node": None,
    "cpus_per_task": 1,
    "mem_gb": 1,
    "partition": "low",
    "timeout_min": 10,
    "signal_delay_s": 60,
    "max_num_timeout": 3,
    "array_parallelism": 8,
}


# --- without a cluster ---


@pytest.fixture
def settings(compose):
    """The launcher's settings as its file has them, with changes."""

    def made(**changes):
        from hydra import compose as composed
        from hydra import initialize_config_dir
        from omegaconf import OmegaConf

        from invariance.settings.files import conf_dir

        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = composed("train", overrides=["hydra/launcher=slurm"], return_hydra_config=True)
        launcher = OmegaConf.to_container(config.hydra.launcher, resolve=False)
        del launcher["_target_"]
        return {**launcher, "name": "train", **changes}

    return made


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A machine with SLURM's commands on it, none of which is called."""
    for name in ("sbatch", "squeue", "srun"):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\nexit 1\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")


def script_of(executor):
    """The batch script that submitit would hand to sbatch."""
    return executor._executor._make_submission_file_text("COMMAND", "id").splitlines()


def test_the_settings_become_sbatchs_parameters(settings, programs, tmp_path):
    chosen = settings(
        partition="gpu",
        account="vision",
        qos="long",
        constraint="a100",
        timeout_min=90,
        signal_delay_s=100,
        mem_gb=24,
        setup=["module load cuda"],
        additional_parameters={"mail-type": "END"},
    )
    lines = script_of(slurm.build_executor(chosen, tmp_path / "submitit" / "%j"))
    flags = dict(re.fullmatch(r"#SBATCH --([\w-]+)=?(.*)", line).groups() for line in lines if line[:7] == "#SBATCH")
    wanted = {
        "partition": "gpu",
        "account": "vision",
        "qos": "long",
        "constraint": "a100",
        "time": "90",
        "mem": "24GB",
        "signal": "USR2@100",
        "requeue": "",
        "open-mode": "append",
        "gpus-per-node": "1",
        "cpus-per-task": "4",
        "nodes": "1",
        "ntasks-per-node": "1",
        "job-name": "train",
        "mail-type": "END",
    }
    assert {key: flags.get(key) for key in wanted} == wanted
    assert lines.index("module load cuda") < next(k for k, line in enumerate(lines) if line.startswith("srun "))
    assert any(line.startswith("export SRUN_CPUS_PER_TASK=") for line in lines)


def test_the_files_own_settings_are_accepted(settings, programs, tmp_path):
    chosen = settings()
    executor = slurm.build_executor(chosen, tmp_path / "%j")
    assert executor._executor.max_num_timeout == chosen["max_num_timeout"] >= 100
    assert 0 < slurm.patience_of(chosen) < chosen["signal_delay_s"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"timeout_min": 0}, r"hydra.launcher.timeout_min=0: give a whole number from 2"),
        ({"timeout_min": 3, "signal_delay_s": 120}, "told to end as soon as it begins"),
        ({"nodes": 2}, "one process on one node"),
        ({"tasks_per_node": 4}, "one process on one node"),
        ({"array_parallelism": 0}, "array_parallelism=0"),
        ({"max_num_timeout": -1}, "max_num_timeout=-1"),
        ({"x": 1}, r"unknown key 'hydra.launcher.x' \(what sbatch knows beside goes into"),
        ({"timeot_min": 30}, "unknown key 'hydra.launcher.timeot_min'; did you mean 'timeout_min'"),
        ({"timeout_min": None}, "timeout_min=None: give a whole number from 2"),
        ({"max_num_timeout": None}, "max_num_timeout=None: give a whole number from 0"),
        ({"cpus_per_task": 0}, "cpus_per_task=0"),
        ({"signal_delay_s": 1}, "signal_delay_s=1: .* from 30"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, programs, tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        slurm.build_executor(settings(**changes), tmp_path / "%j")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("null", "hydra.launcher.timeout_min=null: it cannot be null; give a value"),
        ("soon", "hydra.launcher.timeout_min=soon: Value 'soon' of type 'str' could not be converted to Integer"),
    ],
)
def test_what_the_plugin_s_schema_refuses_is_said_in_a_line(compose, value, said):
    from hydra.errors import ConfigCompositionException

    with pytest.raises(ConfigCompositionException) as raised:
        compose("train", "hydra/launcher=slurm", f"hydra.launcher.timeout_min={value}")
    assert explain(raised.value, "train") == said


def test_a_job_asks_for_the_memory_that_its_command_may_hold(settings, programs, tmp_path):
    def asked(*memory, **changes):
        lines = script_of(slurm.build_executor(settings(**changes), tmp_path / "%j", *memory))
        return next(line for line in lines if "--mem" in line)

    assert asked() == "#SBATCH --mem=16GB" and asked(100.0) == "#SBATCH --mem=116GB"
    assert asked(3.5, mem_gb=4) == "#SBATCH --mem=4GB"
    with pytest.raises(UserError, match=r"mem_gb=16: memory_gb=40 lets a job hold more than that"):
        asked(40, mem_gb=16)


def test_a_job_that_trains_asks_for_room_for_its_images_as_far_as_its_share_of_a_node_goes(
    settings, programs, tmp_path, monkeypatch
):
    nodes = []

    def ask(*command):
        nodes.append(command)
        # the first of these could not even hold what a job needs beside its images
        rows = ["16000|8|gpu:1", "1031000|96|gpu:a100:8(S:0-1),gpu:slice:0", "515000+|64|gpu:4", "257000|128|(null)"]
        return "".join(f"main*|{row}\n" for row in [*rows, "64000|16|gpu:v100:1"]) + "other|40000|8|gpu:1\n"

    monkeypatch.setattr(slurm_memory, "ask", ask)

    def asked(gigabytes, memory_gb=None, **changes):
        return slurm_memory.memory_of(settings(**changes), memory_gb, int(gigabytes * 2**30))

    assert asked(0, 4) == 20 and not nodes  # nothing to hold, and nothing is asked
    assert asked(10.5, 4) == 31 and asked(198.2) == 59  # 0.95 of a node of 62.5 GB
    assert asked(198.2, partition="big") == 37 and nodes[-1][-1] == "--partition=big"
    assert asked(198.2, gpus_per_node=4) == 215 and asked(900, gpus_per_node=4) == 477  # 0.95 of half of the first
    assert asked(900, gpus_per_node=None, cpus_per_task=32) == 59  # a quarter of the third
    assert asked(900, 500) == 516 and asked(900, mem_gb=7) == 7
    monkeypatch.setattr(slurm_memory, "ask", lambda *_: None)
    assert asked(198.2, 4) == 20  # SLURM does not say what a node has


def test_what_is_read_again_and_again_is_the_largest_set_that_a_job_can_mean(tmp_path):
    for name, size in (("digits/32", 100), ("digits/36", 300), ("photos/32", 500)):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "train.npy").write_bytes(bytes(size))
        (tmp_path / name / MANIFEST).write_text("{}")
    (tmp_path / "photos/half").mkdir()
    (tmp_path / "photos/half/train.npy").write_bytes(bytes(900))
    read = slurm_memory.read_again
    assert slurm_memory.MANIFEST == MANIFEST
    assert [read("train", tmp_path, "digits"), read("finetune", tmp_path, None)] == [300, 500]
    assert read("measure", tmp_path, "digits") == read("train", tmp_path / "none", "digits") == 0


def test_a_sweep_over_data_asks_for_room_for_the_largest_of_them(settings, tmp_path, monkeypatch):
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from invariance.settings.files import conf_dir

    chosen = settings(submitit_folder="submitit")  # for which Hydra has run its plugins' modules
    plugin = import_module("hydra_plugins.invariance_slurm_launcher")
    for name, size in (("digits", 100), ("photos", 700), ("ilsvrc", 500), ("rvl_cdip", 300)):
        (tmp_path / name / "32").mkdir(parents=True)
        (tmp_path / name / "32/train.npy").write_bytes(bytes(size))
        (tmp_path / name / "32" / MANIFEST).write_text("{}")
    asked = []

    def build_executor(_settings, _folder, *memory):
        asked.append(memory)
        raise InterruptedError

    monkeypatch.setattr(plugin, "build_executor", build_executor)
    monkeypatch.setenv("INVARIANCE_SWEEP", str(tmp_path))
    launcher = plugin.SlurmLauncher(**chosen)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        overrides = ["hydra/launcher=slurm", "hydra.job.name=train", f"prepared={tmp_path}"]
        config = compose("train", overrides=overrides, return_hydra_config=True)
        context = SimpleNamespace(config_loader=GlobalHydra.instance().config_loader())
        launcher.setup(hydra_context=context, task_function=None, config=config)
        for names in (["digits"], ["rvl_cdip", "ilsvrc"], ["digits", "rvl_cdip"]):
            jobs = [[f"data={name}", f"seed={seed}"] for name in names for seed in range(2)]
            with pytest.raises(InterruptedError):
                launcher.launch(jobs, 0)
    assert asked == [(None, 100), (None, 500), (None, 300)]


def test_a_controller_that_does_not_answer_is_not_one_without_jobs(settings, programs, tmp_path):
    executor = slurm.build_executor(settings(), tmp_path / "%j")  # squeue of `programs` fails
    with pytest.raises(UserError, match="squeue does not answer"):
        slurm.run_on_slurm([], executor, 10.0, progress=False)


@pytest.mark.parametrize("absent", ["squeue", "srun"])
def test_half_a_slurm_is_none(settings, programs, tmp_path, monkeypatch, absent):
    (tmp_path / "bin" / absent).unlink()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(UserError, match=f"there is no {absent} here"):
        slurm.build_executor(settings(), tmp_path / "%j")


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "invariance.train", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def test_a_machine_without_slurm_says_so_in_a_line(tmp_path):
    (tmp_path / "bin").mkdir()
    ended = command("-m", "hydra/launcher=slurm", *QUICK, "range=5", f"runs={tmp_path}/runs", PATH=f"{tmp_path}/bin")
    assert ended.returncode == 2
    assert ended.stderr.strip() == (
        "error: hydra/launcher=slurm: there is no sbatch here; run it on a login node, or use hydra/launcher=local"
    )


def test_a_machine_without_the_plugin_says_what_to_install(tmp_path):
    # a plugin that cannot be imported is one that is not installed
    hide = "import sys\nsys.modules['hydra_plugins.hydra_submitit_launcher'] = None\n"
    (tmp_path / "sitecustomize.py").write_text(hide)
    path = os.pathsep.join([str(tmp_path), str(SCRIPT.parents[1])])
    ended = command("-m", "hydra/launcher=slurm", *QUICK, "range=5", f"runs={tmp_path}/runs", PYTHONPATH=path)
    assert ended.returncode == 2
    assert ended.stderr.strip().splitlines() == [
        "error: hydra/launcher=slurm: hydra-submitit-launcher is not installed; pip install 'invariance[slurm]'"
    ]


# --- on a cluster ---


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster that the script has started, or is asked to start now."""
    given = os.environ.get("SLURM_CONF", "")
    if given and Path(given).with_name("slurmctld.pid").exists():
        yield given
        return
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        pytest.skip(f"no SLURM: {', '.join(missing)} not installed (tests/slurm_cluster.sh install, as root)")
    if os.getuid():
        pytest.skip("SLURM is installed, but only root can start a cluster (tests/slurm_cluster.sh start FOLDER)")
    folder = tmp_path_factory.mktemp("slurm") / "c"
    started = subprocess.run([SCRIPT, "start", folder, str(os.getpid())], capture_output=True, text=True)
    if started.returncode:
        pytest.skip(f"no SLURM cluster: {started.stderr.strip().splitlines()[-1]}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        yield str(folder / "slurm.conf")
        ask("scancel", "--user=root")
        subprocess.run([SCRIPT, "stop", folder], check=True)


WORKER = """
import os, pathlib, signal, sys, time
here = pathlib.Path(sys.argv[1])
def say(*words):
    with open(here / "said", "a") as file:
        print(*words, file=file, flush=True)
turns = ["first"]
def ended(number, _):
    try:
        turns.pop()
    except IndexError:  # SLURM may say twice that a job is to end
        return
    say("ended in order by", signal.Signals(number).name)
    signal.signal(number, signal.SIG_IGN)
    print("error: interrupted", flush=True)
    sys.exit(130)
signal.signal(signal.SIGTERM, ended)
say("begun", os.environ.get("SLURM_RESTART_COUNT", "0"), os.environ["OMP_NUM_THREADS"])
while not (here / "go").exists():
    time.sleep(0.05)
say("finished")
print("all is well")
"""

DRIVER = """
import json, sys
from pathlib import Path
from invariance.launch import slurm, slurm_memory, slurm_states
from invariance.launch.jobs import Job
from invariance.runs.processes import signals_interrupt
slurm_states._ASK_EVERY, slurm._GONE, slurm.AGAIN = 1.0, 4.0, 2.0
folder, settings, jobs = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
jobs = [Job(command, name, folder / f"{name}.log") for name, command in jobs.items()]
with signals_interrupt():
    executor = slurm.build_executor(settings, folder / "submitit" / "%j")
    failures = slurm.run_on_slurm(jobs, executor, slurm.patience_of(settings), progress=False)
print("FAILURES", json.dumps({one.shown: one.why for one in failures}), flush=True)
"""


class Sweep:
    """Jobs on the cluster and the process that waits for them."""

    def __init__(self, folder, settings, jobs):
        self.folder, self.jobs = folder, jobs
        self._command = [sys.executable, "-c", DRIVER, str(folder), json.dumps(settings), json.dumps(jobs)]
        self.start()

    def start(self):
        self.launcher = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    def said(self, name):
        path = self.folder / name / "said"
        return path.read_text().splitlines() if path.exists() else []

    def go(self, *names):
        for name in names or self.jobs:
            (self.folder / name / "go").touch()

    def ids(self):
        """SLURM's ids of the jobs, by their names."""
        found = {}
        for pickle in sorted(self.folder.glob("submitit/*/*_submitted.pkl"), key=lambda path: path.stat().st_mtime):
            job = submitit.core.utils.DelayedSubmission.load(pickle).function.job
            found.setdefault(job.shown, []).append(pickle.parent.name)
        return found

    def id(self, name):
        until(lambda: name in self.ids())
        return self.ids()[name][-1]

    def failures(self):
        out, _ = self.launcher.communicate()
        assert self.launcher.returncode == 0, out
        return json.loads(re.search(r"^FAILURES (.*)$", out, flags=re.MULTILINE)[1])


@pytest.fixture
def sweep(cluster, tmp_path, settings):
    """Starts a sweep of fake jobs: names, and what each runs if not the worker above."""
    begun = []

    def started(*names, jobs=None, **changes):
        worker = tmp_path / "worker.py"
        worker.write_text(WORKER)
        for name in names:
            (tmp_path / name).mkdir()
        commands = {name: [sys.executable, str(worker), str(tmp_path / name)] for name in names} | (jobs or {})
        begun.append(Sweep(tmp_path, settings(**{**SMALL, **changes}), commands))
        return begun[-1]

    yield started
    for one in begun:
        if one.launcher.poll() is None:
            one.launcher.kill()
        one.launcher.wait()
        one.launcher.stdout.close()
    ask("scancel", "--user=root")
    until(lambda: ask("squeue", "--noheader") == "")
    ask("scontrol", "update", f"nodename={ask('sinfo', '--noheader', '--format=%n')}", "state=resume")


def ask(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def until(holds):
    while not holds():  # what never comes is ended by the suite's own limit
        time.sleep(0.2)


def wait_for_requeue(number):
    """Until SLURM has a job in its queue again and its processes are gone, for which SLURM gives a node two minutes."""
    until(lambda: slurm_states.state_now(number) == "PENDING")
    until(lambda: not ask("pgrep", "--full", rf"^slurmstepd: \[{number}\."))
    time.sleep(2)  # the node refuses a job that begins in the second of its requeue: its credential is revoked
    ask("scontrol", "update", f"job={number}", "starttime=now")


def high(seconds=2):
    """A job that needs the whole node at once."""
    submitted = ask("sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap", f"sleep {seconds}")
    assert submitted.startswith("Submitted")


def test_a_sweep_ends_as_in_one_process_and_a_preempted_job_goes_on(cluster, tmp_path):
    work = [*QUICK, "recipe.updates=300", "recipe.step=250", f"prepared={tmp_path}/prepared", "range=5"]
    undisturbed = command("-m", *work, f"runs={tmp_path}/alone", OMP_NUM_THREADS="1")
    assert undisturbed.returncode == 0, undisturbed.stderr
    launcher = [
        "hydra/launcher=slurm",
        "hydra.launcher.gpus_per_node=null",
        "hydra.launcher.cpus_per_task=1",
        "hydra.launcher.mem_gb=2",
        "hydra.launcher.partition=low",
    ]
    runs = tmp_path / "runs"
    begun = subprocess.Popen(
        [sys.executable, "-m", "invariance.train", "-m", *launcher, *work, f"runs={runs}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    place = runs / "train/digits/rotation_5/seed0"
    until(lambda: list(place.rglob("*.ckpt")) or (place / "rows.csv").exists())
    [folder] = (runs / ".sweeps/train").glob("*/submitit/*/")
    high()
    wait_for_requeue(folder.name)
    assert not (place / "rows.csv").exists(), "it ended before it was preempted"
    out, _ = begun.communicate()
    assert begun.returncode == 0, out
    assert (place / "rows.csv").read_bytes() == (tmp_path / "alone/train/digits/rotation_5/seed0/rows.csv").read_bytes()
    first, last = sorted((runs / ".sweeps/train").glob("*/logs/*.log"), key=lambda path: path.stat().st_mtime)
    assert "error: interrupted; the same command continues" in first.read_text()
    assert "images of test" in last.read_text()


def test_jobs_have_their_cpus_and_failures_their_causes(sweep):
    wrong = "import sys; print('error: rate=-1: give a number from 0'); sys.exit(2)"
    fine = "import os; print(os.environ['OMP_NUM_THREADS'], 'threads')"
    one = sweep(jobs={"wrong": [sys.executable, "-c", wrong], "fine": [sys.executable, "-c", fine]}, cpus_per_task=TWO)
    assert one.failures() == {"wrong": "rate=-1: give a number from 0"}
    assert (one.folder / "fine.log").read_text() == f"{TWO} threads\n"
    rows = lambda: ask("sacct", "-n", "-P", "-o", "JobID,State,AllocCPUS", "-j", one.id("wrong"))  # noqa: E731
    until(lambda: f"{one.id('wrong')}.0|FAILED|{TWO}" in rows())  # accounting hears of it later
    until(lambda: slurm_states.final_state(one.id("fine")) == "COMPLETED")


@pytest.mark.parametrize("how", ["preempted", "preempted with grace", "requeued", "node down"])
def test_a_job_that_loses_its_place_ends_in_order_and_goes_on(sweep, how):
    one = sweep("a", partition="grace" if how == "preempted with grace" else "low")
    until(lambda: one.said("a"))
    number = one.id("a")
    if how.startswith("preempted"):
        high()
    elif how == "requeued":
        ask("scontrol", "requeue", number)
    else:
        node = ask("sinfo", "--noheader", "--format=%n")
        ask("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
        until(lambda: slurm_states.state_now(number) != "RUNNING")
        ask("scontrol", "update", f"nodename={node}", "state=resume")
        time.sleep(8)  # slurmd, which is not gone, sees only then that the job is
    wait_for_requeue(number)
    one.go()
    assert one.failures() == {}
    assert one.said("a") == ["begun 0 1", "ended in order by SIGTERM", "begun 1 1", "finished"]
    assert one.ids() == {"a": [number]}
    [errors, output] = [path.read_text() for path in sorted(one.folder.glob("submitit/*/*_log.*"))]
    assert "Killed" not in errors, "it ended late"
    assert ("requeued" in output) == (how == "preempted with grace")
    assert sorted(path.name for path in one.folder.glob("a*.log")) == ["a.0.log", "a.log"]
    assert one.folder.joinpath("a.log").read_text() == "all is well\n"


def test_a_job_goes_on_after_its_time_limit(sweep):
    one = sweep("a", timeout_min=2, signal_delay_s=59)
    until(lambda: "ended in order by SIGTERM" in one.said("a"))
    wait_for_requeue(one.id("a"))
    one.go()
    assert one.failures() == {}
    assert one.said("a") == ["begun 0 1", "ended in order by SIGTERM", "begun 1 1", "finished"]


def test_a_time_limit_that_came_too_often_is_a_failure(sweep):
    one = sweep("a", max_num_timeout=0)
    until(lambda: one.said("a"))
    ask("scancel", "--signal=USR2", one.id("a"))
    assert "max_num_timeout" in one.failures()["a"]
    assert one.said("a") == ["begun 0 1", "ended in order by SIGTERM"]


def test_a_command_that_does_not_end_is_ended(sweep):
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(99)"
    one = sweep(jobs={"a": [sys.executable, "-c", deaf]}, signal_delay_s=30, max_num_timeout=0)
    until(lambda: (one.folder / "a.log").exists() and (one.folder / "a.log").read_text())
    ask("scancel", "--signal=USR2", one.id("a"))
    assert "max_num_timeout" in one.failures()["a"]


def test_a_cancelled_job_is_a_failure_with_its_cause(sweep):
    one = sweep("a", "b")
    until(lambda: one.said("a") and one.said("b"))
    number = one.id("a")
    ask("scancel", number)
    one.go("b")
    [why] = one.failures().values()
    assert why.startswith(f"SLURM job {number} ended as CANCELLED") and "scancel" in why
    assert one.said("a") == ["begun 0 1", "ended in order by SIGTERM"]


def test_a_job_that_takes_too_much_memory_is_a_failure_with_its_cause(sweep):
    greedy = "held = bytearray(b'1') * (3 << 29)\nimport time\ntime.sleep(60)"
    one = sweep(jobs={"a": [sys.executable, "-c", greedy]}, mem_gb=1)
    assert re.search(r"OUT_OF_MEMORY|exceeded memory limit", one.failures()["a"])


def test_runs_of_another_process_are_tried_again_later(sweep, tmp_path):
    code = f"import os, sys; sys.exit(0 if os.path.exists({str(tmp_path / 'free')!r}) else {BUSY})"
    one = sweep(jobs={"a": [sys.executable, "-c", code]})
    until(lambda: len(one.ids().get("a", [])) >= 2)
    (tmp_path / "free").touch()
    assert one.failures() == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_same_command_again_finds_the_jobs_of_a_launcher_that_is_gone(sweep, number):
    one = sweep("a", "b", "c", array_parallelism=2)
    until(lambda: sum(bool(one.said(name)) for name in "abc") == TWO)
    os.kill(one.launcher.pid, number)
    out, _ = one.launcher.communicate()
    ids = {name: one.id(name) for name in "abc"}
    if number == signal.SIGINT:
        assert "3 jobs go on" in out and "scancel " + " ".join(ids[name] for name in "abc") in out
    one.start()
    time.sleep(3)
    one.go()
    assert one.failures() == {}
    assert one.ids() == {name: [ids[name]] for name in "abc"}
    assert one.said("a") == ["begun 0 1", "finished"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"partition": "nope"}, "sbatch refuses these jobs: .*[Ii]nvalid partition"),
        ({"gpus_per_node": 1}, "sbatch refuses these jobs: Invalid generic resource"),
        ({"cpus_per_task": 4096}, "sbatch refuses these jobs: "),
    ],
)
def test_what_sbatch_refuses_is_said_in_a_line(cluster, settings, tmp_path, changes, said, capfd):
    executor = slurm.build_executor(settings(**{**SMALL, **changes}), tmp_path / "%j")
    job = Job([sys.executable, "-c", ""], "a", tmp_path / "a.log")
    with pytest.raises(UserError, match=said) as refused:
        slurm.run_on_slurm([job], executor, 1.0, progress=False)
    assert "\n" not in str(refused.value) and capfd.readouterr().err == ""


def test_slurms_last_word_needs_no_accounting(sweep, monkeypatch):
    one = sweep("a")
    until(lambda: one.said("a"))
    number = one.id("a")
    ask("scancel", number)
    one.failures()
    until(lambda: slurm_states.final_state(number).split()[0] == "CANCELLED")
    real = slurm_states.ask
    monkeypatch.setattr(slurm_states, "ask", lambda *command: None if command[0] == "sacct" else real(*command))
    assert slurm_states.final_state(number) == "CANCELLED"
