"""Where images come from: the protocol of a source, its splits, and the configuration that names it."""

import hashlib
import importlib
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeGuard, cast

import numpy as np
from numpy.typing import NDArray

from invariance.data.decode import COLOURS, BrokenImage, Pixels
from invariance.data.left_out import LeftOut
from invariance.data.sources.trees import Stamp, Tree
from invariance.errors import UserError, nearest, nearest_word
from invariance.progress import bar
from invariance.seeds import derive
from invariance.settings.base import checked
from invariance.settings.data import COMMON, Data, FitImages, common_of, is_name

SPLITS = ("train", "val", "test")
_PIECE = 1 << 22
_MOVED = {
    f"invariance.data.{name}": f"invariance.data.sources.{name}"
    for name in ("arrays", "folder", "ilsvrc", "rvl_cdip", "unlabelled")
}
"""Where the modules are that version 0.1.0 named in `_target_`, which runs and users' own yaml still hold."""


@dataclass(frozen=True)
class Listing:
    """The images of one split, not yet read.

    Attributes:
        names: a name for each image, unique in the split; for files the path relative to the source's folder.
        labels: int64 (N,), the place of each image's class among the source's classes, or -1 for none.
        read: image i as a file's bytes, or as pixels uint8 (H, W) or (H, W, 3). Called from several threads.
        stamps: size and modification time (in ns) of each image's file; None where images are not files of their own.
        archive: where the images can only be had in an archive's own order, the archive, whose paths are the names.
    """

    names: Sequence[str]
    labels: NDArray[np.int64]
    read: Callable[[int], bytes | Pixels]
    stamps: Sequence[Stamp] | None = None
    archive: Tree | None = None

    @classmethod
    def of_tree(
        cls, tree: Tree, names: Sequence[str], labels: NDArray[np.int64], stamps: Sequence[Stamp] | None = None
    ) -> "Listing":
        """The files of a folder or archive at the paths `names`."""
        archive = tree if tree.sequential else None
        return cls(names, labels, lambda i: tree.read(names[i]), stamps, archive)

    def __len__(self) -> int:
        return len(self.names)

    def take(self, indices: NDArray[np.int64]) -> "Listing":
        """The images at `indices`, in that order."""
        read, places = self.read, indices.tolist()
        stamps = None if self.stamps is None else [self.stamps[i] for i in places]
        names = [self.names[i] for i in places]
        return Listing(names, self.labels[indices], lambda i: read(places[i]), stamps, self.archive)


@dataclass(frozen=True)
class Splits:
    """A source, listed.

    Attributes:
        classes: names of the classes, in the order of the labels; none where images have no labels.
        listings: the images of each split.
        ignored: names of files left out, in the form in which version 0.1.0 noted them in the manifest.
        remarks: what a user of the data should know, a line each.
        known_broken: names of images that are known to be broken, and do not count as such.
        left_out: what is left out, and why.
    """

    classes: list[str]
    listings: dict[str, Listing]
    ignored: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    known_broken: frozenset[str] = frozenset()
    left_out: LeftOut = field(default_factory=LeftOut)


def content_hash(data: bytes | Pixels) -> str:
    """Hexadecimal SHA-256 of a file's bytes, or of pixels that are no file of their own."""
    return hashlib.sha256(data if isinstance(data, bytes) else data.tobytes()).hexdigest()


def tree_digest(tree: Tree, name: str, progress: bool = False) -> str:
    """Hash of a watched file: of the archive itself, or of a file in a folder; empty if it cannot be read."""
    try:
        return file_hash(tree.path, "sha256", progress) if tree.stamps is not None else content_hash(tree.read(name))
    except (OSError, UserError, BrokenImage):
        return ""


def file_hash(path: Path, kind: str, progress: bool) -> str:
    """Hexadecimal hash of a file that may be large, read with a bar.

    Args:
        path: the file.
        kind: md5 or sha256.
        progress: whether to show the bar.

    Raises:
        UserError: if the file cannot be read.
    """
    digest = hashlib.new(kind, usedforsecurity=False)
    try:
        with open(path, "rb") as file, bar(progress, of_bytes=True) as shown:
            task = shown.add_task(f"checking {path.name}", total=path.stat().st_size)
            while data := file.read(_PIECE):
                digest.update(data)
                shown.advance(task, len(data))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); see to it and repeat") from error
    return digest.hexdigest()


