"""Archives made to mislead: each is read right or refused in one line, and no header is read that is too large."""

import gc
import gzip
import io
import os
import resource
import struct
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image

from invariance.data import zip as zips
from invariance.data.archives import open_tree
from invariance.data.decode import BrokenImage
from invariance.data.left_out import lines_of
from invariance.data.sources.folder import Folder
from invariance.data.tar_headers import BadTar, members
from invariance.errors import UserError


def png(value=0):
    file = io.BytesIO()
    Image.fromarray(np.full((5, 7), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def header(name="a/1.png", size=0, kind=b"0", **fields):
    """A tar header of 512 bytes with a right sum; numbers may be given as bytes."""
    block = bytearray(512)
    block[: len(name)] = name.encode() if isinstance(name, str) else name
    block[124:136] = size if isinstance(size, bytes) else b"%011o\0" % size
    block[156:157], block[257:265] = kind, b"ustar\x0000"
    for at, value in fields.items():
        place = int(at.removeprefix("at"))
        block[place : place + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data):
    return data + bytes(-len(data) % 512)


END = bytes(1024)


def tar_of(path, *parts, compressed=False):
    data = b"".join(parts)
    path.write_bytes(gzip.compress(data) if compressed else data)
    return path


def add(packed, name, data=b"x", **changes):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, value in changes.items():
        setattr(member, key, value)
    packed.addfile(member, io.BytesIO(data))


def refused(path, match, nested=False):
    with pytest.raises(UserError, match=match) as caught:
        open_tree(path, nested).index()
    assert "\n" not in str(caught.value) and str(caught.value).isprintable() and len(str(caught.value)) < 600


def pax(**fields):
    lines = b""
    for key, value in fields.items():
        rest = b" " + key.replace("__", ".").encode() + b"=" + value + b"\n"
        length = len(rest)
        while len(str(length)) + len(rest) != length:
            length = len(str(length)) + len(rest)
        lines += str(length).encode() + rest
    return lines


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"X", b"g"])
def test_a_header_of_6_gb_is_not_read(tmp_path, kind):
    path = tmp_path / "large.tar"
    with open(path, "wb") as file:
        file.write(header("././@LongLink", 6 << 30, kind))
        file.truncate(512 + (6 << 30) + 2048)  # a hole: no room is taken
    tracemalloc.start()
    try:
        refused(path, "a header of 6,442,450,944 bytes")
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()
    path = tar_of(tmp_path / "large.tar.gz", header("x", 6 << 30, kind), bytes(4096), compressed=True)
    refused(path, "a header of 6,442,450,944 bytes")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    "parts,match",
    [
        ([header(size=b"\xff" * 12)], "number below 0"),
        ([header(size=b"\x80" + b"\x7f" * 11)], "beyond any size"),
        ([header(size=b"-0000000001\0")], "number below 0"),
        ([header(size=b"12abc\0\0\0\0\0\0\0")], "with the number b'12abc'"),
        ([header("././@LongLink", b"\xff" * 12, b"L")], "number below 0"),
        ([header(size=9 << 40)], "cut off within 'a/1.png'|without an end"),
        ([header(b"a/1.png\0.exe")], "a NUL in it"),
        ([header("x", 18, b"L"), padded(b"a/1.png\0other.png\0"), header()], "unsafe path"),
        ([header("x", 5000, b"L"), padded(b"a" * 5000), header()], "a name of 5,000 letters"),
        ([header("x", 20, b"x"), padded(b"20 path=a\0b/1.png   \n"), header()], "none|unsafe path"),
        ([header("x", len(pax(size=b"-5")), b"x"), padded(pax(size=b"-5")), header()], "size b'-5'"),
        ([header("x", len(pax(size=b"1e3")), b"x"), padded(pax(size=b"1e3")), header()], "size b'1e3'"),
        ([header("x", len(pax(path=b"a")), b"g"), padded(pax(path=b"a")), header()], "for all files that names one"),
        ([header("x", 9, b"x"), padded(b"0 path=a\n"), header()], "an extended header that is none"),
        (
            [header("x", 9, b"x"), padded(b"99999999999999999999999 a=b\n"[:9]), header()],
            "extended header that is none",
        ),
        (
            [header("x", len(pax(GNU__sparse__major=b"1")), b"x"), padded(pax(GNU__sparse__major=b"1")), header()],
            "holes",
        ),
        ([header("x", 2, b"L"), padded(b"a\0")] * 20 + [header()], "headers without end"),
        ([header(kind=b"S")], "a special file"),
        ([header(kind=b"1", at157=b"/etc/passwd")], "'a/1.png', a link"),
        ([header(kind=b"2", at157=b"1.png")], "'a/1.png', a link"),
        ([header(kind=b"V")], "a special file"),
        ([header("/a/1.png")], "unsafe path"),
        ([header("a/../../1.png")], "unsafe path"),
        ([header("a/1.png"), header("a", kind=b"5"), header("a/1.png/2.png")], "as a file and as a folder"),
        ([header("a/1.png"), END, header("b/1.png")], "another tar begins behind its end"),
        ([header("a/1.png"), END, bytes(10240 - 1536), header("b/1.png")], "another tar begins behind its end"),
    ],
)
def test_headers_that_mislead_are_refused(tmp_path, parts, match, compressed):
    refused(tar_of(tmp_path / "bad", header("first.png"), *parts, END, compressed=compressed), match)


