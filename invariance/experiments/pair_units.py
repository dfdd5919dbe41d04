"""The pieces of comparing networks: what is computed at once, what it came to on disk, and its features in memory."""

import io
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from invariance.engine.store import Features
from invariance.errors import UserError
from invariance.experiments.pair_rows import Result
from invariance.measures.moments import Centred, centred
from invariance.runs.checked import Damaged, digest, made_again, read_part, write_part
from invariance.settings.nested import load_json

PLAN = "plan.json"


@dataclass(frozen=True)
class Unit:
    """What is computed at once and kept as one file.

    Attributes:
        kind: name of a fit, or `INDICES`.
        source: label of the network whose features are mapped.
        targets: labels of the networks whose features are predicted.
    """

    kind: str
    source: str
    targets: tuple[str, ...]


class Results:
    """What the units of one piece of work came to, a file each, found again by which unit it is.

    Args:
        folder: the work's, named after all that its results depend on.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def plan(self) -> list[Unit] | None:
        """What was planned; None if nothing was, or what was is damaged and is planned again."""
        path = self._folder / PLAN
        try:
            content = read_part(path, self._about("plan"))
            if content is None:
                return None
            return [Unit(kind, source, tuple(targets)) for kind, source, targets in load_json(content)]
        except (Damaged, ValueError, TypeError) as why:
            made_again(path, why if isinstance(why, Damaged) else "it is no plan")
            return None

    def write_plan(self, units: Sequence[Unit]) -> None:
        """Keep a plan."""
        content = json.dumps([[unit.kind, unit.source, unit.targets] for unit in units])
        write_part(self._folder / PLAN, self._about("plan"), content.encode())

    def read(self, unit: Unit) -> Result | None:
        """What a unit came to; None if it is yet to be computed, or what is there is damaged and is computed again."""
        path = self._path(unit)
        try:
            content = read_part(path, self._about(unit))
            if content is None:
                return None
            with np.load(io.BytesIO(content), allow_pickle=False) as held:
                return {name: held[name] for name in held.files}
        except Damaged as why:
            made_again(path, why)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error):
            made_again(path, "it holds no arrays")
        return None

    def write(self, unit: Unit, result: Result) -> None:
        """Keep what a unit came to."""
        content = io.BytesIO()
        np.savez(content, **result)
        write_part(self._path(unit), self._about(unit), content.getvalue())

    def _path(self, unit: Unit) -> Path:
        told = json.dumps([unit.kind, unit.source, unit.targets])
        return self._folder / "units" / f"{digest(told.encode())}.npz"

    def _about(self, what: Unit | str) -> dict[str, Any]:
        told = what if isinstance(what, str) else [what.kind, what.source, list(what.targets)]
        return {"work": self._folder.name, "what": told}


def part_of(result: Result | None, unit: Unit, target: str) -> Result:
    """One target's part of what a unit came to.

    Raises:
        UserError: if that was damaged since it was computed.
    """
    if result is None:
        raise UserError(f"what was computed of {unit.source} is damaged; repeat the command")
    k = unit.targets.index(target)
    return {name: values[k].copy() for name, values in result.items()}  # a view would keep all targets' in memory


class Held:
    """Features in memory: those of the unit that is worked on, and nothing else."""

    def __init__(self, features: dict[str, Features], device: torch.device, make: Callable[[str], Features]) -> None:
        self._features, self._device, self._make = features, device, make
        self._sides: dict[tuple[str, str], Tensor] = {}
        self._centred: dict[str, Centred] = {}

    def keep(self, labels: set[str]) -> None:
        """Give up what is not among these networks."""
        self._sides = {key: value for key, value in self._sides.items() if key[0] in labels}

    def side(self, label: str, side: str) -> Tensor:
        """A network's features of a side, (N, D): those to fit on where fits run, the others in host memory."""
        if (label, side) not in self._sides:
            loaded = self._load(label, side)
            self._sides[label, side] = loaded.to(self._device) if side == "fit" else loaded
        return self._sides[label, side]

    def _load(self, label: str, side: str) -> Tensor:
        """The features of a side; damaged ones are made again, all of that network's."""
        try:
            return self._features[label].load(side)
        except Damaged as why:
            made_again(self._features[label].directory, why)
        self._sides = {key: value for key, value in self._sides.items() if key[0] != label}
        self._centred.pop(label, None)
        self._features[label] = self._make(label)
        try:
            return self._features[label].load(side)
        except Damaged as why:
            raise UserError(
                f"{self._features[label].directory} does not hold what was just written to it ({why}); choose another "
                "place with features=…"
            ) from why

    def fit(self, label: str) -> Tensor:
        """The features to fit on."""
        return self.side(label, "fit")

    def about_mean(self, label: str) -> Centred:
        """The report features about their mean; small, and kept for all networks."""
        if label not in self._centred:
            self._centred[label] = centred(self.side(label, "report").to(self._device))
        return self._centred[label]
