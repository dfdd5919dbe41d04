"""Failed jobs of sweeps that another command mends: one that is about the same, and ends well."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from invariance.errors import UserError
from invariance.runs.sweep import ATTEMPTS, JOBS, SWEEPS, Attempt, _attempts, _found, _here, _read, _state
from invariance.runs.sweep_names import subject


def shown_of(folder: Path, number: int) -> str:
    """The command of a sweep's job as a user types it; "" where the sweep does not say."""
    held = _read(folder / JOBS).get("jobs")
    return str(held[number]) if isinstance(held, list) and number < len(held) else ""


def failed_alike(runs: Path, page: str, shown: str, but: Sequence[tuple[Path, int]]) -> list[tuple[Path, int]]:
    """The failed jobs of sweeps that are about the same as a command, which it mends when it ends well.

    Args:
        runs: the runs folder.
        page: the command.
        shown: the command as a user types it.
        but: jobs that it is itself.
    """
    wanted, found, passed = subject(shown), [], {(folder.name, number) for folder, number in but}
    for path in _found(runs / SWEEPS / page, f"*/{JOBS}"):
        held = _read(path).get("jobs")
        for number, one in enumerate(held if isinstance(held, list) else []):
            if (path.parent.name, number) not in passed and subject(str(one)) == wanted:
                told = _attempts(path.parent / ATTEMPTS, number)
                if _state(str(one), told, path.parents[3]).state == "failed":
                    found.append((path.parent, number))
    return found


class Mending(Attempt):
    """A command at work that would mend a failed job of another sweep: an attempt at it if it ends well, else nothing.

    Args:
        folder: the other sweep's.
        number: the job's, from 0.
    """

    def __enter__(self) -> Self:
        _here.append(self)
        return self

    def alive(self) -> None:
        """Nothing is told before the end."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _here.remove(self)
        if error is None:
            with suppress(UserError, OSError):
                self._turn = 1 + max((one.turn for one in _attempts(self._path.parent, self._number)), default=0)
                self.worked = False  # its time is that of its own sweep
                self._write("done")
