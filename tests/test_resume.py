"""Continuing an interrupted training in one process: moved folders, damaged checkpoints, full disks, bad facts."""

import errno
import os
import pickle
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch

from invariance.errors import UserError
from invariance.experiments.measure import measure
from invariance.experiments.train import train
from invariance.runs.processes import signals_interrupt
from invariance.training.saving import AtomicCheckpointIO

QUICK = [
    "model=tiny",
    "recipe=smoke",
    "logger=csv",
    "trainer=cpu",
    "progress=false",
    "recipe.updates=30",
    "recipe.val_every=10",
    "recipe.batch=16",
]
NAME = "train/digits/baseline/seed0"


class Stop(Exception):
    """The interruption."""


def interrupt_after(monkeypatch, updates, how=Stop):
    from invariance.training.classifier import Classifier

    step = Classifier.training_step

    def interrupted(self, batch, batch_idx):
        if self.global_step == updates:
            raise how
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


def test_a_run_begun_under_the_names_of_before_is_continued_and_measured(
    tmp_path, whole, again, compose, prepared, monkeypatch, capsys
):
    old = "data._target_=invariance.data.arrays.Digits"  # where the class was until it moved into data/sources/
    with monkeypatch.context() as patch, pytest.raises(Stop):
        interrupt_after(patch, 25)
        again(tmp_path / "now", old)
    shutil.copytree(tmp_path / "now", tmp_path / "then")
    again(tmp_path / "now")
    again(tmp_path / "then", old)
    for run in (tmp_path / "now" / NAME, tmp_path / "then" / NAME):
        assert (run / "rows.csv").read_bytes() == (whole / "rows.csv").read_bytes()
    again(runs := tmp_path / "then")
    assert "finished already" in capsys.readouterr().out
    assert old.partition("=")[2] in (runs / NAME / "provenance.json").read_text()
    quick = ["grids=[mirror]", "solver=ridge", "metrics=[l2_distance]", "logger=csv", "trainer=cpu", "progress=false"]
    measure(compose("measure", f"runs={runs}", f"prepared={prepared}", "networks=digits", *quick))
    assert list(runs.glob("measure/digits/baseline/seed0/mirror/*/done.json"))


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
    if how == "gone":
        path.unlink()
    elif how == "flipped":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif how == "truncated":
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


DAMAGES = ["truncated", "empty", "code", "architecture", "other", "flipped", "loops", "callbacks", "optimizer_states"]


@pytest.mark.parametrize("how", DAMAGES)
def test_without_the_one_before_a_damaged_checkpoint_is_one_line(moved, again, monkeypatch, tmp_path, how):
    monkeypatch.chdir(tmp_path)
    damage(moved / NAME / "last.ckpt", how)
    (moved / NAME / "previous.ckpt").unlink()
    with pytest.raises(UserError, match=f"last.ckpt .*delete {moved / NAME} to start over"):
        again(moved)
    assert not (tmp_path / "harmed").exists()


def same(ours, theirs):
    one, other = state(ours / "best.ckpt"), state(theirs / "best.ckpt")
    assert one["global_step"] == other["global_step"]
    for name in ("best.ckpt", "last.ckpt"):
        one, other = state(ours / name)["state_dict"], state(theirs / name)["state_dict"]
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert (ours / "rows.csv").read_bytes() == (theirs / "rows.csv").read_bytes()
    assert not (ours / "previous.ckpt").exists() and not list(ours.glob(".*.tmp"))


@pytest.mark.parametrize("how", ["gone", *DAMAGES])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_says_so(moved, whole, again, how, capfd):
    damage(moved / NAME / "last.ckpt", how)
    again(moved)
    [line] = [line for line in capfd.readouterr().err.splitlines() if "last.ckpt" in line]
    assert line.endswith("continuing from update 10, the checkpoint before")
    same(moved / NAME, whole)


def test_both_damaged_is_one_line(moved, again):
    damage(moved / NAME / "last.ckpt", "truncated")
    damage(moved / NAME / "previous.ckpt", "flipped")
    before = {path.name: path.read_bytes() for path in (moved / NAME).glob("*.ckpt")}
    with pytest.raises(UserError, match=f"last.ckpt is damaged; delete {moved / NAME} to start over"):
        again(moved)
    assert {path.name: path.read_bytes() for path in (moved / NAME).glob("*.ckpt")} == before


@pytest.mark.parametrize("how", ["gone", "truncated", "flipped"])
def test_a_damaged_best_network_that_was_written_since_is_written_again(moved, whole, again, how, capfd):
    assert state(moved / NAME / "best.ckpt")["global_step"] == 20
    damage(moved / NAME / "best.ckpt", how)
    again(moved)
    [line] = [line for line in capfd.readouterr().err.splitlines() if "best.ckpt" in line]
    assert line.endswith("continuing from update 10, the checkpoint before")
    same(moved / NAME, whole)


