"""Prepared data: built once and whole, whatever happens meanwhile; opened and checked quickly."""

import contextlib
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from invariance.data import building, stored
from invariance.data import manifest as manifests
from invariance.data.decode import decode
from invariance.data.prepared import Prepared, prepare
from invariance.errors import UserError
from invariance.runs.files import sha256

CONF = Path(__file__).parents[1] / "conf" / "data"


def config(which="folder", /, **changes):
    return {**yaml.safe_load((CONF / f"{which}.yaml").read_text()), **changes}


def images(folder, count, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (7, 11, 3), dtype=np.uint8)).save(folder / f"{i:03d}.png")


@pytest.fixture
def pets(tmp_path):
    images(tmp_path / "pets" / "cat", 70, 1)
    images(tmp_path / "pets" / "dog", 50, 2)
    return tmp_path / "pets"


@pytest.fixture
def store(tmp_path):
    return tmp_path / "prepared"


def made(pets, store, size=6, **changes):
    options = {key: changes.pop(key) for key in ("renew", "workers") if key in changes}
    return prepare(config(root=str(pets), **changes), size, store, progress=False, **options)


def refused(match, *arguments, **changes):
    with pytest.raises(UserError, match=match) as caught:
        made(*arguments, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_images_labels_hashes_and_mean(pets, store):
    prepared = made(pets, store)
    assert prepared.directory.parent == store / "pets" and prepared.directory.name.startswith("6-rgb-")
    assert (prepared.name, prepared.size, prepared.channels, prepared.classes) == ("pets", 6, 3, ["cat", "dog"])
    assert prepared.splits == ["train", "val", "test"] and not prepared.skipped
    for name in prepared.splits:
        split = prepared.split(name)
        assert split.images.shape == (len(split), 3, 6, 6) and split.images.dtype == np.uint8
        lines = (prepared.directory / f"{name}.files.csv").read_text().splitlines()[1:]
        assert len(lines) == len(split) == len(split.images)
        for line, image, label in zip(lines, split.images, split.labels, strict=True):
            path, given, digest = line.split(",")
            assert digest == sha256(pets / path)
            assert prepared.classes[label] == path.split("/")[0] and int(given) == label
            assert np.array_equal(image, decode((pets / path).read_bytes(), 6, "rgb"))
    assert np.allclose(prepared.mean, np.asarray(prepared.split("train").images, float).mean((0, 2, 3)), atol=1e-9)
    assert os.listdir(store / "pets") == [prepared.directory.name]


def test_any_other_setting_is_another_directory_and_the_same_is_not_decoded_again(pets, store, monkeypatch):
    first = made(pets, store)
    changes = [{"size": 7}, {"colour": "gray"}, {"split_seed": 1}, {"val_fraction": 0.3}, {"mean": [1, 2, 3]}]
    others = [made(pets, store, **change) for change in changes]
    assert len({prepared.directory for prepared in [first, *others]}) == len(others) + 1
    assert others[1].channels == 1 and others[4].mean == [1, 2, 3]
    monkeypatch.setattr(building, "decode_sizes", lambda *_: pytest.fail("decoded again"))
    again = made(pets, store, max_broken=0.5, report="val", fit={"images": 3})
    assert again.directory == first.directory and again.report == "val" and again.sha256 == first.sha256


def test_workers_and_places_do_not_change_the_data(pets, store, tmp_path):
    one = made(pets, store, workers=1)
    shutil.copytree(pets, tmp_path / "moved" / "pets")
    other = made(tmp_path / "moved" / "pets", store, workers=5)
    assert one.directory != other.directory and one.sha256 == other.sha256
    for name in one.splits:
        assert np.array_equal(one.split(name).images, other.split(name).images)


def test_broken_images_within_the_limit_are_skipped_counted_and_named(pets, store):
    (pets / "cat" / "003.png").write_bytes(b"")
    (pets / "dog" / "004.png").write_bytes((pets / "dog" / "004.png").read_bytes()[:90])
    (pets / "dog" / "005.png").write_text("no image")
    message = refused("dog/005.png is not an image", pets, store, max_broken=0.02)
    assert message.startswith("3 of the first") and "data.max_broken=" in message
    assert not (store / "pets").exists()
    limit = float(message.rsplit("=", 1)[1])
    prepared = made(pets, store, max_broken=limit)
    assert sorted(line.split(": ")[1].split()[0] for line in prepared.skipped) == [
        "cat/003.png",
        "dog/004.png",
        "dog/005.png",
    ]
    assert any("cat/003.png has 0 bytes" in line for line in prepared.skipped)
    total = 0
    for name in prepared.splits:
        split = prepared.split(name)
        lines = (prepared.directory / f"{name}.files.csv").read_text().splitlines()[1:]
        total += len(lines)
        for line, image, label in zip(lines, split.images, split.labels, strict=True):
            assert np.array_equal(image, decode((pets / line.split(",")[0]).read_bytes(), 6, "rgb"))
            assert int(line.split(",")[1]) == label
    assert total == 117
    assert np.allclose(prepared.mean, np.asarray(prepared.split("train").images, float).mean((0, 2, 3)), atol=1e-9)
    refused("without 3 broken images of 120", pets, store, max_broken=0.001)


def test_one_broken_image_of_120_is_too_many_by_default(pets, store):
    (pets / "cat" / "003.png").write_bytes(b"")
    refused("1 of the first .* cat/003.png has 0 bytes", pets, store)


def test_a_class_whose_images_are_all_broken_is_refused(pets, store):
    images(pets / "fox", 3)
    for path in (pets / "fox").iterdir():
        path.write_bytes(b"x")
    refused("every image of class 'fox' in train is broken", pets, store, max_broken=0.1)
    assert not (store / "pets").exists()


@pytest.mark.parametrize(
    "change,match",
    [
        (lambda pets: (pets / "cat" / "000.png").unlink(), "cat/000.png is gone"),
        (lambda pets: images(pets / "dog", 51, 2), "dog/050.png is new"),
        (lambda pets: Image.new("RGB", (9, 9)).save(pets / "cat" / "002.png"), "cat/002.png has changed"),
        (
            lambda pets: (pets / "cat" / "002.png").write_bytes((pets / "cat" / "002.png").read_bytes()[:-1] + b"!"),
            "cat/002.png has changed",
        ),
        (lambda pets: images(pets / "fox", 9), "fox/000.png is new, .* and 6 more"),
    ],
)
def test_a_changed_source_is_seen_and_prepared_beside_what_it_was(pets, store, change, match, capsys):
    before = made(pets, store)
    shutil.copytree(pets, pets.parent / "kept")
    change(pets)
    os.utime(pets / "cat" / "002.png", (1, 1))
    after = made(pets, store)
    assert re.search(match, said := capsys.readouterr().err) and said.count("\n") == 1
    assert after.directory != before.directory and after.sha256 != before.sha256
    assert made(pets, store).directory == after.directory and capsys.readouterr().err == ""
    shutil.rmtree(pets)
    refused("2 preparations of a source .* put it back", pets, store)
    shutil.copytree(pets.parent / "kept", pets)
    assert made(pets, store).directory == before.directory, "what it was is found again"


def test_touched_files_and_an_absent_source_are_no_change(pets, store, monkeypatch):
    before = made(pets, store)
    for path in (pets / "cat").iterdir():
        os.utime(path, (1, 1))
    assert made(pets, store).sha256 == before.sha256
    monkeypatch.setattr("invariance.data.sources.base.content_hash", None)
    assert made(pets, store).sha256 == before.sha256, "the new times are noted, and nothing is compared again"
    shutil.rmtree(pets)
    assert made(pets, store).sha256 == before.sha256


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: os.truncate(folder / "val.images.npy", 500),
        lambda folder: os.truncate(folder / "val.images.npy", 0),
        lambda folder: (folder / "train.images.npy").unlink(),
        lambda folder: (folder / "train.labels.npy").write_bytes(b"\x93NUMPY"),
        lambda folder: np.save(folder / "test.labels.npy", np.zeros(24, np.int64)),
        lambda folder: (folder / "manifest.json").write_text('{"format": 1, "name"'),
        lambda folder: (folder / "manifest.json").write_text("[]"),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text('{"format": 0, "name": "pets"}'),
    ],
)
def test_damaged_data_are_told_and_renewed(pets, store, damage):
    before = made(pets, store)
    damage(before.directory)
    refused("invariance-prepare|prepare again", pets, store)
    assert made(pets, store, renew=True).sha256 == before.sha256


