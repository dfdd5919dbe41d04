"""How far a training is, written down for those who watch."""

import pytorch_lightning as pl

from invariance.runs.run import Run


class _Noting(pl.Callback):
    def __init__(self, run: Run, updates: int) -> None:
        self.run, self.updates = run, updates

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Note where training begins."""
        if trainer.is_global_zero:
            self.run.note(trainer.global_step, self.updates, "updates")

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: object) -> None:
        """Note an update."""
        self.on_train_start(trainer, module)


def noting(run: Run, updates: int) -> pl.Callback:
    """A callback that notes a run's updates as they are made (`Run.note`)."""
    return _Noting(run, updates)
