"""Measure how far apart the representations of networks are (Sec. 5.3, 6.2, B.3): `python -m invariance.distance`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from invariance.device import choose_device, keep_freed
from invariance.engine.comparing import INDICES, compare
from invariance.engine.store import Store, images_of
from invariance.errors import UserError
from invariance.experiments.distance_given import check_models, distance_given
from invariance.experiments.pair_features import Member, Stored, features_of
from invariance.experiments.pair_runs import PairRuns, recording
from invariance.maps.spec import MapSpec, maps_of
from invariance.measures import INDEX_NAMES, MEASURES
from invariance.progress import bar
from invariance.runs.find import find_runs
from invariance.runs.outputs import require_writable
from invariance.runs.summary import of_distances
from invariance.runs.wandb import Tracker, check_logger
from invariance.settings.base import checked
from invariance.settings.pages import DistancePage
from invariance.settings.paths import folder
from invariance.training.trained import Network


def distance(config: dict[str, Any]) -> None:
    """Every pair of the chosen networks: features once, maps to all targets of a source fitted together, rows.

    Args:
        config: the configuration of `conf/distance.yaml`, plain and resolved.

    Raises:
        UserError: for anything the user can mend.
    """
    check(config)
    keep_freed()
    if config.get("models") is not None:
        distance_given(config, _fits(config))
        return
    if not config.get("pairs", True):
        keep_features(config)
        return
    fits = _fits(config)
    indices = [MEASURES[name] for name in INDEX_NAMES] if INDICES in config["metrics"] else []
    members = _members(config)
    pairs = PairRuns(members, fits, indices, config)
    new = pairs.missing()
    if not new and not pairs.unfinished.exists():
        print(f"finished already: {len(pairs)} pairs of {len(members)} networks in {pairs.folder}")
        return
    require_writable(pairs.folder, "runs")
    store = Store(Path(config["features"]).expanduser(), config["layer"], int(config["batch"]))
    sources = _compute(pairs, store, config) if new else {}
    _track(pairs, new, config)
    pairs.tidy()
    print(f"compared {len(members)} networks, {len(pairs)} pairs: {pairs.folder}")
    if held := sum(source.bytes for source in sources.values()):
        print(f"their features are kept for further networks: {store.root} ({held / 1e9:.2g} GB)")


def keep_features(config: dict[str, Any]) -> None:
    """The features of the chosen networks, one or more, kept for comparisons that need no images then.

    What will be fitted to them must have room, as if they were compared.

    Raises:
        UserError: for anything the user can mend.
    """
    members = {member.label: member for member in _members(config, least=1)}
    store = Store(Path(config["features"]).expanduser(), config["layer"], int(config["batch"]))
    with bar(config["progress"]) as progress:
        kept = features_of(members, store, _fits(config), progress)
    room = sum(source.bytes for source in kept.values())
    print(f"features of {len(kept)} networks are kept: {store.root} ({room / 1e9:.2g} GB)")


def _fits(config: dict[str, Any]) -> list[MapSpec]:
    """E with every solver that is chosen, where maps are fitted at all."""
    return maps_of({"linear": {}} if "l2_distance" in config["metrics"] else {}, config.get("solver") or {})


def _members(config: dict[str, Any], least: int = 2) -> list[Member]:
    """The chosen networks, sorted by label, and their images, which are the same; so many at least."""
    runs, root = folder(config["runs"], "runs"), Path(config["prepared"]).expanduser()
    networks = [
        Network(
            runs,
            directory,
            layer=config["layer"],
            accelerator=config["trainer"]["accelerator"],
            fit=config["fit"],
            report=config["report"],
        )
        for directory in find_runs(runs / "train", config["networks"])
    ]
    _one_data_set(networks, least)
    members = [Member(network, images_of(network, root, config["progress"])) for network in networks]
    for member in members:
        own = f"{member.network.config['name']}/seed{member.network.config['seed']}"
        if member.label != own:  # rows name networks as their training did
            raise UserError(
                f"{member.network.directory} holds the network {own}; a copied or renamed run cannot be compared: give "
                "it its own name back, or leave it out with networks=…"
            )
    _same_images(members)
    return sorted(members, key=lambda member: member.label)


def _one_data_set(networks: Sequence[Network], least: int) -> None:
    """Refuse what cannot be compared before any data are opened."""
    if len(networks) < least:
        names = "".join(f" ({network.name} alone)" for network in networks)
        raise UserError(f"a distance needs two finished networks or more{names}; choose them with networks=…")
    by_data: dict[str, list[str]] = {}
    for network in networks:
        by_data.setdefault(network.name.split("/", 1)[0], []).append(network.name)
    if len(by_data) > 1:
        told = ", ".join(f"{len(names)} of {data}" for data, names in by_data.items())
        raise UserError(
            f"networks of different data sets cannot be compared ({told}); choose one set, as "
            f"networks={next(iter(by_data))}"
        )


def _same_images(members: Sequence[Member]) -> None:
    """Refuse networks that do not see the same images, in the same order, of the same classes: by their manifests."""
    first = members[0]
    for member in members[1:]:
        for key, value in first.images.identity.items():
            other = member.images.identity[key]
            if other == value:
                continue
            told = f" ({value} and {other})" if key in ("data set", "fit split", "report split") else ""
            raise UserError(
                f"{first.network.name} and {member.network.name} cannot be compared: the {key} of their data "
                f"differ{told}; image by image they must be the same"
            )


def _compute(pairs: PairRuns, store: Store, config: dict[str, Any]) -> dict[str, Stored]:
    """Whatever is missing; what is returned are the networks' features."""
    fits = list(pairs.fits.values())
    device = next(iter(pairs.members.values())).network.device
    with bar(config["progress"]) as progress:
        sources = features_of(pairs.members, store, fits, progress)  # first: a mistake leaves no directory
        with recording(pairs, sources, progress) as keep:
            keep.finish_flawed()
            for unit, _ in compare(
                sources,
                fits,
                pairs.indices,
                units=keep.plan(),
                keep=keep,
                memory=pairs.memory,
                device=device,
                relu=True,  # the paper's E, whatever the layer
                progress=progress if config["progress"] else False,
            ):
                keep.finish(unit)
            keep.require_all()
    return sources


def _track(pairs: PairRuns, new: list[tuple[str, str, str]], config: dict[str, Any]) -> None:
    """Tell the logger of the pairs that are new and of all rows."""
    with Tracker(
        config["logger"],
        pairs.folder,
        name=f"{pairs.data}/{len(pairs.members)} networks",
        about={
            "stage": "distance",
            "data": pairs.data,
            "layer": config["layer"],
            "networks": len(pairs.members),
            "solvers": [fit.solver for fit in pairs.fits.values()],
        },
        identity={"networks": list(pairs.members)},
    ) as tracker:
        for kind, a, b in new:
            tracker.record_in(pairs.of(kind, a, b))
        rows = pairs.rows()
        tracker.table("rows", rows)
        report = next(iter(pairs.members.values())).images.report_split
        tracker.summarise(of_distances(rows, report))


def check(config: dict[str, Any]) -> None:
    """Refuse what can be refused before a network is loaded.

    Raises:
        UserError: for a value that makes no sense, a map without a solver, an unknown logger.
    """
    checked(DistancePage, config)
    check_logger(config["logger"])
    choose_device(config["trainer"]["accelerator"])
    for key in ("runs", "prepared", "features"):
        folder(config[key], key)
    _fits(config)
    if config.get("models") is not None:
        if not config.get("pairs", True):
            raise UserError("pairs=false keeps features of networks that were trained here: name them with networks=…")
        check_models(config)
