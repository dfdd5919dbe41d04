"""What every network is: its model, recipe, updates and precision; and in which of these it is not the paper's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml

from invariance.data.sources.ilsvrc import ILSVRC
from invariance.data.sources.rvl_cdip import RVLCDIP
from invariance.reporting.figure import Figure
from invariance.reporting.rows import Collected, RunFacts
from invariance.reporting.table import GAP, Cell, Table
from invariance.settings.files import conf_dir

Captioned = TypeVar("Captioned", Figure, Table)

MODEL = "caffenet"
_IMAGES = {"ilsvrc": {"val": ILSVRC.VALIDATION}, "rvl_cdip": RVLCDIP.SIZES}
_NOT_COMPARED = {"model": ("groups",), "recipe": ("val_every",)}
"""Keys that do not make a network another than the paper's: CaffeNet is released with and without groups."""

_TOY = 0.01
"""Share of the paper's updates below which a study is called a toy."""

_GROUPS = 3
"""Differences that a caption tells apart; of more, how many there are."""


def noted(one: Captioned, note: str) -> Captioned:
    """A figure or table with a note at the end of its caption."""
    return replace(one, caption=f"{one.caption}{note}") if note else one


def networks(collected: Collected) -> Table | None:
    """Model, recipe, updates and precision of every network; None where no run says so."""
    header = ["network", "seed", "data", "model", "input", "recipe", "updates", "batch", "precision", "compiled"]
    lines = []
    for run, network, seed, data in _made(collected):
        held = run.config
        model, recipe = held.get("model") or {}, held["recipe"]
        row = [
            str(seed),
            data,
            _called("model", model, MODEL) if model else GAP,
            f"{model['input_size']} pixels" if "input_size" in model else GAP,
            _called("recipe", recipe, _recipe(run.name, data)),
            f"{recipe['updates']:,}",
            str(recipe.get("batch", GAP)),
            str(held.get("precision", GAP)),
            GAP if held.get("compile") is None else "yes" if held["compile"] else "no",
        ]
        first = Cell(network, {"network": network}, (run.name,))
        lines.append([first, *(Cell(text, {name: text}) for name, text in zip(header[1:], row, strict=True))])
    if not lines:
        return None
    caption = (
        "What the networks are, by the configurations of their runs: model, recipe (conf/recipe/, and what was set "
        "otherwise), updates, images a batch, precision, and whether they were compiled."
    )
    return Table.of("networks", caption, header, lines, worded=(2, 3, 4, 5, 8, 9))


def note(collected: Collected, data: str) -> str:
    """What to say in captions of a data set's networks that are not of the paper's recipe; "" where all are.

    Args:
        collected: the runs.
        data: the data set, as rows name it.
    """
    trained_on = data.partition("@")[0]
    groups: dict[str, list[str]] = {}
    toy = count = 0
    for run, network, seed, own in _made(collected):
        if own != trained_on or trained_on not in _IMAGES:
            continue
        count += 1
        if said := "; ".join(_differences(collected, run, own)):
            groups.setdefault(said, []).append(network if seed == 0 else f"{network} (seed {seed})")
            toy += _trained_by(run)["updates"] < _TOY * _option("recipe", _recipe(run.name, own))["updates"]
    if not groups:
        return ""
    of = " Toy scale, not the paper’s" if toy == count else " Not of the paper’s recipe"
    if len(groups) > _GROUPS:
        return f"{of}: {sum(map(len, groups.values()))} of {count} networks (see the table of networks)."
    whole = sum(map(len, groups.values())) == count and len(groups) == 1
    parts = [said if whole else f"{', '.join(names)}: {said}" for said, names in groups.items()]
    return f"{of}: {'. '.join(parts)}."


def _made(collected: Collected) -> list[tuple[RunFacts, str, int, str]]:
    """The runs that made a network and say how: with the network, its seed and its data set."""
    found = []
    rows = collected.rows[collected.rows["stage"].isin(["train", "finetune"])]
    firsts = rows.drop_duplicates("run")[["run", "network", "seed", "data"]]
    for name, network, seed, data in firsts.itertuples(index=False, name=None):
        run = collected.runs[name]
        if isinstance(_trained_by(run).get("updates"), int):
            found.append((run, str(network), int(seed), str(data)))
    return found


def _trained_by(run: RunFacts) -> dict[str, Any]:
    """The recipe of a run; empty where its configuration has none."""
    recipe = run.config.get("recipe")
    return recipe if isinstance(recipe, dict) else {}


def _differences(collected: Collected, run: RunFacts, data: str) -> list[str]:
    """In which ways a network of the paper's data is not the paper's."""
    found = []
    model, paper = run.config.get("model"), _option("model", MODEL)
    if isinstance(model, dict) and _different("model", model, paper):
        found.append(f"model {_called('model', model, MODEL)} at {model.get('input_size')} pixels, not {MODEL}")
    recipe, paper = _trained_by(run), _option("recipe", _recipe(run.name, data))
    for key in _different("recipe", recipe, paper):
        found.append(f"{key} {_told(recipe.get(key))}, not {_told(paper.get(key))}")
    rows = collected.rows[(collected.rows["run"] == run.name) & (collected.rows["g"] == "")]
    for split, count in rows.drop_duplicates("split")[["split", "n_images"]].itertuples(index=False, name=None):
        full = _IMAGES[data].get(split)
        if full is not None and 0 < count != full:
            found.append(f"{count:,} images of {split}, not {full:,}")
    return found


def _recipe(run: str, data: str) -> str:
    """The option that a run's recipe is told by: its data set's own where there is one."""
    own = f"finetune_{data}" if run.startswith("finetune/") else data
    other = "finetune_short" if run.startswith("finetune/") else "folder"
    return own if (conf_dir() / f"recipe/{own}.yaml").is_file() else other


def _called(group: str, held: Mapping[str, Any], base: str) -> str:
    """A model or recipe by its nearest option and what differs from it; by what it is where none is near."""
    names = [base, *sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))]
    differing = {name: _different(group, held, _option(group, name), every=True) for name in dict.fromkeys(names)}
    exact = next((name for name in differing if not differing[name]), None)
    if exact is not None:
        return exact
    name = base if len(differing[base]) < len(held) / 2 else min(differing, key=lambda one: len(differing[one]))
    if len(differing[name]) >= len(held) / 2:
        name, keys = str(held.get("_target_", "")).rpartition(".")[2] or "of its own", [k for k in held if k[0] != "_"]
    else:
        keys = differing[name]
    return ", ".join([name, *(f"{key} {_told(held.get(key))}" for key in keys if key != "input_size")])


def _different(group: str, held: Mapping[str, Any], option: Mapping[str, Any], *, every: bool = False) -> list[str]:
    """The keys in which a configuration is not an option's; what an option takes from elsewhere cannot differ."""
    passed = () if every else _NOT_COMPARED[group]
    keys = [key for key in dict.fromkeys([*option, *held]) if key not in passed]
    return [key for key in keys if not str(option.get(key)).startswith("${") and held.get(key) != option.get(key)]


@cache
def _option(group: str, name: str) -> dict[str, Any]:
    """An option of a group as its file has it."""
    held = yaml.safe_load(Path(conf_dir() / group / f"{name}.yaml").read_text(encoding="utf-8"))
    return {key: value for key, value in held.items() if key != "defaults"} if isinstance(held, dict) else {}


def _told(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
