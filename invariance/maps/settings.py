"""Solvers by name: settings from a configuration, checked value by value, and the fit that they begin."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from invariance.device import require
from invariance.errors import UserError, nearest
from invariance.maps.fitting import FitState
from invariance.maps.minibatch import MinibatchFit, MinibatchSGD
from invariance.maps.online_sgd import OnlineSGD, OnlineSGDState
from invariance.maps.ridge import Ridge, RidgeFit
from invariance.settings import solvers
from invariance.settings.base import Settings, checked

Solver = OnlineSGD | Ridge | MinibatchSGD

SOLVERS: dict[str, type[OnlineSGD] | type[Ridge] | type[MinibatchSGD]] = {
    "online_sgd": OnlineSGD,
    "ridge": Ridge,
    "minibatch_sgd": MinibatchSGD,
}
"""Settings of each solver, by the names that conf/solver/ uses."""

_SCHEMAS: dict[str, type[Settings]] = {
    "online_sgd": solvers.OnlineSGDSettings,
    "ridge": solvers.RidgeSettings,
    "minibatch_sgd": solvers.MinibatchSGDSettings,
}

SOLVERS_OF = {
    "identity": (),
    "residual": ("online_sgd", "ridge"),
    "linear": ("online_sgd", "ridge"),
    "mlp": ("minibatch_sgd",),
}
"""Names of the solvers that can fit each kind of map."""


def solver_from_config(name: str, settings: Mapping[str, Any]) -> Solver:
    """The solver `name` with the settings of its file in conf/solver/; what is left out keeps its default.

    Raises:
        UserError: for an unknown solver or key (naming the nearest) and for a value out of its bounds.
    """
    if name not in SOLVERS:
        raise UserError(f"unknown solver {name!r}{nearest(name, SOLVERS)}; there are {', '.join(SOLVERS)}")
    given = checked(_SCHEMAS[name], settings, f"solver.{name}").model_dump(exclude_unset=True)
    if "strengths" in given:
        given["strengths"] = tuple(sorted(given["strengths"]))
    return SOLVERS[name](**given)


def begin_fit(
    solver: Solver,
    kind: str,
    inputs: int,
    outputs: int,
    images: int,
    *,
    problems: int = 1,
    stacked: int = 1,
    relu: Sequence[bool] = (),
    device: torch.device | str = "cpu",
) -> FitState:
    """J fits of one kind of map, nothing taken in yet.

    Args:
        solver: its settings.
        kind: residual, linear or mlp.
        inputs: D_in.
        outputs: D_out, all stacked targets together.
        images: how many fit images an epoch has.
        problems: J, fits with inputs of their own.
        stacked: targets stacked along the outputs.
        relu: of linear maps, whether σ of each stacked target is the ReLU; empty where all are.
        device: where the fits run.

    Raises:
        UserError: if the solver cannot fit that kind of map, or does not fit into this machine's memory.
    """
    if kind not in SOLVERS_OF:
        raise UserError(f"map={kind!r}: choose one of {', '.join(SOLVERS_OF)}{nearest(str(kind), SOLVERS_OF)}")
    able = SOLVERS_OF[kind]
    name = name_of(solver)
    if name not in able:
        raise UserError(f"solver={name} cannot fit map={kind}; use solver={' or solver='.join(able) or 'none'}")
    require_room(solver, inputs, outputs, images, problems=problems, device=device)
    residual = kind == "residual"
    if residual and outputs != stacked * inputs:
        raise UserError(f"{outputs} outputs are not {stacked} targets of {inputs} features, as map=residual has them")
    if isinstance(solver, OnlineSGD):
        return OnlineSGDState(solver, inputs, outputs, problems, stacked=stacked, residual=residual, device=device)
    if isinstance(solver, Ridge):
        counts = (inputs, outputs, problems, images)
        return RidgeFit(solver, *counts, stacked=stacked, residual=residual, relu=relu, device=device)
    if inputs != outputs:
        raise UserError(f"an mlp map has as many outputs as inputs, not {outputs} and {inputs}")
    return MinibatchFit(solver, inputs, problems, device)


def name_of(solver: Solver) -> str:
    """The name of a solver in conf/solver/.

    Raises:
        UserError: for anything that is no solver's settings, such as None or the class itself.
    """
    for key, value in SOLVERS.items():
        if isinstance(solver, value):
            return key
    known = ", ".join(f"{value.__name__}()" for value in SOLVERS.values())
    raise UserError(f"solver={solver!r} is no solver's settings: give one of {known}")


def require_room(
    solver: Solver, inputs: int, outputs: int, images: int, *, problems: int = 1, device: torch.device | str = "cpu"
) -> None:
    """Refuse fits whose states cannot fit into this machine's memory; arguments as `begin_fit`.

    Raises:
        UserError: naming the solver and what it takes.
    """
    if torch.device(device).type == "cpu":
        needed = least_bytes(solver, inputs, outputs, images, problems)
        what = f"solver={name_of(solver)} for maps of {inputs} to {outputs} features"
        require(needed, what, "choose a smaller layer")


def least_bytes(solver: Solver, inputs: int, outputs: int, images: int, problems: int = 1) -> int:
    """Bytes that the states of J fits take at the least, in the order of `begin_fit`'s arguments."""
    if isinstance(solver, Ridge):  # sums over images, in float64
        return 8 * problems * inputs * (inputs + outputs)
    if isinstance(solver, MinibatchSGD):  # two layers, their gradients and momentum
        return 24 * problems * inputs * (solver.hidden or inputs)
    block = min(solver.block, images)
    return 4 * problems * (inputs * outputs + block * block)