def test_what_was_decoded_is_opened_and_not_decoded_again(store):
    data = config("digits")
    image = prepare(data, 32, store, progress=False).directory / "train.images.npy"
    before = image.stat()
    assert prepare(data, 32, store, progress=False).directory == image.parent
    assert (image.stat().st_ino, image.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_splits_and_the_images_that_maps_are_fitted_on(pets, store):
    prepared = made(pets, store)
    assert prepared.report == "test" and prepared.fit_split({}) == "val"
    assert prepared.fit_indices().tolist() == list(range(24))
    some = prepared.fit_indices({"split": "train", "images": 30, "seed": 0})
    assert len(set(some)) == 30 and (np.diff(some) > 0).all() and some[-1] < 72
    assert np.array_equal(some, prepared.fit_indices({"split": "train", "images": 30}))
    assert not np.array_equal(some, prepared.fit_indices({"split": "train", "images": 30, "seed": 1}))
    for fit, match in (
        ({"images": 25}, "only 24 images"),
        ({"split": "test"}, "also the split results"),
        ({"split": "vla"}, "choose train, val, test"),
    ):
        with pytest.raises(UserError, match=match):
            prepared.fit_indices(fit)
    with pytest.raises(UserError, match="no split 'more'"):
        prepared.split("more")
    two = made(pets, store, test_fraction=0)
    assert two.report == "val" and two.fit_split() == "train"
    with pytest.raises(UserError, match="data.report=test"):
        Prepared(two.directory, report="test")


def test_a_split_travels_to_other_processes_as_a_path(pets, store):
    import pickle

    split = made(pets, store).split("train")
    assert split.images[0].any()
    data = pickle.dumps(split)
    assert len(data) < 500 and np.array_equal(pickle.loads(data).images, split.images)


SLOW = """
import sys, time
from pathlib import Path
from invariance.data import building, stored
from invariance.data.prepared import prepare
real = building.decode_sizes
def slow(*arguments):
    time.sleep(0.01)
    return real(*arguments)
building.decode_sizes = slow
building._SYNC_EVERY, building._CHUNK = 0, 8
config = {"_target_": "invariance.data.sources.folder.Folder", "root": sys.argv[1], "colour": "rgb"}
prepare(config, 6, Path(sys.argv[2]), progress=False, workers=1)
"""


def test_killed_while_preparing_and_started_again(pets, store, monkeypatch):
    process = subprocess.Popen([sys.executable, "-c", SLOW, pets, store], cwd=Path(__file__).parents[1])
    try:
        while sum(path.read_bytes().count(b"\n") for path in store.glob("pets/.*.tmp/journal")) < 20:
            assert process.poll() is None, "it was to be killed halfway"
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert [name for name in os.listdir(store / "pets") if not name.startswith(".")] == []
    decoded, real = [], building.decode_sizes
    monkeypatch.setattr(building, "decode_sizes", lambda *arguments: decoded.append(1) or real(*arguments))
    prepared = made(pets, store, workers=1)
    again = len(decoded)
    assert 0 < again < 110, "what was done is not decoded again"
    assert sorted(os.listdir(store / "pets")) == [prepared.directory.name]
    undisturbed = made(pets, store.parent / "other")
    assert len(decoded) == again + 120 and prepared.sha256 == undisturbed.sha256
    for name in ("train", "val", "test"):
        assert np.array_equal(prepared.split(name).images, undisturbed.split(name).images)


@pytest.mark.parametrize("stop_at", range(1, 14))
def test_interrupted_at_any_moment_and_repeated_gives_the_same_data(pets, store, monkeypatch, stop_at):
    """Ctrl-C at each of the moments when something is flushed, written or cut, with broken images among the others."""
    for name in ("cat/003.png", "cat/069.png", "dog/049.png"):
        (pets / name).write_bytes(b"no image")
    undisturbed = made(pets, store.parent / "other", max_broken=0.1)
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
            patch.setattr(stored.StoredArray, method, counted(getattr(stored.StoredArray, method)))
        patch.setattr(manifests, "write_text", counted(manifests.write_text))
        patch.setattr(building, "_SYNC_EVERY", 10.0)
        with contextlib.suppress(KeyboardInterrupt):
            made(pets, store, max_broken=0.1)
    assert moments >= stop_at
    prepared = made(pets, store, max_broken=0.1)
    assert prepared.sha256 == undisturbed.sha256 and len(prepared.skipped) == 3
    for name in prepared.splits:
        assert np.array_equal(prepared.split(name).images, undisturbed.split(name).images)
    assert os.listdir(store / "pets") == [prepared.directory.name]


def test_what_a_file_was_when_it_changed_during_an_interruption_is_decoded_again(pets, store, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(manifests, "write_text", stop)
        with pytest.raises(KeyboardInterrupt):
            made(pets, store)
    [left] = store.glob("pets/.*.tmp")
    journal = (left / "journal").read_text().splitlines()
    assert len(journal) == 121
    (left / "journal").write_text("\n".join(journal[:100]) + '\n["train",7,[1')
    prepared = made(pets, store)
    assert prepared.sha256 == made(pets, store.parent / "other").sha256


def _prepare_in_process(pets, store, results):
    prepared = prepare(config(root=str(pets)), 6, store, progress=False)
    results.put((prepared.sha256, prepared.directory.stat().st_ino))


def test_of_processes_that_ask_at_the_same_time_one_decodes(pets, store):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_prepare_in_process, args=(pets, store, results)) for _ in range(4)]
    for process in processes:
        process.start()
    answers = {results.get() for _ in processes}
    for process in processes:
        process.join()
    assert len(answers) == 1
    assert len(os.listdir(store / "pets")) == 1


