"""Weights for a network of a library: drawn by a seed, or given; and what is said where they are of another one."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from invariance.errors import UserError
from invariance.seeds import derive

_WRAPPED = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
_COUNTERS = "num_batches_tracked"
"""The end of the names of batch normalisation's counters, which old files lack and which no answer depends on."""


@dataclass(frozen=True)
class Drawn:
    """Weights that are drawn at random, as the library initialises them.

    Attributes:
        seed: the same seed draws the same weights.
    """

    seed: int = 0


@dataclass(frozen=True)
class Weights:
    """Weights that a user gives.

    Attributes:
        tensors: by name, in their order.
        where: how messages call them.
        sha256: of their file; empty where they come from none.
        file: name of their file; likewise.
        by: whether they are told apart by their "name", or by their "position" in the order of the network's own.
    """

    tensors: Mapping[str, Tensor]
    where: str = "weights"
    sha256: str = ""
    file: str = ""
    by: Literal["name", "position"] = "name"


def tensors_in(given: object, where: str) -> dict[str, Tensor]:
    """The tensors of a state dict by name: it may stand in a checkpoint, or be of a module that was wrapped.

    Args:
        given: a state dict, or a mapping with one as `state_dict`, `model_state_dict` or `model`.
        where: how messages call it.

    Raises:
        UserError: if there is no state dict.
    """
    inside = (
        next((given[key] for key in _WRAPPED if isinstance(given.get(key), Mapping)), given)
        if isinstance(given, Mapping)
        else given
    )
    if not isinstance(inside, Mapping) or not inside:
        raise UserError(f"{where} holds a {type(inside).__name__} and no state dict; give names with their tensors")
    odd = [str(name) for name, value in inside.items() if not isinstance(value, Tensor)]
    if odd:
        there = ", ".join(map(str, list(inside)[:6]))
        raise UserError(
            f"{where} is no state dict: {odd[0]!r} is a {type(inside[odd[0]]).__name__} (it holds {there}, …); save "
            "the module's state_dict() alone"
        )
    tensors = {str(name): value for name, value in inside.items()}
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Draws on the CPU by a seed while it lasts; torch's global state is as it was before it afterwards."""
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(derive("random weights", seed))
    try:
        yield
    finally:
        generator.set_state(state)


@dataclass(frozen=True)
class Differences:
    """How given tensors differ from those of a network, by name.

    Attributes:
        missing: names that the network has alone.
        unexpected: names that are given alone.
        reshaped: names of tensors of another shape, with both shapes.
    """

    missing: list[str]
    unexpected: list[str]
    reshaped: list[str]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.reshaped)

    @property
    def told(self) -> str:
        """All three as text, each with its first."""
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "of another shape": self.reshaped}
        return ", ".join(f"{len(names)} {kind} (first: {names[0]})" for kind, names in kinds.items() if names)


def differences(module: nn.Module, tensors: Mapping[str, Tensor]) -> Differences:
    """How given tensors differ from a module's, but for batch normalisation's counters."""
    own = _counting(module.state_dict())
    given = _counting(tensors)
    return Differences(
        [name for name in own if name not in given],
        [name for name in given if name not in own],
        [
            f"{name} {tuple(given[name].shape)} for {tuple(own[name].shape)}"
            for name in own
            if name in given and given[name].shape != own[name].shape
        ],
    )


def fill(module: nn.Module, weights: Weights, name: str) -> None:
    """Put given weights into a module.

    Args:
        module: the network.
        weights: what to put there; each in its place by name, or, where so it is said, by position.
        name: the model's, for messages.

    Raises:
        UserError: if they are of another architecture: how many names are missing, not known or of another shape; or,
            by position, the first that does not fit.
    """
    own, given = _counting(module.state_dict()), _counting(weights.tensors)
    shapes = [tuple(one.shape) for one in own.values()], [tuple(one.shape) for one in given.values()]
    if weights.by == "position":
        tensors = _by_position(own, given, f"model {name}: {weights.where}")
    elif differ := differences(module, given):
        alike = not differ.reshaped and shapes[0] == shapes[1]
        hint = (
            "; their shapes fit one after another: if it is the same network under other names, weights_by='position'"
            if alike
            else "; give weights of this network"
        )
        raise UserError(
            f"model {name}: {weights.where} is of another architecture: of {len(own)} names {differ.told}{hint}"
        )
    else:
        tensors = given
    module.load_state_dict({**module.state_dict(), **tensors})


def _by_position(own: Mapping[str, Tensor], given: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The given tensors under the names of the network's own, one after another."""
    if len(own) != len(given):
        raise UserError(f"{where} does not fit by position: it holds {len(given)} tensors, the network {len(own)}")
    for (name, one), (called, other) in zip(own.items(), given.items(), strict=True):
        if one.shape != other.shape:
            raise UserError(
                f"{where} does not fit by position: {called} is of shape {tuple(other.shape)}, and {name} in its "
                f"place is of {tuple(one.shape)}"
            )
    return dict(zip(own, given.values(), strict=True))


def _counting(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Those tensors that an answer depends on."""
    return {
        name: value for name, value in tensors.items() if isinstance(value, Tensor) and not name.endswith(_COUNTERS)
    }
