"""How fast online SGD runs, one image per update: torch.optim.SGD, a hand-written loop, and ours in blocks.

    python benchmarks/online_sgd.py --threads 2 --json online_sgd.json

All fit one residual map (Eq. 8) on the same features, in float32. They are timed in turns, several rounds, and the
median round counts, so that whatever else the machine does touches all alike. Then one trajectory of `--updates` runs
both image by image (fused torch.optim.SGD) and in blocks, and W − W₀ and b − b₀ are compared. `--device cuda` has not
been run yet.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from invariance.maps import OnlineSGD, OnlineSGDState
from invariance.runs.outputs import output_file

SETTINGS = OnlineSGD()


class TorchLoop:
    """torch.optim.SGD stepping after every image."""

    def __init__(self, dim: int, device: str, fused: bool) -> None:
        self.weight = torch.zeros(dim, dim, device=device, requires_grad=True)
        self.bias = torch.zeros(dim, device=device, requires_grad=True)
        self.optimizer = torch.optim.SGD(
            [self.weight, self.bias],
            lr=SETTINGS.rate,
            momentum=SETTINGS.momentum,
            weight_decay=SETTINGS.weight_decay,
            fused=fused,
        )

    def run(self, r: Tensor, t: Tensor) -> None:
        """Images r (N, D), one after another, towards targets t (N, D)."""
        for r_n, t_n in zip(r, t, strict=True):
            z = r_n + torch.addmv(self.bias, self.weight, r_n)
            loss = (z.relu() - t_n).square().sum() / (2 * len(r_n))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


class InPlaceLoop:
    """The same update by hand: no gradient is stored, W and V are changed in place."""

    def __init__(self, dim: int, device: str) -> None:
        self.weight, self.speed = torch.zeros(dim, dim, device=device), torch.zeros(dim, dim, device=device)
        self.bias, self.bias_speed = torch.zeros(dim, device=device), torch.zeros(dim, device=device)

    def run(self, r: Tensor, t: Tensor) -> None:
        """Images r (N, D), one after another, towards targets t (N, D)."""
        s = SETTINGS
        for r_n, t_n in zip(r, t, strict=True):
            z = torch.addmv(self.bias, self.weight, r_n).add_(r_n)
            delta = (z - t_n).mul_(z > 0).div_(len(r_n))
            self.speed.mul_(s.momentum).add_(self.weight, alpha=s.weight_decay).addr_(delta, r_n)
            self.bias_speed.mul_(s.momentum).add_(self.bias, alpha=s.weight_decay).add_(delta)
            self.weight.add_(self.speed, alpha=-s.rate)
            self.bias.add_(self.bias_speed, alpha=-s.rate)


class Blocks:
    """Ours."""

    def __init__(self, dim: int, device: str) -> None:
        self.state = OnlineSGDState(SETTINGS, dim, dim, device=device)

    def run(self, r: Tensor, t: Tensor) -> None:
        """Images r (N, D), one after another, towards targets t (N, D)."""
        for block_r, block_t in zip(r.split(SETTINGS.block), t.split(SETTINGS.block), strict=True):
            self.state.step(block_r.unsqueeze(0), block_t.unsqueeze(0))


class Products:
    """Only the two matrix products that a block of ours takes, same shapes and layouts."""

    def __init__(self, dim: int, device: str) -> None:
        self.weight, self.bias = torch.zeros(1, dim, dim, device=device), torch.zeros(1, 1, dim, device=device)

    def run(self, r: Tensor, t: Tensor) -> None:
        """Images r (N, D), one after another, towards targets t (N, D)."""
        for block_r, block_t in zip(r.split(SETTINGS.block), t.split(SETTINGS.block), strict=True):
            torch.baddbmm(self.bias, block_r.unsqueeze(0), self.weight)
            self.weight.baddbmm_(block_r.T.unsqueeze(0), block_t.unsqueeze(0), beta=0.99)


def features(images: int, dim: int, device: str) -> tuple[Tensor, Tensor]:
    """Two sets of non-negative features (N, D), half of them 0, as a ReLU layer gives."""
    draw = torch.Generator().manual_seed(0)
    r, t = (torch.randn(images, dim, generator=draw).relu_().to(device) for _ in range(2))
    return r, t


def milliseconds(run: Callable[[Tensor, Tensor], None], r: Tensor, t: Tensor, device: str) -> float:
    """Time of one update."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    run(r, t)
    wait()
    return 1e3 * (time.perf_counter() - start) / len(r)


def speeds(dim: int, device: str, rounds: int) -> dict[str, float]:
    """Median ms an update of each way, from rounds in which all take their turn."""
    block = SETTINGS.block
    r, t = features(2 * block, dim, device)
    ways: dict[str, tuple[TorchLoop | InPlaceLoop | Blocks | Products, int]] = {
        "torch_sgd": (TorchLoop(dim, device, fused=False), 4),
        "fused_sgd": (TorchLoop(dim, device, fused=True), 6),
        "in_place": (InPlaceLoop(dim, device), 6),
        "ours": (Blocks(dim, device), 2 * block),
        "two_gemms": (Products(dim, device), 2 * block),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, (way, count) in ways.items():
            spent = milliseconds(way.run, r[:count], t[:count], device)
            if turn:  # the first round warms up
                taken[name].append(spent)
    return {name: statistics.median(values) for name, values in taken.items()}


def relative_error(dim: int, device: str, updates: int) -> float:
    """Largest relative difference (norm) of W − W₀ and b − b₀ between ours and image by image."""
    r, t = features(updates, dim, device)
    loop, ours = TorchLoop(dim, device, fused=True), Blocks(dim, device)
    loop.run(r, t)
    ours.run(r, t)
    weight, bias = ours.state.weights()
    pairs = ((weight[0], loop.weight.detach()), (bias[0], loop.bias.detach()))
    return max(float((found - wanted).norm() / wanted.norm()) for found, wanted in pairs)


def main() -> None:
    """Time, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=4096, help="D, inputs and outputs (default 4096)")
    parser.add_argument("--updates", type=int, default=400, help="updates of the compared trajectory (default 400)")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds (default 7)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=output_file, help="write the figures here as one flat object")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ms = speeds(args.dim, args.device, args.rounds)
    figures = {
        "dim": args.dim,
        "block": SETTINGS.block,
        "threads": args.threads,
        "device": args.device,
        **{f"ms_{name}": value for name, value in ms.items()},
        "speedup_over_torch_sgd": ms["torch_sgd"] / ms["ours"],
        "speedup_over_fused_sgd": ms["fused_sgd"] / ms["ours"],
        "speedup_over_in_place": ms["in_place"] / ms["ours"],
        "share_of_gemm": ms["two_gemms"] / ms["ours"],
        "updates": args.updates,
        "max_relative_error": relative_error(args.dim, args.device, args.updates),
    }
    for name, value in figures.items():
        print(f"{name:24} {value:.4g}" if isinstance(value, float) else f"{name:24} {value}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
