"""What a study will take (Sec. 5 at scale): `python -m invariance.plan data=rvl_cdip gpus=8`."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import OmegaConf
from rich import box
from rich.console import Console
from rich.table import Table

from invariance.cli.messages import say_error
from invariance.device import choose_device, keep_freed
from invariance.errors import UserError, nearest
from invariance.planning.needs import StudyWanted, fits_at_once, lacking
from invariance.planning.probes import measure_rates
from invariance.planning.study import Study
from invariance.planning.templates import Templates, networks_there
from invariance.planning.work import Estimate, Stage, estimate, room_of, units_of
from invariance.progress import bar
from invariance.runs.files import write_text
from invariance.runs.outputs import require_writable
from invariance.settings.base import checked
from invariance.settings.files import conf_dir
from invariance.settings.pages import PlanPage
from invariance.settings.paths import folder

GROUPS = ("data", "model", "recipe", "trainer")
STAGES = ("networks", "measure", "distance", "finetune", "cross")


def plan(config: dict[str, Any]) -> None:
    """Count the jobs of a study, measure what they cost here, and print what they will take.

    Args:
        config: the configuration of `conf/plan.yaml`, plain and resolved.

    Raises:
        UserError: for anything the user can mend.
    """
    check(config)
    chosen = chosen_of(config["chosen"])
    names = data_of(chosen)
    own, roots = keys_of(config["chosen"], names), mapping(config["roots"], "roots")

    keep_freed()
    checked, keep = config["check"], config["keep"]
    device = torch.device("cpu") if checked else choose_device(str(chosen["trainer"]))
    devices = config["gpus"] or (torch.cuda.device_count() if device.type == "cuda" else cores())
    trainer = "gpu" if device.type == "cuda" else "cpu"
    templates = Templates(folder(config["templates"], "templates"), config["study"])
    prepared = folder(config["prepared"], "prepared")
    recipe = [*([f"recipe={chosen['recipe']}"] if chosen["recipe"] else []), *own["recipe"]]
    more = [*([f"model={chosen['model']}"] if chosen["model"] else []), *own["data"], *own["model"], *recipe]
    everything, args = networks_there(templates), args_of(config["args"])
    choices = {name: [f"data={name}", *root_of(roots, name), *more] for name in names}

    def study_of(name: str, count: bool = config["count"]) -> Study:
        """A data set's study."""
        on = [trainer, *own["trainer"]]
        return Study(templates, everything, choices[name], on, prepared, config["cross"], args, count, keep)

    if checked:
        typed = [one for one in config["chosen"] if one.startswith("trainer=")] + own["trainer"]
        places = {key: folder(config[key], key) for key in ("runs", "prepared", "features")}
        wanted = StudyWanted(templates, choices, [*typed, *recipe], typed, args, places, keep, config["launcher"])

        def counted(name: str, count: bool) -> Study:
            """A data set's study."""
            return study_of(name, count or config["count"])

        tell_lacking(lacking(wanted, counted))
        if not keep and fits_at_once(wanted, counted):
            print("images of all sizes have room at once: KEEP=1 decodes each once and keeps more devices busy")
        return
    studies = [study_of(name) for name in names]
    stages = {study.data.name: study.stages() for study in studies}
    with bar(config["progress"]) as progress:
        every = units_of([stage for some in stages.values() for stage in some])
        rates = measure_rates(every, device, config["seconds"], progress)
    made = {name: [estimate(stage, rates, devices, cores()) for stage in some] for name, some in stages.items()}
    for study in studies:
        show(study, made[study.data.name], device, devices)
    print(room_said(studies, stages, keep))
    print(account(device, config["seconds"]))
    if config["json"]:
        write(folder(config["json"], "json"), made, device, devices, keep)