@pytest.mark.parametrize("how", ["gone", "truncated"])
def test_a_damaged_best_network_that_no_checkpoint_leads_to_is_one_line(moved, again, how):
    shutil.copy(moved / NAME / "last.ckpt", moved / NAME / "previous.ckpt")
    damage(moved / NAME / "best.ckpt", how)
    with pytest.raises(UserError, match=f"best.ckpt.*delete {moved / NAME} to start over"):
        again(moved)


@pytest.mark.parametrize(("updates", "workers"), [(0, 0), (9, 4), (10, 0), (19, 4), (29, 0)])
def test_interrupted_at_any_update_and_continued_is_the_same_to_the_bit(tmp_path, whole, again, updates, workers):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(patch, updates, KeyboardInterrupt)
        again(tmp_path, f"trainer.workers={workers}")
    again(tmp_path, f"trainer.workers={4 - workers}")
    same(tmp_path / NAME, whole)


def test_a_signal_while_a_checkpoint_is_written_is_an_interruption(tmp_path):
    class Loud:
        def __reduce__(self):
            signal.raise_signal(signal.SIGINT)
            return (int, (1,))

    # a command's own handlers: a test run in the background of a shell starts with SIGINT ignored
    with signals_interrupt(), pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO().save_checkpoint({"w": torch.zeros(100_000), "loud": Loud()}, tmp_path / "last.ckpt")
    assert not list(tmp_path.iterdir())


class Killed(BaseException):
    """The end of the process, at a moment of our choosing."""


@pytest.mark.parametrize("operation", [pytest.param(k, marks=[pytest.mark.long] * (k % 3 != 0)) for k in range(12)])
def test_killed_while_files_change_places(tmp_path, whole, again, operation, monkeypatch):
    done = 0

    def fragile(call):
        def called(*arguments, **named):
            nonlocal done
            if not any("ckpt" in str(argument) for argument in arguments):
                return call(*arguments, **named)
            done += 1
            if done > operation:  # a process that was killed does not clean up either
                raise Killed
            return call(*arguments, **named)

        return called

    with monkeypatch.context() as patch, pytest.raises(Killed):
        for name in ("link", "replace"):
            patch.setattr("os." + name, fragile(getattr(os, name)))
        patch.setattr(Path, "unlink", fragile(Path.unlink))
        again(tmp_path)
    folder = tmp_path / NAME
    saved = [state(path)["global_step"] for path in folder.glob("*.ckpt") if path.name != "best.ckpt"]
    assert len(saved) == len(set(saved))
    again(tmp_path)
    same(folder, whole)


def test_without_hard_links_one_of_the_two_is_always_there(tmp_path, whole, again, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "no hard links here")

    replace, both = os.replace, []

    def watched(source, target):
        replace(source, target)
        both.append([(tmp_path / NAME / name).exists() for name in ("last.ckpt", "previous.ckpt")])

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "replace", watched)
    again(tmp_path)
    begun = both.index([True, False])
    assert [False, True] in both and all(any(pair) for pair in both[begun:])
    same(tmp_path / NAME, whole)


def test_a_run_trained_to_its_end_is_only_evaluated(whole, tmp_path, again, recwarn, monkeypatch):
    shutil.copytree(whole.parents[2].parent, tmp_path / "runs")
    (tmp_path / "runs" / NAME / "done.json").unlink()
    (tmp_path / "runs" / NAME / "rows.csv").unlink()
    interrupt_after(monkeypatch, 30)
    again(tmp_path / "runs")
    assert (tmp_path / "runs" / NAME / "rows.csv").read_bytes() == (whole / "rows.csv").read_bytes()
    assert not [w for w in recwarn if "zero" in str(w.message)]


