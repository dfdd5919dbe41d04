"""Ridge regression: the linear map in closed form, its strength chosen on held-out fit images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor

from invariance.maps.fitting import FitState, Wanted, hold_checked
from invariance.settings import solvers
from invariance.settings.base import Settings

_CHUNK = 1024
"""Images turned to float64 at a time."""


def _default_strengths() -> tuple[float, ...]:
    return tuple(10.0 ** (k / 2) for k in range(-12, 9))


@dataclass(frozen=True)
class Ridge:
    """Settings of the closed-form solver.

    It minimises Σ ‖W r + b − t‖² + λ n s ‖W‖² over n images, s the mean variance of a feature, b free; for residual
    maps t − r stands for t, so that strength draws the map to the identity and not to 0.

    Attributes:
        strengths: the values of λ to choose from, each from 0 to 10⁶, all different; one value is taken as it is.
        held_out: share of the fit images on which the choice is made, by the squared error through the ReLU; the map
            is then fitted again on all of them.
        seed: seed of which images are held out.
        block: images taken in at once.

    Raises:
        UserError: for a value out of its bounds.
    """

    fits: ClassVar[tuple[str, ...]] = ("residual", "linear")
    schema: ClassVar[type[Settings]] = solvers.RidgeSettings
    weight_bytes: ClassVar[int] = 56

    strengths: tuple[float, ...] = field(default_factory=_default_strengths)
    held_out: float = 0.1
    seed: int = 0
    block: int = 1024

    def __post_init__(self) -> None:
        hold_checked(self, self.schema)

    @property
    def label(self) -> str:
        """Name of the solver in rows."""
        return "ridge"

    def begin(self, wanted: Wanted) -> FitState:
        """See `Solver`."""
        return RidgeFit(
            self,
            wanted.inputs,
            wanted.outputs,
            wanted.problems,
            wanted.images,
            stacked=wanted.stacked,
            residual=wanted.residual,
            relu=wanted.relu,
            device=wanted.device,
        )

    def least_bytes(self, wanted: Wanted) -> int:
        """See `Solver`: sums over images, in float64."""
        return 8 * wanted.problems * wanted.inputs * (wanted.inputs + wanted.outputs)


class Moments:
    """Sums over images, in float64, from which ridge solutions follow: never more than one block in float64 at a time.

    Args:
        inputs: D_in.
        outputs: D_out.
        device: where the sums are kept.
    """

    def __init__(self, inputs: int, outputs: int, device: torch.device | str = "cpu") -> None:
        def zeros(*size: int) -> Tensor:
            """Sums, in float64."""
            return torch.zeros(size, dtype=torch.float64, device=device)

        self.count = 0
        self.sum_r, self.sum_t = zeros(inputs), zeros(outputs)
        self.gram, self.cross = zeros(inputs, inputs), zeros(inputs, outputs)

    def add(self, r: Tensor, t: Tensor) -> None:
        """Take in images r (B, D_in) with targets t (B, D_out)."""
        for part_r, part_t in zip(torch.split(r, _CHUNK), torch.split(t, _CHUNK), strict=True):
            wide_r, wide_t = part_r.double(), part_t.double()
            self.sum_r += wide_r.sum(0)
            self.sum_t += wide_t.sum(0)
            self.gram.addmm_(wide_r.T, wide_r)
            self.cross.addmm_(wide_r.T, wide_t)
            self.count += len(wide_r)

    def __add__(self, other: Self) -> Self:
        """The sums over the images of both."""
        both = type(self)(len(self.sum_r), len(self.sum_t), self.gram.device)
        for name in ("sum_r", "sum_t", "gram", "cross"):
            torch.add(getattr(self, name), getattr(other, name), out=getattr(both, name))
        both.count = self.count + other.count
        return both

    def finite(self) -> bool:
        """Whether all images so far were finite numbers; decompositions refuse anything else."""
        return bool(torch.isfinite(self.gram.sum() + self.cross.sum()))

    def undefined(self) -> tuple[Tensor, Tensor]:
        """W and b of nothing but NaN: what images that are not finite leave to fit."""
        return torch.full_like(self.cross, torch.nan), torch.full_like(self.sum_t, torch.nan)

    def centred(self) -> tuple[Tensor, Tensor]:
        """Gram matrix (D_in, D_in) and cross products (D_in, D_out) about the means."""
        mean_r = self.sum_r / self.count
        gram = torch.addr(self.gram, mean_r, self.sum_r, alpha=-1)
        return (gram + gram.T) / 2, torch.addr(self.cross, mean_r, self.sum_t, alpha=-1)

    def bias(self, weight: Tensor) -> Tensor:
        """The b (D_out,) that goes with W (D_in, D_out): the residuals' mean is 0."""
        bias: Tensor = (self.sum_t - self.sum_r @ weight) / self.count
        return bias


