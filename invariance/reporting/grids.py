"""Measured grids as figures need them, read from beside the rows; and which names may be those of files."""

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from invariance.errors import UserError
from invariance.runs.checked import DamagedFile, read_facts
from invariance.transforms.base import UNTOUCHED

_LONGEST = 100
"""Characters of a name; of both names of a finetuned network, and of two data sets."""

GRID = "grid.json"


class Point(NamedTuple):
    """One g of a measured grid, at its place on the axis; a hash of its parameters tells g of the same name apart."""

    label: str
    value: float
    covered: bool
    params: str = ""


@dataclass(frozen=True)
class GridFacts:
    """What a figure needs to know of a grid beyond its rows.

    Attributes:
        grid: name of the grid, the part of a row's g before the colon.
        family: its family.
        unit: unit of the axis.
        ordinal: whether the axis only counts and shows labels.
        points: all g in the order of the axis.
        folder: where its examples lie.
    """

    grid: str
    family: str
    unit: str
    ordinal: bool
    points: tuple[Point, ...]
    folder: Path

    def same_g(self, other: "GridFacts") -> bool:
        """Whether every g that both grids name is the same transformation in both.

        The untouched image is the same whatever its parameters: those of Elastic name the σ of the network's training.
        """
        ours = {point.label: point.params for point in self.points if point.label != UNTOUCHED}
        return all(ours.get(point.label, point.params) == point.params for point in other.points)

    @property
    def n_covered(self) -> int:
        """How many g the network's training covered."""
        return sum(point.covered for point in self.points)

    @property
    def parts(self) -> dict[str, NDArray[np.bool_]]:
        """Which points are untouched; and of the others which training covered, `inside`, and which not, `beyond`."""
        untouched = np.array([point.label == UNTOUCHED for point in self.points])
        covered = np.array([point.covered for point in self.points])
        return {"untouched": untouched, "inside": covered & ~untouched, "beyond": ~covered & ~untouched}


class GridKey(NamedTuple):
    """Which network was measured over which grid, by itself (`measure`) or around a finetuning."""

    stage: str
    data: str
    network: str
    seed: int
    grid: str


class GivenKey(NamedTuple):
    """Which network that was not trained here, by its source and name and by what it is called, over which grid."""

    data: str
    model: str
    network: str
    grid: str


def grid_name(g: pd.Series) -> pd.Series:
    """The grid of each g: what stands before the colon."""
    return g.str.split(":", n=1).str[0]


def grid_label(g: pd.Series) -> pd.Series:
    """The label of each g: what stands after the colon."""
    return g.str.split(":", n=1).str[1]


def unfit(name: str) -> str:
    """Why a name may not be part of a file's name, in words; empty where it may.

    Data, networks, families and layers are named by the project's commands without any such; a file that was damaged or
    made by hand could lead a report's files out of its folder.
    """
    if "/" in name or name.startswith("."):
        return "it is a path, or hidden"
    if why := unprintable(name):
        return why
    if any(len(part) > _LONGEST for part in re.split("[+@]", name)):
        return f"it is longer than {_LONGEST} characters"
    return ""


def unprintable(name: str) -> str:
    """Why a name cannot be shown, in words; empty where it can."""
    odd = any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)
    return "it has control characters" if odd else ""


def shortened(name: str) -> str:
    """A name for a message of one line."""
    return name if len(name) <= 40 else f"{name[:40]}…"


def grid_facts(folder: Path) -> GridFacts:
    """What a folder keeps of the grid whose measurements lie in it.

    Raises:
        UserError: if it cannot be read, or does not describe a grid.
    """
    path = folder / GRID
    try:
        held, _ = read_facts(path)
    except PermissionError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); see to it and repeat") from error
    except (DamagedFile, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete {folder} and measure it again") from error
    try:
        if not held["points"]:
            raise ValueError("it has no points")
        for name in (str(held["grid"]), str(held["family"])):
            if why := unfit(name):
                raise ValueError(f"{shortened(name)!r}: {why}")
        points = tuple(
            Point(str(point["label"]), float(point["value"]), bool(point["covered"]), str(point.get("params", "")))
            for point in held["points"]
        )
        if not np.isfinite([point.value for point in points]).all():
            raise ValueError("a point has no place")
        return GridFacts(
            str(held["grid"]), str(held["family"]), str(held["unit"]), bool(held["ordinal"]), points, folder
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not describe a grid ({error}); delete {folder} and measure it again") from error
