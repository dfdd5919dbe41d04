"""List the layers of any network: `python -m invariance.layers model=timm model.name=resnet18`."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from invariance.data.prepared import Prepared, prepare
from invariance.data.sources.base import data_config
from invariance.experiments.given import Given, given, seen_by, telling_colour, told_size
from invariance.models.layers import choose_layers, list_layers
from invariance.models.readout import AUTO, read_readout
from invariance.runs.files import write_text
from invariance.runs.outputs import require_writable
from invariance.settings.base import checked
from invariance.settings.pages import LayersPage
from invariance.settings.parts import GivenModel
from invariance.settings.paths import folder
from invariance.transforms.baseline import Baseline

HEADER = ("layer", "runs", "shape", "layout", "D", "bypass", "remark")
_NUMBERS = ("runs", "D", "bypass")


def layers(config: dict[str, Any]) -> None:
    """Print which layers a network has, what each gives, and why one cannot be measured.

    Args:
        config: the configuration of `conf/layers.yaml`, plain and resolved.

    Raises:
        UserError: for anything the user can mend.
    """
    check(config)
    network = given(checked(GivenModel, config["model"], "model"), "cpu")
    print(network.told, flush=True)
    frame = listing(network, config)
    cells = [list(HEADER), *(_cells(row) for row in frame.itertuples(index=False))]
    console = Console()
    if console.is_terminal:
        console.print(_table(cells))
    else:
        print("\n".join(_lines(cells)))
    if config["csv"] is not None:
        write_text(folder(config["csv"], "csv"), frame.to_csv(index=False, lineterminator="\n"))


def check(config: dict[str, Any]) -> None:
    """Refuse what can be refused before a network is loaded.

    Raises:
        UserError: for a value that makes no sense.
    """
    checked(LayersPage, config)
    if config["readout"] != AUTO:
        read_readout(config["readout"])
    folder(config["prepared"], "prepared")
    if config["csv"] is not None:
        require_writable(folder(config["csv"], "csv"), "csv", is_file=True)
    if config.get("data") is not None:
        data_config(config["data"])


def listing(network: Given, config: dict[str, Any]) -> pd.DataFrame:
    """The layers that a configuration asks for, as `list_layers` gives them.

    Raises:
        UserError: if there are none, or the network does not take the images.
    """
    prepared = _prepared(network, config)
    images = None if prepared is None else seen_by(prepared, Baseline())
    with nullcontext() if prepared is None else telling_colour(prepared):
        wanted = config["layers"]
        if wanted == "auto":
            wanted = choose_layers(network.model, wanted, images)
        return list_layers(network.model, images, wanted, readout=config["readout"], bypass=config["bypass"])


def _prepared(network: Given, config: dict[str, Any]) -> Prepared | None:
    """The images to look at the network with, having said which; None for noise."""
    size = network.size
    if (data := config.get("data")) is None:
        print(f"images: noise, {size} × {size}", flush=True)
        return None
    resize = network.resize(config["resize"])
    prepared = prepare(data, size, Path(config["prepared"]).expanduser(), progress=config["progress"], resize=resize)
    print(f"images: {prepared.name} ({prepared.report}), {told_size(resize, size)}", flush=True)
    return prepared


def _cells(row: Any) -> list[str]:  # noqa: ANN401
    """A layer's line, as text."""
    whole = pd.notna(row.dim)
    read = f"read by {row.readout}" if row.readout not in ("", "flatten") else ""
    remark = "; ".join(filter(None, (read, "overwritten in place later" if row.overwritten else "")))
    if row.why:
        remark = f"cannot be measured: {row.why}"
    return [
        row.layer,
        str(row.runs),
        " × ".join(map(str, row.shape)) if whole else "",
        row.layout,
        str(row.dim) if whole else "",
        "" if math.isnan(row.bypass) else "0" if row.bypass <= 1e-4 else f"{row.bypass:.2g}",
        remark,
    ]


def _table(cells: list[list[str]]) -> Table:
    """The listing for a terminal."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in cells[0]:
        table.add_column(name, justify="right" if name in _NUMBERS else "left", overflow="fold")
    for row in cells[1:]:
        table.add_row(*map(Text, row))
    return table


def _lines(cells: list[list[str]]) -> list[str]:
    """The listing where it is piped: a line a layer, its columns two blanks apart, nothing cut."""
    widths = [max(len(row[k]) for row in cells) for k in range(len(HEADER))]

    def line(row: list[str]) -> str:
        """A line."""
        sides = (
            cell.rjust(width) if name in _NUMBERS else cell.ljust(width)
            for name, cell, width in zip(HEADER, row, widths, strict=True)
        )
        return "  ".join(sides).rstrip()

    return [line(row) for row in cells]
