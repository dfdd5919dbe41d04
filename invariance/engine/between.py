"""How far apart two networks are, or layers of one, on images that somebody has at hand (Sec. 5.3)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd
import torch
from rich.progress import Progress
from torch import Tensor

from invariance.data.given import fit_and_report, load_images
from invariance.device import machine_bytes, require
from invariance.engine.comparing import INDICES, SIDES, Result, compare, part_of, units_of
from invariance.engine.features import InMemory
from invariance.engine.pair_rows import Pair, PairRows, RowNames
from invariance.errors import UserError
from invariance.maps import Solver, solver_from_config, solvers_of
from invariance.maps.settings import name_of
from invariance.maps.spec import MapSpec
from invariance.measures import INDEX_NAMES, Measure, measure_named
from invariance.models.model import Model, require_model
from invariance.models.readout import read_readout
from invariance.progress import bar
from invariance.runs.rows import Row, to_frame
from invariance.settings.base import Settings, checked
from invariance.settings.fields import Batch, Gigabytes, Seed, native

Layers = str | Sequence[str]
Maps = str | Solver | Sequence[str | Solver]


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


class _Numbers(Settings):
    """Arguments of `compare_models` that are checked as a command's settings are."""

    seed: Seed
    batch: Batch
    memory_gb: Gigabytes | None
    scaled: bool


def compare_models(
    a: Model,
    b: Model,
    images: object,
    *,
    layers: Layers,
    layers_b: Layers | None = None,
    fit: object = None,
    maps: Maps | None = None,
    indices: Iterable[str] = INDEX_NAMES,
    scaled: bool = False,
    seed: int = 0,
    batch: int = 64,
    memory_gb: float | None = None,
    progress: bool = False,
    readout: str = "flatten",
) -> Comparison:
    """Compare two networks, or layers of one, on the same images: every layer of a with every one of b.

    Through maps E, fitted both ways: L_L2 of each way, their mean (Eq. 4) and difference (Eq. 9), with 95 % intervals
    over images. Without a map: CKA, Procrustes distance, adjusted R². Dimensions are divided by their RMS over the fit
    images before maps are fitted; σ of E is the ReLU where the target is never negative on these images.

    Args:
        a: a network with its preprocessing.
        b: another, or the same.
        images: those to report on, as `load_images` takes them.
        layers: names of the layers to compare, one or several.
        layers_b: those of b, where they are others or have other names.
        fit: images that maps are fitted on; or a share of `images` that is dealt out for it, as 0.5.
        maps: solvers of E, by name or as `Ridge(strengths=[0.1])`; None: ridge if `fit` is given, else no map.
        indices: names of the measures to take without a map, or `module:function` of X (N, D_x) and Y (N, D_y).
        scaled: whether indices are of scaled dimensions, as in a distance study; else a rotation changes nothing.
        seed: seed of the deal.
        batch: images a forward pass.
        memory_gb: bound on features and maps that are worked on at once; None: half of this machine's memory.
        progress: whether to show bars.
        readout: how layers become vectors, as "mean", each channel's mean over positions.

    Returns:
        Rows, pair by pair; `network` and `layer` name the source, `g` the target, as `network:<name>:<layer>`.

    Raises:
        UserError: for a map without fit images, images that are none, and all else that the user can mend.
    """
    given = {"seed": seed, "batch": batch, "memory_gb": memory_gb, "scaled": scaled}
    numbers = checked(_Numbers, {key: native(value) for key, value in given.items()})
    sides = _sides(images, fit, numbers.seed)
    fits, measures = _fits(maps, sides[0] is not None), _indices(indices)
    if not fits and not measures:
        raise UserError("nothing to compare by: give maps= or indices=")
    layers_of = _layers(layers, "layers"), _layers(layers if layers_b is None else layers_b, "layers_b")
    require_model(a, "a")
    require_model(b, "b")
    read_readout(readout)  # a name that is none is told at once
    memory = machine_bytes() / 2 if numbers.memory_gb is None else numbers.memory_gb * 1e9
    with bar(bool(progress)) as shown:
        return _Work((a, b), layers_of, sides, memory, numbers.batch, readout, shown).table(fits, measures, scaled)


def _sides(images: object, fit: object, seed: int) -> tuple[Tensor | None, Tensor]:
    """The images to fit maps on, if any, and those to report on."""
    fitted, reported = fit_and_report(load_images(images), fit, seed=seed)
    taken = [None if one is None else torch.from_numpy(one[0].images[one[1]]) for one in (fitted, reported)]
    assert taken[1] is not None
    return taken[0], taken[1]