def _limited(code, *arguments):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=Path(__file__).parents[1], preexec_fn=limit, capture_output=True, text=True)


def test_no_room_on_the_disk_is_told_before_anything_is_decoded(pets, store):
    code = SLOW.replace("time.sleep(0.01)", "raise SystemExit('decoded')")
    result = _limited(code, pets, store)
    assert "UserError: cannot write" in result.stderr and "larger than allowed" in result.stderr
    assert not (store / "pets").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
@pytest.mark.parametrize("options,match", [("size=24k", "disk is full"), ("size=1m,ro", "read-only")])
def test_full_and_read_only_disks(pets, tmp_path, options, match):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", small], capture_output=True).returncode:
        pytest.skip("this machine mounts no disks")
    try:
        message = refused(match, pets, small, size=16)
        assert str(small) in message and not list(small.glob("*/*"))
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_file_where_the_folder_must_be(pets, tmp_path):
    (tmp_path / "prepared").write_text("")
    refused("prepared is no folder; choose another place", pets, tmp_path / "prepared")


def test_a_full_disk_while_writing_leaves_nothing(pets, store, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(building.os, "pwrite", full)
    refused("its disk is full", pets, store)
    assert not (store / "pets").exists()


def test_official_split_folders(shared_data, store):
    root = shared_data / "imagenet-layout" / "imagenette224"
    prepared = prepare(config(root=str(root)), 32, store, progress=False)
    assert prepared.splits == ["train", "val"] and prepared.report == "val" and prepared.fit_split() == "train"
    assert prepared.split("train").images.shape == (50, 3, 32, 32) and len(prepared.classes) == 10
    assert all(90 < mean < 150 for mean in prepared.mean)


def test_photographs_of_many_classes(shared_data, store, tmp_path):
    wanted = ("accordion", "airplanes", "BACKGROUND_Google", "yin_yang")
    with zipfile.ZipFile(shared_data / "caltech101-s96" / "caltech101_s96.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg") and name.split("/")[1] in wanted]
        names = [name for i, name in enumerate(names) if "airplanes" not in name or i % 10 == 0]
        archive.extractall(tmp_path / "caltech", names)
    root = tmp_path / "caltech" / "101_ObjectCategories"
    data = config(root=str(root), exclude=["BACKGROUND_Google"], name="caltech101")
    prepared = prepare(data, 48, store, progress=False)
    assert prepared.classes == ["accordion", "airplanes", "yin_yang"] and prepared.directory.parent.name == "caltech101"
    kept = sum("BACKGROUND" not in name for name in names)
    assert sum(len(prepared.split(name)) for name in prepared.splits) == kept


