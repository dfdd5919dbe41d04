"""What a whole study takes: the jobs of its templates, the work in each, counted from the configurations that run it.

Nothing is timed here. A job's work is so much of every `Unit`; `invariance.planning.probes` says what a unit costs on a
machine.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from invariance.data.building import BYTES_OF_LISTS
from invariance.engine.comparing import group_size
from invariance.engine.grids import Grid, grids_for, joint_grid
from invariance.errors import UserError
from invariance.maps.spec import JOINT, MapSpec, maps_of, parted
from invariance.planning.counting import Counts, trainer_key
from invariance.planning.data_set import DataSet, data_set, measured_images
from invariance.planning.templates import Config, Templates, Trained, checked_job, named_of, trained_by
from invariance.planning.work import START, Net, PlannedJob, Stage, Unit, Work, shape_of
from invariance.settings.base import Kind
from invariance.settings.files import conf_dir
from invariance.settings.pages import DistancePage, FinetunePage, MeasurePage, TrainPage
from invariance.transforms import build
from invariance.transforms.base import UNTOUCHED

BESIDE = ("baseline_3",)
"""Networks that `make paper-distance` trains besides those of its template: the third baseline is for the distances."""

_EXAMPLES = 4
_FLOAT = 4


class Study:
    """All stages of one data set.

    Args:
        templates: the templates.
        everything: every network there is, from `networks_there`.
        choices: overrides of the training template that choose the data set and more: `data=…`, `model=…`, `recipe=…`.
        trainer: the option of `conf/trainer/` that trains, and overrides of its keys.
        prepared: folder of prepared data.
        cross: images that the networks are measured on across data sets; None where that is not known.
        more: overrides of each stage besides, as its command is given them.
        count: whether images are counted although numbers are published.
        keep: whether images of all sizes are prepared at once and stay; else one size comes after another.
    """

    def __init__(
        self,
        templates: Templates,
        everything: Mapping[str, Trained],
        choices: Sequence[str],
        trainer: Sequence[str],
        prepared: Path,
        cross: int | None = None,
        more: Mapping[str, Sequence[str]] | None = None,
        count: bool = False,
        keep: bool = False,
    ) -> None:
        self.templates, self.prepared, self.cross, self.more = templates, prepared, cross, more or {}
        self._made: dict[str, list[Any]] = {}
        self.keep = keep
        self.trainer, (option, *own) = trainer[0], trainer
        self.on = [f"trainer={option}", *own]
        composed = templates.compose("networks", *choices, *self.on, *self.more.get("networks", ()))
        self.train = checked_job(TrainPage, composed)
        self.recipe = [choice for choice in choices if re.match(r"\+*recipe[.=]", choice)]
        self.data = data_set(self.train.data, prepared, count=count)
        model = json.dumps(self.train.model.model_dump(by_alias=True), sort_keys=True)
        self.net = Net(model, self.data.classes, self.data.channels, "relu7")
        self.counts = Counts(self.net, self.data)
        jobs = templates.sweep(composed)
        self.trained = trained_by(jobs, everything, f"{templates.study}_networks.yaml")
        chosen = {job["network"] for job in jobs}
        self.others = {name: everything[name] for name in BESIDE if name in everything and name not in chosen}

    def stages(self) -> list[Stage]:
        """The stages, in the order in which they are run."""
        found = [self.prepare(), self.networks(), self.measure(), *self.alone(), self.distance(), self.finetune()]
        return [*found, stage] if (stage := self.cross_data()) else found

    def _jobs(self, stage: str, kind: type[Kind]) -> list[Kind]:
        """The configurations of a stage's jobs for this data set; composed once."""
        if stage not in self._made:
            config, jobs = self._composed(stage)
            self._made[stage] = [checked_job(kind, config, job) for job in jobs or [{}]]
        return self._made[stage]

    def _composed(self, stage: str) -> tuple[DictConfig, list[dict[str, str]]]:
        """A stage's template for this data set, and its jobs."""
        config = self.templates.compose(stage)
        over = [f"of={self.data.name}"] if "of" in config else []
        own = f"finetune_{self.data.name}"
        if stage == "finetune":
            named = "of" in config and (conf_dir() / f"recipe/{own}.yaml").is_file()
            over += [*([f"recipe={own}"] if named else []), *self.on, *self.recipe]
        over += self.more.get(stage, ())
        if over:
            config = self.templates.compose(stage, *over)
        return config, self.templates.sweep(config)

    def prepare(self) -> Stage:
        """Every size that a network or its grid needs: each image decoded once for all, or a job for every size."""
        sizes = {self.net.size}.union(*(self._sizes(config) for config in self._jobs("measure", MeasurePage)))
        for one in [*self.trained.values(), *self.others.values()]:
            sizes.add(build(one.transform).source_size(self.net.size))
        turns = [sorted(sizes)] if self.keep else [[size] for size in sorted(sizes)]
        return Stage("prepare", [preparing(self.counts, some) for some in turns], on_cores=True)

    def _turn(self, transform: Config) -> int:
        """When the jobs of a network have their turn."""
        return 0 if self.keep else build(transform).source_size(self.net.size)

    def networks(self) -> Stage:
        """Training."""
        return Stage("networks", [self._training(name, one) for name, one in self.trained.items()])

    def _training(self, name: str, one: Trained) -> PlannedJob:
        recipe, images = self.train.recipe, self.data.images
        trained = recipe.updates * recipe.batch
        looks = math.ceil(recipe.updates / recipe.val_every) * images["val"]
        looked = looks + self.counts.evaluated()
        work = Work(
            {START: 1, self.counts.moved("image drawn", one.transform): trained, Unit("image φ", (self.net,)): looked}
        )
        work.join(self.counts.updates(self.train.trainer, recipe.batch, recipe.updates, trained))
        room = 3.0 * _FLOAT * shape_of(self.net)[1]  # the best, and the last with its momentum
        return PlannedJob(name, work, room, turn=self._turn(one.transform))

    def measure(self) -> Stage:
        """Invariance and equivariance."""
        return Stage("measure", [self._measuring(config, self.data) for config in self._jobs("measure", MeasurePage)])

    def _chosen(self, config: MeasurePage | DistancePage | FinetunePage) -> list[Trained]:
        """The networks that a configuration names."""
        everything = {f"{self.data.name}/{one.label}": one for one in (*self.trained.values(), *self.others.values())}
        return named_of(config.networks, everything)

    def _measuring(self, config: MeasurePage, data: DataSet, images: tuple[int, int] | None = None) -> PlannedJob:
        work, disk, chosen = Work({START: 1}), 0.0, self._chosen(config)
        fits = fits_of(config)
        counts = images or (data.n_fit(config.fit), data.images[config.report or data.report])
        for one in chosen:
            for grid in measured_grids(config, one):
                work.join(self.counts.over(grid, fits, *counts))
                disk += _EXAMPLES * data.channels * self.net.size**2 * len(grid.transform.grid())
        return PlannedJob(", ".join(one.label for one in chosen), work, disk, turn=self._turn(chosen[0].transform))

    def alone(self) -> list[Stage]:
        """The networks that are for the distances alone, which `make paper-distance` trains before it measures them."""
        return [Stage(name, [self._training(name, one)]) for name, one in self.others.items()]

    def distance(self) -> Stage:
        """One job for all pairs."""
        return Stage("distance", [self._comparing(config) for config in self._jobs("distance", DistancePage)])

    def _comparing(self, config: DistancePage) -> PlannedJob:
        chosen, dim = self._chosen(config), shape_of(self.net)[0]
        n_fit, n_report = self.data.n_fit(config.fit), self.data.images[config.report or self.data.report]
        work, n = Work({START: 1}), len(chosen)
        for one in chosen:
            work.add(Unit("image φ", (self.net,)), n_fit + n_report)
            work.add(self.counts.moved("image under g", one.transform), n_fit + n_report)
        fits = fits_of(config) if "l2_distance" in config.metrics else []
        device = torch.device("cuda" if self.trainer == "gpu" and torch.cuda.is_available() else "cpu")
        memory = config.memory_gb * 1e9
        held = group_size(dim, dim, n_fit, n_report, fits=fits, memory=memory, device=device)
        work.join(self.counts.mapped(fits, n, held, n_fit, n_report))
        if "indices" in config.metrics:
            work.join(self.counts.indexed(n, n_report))
        return PlannedJob(f"{n} networks, {n * (n - 1) // 2} pairs", work, float(_FLOAT * dim * (n_fit + n_report) * n))

    def finetune(self) -> Stage:
        """The joint loss, with what is measured before and after."""
        return Stage("finetune", [self._finetuning(config) for config in self._jobs("finetune", FinetunePage)])

    def _finetuning(self, config: FinetunePage) -> PlannedJob:
        work, disk, chosen, recipe = Work({START: 1}), 0.0, self._chosen(config), config.recipe
        dim, parameters = shape_of(self.net)
        fits, n_fit = fits_of(config), self.data.n_fit(config.fit)
        for one in chosen:
            grid = joint_grid(one.transform, config.G or {})
            j = sum(point.label != UNTOUCHED for point in grid.transform.grid())
            images = recipe.updates * recipe.batch * (j + 1)
            work.join(self.counts.updates(config.trainer, recipe.batch, recipe.updates, images))
            looks = math.ceil(recipe.updates / recipe.val_every) * self.data.images["val"]
            work.add(self.counts.moved("image under g", grid.settings), images + looks * (j + 1))
            work.add(Unit("image φ", (self.net,)), looks * (j + 1) + self.counts.evaluated())
            work.add(Unit("image scored", (self.net,)), looks * j)
            about = (dim, recipe.batch, trainer_key(config.trainer))
            work.add(Unit("map trained", about), recipe.updates * j)
            own = config.grids == "own" and not grid.own
            for other in (grid, *grids_for(one.transform, grid.family if own else config.grids, {})):
                for learned in ([], [MapSpec("residual", JOINT)] if other is grid else []):  # before, and after
                    work.join(self.counts.over(other, [*fits, *learned], n_fit, self.data.n_report))
            disk += _FLOAT * (3 * parameters + 2 * j * dim * (dim + 1))
        return PlannedJob(", ".join(one.label for one in chosen), work, disk, turn=self._turn(chosen[0].transform))

    def cross_data(self) -> Stage | None:
        """Measuring on another data set, if the study has that for the networks of this one."""
        if not self.templates.there("cross"):
            return None
        try:
            config = self.templates.compose("cross", *self.more.get("cross", ()))
        except UserError as error:
            return Stage("cross", [], gap=str(error))
        jobs = [checked_job(MeasurePage, config, job) for job in self.templates.sweep(config)]
        if config.get("of", self.data.name) != self.data.name:
            return None
        try:
            fit, report = measured_images(jobs[0].data or {}, self.prepared, self.cross)
        except UserError:
            counted = [PlannedJob(str(job.networks), Work()) for job in jobs]
            return Stage("cross", counted, gap="how many images are measured on is not known: give cross=")
        made, sizes = [], set[int]()
        for job in jobs:
            one, new = self._measuring(job, self.data, (fit, report)), self._sizes(job) - sizes
            sizes |= new
            for size in new:  # images are prepared by the first job that needs them
                one.work.add(self.counts.decoded([size], job.data), fit + report)
            room = sum(self.data.channels * size**2 + BYTES_OF_LISTS for size in new) * (fit + report)
            made.append(replace(one, disk=one.disk + room, turn=0))
        return Stage("cross", made)

    def _sizes(self, config: MeasurePage) -> set[int]:
        """The sizes of image that a measurement needs."""
        return {
            build(grid.settings).source_size(self.net.size)
            for one in self._chosen(config)
            for grid in measured_grids(config, one)
        }


def preparing(counts: Counts, sizes: Sequence[int]) -> PlannedJob:
    """Decoding every image once for some sizes: the lists stay, the images are lent."""
    images = sum(counts.data.images.values())
    lent = float(images * sum(counts.data.channels * size**2 for size in sizes))
    work = Work({START: 1, counts.decoded(sizes): images})
    lists = images * BYTES_OF_LISTS * len(sizes)
    return PlannedJob(f"{', '.join(map(str, sizes))} pixels", work, lent + lists, lent)


def fits_of(config: MeasurePage | DistancePage | FinetunePage) -> list[MapSpec]:
    """The maps of representations that a command fits, with their solvers; those on positions are not planned."""
    return parted(maps_of({"linear": {}} if isinstance(config, DistancePage) else config.map, config.solver))[0]


def measured_grids(config: MeasurePage, network: Trained) -> list[Grid]:
    """The grids that a network is measured over."""
    settings = {family: given or {} for family, given in (config.grid or {}).items()}
    return grids_for(network.transform, config.grids, settings)
