"""Sources: layouts, drawn splits, and one clear line for each mistake."""

import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from invariance.data.sources.base import class_of, data_config, source_from_config, stratified
from invariance.errors import UserError

CONF = Path(__file__).parents[1] / "conf" / "data"


def config(which="folder", /, **changes):
    return {**yaml.safe_load((CONF / f"{which}.yaml").read_text()), **changes}


def images(folder, count, start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        Image.fromarray(np.full((6, 9), i % 256, np.uint8)).save(folder / f"{i:03d}.png")


@pytest.fixture
def tree(tmp_path):
    """Two classes in three splits."""
    for split, count in (("train", 5), ("val", 2), ("test", 3)):
        for name in ("cat", "dog"):
            images(tmp_path / "pets" / split / name, count)
    return tmp_path / "pets"


def splits_of(which="folder", /, **changes):
    """Classes, listings and what was left out."""
    found = source_from_config(config(which, **changes)).splits()
    return found.classes, found.listings, found.ignored


def refused(match, **changes):
    with pytest.raises(UserError, match=match) as caught:
        data_config(config(**changes)).source.splits()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_split_folders_are_taken_as_they_are(tree):
    (tree / "train" / "cat" / "Thumbs.db").write_text("x")
    (tree / "train" / "cat" / ".hidden.png").write_text("x")
    (tree / "train" / "readme.txt").write_text("x")
    (tree / "more").mkdir()
    classes, splits, ignored = splits_of(root=str(tree))
    assert classes == ["cat", "dog"] and list(splits) == ["train", "val", "test"]
    assert {split: listing.labels.tolist() for split, listing in splits.items()} == {
        "train": [0] * 5 + [1] * 5,
        "val": [0, 0, 1, 1],
        "test": [0] * 3 + [1] * 3,
    }
    assert splits["val"].names[2] == "val/dog/000.png"
    assert splits["val"].read(3) == (tree / "val/dog/001.png").read_bytes()
    assert sorted(ignored) == ["more/", "train/cat/.hidden.png", "train/cat/Thumbs.db", "train/readme.txt"]


def test_without_val_a_share_of_train_is_drawn_and_test_stays(tree):
    os.rename(tree / "val", tree.parent / "elsewhere")
    _, before, _ = splits_of(root=str(tree), val_fraction=0.4)
    assert {split: np.bincount(listing.labels).tolist() for split, listing in before.items()} == {
        "train": [3, 3],
        "val": [2, 2],
        "test": [3, 3],
    }
    assert not set(before["train"].names) & set(before["val"].names)
    assert all(name.startswith("train/") for name in [*before["train"].names, *before["val"].names])


def test_one_folder_is_split_with_a_seed(tmp_path):
    for name, count in (("a", 50), ("b", 21), ("c", 3), ("junk", 9)):
        images(tmp_path / name, count)
    changes = {"root": str(tmp_path), "exclude": ["junk"]}
    classes, splits, _ = splits_of(**changes)
    assert classes == ["a", "b", "c"]
    assert [np.bincount(splits[split].labels).tolist() for split in ("train", "val", "test")] == [
        [30, 13, 1],
        [10, 4, 1],
        [10, 4, 1],
    ]
    everything = [name for listing in splits.values() for name in listing.names]
    assert len(everything) == len(set(everything)) == 74
    for listing in splits.values():
        assert all(listing.read(i) == (tmp_path / name).read_bytes() for i, name in enumerate(listing.names))
        assert [classes[label] for label in listing.labels] == [name.split("/")[0] for name in listing.names]
    same, other = splits_of(**changes)[1], splits_of(**changes, split_seed=1)[1]
    assert same["val"].names == splits["val"].names != other["val"].names
    with_junk = splits_of(root=str(tmp_path))[1]
    assert [name for name in with_junk["val"].names if not name.startswith("junk")] == splits["val"].names
    assert list(splits_of(**changes, test_fraction=0)[1]) == ["train", "val"]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(3, 40), min_size=2, max_size=6), st.floats(0.01, 0.6), st.floats(0.01, 0.39))
def test_every_class_is_in_every_split_by_its_share(counts, val, test):
    labels = np.random.default_rng(len(counts)).permutation(np.repeat(np.arange(len(counts)), counts))
    parts = stratified(labels, [str(i) for i in range(len(counts))], {"val": val, "test": test}, 3)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(labels)))
    for split, share in (("train", 1 - val - test), ("val", val), ("test", test)):
        got = np.bincount(labels[parts[split]], minlength=len(counts))
        assert (got >= 1).all() and (np.abs(got - share * np.array(counts)) <= 2.01).all()


