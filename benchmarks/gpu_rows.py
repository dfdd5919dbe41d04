"""What the checks of a GPU yield, and how large they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

State = Literal["ok", "failed", "slow", "not run"]


@dataclass(frozen=True)
class Row:
    """One figure of a check.

    Attributes:
        name: of the check, and of the case if there are several.
        value: what was measured; None where nothing was.
        unit: of the value.
        mark: what it has to be.
        state: ok; failed, for what is wrong; slow, for what is right and below its mark; or not run.
        why: of what failed or was not run.
    """

    name: str
    value: float | None
    unit: str
    mark: str
    state: State
    why: str = ""

    @property
    def plain(self) -> dict[str, Any]:
        """The row as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Scale:
    """Where the checks run, and at which size.

    Attributes:
        device: a GPU, or the CPU at toy size.
        dim: D of the maps.
        images: of a fit.
        size: side of the images in pixels.
        batch: images of a training batch.
    """

    device: torch.device
    dim: int
    images: int
    size: int
    batch: int

    @property
    def gpu(self) -> bool:
        """Whether this is a GPU, and so no toy."""
        return self.device.type == "cuda"


@dataclass(frozen=True)
class Check:
    """A check.

    Attributes:
        name: its name, with which the names of its rows begin.
        what: what it looks at, for people.
        mark: what its figures have to be, for people.
        work: yields its rows.
        gpu: whether it says nothing without a GPU.
    """

    name: str
    what: str
    mark: str
    work: Callable[[Check, Scale], Iterator[Row]]
    gpu: bool = False

    def at_most(self, case: str, value: float, most: float, unit: str = "") -> Row:
        """A row that is right up to a value; what is no number is wrong."""
        return Row(self._name(case), value, unit, f"≤ {most:g}", "ok" if value <= most else "failed")

    def at_least(self, case: str, value: float, least: float, unit: str = "") -> Row:
        """A row about speed, good from a value on."""
        return Row(self._name(case), value, unit, f"≥ {least:g}", "ok" if value >= least else "slow")

    def told(self, case: str, value: float, unit: str) -> Row:
        """A row about speed that has no mark."""
        return Row(self._name(case), value, unit, "", "ok")

    def holds(self, case: str, right: bool, why: str) -> Row:
        """A row that is right or wrong."""
        return Row(self._name(case), float(right), "", "= 1", "ok" if right else "failed", "" if right else why)

    def not_run(self, case: str, why: str) -> Row:
        """A row of what was not run."""
        return Row(self._name(case), None, "", self.mark, "not run", why)

    def each(self, cases: Iterable[str], work: Callable[[str], Row | list[Row]]) -> Iterator[Row]:
        """The rows of several cases, each of which is looked at whatever becomes of the others."""
        for case in cases:
            try:
                rows = work(case)
            except Exception as error:
                rows = self.failed(case, error)
            yield from rows if isinstance(rows, list) else [rows]

    def failed(self, case: str, error: BaseException) -> Row:
        """A row of what raised an error."""
        said = " ".join(str(error).split())[:300]
        return Row(self._name(case), None, "", self.mark, "failed", f"{type(error).__name__}: {said}")

    def _name(self, case: str) -> str:
        return f"{self.name}_{case}" if case else self.name
