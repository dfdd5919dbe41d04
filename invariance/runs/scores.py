"""Scores of every image of a finished measurement, beside its rows (`scores.npz`)."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from invariance.errors import UserError
from invariance.runs.files import atomic_path

SCORES = "scores.npz"


def write_scores(directory: Path, g: Sequence[str], scores: Mapping[str, NDArray[Any]]) -> None:
    """Write the scores of a measurement atomically.

    Args:
        directory: the run's folder.
        g: the labels of the g, in the order of the arrays.
        scores: (g, n) arrays by name.
    """
    content = io.BytesIO()
    arrays: dict[str, Any] = {"g": np.array(list(g)), **scores}
    np.savez(content, **arrays)
    with atomic_path(directory / SCORES) as temporary:
        temporary.write_bytes(content.getvalue())


def read_scores(directory: Path) -> tuple[list[str], dict[str, NDArray[Any]]]:
    """The labels of the g and the scores of every image of a finished run; nothing where it kept none.

    Raises:
        UserError: if the file is damaged.
    """
    path = directory / SCORES
    try:
        with np.load(path, allow_pickle=False) as held:
            return [str(label) for label in held["g"]], {name: held[name] for name in held.files if name != "g"}
    except FileNotFoundError:
        return [], {}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise UserError(f"{path} is damaged; delete the run's folder and repeat the run") from error
