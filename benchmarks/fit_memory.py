"""Memory that fitting one residual map takes beyond the features it is fitted on.

    python benchmarks/fit_memory.py [--dim 4096] [--images 50000] [--epochs 1] [--json PATH]

Each solver runs in a process of its own, on the CPU: the process's largest resident size after the fit, less that with
the features alone. Epochs change the time of online SGD, not its memory.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time

import torch
from rich.console import Console
from rich.table import Table

from invariance.engine.fit import fit_maps
from invariance.maps import OnlineSGD, Ridge
from invariance.runs.outputs import output_file

_UNIT = 1 if sys.platform == "darwin" else 1024
_CHUNK = 5000


def largest() -> float:
    """The process's largest resident size so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT / 1e9


def fitted(solver: str, dim: int, images: int, epochs: int) -> tuple[float, float, float]:
    """GB of the process with the features, GB beyond them after a fit, and its seconds."""
    generator = torch.Generator().manual_seed(0)
    target, r = torch.empty(images, dim), torch.empty(images, dim)
    for start in range(0, images, _CHUNK):
        rows = slice(start, start + _CHUNK)
        target[rows] = torch.randn(target[rows].shape, generator=generator).relu_()
        r[rows] = (target[rows] + 0.3 * torch.randn(target[rows].shape, generator=generator)).relu_()
    before, start_time = largest(), time.perf_counter()
    fit_maps([r], target, "residual", Ridge() if solver == "ridge" else OnlineSGD(epochs=epochs, rate=0.01))
    return before, largest() - before, time.perf_counter() - start_time


def main() -> None:
    """Run every solver and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=4096)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--json", type=output_file)
    arguments = parser.parse_args()
    table = Table("solver", "GB with the features", "GB beyond them", "seconds")
    figures = {}
    for solver in ("online_sgd", "ridge"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            before, beyond, seconds = pool.apply(fitted, (solver, arguments.dim, arguments.images, arguments.epochs))
        table.add_row(solver, f"{before:.2f}", f"{beyond:.2f}", f"{seconds:.0f}")
        figures[f"gb_beyond_features_{solver}"] = beyond
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