def test_a_tar_of_every_form_is_read_as_tarfile_reads_it(tmp_path):
    long = ["c/" + "n" * 90 + "/" + "m" * 90 + ".png", "e/" + "o" * 300]
    names = ["a/1.png", "./b//2.png", "d/ü\udcff.png", "f\\g/1\r.png", *long]
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / f"{form}.tar"
        given = names if form != tarfile.USTAR_FORMAT else [name for name in names if len(name) < 255]
        with tarfile.open(path, "w", format=form) as packed:
            add(packed, "a", type=tarfile.DIRTYPE, data=b"")
            for k, name in enumerate(given):
                add(packed, name, bytes([k]) * (300 * k), mtime=1e9 + 0.5, uid=3_000_000 * (form > 0), mode=0o600)
        tree = open_tree(path)
        read = {name: tree.read(name) for name, _ in tree.walk()}
        with tarfile.open(path) as packed:
            files = [member for member in packed.getmembers() if member.isfile()]
            known = {m.name.removeprefix("./").replace("//", "/"): packed.extractfile(m).read() for m in files}
        assert read == known and len(read) == len(given)


def test_an_old_tar_is_read(tmp_path):
    block = bytearray(header("old/1.png", 3, b"\0"))
    block[257:265] = bytes(8)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    folder = bytearray(header("old/", 0, b"\0"))
    tree = open_tree(tar_of(tmp_path / "old", bytes(block), padded(b"abc"), bytes(folder), END))
    assert tree.read("old/1.png") == b"abc" and tree.folders() == ["old"]


def test_a_size_of_its_own_in_an_extended_header_counts(tmp_path):
    fields = pax(size=b"600", path="b/ü.png".encode())
    parts = header("x", len(fields), b"x"), padded(fields), header(size=0), padded(b"z" * 600), header("c/2.png"), END
    tree = open_tree(tar_of(tmp_path / "sized", *parts))
    assert tree.read("b/ü.png") == b"z" * 600 and tree.folders() == ["b", "c"]


def test_headers_are_bounded_in_memory_whatever_their_number():
    file = io.BytesIO(b"".join([header("x", 1 << 19, b"g"), bytes(1 << 19)] * 20))
    with pytest.raises(BadTar, match="extended header that is none"):
        list(members(file))
    assert file.tell() <= 2 << 20


def test_two_tars_of_one_stem_are_refused(tmp_path):
    inner = header("1.png") + END
    for first, second in (("n01.tar", "./n01.tar"), ("n01/x.png", "n01.tar"), ("n01.tar", "n01.tar")):
        parts = [header(first, len(inner)), padded(inner), header(second, len(inner)), padded(inner), END]
        refused(tar_of(tmp_path / "outer.tar", *parts), "holds 'n01' twice", nested=True)
    refused(tar_of(tmp_path / "nul.tar", header(b"n01\0.tar", 0), END), "a NUL in it", nested=True)


