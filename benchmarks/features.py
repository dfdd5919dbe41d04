"""Features under a fixed g against the bare forward pass on ready batches.

    python benchmarks/features.py [--images 128] [--size 227] [--device cpu] [--json PATH]

For every family: the rate of `invariance.features.extract` (read from a memory-mapped file, to the device, transform,
normalise, φ, back to the host) and of the network alone on batches that lie ready in memory, in turn; the share is the
median over rounds of the ratio within a round, so that a machine whose speed drifts does not tilt it.
`share_of_forward` is the lowest share of all families.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from invariance.conf import families
from invariance.features import extract
from invariance.grids import grids_for
from invariance.models.caffenet import CaffeNet
from invariance.models.representation import Representation


def seconds(work, device: torch.device) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=227)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    network = CaffeNet(1000, 3, given.size, given.width).to(device).eval()
    phi = Representation(network, "relu7")
    mean = torch.tensor([123.0, 117.0, 104.0], device=device).reshape(1, 3, 1, 1)

    def normalise(x: torch.Tensor) -> torch.Tensor:
        return (x - mean) / 255

    figures: dict[str, float] = {}
    table = Table("family", "g", "images/s", "bare images/s", "share", title=f"φ(gx) at {given.size}×{given.size}, {device}")
    for family in families():
        trained = {"_target_": "invariance.transforms.baseline.Baseline", "name": "baseline", "range": None}
        grid = grids_for(trained, [family], {})[-1] if family != "baseline" else grids_for(trained, ["rotation"], {})[0]
        points = grid.transform.grid()
        point = points[-1] if family != "baseline" else next(p for p in points if p.label == "untouched")
        side = grid.transform.source_size(given.size)
        with tempfile.NamedTemporaryFile() as file:
            images = np.memmap(file.name, np.uint8, "w+", shape=(given.images, 3, side, side))
            images[:] = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
            indices = np.random.default_rng(1).permutation(given.images)
            ready = [torch.rand(given.batch, 3, given.size, given.size, device=device) for _ in range(2)]

            def bare() -> None:
                for k in range(given.images // given.batch):
                    phi.phi(ready[k % 2])

            def streamed() -> None:
                extract(phi, normalise, images, indices, grid.transform, point.params, device=device, batch=given.batch)

            bare(), streamed()
            pairs = [(seconds(streamed, device), seconds(bare, device)) for _ in range(given.rounds)]
        count = given.images // given.batch * given.batch
        share = statistics.median(b / s for s, b in pairs)
        figures[f"share_of_forward_{family}"] = round(share, 4)
        ours, theirs = (count / statistics.median(times) for times in zip(*pairs, strict=True))
        table.add_row(family, f"{grid.name}:{point.label}", f"{ours:.1f}", f"{theirs:.1f}", f"{share:.1%}")
    figures["share_of_forward"] = min(figures.values())
    Console().print(table)
    print(f"lowest share {figures['share_of_forward']:.1%}; {given.threads} threads, torch {torch.__version__}, {platform.machine()}")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
