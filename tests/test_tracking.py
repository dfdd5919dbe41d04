"""Weights & Biases as a view of the files: offline without a login, with curves, tables and confusion matrices."""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from invariance.errors import UserError
from invariance.runs.rows import to_frame
from invariance.runs.run import Run, read_provenance
from invariance.runs.wandb import LINK, Tracker, check_logger, tags_of


def inspect(log: Path) -> list[dict]:
    said = subprocess.run(
        [Path(sys.executable).parent / "wandb", "leet", "inspect", "--json", log.parent],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [json.loads(line) for line in said.splitlines()]


def records(folder: Path) -> list[dict]:
    [log] = folder.glob("wandb/offline-run-*/*.wandb")
    return inspect(log)


def test_training_without_a_login_is_logged_offline_and_says_how_to_upload(tmp_path, compose, monkeypatch, capfd):
    from invariance.experiments.train import train

    monkeypatch.setenv("WANDB_MODE", "offline")
    places = [f"runs={tmp_path}/runs", f"prepared={tmp_path}/prepared", "progress=false", "trainer=cpu"]
    train(compose("train", *places, "model=tiny", "recipe=smoke", "transform=blur", "range=3"))
    said = capfd.readouterr().err
    [curves] = (tmp_path / "runs").glob("**/curves/*/metrics.csv")  # the files have them, too
    assert "val/accuracy" in curves.read_text()
    assert "wandb sync" in said and "as asked" in said and "no login" not in said
    held = records(tmp_path / "runs/train/digits/blur_3/seed0")
    [run] = [record["run"] for record in held if record["type"] == "run"]
    assert run["run_group"] == "digits" and run["job_type"] == "train"
    assert run["config"]["update"]["identity"]["transform"]["range"] == 3
    keys = {key for record in held if record["type"] == "history" for key in record["history"]["item"]}
    assert {"train/loss", "val/accuracy", "val/loss"} <= keys
    assert any(key.startswith("test/confusion_table") for key in keys) and any(key.startswith("rows") for key in keys)
    summary = {
        key: value
        for record in held
        if record["type"] == "summary"
        for key, value in record["summary"]["update"].items()
    }
    assert 0 <= summary["test/accuracy"] <= 1


def test_csv_needs_no_wandb_at_all(trained):
    folder, _ = trained
    code = f"""
import sys
sys.modules["wandb"] = None
from invariance.train import main
sys.argv = ["invariance-train", "runs={folder}/other", "prepared={folder}/prepared", "logger=csv", "trainer=cpu",
            "progress=false", "model=tiny", "recipe=smoke", "recipe.updates=4", "recipe.val_every=2", "recipe.step=3"]
main()
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=folder)
    assert (folder / "other/train/digits/baseline/seed0/curves/version_0/metrics.csv").stat().st_size > 0


def test_a_mode_that_wandb_does_not_know_is_refused(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(UserError, match="WANDB_MODE=sometimes"):
        check_logger({"kind": "wandb", "mode": "auto"})
    check_logger({"kind": "csv"})
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_logger({**WANDB, "mode": "auto"})


WANDB = {"kind": "wandb", "project": "invariance", "entity": None, "mode": "offline", "group": None, "tags": []}
ABOUT = {"stage": "measure", "data": "digits", "network": "blur_3", "family": "blur", "seed": 0, "solvers": ["ridge"]}


def began(folder: Path) -> list[dict]:
    """The W&B runs that a folder holds, in the order of their beginning."""
    found = []
    for log in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        found += [one["run"] for one in inspect(log) if one["type"] == "run"]
    return found


def test_a_folder_stays_one_run_of_wandb_wherever_it_is_moved_and_a_new_folder_is_another(tmp_path):
    def log(folder: Path, **values: float) -> str:
        with Tracker(WANDB, folder, name="a", about=ABOUT, identity={}) as tracker:
            tracker.summarise(values)
            return tracker.run.id

    first = log(tmp_path / "a", one=1.0)
    assert log(tmp_path / "a", two=2.0) == first
    (tmp_path / "a").rename(tmp_path / "moved")
    assert log(tmp_path / "moved", three=3.0) == first
    assert log(tmp_path / "a", one=1.0) != first
    assert {run["run_id"] for run in began(tmp_path / "moved")} == {first}
    (tmp_path / "moved" / LINK).write_text('{"id": "../x"}')
    with pytest.raises(UserError, match="is damaged; delete it"):
        log(tmp_path / "moved")
    (tmp_path / "moved" / LINK).unlink()
    assert log(tmp_path / "moved") != first  # nor is the folder held after the refusal


def test_the_user_names_a_group_and_adds_tags(tmp_path):
    settings = {**WANDB, "group": "trial", "tags": ["second", "ridge"]}
    with Tracker(settings, tmp_path, name="a", about=ABOUT, identity={"deep": {"key": 1}}):
        pass
    [run] = began(tmp_path)
    assert run["run_group"] == "trial" and run["tags"] == ["digits", "blur", "blur_3", "seed0", "ridge", "second"]
    config = run["config"]["update"]
    assert {key: config[key] for key in ABOUT} == ABOUT
    assert config["identity"] == {"deep": {"key": 1}} and config["curve"] == "digits blur"


def test_a_name_too_long_for_a_tag_is_none(tmp_path):
    about = {**ABOUT, "network": "n" * 65}
    assert tags_of(about) == ["digits", "blur", "seed0", "ridge"]
    with Tracker(WANDB, tmp_path, name="a", about=about, identity={}):
        pass
    [run] = began(tmp_path)
    assert run["config"]["update"]["network"] == "n" * 65


def open_files(pid: int) -> set[str]:
    """Paths of the files that a process has open."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(OSError):
            found.add(str(link.readlink()))
    return found


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="which files are open is read from /proc")
def test_of_two_processes_in_one_folder_one_waits(tmp_path):
    code = f"""
from pathlib import Path
from invariance.runs.wandb import Tracker
with Tracker({WANDB!r}, Path({str(tmp_path)!r}), name="a", about={ABOUT!r}, identity={{}}) as tracker:
    print("in")
"""
    with Tracker(WANDB, tmp_path, name="a", about=ABOUT, identity={}):
        other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(600):  # until it stands before the lock
            if str(tmp_path / ".wandb.lock") in open_files(other.pid):
                break
            time.sleep(0.1)
        else:
            pytest.fail("the other process never came to the lock")
        time.sleep(2)  # W&B begins a run in less
        assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 1
    assert other.communicate()[0].split() == ["in"]
    assert len({run["run_id"] for run in began(tmp_path)}) == 1


