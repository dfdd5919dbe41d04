"""How fast a GPU trains, measures and fits.

A CPU has nothing to say about that. What needs no GPU runs on one all the same, so that its mistakes show without.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import features
import online_sgd
import torch
import train
from gpu_rows import Check, Row, Scale
from photos import family_at_its_largest, folder_of, prepared_at
from rich.progress import Progress
from torch import Tensor

from invariance.engine.grids import grids_for
from invariance.models.caffenet import CaffeNet
from invariance.models.representation import Representation
from invariance.planning.probes import measure_rates
from invariance.planning.study import Study
from invariance.planning.templates import Templates, networks_there
from invariance.planning.work import Unit, units_of
from invariance.settings.files import paper_families
from invariance.transforms import build


def seconds(work: Callable[[], object], device: torch.device, rounds: int = 5) -> float:
    """Median time of a call, after one that warms up."""
    work()
    return statistics.median(features.timed(work, device) for _ in range(rounds))


def training(check: Check, at: Scale) -> Iterator[Row]:
    """Images a second of the trainer, and their share of the bare step's; the baseline compiled, too."""
    given = argparse.Namespace(device=at.device.type, batch=at.batch, size=at.size, updates=15 if at.gpu else 1)
    given.rounds, given.precision, given.channels_last = 3, "bf16-mixed", True
    with tempfile.TemporaryDirectory() as temporary:
        where = Path(temporary)
        photos = folder_of(None, 2 * at.batch, where / "photos")

        def timed(family: str, compiled: bool = False) -> list[Row]:
            """Rate and share of a family."""
            given.compile = compiled
            side = build(family_at_its_largest(family)).source_size(at.size)
            pairs = train.compare(family, prepared_at(side, photos, where), where, given)
            share = statistics.median(bare / ours for ours, bare in pairs)
            rate = at.batch * given.updates / statistics.median(ours for ours, _ in pairs)
            name = f"{family}_compiled" if compiled else family
            return [check.told(name, rate, "images/s"), check.at_least(f"{name}_share", share, 0.9)]

        yield from check.each(paper_families() if at.gpu else ["baseline"], timed)
        if at.gpu:
            yield from check.each(["baseline"], lambda family: timed(family, compiled=True))


def measuring(check: Check, at: Scale) -> Iterator[Row]:
    """Features under g, and their share of the bare forward pass."""
    given = argparse.Namespace(device=at.device.type, images=16 * at.batch, batch=at.batch, size=at.size, rounds=3)
    phi = Representation(CaffeNet(1000, 3, at.size).to(at.device).eval(), "relu7")
    grids = {grid.family: grid for grid in grids_for(features.BASELINE, "all", {})}

    def timed(family: str) -> list[Row]:
        """Rate and share of a family."""
        transform = grids[family].transform
        pairs = features.compare(phi, transform, transform.grid()[-1], given)
        share = statistics.median(bare / ours for ours, bare in pairs)
        rate = given.images / statistics.median(ours for ours, _ in pairs)
        return [check.told(family, rate, "images/s"), check.at_least(f"{family}_share", share, 0.95)]

    yield from check.each(grids, timed)