def _fits(maps: Maps | None, fitted: bool) -> list[MapSpec]:
    """What is fitted: E by every solver.

    Raises:
        UserError: for what is no solver of E, one that is there twice, or any without fit images.
    """
    if maps is None:
        maps = ("ridge",) if fitted else ()
    fits: list[MapSpec] = []
    for one in [maps] if isinstance(maps, str) or not isinstance(maps, Sequence) else maps:
        solver = solver_from_config(one, {}) if isinstance(one, str) else one
        name = name_of(solver)
        if name not in (able := solvers_of("linear", [name])):
            raise UserError(f"maps: {name} cannot fit E; choose of {', '.join(able)}")
        if name in [fit.solver for fit in fits]:
            raise UserError(f"maps: {name} is there twice, and rows would not tell one from the other")
        fits.append(MapSpec("linear", name, solver))
    if fits and not fitted:
        raise UserError(
            f"maps={', '.join(fit.solver for fit in fits)} without fit images, and no map is fitted on the images that "
            "are reported on: give fit=images, or fit=0.5 to deal them"
        )
    return fits


def _indices(given: object) -> list[Measure]:
    """The measures of different names."""
    names: Any = [given] if isinstance(given, str) else list(given) if isinstance(given, Iterable) else None
    if names is None:
        raise UserError(f"indices={given!r}: give a list of {', '.join(INDEX_NAMES)}, or module:function")
    if twice := [name for k, name in enumerate(names) if name in names[:k]]:
        raise UserError(f"indices: {twice[0]} is there twice")
    return [_index(name) for name in names]


def _index(name: str) -> Measure:
    """The measure of a name, which must be one of two representations."""
    measure = measure_named(name)
    if measure.over != "images":
        raise UserError(f"indices: {name} is taken through maps or from labels; choose of {', '.join(INDEX_NAMES)}")
    return measure


def _layers(layers: Layers, what: str) -> tuple[str, ...]:
    """Names of layers, different ones."""
    names = (layers,) if isinstance(layers, str) else native(layers)
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) and name for name in names):
        raise UserError(f"{what}={layers!r}: give the name of a layer, or a list of names")
    if len(set(names)) < len(names):
        raise UserError(f"{what}={layers!r}: a layer is there twice")
    return tuple(names)


def _phi(model: Model, layers: Sequence[str], images: Tensor, work: "_Work") -> dict[str, Tensor]:
    """φ (N, D) of images at every layer, float32 in host memory, from one pass."""
    cut, batch, shown = model.cut(layers, work.readout), work.batch, work.shown
    task = shown.add_task(f"φ of {model.name}", total=len(images))
    result: dict[str, Tensor] = {}
    for start in range(0, len(images), batch):
        x = images[start : start + batch]
        for layer, r in cut.phi(model.prepare(x)).items():
            if layer not in result:
                require(4 * len(images) * r.shape[1], f"layer {layer} of {len(images)} images", "choose fewer images")
                result[layer] = torch.empty(len(images), r.shape[1])
            result[layer][start : start + batch] = r.float().cpu()
        shown.advance(task, len(x))
    shown.remove_task(task)
    return result


@dataclass(frozen=True)
class _Work:
    """Which networks are compared, on what images, and with what means.

    Attributes:
        networks: a and b.
        layers: the layers of each.
        images: the fit images, if there are any, and the report images.
        memory: bound in bytes on features and maps.
        batch: images a forward pass.
        readout: how layers become vectors.
        shown: the display to which bars are added.
    """

    networks: tuple[Model, Model]
    layers: tuple[tuple[str, ...], tuple[str, ...]]
    images: tuple[Tensor | None, Tensor]
    memory: float
    batch: int
    readout: str
    shown: Progress

    def table(self, fits: Sequence[MapSpec], measures: Sequence[Measure], scaled: bool) -> Comparison:
        """The rows of every layer of a with every one of b."""
        a, b = (network.name for network in self.networks)
        names = (a, b) if a != b else (f"{a} (a)", f"{b} (b)")
        fitted, reported = self.images
        counts = (0 if fitted is None else len(fitted), len(reported))
        named, features = {}, {}
        for side, name, network, layers in zip("ab", names, self.networks, self.layers, strict=True):
            of_report = _phi(network, layers, reported, self)
            of_fit = {} if fitted is None else _phi(network, layers, fitted, self)
            for layer in layers:
                named[f"{side}:{layer}"] = RowNames(network=name, layer=layer, g=f"network:{name}:{layer}")
                features[f"{side}:{layer}"] = of_fit.get(layer), of_report[layer]
        make = PairRows(named, SIDES, counts, measures)
        through = self._rows({label: InMemory(*one) for label, one in features.items()}, fits, (), make)
        without = self._rows({label: InMemory(*one, scaled) for label, one in features.items()}, (), measures, make)
        table = Comparison(to_frame(row for pair, rows in through.items() for row in rows + without[pair]))
        table.attrs = {"networks": names, "layers": self.layers, "images": counts, "scaled": scaled}
        return table

    @property
    def _pairs(self) -> list[Pair]:
        return [(f"a:{one}", f"b:{other}") for one, other in product(*self.layers)]

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
        bounds: dict[str, Any] = {"memory": self.memory, "device": self.networks[0].device}
        units = units_of(sources, fits, bool(indices), **bounds, wanted=lambda _, *way: way in wanted)
        return {
            (unit.kind, unit.source, target): part_of(result, unit, target)
            for unit, result in compare(
                sources, fits, indices, units=units, **bounds, progress=False if self.shown.disable else self.shown
            )
            if result is not None
            for target in unit.targets
        }
