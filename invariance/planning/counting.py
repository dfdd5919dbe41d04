"""How much of every unit of work is in what the stages of one network and one data set do."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence

from invariance.data.sources.base import class_of
from invariance.engine.grids import Grid
from invariance.maps.spec import MapSpec
from invariance.planning.data_set import DataSet
from invariance.planning.templates import Config
from invariance.planning.work import Net, Unit, Work, shape_of
from invariance.settings.training import Trainer
from invariance.transforms import build


class Counts:
    """What is done how often.

    Args:
        net: the network, as far as its speed depends on it.
        data: the data set that it is trained and measured on.
    """

    def __init__(self, net: Net, data: DataSet) -> None:
        self.net, self.data = net, data

    def decoded(self, sizes: Collection[int], other: Config | None = None) -> Unit:
        """An image of the data set, or of another whose images are made gray or coloured as this one's are."""
        about = (class_of(other or self.data.config).__name__, self.data.common.colour, tuple(sorted(sizes)))
        return Unit("image decoded", about, None if other else self.data.sample)

    def moved(self, kind: str, transform: Config) -> Unit:
        """An image under a family, drawn in training or under g in measuring."""
        size = build(transform).source_size(self.net.size)
        return Unit(kind, (str(transform["name"]), self.data.channels, size), transform)

    def evaluated(self) -> int:
        """Images that a finished network is evaluated on."""
        return sum(self.data.images[split] for split in {"val", self.data.report})

    def updates(self, trainer: Trainer, batch: int, updates: float, images: float) -> Work:
        """So many updates of training, and the images in them."""
        how = (batch, trainer_key(trainer))
        return Work({Unit("image trained", (self.net, *how)): images, Unit("update", (self.net, *how)): updates})

    def over(self, grid: Grid, fits: Sequence[MapSpec], n_fit: int, n_report: int) -> Work:
        """Measuring one network over one grid."""
        points, images, dim = len(grid.transform.grid()), n_fit + n_report, shape_of(self.net)[0]
        work = Work(
            {Unit("image φ", (self.net,)): points * images, self.moved("image under g", grid.settings): points * images}
        )
        for fit in fits:
            work.add(Unit("image scored", (self.net,)), points * (images + (n_fit if fit.settings else 0)))
            if fit.settings:
                work.add(Unit("image fitted", (dim, fit.map, fit.settings)), points * n_fit * epochs_of(fit))
                work.add(Unit("fit", (dim, fit.map, fit.settings)), points)
        return work

    def mapped(self, fits: Sequence[MapSpec], n: int, held: int, n_fit: int, n_report: int) -> Work:
        """Maps between all pairs of n networks, `held` targets at once being fitted from one source."""
        work, dim = Work(), shape_of(self.net)[0]
        fitted = n * math.ceil(n / held)  # stacked fits, of one source to a group of targets
        for fit in fits:
            about = (dim, fit.map, fit.settings)
            work.add(Unit("image fitted", about), fitted * n_fit * epochs_of(fit))
            work.add(Unit("fit", about), fitted)
            work.add(Unit("target image", about), (n * (n - 1) - fitted) * n_fit * epochs_of(fit))
            work.add(Unit("target", about), n * (n - 1) - fitted)
            work.add(Unit("image scored", (self.net,)), n * (n - 1) * (2 * n_fit + n_report))
        return work

    def indexed(self, n: int, n_report: int) -> Work:
        """The indices of all pairs of n networks."""
        work, dim = Work(), shape_of(self.net)[0]
        for kind, times in (("source", n), ("pair", n * (n - 1)), ("half", n * (n - 1) / 2)):
            work.add(Unit(f"index {kind} image", (dim,)), times * n_report)
            work.add(Unit(f"index {kind}", (dim,)), times)
        return work


def trainer_key(trainer: Trainer) -> str:
    """What the cost of training depends on, as JSON of the yaml in `conf/trainer/`."""
    return json.dumps(trainer.model_dump(), sort_keys=True)


def epochs_of(fit: MapSpec) -> int:
    """How often a fit goes through its images."""
    return int(getattr(fit.settings, "epochs", 1))
