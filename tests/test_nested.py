"""What explodes when it is read: one line, before anything is made of it."""

import importlib
import sys

import pytest

from invariance.errors import UserError
from invariance.runs.facts import read_config, read_provenance
from invariance.settings.nested import DEEPEST, LONGEST, check_value, check_yaml, load_json

LAUGHS = "a0: &a0 [lol]\n" + "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 12))
DEEP = "grid: " + "[" * 3000 + "]" * 3000 + "\n"
ITSELF = "name: &a [*a]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "over 100000 values, aliases written out"),
        (DEEP, "line 1: nested more than 50 deep"),
        (ITSELF, "line 1: \\*a names what it stands in"),
        ("x: &b {y: {z: *b}}\n", "names what it stands in"),
        ("- " * 3000 + "x\n", "nested more than 50 deep"),
    ],
)
def test_yaml_that_explodes_is_refused(text, said):
    with pytest.raises(UserError, match=said):
        check_yaml(text, "mine.yaml")


def test_yaml_that_does_not_passes():
    check_yaml("a: &a {x: [1, 2]}\nb: *a\nc: [*a, *a]\n", "mine.yaml")
    check_yaml("a: " + "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1), "mine.yaml")
    check_yaml("recipe: {updates: 3\n", "mine.yaml")  # whoever loads it says where


@pytest.mark.parametrize("text", [LAUGHS, DEEP, ITSELF])
def test_a_template_that_explodes_is_one_line(text, tmp_path, monkeypatch, capfd):
    (tmp_path / "mine.yaml").write_text("defaults: [train]\n" + text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    for more in ([], ["-m", "seed=0,1"]):
        monkeypatch.setattr(sys, "argv", ["", *more, "--config-dir", ".", "--config-name", "mine"])
        with pytest.raises(SystemExit) as end:
            importlib.import_module("invariance.train").main()
        assert end.value.code == 2
        [line] = capfd.readouterr().err.splitlines()
        assert line.startswith("error: ") and "mine.yaml, line " in line


def test_a_value_that_explodes_is_one_line(monkeypatch, capfd):
    check_value("grid={rotation: {angles: [-90, 90]}}")
    for value in ("[" * 3000 + "]" * 3000, "{a: " * 60 + "1" + "}" * 60, "[" + "1," * LONGEST + "1]"):
        monkeypatch.setattr(sys, "argv", ["", f"grid={value}"])
        with pytest.raises(SystemExit) as end:
            importlib.import_module("invariance.measure").main()
        assert end.value.code == 2
        [line] = capfd.readouterr().err.splitlines()
        assert line.startswith("error: grid=… ") and len(line) < 200


def test_files_of_a_run_that_explode_are_damaged(tmp_path):
    deep = "[" * 100_000
    with pytest.raises(ValueError, match="nested too deeply"):
        load_json(deep)
    (tmp_path / "provenance.json").write_text(deep)
    for text in (LAUGHS, DEEP, ITSELF):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(UserError, match="config.yaml is damaged"):
            read_config(tmp_path)
    with pytest.raises(UserError, match="provenance.json is damaged"):
        read_provenance(tmp_path)
