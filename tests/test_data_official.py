"""ILSVRC-2012 and RVL-CDIP as they are downloaded: archives and folders give the same data, and mistakes are told."""

import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.io import loadmat

from invariance.data.prepared import prepare
from invariance.data.sources.ilsvrc import ILSVRC
from invariance.data.sources.rvl_cdip import RVLCDIP
from invariance.errors import UserError

CONF = Path(__file__).parents[1] / "conf" / "data"


def prepared(which, root, store, **changes):
    settings = {**yaml.safe_load((CONF / f"{which}.yaml").read_text()), "root": str(root), "verify": False, **changes}
    return prepare(settings, 24, store, progress=False)


def refused(source, match):
    with pytest.raises(UserError, match=match) as caught:
        source.splits()
    assert "\n" not in str(caught.value)


def pack(path, files, mode="w"):
    """A tar of files on disk: name in the archive → path."""
    quick = {"compresslevel": 1} if mode == "w:gz" else {}
    with tarfile.open(path, mode, **quick) as archive:
        for name, file in files.items():
            archive.add(file, name, recursive=False)


def same(a, b):
    """Equal images and labels, whatever the files are called."""
    for split in a.splits:
        assert np.array_equal(a.split(split).images, b.split(split).images)
        assert np.array_equal(a.split(split).labels, b.split(split).labels)
    assert a.classes == b.classes and a.mean == b.mean


@pytest.fixture
def imagenet(shared_data, tmp_path):
    """An extracted tree: train and val in wnid folders."""
    there = shared_data / "imagenet-layout"
    for split in ("train", "val"):
        shutil.copytree(there / "imagenette224" / split, tmp_path / "tree" / split)
    return tmp_path / "tree"


def truth(shared_data):
    """The wnid of every validation image by its number, from the lists read by hand."""
    devkit = shared_data / "imagenet-layout" / "ILSVRC2012_devkit_t12" / "data"
    numbers = [int(line) for line in (devkit / "ILSVRC2012_validation_ground_truth.txt").read_text().split()]
    table = loadmat(devkit / "meta.mat")["synsets"][:, 0]
    wnids = {int(row["ILSVRC2012_ID"][0, 0]): str(row["WNID"][0]) for row in table}
    return {image: wnids[number] for image, number in enumerate(numbers, 1)}


@pytest.fixture
def flat(shared_data, tmp_path):
    """An extracted tree with a flat val and the devkit; train holds nine of the classes of val's first ten images."""
    there, root = shared_data / "imagenet-layout", tmp_path / "flat"
    wnids = truth(shared_data)
    sources = sorted((there / "imagenette224" / "train").iterdir())
    for wnid, source in zip(sorted({wnids[n] for n in range(1, 10)}), sources, strict=False):
        shutil.copytree(source, root / "train" / wnid)
    for name in ("ILSVRC2012_img_val", "ILSVRC2012_devkit_t12"):
        shutil.copytree(there / name, root / name)
    return root


@pytest.fixture
def archives(shared_data, flat, tmp_path):
    """The same in the three archives, in their official form: a tar of tars, a flat tar and the devkit."""
    root, there = tmp_path / "archives", shared_data / "imagenet-layout"
    root.mkdir()
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
        for folder in sorted((flat / "train").iterdir()):
            inner = tmp_path / f"{folder.name}.tar"
            pack(inner, {file.name: file for file in sorted(folder.iterdir())})
            outer.add(inner, inner.name)
    val = there / "ILSVRC2012_img_val"
    pack(root / "ILSVRC2012_img_val.tar", {file.name: file for file in sorted(val.iterdir())})
    pack(
        root / "ILSVRC2012_devkit_t12.tar.gz",
        {str(file.relative_to(there)): file for file in sorted((there / "ILSVRC2012_devkit_t12").rglob("*"))},
        "w:gz",
    )
    return root


