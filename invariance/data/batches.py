"""Batches of prepared data in an exact order, any of which can be reached directly."""

import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from invariance.data.packing import DRAWN, Layout, Mover, PackedBatch
from invariance.data.prepared import Prepared, Split
from invariance.data.reading import AHEAD, Buffers, read_ahead
from invariance.errors import UserError
from invariance.seeds import derive

Drawn = dict[str, Tensor]


class StepSampler:
    """Which images make the batch of each update: permutations of all images one after another, cut into batches.

    A batch may run from one pass over the images into the next, so every image is used equally often.

    Args:
        n: images there are.
        batch_size: images of a batch.
        seed: seed of the permutations.
    """

    def __init__(self, n: int, batch_size: int, seed: int) -> None:
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self._held: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def _order(self, epoch: int) -> NDArray[np.int64]:
        held = self._held  # other threads may put another epoch there
        if held[0] != epoch:
            held = epoch, np.random.default_rng(derive(self.seed, "order", epoch)).permutation(self.n)
            self._held = held
        return held[1]

    def indices(self, step: int) -> NDArray[np.int64]:
        """The images (batch_size,) of update `step`, counted from 0."""
        start, stop = step * self.batch_size, (step + 1) * self.batch_size
        parts = []
        while start < stop:
            epoch, place = divmod(start, self.n)
            part = self._order(epoch)[place : place + stop - start]
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def gather(split: Split, indices: NDArray[np.int64], buffers: Buffers, drawn: Drawn | None = None) -> PackedBatch:
    """Images uint8 (B, C, H, W) and labels int64 (B,) at `indices`, in their order; images are verified once a process.

    Args:
        split: the split.
        indices: (B,) which images.
        buffers: gives the memory they go into.
        drawn: tensors that travel with them; None: the batch has no third part.

    Raises:
        UserError: if they cannot be read, or differ from their checksums.
    """
    parts = {
        "x": (torch.uint8, (len(indices), *split.images.shape[1:])),
        "y": (torch.int64, (len(indices),)),
        **{DRAWN + name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in (drawn or {}).items()},
    }
    layout = Layout(parts)
    buffer = buffers.take(layout.bytes)
    views = layout.views(buffer)
    split.images.read(indices, out=views["x"].numpy(), once=True)
    views["y"].copy_(torch.from_numpy(split.labels[indices]))
    for name, tensor in (drawn or {}).items():
        views[DRAWN + name].copy_(tensor)
    return PackedBatch(buffer, layout, drawn is not None)


class Batches:
    """Batches of a split in order, read ahead by threads.

    Args:
        split: the split.
        indices: which images make each batch, by its place.
        count: batches.
        threads: threads that read ahead; 0 reads in the caller's own.
        draw: what is drawn for each batch, by its place; None: nothing is, and batches have two parts.
    """

    def __init__(
        self,
        split: Split,
        indices: Callable[[int], NDArray[np.int64]],
        count: int,
        threads: int,
        draw: Callable[[int], Drawn] | None = None,
    ) -> None:
        self.split, self.indices, self.count, self.threads, self.draw = split, indices, count, threads, draw
        # beside those that wait and are being filled, the user has one and asks for the next
        self._buffers = Buffers(torch.cuda.is_available(), kept=AHEAD * threads + 2)
        self._reading: list[Generator[PackedBatch, None, None]] = []

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[PackedBatch]:
        self.close()
        self._reading = [read_ahead(self._read, self.count, self.threads)]
        return self._reading[0]

    def _read(self, place: int) -> PackedBatch:
        return gather(self.split, self.indices(place), self._buffers, None if self.draw is None else self.draw(place))

    def close(self) -> None:
        """End the threads that read ahead."""
        while self._reading:
            self._reading.pop().close()


