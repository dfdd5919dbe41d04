"""The rotation of centred features that comes nearest to others: the orthogonal Procrustes problem."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invariance.maps.fitting import FitState, Wanted, hold_checked
from invariance.maps.moments import Moments
from invariance.settings import solvers
from invariance.settings.base import Settings


@dataclass(frozen=True)
class Procrustes:
    """Settings of the closed form of orthogonal maps (Schönemann 1966).

    It minimises Σ ‖Q (r − r̄) − (t − t̄)‖² over orthogonal Q, reflections included: with Σ (r − r̄)(t − t̄)ᵀ = U S Vᵀ it
    is Q = V Uᵀ. In directions that the images say nothing of, as those of constant features or of more dimensions than
    images, many Q are as good; of these it is the one nearest to the identity.

    Attributes:
        block: images taken in at once.

    Raises:
        UserError: for a value out of its bounds.
    """

    fits: ClassVar[tuple[str, ...]] = ("orthogonal",)
    schema: ClassVar[type[Settings]] = solvers.ProcrustesSettings
    weight_bytes: ClassVar[int] = 72

    block: int = 1024

    def __post_init__(self) -> None:
        hold_checked(self, self.schema)

    @property
    def seed(self) -> int:
        """Seed of the order of the images, which changes rounding only."""
        return 0

    @property
    def label(self) -> str:
        """Name of the solver in rows."""
        return "procrustes"

    def begin(self, wanted: Wanted) -> FitState:
        """See `Solver`."""
        return ProcrustesFit(self, wanted)

    def least_bytes(self, wanted: Wanted) -> int:
        """See `Solver`: cross products in float64, and the two factors of one fit."""
        return 8 * wanted.inputs * (wanted.problems * wanted.outputs + 2 * wanted.inputs)


class ProcrustesFit:
    """J orthogonal fits in progress, from the sums that ridge takes, but for the Gram matrix.

    Args:
        settings: of the solver.
        wanted: the fits; targets may be stacked along the outputs.
    """

    epochs = 1
    strengths = ()

    def __init__(self, settings: Procrustes, wanted: Wanted) -> None:
        self.block, self.stacked = settings.block, wanted.stacked
        sizes = wanted.inputs, wanted.outputs, wanted.device
        self._moments = [Moments(*sizes, gram=False) for _ in range(wanted.problems)]

    def step(self, r: Tensor, t: Tensor) -> None:
        """See `FitState`."""
        for j, moments in enumerate(self._moments):
            moments.add(r[j], t[j % len(t)])

    def block_error(self) -> None:
        """Nothing runs: the maps exist only at the end."""
        return None

    def finish(self) -> dict[str, Tensor]:
        """Q (J, D_out, D) as `weight` and t̄ − Q r̄ (J, D_out) as `bias`, float32."""
        found = [rotations(moments, self.stacked) for moments in self._moments]
        return {name: torch.stack([one[name] for one in found]) for name in found[0]}


def rotations(moments: Moments, stacked: int = 1) -> dict[str, Tensor]:
    """The orthogonal maps of one fit by the names that their module gives them, float32; NaN where not finite.

    Args:
        moments: of the fit images and the targets themselves, not t − r; the Gram matrix is not needed.
        stacked: targets stacked along the outputs.
    """
    cross, sum_t = moments.cross, moments.sum_t
    if not moments.finite():
        return {
            "weight": torch.full_like(cross.T, torch.nan).float(),
            "bias": torch.full_like(sum_t, torch.nan).float(),
        }
    mean_r, mean_t = moments.sum_r / moments.count, sum_t / moments.count
    centred = torch.addr(cross, mean_r, sum_t, alpha=-1)
    noise = cross.abs().max()
    weight = torch.cat([rotation_of(one, noise) for one in centred.chunk(stacked, dim=1)])
    return {"weight": weight.float(), "bias": (mean_t - weight @ mean_r).float()}


def rotation_of(cross: Tensor, size: Tensor) -> Tensor:
    """The orthogonal Q (D, D) that maximises tr(Q cross), nearest to the identity where many do.

    Args:
        cross: (D, D), Σ (r − r̄)(t − t̄)ᵀ, float64.
        size: how large the numbers were that it was computed from, by which rounding is told from what is there.
    """
    u, s, vh = torch.linalg.svd(cross)
    floor = 8 * len(cross) * torch.finfo(cross.dtype).eps * torch.maximum(s[0], size)
    known = int((s > floor).sum())
    q: Tensor = u[:, :known] @ vh[:known]
    if known < len(cross):
        free_u, free_vh = u[:, known:], vh[known:]
        a, _, bh = torch.linalg.svd(free_vh @ free_u)
        q = q + free_u @ (a @ bh).T @ free_vh
    return q.T
