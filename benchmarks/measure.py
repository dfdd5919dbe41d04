"""Measuring a network over a grid against its bare forward passes and its solvers' bare matrix products.

    python benchmarks/measure.py [--g 2] [--images 256] [--dim 4096] [--json PATH]
    python benchmarks/measure.py --dim 1024 --images 1024 --size 67 --solvers online_sgd ridge
    python benchmarks/measure.py --g 16 --images 50000 --memory-gb 60 --device cuda --solvers online_sgd ridge

What is measured is `invariance.experiments.measure_trained.measure_grid` as the command runs it, on a network and
photographs of this machine's own making: prepared data, features under every g, the identity and fitted maps, scores,
bootstrap, rows. The network is the full CaffeNet with its initial weights: training changes no time. Its parts, timed
in the same rounds:

- forward: φ on batches of the same photographs that lie ready and normalised, as many images as there are g, with the
  untouched one (a network takes longer for some numbers than for others);
- solver: of online SGD the two products of every block, with the shapes and layouts that the fit has; of ridge the
  Gram and cross products in float64, one decomposition, the products that choose a strength, one solution;
- control: of ridge the unseen-class control, six maps of half the classes beside each, timed within the whole.

Every time is the least of its rounds, in which all take their turn after a round of warming up, so that whatever else
the machine does counts least. `share_forward`, `share_solver` and `share_control` are parts of the whole, and
`share_other` is the rest: reading, transforms, copies, the solver beside its products, scores, bootstrap, writing.

All but a constant part grows with g × images, for ridge with g × D³ too, so that shares at 2 g and 256 images are near
those at 16 g and 50,000, where forward passes and products are 17 / 3 × 195 times as many; --g 16 --images 50000
measures that itself. `--device cuda` has not been run yet.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from photos import folder_of
from rich.console import Console
from rich.table import Table

from invariance.cli.command import find_plugins
from invariance.data.prepared import Prepared, prepare
from invariance.device import full_float32, keep_freed
from invariance.engine.control import Control
from invariance.engine.grids import Grid, grids_for
from invariance.experiments.measure_trained import measure_grid
from invariance.maps import OnlineSGD, Ridge
from invariance.maps.spec import maps_of
from invariance.runs.outputs import output_file
from invariance.runs.rows import to_frame
from invariance.runs.run import BEST, Run
from invariance.settings.files import conf_dir
from invariance.training.classifier import Classifier
from invariance.training.saving import AtomicCheckpointIO
from invariance.training.trained import Network

PHOTOS = 512
SOLVERS = ("online_sgd", "ridge")
_FLOOR = 1e-3


def composed(page: str, *overrides: str) -> dict[str, Any]:
    """A page's configuration as its command line makes it."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        plain = OmegaConf.to_container(compose(page, overrides=list(overrides)), resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def photographs(images: int, where: Path) -> Path:
    """A folder of two classes' photographs, half of them to fit on and half to report on; of a few hundred contents."""
    made = folder_of(None, min(PHOTOS, 2 * images), where / "made") / "train"
    files = sorted(made.glob("*/*.jpg"))
    for split in ("train", "val"):
        for k in range(images):
            source = files[(2 * k + (split == "val")) % len(files)]
            target = where / "photos" / split / source.parent.name / f"{k:06}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(source, target)
    for name in {path.parent.name for path in files}:
        for split in ("train", "val"):
            (where / "photos" / split / name).mkdir(exist_ok=True)
    return where / "photos"


def untrained(where: Path, given: argparse.Namespace) -> Network:
    """A network with its initial weights, in a run directory as training leaves one."""
    folder = photographs(given.images, where)
    config = composed(
        "train",
        "data=folder",
        f"data.root={folder}",
        "data.name=photos",
        "recipe=folder",
        "model=caffenet",
        f"model.features={given.dim}",
        f"model.input_size={given.size}",
    )
    prepared = prepare(config["data"], given.size, where / "prepared", progress=False)
    classifier = Classifier(
        model=config["model"],
        transform=config["transform"],
        recipe=config["recipe"],
        classes=[str(number) for number in range(1000)],
        channels=prepared.channels,
        mean=prepared.mean,
        seed=0,
    )
    identity = {key: config[key] for key in ("name", "seed", "model", "recipe", "transform")}
    identity["data"] = {"name": prepared.name, "sha256": prepared.sha256}
    run = Run(where / "runs", "train/photos/baseline/seed0", identity)
    with run:
        run.record({"data": config["data"]})
        held = {"state_dict": classifier.state_dict(), "hyper_parameters": dict(classifier.hparams), "global_step": 0}
        AtomicCheckpointIO().save_checkpoint(held, run.directory / BEST)
        run.finish(to_frame([]))
    return Network(where / "runs", run.directory, layer="relu7", accelerator=given.device)


