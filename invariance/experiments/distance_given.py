"""Any networks compared layer by layer on the same images: `invariance-distance models=[timm/resnet18,…]`."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from invariance.data.prepared import Prepared, prepare
from invariance.data.sources.base import data_config
from invariance.device import choose_device
from invariance.engine.between import compared
from invariance.engine.comparing import INDICES
from invariance.engine.layer_pairs import Compared, Comparison, LayerPairs
from invariance.engine.pair_units import UnitResults
from invariance.engine.store import FeatureImages
from invariance.errors import UserError, nearest
from invariance.experiments.given import Given, given, seen_by, telling_colour, told_layers, told_size
from invariance.experiments.recording import samples
from invariance.maps.spec import MapSpec
from invariance.measures import INDEX_NAMES, MEASURES, Measure
from invariance.models.readout import AUTO, read_readout
from invariance.models.sources import SOURCES
from invariance.progress import bar
from invariance.runs.files import write_text
from invariance.runs.outputs import require_writable
from invariance.runs.places import folder_name
from invariance.runs.run import Run
from invariance.runs.wandb import Tracker
from invariance.settings.base import checked
from invariance.settings.parts import GivenModel
from invariance.settings.paths import folder
from invariance.transforms.baseline import Baseline


@dataclass(frozen=True)
class _Member:
    """A network that is compared, and the images as it takes them."""

    network: Given
    images: FeatureImages
    side: Compared


def distance_given(config: Mapping[str, Any], fits: Sequence[MapSpec]) -> None:
    """Compare every pair of the networks that `models=` names, or the layers of one, and write a run for each pair.

    Args:
        config: the configuration of `conf/distance.yaml`, plain and resolved, with models and data.
        fits: the maps E and their solvers.

    Raises:
        UserError: for anything the user can mend.
    """
    measures = [MEASURES[name] for name in INDEX_NAMES] if INDICES in config["metrics"] else []
    members = [_member(settings, config, bool(fits)) for settings in _settings(config["models"])]
    _same_images(members)
    for a, b in list(combinations(members, 2)) or [(members[0], members[0])]:
        _compare(a, b, fits, measures, config)


def check_models(config: Mapping[str, Any]) -> None:
    """Refuse what can be refused before a network is loaded.

    Raises:
        UserError: for a network that is none, two of one label, layers of a network that is not there.
    """
    labels = [one.label or folder_name(one.name) for one in _settings(config["models"])]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"models: several are called {label}; name them, as {{name: timm/resnet18, label: mine}}")
    if isinstance(config["layers"], dict):
        for label in config["layers"]:
            if label not in labels:
                raise UserError(f"layers: {label!r} is none of the models{nearest(label, labels)}")
    readout = config["readout"]
    for name in [readout] if isinstance(readout, str) else readout.values():
        if name != AUTO:
            read_readout(name)
    data_config(config["data"])


def _settings(models: Sequence[object]) -> list[GivenModel]:
    """What `models=` names, as `model=` would."""
    found = []
    for k, one in enumerate(models):
        held = {"name": one} if isinstance(one, str) else dict(one) if isinstance(one, Mapping) else {}
        name = held.get("name")
        if not isinstance(name, str) or not name:
            raise UserError(f"models[{k}]: give a name, as timm/resnet18, or {{name: timm/resnet18, weights: random}}")
        source, slash, rest = name.partition("/")
        if slash and (source in SOURCES or ":" in source):
            held |= {"source": source, "name": rest}
        elif ":" in name and not slash:
            held["source"] = "function"
        else:  # a folder, which is looked for
            held = {"label": folder_name("_".join(Path(name).parts[-3:])), **held, "source": "run"}
        found.append(checked(GivenModel, held, f"models[{k}]"))
    return found


def _member(settings: GivenModel, config: Mapping[str, Any], fitted: bool) -> _Member:
    """A network with its images at the size that it takes, and its layers; and the line that says them."""
    network = given(settings, choose_device(config["trainer"]["accelerator"]))
    data = config["data"]
    data = {**data, "fit": {**(data.get("fit") or {}), **(config["fit"] or {})}}
    data = {**data, "report": config["report"] or data.get("report")}
    root, resize = Path(config["prepared"]).expanduser(), network.resize(config["resize"])
    prepared = prepare(data, network.size, root, progress=config["progress"], resize=resize)
    with telling_colour(prepared):
        network.model.prepare(seen_by(prepared, Baseline()))
        side = _side(network, prepared, data["fit"], config, fitted)
    images = FeatureImages(prepared, prepared.fit_split(data["fit"]), prepared.fit_indices(data["fit"]))
    counts = f"{len(side.report):,} images of {prepared.name} ({prepared.report})"
    print(
        f"{network.told}; {counts}, {told_size(resize, network.size)}; layers {told_layers(side.readouts)}", flush=True
    )
    return _Member(network, images, side)


def _side(
    network: Given, prepared: Prepared, fit: Mapping[str, Any], config: Mapping[str, Any], fitted: bool
) -> Compared:
    """What is compared of a network."""
    layers, readout = config["layers"], config["readout"]
    if isinstance(layers, dict):
        layers = layers.get(network.label, AUTO)
    readouts = readout if isinstance(readout, str) else {str(layer): name for layer, name in readout.items()}
    of_fit, of_report = samples(prepared, fit, None)
    return compared(
        network.label, network.model, layers, readouts, of_fit, of_report, fitted=fitted, called=network.called
    )


def _same_images(members: Sequence[_Member]) -> None:
    """Refuse networks that do not see the same images, in the same order: a picture may be broken for one alone."""
    first = members[0]
    for member in members[1:]:
        for key, value in first.images.identity.items():
            if member.images.identity[key] != value:
                raise UserError(
                    f"{first.network.label} and {member.network.label} cannot be compared: the {key} of their data "
                    "differ; image by image they must be the same"
                )


def _compare(
    a: _Member, b: _Member, fits: Sequence[MapSpec], measures: Sequence[Measure], config: Mapping[str, Any]
) -> None:
    """Compare two networks, unless that was done, and write their run."""
    runs, data = folder(config["runs"], "runs"), a.images.prepared.name
    run = Run(runs, f"distance/{data}/{a.network.label}+{b.network.label}/layers", _identity(a, b, fits, config))
    if run.done:
        print(f"finished already: {run.directory}")
        return
    require_writable(run.directory, "runs")
    sides = (a.side, b.side) if a is not b else (_named(a.side, "a"), _named(a.side, "b"))
    with run, bar(config["progress"]) as shown:
        if run.finished():  # by another process, meanwhile
            return
        run.record({"device": str(a.network.model.device), "versions_of": {**a.network.versions, **b.network.versions}})
        table = LayerPairs(
            sides,
            float(config["memory_gb"]) * 1e9,
            int(config["batch"]),
            shown,
            data,
            run.name,
            (a.images.fit_split, a.images.report_split),
            UnitResults(run.directory / "parts", run.identity),
        ).table(fits, measures, config["scaled"])
        for name, matrix in _matrices(table).items():
            write_text(run.directory / f"{name}.csv", matrix.to_csv(lineterminator="\n"))
        run.finish(pd.DataFrame(table))
        shutil.rmtree(run.directory / "parts", ignore_errors=True)
    _show(run, a, b, table, config)
    at = f"{len(a.side.layers)} × {len(b.side.layers)} layers"
    print(f"compared {a.network.label} and {b.network.label}, {at}: {run.directory}")


def _named(side: Compared, mark: str) -> Compared:
    """One of the two sides of a network that is compared with itself."""
    return Compared(f"{side.name} ({mark})", side.network, side.readouts, side.fit, side.report, side.model)


def _identity(a: _Member, b: _Member, fits: Sequence[MapSpec], config: Mapping[str, Any]) -> dict[str, Any]:
    """What a run is of."""
    return {
        "models": [
            {**one.network.identity, "readouts": dict(one.side.readouts), "sha256": one.images.prepared.sha256}
            for one in (a, b)
        ],
        "data": {
            "name": a.images.prepared.name,
            "fit": a.images.identity["fit images"],
            "report": a.images.report_split,
        },
        "compared": list(config["metrics"]),
        "fits": [[fit.map, fit.solver, asdict(fit.settings) if fit.settings else {}] for fit in fits],
        "scaled": config["scaled"],
    }


def _matrices(table: Comparison) -> dict[str, pd.DataFrame]:
    """Every measure as a matrix, layers of the first network × layers of the second, by a name for its file."""
    (first, _), found = table.attrs["networks"], {}
    ways = table[["metric", "solver", "split", "network"]].drop_duplicates()
    for metric, solver, split, network in ways.itertuples(index=False, name=None):
        back = network != first
        rows = table[(table["metric"] == metric) & (table["solver"] == solver)]
        name = "_".join(filter(None, (metric, solver.replace(":", "."), split, "back" if back else "")))
        of_way = Comparison(rows)
        of_way.attrs = table.attrs
        found[name] = of_way.matrix(metric, split=split, back=back)
    return found


def _show(run: Run, a: _Member, b: _Member, table: Comparison, config: Mapping[str, Any]) -> None:
    """Tell the logger of the rows."""
    labels = [a.network.label, b.network.label]
    about = {"stage": "distance", "data": a.images.prepared.name, "networks": labels}
    name = "/".join([a.images.prepared.name, "+".join(labels)])
    with Tracker(config["logger"], run.directory.parent, name=name, about=about, identity=run.identity) as tracker:
        tracker.record_in(run)
        tracker.table("rows", pd.DataFrame(table))
