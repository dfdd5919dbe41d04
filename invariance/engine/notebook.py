"""Measuring from Python: any network, images and transformations in; a table of results out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from invariance.data.given import Images, fit_and_report, for_network, load_images
from invariance.device import choose_device
from invariance.engine.grids import grids_for
from invariance.engine.groups import Group, Measured
from invariance.engine.kept import Kept
from invariance.engine.measuring import Effort, Family, check, measure
from invariance.engine.recorder import Listed
from invariance.engine.results import Results, joined, load
from invariance.engine.stream import Sample
from invariance.errors import UserError, nearest
from invariance.maps import SOLVERS, Solver, solver_named
from invariance.maps.settings import name_of
from invariance.maps.spec import MapSpec
from invariance.models.layers import choose_layers
from invariance.models.model import Model, require_model
from invariance.progress import bar
from invariance.runs.origin import made_by
from invariance.transforms.base import Transform

MEASURES = ("error_rate", "l2_distance")


@dataclass(frozen=True)
class NamedTransform:
    """Transformations under a name."""

    name: str
    transform: Transform


def measure_model(
    network: Model | Sequence[Model],
    images: object,
    labels: object = None,
    fit: object = None,
    fit_labels: object = None,
    transforms: object = ("rotation",),
    layers: str | Sequence[str] = "auto",
    maps: Sequence[object] | None = None,
    device: str | None = None,
    batch: int | None = None,
    seed: int = 0,
    keep: str | Path | None = None,
    *,
    measures: Sequence[str] | None = None,
    memory_gb: float = 4.0,
    progress: bool = False,
) -> Results:
    """How invariant and how equivariant a network is, at its layers, under transformations (Sec. 5.2).

    Args:
        network: of `wrap` or `load_model`; or several, measured on the same images.
        images: uint8 (N, C, H, W), floats in [0, 255], a Dataset, a folder, or what `load_images` gives. Files and
            pictures are resized and cropped as `network.resize` says, or warped to its size.
        labels: (N,) classes by the network's own numbers; with them there is an error rate. Class folders are told by
            their names; "none" leaves them out.
        fit: images of their own on which maps are fitted; or a share of `images`, as 0.5, dealt by `seed`. None: no map
            is fitted, and the scale of L_L2 is over the reported images, which its rows say (status `report_scale`).
        fit_labels: their classes: with them and `labels` ridge has the unseen-class control.
        transforms: names of families ("rotation"; from outside the package "module:Class"), `Transform`s, or such by
            names of your own.
        layers: names or patterns; "auto", the true cuts at the ends of blocks; "*", all.
        maps: "identity", a solver's name ("ridge") or settings (`Ridge(strengths=(0.1,))`), by which the residual map
            is fitted, or a `MapSpec`. None: the identity, and ridge if there are fit images.
        device: "cpu", "gpu", "auto"; None: where the network is.
        batch: images a forward pass; None: 256.
        seed: of how `fit=0.5` deals the images.
        keep: a folder: an interrupted call given again goes on from there, a finished one is read.
        measures: error_rate, l2_distance; None: what there is.
        memory_gb: bound on the features and maps in memory.
        progress: whether to show a bar.

    Returns:
        Rows with the columns of every table of this project; see `Results`.

    Raises:
        UserError: for images, labels, layers, transformations or maps that do not serve, naming what would.
    """
    networks = _networks(network)
    asked = _Asked(
        images, labels, fit, fit_labels, transforms, layers, maps, batch, seed, measures, memory_gb, progress
    )
    found = []
    for one in networks:
        model = one if device is None else one.moved(choose_device(device))
        place = None if keep is None else Path(keep).expanduser() / (model.name if len(networks) > 1 else "")
        found.append(asked.of(model, place))
    return joined(found) if len(found) > 1 else found[0]


def _networks(network: Model | Sequence[Model]) -> list[Model]:
    """The networks that are to be measured, each of a name of its own."""
    networks: list[Any] = list(network) if isinstance(network, list | tuple) else [network]
    for one in networks:
        require_model(one, "network")
    names = [one.name for one in networks]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"network: several are called {twice[0]}; give each another name, as wrap(…, name='a')")
    return networks


@dataclass(frozen=True)
class _Asked:
    """What is asked of every network."""

    images: object
    labels: object
    fit: object
    fit_labels: object
    transforms: object
    layers: str | Sequence[str]
    maps: Sequence[object] | None
    batch: int | None
    seed: int
    measures: Sequence[str] | None
    memory_gb: float
    progress: bool

    def of(self, model: Model, place: Path | None) -> Results:
        """The results of one network."""
        if self.batch is not None and (isinstance(self.batch, bool) or not 1 <= self.batch <= 10**6):
            raise UserError(f"batch={self.batch!r}: give a whole number from 1")
        specs = _specs(self.maps, self.fit is not None)
        families = _families(self.transforms)
        report, fit = self._samples(model, families)
        _same_size(model, families, report)
        chosen = choose_layers(model, self.layers, _images(report)[:32])
        measures = self._measures(report)
        about = _about(model, report, fit, families, chosen, specs, measures)
        keep: Listed[Group, Measured] | Kept = Listed() if place is None else Kept(place, about)
        if isinstance(keep, Kept) and keep.finished:
            return load(keep.folder)
        for family in families:
            check(model, report, fit=fit, family=family, layers=chosen, maps=specs, measures=measures)
        taken = "" if _sizing(self.images, model, families) else " taken at their own size"
        print(f"{model.name}: {model.recipe}; {len(report)} images{taken}, at {', '.join(chosen)}", flush=True)
        with bar(self.progress) as shown:
            effort = Effort(self.batch or 256, self.memory_gb * 1e9, shown if self.progress else None)
            measure(
                model,
                report,
                fit=fit,
                families=families,
                layers=chosen,
                maps=specs,
                measures=measures,
                keep=keep,
                effort=effort,
            )
        results = Results.of(model.name, keep.groups, keep.results, about)
        if isinstance(keep, Kept):
            results.save(keep.folder)
            keep.remove()
        return results

    def _samples(self, model: Model, families: Sequence[Family]) -> tuple[Sample, Sample | None]:
        """The images to report on, and those to fit on."""

        def load(given: object, labels: object) -> Images:
            """Images at the size that the network takes, with its classes as labels."""
            return for_network(load_images(given, labels, **_sizing(given, model, families)), model)

        fit, report = fit_and_report(
            load(self.images, self.labels), self.fit, self.fit_labels, seed=self.seed, load=load
        )
        fitted = None if fit is None else _sample("fit", *fit, model.class_count)
        return _sample("report", *report, model.class_count), fitted

    def _measures(self, report: Sample) -> list[str]:
        if self.measures is None:
            return [one for one in MEASURES if one != "error_rate" or report.labels is not None]
        for one in self.measures:
            if one not in MEASURES:
                raise UserError(
                    f"measures: {one!r} is none{nearest(str(one), MEASURES)}; there are {', '.join(MEASURES)}"
                )
        return list(dict.fromkeys(self.measures))


def _sizing(given: object, model: Model, families: Sequence[Family]) -> dict[str, Any]:
    """How files and pictures are resized, by the network's recipe, for the families; arrays are taken as they come."""
    if isinstance(given, np.ndarray | torch.Tensor | Images) or model.size is None:
        return {}
    sides = {family.transform.source_size(model.size) for family in families}
    side = sides.pop() if len(sides) == 1 else model.size  # several are refused where the images are looked at
    return {"size": side} if model.resize is None else {"resize": model.resize.scaled(side)}


