"""Processes that help a run: they heed no signal of their own and never outlive the process they help."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def live_under(parent: int) -> None:
    """Make this process a helper: the signals that end a command go to `parent` alone, and this one dies with it.

    A terminal and a scheduler signal every process of a job; only the one that answers for the run may act on it.
    Elsewhere than on Linux a helper notices its parent's end by what it waits for.

    Args:
        parent: process id of the one helped.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)
