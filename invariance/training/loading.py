"""A model by its name: from a library, from a function, or from a training run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from invariance.errors import UserError
from invariance.models.model import Model
from invariance.models.sources import from_source
from invariance.models.sources.weights import Drawn, Weights, tensors_in
from invariance.runs.run import BEST
from invariance.settings.fields import SEEDS
from invariance.training.trained import Network
from invariance.training.weights import read_weights

RANDOM = "random"
"""The word for weights that are drawn."""


def load_model(
    name: str | Path,
    preprocess: object = None,
    *,
    weights: str | Path | Mapping[str, Any] | None = None,
    weights_by: Literal["name", "position"] = "name",
    seed: int = 0,
    size: int | None = None,
    classes: Sequence[str] | None = None,
    device: str | torch.device | None = None,
) -> Model:
    """A model by its name.

    Args:
        name: `timm/<name>`, `torchvision/<name>` or `hugging_face/<repository or folder>`; the folder of a finished
            training or finetuning run; `module:function`, which is imported and called, and gives a torch module or a
            `Model`; or `module:source/<name>` for a source from outside.
        preprocess: as `wrap` takes it, for a function that gives a module; for a library's model in place of its own.
        weights: None: the library's own, by its own download; "random": drawn by `seed`, as the library initialises
            them; a file of safetensors or of `torch.save` (no code in it is run), or a state dict.
        weights_by: "position" puts weights in one after another, for a file of the same network under other names;
            their shapes must be equal.
        seed: of random weights; the same seed draws the same. The global random state is left as it is.
        size: side in pixels as `wrap` takes it; for a library's model in place of its own.
        classes: as `wrap` takes them, likewise.
        device: where it goes: "cpu", "gpu", "auto", or as torch names one; None: where its source puts it.

    Raises:
        UserError: for an unknown name, naming what there is; a library that is not installed; weights that cannot be
            had, cannot be read or are of another architecture; or whatever else the source refuses.
    """
    settings: dict[str, Any] = {"preprocess": preprocess, "size": size, "classes": classes, "device": device}
    if chosen := _weights(weights, weights_by, seed):
        settings["weights"] = chosen
    text = str(name)
    directory = Path(text).expanduser()
    if not text or not directory.is_dir():
        return from_source(text, **{key: value for key, value in settings.items() if value is not None})
    directory = directory.resolve()
    if not (directory / BEST).is_file() or len(directory.parts) < 5:
        raise UserError(
            f"model={text!r} is no training run: it holds no {BEST}; name a folder as runs/train/digits/…/seed0"
        )
    given = [key for key in ("preprocess", "weights", "size", "classes") if settings.get(key) is not None]
    if given:
        raise UserError(f"model={text!r} is a training run, which has its own {', '.join(given)}; leave that out")
    network = Network(directory.parents[3], directory, layer="", accelerator="cpu")
    return network.model.moved(device)


def _weights(given: object, by: Literal["name", "position"], seed: int) -> Drawn | Weights | None:
    """The weights that a user asks for; None for the library's own."""
    if by not in ("name", "position"):
        raise UserError(f"weights_by={by!r}: choose name, or position for the same network under other names")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < SEEDS:
        raise UserError(f"seed={seed!r}: give a whole number from 0")
    if by == "position" and (given is None or given == RANDOM):
        raise UserError("weights_by='position' is of weights that are given: give weights=FILE")
    if given is None:
        return None
    if isinstance(given, str) and given == RANDOM:
        return Drawn(seed)
    if isinstance(given, Mapping):
        return Weights(tensors_in(given, "weights"), by=by)
    if not isinstance(given, str | Path) or not str(given):
        raise UserError(f"weights={given!r}: give a file, 'random', or a state dict")
    return read_weights(Path(given).expanduser(), by)
