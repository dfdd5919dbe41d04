"""Seeds derived from names, so that every random stream is reached directly and none runs into another."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

GLOBAL_STATES = threading.RLock()
"""Held by whoever sets the global random states and draws from them, so that no other thread draws in between."""


def derive(*parts: int | str) -> int:
    """A seed in [0, 2^63) from any numbers and names: the same parts give the same seed on every machine."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by `derive(*parts)`."""
    return torch.Generator().manual_seed(derive(*parts))


@contextmanager
def own_states(device: torch.device) -> Iterator[None]:
    """Torch's global random states, of the CPU and of a device, put aside while it lasts, by one thread at a time."""
    devices = [device] if device.type == "cuda" else []
    with GLOBAL_STATES, torch.random.fork_rng(devices=devices):
        yield
