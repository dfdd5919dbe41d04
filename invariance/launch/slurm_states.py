"""What SLURM says about jobs: those on the cluster, and how one ended."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

from rich.progress import Progress

from invariance.progress import say

_ASK_EVERY = 10.0
"""Seconds between questions to SLURM."""
_LIVE = ("RUNNING", "COMPLETING", "PENDING")
_PATIENT = {"None", "Priority", "Resources", "BeginTime", "JobArrayTaskLimit", "Dependency", "Prolog", "Cleaning", ""}
"""Reasons to wait that pass by themselves."""
_SENSE = {
    "OUT_OF_MEMORY": "raise hydra.launcher.mem_gb",
    "TIMEOUT": "raise hydra.launcher.signal_delay_s",
    "NODE_FAIL": "its node was lost and SLURM did not requeue it",
    "CANCELLED": "by scancel or an administrator",
}


class SlurmStates:
    """What SLURM says about this user's jobs, asked seldom."""

    def __init__(self) -> None:
        self._states: dict[str, tuple[str, str]] = {}
        self._last_seen: dict[str, float] = {}
        self._told: set[tuple[str, str]] = set()
        self._next = 0.0

    def at_once(self) -> None:
        """Ask at the next look."""
        self._next = 0.0

    def look(self, shown: Progress) -> None:
        """Ask, if it is time, and say which jobs wait for what will not come by itself."""
        if time.monotonic() < self._next:
            return
        asked = states()
        self._next = time.monotonic() + _ASK_EVERY
        if asked is None:  # its controller does not answer: nothing is known
            self._last_seen = dict.fromkeys(self._last_seen, time.monotonic())
            return
        self._states = asked
        self._last_seen |= dict.fromkeys(asked, time.monotonic())
        for number, (state, reason) in asked.items():
            if state == "PENDING" and reason.strip("()") not in _PATIENT and (number, reason) not in self._told:
                self._told.add((number, reason))
                say(shown, f"SLURM does not start job {number}: {reason} (scancel {number} gives it up)", "yellow")

    def gone(self, number: str) -> float:
        """Seconds since SLURM knew a job last, or 0 if it is on the cluster."""
        if number in self._states:
            return 0.0
        return time.monotonic() - self._last_seen.setdefault(number, time.monotonic())


def states() -> dict[str, tuple[str, str]] | None:
    """State and reason of every job of this user that is on the cluster, by id; None if SLURM does not answer."""
    said = ask("squeue", "--me", "--noheader", "--array", "--format=%i|%T|%r")
    if said is None:
        return None
    rows = [line.strip().split("|", 2) for line in said.splitlines() if line.count("|") >= 2]
    return {number: (state, reason) for number, state, reason in rows}


def state_now(number: str) -> str:
    """The state of a job that has not ended long ago, such as RUNNING or CANCELLED; UNKNOWN if SLURM has forgotten."""
    found = re.search(r"\bJobState=(\S+)", ask("scontrol", "--oneliner", "show", "job", number) or "")
    return found[1] if found else "UNKNOWN"


def final_state(number: str) -> str:
    """The state in which a job ended, from SLURM's accounting, or from its controller where there is none."""
    said = ask("sacct", "--noheader", "--parsable2", "--allocations", "--format=State", f"--jobs={number}") or ""
    states = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith(_LIVE)]
    return states[-1] if states else state_now(number)


def ended_as(number: str, errors: Path) -> str:
    """How a job ended, in SLURM's words.

    Args:
        number: its id.
        errors: submitit's file of errors, to which SLURM's own daemon writes what it ended a job for.
    """
    state = final_state(number)
    sense = _SENSE.get(state.split()[0], "")
    if state == "FAILED" and errors.exists():
        said = re.findall(r"^slurmstepd.*?: error: (.+)$", errors.read_text(errors="replace"), flags=re.MULTILINE)
        sense = next((line for line in said if "memory" in line or "oom" in line), said[-1] if said else "")
    return f"SLURM job {number} ended as {state}" + (f" ({sense})" if sense else "")


def ask(*command: str) -> str | None:
    """What one of SLURM's commands prints; None if it fails."""
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout if asked.returncode == 0 else None
