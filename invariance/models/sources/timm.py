"""Models of timm, with the preprocessing that timm resolves for the tag of their weights."""

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from invariance.errors import UserError, nearest
from invariance.models.model import Model
from invariance.models.recipe import How, Normalise, Resize
from invariance.models.sources.building import Own, downloaded, model_of, optional
from invariance.models.sources.weights import Drawn, Weights, differences, drawing, fill

_EXTRA = "timm"


def load(
    name: str,
    *,
    weights: Drawn | Weights | None = None,
    size: int | None = None,
    **settings: Any,  # noqa: ANN401
) -> Model:
    """A model of timm.

    Args:
        name: as timm has it, as "resnet50" or with a tag, "resnet50.a1_in1k". The tag decides the preprocessing;
            without one it is timm's default tag of the architecture.
        weights: None: those of the tag, downloaded by timm.
        size: another side in pixels; a network of fixed size is built for it.
        settings: as `model_of` takes them.

    Raises:
        UserError: if timm is not installed, for an unknown name or tag, weights that cannot be had or do not fit, and
            as `model_of`.
    """
    timm = optional("timm", _EXTRA)
    entry = _entry(timm, name)
    fixed = {"img_size": size} if size is not None and entry.fixed_input_size else {}
    with drawing(weights.seed if isinstance(weights, Drawn) else 0):
        if weights is None:
            module: nn.Module = downloaded(lambda: timm.create_model(name, pretrained=True, **fixed), name)
        else:
            module = timm.create_model(name, pretrained=False, **fixed)
        if isinstance(weights, Weights):
            module = _filled(timm, module, weights, name, fixed)
    recipe = optional("timm.data", _EXTRA).resolve_model_data_config(module)
    resize, normalise = recipe_of(recipe, name)
    count = int(getattr(module, "num_classes", 0))
    return model_of(Own(module, name, resize, normalise, _classes(module, count), count), size=size, **settings)


def _entry(timm: Any, name: str) -> Any:  # noqa: ANN401
    """What timm knows of a name."""
    architecture, _, tag = name.partition(".")
    known = timm.list_models()
    if architecture not in known:
        raise UserError(f"model=timm/{name}: timm {timm.__version__} has no such model{nearest(architecture, known)}")
    try:
        return timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        tags = ", ".join(one for one in timm.list_pretrained(f"{architecture}.*"))
        raise UserError(f"model=timm/{name}: there is no tag {tag!r}; there are {tags}") from error


def _filled(timm: Any, module: nn.Module, weights: Weights, name: str, fixed: Mapping[str, int]) -> nn.Module:  # noqa: ANN401
    """The module with given weights, which timm may bring from the names of an older version into those of today."""
    if weights.by == "name" and differences(module, weights.tensors):
        given = {"state_dict": dict(weights.tensors), "source": "", "custom_load": False}
        try:
            made: nn.Module = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=given, **fixed)
        except Exception:  # whatever timm says of them, `fill` says how they differ
            pass
        else:
            return made
    fill(module, weights, name)
    return module


def recipe_of(data: Mapping[str, Any], name: str) -> tuple[Resize, Normalise]:
    """What timm resolves of a network's data as a recipe: what `timm.data.create_transform` does with a picture.

    Raises:
        UserError: for images that are not square, or a way to crop that is not known.
    """
    _, height, width = data["input_size"]
    if height != width:
        raise UserError(f"model=timm/{name} takes images of {height} × {width} pixels; only square ones are measured")
    mean, std = tuple(map(float, data["mean"])), tuple(map(float, data["std"]))
    side, mode = math.floor(height / data["crop_pct"]), data.get("crop_mode") or "center"
    ways: dict[str, tuple[How, tuple[int, ...]]] = {
        "center": ("shorter", (0,)),
        "squash": ("both", (0,)),
        "border": ("longer", tuple(round(255 * one) for one in mean)),
    }
    if mode not in ways:
        raise UserError(f"model=timm/{name}: its pictures are cropped by mode {mode!r}, which is not known here")
    how, fill = ways[mode]
    return Resize(how, side, height, data["interpolation"], fill=fill), Normalise(mean, std)


def _classes(module: nn.Module, count: int) -> list[str] | None:
    """Names of the classes, where timm knows them."""
    own = getattr(module, "pretrained_cfg", {})
    named = own.get("label_descriptions") or own.get("label_names")
    if named:
        names = [named[label] for label in own["label_names"]] if isinstance(named, Mapping) else list(named)
        return names if len(names) == count else None
    data = optional("timm.data", _EXTRA)
    subset = data.infer_imagenet_subset(module)
    if not count or subset is None:
        return None
    names = data.ImageNetInfo(subset).label_descriptions()
    return names if len(names) == count else None
