"""Checkpoints that are whole or absent, and the callbacks that write them."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from invariance.runs.files import atomic_path

BEST, LAST = "best.ckpt", "last.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, written beside their target, flushed and renamed; read without running code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: ANN401
        """Write one checkpoint, whole or not at all."""
        with atomic_path(Path(path)) as temporary:
            torch.save(checkpoint, temporary)


def checkpoints(folder: Path) -> list[pl.Callback]:
    """The best network on the validation split, and the whole state after every span, to continue from."""
    common: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False, "save_on_train_epoch_end": True}
    return [
        ModelCheckpoint(
            filename=BEST.removesuffix(".ckpt"), monitor="val/accuracy", mode="max", save_top_k=1,
            save_weights_only=True, **common,
        ),
        ModelCheckpoint(filename=LAST.removesuffix(".ckpt"), save_top_k=1, **common),
    ]