def test_archives_and_trees_of_ilsvrc_give_the_same_data(flat, archives, shared_data, tmp_path):
    from_tree, from_archives = (prepared("ilsvrc", root, tmp_path / root.name / "store") for root in (flat, archives))
    same(from_tree, from_archives)
    wnids = truth(shared_data)
    assert from_tree.classes == sorted({wnids[n] for n in range(1, 10)})
    assert len(from_tree.split("train")) == 5 * len(from_tree.classes)
    kept = [n for n in (*range(1, 11), 7942) if wnids[n] in from_tree.classes]
    assert [from_tree.classes[label] for label in from_tree.split("val").labels] == [wnids[n] for n in kept]
    assert from_tree.remarks[0] == f"train holds {len(from_tree.classes)} of 1,000 classes"
    assert f"{11 - len(kept)} validation images of classes that train does not hold" in from_tree.remarks[1]
    assert from_tree.report == "val" and from_tree.fit_split({"split": "train"}) == "train"


def test_val_in_wnid_folders_needs_no_devkit(imagenet, tmp_path):
    data = prepared("ilsvrc", imagenet, tmp_path / "store")
    assert len(data.split("val")) == 50 and data.mean == [123, 117, 104]
    assert np.bincount(data.split("val").labels).tolist() == [5] * 10


