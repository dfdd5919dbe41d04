"""What a machine computes on: its device, the precision of its products, and its memory."""

import ctypes
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch

from invariance.errors import UserError

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST = 2**31 - 1
_WORKSPACE, _NO_ALGORITHM = "CUBLAS_WORKSPACE_CONFIG", "does not have a deterministic implementation"

GPU_SHARE_VARIABLE = "INVARIANCE_GPU_SHARE"
"""The part of a GPU's memory that belongs to this process, where a launcher puts several jobs on it."""


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
    with _float32(device, "ieee"):
        yield


@contextmanager
def _float32(device: torch.device, convolutions: str) -> Iterator[None]:
    """Products on a GPU in full float32, and convolutions as said: ieee, or tf32.

    torch keeps each of these twice, under the names of before 2.9 and under those of after, and raises where a reader
    finds the two at odds (`torch.backends.cudnn.flags`, inductor). So both are set, and both come back.
    """
    if device.type != "cuda":
        yield
        return
    every: Any = torch.backends
    cudnn = every.cudnn
    # the first two are what the others fall back to; the old name of products is the host's, too
    operations = (every, cudnn, cudnn.conv, cudnn.rnn, every.cuda.matmul, every.mkldnn.matmul)
    before = [one.fp32_precision for one in operations]
    # with these the old names can be read, whatever they say
    _set(operations, ("none", "none", "tf32", "tf32", "ieee", "ieee"))
    products, allowed = torch.get_float32_matmul_precision(), _allowed_in_cudnn()
    try:
        torch.set_float32_matmul_precision("highest")
        cudnn.allow_tf32 = convolutions == "tf32"
        _set(operations, ("ieee", "ieee", convolutions, convolutions, "ieee", "ieee"))
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        cudnn.allow_tf32 = allowed
        _set(operations, ("none",) * len(operations))
        for one, precision in zip(operations, before, strict=True):
            if precision != "none" and one.fp32_precision != precision:  # it did not come from a wider setting
                one.fp32_precision = precision


def _set(operations: Sequence[Any], precisions: Sequence[str]) -> None:
    for one, precision in zip(operations, precisions, strict=True):
        one.fp32_precision = precision


def _allowed_in_cudnn() -> bool:
    """The old name's TF32 of cuDNN, where the new ones say TF32."""
    try:
        return bool(torch.backends.cudnn.allow_tf32)
    except RuntimeError:  # at odds with the new ones, so it is off
        return False


@contextmanager
def training_arithmetic(device: torch.device, precision: str, deterministic: bool) -> Iterator[None]:
    """How a GPU computes while a network is trained; on a CPU there is nothing to choose.

    Args:
        device: where it is trained.
        precision: `trainer.precision`; convolutions take TF32 with tf32 alone, and products in float32 never do.
        deterministic: whether the same command gives the same bits: with algorithms that add in a fixed order, chosen
            by no trial. Else cuDNN tries its algorithms on the first batch of every shape, and takes the fastest.

    Raises:
        UserError: if it is to be deterministic, and an operation of the network has no such algorithm.
    """
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    held = cudnn.benchmark, cudnn.deterministic
    try:
        cudnn.benchmark, cudnn.deterministic = not deterministic, deterministic
        with _float32(device, "tf32" if precision == "tf32" else "ieee"):
            with _determinism() if deterministic else nullcontext():
                yield
    finally:
        cudnn.benchmark, cudnn.deterministic = held


@contextmanager
def _determinism() -> Iterator[None]:
    """Algorithms that give the same bits again; an operation that has none is an error, with one exception.

    torch names the backward pass of 3-D average pooling, of which local response normalisation is made, as one of
    those. At stride 1 and without padding, as it is there, its kernel adds in a fixed order.

    Raises:
        UserError: naming the operation.
    """
    enabled = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    workspace = os.environ.get(_WORKSPACE)
    os.environ.setdefault(_WORKSPACE, ":4096:8")  # without it cuBLAS may choose by what is free
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=f".*{_NO_ALGORITHM}")
            warnings.filterwarnings("ignore", message=f"avg_pool3d_backward_cuda {_NO_ALGORITHM}")
            yield
    except (UserWarning, RuntimeError) as error:
        if _NO_ALGORITHM not in str(error):
            raise
        operation = str(error).partition(f" {_NO_ALGORITHM}")[0].split()[-1]
        raise UserError(
            f"trainer.deterministic=true: {operation} of this network has no deterministic algorithm on a GPU; give "
            "trainer.deterministic=false, or train on a CPU"
        ) from error
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warned)
        if workspace is None:
            os.environ.pop(_WORKSPACE, None)


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


def gpu_room(device: torch.device) -> float:
    """Bytes of a GPU's memory that this process may still take: what is free, and its share is not used up.

    Raises:
        UserError: if the variable that tells its share is no share.
    """
    free, whole = torch.cuda.mem_get_info(device)
    given = os.environ.get(GPU_SHARE_VARIABLE) or "1"
    try:
        share = float(given)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UserError(f"{GPU_SHARE_VARIABLE}={given}: give a share of a GPU above 0 and up to 1, as 0.5, or unset it")
    return min(float(free), share * whole - torch.cuda.memory_reserved(device))


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