def grid_of(network: Network, g: int) -> Grid:
    """So many rotations, and the untouched."""
    angles = [angle for k in range(1, (g + 1) // 2 + 1) for angle in (-45 * k / (g // 2 or 1), 45 * k / (g // 2 or 1))]
    return grids_for(network.transform, ["rotation"], {"rotation": {"angles": angles[:g]}})[0]


class Parts:
    """The bare parts of a measurement.

    Args:
        network: the network.
        prepared: the photographs.
        points: how many g, with the untouched.
        solvers: settings of the solvers.
        given: the arguments.
    """

    def __init__(
        self, network: Network, prepared: Prepared, points: int, solvers: Sequence[Any], given: argparse.Namespace
    ) -> None:
        self.network, self.points, self.given, self.device = network, points, given, network.device
        draw = torch.Generator().manual_seed(0)
        images, batch = prepared.split("val").images, np.arange(given.batch)
        places = [(batch + k * given.batch) % len(images) for k in range(2)]
        self.ready = [
            network.classifier.normalise(torch.from_numpy(images[part]).to(self.device).float()) for part in places
        ]
        self.solvers = solvers
        self.r, self.t = (
            torch.randn(points, given.block, given.dim, generator=draw).relu_().to(self.device) for _ in range(2)
        )

    def forward(self) -> None:
        """φ of as many images as there are to be measured, untouched or under a g, on both splits."""
        for _ in range(2 * self.points):
            for start in range(0, self.given.images, self.given.batch):
                size = min(self.given.batch, self.given.images - start)
                self.network.phi.phi(self.ready[start // self.given.batch % 2][:size])

    def solver(self) -> None:
        """The products of every solver."""
        with full_float32(self.device):
            for one in self.solvers:
                (self._online_sgd if isinstance(one, OnlineSGD) else self._ridge)(one)

    def _blocks(self, size: int) -> list[int]:
        n = self.given.images
        return [min(size, n - start) for start in range(0, n, size)]

    def _online_sgd(self, settings: OnlineSGD) -> None:
        weight = torch.zeros(self.points, self.given.dim, self.given.dim, device=self.device)
        bias = torch.zeros(self.points, 1, self.given.dim, device=self.device)
        for _ in range(settings.epochs):
            for size in self._blocks(settings.block):
                r, t = self.r[:, :size], self.t[:, :size]
                torch.baddbmm(bias, r, weight)
                weight.baddbmm_(r.mT, t, beta=0.99)

    def _ridge(self, settings: Ridge) -> None:
        for j in range(self.points):
            gram, cross = (
                torch.zeros(self.given.dim, self.given.dim, dtype=torch.float64, device=self.device) for _ in range(2)
            )
            wide_r, wide_t = self.r[j].double(), self.t[j].double()
            for size in self._blocks(len(wide_r)):
                gram.addmm_(wide_r[:size].T, wide_r[:size])
                cross.addmm_(wide_r[:size].T, wide_t[:size])
            gram.diagonal().add_(_FLOOR * gram.diagonal().mean())
            _, vectors = torch.linalg.eigh(gram)
            loads = (vectors.T @ cross).float()
            for _ in settings.strengths:
                for size in self._blocks(len(wide_r)):
                    held_out = self.r[j, : round(settings.held_out * size)]
                    torch.addmm(held_out, held_out, loads)
            factor, _ = torch.linalg.cholesky_ex(gram)
            torch.cholesky_solve(cross, factor)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, all that the device was given to do included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def timed_control(device: torch.device) -> list[float]:
    """A list to which every call of the unseen-class control from now on adds its seconds."""
    taken: list[float] = []
    measure = Control.measure

    def timed(*arguments: Any) -> Any:  # noqa: ANN401
        """Measure, and take the time."""
        made = []
        taken.append(seconds(lambda: made.append(measure(*arguments)), device))
        return made[0]

    Control.measure = timed  # type: ignore[method-assign]
    return taken


def measured(network: Network, grid: Grid, fits: list[Any], config: dict[str, Any]) -> None:
    """The whole measurement, from nothing.

    Raises:
        SystemExit: if a fit diverged: its images would be scored another way.
    """
    folder = network.runs / "measure"
    shutil.rmtree(folder, ignore_errors=True)
    measure_grid(network, grid, fits, config)
    told = [line.split(",")[1] for path in folder.glob("**/fits.csv") for line in path.read_text().splitlines()[1:]]
    if set(told) - {"ok"}:
        raise SystemExit(f"error: {len(told) - told.count('ok')} of {len(told)} fits diverged; give a smaller --rate")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--g", type=int, default=2, help="transformations beside the untouched")
    parser.add_argument("--images", type=int, default=256, help="images to fit on, and as many to report on")
    parser.add_argument("--dim", type=int, default=4096)
    parser.add_argument("--size", type=int, default=227)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=["online_sgd"])
    parser.add_argument("--rate", type=float, default=0.01, help="of online SGD; changes no time")
    parser.add_argument("--memory-gb", type=float, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=output_file)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed()
    find_plugins()
    with tempfile.TemporaryDirectory() as temporary:
        figures = compare(Path(temporary), given)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


def compare(where: Path, given: argparse.Namespace) -> dict[str, Any]:
    """All rounds, printed; the figures."""
    network = untrained(where, given)
    solvers = [f"solver=[{','.join(given.solvers)}]"]
    solvers += [f"solver.online_sgd.rate={given.rate}"] if "online_sgd" in given.solvers else []
    config = composed(
        "measure",
        f"prepared={where / 'prepared'}",
        "logger=csv",
        "progress=false",
        "metrics=[error_rate,l2_distance]",
        f"batch={given.batch}",
        f"memory_gb={given.memory_gb}",
        *solvers,
    )
    fits, grid = maps_of(config["map"], config["solver"]), grid_of(network, given.g)
    settings = [fit.settings for fit in fits if fit.settings is not None]
    given.block = max(one.block for one in settings)
    prepared = network.data(given.size, where / "prepared", progress=False)
    parts = Parts(network, prepared, len(grid.transform.grid()), settings, given)
    ways: dict[str, Callable[[], None]] = {
        "total": lambda: measured(network, grid, fits, config),
        "forward": parts.forward,
        "solver": parts.solver,
    }
    measured(network, grid_of(network, 1), fits, config)  # imports and first allocations, seconds of what takes hours
    network.phi.phi(parts.ready[0])
    taken: dict[str, list[float]] = {name: [] for name in (*ways, "control")}
    controls = timed_control(network.device)
    for _ in range(given.rounds):
        for name, work in ways.items():
            taken[name].append(seconds(work, network.device))
        taken["control"].append(sum(controls))
        controls.clear()
    s = {name: min(times) for name, times in taken.items()}
    shares = {f"share_{name}": s[name] / s["total"] for name in ("forward", "solver", "control")}
    shares["share_other"] = 1 - sum(shares.values())
    table = Table("", "seconds", "share", title=f"{given.g} g, {given.images} + {given.images} images, D = {given.dim}")
    for name in ("forward", "solver", "control"):
        table.add_row(name, f"{s[name]:.2f}", f"{shares[f'share_{name}']:.1%}")
    table.add_row("other", f"{s['total'] * shares['share_other']:.2f}", f"{shares['share_other']:.1%}")
    table.add_row("measuring", f"{s['total']:.2f}", "")
    Console().print(table)
    print(
        f"{', '.join(given.solvers)}; {given.size} pixels, least of {given.rounds} rounds on {given.device}, "
        f"{given.threads} threads, torch {torch.__version__}"
    )
    return {
        **{name: round(value, 4) for name, value in shares.items()},
        **{f"seconds_{name}": round(value, 3) for name, value in s.items()},
        "seconds": round(s["total"], 3),
        "n": given.images,
        "g": given.g,
        "dim": given.dim,
        "size": given.size,
        "rounds": given.rounds,
        "solvers": "+".join(given.solvers),
        "threads": given.threads,
        "device": given.device,
    }


if __name__ == "__main__":
    main()
