"""What the units of a plan cost on this machine: each timed for a moment, by the code that a study runs.

A device is a GPU, or one core of a CPU, as `hydra/launcher=local` gives each job one. What a core does is timed by the
time that this process has it, so that other work on the machine counts little; what a GPU does, by the clock.
"""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import Progress
from torch import Tensor
from torch.nn import functional

from invariance.data.decode import Pixels, decode_sizes
from invariance.data.sources.base import content_hash
from invariance.device import full_float32, training_arithmetic
from invariance.engine.stream import batches
from invariance.errors import UserError
from invariance.maps import Procrustes, ResidualMap, Ridge, Solver, begin_fit
from invariance.measures.cka import linear_cka
from invariance.measures.distance import l2_distance_per_image
from invariance.measures.moments import centred, cross_product
from invariance.measures.procrustes import procrustes_distance
from invariance.measures.r2 import Regression
from invariance.models import build_model
from invariance.models.representation import Representation
from invariance.planning.work import START, Net, Unit
from invariance.training.classifier import Classifier
from invariance.training.module import sgd
from invariance.transforms import build

_CPU_BATCH = 8
"""Images of the largest timed batch on a CPU, where a step of a whole batch of the recipe's takes a minute."""

_CPU_DIM = 512
"""D at which what grows with D³ is timed on a CPU; it is scaled up from there."""

_PHI_BATCH = {"cpu": 8, "cuda": 256}
_ROWS = 256
_STARTING = (
    "data=digits",
    "model=tiny",
    "recipe=smoke",
    "recipe.updates=1",
    "recipe.val_every=1",
    "logger=csv",
    "progress=false",
)
_PHOTO, _PAGE = (375, 500), (1000, 762)
_RECIPE = {"rate": 1e-4, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": False}

Costs = Iterator[tuple[Unit, float]]


class Clock:
    """Times work on one device; on a CPU by the time that this process has a core.

    Args:
        device: the device.
        share: seconds that one piece of work is repeated for; once it is timed however long that takes.
    """

    def __init__(self, device: torch.device, share: float) -> None:
        self.device, self.share = device, share
        self.now = time.perf_counter if device.type == "cuda" else time.process_time

    def least(self, work: Callable[[], object]) -> float:
        """Least seconds of a call, after one that warms up; of three at least, unless that takes ten shares."""
        self._once(work)
        taken: list[float] = []
        while not taken or sum(taken) < self.share * (10 if len(taken) < 3 else 1):
            taken.append(self._once(work))
        return min(taken)

    def _once(self, work: Callable[[], object]) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        start = self.now()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.now() - start

    def line(self, work: Callable[[int], object], few: int, many: int) -> tuple[float, float]:
        """Seconds an item, and seconds beside them, from calls with few items and with many."""
        few_s, many_s = (self.least(lambda n=n: work(n)) for n in (few, many))  # type: ignore[misc]
        return straight(few, few_s, many, many_s)


def straight(few: int, few_s: float, many: int, many_s: float) -> tuple[float, float]:
    """Slope and beginning of the line through two times; where the beginning comes out below 0, slope alone."""
    slope = (many_s - few_s) / (many - few)
    if slope <= 0 or few_s < slope * few:
        return many_s / many, 0.0
    return slope, few_s - slope * few


def measure_rates(units: Sequence[Unit], device: torch.device, seconds: float, progress: Progress) -> dict[Unit, float]:
    """Seconds that each unit takes.

    Args:
        units: the units.
        device: where networks and fits run.
        seconds: about how long to measure, beside what has to be done once to be timed at all.
        progress: where to show how far it is.

    Raises:
        UserError: if the job that is timed for its start does not end well.
    """
    wanted: dict[tuple[Any, ...], tuple[Probe, Unit]] = {}
    for unit in units:  # one probe answers for several kinds; only a g drawn anew and a g that is fixed are told apart
        probe = _PROBE_OF[unit.kind]
        wanted.setdefault((probe, unit.kind if probe is _moved else "", unit.of), (probe, unit))
    pieces = sum(_PIECES.get(probe.__name__, 2) for probe, _ in wanted.values())
    clock = Clock(device, 0.5 * seconds / max(1, pieces))  # warming up takes the other half
    rates: dict[Unit, float] = {}
    task, threads = progress.add_task("measuring", total=len(wanted)), torch.get_num_threads()
    try:
        if device.type == "cpu":
            torch.set_num_threads(1)
        for probe, unit in wanted.values():
            rates.update(probe(unit, clock))
            progress.advance(task)
    finally:
        torch.set_num_threads(threads)
    return {unit: rates[unit] for unit in units}


def _start(unit: Unit, clock: Clock) -> Costs:
    """The smallest training there is, in a process of its own."""
    trainer = "gpu" if clock.device.type == "cuda" else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "invariance.train", *_STARTING, f"trainer={trainer}"]
        command += [f"runs={folder}/runs", f"prepared={folder}/prepared"]
        cpu, begun, before = clock.device.type == "cpu", time.perf_counter(), _children()
        ended = subprocess.run(command, capture_output=True, text=True, env=_environment(cpu))
        taken = _children() - before if cpu else time.perf_counter() - begun
    if ended.returncode:
        why = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(f"the smallest training, which is timed for what a job's start takes, failed: {why}")
    yield START, taken


