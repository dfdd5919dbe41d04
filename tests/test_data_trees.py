"""Folders and archives read alike, and archives that must not be read."""

import io
import os
import tarfile
import zipfile

import numpy as np
import pytest

from invariance.data import archive as archives
from invariance.data import tar, zip
from invariance.data.archives import open_tree
from invariance.data.decode import BrokenImage
from invariance.errors import UserError

FILES = {f"{split}/{name}/{i}.png": os.urandom(700 * i + 1) for split in ("a", "b") for name in "xy" for i in range(3)}
FILES["a/x/" + "long" * 60 + ".png"] = b"by a longer name than a tar's header holds"
FILES["a/ü ö/1.png"] = b"letters"
KINDS = ("folder", "tar", "tar.gz", "tar.bz2", "tar.xz", "zip")


def packed(folder, kind, files=FILES):
    """The files as a folder or archive."""
    path = folder / ("files" if kind == "folder" else f"files.{kind}")
    if kind == "folder":
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    elif kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(path, "w:" + kind.removeprefix("tar").removeprefix(".")) as archive:
            for name, data in files.items():
                add(archive, name, data)
    return path


def add(archive, name, data=b"", **changes):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, value in changes.items():
        setattr(member, key, value)
    archive.addfile(member, io.BytesIO(data))


def refused(path, match):
    with pytest.raises(UserError, match=match) as caught:
        open_tree(path).index()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_holds_the_same(tmp_path, kind):
    tree = open_tree(packed(tmp_path, kind))
    assert tree.folders() == ["a", "b"] and tree.folders("a") == ["x", "y", "ü ö"]
    assert sorted(tree.inside("b/x").files) == ["0.png", "1.png", "2.png"] and tree.inside("b").files == {}
    assert {name: stamp[0] for name, stamp in tree.walk()} == {name: len(data) for name, data in FILES.items()}
    assert all(tree.read(name) == data for name, data in FILES.items())
    assert tree.stamp("a/x/1.png")[0] == 701 and tree.stamp("a/z.png") is None and tree.stamp("c/z.png") is None
    with pytest.raises(BrokenImage):
        tree.read("a/none.png")
    if tree.sequential:
        assert {name: read() for name, read in tree.stream()} == FILES


def test_tars_in_a_tar_are_folders(tmp_path):
    with tarfile.open(tmp_path / "outer.tar", "w") as outer:
        for wnid in ("n02", "n01"):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                for i in range(3):
                    add(archive, f"{wnid}_{i}.JPEG", f"{wnid} {i}".encode() * 99)
            add(outer, f"{wnid}.tar", inner.getvalue())
    tree = open_tree(tmp_path / "outer.tar", nested=True)
    assert tree.folders() == ["n01", "n02"]
    assert tree.read("n02/n02_1.JPEG") == b"n02 1" * 99


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
@pytest.mark.parametrize("name", ["/etc/passwd.png", "../up.png", "a/../../up.png", "a/.."])
def test_paths_that_lead_out_are_refused(tmp_path, kind, name):
    path = packed(tmp_path, kind, {"a/1.png": b"1", name: b"2"})
    refused(path, "unsafe path")


@pytest.mark.parametrize("compressed", ["", "gz"])
@pytest.mark.parametrize(
    "kind,match",
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "special file"),
        (tarfile.FIFOTYPE, "special file"),
    ],
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path, compressed, kind, match):
    path = tmp_path / "files.tar"
    with tarfile.open(path, "w:" + compressed) as archive:
        add(archive, "a/1.png", b"1")
        add(archive, "a/2.png", type=kind, linkname="/etc/passwd")
    refused(path, match)


