"""How much memory there is, and what the C library does with freed memory."""

import ctypes
import os
import sys
from contextlib import suppress

from invariance.errors import UserError

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST = 2**31 - 1


def keep_freed() -> None:
    """Let freed tensors' memory serve the next ones, for the rest of the process; glibc alone has the switch.

    By default glibc maps every block of more than 32 MB anew and gives it back when freed. A batch of 64 images at 227²
    is larger, and to have its pages mapped and cleared takes several times as long as to transform it.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, _LARGEST)


def machine_bytes() -> int:
    """Memory of this machine, or what a container may take of it, in bytes."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError), open(path, encoding="ascii") as file:  # "max" is no limit
            found.append(int(file.read()))
    return min(found)


def require(needed: int, what: str, remedy: str) -> None:
    """Refuse what cannot fit into this machine's memory, before it is allocated.

    Args:
        needed: bytes that it takes at the least.
        what: what takes them.
        remedy: what to do.

    Raises:
        UserError: naming the needed and the available bytes.
    """
    there = machine_bytes()
    if needed > there:
        raise UserError(f"{what} takes {shown_bytes(needed)}, and this machine has {shown_bytes(there)}; {remedy}")


def shown_bytes(count: int) -> str:
    """Bytes as a message has them: "12,000,000 bytes", or a power of ten where that is long."""
    return f"{count:,} bytes" if count < 10**18 else f"10^{len(str(count)) - 1} bytes"
