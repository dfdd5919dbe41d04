"""Images that were given back: known by their lists, made again to the byte when they are needed, and only then."""

import fcntl
import filecmp
import gc
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from invariance.data import absent, building, giving_back
from invariance.data.giving_back import give_back
from invariance.data.prepared import prepare
from invariance.errors import Busy, UserError
from invariance.experiments.distance import distance
from invariance.experiments.measure import measure
from invariance.experiments.prepare import prepare as prepare_data
from invariance.experiments.train import train
from tests.conftest import TRAINED
from tests.test_prepared import config, made, pets, store  # noqa: F401


def same(one, other):
    names = sorted(os.listdir(one))
    return names == sorted(os.listdir(other)) and filecmp.cmpfiles(one, other, names, shallow=False)[0] == names


@pytest.fixture
def whole(pets, store, tmp_path):  # noqa: F811
    """The folder of data prepared at 6 pixels, and a copy of it."""
    directory = made(pets, store).directory
    shutil.copytree(directory, tmp_path / "copy")
    return directory, tmp_path / "copy"


def back(pets, store):  # noqa: F811
    return give_back(config(root=str(pets)), 6, store)


def test_lists_stay_and_images_are_made_again_to_the_byte(pets, store, whole, capsys):  # noqa: F811
    directory, copy = whole
    pixels = sum(path.stat().st_size for path in directory.glob("*.images.npy"))
    assert back(pets, store) == (directory, pixels) and back(pets, store) == (directory, 0)
    gone = {path.name for path in copy.iterdir()} - {path.name for path in directory.iterdir()}
    assert gone == {f"{split}.images.npy" for split in ("train", "val", "test")}
    known, before = (prepare(config(root=str(pets)), 6, store, False, images=False) for _ in range(2))
    assert not known.whole and known.sha256 == before.sha256 and len(known.fit_indices({"images": 5})) == 5
    assert known.split("train").images.shape == (len(known.split("train")), 3, 6, 6)
    for read in (lambda x: x[0], np.asarray, lambda x: x.read(np.arange(2)), lambda x: x.differing(0, 2)):
        with pytest.raises(UserError, match="were given back; run invariance-prepare with the same data and size=6"):
            read(known.split("val").images)
    assert known.with_images(progress=False).whole and same(directory, copy)
    assert "were given back and are prepared again" in capsys.readouterr().err
    assert made(pets, store).whole and not capsys.readouterr().err


def test_nobody_s_images_are_taken_away_while_they_are_read(pets, store, whole):  # noqa: F811
    directory, copy = whole
    reading = made(pets, store).split("train")
    with pytest.raises(Busy, match="is kept: a process reads its images"):
        back(pets, store)
    assert same(directory, copy) and reading.images[3].shape == (3, 6, 6)
    del reading
    assert back(pets, store)[1]


def test_what_could_not_be_made_again_is_kept(pets, store, whole):  # noqa: F811
    directory, copy = whole
    (pets / "cat" / "000.png").write_bytes(b"another")
    with pytest.raises(UserError, match="pets at 6 pixels is kept: the source of .* has changed since"):
        back(pets, store)
    shutil.move(pets, pets.with_name("elsewhere"))
    with pytest.raises(UserError, match="pets is kept: its source is not there"):
        back(pets, store)
    shutil.move(pets.with_name("elsewhere"), pets)
    assert same(directory, copy)


def test_room_that_others_would_give_is_not_of_what_is_asked_for(pets, store, whole):  # noqa: F811
    directory, _ = whole
    taken = sum(path.stat().st_size for path in directory.glob("*.images.npy"))
    settings = config(root=str(pets))
    assert giving_back.room_of_others(settings, store, but=()) == taken > 0
    assert giving_back.room_of_others(settings, store, but={directory: None}.keys()) == 0


def test_what_is_gone_already_needs_no_source(pets, store, whole):  # noqa: F811
    directory, _ = whole
    back(pets, store)
    shutil.rmtree(pets)
    assert back(pets, store) == (directory, 0)
    assert give_back(config(root=str(pets)), 5, store) == (None, 0)


def test_damaged_data_are_kept(pets, store, whole):  # noqa: F811
    directory, _ = whole
    (directory / "train.labels.npy").write_bytes(b"")
    with pytest.raises(UserError, match="train.labels.npy"):
        back(pets, store)
    assert (directory / "train.images.npy").exists()


def test_without_room_or_source_the_lists_stay_where_they_are(pets, store, whole, monkeypatch):  # noqa: F811
    directory, copy = whole
    back(pets, store)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
        with pytest.raises(UserError, match="were given back; they take 0.00 GB, and 0.00 GB are free: make room"):
            made(pets, store)
    shutil.move(pets, pets.with_name("elsewhere"))
    with pytest.raises(UserError, match="were given back, and their source is not there to make them again"):
        made(pets, store)
    assert not prepare(config(root=str(pets)), 6, store, False, images=False).whole
    shutil.move(pets.with_name("elsewhere"), pets)
    assert made(pets, store).whole and same(directory, copy)


