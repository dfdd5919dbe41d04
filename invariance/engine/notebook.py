"""Measuring from Python: any network, images and transformations in; a table of results out."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from pydantic import Field

from invariance.data.given import Images, fit_and_report, for_network, load_images
from invariance.engine.alike import check_alike
from invariance.engine.derivative import DERIVATIVE, settled_by
from invariance.engine.foreseen import Share, foresee
from invariance.engine.given import check_shuffled, families_given, maps_given, more_given
from invariance.engine.groups import Group, Measured
from invariance.engine.inputs import has_input, layers_and_input, measure_input
from invariance.engine.kept import Kept, note_networks, place_of
from invariance.engine.looks import look_of_model, looks_of_grid
from invariance.engine.measuring import Effort, Family, More, check, measure
from invariance.engine.recorder import Listed
from invariance.engine.replaced import no_classes, probed
from invariance.engine.results import Results, joined, load
from invariance.engine.stream import Sample
from invariance.errors import UserError, nearest
from invariance.maps.spec import MapSpec, leaning, parted
from invariance.measures import MEASURES
from invariance.models.cut import Cut
from invariance.models.layers import choose_layers, choose_readouts
from invariance.models.model import Model, require_model
from invariance.models.positions import positions_of
from invariance.progress import bar
from invariance.runs.origin import made_by, versions_of
from invariance.settings.base import Settings, checked
from invariance.settings.fields import Batch, Seed, native
from invariance.transforms.base import UNTOUCHED, Params, Transform

MEASURED = tuple(name for name, one in MEASURES.items() if one.function)
"""What can be measured: of single images, between φ(gx) and φ(x) as a whole, and how fast φ changes."""


class _Numbers(Settings):
    """Arguments of `measure_model` that are checked as a command's settings are."""

    batch: Batch | None
    seed: Seed
    memory_gb: Annotated[float, Field(gt=0, le=1e9)]
    progress: bool
    plan: bool

    @classmethod
    def of(cls, **given: object) -> Self:
        """The numbers that a user gave, checked."""
        return checked(cls, {key: native(value) for key, value in given.items()})


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
    readout: str | Mapping[str, str] = "auto",
    measures: Sequence[str] | None = None,
    nulls: bool | Sequence[str] = True,
    intervals: bool = False,
    dtype: object = None,
    memory_gb: float = 4.0,
    progress: bool = False,
    plan: bool = False,
) -> Results:
    """How invariant and how equivariant a network is, at its layers, under transformations (Sec. 5.2).

    Args:
        network: of `wrap` or `load_model`; or several, measured on the same images.
        images: uint8 (N, C, H, W), floats in [0, 255], a Dataset or folder (see `network.resize`), or `Images`.
        labels: (N,) classes by the network's own numbers; class folders are told by their names; "none": left out.
        fit: images of their own on which maps are fitted; or a share of `images`, as 0.5, dealt by `seed`. None: no map
            is fitted, and the scale of L_L2 is over the reported images, which its rows say (status `report_scale`).
        fit_labels: their classes: with them and `labels` ridge has the unseen-class control.
        transforms: families by name ("rotation", or "module:Class"), `Transform`s, or such by names of your own.
        layers: names; or, with rows of the input, too: "auto", the true cuts at the ends of blocks, patterns, "*".
        maps: "identity", a solver's name ("ridge") or settings (`Ridge(strengths=(0.1,))`), by which the residual map
            is fitted, "low_rank:8", "orthogonal", "mlp", "spatial", "warp"; a `MapSpec`. None: identity, ridge if fit=.
        device: "cpu", "gpu", "auto"; None: where the network is.
        batch: images a forward pass at most; None: 256.
        seed: of how `fit=0.5` deals the images.
        keep: a folder: an interrupted call given again goes on from there, a finished one is read.
        readout: "flatten", "mean", "cls", "token:k" or "project:k", or such by names and patterns of layers; "auto":
            flatten where D ≤ 4096 or no map is fitted, else mean.
        measures: some of `MEASURED`, as ["cka"]. None: l2_distance, and error_rate, or without labels agreement.
        nulls: whether rows have nulls, at twice the cost of maps; ["online_sgd"] has its maps of shuffled pairs, too.
        intervals: whether cka, procrustes and r2 have intervals, at ten times their cost.
        dtype: what the network computes in: None (float32), "float64", "bfloat16", "float16", as its name then says.
        memory_gb: bound on the features and maps in memory.
        progress: whether there is a bar.
        plan: whether to print alone what it will take, which the first line says in any case; there are no rows then.

    Returns:
        Rows with the columns of every table of this project; see `Results`.

    Raises:
        UserError: for images, labels, layers, transformations or maps that do not serve, naming what would.
    """
    numbers = _Numbers.of(batch=batch, seed=seed, memory_gb=memory_gb, progress=progress, plan=plan)
    more = more_given(nulls, intervals)
    asked = _Asked(images, labels, fit, fit_labels, transforms, layers, maps, measures, more, numbers, readout)
    return _of_all(asked, [one.typed(dtype) for one in _networks(network)], device, keep)


