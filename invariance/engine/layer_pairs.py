"""Layers of two networks compared on the same images, every one of the one with every one of the other (Sec. 5.3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd
import torch
from rich.progress import Progress
from torch import Tensor

from invariance.device import require
from invariance.engine.comparing import INDICES, SIDES, PairUnit, Result, compare, part_of, units_of
from invariance.engine.features import InMemory
from invariance.engine.pair_rows import Pair, PairRows, RowNames
from invariance.engine.pair_units import UnitResults
from invariance.engine.stream import Sample, batches
from invariance.errors import UserError
from invariance.maps.spec import MapSpec
from invariance.measures import Measure
from invariance.models.model import Model
from invariance.runs.rows import Row, to_frame


class Comparison(pd.DataFrame):  # type: ignore[misc]  # pandas has no types
    """What comparing came to: a row a number, with the columns that all rows of the project have.

    `attrs` holds the names of the two networks (`networks`), their layers (`layers`), how many images maps were fitted
    and numbers taken on (`images`), and whether the indices are of scaled dimensions (`scaled`).
    """

    @property
    def _constructor(self) -> type["Comparison"]:
        return Comparison

    def matrix(
        self, metric: str, *, solver: str | None = None, split: str = "report", back: bool = False
    ) -> pd.DataFrame:
        """One measure between every layer of the first network (rows) and of the second (columns).

        Args:
            metric: name of the measure, as rows have it.
            solver: of a measure through maps, how they were fitted; None: the only way there is.
            split: "report" or "fit".
            back: of a measure with a direction, from the second network to the first.

        Raises:
            UserError: if there are no such rows, or rows of several solvers.
        """
        (a, b), (of_a, of_b) = self.attrs["networks"], self.attrs["layers"]
        rows = self[(self["metric"] == metric) & (self["split"] == split) & (self["network"] == (b if back else a))]
        if solver is not None:
            rows = rows[rows["solver"] == solver]
        if not len(rows):
            there = ", ".join(self["metric"].unique())
            raise UserError(
                f"matrix of metric={metric!r}, solver={solver!r}, split={split!r}: there are rows of {there}"
            )
        if len(solvers := rows["solver"].unique()) > 1:
            raise UserError(f"matrix of {metric}: there are {' and '.join(solvers)}; choose one with solver=")
        table = pd.DataFrame(index=pd.Index(of_a, name=a), columns=pd.Index(of_b, name=b), dtype=float)
        targets = rows["g"].str.rsplit(":", n=1).str[1]
        for source, target, score in zip(rows["layer"], targets, rows["score"], strict=True):
            table.loc[(target, source) if back else (source, target)] = score
        return table


@dataclass(frozen=True)
class Compared:
    """A network that is compared.

    Attributes:
        name: how rows call it.
        network: the network.
        readouts: its layers, with the readout of each.
        fit: the images that maps are fitted on, at its size; None: there are none.
        report: those that numbers are over.
        model: its source and name, where rows name them.
    """

    name: str
    network: Model
    readouts: Mapping[str, str]
    fit: Sample | None
    report: Sample
    model: str = ""

    @property
    def layers(self) -> tuple[str, ...]:
        """Its layers."""
        return tuple(self.readouts)


class _Units:
    """A recorder of units in a folder; see `Recorder`."""

    def __init__(self, results: UnitResults) -> None:
        self.results = results

    def has(self, group: PairUnit) -> bool:
        """See `Recorder`."""
        return self.results.read(group) is not None

    def add(self, group: PairUnit, result: Result) -> None:
        """See `Recorder`."""
        self.results.write(group, result)

    def note(self, done: int, of: int) -> None:
        """Nobody watches."""


@dataclass(frozen=True)
class LayerPairs:
    """Two networks, and with what means they are compared.

    Attributes:
        sides: a and b, of the same images in the same order.
        memory: bound in bytes on features and maps.
        batch: images a forward pass.
        shown: the display to which bars are added.
        data: what rows call the images.
        run: what rows call the run.
        splits: what rows call the images to fit on and those to report on.
        units: keeps what was computed, so that an interrupted comparison goes on.
    """

    sides: tuple[Compared, Compared]
    memory: float
    batch: int
    shown: Progress
    data: str = ""
    run: str = ""
    splits: tuple[str, str] = SIDES
    units: UnitResults | None = None

    def table(self, fits: Sequence[MapSpec], measures: Sequence[Measure], scaled: bool) -> Comparison:
        """The rows of every layer of a with every one of b.

        Args:
            fits: the maps E and their solvers.
            measures: what is taken without a map.
            scaled: whether that is of scaled dimensions.
        """
        a, b = self.sides
        named, features = {}, {}
        for side, one in zip("ab", self.sides, strict=True):
            of_report = phi(one.network, one.readouts, one.report, self.batch, self.shown)
            of_fit = {} if one.fit is None else phi(one.network, one.readouts, one.fit, self.batch, self.shown)
            for layer, readout in one.readouts.items():
                named[f"{side}:{layer}"] = RowNames(
                    network=one.name,
                    layer=layer,
                    g=f"network:{one.name}:{layer}",
                    data=self.data,
                    model=one.model,
                    readout=readout,
                )
                features[f"{side}:{layer}"] = of_fit.get(layer), of_report[layer]
        counts = (0 if a.fit is None else len(a.fit), len(a.report))
        make = PairRows(named, self.splits, counts, measures, lambda _pair, _kind: self.run)
        through = self._rows({label: InMemory(*one) for label, one in features.items()}, fits, (), make)
        without = self._rows({label: InMemory(*one, scaled) for label, one in features.items()}, (), measures, make)
        table = Comparison(to_frame(row for pair, rows in through.items() for row in rows + without[pair]))
        table.attrs = {
            "networks": (a.name, b.name),
            "layers": (a.layers, b.layers),
            "readouts": (dict(a.readouts), dict(b.readouts)),
            "images": counts,
            "scaled": scaled,
        }
        return table

    @property
    def _pairs(self) -> list[Pair]:
        a, b = self.sides
        return [(f"a:{one}", f"b:{other}") for one, other in product(a.layers, b.layers)]

    def _rows(
        self, sources: Mapping[str, InMemory], fits: Sequence[MapSpec], indices: Sequence[Measure], make: PairRows
    ) -> dict[Pair, list[Row]]:
        """The rows of every pair by these ways of comparing, way by way."""
        found = self._found(sources, fits, indices)
        rows: dict[Pair, list[Row]] = {pair: [] for pair in self._pairs}
        for fit in (*fits, *((None,) if indices else ())):
            kind, computed = fit.name if fit else INDICES, {}
            for a, b in rows:
                if flaw := sources[a].flaw or sources[b].flaw:
                    rows[a, b] += make.of_flawed((a, b), fit, flaw)
                else:
                    computed[a, b] = found[kind, a, b], found[kind, b, a]
            if computed:
                new = make.of_fit(fit, computed) if fit else make.of_indices(computed)
                for pair, of_pair in new.items():
                    rows[pair] += of_pair
        return rows

    def _found(
        self, sources: Mapping[str, InMemory], fits: Sequence[MapSpec], indices: Sequence[Measure]
    ) -> dict[tuple[str, str, str], Result]:
        """What came out by way, source and target."""
        wanted = {way for pair in self._pairs for way in (pair, pair[::-1])}
        bounds: dict[str, Any] = {"memory": self.memory, "device": self.sides[0].network.device}
        units = units_of(sources, fits, bool(indices), **bounds, wanted=lambda _, *way: way in wanted)
        keep = None if self.units is None else _Units(self.units)
        progress = False if self.shown.disable else self.shown
        found: dict[tuple[str, str, str], Result] = {}
        for unit, new in compare(sources, fits, indices, units=units, keep=keep, **bounds, progress=progress):
            result = new if new is not None or self.units is None else self.units.read(unit)
            if result is None:
                raise UserError(f"what was computed of {unit.source} was damaged meanwhile; repeat the call")
            found |= {(unit.kind, unit.source, target): part_of(result, unit, target) for target in unit.targets}
        return found


def phi(model: Model, readouts: Mapping[str, str], sample: Sample, batch: int, shown: Progress) -> dict[str, Tensor]:
    """φ (N, D) of images at every layer, float32 in host memory, from one pass.

    Args:
        model: the network.
        readouts: the layers, with the readout of each.
        sample: the images.
        batch: images a pass.
        shown: the display to which a bar is added.

    Raises:
        UserError: if a layer cannot be measured, or memory cannot hold what it gives.
    """
    cut = model.cut(list(readouts), readouts)
    task = shown.add_task(f"φ of {model.name}", total=len(sample))
    result: dict[str, Tensor] = {}
    for span, x in batches(sample.pixels, sample.indices, batch, model.device):
        for layer, r in cut.phi(model.prepare(x)).items():
            if layer not in result:
                require(4 * len(sample) * r.shape[1], f"layer {layer} of {len(sample)} images", "choose fewer images")
                result[layer] = torch.empty(len(sample), r.shape[1])
            result[layer][span] = r.float().cpu()
        shown.advance(task, len(x))
    shown.remove_task(task)
    return result
