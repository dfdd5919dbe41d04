"""Reading in many threads: the same images by every way, errors in order, and no batch overwritten while it is held."""

import errno
import os
import threading

import numpy as np
import pytest
import torch

from invariance.data import images as images_module
from invariance.data import reading
from invariance.data.images import StoredImages
from invariance.data.reading import Buffers, read_ahead, spread
from invariance.data.stored import checksum
from invariance.engine.stream import batches
from invariance.errors import UserError

SHAPE = (60, 3, 5, 7)
PLAIN = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
PICKS = [
    np.arange(60),
    np.arange(60)[::-1],
    np.array([4, 4, 5, 6, 59, -1, 0, -60, 17]),
    np.array([], np.int64),
    np.random.default_rng(1).permutation(60),
]


@pytest.fixture
def stored(tmp_path):
    np.save(tmp_path / "x.npy", PLAIN)
    sums = np.array([checksum(image.tobytes()) for image in PLAIN], np.uint64)
    return StoredImages(tmp_path / "x.npy", SHAPE, sums, UserError)


@pytest.fixture(params=["from memory", "by many threads", "by turns"])
def way(request, monkeypatch):
    """Every way that images are read: as if all were in memory, or none, or every other one."""
    turns, preadv = iter(range(10**6)), os.preadv

    def read(file, into, place, flags=0):
        if flags:
            if request.param == "by many threads":
                raise OSError(errno.EOPNOTSUPP, "no such flag here")
            if request.param == "by turns" and next(turns) % 2:
                raise BlockingIOError(errno.EAGAIN, "not in memory")
        return preadv(file, into, place)

    monkeypatch.setattr(os, "preadv", read)
    monkeypatch.setattr(images_module, "_CACHED", 8)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("piece", [1, 250, 1 << 20])
