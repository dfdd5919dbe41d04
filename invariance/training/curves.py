"""Training curves in W&B: what Lightning logs, handed to the run's tracker."""

from argparse import Namespace
from typing import Any

from pytorch_lightning.loggers.logger import Logger

from invariance.runs.wandb import Tracker


class TrackedCurves(Logger):
    """Lightning's view of a tracker: it never waits for W&B, and what fails there ends no training.

    Args:
        tracker: where the values go.
    """

    def __init__(self, tracker: Tracker) -> None:
        super().__init__()
        self._tracker = tracker

    @property
    def name(self) -> str:
        """What Lightning calls it."""
        return "wandb"

    @property
    def version(self) -> str:
        """Lightning asks for one; the tracker's folder knows which W&B run it is."""
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:  # noqa: ANN401
        """Nothing: the tracker has the whole configuration."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log values at an update."""
        self._tracker.log(metrics if step is None else {**metrics, "trainer/global_step": step})
