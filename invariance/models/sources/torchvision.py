"""Models of torchvision's zoo of classifiers, with the preprocessing that belongs to the entry of their weights."""

import re
from typing import Any

import torchvision
from torch import nn
from torchvision.transforms._presets import ImageClassification

from invariance.errors import UserError, nearest
from invariance.models.model import Model
from invariance.models.recipe import FILTERS, Normalise, Resize
from invariance.models.sources.building import Own, downloaded, model_of
from invariance.models.sources.weights import Drawn, Weights, drawing, fill

_INCEPTION = ("googlenet", "inception_v3")
"""Networks whose builder changes what they do to their input where it loads weights."""


def load(name: str, *, weights: Drawn | Weights | None = None, **settings: Any) -> Model:  # noqa: ANN401
    """A classifier of torchvision.

    Args:
        name: the builder's name, as "mobilenet_v2", or with an entry of its weights, as "mobilenet_v2.IMAGENET1K_V1",
            which decides the preprocessing. Without one it is the entry that a given file is of, else the default.
        weights: None: the entry's, downloaded by torchvision.
        settings: as `model_of` takes them.

    Raises:
        UserError: for an unknown name or entry, weights that cannot be had or do not fit, and as `model_of`.
    """
    architecture, _, wanted = name.partition(".")
    known = torchvision.models.list_models(module=torchvision.models)
    if architecture not in known:
        raise UserError(f"model=torchvision/{name}: torchvision has no classifier of this name{nearest(name, known)}")
    entries = torchvision.models.get_model_weights(architecture)
    entry = _entry(name, wanted, entries, weights)
    module = _module(architecture, entry, weights, name)
    recipe = entry.transforms()
    if not isinstance(recipe, ImageClassification):
        raise UserError(f"model=torchvision/{name}: its preprocessing is a {type(recipe).__name__}; choose another")
    (side,), (crop,) = recipe.resize_size, recipe.crop_size
    filter_ = recipe.interpolation.value
    if filter_ not in FILTERS:
        raise UserError(f"model=torchvision/{name}: its pictures are resized by {filter_}, which is not known here")
    own = Own(
        module,
        name,
        Resize("shorter", side, crop, filter_),
        Normalise(tuple(recipe.mean), tuple(recipe.std)),
        entry.meta.get("categories"),
        len(entry.meta["categories"]),
        f"as {entry}",
    )
    return model_of(own, **settings)


def _entry(name: str, wanted: str, entries: Any, weights: Drawn | Weights | None) -> Any:  # noqa: ANN401
    """The entry of weights that is asked for, that a file is of by its hash or name, or else the default."""
    if wanted and wanted not in entries.__members__:
        there = ", ".join(entries.__members__)
        raise UserError(f"model=torchvision/{name}: there are no weights {wanted!r}; there are {there}")
    if wanted:
        return entries[wanted]
    if isinstance(weights, Weights) and weights.sha256:
        for entry in entries:
            marked = re.search(r"-([0-9a-f]{8})\.pth$", entry.url)
            if entry.url.endswith(f"/{weights.file}") or (marked and weights.sha256.startswith(marked[1])):
                return entry
    return entries.DEFAULT


def _module(architecture: str, entry: Any, weights: Drawn | Weights | None, name: str) -> nn.Module:  # noqa: ANN401
    """The network with its weights."""
    build = torchvision.models.get_model_builder(architecture)
    if weights is None:
        with drawing(0):
            module: nn.Module = downloaded(lambda: build(weights=entry), name)
        return module
    # these builders take their input as their first training did wherever they load weights
    settings = (
        {"transform_input": True, "init_weights": isinstance(weights, Drawn)} if architecture in _INCEPTION else {}
    )
    with drawing(weights.seed if isinstance(weights, Drawn) else 0):
        module = build(weights=None, **settings)
    if isinstance(weights, Weights):
        fill(module, weights, name)
    return module
