"""Several sizes prepared at once: each is what it would be alone, and each image is decoded once."""

import filecmp
import os
import threading

import pytest

from invariance.data import building, stored
from invariance.data import manifest as manifests
from invariance.data.estimate import plan
from invariance.data.prepared import prepare, prepare_sizes
from invariance.data.sources.trees import FolderTree
from invariance.errors import UserError
from invariance.experiments.prepare import checked_sizes
from invariance.experiments.prepare import prepare as prepare_data
from tests.test_prepared import config, made, pets, store  # noqa: F401

SIZES = [7, 5, 11]


def several(pets, store, sizes=SIZES, **changes):  # noqa: F811
    options = {key: changes.pop(key) for key in ("renew", "workers", "verify") if key in changes}
    return prepare_sizes(config(root=str(pets), **changes), sizes, store, progress=False, **options)


@pytest.fixture
def counted(monkeypatch):
    """The sizes asked for at each decoding."""
    asked, real = [], building.decode_sizes

    def noted(data, sizes, colour):
        asked.append(list(sizes))
        return real(data, sizes, colour)

    monkeypatch.setattr(building, "decode_sizes", noted)
    return asked


def same(one, other):
    names = sorted(os.listdir(one))
    assert names == sorted(os.listdir(other)) and "manifest.json" in names and "journal" not in names
    assert filecmp.cmpfiles(one, other, names, shallow=False) == (names, [], [])


def test_each_size_is_what_it_is_alone(pets, store, counted, monkeypatch):  # noqa: F811
    (pets / "cat" / "003.png").write_bytes(b"no image")
    alone = [made(pets, store.parent / "alone", size=size, max_broken=0.1) for size in SIZES]
    counted.clear()
    looks, real = [], FolderTree.inside
    monkeypatch.setattr(FolderTree, "inside", lambda self, folder: looks.append(folder) or real(self, folder))
    together = several(pets, store, max_broken=0.1)
    assert counted == [SIZES] * 120 and [prepared.size for prepared in together] == SIZES
    listed = looks.copy()
    looks.clear()
    made(pets, store.parent / "again", max_broken=0.1)
    assert looks == listed, "the source is listed as for one size"
    for one, other in zip(alone, together, strict=True):
        assert len(other.skipped) == 1
        same(one.directory, other.directory)
    assert sorted(os.listdir(store / "pets")) == sorted(prepared.directory.name for prepared in together)


def test_what_is_there_is_not_done_again(pets, store, counted):  # noqa: F811
    first = made(pets, store, size=5)
    counted.clear()
    several(pets, store)
    assert counted == [[7, 11]] * 120
    counted.clear()
    again = several(pets, store, [11, 5, 7])
    assert not counted and again[1].directory == first.directory
    several(pets, store, [5, 11], renew=True)
    assert counted == [[5, 11]] * 120


@pytest.mark.parametrize("stop_at", [1, 5, 9, 12, 14, 17, 21, 25, 30, 34, 36])
def test_interrupted_and_repeated_gives_the_same_data(pets, store, monkeypatch, stop_at):  # noqa: F811
    moments = 0

    def moment(real):
        def stopped(*arguments, **named):
            nonlocal moments
            moments += 1
            if moments == stop_at:
                raise KeyboardInterrupt
            return real(*arguments, **named)

        return stopped

    with monkeypatch.context() as patch:
        for method in ("sync", "shorten", "cut", "fill_gaps"):
            patch.setattr(stored.StoredArray, method, moment(getattr(stored.StoredArray, method)))
        patch.setattr(manifests, "write_text", moment(manifests.write_text))
        patch.setattr(building, "_SYNC_EVERY", 10.0)
        with pytest.raises(KeyboardInterrupt):
            several(pets, store)
    together = several(pets, store)
    for prepared in together:
        same(made(pets, store.parent / "alone", size=prepared.size).directory, prepared.directory)
    assert sorted(os.listdir(store / "pets")) == sorted(prepared.directory.name for prepared in together)


