"""What ends a run's processes: signals of users and schedulers, and the end of the process that they help."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_NUMBERS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)]


@dataclass
class _Hold:
    """How many parts of the program let signals wait, and the first that came meanwhile; 0 for none."""

    depth: int = 0
    came: int = 0


_hold = _Hold()
_interrupted, _gently = threading.Event(), threading.Event()
_chosen: dict[int, Any] = {}
_TOGETHER = 2.0
"""Seconds within which signals count as one: a scheduler sends its own to every process of a job, and not once."""


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Let what ends a command end it in order, as Ctrl-C does.

    That is SIGTERM, the SIGUSR1 that schedulers send before a job's limit, and the SIGHUP of a terminal that closes,
    unless the command was begun to live on then (nohup).
    """
    if threading.current_thread() is not threading.main_thread():  # where Python handles no signals
        yield
        return

    last = -_TOGETHER
    terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def interrupt(number: int, _frame: FrameType | None) -> None:
        """What a signal does: interrupt, once for several that come together."""
        nonlocal last
        if number == signal.SIGHUP:
            _leave(terminals)
        if _hold.depth:
            _hold.came = _hold.came or number
            return
        again = _interrupted.is_set()
        if again and time.monotonic() - last < _TOGETHER:
            return
        last = time.monotonic()
        _interrupted.set()
        if again or not _gently.is_set():
            raise KeyboardInterrupt

    _interrupted.clear()
    heeded = [one for one in _NUMBERS if (one, signal.getsignal(one)) != (signal.SIGHUP, signal.SIG_IGN)]
    held = {number: signal.signal(number, interrupt) for number in heeded}
    _chosen.update(dict.fromkeys(heeded, interrupt))
    try:
        yield
    finally:
        _chosen.clear()
        _interrupted.clear()
        for number, handler in held.items():
            signal.signal(number, handler)


def _leave(terminals: Iterable[int]) -> None:
    """Let what is printed to a terminal that closes go nowhere: its errors would end what saves a run's state."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in terminals:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def heed_signals() -> None:
    """Put the handlers back that a library has replaced by its own since."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in _chosen.items():
            signal.signal(number, handler)


@contextmanager
def gently() -> Iterator[None]:
    """Let the first signal wait for the next `raise_if_interrupted`; a second one ends at once.

    Raised anywhere, an interruption can strike where Python ignores exceptions, as in a destructor, and be lost.

    Raises:
        KeyboardInterrupt: at the end, if a signal came that nothing heeded.
    """
    _gently.set()
    try:
        yield
        raise_if_interrupted()
    finally:
        _gently.clear()


def was_interrupted() -> bool:
    """Whether a signal came since the command began."""
    return _interrupted.is_set()


def raise_if_interrupted() -> None:
    """End here if a signal came.

    Raises:
        KeyboardInterrupt: if one did since the command began.
    """
    if _interrupted.is_set():
        raise KeyboardInterrupt


def die_with(parent: int) -> Callable[[], None]:
    """What a new process does first so that the end of `parent`, however it comes, ends it in order (on Linux)."""

    def first() -> None:
        """What the child does before anything else."""
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before the line above
            os._exit(1)

    return first


def live_under(parent: int) -> None:
    """Make this process a helper: the signals that end a command go to `parent` alone, and this one dies with it.

    A terminal and a scheduler signal every process of a job; only the one that answers for the run may act on it.
    Elsewhere than on Linux a helper notices its parent's end by what it waits for.

    Args:
        parent: process id of the one helped.
    """
    _interrupted.clear()
    _chosen.update(dict.fromkeys(_NUMBERS, signal.SIG_IGN))
    for number in _NUMBERS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)


def fork_under(parent: int) -> Callable[[], int]:
    """Make this process a helper of `parent`, as `live_under`, that forks processes which are commands of their own.

    Args:
        parent: process id of the one helped.

    Returns:
        A fork: it gives a process's id, and 0 in that process, which has a session of its own, the dispositions of
        signals that this process was born with, and none of its signals lost; this one's end ends it in order.
    """
    born = {number: signal.getsignal(number) for number in _NUMBERS}
    live_under(parent)
    here = os.getpid()

    def fork() -> int:
        """The fork."""
        # one that comes before the dispositions are back would be ignored, as this process ignores it
        signal.pthread_sigmask(signal.SIG_BLOCK, _NUMBERS)
        try:
            process = os.fork()
            if process == 0:
                os.setsid()  # a terminal's Ctrl-C goes to the command that waits, alone
                _chosen.clear()
                for number, handler in born.items():
                    signal.signal(number, handler)
                die_with(here)()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _NUMBERS)
        return process

    return fork


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let what interrupts a command wait for the end of something that takes a moment.

    A mask would not do: it is one thread's alone, and what another thread catches is handled in the main thread too.
    """
    _hold.depth += 1
    try:
        yield
    finally:
        _hold.depth -= 1
        if not _hold.depth and _hold.came:
            number, _hold.came = _hold.came, 0
            signal.raise_signal(number)


def adopt_orphans(adopt: bool) -> None:
    """Make processes whose parent ends children of this one if it is their forefather, or no longer (on Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(adopt))
