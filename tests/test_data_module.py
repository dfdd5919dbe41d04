"""Batches: any step reached directly, the same through a trainer, its resumption and its reading threads."""

import errno
import gc
import os
import shutil
import threading
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import invariance.data.prepared
from invariance.data.batches import PreparedData, StepSampler
from invariance.data.packing import pack, unpack
from invariance.data.prepared import Prepared, prepare
from invariance.data.reading import read_ahead
from invariance.errors import UserError

DIGITS = {
    "_target_": "invariance.data.sources.arrays.Digits",
    "colour": "gray",
    "name": "digits",
    "val_fraction": 0.05,
    "test_fraction": 0.0,
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return prepare(DIGITS, 8, tmp_path_factory.mktemp("prepared"), progress=False)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 9), st.permutations(range(12)))
def test_batches_are_permutations_one_after_another_in_whatever_order_they_are_asked_for(n, batch_size, seed, order):
    sampler = StepSampler(n, batch_size, seed)
    got = {step: sampler.indices(step) for step in order}
    assert all(len(batch) == batch_size for batch in got.values())
    run = np.concatenate([got[step] for step in range(12)])
    for start in range(0, len(run) - n + 1, n):
        assert sorted(run[start : start + n]) == list(range(n))
    assert len(set(run[len(run) // n * n :])) == len(run) % n
    assert np.array_equal(StepSampler(n, batch_size, seed).indices(11), got[11])


def test_passes_and_seeds_differ():
    one, other = StepSampler(100, 100, 0), StepSampler(100, 100, 1)
    assert not np.array_equal(one.indices(0), one.indices(1)) and not np.array_equal(one.indices(0), other.indices(0))
    # unordered: neighbours are no nearer each other than chance (mean distance (n + 1) / 3)
    assert 25 < np.abs(np.diff(one.indices(3))).mean() < 42


def test_the_order_is_the_same_on_every_machine():
    assert StepSampler(10, 5, 0).indices(3).tolist() == [9, 8, 0, 5, 1]


class Recorder(pl.LightningModule):
    """Takes down every batch it is given."""

    def __init__(self, stop_after=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen, self.validated, self.stop_after = [], 0, stop_after

    def training_step(self, batch, batch_idx):
        x, y = batch
        assert x.dtype == torch.uint8 and y.dtype == torch.int64 and x.shape[1:] == (1, 8, 8)
        self.seen.append((self.global_step, x.clone(), y.clone()))
        if self.stop_after is not None and len(self.seen) > self.stop_after:
            raise RuntimeError("killed")
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.validated += len(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def reading():
    """Threads that read ahead."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("reading")]


def trained(digits, folder, workers=0, stop_after=None, resume=None, updates=22, by="max_steps"):
    data = PreparedData(digits, 16, updates, val_every=5, seed=3, workers=workers, eval_batch_size=20)
    module = Recorder(stop_after)
    length = {"max_steps": updates, "max_epochs": -1} if by == "max_steps" else {"max_epochs": -(-updates // 5)}
    trainer = pl.Trainer(
        **length,
        reload_dataloaders_every_n_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[
            pl.callbacks.ModelCheckpoint(
                folder, filename="last", enable_version_counter=False, save_on_train_epoch_end=True
            )
        ],
    )
    if stop_after is None:
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    else:
        with pytest.raises(RuntimeError, match="killed"):
            trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    return module


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("by", ["max_steps", "max_epochs"])
def test_a_trainer_sees_the_sampler_s_batches_and_repeats_them_when_it_resumes(digits, tmp_path, by):
    whole = trained(digits, tmp_path / "whole", by=by)
    split, sampler = digits.split("train"), StepSampler(len(digits.split("train")), 16, 3)
    assert [step for step, _, _ in whole.seen] == list(range(22))
    for step, x, y in whole.seen:
        chosen = sampler.indices(step)
        assert np.array_equal(x, split.images[chosen]) and np.array_equal(y, split.labels[chosen])
    assert whole.validated == 5 * len(digits.split("val"))  # after every span, the short last one too

    last = tmp_path / "cut" / "last.ckpt"
    parts = trained(digits, tmp_path / "cut", stop_after=13, by=by).seen[:10]
    for stop_after, steps in ((2, 0), (8, 5), (1, 0)):  # killed again and again, in the first span or a later one
        seen = trained(digits, tmp_path / "cut", stop_after=stop_after, resume=last, by=by).seen
        assert seen[0][0] == len(parts)
        parts += seen[:steps]
    parts += trained(digits, tmp_path / "cut", resume=last, by=by).seen
    assert [step for step, _, _ in parts] == list(range(22))
    for (_, x, y), (_, xr, yr) in zip(parts, whole.seen, strict=True):
        assert torch.equal(x, xr) and torch.equal(y, yr)
    assert trained(digits, tmp_path / "cut", resume=last, by=by).seen == []  # nothing is left to do


@pytest.mark.filterwarnings("ignore")
def test_workers_change_no_batch(digits, tmp_path):
    alone, helped = trained(digits, tmp_path / "0", updates=7), trained(digits, tmp_path / "2", workers=2, updates=7)
    assert len(alone.seen) == len(helped.seen) == 7
    for (_, x, y), (_, xh, yh) in zip(alone.seen, helped.seen, strict=True):
        assert torch.equal(x, xh) and torch.equal(y, yh)


def test_the_memory_of_spans_that_are_over_is_given_up(digits):
    data = PreparedData(digits, 16, 40, 5, 0, workers=2)
    over = []
    for _ in range(6):  # a trainer asks anew in every span
        for loader in (data.train_dataloader(), data.val_dataloader()):
            assert list(loader)
            over.append(weakref.ref(loader))
    del loader
    gc.collect()
    assert [ref() for ref in over] == [None] * 12


def test_prepared_data_take_few_open_files_and_a_lack_of_them_is_no_damage(digits, monkeypatch):
    before = len(os.listdir("/proc/self/fd"))
    again = Prepared(digits.directory)
    assert len(os.listdir("/proc/self/fd")) - before <= len(again.splits) + 1

    def full(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(invariance.data.prepared, "open_images", full)
    with pytest.raises(UserError, match="too many files are open; allow more") as told:
        Prepared(digits.directory)
    assert "damaged" not in str(told.value)


def test_validation_is_in_order_and_complete(digits):
    data = PreparedData(digits, 16, 10, 5, 0, eval_batch_size=7)
    x, y = (torch.cat(parts) for parts in zip(*data.val_dataloader(), strict=True))
    assert np.array_equal(x, digits.split("val").images) and np.array_equal(y, digits.split("val").labels)


def test_the_global_random_state_is_left_alone(digits):
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    data = PreparedData(digits, 16, 10, 5, 0)
    list(data.steps(0, 3))
    list(data.val_dataloader())
    assert torch.equal(torch.get_rng_state(), state[0]) and np.array_equal(np.random.get_state()[1], state[1])


def test_a_batch_may_be_changed_without_changing_the_data(digits):
    data = PreparedData(digits, 16, 10, 5, 0)
    [(x, y)] = list(data.steps(0, 1))
    before = x.clone()
    x.zero_()
    y.zero_()
    [(again, labels)] = list(data.steps(0, 1))
    assert torch.equal(again, before) and labels.any()


@pytest.mark.filterwarnings("ignore")
def test_threads_end_with_the_training_however_it_ends(digits, tmp_path):
    trained(digits, tmp_path / "0", workers=3, updates=7)
    assert not reading()
    trained(digits, tmp_path / "1", workers=3, stop_after=6)
    assert not reading()


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_results_come_in_order_and_no_more_than_two_a_thread_are_read_ahead(threads):
    lock, asked, furthest = threading.Lock(), [], 0

    def read(place):
        with lock:
            asked.append(place)
        return place

    for place in read_ahead(read, 20, threads):
        furthest = max(furthest, max(asked) - place)
        assert place in asked
    assert sorted(asked) == list(range(20)) and furthest <= 2 * threads
    assert list(read_ahead(read, 0, threads)) == [] and not reading()


def test_without_the_end_being_asked_for_the_threads_end_all_the_same():
    ahead = read_ahead(lambda place: place, 4, 2)
    assert [next(ahead) for _ in range(4)] == [0, 1, 2, 3] and not reading()
    ahead = read_ahead(lambda place: place, 4, 2)
    next(ahead)
    assert reading()
    ahead.close()
    assert not reading()


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_an_error_in_a_thread_comes_in_its_place_and_ends_the_others(threads):
    def read(place):
        if place == 2:
            raise UserError("two")
        return place

    seen = []
    with pytest.raises(UserError, match="two"):
        for place in read_ahead(read, 9, threads):
            seen.append(place)
    assert seen == [0, 1] and not reading()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_ends_a_training_in_one_line_and_is_told_at_its_first_reading(digits, tmp_path, workers):
    copy = tmp_path / "copy"
    shutil.copytree(digits.directory, copy)
    damaged = Prepared(copy)
    data = PreparedData(damaged, 16, 22, 5, seed=3, workers=workers)
    [bad] = StepSampler(len(damaged.split("train")), 16, 3).indices(7)[4:5]
    flip(copy / "train.images.npy", 128 + 64 * bad + 9)
    with pytest.raises(UserError, match=f"damaged .train: 1 of 16 images that were read .* from 0 {bad}\\)") as caught:
        trained(damaged, tmp_path / "run", workers)
    assert "invariance-prepare" in str(caught.value) and "\n" not in str(caught.value) and not reading()
    seen = 0
    with pytest.raises(UserError):
        for _ in data.steps(0, 22):
            seen += 1
    assert seen == 7


def test_in_training_an_image_is_verified_once_and_in_measuring_each_time(digits, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(digits.directory, copy)
    images = Prepared(copy).split("train").images
    few = np.array([5, 3, 4])
    before = images.read(few, once=True)
    flip(copy / "train.images.npy", 128 + 64 * 4)
    assert not np.array_equal(images.read(few, once=True), before)
    with pytest.raises(UserError, match="1 of 3 images .* from 0 4\\)"):
        images.read(few)


def test_a_file_that_is_cut_off_while_it_is_read_is_one_line(digits, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(digits.directory, copy)
    images = Prepared(copy).split("val").images
    os.truncate(copy / "val.images.npy", 128 + 64 * 10 + 5)
    assert len(images[:10]) == 10
    with pytest.raises(UserError, match="val: the file ends before image 10 does"):
        images[3:20]


def flip(path, byte):
    with open(path, "rb+") as file:
        file.seek(byte)
        [value] = file.read(1)
        file.seek(byte)
        file.write(bytes([value ^ 1]))


def test_images_are_indexed_as_an_array_is(digits):
    stored = digits.split("train").images
    plain = np.load(digits.directory / "train.images.npy")
    assert np.array_equal(stored, plain) and stored.shape == plain.shape and len(stored) == len(plain)
    for key in (7, -2, slice(3, 40, 7), [4, 4, 0], np.array([-1, 2]), np.arange(len(plain)) % 3 == 1, slice(5, 5)):
        assert np.array_equal(stored[key], plain[key]) and stored[key].dtype == np.uint8
    assert sum(int(image.sum()) for image in stored) == plain.sum()
    for key in (len(plain), [0, len(plain)], -len(plain) - 1, [0.5, 1.5], [2.0], ["1"]):
        with pytest.raises(IndexError):
            stored[key]


MIXED = {
    "angle": torch.arange(5, dtype=torch.float64) / 7,
    "flag": torch.tensor([True, False, True, False, True]),
    "field": torch.arange(30.0).reshape(5, 2, 3).transpose(1, 2),
    "one": torch.tensor(7, dtype=torch.int16),
    "none": torch.empty(0, 3),
    "half": torch.tensor([1.5, -2], dtype=torch.bfloat16),
    "byte": torch.tensor([3], dtype=torch.uint8),
    "complex": torch.tensor([1 + 2j]),
}


def test_tensors_of_all_types_come_out_of_one_buffer_as_they_went_in():
    buffer, layout = pack(MIXED)
    assert buffer.dtype == torch.uint8 and buffer.shape == (layout.bytes,)
    moved = buffer.clone()
    got = unpack(moved, layout)
    assert list(got) == list(MIXED)
    for name, tensor in MIXED.items():
        assert torch.equal(got[name], tensor) and got[name].dtype == tensor.dtype and got[name].shape == tensor.shape
        assert got[name].is_contiguous() and got[name].data_ptr() % got[name].element_size() == 0
    got["angle"][0] = 9  # views, which overlap nothing
    assert torch.equal(got["flag"], MIXED["flag"]) and unpack(moved, layout)["angle"][0] == 9
    assert pack({})[0].shape == (0,) and unpack(*pack({})) == {}


def of_update(step, n):
    """Something to be drawn, unlike for every update and image."""
    places = torch.arange(n, dtype=torch.float64)
    return {"angle": places + 100 * step, "whole": torch.tensor([step, n]), "twice": places.repeat(2, 1).T}


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_drawn_travels_with_its_batch(digits, workers):
    plain = list(PreparedData(digits, 16, 10, 5, 3).steps(2, 6))
    data = PreparedData(digits, 16, 10, 5, 3, workers=workers, draw=of_update)
    for step, (x, y, drawn), (wanted, labels) in zip(range(2, 6), data.steps(2, 6), plain, strict=True):
        assert torch.equal(x, wanted) and torch.equal(y, labels)
        assert list(drawn) == ["angle", "whole", "twice"]
        assert all(torch.equal(drawn[name], value) for name, value in of_update(step, 16).items())


def test_of_several_devices_each_gets_its_part_of_what_is_drawn_for_all(digits):
    data = PreparedData(digits, 12, 10, 5, 3, draw=of_update)
    [(whole, _, all_drawn)] = list(data.steps(4, 5))
    for rank in range(3):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=3)
        [(x, _, drawn)] = list(data.steps(4, 5))
        mine = slice(4 * rank, 4 * rank + 4)
        assert torch.equal(x, whole[mine])
        assert all(torch.equal(drawn[name], all_drawn[name][mine]) for name in ("angle", "twice"))
        assert drawn["whole"].tolist() == [4, 12]


@pytest.mark.filterwarnings("ignore")
def test_what_is_drawn_reaches_a_training_step_in_its_own_type(digits, tmp_path):
    class Drawing(Recorder):
        def training_step(self, batch, batch_idx):
            x, y, drawn = batch
            assert drawn["angle"].dtype == torch.float64  # Lightning would turn it into float32
            assert torch.equal(drawn["angle"], of_update(self.global_step, 16)["angle"])
            return super().training_step((x, y), batch_idx)

    data, module = PreparedData(digits, 16, 7, 5, seed=3, workers=1, draw=of_update), Drawing()
    trainer = pl.Trainer(
        max_epochs=2,
        reload_dataloaders_every_n_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, datamodule=data)
    assert len(module.seen) == 7 and module.validated == 2 * len(digits.split("val"))
