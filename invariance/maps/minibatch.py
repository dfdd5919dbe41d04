"""Minibatch SGD for maps with a hidden layer, for which no exact blocking of online SGD exists."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from invariance.device import full_float32
from invariance.errors import UserError
from invariance.maps.fitting import FitState, Wanted, hold_checked
from invariance.seeds import generator
from invariance.settings import solvers
from invariance.settings.base import Settings


@dataclass(frozen=True)
class MinibatchSGD:
    """Settings of minibatch SGD; the gradient is the mean over the batch.

    Attributes:
        rate: learning rate η.
        momentum: β.
        weight_decay: λ, on all parameters.
        epochs: passes over the fit images, each in a new order.
        batch: images per update.
        hidden: units of the hidden layer; as many as the representation has dimensions (Sec. 5.2) unless given.
        loss: `scaled` is ‖σ(z) − t‖² / (2D), `square` the bare ‖σ(z) − t‖².
        seed: seed of the start and of the order of the images.

    Raises:
        UserError: for a value out of its bounds.
    """

    fits: ClassVar[tuple[str, ...]] = ("mlp",)
    schema: ClassVar[type[Settings]] = solvers.MinibatchSGDSettings
    weight_bytes: ClassVar[int] = 24

    rate: float = 0.3
    momentum: float = 0.9
    weight_decay: float = 1e-5
    epochs: int = 10
    batch: int = 32
    hidden: int | None = None
    loss: Literal["scaled", "square"] = "scaled"
    seed: int = 0

    def __post_init__(self) -> None:
        hold_checked(self, self.schema)

    @property
    def label(self) -> str:
        """Name of the solver in rows, with its batch."""
        return f"minibatch_sgd_{self.batch}"

    @property
    def block(self) -> int:
        """Images taken in at once: a batch."""
        return self.batch

    def begin(self, wanted: Wanted) -> FitState:
        """See `Solver`.

        Raises:
            UserError: for another number of outputs than inputs.
        """
        if wanted.inputs != wanted.outputs:
            raise UserError(f"an mlp map has as many outputs as inputs, not {wanted.outputs} and {wanted.inputs}")
        return MinibatchFit(self, wanted.inputs, wanted.problems, wanted.device, relu=all(wanted.relu))

    def least_bytes(self, wanted: Wanted) -> int:
        """See `Solver`: two layers, their gradients and momentum."""
        return 24 * wanted.problems * wanted.inputs * (self.hidden or wanted.inputs)


class MinibatchFit:
    """J fits of σ(r + R(r)), R with one hidden layer, in progress; all start alike (see `MLPMap`).

    Args:
        settings: rate, momentum and so on.
        features: D.
        problems: J.
        device: where the parameters live.
        dtype: their type.
        relu: whether σ is the ReLU.
    """

    strengths = ()

    def __init__(
        self,
        settings: MinibatchSGD,
        features: int,
        problems: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        relu: bool = True,
    ) -> None:
        self.settings, self.epochs, self.block = settings, settings.epochs, settings.batch
        self.relu = relu
        hidden = settings.hidden or features
        draw = torch.rand(hidden, features + 1, generator=generator(settings.seed, "start of the mlp"))
        start = ((2 * draw - 1) * features**-0.5).to(dtype).expand(problems, -1, -1)
        values = {
            "weight_in": start[:, :, :-1],
            "bias_in": start[:, :, -1],
            "weight": torch.zeros(problems, features, hidden, dtype=dtype),
            "bias": torch.zeros(problems, features, dtype=dtype),
        }
        self._parameters = {name: value.to(device).contiguous().requires_grad_() for name, value in values.items()}
        self._optimizer = torch.optim.SGD(
            self._parameters.values(),
            lr=settings.rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self._error: Tensor | None = None

    @torch.enable_grad()
    def step(self, r: Tensor, t: Tensor) -> None:
        """One update with a batch r (J, B, D), t (J, B, D) or (1, B, D); the J losses add up, so none sees another."""
        p = self._parameters
        with full_float32(r.device):
            hidden = torch.baddbmm(p["bias_in"].unsqueeze(1), r, p["weight_in"].mT).relu()
            z = torch.baddbmm(p["bias"].unsqueeze(1), hidden, p["weight"].mT) + r
            error = ((z.relu() if self.relu else z) - t).square().sum(2).mean(1)
            scale = 1.0 if self.settings.loss == "square" else 0.5 / r.shape[2]
            self._optimizer.zero_grad()
            torch.autograd.backward(scale * error.sum())
            self._optimizer.step()
        self._error = error.detach()

    def block_error(self) -> Tensor | None:
        """See `FitState`."""
        return self._error

    def finish(self) -> dict[str, Tensor]:
        """The parameters of `MLPMap`, each (J, …)."""
        return {name: value.detach() for name, value in self._parameters.items()}
