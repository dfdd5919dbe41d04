"""Weights & Biases as a view of the plain files; without it nothing is lost."""

import fcntl
import json
import os
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast

import pandas as pd

from invariance.errors import UserError
from invariance.runs.files import disk_errors, write_text
from invariance.runs.run import Run

LINK = "wandb.json"
"""Which W&B run a folder is: its id, and the address or the offline folder it was last seen at."""

_KINDS = ("wandb", "csv")
_MODES = ("auto", "online", "offline")
_ENVIRONMENT = ("online", "offline", "disabled", "dryrun", "run", "shared")  # what W&B takes as WANDB_MODE
_Mode = Literal["online", "offline", "disabled", "shared"]
_TAGGED = ("data", "family", "network", "grid", "phase")
_LONGEST, _LONGEST_TAG = 128, 64  # characters that W&B takes
_NOT_IN_PROJECTS = "/\\#?%:"


def check_logger(settings: Mapping[str, Any]) -> None:
    """Refuse a logger, or a setting of it, that does not exist or that W&B would not take.

    Raises:
        UserError: naming the choices.
    """
    if settings.get("kind") not in _KINDS:
        raise UserError(f"logger.kind={settings.get('kind')!r}: choose logger=wandb or logger=csv")
    if settings["kind"] != "wandb":
        return
    if find_spec("wandb") is None:
        raise UserError("logger=wandb: there is no wandb here; install it with pip, or do without it: logger=csv")
    if settings["mode"] not in _MODES:
        raise UserError(f"logger.mode={settings['mode']!r}: choose one of {', '.join(_MODES)}")
    wish = os.environ.get("WANDB_MODE")
    if settings["mode"] == "auto" and wish and wish not in _ENVIRONMENT:
        raise UserError(f"the environment has WANDB_MODE={wish}: set it to online, offline or disabled, or unset it")
    project, entity, group, tags = (settings.get(key) for key in ("project", "entity", "group", "tags"))
    if not _text(project, _LONGEST) or set(str(project)) & set(_NOT_IN_PROJECTS):
        raise UserError(f"logger.project={project!r}: give up to {_LONGEST} characters, none of {_NOT_IN_PROJECTS}")
    if entity is not None and (not _text(entity, _LONGEST) or "/" in entity):
        raise UserError(f"logger.entity={entity!r}: give the name of a W&B user or team, or null for your own")
    if group is not None and not _text(group, _LONGEST):
        raise UserError(f"logger.group={group!r}: give up to {_LONGEST} characters, or null for the data set's name")
    if tags is not None and (not isinstance(tags, list) or not all(_text(tag, _LONGEST_TAG) for tag in tags)):
        raise UserError(f"logger.tags={tags!r}: give a list, as [trial,second]; each of up to {_LONGEST_TAG} letters")


def _text(value: object, longest: int) -> bool:
    return isinstance(value, str) and 1 <= len(value.strip()) and len(value) <= longest


def mode_of(settings: Mapping[str, Any]) -> _Mode:
    """The mode W&B runs in: as set, else as the environment has it, else online if a login is found."""
    if settings["mode"] != "auto":
        return cast(_Mode, settings["mode"])
    if os.environ.get("WANDB_MODE"):
        wish = os.environ["WANDB_MODE"]
        return cast(_Mode, {"dryrun": "offline", "run": "online"}.get(wish, wish))
    import wandb

    return "online" if wandb.login(prompt=False) else "offline"


def offline_asked(settings: Mapping[str, Any]) -> bool:
    """Whether a mode was asked for, be it by the settings or by the environment."""
    return settings["mode"] != "auto" or bool(os.environ.get("WANDB_MODE"))


def tags_of(about: Mapping[str, Any], extra: Sequence[str] = ()) -> list[str]:
    """Tags of a W&B run: data set, family, network, grid, phase, seed, solvers, and a user's own.

    A name longer than W&B takes for a tag is none; the configuration has it whole.
    """
    named = [str(about[key]) for key in _TAGGED if about.get(key)]
    named += [f"seed{about['seed']}"] if "seed" in about else []
    named += [*about.get("solvers", ()), *extra]
    return [tag for tag in dict.fromkeys(named) if len(tag) <= _LONGEST_TAG]


