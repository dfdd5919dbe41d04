"""Maps between representations and the solvers that fit them (Sec. 5.2, 5.3)."""

from invariance.maps.fitting import FitState, Solver, Wanted, fit_status, never_negative, order
from invariance.maps.maps import (
    MAPS,
    FittedMaps,
    IdentityMap,
    LinearMap,
    LowRankMap,
    Map,
    MLPMap,
    OrthogonalMap,
    ResidualMap,
    build_map,
    listed,
    map_named,
    rank_of,
)
from invariance.maps.minibatch import MinibatchFit, MinibatchSGD
from invariance.maps.online_sgd import OnlineSGD, OnlineSGDState
from invariance.maps.procrustes import Procrustes, ProcrustesFit
from invariance.maps.ridge import Ridge, RidgeFit
from invariance.maps.settings import SOLVERS, begin_fit, require_room, solver_from_config, solver_named, solvers_of

__all__ = [
    "MAPS",
    "SOLVERS",
    "FitState",
    "FittedMaps",
    "IdentityMap",
    "LinearMap",
    "LowRankMap",
    "MLPMap",
    "Map",
    "MinibatchFit",
    "MinibatchSGD",
    "OnlineSGD",
    "OnlineSGDState",
    "OrthogonalMap",
    "Procrustes",
    "ProcrustesFit",
    "ResidualMap",
    "Ridge",
    "RidgeFit",
    "Solver",
    "Wanted",
    "begin_fit",
    "build_map",
    "fit_status",
    "listed",
    "map_named",
    "never_negative",
    "order",
    "rank_of",
    "require_room",
    "solver_from_config",
    "solver_named",
    "solvers_of",
]
