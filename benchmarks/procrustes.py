"""How long the singular values of XᵀY take, of which the Procrustes distance is made, and how right they are.

    python benchmarks/procrustes.py --threads 2 --json procrustes.json

X and Y are made-up features of two networks with something in common, non-negative, in float64. The sum of the singular
values is computed as such, and by the eigenvalues of the smaller Gram matrix of XᵀY (`nuclear_by_eigenvalues`), in
turns; the median round counts. The distances that follow are compared, beside the bound that is put on their
difference. `--pairs` pairs of networks are extrapolated from one.
"""

import argparse
import json
import math
import statistics
import time

import torch

from invariance.measures.moments import centred, cross_product
from invariance.measures.procrustes import nuclear_by_eigenvalues
from invariance.runs.outputs import output_file


def main() -> None:
    """Time, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=2048, help="D (default 2048)")
    parser.add_argument("--images", type=int, default=8192, help="N (default 8192)")
    parser.add_argument("--pairs", type=int, default=630, help="pairs to extrapolate to (default 630)")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds (default 3)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--json", type=output_file, help="write the figures here as one flat object")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    draw = torch.Generator().manual_seed(0)
    common = torch.randn(args.images, args.dim, generator=draw) * torch.logspace(0, -2, args.dim)
    x, y = (
        (
            common @ torch.randn(args.dim, args.dim, generator=draw).div_(args.dim**0.5)
            + 0.03 * torch.randn(args.images, args.dim, generator=draw)
        ).relu_()
        for _ in range(2)
    )
    cross, size = cross_product(x, y), math.sqrt(centred(x).total * centred(y).total)
    taken: dict[str, list[float]] = {"svdvals": [], "eigenvalues": []}
    for _ in range(args.rounds):
        start = time.perf_counter()
        exact = float(torch.linalg.svdvals(cross).sum())
        middle = time.perf_counter()
        nuclear, bound = nuclear_by_eigenvalues(cross, args.images - 1)
        taken["svdvals"].append(middle - start)
        taken["eigenvalues"].append(time.perf_counter() - middle)
    s = {name: statistics.median(values) for name, values in taken.items()}
    distance, other = (math.sqrt(max(0.0, 2 - 2 * one / size)) for one in (exact, nuclear))
    figures = {
        "dim": args.dim,
        "images": args.images,
        "threads": args.threads,
        **{f"seconds_{name}": value for name, value in s.items()},
        **{f"hours_of_all_pairs_{name}": args.pairs * value / 3600 for name, value in s.items()},
        "speedup_of_eigenvalues": s["svdvals"] / s["eigenvalues"],
        "distance": distance,
        "relative_difference": abs(other / distance - 1),
        "relative_bound": bound / size / distance**2,
    }
    for name, value in figures.items():
        print(f"{name:30} {value:.4g}" if isinstance(value, float) else f"{name:30} {value}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
