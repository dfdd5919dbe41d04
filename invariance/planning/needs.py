"""What a study needs before it begins: commands that can be composed, a GPU if one is asked for, its data, and room."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from invariance.data.absent import was_given_back
from invariance.data.manifest import MANIFEST
from invariance.data.sources.base import data_config, existing_root
from invariance.data.sources.official import Official
from invariance.device import choose_device
from invariance.errors import UserError
from invariance.launch.heeded import check_heeded
from invariance.planning.study import Study
from invariance.planning.templates import PAGES, Templates, checked_job
from invariance.planning.work import Stage, room_of
from invariance.settings.files import conf_dir
from invariance.settings.pages import DistancePage, FinetunePage, MeasurePage, TrainPage

Running = TrainPage | MeasurePage | DistancePage | FinetunePage
"""Configurations of the commands that run networks."""

_KINDS: dict[str, type[Running]] = {
    "networks": TrainPage,
    "measure": MeasurePage,
    "distance": DistancePage,
    "finetune": FinetunePage,
    "cross": MeasurePage,
}
"""The schema of every stage's command."""


@dataclass(frozen=True)
class StudyWanted:
    """A study as it is to be run.

    Attributes:
        templates: its templates.
        choices: for every data set, overrides of the training template that choose it and more.
        trained: overrides of recipe and trainer, which finetuning takes too.
        trainer: overrides of the trainer, which every stage takes.
        args: more overrides of each stage.
        folders: where its files go: runs, prepared, features.
        keep: whether images of all sizes are prepared at once and stay.
        launcher: what runs its jobs.
    """

    templates: Templates
    choices: Mapping[str, Sequence[str]]
    trained: Sequence[str]
    trainer: Sequence[str]
    args: Mapping[str, Sequence[str]]
    folders: Mapping[str, Path]
    keep: bool
    launcher: str


def lacking(wanted: StudyWanted, study: Callable[[str, bool], Study]) -> list[str]:
    """What a study lacks, a line each; nothing where it can begin.

    Args:
        wanted: the study.
        study: the plan of a data set, its images counted where that is asked for.
    """
    found, countable = list(_launcher(wanted.launcher)), True
    for name, choices in wanted.choices.items():
        for stage in PAGES:
            try:
                config = _composed(wanted, stage, name, choices)
            except UserError as error:
                found.append(f"{stage} of {name}: {error}")
                continue
            if config is None:
                continue
            found += _configured(config, wanted.launcher)
            if stage in ("networks", "cross"):
                assert isinstance(config, TrainPage | MeasurePage)
                parts, wrong = _data(config.data or {}, wanted.folders["prepared"])
                found += wrong
                countable = countable and all(path.is_dir() for path in parts)
    found = list(dict.fromkeys(found))
    return found or list(_room(wanted, study, countable))


def _composed(wanted: StudyWanted, stage: str, name: str, choices: Sequence[str]) -> Running | None:
    """The first job's configuration of a stage; None where the study has no such stage for a data set.

    Raises:
        UserError: if it cannot be composed, has a key that its command does not, or a value that makes no sense.
    """
    more = [*wanted.trainer, *wanted.args.get(stage, ())]
    if stage == "networks":
        more = [*choices, *more]
    elif stage == "cross":
        if not any(one.startswith("data.root=") for one in more):
            return None
    else:
        more = [f"of={name}", *more]
    own = f"finetune_{name}"
    if stage == "finetune":
        named = [f"recipe={own}"] if (conf_dir() / f"recipe/{own}.yaml").is_file() else []
        more = [more[0], *named, *wanted.trained, *more[1:]]
    config = wanted.templates.compose(stage, *more)
    if stage == "cross" and config.get("of", name) != name:
        return None
    check_heeded(PAGES[stage], wanted.args.get(stage, ()), config)
    return checked_job(_KINDS[stage], config, next(iter(wanted.templates.sweep(config)), {}))