def test_manifest_names_settings_and_what_was_ignored(pets, store):
    (pets / "cat" / "notes.txt").write_text("x")
    prepared = made(pets, store)
    manifest = json.loads((prepared.directory / "manifest.json").read_text())
    assert manifest["ignored"] == {"count": 1, "names": ["cat/notes.txt"]}
    assert manifest["settings"]["val_fraction"] == 0.2 and manifest["splits"]["train"]["images"] == 72


def test_names_that_are_no_unicode(pets, store):
    os.rename(os.fsencode(pets / "cat" / "000.png"), os.fsencode(pets / "cat") + b"/\xff,\n.png")
    first = made(pets, store)
    assert made(pets, store).sha256 == first.sha256


@pytest.mark.parametrize("size", [0, -4, 32.5, True, "big", 5000])
def test_a_size_that_is_none_is_refused(tmp_path, compose, size):
    with pytest.raises(UserError, match="size=.*whole number of pixels"):
        prepare(compose("train")["data"], size, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_loses_nothing_that_was_decoded(pets, store, monkeypatch):
    real, decoded = building.decode_sizes, []
    with monkeypatch.context() as patch:
        patch.setattr(building, "_CHUNK", 8)
        put = stored.StoredArray.put

        def full(self, i, pixels):
            decoded.append(1)
            if len(decoded) > 60:
                raise OSError(28, "No space left on device")
            put(self, i, pixels)

        patch.setattr(stored.StoredArray, "put", full)
        refused("its disk is full", pets, store, workers=1)
    decoded.clear()
    monkeypatch.setattr(building, "decode_sizes", lambda *arguments: decoded.append(1) or real(*arguments))
    assert len(made(pets, store, workers=1).split("train")) and 0 < len(decoded) < 100


def test_what_a_kill_left_of_a_source_that_has_changed_is_removed(pets, store, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(manifests, "write_text", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        made(pets, store)
    [left] = store.glob("pets/.*.tmp")
    left.with_suffix(".lock").touch()  # what SIGKILL leaves
    (pets / "cat" / "000.png").unlink()
    prepared = made(pets, store)
    assert os.listdir(store / "pets") == [prepared.directory.name]


def test_a_source_that_changes_while_it_is_prepared_is_told(pets, store, tmp_path, monkeypatch):
    archive = shutil.make_archive(str(tmp_path / "packed"), "tar", pets)
    real = building._decode_all

    def meanwhile(*arguments):
        decoded = real(*arguments)
        os.utime(archive, (7, 7))
        return decoded

    with monkeypatch.context() as patch:
        patch.setattr(building, "_decode_all", meanwhile)
        refused("the source of packed changed while it was prepared; repeat", archive, store)
    assert not (store / "packed").exists()
    assert len(made(archive, store).splits) == 3


@pytest.mark.parametrize("renew", [False, True])
def test_whole_data_that_were_not_renamed_yet_are_taken_as_they_are(pets, store, monkeypatch, renew):
    if renew:
        made(pets, store)
    real = os.rename
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

        def stopped(source, target):
            if str(source).endswith(".tmp"):
                raise KeyboardInterrupt
            real(source, target)

        patch.setattr("invariance.data.placing.os.rename", stopped)
        made(pets, store, renew=renew)
    monkeypatch.setattr(building, "decode_sizes", None)
    prepared = made(pets, store)
    assert len(prepared.split("train")) and os.listdir(store / "pets") == [prepared.directory.name]


def test_the_second_of_two_preparers_says_that_it_waits(pets, store, capfd):
    first = subprocess.Popen([sys.executable, "-c", SLOW, pets, store], cwd=Path(__file__).parents[1])
    try:
        while not list(store.glob("pets/.*.tmp/val.images.npy")):
            assert first.poll() is None
            time.sleep(0.01)
        made(pets, store)
    finally:
        first.wait()
    assert "waiting for another process that prepares pets" in capfd.readouterr().err
