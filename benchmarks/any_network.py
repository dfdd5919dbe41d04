"""Measuring all convolutional layers of ResNet-18 under rotations, against bare passes, tmeasures and double backward.

    python benchmarks/any_network.py [--images 64] [--size 224] [--rounds 1] [--json PATH]
    pip install --no-deps --target there tmeasures==1.2.11 statsmodels patsy    # AGPL: for this comparison alone
    PYTHONPATH=there python benchmarks/any_network.py

Random weights and random images: neither changes a time. All ways see the same images under the same 17 g, one of them
the untouched, each in a process of its own, one after another, round by round; the least time of each counts.

- bare: the forward passes and nothing else, on images that are ready, a batch in memory;
- ours: `measure_model(…, measures=["l2_distance"])` at all 20 convolutional layers, all that they give;
- pooled: the same with `readout="mean"`, and CKA, Procrustes and R² beside;
- tmeasures: its NormalizedVarianceInvariance, the measure that its documentation begins with, at the same layers;
- derivative: `measures=["derivative"]`, all layers from one pass;
- double_backward: the same derivatives as lie-deriv takes them, each layer's by two backward passes.

Ours are whole calls: looking at the layers, the pass that gives the scale, rows and intervals included; imports at a
first call are not. Memory is the process's largest resident size less what it held before the call.

JSON: `times_floor` is the larger of ours and pooled over bare; `speedup_over_tmeasures` and `memory_over_tmeasures` are
of ours; `derivative_passes` is the derivative over bare passes of one g; `growth` is the largest resident size of ours
or pooled, all in all, at four times the images over that at once.
"""

import argparse
import importlib.util
import json
import multiprocessing
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

BATCH = 32
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None] * 255
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None] * 255
ANGLES = [float(angle) for angle in range(-16, 17, 2)]
_UNIT = 1 if sys.platform == "darwin" else 1024


def network() -> nn.Module:
    """ResNet-18 with random weights."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    return resnet18().eval()


def convolutions(module: nn.Module) -> list[str]:
    """The names of its convolutional layers."""
    return [name for name, one in module.named_modules() if isinstance(one, nn.Conv2d)]


def pixels(images: int, size: int) -> Any:  # noqa: ANN401
    """Images (N, 3, size, size), uint8."""
    return np.random.default_rng(0).integers(0, 256, (images, 3, size, size), dtype=np.uint8)


def bare(images: int, size: int) -> Callable[[], None]:
    """Forward passes alone, as many as there are g."""
    module, x = network(), torch.from_numpy(pixels(images, size)).float().sub_(MEAN).div_(STD)

    @torch.no_grad()
    def run() -> None:
        """All passes."""
        for _ in ANGLES:
            for batch in x.split(BATCH):
                module(batch)

    return run


def ours(images: int, size: int, **asked: Any) -> Callable[[], None]:  # noqa: ANN401
    """A measurement at all convolutional layers."""
    import invariance

    model = invariance.wrap(network(), preprocess=lambda x: (x - MEAN) / STD, name="resnet18")
    x, rotation = pixels(images, size), invariance.Rotation(angles=[angle for angle in ANGLES if angle])

    def run() -> None:
        """The call."""
        layers = convolutions(network())
        invariance.measure_model(model, x, transforms={"rotation": rotation}, layers=layers, maps=["identity"], **asked)

    return run


def tmeasures(images: int, size: int) -> Callable[[], None]:
    """Its measure at all convolutional layers."""
    import tmeasures as tm
    from tmeasures.pytorch.transformations.affine import RotationTransformation

    x = torch.from_numpy(pixels(images, size)).float().sub_(MEAN).div_(STD)
    them = tm.pytorch.PyTorchTransformationSet([RotationTransformation(angle / 180) for angle in ANGLES])
    model = tm.pytorch.AutoActivationsModule(network(), filter=lambda one: isinstance(one, nn.Conv2d))
    options = tm.pytorch.PyTorchMeasureOptions(batch_size=BATCH, verbose=False)

    def run() -> None:
        """The measure."""
        tm.pytorch.NormalizedVarianceInvariance().eval(_Images(x), them, model, options)

    return run


class _Images(torch.utils.data.Dataset[Tensor]):
    """Images one by one."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        return self.x[index]


