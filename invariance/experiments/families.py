"""Families and grids: what a configuration says of them for nothing, and those that cannot be measured."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from invariance.cli.messages import say_error
from invariance.engine.grids import Grid
from invariance.errors import Busy, UnfitImages, UserError
from invariance.maps.spec import MapSpec, unchosen
from invariance.runs.run import read_config
from invariance.settings.files import varies


def tell_unused(key: str, wanted: Iterable[str], directories: Sequence[Path]) -> None:
    """Say which families are set and belong to no chosen network.

    A sweep gives every job the settings of all families, so what one job has no use for is no mistake.

    Args:
        key: the key that has the settings: `G` or `grid`.
        wanted: the families that are set.
        directories: the chosen networks. A baseline has no family of its own and may take any.
    """
    transforms = [read_config(directory).get("transform", {}) for directory in directories]
    if not all(map(varies, transforms)):
        return
    trained = {str(one.get("name")) for one in transforms}
    for family in sorted(set(wanted) - trained):
        print(f"{key}.{family} changes nothing: no chosen network was trained with {family}", file=sys.stderr)


class EachGrid:
    """Grids measured one after another: one that does not take the images, or is another process's, stops no other.

    Args:
        count: how many.

    Attributes:
        busy: what was said of those that another process measures.
    """

    def __init__(self, count: int) -> None:
        self.busy: list[Busy] = []
        self._count, self._failed = count, 0

    @contextmanager
    def trying(self, grid: Grid) -> Iterator[None]:
        """Measure one.

        Raises:
            UserError: what is wrong with all of them; of one alone also what is wrong with it.
        """
        try:
            yield
        except Busy as error:
            self.busy.append(error)
        except UnfitImages as error:
            if self._count == 1:
                raise
            say_error(str(error) if str(error).startswith(grid.name) else f"{grid.name}: {error}")
            self._failed += 1

    def end(self) -> None:
        """Tell of those that could not be measured.

        Raises:
            UserError: if there were any.
        """
        if self._failed:
            raise UserError(f"{self._failed} of {self._count} grids could not be measured, for the reasons above")


def tell_unchosen(fits: Sequence[MapSpec], solvers: Mapping[str, Any]) -> None:
    """Say which maps are fitted by a solver that was not chosen."""
    for line in unchosen(fits, solvers):
        print(line, file=sys.stderr)
