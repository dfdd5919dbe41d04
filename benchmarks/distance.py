"""How fast all pairs of networks are fitted: stacked by source, each pair on its own, and by torch.optim.SGD.

    python benchmarks/distance.py --threads 2 --json distance.json

Maps E of every ordered pair of n networks are fitted by online SGD, on made-up features: for each source one fit to
all targets stacked (what `invariance.distance` does), then each pair by itself with the same solver. Both go through
`fit_maps`, with Lightning and the judging of every fit. Both are timed over all pairs. `torch.optim.SGD`, stepping
after every image, is timed over `--torch-updates` updates of one pair and extrapolated to the same number of updates of
all pairs. The limit is what the two matrix products of every block take alone, in the stacked shape. The ways take
turns, and the median round counts. `--device cuda` has not been run yet.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from invariance.device import keep_freed
from invariance.engine.fit import fit_maps
from invariance.maps import OnlineSGD
from invariance.runs.outputs import output_file


def features(networks: int, images: int, dim: int, device: str) -> list[Tensor]:
    """Non-negative features (N, D) of every network, half of them 0, with something in common."""
    draw = torch.Generator().manual_seed(0)
    common = torch.randn(images, dim, generator=draw)
    made = []
    for _ in range(networks):
        mixed = common @ torch.randn(dim, dim, generator=draw).div_(dim**0.5)
        r = (mixed + torch.randn(images, dim, generator=draw)).relu_()
        made.append((r / r.square().mean(0).sqrt()).to(device))
    return made


def stacked(r: list[Tensor], settings: OnlineSGD, device: str) -> list[Tensor]:
    """One fit for each source; W of all pairs, (n − 1, D, D) a source."""
    return [
        fit_maps([source], [t for t in r if t is not source], "linear", settings, device=device).parameters["weight"]
        for source in r
    ]


def pairwise(r: list[Tensor], settings: OnlineSGD, device: str) -> list[Tensor]:
    """One fit for each pair."""
    return [
        torch.cat(
            [
                fit_maps([source], target, "linear", settings, device=device).parameters["weight"]
                for target in r
                if target is not source
            ]
        )
        for source in r
    ]


def torch_updates(r: Tensor, t: Tensor, settings: OnlineSGD, count: int, fused: bool) -> None:
    """`count` updates of one pair by torch.optim.SGD, one image each."""
    dim = r.shape[1]
    weight = torch.zeros(dim, dim, device=r.device, requires_grad=True)
    bias = torch.zeros(dim, device=r.device, requires_grad=True)
    optimizer = torch.optim.SGD(
        [weight, bias], lr=settings.rate, momentum=settings.momentum, weight_decay=settings.weight_decay, fused=fused
    )
    for i in range(count):
        loss = (torch.addmv(bias, weight, r[i]) - t[i]).square().sum() / (2 * dim)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def products(r: list[Tensor], settings: OnlineSGD) -> None:
    """The two matrix products of every block of every source, and nothing else."""
    dim, out = r[0].shape[1], (len(r) - 1) * r[0].shape[1]
    weight, delta = torch.zeros(dim, out, device=r[0].device), torch.rand(settings.block, out, device=r[0].device)
    for source in r:
        for _ in range(settings.epochs):
            for block in torch.split(source, settings.block):
                torch.matmul(block, weight)
                weight.addmm_(block.T, delta[: len(block)], beta=0.99)


def seconds(work: Callable[[], object], device: str) -> float:
    """How long something takes."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def main() -> None:
    """Time, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=12, help="n (default 12)")
    parser.add_argument("--dim", type=int, default=1024, help="D (default 1024)")
    parser.add_argument("--images", type=int, default=512, help="fit images (default 512)")
    parser.add_argument("--epochs", type=int, default=5, help="passes over them (default 5)")
    parser.add_argument("--torch-updates", type=int, default=300, help="timed updates of torch.optim.SGD (default 300)")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds (default 3)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=output_file, help="write the figures here as one flat object")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed()  # as the command does
    settings = OnlineSGD(epochs=args.epochs)
    r = features(args.networks, args.images, args.dim, args.device)
    one, other = stacked(r, settings, args.device), pairwise(r, settings, args.device)  # warms up, too
    difference = max(float((a - b).norm() / b.norm()) for a, b in zip(one, other, strict=True))
    del one, other
    pairs = args.networks * (args.networks - 1)
    updates = pairs * args.epochs * args.images
    scale = updates / args.torch_updates
    ways: dict[str, tuple[Callable[[], object], float]] = {
        "stacked": (lambda: stacked(r, settings, args.device), 1),
        "pairwise": (lambda: pairwise(r, settings, args.device), 1),
        "torch_sgd": (lambda: torch_updates(r[0], r[1], settings, args.torch_updates, False), scale),
        "fused_sgd": (lambda: torch_updates(r[0], r[1], settings, args.torch_updates, True), scale),
        "two_gemms": (lambda: products(r, settings), 1),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, (work, factor) in ways.items():
            taken[name].append(factor * seconds(work, args.device))
    s = {name: statistics.median(values) for name, values in taken.items()}
    figures = {
        "networks": args.networks,
        "pairs": pairs,
        "dim": args.dim,
        "images": args.images,
        "epochs": args.epochs,
        "updates": updates,
        "torch_updates": args.torch_updates,
        "threads": args.threads,
        "device": args.device,
        **{f"seconds_{name}": value for name, value in s.items()},
        "speedup_over_pairwise": s["pairwise"] / s["stacked"],
        "speedup_over_torch_sgd": s["torch_sgd"] / s["stacked"],
        "speedup_over_fused_sgd": s["fused_sgd"] / s["stacked"],
        "share_of_gemm": s["two_gemms"] / s["stacked"],
        "max_relative_difference": difference,
    }
    for name, value in figures.items():
        print(f"{name:24} {value:.4g}" if isinstance(value, float) else f"{name:24} {value}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
