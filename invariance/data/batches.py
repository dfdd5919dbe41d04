"""Batches of prepared data in an exact order, any of which can be reached directly."""

from collections.abc import Callable, Generator, Iterator

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from invariance.data.prepared import Prepared, Split
from invariance.data.reading import read_ahead
from invariance.errors import UserError
from invariance.seeds import derive

Batch = tuple[Tensor, Tensor]


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
        if self._held[0] != epoch:
            self._held = epoch, np.random.default_rng(derive(self.seed, "order", epoch)).permutation(self.n)
        return self._held[1]

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


def gather(split: Split, indices: NDArray[np.int64]) -> Batch:
    """Images uint8 (B, C, H, W) and labels int64 (B,) at `indices`, in their order; images are verified once a process.

    Raises:
        UserError: if they cannot be read, or differ from their checksums.
    """
    pinned = torch.cuda.is_available()  # from where a GPU fetches them by itself
    images = torch.empty((len(indices), *split.images.shape[1:]), dtype=torch.uint8, pin_memory=pinned)
    split.images.read(indices, out=images.numpy(), once=True)
    labels = torch.from_numpy(split.labels[indices])
    return images, labels.pin_memory() if pinned else labels


class Batches:
    """Batches of a split in order, read ahead by threads.

    Args:
        split: the split.
        indices: which images make each batch, by its place.
        count: batches.
        threads: threads that read ahead; 0 reads in the caller's own.
    """

    def __init__(self, split: Split, indices: Callable[[int], NDArray[np.int64]], count: int, threads: int) -> None:
        self.split, self.indices, self.count, self.threads = split, indices, count, threads
        self._reading: list[Generator[Batch, None, None]] = []

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        self.close()
        self._reading = [read_ahead(lambda place: gather(self.split, self.indices(place)), self.count, self.threads)]
        return self._reading[0]

    def close(self) -> None:
        """End the threads that read ahead."""
        while self._reading:
            self._reading.pop().close()


class PreparedData(pl.LightningDataModule):
    """Prepared data for a Lightning trainer; batches are (x uint8 (B, C, H, W), y int64 (B,)).

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
    ) -> None:
        super().__init__()
        self.prepared, self.updates, self.val_every, self.workers = prepared, updates, val_every, workers
        self.eval_batch_size = eval_batch_size
        self.sampler = StepSampler(len(prepared.split("train")), batch_size, seed)
        self._made: list[Batches] = []

    def steps(self, start: int, stop: int) -> Batches:
        """The training batches of updates [start, stop); of several devices, this one's slices of them."""
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

        def slice_of(place: int) -> NDArray[np.int64]:
            """The images of a batch that are this rank's."""
            indices = self.sampler.indices(start + place)
            share = len(indices) // world
            return indices[rank * share : (rank + 1) * share]

        return self._batches("train", slice_of, stop - start)

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

    def _batches(self, split: str, indices: Callable[[int], NDArray[np.int64]], count: int) -> Batches:
        batches = Batches(self.prepared.split(split), indices, count, self.workers)
        self._made.append(batches)
        return batches

    def on_exception(self, exception: BaseException) -> None:
        """End the threads of a training that was interrupted."""
        self._close()

    def teardown(self, stage: str) -> None:
        """End the threads of a training that is over."""
        self._close()

    def _close(self) -> None:
        while self._made:
            self._made.pop().close()
