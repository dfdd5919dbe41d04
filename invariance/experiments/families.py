"""What a configuration leaves unsaid, or says for nothing: told before the work."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

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


def tell_unchosen(fits: Sequence[MapSpec], solvers: Mapping[str, Any]) -> None:
    """Say which maps are fitted by a solver that was not chosen."""
    for line in unchosen(fits, solvers):
        print(line, file=sys.stderr)
