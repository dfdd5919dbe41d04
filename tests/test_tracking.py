"""Weights & Biases as a view of the files: offline without a login, with curves, tables and confusion matrices."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from invariance.errors import UserError
from invariance.tracking import check_logger


def records(folder: Path) -> list[dict]:
    [log] = folder.glob("wandb/offline-run-*/*.wandb")
    said = subprocess.run(
        [Path(sys.executable).parent / "wandb", "leet", "inspect", "--json", log.parent],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [json.loads(line) for line in said.splitlines()]


def test_training_without_a_login_is_logged_offline_and_says_how_to_upload(tmp_path, compose, monkeypatch, capfd):
    from invariance.train import train

    monkeypatch.setenv("WANDB_MODE", "offline")
    places = [f"runs={tmp_path}/runs", f"prepared={tmp_path}/prepared", "progress=false", "trainer=cpu"]
    train(compose("train", *places, "model=tiny", "recipe=smoke", "transform=blur", "range=3"))
    said = capfd.readouterr().err
    assert "wandb sync" in said and "as asked" in said and "no login" not in said
    held = records(tmp_path / "runs/train/digits/blur_3/seed0")
    [run] = [record["run"] for record in held if record["type"] == "run"]
    assert run["run_group"] == "digits" and run["job_type"] == "train" and set(run["tags"]) == {"blur", "digits"}
    assert run["config"]["update"]["transform"]["range"] == 3
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
    check_logger({"kind": "wandb", "mode": "auto"})


@pytest.mark.parametrize("settings", [{"kind": "paper"}, {"kind": "wandb", "mode": "sometimes"}])
def test_unknown_loggers_are_refused(settings):
    with pytest.raises(UserError, match="choose"):
        check_logger(settings)
