"""Solvers by name: settings from a configuration, checked value by value, and the fit that they begin."""

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import torch

from invariance.errors import UserError, nearest
from invariance.maps.fitting import Fit
from invariance.maps.minibatch import MinibatchFit, MinibatchSGD
from invariance.maps.online_sgd import OnlineSGD, OnlineSGDState
from invariance.maps.ridge import Ridge, RidgeFit

Solver = OnlineSGD | Ridge | MinibatchSGD

SOLVERS: dict[str, type[OnlineSGD] | type[Ridge] | type[MinibatchSGD]] = {
    "online_sgd": OnlineSGD, "ridge": Ridge, "minibatch_sgd": MinibatchSGD,
}
"""Settings of each solver, by the names that conf/solver/ uses."""

SOLVERS_OF = {
    "identity": (), "residual": ("online_sgd", "ridge"), "linear": ("online_sgd", "ridge"), "mlp": ("minibatch_sgd",),
}
"""Names of the solvers that can fit each kind of map."""


def solver_from_config(name: str, settings: Mapping[str, Any]) -> Solver:
    """The solver `name` with the settings of its file in conf/solver/; what is left out keeps its default.

    Raises:
        UserError: for an unknown solver or key (naming the nearest) and for a value out of its bounds.
    """
    if name not in SOLVERS:
        raise UserError(f"unknown solver {name!r}{nearest(name, SOLVERS)}; there are {', '.join(SOLVERS)}")
    kind = SOLVERS[name]
    known = {field.name for field in fields(kind)}
    values = {}
    for key, value in settings.items():
        if key not in known:
            hint = f"{nearest(key, known)}; it has {', '.join(sorted(known))}"
            raise UserError(f"solver.{name} has no setting {key!r}{hint}")
        values[key] = _CHECKS[key](f"solver.{name}.{key}", value)
    return kind(**values)


def begin_fit(
    solver: Solver, kind: str, inputs: int, outputs: int, images: int, *, problems: int = 1, stacked: int = 1,
    device: torch.device | str = "cpu",
) -> Fit:
    """J fits of one kind of map, nothing taken in yet.

    Args:
        solver: its settings.
        kind: residual, linear or mlp.
        inputs: D_in.
        outputs: D_out, all stacked targets together.
        images: how many fit images an epoch has.
        problems: J, fits with inputs of their own.
        stacked: targets stacked along the outputs.
        device: where the fits run.

    Raises:
        UserError: if the solver cannot fit that kind of map.
    """
    able = SOLVERS_OF.get(kind, ())
    name = next(key for key, value in SOLVERS.items() if isinstance(solver, value))
    if name not in able:
        raise UserError(f"solver={name} cannot fit map={kind}; use solver={' or solver='.join(able) or 'none'}")
    residual = kind == "residual"
    if isinstance(solver, OnlineSGD):
        return OnlineSGDState(solver, inputs, outputs, problems, stacked=stacked, residual=residual, device=device)
    if isinstance(solver, Ridge):
        return RidgeFit(solver, inputs, outputs, problems, images, stacked=stacked, residual=residual, device=device)
    if inputs != outputs:
        raise ValueError(f"an mlp map has as many outputs as inputs, not {outputs} and {inputs}")
    return MinibatchFit(solver, inputs, problems, device)


def _number(
    low: float, high: float, expected: str, *, open_low: bool = False, open_high: bool = False
) -> Callable[[str, Any], float]:
    def check(where: str, value: Any) -> float:  # noqa: ANN401
        fine = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        fine = fine and (low < value if open_low else low <= value) and (value < high if open_high else value <= high)
        if not fine:
            raise UserError(f"{where}={value!r}: expected {expected}")
        return float(value)

    return check


def _count(low: int) -> Callable[[str, Any], int]:
    def check(where: str, value: Any) -> int:  # noqa: ANN401
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value < 2**63:
            raise UserError(f"{where}={value!r}: expected a whole number of at least {low}")
        return value

    return check


def _hidden(where: str, value: Any) -> int | None:  # noqa: ANN401
    return None if value is None else _count(1)(where, value)


def _loss(where: str, value: Any) -> str:  # noqa: ANN401
    if value not in ("scaled", "square"):
        raise UserError(f"{where}={value!r}: expected scaled, for ‖·‖² / (2D), or square, for ‖·‖²")
    return str(value)


def _switch(where: str, value: Any) -> bool:  # noqa: ANN401
    if not isinstance(value, bool):
        raise UserError(f"{where}={value!r}: expected true or false")
    return value


def _strengths(where: str, value: Any) -> tuple[float, ...]:  # noqa: ANN401
    if isinstance(value, str) or not hasattr(value, "__iter__") or not (values := list(value)):
        raise UserError(f"{where}={value!r}: expected a list of numbers that are 0 or more, as [1e-3, 1e-2, 1e-1]")
    check = _number(0, math.inf, "a number that is 0 or more")
    return tuple(sorted({check(f"{where}[{k}]", one) for k, one in enumerate(values)}))


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "rate": _number(0, math.inf, "a number above 0", open_low=True),
    "momentum": _number(0, 1, "a number from 0 to below 1", open_high=True),
    "weight_decay": _number(0, math.inf, "a number that is 0 or more"),
    "held_out": _number(0, 1, "a share between 0 and 1", open_low=True, open_high=True),
    "epochs": _count(1), "batch": _count(1), "block": _count(1), "inner": _count(1), "seed": _count(0),
    "hidden": _hidden, "loss": _loss, "relu": _switch, "strengths": _strengths,
}
