"""Progress bars with rate and time left, for everything that takes long."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Rate(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f}/s" if task.speed and task.speed >= 10 else f"{task.speed or 0:.2f}/s")


def bar(shown: bool) -> Progress:
    """A progress bar on standard error; with `shown` false it prints nothing."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn(),
        console=Console(stderr=True), disable=not shown,
    )
