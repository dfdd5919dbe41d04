"""The one loop that compares representations of the same images (Sec. 5.3, 6.2, B.3).

What is compared are sources of features, each under a label: of networks, or of layers of one. A unit is one source, a
group of targets that fit into memory together, and one way of comparing: a solver, whose maps to all these targets are
one stacked fit, or the indices. What a unit came to goes to a recorder, and units that the recorder has are skipped.
"""

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor

from invariance.device import full_float32, gpu_room, require
from invariance.engine.recorder import Listed, Recorder
from invariance.errors import UserError
from invariance.maps import FittedMaps
from invariance.maps.spec import MapSpec
from invariance.measures import Measure
from invariance.measures.distance import l2_distance_per_image
from invariance.measures.moments import Centred, ComparedSide, Pairing, centred

INDICES = "indices"
"""Name of the way of comparing that fits nothing."""

SIDES = ("fit", "report")
"""The images that maps are fitted on, and those that results are reported on."""

_CHUNK = 4096
_BYTES_OF_WEIGHT = 16
"""Memory that the indices take for every weight that a map would have, at its peak."""

_GPU_SHARE = 0.8

Result = dict[str, Any]
"""What a unit came to: arrays by name, an entry a target; or one target's part of it.

Of a fit: `status`, `error` (mean squared error over the fit images), `reference` (that of the targets' mean),
`strength` (ridge's, else NaN), and `fit` and `report`, L_L2 of every image. Of the indices: each by its name.
"""


class FeatureSource(Protocol):
    """Features of one network or layer, of the same fit and report images in the same order as all others."""

    @property
    def dim(self) -> int:
        """D."""

    @property
    def n_fit(self) -> int:
        """How many fit images there are."""

    @property
    def n_report(self) -> int:
        """How many report images there are."""

    @property
    def alive(self) -> Tensor:
        """(D,) which dimensions count; the others are 0 for all fit images."""

    @property
    def flaw(self) -> str:
        """Why nothing can be said of them ("constant", "not_finite"), or nothing."""

    def load(self, side: str) -> Tensor:
        """The features of a side ("fit" or "report"), (N, D) float32 in host memory, each dimension normalised.

        Raises:
            Renewed: if all of this source's features had to be made anew; the next call gives them.
        """


class Renewed(Exception):  # noqa: N818
    """A source's features were made anew: what was loaded of it before is to be forgotten."""


@dataclass(frozen=True)
class PairUnit:
    """What is computed at once.

    Attributes:
        kind: name of a fit, or `INDICES`.
        source: label of the features that are mapped.
        targets: labels of the features that are predicted.
    """

    kind: str
    source: str
    targets: tuple[str, ...]


def part_of(result: Result, unit: PairUnit, target: str) -> Result:
    """One target's part of what a unit came to."""
    k = unit.targets.index(target)
    return {name: values[k].copy() for name, values in result.items()}  # a view would keep all targets' in memory


def compare(
    sources: Mapping[str, FeatureSource],
    fits: Sequence[MapSpec] = (),
    indices: Sequence[Measure] = (),
    *,
    units: Sequence[PairUnit] | None = None,
    keep: Recorder[PairUnit, Result] | None = None,
    memory: float,
    device: torch.device,
    relu: bool | None = None,
    progress: bool | Progress = False,
) -> Iterator[tuple[PairUnit, Result | None]]:
    """Compare sources of features, unit by unit.

    Args:
        sources: at least two, by label.
        fits: the maps E to fit and their solvers.
        indices: the measures that need no fit.
        units: what to compute, in order, from `units_of`; None: every source with every other.
        keep: takes what every unit came to; what it has is not computed. None: a list.
        memory: bound in bytes on features and maps in host memory.
        device: where fits and products run.
        relu: whether σ of E is the ReLU; None: where the target is never below 0 on the fit images, else σ is nothing.
        progress: whether to show a bar for every fit, or the display to which to add one.

    Yields:
        Every unit with what it came to; with None, if the recorder had it.

    Raises:
        UserError: for sources of other images than the others', maps without fit images, or maps that do not fit into
            memory or cannot map these features.
    """
    _same_images(sources, bool(fits))
    if indices and device.type == "cpu":
        dim = max((source.dim for source in sources.values()), default=0)
        require(16 * dim**2, f"comparing {dim} features without a map", "choose a smaller layer")
    if units is None:
        units = units_of(sources, fits, bool(indices), memory=memory, device=device)
    recorder: Recorder[PairUnit, Result] = Listed() if keep is None else keep
    chosen, held = {fit.name: fit for fit in fits}, Held(sources, device)
    lacking = [unit for unit in units if unit.kind == INDICES and not recorder.has(unit)]
    awaited = {(unit.source, target) for unit in lacking for target in unit.targets}
    for k, unit in enumerate(units):
        result = None
        if not recorder.has(unit):
            held.keep({unit.source, *unit.targets}, compared=unit.kind == INDICES)
            if unit.kind == INDICES:
                result = _indices(unit, indices, held, awaited)
            else:
                result = _fit(unit, chosen[unit.kind], held, relu, progress)
            recorder.add(unit, result)
        recorder.note(k + 1, len(units))
        yield unit, result