def _of_all(asked: "_Asked", networks: Sequence[Model], device: str | None, keep: str | Path | None) -> Results:
    """The results of every network, as one, each kept in a folder of its own below that of several."""
    found = []
    for one in networks:
        model = one.moved(device)
        place = (
            None if keep is None or asked.numbers.plan else place_of(keep, model.name if len(networks) > 1 else None)
        )
        found.append(asked.of(model, place))
    if len(found) == 1:
        return found[0]
    if keep is not None and not asked.numbers.plan:
        note_networks(keep, [one.name for one in networks])
    return joined(found)


def _networks(network: Model | Sequence[Model]) -> list[Model]:
    """The networks that are to be measured, each of a name of its own."""
    networks: list[Any] = list(network) if isinstance(network, list | tuple) else [network]
    if not networks:
        raise UserError("network: give at least one, of wrap(…) or load_model(…)")
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
    measures: Sequence[str] | None
    more: More
    numbers: _Numbers
    readout: str | Mapping[str, str]

    def of(self, model: Model, place: Path | None) -> Results:
        """The results of one network."""
        specs = maps_given(self.maps, self.fit is not None)
        families = families_given(self.transforms)
        report, fit = self._samples(model, families)
        _same_size(model, families, report)
        image = torch.from_numpy(np.asarray(report.pixels[report.indices[:1]])).float()
        looks = {family.name: looks_of_grid(family.name, family.transform, image) for family in families}
        seen = _untouched(report, families[0].transform)
        layers, beside = layers_and_input(model, self.layers)
        chosen = choose_layers(model, layers, seen)
        fitted = any(spec.settings is not None for spec in parted(specs)[0])
        readouts = choose_readouts(model, chosen, self.readout, seen, fitted=fitted)
        check_shuffled(self.more, specs)
        measures = self._measures(model, report, families[0].transform)
        check_alike(measures, [spec.map for spec in specs])
        about = _about(model, look_of_model(model, image), looks, report, fit, families, readouts, specs, measures)
        about |= {"nulls": [self.more.nulls, *self.more.shuffled], "intervals": self.more.intervals}
        if parted(specs)[1]:
            about["positions"] = {name: str(at) for name, at in positions_of(model, chosen, seen)[0].items()}
        if of_input := has_input(beside, specs, measures):
            about["input"] = True
        keep: Listed[Group, Measured] | Kept = Listed() if place is None else Kept(place, about)
        if isinstance(keep, Kept) and keep.finished:
            return load(keep.folder)
        asked: dict[str, Any] = {"fit": fit, "measures": measures, "readouts": readouts}
        cut = model.cut(chosen, readouts)
        for family in families:
            check(model, report, family=family, layers=chosen, maps=specs, cut=cut, **asked)
        effort = Effort(self.numbers.batch or 256, self.numbers.memory_gb * 1e9)
        self._say(model, report, families, specs, effort, cut, **asked)
        if self.numbers.plan:
            return Results.of(model.name, [], [], about)
        with bar(self.numbers.progress) as shown:
            effort = replace(effort, progress=shown if self.numbers.progress else None)
            common: dict[str, Any] = {"families": families, "keep": keep, "more": self.more, "effort": effort}
            if of_input:
                measure_input(model, report, fit=fit, spec=of_input, **common)
            measure(model, report, layers=chosen, maps=specs, cut=cut, **common, **asked)
        results = Results.of(model.name, keep.groups, keep.results, about, _labels(report, fit))
        if isinstance(keep, Kept):
            results.save(keep.folder)
            keep.remove()
        return results

    def _say(
        self,
        model: Model,
        report: Sample,
        families: Sequence[Family],
        specs: Sequence[MapSpec],
        effort: Effort,
        cut: Cut,
        *,
        fit: Sample | None,
        measures: Sequence[str],
        readouts: Mapping[str, str],
    ) -> None:
        """Say what it will take, how the network takes its images, and what maps lean on."""
        maps, derivative = ([] if list(measures) == [DERIVATIVE] else specs), DERIVATIVE in measures
        dims = {layer: cut.reading(layer).dim for layer in cut.layers}
        shares = [Share(len(family.transform.grid()), list(dims), maps, derivative) for family in families]
        transform, at_g = families[0].transform, [one for one in measures if one != DERIVATIVE]
        told: dict[str, Any] = {
            "transform": transform,
            "cut": cut,
            "measures": at_g,
            "more": self.more,
            "effort": effort,
        }
        print(foresee(model, report, fit, shares, **told).told, flush=True)
        at = ", ".join(layer if name == "flatten" else f"{layer} ({name})" for layer, name in readouts.items())
        taken = "" if _sizing(self.images, model, families) else " taken at their own size"
        print(f"{model.name}: {model.recipe}; {len(report)} images{taken}, at {at}", flush=True)
        for line in leaning(specs, dims, 0 if fit is None else len(fit)):
            print(line, flush=True)

    def _samples(self, model: Model, families: Sequence[Family]) -> tuple[Sample, Sample | None]:
        """The images to report on, and those to fit on."""

        def load(given: object, labels: object) -> Images:
            """Images at the size that the network takes, with its classes as labels."""
            return for_network(load_images(given, labels, **_sizing(given, model, families)), model)

        fit, report = fit_and_report(
            load(self.images, self.labels), self.fit, self.fit_labels, seed=self.numbers.seed, load=load
        )
        fitted = None if fit is None else _sample("fit", *fit, model.class_count)
        return _sample("report", *report, model.class_count), fitted

    def _measures(self, model: Model, report: Sample, transform: Transform) -> list[str]:
        if self.measures is None and report.labels is not None:
            return ["error_rate", "l2_distance"]
        if self.measures is None:
            return ["agreement", "l2_distance"] if _names_classes(model, report, transform) else ["l2_distance"]
        if not isinstance(self.measures, list | tuple) or not self.measures:
            raise UserError(f"measures={self.measures!r}: give a list of {', '.join(MEASURED)}")
        for one in self.measures:
            if one not in MEASURED:
                raise UserError(
                    f"measures: {one!r} is none{nearest(str(one), MEASURED)}; there are {', '.join(MEASURED)}"
                )
        return list(dict.fromkeys(self.measures))


