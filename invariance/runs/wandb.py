"""Weights & Biases as a view of the plain files; without it nothing is lost."""

import fcntl
import json
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast

import pandas as pd

from invariance.errors import UserError
from invariance.runs.aside import Aside
from invariance.runs.files import disk_errors, write_text
from invariance.runs.run import Run
from invariance.settings.base import checked
from invariance.settings.logger import LONGEST_TAG, Logger
from invariance.settings.nested import load_json

LINK = "wandb.json"
"""Which W&B run a folder is: its id, and the address or the offline folder it was last seen at."""

_ENVIRONMENT = ("online", "offline", "disabled", "dryrun", "run", "shared")  # what W&B takes as WANDB_MODE
_Mode = Literal["online", "offline", "disabled", "shared"]
_TAGGED = ("data", "family", "network", "grid", "phase")
_INIT, _UPLOAD, _TEARDOWN = 10.0, 20.0, 5.0
"""Seconds that W&B's library has to reach its server, to upload what is left at a run's end, and to end itself."""
_BEGIN, _END, _TURN, _STRICT = 60.0, 30.0, 60.0, 600.0
"""Seconds until a beginning or an end that hangs in the library itself is given up; until another process that logs to
the folder has had its turn; and for a command that is of no use without W&B."""
_AWAY = 600.0
"""Seconds for which a server that could not be reached is not tried again by this process."""
_LOOK_EVERY = 0.2
_away = -1.0


def check_logger(settings: Mapping[str, Any]) -> None:
    """Refuse a logger, or a setting of it, that does not exist or that W&B would not take.

    Raises:
        UserError: naming the choices.
    """
    wish = os.environ.get("WANDB_MODE")
    if settings.get("kind") == "wandb" and settings.get("mode") == "auto" and wish and wish not in _ENVIRONMENT:
        raise UserError(f"the environment has WANDB_MODE={wish}: set it to online, offline or disabled, or unset it")
    checked(Logger, settings, "logger")


def mode_of(settings: Mapping[str, Any]) -> _Mode:
    """The mode W&B runs in: as set, else as the environment has it, else online if a login is found."""
    if wish := _wish(settings):
        return wish
    return "online" if _library().login(prompt=False, verify=False) else "offline"  # verifying asks the server


def _wish(settings: Mapping[str, Any]) -> _Mode | None:
    """The mode that the settings or the environment ask for."""
    wish = os.environ.get("WANDB_MODE") if settings["mode"] == "auto" else settings["mode"]
    return cast(_Mode, {"dryrun": "offline", "run": "online"}.get(wish, wish)) if wish else None


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
    return [tag for tag in dict.fromkeys(named) if len(tag) <= LONGEST_TAG]