def _configured(config: Running, launcher: str) -> Iterator[str]:
    """What a stage's configuration asks of this machine and it lacks; on SLURM its nodes are others."""
    if launcher != "slurm":
        try:
            choose_device(config.trainer.accelerator)
        except UserError as error:
            yield f"{error}, as ARGS=trainer=auto"


def _launcher(launcher: str) -> Iterator[str]:
    """What the launcher lacks on this machine."""
    if launcher == "slurm" and find_spec("submitit") is None:
        yield "LAUNCHER=slurm: hydra-submitit-launcher is not installed; pip install 'invariance[slurm]'"
    if launcher == "slurm" and shutil.which("sbatch") is None:
        yield "LAUNCHER=slurm: there is no sbatch on this machine; start the study on a login node of the cluster"


def _data(data: Mapping[str, Any], prepared: Path) -> tuple[list[Path], list[str]]:
    """The archives and folders of a data set that is not prepared, and what it lacks where its images are not there."""
    name, root = data["name"], data.get("root")
    there = [path.parent for path in prepared.glob(f"{name}/*/{MANIFEST}")]
    gone = any(map(was_given_back, there))
    if "root" not in data or (there and not gone):
        return [], []
    variable = str(name).upper()
    if root is None:
        why = f"images of {name} were given back" if gone else f"{name} is not prepared"
        return [], [f"{variable}= is not given, and {why} in {prepared}; say where its files are"]
    try:
        source = data_config(data).source
        parts = source.parts() if isinstance(source, Official) else [existing_root(root, "a folder or an archive")]
    except UserError as error:
        return [], [f"{variable}={root}: {error}"]
    closed = [path for path in parts if not os.access(path, os.R_OK)]
    wrong = [f"{variable}={root}: {path} may not be read by this user" for path in closed]
    return [] if there else parts, wrong  # what is prepared is counted by its lists


def _room(wanted: StudyWanted, study: Callable[[str, bool], Study], countable: bool) -> Iterator[str]:
    """Folders that cannot be written, and disks with less room than the study needs on them at once."""
    for key, path in wanted.folders.items():
        above = _above(path)
        if not os.access(above, os.W_OK):
            yield f"{key}={path}: this user may not write in {above}; give another folder, or the right to"
    try:
        short = _short(_needed(wanted, study, False), wanted.folders)
        # the numbers of a whole data set may be published, and a part of it be here
        yield from _short(_needed(wanted, study, True), wanted.folders) if short and countable else short
    except UserError as error:
        yield str(error)


def fits_at_once(wanted: StudyWanted, study: Callable[[str, bool], Study]) -> bool:
    """Whether images of all sizes have room at once, where a study gives each back after its networks."""
    return not _short(_needed(replace(wanted, keep=True), study, False), wanted.folders)


def _needed(wanted: StudyWanted, study: Callable[[str, bool], Study], count: bool) -> dict[str, float]:
    """Bytes that the study needs in each of its folders at once."""
    stages: dict[str, list[Stage]] = {key: [] for key in wanted.folders}
    for name in wanted.choices:
        for stage in study(name, count).stages():
            stages[{"prepare": "prepared", "distance": "features"}.get(stage.name, "runs")].append(stage)
    return {key: room_of(some, wanted.keep) for key, some in stages.items()}


def _short(needed: Mapping[str, float], folders: Mapping[str, Path]) -> list[str]:
    """The disks with too little room, in words; what is there already needs none again."""
    disks: dict[int, list[str]] = {}
    for key, path in folders.items():
        disks.setdefault(os.stat(_above(path)).st_dev, []).append(key)
    found = []
    for keys in disks.values():
        left = sum(max(0.0, needed[key] - _used(folders[key])) for key in keys)
        free = shutil.disk_usage(_above(folders[keys[0]])).free
        if left > free:
            where = ", ".join(f"{key}={folders[key]}" for key in keys if needed[key])
            found.append(f"{where}: the study takes {left / 1e9:,.1f} GB there, and {free / 1e9:,.1f} GB are free")
    return found


def _above(path: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())


def _used(path: Path) -> int:
    """Bytes of all files below a folder."""
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:  # it vanished, or may not be looked at
                continue
    return total
