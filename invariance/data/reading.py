"""Reading ahead in threads, what is slow in many of them at once, into memory that serves again."""

import os
import weakref
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")
AHEAD = 2
"""Results that each thread may be ahead by."""
_AT_ONCE = 32  # requests that a disk is to have before it


def read_ahead(read: Callable[[int], T], count: int, threads: int) -> Generator[T, None, None]:
    """What `read` gives for 0 to `count` − 1, in this order; an error comes in the place of what it happened to.

    Closing the iterator ends the threads; so do its end and an error.

    Args:
        read: called in the threads, by several at once.
        count: how often.
        threads: threads that read ahead, each by two results; 0: each result is read when it is asked for.
    """
    if not threads:
        yield from map(read, range(count))
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="reading")
    try:
        places = iter(range(count))
        waiting: deque[Future[T]] = deque()
        for place in places:
            waiting.append(pool.submit(read, place))
            if len(waiting) == AHEAD * threads:
                break
        while waiting:
            result = waiting.popleft().result()
            if (place := next(places, -1)) >= 0:
                waiting.append(pool.submit(read, place))
            if not waiting:  # who knows the count never asks again
                pool.shutdown()
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


@cache
def _many() -> ThreadPoolExecutor:
    """Threads of the whole process that wait for its disks; they are idle between."""
    return ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="waiting for disks")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_many.cache_clear)  # a child has none of its parent's threads


def spread(work: Callable[[T], object], items: Sequence[T]) -> None:
    """Call `work` with every item, in many threads at once; when it returns or raises, none of them is at it any more.

    Raises:
        Exception: what `work` raised for the first of the items that it failed for.
    """
    left = iter(list(enumerate(items)))
    failed: dict[int, Exception] = {}

    def some() -> None:
        """Work on the next item while there is one."""
        for place, item in left:
            try:
                work(item)
            except Exception as error:  # noqa: BLE001
                failed[place] = error
                return

    if len(items) > 1:
        others: list[Future[None]] = []
        try:
            with suppress(RuntimeError):  # the system gives no more threads: those that there are, or this one, do it
                for _ in range(min(_AT_ONCE, len(items))):
                    others.append(_many().submit(some))
            if not others:
                some()
            wait(others)
        finally:  # after an interruption, too, nothing is written any more into what the caller gave
            deque(left, maxlen=0)
            wait(others)
    else:
        some()
    if failed:
        raise failed[min(failed)]


class Buffers:
    """Memory for batches, which serves again once nothing refers to it: no tensor, no view and no array of it.

    Whoever keeps a batch keeps its memory, and others are filled meanwhile. So there are as many buffers as batches
    that somebody has, be it a thread that fills one, the order they wait in, or their user.

    Args:
        pinned: whether a GPU fetches from them by itself. Then torch keeps the memory: an event for each copy that was
            queued from a pinned block says when it is through, and only then the block serves again.
        kept: how many are kept that nobody has.
    """

    def __init__(self, pinned: bool, kept: int) -> None:
        self._pinned, self._free = pinned, deque[np.ndarray](maxlen=kept)

    def take(self, size: int) -> Tensor:
        """A buffer uint8 (size,), whatever it holds."""
        if self._pinned:
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)
        while True:
            try:
                memory = self._free.pop()
            except IndexError:
                memory = np.empty(size, np.uint8)
            if len(memory) == size:
                break
        lent = memory[:]  # the tensor's memory holds it, and so do all that share that
        weakref.finalize(lent, self._free.append, memory).atexit = False
        return torch.from_numpy(lent)
