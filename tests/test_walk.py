"""Looking for runs: by links, past loops, and saying what could not be looked into."""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from invariance.errors import UserError
from invariance.experiments.status import status
from invariance.runs.find import find_runs, walk
from invariance.runs.sweep import begin_sweep, sweep_folder
from invariance.runs.watch import unseen_sweeps


def run_at(path):
    path.mkdir(parents=True)
    for name in ("config.yaml", "provenance.json"):
        (path / name).write_text("{}")
    (path / "done.json").write_text('{"rows": 0}')


def names(found, root):
    return [path.relative_to(root).as_posix() for path in found.runs]


@pytest.fixture
def place():
    """A folder that any user may look into."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@contextmanager
def a_user():
    """What a user sees, for whom permissions hold."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def closed(*paths, mode=0):
    """Folders or files that a user may not look into."""
    for path in paths:
        path.chmod(mode)
    try:
        with a_user():
            yield
    finally:
        for path in paths:
            path.chmod(0o755)


def test_linked_folders_are_followed_once_each_and_loops_are_none(place):
    root = place / "runs"
    run_at(root / "train/digits/a/seed0")
    run_at(place / "elsewhere/digits/b/seed0")
    (root / "train/digits/b").symlink_to(place / "elsewhere/digits/b")
    (root / "measure").symlink_to(place / "far/measure")
    run_at(place / "far/measure/digits/a")
    (place / "far/measure/digits/back").symlink_to(root)  # and from there to everything again
    for name, target in (("again", "a"), ("itself", "."), ("parent", ".."), ("root", root), ("above", place)):
        (root / "train/digits" / name).symlink_to(target)
    found = walk(root)
    assert names(found, root) == ["measure/digits/a", "train/digits/a/seed0", "train/digits/b/seed0"]
    assert not found.unseen
    linked = root / "train/digits/b/seed0"
    assert find_runs(root / "train", "b") == find_runs(root / "train", str(linked)) == [linked]
    (place / "way").symlink_to(root)
    assert names(walk(place / "way"), place / "way") == names(found, root)
    assert find_runs(place / "way/train", str(root / "train/digits/a/seed0")) == [place / "way/train/digits/a/seed0"]


def test_links_that_lead_nowhere_are_named(place):
    (place / "loop").symlink_to("loop")
    (place / "gone").symlink_to(place / "far")
    found = walk(place)
    assert [(one.path.name, one.why) for one in found.unseen] == [
        ("gone", "a link to nothing"),
        ("loop", "too many levels of symbolic links"),
    ]


def test_links_of_wandb_are_its_own(place):
    run_at(place / "a")
    (place / "a/wandb/run-1/files").mkdir(parents=True)
    (place / "a/wandb/run-1/files/config.yaml").touch()
    (place / "a/wandb/latest-run").symlink_to("run-1")
    (place / "a/wandb/debug.log").symlink_to("run-1/gone.log")
    assert names(walk(place), place) == ["a"] and not walk(place).unseen


@pytest.mark.parametrize("mode", [0, 0o444, 0o111])
def test_folders_of_others_are_named_and_nothing_is_said_to_be_absent(place, capsys, mode):
    root = place / "train"
    run_at(root / "digits/theirs/seed0")
    run_at(root / "digits/ours/seed0")
    with closed(root / "digits/theirs/seed0", mode=mode):
        found = walk(root)
        assert names(found, root) == ["digits/ours/seed0"]
        assert [str(one) for one in found.unseen] == [f"{root}/digits/theirs/seed0 (permission denied)"]
        assert find_runs(root, "*") == [root / "digits/ours/seed0"]
        assert capsys.readouterr().err == f"left out, cannot be looked into: {found.unseen[0]}\n"
        with pytest.raises(UserError, match=r"named 'theirs'.*there are: digits/ours/seed0.*looked into: .*seed0"):
            find_runs(root, "theirs")
    with closed(root / "digits"), pytest.raises(UserError) as caught:
        find_runs(root, "*")
    assert "none at all" not in str(caught.value) and "none that can be seen" in str(caught.value)
    assert f"{root}/digits (permission denied)" in str(caught.value)


def test_a_link_into_another_users_folder_is_named(place):
    run_at(place / "theirs/digits/a")
    (place / "train").mkdir()
    (place / "train/digits").symlink_to(place / "theirs/digits")
    with closed(place / "theirs"):
        assert [str(one) for one in walk(place / "train").unseen] == [f"{place}/train/digits (permission denied)"]


def test_a_file_where_the_runs_should_be_is_said(tmp_path):
    (tmp_path / "train").write_text("")
    with pytest.raises(UserError, match="none that can be seen.*train .not a directory"):
        find_runs(tmp_path / "train", "*")
    with pytest.raises(UserError, match="none at all; run invariance-train first"):
        find_runs(tmp_path / "nowhere", "*")


def test_status_names_what_it_cannot_look_into(place, capsys):
    run_at(place / "train/digits/a/seed0")
    for jobs in (["a"], ["b"], ["c"]):
        begin_sweep(sweep_folder(place, "train", jobs), jobs)
    damaged, locked, whole = (sweep_folder(place, "train", [name]) for name in "abc")
    (damaged / "jobs.json").write_text("[")
    (whole / "attempts").mkdir()
    with closed(place / "train/digits", locked, whole / "attempts"):
        told = {str(one.path.relative_to(place / ".sweeps/train")): one.why for one in unseen_sweeps(place)}
        status({"runs": str(place), "every": None, "progress": True, "seal": False})
    assert told == {
        f"{damaged.name}/jobs.json": "damaged; the sweep's command writes it anew",
        f"{locked.name}/jobs.json": "permission denied",
        f"{whole.name}/attempts": "permission denied",
    }
    said = capsys.readouterr().out
    assert f"cannot be looked into: {place}/train/digits (permission denied)" in said and "nothing in" not in said
    assert said.count("cannot be looked into") == 4


def test_a_file_that_vanishes_meanwhile_hides_no_run(place, monkeypatch):
    for name in ("a", "b/c"):
        run_at(place / "train" / name)
    lstat = os.lstat

    def gone(path, *args, **options):
        if Path(path).name == ".lock":  # first of all names, as a temporary file's is
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return lstat(path, *args, **options)

    for folder in (place, place / "train", place / "train/a"):
        (folder / ".lock").touch()
    monkeypatch.setattr("invariance.runs.find.os.lstat", gone)
    found = walk(place)
    assert names(found, place) == ["train/a", "train/b/c"]
    assert not found.unseen
