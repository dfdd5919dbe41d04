"""The joint loss (Eq. 5–7): a network's own loss, and a term that makes φ invariant and equivariant to a set G.

L = L_d + λ3 L_e, L_d = mean_i H(y_i, C(φ(x_i))), and with x'_ij = M_gj φ(g_j x_i)

L_e = mean_ij [ H(y_i, C(x'_ij)) + λ1 ‖x'_ij − φ(x_i)‖² + λ2 ‖φ(g_j x_i) − φ(x_i)‖² ].

No gradient is stopped: φ(x_i) is drawn towards φ(g_j x_i) as that is towards it.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional

from invariance.errors import UserError

TERMS = {
    "classification": "H(y, C(φ(x)))",
    "transformed": "H(y, C(M_g φ(gx)))",
    "recovery": "‖M_g φ(gx) − φ(x)‖²",
    "invariance": "‖φ(gx) − φ(x)‖²",
}


@dataclass(frozen=True)
class JointWeights:
    """The weights of the joint loss.

    Attributes:
        recovery: λ1, of ‖x'_ij − φ(x_i)‖².
        invariance: λ2, of ‖φ(g_j x_i) − φ(x_i)‖².
        equivariance: λ3, of L_e as a whole.
    """

    recovery: float
    invariance: float
    equivariance: float = 0.3

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"the joint loss's weight {field.name}={value!r}: expected a number that is 0 or more")

    @classmethod
    def of(cls, dim: int, equivariance: float = 0.3) -> "JointWeights":
        """The released code's weights for D features: λ1 = 25/D, λ2 = 12.5/D (it has D = 4,096), λ3 = 0.3."""
        return cls(25 / dim, 12.5 / dim, equivariance)


@dataclass(frozen=True)
class JointTerms:
    """The parts of the joint loss, each a scalar with its gradient.

    Attributes:
        classification: L_d (Eq. 5).
        transformed: mean over i and j of H(y_i, C(x'_ij)).
        recovery: mean of ‖x'_ij − φ(x_i)‖².
        invariance: mean of ‖φ(g_j x_i) − φ(x_i)‖².
    """

    classification: Tensor
    transformed: Tensor
    recovery: Tensor
    invariance: Tensor

    def equivariance(self, weights: JointWeights) -> Tensor:
        """L_e (Eq. 6)."""
        return self.transformed + weights.recovery * self.recovery + weights.invariance * self.invariance

    def loss(self, weights: JointWeights) -> Tensor:
        """L = L_d + λ3 L_e (Eq. 7); exactly L_d where λ3 is 0."""
        if weights.equivariance == 0:
            return self.classification
        return self.classification + weights.equivariance * self.equivariance(weights)

    def broken(self) -> str:
        """Name of the first term that is not a finite number; empty if all are."""
        return next((f.name for f in fields(self) if not bool(torch.isfinite(getattr(self, f.name)))), "")


def joint_terms(
    logits: Tensor, r: Tensor, logits_back: Tensor, r_back: Tensor, r_moved: Tensor, labels: Tensor
) -> JointTerms:
    """The terms of Eq. 5 and 6 for N images under J transformations.

    Args:
        logits: (N, K) C(φ(x_i)).
        r: (N, D) φ(x_i).
        logits_back: (J, N, K) C(x'_ij).
        r_back: (J, N, D) x'_ij = M_gj φ(g_j x_i).
        r_moved: (J, N, D) φ(g_j x_i).
        labels: (N,) y_i.

    Raises:
        ValueError: if shapes do not fit each other.
    """
    j, (n, d), k = len(r_back), r.shape, logits.shape[1]
    shapes = [tuple(one.shape) for one in (logits, logits_back, r_back, r_moved, labels)]
    wanted: list[tuple[int, ...]] = [(n, k), (j, n, k), (j, n, d), (j, n, d), (n,)]
    if shapes != wanted or not j:
        raise ValueError(f"logits, logits_back, r_back, r_moved and labels are {shapes}, expected {wanted}")
    return JointTerms(
        classification=functional.cross_entropy(logits, labels),
        transformed=functional.cross_entropy(logits_back.flatten(0, 1), labels.repeat(j)),
        recovery=(r_back - r).square().sum(2).mean(),
        invariance=(r_moved - r).square().sum(2).mean(),
    )


class BrokenTerms(nn.Module):
    """Which terms were no longer finite numbers in the first update that had such; looked at without waiting for it."""

    found: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("found", torch.zeros(len(TERMS), dtype=torch.bool), persistent=False)

    def look(self, terms: JointTerms) -> None:
        """Look at the terms of an update."""
        broken = torch.stack([~torch.isfinite(getattr(terms, name)) for name in TERMS])
        self.found = torch.where(self.found.any(), self.found, broken)

    @property
    def broken(self) -> list[str]:
        """The terms that were broken, with what they are; none while all are finite."""
        return [f"{name} ({TERMS[name]})" for name, flag in zip(TERMS, self.found.tolist(), strict=True) if flag]