def test_images_are_the_same_by_every_way(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(images_module, "_PIECE", piece)
    np.save(tmp_path / "x.npy", PLAIN)
    images = StoredImages(tmp_path / "x.npy", SHAPE, None, UserError)
    for picked in PICKS:
        assert np.array_equal(images.read(picked), PLAIN[picked])
        out = np.full((len(picked), *SHAPE[1:]), 7, np.uint8)
        assert images.read(picked, out=out) is out and np.array_equal(out, PLAIN[picked])


@pytest.mark.usefixtures("way")
def test_damaged_images_are_all_told_in_their_order(tmp_path, stored):
    damaged = PLAIN.copy()
    damaged[[7, 30, 31], 1, 2, 3] ^= 1
    np.save(tmp_path / "x.npy", damaged)
    order = np.random.default_rng(2).permutation(60)
    images = StoredImages(tmp_path / "x.npy", SHAPE, stored._checksums, UserError)
    told = ", ".join(str(i) for i in order if i in (7, 30, 31))
    for _ in range(2):  # nothing counts as seen
        with pytest.raises(UserError, match=f"^3 of 60 images that were read differ .* from 0 {told}$"):
            images.read(order, once=True)
    os.truncate(tmp_path / "x.npy", 128 + 105 * 20)
    with pytest.raises(UserError, match="^the file ends before image 45 does$"):
        images.read(np.array([3, 45, 7, 50, 20]))


def test_a_flag_that_the_disk_does_not_know_is_tried_once(stored, monkeypatch):
    tried, preadv = [], os.preadv

    def read(file, into, place, flags=0):
        if flags:
            tried.append(place)
            raise OSError(errno.EOPNOTSUPP, "no such flag here")
        return preadv(file, into, place)

    monkeypatch.setattr(os, "preadv", read)
    stored._cached = 8
    for _ in range(3):
        assert np.array_equal(stored.read(np.array([5])), PLAIN[[5]])
    assert len(tried) == 1


def test_only_where_images_are_read_in_their_order_the_next_are_brought_each_once(stored, monkeypatch):
    brought = []
    monkeypatch.setattr(images_module, "_PIECE", 3 * 105)
    monkeypatch.setattr(os, "posix_fadvise", lambda file, start, size, advice: brought.append((start, size)))
    for i in PICKS[4]:
        assert np.array_equal(stored[i], PLAIN[i])
    assert not brought
    for ways in (iter(stored), (stored[i : i + 2] for i in range(0, 60, 2))):
        brought.clear()
        for _ in ways:
            pass
        told = [image for start, size in brought for image in range((start - 128) // 105, (start + size - 128) // 105)]
        assert told == list(range(told[0], 60)) and told[0] <= 2


def test_of_several_errors_the_first_in_order_is_raised_and_everything_before_it_is_done():
    done = set()

    def work(item):
        if item in (3, 5, 40):
            raise ValueError(str(item))
        done.add(item)

    with pytest.raises(ValueError, match="^3$"):
        spread(work, range(41))
    assert {0, 1, 2} <= done
    spread(done.add, [])
    spread(done.add, [99])
    assert 99 in done


def test_an_interruption_waits_for_what_has_begun_and_begins_nothing_more(monkeypatch):
    begun, go_on, ended = threading.Event(), threading.Event(), []

    def work(item):
        begun.set()
        go_on.wait()
        ended.append(item)

    def interrupted(others):
        if not go_on.is_set():
            begun.wait()
            go_on.set()
            raise KeyboardInterrupt
        return wait(others)

    wait = reading.wait
    monkeypatch.setattr(reading, "_AT_ONCE", 2)
    monkeypatch.setattr(reading, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        spread(work, range(10**5))
    held = list(ended)
    assert len(held) < 10**5
    spread(lambda _: None, range(4))  # by the same threads: the interrupted ones have ended
    assert ended == held


def test_a_forked_child_reads_by_threads_of_its_own(stored):
    stored._cached = 0
    assert np.array_equal(stored[:], PLAIN)
    spread(lambda _: None, range(64))
    child = os.fork()
    if not child:
        try:
            spread(lambda _: None, range(64))
            os._exit(0 if np.array_equal(stored.read(PICKS[4]), PLAIN[PICKS[4]]) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_memory_serves_again_once_nothing_of_it_is_left_and_not_before():
    buffers = Buffers(pinned=False, kept=2)
    places = {}
    for what, part in {
        "the tensor": lambda t: t,
        "a view": lambda t: t[2:4].view(torch.int16),
        "an array": lambda t: t.numpy()[1:],
        "a view of bytes": lambda t: memoryview(t.numpy()),
        "a graph": lambda t: t[:4].view(torch.float32).requires_grad_().view(1, 1).T,
    }.items():
        tensor = buffers.take(64)
        place = tensor.data_ptr()
        kept = part(tensor)
        del tensor
        assert buffers.take(64).data_ptr() != place, what
        del kept
        places[what] = place
        assert place in [one.data_ptr() for one in (buffers.take(64), buffers.take(64))], what
    assert buffers.take(65).shape == (65,) and len(buffers._free) <= 2


@pytest.mark.parametrize("threads", [0, 3])
def test_no_batch_is_overwritten_while_somebody_has_a_part_of_it(stored, threads):
    buffers = Buffers(pinned=False, kept=2 * threads + 2)

    def read(place):
        memory = buffers.take(4 * 105)
        stored.read(np.arange(4 * place, 4 * place + 4), out=memory.numpy().reshape(4, *SHAPE[1:]))
        return memory.view(4, *SHAPE[1:])

    kept, places = [], set()
    for place, batch in enumerate(read_ahead(read, 15, threads)):
        places.add(batch.data_ptr())
        if place % 3 == 0:
            kept.append((4 * place + 2, batch[2].numpy() if place % 2 else batch[2]))
    assert len(places) < 15  # memory was used again
    for number, image in kept:
        assert np.array_equal(image, PLAIN[number])


def test_features_of_stored_images_are_those_of_images_in_memory(stored):
    order = np.random.default_rng(3).permutation(60)[:51]
    ways = [list(batches(images, order, 8, torch.device("cpu"))) for images in (PLAIN, stored)]
    for (span, x), (other, y) in zip(*ways, strict=True):
        assert span == other and torch.equal(x, y) and x.dtype == torch.float32
        assert np.array_equal(x, PLAIN[order[span]])
