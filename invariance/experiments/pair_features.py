"""Features of the networks that are compared: found in the store or made, and made again where they are damaged."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from rich.progress import Progress
from torch import Tensor

from invariance.engine.comparing import Renewed
from invariance.engine.pair_rows import RowNames
from invariance.engine.store import FeatureImages, Features, Store
from invariance.errors import UserError
from invariance.maps import require_room
from invariance.maps.spec import MapSpec
from invariance.runs.checked import DamagedFile, made_again
from invariance.runs.outputs import require_writable
from invariance.training.trained import Network


@dataclass(frozen=True)
class Member:
    """A network of the set.

    Attributes:
        network: the trained network.
        images: which images its features are of.
    """

    network: Network
    images: FeatureImages

    @property
    def label(self) -> str:
        """Its name among the networks of its data set, as `rotation_20/seed0`."""
        return self.network.name.split("/", 1)[1]

    @property
    def slug(self) -> str:
        """The label as a part of a folder's name."""
        return self.label.replace("/", "-")

    @property
    def named(self) -> RowNames:
        """How rows name it."""
        trained = self.network.config
        reach = trained["transform"].get("range")
        return RowNames(
            network=trained["name"],
            layer=self.network.layer,
            g=f"network:{self.label}",
            data=self.images.prepared.name,
            family=trained["transform"]["name"],
            range="" if reach is None else str(reach),
            seed=trained["seed"],
        )


class Stored:
    """A source of features that are on disk; damaged ones are made again, all of that network's.

    Args:
        features: the features.
        make: makes them again.
    """

    def __init__(self, features: Features, make: Callable[[], Features]) -> None:
        self._features, self._make, self._new = features, make, False

    @property
    def dim(self) -> int:
        """D."""
        return self._features.dim

    @property
    def n_fit(self) -> int:
        """How many fit images there are."""
        return self._features.n_fit

    @property
    def n_report(self) -> int:
        """How many report images there are."""
        return self._features.n_report

    @property
    def alive(self) -> Tensor:
        """(D,) which dimensions are not 0 for all fit images."""
        return self._features.alive

    @property
    def flaw(self) -> str:
        """Why nothing can be said of them, or nothing."""
        return self._features.flaw

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return self._features.bytes

    def load(self, side: str) -> Tensor:
        """See `Source`.

        Raises:
            Renewed: if they were damaged, and were made again.
            UserError: if the disk does not hold what was just written to it.
        """
        try:
            loaded = self._features.load(side)
        except DamagedFile as why:
            directory = self._features.directory
            if self._new:
                raise UserError(
                    f"{directory} does not hold what was just written to it ({why}); choose another place with "
                    "features=…"
                ) from why
            made_again(directory, why)
            self._features, self._new = self._make(), True
            raise Renewed from why
        self._new = False
        return loaded


def features_of(
    members: Mapping[str, Member], store: Store, fits: Sequence[MapSpec], progress: Progress
) -> dict[str, Stored]:
    """Features of every network, those that are kept and those that are not yet.

    Args:
        members: the networks and their images, by label.
        store: where features are kept.
        fits: what will be fitted, which must fit into memory.
        progress: where a bar shows how far it is.

    Raises:
        UserError: naming the network, if its maps cannot fit into memory or the disk has no room for its features.
    """
    found = {label: store.find(member.network, member.images) for label, member in members.items()}
    if None in found.values():
        require_writable(store.root, "features")
    images = next(iter(members.values())).images
    count = len(images.fit_indices) + len(images.prepared.split(images.report_split))
    task = progress.add_task("φ", total=count * list(found.values()).count(None))
    sources = {}
    for label, features in found.items():
        member = members[label]
        try:
            if features is None:
                _require_room(member, fits)
                features = store.make(member.network, member.images, progress, task)
        except UserError as error:
            raise UserError(f"{member.network.name}: {error}") from error
        member.network.forget()
        sources[label] = Stored(features, partial(_again, member, store, count, progress))
    progress.remove_task(task)
    for label, source in sources.items():
        if source.flaw:
            why = "the same for all fit images" if source.flaw == "constant" else "not all finite numbers"
            print(f"{label}: φ is {why}; the rows of its pairs say so and hold no number", file=sys.stderr)
    return sources


def _require_room(member: Member, fits: Sequence[MapSpec]) -> None:
    """Refuse maps of a network's features that cannot fit into memory, before the features are computed."""
    fitted = [fit.settings for fit in fits if fit.settings is not None]
    dim = member.network.dim(member.images.prepared.channels) if fitted else 0
    for solver in fitted:
        require_room(solver, dim, dim, len(member.images.fit_indices), device=member.network.device)


def _again(member: Member, store: Store, count: int, progress: Progress) -> Features:
    """Features of a network whose own were found damaged in the middle of the work."""
    task = progress.add_task("φ", total=count)
    try:
        return store.make(member.network, member.images, progress, task)
    finally:
        member.network.forget()
        progress.remove_task(task)
