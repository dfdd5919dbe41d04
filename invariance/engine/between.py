"""How far apart two networks are, or layers of one, on images that somebody has at hand (Sec. 5.3)."""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from rich.progress import Progress
from torch import Tensor

from invariance.data.given import Images, fit_and_report, load_images
from invariance.device import machine_bytes
from invariance.engine.kept import place_of
from invariance.engine.layer_pairs import Compared, Comparison, LayerPairs
from invariance.engine.looks import look_of_model
from invariance.engine.pair_units import UnitResults
from invariance.engine.results import ROWS
from invariance.engine.stream import Sample
from invariance.errors import UserError
from invariance.maps import Solver, solver_from_config, solvers_of
from invariance.maps.settings import name_of
from invariance.maps.spec import MapSpec
from invariance.measures import INDEX_NAMES, Measure, measure_named
from invariance.models.layers import choose_layers, choose_readouts
from invariance.models.model import Model, require_model
from invariance.progress import bar
from invariance.runs.checked import DamagedFile, digest, read_facts, write_facts
from invariance.runs.origin import made_by
from invariance.runs.rows import read_rows, write_rows
from invariance.settings.base import Settings, checked
from invariance.settings.fields import Batch, Gigabytes, Seed, native

Layers = str | Sequence[str]
Maps = str | Solver | Sequence[str | Solver]

_ABOUT = "comparison.json"
_LOOKED_AT = 32


class _Numbers(Settings):
    """Arguments of `compare_models` that are checked as a command's settings are."""

    seed: Seed
    batch: Batch
    memory_gb: Gigabytes | None
    scaled: bool

    @classmethod
    def of(cls, **given: object) -> Self:
        """The numbers that a user gave, checked."""
        return checked(cls, {key: native(value) for key, value in given.items()})


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
    readout: str | Mapping[str, str] = "auto",
    readout_b: str | Mapping[str, str] | None = None,
    keep: str | Path | None = None,
) -> Comparison:
    """Compare two networks, or layers of one, on the same images: every layer of a with every one of b.

    Through maps E, fitted both ways: L_L2 of each way, their mean (Eq. 4) and difference (Eq. 9), with 95 % intervals
    over images. Without a map: CKA, Procrustes distance, adjusted R². Dimensions are divided by their RMS over the fit
    images before maps are fitted; σ of E is the ReLU where the target is never negative on these images.

    Args:
        a: a network with its preprocessing.
        b: another, or the same.
        images: those to report on, as `load_images` takes them; files are resized as each network says.
        layers: names or patterns of the layers to compare; "auto", the true cuts at the ends of blocks; "*", all.
        layers_b: those of b, where they are others.
        fit: images that maps are fitted on; or a share of `images` that is dealt out for it, as 0.5.
        maps: solvers of E, by name or as `Ridge(strengths=[0.1])`; None: ridge if `fit` is given, else no map.
        indices: names of measures without a map, or `module:function` of X (N, D_x) and Y (N, D_y).
        scaled: whether indices are of scaled dimensions, as in a distance study.
        seed: seed of the deal.
        batch: images a forward pass.
        memory_gb: bound on features and maps that are worked on at once; None: half of this machine's memory.
        progress: whether to show bars.
        readout: how layers become vectors, as `measure_model` has it.
        readout_b: those of b, where they are others.
        keep: a folder: an interrupted call given again goes on from there, a finished one is read.

    Returns:
        Rows, pair by pair; `network` and `layer` name the source, `g` the target, as `network:<name>:<layer>`.

    Raises:
        UserError: for a map without fit images, images that are none, and all else that the user can mend.
    """
    numbers = _Numbers.of(seed=seed, batch=batch, memory_gb=memory_gb, scaled=scaled)
    require_model(a, "a")
    require_model(b, "b")
    wanted = _layers(layers, "layers"), _layers(layers if layers_b is None else layers_b, "layers_b")
    samples = _samples(images, fit, numbers.seed, (a, b))
    fits, measures = _fits(maps, samples[0][0] is not None), _indices(indices)
    if not fits and not measures:
        raise UserError("nothing to compare by: give maps= or indices=")
    sides = _both((a, b), wanted, (readout, readout if readout_b is None else readout_b), samples, bool(fits))
    with bar(bool(progress)) as shown:
        return _table(sides, fits, measures, numbers, None if keep is None else place_of(keep, None), shown)


def _both(
    models: tuple[Model, Model],
    layers: tuple[str | Sequence[str], str | Sequence[str]],
    readouts: tuple[str | Mapping[str, str], str | Mapping[str, str]],
    samples: Sequence[tuple[Sample | None, Sample]],
    fitted: bool,
) -> tuple[Compared, Compared]:
    """Both networks, with names that tell them apart."""
    a, b = (model.name for model in models)
    one, other = (a, b) if a != b else (f"{a} (a)", f"{b} (b)")
    return (
        compared(one, models[0], layers[0], readouts[0], *samples[0], fitted=fitted),
        compared(other, models[1], layers[1], readouts[1], *samples[1], fitted=fitted),
    )


