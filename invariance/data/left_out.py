"""What of a source is left out: how many files, some of their names, and why."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from invariance.data.names import shown

HIDDEN = "hidden (a name that begins with a dot)"
EXCLUDED = "excluded by data.exclude"
NO_IMAGE = "not of an image format that is read"
EMPTY = "empty files without the suffix of an image"
ARCHIVE = "archives, which are not looked into; name one as data.root"
UNREADABLE = "not readable"
BROKEN_LINK = "links that lead nowhere"
LOOP = "links that lead back to a folder around them"
SPECIAL = "neither files nor folders"
UNEXPECTED = "not part of the data set"
NOT_COUNTED = "beside the data set's own, not looked into"
_KEPT, _SHOWN = 100, 3


@dataclass
class _Group:
    files: int = 0
    things: int = 0
    names: list[str] = field(default_factory=list)


class LeftOut:
    """What is left out, gathered by why; only the first names are kept."""

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}

    def add(self, name: str, why: str, files: int = 1) -> None:
        """Count a file, or a folder (whose name ends in "/") with so many files in it; 0 where they are not counted."""
        group = self._groups.setdefault(why, _Group())
        group.files += files
        group.things += 1
        if len(group.names) < _KEPT:
            group.names.append(f"{name} ({_counted(files, 'file')})" if name[-1:] == "/" and files else name)

    def add_all(self, names: Iterable[str], why: str) -> None:
        """Count several files."""
        for name in names:
            self.add(name, why)

    def as_json(self) -> list[dict[str, Any]]:
        """What `lines_of` reads: why, how many files, how many names, the first hundred names."""
        return [
            {"why": why, "files": group.files, "things": group.things, "names": [shown(name) for name in group.names]}
            for why, group in self._groups.items()
        ]


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def lines_of(groups: Iterable[dict[str, Any]]) -> list[str]:
    """A line for each reason.

    Args:
        groups: what `LeftOut.as_json` gave.

    Raises:
        ValueError, KeyError, TypeError: if they are not that.
    """
    lines = []
    for group in groups:
        files, things, names = int(group["files"]), int(group["things"]), [str(name) for name in group["names"]]
        more = things - len(names[:_SHOWN])
        counted = _counted(files, "file") if files else _counted(things, "folder")
        others = f" and {more:,} more" if more > 0 else ""
        lines.append(f"{counted} {group['why']}: {', '.join(names[:_SHOWN])}{others}")
    return lines