class GraphLoop:
    """torch.optim.SGD stepping after every image, its update captured once as a CUDA graph and replayed."""

    def __init__(self, dim: int) -> None:
        self.loop = online_sgd.TorchLoop(dim, "cuda", fused=True)
        self.r, self.t = (torch.zeros(1, dim, device="cuda") for _ in range(2))
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):  # capturing wants what it captures to have run before
            for _ in range(3):
                self.loop.run(self.r, self.t)
        torch.cuda.current_stream().wait_stream(beside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.loop.run(self.r, self.t)

    def run(self, r: Tensor, t: Tensor) -> None:
        """Images r (N, D), one after another, towards targets t (N, D)."""
        for k in range(len(r)):
            self.r.copy_(r[k : k + 1])
            self.t.copy_(t[k : k + 1])
            self.graph.replay()


def solving(check: Check, at: Scale) -> Iterator[Row]:
    """Online SGD against torch.optim.SGD image by image, as a loop and as a captured graph, and its products alone."""
    ms = online_sgd.speeds(at.dim, at.device.type, 5)
    if at.gpu:
        r, t = online_sgd.features(64, at.dim, "cuda")
        graph = GraphLoop(at.dim)
        ms["graph"] = 1e3 * seconds(lambda: graph.run(r, t), at.device) / len(r)
    for name, value in ms.items():
        yield check.told(f"ms_{name}", value, "ms an update")
    yield check.at_least("over_torch_sgd", ms["torch_sgd"] / ms["ours"], 20, "times")
    if at.gpu:
        yield check.at_least("over_graph", ms["graph"] / ms["ours"], 5, "times")
    yield check.at_least("share_of_gemm", ms["two_gemms"] / ms["ours"], 0.5)


def transforming(check: Check, at: Scale) -> Iterator[Row]:
    """Images a second of drawing and applying each family alone, on images that lie on the GPU."""

    def timed(family: str) -> Row:
        """Rate of a family."""
        transform = build(family_at_its_largest(family))
        side = transform.source_size(at.size)
        x = torch.randint(256, (at.batch, 3, side, side), dtype=torch.uint8, device=at.device)

        def moved() -> None:
            """A batch as training moves it."""
            transform.apply(x.float(), transform.sample(len(x), torch.Generator().manual_seed(0)))

        return check.at_least(family, len(x) / seconds(moved, at.device), 20_000, "images/s")

    yield from check.each(paper_families(), timed)


def host(check: Check, at: Scale) -> Iterator[Row]:
    """The copy of a batch from pinned memory, alone and behind products that it has nothing to do with."""
    x = torch.randint(256, (at.batch, 3, at.size, at.size), dtype=torch.uint8).pin_memory()
    alone = seconds(lambda: x.to(at.device, non_blocking=True), at.device)
    yield check.at_least("pinned", x.numel() / alone / 1e9, 10, "GB/s")
    a, copying = torch.randn(8192, 8192, device=at.device), torch.cuda.Stream()

    def products() -> None:
        """What a step computes."""
        for _ in range(4):
            torch.mm(a, a)

    def both() -> None:
        """And the copy of the next batch."""
        products()
        with torch.cuda.stream(copying):
            x.to(at.device, non_blocking=True)

    hidden = 1 - (seconds(both, at.device) - seconds(products, at.device)) / alone
    yield check.at_least("hidden_behind_products", hidden, 0.8)


_TOGETHER = (("image trained", "update"), ("image fitted", "fit", "target image", "target"))


def planning(check: Check, at: Scale) -> Iterator[Row]:
    """What `invariance-plan` times for the paper's study of ILSVRC: seconds of every kind of unit, on average."""
    name, data = ("paper", "ilsvrc") if at.gpu else ("smoke", "digits")
    trainer = "gpu" if at.gpu else "cpu"
    templates = Templates(Path(__file__).parents[1] / "multirun_templates", name)
    there = networks_there(templates)
    study = Study(templates, there, [f"data={data}"], [trainer], Path("prepared"), None, {}, count=False)
    units = units_of(study.stages())
    kinds = list(dict.fromkeys(unit.kind for unit in units))
    several = {next((some for some in _TOGETHER if kind in some), (kind,)): None for kind in kinds}

    def timed(case: str) -> list[Row]:
        """Rates of kinds that one probe answers for."""
        wanted = [unit for unit in units if unit.kind in case.split(" + ")]
        with Progress(disable=True) as progress:
            rates = measure_rates(wanted, at.device, 2.0 if at.gpu else 0.1, progress)
        return [check.told(kind, mean_of(rates, kind), "s") for kind in dict.fromkeys(unit.kind for unit in rates)]

    yield from check.each([" + ".join(some) for some in several], timed)


def mean_of(rates: dict[Unit, float], kind: str) -> float:
    """Mean seconds of the units of a kind."""
    return statistics.mean(value for unit, value in rates.items() if unit.kind == kind)


SPEED_OF_TRAINING = (
    Check("train", "training CaffeNet, and its share of the bare step", "≥ 0.9 of the bare step", training, gpu=True),
)
SPEED = (
    Check("h2d", "copies from pinned memory", "≥ 10 GB/s, ≥ 0.8 hidden", host, gpu=True),
    Check("alone", "transformations alone", "≥ 20,000 images/s", transforming, gpu=True),
    Check("sgd", "online SGD against loops, and its products", "≥ 5 times a captured graph", solving, gpu=True),
    Check("features", "features under g, and their share of the forward pass", "≥ 0.95", measuring, gpu=True),
)
RATES = (Check("rate", "what invariance-plan times", "", planning, gpu=True),)