def test_what_one_size_had_done_is_taken_up(pets, store, counted, monkeypatch):  # noqa: F811
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(manifests, "write_text", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        made(pets, store, size=5)
    counted.clear()
    several(pets, store)
    assert counted == [[7, 11]] * 120, "the journal of size 5 names them all"


def test_two_that_ask_for_the_same_sizes_in_other_orders_both_end(pets, store, counted):  # noqa: F811
    results = []
    threads = [
        threading.Thread(target=lambda sizes=sizes: results.append(several(pets, store, sizes)), daemon=True)
        for sizes in (SIZES, SIZES[::-1], SIZES[1:] + SIZES[:1])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(results) == 3 and counted == [counted[0]] * 120
    assert len({prepared.directory for made_ in results for prepared in made_}) == 3


def test_room_for_all_is_taken_before_anything_is_decoded(pets, store, counted, monkeypatch):  # noqa: F811
    reserved, real = [], stored.StoredArray.reserve

    def reserve(self):
        reserved.append(self)
        if len(reserved) == 9:
            raise OSError(28, "No space left on device")
        real(self)

    monkeypatch.setattr(stored.StoredArray, "reserve", reserve)
    with pytest.raises(UserError, match="its disk is full"):
        several(pets, store)
    assert not counted and not (store / "pets").exists()


def test_a_plan_of_several_sizes_is_their_sum(pets, store):  # noqa: F811
    sizes = [plan(config(root=str(pets)), some, store, progress=False).size_bytes for some in ([5], [7], [11], SIZES)]
    assert sizes[3] == sum(sizes[:3]) and not store.exists()


def test_the_command_takes_a_list(pets, store, capsys):  # noqa: F811
    settings = {
        "data": config(root=str(pets)),
        "prepared": str(store),
        "progress": False,
        "renew": False,
        "plan": False,
        "verify": True,
        "size": SIZES,
        "runs": "runs",
    }
    prepare_data({**settings, "plan": True})
    assert "images of 7×7, 5×5, 11×11 take" in capsys.readouterr().out
    prepare_data(settings)
    lines = capsys.readouterr().out.splitlines()
    assert all(f"images of {size}×{size}, 2 classes" in line for size, line in zip(SIZES, lines, strict=True))
    prepare_data({**settings, "plan": True, "size": [*SIZES, 8]})
    told = capsys.readouterr().out
    assert all(f"{size}×{size} are prepared: " in told for size in SIZES) and "images of 8×8 take" in told
    assert prepare(config(root=str(pets)), 11, store, progress=False).size == 11


@pytest.mark.parametrize(
    "size,said",
    [
        ([], "at least one"),
        ([5, 5], "5 stands there twice"),
        ([5, "b"], "whole number of pixels"),
        ([[5]], "whole number"),
        (0, "whole number"),
        (None, "whole number"),
        ([True], "whole number"),
    ],
)
def test_sizes_that_are_none_are_refused(size, said):
    with pytest.raises(UserError, match=said):
        checked_sizes(size)


def damage(prepared):
    """Change one bit of an image of `train`, and give the path."""
    path = prepared.directory / "train.images.npy"
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    return path


def test_each_size_is_verified_and_only_what_is_damaged_or_lacks_is_decoded(pets, store, counted, capsys):  # noqa: F811
    first = several(pets, store, [7, 5])
    damage(first[1])
    counted.clear()
    capsys.readouterr()
    together = several(pets, store, verify=True)
    said = capsys.readouterr().err
    assert "120 images verified" in said and said.count("what is damaged is prepared again") == 1
    assert f"{first[1].directory} are damaged" in said and "other data" not in said
    assert sorted(counted) == [[5, 11]] + [[11]] * 119
    for prepared in together:
        same(made(pets, store.parent / "alone", size=prepared.size).directory, prepared.directory)
        assert all(not prepared.split(name).images.differing(0, 120) for name in prepared.splits)


def test_a_size_that_is_mended_is_not_lost_when_the_source_cannot_serve(pets, store):  # noqa: F811
    first = several(pets, store, [5])[0]
    damage(first)
    for path in (pets / "dog").iterdir():
        stamp = path.stat()
        path.write_bytes(bytes(stamp.st_size))
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with pytest.raises(UserError, match="are broken"):
        several(pets, store, [5, 11], verify=True)
    assert [path.name for path in (store / "pets").iterdir()] == [f".{first.directory.name}.tmp"]


@pytest.mark.parametrize("stop_at", [1, 4, 7, 9, 12, 15, 18, 21, 24])
def test_mending_beside_a_new_size_may_be_stopped_at_any_moment(pets, store, monkeypatch, stop_at):  # noqa: F811
    damage(several(pets, store, [5])[0])
    moments = 0

    def moment(real):
        def stopped(*arguments, **named):
            nonlocal moments
            moments += 1
            if moments == stop_at:
                raise KeyboardInterrupt
            return real(*arguments, **named)

        return stopped

    with monkeypatch.context() as patch:
        for method in ("sync", "shorten", "cut", "fill_gaps"):
            patch.setattr(stored.StoredArray, method, moment(getattr(stored.StoredArray, method)))
        patch.setattr(manifests, "write_text", moment(manifests.write_text))
        patch.setattr(building, "_SYNC_EVERY", 10.0)
        with pytest.raises(KeyboardInterrupt):
            several(pets, store, [5, 11], verify=True)
    together = several(pets, store, [5, 11], verify=True)
    for prepared in together:
        same(made(pets, store.parent / "alone", size=prepared.size).directory, prepared.directory)
    assert sorted(os.listdir(store / "pets")) == sorted(prepared.directory.name for prepared in together)
