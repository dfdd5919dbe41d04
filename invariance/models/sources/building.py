"""What every library's source does alike: finding the library, and making a model of its network and recipe."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import nn

from invariance.errors import UserError
from invariance.models.model import Model, Preprocess, check_size_and_classes, read_preprocess
from invariance.models.recipe import Normalise, Resize


def optional(name: str, extra: str) -> ModuleType:
    """A module of a library that is installed only by those who want it, imported now.

    Args:
        name: the module's name.
        extra: the extra of this package that installs it.

    Raises:
        UserError: if it is not there, saying what installs it, or cannot be imported.
    """
    library = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise UserError(f"{library} cannot be imported: {error}; pip install 'invariance[{extra}]'") from error
        raise UserError(f"{library} is not installed; pip install 'invariance[{extra}]'") from error
    except Exception as error:  # a library's own import may fail in any way, as by a version that does not fit
        raise UserError(
            f"{library} cannot be imported ({line_of(error)}); pip install 'invariance[{extra}]'"
        ) from error


def line_of(error: BaseException) -> str:
    """An error of a library in a line: its kind, and the first line that says something."""
    why = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {why[:200]}" if why else type(error).__name__


def downloaded(make: Callable[[], Any], name: str) -> Any:  # noqa: ANN401
    """What a library makes with its own download.

    Args:
        make: makes it.
        name: the model's, for the message.

    Raises:
        UserError: if it fails: without a network, or where there are no such weights.
    """
    try:
        return make()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # httpx', urllib's, the Hub's and the library's own, of no common kind
        raise UserError(
            f"model {name}: its pretrained weights cannot be had ({line_of(error)}); give weights=FILE, or "
            "weights='random' for untrained ones"
        ) from error


@dataclass(frozen=True)
class Own:
    """What a library knows of a network of its own.

    Attributes:
        module: the network.
        name: how rows name it.
        resize: how pictures are resized and cropped; None where it is not known.
        normalise: what follows on numbers; likewise.
        classes: names of the classes; None where they are not known.
        class_count: how many there are; 0 without a classifier.
        note: what else the recipe says.
    """

    module: nn.Module
    name: str
    resize: Resize | None
    normalise: Normalise | None
    classes: Sequence[str] | None
    class_count: int | None
    note: str = ""


def model_of(
    own: Own,
    *,
    preprocess: object = None,
    size: int | None = None,
    classes: Sequence[str] | None = None,
    device: str | torch.device | None = None,
) -> Model:
    """A model of a library's network, with its own recipe where the user sets nothing else.

    Args:
        own: the network.
        preprocess: another way to normalise, as `wrap` takes it.
        size: another side in pixels: of every picture the same part is taken.
        classes: other names of the classes.
        device: where it goes.

    Raises:
        UserError: for a network without recipe if `preprocess` is not given, or a size that it does not take.
    """
    check_size_and_classes(own.name, size, classes)
    function, told = _normalising(own, preprocess)
    resize = own.resize
    if resize is not None and size is not None:
        resize = resize.scaled(size)
    side = size if resize is None else resize.size
    sized = f"size {side}" if resize is None and side is not None else "" if resize is None else resize.told
    if own.class_count and classes is not None and len(classes) != own.class_count:
        raise UserError(f"model {own.name}: classes= holds {len(classes)} names for {own.class_count} classes")
    names = classes if classes is not None else own.classes
    model = Model(
        own.module.eval(),
        function,
        name=own.name,
        recipe="; ".join(filter(None, [sized, told, own.note])),
        size=side,
        classes=names,
        class_count=own.class_count,
        resize=resize,
    )
    if size is not None:
        model.count_logits(torch.zeros(1, 3, size, size))
    return model.moved(device)


def _normalising(own: Own, preprocess: object) -> tuple[Preprocess, str]:
    """The normalisation that is asked for, or the network's own, and its text."""
    if preprocess is not None or own.normalise is None:
        return read_preprocess(preprocess, own.name)
    return own.normalise, own.normalise.told
