"""What jobs are made of: so much of every unit of work, and what a stage of them takes at the rates of a machine."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from invariance.models import build_model
from invariance.models.representation import Representation


@dataclass(frozen=True)
class Net:
    """A network as far as its speed depends on it.

    Attributes:
        model: a yaml of `conf/model/`, resolved, as JSON.
        classes: how many.
        channels: of the images.
        layer: where φ ends.
    """

    model: str
    classes: int
    channels: int
    layer: str

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of `conf/model/`."""
        return dict(json.loads(self.model))

    @property
    def size(self) -> int:
        """Side of its input in pixels."""
        return int(json.loads(self.model)["input_size"])


@cache
def shape_of(net: Net) -> tuple[int, int]:
    """D at the layer, and how many parameters the network has; nothing is allocated.

    Raises:
        UserError: for a network that cannot be had, or has no such layer.
    """
    with torch.device("meta"):
        network = build_model(net.config, net.classes, net.channels)
        r = Representation(network, net.layer).phi(torch.empty(1, net.channels, net.size, net.size))
    return r.shape[1], sum(one.numel() for one in network.parameters())


@dataclass(frozen=True)
class Unit:
    """What a job does some number of times.

    Attributes:
        kind: what it is.
        of: what its cost depends on.
        how: what is needed to time it, of which any one with the same `of` will do.
    """

    kind: str
    of: tuple[Any, ...] = ()
    how: Any = field(default=None, compare=False)


START = Unit("start")
"""A job beside its work: imports, composing, opening the data, the first and the last things it does."""


class Work(dict[Unit, float]):
    """How often a job does what."""

    def add(self, unit: Unit, times: float) -> None:
        """So many times more."""
        self[unit] = self.get(unit, 0.0) + times

    def join(self, other: Work) -> None:
        """Another's work as well."""
        for unit, times in other.items():
            self.add(unit, times)


@dataclass(frozen=True)
class PlannedJob:
    """One job of a stage.

    Attributes:
        name: what it is about.
        work: its work.
        disk: bytes that it leaves.
        lent: how many of them can be given back once all that needs them is done.
        turn: side of the images that it takes, where one size comes after another.
    """

    name: str
    work: Work
    disk: float = 0.0
    lent: float = 0.0
    turn: int = 0


@dataclass(frozen=True)
class Stage:
    """A part of the study.

    Attributes:
        name: prepare, networks, measure, distance, finetune, cross, or a network that is for the distances alone.
        jobs: its jobs.
        on_cores: whether it runs on all cores of one machine, and not on a device a job.
        gap: why it cannot be planned, if that is so.
    """

    name: str
    jobs: list[PlannedJob]
    on_cores: bool = False
    gap: str = ""


@dataclass(frozen=True)
class Estimate:
    """What a stage takes.

    Attributes:
        stage: the stage.
        seconds: of all jobs together, on one device, or on one core for a stage that runs on cores.
        longest: of its longest job.
        wall: with all devices, or all cores; jobs of one turn after those of another.
        disk: bytes.
    """

    stage: Stage
    seconds: float
    longest: float
    wall: float
    disk: float


def estimate(stage: Stage, rates: Mapping[Unit, float], devices: int, cores: int) -> Estimate:
    """What a stage takes at some rates.

    A turn ends no sooner than its longest job, nor than all its work shared out evenly.

    Args:
        stage: the stage.
        rates: seconds a unit.
        devices: devices that work at once, each on a job of its own.
        cores: cores of the machine that prepares.
    """
    disk = sum(job.disk for job in stage.jobs)
    if stage.gap:
        return Estimate(stage, math.nan, math.nan, math.nan, disk)
    seconds = [sum(count * rates[unit] for unit, count in job.work.items()) for job in stage.jobs]
    total = sum(seconds)
    turns: dict[int, list[float]] = {}
    for job, taken in zip(stage.jobs, seconds, strict=True):
        turns.setdefault(job.turn, []).append(taken)
    wall = total / cores if stage.on_cores else sum(max(sum(one) / devices, max(one)) for one in turns.values())
    return Estimate(stage, total, max(seconds, default=0.0), wall, disk)


def room_of(stages: Iterable[Stage], keep: bool) -> float:
    """Bytes that stages need at once, of one data set or of several whose turns come one after another.

    Args:
        stages: the stages.
        keep: whether nothing is given back; else what is lent to one job is given back before another has it.
    """
    jobs = [job for stage in stages for job in stage.jobs]
    lent = [job.lent for job in jobs]
    return sum(job.disk for job in jobs) - (0.0 if keep else sum(lent) - max(lent, default=0.0))


def units_of(stages: Sequence[Stage]) -> list[Unit]:
    """Every unit of some stages, each once."""
    return list(dict.fromkeys(unit for stage in stages for job in stage.jobs for unit in job.work))