def double_backward(images: int, size: int) -> Callable[[], None]:
    """The derivatives of every layer by two backward passes: ∂(vᵀ J)/∂v t = J t."""
    import invariance

    module, transform = network(), invariance.Rotation(angles=[angle for angle in ANGLES if angle])
    x = torch.from_numpy(pixels(images, size)).float()
    seen: list[Tensor] = []
    for name, one in module.named_modules():
        if name in convolutions(module):
            one.register_forward_hook(lambda _module, _inputs, output: seen.append(output))

    def run() -> None:
        """All layers of all batches."""
        for batch in x.split(BATCH):
            image = ((batch - MEAN) / STD).requires_grad_()
            tangent = transform.tangent(batch) / STD
            seen.clear()
            module(image)
            for output in list(seen):
                v = torch.zeros_like(output, requires_grad=True)
                (back,) = torch.autograd.grad(output, image, v, create_graph=True, retain_graph=True)
                torch.autograd.grad(back, v, tangent)

    return run


WAYS: dict[str, Callable[[int, int], Callable[[], None]]] = {
    "bare": bare,
    "ours": lambda images, size: ours(images, size, readout="flatten", measures=["l2_distance"]),
    "pooled": lambda images, size: ours(
        images, size, readout="mean", measures=["l2_distance", "cka", "procrustes", "r2"]
    ),
    "tmeasures": tmeasures,
    "derivative": lambda images, size: ours(images, size, readout="flatten", measures=["derivative"]),
    "double_backward": double_backward,
}


def once(way: str, images: int, size: int, threads: int) -> tuple[float, float, float]:
    """Seconds of one run, GB of the process at its largest, and GB before the run."""
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore")
    if way != "bare":  # imports that come with the first call
        WAYS[way](2, 32)()
    run = WAYS[way](images, size)
    before, start = resident(), time.perf_counter()
    run()
    taken = time.perf_counter() - start
    return taken, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT / 1e9, before


def resident() -> float:
    """GB that the process holds; where that is not told, the most that it ever held."""
    status = Path("/proc/self/statm")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT / 1e9
    return int(status.read_text().split()[1]) * resource.getpagesize() / 1e9


def apart(way: str, images: int, given: argparse.Namespace) -> tuple[float, float, float]:
    """`once` in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(once, (way, images, given.size, given.threads))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    there = importlib.util.find_spec("tmeasures") is not None
    if not there:
        print("tmeasures is not there, and is left out: see the first lines of this file", file=sys.stderr)
    found: dict[str, list[tuple[float, float, float]]] = {way: [] for way in WAYS if way != "tmeasures" or there}
    for _ in range(given.rounds):
        for way, of_way in found.items():
            of_way.append(apart(way, given.images, given))
    more = {way: apart(way, 4 * given.images, given)[1] for way in ("ours", "pooled")}
    seconds = {way: min(one[0] for one in of_way) for way, of_way in found.items()}
    largest = {way: min(one[1] for one in of_way) for way, of_way in found.items()}
    beyond = {way: min(one[1] - one[2] for one in of_way) for way, of_way in found.items()}
    passes = seconds["bare"] / len(ANGLES)
    figures = {
        "times_floor": max(seconds["ours"], seconds["pooled"]) / seconds["bare"],
        "derivative_passes": seconds["derivative"] / passes,
        "double_backward_passes": seconds["double_backward"] / passes,
        "growth": max(more[way] / largest[way] for way in more),
    }
    if there:
        figures["speedup_over_tmeasures"] = seconds["tmeasures"] / seconds["ours"]
        figures["memory_over_tmeasures"] = beyond["ours"] / beyond["tmeasures"]
    print(f"ResNet-18, {given.images} images of {given.size} × {given.size}, {len(ANGLES)} g of rotation")
    print(f"{'':16}{'seconds':>10}{'over bare':>11}{'peak GB':>9}{'beyond':>8}{f'peak GB at {4 * given.images}':>17}")
    for way, taken in seconds.items():
        at_four = f"{more[way]:.2f}" if way in more else ""
        print(f"{way:16}{taken:10.1f}{taken / seconds['bare']:11.2f}{largest[way]:9.2f}{beyond[way]:8.2f}{at_four:>17}")
    print(", ".join(f"{name} {value:.3g}" for name, value in figures.items()))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
