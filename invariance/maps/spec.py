"""What is fitted: every map of a configuration with every solver that can fit it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from invariance.errors import UserError
from invariance.maps import FittedMaps, IdentityMap, Solver, map_named, solver_from_config, solvers_of
from invariance.settings.base import checked
from invariance.settings.solvers import NoSettings

JOINT = "joint"
"""The solver, as rows name it, of maps that were learned together with their network."""

CLOSED = ("ridge", "procrustes")
"""Solvers in closed form: their maps have the unseen-class control always, for sums kept by group give it."""


INSIDE, WARP, FLOOR, SPATIAL = "identity_inside", "warp", "floor", "spatial"
"""Maps on the positions of a layer, as rows name them: none, over the positions whose source lies inside; S_g⁻¹; S_g⁻¹
S_g of φ(x); and S_g⁻¹ with a map of the channels."""

ON_POSITIONS = (INSIDE, WARP, FLOOR, SPATIAL)


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
        map: its name, as `MAPS` has it, with its rank if it has one, or `module:Class`.
        solver: name of the solver, or `module:Class`; empty for the identity.
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
        return "_".join(filter(None, (self.map, self.solver))).replace(":", ".")


def maps_of(maps: Mapping[str, Any], solvers: Mapping[str, Any]) -> list[MapSpec]:
    """Every map with every solver that fits it.

    A map with one solver only is fitted by it, with its default settings, though the configuration does not choose it
    (see `unchosen`).

    Args:
        maps: the `map` part of the configuration: name → settings, of which a map has none.
        solvers: the `solver` part: name → settings.

    Raises:
        UserError: for settings that make no sense, or a map without a solver that fits it.
    """
    chosen = {name: solver_from_config(name, settings or {}) for name, settings in solvers.items()}
    specs = []
    for kind, none in maps.items():
        checked(NoSettings, none or {}, f"map.{kind}")
        if issubclass(map_named(kind), IdentityMap):
            specs.append(MapSpec(kind))
            continue
        able = solvers_of(kind, list(chosen))
        usable = {name: chosen[name] for name in able if name in chosen}
        if not usable and len(able) == 1:
            usable = {able[0]: solver_from_config(able[0], {})}
        if not usable:
            which = f"choose solver=[{','.join(able)}] or one of them" if able else "there is none that fits it"
            raise UserError(f"map={kind} needs a solver: {which}")
        specs += [MapSpec(kind, name, solver) for name, solver in usable.items()]
    return with_companions(specs)


def with_companions(specs: Sequence[MapSpec]) -> list[MapSpec]:
    """Maps, and beside one on positions those that say what it is to be compared with."""
    there = [spec.map for spec in specs]
    wanted = (INSIDE, WARP, FLOOR) if {WARP, SPATIAL} & set(there) else ()
    return [*specs, *(MapSpec(name) for name in wanted if name not in there)]


def parted(specs: Sequence[MapSpec]) -> tuple[list[MapSpec], list[MapSpec]]:
    """Maps of representations, and those on positions."""
    on = [spec for spec in specs if spec.map in ON_POSITIONS]
    return [spec for spec in specs if spec not in on], on


def unchosen(specs: Sequence[MapSpec], solvers: Mapping[str, Any]) -> list[str]:
    """What to say of maps that are fitted by a solver which was not chosen: a line for each.

    Args:
        specs: of `maps_of`.
        solvers: the `solver` part of the configuration.
    """
    chosen = ",".join(solvers)
    return [
        f"map={spec.map} is fitted by {spec.solver} with its default settings, for solver=[{chosen}] cannot; "
        f"solver=[{','.join((*solvers, spec.solver))}] chooses it, and its settings"
        for spec in specs
        if spec.settings is not None and spec.solver not in solvers
    ]


def leaning(specs: Sequence[MapSpec], dims: Mapping[str, int], images: int) -> list[str]:
    """What to say of fewer fit images than dimensions, where a map in closed form is fitted: a line a layer.

    Args:
        specs: what is fitted.
        dims: D of every layer.
        images: how many fit images there are.
    """
    specs = parted(specs)[0]
    maps = ", ".join(dict.fromkeys(spec.map for spec in specs if spec.solver in CLOSED))
    return [
        f"layer {layer}: {images} fit images for {dim} dimensions; where they say nothing, maps stay at the identity "
        f"({maps})"
        for layer, dim in dims.items()
        if maps and images < dim
    ]


def check_unseen(unseen: Sequence[str], specs: Sequence[MapSpec], labels: bool = True) -> None:
    """Refuse solvers for the unseen-class control that would change nothing.

    Args:
        unseen: the solvers that are to have it.
        specs: what is fitted.
        labels: whether the images have the networks' classes.

    Raises:
        UserError: for a solver that fits none of the maps, one in closed form, or where there are no labels.
    """
    fitted = list(dict.fromkeys(spec.solver for spec in specs if spec.settings is not None))
    for name in unseen:
        if name in CLOSED:
            raise UserError(f"unseen_classes: {name} has the control always; leave it out")
        if name not in fitted:
            there = f"maps are fitted by {', '.join(fitted)}" if fitted else "no map is fitted"
            raise UserError(f"unseen_classes={name}: {there}; leave it out, or choose it with solver=")
    if unseen and not labels:
        raise UserError("unseen_classes: with data= there are no classes of the networks' own; leave it out")