def test_mistakes_in_ilsvrc_are_told(imagenet, archives, tmp_path):
    refused(ILSVRC(str(tmp_path / "none")), "no such folder")
    with pytest.raises(UserError, match="data.root is not set"):
        ILSVRC(None)
    source = ILSVRC(str(archives))
    refused(source, "MD5 [0-9a-f]{32}, not 1d675b47d978889d74fa0da5fadfb00e.*data.verify=false")
    shutil.copytree(imagenet / "train", archives / "train")
    refused(ILSVRC(str(archives), verify=False), "both ILSVRC2012_img_train.tar and train")
    shutil.rmtree(archives / "train")
    data = (archives / "ILSVRC2012_img_train.tar").read_bytes()
    (archives / "ILSVRC2012_img_train.tar").write_bytes(data[: len(data) // 2])
    refused(ILSVRC(str(archives), verify=False), "damaged or cut off|cut off within")
    (archives / "ILSVRC2012_img_train.tar").write_bytes(data)
    (archives / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    refused(ILSVRC(str(archives), verify=False), "labels are in the devkit")

    (imagenet / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(b"")
    refused(ILSVRC(str(imagenet)), "mixes images .* and folders")
    (imagenet / "val" / "ILSVRC2012_val_00000001.JPEG").unlink()
    (imagenet / "train" / "cats").mkdir()
    refused(ILSVRC(str(imagenet)), "'cats', which is no class")
    (imagenet / "train" / "cats").rename(imagenet / "train" / "n99999999")
    refused(ILSVRC(str(imagenet)), "n99999999 is empty")
    shutil.rmtree(imagenet / "train" / "n99999999")
    shutil.rmtree(imagenet / "val" / "n01440764")
    refused(ILSVRC(str(imagenet)), "n01440764 is in train but not in")
    shutil.rmtree(imagenet / "val")
    refused(ILSVRC(str(imagenet)), "no validation images")


@pytest.mark.parametrize(
    "change,match",
    [
        (lambda lines: lines[:5], "has 5 lines, not 50,000; extract the devkit again"),
        (lambda lines: lines[1:], "has 49,999 lines, not 50,000"),
        (lambda lines: [*lines, "1"], "has 50,001 lines, not 50,000"),
        (lambda lines: [*lines[:2], "1001", *lines[3:]], "line 3: '1001' is no class from 1 to 1000"),
        (lambda lines: [*lines[:2], "cat", *lines[3:]], "line 3: 'cat'"),
        (lambda lines: [*lines[:2], "", *lines[3:]], "line 3: ''"),
    ],
)
def test_wrong_lines_of_the_ground_truth_are_told(flat, change, match):
    path = flat / "ILSVRC2012_devkit_t12" / "data" / "ILSVRC2012_validation_ground_truth.txt"
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    refused(ILSVRC(str(flat)), match)
    path.unlink()
    refused(ILSVRC(str(flat)), "holds no data/ILSVRC2012_validation_ground_truth.txt")
    (path.parent / "meta.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    path.write_text("1\n")
    refused(ILSVRC(str(flat)), "meta.mat cannot be read")


def test_known_oddities_of_ilsvrc_are_decoded_and_named(imagenet, tmp_path):
    folder = imagenet / "train" / "n02102040"
    Image.new("RGB", (9, 7), "red").save(folder / "n02105855_2933.JPEG", "png")
    Image.new("CMYK", (9, 7)).save(folder / "n01739381_1309.JPEG", "jpeg")
    data = prepared("ilsvrc", imagenet, tmp_path / "store")
    assert len(data.split("train")) == 52 and not data.skipped
    assert any("2 training images are PNG or CMYK" in line for line in data.remarks)


@pytest.fixture
def pages(shared_data, tmp_path):
    """A few pages of every class, extracted."""
    root = tmp_path / "pages"
    shutil.copytree(shared_data / "rvlcdip-layout", root)
    return root


def packed_pages(pages, root, labels="inside", mode="w:gz"):
    """The archive as it is downloaded, with its labels inside or beside it."""
    root.mkdir()
    files = {str(file.relative_to(pages)): file for file in sorted((pages / "images").rglob("*"))}
    lists = {f"labels/{split}.txt": pages / "labels" / f"{split}.txt" for split in ("train", "val", "test")}
    pack(
        root / ("rvl-cdip.tar.gz" if mode.endswith("gz") else "rvl-cdip.tar"),
        {**files, **(lists if labels == "inside" else {})},
        mode,
    )
    if labels == "beside":
        pack(root / "labels_only.tar.gz", lists, "w:gz")
    if labels == "folder":
        shutil.copytree(pages / "labels", root / "labels")
    return root


def test_archives_and_trees_of_rvl_cdip_give_the_same_data(pages, tmp_path):
    tree = prepared("rvl_cdip", pages, tmp_path / "a")
    assert [len(tree.split(name)) for name in ("train", "val", "test")] == [112, 32, 48]
    lines = [line.split() for line in (pages / "labels" / "val.txt").read_text().splitlines()]
    assert tree.split("val").labels.tolist() == [int(label) for _, label in lines]
    assert tree.classes[15] == "memo" and tree.channels == 1 and tree.mean == [234]
    for number, (labels, mode) in enumerate([("inside", "w:gz"), ("beside", "w:gz"), ("folder", "w")]):
        same(tree, prepared("rvl_cdip", packed_pages(pages, tmp_path / str(number), labels, mode), tmp_path / "b"))
    assert "wrong" in tree.remarks[0] and tree.report == "test" and tree.fit_split({"split": "val"}) == "val"


def test_the_broken_page_of_rvl_cdip_is_known_and_another_one_counts(pages, tmp_path):
    known = pages / "images" / RVLCDIP.BROKEN
    known.parent.mkdir(parents=True)
    known.write_bytes(b"II*\0broken")
    with open(pages / "labels" / "test.txt", "a") as file:
        file.write(f"{RVLCDIP.BROKEN} 3\n")
    data = prepared("rvl_cdip", pages, tmp_path / "store")
    assert len(data.split("test")) == 48 and len(data.skipped) == 1 and data.broken == 0
    archive = packed_pages(pages, tmp_path / "packed")
    assert prepared("rvl_cdip", archive, tmp_path / "other").broken == 0

    with open(pages / "labels" / "val.txt", "a") as file:
        file.write("imagesz/z/z/z/zzz00e00/1.tif 3\n")
    with pytest.raises(UserError, match="1 of the first .* images/imagesz/z/z/z/zzz00e00/1.tif cannot be read"):
        prepared("rvl_cdip", pages, tmp_path / "store")
    assert prepared("rvl_cdip", pages, tmp_path / "store", max_broken=0.01).broken == 1
    archive = packed_pages(pages, tmp_path / "again")
    assert prepared("rvl_cdip", archive, tmp_path / "other", max_broken=0.01).broken == 1


@pytest.mark.parametrize(
    "line,match",
    [
        ("imagesa/a/a/a/x.tif 16", "val.txt line 4: class 16 is beyond 0 to 15"),
        ("imagesa/a/a/a/x.tif -1", "val.txt line 4: 'imagesa/a/a/a/x.tif -1' is not «path class»"),
        ("imagesa/a/a/a/x.tif", "line 4.*is not «path class»"),
        ("", "line 4 is empty"),
        ("../../etc/x.tif 1", "unsafe path '../../etc/x.tif'"),
        ("/etc/x.tif 1", "unsafe path"),
        (None, "val.txt line 4: .* stands in train.txt line 1 already"),
    ],
)
def test_wrong_lines_of_labels_are_told(pages, line, match):
    path = pages / "labels" / "val.txt"
    if line is None:
        line = (pages / "labels" / "train.txt").read_text().splitlines()[0]
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], line, *lines[4:]]) + "\n")
    refused(RVLCDIP(str(pages)), match)


def test_lists_of_another_systems_line_ends_and_mark_are_read(pages):
    path = pages / "labels" / "val.txt"
    names = RVLCDIP(str(pages)).splits().listings["val"].names
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert RVLCDIP(str(pages)).splits().listings["val"].names == names


def test_mistakes_in_rvl_cdip_are_told(pages, tmp_path):
    archive = packed_pages(pages, tmp_path / "packed")
    found = RVLCDIP(str(archive)).splits()
    assert any("rvl-cdip.tar.gz has MD5" in line for line in found.remarks), "a third party's sum is only warned of"
    data = (archive / "rvl-cdip.tar.gz").read_bytes()
    (archive / "rvl-cdip.tar.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="damaged or cut off"):
        prepared("rvl_cdip", archive, tmp_path / "store")
    assert not list((tmp_path / "store").rglob("*.npy")), "nothing half-made is left"
    (pages / "labels" / "test.txt").write_text("")
    refused(RVLCDIP(str(pages)), "test.txt is empty")
    (pages / "labels" / "test.txt").unlink()
    refused(RVLCDIP(str(pages)), "holds no labels/test.txt")
    shutil.rmtree(pages / "images")
    refused(RVLCDIP(str(pages)), "holds no images")


def test_a_changed_archive_is_seen(pages, tmp_path, capsys):
    archive = packed_pages(pages, tmp_path / "packed", mode="w")
    before = prepared("rvl_cdip", archive, tmp_path / "store")
    os.utime(archive / "rvl-cdip.tar", (1, 1))
    assert prepared("rvl_cdip", archive, tmp_path / "store").directory == before.directory
    with open(archive / "rvl-cdip.tar", "ab") as file:
        file.write(bytes(512))
    after = prepared("rvl_cdip", archive, tmp_path / "store")
    assert "rvl-cdip.tar has changed" in capsys.readouterr().err and after.directory != before.directory


def test_historical_documents_need_no_labels(shared_data, tmp_path):
    archive = shared_data / "historical-collections" / "historical_s128.zip"
    settings = {**yaml.safe_load((CONF / "historical.yaml").read_text()), "root": str(archive)}
    data = prepare(settings, 16, tmp_path, progress=False)
    assert data.splits == ["val", "test"] and not data.classes and data.channels == 1
    assert len(data.split("val")) + len(data.split("test")) == 1241
    assert (data.split("val").labels == -1).all() and data.fit_split(settings["fit"]) == "val"
    with pytest.raises(UserError, match="no split 'train'"):
        data.split("train")


def test_a_zip_of_classes_serves_as_a_folder(shared_data, tmp_path):
    archive = shared_data / "historical-collections" / "historical_s128.zip"
    settings = {**yaml.safe_load((CONF / "folder.yaml").read_text()), "root": str(archive)}
    data = prepare(settings, 16, tmp_path, progress=False)
    assert data.name == "historical_s128" and len(data.classes) == 9 and data.splits == ["train", "val", "test"]


def test_files_that_are_none_of_the_data_sets_own_change_nothing(pages, tmp_path, capsys):
    before = prepared("rvl_cdip", pages, tmp_path / "store")
    (pages / "images" / ".DS_Store").write_bytes(b"x")
    (pages / "labels" / "notes.txt").write_text("x")
    assert prepared("rvl_cdip", pages, tmp_path / "store").directory == before.directory
    assert "again" not in capsys.readouterr().err


def test_a_train_folder_that_is_extracted_in_part_is_told(imagenet):
    (imagenet / "train" / "n99999999.tar").write_bytes(b"x")
    refused(ILSVRC(str(imagenet)), "mixes folders .* and archives that are still packed .n99999999.tar")


def test_lists_that_are_shorter_than_the_official_ones_are_remarked(pages):
    remarks = RVLCDIP(str(pages)).splits().remarks
    assert any("labels/val.txt names 32 images, not the official 40,000" in line for line in remarks)
