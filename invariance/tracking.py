"""Weights & Biases as a view of the plain files; without it nothing is lost."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast

import pandas as pd

from invariance.errors import UserError
from invariance.seeds import derive

_KINDS = ("wandb", "csv")
_MODES = ("auto", "online", "offline")
_ENVIRONMENT = ("online", "offline", "disabled", "dryrun", "run", "shared")  # what W&B takes as WANDB_MODE
_Mode = Literal["online", "offline", "disabled", "shared"]


def check_logger(settings: Mapping[str, Any]) -> None:
    """Refuse a logger, or a mode of it, that does not exist.

    Raises:
        UserError: naming the choices.
    """
    if settings.get("kind") not in _KINDS:
        raise UserError(f"logger.kind={settings.get('kind')!r}: choose logger=wandb or logger=csv")
    if settings["kind"] == "wandb" and settings["mode"] not in _MODES:
        raise UserError(f"logger.mode={settings['mode']!r}: choose one of {', '.join(_MODES)}")
    wish = os.environ.get("WANDB_MODE")
    if settings["kind"] == "wandb" and settings["mode"] == "auto" and wish and wish not in _ENVIRONMENT:
        raise UserError(f"the environment has WANDB_MODE={wish}: set it to online, offline or disabled, or unset it")


def _mode(settings: Mapping[str, Any]) -> _Mode:
    if settings["mode"] != "auto":
        return cast(_Mode, settings["mode"])
    import wandb

    if os.environ.get("WANDB_MODE"):
        wish = os.environ["WANDB_MODE"]
        return cast(_Mode, {"dryrun": "offline", "run": "online"}.get(wish, wish))
    return "online" if wandb.login(prompt=False) else "offline"


class Tracker:
    """One run's view in Weights & Biases, or nothing at all with `logger=csv`; a context manager that ends it.

    The W&B run takes its id from the run directory, so that a command given again continues the same one.

    Args:
        settings: the `logger` part of the configuration.
        directory: the run directory; W&B keeps its offline files there.
        name: the run's name, its path under the runs folder.
        stage: the page: job type of the W&B run.
        group: group of the W&B run: the data set.
        config: the run's configuration.
        tags: tags of the W&B run.
    """

    def __init__(
        self, settings: Mapping[str, Any], directory: Path, *, name: str, stage: str, group: str,
        config: Mapping[str, Any], tags: list[str],
    ) -> None:
        self.run: Any = None
        if settings["kind"] != "wandb":
            return
        import wandb

        mode = _mode(settings)
        directory.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("WANDB_SILENT", "true")
        self.run = wandb.init(
            project=settings["project"], entity=settings["entity"], group=group, job_type=stage, name=name, tags=tags,
            id=f"{derive(str(directory.resolve())):x}", resume="allow", dir=str(directory), mode=mode,
            config=dict(config), settings=wandb.Settings(silent=True, console="off"),
        )
        if mode == "offline":
            place = Path(self.run.dir).parent
            asked = settings["mode"] == "offline" or bool(os.environ.get("WANDB_MODE"))
            why = "as asked" if asked else "no login found"
            print(f"W&B is offline ({why}); to upload this run later: wandb sync {place}", file=sys.stderr)

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

    def image(self, key: str, path: Path) -> None:
        """Log a picture file."""
        if self.run is not None:
            import wandb

            self.run.log({key: wandb.Image(str(path))})

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
        if self.run is not None:
            self.run.finish(exit_code=0 if error is None else 1)
            self.run = None