class PreparedData(pl.LightningDataModule):
    """Prepared data for a Lightning trainer; batches are (x uint8 (B, C, H, W), y int64 (B,)).

    With `draw`, training batches are (x, y, drawn): what it gave for the update, in which every tensor whose first
    dimension is the number of all devices' images is cut down to this device's. Each batch is one buffer, which one
    copy moves to the device.

    The trainer's epochs are spans of `val_every` updates: the training loader of span s gives the batches of updates
    s·val_every to (s+1)·val_every − 1, and none beyond `updates`. Which images these are depends on the seed and the
    update alone, so a trainer that resumes at a span's start sees what an uninterrupted one saw, with any number of
    workers. The trainer must be built with `reload_dataloaders_every_n_epochs=1`, and with `max_epochs` (of spans) or
    `max_steps` (and `max_epochs=-1`), not both: then Lightning counts an epoch too many after resuming. Batches follow
    its count of updates, which is right either way. Of several devices each trains on an equal slice of every batch,
    and validates on everything.

    Args:
        prepared: the data.
        batch_size: images of a training batch.
        updates: updates of the whole training.
        val_every: updates between validations.
        seed: seed of the order.
        workers: threads that read ahead; 0 reads in the trainer's own.
        eval_batch_size: images of a validation batch.
        draw: called by the threads that read ahead, in any order and several at once, with an update and the number of
            all devices' images in it; gives tensors on the CPU. None: nothing is drawn.
    """

    def __init__(
        self,
        prepared: Prepared,
        batch_size: int,
        updates: int,
        val_every: int,
        seed: int,
        workers: int = 0,
        eval_batch_size: int = 256,
        draw: Callable[[int, int], Drawn] | None = None,
    ) -> None:
        super().__init__()
        self.prepared, self.updates, self.val_every, self.workers = prepared, updates, val_every, workers
        self.eval_batch_size, self.draw = eval_batch_size, draw
        self.sampler = StepSampler(len(prepared.split("train")), batch_size, seed)
        self._made: weakref.WeakSet[Batches] = weakref.WeakSet()  # a trainer makes them anew in every span
        self._mover = Mover()

    def steps(self, start: int, stop: int) -> Batches:
        """The training batches of updates [start, stop); of several devices, this one's slices of them."""
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

        batch, draw = self.sampler.batch_size, self.draw
        share = batch // world
        mine = slice(rank * share, (rank + 1) * share)

        def drawn(place: int) -> Drawn:
            """What is drawn for a batch, the part that is this rank's."""
            assert draw is not None
            held = draw(start + place, world * share)
            return {k: v[mine] if v.dim() and len(v) == world * share else v for k, v in held.items()}

        return self._batches(
            "train",
            lambda place: self.sampler.indices(start + place)[mine],
            stop - start,
            None if draw is None else drawn,
        )

    def train_dataloader(self) -> Batches:
        """The training batches of the span that begins at the trainer's update.

        Raises:
            UserError: if the trainer resumed within a span.
        """
        start = min(self.trainer.global_step if self.trainer is not None else 0, self.updates)
        if start % self.val_every and start < self.updates:
            raise UserError(
                f"the checkpoint was written at update {start}, within a span of recipe.val_every={self.val_every} "
                "updates; resume from one written at a span's end"
            )
        return self.steps(start, min(start + self.val_every, self.updates))

    def val_dataloader(self) -> Batches:
        """The validation split in order."""
        n, size = len(self.prepared.split("val")), self.eval_batch_size
        return self._batches("val", lambda place: np.arange(place * size, min(n, (place + 1) * size)), -(-n // size))

    def _batches(
        self,
        split: str,
        indices: Callable[[int], NDArray[np.int64]],
        count: int,
        draw: Callable[[int], Drawn] | None = None,
    ) -> Batches:
        batches = Batches(self.prepared.split(split), indices, count, self.workers, draw)
        self._made.add(batches)
        return batches

    def transfer_batch_to_device(self, batch: PackedBatch, device: torch.device, dataloader_idx: int) -> Any:  # noqa: ANN401
        """The batch's parts on the device, after one copy that only what reads them waits for."""
        return self._mover.move(batch, device)

    def on_exception(self, exception: BaseException) -> None:
        """End the threads of a training that was interrupted."""
        self._close()

    def teardown(self, stage: str) -> None:
        """End the threads of a training that is over."""
        self._close()

    def _close(self) -> None:
        while self._made:
            self._made.pop().close()