def test_where_wandb_has_a_run_is_in_its_provenance_and_nowhere_else(tmp_path):
    run = Run(tmp_path, "train/digits/blur_3/seed0", {"name": "blur_3"})
    with run, Tracker(WANDB, run.directory.parent, name="a", about=ABOUT, identity={}) as tracker:
        tracker.record_in(run)
        run.finish(to_frame([]))
    held = read_provenance(run.directory)["wandb"]
    assert held.keys() == {"offline"} and list((run.directory / held["offline"]).glob("*.wandb"))
    assert Run(tmp_path, run.name, {"name": "blur_3"}).done  # the same identity
    other = Run(tmp_path, "train/digits/blur_3/seed1", {"name": "blur_3"})
    with other, Tracker({"kind": "csv"}, other.directory, name="a", about=ABOUT, identity={}) as tracker:
        tracker.record_in(other)
    assert "wandb" not in read_provenance(other.directory) and not (other.directory / LINK).exists()


def test_a_run_that_is_online_is_linked_to_by_its_address(tmp_path):
    run = Run(tmp_path, "train/digits/blur_3/seed0", {})
    tracker = Tracker({"kind": "csv"}, tmp_path, name="a", about=ABOUT, identity={})
    tracker.run = SimpleNamespace(url="https://wandb.example/me/invariance/runs/1")
    with run:
        tracker.record_in(run)
    assert read_provenance(run.directory)["wandb"] == {"url": "https://wandb.example/me/invariance/runs/1"}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("project", "a/b"),
        ("project", ""),
        ("project", None),
        ("project", "p" * 129),
        ("entity", "a/b"),
        ("entity", 3),
        ("group", ""),
        ("group", "g" * 129),
        ("tags", "trial"),
        ("tags", ["t" * 65]),
        ("tags", [3]),
    ],
)
def test_what_wandb_would_not_take_is_refused_before_anything_runs(setting, value):
    check_logger(WANDB)
    with pytest.raises(UserError, match=rf"^logger.{setting}(=|\[0\]=)"):
        check_logger({**WANDB, setting: value})


@pytest.mark.parametrize("settings", [{"kind": "paper"}, {"kind": "wandb", "mode": "sometimes"}])
def test_unknown_loggers_are_refused(settings):
    with pytest.raises(UserError, match="choose"):
        check_logger(settings)


class Library:
    """A stand-in for W&B's library: what it is told to do when a run begins, is logged to, or ends."""

    def __init__(self, init=None, log=None, finish=None, login=True):
        self.modes, self.logged, self._do, self._login = [], [], {"init": init, "log": log, "finish": finish}, login
        self.summary = SimpleNamespace(update=self.log)
        self.dir, self.url = "/nowhere/wandb/run/files", "https://wandb.example/1"

    def login(self, *, prompt, verify):
        assert not prompt and not verify  # nothing that needs the network
        return self._login

    def Settings(self, **settings):  # noqa: N802, its name there
        assert settings["init_timeout"] <= 15 and settings["finish_timeout"] <= 30
        return settings

    def init(self, *, mode, **_):
        self.modes.append(mode)
        self._act("init")
        return self

    def log(self, values):
        self._act("log")
        self.logged.append(values)

    def finish(self, exit_code):
        self._act("finish")

    def _act(self, name):
        action = self._do[name]
        if callable(action):
            action(self)
        elif action is not None:
            raise action


