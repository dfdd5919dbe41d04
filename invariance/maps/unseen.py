"""Does M_g undo g, or does it know the classes? Maps fitted on some classes, for the images of others.

The classes are dealt into four fixed groups. Two of them against the other two make three balanced deals, six halves in
all. Every half has a map of its own, fitted on as many images as the others'. An image is scored by the map of its own
half (*same*) and by the one that was fitted without its class (*unseen*), in every deal.

In closed form the sums over images are kept by group, so that one pass gives all six.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invariance.maps.fitting import fit_status, never_negative, order
from invariance.maps.kernel import Images, fewer_images
from invariance.maps.maps import FittedMaps, listed, rank_of
from invariance.maps.moments import Moments, System
from invariance.maps.procrustes import Procrustes, rotations
from invariance.maps.ridge import Ridge, choose_strengths, parameters_of
from invariance.seeds import generator

GROUPS = 4
HALVES = ((0, 1), (2, 3), (0, 2), (1, 3), (0, 3), (1, 2))
"""The two groups of every half; halves 2 d and 2 d + 1 are the two of deal d."""

DEALS = len(HALVES) // 2
FIT_CLASSES = ("same", "unseen")


@dataclass(frozen=True)
class Deal:
    """How classes and fit images are dealt.

    Attributes:
        group: (K,) the group of every class, 0 to 3.
        images: the fit images of every group, as many in each, as indices in the order in which they are taken in.
    """

    group: NDArray[np.int64]
    images: tuple[NDArray[np.int64], ...]

    @property
    def per_half(self) -> int:
        """Fit images of a half."""
        return 2 * len(self.images[0])

    def half_of(self, labels: NDArray[np.int64], deal: int, *, unseen: bool = False) -> NDArray[np.int64]:
        """(n,) the half whose map scores images of these classes in a deal: their own, or the other one."""
        own = np.isin(self.group[labels], HALVES[2 * deal + 1]).astype(np.int64)
        return 2 * deal + (1 - own if unseen else own)

    def classes_of(self, half: int) -> NDArray[np.int64]:
        """The classes of a half."""
        return np.flatnonzero(np.isin(self.group, HALVES[half]))


def deal_classes(labels: NDArray[np.int64], classes: int, seed: int = 0) -> Deal | None:
    """Deal classes into four groups, and as many fit images to each; None where that leaves a group without any.

    Args:
        labels: (N,) classes of the fit images, −1 where there is none.
        classes: K, how many classes there are.
        seed: seed of the dealing.
    """
    if classes < GROUPS:
        return None
    shuffled = torch.randperm(classes, generator=generator(seed, "class groups")).numpy()
    group = np.empty(classes, np.int64)
    group[shuffled] = np.arange(classes) % GROUPS
    turn = order(len(labels), seed, 0).numpy()
    turn = turn[labels[turn] >= 0]
    of_group = [turn[group[labels[turn]] == k] for k in range(GROUPS)]
    each = min(map(len, of_group))
    return None if each < 2 else Deal(group, tuple(images[:each] for images in of_group))


@torch.no_grad()
def closed_by_halves(
    r: Tensor,
    t: Tensor,
    deal: Deal,
    settings: Ridge | Procrustes,
    kind: str = "residual",
    device: torch.device | str = "cpu",
) -> FittedMaps:
    """The six maps of one g in closed form, from sums kept by group: one pass over the fit images.

    The strength of a half is chosen on its own held-out images, and its map then fitted on all of its images. σ is that
    of all fit images.

    Args:
        r: (N, D), φ(gx) of the fit images.
        t: (N, D), φ(x).
        deal: the classes and images.
        settings: of the solver.
        kind: residual, low_rank:k or orthogonal.
        device: where the sums are kept.

    Returns:
        Six maps on the CPU, in the order of `HALVES`.
    """
    relu, held = never_negative(t), _held_out(settings, len(deal.images[0]))
    by_group: list[Moments] = []
    if not (isinstance(settings, Ridge) and fewer_images(deal.per_half, r.shape[1])):
        residual = isinstance(settings, Ridge)
        by_group = [_moments(r, t, one[held:], settings.block, device, residual=residual) for one in deal.images]
    found, chosen = [], []
    for groups in HALVES:
        moments = by_group[groups[0]] + by_group[groups[1]] if by_group else None
        if isinstance(settings, Ridge):
            images = [deal.images[k] for k in groups]
            own, strengths = _ridge(r, t, images, settings, moments, held, (rank_of(kind), relu), device)
            chosen += strengths
        else:
            assert moments is not None
            own = rotations(moments)
        found.append(own)
    parameters = {name: torch.stack([one[name] for one in found]).cpu() for name in found[0]}
    maps = FittedMaps(
        kind, settings.label, parameters, (), torch.empty(0), torch.empty(0), chosen, [relu] * len(HALVES)
    )
    return _judged(maps, r, t, deal, settings.block, device)


@torch.no_grad()
def fit_by_halves(r: Tensor, t: Tensor, deal: Deal, fit: Callable[[Tensor, Tensor], FittedMaps]) -> FittedMaps:
    """The six maps of one g by any solver, one after another.

    Args:
        r: (N, D), φ(gx) of the fit images.
        t: (N, D), φ(x).
        deal: the classes and images.
        fit: fits one map to features (n, D) and targets (n, D).
    """
    maps = []
    for first, second in HALVES:
        images = torch.from_numpy(np.concatenate([deal.images[first], deal.images[second]])).to(r.device)
        maps.append(fit(r[images], t[images]))
    parameters = {name: torch.cat([one.parameters[name] for one in maps]) for name in maps[0].parameters}
    return FittedMaps(
        maps[0].kind,
        maps[0].solver,
        parameters,
        [one.status[0] for one in maps],
        torch.cat([one.error for one in maps]),
        torch.cat([one.reference for one in maps]),
        [strength for one in maps for strength in one.strength],
        [relu for one in maps for relu in one.relu],
    )


def in_closed_form(kind: str, settings: object) -> Ridge | Procrustes | None:
    """The settings of a solver by which the six maps of a kind follow from sums kept by group; else None."""
    of = ("residual", "low_rank") if isinstance(settings, Ridge) else ("orthogonal",)
    return settings if isinstance(settings, Ridge | Procrustes) and listed(kind) in of else None


def _held_out(settings: Ridge | Procrustes, images: int) -> int:
    """How many images of a group the strength is chosen on."""
    if not isinstance(settings, Ridge) or len(settings.strengths) == 1:
        return 0
    return min(max(1, round(settings.held_out * images)), images - 1)


def _ridge(
    r: Tensor,
    t: Tensor,
    images: Sequence[NDArray[np.int64]],
    settings: Ridge,
    moments: Moments | None,
    held: int,
    how: tuple[int | None, bool],
    device: torch.device | str,
) -> tuple[dict[str, Tensor], list[float]]:
    """The map of one half by ridge, and its strength.

    Args:
        r: (N, D), φ(gx) of the fit images.
        t: (N, D), φ(x).
        images: those of its two groups.
        settings: of the solver.
        moments: the sums over those that are not held out; None: the dual form.
        held: how many of each group are held out.
        how: the highest rank that W may have, or None, and whether σ is the ReLU.
        device: where it is computed.
    """

    def taken(part: slice) -> tuple[Tensor, Tensor]:
        """The features and targets of a part of both groups."""
        index = np.concatenate([one[part] for one in images])
        return _rows(r, index, device), _rows(t, index, device)

    def system(part: slice) -> System:
        """Of the dual form."""
        own_r, own_t = taken(part)
        return Images(own_r, own_t - own_r)

    rank, relu = how
    found: System = moments or system(slice(held, None))
    strengths = [settings.strengths[0]]
    if held and found.finite():
        r_held, t_held = taken(slice(held))
        strengths = choose_strengths(settings, found, r_held, t_held, relu=(relu,))
        if moments is None:
            found = system(slice(None))
        else:
            moments.add(r_held, t_held - r_held)
    return parameters_of(found, strengths, rank), strengths


def _judged(maps: FittedMaps, r: Tensor, t: Tensor, deal: Deal, block: int, device: torch.device | str) -> FittedMaps:
    """How the map of every half did over its fit images: its squared error, the identity's, and the status."""
    totals = torch.zeros(3, len(HALVES), dtype=torch.float64)
    for half, groups in enumerate(HALVES):
        module = maps.module(half).to(device)
        images = np.concatenate([deal.images[k] for k in groups])
        for start in range(0, len(images), block):
            part_r, part_t = (_rows(one, images[start : start + block], device) for one in (r, t))
            for k, difference in enumerate((module(part_r) - part_t, part_r - part_t, part_t)):
                totals[k, half] += difference.double().square().sum().cpu() / len(images)
    error, reference, scale = totals
    return replace(maps, status=fit_status(error, reference, scale), error=error, reference=reference)


def _rows(values: Tensor, images: NDArray[np.int64], device: torch.device | str) -> Tensor:
    return values[torch.from_numpy(images).to(values.device)].to(device, torch.float32)


def _moments(
    r: Tensor, t: Tensor, images: NDArray[np.int64], block: int, device: torch.device | str, *, residual: bool
) -> Moments:
    """Sums over some images: of residual targets t − r with the Gram matrix, or of t without."""
    moments = Moments(r.shape[1], t.shape[1], device, gram=residual)
    for start in range(0, len(images), block):
        part_r, part_t = (_rows(one, images[start : start + block], device) for one in (r, t))
        moments.add(part_r, part_t - part_r if residual else part_t)
    return moments
