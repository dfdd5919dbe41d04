"""Work done aside, by a thread of its own, for which nobody waits longer than they chose to."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")
_Task = tuple[Callable[[], Any], "Future[Any]"]


class Aside:
    """A thread that does one thing after another, in the order they were given.

    It ends with the process, whatever it is at: what hangs in it holds nobody up.

    Args:
        name: the thread's.
    """

    def __init__(self, name: str) -> None:
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            work, result = task
            try:
                result.set_result(work())
            except BaseException as error:  # whoever asks for the result has it
                result.set_exception(error)

    def give(self, work: Callable[[], T]) -> "Future[T]":
        """Have something done when everything before it is; its `result` waits."""
        result: Future[T] = Future()
        self._tasks.put((work, result))
        return result

    def close(self) -> None:
        """Let the thread end once it has done what it was given."""
        self._tasks.put(None)
