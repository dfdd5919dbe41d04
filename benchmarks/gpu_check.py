"""One command that checks a GPU: is what it computes right, and is it fast; in under eight minutes.

    python benchmarks/gpu_check.py --json gpu-check.json        # make gpu-check
    python benchmarks/gpu_check.py --device cpu                 # what is right, at toy size, in about a minute
    python benchmarks/gpu_check.py --only precision resume

Every group of checks runs in a process of its own, with a limit of its own, so that a check which fails, hangs or harms
the GPU's context takes no other with it. The limits of all groups together are below eight minutes. A row is `ok`;
`failed`, where something is wrong; `slow`, where it is right and below its mark; or `not run`, with the reason. A check
that dies, or is not done in time, is `failed`; only where speed alone is looked at, time that is over is `not run`. The
exit status is 1 if a row failed. The marks of speed are predictions: docs/gpu.md says whether this was ever run on a
GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch
from gpu_rows import Check, Row, Scale
from rich.console import Console
from rich.table import Table

from invariance.device import keep_freed
from invariance.runs.outputs import output_file

GROUPS: dict[str, tuple[str, int]] = {
    "numbers": ("gpu_correct.NUMBERS", 75),
    "training": ("gpu_correct.TRAINING", 115),
    "launcher": ("gpu_launch.LAUNCHER", 50),
    "speed of training": ("gpu_speed.SPEED_OF_TRAINING", 95),
    "speed": ("gpu_speed.SPEED", 70),
    "rates": ("gpu_speed.RATES", 60),
}
"""Where the checks of a group are, and its seconds."""

OF_SPEED = ("speed of training", "speed", "rates")
"""The groups that look at speed alone: one that is not done in time is not wrong, as one that hangs may be."""

SLACK_OF_A_CPU = 10
"""How many times a limit a group may take on a CPU, which others may share."""

_BEGUN, _ROW = "gpu-check begun: ", "gpu-check row: "


def scale_of(device: str) -> Scale:
    """The size of the checks on a device."""
    if device == "cuda":
        return Scale(torch.device("cuda"), dim=4096, images=4096, size=227, batch=256)
    return Scale(torch.device("cpu"), dim=48, images=512, size=67, batch=8)


def checks_of(group: str) -> Sequence[Check]:
    """The checks of a group; their modules take seconds to import."""
    module, _, name = GROUPS[group][0].partition(".")
    checks: Sequence[Check] = getattr(__import__(module), name)
    return checks


def work(group: str, only: Sequence[str], at: Scale) -> None:
    """What the process of a group does: all its checks, a line for each row."""
    keep_freed()
    for check in checks_of(group):
        if only and check.name not in only:
            continue
        print(_BEGUN + check.name, flush=True)
        begun = time.perf_counter()
        if check.gpu and not at.gpu:
            say(check, check.not_run("", "no GPU"))
            continue
        try:
            for row in check.work(check, at):
                say(check, row)
        except Exception as error:
            say(check, check.failed("", error))
        print(f"{check.name}: {time.perf_counter() - begun:.1f} s", flush=True)


def say(check: Check, row: Row) -> None:
    """Tell the process that began this one."""
    print(_ROW + json.dumps({"check": check.name, **row.plain}), flush=True)


def run(group: str, given: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of a group, from a process that is ended when its time is over; a CPU shares its cores, and has more."""
    checks = [check for check in checks_of(group) if not given.only or check.name in given.only]
    if given.device == "cpu" and all(check.gpu for check in checks):
        return [{"check": check.name, **check.not_run("", "no GPU").plain} for check in checks]
    command = [sys.executable, __file__, "--group", group, "--device", given.device]
    command += ["--only", *given.only] if given.only else []
    limit = GROUPS[group][1] * (1 if given.device == "cuda" else SLACK_OF_A_CPU)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment()
    )
    assert process.stdout is not None and process.stderr is not None
    rows: list[dict[str, Any]] = []
    begun: list[str] = []
    said: list[str] = []
    readers = [
        threading.Thread(target=read, args=(process.stdout, rows, begun), daemon=True),
        threading.Thread(target=said.extend, args=(process.stderr,), daemon=True),
    ]
    for reader in readers:
        reader.start()
    why, over = "", False
    try:
        if status := process.wait(limit):
            why = f"killed by {signal.Signals(-status).name}" if status < 0 else f"status {status}"
    except subprocess.TimeoutExpired:
        why, over = f"the group's {limit} s were over", True
    finally:
        end(process)
    for reader in readers:
        reader.join(5)
    if why:
        last = " ".join("".join(said).split())[-300:]
        why = f"{why}: {last}" if last else why
        rows += unfinished(checks, begun, why, failed=not over or group not in OF_SPEED)
    return rows


