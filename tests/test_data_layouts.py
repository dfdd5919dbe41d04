"""Names as a person reads them, and what is left out: never silently, whatever lies in the folder."""

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from invariance.data.estimate import plan
from invariance.data.left_out import LeftOut, lines_of
from invariance.data.magic import looks_like_image
from invariance.data.manifest import MANIFEST
from invariance.data.names import names_a_split, read_alike, read_as, shown, split_named
from invariance.data.prepared import Prepared, prepare
from invariance.data.sources.base import source_from_config
from invariance.data.sources.ilsvrc import ILSVRC
from invariance.data.sources.rvl_cdip import RVLCDIP
from invariance.errors import UserError
from invariance.experiments.prepare import prepare as prepare_data

CONF = Path(__file__).parents[1] / "conf" / "data"


def images(folder, count):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(np.full((6, 9), i % 256, np.uint8)).save(folder / f"{i:03d}.png")


def config(which="folder", /, **changes):
    return {**yaml.safe_load((CONF / f"{which}.yaml").read_text()), **changes}


def found(root, which="folder", /, **changes):
    return source_from_config(config(which, root=str(root), **changes)).splits()


def left(splits):
    return lines_of(splits.left_out.as_json())


def refused(root, match, **changes):
    with pytest.raises(UserError, match=match) as caught:
        found(root, **changes)
    assert "\n" not in str(caught.value) and str(caught.value).isprintable()


def layout(root, *splits, classes=("cat", "dog"), count=4):
    for split in splits:
        for name in classes:
            images(root / split / name, count)
    return root


@pytest.mark.parametrize(
    "names",
    [
        ("train", "Val", "Test"),
        ("TRAIN", "VAL", "TEST"),
        ("Training", "valid", "testing"),
        ("train", "dev", "test "),
        ("ｔｒａｉｎ", "validation", "test\u200b"),
        ("train\r", "Validation", "\ttest"),
    ],
)
def test_splits_are_read_as_a_person_reads_them(tmp_path, names):
    splits = found(layout(tmp_path, *names))
    assert list(splits.listings) == ["train", "val", "test"] and not left(splits)
    for split, name in zip(("train", "val", "test"), names, strict=True):
        assert {path.split("/")[0] for path in splits.listings[split].names} == {name}
        assert splits.listings[split].labels.tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize(
    "name",
    ["test_images", "Test2", "eval", "evaluation", "val-old", "testset", "TestImages", "holdout", "my test", "val (1)"],
)
def test_what_looks_like_a_split_and_is_none_is_refused_unless_it_is_excluded(tmp_path, name):
    layout(tmp_path, "train")
    images(tmp_path / name, 1)
    refused(tmp_path, "which looks like a split and is none; splits are named train, val, test: rename it, or")
    splits = found(tmp_path, exclude=[name.upper()])
    assert left(splits) == [f"1 file excluded by data.exclude: {name}/ (1 file)"]


def test_a_folder_of_the_same_classes_beside_the_splits_looks_like_one_whatever_its_name(tmp_path):
    layout(tmp_path, "train", "test", "fold 3")
    refused(tmp_path, "'fold 3' beside 'test', which looks like a split")
    images(tmp_path / "more" / "deep", 3)
    (tmp_path / "notes.md").write_text("x")
    assert left(found(tmp_path, exclude=["Fold 3"])) == [
        "8 files excluded by data.exclude: fold 3/ (8 files)",
        "4 files beside the folders of the splits: more/ (3 files), notes.md",
    ]


def test_classes_alone_may_be_called_much_but_not_as_splits(tmp_path):
    layout(tmp_path, "", classes=("train_station", "test tube", "developer", "valley"))
    assert found(tmp_path).classes == ["developer", "test tube", "train_station", "valley"]
    for name in ("test_images", "train2017", "valset"):
        images(tmp_path / name, 4)
        refused(tmp_path, f"{name!r}, which looks like a split")
        os.rename(tmp_path / name, tmp_path / f"{name} of cats")


