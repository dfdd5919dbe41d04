"""Prepared data that were damaged: never measured from, told in one line, and mended by what is whole of them."""

import json
import os
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import yaml
from PIL import Image

from invariance.data import building, finding
from invariance.data import manifest as manifests
from invariance.data import prepared as prepared_module
from invariance.data.prepared import Prepared, prepare
from invariance.errors import UserError
from invariance.settings.files import conf_dir

SIDE, HEADER = 6, 128
IMAGE = 3 * SIDE * SIDE


def config(**changes):
    return {**yaml.safe_load((conf_dir() / "data" / "folder.yaml").read_text()), **changes}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Images of 11 × 7 pixels, three of them broken."""
    folder = tmp_path_factory.mktemp("source") / "pets"
    rng = np.random.default_rng(5)
    for name, count in (("cat", 40), ("dog", 30)):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (7, 11, 3), dtype=np.uint8)).save(folder / name / f"{i:03d}.png")
    for name in ("cat/003.png", "cat/037.png", "dog/020.png"):
        (folder / name).write_bytes(b"no image")
    return folder


def made(source, store, **options):
    return prepare(config(root=str(source), max_broken=0.1), SIDE, store, progress=False, **options)


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    return made(source, tmp_path_factory.mktemp("whole"))


@pytest.fixture
def store(whole, tmp_path):
    """A copy of the whole data, to damage."""
    shutil.copytree(whole.directory.parent, tmp_path / "prepared" / "pets")
    return tmp_path / "prepared"


@pytest.fixture
def decoded(monkeypatch):
    """Counts what is decoded."""
    done, real = [], building.decode_sizes
    monkeypatch.setattr(building, "decode_sizes", lambda *arguments: done.append(1) or real(*arguments))
    return done


def directory(store):
    [found] = [path for path in (store / "pets").iterdir() if not path.name.startswith(".")]
    return found


def flip(path, byte, bit=1):
    content = bytearray(path.read_bytes())
    content[byte] ^= bit
    path.write_bytes(content)


def exchange(one, other):
    a, b = one.read_bytes(), other.read_bytes()
    one.write_bytes(b)
    other.write_bytes(a)


def zeros(path, start, length):
    content = bytearray(path.read_bytes())
    content[start : start + length] = bytes(length)
    path.write_bytes(content)


def read_everything(folder):
    prepared = Prepared(folder)
    for name in prepared.splits:
        np.asarray(prepared.split(name).images)


def same(one, other):
    assert one.sha256 == other.sha256 and one.verified and one.skipped == other.skipped
    for name in other.splits:
        assert np.array_equal(one.split(name).images, other.split(name).images)
        assert np.array_equal(one.split(name).labels, other.split(name).labels)
    left, right = (sorted(path.name for path in data.directory.iterdir()) for data in (one, other))
    assert left == right


DAMAGE = {  # what is done, what is said, and how many images are decoded again; None: all
    "one bit": (lambda d: flip(d / "test.images.npy", HEADER + 4 * IMAGE + 7), "test: 1 .*from 0 4", 1),
    "zeros": (lambda d: zeros(d / "train.images.npy", HEADER + IMAGE, 9 * IMAGE), "train: 9 .*0 1, 2, 3, 4, 5, …", 9),
    "two splits": (lambda d: exchange(d / "val.images.npy", d / "test.images.npy"), "val.images|val: ", 27),
    "a header that shifts": (lambda d: flip(d / "val.images.npy", 8, 2), "val.images.npy has 1,640 bytes", 0),
    "a header of another shape": (lambda d: flip(d / "val.images.npy", 62), "val.images.npy does not begin", 0),
    "no header": (lambda d: zeros(d / "val.images.npy", 0, 128), "val.images.npy does not begin", 0),
    "an open bracket in a header": (lambda d: flip(d / "val.images.npy", 74, 0x5B ^ 0x20), "does not begin", 0),
    "cut off": (lambda d: os.truncate(d / "train.images.npy", HEADER + 20 * IMAGE + 5), "train.images.npy has", None),
    "empty": (lambda d: os.truncate(d / "val.images.npy", 0), "val.images.npy", None),
    "absent": (lambda d: (d / "val.images.npy").unlink(), "val.images.npy", None),
    "checksums": (lambda d: flip(d / "val.checksums.npy", 140), "val.checksums.npy has changed", 0),
    "checksums absent": (lambda d: (d / "val.checksums.npy").unlink(), "val.checksums.npy", 0),
    "checksums exchanged": (
        lambda d: exchange(d / "val.checksums.npy", d / "train.checksums.npy"),
        "checksums.npy has changed",
        0,
    ),
    "labels": (lambda d: flip(d / "train.labels.npy", 136), "train.labels.npy has changed", 0),
    "manifest": (lambda d: (d / "manifest.json").write_text('{"format": 2, "na'), "are damaged", None),
    "a digit of the manifest": (lambda d: flip_digit(d / "manifest.json"), "manifest.json has changed", None),
    "no manifest": (lambda d: (d / "manifest.json").unlink(), "manifest.json is absent", None),
    "stamps": (lambda d: (d / "stamps.csv").write_text("name,size\nx\n"), "stamps.csv", 0),
    "a digit of the stamps": (
        lambda d: put_first(d / "stamps.csv", "/000.png,", "/000.png,9"),
        "stamps.csv does not list .*/000.png has",
        0,
    ),
    "a name of the stamps": (
        lambda d: put_first(d / "stamps.csv", "000.png", "0000png"),
        "stamps.csv does not list .*/0000png is gone",
        0,
    ),
    "no stamps": (lambda d: (d / "stamps.csv").write_bytes(b""), "stamps.csv does not list", 0),
}


def flip_digit(path):
    text = path.read_text()
    place = text.index('"mean": [') + 20
    path.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])


def put_first(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("how", DAMAGE)
def test_damage_is_one_line_and_is_mended_by_decoding_what_is_damaged(source, store, whole, decoded, how, capfd):
    damage, told, again = DAMAGE[how]
    damage(directory(store))
    with pytest.raises(UserError, match=told) as caught:
        made(source, store)
        read_everything(directory(store))
    said = str(caught.value)
    assert "\n" not in said and str(directory(store)) in said and "invariance-prepare" in said and not decoded
    mended = made(source, store, verify=True)
    told = capfd.readouterr().err
    assert f"{directory(store)} are damaged" in told and "prepared again" in told and "other data" not in told
    if again is not None:
        # broken images are tried again, and those that stand in their places moved back
        assert again <= len(decoded) <= again + 6
    same(mended, whole)
    assert [path.name for path in (store / "pets").iterdir()] == [whole.directory.name]


def test_files_the_checksums_tell_apart_from_those_of_another_preparation(source, store, tmp_path, decoded):
    """Both have as many images, as large."""
    other = tmp_path / "other" / "pets"
    shutil.copytree(source, other)
    with Image.open(other / "dog" / "001.png") as image:
        turned = image.rotate(180)
    turned.save(other / "dog" / "001.png")
    second = made(other, tmp_path / "two")
    here, there = directory(store), second.directory
    for name in ("train.images.npy", "val.images.npy", "test.images.npy"):
        exchange(here / name, there / name)
    for folder in (here, there):
        with pytest.raises(UserError, match="1 of [0-9]+ images"):
            read_everything(folder)
    for name in ("train", "val", "test"):
        exchange(here / f"{name}.checksums.npy", there / f"{name}.checksums.npy")
    for folder in (here, there):
        with pytest.raises(UserError, match="checksums.npy has changed"):
            read_everything(folder)


def test_whole_data_are_verified_and_it_says_how_long_that_took(source, store, decoded, capfd):
    made(source, store, verify=True)
    assert "67 images verified in 0." in capfd.readouterr().err and not decoded


def test_data_that_another_process_begins_to_mend_while_they_are_looked_for_are_waited_for(
    source, store, whole, decoded, monkeypatch
):
    """They are renamed meanwhile; here they are back once the lock is held."""
    there, away = directory(store), store / "away"
    real_difference, real_locked = finding._difference, prepared_module.locked

    def gone(*arguments):
        there.rename(away)
        return real_difference(*arguments)

    @contextmanager
    def waited(path):
        with real_locked(path):
            away.rename(there)
            yield

    monkeypatch.setattr(finding, "_difference", gone)
    monkeypatch.setattr(prepared_module, "locked", waited)
    for verify in (False, True):
        same(made(source, store, verify=verify), whole)
    assert not decoded


def test_damage_whose_source_is_gone_is_told_and_nothing_is_lost(source, store, whole, tmp_path):
    away = tmp_path / "pets"
    shutil.copytree(source, away)
    kept = made(away, tmp_path / "two")
    shutil.rmtree(away)
    flip(kept.directory / "val.images.npy", HEADER)
    before = {path.name: path.read_bytes() for path in kept.directory.iterdir()}
    with pytest.raises(UserError, match="val: 1 of 14 images .*; their source is not there.*put it back and repeat"):
        made(away, tmp_path / "two", verify=True)
    assert {path.name: path.read_bytes() for path in kept.directory.iterdir()} == before


@pytest.mark.parametrize("stop_at", range(1, 12))
def test_mending_that_is_interrupted_goes_on(source, store, whole, monkeypatch, stop_at):
    DAMAGE["zeros"][0](directory(store))
    moments = 0

    def counted(real):
        def moment(*arguments, **named):
            nonlocal moments
            moments += 1
            if moments == stop_at:
                raise KeyboardInterrupt
            return real(*arguments, **named)

        return moment

    with monkeypatch.context() as patch:
        for method in ("sync", "shorten", "cut", "fill_gaps"):
            patch.setattr(building.StoredArray, method, counted(getattr(building.StoredArray, method)))
        patch.setattr(manifests, "write_text", counted(manifests.write_text))
        with pytest.raises(KeyboardInterrupt):
            made(source, store, verify=True)
    same(made(source, store), whole)


def as_version_010_made_them(folder):
    """What it wrote: neither checksums nor what the manifest says of them."""
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["pixels"], manifest["left_out"], manifest["seal"]
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    for path in folder.glob("*.checksums.npy"):
        path.unlink()


def test_data_without_checksums_are_read_with_a_warning_and_get_them_by_being_decoded_again(
    source, store, whole, decoded, capfd
):
    as_version_010_made_them(directory(store))
    old = made(source, store)
    assert not old.verified and old.sha256 == whole.sha256, "networks that were trained on them know them"
    assert np.array_equal(old.split("val").images, whole.split("val").images)
    made(source, store)
    told = capfd.readouterr().err
    assert told.count("have no checksums, since version 0.1.0 made them") == 1 and len(told.splitlines()) == 1
    assert not decoded
    same(made(source, store, verify=True), whole)
    assert len(decoded) >= 67 and "decoded again and compared" in capfd.readouterr().err


@pytest.mark.parametrize("split", ["train", "test"])
def test_data_without_checksums_that_are_damaged_are_other_data_afterwards(source, store, whole, split, capfd):
    as_version_010_made_them(directory(store))
    flip(directory(store) / f"{split}.images.npy", HEADER + 3)
    mended = made(source, store, verify=True)
    assert "other data than they were" in capfd.readouterr().err
    assert mended.verified and mended.sha256 != whole.sha256
    assert np.array_equal(mended.split(split).images, whole.split(split).images)


def test_what_another_pillow_prepared_stays_the_same_data_when_it_is_mended(source, store, whole, decoded):
    folder = directory(store)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(manifests.sealed_text({**manifest, "pillow": "9.9"}))
    before = Prepared(folder).sha256
    assert before != whole.sha256
    DAMAGE["one bit"][0](folder)
    assert made(source, store, verify=True).sha256 == before and len(decoded) <= 7


def test_a_preparation_that_resumes_checks_what_its_journal_calls_done(source, whole, tmp_path, monkeypatch, decoded):
    store = tmp_path / "prepared"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(manifests, "write_text", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        made(source, store)
    [left] = store.glob("pets/.*.tmp")
    flip(left / "train.images.npy", HEADER + 5 * IMAGE)
    zeros(left / "val.images.npy", HEADER + 2 * IMAGE, IMAGE)
    decoded.clear()
    same(made(source, store), whole)
    assert 2 <= len(decoded) <= 5


def test_a_line_of_the_journal_that_was_changed_ends_it(source, whole, tmp_path, monkeypatch, decoded):
    store = tmp_path / "prepared"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(manifests, "write_text", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        made(source, store)
    [left] = store.glob("pets/.*.tmp")
    lines = (left / "journal").read_text().splitlines(keepends=True)
    digit = next(i for i in range(len(lines[30]) - 1, 0, -1) if lines[30][i].isdigit())
    lines[30] = lines[30][:digit] + str((int(lines[30][digit]) + 1) % 10) + lines[30][digit + 1 :]
    (left / "journal").write_text("".join(lines))
    decoded.clear()
    same(made(source, store), whole)
    assert len(decoded) >= 38
