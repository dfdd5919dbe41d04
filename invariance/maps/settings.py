"""Solvers by name: settings from a configuration, checked value by value, and the fit that they begin."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from invariance.device import require
from invariance.errors import UserError, nearest
from invariance.maps.fitting import FitState, Solver, Wanted
from invariance.maps.maps import listed, map_named
from invariance.maps.minibatch import MinibatchSGD
from invariance.maps.online_sgd import OnlineSGD
from invariance.maps.procrustes import Procrustes
from invariance.maps.ridge import Ridge
from invariance.settings.base import Settings, checked
from invariance.settings.named import named

SOLVERS: dict[str, str | type[Solver]] = {
    "online_sgd": OnlineSGD,
    "ridge": Ridge,
    "procrustes": Procrustes,
    "minibatch_sgd": MinibatchSGD,
}
"""Every solver by the name that `solver=` and the rows give it: its class, or `module:Class` of it. The only list."""


def solver_named(name: str) -> type[Solver]:
    """The solver of a name, or one from outside the package, as `module:Class`.

    Raises:
        UserError: for a name that is not there (naming the nearest), and for what is no solver.
    """
    if name not in SOLVERS and ":" not in str(name):
        raise UserError(
            f"unknown solver {name!r}{nearest(name, SOLVERS)}; there are {', '.join(SOLVERS)}, or give module:Class"
        )
    there: Any = SOLVERS.get(name, name)
    there = named(there, "solver") if isinstance(there, str) else there
    schema = getattr(there, "schema", None)
    if not (isinstance(there, type) and hasattr(there, "begin") and _is_schema(schema)):
        raise UserError(
            f"solver={name!r} is no solver; give a class as invariance.maps.Solver tells, with a schema that has a "
            "default for every setting"
        )
    return there


def _is_schema(schema: object) -> bool:
    """Whether something is the schema of a solver's settings, each of which has a default."""
    if not (isinstance(schema, type) and issubclass(schema, Settings)):
        return False
    return not any(field.is_required() for field in schema.model_fields.values())


def solvers_of(kind: str, others: Sequence[str] = ()) -> tuple[str, ...]:
    """The names of the solvers that can fit a kind of map; none for the identity.

    Args:
        kind: the map.
        others: solvers from outside the package that are to be considered, too.

    Raises:
        UserError: for a map that there is not.
    """
    themselves, own = map_named(kind).solvers, listed(kind)
    names = dict.fromkeys([*SOLVERS, *others])
    return tuple(name for name in names if name in themselves or own in solver_named(name).fits)


def solver_from_config(name: str, settings: Mapping[str, Any]) -> Solver:
    """The solver `name` with the settings of its file in conf/solver/; what is left out keeps its default.

    Raises:
        UserError: for an unknown solver or key (naming the nearest) and for a value out of its bounds.
    """
    kind = solver_named(name)
    given = checked(kind.schema, settings, f"solver.{name}").model_dump(exclude_unset=True)
    if "strengths" in given:
        given["strengths"] = tuple(sorted(given["strengths"]))
    return kind(**given)


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
        kind: the map, as `MAPS` names it.
        inputs: D_in.
        outputs: D_out, all stacked targets together.
        images: how many fit images an epoch has.
        problems: J, fits with inputs of their own.
        stacked: targets stacked along the outputs.
        relu: whether σ of each stacked target is the ReLU; empty where all are.
        device: where the fits run.

    Raises:
        UserError: if the solver cannot fit that kind of map, or does not fit into this machine's memory.
    """
    residual, name = map_named(kind).residual, name_of(solver)
    able = solvers_of(kind, [name])
    if name not in able:
        raise UserError(f"solver={name} cannot fit map={kind}; use solver={' or solver='.join(able) or 'none'}")
    require_room(solver, inputs, outputs, images, kind=kind, problems=problems, device=device)
    if residual and outputs != stacked * inputs:
        raise UserError(f"{outputs} outputs are not {stacked} targets of {inputs} features, as map={kind} has them")
    return solver.begin(Wanted(kind, residual, inputs, outputs, images, problems, stacked, relu, device))


def name_of(solver: Solver) -> str:
    """The name of a solver: that of the list, or `module:Class`.

    Raises:
        UserError: for anything that is no solver's settings, such as None or the class itself.
    """
    for key in SOLVERS:
        if isinstance(solver, solver_named(key)):
            return key
    if isinstance(solver, Solver) and not isinstance(solver, type):
        return f"{type(solver).__module__}:{type(solver).__qualname__}"
    known = ", ".join(f"{solver_named(key).__name__}()" for key in SOLVERS)
    raise UserError(f"solver={solver!r} is no solver's settings: give one of {known}")


def require_room(
    solver: Solver,
    inputs: int,
    outputs: int,
    images: int,
    *,
    kind: str = "",
    problems: int = 1,
    device: torch.device | str = "cpu",
) -> None:
    """Refuse fits whose states cannot fit into this machine's memory; arguments as `begin_fit`; any map unless given.

    Raises:
        UserError: naming the solver and what it takes.
    """
    if torch.device(device).type == "cpu":
        needed = solver.least_bytes(Wanted(kind, False, inputs, outputs, images, problems))
        what = f"solver={name_of(solver)} for maps of {inputs} to {outputs} features"
        require(needed, what, "choose a smaller layer")