def test_two_folders_that_read_the_same_are_refused(tmp_path):
    layout(tmp_path / "a", "train", "Train")
    refused(tmp_path / "a", "'Train' and 'train', which are both train")
    layout(tmp_path / "b", "train", "val", "validation")
    refused(tmp_path / "b", "'val' and 'validation', which are both val")
    nfc, nfd = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    layout(tmp_path / "c", "", classes=(nfc, nfd, "tea"))
    refused(tmp_path / "c", "which read the same; put them into one folder")
    layout(tmp_path / "d", "", classes=("cat", "cat\r", "tea"))
    refused(tmp_path / "d", r"'cat' and 'cat\\r', which read the same")


def test_a_class_written_otherwise_in_another_split_is_the_same_class(tmp_path):
    nfc, nfd = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))
    layout(tmp_path, "train", classes=(nfc, "zebra"))
    layout(tmp_path, "val", classes=(nfd, "Zebra"))
    layout(tmp_path, "test", classes=("zebra ", nfc.upper()))
    splits = found(tmp_path)
    assert splits.classes == [nfc, "zebra"]
    for listing in splits.listings.values():
        names = [name.split("/")[1] for name in listing.names]
        assert [read_as(name) == "zebra" for name in names] == listing.labels.astype(bool).tolist()


def test_what_is_left_out_is_counted_named_and_told_why(tmp_path):
    layout(tmp_path, "", classes=("cat", "dog", "fox"))
    images(tmp_path / "cat" / "more" / "deep", 5)
    images(tmp_path / "cat" / "more", 2)
    images(tmp_path / "fox", 9)
    images(tmp_path / ".cache" / "x", 3)
    (tmp_path / "dog" / "nothing in it").mkdir()
    (tmp_path / "dog" / ".DS_Store").write_text("x")
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    (tmp_path / "dog" / "more.zip").write_text("no image")
    (tmp_path / "dog" / "empty").write_text("")
    (tmp_path / "readme\nof it.txt").write_text("x")
    (tmp_path / "dog" / "gone.png").symlink_to("nowhere")
    (tmp_path / "dog" / "itself.png").symlink_to("itself.png")
    (tmp_path / "cat" / "up").symlink_to("..")
    os.mkfifo(tmp_path / "dog" / "pipe.png")
    splits = found(tmp_path, exclude=["FOX"])
    assert splits.classes == ["cat", "dog"] and sum(map(len, splits.listings.values())) == 8
    assert sorted(left(splits)) == sorted(
        [
            "7 files deeper than <class>/*: cat/more/ (7 files)",
            "9 files excluded by data.exclude: fox/ (9 files)",
            "4 files hidden (a name that begins with a dot): dog/.DS_Store, .cache/ (3 files)",
            "1 file not of an image format that is read: dog/notes.txt",
            "1 file archives, which are not looked into; name one as data.root: dog/more.zip",
            "1 file empty files without the suffix of an image: dog/empty",
            r"1 file beside the class folders: readme\nof it.txt",
            "1 file links that lead nowhere: dog/gone.png",
            "2 files links that lead back to a folder around them: cat/up, dog/itself.png",
            "1 file neither files nor folders: dog/pipe.png",
        ]
    )


def test_images_that_all_lie_too_deep_are_told(tmp_path):
    layout(tmp_path, "", classes=("cat", "dog/many"))
    refused(tmp_path, "class 'dog' is empty: .* beside the folder 'many', which is too deep")


def test_links_in_a_ring_end_and_count_nothing_twice(tmp_path):
    images(tmp_path / "pile" / "a", 3)
    images(tmp_path / "pile" / "b", 2)
    (tmp_path / "pile" / "a" / "to b").symlink_to("../b")
    (tmp_path / "pile" / "b" / "to a").symlink_to("../a")
    (tmp_path / "pile" / "out").symlink_to("..")
    splits = found(tmp_path / "pile", "historical")
    names = sorted(name for listing in splits.listings.values() for name in listing.names)
    assert len(names) == 3 + 2 + 3 + 2 and "a/to b/000.png" in names, "a link to elsewhere is followed, once"
    assert left(splits) == ["3 files links that lead back to a folder around them: out, b/to a/to b, a/to b/to a"]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF"])
