"""The configuration of every command: the files at the top of `conf/`, with what is chosen of each group."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from invariance.errors import UserError
from invariance.settings.base import Settings
from invariance.settings.data import FitImages, Split
from invariance.settings.fields import Batch, Folder, Gigabytes, Name, Networks, Positive, Seed, Side, distinct, plain
from invariance.settings.files import choices, conf_dir
from invariance.settings.logger import Logger
from invariance.settings.parts import GivenModel, ModelSettings, TransformSettings
from invariance.settings.training import Joint, Recipe, Trainer

GROUPS = ("data", "model", "transform", "recipe", "trainer", "logger", "map", "solver")
"""Groups of which a command's configuration holds what was chosen."""


def chosen(group: str, page: str = "") -> str:
    """What to tell of a group from which nothing was chosen, by a command where not all of it serves each."""
    there = choices(group, page)
    return f"choose one, as {group}={there[0]} (there are: {', '.join(there)})"


def _of(group: str, page: str = "") -> Any:  # noqa: ANN401
    return Field(description=chosen(group, page))


def _layer(value: str) -> str:
    if not re.fullmatch(r"[\w.]{1,200}", value):
        raise ValueError("no layer has such a name")
    return value


def _launcher(value: str) -> str:
    if not (conf_dir() / "hydra" / "launcher" / f"{value}.yaml").is_file():
        raise ValueError("there is no such launcher")
    return value


def _names(value: str | list[str]) -> str | list[str]:
    if isinstance(value, list) and len(value) > 1 and (alone := {"own", "all"} & set(value)):
        raise ValueError(f"{min(alone)} stands alone")
    return distinct(value) if isinstance(value, list) else value


def _different(value: str | list[str]) -> str | list[str]:
    return distinct(value) if isinstance(value, list) else value


def metrics(known: Iterable[str]) -> str:
    """What to tell of metrics that there are not."""
    there = list(known)
    return f"give a list of different ones, as [{there[0]}], of {', '.join(there)}"


Data = dict[str, Any]
Layer = Annotated[str, AfterValidator(_layer), Field(description="give the name of a layer, as relu7")]
Layers = Annotated[
    Annotated[str, Field(min_length=1)] | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)],
    AfterValidator(_different),
    Field(description="give auto, names of layers or patterns, as [stem,'blocks.*']"),
]
Given = Annotated[Any, AfterValidator(plain)]
Measured = Literal["error_rate", "l2_distance", "agreement", "effective_invariance", "cka", "procrustes", "r2"]
Rated = Literal[
    "error_rate", "l2_distance", "agreement", "effective_invariance", "cka", "procrustes", "r2", "derivative"
]
Compared = Literal["l2_distance", "indices"]
Grids = Annotated[
    str | Annotated[list[str], Field(min_length=1)],
    AfterValidator(_names),
    Field(description="give own, all, or names of different families, as [rotation, shear]"),
]
Metrics = Annotated[
    list[Measured], AfterValidator(distinct), Field(min_length=1, description=metrics(get_args(Measured)))
]
RatedMetrics = Annotated[
    Annotated[list[Rated], AfterValidator(distinct), Field(min_length=1)] | None,
    Field(description=metrics(get_args(Rated))),
]
ReadoutName = Annotated[str, Field(min_length=1, max_length=100)]
Readouts = Annotated[
    ReadoutName | Annotated[dict[str | int, ReadoutName], Field(min_length=1)],
    Field(description="give auto, a readout, as mean, or readouts by layers and patterns, as {blocks.*: cls}"),
]
Nulls = Annotated[
    bool | Annotated[list[str], AfterValidator(distinct), Field(min_length=1)],
    Field(description="give true, false, or solvers whose maps are fitted on shuffled pairs, too, as [online_sgd]"),
]
Resizing = Literal["own", "warp", "none"]
DataName = Annotated[
    Annotated[str, Field(min_length=1)] | None, Field(description="give the name of a data set, or null for all")
]
Settled = dict[str, dict[str, Given] | None]
Chosen = dict[str, dict[str, Any] | None]


class Page(Settings):
    """What every command has."""

    runs: Folder
    prepared: Folder = Field(default="prepared")
    progress: bool