def config_of(about: Mapping[str, Any], identity: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration of a W&B run: flat keys to filter, group and plot by, and the run's whole one as `identity`.

    `curve` names what belongs to one curve where runs are averaged: the data set and the family, and whether finetuned.
    """
    parts = [about.get("data"), about.get("family"), "finetuned" if about["stage"] == "finetune" else None]
    return {**about, "curve": " ".join(str(part) for part in parts if part), "identity": dict(identity)}


class Tracker:
    """One run's view in Weights & Biases, or nothing at all with `logger=csv`; a context manager that ends it.

    The folder remembers the id of its W&B run, so that a command given again continues the same one, on whichever
    machine; while it is open, another process that would open it waits.

    Args:
        settings: the `logger` part of the configuration.
        directory: the run directory; W&B keeps its offline files there.
        name: the run's name.
        about: what the run is, as flat keys: `stage`, which is the job type; `data`, which is the group unless
            `logger.group` names another; and those of network, family, range, seed, grid, solvers … that apply.
        identity: its whole configuration.
    """

    def __init__(
        self, settings: Mapping[str, Any], directory: Path, *, name: str, about: Mapping[str, Any],
        identity: Mapping[str, Any],
    ) -> None:
        self.run: Any = None
        self.place: Path | None = None
        self._lock: int | None = None
        if settings["kind"] != "wandb":
            return
        with disk_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(directory / ".wandb.lock", os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            self._begin(settings, directory, name, about, identity)
        except BaseException:
            self._release()
            raise

    def _begin(
        self, settings: Mapping[str, Any], directory: Path, name: str, about: Mapping[str, Any],
        identity: Mapping[str, Any],
    ) -> None:
        import wandb

        mode = mode_of(settings)
        os.environ.setdefault("WANDB_SILENT", "true")
        known = read_link(directory).get("id") or secrets.token_hex(8)
        write_text(directory / LINK, json.dumps({"id": known}) + "\n")
        self.run = wandb.init(
            project=settings["project"], entity=settings["entity"], group=settings.get("group") or about["data"],
            job_type=about["stage"], name=name, tags=tags_of(about, settings.get("tags") or ()), id=known,
            resume="allow", dir=str(directory), mode=mode, config=config_of(about, identity),
            settings=wandb.Settings(silent=True, console="off"),
        )
        if mode == "offline":
            self.place = Path(self.run.dir).parent
            why = "as asked" if offline_asked(settings) else "no login found"
            print(f"W&B is offline ({why}); to upload this run later: wandb sync {self.place}", file=sys.stderr)
        write_text(directory / LINK, json.dumps({"id": known, **self.link(directory)}) + "\n")

    def link(self, directory: Path) -> dict[str, str]:
        """Where the W&B run is: `url`, or `offline`, its folder relative to a directory; empty where there is none."""
        if self.place is not None:
            return {"offline": os.path.relpath(self.place, directory)}
        return {"url": str(self.run.url)} if self.run is not None and self.run.url else {}

    def record_in(self, run: Run) -> None:
        """Write into a run's provenance, as `wandb`, where to see it in W&B."""
        if link := self.link(run.directory):
            run.record({"wandb": link})

    def log(self, values: Mapping[str, Any]) -> None:
        """Log values as they are: numbers, or W&B's own objects."""
        if self.run is not None:
            self.run.log(dict(values))

    def table(self, key: str, table: pd.DataFrame) -> None:
        """Log a table."""
        if self.run is not None:
            import wandb

            self.run.log({key: wandb.Table(dataframe=table)})

    def confusion(self, key: str, truth: list[int], predicted: list[int], classes: list[str]) -> None:
        """Log a confusion matrix, of true and of predicted labels."""
        if self.run is not None:
            import wandb

            self.run.log({key: wandb.plot.confusion_matrix(y_true=truth, preds=predicted, class_names=classes)})

    def images(self, pictures: Mapping[str, tuple[Path, str]]) -> None:
        """Log picture files: key → file and caption."""
        if self.run is not None:
            import wandb

            self.run.log({key: wandb.Image(str(path), caption=said) for key, (path, said) in pictures.items()})

    def summarise(self, values: Mapping[str, Any]) -> None:
        """Set numbers of the run's summary."""
        if self.run is not None:
            self.run.summary.update(dict(values))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the W&B run, as failed if an error ended it."""
        try:
            if self.run is not None:
                self.run.finish(exit_code=0 if error is None else 1)
        finally:
            self.run = None
            self._release()

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def read_link(directory: Path) -> dict[str, str]:
    """What a folder remembers of its W&B run; empty where it has none.

    Raises:
        UserError: if the file is damaged.
    """
    path = directory / LINK
    if not path.exists():
        return {}
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if re.fullmatch(r"[\w-]{1,64}", held["id"]):
            return {str(key): str(value) for key, value in held.items()}
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(f"{path} is damaged; delete it, and W&B has a new run from here on")
