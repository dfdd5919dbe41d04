"""A model by its name: from a source, from a function, or from a training run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from invariance.errors import UserError
from invariance.models.model import Model
from invariance.models.sources import from_source
from invariance.runs.run import BEST
from invariance.training.trained import Network


def load_model(
    name: str | Path,
    preprocess: object = None,
    *,
    size: int | None = None,
    classes: Sequence[str] | None = None,
    device: str | torch.device | None = None,
) -> Model:
    """A model by its name.

    Args:
        name: the folder of a finished training or finetuning run; `module:function`, which is imported and called, and
            gives a torch module or a `Model`; `<source>/<name>`, or `module:source/<name>` for a source from outside.
        preprocess: as `wrap` takes it, for a function that gives a module.
        size: as `wrap` takes it, likewise.
        classes: as `wrap` takes them, likewise.
        device: where it goes: "cpu", "gpu", "auto", or as torch names one; None: where its source puts it.

    Raises:
        UserError: for an unknown name, naming what there is, or whatever the source refuses.
    """
    settings: dict[str, Any] = {"preprocess": preprocess, "size": size, "classes": classes, "device": device}
    text = str(name)
    directory = Path(text).expanduser()
    if not text or not directory.is_dir():
        return from_source(text, **settings)
    directory = directory.resolve()
    if not (directory / BEST).is_file() or len(directory.parts) < 5:
        raise UserError(
            f"model={text!r} is no training run: it holds no {BEST}; name a folder as runs/train/digits/…/seed0"
        )
    given = [key for key in ("preprocess", "size", "classes") if settings[key] is not None]
    if given:
        raise UserError(f"model={text!r} is a training run, which has its own {', '.join(given)}; leave that out")
    network = Network(directory.parents[3], directory, layer="", accelerator="cpu")
    return network.model.moved(device)
