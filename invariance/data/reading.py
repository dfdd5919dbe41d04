"""Reading ahead in threads."""

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
_AHEAD = 2  # results that each thread may be ahead by


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
            if len(waiting) == _AHEAD * threads:
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
