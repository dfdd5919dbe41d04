"""What online SGD carries from one block of images to the next: weights and biases, in one of two exact forms.

Weights are stored as (J, D_in, D_out), transposed against `torch.nn.Linear`, so that the units run along the fast axis;
biases are (J, 1, D_out). Coefficients are worked out in float64 and rounded once. `gradient` is the factor of the loss:
the gradient of image t is gradient · δ_t r_tᵀ for W and gradient · δ_t for b.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invariance.maps.dynamics import Dynamics, Modes


class Carry(Protocol):
    """The state between two blocks."""

    def before(self, r: Tensor) -> Tensor:
        """Pre-activations (J, B, D_out) of a block r (J, B, D_in), less what the block's own images contribute."""

    def advance(self, r: Tensor, delta: Tensor) -> None:
        """Take in a block's inputs r (J, B, D_in) and δ (J, B, D_out), which must stay as it is."""

    def weights(self) -> tuple[Tensor, Tensor]:
        """W (J, D_in, D_out) and b (J, 1, D_out) after all images taken in; new tensors."""


class _Coefficients:
    """Factors of a block, kept from one block to the next: almost all blocks are of one size."""

    _LIMIT = 32

    def __init__(self, like: Tensor) -> None:
        self._like = like.new_empty(0)
        self._kept: dict[tuple[str | int, ...], Tensor] = {}

    def __call__(self, key: tuple[str | int, ...], make: Callable[[], NDArray[np.floating]]) -> Tensor:
        """What `make` gives in float64, in the dtype and on the device of the state; (B,) comes as a column (B, 1)."""
        if key not in self._kept:
            if len(self._kept) == self._LIMIT:
                self._kept.clear()
            values = make()
            values = values[:, None] if values.ndim == 1 else values
            self._kept[key] = torch.from_numpy(np.ascontiguousarray(values)).to(self._like)
        return self._kept[key]


class VelocityCarry:
    """W and V as they are: four matrix products a block, exact whatever the eigenvalues."""

    def __init__(self, dynamics: Dynamics, gradient: float, weight: Tensor, bias: Tensor) -> None:
        self._dynamics, self._gradient = dynamics, gradient
        self._weight, self._bias = weight, bias
        self._speed, self._bias_speed = torch.zeros_like(weight), torch.zeros_like(bias)
        self._coefficient = _Coefficients(weight)

    def before(self, r: Tensor) -> Tensor:
        """See `Carry`."""
        size = r.shape[1]
        of_weight = self._coefficient(("of weight", size), lambda: self._dynamics.powers(size)[:, 0, 0])
        of_speed = self._coefficient(("of speed", size), lambda: self._dynamics.powers(size)[:, 0, 1])
        z = torch.baddbmm(self._bias, r, self._weight).mul_(of_weight)
        return z.addcmul_(torch.baddbmm(self._bias_speed, r, self._speed), of_speed)

    def advance(self, r: Tensor, delta: Tensor) -> None:
        """See `Carry`."""
        size = r.shape[1]
        (ww, wv), (vw, vv) = self._dynamics.powers(size + 1)[size].tolist()
        to_weight = delta * self._coefficient(("to weight", size), lambda: self._drive(size)[:, 0])
        to_speed = delta * self._coefficient(("to speed", size), lambda: self._drive(size)[:, 1])
        weight, speed = self._weight, self._speed
        bias, bias_speed = self._bias, self._bias_speed
        self._weight = torch.baddbmm(weight, r.mT, to_weight, beta=ww).add_(speed, alpha=wv)
        self._speed = speed.baddbmm_(r.mT, to_speed, beta=vv).add_(weight, alpha=vw)
        self._bias = ww * bias + wv * bias_speed + to_weight.sum(1, keepdim=True)
        self._bias_speed = vw * bias + vv * bias_speed + to_speed.sum(1, keepdim=True)

    def weights(self) -> tuple[Tensor, Tensor]:
        """See `Carry`."""
        return self._weight.clone(), self._bias.clone()

    def _drive(self, size: int) -> NDArray[np.float64]:
        """(B, 2) what δ_t adds to (W, V) by the block's end."""
        return self._gradient * self._dynamics.response(size)[::-1]