def test_a_full_disk_under_a_checkpoint_is_one_line_and_loses_nothing(tmp_path):
    (tmp_path / "last.ckpt").write_text("20")
    (tmp_path / "previous.ckpt").write_text("10")
    # a file-size limit stands for the disk: the same refusal, at a moment of our choosing
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match="cannot write .*last.ckpt: the file would be larger than allowed"):
            AtomicCheckpointIO().save_checkpoint({"w": torch.zeros(100_000)}, tmp_path / "last.ckpt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"last.ckpt": "20", "previous.ckpt": "10"}


def test_divergence_before_any_checkpoint_may_be_mended_in_the_same_place(tmp_path, again):
    with pytest.raises(UserError, match="training diverged"):
        again(tmp_path, "recipe.rate=1e6")
    again(tmp_path, "recipe.rate=0.01")
    assert (tmp_path / NAME / "done.json").exists()


@pytest.mark.parametrize(
    ("wrong", "said"), [("model.width=wide", "model.width='wide'"), ("data.fit.images=5000", "data.fit.images=5000")]
)
def test_a_mistake_leaves_no_run_directory(tmp_path, again, wrong, said):
    with pytest.raises(UserError, match=said):
        again(tmp_path / "runs", wrong)
    assert not (tmp_path / "runs").exists()


def changed(path, **values):
    """A checkpoint with some of its entries replaced by functions of them."""
    held = state(path)
    for name, change in values.items():
        held[name] = change(held[name])
    torch.save(held, path)


def one_nan(tensors):
    first = next(iter(tensors))
    return {**tensors, first: torch.full_like(tensors[first], torch.nan)}


LIES = {
    "another step": {"global_step": lambda step: step - 5},
    "the end of the training": {"global_step": lambda step: 30},
    "beyond the end": {"global_step": lambda step: 300},
    "no optimizer": {"optimizer_states": lambda states: []},
    "an optimizer that remembers nothing": {"optimizer_states": lambda states: [{**states[0], "state": {}}]},
    "no momentum": {"optimizer_states": lambda states: [{**states[0], "param_groups": []}]},
    "no schedule": {"lr_schedulers": lambda states: []},
    "a schedule of another update": {"lr_schedulers": lambda states: [{**states[0], "last_epoch": 3}]},
    "no loops": {"loops": lambda loops: {}},
    "loops of another update": {
        "loops": lambda loops: {
            **loops,
            "fit_loop": {**loops["fit_loop"], "epoch_loop.batch_progress": {"total": {"completed": 3}}},
        }
    },
    "another seed": {"hyper_parameters": lambda held: {**held, "seed": 1}},
    "another mean": {"hyper_parameters": lambda held: {**held, "mean": [1.0]}},
    "another run": {"invariance_run": lambda held: {**held, "name": "train/digits/baseline/seed1"}},
    "weights that are no numbers": {"state_dict": one_nan},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_checkpoint_that_is_whole_and_lies_gives_way_to_the_one_before(moved, whole, again, lie, capfd):
    changed(moved / NAME / "last.ckpt", **LIES[lie])
    again(moved)
    [line] = [line for line in capfd.readouterr().err.splitlines() if "last.ckpt" in line]
    assert line.endswith("continuing from update 10, the checkpoint before")
    same(moved / NAME, whole)


@pytest.mark.parametrize("how", ["best_of_another_network", "nan", "older"])
def test_a_best_network_that_is_not_this_trainings_is_written_again(moved, whole, again, how, capfd):
    path = moved / NAME / "best.ckpt"
    if how == "older":  # whole and of this run, but not the one that its last checkpoint knows
        changed(path, state_dict=lambda held: {name: value + 1 for name, value in held.items()})
    elif how == "nan":
        changed(path, state_dict=one_nan)
    else:
        changed(path, hyper_parameters=lambda held: {**held, "seed": 7})
    again(moved)
    [line] = [line for line in capfd.readouterr().err.splitlines() if "best.ckpt" in line]
    assert line.endswith("continuing from update 10, the checkpoint before")
    same(moved / NAME, whole)


def test_weights_that_are_no_numbers_end_a_training_before_they_are_saved(tmp_path, again, monkeypatch):
    from invariance.training.classifier import Classifier

    step = Classifier.training_step

    def broken(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        if self.global_step == 19:  # the last of a span: its loss is finite, what its step makes of the weights is not
            next(self.network.parameters()).data.fill_(torch.nan)
        return loss

    monkeypatch.setattr(Classifier, "training_step", broken)
    with pytest.raises(UserError, match="training diverged: the loss or a weight was no longer finite by update 20"):
        again(tmp_path)
    assert state(tmp_path / NAME / "last.ckpt")["global_step"] == 10
    assert not (tmp_path / NAME / "done.json").exists()


def test_a_mean_that_is_no_number_is_refused(whole, tmp_path):
    from invariance.training.classifier import Classifier, load_classifier

    held = state(whole / "best.ckpt")
    held["hyper_parameters"]["mean"] = [float("nan")]
    torch.save(held, tmp_path / "best.ckpt")
    with pytest.raises(UserError, match=r"best\.ckpt subtracts mean=\[nan\]"):
        load_classifier(tmp_path / "best.ckpt")
    with pytest.raises(UserError, match=r"mean=\[nan\]: the mean of every channel"):
        Classifier(**held["hyper_parameters"])


def test_a_run_folder_that_is_deleted_and_taken_by_another_gets_nothing_of_the_first(tmp_path, again, monkeypatch):
    from invariance.runs.run import Run
    from invariance.training.classifier import Classifier

    step, folder = Classifier.training_step, tmp_path / NAME

    def deleted(self, batch, batch_idx):
        if self.global_step == 12:
            folder.rename(tmp_path / "aside")
            shutil.rmtree(tmp_path / "aside")
            with Run(tmp_path, NAME, {"name": "next"}):
                pass
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", deleted)
    with pytest.raises(UserError, match="was deleted or replaced while this process worked in it; it writes no more"):
        again(tmp_path)
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == [
        ".lock",
        "config.yaml",
        "provenance.json",
    ]
