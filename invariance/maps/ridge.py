"""Ridge regression: the linear map in closed form, its strength chosen on held-out fit images."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from invariance.maps.fitting import FitState, Wanted, hold_checked
from invariance.maps.kernel import Images, fewer_images
from invariance.maps.maps import rank_of
from invariance.maps.moments import Moments, System, inverse_of
from invariance.settings import solvers
from invariance.settings.base import Settings

_REMEMBERED = 4096
_CHOSEN: dict[bytes, list[float]] = {}
"""The strengths of the last fits, by the digest of all that they follow from."""


def _default_strengths() -> tuple[float, ...]:
    return tuple(10.0 ** (k / 2) for k in range(-12, 9))


@dataclass(frozen=True)
class Ridge:
    """Settings of the closed-form solver.

    It minimises Σ ‖W r + b − t‖² + λ n s ‖W‖² over n images, s the mean variance of a feature, b free; for residual
    maps t − r stands for t, so that strength draws the map to the identity and not to 0. Where there are fewer images
    than dimensions the same minimum is found by their inner products (`Images`); it then leans on W = 0 in all
    directions that the images say nothing of.

    A map `low_rank:k` is the minimum among W of rank k at most, at the strength that is chosen for W of any rank. With
    R and T the features and what is to be reached, about their means, the objective is ‖R̃ W − T̃‖² with
    R̃ = [R; √δ I], T̃ = [T; 0] and δ = λ n s, which is ‖R̃ (W − W_δ)‖² beside a constant, W_δ being ridge's solution. So
    R̃ W is the best approximation of R̃ W_δ of rank k (Eckart & Young 1936): W = W_δ V Vᵀ, the columns of V being the k
    leading right singular vectors of R̃ W_δ, that is eigenvectors of W_δᵀ (RᵀR + δI) W_δ = TᵀR W_δ.

    Attributes:
        strengths: the values of λ to choose from, each from 0 to 10⁶, all different; one value is taken as it is.
        held_out: share of the fit images on which the choice is made, by the squared error through σ; the map is then
            fitted again on all of them.
        seed: seed of which images are held out.
        block: images taken in at once.

    Raises:
        UserError: for a value out of its bounds.
    """

    fits: ClassVar[tuple[str, ...]] = ("residual", "linear", "low_rank")
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
            rank=rank_of(wanted.kind),
            relu=wanted.relu,
            device=wanted.device,
        )

    def least_bytes(self, wanted: Wanted) -> int:
        """See `Solver`: sums over images in float64; or the images, their inner products, and the maps."""
        n, inputs, outputs = wanted.images, wanted.inputs, wanted.outputs
        if not fewer_images(n, inputs):
            return 8 * wanted.problems * inputs * (inputs + outputs)
        rank = rank_of(wanted.kind)
        weights = inputs * outputs if rank is None else min(rank, inputs) * (inputs + outputs)
        return 4 * wanted.problems * (n * inputs + weights) + 4 * n * outputs + 8 * n * (n + inputs + outputs)


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
        rank: the highest rank that W may have; None: any.
        relu: of each stacked target, whether σ is the ReLU; empty where all are.
        device: where the sums are kept.

    Attributes:
        dual: whether the images are kept, and not sums over them: there are fewer than D_in.
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
        rank: int | None = None,
        relu: Sequence[bool] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        self.relu = relu or [True] * stacked
        self.settings, self.block, self.stacked, self.residual = settings, settings.block, stacked, residual
        self.rank, self.dual = rank, fewer_images(images, inputs)
        choose = len(settings.strengths) > 1
        self._held = min(max(1, round(settings.held_out * images)), images - 1) if choose and images > 1 else 0
        self._moments = [Moments(inputs, outputs, device) for _ in range(0 if self.dual else problems)]
        kept = images if self.dual else self._held  # the held-out images come first
        self._r, self._t = torch.empty(0, kept, inputs, device=device), torch.empty(0, kept, outputs, device=device)
        self._seen = 0
        self.strengths: list[list[float]] = []

    def step(self, r: Tensor, t: Tensor) -> None:
        """See `FitState`."""
        if not len(self._t):  # targets are shared by all problems, or one each
            self._r, self._t = (one.new_empty(len(one), self._r.shape[1], one.shape[2]) for one in (r, t))
        kept = max(0, min(self._r.shape[1] - self._seen, r.shape[1]))
        places = slice(self._seen, self._seen + kept)
        self._r[:, places], self._t[:, places] = r[:, :kept], t[:, :kept]
        self._seen += r.shape[1]
        for j, moments in enumerate(self._moments):
            moments.add(r[j, kept:], self._wanted(r[j, kept:], t[j % len(t), kept:]))

    def block_error(self) -> None:
        """Nothing runs: the maps exist only at the end."""
        return None

    def finish(self) -> dict[str, Tensor]:
        """Parameters of the maps, each (J, …), float32; `strengths` then holds the choice, [j][stacked target].

        They are W (J, D_out, D_in) as `weight` and b (J, D_out) as `bias`; of a limited rank A (J, D_out, k) as `left`
        and B (J, k times the stacked targets, D_in) as `right` in the place of W.
        """
        found: list[dict[str, Tensor]] = []
        for j in range(len(self._r)):
            r, t = self._r[j, : self._held], self._t[j % len(self._t), : self._held]
            system, chosen = self._system(j, self._held), [self.settings.strengths[0]] * self.stacked
            if not system.finite():
                chosen = [math.nan] * self.stacked
            elif self._held:
                chosen = choose_strengths(self.settings, system, r, t, residual=self.residual, relu=self.relu)
                if self.dual:
                    system = self._system(j, 0)
                else:
                    self._moments[j].add(r, self._wanted(r, t))
            found.append(parameters_of(system, chosen, self.rank))
            self.strengths.append(chosen)
        return {name: torch.stack([one[name] for one in found]) for name in found[0]}

    def _system(self, j: int, start: int) -> System:
        """The system of fit j: of the dual form, of the images from one on."""
        if not self.dual:
            return self._moments[j]
        r, t = self._r[j, start : self._seen], self._t[j % len(self._t), start : self._seen]
        return Images(r, self._wanted(r, t))

    def _wanted(self, r: Tensor, t: Tensor) -> Tensor:
        """What W r + b has to reach: t, or for residual maps t − r."""
        return (torch.unflatten(t, 1, (self.stacked, -1)) - r.unsqueeze(1)).flatten(1) if self.residual else t


def choose_strengths(
    settings: Ridge, system: System, r: Tensor, t: Tensor, *, residual: bool = True, relu: Sequence[bool] = (True,)
) -> list[float]:
    """For each stacked target the strength of least squared error on held-out images r, t, through σ.

    One eigendecomposition serves all strengths and targets. What was chosen is remembered by all that it depends on,
    to the bit: maps of any rank choose alike, and those of the same images are fitted one after another.

    Args:
        settings: the strengths to choose from.
        system: of the images that are not held out.
        r: (n, D_in), the held-out images.
        t: (n, D_out), their targets.
        residual: whether the map is σ((W + I) r + b).
        relu: for each of the targets stacked along the outputs, whether σ is the ReLU.
    """
    how = type(system).__name__, system.count, tuple(settings.strengths), residual, tuple(relu)
    key = _content_of(how, *system.numbers(), r, t)
    if key not in _CHOSEN:
        if len(_CHOSEN) == _REMEMBERED:
            del _CHOSEN[next(iter(_CHOSEN))]  # the oldest
        _CHOSEN[key] = _least_error(settings, system, r, t, residual, relu)
    return list(_CHOSEN[key])


def _content_of(how: tuple[object, ...], *numbers: Tensor) -> bytes:
    """A digest of settings and of tensors, wherever these are."""
    content = hashlib.sha256(repr((how, [(one.shape, one.dtype) for one in numbers])).encode())
    for one in numbers:
        content.update(one.detach().cpu().contiguous().numpy().data)
    return content.digest()


def _least_error(
    settings: Ridge, system: System, r: Tensor, t: Tensor, residual: bool, relu: Sequence[bool]
) -> list[float]:
    """`choose_strengths`, computed."""
    stacked, spectrum = len(relu), system.spectrum()
    inverses = [inverse_of(spectrum.values, strength * spectrum.unit)[:, None] for strength in settings.strengths]
    mean_r, mean_t = system.sum_r / system.count, system.sum_t / system.count
    scores = ((r.double() - mean_r) @ spectrum.basis).float()
    chosen = []
    parts = spectrum.right.chunk(stacked, 1), mean_t.chunk(stacked), t.chunk(stacked, 1)
    for right_k, mean_k, t_k, own in zip(*parts, relu, strict=True):
        loads, start = spectrum.vectors.T @ right_k, mean_k.float() + (r if residual else 0.0)
        errors = []
        for inverse in inverses:
            r_hat = torch.addmm(start, scores, (inverse * loads).float())
            r_hat = r_hat.relu_() if own else r_hat
            errors.append((r_hat - t_k).square_().sum(dtype=torch.float64))
        best = int(torch.stack(errors).nan_to_num(nan=torch.inf).argmin())
        chosen.append(settings.strengths[best])
    return chosen


def parameters_of(system: System, strengths: Sequence[float], rank: int | None = None) -> dict[str, Tensor]:
    """The parameters of a map by the names that its module gives them, float32; NaN where images were not finite.

    Args:
        system: of all fit images.
        strengths: one a stacked target.
        rank: the highest rank that W may have; None: any.
    """
    inputs, outputs, finite = len(system.sum_r), len(system.sum_t), system.finite()

    def undefined(*size: int) -> Tensor:
        """Nothing but NaN."""
        return system.sum_r.new_full(size, torch.nan)

    if rank is None:
        weight, bias = system.solve(strengths) if finite else (undefined(inputs, outputs), undefined(outputs))
        return {"weight": weight.T.float(), "bias": bias.float()}
    k = min(rank, inputs, outputs // len(strengths))
    none = undefined(outputs, k), undefined(k * len(strengths), inputs), undefined(outputs)
    left, right, bias = system.reduced(strengths, rank) if finite else none
    return {"left": left.float(), "right": right.float(), "bias": bias.float()}