def environment() -> dict[str, str]:
    """This process's, so that the checkout is found from anywhere and nothing is sent anywhere."""
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join([root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]).rstrip(os.pathsep)
    return {**os.environ, "PYTHONPATH": path, "WANDB_MODE": "offline"}


def end(process: subprocess.Popen[str]) -> None:
    """End a group's process and what it began, which may outlive it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def read(stream: IO[str], rows: list[dict[str, Any]], begun: list[str]) -> None:
    """Take the rows that a process tells, and the names of the checks that it began, as they come."""
    for line in stream:
        if line.startswith(_ROW):
            rows.append(json.loads(line.removeprefix(_ROW)))
        elif line.startswith(_BEGUN):
            begun.append(line.removeprefix(_BEGUN).rstrip())
        elif line.strip():
            print(f"  {line.rstrip()}", flush=True)


def unfinished(checks: Sequence[Check], begun: Sequence[str], why: str, *, failed: bool) -> list[dict[str, Any]]:
    """Rows for the checks of a group that ended early: first the one that it ended in, failed if it is to blame."""
    left = checks[max(0, len(begun) - 1) :]
    made = [{"check": check.name, **check.not_run("rest", why).plain} for check in left]
    return [{**row, "state": "failed"} if failed and k == 0 else row for k, row in enumerate(made)]


def table_of(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """All rows; what was not run and what failed with the reason."""
    table = Table("check", "value", "mark", "", title=title, title_justify="left")
    for row in rows:
        value = "" if row["value"] is None else f"{row['value']:.4g} {row['unit']}".strip()
        state = row["state"] if not row["why"] else f"{row['state']}: {row['why']}"
        style = {"failed": "red", "slow": "yellow", "not run": "dim"}.get(row["state"])
        table.add_row(row["name"], value, row["mark"], state, style=style)
    return table


def figures_of(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> dict[str, Any]:
    """The same as one flat object: values by name, and the state of what is not ok."""
    values = {row["name"]: row["value"] for row in rows if row["value"] is not None}
    states = {f"state_{row['name']}": row["state"] for row in rows if row["state"] != "ok"}
    reasons = {f"why_{row['name']}": row["why"] for row in rows if row["why"]}
    return {**about, **values, **states, **reasons}


def main() -> None:
    """Run the groups, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    there = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=there, help="a GPU if one is there")
    parser.add_argument("--only", nargs="+", default=[], metavar="CHECK", help="names of checks, as precision")
    parser.add_argument("--group", choices=GROUPS, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=output_file, help="write the figures here as one flat object")
    given = parser.parse_args()
    at = scale_of(given.device)
    if given.group:
        work(given.group, given.only, at)
        return
    known = [check.name for group in GROUPS for check in checks_of(group)]
    if wrong := set(given.only) - set(known):
        parser.error(f"--only {' '.join(sorted(wrong))}: choose of {', '.join(known)}")
    if at.gpu and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU on this machine")
    name = torch.cuda.get_device_name() if at.gpu else "no GPU: what is right, at toy size, on the CPU"
    print(f"gpu-check on {name}, torch {torch.__version__}", flush=True)
    begun, rows = time.perf_counter(), []
    for group in GROUPS:
        rows += run(group, given)
    seconds = time.perf_counter() - begun
    count = {state: sum(row["state"] == state for row in rows) for state in ("ok", "slow", "failed", "not run")}
    told = ", ".join(f"{number} {state}" for state, number in count.items())
    Console(width=140).print(table_of(rows, f"{name}: {told}; {seconds:.0f} s"))
    if given.json:
        about = {"device": name, "torch": torch.__version__, "seconds": round(seconds, 1), **count}
        given.json.write_text(json.dumps(figures_of(rows, about), indent=1) + "\n")
    sys.exit(1 if count["failed"] else 0)


if __name__ == "__main__":
    main()