def test_links_and_locked_files_in_a_zip_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "files.zip", "w") as archive:
        info = zipfile.ZipInfo("a/link.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    refused(tmp_path / "files.zip", "a link")


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_an_entry_that_stands_twice_is_refused(tmp_path, kind):
    path = tmp_path / f"files.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning):
            archive.writestr("a/1.png", b"1")
            archive.writestr("./a//1.png", b"2")
            archive.writestr("a/1.png", b"2")
    else:
        with tarfile.open(path, "w:" + kind.removeprefix("tar").removeprefix(".")) as archive:
            add(archive, "a/1.png", b"1")
            add(archive, "./a/1.png", b"2")
    refused(path, "twice")


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.xz", "zip"])
@pytest.mark.parametrize("share", [0.03, 0.4, 0.7, 0.97])
def test_an_archive_cut_off_anywhere_is_refused(tmp_path, kind, share):
    files = {f"a/{i}.png": np.random.default_rng(i).bytes(5000) for i in range(9)}
    path = packed(tmp_path, kind, files)
    os.truncate(path, int(share * path.stat().st_size))
    if kind == "tar" and share == 0.97:  # zeros alone were cut: everything is there
        assert len(dict(open_tree(path).walk())) == 9
        return
    refused(path, "damaged or cut off|cut off within|neither a folder")


def test_a_tar_cut_between_two_files_is_refused(tmp_path):
    path = packed(tmp_path, "tar", {f"a/{i}.png": b"x" * 512 for i in range(9)})
    os.truncate(path, 1024 * 5)
    refused(path, "damaged or cut off")


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_a_scrambled_header_is_not_taken_for_the_end(tmp_path, kind):
    plain = packed(tmp_path, "tar", {f"a/{i}.png": b"x" * 512 for i in range(9)})
    data = bytearray(plain.read_bytes())
    data[5 * 1024 : 5 * 1024 + 300] = os.urandom(300)
    if kind == "tar.gz":
        import gzip

        data = gzip.compress(bytes(data))
    (tmp_path / "scrambled").write_bytes(data)
    refused(tmp_path / "scrambled", "damaged or cut off")


def test_damage_within_a_zip_is_told_of_the_file(tmp_path):
    path = packed(tmp_path, "zip", {f"a/{i}.png": os.urandom(5000) for i in range(3)})
    data = bytearray(path.read_bytes())
    data[7000] ^= 255
    path.write_bytes(data)
    tree = open_tree(path)
    assert len(tree.read("a/0.png")) == 5000
    with pytest.raises(BrokenImage, match="cannot be read"):
        tree.read("a/1.png")


def test_members_beyond_the_cap_are_refused(tmp_path, monkeypatch):
    for module in (tar, zip):
        monkeypatch.setattr(module, "MAX_BYTES", 600)
    for kind in ("tar", "zip"):
        tree = open_tree(packed(tmp_path, kind))
        with pytest.raises(BrokenImage, match="600"):
            tree.read("a/x/1.png")
    tree = open_tree(packed(tmp_path, "tar.gz"))
    read = dict(tree.stream())  # the last one alone can still be read, but a cap is told before reading
    with pytest.raises(BrokenImage, match="more than 600"):
        read["a/x/1.png"]()
    monkeypatch.setattr(archives, "MAX_MEMBERS", 5)
    refused(packed(tmp_path, "tar"), "more than 5 files")


def test_a_folder_that_may_not_be_read_is_told(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    tree = open_tree(packed(tmp_path, "folder"))
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match="files/a cannot be read .Permission denied"):
        tree.inside("a")


def test_a_file_that_is_no_archive(tmp_path):
    for name, data in (("text", b"hello"), ("empty", b""), ("zeros", bytes(2000)), ("gz", b"\x1f\x8bnothing")):
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, "neither a folder nor|damaged or cut off")


def test_a_file_beyond_the_cap_in_a_folder_is_not_read(tmp_path):
    with open(tmp_path / "large.jpg", "wb") as file:
        file.truncate(1 << 41)  # a hole: no room is taken
    with pytest.raises(BrokenImage, match="more than"):
        open_tree(tmp_path).read("large.jpg")


def test_what_a_mac_adds_to_a_zip_is_not_there(tmp_path):
    path = tmp_path / "mac.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("pets/cat/1.png", "__MACOSX/pets/cat/._1.png", "__MACOSX/._pets"):
            archive.writestr(name, b"x")
    assert open_tree(path).folders() == ["pets"]


def test_the_texts_that_a_compressed_tar_keeps_have_a_cap_together(tmp_path, monkeypatch):
    monkeypatch.setattr(tar, "_ALL_TEXTS", 25)
    path = tmp_path / "texts.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for k in range(4):
            add(archive, f"{k}.txt", b"0123456789")
    tree = open_tree(path)
    assert tree.read("3.txt") == b"0123456789" and len(tree._texts) == 2