class RidgeFit:
    """J ridge fits in progress. The first images that come are the held-out ones, so they must come in random order.

    Args:
        settings: strengths and so on.
        inputs: D_in.
        outputs: D_out, all stacked targets together; each stacked target chooses its own strength.
        problems: J.
        images: how many fit images will come.
        stacked: targets stacked along the outputs.
        residual: σ((W + I) r + b) instead of σ(W r + b).
        relu: of each stacked target, whether σ is the ReLU; empty where all are.
        device: where the sums are kept.
    """

    epochs = 1

    def __init__(
        self,
        settings: Ridge,
        inputs: int,
        outputs: int,
        problems: int,
        images: int,
        *,
        stacked: int = 1,
        residual: bool = True,
        relu: Sequence[bool] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        self.relu = relu or [True] * stacked
        self.settings, self.block, self.stacked, self.residual = settings, settings.block, stacked, residual
        choose = len(settings.strengths) > 1
        self._waiting = min(max(1, round(settings.held_out * images)), images - 1) if choose and images > 1 else 0
        self._moments = [Moments(inputs, outputs, device) for _ in range(problems)]
        self._held: list[tuple[Tensor, Tensor]] = []
        self.strengths: list[list[float]] = []

    def step(self, r: Tensor, t: Tensor) -> None:
        """See `FitState`."""
        held = min(self._waiting, r.shape[1])
        if held:
            self._waiting -= held
            self._held.append((r[:, :held].clone(), t[:, :held].clone()))
        for j, moments in enumerate(self._moments):
            moments.add(r[j, held:], self._wanted(r[j, held:], t[j % len(t), held:]))

    def block_error(self) -> None:
        """Nothing runs: the maps exist only at the end."""
        return None

    def finish(self) -> dict[str, Tensor]:
        """W (J, D_out, D_in) and b (J, D_out), float32; `strengths` then holds the choice, [j][stacked target]."""
        held_r = torch.cat([r for r, _ in self._held], 1) if self._held else None
        held_t = torch.cat([t for _, t in self._held], 1) if self._held else None
        weights, biases = [], []
        for j, moments in enumerate(self._moments):
            if not moments.finite():
                chosen = [math.nan] * self.stacked
            elif held_r is None or held_t is None:
                chosen = [self.settings.strengths[0]] * self.stacked
            else:
                r, t = held_r[j], held_t[j % len(held_t)]
                chosen = choose_strengths(self.settings, moments, r, t, residual=self.residual, relu=self.relu)
                moments.add(r, self._wanted(r, t))
            weight, bias = solve(moments, chosen) if moments.finite() else moments.undefined()
            weights.append(weight.T.float())
            biases.append(bias.float())
            self.strengths.append(chosen)
        return {"weight": torch.stack(weights), "bias": torch.stack(biases)}

    def _wanted(self, r: Tensor, t: Tensor) -> Tensor:
        """What W r + b has to reach: t, or for residual maps t − r."""
        return (torch.unflatten(t, 1, (self.stacked, -1)) - r.unsqueeze(1)).flatten(1) if self.residual else t


def choose_strengths(
    settings: Ridge, moments: Moments, r: Tensor, t: Tensor, *, residual: bool = True, relu: Sequence[bool] = (True,)
) -> list[float]:
    """For each stacked target the strength of least squared error on held-out images r, t, through σ.

    One eigendecomposition of the Gram matrix serves all strengths and targets.

    Args:
        settings: the strengths to choose from.
        moments: of the images that are not held out.
        r: (n, D_in), the held-out images.
        t: (n, D_out), their targets.
        residual: whether the map is σ((W + I) r + b).
        relu: for each of the targets stacked along the outputs, whether σ is the ReLU.
    """
    stacked = len(relu)
    gram, cross = moments.centred()
    values, vectors = torch.linalg.eigh(gram)
    inverses = [_inverse(values, strength * _unit(gram))[:, None] for strength in settings.strengths]
    mean_r, mean_t = moments.sum_r / moments.count, moments.sum_t / moments.count
    scores = ((r.double() - mean_r) @ vectors).float()
    chosen = []
    parts = cross.chunk(stacked, 1), mean_t.chunk(stacked), t.chunk(stacked, 1)
    for cross_k, mean_k, t_k, own in zip(*parts, relu, strict=True):
        loads, start = vectors.T @ cross_k, mean_k.float() + (r if residual else 0.0)
        errors = []
        for inverse in inverses:
            r_hat = torch.addmm(start, scores, (inverse * loads).float())
            r_hat = r_hat.relu_() if own else r_hat
            errors.append((r_hat - t_k).square_().sum(dtype=torch.float64))
        best = int(torch.stack(errors).nan_to_num(nan=torch.inf).argmin())
        chosen.append(settings.strengths[best])
    return chosen


def solve(moments: Moments, strengths: list[float]) -> tuple[Tensor, Tensor]:
    """W (D_in, D_out) and b (D_out,) in float64, each stacked target at its own strength."""
    gram, cross = moments.centred()
    weight = torch.empty_like(cross)
    stacked = len(strengths)
    parts, out = cross.chunk(stacked, dim=1), weight.chunk(stacked, dim=1)
    for strength in sorted(set(strengths)):
        members = [k for k, one in enumerate(strengths) if one == strength]
        solved = _solve_damped(gram, strength * _unit(gram), torch.cat([parts[k] for k in members], 1))
        for k, part in zip(members, solved.chunk(len(members), dim=1), strict=True):
            out[k].copy_(part)
    return weight, moments.bias(weight)


def _unit(gram: Tensor) -> Tensor:
    """What a strength of 1 adds to the diagonal: the mean of it, n times the mean variance of a feature."""
    return gram.diagonal().mean()


def _inverse(values: Tensor, damping: Tensor) -> Tensor:
    """1 / (values + damping) for eigenvalues of a Gram matrix; 0 where both are nothing, the least solution."""
    floor = values.abs().max() * len(values) * torch.finfo(values.dtype).eps
    damped = torch.where(values > floor, values, 0.0) + damping
    return torch.where(damped > 0, 1 / torch.where(damped > 0, damped, 1.0), 0.0)


def _solve_damped(gram: Tensor, damping: Tensor, right: Tensor) -> Tensor:
    """(gram + damping · I)⁻¹ right; the least solution where that is singular, as without damping it may be."""
    solution: Tensor
    if damping > 0:
        damped = gram.clone()
        damped.diagonal().add_(damping)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            solution = torch.cholesky_solve(right, factor)
            return solution
    values, vectors = torch.linalg.eigh(gram)
    solution = vectors @ (_inverse(values, damping)[:, None] * (vectors.T @ right))
    return solution
