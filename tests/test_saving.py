"""Checkpoints written beside the training: in order, as they were, and never one that speaks of another that lacks."""

import os
import threading
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch

from invariance.errors import UserError
from invariance.runs.files import sha256
from invariance.runs.run import Run
from invariance.training import beside, saving
from invariance.training.beside import BesideCheckpointIO, snapshot


@pytest.fixture
def run(tmp_path):
    with Run(tmp_path, "train/x", {"name": "x"}) as run:
        yield run


@pytest.fixture
def slow(monkeypatch):
    """Writing that waits until it is let go, or somebody waits for it."""
    let, begun, save, wait = threading.Event(), threading.Event(), torch.save, beside.wait

    def late(*arguments):
        begun.set()
        assert let.wait(60)
        save(*arguments)

    monkeypatch.setattr(saving.torch, "save", late)
    monkeypatch.setattr(beside, "wait", lambda writing: let.set() or wait(writing))
    yield SimpleNamespace(set=let.set, is_set=let.is_set, begun=begun)
    let.set()


def test_what_is_written_is_what_it_was_when_it_was_given(run, slow):
    io, weights = BesideCheckpointIO(run), torch.arange(5.0)
    shared = OrderedDict(w=weights, view=weights[1:3], n=torch.tensor(3))
    shared._metadata = {"": {"version": 1}}
    io.save_checkpoint({"state": shared}, run.directory / "best.ckpt")
    io.save_checkpoint({"step": 10}, run.directory / "last.ckpt")
    weights.mul_(-1)
    assert not list(run.directory.glob("*.ckpt"))
    slow.set()
    io.finish()
    best, last = (torch.load(run.directory / f"{name}.ckpt", weights_only=True) for name in ("best", "last"))
    assert best["state"]["w"].tolist() == [0, 1, 2, 3, 4] and best["state"]["view"].tolist() == [1, 2]
    assert best["state"]._metadata == shared._metadata and best["state"]["n"].dtype == torch.int64
    assert last["invariance_run"] == {"name": run.name, "best": sha256(run.directory / "best.ckpt")}


def test_a_snapshot_writes_the_file_that_its_original_would(tmp_path):
    weights = torch.randn(3, 4, 5, 6).contiguous(memory_format=torch.channels_last)
    held = {"state_dict": OrderedDict(a=weights, b=weights), "optimizer": [{"momentum": torch.zeros(3)}], "x": [1, "a"]}
    for name, content in (("own", held), ("copy", snapshot(held))):
        (tmp_path / name).mkdir()
        torch.save(content, tmp_path / name / "last.ckpt")
    assert (tmp_path / "own/last.ckpt").read_bytes() == (tmp_path / "copy/last.ckpt").read_bytes()


def test_the_next_span_waits_for_the_last_state(run, slow, monkeypatch):
    io, path, there = BesideCheckpointIO(run), run.directory / "last.ckpt", []
    monkeypatch.setattr(beside, "snapshot", lambda held: there.append(path.exists()) or held)
    io.save_checkpoint({"step": 1}, path)
    assert not slow.is_set()
    io.save_checkpoint({"step": 2}, path)
    io.finish()
    assert there == [False, True]
    assert [torch.load(run.directory / name)["step"] for name in ("previous.ckpt", "last.ckpt")] == [1, 2]


def test_a_best_network_that_cannot_be_written_ends_the_training_and_no_state_speaks_of_it(run, monkeypatch):
    io, failing = BesideCheckpointIO(run), OSError(28, os.strerror(28))
    with monkeypatch.context() as patch:
        patch.setattr(saving.torch, "save", lambda *_: (_ for _ in ()).throw(failing))
        io.save_checkpoint({"step": 1}, run.directory / "best.ckpt")
        io.teardown()
    io.save_checkpoint({"step": 1}, run.directory / "last.ckpt")
    with pytest.raises(UserError, match=r"best\.ckpt: its disk is full"):
        io.save_checkpoint({"step": 2}, run.directory / "best.ckpt")
    assert not list(run.directory.glob("*.ckpt")) and not list(run.directory.glob(".*.tmp"))


@pytest.mark.parametrize("ended", [True, False])
def test_what_is_being_written_is_whole_when_a_training_is_interrupted(run, slow, ended, capsys):
    io, path = BesideCheckpointIO(run), run.directory / "best.ckpt"
    if not ended:
        path.mkdir()
    with pytest.raises(KeyboardInterrupt), io.written():
        io.save_checkpoint({"step": 1}, path)
        assert not slow.is_set()
        raise KeyboardInterrupt
    if ended:
        assert torch.load(path)["step"] == 1
    else:
        assert capsys.readouterr().err == (
            f"error: cannot write {path}: a folder stands where a file is needed; make room or choose another place, "
            "then repeat\n"
        )


def test_a_folder_that_is_anothers_gets_nothing(tmp_path, slow):
    with Run(tmp_path, "train/x", {"name": "x"}) as run:
        io = BesideCheckpointIO(run)
        io.save_checkpoint({"step": 1}, run.directory / "last.ckpt")
        assert slow.begun.wait(60)
        run.directory.rename(tmp_path / "aside")
        run.directory.mkdir()
        slow.set()
        with pytest.raises(UserError):
            io.finish()
        with pytest.raises(UserError, match="was deleted or replaced"):
            io.save_checkpoint({"step": 2}, run.directory / "last.ckpt")
        assert not list(run.directory.iterdir())
