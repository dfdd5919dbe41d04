"""Opening data made from a large tree: its folders are looked at; its files, when asked or changed."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from invariance.data import watching
from invariance.data.prepared import prepare
from invariance.data.sources.ilsvrc import ILSVRC
from invariance.data.sources.rvl_cdip import RVLCDIP
from invariance.data.sources.trees import FolderTree

CONF = Path(__file__).parents[1] / "conf" / "data"
RVL_LABELS = {"train": range(16), "val": (3, 4), "test": (5, 0)}


def image(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (7, 11), dtype=np.uint8)).save(path)


def folder(root):
    for name in ("cat", "dog"):
        for number in range(10):
            image(root / name / f"{number}.png", number)


def ilsvrc(root):
    for split in ("train", "val"):
        for wnid in ("n00000001", "n00000007"):
            for number in range(3):
                image(root / split / wnid / f"{number}.png", number)


def rvl_cdip(root):
    (root / "labels").mkdir(parents=True)
    for split, labels in RVL_LABELS.items():
        lines = [f"{split}{number}/a.tif {label}" for number, label in enumerate(labels)]
        (root / "labels" / f"{split}.txt").write_text("\n".join(lines) + "\n")
        for number in range(len(labels)):
            image(root / "images" / f"{split}{number}" / "a.tif", number)


KINDS = {"folder": folder, "historical": folder, "ilsvrc": ilsvrc, "rvl_cdip": rvl_cdip}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def root(tmp_path, kind):
    KINDS[kind](tmp_path / "source")
    age(tmp_path / "source")
    return tmp_path / "source"


@pytest.fixture
def opened(tmp_path, kind, root, monkeypatch):
    """Opens the data, and gives their folder and whether any folder was listed."""
    listed, inside = [], FolderTree.inside
    monkeypatch.setattr(FolderTree, "inside", lambda tree, name: [listed.append(name), inside(tree, name)][1])
    monkeypatch.setattr(watching, "_MANY", 0)
    settings = {
        **yaml.safe_load((CONF / f"{kind}.yaml").read_text()),
        "root": str(root),
        "colour": "gray",
        "mean": None,
    }
    settings |= {"verify": False} if kind in ("ilsvrc", "rvl_cdip") else {}

    def call(**options):
        listed.clear()
        directory = prepare(settings, 4, tmp_path / "prepared", progress=False, **options).directory
        return directory, bool(listed)

    return call


def age(root, hours=1):
    """Let all folders be as if they had been changed that long ago."""
    then = time.time() - 3600 * hours
    for path, _, _ in os.walk(root):
        os.utime(path, (then, then))


def some(root):
    """An image of each source that may change or go."""
    return sorted(path for path in root.rglob("*") if path.suffix in (".png", ".tif"))[0]


def test_files_are_looked_at_the_first_time_and_when_it_is_asked_for(opened):
    made, looked = opened()
    assert looked and (made / "folders.json").is_file()
    assert opened() == (made, False) and opened() == (made, False)
    assert opened(verify=True) == (made, True) and opened() == (made, False)
    assert opened(renew=True) == (made, True) and opened() == (made, False)


@pytest.mark.parametrize("kind", ["folder", "historical", "ilsvrc"], indirect=True)
@pytest.mark.parametrize("change", ["added", "removed", "renamed", "replaced"])
def test_what_is_added_removed_renamed_or_replaced_is_told(opened, root, change, capsys):
    made, _ = opened()
    picture = some(root)
    if change == "added":
        image(picture.with_name("new.png"), 77)
    elif change == "removed":
        picture.unlink()
    elif change == "renamed":
        picture.rename(picture.with_name("other.png"))
    else:
        image(picture.with_name("x" + picture.name), 78)
        os.replace(picture.with_name("x" + picture.name), picture)
    other, looked = opened()
    assert looked and other != made
    assert "has changed since it was prepared" in capsys.readouterr().err
    age(root, hours=2)
    assert opened() == (other, True)  # noted now, since the change lies back
    assert opened() == (other, False)


@pytest.mark.parametrize("kind", ["rvl_cdip"], indirect=True)
def test_a_list_of_labels_that_is_changed_in_place_is_told(opened, root, capsys):
    made, _ = opened()
    with open(root / "labels" / "val.txt", "r+b") as file:
        file.write(b"val0/a.tif 9")
    other, looked = opened()
    assert looked and other != made and "labels/val.txt has changed" in capsys.readouterr().err


def test_a_picture_that_is_changed_in_place_is_told_when_it_is_asked_for(opened, root, capsys):
    made, _ = opened()
    picture = some(root)
    image(picture, 99)
    assert opened() == (made, False)  # no folder says so
    other, looked = opened(verify=True)
    assert looked and other != made and f"{picture.name} has changed" in capsys.readouterr().err
    assert opened() == (other, False)  # and not the one of before, though its folders have the same times
    shutil.rmtree(other)
    assert opened()[1]


@pytest.mark.parametrize("kind", ["folder"], indirect=True)
def test_folders_that_have_just_changed_tell_nothing(opened, root):
    os.utime(root / "dog")
    made, _ = opened()
    assert not (made / "folders.json").exists() and opened() == (made, True)


@pytest.mark.parametrize("kind", ["folder"], indirect=True)
def test_of_few_files_each_is_looked_at(opened, monkeypatch):
    monkeypatch.setattr(watching, "_MANY", 20)
    made, _ = opened()
    assert not (made / "folders.json").exists() and opened() == (made, True)


@pytest.mark.parametrize("kind", ["folder"], indirect=True)
def test_data_of_before_are_opened_and_not_made_again(opened, monkeypatch):
    made, _ = opened()
    (made / "folders.json").unlink()
    times = {path: path.stat().st_mtime_ns for path in made.iterdir()}
    assert opened() == (made, True)
    assert {path: path.stat().st_mtime_ns for path in made.iterdir() if path.name != "folders.json"} == times
    assert opened() == (made, False)


@pytest.mark.parametrize("kind", ["folder"], indirect=True)
@pytest.mark.parametrize("damage", ["empty", "a row less", "a digit", "none"])
def test_a_damaged_list_of_folders_tells_nothing(opened, damage):
    made, _ = opened()
    path = made / "folders.json"
    text = path.read_text()
    held = json.loads(text)
    held["watched"].pop("cat")
    damaged = {"empty": "", "a row less": json.dumps(held), "a digit": text.replace("-1", "-2"), "none": "[]"}[damage]
    path.write_text(damaged)
    assert opened() == (made, True)
    assert path.read_text() == text and opened() == (made, False)


@pytest.mark.parametrize("kind", ["folder"], indirect=True)
def test_a_source_that_is_gone_is_no_change(opened, root):
    made, _ = opened()
    shutil.rmtree(root)
    assert opened()[0] == made


@pytest.mark.parametrize(("source", "make"), [(ILSVRC, ilsvrc), (RVLCDIP, rvl_cdip)])
def test_folders_lists_and_the_root_are_watched(tmp_path, source, make):
    make(tmp_path)
    found = source(str(tmp_path), verify=False)
    watched = found.watched(found.stamps())
    below = {path.relative_to(tmp_path).as_posix(): path for path in tmp_path.rglob("*")}
    wanted = {name for name, path in below.items() if path.is_dir() or path.suffix == ".txt"}
    assert {name.rstrip("/") for name in watched} == wanted | {""}