@pytest.fixture
def library(monkeypatch):
    """Puts a stand-in in the place of W&B's library, with waits that are over at once; it returns what it is given."""
    from invariance.runs import wandb as tracking

    for name in ("_BEGIN", "_END"):
        monkeypatch.setattr(tracking, name, 0.2)
    monkeypatch.setattr(tracking, "_away", -1.0)
    monkeypatch.setattr(tracking, "end_service", lambda: None)
    monkeypatch.delenv("WANDB_MODE", raising=False)

    def put(stand_in):
        monkeypatch.setattr(tracking, "_library", lambda: stand_in)
        return stand_in

    return put


AUTO = {**WANDB, "mode": "auto"}


def use(folder, settings=AUTO):
    with Tracker(settings, folder, name="a", about=ABOUT, identity={}) as tracker:
        for k in range(3):
            tracker.log({"x": k})
        tracker.summarise({"y": 1})


def offline_only(library):
    if library.modes[-1] != "offline":
        raise ConnectionError("no route to host")


def test_a_server_that_cannot_be_reached_is_said_once_and_not_tried_again_soon(library, tmp_path, capfd):
    wandb = library(Library(init=offline_only))
    use(tmp_path / "a")
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("W&B is offline (ConnectionError: no route to host); to upload this run later: wandb sync ")
    assert wandb.modes == ["online", "offline"] and wandb.logged == [{"x": 0}, {"x": 1}, {"x": 2}, {"y": 1}]
    use(tmp_path / "b")
    assert wandb.modes == ["online", "offline", "offline"]
    assert "it could not be reached a moment ago" in capfd.readouterr().err


@pytest.mark.parametrize("when", ["init", "log", "finish"])
@pytest.mark.parametrize("how", ["raises", "hangs"])
def test_whatever_fails_or_hangs_in_wandb_is_one_line_and_the_run_goes_on(when, how, library, tmp_path, capfd):
    over = threading.Event()
    stand_in = Library(**{when: OSError(28, "No space left on device") if how == "raises" else lambda _: over.wait(60)})
    library(stand_in)
    settings = {**WANDB, "mode": "offline"}
    try:
        use(tmp_path, settings)
        [line] = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("W&B is offline")]
        assert line.startswith("W&B ") and ("No space left" in line if how == "raises" else "no answer in time" in line)
        use(tmp_path, {**settings, "kind": "csv"})  # and its lock is free
        use(tmp_path, settings)
    finally:
        over.set()


def test_a_command_of_no_use_without_wandb_is_told_what_failed(library, tmp_path):
    library(Library(init=ConnectionError("no route to host")))
    for _ in range(2):  # nor does it give up for what failed a moment ago
        with pytest.raises(ConnectionError, match="no route"):
            Tracker({**WANDB, "mode": "online"}, tmp_path, name="a", about=ABOUT, identity={}, strict=True)


def test_a_folder_that_cannot_be_logged_to_is_one_line(library, tmp_path, capfd):
    library(Library())
    (tmp_path / ".wandb.lock").mkdir()
    use(tmp_path)
    [line] = capfd.readouterr().err.splitlines()
    assert "a folder stands where a file is needed" in line and "this run goes on without it" in line


def test_a_command_that_wandb_is_switched_off_for_asks_nothing_of_it(library, tmp_path, capfd, monkeypatch):
    library(Library(init=AssertionError()))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    use(tmp_path)
    assert not capfd.readouterr().err and not list(tmp_path.iterdir())


def test_without_wandb_training_goes_on_and_says_so_once(tmp_path, compose, monkeypatch, capfd):
    from invariance.experiments.train import train

    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    places = [f"runs={tmp_path}/runs", f"prepared={tmp_path}/prepared", "progress=false", "trainer=cpu"]
    quick = ["recipe.updates=4", "recipe.val_every=2", "recipe.step=3"]
    train(compose("train", *places, "model=tiny", "recipe=smoke", *quick))
    said = [line for line in capfd.readouterr().err.splitlines() if "W&B" in line]
    assert len(said) == 1 and "ModuleNotFoundError" in said[0] and "this run goes on without it" in said[0]
    folder = tmp_path / "runs/train/digits/baseline/seed0"
    assert len((folder / "rows.csv").read_text().splitlines()) == 3 and (folder / "done.json").exists()


@pytest.mark.long
@pytest.mark.parametrize("answer", [None, 403, 500])
def test_a_login_without_a_network_or_a_server_that_refuses_costs_seconds(answer, tmp_path):
    """The real library; and what it has offline is whole."""

    class Refusing(BaseHTTPRequestHandler):
        def do_POST(self):  # noqa: N802, its name there
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(answer)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    port = server.server_port
    if answer is None:
        server.server_close()
    else:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    code = f"""
from pathlib import Path
from invariance.runs import wandb as tracking
tracking._INIT = 2.0
with tracking.Tracker({AUTO!r}, Path("run"), name="a", about={ABOUT!r}, identity={{}}) as tracker:
    tracker.summarise({{"y": 1}})
"""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    variables |= {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": f"http://127.0.0.1:{port}", "HOME": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=120
    )
    if answer is not None:
        server.shutdown()
    assert ended.returncode == 0
    [line] = ended.stderr.splitlines()
    assert line.startswith("W&B is offline (CommError: ") and "; to upload this run later: wandb sync" in line
    assert any(one["type"] == "summary" for one in records(tmp_path / "run"))