def _sample(split: str, images: Images, indices: NDArray[np.int64], classes: int | None) -> Sample:
    labels = None
    if images.labels is not None:
        labels = torch.from_numpy(images.labels[indices])
        if classes and int(labels.max()) >= classes:
            raise UserError(f"labels: class {int(labels.max())} of a network with {classes} classes; they go from 0")
    return Sample(split, images.images, indices, labels)


def _images(sample: Sample) -> NDArray[Any]:
    return np.asarray(sample.pixels)[sample.indices]


def _same_size(model: Model, families: Sequence[Family], report: Sample) -> None:
    """Refuse images that are not of the size that the network, or a family that cuts out of them, takes."""
    side = int(report.pixels.shape[-1])
    for family in families:
        wanted = None if model.size is None else family.transform.source_size(model.size)
        if wanted is not None and report.pixels.shape[-2:] != (wanted, wanted):
            height = int(report.pixels.shape[-2])
            how = f"size={wanted}" if model.resize is None else f"resize=model.resize.scaled({wanted})"
            raise UserError(
                f"images are {height} × {side} pixels, and {model.name} under {family.name} takes {wanted} × {wanted}; "
                f"give load_images(…, {how})"
            )


def _families(given: object) -> list[Family]:
    """Transformations by name, as objects, or by names of the user's."""
    if isinstance(given, Mapping):
        return [NamedTransform(str(name), _transform(one)) for name, one in given.items()]
    several = list(given) if isinstance(given, list | tuple) else [given]
    found: list[Family] = []
    for one in several:
        if isinstance(one, str):  # a family, or module:Class
            found += grids_for({"name": "baseline"}, [one], {})
        else:
            found.append(NamedTransform(type(one).__name__.lower(), _transform(one)))
    if not found:
        raise UserError("transforms: give at least one, as ['rotation']")
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"transforms: several are called {name}; name them, as {{'near': …, 'far': …}}")
    return found


