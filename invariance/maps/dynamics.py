"""Momentum SGD with weight decay as a linear system of two numbers per weight, and its two modes."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SEPARATION = 5e-3
"""Eigenvalues nearer than this are not split: c_s and c_f grow as 1 / distance and would cancel digits away."""


@dataclass(frozen=True)
class Modes:
    """The system in its eigenbasis: a weight is a slow part plus a fast part, each with its own factor per step.

    Attributes:
        slow: factor ρ_s of the slow part.
        fast: factor ρ_f of the fast part, |ρ_f| < 1.
        drive_slow: c_s, what a unit of gradient adds to the slow part.
        drive_fast: c_f, what it adds to the fast part.
        rest_fast: share of a weight at rest (v = 0) that is fast; the slow share is 1 − rest_fast.
    """

    slow: float
    fast: float
    drive_slow: float
    drive_fast: float
    rest_fast: float

    def horizon(self, tolerance: float) -> int:
        """Steps after which the fast part has shrunk by `tolerance`."""
        if self.fast == 0.0:
            return 1
        return math.ceil(math.log(tolerance) / math.log(abs(self.fast)))


@dataclass(frozen=True)
class Dynamics:
    """(w, v) ← A (w, v) + (−η, 1) g with A = [[1 − ηλ, −ηβ], [λ, β]]: the update of `torch.optim.SGD`, g the gradient.

    Args:
        rate: η.
        momentum: β.
        weight_decay: λ.
    """

    rate: float
    momentum: float
    weight_decay: float

    def matrix(self) -> NDArray[np.float64]:
        """A."""
        eta, beta, decay = self.rate, self.momentum, self.weight_decay
        return np.array([[1 - eta * decay, -eta * beta], [decay, beta]])

    def powers(self, count: int) -> NDArray[np.float64]:
        """A^n for n = 0 … count − 1: (count, 2, 2)."""
        result, power = np.eye(2)[None], self.matrix()
        while len(result) < count:
            result, power = np.concatenate([result, result @ power]), power @ power
        return result[:count]

    def response(self, count: int) -> NDArray[np.float64]:
        """(w, v) n steps after a unit of gradient arrived, for n = 0 … count − 1: (count, 2)."""
        return np.asarray(self.powers(count) @ np.array([-self.rate, 1.0]))

    def modes(self) -> Modes | None:
        """The two modes; None where the eigenvalues are complex or nearly equal, or the fast part does not fade."""
        trace = 1 - self.rate * self.weight_decay + self.momentum
        discriminant = trace * trace - 4 * self.momentum
        if discriminant <= _SEPARATION**2:
            return None
        # The root of larger magnitude without cancellation; the other from the product of the two, which is det A = β.
        slow = (trace + math.copysign(math.sqrt(discriminant), trace)) / 2
        fast = self.momentum / slow
        if abs(fast) >= 1:
            return None
        gap = slow - fast
        first, second = -self.rate, -self.rate * (1 - self.rate * self.weight_decay + self.momentum)
        drive_slow = (second - fast * first) / gap
        rest_slow = (1 - self.rate * self.weight_decay - fast) / gap
        return Modes(slow, fast, drive_slow, first - drive_slow, 1 - rest_slow)
