"""Finding run directories: those that are finished, by path or pattern; and what could not be looked into."""

import os
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from invariance.errors import UserError, nearest
from invariance.runs.files import BEGUN, DONE, RESULTS
from invariance.runs.run import CONFIG
from invariance.runs.sweep import SWEEPS

_WANDB = ("run-", "offline-run-")
NONE = "there is none at all; run invariance-train first"
_NAMED = 5
"""How many of what could not be looked into are named in one message."""


@dataclass(frozen=True)
class Unseen:
    """What could not be looked into, so that nobody knows whether runs are there.

    Attributes:
        path: the folder, file or link.
        why: why not, in a few words.
    """

    path: Path
    why: str

    def __str__(self) -> str:
        """Both, in a line."""
        return f"{self.path} ({self.why})"


@dataclass(frozen=True)
class Walk:
    """What is below a folder.

    Attributes:
        runs: the run directories, sorted.
        unseen: what could not be looked into, sorted.
        kept: folders of results that were measured from Python, sorted.
        begun: those of such that are not finished, sorted.
    """

    runs: list[Path]
    unseen: list[Unseen]
    kept: list[Path] = field(default_factory=list)
    begun: list[Path] = field(default_factory=list)


def walk(root: Path) -> Walk:
    """Every run directory below `root`, finished or not, also by links to folders; and what cannot be looked into.

    Runs lie below runs, as a finetuned network's measurements below it. What vanishes meanwhile is left out. A folder
    is walked once, however many links lead there, by its own path where it has one; a link to a folder around it leads
    nowhere new.
    """
    found = Walk([], [])
    seen: set[tuple[int, int]] = set()
    folders, links = [root], list[Path]()
    while folders or links:
        linked = not folders
        folder = links.pop(0) if linked else folders.pop()
        try:
            if (known := _identity(folder)) in seen or (linked and _around(folder, root)):
                continue
            seen.add(known)
            inside, leading = _entries(folder, found)
        except FileNotFoundError:
            continue
        except OSError as error:
            found.unseen.append(Unseen(folder, (error.strerror or "it cannot be read").lower()))
            continue
        folders += inside
        links = sorted(links + leading)
    begun = [folder for folder in found.begun if folder not in found.kept]
    return Walk(sorted(found.runs), sorted(found.unseen, key=lambda one: one.path), sorted(found.kept), sorted(begun))


def tell_unseen(unseen: Sequence[Unseen]) -> None:
    """Name on standard error what could not be looked into."""
    for one in unseen:
        print(f"left out, cannot be looked into: {one}", file=sys.stderr)


def but_for(unseen: Sequence[Unseen]) -> str:
    """The end of a message that says what there is not: what could not be looked into, if anything."""
    if not unseen:
        return ""
    more = f" and {len(unseen) - _NAMED} more" if len(unseen) > _NAMED else ""
    return f"; could not be looked into: {', '.join(map(str, unseen[:_NAMED]))}{more}"


def locked_file(folder: Path, names: Sequence[str]) -> Unseen | None:
    """The first of some files of a run that is there and that this user may not read."""
    for name in names:
        try:
            with open(folder / name, "rb"):
                pass
        except FileNotFoundError:
            continue
        except OSError as error:
            return Unseen(folder / name, (error.strerror or "it cannot be read").lower())
    return None


def _entries(folder: Path, found: Walk) -> tuple[list[Path], list[Path]]:
    """The folders in a folder, and the links to folders; a run or kept results are added to what was found."""
    folders, links = [], []
    wandb = folder.name == "wandb"  # whose own folders hold configurations that are no run's
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        path = folder / name
        if name == SWEEPS or (wandb and (name.startswith(_WANDB) or path.is_symlink())):
            continue
        try:
            kind = os.lstat(path).st_mode
        except FileNotFoundError:  # what is written beside its target, and renamed meanwhile: the folder is still there
            continue
        try:
            if stat.S_ISLNK(kind):
                kind = os.stat(path).st_mode
                links += [path] if stat.S_ISDIR(kind) else []
            elif stat.S_ISDIR(kind):
                folders.append(path)
            if name == CONFIG and not stat.S_ISDIR(kind):
                found.runs.append(folder)
            if name == RESULTS and stat.S_ISREG(kind):
                found.kept.append(folder)
            if f"{folder.name}/{name}" == BEGUN:
                found.begun.append(folder.parent)
        except FileNotFoundError:
            found.unseen.append(Unseen(path, "a link to nothing"))
        except OSError as error:
            found.unseen.append(Unseen(path, (error.strerror or "it cannot be read").lower()))
    return folders, links


def _identity(folder: Path) -> tuple[int, int]:
    facts = os.stat(folder)
    return facts.st_dev, facts.st_ino


def _around(link: Path, root: Path) -> bool:
    """Whether a link leads to a folder that it lies in, or that all runs lie in."""
    there = link.resolve()
    return link.parent.resolve().is_relative_to(there) or root.resolve().is_relative_to(there)


def find_runs(root: Path, patterns: str | Sequence[str]) -> list[Path]:
    """The finished runs below `root` that a pattern names; what cannot be looked into is named on standard error.

    A pattern is a path below `root`, a beginning or a part of one ("digits", "rotation_20", "digits/baseline/seed0"),
    or any of these with * and ?; or the path of a run directory itself.

    Raises:
        UserError: if a pattern names no run, or none that is finished.
    """
    found = walk(root)
    runs = {path.relative_to(root).as_posix(): path for path in found.runs}
    chosen: dict[str, Path] = {}
    for pattern in [patterns] if isinstance(patterns, str) else [str(pattern) for pattern in patterns]:
        text = pattern.rstrip("/")
        text = next((name for name in _below(Path(text), root) if name in runs), text)
        forms = (text, f"{text}/*", f"*/{text}", f"*/{text}/*")
        named = {name: path for name, path in runs.items() if any(fnmatchcase(name, form) for form in forms)}
        if not named:
            parts = sorted({part for name in runs for part in name.split("/")})
            none = "there is none that can be seen" if found.unseen else NONE
            there = f"there are: {', '.join(runs)}" if runs else none
            raise UserError(
                f"no run below {root} is named {pattern!r}{nearest(text, parts)} ({there[:300]}){but_for(found.unseen)}"
            )
        finished = {name: path for name, path in named.items() if os.path.exists(path / DONE)}
        if not finished:
            raise UserError(f"{', '.join(named)} below {root} is not finished; repeat its command to finish it")
        for name in sorted(set(named) - set(finished)):
            print(f"left out, not finished: {root / name}", file=sys.stderr)
        chosen.update(finished)
    tell_unseen(found.unseen)
    return [chosen[name] for name in sorted(chosen)]


def _below(path: Path, root: Path) -> list[str]:
    """The names below `root` that a path is, as it is written and with its links followed."""
    both = [(Path(os.path.abspath(path)), Path(os.path.abspath(root)))]
    with suppress(OSError, RuntimeError):  # a link to itself
        both.append((path.resolve(), root.resolve()))
    return [one.relative_to(other).as_posix() for one, other in both if one.is_relative_to(other)]