def _children() -> float:
    """Seconds that processes which this one started and saw end have had a core."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _environment(cpu: bool) -> dict[str, str]:
    """Without what Hydra and a sweep have put there for this process alone; on a CPU, with one core."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("HYDRA_", "INVARIANCE_"))}
    return {**own, "OMP_NUM_THREADS": "1"} if cpu else own


def _trained(unit: Unit, clock: Clock) -> Costs:
    """Forward, loss and backward as training makes them, on images that lie ready in memory; the optimizer's step."""
    net, batch, settings = unit.of
    trainer, device = json.loads(settings), clock.device
    classifier = _classifier(net).to(device).train()
    classifier.speed_up(trainer["channels_last"], trainer["compile"])
    optimizer = sgd(list(classifier.network.named_parameters()), _RECIPE)
    kind = torch.float16 if trainer["precision"] == "16-mixed" else torch.bfloat16
    largest = min(batch, _CPU_BATCH) if device.type == "cpu" else batch
    images = torch.randint(256, (largest, net.channels, net.size, net.size), dtype=torch.uint8)
    labels = torch.randint(net.classes, (largest,))

    def gradients() -> None:
        """Forward, loss and backward."""
        x, y = (one.to(device, non_blocking=True) for one in (images, labels))
        optimizer.zero_grad()
        with torch.autocast(device.type, kind, enabled="mixed" in trainer["precision"]):
            ready = classifier.normalise(x.float()).contiguous(memory_format=classifier.memory_format)
            loss = functional.cross_entropy(classifier.network(ready), y)
        torch.autograd.backward(loss)

    with training_arithmetic(device, trainer["precision"], trainer["deterministic"]):
        taken, step = clock.least(gradients), clock.least(optimizer.step)
    yield Unit("image trained", unit.of), taken / largest
    yield Unit("update", unit.of), step


def _classifier(net: Net) -> Classifier:
    baseline = {"_target_": "invariance.transforms.baseline.Baseline", "name": "baseline"}
    names = [str(number) for number in range(net.classes)]
    return Classifier(net.config, baseline, _RECIPE, names, net.channels, [128.0] * net.channels, 0)


def _joint_map(unit: Unit, clock: Clock) -> Costs:
    """One map of the joint loss in one update: forward, backward, its part of the optimizer's step."""
    dim, batch, _ = unit.of
    module = ResidualMap(dim).to(clock.device)
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-6, momentum=0.9)
    r = torch.rand(batch, dim, device=clock.device)

    def step() -> None:
        """One update of a map."""
        optimizer.zero_grad()
        (module(r) - r).square().sum().backward()
        optimizer.step()

    yield unit, clock.least(step)


def _moved(unit: Unit, clock: Clock) -> Costs:
    """Images read, copied to the device and transformed: each by a g of its own in training, else all by one."""
    _, channels, size = unit.of
    transform, device = build(unit.how), clock.device
    n = _PHI_BATCH[device.type]
    images = np.random.default_rng(0).integers(0, 256, (n, channels, size, size), dtype=np.uint8)
    params = transform.grid()[-1].params

    def move() -> None:
        """The images under the family, once."""
        for _, x in batches(images, np.arange(n), n, device):
            own = transform.sample(n, torch.Generator()) if unit.kind == "image drawn" else params
            transform.apply(x, own)

    yield unit, clock.least(move) / n


def _phi(unit: Unit, clock: Clock) -> Costs:
    """φ of normalised images, and back to the host."""
    [net] = unit.of
    classifier = _classifier(net).to(clock.device).eval()
    phi, n = Representation(classifier.network, net.layer), _PHI_BATCH[clock.device.type]
    x = torch.rand(n, net.channels, net.size, net.size, device=clock.device)
    yield unit, clock.least(lambda: phi.phi(x).cpu()) / n


def _scored(unit: Unit, clock: Clock) -> Costs:
    """A representation through a map and the rest of the network, and its distance from another."""
    [net] = unit.of
    with torch.no_grad():
        network = build_model(net.config, net.classes, net.channels).to(clock.device).eval()
        phi = Representation(network, net.layer)
        dim = phi.phi(torch.zeros(1, net.channels, net.size, net.size, device=clock.device)).shape[1]
        module, scale = ResidualMap(dim).to(clock.device), torch.ones(dim, dtype=torch.float64, device=clock.device)
        r = torch.rand(_ROWS, dim, device=clock.device)

        def score() -> None:
            """The images mapped, classified and compared."""
            with full_float32(clock.device):
                back = module(r)
            phi.classify(back).cpu()
            l2_distance_per_image(back, r, scale).cpu()

        yield unit, clock.least(score) / _ROWS


def _timed_dim(dim: int, cubic: bool, device: torch.device) -> int:
    return min(dim, _CPU_DIM) if cubic and device.type == "cpu" else dim