def test_the_content_decides_where_there_is_no_suffix(tmp_path, kind):
    for i in range(12):
        path = tmp_path / "pets" / "cd"[i % 2] / (f"{i}" if i % 3 else f"{i}.dat")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 7, 3), 20 * i, np.uint8)).save(path, kind)
    (tmp_path / "pets" / "c" / "12").write_bytes(b"Pf\n2 2\n-1.0\n" + np.full(4, 0.5, "<f4").tobytes())
    (tmp_path / "pets" / "c" / "notes").write_text("BM is no image, P1 neither, nor II")
    prepared = prepare(config(root=str(tmp_path / "pets")), 5, tmp_path / "store", progress=False)
    assert sum(len(prepared.split(name)) for name in prepared.splits) == 13 and not prepared.skipped
    assert prepared.left_out == ["1 file not of an image format that is read: c/notes"]


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=70))
def test_no_text_looks_like_an_image(text):
    assert not looks_like_image(text.encode()) or text[:1] in "\x00PG\x89"


@pytest.mark.parametrize(
    "text", ["BMW and Audi", "P1 is a text", "P5 x", "Pf", "Pf x", "PF\n2 2\n-1.0", "GIF", "RIFF....WAVE", "II*", ""]
)
def test_texts_that_begin_like_images_are_none(text):
    assert not looks_like_image(text.encode())


def test_files_with_a_suffix_are_not_opened_to_be_listed(tmp_path, monkeypatch):
    layout(tmp_path, "train", "val", "test")
    monkeypatch.setattr("invariance.data.sources.trees.open", lambda *_, **__: pytest.fail("opened"), raising=False)
    assert len(found(tmp_path).listings["train"]) == 8


def test_what_is_left_out_is_kept_with_the_data_and_is_no_part_of_what_they_are(tmp_path):
    layout(tmp_path / "pets", "train", "val", "test")
    before = prepare(config(root=str(tmp_path / "pets")), 6, tmp_path / "store", progress=False)
    (tmp_path / "pets" / "notes.txt").write_text("x")
    (tmp_path / "pets" / ".hidden").write_text("x")
    again = prepare(config(root=str(tmp_path / "pets")), 6, tmp_path / "store", progress=False)
    assert again.directory == before.directory and not again.left_out
    renewed = prepare(config(root=str(tmp_path / "pets")), 6, tmp_path / "store", progress=False, renew=True)
    assert renewed.sha256 == before.sha256
    assert renewed.left_out == [
        "1 file hidden (a name that begins with a dot): .hidden",
        "1 file beside the folders of the splits: notes.txt",
    ]
    assert Prepared(renewed.directory).left_out == renewed.left_out
    assert plan(config(root=str(tmp_path / "pets")), [6], tmp_path, progress=False).left_out == renewed.left_out


def test_the_command_prints_what_is_left_out(tmp_path, capsys):
    layout(tmp_path / "pets", "train", "val", "test")
    images(tmp_path / "pets" / "val" / "cat" / "more", 3)
    given = {
        "data": config(root=str(tmp_path / "pets")),
        "size": 6,
        "renew": False,
        "verify": True,
        "progress": False,
        "prepared": str(tmp_path / "store"),
        "runs": "runs",
    }
    for planned in (True, False):
        prepare_data({**given, "plan": planned})
        assert "left out: 3 files deeper than <class>/*: val/cat/more/ (3 files)" in capsys.readouterr().out


def of_before(directory, **changes):
    """Prepared data as version 0.1.0 wrote them: without a seal, checksums and what is left out."""
    path = directory / MANIFEST
    manifest = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("pixels", "seal", "left_out")}
    path.write_text(json.dumps({**manifest, **changes}, indent=1) + "\n")


def test_prepared_data_of_before_say_what_they_know_and_are_refused_where_they_left_out_a_split(tmp_path):
    layout(tmp_path / "pets", "train", "val", "test")
    directory = prepare(config(root=str(tmp_path / "pets")), 6, tmp_path / "store", progress=False).directory
    of_before(directory, ignored={"count": 2, "names": ["more/", "val/cat/notes.txt"]})
    assert Prepared(directory).left_out == ["2 files of no use to version 0.1.0: more/, val/cat/notes.txt"]
    of_before(directory, ignored={"count": 1, "names": ["Test/"]})
    with pytest.raises(UserError, match="made without the folder 'Test', which looks like a split; delete it"):
        Prepared(directory)
    of_before(directory, ignored={"count": 0, "names": []}, classes=["cat", "Cat"])
    with pytest.raises(UserError, match="classes 'cat' and 'Cat', which read the same; delete it"):
        Prepared(directory)