class ModesCarry:
    """The slow part of W alone: two matrix products a block.

    The fast part is what the last `horizon` images drove, each faded by ρ_f a step since; what is older is below
    rounding. A start other than zero has a fast part too, which fades as quickly and is then dropped.
    """

    def __init__(
        self, modes: Modes, horizon: int, gradient: float, weight: Tensor, bias: Tensor, *, at_zero: bool
    ) -> None:
        self._modes, self._horizon, self._gradient = modes, horizon, gradient
        self._rest: tuple[Tensor, Tensor] | None = None
        self._steps = 0
        if modes.rest_fast and not at_zero:
            self._rest = (weight * modes.rest_fast, bias * modes.rest_fast)
            weight, bias = weight - self._rest[0], bias - self._rest[1]
        self._slow, self._slow_bias = weight, bias
        self._past_r, self._past_delta = weight.new_zeros(len(weight), 0, weight.shape[1]), bias[:, :0]
        self._coefficient = _Coefficients(weight)

    def before(self, r: Tensor) -> Tensor:
        """See `Carry`."""
        size, modes = r.shape[1], self._modes
        fade = self._coefficient(("fade", size), lambda: modes.slow ** np.arange(size))
        z = torch.baddbmm(self._slow_bias, r, self._slow).mul_(fade)
        if self._rest is not None:
            faded = self._coefficient(("rest", size), lambda: modes.fast ** np.arange(size))
            z.addcmul_(torch.baddbmm(self._rest[1], r, self._rest[0]), faded, value=float(modes.fast**self._steps))
        past, reach = self._past_r.shape[1], min(size, self._horizon)
        if past:
            ages = np.arange(past)[::-1]
            drive = self._coefficient(
                ("history", past, reach), lambda: self._fast_drive(ages + np.arange(reach)[:, None])
            )
            kernel = torch.matmul(r[:, :reach], self._past_r.mT).add_(1).mul_(drive)
            z[:, :reach].baddbmm_(kernel, self._past_delta)
        return z

    def advance(self, r: Tensor, delta: Tensor) -> None:
        """See `Carry`."""
        size, modes = r.shape[1], self._modes
        driven = delta * self._coefficient(
            ("drive", size), lambda: self._gradient * modes.drive_slow * modes.slow ** np.arange(size)[::-1]
        )
        factor = float(modes.slow**size)
        self._slow.baddbmm_(r.mT, driven, beta=factor)
        self._slow_bias.mul_(factor).add_(driven.sum(1, keepdim=True))
        self._past_r = self._latest(self._past_r, r, ours=False)
        self._past_delta = self._latest(self._past_delta, delta, ours=True)
        self._steps += size
        if self._steps >= self._horizon:
            self._rest = None

    def weights(self) -> tuple[Tensor, Tensor]:
        """See `Carry`."""
        past = self._past_r.shape[1]
        driven = self._past_delta * self._coefficient(("end", past), lambda: self._fast_drive(np.arange(past)[::-1]))
        weight = torch.baddbmm(self._slow, self._past_r.mT, driven)
        bias = self._slow_bias + driven.sum(1, keepdim=True)
        if self._rest is not None:
            fading = float(self._modes.fast**self._steps)
            weight.add_(self._rest[0], alpha=fading)
            bias.add_(self._rest[1], alpha=fading)
        return weight, bias

    def _fast_drive(self, ages: NDArray[np.int64]) -> NDArray[np.floating]:
        """What a δ of each age gives to the fast part."""
        return np.asarray(self._gradient * self._modes.drive_fast * self._modes.fast**ages)

    def _latest(self, past: Tensor, block: Tensor, *, ours: bool) -> Tensor:
        """The last `horizon` images; as a copy where the block is not ours, whose memory the caller may use again."""
        missing = self._horizon - block.shape[1]
        if missing <= 0:
            latest = block[:, -self._horizon :]
            return latest if ours else latest.clone()
        return torch.cat([past[:, -missing:], block], dim=1)
