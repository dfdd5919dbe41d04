"""Fitting all maps of a network in one go (Eq. 2, 4, 8): blocks of images, fed to a solver by Lightning."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.callbacks import Callback
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from invariance.errors import UserError
from invariance.maps import (
    FitState,
    FittedMaps,
    Solver,
    begin_fit,
    fit_status,
    map_named,
    never_negative,
    order,
    solvers_of,
)

_TELL_EVERY = 20
_CHUNK = 4096
Features = Tensor | Sequence[Tensor]
"""J sets of features of the same N images: (J, N, D), or J tensors (N, D), which are never copied together."""
Targets = Tensor | Sequence[Tensor]
"""Targets of the same N images: (N, D_out), or K tensors (N, D_out / K), stacked a block at a time."""


class MapFit(pl.LightningModule):
    """Fits J maps (times the targets stacked along the outputs), one block of images a training step.

    The solver does its own optimisation, so Lightning's is manual. `fitted` holds the parameters after training.

    Args:
        solver: settings of the solver.
        kind: the map, as `MAPS` names it, with its rank if it has one.
        inputs: D_in.
        outputs: D_out, all stacked targets together.
        images: N, the fit images of an epoch.
        problems: J, fits with inputs of their own.
        stacked: targets stacked along the outputs.
        relu: whether σ of each stacked target is the ReLU; empty where all are.
        device: where the fits run, and Lightning too.
    """

    def __init__(
        self,
        solver: Solver,
        kind: str,
        inputs: int,
        outputs: int,
        images: int,
        problems: int = 1,
        stacked: int = 1,
        relu: Sequence[bool] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        sizes = {"problems": problems, "stacked": stacked}
        self.fit = begin_fit(solver, kind, inputs, outputs, images, **sizes, relu=relu, device=device)
        self.fitted: dict[str, Tensor] = {}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Take in a block: r (J, B, D_in), t (J, B, D_out) or (1, B, D_out)."""
        self.fit.step(*batch)

    def on_train_end(self) -> None:
        """Keep what was fitted."""
        self.fitted = self.fit.finish()

    def configure_optimizers(self) -> None:
        """None of Lightning's."""