@pytest.mark.parametrize("odd", ["\r", "\n", "\t", "\x01", "\x7f", "\x85", "\u2028", '"', ",", "'", "\\", " "])
def test_odd_names_are_prepared_once(tmp_path, odd):
    layout(tmp_path / "pets", "", classes=(f"cat{odd}", f"a{odd}b"))
    os.rename(tmp_path / "pets" / f"a{odd}b" / "001.png", tmp_path / "pets" / f"a{odd}b" / f"{odd}1{odd}.png")
    first = prepare(config(root=str(tmp_path / "pets")), 6, tmp_path / "store", progress=False)
    again = prepare(config(root=str(tmp_path / "pets")), 6, tmp_path / "store", progress=False)
    assert first.directory == again.directory and first.sha256 == again.sha256
    os.utime(tmp_path / "pets" / f"cat{odd}" / "002.png", (1, 1))
    assert prepare(config(root=str(tmp_path / "pets")), 6, tmp_path / "store", progress=False).sha256 == first.sha256
    assert sorted(first.classes) == sorted([f"cat{odd}", f"a{odd}b"])


@settings(deadline=None, max_examples=200)
@given(st.text(min_size=1, max_size=12))
def test_reading_a_name(name):
    assert read_as(read_as(name)) == read_as(name)
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert read_as(unicodedata.normalize(form, name)) == read_as(name)
    assert read_as(f"\u200b{name}\r\n ") == read_as(name)
    assert shown(name).isprintable()


def test_names_of_splits():
    assert [split_named(name) for name in ("TRAIN", "Dev", "te\u00adst", "eval", "tests")] == [
        "train",
        "val",
        "test",
        None,
        None,
    ]
    assert not names_a_split("train_station") and names_a_split("train_station", loosely=True)
    assert not names_a_split("trains", loosely=True) and not names_a_split("devil", loosely=True)
    assert read_alike(["a", "b", "B "]) == ("b", "B ") and read_alike(["a", "b"]) is None


def test_a_long_list_is_counted_and_its_first_are_named():
    held = LeftOut()
    held.add_all((f"{i}.txt" for i in range(1234)), "of no use")
    assert lines_of(held.as_json()) == ["1,234 files of no use: 0.txt, 1.txt, 2.txt and 1,231 more"]
    assert len(held.as_json()[0]["names"]) == 100


def wnids(root):
    for part in ("train", "val"):
        for name in ("n01440764", "n02102040"):
            images(root / part / name, 3)
    return root


def test_what_an_official_folder_holds_beside_its_own_is_named(tmp_path):
    wnids(tmp_path)
    (tmp_path / "train" / "n01440764" / "readme.txt").write_text("x")
    images(tmp_path / "train" / "n02102040" / "more", 2)
    images(tmp_path / "test", 7)
    (tmp_path / "LOC_synset_mapping.txt").write_text("x")
    (tmp_path / "val" / ".DS_Store").write_text("x")
    assert left(ILSVRC(str(tmp_path)).splits()) == [
        "4 files not part of the data set: train/n01440764/readme.txt, train/n02102040/more/ (2 files), "
        "LOC_synset_mapping.txt",
        "1 file hidden (a name that begins with a dot): val/.DS_Store",
        "1 folder beside the data set's own, not looked into: test/",
    ]


def test_pages_that_no_list_names_are_counted(tmp_path):
    (tmp_path / "labels").mkdir()
    for split in ("train", "val", "test"):
        images(tmp_path / "images" / split, 17)
        (tmp_path / "labels" / f"{split}.txt").write_text("".join(f"{split}/{i:03d}.png {i}\n" for i in range(16)))
    (tmp_path / "images" / "Thumbs.db").write_text("x")
    (tmp_path / "labels" / "notes.txt").write_text("x")
    assert sorted(left(RVLCDIP(str(tmp_path)).splits())) == [
        "2 files not part of the data set: images/Thumbs.db, labels/notes.txt",
        "3 files that no list of labels names: images/val/016.png, images/train/016.png, images/test/016.png",
    ]
