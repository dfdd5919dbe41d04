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

_G, _LABELS = "g", "labels"


def write_scores(
    directory: Path, g: Sequence[str], scores: Mapping[str, NDArray[Any]], labels: NDArray[np.int64] | None = None
) -> None:
    """Write the scores of a measurement atomically.

    Args:
        directory: the run's folder.
        g: the labels of the g, in the order of the arrays.
        scores: (g, n) arrays by name.
        labels: (n,) classes of the images that are reported on, −1 where there is none.
    """
    known = {} if labels is None else {_LABELS: labels}
    write_arrays(directory / SCORES, {_G: np.array(list(g)), **known, **scores})


def read_scores(directory: Path) -> tuple[list[str], dict[str, NDArray[Any]], NDArray[np.int64] | None]:
    """The labels of the g, the scores of every image of a finished run, and the classes of the reported images.

    Nothing where it kept no scores; None where it kept no classes.

    Raises:
        UserError: if the file is damaged.
    """
    try:
        arrays = read_arrays(directory / SCORES)
    except FileNotFoundError:
        return [], {}, None
    labels = arrays.pop(_LABELS, None)
    return [str(label) for label in arrays.pop(_G)], arrays, labels


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays by name as one file, atomically."""
    content, named = io.BytesIO(), dict(arrays)
    np.savez(content, **named)  # type: ignore[arg-type]
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getvalue())


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a file of `write_arrays`.

    Raises:
        UserError: if it is damaged.
        FileNotFoundError: if it is not there.
    """
    try:
        with np.load(path, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise UserError(f"{path} is damaged; delete its folder and measure again") from error