def _table(
    sides: tuple[Compared, Compared],
    fits: Sequence[MapSpec],
    measures: Sequence[Measure],
    numbers: _Numbers,
    place: Path | None,
    shown: Progress,
) -> Comparison:
    """The comparison, of which a folder may hold all or a part."""
    memory = machine_bytes() / 2 if numbers.memory_gb is None else numbers.memory_gb * 1e9
    if place is None:
        return LayerPairs(sides, memory, numbers.batch, shown).table(fits, measures, numbers.scaled)
    about = _about(sides, fits, measures, numbers.scaled)
    if (held := _held(place, about)) is not None:
        return held
    units, run = UnitResults(place, about), place.name or "comparison"
    pairs = LayerPairs(sides, memory, numbers.batch, shown, run=run, units=units)
    table = pairs.table(fits, measures, numbers.scaled)
    _hold(place, about, table)
    return table


def compared(
    name: str,
    model: Model,
    layers: str | Sequence[str],
    readout: str | Mapping[str, str],
    fit: Sample | None,
    report: Sample,
    *,
    fitted: bool,
    called: str = "",
) -> Compared:
    """A network that is compared, its layers and their readouts chosen by a look at a few images.

    Args:
        name: how rows call it.
        model: the network.
        layers: names or patterns, "auto" or "*".
        readout: as `choose_readouts` takes it.
        fit: the images that maps are fitted on.
        report: those that numbers are over.
        fitted: whether maps are fitted.
        called: its source and name, where rows are to name them.

    Raises:
        UserError: for layers that there are not, or that cannot be read so.
    """
    seen = torch.from_numpy(np.asarray(report.pixels[report.indices[:_LOOKED_AT]])).float()
    chosen = choose_layers(model, layers, seen)
    return Compared(name, model, choose_readouts(model, chosen, readout, seen, fitted=fitted), fit, report, called)


def _samples(images: object, fit: object, seed: int, models: tuple[Model, Model]) -> list[tuple[Sample | None, Sample]]:
    """The images to fit maps on, if any, and those to report on, as each network takes them."""
    ways = [_sizing(images, model) for model in models]
    found: list[tuple[Sample | None, Sample]] = []
    for k, way in enumerate(ways):
        if k and way == ways[0]:
            return [found[0], found[0]]

        def load(given: object, labels: object, way: Mapping[str, Any] = way) -> Images:
            """Images at the size that the network takes."""
            if isinstance(given, np.ndarray | torch.Tensor | Images):
                way = {}
            return load_images(given, labels, **way)

        fitted, reported = fit_and_report(load(images, None), fit, seed=seed, load=load)
        report = Sample("report", reported[0].images, reported[1], None)
        found.append((None if fitted is None else Sample("fit", fitted[0].images, fitted[1], None), report))
    return found


def _sizing(images: object, model: Model) -> dict[str, Any]:
    """How files and pictures are resized for a network; arrays are taken as they come."""
    if isinstance(images, np.ndarray | torch.Tensor | Images) or model.size is None:
        return {}
    return {"size": model.size} if model.resize is None else {"resize": model.resize}


def _about(
    sides: Sequence[Compared], fits: Sequence[MapSpec], measures: Sequence[Measure], scaled: bool
) -> dict[str, Any]:
    """What decides every number, and what made them: plain data."""
    about = {
        "networks": [
            {
                "name": one.name,
                "weights": one.network.weights,
                "recipe": one.network.recipe,
                "readouts": dict(one.readouts),
                "prepared": look_of_model(one.network, _first(one.report)),
                "images": [None if part is None else part.digest for part in (one.fit, one.report)],
            }
            for one in sides
        ],
        "maps": [[fit.name, repr(fit.settings)] for fit in fits],
        "indices": [measure.name for measure in measures],
        "scaled": scaled,
        "versions": made_by().get("versions"),
    }
    plain: dict[str, Any] = json.loads(json.dumps(about, default=repr))  # as it is read back
    return plain


def _first(sample: Sample) -> Tensor:
    """The first image, float (1, C, H, W)."""
    return torch.from_numpy(np.asarray(sample.pixels[sample.indices[:1]])).float()


def _held(folder: Path, about: Mapping[str, Any]) -> Comparison | None:
    """The finished comparison that a folder holds, if it does.

    Raises:
        UserError: if it holds another, or something else.
    """
    try:
        facts, _ = read_facts(folder / _ABOUT)
        content = (folder / ROWS).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"keep={str(folder)!r} is no folder; choose another place") from None
        begun = {_ABOUT, "units"}
        if folder.is_dir() and (other := sorted({one.name for one in folder.iterdir()} - begun)):
            raise UserError(f"{folder} holds {other[0]}, and no comparison; choose an empty folder") from None
        return None
    except (DamagedFile, OSError) as error:
        raise UserError(f"{folder / _ABOUT} is damaged ({error}); delete the folder and compare again") from error
    if facts.get("about") != about:
        raise UserError(f"{folder} holds another comparison; choose another folder")
    if facts.get("rows") != digest(content):
        raise UserError(f"{folder / ROWS} is not as it was written; delete the folder and compare again")
    table = Comparison(read_rows(folder / ROWS, content))
    held = facts["attrs"]
    pairs = {name: tuple(held[name]) for name in ("networks", "readouts", "images")}
    table.attrs = {**held, **pairs, "layers": tuple(map(tuple, held["layers"]))}
    return table


def _hold(folder: Path, about: Mapping[str, Any], table: Comparison) -> None:
    """Keep a finished comparison in a folder, in the place of its units."""
    write_rows(folder / ROWS, pd.DataFrame(table))
    rows = digest((folder / ROWS).read_bytes())
    write_facts(folder / _ABOUT, {"about": about, "rows": rows, "attrs": table.attrs})
    shutil.rmtree(folder / "units", ignore_errors=True)


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
