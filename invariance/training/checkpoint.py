"""Reading checkpoints without running code, and without Lightning, which takes seconds to import."""

import math
import pickle
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from invariance.errors import UserError
from invariance.runs.files import DONE, sha256
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
