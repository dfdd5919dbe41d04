"""Checkpoints that are whole or absent, the callbacks that write them, and reading them without running code."""

import math
import pickle
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from invariance.errors import UserError
from invariance.runs.files import DONE, atomic_path, sha256
from invariance.runs.run import BEST, LAST, PREVIOUS, Run
from invariance.runs.seal import sealed_hash

RUN = "invariance_run"
"""Where a checkpoint says whose it is: `name` of the run, and in the last one `best`, the hash of the best so far."""

# what torch.load raises for files that are cut off, scrambled, or hold more than tensors and plain containers
_DAMAGE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    AttributeError,
    TypeError,
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
)


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


def read_checkpoint(path: Path, remedy: str) -> Mapping[str, Any]:
    """What a training left in a checkpoint. Code in the file is never run.

    Args:
        path: the file.
        remedy: what the user is to do if it cannot serve, for the error's last words.

    Raises:
        UserError: if the file is absent, cut off, altered, holds code, or was not written by a training.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}; {remedy}")
    try:
        if zipfile.is_zipfile(path):  # torch does not look at the checksums that it writes
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    raise ValueError("a checksum is wrong")
        held = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise UserError(f"checkpoint {path} cannot be read ({error.strerror}); see to it and repeat") from error
    except _DAMAGE as error:
        code = isinstance(error, pickle.UnpicklingError) and "nsupported" in str(error)
        why = "holds code, which is never run" if code else "is damaged"
        raise UserError(f"checkpoint {path} {why}; {remedy}") from error
    if not isinstance(held, Mapping) or not {"state_dict", "hyper_parameters", "global_step"} <= set(held):
        raise UserError(f"checkpoint {path} is not one of invariance.train; {remedy}")
    for name, value in _tensors({"state_dict": held["state_dict"], "optimizer": held.get("optimizer_states")}):
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():  # it would be made on first use
            raise UserError(f"checkpoint {path} names more numbers than it holds ({name}); {remedy}")
        if not bool(torch.isfinite(value).all()):
            raise UserError(f"checkpoint {path} holds what is no finite number ({name}): its network is none; {remedy}")
    mean = held["hyper_parameters"].get("mean", []) if isinstance(held["hyper_parameters"], Mapping) else []
    numbers = mean if isinstance(mean, list | tuple) else [None]
    if not all(isinstance(one, int | float) and math.isfinite(one) for one in numbers):
        raise UserError(f"checkpoint {path} subtracts mean={mean}, which is no finite number; {remedy}")
    return held


def require_sealed(path: Path, remedy: str) -> None:
    """Refuse a checkpoint of a finished run that is not the one it was finished with.

    Raises:
        UserError: if its hash is not the one that the run's marker seals.
    """
    wanted = sealed_hash(path.parent, path.name)
    if wanted is not None and path.is_file() and sha256(path) != wanted:
        raise UserError(f"checkpoint {path} is not what its run was finished with ({path.parent / DONE}); {remedy}")


def _tensors(value: object, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of floating numbers in nested containers, with where it is."""
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield name, value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _tensors(one, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for k, one in enumerate(value):
            yield from _tensors(one, f"{name}.{k}")
