"""One network on several devices: the processes beside this one, each a rank of the same training."""

import multiprocessing
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

from torch import distributed

from invariance.errors import UserError
from invariance.runs.processes import live_under

_NAMES = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_LOOK_EVERY, _GRACE = 0.5, 30.0  # seconds


def _variables(rank: int, world: int, port: int) -> dict[str, str]:
    """The environment by which Lightning takes a process for a rank that is there already."""
    values = (str(rank), "0", str(world), "127.0.0.1", str(port))
    return dict(zip(_NAMES, values, strict=True))


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@contextmanager
def _set(variables: Mapping[str, str]) -> Iterator[None]:
    """Variables of the environment, while it lasts; Lightning removes some of them itself."""
    held = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in held.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class Ranks:
    """This process as rank 0 of several.

    Args:
        world: how many ranks there are, this one among them.
    """

    def __init__(self, world: int) -> None:
        self.world, self._port = world, _free_port() if world > 1 else 0
        self._others: list[BaseProcess] = []
        self._over = threading.Event()

    @contextmanager
    def environment(self) -> Iterator[None]:
        """Let Lightning take this process for rank 0; nothing changes where it is the only one."""
        if self.world == 1:
            yield
            return
        with _set(_variables(0, self.world, self._port)):
            yield

    @contextmanager
    def running(self, work: Callable[..., None], *arguments: Any) -> Iterator[None]:  # noqa: ANN401
        """Run `work(*arguments)` as every other rank beside what this process does; none of them outlives it.

        Raises:
            UserError: if another rank died.
        """
        if self.world == 1:
            yield
            return
        context = multiprocessing.get_context("spawn")
        for rank in range(1, self.world):
            process = context.Process(target=_as_rank, args=(os.getpid(), work, arguments), daemon=True)
            with _set(_variables(rank, self.world, self._port)):  # Lightning looks while it is imported
                process.start()
            self._others.append(process)
        watch = threading.Thread(target=self._watch, daemon=True)
        watch.start()
        try:
            yield
            for other in self._others:
                other.join(_GRACE)
        except RuntimeError as error:  # what a collective raises whose other end is gone
            time.sleep(2 * _LOOK_EVERY)
            if self._dead():
                raise UserError(self._message()) from error
            raise
        finally:
            self._over.set()
            for other in self._others:
                other.kill()
                other.join()
            self._leave_group()

    def _dead(self) -> list[int]:
        return [rank for rank, process in enumerate(self._others, 1) if process.exitcode]

    def _message(self) -> str:
        rank = self._dead()[0]
        code = self._others[rank - 1].exitcode or 0
        why = f"by signal {-code}, as for want of memory" if code < 0 else f"with status {code}; its error stands above"
        return f"rank {rank} of {self.world} ended early, {why}. Repeat to go on"

    def _watch(self) -> None:
        """End this process where another rank is dead and a collective waits for it forever."""
        while not self._over.wait(_LOOK_EVERY):
            if self._dead() and not self._over.wait(_GRACE):
                print(f"error: {self._message()}", file=sys.stderr, flush=True)
                os._exit(1)

    @staticmethod
    def _leave_group() -> None:
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()


def _as_rank(parent: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """The main function of another rank."""
    live_under(parent)
    try:
        work(*arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(2)
