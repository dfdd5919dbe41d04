"""How far all sweeps and runs are: `python -m invariance.status`."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from invariance.cli.messages import say_error
from invariance.errors import UserError
from invariance.runs.find import tell_unseen, walk
from invariance.runs.seal import seal
from invariance.runs.sweep import SweepState, read_sweeps
from invariance.runs.watch import RunState, read_runs, seconds_a_job, seconds_left, unseen_sweeps, unverified
from invariance.settings.base import checked
from invariance.settings.pages import StatusPage
from invariance.settings.paths import folder

STATES = ("done", "running", "failed", "stopped", "to do")
SHOWN = 40
"""Running runs and failed jobs that are listed; more are counted."""


def status(config: dict[str, Any]) -> None:
    """Print where everything stands; in a terminal again and again, for as long as something runs or is launched.

    Args:
        config: the configuration of `conf/status.yaml`, plain and resolved.

    Raises:
        UserError: if there is no runs folder, or `every` makes no sense.
    """
    check(config)
    runs = folder(config["runs"], "runs")
    if not runs.is_dir():
        raise UserError(f"runs={config['runs']}: there is no such folder; name the one that runs are written to")
    if config.get("seal"):
        seal_all(runs)
        return

    console = Console()
    now = look(runs)
    if not (now.busy and config["every"] and console.is_terminal and config["progress"]):
        console.print(now.shown(lines=False))
        now.print_lines(console)
        return
    try:
        with Live(now.shown(), console=console, auto_refresh=False) as live:
            going = True
            while going:
                time.sleep(config["every"])
                now = look(runs)
                going = now.busy
                live.update(now.shown(lines=going), refresh=True)
    finally:  # also after Ctrl-C, for long ones were cut
        now.print_lines(console)


def seal_all(runs: Path) -> None:
    """Check the values of every finished run that has no seal, and seal it as it is.

    Raises:
        UserError: at the end, if some are not what their markers, configurations or weights say.
    """
    below = walk(runs)
    tell_unseen(below.unseen)
    todo, failed = unverified(below)[0], 0
    for path in todo:
        try:
            seal(path)
            print(f"sealed: {path.relative_to(runs)}")
        except UserError as error:
            say_error(f"{path.relative_to(runs)}: {error}")
            failed += 1
    if failed:
        raise UserError(f"{failed} of {len(todo)} runs are not sealed, for the reasons above")
    print(f"sealed {len(todo)} runs" if todo else "every finished run that can be read has a seal")


def check(config: dict[str, Any]) -> None:
    """Refuse what can be refused before anything is read.

    Raises:
        UserError: for a value that makes no sense.
    """
    checked(StatusPage, config)
    folder(config["runs"], "runs")


@dataclass(frozen=True)
class Now:
    """Everything there is to say now.

    Attributes:
        tables: what to show as it is.
        lines: what to be copied; never broken.
        busy: whether anything runs, or is launched.
    """

    tables: list[Any]
    lines: list[str]
    busy: bool

    def shown(self, lines: bool = True) -> Group:
        """All of it for a terminal, where a long line is cut; or the tables alone."""
        return Group(*self.tables, *(Text(line, no_wrap=True, overflow="ellipsis") for line in self.lines if lines))

    def print_lines(self, console: Console) -> None:
        """Print what is to be copied."""
        for line in self.lines:
            console.print(line, highlight=False, markup=False, soft_wrap=True)


def look(runs: Path) -> Now:
    """Where everything stands."""
    below = walk(runs)
    sweeps, found = read_sweeps(runs), read_runs(runs, below)
    tables: list[Any] = [sweeps_table(sweeps)] if sweeps else []
    if found:
        tables.append(runs_table(found))
    running = [one for one in found if one.state == "running"]
    if running:
        tables.append(running_table(running[:SHOWN], len(running)))
    lines = [f"launched by {who}: {sweep.title} ({sweep.name})" for sweep in sweeps for who in sweep.launchers]
    busy = bool(running or lines) or any(sweep.count("running") for sweep in sweeps)
    failed = [job for sweep in sweeps for job in sweep.jobs if job.state == "failed"]
    lines += [line for job in failed[:SHOWN] for line in (f"failed: {job.why}", f"  again: {job.shown}")]
    if len(failed) > SHOWN:
        lines.append(f"and {len(failed) - SHOWN} more that failed")
    without, damaged = unverified(below)
    unseen = below.unseen + damaged + unseen_sweeps(runs)
    lines += [f"cannot be looked into: {one}" for one in unseen[:SHOWN]]
    if len(unseen) > SHOWN:
        lines.append(f"and {len(unseen) - SHOWN} more that cannot be looked into")
    lines += [f"unverified, finished before runs had seals: {path.relative_to(runs)}" for path in without[:SHOWN]]
    if without:
        more = f"  {len(without)} in all; " if len(without) > SHOWN else "  "
        lines.append(f"{more}to check their values and seal them: {seal_command(runs)}")
    if not tables and not unseen:
        lines.append(f"nothing in {runs} yet")
    return Now(tables, lines, busy)


def seal_command(runs: Path) -> str:
    """The command that seals the finished runs of a folder."""
    return shlex.join(["invariance-status", f"runs={runs}", "seal=true"])


def sweeps_table(sweeps: list[SweepState]) -> Any:  # noqa: ANN401
    """A line a sweep: its jobs by state, the pace of those that are done, and the time left."""
    table = _table("Sweeps", ["sweep", *STATES, "a job", "left"])
    for sweep in sweeps:
        counts = [str(sweep.count(state) or "") for state in STATES]
        times = [duration(seconds_a_job(sweep)), duration(seconds_left(sweep))]
        table.add_row(Text(f"{sweep.title} ({sweep.name})"), *counts, *times)
    return table


def runs_table(found: list[RunState]) -> Any:  # noqa: ANN401
    """A line for every stage and data set: its runs by state."""
    states = [state for state in STATES if state not in ("failed", "to do")]
    table = _table("Runs", ["stage", "data", *states])
    for stage, data in sorted({(one.stage, one.data) for one in found}):
        here = [one.state for one in found if (one.stage, one.data) == (stage, data)]
        table.add_row(stage, data, *(str(here.count(state) or "") for state in states))
    return table


def running_table(running: list[RunState], count: int) -> Any:  # noqa: ANN401
    """A line for every run that is worked at: how far it is, its pace, and the time left."""
    more = f" ({len(running)} of {count})" if count > len(running) else ""
    table = _table(f"Running{more}", ["run", "worked at by", "done", "pace", "left"])
    for one in running:
        done = f"{one.done:,} of {one.of:,} {one.unit}" if one.of else ""
        pace = "" if not one.rate else f"{one.rate:,.1f}/s" if one.rate >= 0.1 else f"{one.rate * 3600:,.1f}/h"
        table.add_row(one.name, one.where, done, pace, duration(one.seconds_left))
    return table


def _table(title: str, columns: list[str]) -> Any:  # noqa: ANN401

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        words = number == 0 or column in ("data", "worked at by")
        table.add_column(column, justify="left" if words else "right", overflow="fold")
    return table


def duration(seconds: float | None) -> str:
    """A time in words: "12 s", "3 min", "2.5 h", "4.2 d"; nothing for None."""
    if seconds is None:
        return ""
    for size, unit in ((86400.0, "d"), (3600.0, "h")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