def config_of(about: Mapping[str, Any], identity: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration of a W&B run: flat keys to filter, group and plot by, and the run's whole one as `identity`.

    `curve` names what belongs to one curve where runs are averaged: the data set and the family, and whether finetuned.
    """
    parts = [about.get("data"), about.get("family"), "finetuned" if about["stage"] == "finetune" else None]
    return {**about, "curve": " ".join(str(part) for part in parts if part), "identity": dict(identity)}


class Tracker:
    """One run's view in Weights & Biases, or nothing at all with `logger=csv`; a context manager that ends it.

    W&B is talked to by a thread of its own: whatever fails or hangs there is said in one line, and the run goes on
    offline or without it. Nothing waits for W&B longer than `_BEGIN` and `_END`.

    The folder remembers the id of its W&B run, so that a command given again continues the same one, on whichever
    machine; while it is open, another process that would open it waits.

    Args:
        settings: the `logger` part of the configuration.
        directory: the run directory; W&B keeps its offline files there.
        name: the run's name.
        about: what the run is, as flat keys: `stage`, which is the job type; `data`, which is the group unless
            `logger.group` names another; and those of network, family, range, seed, grid, solvers … that apply.
        identity: its whole configuration.
        strict: raise what W&B refuses, for a command that is of no use without it.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        directory: Path,
        *,
        name: str,
        about: Mapping[str, Any],
        identity: Mapping[str, Any],
        strict: bool = False,
    ) -> None:
        self.run: Any = None
        self.place: Path | None = None
        self._strict = strict
        self._lock: int | None = None
        self._aside: Aside | None = None
        self._said = False
        if settings["kind"] != "wandb" or _wish(settings) == "disabled":
            return
        known = read_link(directory).get("id") or secrets.token_hex(8)
        try:
            self._lock = _take_turn(directory)
            write_text(directory / LINK, json.dumps({"id": known}) + "\n")
            self._aside = Aside("wandb")
            self._begin(settings, directory, known, name, about, identity)
            write_text(directory / LINK, json.dumps({"id": known, **self.link(directory)}) + "\n")
        except Exception as error:
            if strict:
                self._leave()
                raise
            self._go_without("cannot be used", error)
        except BaseException:
            self._leave()
            raise

    def _begin(
        self,
        settings: Mapping[str, Any],
        directory: Path,
        known: str,
        name: str,
        about: Mapping[str, Any],
        identity: Mapping[str, Any],
    ) -> None:
        """Begin the W&B run: as the settings wish, or offline where the server cannot be had."""
        global _away

        def begin(mode: _Mode) -> Any:  # noqa: ANN401
            """Begin the run in a mode."""
            return _begun(settings, directory, known, name, about, config_of(about, identity), mode)

        assert self._aside is not None
        mode = self._aside.give(lambda: mode_of(settings)).result(_BEGIN)
        if mode != "offline" and not (self._strict or time.monotonic() > _away):
            mode, why = "offline", "it could not be reached a moment ago"
        else:
            why = "as asked" if offline_asked(settings) else "no login found"
        try:
            self.run = self._aside.give(lambda: begin(mode)).result(_BEGIN)
        except Exception as error:
            if self._strict or mode == "offline" or isinstance(error, TimeoutError):
                raise
            _away = time.monotonic() + _AWAY
            mode, why = "offline", _words(error)
            end_service()  # the one that failed takes the run's id for in use
            self.run = self._aside.give(lambda: begin("offline")).result(_BEGIN)
        if mode == "offline":
            self.place = Path(self.run.dir).parent
            _say(f"W&B is offline ({why}); to upload this run later: wandb sync {self.place}")

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
        held = dict(values)
        self._do(lambda run: run.log(held))

    def table(self, key: str, table: pd.DataFrame) -> None:
        """Log a table."""
        self._do(lambda run: run.log({key: _library().Table(dataframe=table)}))

    def confusion(self, key: str, truth: list[int], predicted: list[int], classes: list[str]) -> None:
        """Log a confusion matrix, of true and of predicted labels."""
        self._do(
            lambda run: run.log(
                {key: _library().plot.confusion_matrix(y_true=truth, preds=predicted, class_names=classes)}
            )
        )

    def images(self, pictures: Mapping[str, tuple[Path, str]]) -> None:
        """Log picture files: key → file and caption."""
        held = dict(pictures)
        self._do(
            lambda run: run.log({key: _library().Image(str(path), caption=said) for key, (path, said) in held.items()})
        )

    def summarise(self, values: Mapping[str, Any]) -> None:
        """Set numbers of the run's summary."""
        held = dict(values)
        self._do(lambda run: run.summary.update(held))

    def _do(self, work: Callable[[Any], object]) -> None:
        """Have W&B's thread do something with the run, when it has done what it was given before."""
        run = self.run
        if run is None or self._aside is None:
            return
        result = self._aside.give(lambda: work(run))
        if self._strict:
            result.result(_STRICT)
        else:
            result.add_done_callback(self._look)

    def _look(self, result: "Future[Any]") -> None:
        if (error := result.exception()) is not None:
            self._go_without("took no more", error)

    def _go_without(self, what: str, error: BaseException) -> None:
        """Say, once, what W&B did, and let the run go on without it."""
        self.run = None
        end_service()
        if not self._said:
            self._said = True
            kept = f"; what it has already: wandb sync {self.place}" if self.place is not None else ""
            _say(f"W&B {what} ({_words(error)}): this run goes on without it, and its own files have everything{kept}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the W&B run, as failed if an error ended it."""
        run, code = self.run, 0 if error is None else 1
        try:
            if run is not None and self._aside is not None:
                place = Path(run.dir).parent
                try:
                    self._aside.give(lambda: run.finish(exit_code=code)).result(_STRICT if self._strict else _END)
                except Exception as refusal:
                    if self._strict:
                        raise
                    if not self._said:
                        self._said = True
                        _say(f"W&B has not everything of this run ({_words(refusal)}); later: wandb sync {place}")
        finally:
            self._leave()

    def _leave(self) -> None:
        """Give everything up; what hangs is ended, for W&B's library would wait for it at the end of the process."""
        self.run = None
        if self._aside is not None:
            idle = self._aside.give(lambda: None)
            self._aside.close()
            try:
                idle.result(2.0)
            except TimeoutError:
                end_service()
            self._aside = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _take_turn(directory: Path) -> int:
    """Wait for another process that logs to a folder.

    Returns:
        The descriptor of the lock, which is held until it is closed.

    Raises:
        UserError: if the folder refuses, or the other takes too long.
    """
    with disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / ".wandb.lock", os.O_RDWR | os.O_CREAT, 0o644)
        over = time.monotonic() + _TURN
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return descriptor
                except BlockingIOError:
                    if time.monotonic() > over:
                        raise UserError(f"another process logs to {directory}") from None
                    time.sleep(_LOOK_EVERY)
        except BaseException:
            os.close(descriptor)
            raise


