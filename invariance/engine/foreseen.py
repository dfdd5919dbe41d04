"""What a measurement will take: passes, time and memory, told before it begins."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from invariance.device import full_float32
from invariance.engine.at_layer import Effort, How, More
from invariance.engine.stream import Sample
from invariance.engine.streamed import batch_of, together
from invariance.maps.spec import CLOSED, MapSpec, parted
from invariance.measures import FROM_LOGITS
from invariance.models.cut import Cut
from invariance.models.model import Model
from invariance.transforms.base import UNTOUCHED, Transform

_TIMED = 8
"""Images that are timed, at most."""

_DUAL = 3
"""Passes that one with forward derivatives takes as long as."""

_DEALS = 3
"""Deals of the unseen-class control, each with two maps for every image: of its own half, and of the other."""

_SIDE = 512
"""Side of the matrices whose product is timed."""

_SOLVED = 30
"""Products of D³ that a solution in closed form takes about as long as."""


@dataclass(frozen=True)
class Share:
    """What is left to measure over one grid.

    Attributes:
        points: how many g it has, the untouched among them.
        layers: the layers.
        maps: the maps; none for derivatives alone.
        derivative: whether there are derivatives.
    """

    points: int
    layers: Sequence[str]
    maps: Sequence[MapSpec]
    derivative: bool = False


@dataclass(frozen=True)
class Images:
    """How many images there are.

    Attributes:
        fit: those that maps are fitted on.
        report: those that are reported on.
        control: whether maps in closed form have the unseen-class control.
    """

    fit: int
    report: int
    control: bool = False


@dataclass(frozen=True)
class Foreseen:
    """What a measurement will take, about.

    Attributes:
        passes: passes of all images through the network.
        images: how many images these are.
        seconds: in all.
        memory: bytes for representations and maps, beside what the network itself takes.
        timed: images that were timed.
    """

    passes: float
    images: int
    seconds: float
    memory: float
    timed: int

    @property
    def told(self) -> str:
        """A line."""
        return (
            f"about {self.passes:,.0f} passes over {self.images:,} images, {_time(self.seconds)} and "
            f"{self.memory / 1e9:.2g} GB beside the network; estimated from {self.timed} images"
        )


def foresee(
    model: Model,
    report: Sample,
    fit: Sample | None,
    shares: Sequence[Share],
    *,
    transform: Transform,
    cut: Cut,
    measures: Sequence[str],
    more: More,
    unseen: Sequence[str] = CLOSED,
    effort: Effort,
) -> Foreseen:
    """What a measurement will take, from a few images that are timed twice under one g.

    Passes are those of φ under every g, and of the network with something put into a layer: what maps give, and what
    rows have beside. Where C needs no more of an image than what the layer gives, the part of a pass is counted that
    comes behind it; where it needs no image nothing is. Fits are told by the products of matrices that they take.

    Args:
        model: the network.
        report: the images that are reported on.
        fit: those that maps are fitted on, if there are any.
        shares: what is left, by grid.
        transform: the family that is timed, which the images are of a size for.
        cut: the network cut at all layers, by their readouts.
        measures: what is measured under every g.
        more: nulls and intervals.
        unseen: solvers whose maps have the unseen-class control where there are labels.
        effort: batch and memory.

    Raises:
        UserError: for layers that cannot be measured.
    """
    points = transform.grid()
    untouched = next(point for point in points if point.label == UNTOUCHED)
    how = How(transform, untouched, measures, unseen, more, effort)
    images = Images(0 if fit is None else len(fit), len(report), fit is not None and report.labels is not None)
    x = torch.from_numpy(np.asarray(report.pixels[report.indices[:_TIMED]])).float()
    each, dims = _timed(model, cut, x, how)
    asked = set(measures) & set(FROM_LOGITS)
    behind = {layer for layer in dims if asked and cut.reading(layer).readout.lifts and not cut.apart(layer)}
    mapped = any(spec.name != "identity" for share in shares for spec in share.maps)
    parts = _parts(model, cut, sorted(behind), x, how, each) if mapped else dict.fromkeys(behind, (0.0, 1.0))
    ours = model.ours
    through = sum(_through(share, parts, _of(share, dims), images, how, ours=ours) for share in shares)
    if any(share.derivative for share in shares) and (images.fit or ours or len(shares) > 1):
        # the scale; one family's own pass gives it where it is of the same images
        through += images.fit or images.report
    flops = sum(_flops(spec, share, dims, images, how) for share in shares for spec in share.maps)
    everything = images.fit + images.report
    return Foreseen(
        passes=through / everything,
        images=everything,
        seconds=through * each + (flops and flops * _per_flop(model.device)),
        memory=max((_memory(share, dims, images, how, model.device) for share in shares), default=0.0),
        timed=len(x),
    )


def _timed(model: Model, cut: Cut, x: Tensor, how: How) -> tuple[float, dict[str, int]]:
    """Seconds that an image under g takes at all layers, the better of two tries, and D of every layer."""
    points = how.transform.grid()
    point = next((one for one in points if one.label != UNTOUCHED), points[0])
    x, seconds = x.to(model.device), []
    cut.look(model.prepare(how.transform.apply(x, point.params)))
    for _ in range(2):
        start = time.perf_counter()
        with torch.no_grad():
            cut.show(model.prepare(how.transform.apply(x, point.params)), lambda _layer, _r: None)
        _settled(model.device)
        seconds.append(time.perf_counter() - start)
    return min(seconds) / len(x), {layer: cut.reading(layer).dim for layer in cut.layers}


def _parts(
    model: Model, cut: Cut, layers: Sequence[str], x: Tensor, how: How, each: float
) -> dict[str, tuple[float, float]]:
    """What of a pass is run up to a layer, once for an image and g, and behind it, for everything that is put there."""
    points = how.transform.grid()
    prepared = model.prepare(how.transform.apply(x.to(model.device), points[0].params)) if layers else x
    parts = {}
    for layer in layers:
        if not cut.follows(layer):
            parts[layer] = (0.0, 1.0)
            continue
        activation = cut.activation(layer, prepared)
        r = torch.zeros(len(x), cut.reading(layer).dim, device=model.device)
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            cut.classify(layer, r, activation=activation)
            _settled(model.device)
            seconds.append(time.perf_counter() - start)
        behind = min(1.0, min(seconds) / len(x) / each)
        parts[layer] = (1.0 - behind, behind)
    return parts


def _through(
    share: Share,
    parts: Mapping[str, tuple[float, float]],
    dims: Mapping[str, int],
    images: Images,
    how: How,
    *,
    ours: bool,
) -> float:
    """Images that go through the network for a share, `parts` of it once more for what C says at layers."""
    everything, fitted = images.fit + images.report, [spec for spec in share.maps if spec.name != "identity"]
    scored = everything if ours else images.report
    before, behind = (sum(parts[layer][k] for layer in share.layers if layer in parts) for k in (0, 1))
    total = float(_DUAL * images.report if share.derivative else 0)
    if not share.maps:
        return total
    if not fitted:  # φ(x) once more for the scale, and for every group of g
        groups = -(-share.points // together(share.points, dims, images.report, how))
        total += share.points * scored + (images.fit or images.report) + (groups - 1) * scored
        behind = float(sum(layer in parts for layer in share.layers))  # whole passes: nothing is held between them
    else:
        total += share.points * everything + before * share.points * scored
    ways = len(fitted) * share.points + share.points - 1  # through every map, and for the reference
    if how.more.nulls and images.fit:
        shuffled = [one for one in fitted if one.solver in how.unseen or one.solver in how.more.shuffled]
        total += behind * (1 + len(shuffled)) * share.points * images.report
    if images.control and "error_rate" in how.measures:
        closed = [one for one in fitted if one.solver in how.unseen]
        total += behind * 2 * _DEALS * len(closed) * share.points * images.report
    return total + behind * ways * scored


def _of(share: Share, dims: Mapping[str, int]) -> dict[str, int]:
    """D of the layers of a share."""
    return {layer: dims[layer] for layer in share.layers}


def _flops(spec: MapSpec, share: Share, dims: dict[str, int], images: Images, how: How) -> float:
    """Floating-point operations of fitting a map at all layers and g of a share."""
    if spec.settings is None or parted([spec])[1]:  # on positions D is of channels, and little
        return 0.0
    times = share.points * (2 if how.more.nulls else 1)
    epochs = getattr(spec.settings, "epochs", None)
    if spec.solver in how.unseen and images.control:
        times *= 1 + _DEALS * 2
    total = 0.0
    for layer in share.layers:
        dim, rows = dims[layer], images.fit
        least = min(dim, rows)
        total += 6.0 * epochs * rows * dim**2 if epochs else 4.0 * rows * dim * least + _SOLVED * 2.0 * least**3
    return times * total


def _memory(share: Share, dims: dict[str, int], images: Images, how: How, device: torch.device) -> float:
    """Bytes of the representations and maps that are held at once."""
    largest, every = max(dims[layer] for layer in share.layers), sum(dims[layer] for layer in share.layers)
    if not any(spec.settings or spec.learned for spec in parted(share.maps)[0]):
        return 4.0 * every * batch_of(_of(share, dims), how.effort, device)
    of_g = 4.0 * every * (images.fit + images.report)
    one = of_g + 32.0 * largest**2 * (2 if how.more.nulls else 1)
    return of_g + min(max(how.effort.memory - of_g, one), share.points * one)


def _per_flop(device: torch.device) -> float:
    """Seconds that an operation of a product of matrices takes, the better of two tries."""
    a, seconds = torch.ones(_SIDE, _SIDE, device=device), []
    for _ in range(3):
        start = time.perf_counter()
        with full_float32(device):
            _ = a @ a
        _settled(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:]) / (2.0 * _SIDE**3)


def _settled(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _time(seconds: float) -> str:
    """A time in words."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.2g} minutes" if seconds < 5400 else f"{seconds / 3600:.2g} hours"
