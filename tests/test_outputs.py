"""Every place for results is looked at before the work that makes them."""

import argparse
import importlib
import os
import shutil

import pytest

from invariance.errors import UserError
from invariance.runs.outputs import output_file, require_writable


def test_what_stands_in_the_way_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, is_file, why in [
        ("file/x", False, "is no folder"),
        ("file", False, "is no folder"),
        ("file/x", True, "is no folder"),
        ("loop/x", False, "is no folder"),
        (".", True, "a folder stands where a file is to be written"),
    ]:
        with pytest.raises(UserError, match=f"out={tmp_path / path}: .*{why}"):
            require_writable(tmp_path / path, "out", is_file=is_file)
    for path, is_file in [("", False), ("a/b/c", False), ("a/b.json", True), ("file", True)]:
        require_writable(tmp_path / path, "out", is_file=is_file)
    monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path)
    with pytest.raises(UserError, match=f"may not write in {tmp_path}; choose another place"):
        require_writable(tmp_path / "a/b", "out")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "loop"}


def test_a_script_s_argument_is_looked_at(tmp_path):
    assert output_file(str(tmp_path / "a.json")) == tmp_path / "a.json"
    with pytest.raises(argparse.ArgumentTypeError, match="a folder stands"):
        output_file(str(tmp_path))


@pytest.mark.parametrize(
    ("page", "arguments", "said"),
    [
        ("plan", ["json=/dev/null/x.json"], "json=/dev/null/x.json: /dev/null is no folder"),
        ("plan", ["json=."], "json=.: a folder stands"),
        ("report", ["out=/dev/null"], "out=/dev/null: /dev/null is no folder"),
        ("dashboard", ["save=/dev/null/x"], "save=/dev/null/x: /dev/null is no folder"),
        ("prepare", ["prepared=/dev/null/x"], "prepared=/dev/null/x/digits: /dev/null is no folder"),
        ("train", ["prepared=/dev/null/x"], "prepared=/dev/null/x/digits: /dev/null is no folder"),
        ("train", ["runs=/dev/null/x"], "runs=/dev/null/x/train/digits/baseline/seed0: /dev/null is no folder"),
    ],
)
def test_a_command_refuses_it_first(page, arguments, said, mistake):
    assert said in mistake(page, *arguments)


def closed(monkeypatch, *folders):
    """Folders in which nobody may write."""
    there = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: not (mode & os.W_OK and str(path).startswith(folders)) and there(path, mode)
    )


def place_of(trained, tmp_path):
    folder, places = trained
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy", [text.replace(str(folder), str(tmp_path / "copy")) for text in places]


@pytest.mark.parametrize(
    ("page", "options"),
    [
        ("measure", ["networks=baseline", "grids=[mirror]"]),
        ("finetune", ["networks=rotation_20", "recipe=finetune_smoke"]),
        ("distance", ["solver=ridge"]),
    ],
)
def test_runs_that_cannot_be_written_are_refused_before_any_pass(
    page, options, trained, tmp_path, monkeypatch, compose
):
    folder, places = place_of(trained, tmp_path)
    closed(monkeypatch, str(folder / "runs"))
    monkeypatch.setattr("invariance.models.cut.Cut.phi", None)
    options += [f"features={tmp_path}/features"] if page == "distance" else []
    experiment = getattr(importlib.import_module(f"invariance.experiments.{page}"), page)
    with pytest.raises(UserError, match=f"runs={folder}/runs/{page}.*may not write"):
        experiment(compose(page, *places, *options))


def test_what_is_finished_may_lie_where_nobody_writes(trained, tmp_path, monkeypatch, compose, capsys):
    from invariance.experiments.measure import measure

    folder, places = place_of(trained, tmp_path)
    config = compose("measure", *places, "networks=baseline", "grids=[mirror]", "map=identity")
    measure(config)
    closed(monkeypatch, str(folder))
    measure(config)
    assert "finished already" in capsys.readouterr().out


def test_prepared_that_cannot_be_written_is_refused_before_decoding(tmp_path, monkeypatch, compose):
    from invariance.data.prepared import prepare

    data = compose("prepare")["data"]
    prepare(data, 16, tmp_path, progress=False)
    closed(monkeypatch, str(tmp_path))
    prepare(data, 16, tmp_path, progress=False)
    with pytest.raises(UserError, match=f"prepared={tmp_path}/digits: this user may not write"):
        prepare(data, 20, tmp_path, progress=False)
