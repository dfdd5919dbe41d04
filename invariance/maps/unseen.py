"""Does M_g undo g, or does it know the classes? Maps fitted on some classes, for the images of others.

The classes are dealt into four fixed groups. Two of them against the other two make three balanced deals, six halves in
all. Every half has a map of its own, fitted on as many images as the others'. An image is scored by the map of its own
half (*same*) and by the one that was fitted without its class (*unseen*), in every deal.

With ridge the sums over images are kept by group, so that one pass gives all six.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invariance.maps.fitting import fit_status, order
from invariance.maps.maps import FittedMaps, build_map
from invariance.maps.ridge import Moments, Ridge, choose_strengths, solve
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
def ridge_by_halves(
    r: Tensor, t: Tensor, deal: Deal, settings: Ridge, device: torch.device | str = "cpu"
) -> FittedMaps:
    """The six residual maps of one g by ridge, from sums kept by group: one pass over the fit images.

    The strength of a half is chosen on its own held-out images, and its map then fitted on all of its images.

    Args:
        r: (N, D), φ(gx) of the fit images.
        t: (N, D), φ(x).
        deal: the classes and images.
        settings: of the solver.
        device: where the sums are kept.

    Returns:
        Six maps on the CPU, in the order of `HALVES`.
    """
    each = len(deal.images[0])
    choose = len(settings.strengths) > 1
    held = min(max(1, round(settings.held_out * each)), each - 1) if choose else 0
    fitted, waiting = [], []
    for images in deal.images:
        fitted.append(_moments(r, t, images[held:], settings.block, device))
        waiting.append([_rows(one, images[:held], device) for one in (r, t)])
    weights, biases, strengths = [], [], []
    for first, second in HALVES:
        moments = fitted[first] + fitted[second]
        strength = [settings.strengths[0]]
        if held and moments.finite():
            r_held, t_held = (torch.cat(pair) for pair in zip(waiting[first], waiting[second], strict=True))
            strength = choose_strengths(settings, moments, r_held, t_held)
            moments.add(r_held, t_held - r_held)
        weight, bias = solve(moments, strength) if moments.finite() else moments.undefined()
        weights.append(weight.T.float())
        biases.append(bias.float())
        strengths += strength
    parameters = {"weight": torch.stack(weights).cpu(), "bias": torch.stack(biases).cpu()}
    status, error, reference = zip(
        *(_judge(r, t, deal, half, parameters, settings.block, device) for half in range(len(HALVES))), strict=True
    )
    return FittedMaps(
        "residual", settings.label, parameters, status, torch.stack(error), torch.stack(reference), strengths
    )


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
    )


def _judge(
    r: Tensor, t: Tensor, deal: Deal, half: int, parameters: dict[str, Tensor], block: int, device: torch.device | str
) -> tuple[str, Tensor, Tensor]:
    """How the map of a half did over its fit images, its squared error, and the identity's."""
    module = build_map("residual", {name: values[half] for name, values in parameters.items()}).to(device)
    images = np.concatenate([deal.images[k] for k in HALVES[half]])
    error, reference, scale = (torch.zeros((), dtype=torch.float64) for _ in range(3))
    for start in range(0, len(images), block):
        part_r, part_t = (_rows(one, images[start : start + block], device) for one in (r, t))
        for total, difference in ((error, module(part_r) - part_t), (reference, part_r - part_t), (scale, part_t)):
            total += difference.double().square().sum().cpu() / len(images)
    return fit_status(error[None], reference[None], scale[None])[0], error, reference


def _rows(values: Tensor, images: NDArray[np.int64], device: torch.device | str) -> Tensor:
    return values[torch.from_numpy(images).to(values.device)].to(device, torch.float32)


def _moments(r: Tensor, t: Tensor, images: NDArray[np.int64], block: int, device: torch.device | str) -> Moments:
    """Sums over some images, of residual targets t − r."""
    moments = Moments(r.shape[1], t.shape[1], device)
    for start in range(0, len(images), block):
        part_r, part_t = (_rows(one, images[start : start + block], device) for one in (r, t))
        moments.add(part_r, part_t - part_r)
    return moments
