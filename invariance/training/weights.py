"""Weights from a file: safetensors, or what `torch.save` wrote, of which nothing is run."""

import hashlib
import pickle
import re
import warnings
from pathlib import Path
from typing import Any, Literal

import torch

from invariance.errors import UserError
from invariance.models.sources.building import line_of, optional
from invariance.models.sources.weights import Weights, tensors_in

_SAVE = "give what torch.save(network.state_dict(), file) or safetensors wrote"


def read_weights(path: Path, by: Literal["name", "position"] = "name") -> Weights:
    """The state dict in a file, on the CPU.

    Args:
        path: a file of safetensors or of `torch.save`, told from its content; its state dict may stand in it as
            `state_dict` or `model`, and its names begin with `module.`.
        by: how it is put into a network.

    Raises:
        UserError: if it is missing, a folder, cut off, holds code or no state dict.
    """
    where = f"weights={str(path)!r}"
    if path.is_dir():
        raise UserError(f"{where} is a folder; name the file in it")
    if not path.is_file():
        raise UserError(f"{where} does not exist; {_SAVE}")
    try:
        with path.open("rb") as file:
            start = file.read(9)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{where} cannot be read ({error.strerror})") from error
    given = _safetensors(path, where) if start[8:9] == b"{" else _pickled(path, where)
    return Weights(tensors_in(given, where), where, digest, path.name, by)


def _safetensors(path: Path, where: str) -> Any:  # noqa: ANN401
    """Tensors by name."""
    load = optional("safetensors.torch", "timm").load_file
    try:
        return load(str(path))
    except Exception as error:  # SafetensorError, which is an Exception of its own, or whatever reads its numbers
        raise UserError(f"{where} is a safetensors file that is cut off or damaged ({line_of(error)})") from error


def _pickled(path: Path, where: str) -> Any:  # noqa: ANN401
    """What `torch.save` wrote, of tensors and plain containers alone."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that are refused anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if code := re.search(r"GLOBAL (\S+)|global (\S+)", str(error)):
            name = next(filter(None, code.groups()))
            raise UserError(f"{where} holds code ({name}), which is never run; {_SAVE}") from error
        raise UserError(f"{where} is no file of weights, or is cut off ({line_of(error)}); {_SAVE}") from error
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, EOFError, KeyError, TypeError, AttributeError, OSError) as error:
        raise UserError(f"{where} is no file of weights, or is cut off ({line_of(error)}); {_SAVE}") from error
