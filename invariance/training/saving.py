"""Writing checkpoints that are whole or absent, and the callbacks that do it."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from invariance.runs.files import atomic_path, sha256
from invariance.runs.run import BEST, LAST, PREVIOUS, Run
from invariance.training.checkpoint import RUN


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, written beside their target, flushed and renamed; read without running code.

    Args:
        run: the run whose checkpoints they are: its name is written into each, and into the last one the hash of the
            best; nothing is written once its folder is another's. None: nobody's.
    """

    def __init__(self, run: Run | None = None) -> None:
        super().__init__()
        self._run = run

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: ANN401
        """Write one checkpoint, whole or not at all; the last one before it is kept as `previous.ckpt`.

        Raises:
            UserError: if the disk is full, read-only or forbidden.
        """
        target = Path(path)
        if self._run is not None:
            self._run.require_here()
            best = target.with_name(BEST)
            about = {"best": sha256(best)} if target.name == LAST and best.is_file() else {}
            checkpoint = {**checkpoint, RUN: {"name": self._run.name, **about}}
        aside = target.with_name(PREVIOUS) if target.name == LAST else None
        with atomic_path(target, aside) as temporary, open(temporary, "wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch closes its archive after what ended the writing, and fails again
                raise _first_cause(error) or error from error


def _first_cause(error: BaseException) -> BaseException | None:
    """The operating system's error, or the signal, from which another error came."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError | KeyboardInterrupt):
        cause = cause.__cause__ or cause.__context__
    return cause


class _Checkpoints(ModelCheckpoint):
    """Lightning's checkpoint callback in a folder that may be moved between two parts of a training."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the best score so far; files are looked for in the folder as it is named now."""
        assert self.dirpath is not None
        here = Path(self.dirpath)

        def moved(path: str) -> str:
            """Where a file of the old folder is now."""
            return str(here / Path(path).name) if path else path

        paths = {key: moved(state_dict[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
        scores = {moved(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "dirpath": self.dirpath, "best_k_models": scores})


def checkpoints(folder: Path, *, best: bool = True) -> list[pl.Callback]:
    """The whole state after every span, to continue from; if asked for, the best network on the validation split."""
    common: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False, "save_on_train_epoch_end": True}
    last = _Checkpoints(filename=LAST.removesuffix(".ckpt"), save_top_k=1, **common)
    if not best:
        return [last]
    chosen = _Checkpoints(
        filename=BEST.removesuffix(".ckpt"),
        monitor="val/accuracy",
        mode="max",
        save_top_k=1,
        save_weights_only=True,
        **common,
    )
    return [chosen, last]
