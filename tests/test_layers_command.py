"""`invariance-layers`: what a network's layers are, as a table."""

import sys

import pandas as pd
import pytest
import torch

from invariance.experiments.layers import layers
from invariance.layers import main
from invariance.models.layers import COLUMNS, list_layers
from tests.given_networks import model

OF = "model.name=tests.given_networks:"


@pytest.fixture
def listed(compose, tmp_path, capsys):
    """What the command prints, line by line."""

    def lines(*overrides):
        layers(compose("layers", f"prepared={tmp_path}/prepared", "progress=false", *overrides))
        return capsys.readouterr().out.splitlines()

    return lines


def test_a_listing_is_plain_where_it_is_piped(listed):
    first, images, header, *rest = listed("model=function", f"{OF}model")
    assert (
        first.startswith("function/tests.given_networks:model (weights ")
        and "size 17; (x / 255 − [0.3]) / [0.4]" in first
    )
    assert images == "images: noise, 17 × 17"
    assert header.split() == ["layer", "runs", "shape", "layout", "D", "bypass", "remark"]
    assert [line.split()[0] for line in rest] == ["stem", "relu", "inner", "pool", "head", "logits", "idle"]
    assert rest[0].split()[1:8] == ["1", "3", "×", "4", "×", "4", "(B,"]
    assert rest[-1].endswith(
        "cannot be measured: is not run by the network's forward pass, or by fused code that passes its module by; the "
        "nearest that can be measured is head"
    )


def test_patterns_auto_and_images_choose_what_is_listed(listed):
    of = ["model=function", f"{OF}model"]
    assert [line.split()[0] for line in listed(*of, "layers=[stem,'[hi]*']", "bypass=false")[3:]] == [
        "stem",
        "inner",
        "head",
        "idle",
    ]
    assert [line.split()[0] for line in listed(*of, "layers=auto")[3:]] == ["relu", "pool", "head"]
    assert listed(*of, "data=digits", "layers=head")[1] == "images: digits (test), warped to 17 × 17"


def test_the_csv_is_what_python_gives(listed, tmp_path):
    listed("model=function", f"{OF}model", f"csv={tmp_path}/layers.csv")
    written = pd.read_csv(tmp_path / "layers.csv")
    expected = list_layers(model())
    assert list(written.columns) == list(COLUMNS) and written["layer"].tolist() == expected["layer"].tolist()
    assert written["bypass"].round(6).equals(expected["bypass"].round(6))


def test_a_terminal_gets_a_table(listed, monkeypatch):
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    shown = "\n".join(listed("model=function", f"{OF}model"))
    assert "─" in shown and "head" in shown


def test_a_network_that_was_trained_here_is_listed_too(trained, listed):
    folder, _ = trained
    first, *rest = listed("model=run", f"model.name={folder}/runs/train/digits/baseline/seed0", "layers=relu7")
    assert first.startswith("run/") and rest[-1].split()[:2] == ["relu7", "1"]


def test_mean_and_std_are_given_to_a_module(listed):
    first, *_ = listed(
        "model=function", f"{OF}module", "model.size=17", "model.preprocess={mean: [0.5], std: [0.25]}", "bypass=false"
    )
    assert "(x / 255 − [0.5]) / [0.25]" in first


def test_a_source_from_outside_the_package_is_one(listed):
    first, *_ = listed("model=tests.given_networks:source", "model.name='3'", "bypass=false")
    assert first.startswith("tests.given_networks:source/3 ")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "model"),
        (["model=timmm"], "there is no such model"),
        (["model=function"], "model.name is not set"),
        (["model=small"], "listed by model=run then"),
        (["model=function", f"{OF}nothing"], "has no nothing"),
        (["model=function", "model.name=nowhere_at_all:network"], "cannot be imported"),
        (["model=function", f"{OF}broken"], "the function failed with RuntimeError (no weights here)"),
        (["model=function", f"{OF}module"], "preprocess= is missing"),
        (["model=function", f"{OF}model", "model.size=32"], "has its own size"),
        (["model=function", f"{OF}sizeless"], "model.size=224"),
        (["model=function", f"{OF}model", "layers=haed"], "no layer matches"),
        (["model=function", f"{OF}model", "layers=[]"], "layers"),
        (["model=function", f"{OF}model", "bypass=maybe"], "bypass"),
        (["model=function", f"{OF}model", "csv=/dev/null/x"], "csv=/dev/null/x"),
        (["model=function", f"{OF}colour", "data=digits", "prepared=/tmp", "progress=false"], "data.colour=rgb"),
        (["model=run", "model.name=runs/train/nothing"], "there is no such folder"),
        (["model=function", f"{OF}model", "model.label=a/b"], "model.label"),
        (["model=function", f"{OF}model", "model.preprocess={mean: [0.5]}"], "model.preprocess.std"),
    ],
)
def test_what_does_not_serve_is_one_line(given, said, mistake, tmp_path):
    given = [one.replace("prepared=/tmp", f"prepared={tmp_path}/.prepared") for one in given]
    assert said in mistake("layers", *given)


def test_the_command_ends_well(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["invariance-layers", "model=function", f"{OF}model", "layers=head"])
    main()
    assert capsys.readouterr().out.splitlines()[-1].startswith("head")
    assert torch.is_grad_enabled()
