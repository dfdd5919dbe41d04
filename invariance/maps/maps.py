"""Maps between representations: modules for one fit, and the many fits of a network held together."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

MAPS = ("identity", "residual", "linear", "mlp")
"""Kinds of map, by the names that conf/map/ and the rows use."""


class IdentityMap(nn.Module):
    """r as it is: what invariance is measured through (σ does nothing to features that come after a ReLU)."""

    def forward(self, r: Tensor) -> Tensor:
        """(B, D) to (B, D)."""
        return r


class ResidualMap(nn.Module):
    """M_g(r) = σ((W + I) r + b), σ the ReLU (Eq. 8). Starts as W = 0, b = 0: the identity on features after a ReLU."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(features, features))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, r: Tensor) -> Tensor:
        """(B, D) to (B, D)."""
        return functional.relu(r + functional.linear(r, self.weight, self.bias))


class LinearMap(nn.Module):
    """E(r) = σ(W r + b) (Sec. 5.3), between representations that may differ in size. Starts at W = 0, b = 0.

    Args:
        inputs: D_in.
        outputs: D_out.
        relu: whether σ is the ReLU; else it does nothing, as representations with numbers below 0 need it.
    """

    def __init__(self, inputs: int, outputs: int, relu: bool = True) -> None:
        super().__init__()
        self.relu = relu
        self.weight = nn.Parameter(torch.zeros(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, r: Tensor) -> Tensor:
        """(B, D_in) to (B, D_out)."""
        z = functional.linear(r, self.weight, self.bias)
        return functional.relu(z) if self.relu else z


class MLPMap(nn.Module):
    """M_g(r) = σ(r + R(r)), R with one hidden layer of ReLU units (Sec. 5.2), D of them unless `hidden` is given.

    R's last layer starts at zero, so the map starts as the identity; the first starts as `torch.nn.Linear` does.
    """

    def __init__(self, features: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = features if hidden is None else hidden
        self.weight_in = nn.Parameter(torch.empty(hidden, features).uniform_(-1, 1).mul_(features**-0.5))
        self.bias_in = nn.Parameter(torch.empty(hidden).uniform_(-1, 1).mul_(features**-0.5))
        self.weight = nn.Parameter(torch.zeros(features, hidden))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, r: Tensor) -> Tensor:
        """(B, D) to (B, D)."""
        hidden = functional.relu(functional.linear(r, self.weight_in, self.bias_in))
        return functional.relu(r + functional.linear(hidden, self.weight, self.bias))


def build_map(kind: str, parameters: dict[str, Tensor], relu: bool = True) -> nn.Module:
    """The module of one fit around its parameters, which it shares: nothing is copied.

    Args:
        kind: one of `MAPS`.
        parameters: the module's parameters by name (none for the identity).
        relu: of a linear map, whether σ is the ReLU.
    """
    module: nn.Module
    with torch.device("meta"):
        if kind == "identity":
            module = IdentityMap()
        elif kind == "residual":
            module = ResidualMap(parameters["weight"].shape[1])
        elif kind == "linear":
            module = LinearMap(parameters["weight"].shape[1], parameters["weight"].shape[0], relu)
        elif kind == "mlp":
            module = MLPMap(parameters["weight"].shape[0], parameters["weight"].shape[1])
        else:
            raise ValueError(f"no map {kind!r}; there are {', '.join(MAPS)}")
    module.load_state_dict(parameters, assign=True)
    return module


@dataclass(frozen=True)
class FittedMaps:
    """J fitted maps of one kind and how each fit ended.

    Attributes:
        kind: one of `MAPS`.
        solver: label of the solver, as rows print it; empty for the identity.
        parameters: the module's parameters by name, each (J, …): `weight` (J, D_out, D_in), `bias` (J, D_out), and
            for an mlp also `weight_in`, `bias_in`.
        status: "ok" or "diverged", for each fit (see `fit_status`).
        error: (J,) mean over the fit images of ‖map(r) − t‖².
        reference: (J,) the same of the map that the fit must not be worse than.
        strength: the strength chosen for each fit; empty unless the solver was ridge.
        relu: of linear maps, whether σ of each is the ReLU; empty where all are.
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

    def module(self, j: int) -> nn.Module:
        """Fit j as a module on (B, D) batches; it shares the weights."""
        parameters = {name: values[j] for name, values in self.parameters.items()}
        return build_map(self.kind, parameters, self.relu[j] if self.relu else True)

    @torch.no_grad()
    def apply(self, j: int, r: Tensor, chunk: int = 4096) -> Tensor:
        """r̂ (N, D_out) of features r (N, D_in) through fit j, `chunk` images at a time, on the device of r."""
        module = self.module(j).to(r.device)
        return torch.cat([module(part) for part in torch.split(r, chunk)]) if len(r) else module(r)