def test_mistakes_in_the_folder_are_told(tree, tmp_path):
    root = str(tree)
    assert "data.root=…" in refused("data.root is not set", root=None)
    assert str(tree) in refused("no such folder or archive; did you mean", root=str(tmp_path / "pest"))
    refused("is neither a folder nor a tar", root=str(tree / "train" / "cat" / "000.png"))
    refused("did you mean 'dog'", root=root, exclude=["dgo"])
    refused("one class only, 'dog'", root=root, exclude=["cat"])
    refused("give a list", root=root, exclude="cat")
    refused("no class folders", root=str(tree / "train" / "cat"))
    images(tree / "train" / "fox", 1)
    refused("class 'fox' is in train but not in .*val", root=root)
    os.rename(tree / "train" / "fox", tmp_path / "fox")
    images(tree / "val" / "owl", 1)
    refused("class 'owl' is in .*val but not in .*train", root=root)
    os.rename(tree / "val" / "owl", tmp_path / "owl")
    os.rename(tree / "train", tmp_path / "train")
    refused("holds val and test but no train", root=root)
    os.rename(tree / "test", tree / "eval")
    refused("holds 'eval' beside 'val', which looks like a split and is none; splits are named", root=root)


def test_an_empty_class_is_told(tree):
    for path in (tree / "val" / "dog").iterdir():
        path.with_suffix(".txt").write_text("no image")
        path.unlink()
    refused("class 'dog' is empty: .*val/dog", root=str(tree))


def test_names_that_are_not_utf8_are_told(tree, tmp_path):
    os.rename(tree / "train" / "cat", os.fsencode(tree / "train") + b"/cat\xff")
    refused("class folder .* is not UTF-8; rename it", root=str(tree))
    refused("data.root=.* is not UTF-8", root=str(tmp_path / "pets\udcff"))


def test_a_class_too_small_to_split_is_told(tmp_path):
    images(tmp_path / "a", 9)
    images(tmp_path / "b", 2)
    refused("class 'b' has 2 image.*need one each", root=str(tmp_path))


@pytest.mark.parametrize(
    "changes,match",
    [
        ({"colour": "grey"}, "data.colour='grey'.*gray or rgb"),
        ({"color": "gray"}, "data.color; did you mean 'colour'"),
        ({"rot": "x"}, "did you mean 'root'"),
        ({"val_fraction": 0}, "val_fraction=0"),
        ({"val_fraction": 1.5}, "val_fraction"),
        ({"val_fraction": float("nan")}, "val_fraction"),
        ({"val_fraction": "half"}, "val_fraction='half'"),
        ({"test_fraction": -0.1}, "test_fraction=-0.1"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "nothing to train on"),
        ({"split_seed": -1}, "split_seed=-1"),
        ({"split_seed": True}, "split_seed"),
        ({"max_broken": 1}, "max_broken=1"),
        ({"max_broken": None}, "max_broken"),
        ({"mean": [1, 2]}, "give 3 number"),
        ({"mean": [0, 0, 256]}, "0 to 255"),
        ({"mean": "gray"}, "data.mean"),
        ({"report": "tset"}, "data.report='tset'"),
        ({"fit": {"split": "x"}}, "data.fit.split"),
        ({"fit": {"images": 0}}, "data.fit.images=0"),
        ({"fit": {"seed": 1.5}}, "data.fit.seed"),
        ({"fit": 3}, "data.fit=3"),
        ({"fit": {"image": 3}}, "data.fit.image; did you mean 'images'"),
        ({"name": "a/b"}, "data.name='a/b'"),
        ({"name": ".."}, "data.name"),
        ({"name": ""}, "data.name"),
        ({"_target_": "os.system"}, "no source of this package"),
        ({"_target_": "invariance.data.sources.folder.Foldr"}, "does not exist"),
        ({"_target_": None}, "no source"),
        ({"_target_": "invariance.data.sources.folder.Path"}, "no source of images"),
        ({"_target_": "invariance.data.nix.X"}, "exist"),
    ],
)
def test_mistakes_in_the_configuration_are_told(changes, match, tree):
    refused(match, **{"root": str(tree), **changes})


@pytest.mark.parametrize(
    ("before", "name"),
    [
        ("arrays", "CIFAR10"),
        ("folder", "Folder"),
        ("ilsvrc", "ILSVRC"),
        ("rvl_cdip", "RVLCDIP"),
        ("unlabelled", "Unlabelled"),
    ],
)
def test_a_class_is_still_found_where_version_0_1_0_had_it(before, name):
    kind = class_of({"_target_": f"invariance.data.{before}.{name}"})
    assert kind is class_of({"_target_": f"invariance.data.sources.{before}.{name}"}) and kind.__name__ == name


def test_names(tmp_path):
    assert data_config(config(root=str(tmp_path / "my photos, 2020/"))).name == "my_photos__2020"
    assert data_config(config(root=str(tmp_path), name="flowers-17")).name == "flowers-17"
    for name in ("digits", "fashion_mnist", "cifar10"):
        assert data_config(config(name)).name == name