@pytest.mark.parametrize("stop_at", range(1, 5))
def test_giving_back_goes_on_after_it_was_interrupted(pets, store, whole, monkeypatch, stop_at):  # noqa: F811
    directory, copy = whole
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
        patch.setattr(giving_back, "mark_given_back", moment(absent.mark_given_back))
        patch.setattr(giving_back, "sync_folder", moment(giving_back.sync_folder))
        patch.setattr(Path, "unlink", moment(Path.unlink))
        with pytest.raises(KeyboardInterrupt):
            back(pets, store)
    for path in directory.parent.glob(".*.lock"):  # whose removal was interrupted
        path.unlink()
    back(pets, store)
    assert not list(directory.glob("*.images.npy"))
    assert made(pets, store).whole and same(directory, copy)


@pytest.mark.parametrize("stop_at", [1, 60, 120])
def test_making_them_again_goes_on_after_it_was_interrupted(pets, store, whole, monkeypatch, stop_at):  # noqa: F811
    directory, copy = whole
    back(pets, store)
    decoded, real = [], building.decode_sizes

    def stopped(*arguments):
        decoded.append(1)
        if len(decoded) == stop_at:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(building, "decode_sizes", stopped)
    with pytest.raises(KeyboardInterrupt):
        made(pets, store, workers=1)
    assert made(pets, store).whole and same(directory, copy)
    assert os.listdir(directory.parent) == [directory.name]


def test_the_command_gives_back_leaves_and_restores(pets, store, capsys):  # noqa: F811
    settings = {"data": config(root=str(pets)), "prepared": str(store), "progress": False, "renew": False}
    settings |= {"plan": False, "verify": True, "size": [5, 6], "runs": "runs", "restore": True, "give_back": False}
    back = {**settings, "give_back": True}
    prepare_data({**settings, "size": 6})
    prepare_data(back)
    told = capsys.readouterr().out.splitlines()
    assert told[-2] == "5×5: nothing is prepared" and told[-1].startswith("6×6: 0.00 GB given back, and what needs")
    prepare_data({**settings, "plan": True, "restore": False})
    told = capsys.readouterr().out
    assert "6×6 were given back: " in told and "images of 5×5 take" in told
    prepare_data({**settings, "restore": False})
    first, second = capsys.readouterr().out.splitlines()
    assert "images of 5×5" in first and "given back" not in first
    assert "images of 6×6" in second and second.endswith(
        "; they were given back, and what needs them prepares them again"
    )
    prepare_data(settings)
    assert "given back" not in capsys.readouterr().out
    reading = made(pets, store).split("val")
    with pytest.raises(Busy):
        prepare_data(back)
    assert capsys.readouterr().out.startswith("5×5: 0.00 GB given back"), "the other is given back all the same"
    assert len(reading)
    with pytest.raises(UserError, match="give_back=true removes images, and prepares nothing; leave it out, or renew="):
        prepare_data({**back, "renew": True})


@pytest.mark.long
def test_who_only_looks_at_a_finished_run_wants_no_images_and_who_works_makes_them_again(
    trained, tmp_path, compose, capsys
):
    source, places = trained
    shutil.copytree(source, tmp_path / "copy")
    places = [text.replace(str(source), str(tmp_path / "copy")) for text in places]
    features = [*places, f"features={tmp_path}/features"]
    quick = ["solver=ridge", "solver.ridge.strengths=[0.03]"]
    rotation = [*TRAINED, "transform=rotation", "range=20", "transform.angles=[-45,-20,-10,-5,5,10,20,45]"]
    prepare_page = {**compose("prepare", "data=digits", *places[:2], places[-1])}
    [directory] = (tmp_path / "copy/prepared/digits").iterdir()

    def work(gone):
        capsys.readouterr()
        train(compose("train", *places, *rotation))
        measure(compose("measure", *places, *quick, "networks=digits/rotation_20"))
        distance(compose("distance", *features, *quick))
        assert absent.was_given_back(directory) == gone
        return capsys.readouterr().out

    def back():
        gc.collect()  # what training left of its own readers
        prepare_data({**prepare_page, "give_back": True})
        assert absent.was_given_back(directory)

    for name in ("baseline/seed0", "rotation_20/seed0"):
        distance(compose("distance", *features, f"networks=digits/{name}", "pairs=false"))
    back()
    distance(compose("distance", *features, *quick))  # of features that are kept, without an image
    assert absent.was_given_back(directory)
    work(gone=False)  # measuring was not done yet
    back()
    told = work(gone=True)
    assert told.count("finished already") == 3
    shutil.rmtree(tmp_path / "features/digits/rotation_20")
    shutil.rmtree(tmp_path / "copy/runs/distance")
    distance(compose("distance", *features, *quick))
    assert not absent.was_given_back(directory)


def test_features_alone_are_of_networks_that_were_trained_here(compose):
    with pytest.raises(UserError, match="pairs=false keeps features of networks that were trained here"):
        distance(compose("distance", "models=[timm/resnet18]", "data=digits", "pairs=false", "logger=csv"))


def test_locks_that_a_file_system_has_not_keep_nobody_from_reading(pets, store, whole, monkeypatch):  # noqa: F811
    def refused(*_):
        raise OSError(38, "Function not implemented")

    with monkeypatch.context() as patch:
        patch.setattr(absent.fcntl, "flock", refused)
        assert made(pets, store).whole
    assert fcntl.flock is not refused
