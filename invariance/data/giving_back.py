"""Giving back the room of prepared images whose work is done; they can be made again from their source."""

import fcntl
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from invariance.data.absent import mark_given_back, was_given_back
from invariance.data.finding import find, prepared_settings, prepared_so
from invariance.data.manifest import MANIFEST
from invariance.data.placing import locked
from invariance.data.prepared import Prepared
from invariance.data.sources.base import data_config
from invariance.errors import Busy, UserError
from invariance.runs.files import disk_errors, sync_folder


def give_back(config: Mapping[str, Any], size: int, root: Path) -> tuple[Path | None, int]:
    """Remove the images of prepared data, and keep their lists, which tell what was made of them.

    Whoever needs the images again makes them again, to the same bits, by `prepare`. What was interrupted goes on when
    it is repeated. Where no images are left the source is not looked at.

    Args:
        config: a yaml of `conf/data/`, plain and resolved.
        size: side of the images in pixels.
        root: folder of all prepared data.

    Returns:
        The folder, None if nothing was prepared; and the bytes that are free now, 0 if there was nothing to give back.

    Raises:
        Busy: if a process reads them.
        UserError: if they are damaged, or it is not sure that they can be made again: their source is not there or has
            changed, or they have no checksums.
    """
    data = data_config(config)
    settings = prepared_settings(data, size)
    there = prepared_so(root / data.name, data, settings)
    if all(was_given_back(directory) and not any(directory.glob("*.images.npy")) for directory in there):
        return (there[0] if there else None), 0
    now = data.source.stamps()
    if now is None:
        raise UserError(
            f"{data.name} is kept: its source is not there, from which it could be made again (make paper KEEP=1 gives "
            "nothing back)"
        )
    found = find(root / data.name, data, settings, now, cache(data.source.digest), verify=False)
    if not found.there:
        if found.changed:
            raise UserError(
                f"{data.name} at {size} pixels is kept: {found.changed}; delete its folder if nobody needs it"
            )
        return None, 0
    directory = found.directory
    with disk_errors(directory), locked(directory.with_name(f".{directory.name}.lock")):
        images, done = _images_of(directory), was_given_back(directory)
        with _alone(directory):
            room = sum(path.stat().st_size for path in images if path.exists())
            if not done:
                mark_given_back(directory, room)
            for path in images:
                path.unlink(missing_ok=True)
            sync_folder(directory)
    return directory, room


def places_of(config: Mapping[str, Any], sizes: Sequence[int], root: Path) -> dict[int, Path]:
    """Where the data of some sizes lie, of those that were prepared of the source as it is now.

    Args:
        config: a yaml of `conf/data/`, plain and resolved.
        sizes: sides of the images in pixels.
        root: folder of all prepared data.

    Raises:
        UserError: for a configuration or source that cannot serve.
    """
    data = data_config(config)
    now, digest = data.source.stamps(), cache(data.source.digest)
    found = {
        size: find(root / data.name, data, prepared_settings(data, size), now, digest, verify=True) for size in sizes
    }
    return {size: one.directory for size, one in found.items() if one.there}


def room_of_others(config: Mapping[str, Any], root: Path, but: Collection[Path]) -> int:
    """Bytes of all images of a data set that are there, at whatever sizes, but for some folders."""
    found = (root / data_config(config).name).glob("*/*.images.npy")
    return sum(path.stat().st_size for path in found if path.parent not in but)


def _images_of(directory: Path) -> list[Path]:
    """The files that hold the images of prepared data, which were opened and found whole.

    Raises:
        UserError: if they are not, or have no checksums.
    """
    prepared = Prepared(directory)
    if not prepared.verified:
        raise UserError(
            f"{directory} is kept: version 0.1.0 made it, without checksums, and nobody could tell whether images made "
            "again are the same"
        )
    return [directory / f"{split}.images.npy" for split in prepared.splits]


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Let nobody read the images meanwhile.

    Raises:
        Busy: if somebody does.
        UserError: if the file system has no locks.
    """
    lock = os.open(directory / MANIFEST, os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise Busy(f"{directory} is kept: a process reads its images{Busy.remedy}") from error
    finally:
        os.close(lock)
