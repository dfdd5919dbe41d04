"""Maps between representations: modules for one fit, and the many fits of a network held together."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from invariance.errors import UserError, nearest
from invariance.settings.named import named

Parameters = Mapping[str, Tensor]
"""The parameters of one fit by name."""


class Map(nn.Module):
    """A map from representations to representations, its parameters as a solver gives them.

    Attributes:
        residual: whether it starts as the identity, or can be it, so that a fit must not be worse than that; else than
            the mean.
        ranked: whether its name ends on a rank, as low_rank:8.
        solvers: solvers that fit it, beside those that name it themselves (`fits`).
    """

    residual: ClassVar[bool] = True
    ranked: ClassVar[bool] = False
    solvers: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def of(cls, parameters: Parameters, relu: bool) -> Self:
        """An untrained map of the size of some parameters; `relu`: whether σ is the ReLU; else it does nothing."""
        return cls()


class IdentityMap(Map):
    """r as it is: what invariance is measured through (σ does nothing to features that come after a ReLU)."""

    def forward(self, r: Tensor) -> Tensor:
        """(B, D) to (B, D)."""
        return r


class WarpMap(IdentityMap):
    """S_g⁻¹ on the feature map, which the family does; nothing else."""


class ResidualMap(Map):
    """M_g(r) = σ((W + I) r + b) (Eq. 8). Starts as W = 0, b = 0: the identity on features that σ leaves alone.

    Args:
        features: D.
        relu: whether σ is the ReLU, as after a ReLU; else it does nothing, as features with numbers below 0 need it.
    """

    def __init__(self, features: int, relu: bool = True) -> None:
        super().__init__()
        self.relu = relu
        self.weight = nn.Parameter(torch.zeros(features, features))
        self.bias = nn.Parameter(torch.zeros(features))

    @classmethod
    def of(cls, parameters: Parameters, relu: bool) -> Self:
        """See `Map`."""
        return cls(parameters["weight"].shape[1], relu)

    def forward(self, r: Tensor) -> Tensor:
        """(B, D) to (B, D)."""
        z = r + functional.linear(r, self.weight, self.bias)
        return functional.relu(z) if self.relu else z


class SpatialMap(ResidualMap):
    """S_g⁻¹ on the feature map, and then this map of the channels, the same at every position."""

    solvers = ("ridge",)


class LowRankMap(Map):
    """M_g(r) = σ(r + A B r + b): the residual map whose W = A B has a rank of k at most; `low_rank:k` names it.

    Args:
        features: D.
        rank: k; with 0 it only moves, by b.
        relu: whether σ is the ReLU.
    """

    ranked = True

    def __init__(self, features: int, rank: int, relu: bool = True) -> None:
        super().__init__()
        self.relu = relu
        self.left = nn.Parameter(torch.zeros(features, rank))
        self.right = nn.Parameter(torch.zeros(rank, features))
        self.bias = nn.Parameter(torch.zeros(features))

    @classmethod
    def of(cls, parameters: Parameters, relu: bool) -> Self:
        """See `Map`."""
        features, rank = parameters["left"].shape
        return cls(features, rank, relu)

    def forward(self, r: Tensor) -> Tensor:
        """(B, D) to (B, D)."""
        z = r + functional.linear(functional.linear(r, self.right), self.left, self.bias)
        return functional.relu(z) if self.relu else z


class LinearMap(Map):
    """E(r) = σ(W r + b) (Sec. 5.3), between representations that may differ in size. Starts at W = 0, b = 0.

    Args:
        inputs: D_in.
        outputs: D_out.
        relu: whether σ is the ReLU; else it does nothing, as representations with numbers below 0 need it.
    """

    residual = False

    def __init__(self, inputs: int, outputs: int, relu: bool = True) -> None:
        super().__init__()
        self.relu = relu
        self.weight = nn.Parameter(torch.zeros(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    @classmethod
    def of(cls, parameters: Parameters, relu: bool) -> Self:
        """See `Map`."""
        return cls(parameters["weight"].shape[1], parameters["weight"].shape[0], relu)

    def forward(self, r: Tensor) -> Tensor:
        """(B, D_in) to (B, D_out)."""
        z = functional.linear(r, self.weight, self.bias)
        return functional.relu(z) if self.relu else z


class OrthogonalMap(LinearMap):
    """M_g(r) = σ(Q (r − r̄) + t̄), Q orthogonal: a rotation (and perhaps a mirror image) of the representation.

    Its weight is Q, its bias t̄ − Q r̄.
    """

    residual = True


class MLPMap(Map):
    """M_g(r) = σ(r + R(r)), R with one hidden layer of ReLU units (Sec. 5.2), D of them unless `hidden` is given.

    R's last layer starts at zero, so the map starts as the identity; the first starts as `torch.nn.Linear` does. Its
    hidden units have the ReLU whether or not σ is one.
    """

    def __init__(self, features: int, hidden: int | None = None, relu: bool = True) -> None:
        super().__init__()
        self.relu = relu
        hidden = features if hidden is None else hidden
        self.weight_in = nn.Parameter(torch.empty(hidden, features).uniform_(-1, 1).mul_(features**-0.5))
        self.bias_in = nn.Parameter(torch.empty(hidden).uniform_(-1, 1).mul_(features**-0.5))
        self.weight = nn.Parameter(torch.zeros(features, hidden))
        self.bias = nn.Parameter(torch.zeros(features))

    @classmethod
    def of(cls, parameters: Parameters, relu: bool) -> Self:
        """See `Map`."""
        return cls(parameters["weight"].shape[0], parameters["weight"].shape[1], relu)

    def forward(self, r: Tensor) -> Tensor:
        """(B, D) to (B, D)."""
        hidden = functional.relu(functional.linear(r, self.weight_in, self.bias_in))
        z = r + functional.linear(hidden, self.weight, self.bias)
        return functional.relu(z) if self.relu else z


MAPS: dict[str, str | type[Map]] = {
    "identity": IdentityMap,
    "residual": ResidualMap,
    "low_rank": LowRankMap,
    "orthogonal": OrthogonalMap,
    "linear": LinearMap,
    "mlp": MLPMap,
    "warp": WarpMap,
    "spatial": SpatialMap,
}
"""Every map by the name that `map=` and the rows give it: its class, or `module:Class` of it. The only list.

