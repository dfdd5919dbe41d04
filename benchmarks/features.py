"""Features under a fixed g against the bare forward pass on ready batches.

    python benchmarks/features.py [--images 64] [--size 227] [--device cpu] [--json PATH]

For every family: the rate of `invariance.engine.stream.extract` (read from a memory-mapped file, to the device,
transform, normalise, φ, back to the host) and of the network alone on the same images under g, which lie ready and
normalised in memory, in turn: a network takes longer for some numbers than for others. The
share is the median over rounds of the ratio within a round, so that a machine whose speed drifts does not tilt it.
`share_of_forward` is the lowest share of all families.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from invariance.device import keep_freed
from invariance.engine.grids import grids_for
from invariance.engine.stream import extract
from invariance.models.caffenet import CaffeNet
from invariance.models.representation import Representation
from invariance.runs.outputs import output_file
from invariance.transforms.base import GridPoint, Transform

BASELINE = {"_target_": "invariance.transforms.baseline.Baseline", "name": "baseline"}


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call in seconds."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def normalise(x: torch.Tensor) -> torch.Tensor:
    """What ILSVRC networks take."""
    return (x - torch.tensor([123.0, 117.0, 104.0], device=x.device).reshape(1, 3, 1, 1)).div_(255)


def compare(
    phi: Representation, transform: Transform, point: GridPoint, given: argparse.Namespace
) -> list[tuple[float, float]]:
    """Seconds of extraction under g and of the bare forward pass, in turn, for every round."""
    device, side = torch.device(given.device), transform.source_size(given.size)
    count = given.images // given.batch * given.batch
    rng = np.random.default_rng(0)
    with tempfile.NamedTemporaryFile() as file:
        images = np.memmap(file.name, np.uint8, "w+", shape=(count, 3, side, side))
        images[:] = rng.integers(0, 256, images.shape, dtype=np.uint8)
        indices = rng.permutation(count)

        ready = [
            normalise(transform.apply(torch.from_numpy(images[part]).to(device).float(), point.params))
            for part in np.split(indices, count // given.batch)[:2]
        ]

        def streamed() -> None:
            extract(phi, normalise, images, indices, transform, point.params, device=device, batch=given.batch)

        def bare() -> None:
            for k in range(count // given.batch):
                phi.phi(ready[k % len(ready)])

        streamed()
        bare()
        return [(timed(streamed, device), timed(bare, device)) for _ in range(given.rounds)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=227)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=output_file)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed()  # as the command does
    phi = Representation(CaffeNet(1000, 3, given.size).to(given.device).eval(), "relu7")
    title = f"φ(gx) at {given.size}×{given.size} on {given.device}"
    table = Table("family", "g", "images/s", "bare images/s", "share", title=title)
    figures: dict[str, float] = {}
    for grid in {grid.family: grid for grid in grids_for(BASELINE, "all", {})}.values():
        point = grid.transform.grid()[-1]
        pairs = compare(phi, grid.transform, point, given)
        share = statistics.median(bare / streamed for streamed, bare in pairs)
        figures[f"share_of_forward_{grid.family}"] = round(share, 4)
        count = given.images // given.batch * given.batch
        rates = [f"{count / statistics.median(times):.1f}" for times in zip(*pairs, strict=True)]
        table.add_row(grid.family, f"{grid.name}:{point.label}", *rates, f"{share:.1%}")
    figures["share_of_forward"] = min(figures.values())
    Console().print(table)
    print(f"lowest share {figures['share_of_forward']:.1%}; {given.threads} threads, torch {torch.__version__}")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
