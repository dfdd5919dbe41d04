"""The pixels as a network takes them, measured beside its layers: what depth curves begin with."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from invariance.engine.at_layer import Effort, More
from invariance.engine.derivative import DERIVATIVE
from invariance.engine.groups import Group, Measured
from invariance.engine.measuring import Family, measure
from invariance.engine.recorder import Recorder
from invariance.engine.stream import Sample
from invariance.errors import UserError
from invariance.maps.spec import MapSpec
from invariance.models.derivative import INPUT
from invariance.models.model import Model
from invariance.models.naming import is_layer, submodules
from invariance.settings.fields import native

MEASURE = "l2_distance"
"""What is measured of the input."""


Beside = Literal["", "wanted", "named"]
"""Whether the input stands beside the layers: not, as curves over the depth are wanted, or as it is named."""


def layers_and_input(model: Model, layers: str | Sequence[str]) -> tuple[str | Sequence[str], Beside]:
    """The layers that are asked for, and whether the input stands beside them.

    It does where it is named, as `input`, and where layers are not named one by one, so that curves over the depth are
    wanted. In a network that has a layer of that name, the layer is meant.

    Args:
        model: the network.
        layers: as `choose_layers` takes them.

    Raises:
        UserError: if nothing but the input is named.
    """
    known, layers = submodules(model.module), native(layers)
    if INPUT in known or not isinstance(layers, str | list | tuple):
        return layers, ""
    named = [layers] if isinstance(layers, str) else list(layers)
    left = [name for name in named if name != INPUT]
    if not left and named:
        raise UserError("layers=input: the input stands beside layers; name one of them, too")
    patterns = layers == "auto" or not all(isinstance(name, str) and is_layer(name, known) for name in left)
    if len(left) < len(named):
        return left, "named"
    return layers, "wanted" if patterns else ""


def has_input(beside: Beside, maps: Sequence[MapSpec], measures: Sequence[str]) -> MapSpec | None:
    """The map under which the input has rows, the identity; None where it has none.

    Args:
        beside: whether it stands beside the layers.
        maps: what is measured through.
        measures: what is measured.

    Raises:
        UserError: if it is named, and has none.
    """
    plain = next((spec for spec in maps if spec.map == "identity"), None)
    if plain is not None and MEASURE in measures:
        return plain if beside else None
    if beside == "named" and DERIVATIVE not in measures:
        raise UserError(f"layers: the input has rows of {MEASURE} without a map; add these, or leave input out")
    return None


def measure_input(
    model: Model,
    report: Sample,
    *,
    fit: Sample | None,
    families: Sequence[Family],
    spec: MapSpec,
    keep: Recorder[Group, Measured],
    more: More,
    effort: Effort,
) -> None:
    """L_L2 of the preprocessed pixels under every g, without a map, as of a layer that is called `input`.

    Arguments as those of `measure`; `spec` is the identity.
    """
    pixels = nn.Sequential()
    pixels.add_module(INPUT, nn.Identity())
    pixels.register_buffer("place", torch.empty(0, device=model.device), persistent=False)
    as_layer = Model(pixels, model.preprocess, name=model.name, recipe=model.recipe, size=model.size, ours=model.ours)
    as_layer.dtype = model.dtype
    layers, measures = [INPUT], [MEASURE]
    measure(
        as_layer,
        report,
        fit=fit,
        families=families,
        layers=layers,
        maps=[spec],
        measures=measures,
        keep=keep,
        more=more,
        effort=effort,
    )
