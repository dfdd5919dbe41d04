"""How a layer is named: a submodule, which of its runs, and which element of its output."""

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from invariance.errors import UserError, nearest

LOGITS = "logits"
"""Names what the whole network gives, unless a submodule is called so."""

_FORM = re.compile(r"([^#\[\]]+)(?:#([1-9]\d*))?((?:\[[^\[\]]+\])*)")
_SHOWN = 12


@dataclass(frozen=True)
class Layer:
    """Where a network can be cut: `name`, `name#k` or either with `[element]` behind it.

    Attributes:
        name: as it was given.
        path: dotted name of the submodule; "" for the whole network.
        run: which of its runs in a forward pass, from 1; None: the only one.
        keys: the way to an element of its output: numbers into tuples and lists, keys into mappings.
    """

    name: str
    path: str
    run: int | None = None
    keys: tuple[str, ...] = ()


def submodules(network: nn.Module) -> dict[str, nn.Module]:
    """The submodules by their dotted names; one that has several names is there under each."""
    return {name: module for name, module in network.named_modules(remove_duplicate=False) if name}


def is_layer(name: str, known: Mapping[str, nn.Module]) -> bool:
    """Whether a text is a layer's name rather than a pattern."""
    form = _FORM.fullmatch(name)
    return form is not None and (form[1] in known or name == LOGITS)


def read_layer(name: str, known: Mapping[str, nn.Module]) -> Layer:
    """A layer from its name: "layer4.1", "relu#2" (its second run), "attention[0]", "encoder[hidden_states][3]".

    Args:
        name: the name; "logits" is what the whole network gives.
        known: the network's submodules.

    Raises:
        UserError: if it is not of this form, or there is no such submodule.
    """
    form = _FORM.fullmatch(name) if isinstance(name, str) else None
    if form is None:
        raise UserError(
            f"layer={name!r} is not in the network: name a submodule as layer4.1, its second run as relu#2, an element "
            "of its output as attention[0]"
        )
    path, run, keys = form[1], int(form[2]) if form[2] else None, tuple(re.findall(r"\[([^\[\]]+)\]", form[3]))
    if path in known:
        return Layer(name, path, run, keys)
    if path == LOGITS and run is None and not keys:
        return Layer(name, "")
    shown = ", ".join(list(known)[-_SHOWN:])
    raise UserError(f"layer={name!r} is not in the network{nearest(path, known)} (its last layers: {shown})")


def element(output: Any, keys: tuple[str, ...]) -> Any:  # noqa: ANN401
    """What the keys lead to in a module's output.

    Raises:
        LookupError: if they lead nowhere.
    """
    for key in keys:
        output = output[_place(output, key)]
    return output


def with_element(output: Any, keys: tuple[str, ...], value: Tensor) -> Any:  # noqa: ANN401
    """A module's output with another value where the keys lead; the containers on the way are copies."""
    if not keys:
        return value
    place = _place(output, keys[0])
    inner = with_element(output[place], keys[1:], value)
    if isinstance(output, tuple):
        parts = (*output[:place], inner, *output[place + 1 :])
        return type(output)(*parts) if hasattr(output, "_fields") else parts
    changed = copy.copy(output)
    changed[place] = inner
    return changed


def tensors_in(output: object, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Tensor]:
    """The floating tensors in a module's output, by the keys that lead to them."""
    if isinstance(output, Tensor):
        return {above: output} if output.is_floating_point() else {}
    if isinstance(output, Mapping):
        inside = {str(key): value for key, value in output.items()}
    elif isinstance(output, tuple | list):
        inside = {str(place): value for place, value in enumerate(output)}
    else:
        return {}
    return {keys: one for key, value in inside.items() for keys, one in tensors_in(value, (*above, key)).items()}


def bracketed(keys: tuple[str, ...]) -> str:
    """Keys as they stand behind a layer's name."""
    return "".join(f"[{key}]" for key in keys)


def _place(output: Any, key: str) -> Any:  # noqa: ANN401
    """A key as the container takes it."""
    if isinstance(output, Mapping):
        for own in output:
            if str(own) == key:
                return own
        raise LookupError(key)
    if not isinstance(output, tuple | list) or not re.fullmatch(r"\d+", key) or int(key) >= len(output):
        raise LookupError(key)
    return int(key)