def tree_stamps(tree: Tree, splits: Callable[[], Splits]) -> dict[str, Stamp]:
    """What tells whether a source changed: an archive's stamp, or those of all images in a folder."""
    if tree.stamps is not None:
        return tree.stamps
    return {
        name: stamp
        for listing in splits().listings.values()
        for name, stamp in zip(listing.names, listing.stamps or (), strict=True)
    }


class Source(Protocol):
    """A data set as it lies on disk.

    A source is built cheaply; only `splits` lists (and, for small sets, reads) what is there.
    """

    @property
    def name(self) -> str:
        """The data set's name where its configuration gives none."""

    @property
    def settings(self) -> dict[str, Any]:
        """What decides which images, in which splits: with size and colour, the identity of the prepared data."""

    def stamps(self) -> dict[str, Stamp] | None:
        """Size and time of every file it is made of, by name: none for arrays; None if its files are not there."""

    def digest(self, name: str, progress: bool = False) -> str:
        """Hash of one of these files as it is now, with a bar for a large one; empty if it cannot be read."""

    def splits(self, progress: bool = False) -> Splits:
        """What there is; archives are listed here, with a bar if `progress` asks for one.

        Raises:
            UserError: if the source is absent or cannot serve: no images, one class, a class or split missing.
        """


@dataclass(frozen=True)
class DataConfig:
    """A data set's configuration, checked.

    Attributes:
        name: the data set's name in rows and folders.
        source: where its images come from.
        colour: "gray" or "rgb".
        mean: channel means in [0, 255] to use, or None for those of the training split.
        max_broken: largest share of images that may be unreadable.
        fit: which images maps are fitted on: split (None: see `Prepared.fit_indices`), images, seed.
        report: the split results are reported on; None: test where there is one, else val.
    """

    name: str
    source: Source
    colour: str
    mean: list[float] | None
    max_broken: float
    fit: dict[str, Any]
    report: str | None


def data_config(config: Mapping[str, Any]) -> DataConfig:
    """Check a data set's configuration (a yaml of `conf/data/`, plain and resolved) and build its source.

    Raises:
        UserError: for anything in it that is unknown or makes no sense.
    """
    for key, value in config.items():
        if isinstance(value, str) and not is_utf8(value):
            raise UserError(f"data.{key}={value!r} is not UTF-8; rename the folder, or name a link to it")
    for key, value in config.items():
        if isinstance(value, str) and "\0" in value:
            raise UserError(f"data.{key}={value!r}: a name holds no NUL")
    values = checked(Data, common_of(config), "data")
    source = source_from_config(config)
    name = source.name if values.name is None else values.name
    if not is_name(name):
        raise UserError(f"data.name={name!r} cannot name a folder; use up to 100 letters, digits, '.', '_' and '-'")
    mean = None if values.mean is None else _mean(values.mean, COLOURS[values.colour])
    fit = FitImages() if values.fit is None else values.fit
    return DataConfig(name, source, values.colour, mean, values.max_broken, fit.model_dump(), values.report)


def class_of(config: Mapping[str, Any]) -> type[Source]:
    """The class of sources that `_target_` of a data set's configuration names.

    Raises:
        UserError: if it is none of this package's.
    """
    target = config.get("_target_")
    module, _, kind = str(target).rpartition(".")
    if not re.fullmatch(r"invariance\.data(\.\w+)+", module) or kind.startswith("_"):
        raise UserError(
            f"data._target_={target!r} is no source of this package, as invariance.data.sources.folder.Folder"
        )
    try:
        make = getattr(importlib.import_module(_MOVED.get(module, module)), kind)
    except (ImportError, AttributeError) as error:
        raise UserError(f"data._target_={target} does not exist") from error
    if not inspect.isclass(make) or not hasattr(make, "splits"):
        raise UserError(f"data._target_={target} is no source of images")
    return cast(type[Source], make)


def source_from_config(config: Mapping[str, Any]) -> Source:
    """The source that a data set's configuration names, its arguments checked; nothing is read yet.

    Raises:
        UserError: for an unknown key (naming the nearest) or an argument that makes no sense.
    """
    make = class_of(config)
    known = list(inspect.signature(make).parameters)
    arguments = {str(key): value for key, value in config.items() if key not in COMMON}
    for key in arguments:
        if key not in known:
            there = [*known, *COMMON]
            raise UserError(f"unknown key data.{key}{nearest(key, there)} (there are: {', '.join(there)})")
    try:
        return make(**arguments)
    except UserError:
        raise
    except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError, OSError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"data: {make.__name__} cannot be made with these settings ({why})") from error