def test_a_tar_that_nobody_holds_any_more_is_closed_without_a_warning(tmp_path, recwarn):
    path = tar_of(tmp_path / "plain.tar", header("x", 3), padded(b"abc"), END)
    tree = open_tree(path)
    assert tree.read("x") == b"abc"
    opened = f"/proc/self/fd/{tree._file}"
    assert os.readlink(opened) == str(path)
    del tree
    gc.collect()
    assert not os.path.exists(opened) or os.readlink(opened) != str(path)
    assert not [one for one in recwarn if one.category is ResourceWarning]


def test_tars_deeper_than_one_are_files(tmp_path):
    inner = header("1.png") + END
    middle = header("deep.tar", len(inner)) + padded(inner) + END
    path = tar_of(tmp_path / "outer.tar", header("n01.tar", len(middle)), padded(middle), END)
    assert [name for name, _ in open_tree(path, nested=True).walk()] == ["n01/deep.tar"]


def test_a_tar_in_a_tar_that_is_larger_than_its_place_is_refused(tmp_path):
    inner = header("1.png", 5000) + END
    path = tar_of(tmp_path / "outer.tar", header("n01.tar", len(inner)), padded(inner), bytes(9000))
    refused(path, "cut off within '1.png'", nested=True)


def pets(write, prefix="pets/", extra=()):
    for name in ("cat", "dog"):
        for i in range(4):
            write(f"{prefix}{name}/{i}.png", png(i))
    for name, data in extra:
        write(name, data)


def left(splits):
    return lines_of(splits.left_out.as_json())


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_stray_files_beside_the_one_folder_change_no_layout(tmp_path, kind):
    extra = [("readme.txt", b"x"), ("._pets", b"x"), ("in/notes.md", b"x"), ("in/pets/cat/deep/1.png", b"x")]
    path = tmp_path / f"packed.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as packed:
            pets(packed.writestr, "in/pets/", extra)
    else:
        with tarfile.open(path, "w:" + kind[4:]) as packed:
            pets(lambda name, data: add(packed, name, data), "in/pets/", extra)
    splits = Folder(str(path)).splits()
    assert splits.classes == ["cat", "dog"] and sum(map(len, splits.listings.values())) == 8
    assert sorted(left(splits)) == [
        "1 file deeper than <class>/*: in/pets/cat/deep/ (1 file)",
        "1 file hidden (a name that begins with a dot): ._pets",
        "2 files beside the folder that holds the rest: readme.txt, in/notes.md",
    ]


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_splits_and_files_without_suffix_within_the_one_folder(tmp_path, kind):
    path = tmp_path / f"packed.{kind}"
    names = {f"pets/{split}/{name}/{i}": png(i) for split in ("Train", "TEST") for name in ("a", "b") for i in range(5)}
    names |= {"pets/Train/a/notes": b"no image", "pets/Train/a/zero": b"", "pets/Train/a/more.zip": b"PK"}
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as packed:
            for name, data in names.items():
                packed.writestr(name, data)
    else:
        with tarfile.open(path, "w:" + kind[4:]) as packed:
            for name, data in names.items():
                add(packed, name, data)
    splits = Folder(str(path)).splits()
    assert [len(listing) for listing in splits.listings.values()] == [8, 2, 10] and len(left(splits)) == 3
    assert splits.listings["test"].read(3) == png(3)


def test_classes_that_read_the_same_in_an_archive_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as packed:
        pets(packed.writestr, "", [("Cat/1.png", png())])
    with pytest.raises(UserError, match="'Cat' and 'cat', which read the same"):
        Folder(str(tmp_path / "p.zip")).splits()


def test_an_empty_class_folder_of_an_archive_is_seen_as_on_a_disk(tmp_path):
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as packed:
        pets(packed.writestr, "", [("owl/", b"")])
    with pytest.raises(UserError, match="class 'owl' is empty"):
        Folder(str(tmp_path / "p.zip")).splits()


def windows(name, **changes):
    info = zipfile.ZipInfo(name)
    info.create_system = 0
    for key, value in changes.items():
        setattr(info, key, value)
    return info


