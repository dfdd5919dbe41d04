"""Progress bars with rate and time left, for everything that takes long."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text


def say(shown: Progress, line: str, style: str | None = None) -> None:
    """Print a line above a progress bar, as it is: one that is longer than the terminal can still be copied."""
    shown.console.print(line, highlight=False, markup=False, soft_wrap=True, style=style)


class _Rate(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        """The rate of a task: its mean once it is finished."""
        if task.finished and task.total:  # all of it, not the last moments
            speed = task.total / max(task.finished_time or 0.0, 1e-3)
        else:
            speed = task.speed or 0.0
        return Text(f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.2f}/s")


def bar(shown: bool, of_bytes: bool = False) -> Progress:
    """A progress bar on standard error, of steps or of bytes; with `shown` false it prints nothing."""
    amounts: list[ProgressColumn] = (
        [DownloadColumn(), TransferSpeedColumn()] if of_bytes else [MofNCompleteColumn(), _Rate()]
    )
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *amounts,
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shown,
    )
