"""What is fitted: every map of a configuration with every solver that can fit it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from invariance.errors import UserError
from invariance.maps import SOLVERS_OF, Solver, solver_from_config


@dataclass(frozen=True)
class Fit:
    """One way of mapping representations to representations.

    Attributes:
        map: identity, residual, mlp or linear.
        solver: name of the solver; empty for the identity.
        settings: settings of the solver; None for the identity.
    """

    map: str
    solver: str = ""
    settings: Solver | None = None

    @property
    def name(self) -> str:
        """Name of its run directory."""
        return f"{self.map}_{self.solver}" if self.solver else self.map


def fits_of(maps: Mapping[str, Any], solvers: Mapping[str, Any]) -> list[Fit]:
    """Every map with every solver that fits it.

    A map with one solver only is fitted by it, with its default settings, though the configuration does not choose it.

    Args:
        maps: the `map` part of the configuration, by name.
        solvers: the `solver` part: name → settings.

    Raises:
        UserError: for settings that make no sense, or a map without a solver that fits it.
    """
    chosen = {name: solver_from_config(name, settings or {}) for name, settings in solvers.items()}
    fits = []
    for kind in maps:
        able = SOLVERS_OF[kind]
        if not able:
            fits.append(Fit(kind))
            continue
        usable = {name: chosen[name] for name in able if name in chosen}
        if not usable and len(able) == 1:
            usable = {able[0]: solver_from_config(able[0], {})}
        if not usable:
            raise UserError(f"map={kind} needs a solver: choose solver=[{','.join(able)}] or one of them")
        fits += [Fit(kind, name, solver) for name, solver in usable.items()]
    return fits
