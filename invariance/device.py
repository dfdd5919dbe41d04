"""What a machine computes on: its device, the precision of its products, and its memory."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from invariance.errors import UserError

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST = 2**31 - 1


def choose_device(accelerator: str) -> torch.device:
    """The device that an accelerator means on this machine: a GPU for gpu and cuda, and for auto if one is there.

    Raises:
        UserError: if a GPU is asked for and none is there, or for an accelerator that is none of these.
    """
    if accelerator not in ("auto", "cpu", "gpu", "cuda"):
        raise UserError(f"trainer.accelerator={accelerator!r}: choose auto, cpu or gpu")
    there = torch.cuda.is_available()
    if accelerator in ("gpu", "cuda") and not there:
        raise UserError(f"trainer.accelerator={accelerator}: torch finds no GPU on this machine; try trainer=auto")
    return torch.device("cuda" if there and accelerator != "cpu" else "cpu")


def check_devices(accelerator: str, devices: int) -> None:
    """Refuse devices that are not there.

    Raises:
        UserError: naming the accelerator or the number.
    """
    if choose_device(accelerator).type == "cuda" and devices > torch.cuda.device_count():
        raise UserError(f"trainer.devices={devices}: this machine has {torch.cuda.device_count()} GPUs")


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Products and convolutions on a GPU in full float32 while it lasts: TF32 keeps 10 bits, and a measurement more."""
    if device.type != "cuda":
        yield
        return
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


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
