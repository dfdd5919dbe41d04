"""Maps between representations and the solvers that fit them (Sec. 5.2, 5.3)."""

from invariance.maps.fitting import FitState, fit_status, order
from invariance.maps.maps import MAPS, FittedMaps, IdentityMap, LinearMap, MLPMap, ResidualMap, build_map
from invariance.maps.minibatch import MinibatchFit, MinibatchSGD
from invariance.maps.online_sgd import OnlineSGD, OnlineSGDState
from invariance.maps.ridge import Ridge, RidgeFit
from invariance.maps.settings import SOLVERS, SOLVERS_OF, Solver, begin_fit, require_room, solver_from_config

__all__ = [
    "MAPS",
    "SOLVERS",
    "SOLVERS_OF",
    "FitState",
    "FittedMaps",
    "IdentityMap",
    "LinearMap",
    "MLPMap",
    "MinibatchFit",
    "MinibatchSGD",
    "OnlineSGD",
    "OnlineSGDState",
    "ResidualMap",
    "Ridge",
    "RidgeFit",
    "Solver",
    "begin_fit",
    "build_map",
    "fit_status",
    "order",
    "require_room",
    "solver_from_config",
]