def test_backslashes_in_a_zip_are_folders_where_its_maker_means_them(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as packed:
        pets(lambda name, data: packed.writestr(windows(name.replace("/", "\\")), data))
        packed.writestr(windows("pets\\empty\\"), b"")
    tree = open_tree(tmp_path / "w.zip")
    assert tree.folders("pets") == ["cat", "dog", "empty"] and tree.read("pets/dog/2.png") == png(2)
    with zipfile.ZipFile(tmp_path / "u.zip", "w") as packed:
        packed.writestr("a\\b/1.png", b"x")
    assert open_tree(tmp_path / "u.zip").folders() == ["a\\b"]
    for name in ("..\\1.png", "\\1.png", "a\\..\\..\\1.png"):
        with zipfile.ZipFile(tmp_path / "bad.zip", "w") as packed:
            packed.writestr(windows(name), b"x")
        refused(tmp_path / "bad.zip", "unsafe path")


def test_a_nul_in_a_zip_s_name_is_refused(tmp_path):
    path = tmp_path / "nul.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("a/1_png", b"x")
    path.write_bytes(path.read_bytes().replace(b"a/1_png", b"a/1\0png"))
    refused(path, "unsafe path")


def test_two_zips_in_one_file_are_refused(tmp_path):
    for name in "ab":
        with zipfile.ZipFile(tmp_path / name, "w") as packed:
            packed.writestr(f"{name}/1.png", b"x")
    (tmp_path / "both").write_bytes((tmp_path / "a").read_bytes() + (tmp_path / "b").read_bytes())
    refused(tmp_path / "both", "begins with files that its list does not name")


class OneWay(io.RawIOBase):
    """A file that cannot be sought, to which a zip is written with descriptors behind its data."""

    def __init__(self):
        self.data = b""

    def writable(self):
        return True

    def write(self, data):
        self.data += bytes(data)
        return len(data)


def test_descriptors_and_zip64_are_read(tmp_path, monkeypatch):
    file = OneWay()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        with packed.open("a/1.png", "w", force_zip64=True) as member:
            member.write(b"descriptor" * 99)
    (tmp_path / "d.zip").write_bytes(file.data)
    assert open_tree(tmp_path / "d.zip").read("a/1.png") == b"descriptor" * 99
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 20)
    with zipfile.ZipFile(tmp_path / "64.zip", "w") as packed:
        packed.writestr("a/1.png", b"x" * 99)
    assert b"PK\x06\x06" in (tmp_path / "64.zip").read_bytes()
    monkeypatch.undo()
    assert open_tree(tmp_path / "64.zip").read("a/1.png") == b"x" * 99


def test_a_zip_s_list_that_is_too_long_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "long.zip"
    length = 3 << 30
    with open(path, "wb") as file:
        file.write(b"PK\x03\x04")
        file.seek(length)
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, length, 0, 0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path, "list of files has 3,221,225,472 bytes")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1e5  # kB
    monkeypatch.setattr(zips, "_LONGEST_LIST", 20)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("a/1.png", b"x")
    refused(tmp_path / "a.zip", "list of files has")


def test_encrypted_and_lying_entries_of_a_zip(tmp_path, monkeypatch):
    path = tmp_path / "locked.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("a/1.png", b"x" * 50)
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 8] |= 1
    path.write_bytes(data)
    refused(path, "'a/1.png' encrypted")
    monkeypatch.setattr(zips, "MAX_BYTES", 5000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a/1.png", bytes(10**6))
    with pytest.raises(BrokenImage, match="more than 5,000 bytes"):
        open_tree(tmp_path / "bomb.zip").read("a/1.png")


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_scrambled_archives_are_read_or_refused_in_one_line(tmp_path, kind, seed):
    rng, path = np.random.default_rng(seed), tmp_path / "scrambled"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            pets(packed.writestr)
    else:
        with tarfile.open(path, "w", format=seed % 3) as packed:
            pets(lambda name, data: add(packed, name, data))
    data = bytearray(path.read_bytes())
    for at in rng.integers(0, len(data), rng.integers(1, 40)):
        data[at] = rng.integers(0, 256)
    path.write_bytes(data)
    try:
        tree = open_tree(path)
        for name, _ in tree.walk():
            tree.start(name)
    except UserError as error:
        assert "\n" not in str(error)