The name of a map with a rank goes on with it: low_rank:8.
"""


def rank_of(kind: str) -> int | None:
    """The rank in the name of a map: 8 of low_rank:8; None for maps that have none.

    Raises:
        UserError: if it lacks, or is none.
    """
    name, _, number = str(kind).partition(":")
    if not getattr(MAPS.get(name), "ranked", False):
        return None
    if not re.fullmatch("0|[1-9][0-9]{0,5}", number):
        raise UserError(f"map={kind!r}: give its rank, a whole number from 0 to 999999, as {name}:8")
    return int(number)


def listed(kind: str) -> str:
    """The name under which the list has a map: without the rank."""
    return kind if rank_of(kind) is None else kind.partition(":")[0]


def map_named(kind: str) -> type[Map]:
    """The map of a name, or one from outside the package, as `module:Class`.

    Raises:
        UserError: for a name that is not there (naming the nearest), one without its rank, and for what is no map.
    """
    name = listed(kind)
    if name not in MAPS and ":" not in str(name):
        raise UserError(
            f"map={kind!r}: choose one of {', '.join(MAPS)}, or give module:Class{nearest(str(kind), MAPS)}"
        )
    there: Any = MAPS.get(name, name)
    there = named(there, "map") if isinstance(there, str) else there
    if not (isinstance(there, type) and issubclass(there, Map)):
        raise UserError(f"map={kind!r} is no map; give a subclass of invariance.maps.Map")
    return there


def build_map(kind: str, parameters: dict[str, Tensor], relu: bool = True) -> Map:
    """The module of one fit around its parameters, which it shares: nothing is copied.

    Args:
        kind: one of `MAPS`, with its rank if it has one, or `module:Class`.
        parameters: the module's parameters by name (none for the identity).
        relu: whether σ is the ReLU.

    Raises:
        UserError: for a kind of map that there is not.
    """
    made = map_named(kind)
    try:
        with torch.device("meta"):
            module = made.of(parameters, relu)
        module.load_state_dict(parameters, assign=True)
    except (TypeError, ValueError, LookupError, RuntimeError) as error:
        if listed(kind) in MAPS:
            raise
        why, names = next(iter(str(error).splitlines()), ""), ", ".join(parameters)
        raise UserError(f"map={kind}: its of() makes no module of the parameters {names} ({why[:200]})") from error
    return module


@dataclass(frozen=True)
class FittedMaps:
    """J fitted maps of one kind and how each fit ended.

    Attributes:
        kind: one of `MAPS`, with its rank if it has one, or `module:Class`.
        solver: label of the solver, as rows print it; empty for the identity.
        parameters: the module's parameters by name, each (J, …): `weight` (J, D_out, D_in), `bias` (J, D_out), and
            for an mlp also `weight_in`, `bias_in`; of a limited rank `left` (J, D, k), `right` (J, k, D) and `bias`.
        status: "ok" or "diverged", for each fit (see `fit_status`).
        error: (J,) mean over the fit images of ‖map(r) − t‖².
        reference: (J,) the same of the map that the fit must not be worse than.
        strength: the strength chosen for each fit; empty unless the solver was ridge.
        relu: whether σ of each is the ReLU; empty where all are.
    """

    kind: str
    solver: str
    parameters: dict[str, Tensor]
    status: Sequence[str]
    error: Tensor
    reference: Tensor
    strength: Sequence[float] = field(default=())
    relu: Sequence[bool] = field(default=())

    def __len__(self) -> int:
        return len(self.status)

    def chosen(self, which: slice) -> Self:
        """Some of the fits, as maps of their own."""
        of_each = {name: getattr(self, name)[which] for name in ("status", "error", "reference", "strength", "relu")}
        parameters = {name: values[which] for name, values in self.parameters.items()}
        return replace(self, parameters=parameters, **of_each)

    def module(self, j: int) -> nn.Module:
        """Fit j as a module on (B, D) batches; it shares the weights."""
        parameters = {name: values[j] for name, values in self.parameters.items()}
        return build_map(self.kind, parameters, self.relu[j] if self.relu else True)

    @torch.no_grad()
    def apply(self, j: int, r: Tensor, chunk: int = 4096) -> Tensor:
        """r̂ (N, D_out) of features r (N, D_in) through fit j, `chunk` images at a time, on the device of r."""
        module = self.module(j).to(r.device)
        return torch.cat([module(part) for part in torch.split(r, chunk)]) if len(r) else module(r)
