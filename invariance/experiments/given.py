"""Networks that were not trained here: which one `model=` names, and how images and classes are its own."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invariance.data.matching import known_numbers
from invariance.data.prepared import Prepared
from invariance.errors import UserError
from invariance.models.model import Model
from invariance.models.naming import read_layer, submodules
from invariance.models.readout import Flatten
from invariance.models.recipe import KEPT, Resize
from invariance.runs.origin import versions_of
from invariance.runs.places import folder_name
from invariance.settings.parts import GivenModel
from invariance.training.loading import load_model
from invariance.transforms.base import UNTOUCHED, Transform

_LAYERS = 40
"""Layers that a line names; of more, so many."""

LOOKED_AT = 32
"""Images on which it is looked what a network and its layers are."""


@dataclass(frozen=True)
class Given:
    """A network that is looked at as it is.

    Attributes:
        model: the network, with its preprocessing.
        source: where it is from, as `model=` names it.
        name: its name there.
        label: how folders and rows call it.
    """

    model: Model
    source: str
    name: str
    label: str

    @property
    def size(self) -> int:
        """The side in pixels of the images that it takes.

        Raises:
            UserError: if neither its source nor the configuration says so.
        """
        if self.model.size is None:
            raise UserError(f"model.name={self.name} does not say which size it takes; give it, as model.size=224")
        return self.model.size

    @property
    def called(self) -> str:
        """Its source and name, as rows have it."""
        return f"{self.source}/{self.name}"

    @property
    def identity(self) -> dict[str, Any]:
        """What a measurement of it is of."""
        return {"name": self.called, "weights": self.model.weights, "recipe": self.model.recipe}

    @property
    def told(self) -> str:
        """The network and how it takes its images, for a line."""
        return f"{self.called} (weights {self.model.weights[:12]}): {self.model.recipe}"

    def _count(self, images: Tensor) -> int:
        """How many classes it has; 0 where it has none."""
        if self.model.class_count is not None:
            return self.model.class_count
        try:
            return self.logits(images)
        except UserError:
            return 0

    def resize(self, how: str) -> Resize | None:
        """How pictures get the size that it takes; None: they are warped.

        Args:
            how: own, as its source says, where that does; warp; or none, they have that size.
        """
        return KEPT if how == "none" else self.model.resize if how == "own" else None

    @property
    def versions(self) -> dict[str, str]:
        """What it was built with, besides this package."""
        return versions_of(self.model.libraries)

    def logits(self, images: Tensor) -> int:
        """How many logits it gives.

        Args:
            images: some, in [0, 255].

        Raises:
            UserError: if it gives none.
        """
        return self.model.cut(["logits"]).logits(self.model.prepare(images)).shape[1]

    def depths(self, layers: Sequence[str]) -> dict[str, int]:
        """The place of each layer among the network's submodules; the logits come last."""
        known = submodules(self.model.module)
        order = {name: place for place, name in enumerate(known)}
        return {layer: order.get(read_layer(layer, known).path, len(order)) for layer in layers}

    def places(self, classes: Sequence[str], wanted: bool | None, images: Tensor) -> NDArray[np.int64] | None:
        """The network's number of each class of a data set; None where the classes are not known to be its own.

        Args:
            classes: the data set's classes by label.
            wanted: true, where they are the network's in the same order, whatever both are called; false, where they
                are not; None: where each has the name of one of the network's, or is the WordNet id of one of the 1,000
                of ImageNet.
            images: some, in [0, 255].

        Raises:
            UserError: if they are said to be the network's, and it has not as many.
        """
        if wanted is None and classes:
            numbers = known_numbers(classes, self.model.classes, self._count(images))
            return None if numbers is None else np.array(numbers)
        if not wanted:
            return None
        if len(classes) != (logits := self.logits(images)):
            raise UserError(
                f"labels=true: the images have {len(classes)} classes and {self.called} has {logits}, so they are not "
                "the network's in its order; leave it out"
            )
        return np.arange(len(classes))


def told_layers(readouts: Mapping[str, str]) -> str:
    """Layers with what is read of each, for a line: of very many the first ones and the last."""
    told = [layer if name == Flatten.name else f"{layer} ({name})" for layer, name in readouts.items()]
    if len(told) > _LAYERS:
        told = [*told[: _LAYERS - 2], f"… {len(told) - _LAYERS + 1:,} more …", told[-1]]
    return ", ".join(told)


def told_size(resize: Resize | None, size: int) -> str:
    """How pictures get a size, for a line."""
    if resize is None:
        return f"warped to {size} × {size}"
    return f"taken at {size} × {size}" if resize == KEPT else resize.scaled(size).told


def given(settings: GivenModel, device: str | torch.device) -> Given:
    """The network that a configuration names.

    Args:
        settings: of `conf/model/`.
        device: where it goes.

    Raises:
        UserError: for an unknown source or name, or whatever the source refuses.
    """
    source, name = settings.source, settings.name
    label = settings.label or folder_name(name)
    if source == "run":
        if not Path(name).expanduser().is_dir():
            form = "runs/train/digits/baseline/seed0"
            raise UserError(f"model.name={name!r}: there is no such folder; name that of a finished run, as {form}")
        return Given(load_model(name, device=device), source, name, label)
    told = {"weights": settings.weights, "size": settings.size}
    wanted: dict[str, Any] = {key: value for key, value in told.items() if value is not None}
    if settings.weights_by != "name":
        wanted["weights_by"] = settings.weights_by
    if settings.preprocess is not None:
        wanted["preprocess"] = settings.preprocess.model_dump()
    called = name if source == "function" else f"{source}/{name}"
    return Given(load_model(called, device=device, **wanted), source, name, label)


@contextmanager
def telling_colour(prepared: Prepared) -> Iterator[None]:
    """Say, where a network refuses images for their channels, what chooses these.

    Args:
        prepared: the images.
    """
    try:
        yield
    except UserError as error:
        if "channels" not in str(error):
            raise
        colour = "rgb" if prepared.channels == 1 else "gray"
        raise UserError(f"{error}; images of {prepared.name} in other colours: data.colour={colour}") from error


def seen_by(prepared: Prepared, transform: Transform) -> Tensor:
    """The first images of the reported split as a network is shown them: float (B, C, H, W) in [0, 255].

    Args:
        prepared: the data set, at the size that the family takes.
        transform: the family, whose untouched image they are.
    """
    split = prepared.split(prepared.report)
    x = torch.from_numpy(np.asarray(split.images[np.arange(min(LOOKED_AT, len(split)))])).float()
    untouched = next(point for point in transform.grid() if point.label == UNTOUCHED)
    return transform.apply(x, untouched.params)
