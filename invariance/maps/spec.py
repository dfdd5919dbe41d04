"""What is fitted: every map of a configuration with every solver that can fit it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from invariance.errors import UserError
from invariance.maps import SOLVERS_OF, FittedMaps, Solver, solver_from_config

JOINT = "joint"
"""The solver, as rows name it, of maps that were learned together with their network."""


@dataclass(frozen=True, eq=False)
class Learned:
    """Residual maps that were learned together with the network (Eq. 7), so that none is fitted.

    Attributes:
        read: gives weight (D, D) and bias (D,) of M_g by the label of g, from files of gigabytes; called at most once,
            when they are needed. The untouched has none, and its map is the identity.
    """

    read: Callable[[], Mapping[str, tuple[Tensor, Tensor]]]

    @cached_property
    def parameters(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """What `read` gives."""
        return self.read()

    def maps(self, labels: Sequence[str]) -> FittedMaps:
        """The maps of some g."""
        weight, bias = next(iter(self.parameters.values()))
        none = (torch.zeros_like(weight), torch.zeros_like(bias))
        chosen = [self.parameters.get(label, none) for label in labels]
        unknown = torch.full((len(labels),), torch.nan)
        stacked = {name: torch.stack([one[k] for one in chosen]) for k, name in enumerate(("weight", "bias"))}
        return FittedMaps("residual", JOINT, stacked, ["ok"] * len(labels), unknown, unknown)


@dataclass(frozen=True)
class MapSpec:
    """One way of mapping representations to representations.

    Attributes:
        map: identity, residual, mlp or linear.
        solver: name of the solver; empty for the identity.
        settings: settings of the solver; None where nothing is fitted.
        learned: the maps, where they are there already.
    """

    map: str
    solver: str = ""
    settings: Solver | None = None
    learned: Learned | None = None

    @property
    def label(self) -> str:
        """How rows name the solver."""
        return self.settings.label if self.settings else self.solver

    @property
    def name(self) -> str:
        """Name of its run directory."""
        return f"{self.map}_{self.solver}" if self.solver else self.map


def maps_of(maps: Mapping[str, Any], solvers: Mapping[str, Any]) -> list[MapSpec]:
    """Every map with every solver that fits it.

    A map with one solver only is fitted by it, with its default settings, though the configuration does not choose it.

    Args:
        maps: the `map` part of the configuration, by name.
        solvers: the `solver` part: name → settings.

    Raises:
        UserError: for settings that make no sense, or a map without a solver that fits it.
    """
    chosen = {name: solver_from_config(name, settings or {}) for name, settings in solvers.items()}
    specs = []
    for kind in maps:
        able = SOLVERS_OF[kind]
        if not able:
            specs.append(MapSpec(kind))
            continue
        usable = {name: chosen[name] for name in able if name in chosen}
        if not usable and len(able) == 1:
            usable = {able[0]: solver_from_config(able[0], {})}
        if not usable:
            raise UserError(f"map={kind} needs a solver: choose solver=[{','.join(able)}] or one of them")
        specs += [MapSpec(kind, name, solver) for name, solver in usable.items()]
    return specs
