"""What the C library does with freed memory."""

import ctypes
import sys

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