def _names_classes(model: Model, report: Sample, transform: Transform) -> bool:
    """Whether the network names classes, which agreement is of; if not, a line says so."""
    untouched = next(point for point in transform.grid() if point.label == UNTOUCHED)
    why = no_classes(model.cut(["logits"]), probed(model, report, transform, untouched))
    if why:
        print(f"{model.name}: agreement is left out: {why}", flush=True)
    return not why


def _labels(report: Sample, fit: Sample | None) -> dict[str, NDArray[np.int64]]:
    """The classes of the images by split, where they are known."""
    return {
        one.split: one.labels.numpy().astype(np.int64)
        for one in (report, fit)
        if one is not None and one.labels is not None
    }


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


def _untouched(sample: Sample, transform: Transform) -> torch.Tensor:
    """Some images as a network is shown them untouched, (B, C, H, W): Crop cuts them out of larger ones."""
    untouched = next(point for point in transform.grid() if point.label == UNTOUCHED)
    return transform.apply(torch.from_numpy(np.asarray(sample.pixels[sample.indices[:32]])).float(), untouched.params)


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


def _about(
    model: Model,
    prepared: str,
    looks: Mapping[str, list[list[str]]],
    report: Sample,
    fit: Sample | None,
    families: Sequence[Family],
    readouts: Mapping[str, str],
    specs: Sequence[MapSpec],
    measures: Sequence[str],
) -> dict[str, Any]:
    """What decides every number, and what made them: plain data."""
    versions = {**made_by()["versions"], **versions_of(model.libraries)}
    settled = {one.name: settled_by(one.transform) for one in families}
    about = {
        "networks": [{"name": model.name, "weights": model.weights, "recipe": model.recipe, "prepared": prepared}],
        "images": {one.split: one.digest for one in (report, fit) if one is not None},
        "transforms": {
            family.name: {
                "of": f"{type(family.transform).__module__}.{type(family.transform).__qualname__}",
                "beside": dict(family.transform.beside()),
                "g": [[point.label, _hash_of(point.params)] for point in family.transform.grid()],
                "looks": looks[family.name],
            }
            for family in families
        },
        "layers": list(readouts),
        "readouts": dict(readouts),
        "scale": "one a dimension" if model.ours else "one a channel, at least 1 % of the layer's",
        "maps": [[spec.name, repr(spec.settings)] for spec in specs],
        "measures": list(measures),
        "ordinal": [family.name for family in families if family.transform.ordinal],
        **({"derivative": settled} if DERIVATIVE in measures else {}),
        "versions": versions,
    }
    plain: dict[str, Any] = json.loads(json.dumps(about, default=repr))  # as it is read back
    return plain


def _hash_of(params: Params) -> str:
    """Hash of the parameters of one g."""
    state = xxhash.xxh3_128()
    for name, value in sorted(params.items()):
        state.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        state.update(np.ascontiguousarray(value.detach().cpu().numpy()).tobytes())
    return state.hexdigest()