def _same_images(sources: Mapping[str, FeatureSource], fitted: bool) -> None:
    """Refuse sources of which one has more images than another, and maps that have none to be fitted on."""
    counts = {label: (source.n_fit, source.n_report) for label, source in sources.items()}
    first = next(iter(counts), "")
    for label, count in counts.items():
        if count != counts[first]:
            raise UserError(
                f"{first} and {label} cannot be compared: {counts[first]} and {count} images to fit and to report on; "
                "image by image they must be the same"
            )
        if fitted and not count[0]:
            raise UserError(f"{label} has no fit images, and a map is never fitted on the images that are reported on")


def units_of(
    sources: Mapping[str, FeatureSource],
    fits: Sequence[MapSpec],
    indices: bool,
    *,
    memory: float,
    device: torch.device,
    wanted: Callable[[str, str, str], bool] = lambda _kind, _source, _target: True,
) -> list[PairUnit]:
    """What there is to compute, in order.

    Args:
        sources: by label; of those with a flaw there is nothing.
        fits: the maps and their solvers.
        indices: whether indices are wanted.
        memory: bound in bytes on features and maps in host memory.
        device: where they run.
        wanted: whether to compare in a way (a fit's name or `INDICES`) a source with a target.
    """
    ways = [fit.name for fit in fits] + ([INDICES] if indices else [])
    return [
        PairUnit(way, source, targets)
        for group in _groups(sources, fits, memory, device)
        for kinds in (ways[: len(fits)], ways[len(fits) :])  # what the indices keep of targets need not be held by fits
        for source in sources
        if not sources[source].flaw
        for way in kinds
        if (targets := tuple(label for label in group if label != source and wanted(way, source, label)))
    ]


def _groups(
    sources: Mapping[str, FeatureSource], fits: Sequence[MapSpec], memory: float, device: torch.device
) -> Iterator[list[str]]:
    """Targets that are held in memory together: all of one D, as many as the bound allows, and at least one."""
    by_dim: dict[int, list[str]] = {}
    for label, source in sources.items():
        if not source.flaw:
            by_dim.setdefault(source.dim, []).append(label)
    for dim, labels in sorted(by_dim.items()):
        first = sources[labels[0]]
        size = group_size(dim, max(by_dim), first.n_fit, first.n_report, fits=fits, memory=memory, device=device)
        yield from (labels[start : start + size] for start in range(0, len(labels), size))