def _fitted(unit: Unit, clock: Clock) -> Costs:
    """One fit of one map, by image and beside; the same for each further target that is stacked on it."""
    dim, kind, settings = unit.of
    small = _timed_dim(dim, isinstance(settings, Ridge | Procrustes), clock.device)
    plane, cube = (dim / small) ** 2, (dim / small) ** 3
    image, beside = _fit_line(clock, settings, kind, small, 1)
    yield Unit("image fitted", unit.of), image * plane
    yield Unit("fit", unit.of), beside * cube
    if kind == "linear":
        both_image, both_beside = _fit_line(clock, settings, kind, small, 2)
        yield Unit("target image", unit.of), max(0.0, both_image - image) * plane
        yield Unit("target", unit.of), max(0.0, both_beside - beside) * cube


def _fit_line(clock: Clock, settings: Solver, kind: str, dim: int, stacked: int) -> tuple[float, float]:
    block, device = settings.block, clock.device
    r, t = (torch.rand(1, block, size, device=device) for size in (dim, stacked * dim))

    def fit(blocks: int) -> None:
        """A fit of so many blocks."""
        images = max(blocks * block, dim)  # as there are in earnest: of fewer, ridge does something else
        state = begin_fit(settings, kind, dim, stacked * dim, images, stacked=stacked, device=device)
        for _ in range(blocks):
            state.step(r, t)
        state.finish()

    each, beside = clock.line(fit, 1, 2)
    return each / block, beside


def _indices(unit: Unit, clock: Clock) -> Costs:
    """The indices: what a source takes, what an ordered pair takes, and what a pair takes in one of its directions."""
    [dim] = unit.of
    small = _timed_dim(dim, True, clock.device)
    x, y = (torch.rand(4 * small, small, device=clock.device) for _ in range(2))

    def source(n: int) -> None:
        """What one network takes, of n images."""
        Regression(x[:n])
        centred(x[:n])

    held: dict[int, tuple[Regression, Any, Any, Tensor]] = {}
    for n in (2 * small, 4 * small):
        a, b = x[:n], y[:n]
        held[n] = Regression(a), centred(a), centred(b), cross_product(a, b)

    def pair(n: int) -> None:
        """What an ordered pair takes."""
        regression, _, b, cross = held[n]
        regression.r2(b, cross)

    def half(n: int) -> None:
        """What a pair takes once, for both ways."""
        _, a, b, _ = held[n]
        cross = cross_product(x[:n], y[:n])
        linear_cka(a, b, cross)
        procrustes_distance(a, b, cross)

    for kind, work in (("source", source), ("pair", pair), ("half", half)):
        image, beside = clock.line(work, 2 * small, 4 * small)
        yield Unit(f"index {kind} image", unit.of), image * (dim / small) ** 2
        yield Unit(f"index {kind}", unit.of), beside * (dim / small) ** 3


def _decoded(unit: Unit, clock: Clock) -> Costs:
    """One image read, hashed, decoded and resized to every size, on one core."""
    _, colour, sizes = unit.of
    made = made_file(colour)
    read: Callable[[], bytes | Pixels] = unit.how or (lambda: made)

    def one() -> None:
        """One image read and decoded."""
        data = read()
        content_hash(data)
        decode_sizes(data, sizes, colour)

    yield unit, Clock(torch.device("cpu"), clock.share).least(one)


def made_file(colour: str) -> bytes:
    """A file as the large data sets have them: a JPEG photograph of 500 × 375, or a page of 1000 × 762 in LZW TIFF."""
    height, width = _PHOTO if colour == "rgb" else _PAGE
    rng = np.random.default_rng(0)
    if colour == "rgb":
        coarse = Image.fromarray(rng.integers(0, 256, (height // 12, width // 12, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
        pixels = np.clip(pixels + rng.integers(-12, 13, pixels.shape), 0, 255)
    else:  # lines of strokes on white
        ink = (rng.random((height, width)) < 0.3) & (np.arange(height)[:, None] % 16 < 9)
        pixels = np.where(ink, rng.integers(0, 120, ink.shape), 255)
    file, picture = io.BytesIO(), Image.fromarray(pixels.astype(np.uint8))
    picture.save(file, "JPEG", quality=90) if colour == "rgb" else picture.save(file, "TIFF", compression="tiff_lzw")
    return file.getvalue()


Probe = Callable[[Unit, Clock], Costs]
_PROBE_OF: Mapping[str, Probe] = {
    "start": _start,
    "image trained": _trained,
    "update": _trained,
    "map trained": _joint_map,
    "image drawn": _moved,
    "image under g": _moved,
    "image φ": _phi,
    "image scored": _scored,
    "image decoded": _decoded,
    **dict.fromkeys(("image fitted", "fit", "target image", "target"), _fitted),
    **{f"index {kind}{each}": _indices for kind in ("source", "pair", "half") for each in ("", " image")},
}
_PIECES = {"_start": 0, "_fitted": 4, "_indices": 6, "_moved": 1, "_phi": 1, "_scored": 1, "_decoded": 1}
"""How many things a probe times, where it is not two."""
