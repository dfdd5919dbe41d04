"""Whether what a GPU computes is right: checks that run on a CPU, too, at toy size, where they say anything there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from gpu_rows import Check, Row, Scale
from measure import composed
from online_sgd import relative_error
from photos import family_at_its_largest
from torch import Tensor
from torch.nn import functional

from invariance.data.packing import Mover, PackedBatch, pack
from invariance.device import full_float32, training_arithmetic
from invariance.experiments.train import train
from invariance.maps import SOLVERS, OnlineSGD, OnlineSGDState, Solver, begin_fit, solver_named
from invariance.settings.files import families, paper_families
from invariance.training.beside import snapshot
from invariance.training.classifier import Classifier
from invariance.transforms import build
from invariance.transforms.tabled import tabled

UPDATES, SPAN = 30, 10
TINY = ("data=digits", "model=tiny", "recipe=smoke", "logger=csv", "progress=false", "transform=rotation", "range=20")
RECIPE = (f"recipe.updates={UPDATES}", f"recipe.val_every={SPAN}")


def off(found: Tensor, wanted: Tensor) -> float:
    """How far one is from the other, as a share of its norm, in float64 on the CPU."""
    found, wanted = found.detach().cpu().double(), wanted.detach().cpu().double()
    return float((found - wanted).norm() / wanted.norm())


def precision(check: Check, at: Scale) -> Iterator[Row]:
    """Products and convolutions of 1,024 terms against float64: TF32 would be off by 3e-4."""
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 1024, generator=draw) for _ in range(2))
    x, kernel = torch.randn(8, 64, 24, 21, generator=draw), torch.randn(32, 64, 4, 4, generator=draw)

    def errors() -> tuple[float, float]:
        """Of the product and of the convolution."""
        product = a.to(at.device) @ b.to(at.device).T
        convolution = functional.conv2d(x.to(at.device), kernel.to(at.device))
        return off(product, a.double() @ b.double().T), off(convolution, functional.conv2d(x.double(), kernel.double()))

    for name, entered in (
        ("full_float32", full_float32(at.device)),
        ("32-true", training_arithmetic(at.device, "32-true", False)),
        ("deterministic", training_arithmetic(at.device, "32-true", True)),
    ):
        with entered, torch.backends.cudnn.flags(enabled=True, allow_tf32=torch.backends.cudnn.allow_tf32):
            for kind, error in zip(("product", "convolution"), errors(), strict=True):
                yield check.at_most(f"{name}_{kind}", error, 2e-5)
    if at.gpu:
        with training_arithmetic(at.device, "tf32", False):
            yield check.told("tf32_convolution", errors()[1], "")


def solvers(check: Check, at: Scale) -> Iterator[Row]:
    """Every solver on the device against itself on the CPU; online SGD against torch.optim.SGD, image by image."""
    count = 128 if at.gpu else 64
    yield check.at_most("image_by_image", relative_error(at.dim, at.device.type, count), 1e-4)

    def compared(name: str) -> Row:
        """A solver's largest deviation."""
        if not at.gpu:
            return check.not_run(name, "without a GPU there is nothing to compare with")
        one = solver_named(name)()
        ours, theirs = (fitted(one, at, device) for device in (at.device, torch.device("cpu")))
        return check.at_most(name, max(off(ours[key], theirs[key]) for key in theirs), 1e-3)

    yield from check.each(SOLVERS, compared)


def features(at: Scale, images: int, problems: int = 1) -> tuple[Tensor, Tensor]:
    """Inputs (problems, images, D) and targets (1, images, D), as a ReLU layer gives them, on the CPU."""
    draw = torch.Generator().manual_seed(1)
    dim = min(at.dim, 512)  # against a CPU, which fits D = 4096 in minutes
    r, t = (torch.randn(n, images, dim, generator=draw).relu_() for n in (problems, 1))
    return r, t


def fitted(solver: Solver, at: Scale, device: torch.device, spoil: bool = False) -> dict[str, Tensor]:
    """The parameters that a solver fits in one pass; `spoil`: with one number of the inputs that is none."""
    r, t = features(at, at.images)
    if spoil:
        r[0, 5, 3] = torch.nan
    fit = begin_fit(solver, solver.fits[0], r.shape[2], t.shape[2], at.images, device=device)
    for start in range(0, at.images, fit.block):
        fit.step(*(one[:, start : start + fit.block].to(device) for one in (r, t)))
    return fit.finish()


