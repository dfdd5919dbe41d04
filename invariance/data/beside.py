"""Prepared data built beside their place, where a call that was killed left them, and put there whole."""

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from invariance.data.absent import unmark, was_given_back
from invariance.data.building import Target, begun, build, tidied
from invariance.data.mending import BEFORE, take_apart
from invariance.data.placing import put, remove_stale, temporary_of
from invariance.data.sources.base import DataConfig
from invariance.data.sources.trees import Stamp
from invariance.errors import UserError


def build_beside(
    lacking: Mapping[Path, dict[str, Any]], data: DataConfig, now: Mapping[str, Stamp], progress: bool, workers: int
) -> None:
    """Build beside the folders and rename; the caller holds their locks, so what lies there is of a dead process.

    What a kill, an interruption or a full disk leaves is taken up by the next call; a source that cannot serve leaves
    nothing.

    Args:
        lacking: the folders, and what identifies the data of each.
        data: the data set.
        now: size and time of the source's files.
        progress: whether to show a bar.
        workers: threads that decode.

    Raises:
        UserError: if the source cannot serve.
        OSError: if the disk is full or refuses.
    """
    targets = {path: Target(temporary_of(path), settings) for path, settings in lacking.items()}
    for directory, target in list(targets.items()):
        remove_stale(directory)
        if tidied(target.directory):  # an earlier call was stopped just before it was renamed
            put(target.directory, directory)
            del targets[directory]
    if not targets:
        return
    try:
        for target in targets.values():
            target.directory.mkdir(exist_ok=True)
            unmark(target.directory)
        build(list(targets.values()), data, now, progress, workers)
    except Exception as error:
        for target in targets.values():
            mending = (target.directory / BEFORE).exists()
            if not mending and (isinstance(error, UserError) or not begun(target.directory)):
                shutil.rmtree(target.directory, ignore_errors=True)
        raise
    for directory, target in targets.items():
        put(target.directory, directory)


def take_apart_again(damaged: Mapping[Path, bool], absent: Collection[Path]) -> None:
    """Make unfinished preparations of damaged data, and of those without images that no other process made again.

    Args:
        damaged: the folders, each with whether its source is as it was listed.
        absent: those of them whose images had been given back.
    """
    for directory, listed in damaged.items():
        gone = was_given_back(directory)
        if directory.is_dir() and (gone or directory not in absent):
            take_apart(directory, temporary_of(directory), listed=listed and not gone)