class PreparePage(Page):
    """`conf/prepare.yaml`."""

    prepared: Folder
    data: Data = _of("data")
    size: Side | Annotated[list[Side], AfterValidator(distinct), Field(min_length=1)]
    renew: bool
    plan: bool
    verify: bool
    restore: bool = True
    give_back: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.plan and self.renew:
            raise UserError("plan=true only says what preparing would take; leave out renew=true, or plan=true")
        if self.give_back and (self.plan or self.renew):
            other = "plan" if self.plan else "renew"
            raise UserError(f"give_back=true removes images, and prepares nothing; leave it out, or {other}=true")
        return self


class TrainPage(Page):
    """`conf/train.yaml`."""

    prepared: Folder
    data: Data = _of("data")
    model: ModelSettings = _of("model", "train")
    transform: TransformSettings = _of("transform")
    recipe: Recipe = _of("recipe")
    trainer: Trainer = _of("trainer")
    logger: Logger = _of("logger")
    range: Any
    seed: Seed
    name: Name

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.trainer.divides(self.recipe.batch)
        return self


Unseen = Annotated[
    list[str],
    AfterValidator(distinct),
    Field(description="name solvers that have the unseen-class control beside ridge: online_sgd, minibatch_sgd"),
]


class _Measuring(Page):
    """What commands that run trained networks have."""

    prepared: Folder
    trainer: Trainer = _of("trainer")
    logger: Logger = _of("logger")
    solver: Chosen = Field(default={}, description=chosen("solver"))
    networks: Networks
    layer: Layer
    fit: FitImages | None = Field(description="give keys of data.fit, as fit={split: train, images: 5000}")
    report: Split | None = Field(description="choose train, val, test or null")
    batch: Batch
    memory_gb: Gigabytes

    @model_validator(mode="after")
    def _one_device(self) -> Self:
        if self.trainer.devices != 1:
            raise UserError("trainer.devices: measuring runs on one device, sweeps on all; set it to 1")
        return self


class MeasurePage(_Measuring):
    """`conf/measure.yaml`."""

    map: Annotated[Chosen, Field(min_length=1)] = _of("map")
    model: GivenModel | None = Field(default=None, description=chosen("model", "measure"))
    data: Data | None = Field(default=None, description=chosen("data"))
    grids: Grids
    layers: Layers = "auto"
    readout: Readouts = "auto"
    resize: Resizing = "own"
    labels: bool | None = None
    metrics: RatedMetrics
    nulls: Nulls = False
    intervals: bool = False
    plan: bool = False
    unseen_classes: Unseen
    grid: Settled | None = Field(description="give a family's grid settings, as grid={rotation: {angles: [-90, 90]}}")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.model is None:
            if "derivative" in (self.metrics or ()):
                raise UserError(
                    "metrics: derivative is of networks that model= names; of one that was trained here "
                    "measure_model(load_model('runs/train/…'), …, measures=['derivative']) gives it"
                )
            return self
        if self.model.source == "run":
            raise UserError("model=run: a network that was trained here is measured by its name, as networks=digits")
        if self.data is None:
            raise UserError(f"model={self.model.source}: give its images, as data=folder data.root=photos")
        return self


class LayersPage(Page):
    """`conf/layers.yaml`."""

    prepared: Folder
    model: GivenModel = _of("model", "layers")
    data: Data | None = Field(default=None, description=chosen("data"))
    layers: Layers
    readout: ReadoutName = "auto"
    resize: Resizing = "own"
    bypass: bool
    file: Folder | None = Field(alias="csv", description="give a path, or null")


class DistancePage(_Measuring):
    """`conf/distance.yaml`."""

    models: Annotated[list[str | dict[str, Any]], Field(min_length=1)] | None = Field(
        default=None, description="give networks, as [timm/resnet18,runs/train/digits/baseline/seed0]"
    )
    data: Data | None = Field(default=None, description=chosen("data"))
    layers: Layers | dict[str, Layers] = Field(
        default="auto", description="give auto, names of layers or patterns, or such by model, as {resnet18: [layer1]}"
    )
    readout: Readouts = "auto"
    resize: Resizing = "own"
    scaled: bool = False
    pairs: bool = True

    metrics: Annotated[list[Compared], AfterValidator(distinct)] = Field(
        min_length=1, description=metrics(("l2_distance", "indices"))
    )
    features: Folder

    @model_validator(mode="after")
    def _has_images(self) -> Self:
        if self.models is not None and self.data is None:
            raise UserError("models=: give the images to compare them on, as data=folder data.root=photos")
        return self


