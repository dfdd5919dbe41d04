"""Maps between representations and the solvers that fit them (Sec. 5.2, 5.3)."""

from invariance.maps.fitting import FitState, Solver, Wanted, fit_status, order
from invariance.maps.maps import (
    MAPS,
    FittedMaps,
    IdentityMap,
    LinearMap,
    Map,
    MLPMap,
    ResidualMap,
    build_map,
    map_named,
)
from invariance.maps.minibatch import MinibatchFit, MinibatchSGD
from invariance.maps.online_sgd import OnlineSGD, OnlineSGDState
from invariance.maps.ridge import Ridge, RidgeFit
from invariance.maps.settings import SOLVERS, begin_fit, require_room, solver_from_config, solver_named, solvers_of

__all__ = [
    "MAPS",
    "SOLVERS",
    "FitState",
    "FittedMaps",
    "IdentityMap",
    "LinearMap",
    "MLPMap",
    "Map",
    "MinibatchFit",
    "MinibatchSGD",
    "OnlineSGD",
    "OnlineSGDState",
    "ResidualMap",
    "Ridge",
    "RidgeFit",
    "Solver",
    "Wanted",
    "begin_fit",
    "build_map",
    "fit_status",
    "map_named",
    "order",
    "require_room",
    "solver_from_config",
    "solver_named",
    "solvers_of",
]
