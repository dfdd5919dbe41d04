"""Batches of prepared data in an exact order, any of which can be reached directly."""

import os

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from invariance.data.prepared import Prepared, Split
from invariance.errors import UserError
from invariance.runs.processes import live_under
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
    """Images uint8 (B, C, H, W) and labels int64 (B,) at `indices`, in their order, copied out of the map."""
    return torch.from_numpy(np.asarray(split.images[indices])), torch.from_numpy(split.labels[indices])


class _Steps(Dataset[Batch]):
    """The batches of updates [start, stop), or one of `world` equal slices of each."""

    def __init__(
        self, split: Split, sampler: StepSampler, start: int, stop: int, rank: int = 0, world: int = 1
    ) -> None:
        self.split, self.sampler, self.start, self.stop = split, sampler, start, stop
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, place: int) -> Batch:
        indices = self.sampler.indices(self.start + place)
        share = len(indices) // self.world
        return gather(self.split, indices[self.rank * share : (self.rank + 1) * share])


class _InOrder(Dataset[Batch]):
    """A split from its first image to its last, by batches."""

    def __init__(self, split: Split, batch_size: int) -> None:
        self.split, self.batch_size = split, batch_size

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def __getitem__(self, place: int) -> Batch:
        first = place * self.batch_size
        return gather(self.split, np.arange(first, min(first + self.batch_size, len(self.split))))


class _Helper:
    """What a loader's process does first, in a form that travels to it."""

    def __init__(self, parent: int) -> None:
        self.parent = parent

    def __call__(self, _worker: int) -> None:
        live_under(self.parent)


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
        workers: processes that read ahead; 0 reads in the trainer's own.
        eval_batch_size: images of a validation batch.
    """

    def __init__(
        self, prepared: Prepared, batch_size: int, updates: int, val_every: int, seed: int, workers: int = 0,
        eval_batch_size: int = 256,
    ) -> None:
        super().__init__()
        self.prepared, self.updates, self.val_every, self.workers = prepared, updates, val_every, workers
        self.eval_batch_size = eval_batch_size
        self.sampler = StepSampler(len(prepared.split("train")), batch_size, seed)

    def steps(self, start: int, stop: int) -> DataLoader[Batch]:
        """The training batches of updates [start, stop); of several devices, this one's slices of them."""
        ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
        return self._loader(_Steps(self.prepared.split("train"), self.sampler, start, stop, *ranks))

    def train_dataloader(self) -> DataLoader[Batch]:
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

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation split in order."""
        return self._loader(_InOrder(self.prepared.split("val"), self.eval_batch_size))

    def _loader(self, batches: Dataset[Batch]) -> DataLoader[Batch]:
        # a loader draws a seed for its workers when it starts: from a generator of its own, not from the global one
        return DataLoader(
            batches, batch_size=None, num_workers=self.workers, pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(), worker_init_fn=_Helper(os.getpid()) if self.workers else None,
        )