def nan(check: Check, at: Scale) -> Iterator[Row]:
    """One number of the inputs that is none: what is fitted to it must not look like a fit."""

    def spoilt(name: str) -> Row:
        """Whether the fit tells."""
        try:
            held = fitted(solver_named(name)(), at, at.device, spoil=True)
        except (RuntimeError, ValueError) as error:  # a decomposition refuses, or our own line
            return check.holds(name, "nan" in str(error).lower() or "finite" in str(error), str(error))
        finite = all(bool(torch.isfinite(one).all()) for one in held.values())
        return check.holds(name, not finite, "a fit to NaN came out finite")

    yield from check.each(SOLVERS, spoilt)


def transformations(check: Check, at: Scale) -> Iterator[Row]:
    """Every family at its largest, at its last g and as training draws it, against float64 on the CPU; of [0, 255]."""

    def compared(name: str) -> Row:
        """The largest deviation of an intensity."""
        transform = build(family_at_its_largest(name))
        side, draw = transform.source_size(at.size), torch.Generator().manual_seed(2)
        rough = torch.rand(4, 3, 12, 12, generator=draw) * 255
        x = functional.interpolate(rough, (side, side), mode="bilinear").round()
        drawn, on = transform.sample(4, torch.Generator().manual_seed(3)), x.to(at.device)
        several = [(transform.apply(on, one), one) for one in (transform.grid()[-1].params, drawn)]
        if (family := tabled(transform)) is not None:  # as training has it: what it needs came with the batch
            tables = {name: table.to(at.device) for name, table in family.tables(drawn, x.shape[1:]).items()}
            several.append((family.ready(tables, on)(on), drawn))
        far = [float((gx.cpu() - transform.apply(x.double(), one)).abs().max()) for gx, one in several]
        return check.at_most(name, max(far), 0.05)

    yield from check.each(families() if at.gpu else paper_families(), compared)