class BlockSampler(Sampler[Tensor]):
    """Blocks of image indices in the order that (seed, epoch) give. Lightning announces the epoch before each."""

    def __init__(self, images: int, block: int, seed: int) -> None:
        self.images, self.block, self.seed, self.epoch = images, block, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Tensor]:
        yield from torch.split(order(self.images, self.seed, self.epoch), self.block)

    def __len__(self) -> int:
        return -(-self.images // self.block)


class PairedFeatures(Dataset[tuple[Tensor, Tensor]]):
    """Blocks (r (J, B, D_in), t (1, B, D_out)) gathered from features that stay where they are."""

    def __init__(self, features: Features, targets: Sequence[Tensor]) -> None:
        self.features, self.targets = features, targets
        self._devices = {one.device for one in (*features, *targets)}

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        on = {device: index.to(device) for device in self._devices}  # to be copied once, and not for every tensor
        r = torch.stack([one[on[one.device]] for one in self.features])
        if len(self.targets) == 1:
            t = self.targets[0][on[self.targets[0].device]]
        else:  # each gathered to its place: what is stacked may be a hundred times as much as r
            first = self.targets[0]
            t = first.new_empty(len(index), sum(one.shape[1] for one in self.targets))
            widths = [one.shape[1] for one in self.targets]
            for place, one in zip(torch.split(t, widths, dim=1), self.targets, strict=True):
                torch.index_select(one, 0, on[one.device], out=place)
        return r.to(torch.float32), t.unsqueeze(0).to(torch.float32)


def fit_maps(
    features: Features,
    targets: Targets,
    map: str,
    solver: Solver | None,
    *,
    stacked: int | None = None,
    relu: Sequence[bool] = (),
    device: torch.device | str = "cpu",
    progress: bool | Progress = False,
) -> FittedMaps:
    """Fit map(features[j]) ≈ targets for every j, all in one go.

    Args:
        features: (J, N, D_in), or J tensors (N, D_in), of the fit images; on any device, float.
        targets: (N, D_out), shared by all j, several targets side by side if `stacked` says so; or K tensors (N, D),
            which are never copied together.
        map: identity, residual, low_rank:k, orthogonal, linear or mlp.
        solver: settings of a solver that can fit it; None for the identity.
        stacked: K, how many targets stand side by side in a tensor; None: 1, or as many as there are tensors. Fit j of
            target k is number j · K + k in what is returned.
        relu: whether σ of each target is the ReLU. Empty: where no number of the target is below 0; of linear maps for
            all.
        device: where to fit.
        progress: whether to show a bar of its own, or the display to which to add one.

    Returns:
        J · K fitted maps on the CPU, each with its squared error over the fit images and status.

    Raises:
        UserError: if the solver cannot fit that kind of map, or there is none; for shapes that do not belong
            together; or for `relu` that is not one a target, or of the identity.

    Example:
        >>> from invariance.maps import Ridge
        >>> r = torch.rand(200, 4, generator=torch.Generator().manual_seed(0))  # φ(x) of 200 images
        >>> fitted = fit_maps(r.flip(1)[None], r, "linear", Ridge())  # from φ(gx), here its features in reverse
        >>> float((fitted.apply(0, r.flip(1)) - r).abs().max()) < 0.001
        True
    """
    each = _each(targets, stacked)
    stacked = len(each)
    _check_shapes(features, each)
    _check_map(map, features, each, relu)
    relu = relu or _sigma(map, each)
    if map == "identity":
        parameters: dict[str, Tensor] = {}
        label, strengths = "", []
    elif solver is None:
        able = " or ".join(solvers_of(map))
        raise UserError(f"solver=None cannot fit map={map!r}: give the settings of {able}")
    else:
        module = _fitted(features, each, map, solver, relu, torch.device(device), progress)
        parameters = {
            name: torch.unflatten(value, 1, (stacked, value.shape[1] // stacked)).flatten(0, 1).cpu()
            for name, value in module.fitted.items()
        }
        label, strengths = solver.label, [one for row in module.fit.strengths for one in row]
    maps = FittedMaps(map, label, parameters, (), torch.empty(0), torch.empty(0), strengths, list(relu) * len(features))
    return _judge(features, each, maps, torch.device(device))


def _each(targets: Targets, stacked: int | None) -> Sequence[Tensor]:
    """The targets one by one."""
    if not isinstance(targets, Tensor):
        if stacked is None or stacked == len(targets):
            return targets
        raise UserError(f"stacked={stacked}, but there are {len(targets)} targets")
    if stacked is None or targets.ndim != 2:
        return [targets]
    if stacked < 1 or targets.shape[1] % stacked:
        raise UserError(f"stacked={stacked}: targets of {targets.shape[1]} features are not as many of one size")
    return targets.chunk(stacked, dim=1)


def _check_shapes(features: Features, targets: Sequence[Tensor]) -> None:
    """Refuse what is not two-dimensional and of the same images, the features alike and the targets alike."""
    shapes, wanted = {tuple(one.shape) for one in features}, {tuple(one.shape) for one in targets}
    both = shapes | wanted
    alike = len(shapes) == len(wanted) == 1 and {len(shape) for shape in both} == {2}
    if not alike or len({shape[0] for shape in both}) != 1 or not len(targets[0]):
        raise UserError(f"features {sorted(shapes)} and targets {sorted(wanted)} are not of the same images")


def _sigma(map: str, targets: Sequence[Tensor]) -> list[bool]:
    """Whether σ of each target is the ReLU, where nobody said; empty of the identity, and of linear maps: all are."""
    if map == "identity" or not map_named(map).residual:
        return []
    return [never_negative(one) for one in targets]


def _check_map(map: str, features: Features, targets: Sequence[Tensor], relu: Sequence[bool]) -> None:
    """Refuse `relu` that is not one a target, or of the identity, and an identity between spaces of different size."""
    if relu and (map == "identity" or len(relu) != len(targets)):
        raise UserError(
            f"relu={list(relu)} is for fitted maps, one for each of {len(targets)} targets, not for map={map}"
        )
    if map == "identity" and targets[0].shape[1] != features[0].shape[1]:
        raise UserError(f"map=identity takes {features[0].shape[1]} features to as many, not {targets[0].shape[1]}")


@torch.no_grad()
def _judge(features: Features, targets: Sequence[Tensor], maps: FittedMaps, device: torch.device) -> FittedMaps:
    """Run every map over the fit images once and say how it did."""
    count, images = len(features) * len(targets), len(targets[0])
    error, reference, scale = (torch.zeros(count, dtype=torch.float64) for _ in range(3))
    for f in range(count):
        j, k = divmod(f, len(targets))
        module = maps.module(f).to(device)
        centre = None if map_named(maps.kind).residual else _mean(targets[k])
        for start in range(0, images, _CHUNK):
            rows = slice(start, start + _CHUNK)
            r, t = (one[rows].to(device, torch.float32) for one in (features[j], targets[k]))
            plain = r if centre is None else centre.to(r)
            for total, difference in ((error, module(r) - t), (reference, plain - t), (scale, t)):
                total[f] += torch.linalg.vector_norm(difference, dim=1).double().square().sum().cpu() / images
    return replace(maps, status=fit_status(error, reference, scale), error=error, reference=reference)


def _mean(target: Tensor) -> Tensor:
    """Mean (D,) of a target over its images, in float64."""
    parts = [part.sum(0, dtype=torch.float64) for part in torch.split(target, _CHUNK)]
    return torch.stack(parts).sum(0) / len(target)


def _fitted(
    features: Features,
    targets: Sequence[Tensor],
    map: str,
    solver: Solver,
    relu: Sequence[bool],
    device: torch.device,
    progress: bool | Progress,
) -> MapFit:
    """The fit of every map, to its end."""
    inputs, outputs, images = features[0].shape[1], sum(one.shape[1] for one in targets), len(targets[0])
    gpu = device.type == "cuda"
    device = torch.device("cuda", device.index or 0) if gpu else torch.device("cpu")
    module = MapFit(solver, map, inputs, outputs, images, len(features), len(targets), relu, device)
    sampler = BlockSampler(images, module.fit.block, solver.seed)
    loader = DataLoader(PairedFeatures(features, targets), sampler=sampler, batch_size=None)
    callbacks: list[Callback] = []
    if progress is not False:
        callbacks.append(_Bar(module.fit, progress if isinstance(progress, Progress) else None))
    with _quiet():
        trainer = pl.Trainer(
            accelerator="gpu" if gpu else "cpu",
            devices=[device.index] if gpu else 1,
            max_epochs=module.fit.epochs,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            plugins=[LightningEnvironment()],
        )
        try:
            trainer.fit(module, loader)
        except SystemExit as error:  # how Lightning ends on SIGINT, and on SIGTERM even with status 0
            raise KeyboardInterrupt from error
    return module


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's lines on devices and loader workers, which a page that fits many maps would repeat."""
    packages = ("pytorch_lightning", "lightning_fabric")
    loggers = [logging.getLogger(f"{package}.utilities.rank_zero") for package in packages]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class _Bar(Callback):
    """A bar over all blocks of all epochs, with the running error, the rate and the time left.

    Args:
        fit: what is shown; its error is asked for now and then.
        display: where to add the bar; None: one of its own.
    """

    def __init__(self, fit: FitState, display: Progress | None) -> None:
        self._fit, self._told = fit, ""
        self._own = display is None
        self._display = display or Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("blocks"),
            TimeRemainingColumn(),
            transient=True,
        )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar."""
        if self._own:
            self._display.start()
        total = int(trainer.num_training_batches) * (trainer.max_epochs or 1)
        self._task = self._display.add_task("fitting maps", total=total)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """One block more."""
        if batch_idx % _TELL_EVERY == 0 and (error := self._fit.block_error()) is not None:
            self._told = f", squared error {float(error.mean()):.3g}"
        self._display.update(self._task, advance=1, description=f"fitting maps{self._told}")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the bar away."""
        if self._own:
            self._display.stop()
        elif hasattr(self, "_task"):
            self._display.remove_task(self._task)