def chosen_of(overrides: list[str]) -> dict[str, Any]:
    """What a command line chose of the groups, else what `conf/plan.yaml` does; Hydra merges several into one.

    Raises:
        UserError: for no data set, or one twice.
    """
    held = OmegaConf.to_container(OmegaConf.load(conf_dir() / "plan.yaml"))
    assert isinstance(held, dict)
    chosen = {key: one[key] for one in held["defaults"] if isinstance(one, dict) for key in GROUPS if key in one}
    chosen |= {"model": None, "recipe": None}  # those of the file are there for their keys
    for key, _, value in (override.lstrip("+").partition("=") for override in overrides):
        if key in GROUPS:
            chosen[key] = yaml.safe_load(value)
    data = chosen["data"] if isinstance(chosen["data"], list) else [chosen["data"]]
    if not data or not all(isinstance(one, str) for one in data) or len(set(data)) < len(data):
        raise UserError(f"data={chosen['data']}: give the name of a data set, or a list of different ones")
    return chosen


def data_of(chosen: dict[str, Any]) -> list[str]:
    """The names of the chosen data sets."""
    return [str(name) for name in (chosen["data"] if isinstance(chosen["data"], list) else [chosen["data"]])]


def keys_of(overrides: list[str], names: list[str]) -> dict[str, list[str]]:
    """The overrides of single keys of the groups, as `recipe.updates=10`, by group.

    Raises:
        UserError: for a key of data where several data sets are planned.
    """
    found: dict[str, list[str]] = {group: [] for group in GROUPS}
    for override in overrides:
        group, dot, _ = override.partition("=")[0].lstrip("+~").partition(".")
        if dot and group in found:
            found[group].append(override)
    if found["data"] and len(names) > 1:
        raise UserError(f"{found['data'][0]}: of which of {', '.join(names)}? plan them one by one, with data=")
    return found


def tell_lacking(lines: list[str]) -> None:
    """Say what a study lacks, a line each.

    Raises:
        UserError: if it lacks anything.
    """
    if not lines:
        print("checked: everything that the study needs is there")
        return
    for line in lines:
        say_error(line)
    many = f"{len(lines)} things are" if len(lines) > 1 else "one thing is"
    raise UserError(f"{many} to be mended first, as said above; nothing was begun")


def args_of(given: object) -> dict[str, list[str]]:
    """The overrides of every stage, from one text each, which is split as a shell splits it.

    Raises:
        UserError: for a stage that there is not, or what is no text.
    """
    found = {}
    for stage, text in mapping(given, "args").items():
        if stage not in STAGES:
            raise UserError(f"args={given}: there is no stage {stage!r}{nearest(stage, STAGES)}: {', '.join(STAGES)}")
        try:
            found[stage] = shlex.split(text)
        except ValueError as error:
            raise UserError(f"args.{stage}={text!r}: {error}") from error
    return found


def mapping(given: object, key: str) -> dict[str, str]:
    """A mapping of texts; empty for None.

    Raises:
        UserError: if it is none.
    """
    held = given if isinstance(given, dict) else {}
    if (given is not None and held is not given) or not all(isinstance(one, str | None) for one in held.values()):
        raise UserError(f"{key}={given!r}: give a mapping, as {{name: text}}")
    return {str(name): str(text or "") for name, text in held.items()}


def root_of(roots: Mapping[str, str], name: str) -> list[str]:
    """The override of `data.root` for a data set, if there is one."""
    return [f"data.root={json.dumps(roots[name], ensure_ascii=False)}"] if roots.get(name) else []