def resident(check: Check, at: Scale) -> Iterator[Row]:
    """Maps of 17 g at once on the device against one by one, and the memory that they take at their peak."""
    settings, g, images = OnlineSGD(), 17, OnlineSGD().block
    draw = torch.Generator().manual_seed(4)
    r = torch.randn(g, images, at.dim, generator=draw).relu_().to(at.device)
    t = torch.randn(1, images, at.dim, generator=draw).relu_().to(at.device)
    if at.gpu:
        torch.cuda.reset_peak_memory_stats()
    together = OnlineSGDState(settings, at.dim, at.dim, g, device=at.device)
    together.step(r, t)
    weight, bias = together.weights()
    if at.gpu:
        yield check.told("peak", torch.cuda.max_memory_allocated() / 1e9, "GB")
    far = 0.0
    for j in (0, g // 2, g - 1):
        alone = OnlineSGDState(settings, at.dim, at.dim, device=at.device)
        alone.step(r[j : j + 1], t)
        far = max(far, *(off(ours[j], one[0]) for ours, one in zip((weight, bias), alone.weights(), strict=True)))
    yield check.at_most("against_one_by_one", far, 1e-5)


def trained(at: Scale, where: Path, *more: str, stop: int | None = None) -> Path:
    """The folder of a tiny network trained by the command's own function; `stop`: interrupted at that update."""
    accelerator = f"trainer.accelerator={'gpu' if at.gpu else 'cpu'}"
    config = composed("train", *TINY, *RECIPE, f"runs={where}", f"prepared={where.parent}/prepared", accelerator, *more)
    step = Classifier.training_step

    def interrupted(self: Classifier, batch: Any, batch_idx: int) -> Tensor:  # noqa: ANN401
        """The step, or the interruption."""
        if self.global_step == stop:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    Classifier.training_step = interrupted  # type: ignore[method-assign]
    try:
        train(config)
    except KeyboardInterrupt:
        if stop is None:
            raise
    finally:
        Classifier.training_step = step  # type: ignore[method-assign]
    return where / "train" / "digits" / config["name"] / "seed0"


def untrained(*more: str) -> Classifier:
    """The network of `trained` before any update; compiled, it has other dropout masks, and is best without."""
    config = composed("train", *TINY, *more)
    classes = [str(number) for number in range(10)]
    return Classifier(config["model"], config["transform"], config["recipe"], classes, 1, [0.0], config["seed"])


def weights(folder: Path) -> dict[str, Tensor]:
    """The last weights of a training."""
    held = torch.load(folder / "last.ckpt", map_location="cpu", weights_only=True)
    return {str(key): value for key, value in held["state_dict"].items()}


def resume(check: Check, at: Scale) -> Iterator[Row]:
    """A training that was interrupted within its last span and went on, against one that was not: equal bits."""
    with tempfile.TemporaryDirectory() as temporary:
        where, same = Path(temporary), ("trainer.deterministic=true",)
        whole = trained(at, where / "whole", *same)
        trained(at, where / "stopped", *same, stop=UPDATES - SPAN // 2)
        again = trained(at, where / "stopped", *same)
        ours, theirs = weights(again), weights(whole)
        different = [key for key in theirs if not torch.equal(ours[key], theirs[key])]
        yield check.holds("weights", not different, f"other weights: {', '.join(different)}")
        rows = [(folder / "rows.csv").read_bytes() for folder in (whole, again)]
        yield check.holds("rows", rows[0] == rows[1], "other rows")


def steps(check: Check, at: Scale) -> Iterator[Row]:
    """What the first update of the command's own training changes of the weights, in every form, against plain float32.

    Of one update alone, for rounding chooses among equals that are pooled, and later updates make that large.
    """
    forms: dict[str, tuple[float, tuple[str, ...]]] = {
        "channels_last": (1e-2, ("trainer.channels_last=true",)),
        "bf16": (0.25, ("trainer.precision=bf16-mixed",)),
        "tf32": (5e-2, ("trainer.precision=tf32",)),
        "compiled": (1e-2, ("trainer.compile=true",)),
        "gpu_yaml": (0.25, ("trainer.precision=bf16-mixed", "trainer.channels_last=true", "trainer.compile=true")),
    }
    with tempfile.TemporaryDirectory() as temporary:
        where, few = Path(temporary), ("model.dropout=0", "recipe.updates=1", "recipe.val_every=1")
        plain, begun = weights(trained(at, where / "plain", *few)), untrained(*few).state_dict()

        def change(now: dict[str, Tensor]) -> Tensor:
            """From the initial weights, in a row."""
            return torch.cat([(now[key] - begun[key]).flatten() for key in begun])

        def compared(form: str) -> Row:
            """How far its weights are off."""
            most, keys = forms[form]
            if not at.gpu and "compile" in "".join(keys):
                return check.not_run(form, "compiling for a CPU takes a minute; tests/test_compiled.py does")
            if not at.gpu and form == "tf32":
                return check.not_run(form, "a CPU has no TF32")
            return check.at_most(
                form, off(change(weights(trained(at, where / form, *few, *keys))), change(plain)), most
            )

        yield from check.each(forms, compared)


def copies(check: Check, at: Scale) -> Iterator[Row]:
    """Batches that come on a stream of their own while the device computes, and a state saved while it goes on."""
    mover, sums, wanted = Mover(), [], []
    large = torch.randn(2048 if at.gpu else 64, 2048, device=at.device)
    for k in range(20):
        buffer, layout = pack({"x": torch.full((64, 1, 64, 64), k, dtype=torch.uint8), "y": torch.zeros(64)})
        x, _ = mover.move(PackedBatch(buffer.pin_memory() if at.gpu else buffer, layout, drawn=False), at.device)
        large = large @ large.mT @ large * 1e-6
        sums.append(x.long().sum())
        wanted.append(64**3 * k)
        del buffer, x
    yield check.holds("batches", [int(one) for one in sums] == wanted, "a batch arrived as another")
    value = torch.arange(1e6, device=at.device)
    state = {"state": {"a": value, "b": value.half()}, "n": 3}
    held = snapshot(state)
    value.mul_(-1)
    right = torch.equal(held["state"]["a"], torch.arange(1e6)) and not held["state"]["b"].is_cuda
    yield check.holds("state", right, "a state that was saved changed afterwards")


NUMBERS = (
    Check("precision", "products and convolutions against float64", "≤ 2e-05", precision),
    Check("solver", "solvers against the CPU, online SGD against torch.optim.SGD", "≤ 1e-3", solvers),
    Check("nan", "a fit to inputs with a NaN does not look like one", "= 1", nan),
    Check("transform", "families on the device against float64 on the CPU", "≤ 0.05 of 255", transformations),
    Check("resident", "maps of 17 g at once against one by one", "≤ 1e-05", resident),
    Check("copy", "a stream for batches, states saved beside the training", "= 1", copies),
)
TRAINING = (
    Check("resume", "interrupted and continued, against undisturbed, to the bit", "= 1", resume),
    Check("step", "trainings in bfloat16, compiled, channels last, against float32", "≤ 0.01, in bfloat16 0.25", steps),
)