def group_size(
    dim: int, largest: int, n_fit: int, n_report: int, *, fits: Sequence[MapSpec], memory: float, device: torch.device
) -> int:
    """How many targets of D dimensions fit into memory together, and at least one.

    Args:
        dim: D of the targets.
        largest: D of the largest source.
        n_fit: fit images.
        n_report: report images.
        fits: what is fitted.
        memory: bound in bytes on features and maps in host memory.
        device: where fits run; on a GPU its free memory bounds the group too.
    """
    solvers = [fit.settings for fit in fits if fit.settings is not None]
    weights = largest * dim * max((solver.weight_bytes for solver in solvers), default=_BYTES_OF_WEIGHT)
    held_out = max((getattr(solver, "held_out", 0.0) for solver in solvers), default=0.0)
    of_target = 4 * dim * (n_fit * (1 + 2 * held_out) + n_report) + weights
    of_source = 4 * largest * (n_fit * (1 + 2 * held_out) + n_report) + 40 * largest * largest
    size = (memory - of_source) // of_target
    if device.type == "cuda":
        free = _GPU_SHARE * gpu_room(device)
        size = min(size, (free - of_source) // of_target)
    return max(1, int(size))


class Held:
    """Features in memory: those of the unit that is worked on, and nothing else.

    Args:
        sources: where features come from, by label.
        device: where fits and products run.

    Attributes:
        order: the place of every label; of two, the earlier one comes first in a pair.
        known: indices of source and target that came with those of the other way, and are not asked for yet.
    """

    def __init__(self, sources: Mapping[str, FeatureSource], device: torch.device) -> None:
        self.sources, self.device = sources, device
        self.order = {label: place for place, label in enumerate(sources)}
        self._sides: dict[tuple[str, str], Tensor] = {}
        self._centred: dict[str, Centred] = {}
        self._compared: dict[str, ComparedSide] = {}
        self.known: dict[tuple[str, str], dict[str, float]] = {}

    def keep(self, labels: set[str], *, compared: bool) -> None:
        """Give up what is not of these labels; and what only indices need, unless they are compared by them."""
        self._sides = {key: value for key, value in self._sides.items() if key[0] in labels}
        self._compared = {label: one for label, one in self._compared.items() if compared and label in labels}

    def side(self, label: str, side: str) -> Tensor:
        """Features of a side, (N, D): those to fit on where fits run, the others in host memory."""
        if (label, side) not in self._sides:
            loaded = self._load(label, side)
            self._sides[label, side] = loaded.to(self.device) if side == "fit" else loaded
        return self._sides[label, side]

    def _load(self, label: str, side: str) -> Tensor:
        try:
            return self.sources[label].load(side)
        except Renewed:
            self._sides = {key: value for key, value in self._sides.items() if key[0] != label}
            self._centred.pop(label, None)
            self._compared.pop(label, None)
            self.known = {way: numbers for way, numbers in self.known.items() if label not in way}
            return self.sources[label].load(side)

    def fit(self, label: str) -> Tensor:
        """The features to fit on."""
        return self.side(label, "fit")

    def compared(self, label: str) -> ComparedSide:
        """The report features, where products run, with what was computed of them."""
        values = self.side(label, "report")
        if label not in self._compared:
            values = values.to(self.device)
            if label not in self._centred:  # small, and kept for all labels
                self._centred[label] = centred(values)
            self._compared[label] = ComparedSide(values, self._centred[label])
        return self._compared[label]


def _fit(unit: PairUnit, fit: MapSpec, held: Held, relu: bool | None, progress: bool | Progress) -> Result:
    """E of one source to all targets of a unit in one stacked fit, and L_L2 of every image."""
    from invariance.engine.fit import fit_maps  # Lightning, which what fits nothing need not wait for

    wanted = [held.fit(target) for target in unit.targets]
    fitted = fit_maps(
        [held.fit(unit.source)],
        wanted,
        fit.map,
        fit.settings,
        relu=[bool(one.amin() >= 0) if relu is None else relu for one in wanted] if fit.map == "linear" else (),
        device=held.device,
        progress=progress,
    )
    result: Result = {
        "status": np.array(list(fitted.status)),
        "error": fitted.error.numpy(),
        "reference": fitted.reference.numpy(),
        "strength": np.array(list(fitted.strength) or [math.nan] * len(fitted)),
    }
    for side in SIDES:
        result[side] = np.stack(
            [_distances(fitted, k, held, side, unit.source, target) for k, target in enumerate(unit.targets)]
        )
    return result


def _distances(fitted: FittedMaps, k: int, held: Held, side: str, source: str, target: str) -> NDArray[np.float32]:
    """‖E φ_i(x) − φ_j(x)‖ / ‖φ_j(x)‖ of every image of a side, (n,)."""
    module, parts = fitted.module(k).to(held.device), []
    r, wanted = held.side(source, side), held.side(target, side)
    # the features are normalised; what is left is which dimensions count
    scale = held.sources[target].alive.double().to(held.device)
    with torch.no_grad(), full_float32(held.device):
        for part, t in zip(torch.split(r, _CHUNK), torch.split(wanted, _CHUNK), strict=True):
            back = module(part.to(held.device))
            parts.append(l2_distance_per_image(back, t.to(held.device), scale).float().cpu())
    return torch.cat(parts).numpy()


def _indices(unit: PairUnit, indices: Sequence[Measure], held: Held, awaited: Container[tuple[str, str]]) -> Result:
    """The indices of one source with every target over the report images; symmetric ones of the first of two alone.

    Those of the way back, if they are awaited, are computed with them, while the product of the two is there.
    """
    result: Result = {measure.name: np.full(len(unit.targets), math.nan) for measure in indices}
    for k, target in enumerate(unit.targets):
        way = unit.source, target
        if way not in held.known:
            first, second = sorted(way, key=held.order.__getitem__)  # the same product whichever way comes first
            there = Pairing(held.compared(first), held.compared(second))
            for ends, pairing in (((first, second), there), ((second, first), there.back())):
                if ends == way or ends in awaited:
                    chosen = [one for one in indices if one.directed or ends == (first, second)]
                    held.known[ends] = {one.name: one.call(pairing) for one in chosen}
        for name, number in held.known.pop(way).items():
            result[name][k] = number
    return result