def _number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _mean(value: float | list[float], channels: int) -> list[float]:
    entries = value if isinstance(value, list) else [value]
    if len(entries) != channels:
        raise UserError(f"data.mean={value!r}: give {channels} number(s) from 0 to 255, or null to compute")
    return [float(entry) for entry in entries]


def is_utf8(text: str) -> bool:
    """Whether a name can be written as UTF-8: names of files may hold other bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_fit(fit: Mapping[str, Any] | None) -> dict[str, Any]:
    """The `fit` part of a data set's configuration, checked and completed: split, images, seed.

    Raises:
        UserError: for an unknown key, split, number of images or seed.
    """
    return checked(FitImages, {} if fit is None else fit, "data.fit").model_dump()


def check_split_arguments(split_seed: object, val_fraction: object, test_fraction: object = 0.0) -> None:
    """Refuse a seed or fractions that cannot make splits.

    Raises:
        UserError: naming the key.
    """
    if not _whole(split_seed, 0):
        raise UserError(f"data.split_seed={split_seed!r}: give a whole number from 0")
    if not _number(val_fraction) or not 0 < val_fraction < 1:
        raise UserError(f"data.val_fraction={val_fraction!r}: give a share of the images, above 0 and below 1")
    if not _number(test_fraction) or not 0 <= test_fraction < 1:
        raise UserError(f"data.test_fraction={test_fraction!r}: give a share of the images, from 0 to below 1")
    if val_fraction + test_fraction >= 1:
        raise UserError(
            f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction} leave nothing to train on; "
            "their sum must be below 1"
        )


def existing_root(root: object, what: str, archives: bool = True) -> Path:
    """A source's folder (or archive), with ~ expanded.

    Raises:
        UserError: if it is not given or not there, naming the nearest that is.
    """
    if root is None or root == "":
        raise UserError(f"data.root is not set; set it to {what}: data.root=…")
    if not isinstance(root, str | Path):
        raise UserError(f"data.root={root!r} is not a folder; set it to {what}")
    path = Path(root).expanduser()
    if path.is_dir() or (archives and path.is_file()):
        return path
    if path.exists():
        raise UserError(f"data.root={root} is a file; set it to {what}")
    above = next(parent for parent in [*path.absolute().parents] if parent.is_dir())
    missing = path.absolute().relative_to(above).parts[0]
    near = nearest_word(missing, [p.name for p in above.iterdir() if archives or p.is_dir()])
    hint = f"; did you mean {above / near}?" if near else f"; there is no {missing!r} in {above}"
    raise UserError(f"data.root={root}: no such folder{' or archive' if archives else ''}{hint}")


def stratified(
    labels: NDArray[np.int64], names: Sequence[str], fractions: Mapping[str, float], seed: int
) -> dict[str, NDArray[np.int64]]:
    """Split images at random, every class by the same shares.

    Args:
        labels: (N,) classes.
        names: names of the classes, which key the draw of each, so that leaving one out changes no other's split.
        fractions: share of each split beside train; what is left is train. A share of 0 makes no split.
        seed: seed of the draw.

    Returns:
        Sorted indices of each split, train first; every class has at least one image in each.

    Raises:
        UserError: if a class has too few images for that.
    """
    chosen: dict[str, list[NDArray[np.int64]]] = {"train": []}
    chosen |= {split: [] for split, share in fractions.items() if share}
    for label, name in enumerate(names):
        members = np.flatnonzero(labels == label)
        if len(members) < len(chosen):
            raise UserError(
                f"class {name!r} has {len(members)} image(s), and the splits {', '.join(chosen)} need one each; "
                "add images or leave the class out"
            )
        members = np.random.default_rng(derive(seed, "split", name)).permutation(members)
        start = 0
        for place, split in enumerate(list(chosen)[1:], 1):
            most = len(members) - start - (len(chosen) - place)  # one image for each split still to come, and for train
            count = max(1, min(round(fractions[split] * len(members)), most))
            chosen[split].append(members[start : start + count])
            start += count
        chosen["train"].append(members[start:])
    return {split: np.sort(np.concatenate(parts)) for split, parts in chosen.items()}