def check(config: dict[str, Any]) -> None:
    """Refuse what can be refused before anything is composed.

    Raises:
        UserError: for a value that makes no sense.
    """
    checked(PlanPage, config)
    for key in ("runs", "prepared", "templates"):
        folder(config[key], key)
    names = data_of(chosen_of(config["chosen"]))
    for name in mapping(config["roots"], "roots"):
        if name not in names:
            there = ", ".join(names)
            raise UserError(f"roots.{name}: no such data set is planned{nearest(name, names)} (there are: {there})")
    keys_of(config["chosen"], names)
    if config["json"]:
        require_writable(folder(config["json"], "json"), "json", is_file=True)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def show(study: Study, made: list[Estimate], device: torch.device, devices: int) -> None:
    """Print the table of one data set."""
    data = study.data
    counts = ", ".join(f"{split} {count:,}" for split, count in data.images.items())
    gpu = device.type == "cuda"
    table = Table(
        title=f"{data.name}: {counts} images ({data.known_from})",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    kind = "GPU" if gpu else "core"
    where = f"{devices} {kind}{'s' if devices > 1 else ''}"
    columns = ("stage", "jobs", f"{kind}-hours", "longest job", f"wall, {where}", "disk")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for one in made:
        stage, on = one.stage, one.stage.on_cores
        work = f"{hours(one.seconds / 3600)}{' of cores' if on and gpu else ''}"
        told = [work, told_time(one.longest / (cores() if on else 1))]
        cells = ["", "", "not planned", ""] if stage.gap else [*told, told_time(one.wall), size(one.disk)]
        table.add_row(stage.name, f"{len(stage.jobs):,}" if stage.jobs else "", *cells)
    known = [one for one in made if not one.stage.gap]
    on_devices = sum(one.seconds for one in known if not (gpu and one.stage.on_cores)) / 3600
    table.add_section()
    table.add_row(
        "all",
        f"{sum(len(one.stage.jobs) for one in made):,}",
        hours(on_devices),
        "",
        told_time(sum(one.wall for one in known)),
        size(sum(one.disk for one in known)),
    )
    Console().print(table)
    for one in made:
        if one.stage.gap:
            print(f"{one.stage.name} is not planned: {one.stage.gap}")


def hours(value: float) -> str:
    """Hours: whole ones above ten."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def told_time(seconds: float) -> str:
    """A time in words."""
    for length, unit in ((86400.0 * 365.25, "years"), (86400.0, "d"), (3600.0, "h")):
        if seconds >= length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def size(count: float) -> str:
    """Bytes in words."""
    if count >= 1e10:
        return f"{count / 1e9:,.0f} GB"
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def room_said(studies: Sequence[Study], stages: Mapping[str, Sequence[Stage]], keep: bool) -> str:
    """The line that says how much room is needed at once."""
    every = [stage for study in studies for stage in stages[study.data.name]]
    least, most = size(room_of(every, keep=False)), size(room_of(every, keep=True))
    if keep:
        return f"room: {most}, images of all sizes at once; {least} if each size is given back after its networks"
    return f"room: {least} at most, as each size of images is given back after its networks; {most} with all at once"


def account(device: torch.device, seconds: float) -> str:
    """The line that says what was measured, and what is left out."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "one CPU core, by the time it was ours,"
    return (
        f"measured for about {seconds:g} s on {name} with torch {torch.__version__}: training steps, φ, transforms, "
        "maps, indices, decoding, a job's start; waiting for disks and queues is left out"
    )


def write(path: Path, made: dict[str, list[Estimate]], device: torch.device, devices: int, keep: bool) -> None:
    """Write the numbers, in seconds and bytes."""
    stages = {
        name: {
            one.stage.name: {
                "jobs": len(one.stage.jobs),
                "disk": round(one.disk),
                **(
                    {"gap": one.stage.gap}
                    if one.stage.gap
                    else {"seconds": one.seconds, "seconds_longest": one.longest, "seconds_wall": one.wall}
                ),
            }
            for one in some
        }
        for name, some in made.items()
    }
    every = [one.stage for some in made.values() for one in some]
    room = {"disk_at_once": round(room_of(every, keep)), "disk_of_all": round(room_of(every, keep=True))}
    about = {"device": device.type, "devices": devices, "cores": cores(), "torch": torch.__version__}
    write_text(path, json.dumps({**about, **room, "stages": stages}, indent=1) + "\n")
