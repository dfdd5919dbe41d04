"""Whether rows belong to the run in whose folder they lie: its place, and what its configuration says."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from invariance.errors import UserError
from invariance.runs.facts import CONFIG, ROWS
from invariance.runs.places import is_given, layer_folder
from invariance.runs.rows import OF_CONTROL

_Wanted = tuple[str, "pd.Series[Any]", object, str]
"""A column, its values as they are compared, what all of them have to be, and what says so."""


def check_belonging(directory: Path, config: Mapping[str, Any], rows: pd.DataFrame) -> None:
    """Refuse rows that are another run's.

    Args:
        directory: the run's folder.
        config: the configuration that it holds; what it does not say is not compared.
        rows: the rows that it holds.

    Raises:
        UserError: naming the first value that differs.
    """
    if rows.empty:
        return
    for column, values, wanted, source in (*_by_place(directory, rows), *_by_config(config, rows)):
        if wanted is None:
            continue
        if isinstance(wanted, set):
            wrong = ~values.isin(wanted)
        else:  # no value is a list or a mapping, which a damaged configuration may hold
            wrong = values != (str(wanted) if isinstance(wanted, list | Mapping) else wanted)
        if wrong.any():
            told = " or ".join(sorted(map(str, wanted))) if isinstance(wanted, set) else wanted
            raise UserError(
                f"{directory / ROWS} is damaged: {column} is {_short(rows.loc[wrong, column].iloc[0])} where {source} "
                f"says {_short(told)}: rows of another run, or a run that was renamed; put it back as it was, or "
                "delete its folder and repeat the run"
            )


def _by_place(directory: Path, rows: pd.DataFrame) -> Iterator[_Wanted]:
    """What the end of the folder's path says.

    It is `<stage>/<data>/<network>/seed<k>/…`, of pairs `distance/<data>/…`, or as `runs.places` has it.
    """
    here = Path(os.path.abspath(directory)).parts
    parts = PurePosixPath(str(rows["run"].iloc[0])).parts
    place = here[-len(parts) :]
    if len(place) >= 3:
        yield "data", rows["data"], place[1], "its folder"
    if is_given(place):
        yield "network", rows["network"], place[3], "its folder"
        yield "layer", _layer_folders(rows), place[5], "its folder"
        yield "g", _grid(rows), place[4], "its folder"
    elif len(place) >= 4 and place[0] != "distance":
        yield "network", rows["network"], place[2], "its folder"
        yield "seed", "seed" + rows["seed"].astype(str), place[3], "its folder"
    if len(place) == 6 and place[0] != "distance":
        yield "g", _grid(rows), place[4], "its folder"
    if len(place) >= 3:
        yield "stage", rows["stage"], place[0], "its folder"
    yield "run", rows["run"], "/".join(place), "its folder"


def _layer_folders(rows: pd.DataFrame) -> "pd.Series[Any]":
    """The folder that each row's layer and readout have."""
    named = [layer_folder(layer, readout) for layer, readout in zip(rows["layer"], rows["readout"], strict=True)]
    return pd.Series(named, index=rows.index, dtype=str)


def _grid(rows: pd.DataFrame) -> "pd.Series[Any]":
    return rows["g"].str.split(":", n=1).str[0]


def _by_config(config: Mapping[str, Any], rows: pd.DataFrame) -> Iterator[_Wanted]:
    """What a configuration says: of a training its own name, of a measurement the network, of a pair both networks."""
    data, transform = _mapping(config.get("data")), _mapping(config.get("transform"))
    if (model := _mapping(config.get("model")).get("name")) is not None:
        yield "model", rows["model"], model, CONFIG
    yield "data", rows["data"].str.split("@").str[-1], data.get("name"), CONFIG
    yield "layer", rows["layer"], config.get("layer"), CONFIG
    if transform:
        yield "network", rows["network"], config.get("name"), CONFIG
        yield "seed", rows["seed"], config.get("seed"), CONFIG
        yield "family", rows["family"], transform.get("name"), CONFIG
        if "range" in transform:
            yield "range", rows["range"], "" if transform["range"] is None else str(transform["range"]), CONFIG
    elif isinstance(network := config.get("network"), str):
        [_, name, seed] = [*network.split("/"), None, None][:3]
        yield "network", rows["network"], name, CONFIG
        yield "seed", "seed" + rows["seed"].astype(str), seed, CONFIG
    if isinstance(networks := config.get("networks"), Mapping):
        yield from _by_pair(set(networks), rows)
    yield "map", rows["map"], config.get("map"), CONFIG
    yield "readout", rows["readout"], config.get("readout"), CONFIG
    if isinstance(metrics := config.get("metrics"), list):
        yield "metric", rows["metric"], {*map(str, metrics), *OF_CONTROL}, CONFIG
    fit = _mapping(data.get("fit"))
    if fit.get("split") is not None and data.get("report") is not None:
        yield "split", rows["split"], {str(fit["split"]), str(data["report"])}, CONFIG


def _by_pair(labels: set[str], rows: pd.DataFrame) -> Iterator[_Wanted]:
    yield "network", rows["network"] + "/seed" + rows["seed"].astype(str), labels, CONFIG
    yield "g", rows["g"].str.removeprefix("network:"), labels, CONFIG


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _short(value: object) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
