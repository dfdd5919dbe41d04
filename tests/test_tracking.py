"""Weights & Biases as a view of the files: offline without a login, with curves, tables and confusion matrices."""

import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from invariance.errors import UserError
from invariance.runs.rows import to_frame
from invariance.runs.run import Run, read_provenance
from invariance.tracking import LINK, Tracker, check_logger, tags_of


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
    from invariance.train import train

    monkeypatch.setenv("WANDB_MODE", "offline")
    places = [f"runs={tmp_path}/runs", f"prepared={tmp_path}/prepared", "progress=false", "trainer=cpu"]
    train(compose("train", *places, "model=tiny", "recipe=smoke", "transform=blur", "range=3"))
    said = capfd.readouterr().err
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
            "progress=false", "model=tiny", "recipe=smoke"]
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


def test_a_logger_that_is_not_installed_is_refused_before_the_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="there is no wandb here; .* logger=csv"):
        check_logger({"kind": "wandb", "mode": "auto"})
    check_logger({"kind": "csv"})


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
from invariance.tracking import Tracker
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
    assert other.communicate(timeout=120)[0].split() == ["in"]
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
        ("project", "a/b"), ("project", ""), ("project", None), ("project", "p" * 129), ("entity", "a/b"),
        ("entity", 3), ("group", ""), ("group", "g" * 129), ("tags", "trial"), ("tags", ["t" * 65]), ("tags", [3]),
    ],
)  # fmt: skip
def test_what_wandb_would_not_take_is_refused_before_anything_runs(setting, value):
    check_logger(WANDB)
    with pytest.raises(UserError, match=f"^logger.{setting}="):
        check_logger({**WANDB, setting: value})


@pytest.mark.parametrize("settings", [{"kind": "paper"}, {"kind": "wandb", "mode": "sometimes"}])
def test_unknown_loggers_are_refused(settings):
    with pytest.raises(UserError, match="choose"):
        check_logger(settings)
