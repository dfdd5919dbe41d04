"""Every place for results is looked at before the work that makes them."""

import argparse
import os

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
        ("train", ["runs=/dev/null/x"], "runs=/dev/null/x/train/digits/baseline/seed0: /dev/null is no folder"),
    ],
)
def test_a_command_refuses_it_first(page, arguments, said, mistake):
    assert said in mistake(page, *arguments)