def _transform(given: object) -> Transform:
    if not isinstance(given, Transform):
        raise UserError(f"transforms: a {type(given).__name__} is none; give names of families or a Transform")
    return given


def _specs(given: Sequence[object] | None, fit: bool) -> list[MapSpec]:
    """Maps by names of solvers, or their settings."""
    if isinstance(given, str):
        raise UserError(f"maps={given!r}: give a list, as [{given!r}]")
    wanted = list(given) if given is not None else ["identity", *(["ridge"] if fit else [])]
    specs = []
    for one in wanted:
        if one == "identity":
            specs.append(MapSpec("identity"))
        elif isinstance(one, MapSpec):
            specs.append(one)
        elif isinstance(one, str):
            if one not in SOLVERS and ":" not in one:
                known = ["identity", *SOLVERS]
                raise UserError(f"maps: {one!r} is none{nearest(one, known)}; there are {', '.join(known)}")
            specs.append(_spec(solver_named(one)()))
        elif isinstance(one, Solver) and not isinstance(one, type):
            specs.append(_spec(one))
        else:
            raise UserError(f"maps: a {type(one).__name__} is none; give names of solvers or their settings")
    if not specs or len({spec.name for spec in specs}) < len(specs):
        raise UserError(f"maps={wanted}: give at least one, and each solver once")
    return specs


def _spec(solver: Solver) -> MapSpec:
    """The map that a solver is taken for."""
    return MapSpec(solver.fits[0], name_of(solver), solver)


def _about(
    model: Model,
    report: Sample,
    fit: Sample | None,
    families: Sequence[Family],
    layers: Sequence[str],
    specs: Sequence[MapSpec],
    measures: Sequence[str],
) -> dict[str, Any]:
    """What decides every number, and what made them: plain data."""
    versions = {key: made_by()[key] for key in ("versions",) if key in made_by()}
    return {
        "networks": [{"name": model.name, "weights": model.weights, "recipe": model.recipe}],
        "images": {one.split: _hash(one) for one in (report, fit) if one is not None},
        "transforms": {
            family.name: [
                [point.label, {name: value.flatten().tolist()[:64] for name, value in point.params.items()}]
                for point in family.transform.grid()
            ]
            for family in families
        },
        "layers": list(layers),
        "maps": [[spec.name, repr(spec.settings)] for spec in specs],
        "measures": list(measures),
        **versions,
    }


def _hash(sample: Sample) -> str:
    """Hash of the images of a sample and their labels, in their order."""
    state = xxhash.xxh3_128()
    for index in sample.indices:
        state.update(np.ascontiguousarray(sample.pixels[index]).data)
    if sample.labels is not None:
        state.update(np.ascontiguousarray(sample.labels.numpy()).data)
    return state.hexdigest()