def _begun(
    settings: Mapping[str, Any],
    directory: Path,
    known: str,
    name: str,
    about: Mapping[str, Any],
    config: Mapping[str, Any],
    mode: _Mode,
) -> Any:  # noqa: ANN401
    """A W&B run, begun or continued."""
    wandb = _library()
    return wandb.init(
        project=settings["project"],
        entity=settings["entity"],
        group=settings.get("group") or about["data"],
        job_type=about["stage"],
        name=name,
        tags=tags_of(about, settings.get("tags") or ()),
        id=known,
        resume="allow",
        dir=str(directory),
        mode=mode,
        config=config,
        settings=wandb.Settings(
            silent=True, console="off", init_timeout=_INIT, finish_timeout=_UPLOAD, finish_timeout_raises=True
        ),
    )


def _library() -> Any:  # noqa: ANN401
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # its reports would wait for a server that does not answer
    import wandb  # takes a second, which what logs nothing need not wait for

    return wandb


def end_service() -> None:
    """Kill the process that W&B's library talks to, and let the library begin a new one when it is wanted again.

    The library has no call for it that cannot hang itself. Nothing is done to a process that another program began.
    """
    if "wandb" not in sys.modules:
        return
    with suppress(Exception):
        from wandb.sdk import wandb_setup  # there already

        setup = wandb_setup.singleton()
        process = getattr(getattr(getattr(setup, "_connection", None), "_proc", None), "_process", None)
        if process is not None:
            process.kill()
            process.wait()
        ending = Aside("wandb teardown")
        ended = ending.give(lambda: wandb_setup.teardown(exit_code=1))
        ending.close()
        ended.result(_TEARDOWN)


def _words(error: BaseException) -> str:
    """An error in a few words."""
    if isinstance(error, UserError):
        return str(error)
    said = " ".join(str(error).split())[:160]
    if isinstance(error, TimeoutError) and not said:
        return "no answer in time"
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _say(line: str) -> None:
    """Print a line for people; where it cannot be printed, the run's files say as much."""
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def read_link(directory: Path) -> dict[str, str]:
    """What a folder remembers of its W&B run; empty where it has none.

    Raises:
        UserError: if the file is damaged.
    """
    path = directory / LINK
    if not path.exists():
        return {}
    try:
        held = load_json(path.read_text(encoding="utf-8"))
        if re.fullmatch(r"[\w-]{1,64}", held["id"]):
            return {str(key): str(value) for key, value in held.items()}
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(f"{path} is damaged; delete it, and W&B has a new run from here on")
