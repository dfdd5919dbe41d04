"""Finding what was prepared of a source, and whether the source has changed since."""

import csv
import glob
import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from invariance.data.manifest import FORMAT, STAMPS, DamagedData, write_stamps
from invariance.data.sources.base import DataConfig
from invariance.data.sources.trees import Stamp
from invariance.data.watching import forget, unchanged
from invariance.errors import UserError
from invariance.models.recipe import Resize

_BYTES_OF_HASH = 8
_LARGEST = 4096
_DAMAGE = (OSError, ValueError, KeyError, TypeError, EOFError, AttributeError, csv.Error)


def prepared_settings(data: DataConfig, size: int, resize: Resize | None = None) -> dict[str, Any]:
    """What decides the content of prepared data, beside the source's files.

    Args:
        data: the data set.
        size: side of the images in pixels.
        resize: how they get that size; None: they are warped, as in all data that were prepared without saying so.

    Raises:
        UserError: for a size that is none.
    """
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= _LARGEST:
        raise UserError(f"size={size!r}: images are prepared at a whole number of pixels from 1 to {_LARGEST}")
    settings = {
        **data.source.settings,
        "source": type(data.source).__name__,
        "size": size,
        "colour": data.colour,
        "mean": data.mean,
    }
    if resize is not None:
        settings["resize"] = asdict(resize if resize.size is None else resize.scaled(size))
    return settings


@dataclass(frozen=True)
class Location:
    """Where prepared data are or will be.

    Attributes:
        directory: the folder.
        there: whether it is there, and of the source as it is now.
        changed: what differs between the source and what was prepared of it last, if that is so.
        damage: what is wrong with the list that tells whether the source has changed.
        listed: whether the data are surely of the source as it is now, though that list be damaged.
        source: whether the source is there.
    """

    directory: Path
    there: bool
    changed: str = ""
    damage: str = ""
    listed: bool = True
    source: bool = True


def find(
    parent: Path,
    data: DataConfig,
    settings: Mapping[str, Any],
    now: Mapping[str, Stamp] | None,
    digest: Callable[[str], str],
    verify: bool,
) -> Location:
    """Where data prepared with these settings of the source as it is now are, or would be.

    Args:
        parent: the folder of all preparations of the data set.
        data: the data set.
        settings: what `prepared_settings` gives.
        now: size and time of the source's files; None if the source is not there.
        digest: hash of a file of the source.
        verify: whether damage of the list of the source's files is to be found rather than raised.

    Raises:
        Damaged: if that list is damaged.
        UserError: if the source is not there, and none or several preparations are.
    """
    held, changed = prepared_so(parent, data, settings), ""
    if now is None:
        if len(held) > 1:
            raise UserError(
                f"{parent} holds {len(held)} preparations of a source that has changed between them and is not there "
                f"now ({held[0].name}, {held[1].name}); put it back, or delete all but one"
            )
        if not held:
            data.source.splits()  # says what is not there
        return Location(held[0], there=True, source=False)
    listing = "".join(f"{name}\0{size}\0{time}\n" for name, (size, time) in sorted(now.items()))
    target = parent / f"{_prefix(data, settings)}-{_short_hash(listing)}"
    for directory in sorted(held, key=lambda path: path != target):
        try:
            difference = _difference(directory, now, digest)
            if difference and directory == target:  # whose name says that the source is as it was
                raise DamagedData(directory, f"{STAMPS} does not list the source: {difference}")
        except DamagedData as error:
            if not directory.is_dir():  # another process has just begun to make it again, and the caller waits for it
                continue
            if not verify:
                raise
            return Location(directory, there=True, damage=error.why, listed=directory == target)
        if not difference:
            return Location(directory, there=True)
        forget(directory)
        changed = changed or f"the source of {directory} has changed since it was prepared: {difference}"
    return Location(target, there=False, changed=changed)


def find_unchanged(parent: Path, data: DataConfig, settings: Mapping[str, Any]) -> Path | None:
    """Data prepared with these settings whose source's folders are as they were, no file in them being looked at.

    None if there are none, or it cannot be told: `find` then looks at every file.
    """
    there = [path for path in prepared_so(parent, data, settings) if unchanged(path, data.source)]
    return there[0] if len(there) == 1 else None


def _prefix(data: DataConfig, settings: Mapping[str, Any]) -> str:
    identity = json.dumps({**settings, "format": FORMAT}, sort_keys=True)
    return f"{settings['size']}-{data.colour}-{_short_hash(identity)}"


def prepared_so(parent: Path, data: DataConfig, settings: Mapping[str, Any]) -> list[Path]:
    """Whatever was prepared with these settings, of the source as it is now or was, the newest first."""
    return sorted(parent.glob(f"{glob.escape(_prefix(data, settings))}-*"), key=_made_at, reverse=True)


def _made_at(directory: Path) -> float:
    try:
        return directory.stat().st_mtime
    except FileNotFoundError:  # as in `find`
        return 0.0


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:_BYTES_OF_HASH]


def _difference(directory: Path, now: Mapping[str, Stamp], digest: Callable[[str], str]) -> str:
    """What differs between a source and what was prepared of it, some of it by name; empty for nothing.

    Where only times differ the contents are compared, and the new times noted.
    """
    try:
        with open(directory / STAMPS, encoding="utf-8", errors="surrogateescape", newline="") as file:
            then = {name: ((int(size), int(time)), known) for name, size, time, known in list(csv.reader(file))[1:]}
    except _DAMAGE as error:
        raise DamagedData(directory, f"{STAMPS}: {' '.join(str(error).split())}") from error
    changed = [f"{name} is gone" for name in sorted(set(then) - set(now))]
    changed += [f"{name} is new" for name in sorted(set(now) - set(then))]
    both = [name for name in now if name in then and then[name][0] != now[name]]
    for name in both:
        stamp, known = then[name]
        if stamp[0] != now[name][0] or digest(name) != known:
            changed.append(f"{name} has changed")
    if changed:
        return ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
    if both:
        with suppress(UserError):  # a store that may only be read serves all the same
            write_stamps(directory / STAMPS, [(name, *now[name], then[name][1]) for name in sorted(now)])
    return ""
