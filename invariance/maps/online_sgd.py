"""Fully online SGD, one image per update, computed a block of images at a time with matrix products.

The trajectory is that of `torch.optim.SGD` stepping after every image; only the order of the arithmetic differs.

Momentum SGD is linear in (W, V) but for one rank-one term an image, δ_t r_tᵀ. So the pre-activation of image t of a
block, z_t = W_t r_t + b_t, is what the state at the block's start gives (a matrix product for the whole block) plus
Σ_{s<t} k_{t−1−s} (r_s·r_t + 1) δ_s, where k is the impulse response of a weight and the 1 carries the bias. That sum
runs down the block (`recurrence`); the state then takes in the whole block with a second matrix product.

The state is carried in one of two forms, both exact to rounding:

- `modes`: the slow part S of W alone. The fast part (factor ρ_f ≈ β a step) is rebuilt from the δ of the last
  `horizon` images, beyond which it is below rounding. Two matrix products a block.
- `velocity`: W and V both. Four matrix products a block; for complex or nearly equal eigenvalues, and wherever the
  history that `modes` needs would cost more (β near 1, small maps).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from invariance.device import full_float32
from invariance.errors import UserError
from invariance.maps.carry import Carry, ModesCarry, VelocityCarry
from invariance.maps.dynamics import Dynamics
from invariance.maps.fitting import FitState, Wanted, hold_checked
from invariance.maps.recurrence import run_block
from invariance.settings import solvers
from invariance.settings.base import Settings

Form = Literal["modes", "velocity"]


@dataclass(frozen=True)
class OnlineSGD:
    """Settings of online SGD (Sec. 5.2); the defaults are the released code's.

    Attributes:
        rate: learning rate η.
        momentum: β.
        weight_decay: λ, on W and b alike.
        epochs: passes over the fit images, each in a new order.
        loss: `scaled` is ‖σ(z) − t‖² / (2D), `square` the bare ‖σ(z) − t‖² that the paper prints.
        relu: whether σ stands in a residual map's loss, where it is the ReLU; a plain map starts at 0, where that has
            no gradient, without it.
        seed: seed of the order of the images.
        block: images computed together; changes speed and rounding, not the trajectory.
        inner: images of a block run one by one between two matrix products on a CPU; the same holds.

    Raises:
        UserError: for a value out of its bounds.
    """

    fits: ClassVar[tuple[str, ...]] = ("residual", "linear")
    schema: ClassVar[type[Settings]] = solvers.OnlineSGDSettings
    weight_bytes: ClassVar[int] = 28

    rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-5
    epochs: int = 10
    loss: Literal["scaled", "square"] = "scaled"
    relu: bool = True
    seed: int = 0
    block: int = 256
    inner: int = 16

    def __post_init__(self) -> None:
        hold_checked(self, self.schema)

    @property
    def label(self) -> str:
        """Name of the solver in rows."""
        return "online_sgd"

    def begin(self, wanted: Wanted) -> FitState:
        """See `Solver`.

        Raises:
            UserError: for residual maps to stacked targets of which σ is the ReLU for some alone.
        """
        sigma = all(wanted.relu) or not wanted.residual
        if not sigma and any(wanted.relu):
            raise UserError("solver=online_sgd: some of the stacked targets have numbers below 0; fit them apart")
        return OnlineSGDState(
            self,
            wanted.inputs,
            wanted.outputs,
            wanted.problems,
            stacked=wanted.stacked,
            residual=wanted.residual,
            sigma=sigma,
            device=wanted.device,
        )

    def least_bytes(self, wanted: Wanted) -> int:
        """See `Solver`: the weights, and the Gram matrix of a block."""
        block = min(self.block, wanted.images)
        return 4 * wanted.problems * (wanted.inputs * wanted.outputs + block * block)


class OnlineSGDState:
    """J fits in progress, with inputs of their own, each with its targets stacked along the outputs.

    Args:
        settings: rate, momentum and so on.
        inputs: D_in.
        outputs: D_out, all stacked targets together.
        problems: J, fits with inputs of their own.
        stacked: targets stacked along the outputs, all of one size D = D_out / stacked; the loss is scaled by that D.
        residual: σ((W + I) r + b) instead of σ(W r + b), for every stacked target.
        relu: whether the ReLU stands in the loss; unless given, for residual maps what `settings` say where σ is the
            ReLU, and for plain maps not.
        sigma: whether σ is the ReLU.
        dtype: float32 or float64.
        device: where the state lives and the blocks are.
        start: W (J, D_out, D_in) and b (J, D_out) to start from, at rest; zeros unless given.
        form: `modes` or `velocity`; the cheaper one that is exact unless given.
    """

    strengths = ()

    def __init__(
        self,
        settings: OnlineSGD,
        inputs: int,
        outputs: int,
        problems: int = 1,
        *,
        stacked: int = 1,
        residual: bool = True,
        relu: bool | None = None,
        sigma: bool = True,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        start: tuple[Tensor, Tensor] | None = None,
        form: Form | None = None,
    ) -> None:
        if outputs % stacked or (residual and outputs != stacked * inputs):
            raise ValueError(f"{outputs} outputs do not hold {stacked} stacked targets for {inputs} inputs")
        self.settings, self.residual, self.stacked = settings, residual, stacked
        self.epochs, self.block = settings.epochs, settings.block
        self.sigma = sigma
        self.relu = settings.relu and residual and sigma if relu is None else relu
        self._dynamics = Dynamics(settings.rate, settings.momentum, settings.weight_decay)
        self._gradient = 2.0 if settings.loss == "square" else stacked / outputs
        weight = torch.zeros(problems, inputs, outputs, dtype=dtype, device=device)
        bias = torch.zeros(problems, 1, outputs, dtype=dtype, device=device)
        if start is not None:
            weight.copy_(start[0].mT)
            bias.copy_(start[1].unsqueeze(1))
        self._carry = self._new_carry(weight, bias, form, at_zero=start is None)
        self._toeplitz = torch.zeros(0, 0, dtype=dtype, device=device)
        self._last: tuple[Tensor, Tensor] | None = None

    def _new_carry(self, weight: Tensor, bias: Tensor, form: Form | None, *, at_zero: bool) -> Carry:
        modes = self._dynamics.modes()
        if modes is not None and form != "velocity":
            horizon = modes.horizon(torch.finfo(weight.dtype).eps / 4)
            inputs, outputs = weight.shape[1:]
            # The history costs horizon · (D_in + D_out) an image and gain, V another 2 · D_in · D_out.
            if form == "modes" or horizon * (inputs + outputs) <= 2 * inputs * outputs:
                return ModesCarry(modes, horizon, self._gradient, weight, bias, at_zero=at_zero)
        if form == "modes":
            raise ValueError("these settings have no separate slow and fast modes: use the form 'velocity'")
        return VelocityCarry(self._dynamics, self._gradient, weight, bias)

    @torch.no_grad()
    def step(self, r: Tensor, t: Tensor) -> None:
        """Update once for each image of a block, in their order.

        Args:
            r: inputs (J, B, D_in), any B.
            t: targets (J, B, D_out), or (1, B, D_out) where all problems share them.
        """
        with full_float32(r.device):
            z = self._carry.before(r)
            if self.residual:
                z.view(*z.shape[:2], self.stacked, -1).add_(r.unsqueeze(2))
            kernel = torch.matmul(r, r.mT).add_(1).mul_(self._lags(r.shape[1]))
            delta = run_block(kernel, z, t, self.settings.inner, self.relu)
            self._carry.advance(r, delta)
        self._last = (z, t)  # without the ReLU in the loss z is δ by now

    def block_error(self) -> Tensor:
        """(J,) mean over the last block's images of ‖σ(z) − t‖², each before its own update."""
        if self._last is None:
            raise ValueError("no block was taken yet")
        z, t = self._last
        if not self.relu:
            z = z + t  # it was δ
        return ((z.relu() if self.sigma else z) - t).square_().sum(2).mean(1)

    def weights(self) -> tuple[Tensor, Tensor]:
        """W (J, D_out, D_in), as `torch.nn.Linear` holds it, and b (J, D_out) after all images so far; new tensors."""
        with full_float32(self._toeplitz.device):
            weight, bias = self._carry.weights()
        turned = weight.new_empty(weight.mT.shape)
        for place, one in zip(turned, weight, strict=True):
            place.copy_(one.T)  # a matrix at a time, for which alone torch has a fast way
        return turned, bias.squeeze(1)

    def finish(self) -> dict[str, Tensor]:
        """`weights` by the names that the maps' modules give them."""
        weight, bias = self.weights()
        return {"weight": weight, "bias": bias}

    def _lags(self, size: int) -> Tensor:
        """(B, B) impulse response at the lag t − 1 − s below the diagonal, 0 elsewhere, with the loss's factor."""
        if len(self._toeplitz) != size:
            lag = np.arange(size)[:, None] - np.arange(size) - 1
            response = self._gradient * self._dynamics.response(size)[:, 0]
            values = np.where(lag >= 0, response[np.maximum(lag, 0)], 0.0)
            self._toeplitz = torch.from_numpy(values).to(self._toeplitz)
        return self._toeplitz