def test_photos_are_the_tiles_of_two_photographs():
    from sklearn.datasets import load_sample_images

    classes, splits, _ = splits_of("photos", tile=100)
    assert classes == [] and set(splits) == {"val", "test"}
    tiles = {name: one.read(i) for one in splits.values() for i, name in enumerate(one.names)}
    assert len(tiles) == 2 * 4 * 6  # 427 × 640
    second = np.asarray(load_sample_images().images[1])
    np.testing.assert_array_equal(tiles["photos/00031"], second[100:200, 100:200])  # 24 + one row of 6 + 1
    for tile in (7, 201, True, "32"):
        with pytest.raises(UserError, match="data.tile"):
            source_from_config(config("photos", tile=tile))


def test_digits_are_all_there():
    classes, splits, ignored = splits_of("digits")
    assert classes == [str(i) for i in range(10)] and not ignored
    assert [len(splits[split]) for split in ("train", "val", "test")] == [1079, 359, 359]
    for listing in splits.values():
        counts = np.bincount(listing.labels)
        assert counts.max() - counts.min() < 0.15 * counts.max()
    assert max(splits["val"].read(i).max() for i in range(50)) == 255


def test_fashion_mnist_as_keras_has_it(shared_data):
    classes, splits, _ = splits_of("fashion_mnist", root=str(shared_data / "fashion-mnist"))
    assert [len(splits[split]) for split in ("train", "val", "test")] == [50_000, 10_000, 10_000]
    assert all((np.bincount(listing.labels) == len(listing) // 10).all() for listing in splits.values())
    with np.load(shared_data / "fashion-mnist" / "fashion_mnist.npz") as held:
        place = int(splits["val"].names[17].split("/")[1])
        assert np.array_equal(splits["val"].read(17), held["x_train"][place])
        assert splits["val"].labels[17] == held["y_train"][place] and len(classes) == 10


def test_fashion_mnist_as_torchvision_has_it(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    made = {}
    for part, prefix, n in (("train", "train", 60), ("test", "t10k", 20)):
        x, y = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8), np.arange(n, dtype=np.uint8) % 10
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(np.array([2051, n, 28, 28], ">i4").tobytes() + x.tobytes())
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(np.array([2049, n], ">i4").tobytes() + y.tobytes())
        made[part] = x
    _, splits, _ = splits_of("fashion_mnist", root=str(tmp_path))
    assert [len(splits[split]) for split in ("train", "val", "test")] == [50, 10, 20]
    assert np.array_equal(splits["test"].read(7), made["test"][7]) and splits["test"].labels[7] == 7
    for path in raw.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="fashion_mnist cannot be read"):
        source_from_config(config("fashion_mnist", root=str(tmp_path))).splits()


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10"])
def test_absent_sets_say_how_to_get_them(name, tmp_path):
    with pytest.raises(UserError, match="data.download=true"):
        source_from_config(config(name, root=str(tmp_path))).splits()
    with pytest.raises(UserError, match="no such folder"):
        source_from_config(config(name, root=str(tmp_path / "none"))).splits()
    with pytest.raises(UserError, match="true or false"):
        source_from_config(config(name, root=str(tmp_path), download="yes"))


def test_a_keras_file_of_the_wrong_kind_is_told(tmp_path):
    path = tmp_path / "fashion_mnist.npz"
    for write in (
        lambda: path.write_bytes(b"PK\x03\x04 no archive"),
        lambda: np.savez(path, x_train=np.zeros((3, 28, 28), np.uint8)),
        lambda: np.savez(path, x_train=np.zeros((3, 28, 28)), y_train=np.zeros(3, np.uint8)),
        lambda: np.savez(path, x_train=np.zeros((3, 28, 28), np.uint8), y_train=np.full(3, 10, np.uint8)),
        lambda: np.savez(path, x_train=np.array([{}], dtype=object), y_train=np.zeros(1, np.uint8)),
    ):
        write()
        with pytest.raises(UserError, match="fashion_mnist.npz") as caught:
            source_from_config(config("fashion_mnist", root=str(tmp_path))).splits()
        assert "\n" not in str(caught.value)


def test_cifar10_as_torchvision_has_it(tmp_path, monkeypatch):
    import pickle

    from torchvision import datasets

    base = tmp_path / "cifar-10-batches-py"
    base.mkdir()
    rng = np.random.default_rng(0)
    for name, _ in [*datasets.CIFAR10.train_list, *datasets.CIFAR10.test_list]:
        held = {"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8), "labels": [i % 10 for i in range(20)]}
        (base / name).write_bytes(pickle.dumps(held))
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(i) for i in range(10)]}))
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(datasets.cifar, "check_integrity", lambda *_: True)
    _, splits, _ = splits_of("cifar10", root=str(tmp_path))
    assert [len(splits[split]) for split in ("train", "val", "test")] == [80, 20, 20]
    planes = pickle.loads((base / "test_batch").read_bytes())["data"][3].reshape(3, 32, 32)
    assert np.array_equal(splits["test"].read(3), planes.transpose(1, 2, 0))
