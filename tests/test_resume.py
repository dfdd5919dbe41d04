"""Continuing an interrupted training in one process: moved folders, damaged checkpoints, full disks, bad facts."""

import contextlib
import os
import pickle
import resource
import shutil
from pathlib import Path

import pytest
import torch

from invariance.errors import UserError
from invariance.modules.checkpoint import AtomicCheckpointIO
from invariance.train import train

QUICK = [
    "model=tiny", "recipe=smoke", "logger=csv", "trainer=cpu", "progress=false", "recipe.updates=30",
    "recipe.val_every=10", "recipe.batch=16",
]  # fmt: skip
NAME = "train/digits/baseline/seed0"


class Stop(Exception):
    """The interruption."""


def interrupt_after(monkeypatch, updates):
    from invariance.modules.classifier import Classifier

    step = Classifier.training_step

    def interrupted(self, batch, batch_idx):
        if self.global_step == updates:
            raise Stop
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", interrupted)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, compose, prepared):
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    train(compose("train", *QUICK, f"runs={folder}", f"prepared={prepared}"))
    return folder / NAME


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, compose, prepared):
    """A run interrupted between its checkpoint of update 20 and its end."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        interrupt_after(patch, 25)
        train(compose("train", *QUICK, f"runs={folder}", f"prepared={prepared}"))
    return folder


@pytest.fixture
def moved(stopped, tmp_path):
    """The interrupted run under another path, to do with as a test likes."""
    shutil.copytree(stopped, tmp_path / "moved")
    return tmp_path / "moved"


@pytest.fixture
def again(compose, prepared):
    return lambda runs, *more: train(compose("train", *QUICK, f"runs={runs}", f"prepared={prepared}", *more))


def state(path):
    return torch.load(path, weights_only=True)


def test_a_moved_run_continues_as_if_undisturbed(moved, whole, again, recwarn):
    last = state(moved / NAME / "last.ckpt")
    [best] = [part for key, part in last["callbacks"].items() if "val/accuracy" in key]
    again(moved)
    ours, theirs = state(moved / NAME / "best.ckpt"), state(whole / "best.ckpt")
    assert ours["global_step"] == theirs["global_step"]
    assert all(torch.equal(value, theirs["state_dict"][key]) for key, value in ours["state_dict"].items())
    assert (moved / NAME / "rows.csv").read_bytes() == (whole / "rows.csv").read_bytes()
    assert not [str(warning.message) for warning in recwarn if "dirpath has changed" in str(warning.message)]
    assert best["best_model_score"] is not None


def test_the_best_score_outlives_a_move(moved, again):
    path = moved / NAME / "last.ckpt"
    last = state(path)
    [key] = [key for key in last["callbacks"] if "val/accuracy" in key]
    about = last["callbacks"][key]
    perfect = torch.tensor(2.0)  # beyond any accuracy, so that nothing later may replace the best network
    about["best_k_models"] = dict.fromkeys(about["best_k_models"], perfect)
    about["best_model_score"] = about["kth_value"] = perfect
    torch.save(last, path)
    before = (moved / NAME / "best.ckpt").read_bytes()
    again(moved)
    assert (moved / NAME / "best.ckpt").read_bytes() == before


class Harm:
    def __reduce__(self):
        return (Path.touch, (Path("harmed"),))


def damage(path, how):
    held = state(path)
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:2000])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "code":
        path.write_bytes(pickle.dumps(Harm(), protocol=2))
    elif how == "architecture":
        held["state_dict"]["network.fc6.bias"] = torch.zeros(7)
        torch.save(held, path)
    elif how == "other":
        torch.save({"weights": 1}, path)
    else:
        del held[how]
        torch.save(held, path)


@pytest.mark.parametrize(
    "how", ["truncated", "empty", "code", "architecture", "other", "loops", "callbacks", "optimizer_states"]
)
@pytest.mark.parametrize("previous", ["gone", "damaged too"])
def test_a_damaged_checkpoint_is_one_line_on_how_to_start_over(moved, again, monkeypatch, tmp_path, how, previous):
    monkeypatch.chdir(tmp_path)
    damage(moved / NAME / "last.ckpt", how)
    if previous == "gone":
        (moved / NAME / "previous.ckpt").unlink()
    else:
        damage(moved / NAME / "previous.ckpt", how)
    with pytest.raises(UserError, match=f"(last|previous).ckpt .*delete {moved / NAME} to start over"):
        again(moved)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("how", ["truncated", "empty", "code", "architecture", "other", "loops", "gone"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(moved, whole, again, capsys, how):
    """The best network on disk is then newer than what is continued from; it comes out the same all the same."""
    run = moved / NAME
    assert state(run / "last.ckpt")["global_step"] == 20 and state(run / "previous.ckpt")["global_step"] == 10
    (run / "last.ckpt").unlink() if how == "gone" else damage(run / "last.ckpt", how)
    again(moved)
    said = [line for line in capsys.readouterr().err.splitlines() if "last.ckpt" in line]
    assert len(said) == 1 and "going on from the one before it, at update 10" in said[0]
    ours, theirs = state(run / "best.ckpt"), state(whole / "best.ckpt")
    assert ours["global_step"] == theirs["global_step"]
    assert all(torch.equal(value, theirs["state_dict"][key]) for key, value in ours["state_dict"].items())
    assert (run / "rows.csv").read_bytes() == (whole / "rows.csv").read_bytes()
    assert not (run / "previous.ckpt").exists()


@pytest.mark.parametrize(("stop", "workers"), [(1, 0), (10, 0), (11, 0), (19, 0), (29, 0), (10, 4), (25, 4)])
def test_interrupted_at_any_update_and_repeated_ends_with_the_same_weights(
    tmp_path, whole, again, monkeypatch, stop, workers
):
    with monkeypatch.context() as patch, pytest.raises(Stop):
        interrupt_after(patch, stop)
        again(tmp_path, f"trainer.workers={workers}")
    again(tmp_path, f"trainer.workers={workers}")
    for name in ("best.ckpt", "last.ckpt"):
        ours, theirs = state(tmp_path / NAME / name), state(whole / name)
        assert all(torch.equal(value, theirs["state_dict"][key]) for key, value in ours["state_dict"].items())


@pytest.mark.parametrize("moment", ["link", "replace", "fsync"])
def test_killed_between_two_checkpoints_leaves_one_that_serves(tmp_path, monkeypatch, moment):
    """A kill at each call that moves a file: what is there afterwards is whole, and is the newer or the older state."""
    writer = AtomicCheckpointIO()
    for number in (1, 2):
        writer.save_checkpoint({"number": number}, tmp_path / "last.ckpt")
    real, left = getattr(os, moment), 0

    def killed(*arguments):
        nonlocal left
        left -= 1
        if left == 0:
            raise Stop
        return real(*arguments)

    for stop_at in range(1, 5):
        left = stop_at
        with monkeypatch.context() as patch:
            patch.setattr(os, moment, killed)
            with contextlib.suppress(Stop):
                writer.save_checkpoint({"number": 3}, tmp_path / "last.ckpt")
        assert state(tmp_path / "last.ckpt")["number"] in (2, 3)
        assert state(tmp_path / "previous.ckpt")["number"] in (1, 2, 3)


@pytest.mark.parametrize("how", ["gone", "truncated"])
def test_a_best_network_gone_or_damaged_before_the_end_is_one_line(moved, again, how):
    best = moved / NAME / "best.ckpt"
    best.unlink() if how == "gone" else damage(best, how)
    with pytest.raises(UserError, match=f"best.ckpt.*delete {moved / NAME} to start over"):
        again(moved)


def test_a_run_trained_to_its_end_is_only_evaluated(whole, tmp_path, again, recwarn, monkeypatch):
    shutil.copytree(whole.parents[2].parent, tmp_path / "runs")
    (tmp_path / "runs" / NAME / "done.json").unlink()
    (tmp_path / "runs" / NAME / "rows.csv").unlink()
    interrupt_after(monkeypatch, 30)
    again(tmp_path / "runs")
    assert (tmp_path / "runs" / NAME / "rows.csv").read_bytes() == (whole / "rows.csv").read_bytes()
    assert not [w for w in recwarn if "zero" in str(w.message)]


def test_a_full_disk_under_a_checkpoint_is_one_line(tmp_path):
    # a file-size limit stands for the disk: the same refusal, at a moment of our choosing
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match="cannot write .*last.ckpt: the file would be larger than allowed"):
            AtomicCheckpointIO().save_checkpoint({"w": torch.zeros(100_000)}, tmp_path / "last.ckpt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_divergence_before_any_checkpoint_may_be_mended_in_the_same_place(tmp_path, again):
    with pytest.raises(UserError, match="training diverged"):
        again(tmp_path, "recipe.rate=1e8")
    again(tmp_path, "recipe.rate=0.01")
    assert (tmp_path / NAME / "done.json").exists()


@pytest.mark.parametrize(
    ("wrong", "said"), [("model.width=wide", "model.width='wide'"), ("data.fit.images=5000", "data.fit.images=5000")]
)
def test_a_mistake_leaves_no_run_directory(tmp_path, again, wrong, said):
    with pytest.raises(UserError, match=said):
        again(tmp_path / "runs", wrong)
    assert not (tmp_path / "runs").exists()
