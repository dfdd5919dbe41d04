"""Checkpoints written beside the training: what they hold is copied at once, and a thread writes the copy."""

import copy
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from invariance.runs.run import LAST, Run
from invariance.training.saving import AtomicCheckpointIO


class BesideCheckpointIO(AtomicCheckpointIO):
    """`AtomicCheckpointIO`, one file after another in a thread, while training goes on.

    The files of a span come in the order in which they were given, the last state behind the best network whose hash it
    holds, and those of the next span wait until they are written. Where one could not be written none follows: a last
    state would otherwise speak of a best network that is not there.

    Args:
        run: the run whose checkpoints they are; None: nobody's.
    """

    def __init__(self, run: Run | None = None) -> None:
        super().__init__(run)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._writing: dict[str, Future[None]] = {}
        self._failure: BaseException | None = None
        self._told = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: ANN401
        """Copy a checkpoint into the host's memory, and let it be written.

        Raises:
            UserError: if the run's folder is another's, or a checkpoint before could not be written.
        """
        if self._run is not None:
            self._run.require_here()
        if self._writing.keys() & {LAST, Path(path).name}:
            self.finish()
        self._writing[Path(path).name] = self._thread.submit(self._write, snapshot(checkpoint), path)

    def _write(self, checkpoint: dict[str, Any], path: Any) -> None:  # noqa: ANN401
        if self._failure is None:
            try:
                super().save_checkpoint(checkpoint, path)
            except BaseException as error:  # it is the training's, at its next checkpoint or its end
                self._failure = error

    def teardown(self) -> None:
        """Wait for what is being written; whether it could be, `finish` tells."""
        wait(self._writing.values())
        self._writing.clear()

    def finish(self) -> None:
        """Wait for what is being written.

        Raises:
            UserError: if it could not be written, or what came before.
        """
        self.teardown()
        if self._failure is not None:
            self._told = True
            raise self._failure

    @contextmanager
    def written(self) -> Iterator[None]:
        """What is saved within is on the disk at the end; where that ends by an error, a second one is said in a line.

        Raises:
            UserError: if a checkpoint could not be written.
        """
        try:
            yield
        except BaseException:
            self.teardown()
            if self._failure is not None and not self._told:
                print(f"error: {self._failure}", file=sys.stderr)
            raise
        self.finish()


def snapshot(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint in the host's memory, which later updates do not change; what shares memory in it still does."""
    of_gpu = {id(one): one for one in tree_leaves(checkpoint) if isinstance(one, Tensor) and one.is_cuda}
    held: dict[int, Any] = {
        key: torch.empty_like(one, device="cpu", pin_memory=True).copy_(one, non_blocking=True)
        for key, one in of_gpu.items()
    }
    for device in {one.device for one in of_gpu.values()}:
        torch.cuda.current_stream(device).synchronize()
    return copy.deepcopy(checkpoint, held)