class FinetunePage(_Measuring):
    """`conf/finetune.yaml`."""

    map: Annotated[Chosen, Field(min_length=1)] = _of("map")
    recipe: Recipe = _of("recipe")
    joint: Joint
    G: Annotated[Settled, Field(min_length=1)] | None = Field(
        description="give a family's grid settings, as G={rotation: {angles: [-10, 10]}}"
    )
    copies: Positive | None = Field(description="give a whole number from 1, or null for all at once")
    name: Name
    grids: Annotated[
        str | list[str],
        AfterValidator(_names),
        Field(description="give own, all, [] for G alone, or names of different families, as [rotation, shear]"),
    ]
    metrics: Metrics
    unseen_classes: Unseen

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.recipe.label_smoothing:
            raise UserError("recipe.label_smoothing: the joint loss (Eq. 5) has none; set it to 0")
        if self.trainer.compile:
            raise UserError("trainer.compile: finetuning runs uncompiled; set it to false")
        if self.trainer.precision == "16-mixed":
            raise UserError("trainer.precision=16-mixed: finetuning takes 32-true, tf32 or bf16-mixed")
        return self


class ReportPage(Page):
    """`conf/report.yaml`."""

    logger: Logger = _of("logger")
    out: Folder
    dataset: DataName
    figures: Annotated[list[str], AfterValidator(distinct)] = Field(
        description="give functions that draw figures of all rows, as [mine:figure]"
    )


class StatusPage(Page):
    """`conf/status.yaml`."""

    seal: bool = False
    every: Annotated[float, Field(ge=0.1, le=1e6)] | None


class PlanPage(Page):
    """`conf/plan.yaml`; its groups are composed anew, one data set at a time."""

    prepared: Folder
    data: Data | None = None
    model: dict[str, Any] | None = None
    recipe: dict[str, Any] | None = None
    trainer: dict[str, Any] | None = None
    chosen: list[str]
    study: Annotated[str, Field(pattern=r"^[\w.+-]{1,100}$", description="give the beginning of a template's name")]
    templates: Folder
    gpus: Annotated[int, Field(ge=1, le=10**6)] | None = Field(description="give a whole number from 1, or null")
    seconds: Annotated[float, Field(ge=1, le=1e6, description="give a number from 1 to 1e6")]
    cross: Positive | None
    file: Folder | None = Field(alias="json", description="give a path, or null")
    roots: dict[str, Any] | None = Field(description="give a mapping, as roots={ilsvrc: /data/imagenet}")
    args: dict[str, Any] | None = Field(description="give a mapping, as args={networks: network=baseline_1}")
    count: bool
    keep: bool = False
    check: bool
    launcher: Annotated[str, AfterValidator(_launcher), _of("hydra/launcher")]
    features: Folder


class DashboardPage(Page):
    """`conf/dashboard.yaml`."""

    logger: Logger = _of("logger")
    report: Folder
    name: Annotated[str, Field(pattern=r"^[\w ,.:;()&+-]{0,99}[\w,.:;()&+-]$")] = Field(
        description="give up to 100 letters, digits, blanks and , . : ; ( ) & + - _"
    )
    dataset: DataName
    dry_run: bool
    save: Folder

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.logger.kind != "wandb":
            raise UserError("the dashboard is one of Weights & Biases: leave out logger=csv")
        return self


SCHEMAS: dict[str, type[Page]] = {
    "prepare": PreparePage,
    "train": TrainPage,
    "measure": MeasurePage,
    "layers": LayersPage,
    "distance": DistancePage,
    "finetune": FinetunePage,
    "report": ReportPage,
    "status": StatusPage,
    "plan": PlanPage,
    "dashboard": DashboardPage,
}
"""The schema of every command."""
