"""Images of prepared data that were given back: their lists stay, and tell what was made of them.

A file in the folder says that they were. It appears before the first image goes, so that a folder is never half there.
"""

import fcntl
import os
import shutil
import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from invariance.data.images import StoredImages
from invariance.data.manifest import MANIFEST
from invariance.errors import UserError
from invariance.runs.files import write_text
from invariance.settings.nested import load_json

_GIVEN_BACK = "given_back.json"


def mark_given_back(directory: Path, room: int) -> None:
    """Write down that the images of prepared data go, and what room they took.

    Raises:
        UserError: if the disk refuses.
    """
    write_text(directory / _GIVEN_BACK, f'{{"bytes": {room}}}\n')


def unmark(directory: Path) -> None:
    """Take that back of a folder in which the images are made again."""
    (directory / _GIVEN_BACK).unlink(missing_ok=True)


def was_given_back(directory: Path) -> bool:
    """Whether the images of prepared data were given back."""
    return (directory / _GIVEN_BACK).exists()


def room_given_back(directory: Path) -> int:
    """Bytes that the images of prepared data took before they were given back; 0 if that cannot be read."""
    with suppress(OSError, ValueError, TypeError, KeyError, OverflowError):
        return int(load_json((directory / _GIVEN_BACK).read_text(encoding="utf-8"))["bytes"])
    return 0


def require_restorable(directory: Path, sha: str, *, source: bool) -> str:
    """Say that images which were given back are made again.

    Args:
        directory: the folder of the data.
        sha: the hash of the data.
        source: whether their source is there.

    Returns:
        The hash.

    Raises:
        UserError: if their source is not there, or the disk has no room for them.
    """
    gone = f"the images of {directory} were given back"
    if not source:
        raise UserError(f"{gone}, and their source is not there to make them again: put it back and repeat")
    room, free = room_given_back(directory), shutil.disk_usage(directory).free
    if free < room:
        lacking = f"take {room / 1e9:,.2f} GB, and {free / 1e9:,.2f} GB are free"
        raise UserError(f"{gone}; they {lacking}: make room, or give other sizes back, and repeat")
    print(f"{gone} and are prepared again", file=sys.stderr)
    return sha


class AbsentImages(StoredImages):
    """Images that were given back: there are so many, and reading one is an error.

    Args:
        directory: the folder of the data.
        shape: (N, C, H, W).
        verified: whether there are checksums.
    """

    def __init__(self, directory: Path, shape: tuple[int, ...], verified: bool) -> None:
        self.shape, self.verified, self._directory = shape, verified, directory

    def __getattr__(self, name: str) -> NoReturn:
        """Whatever reads them looks for their file first."""
        if name.startswith("__"):
            raise AttributeError(name)
        raise UserError(
            f"the images of {self.__dict__['_directory']} were given back; run invariance-prepare with the same data "
            f"and size={self.shape[-1]}, which makes them again"
        )


class InUse:
    """Prepared data in use: nobody gives their images back while this is there.

    Args:
        directory: the folder of the data.

    Raises:
        OSError: if the folder cannot be read.
    """

    def __init__(self, directory: Path) -> None:
        lock = os.open(directory / MANIFEST, os.O_RDONLY)
        weakref.finalize(self, os.close, lock)
        with suppress(OSError):  # a file system without locks, on which nothing is given back
            fcntl.flock(lock, fcntl.LOCK_SH)


def open_images(
    directory: Path,
    split: str,
    shape: tuple[int, ...],
    checksums: NDArray[np.uint64] | None,
    damaged: Callable[[str], UserError],
    in_use: InUse,
) -> StoredImages:
    """The images of a split, which nobody gives back while they are in use; see `StoredImages`.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if it is not a .npy file of these images.
    """
    images = (
        AbsentImages(directory, shape, checksums is not None)
        if was_given_back(directory)
        else StoredImages(directory / f"{split}.images.npy", shape, checksums, damaged)
    )
    images.in_use = in_use
    return images
