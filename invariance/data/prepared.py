"""Prepared data: a folder of memory-mapped arrays, made once and then only read."""

import csv
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invariance.data.building import FORMAT, MANIFEST, STAMPS, allowed, build, content_hash, workers_here
from invariance.data.sources import SPLITS, DataConfig, Listing, check_fit, data_config
from invariance.errors import UserError
from invariance.runs.files import disk_errors, sha256, sync_folder
from invariance.seeds import derive

_BYTES_OF_HASH = 8
_LARGEST = 4096
_DAMAGE = (OSError, ValueError, KeyError, TypeError, EOFError, AttributeError)


class Split:
    """One split of prepared data.

    It travels to other processes as a path, and maps its arrays where it is used.

    Attributes:
        name: train, val or test.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self.directory, self.name = directory, name

    @cached_property
    def images(self) -> np.memmap[Any, np.dtype[np.uint8]]:
        """uint8 (N, C, H, W), memory-mapped read-only."""
        held = np.load(self.directory / f"{self.name}.images.npy", mmap_mode="r", allow_pickle=False)
        assert isinstance(held, np.memmap)
        return held

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """int64 (N,): the place of each image's class among the classes, -1 where it has none."""
        labels: NDArray[np.int64] = np.load(self.directory / f"{self.name}.labels.npy", allow_pickle=False)
        return labels

    def __len__(self) -> int:
        return len(self.labels)

    def __reduce__(self) -> tuple[type["Split"], tuple[Path, str]]:
        return Split, (self.directory, self.name)


class Prepared:
    """Prepared data, opened for reading; what it should hold is checked against what is there.

    Args:
        directory: the folder that `prepare` made.
        report: the split results are reported on; None: test where there is one, else val.

    Attributes:
        directory: the folder.
        name: the data set's name.
        size: side of the images in pixels.
        channels: 1 (gray) or 3 (RGB).
        classes: names of the classes, in the order of the labels.
        mean: channel means in [0, 255].
        sha256: hash of the manifest, which holds the hashes of all source files: equal data have equal hashes.
        splits: names of the splits there are.
        skipped: a line for each broken image that was passed over: split, name, reason.
        report: name of the split results are reported on.

    Raises:
        UserError: if the folder is absent, damaged or of another version, or has no split `report`.
    """

    def __init__(self, directory: Path, report: str | None = None) -> None:
        self.directory = directory
        path = directory / MANIFEST
        if not path.is_file():
            raise UserError(f"no prepared data in {directory}: {MANIFEST} is absent; prepare them again")
        try:
            text = path.read_bytes()
            manifest = json.loads(text)
            if manifest["format"] != FORMAT:
                raise UserError(f"{directory} was prepared by another version; delete it and prepare again")
            self.name = str(manifest["name"])
            self.size, self.channels = int(manifest["size"]), int(manifest["channels"])
            self.classes = [str(name) for name in manifest["classes"]]
            self.mean = [float(value) for value in manifest["mean"]]
            self.splits = [split for split in SPLITS if split in manifest["splits"]]
            self.skipped = [
                f"{split}: {entry['name']} {entry['reason']}" for split in self.splits
                for entry in manifest["splits"][split]["skipped"]
            ]  # fmt: skip
            self._splits = {split: self._open(split, manifest["splits"][split]) for split in self.splits}
        except UserError:
            raise
        except _DAMAGE as error:
            why = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"prepared data in {directory} are damaged ({why}); delete it and prepare again") from error
        self.sha256 = hashlib.sha256(text).hexdigest()
        self.report = report if report is not None else "test" if "test" in self.splits else "val"
        if self.report not in self.splits:
            raise UserError(f"data.report={report}: {self.name} has no such split; it has {', '.join(self.splits)}")

    def _open(self, name: str, about: Mapping[str, Any]) -> Split:
        split = Split(self.directory, name)
        expected = (int(about["images"]), self.channels, self.size, self.size)
        if split.images.shape != expected or split.images.dtype != np.uint8:
            raise ValueError(f"{name}.images.npy holds {split.images.dtype} {split.images.shape}, not uint8 {expected}")
        if sha256(self.directory / f"{name}.labels.npy") != about["labels_sha256"] or len(split.labels) != expected[0]:
            raise ValueError(f"{name}.labels.npy has changed")
        return split

    def split(self, name: str) -> Split:
        """The split of that name.

        Raises:
            UserError: if there is none.
        """
        if name not in self._splits:
            raise UserError(f"{self.name} has no split {name!r}; it has {', '.join(self.splits)}")
        return self._splits[name]

    def fit_split(self, fit: Mapping[str, Any] | None = None) -> str:
        """The split that maps are fitted on: `fit["split"]`, or val where results are reported on test, else train.

        Raises:
            UserError: if there is no such split, or results are reported on it.
        """
        chosen = check_fit(fit)["split"] or ("val" if self.report == "test" else "train")
        self.split(chosen)
        if chosen == self.report:
            raise UserError(
                f"data.fit.split={chosen} is also the split results are reported on, and maps would be scored on "
                "the very images they were fitted on; choose another"
            )
        return str(chosen)

    def fit_indices(self, fit: Mapping[str, Any] | None = None) -> NDArray[np.int64]:
        """Which images of `fit_split` maps are fitted on: all, or a static random subset of `fit["images"]`, sorted.

        Raises:
            UserError: if the split is not there or has fewer images.
        """
        values = check_fit(fit)
        name = self.fit_split(values)
        n = len(self.split(name))
        if values["images"] is None:
            return np.arange(n)
        if values["images"] > n:
            raise UserError(f"data.fit.images={values['images']}: {name} of {self.name} has only {n:,} images")
        chosen = np.random.default_rng(derive(values["seed"], "fit images", name)).permutation(n)[: values["images"]]
        return np.sort(chosen)


def prepare(
    config: Mapping[str, Any], size: int, root: Path, progress: bool = True, workers: int | None = None,
    renew: bool = False,
) -> Prepared:
    """Decode a data set once at one size, or open what was decoded before.

    The folder's name holds a hash over everything that decides its content but the files themselves; those are compared
    by size and time (by hash where only the time differs) whenever the source is there. It appears whole, by a rename;
    of several processes that ask at the same time one decodes and the others wait.

    Args:
        config: a yaml of `conf/data/`, plain and resolved.
        size: side of the prepared images in pixels, up to 4096.
        root: folder of all prepared data.
        progress: whether to show a progress bar.
        workers: threads that decode; None: one for each core.
        renew: decode again even if it was done.

    Returns:
        The data, opened.

    Raises:
        UserError: for a configuration or source that cannot serve, more broken images than allowed, a source that
            changed since, a disk that is full or read-only, or prepared data that are damaged.
    """
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= _LARGEST:
        raise UserError(f"size={size!r}: images are prepared at a whole number of pixels from 1 to {_LARGEST}")
    data = data_config(config)
    settings = {
        **data.source.settings, "source": type(data.source).__name__,
        "size": size, "colour": data.colour, "mean": data.mean,
    }  # fmt: skip
    identity = json.dumps({**settings, "format": FORMAT}, sort_keys=True)
    digest = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:_BYTES_OF_HASH]
    directory = root / data.name / f"{size}-{data.colour}-{digest}"
    if not directory.is_dir() or renew:
        with disk_errors(directory):
            directory.parent.mkdir(parents=True, exist_ok=True)
            with _locked(directory.with_name(f".{directory.name}.lock")):
                if not directory.is_dir() or renew:
                    _build(directory, data, size, settings, progress, workers or workers_here())
    prepared = Prepared(directory, data.report)
    _check_broken(prepared, data.max_broken)
    if data.source.watched:
        _check_source(prepared, data)
    return prepared


def _build(
    directory: Path, data: DataConfig, size: int, settings: dict[str, Any], progress: bool, workers: int
) -> None:
    """Build beside the target and rename; the caller holds the lock, so what lies there is of a dead process."""
    temporary, old = directory.with_name(f".{directory.name}.tmp"), directory.with_name(f".{directory.name}.old")
    for left in (temporary, old):
        shutil.rmtree(left, ignore_errors=True)
    try:
        temporary.mkdir()
        build(temporary, data, size, settings, progress, workers)
        if directory.is_dir():
            os.rename(directory, old)
        os.rename(temporary, directory)
        sync_folder(directory.parent)
    finally:
        for left in (temporary, old):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file, waiting for it; it is removed afterwards."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            current = os.stat(path).st_ino == os.fstat(descriptor).st_ino
        except FileNotFoundError:
            current = False
        if current:
            break
        os.close(descriptor)  # its last holder removed it while we waited
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _check_broken(prepared: Prepared, max_broken: float) -> None:
    total = len(prepared.skipped) + sum(len(prepared.split(split)) for split in prepared.splits)
    if len(prepared.skipped) > allowed(max_broken, total):
        raise UserError(
            f"{prepared.directory} was prepared without {len(prepared.skipped)} broken images of {total:,}, more than "
            f"data.max_broken={max_broken:g} allows: mend them and delete the folder, or raise the limit"
        )


def _check_source(prepared: Prepared, data: DataConfig) -> None:
    """Refuse data whose source has changed since they were prepared.

    Raises:
        UserError: naming what changed.
    """
    _, splits, _ = data.source.splits()
    now = {name: (listing, i) for listing in splits.values() for i, name in enumerate(listing.names)}
    changed = []
    with open(prepared.directory / STAMPS, encoding="utf-8", errors="surrogateescape", newline="") as file:
        for name, size, time, digest in list(csv.reader(file))[1:]:
            found = now.pop(name, None)
            if found is None:
                changed.append(f"{name} is gone")
            elif _differs(*found, int(size), int(time), digest):
                changed.append(f"{name} has changed")
    changed += [f"{name} is new" for name in sorted(now)]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UserError(
            f"the source of {prepared.directory} has changed since it was prepared: {', '.join(changed[:3])}{more}; "
            "delete that folder, or run invariance-prepare with renew=true"
        )


def _differs(listing: Listing, i: int, size: int, time: int, digest: str) -> bool:
    assert listing.stamps is not None, "a watched source has stamps"
    if listing.stamps[i] == (size, time):
        return False
    if listing.stamps[i][0] != size:
        return True
    try:
        return content_hash(listing.read(i)) != digest
    except OSError:  # it could not be read when it was prepared, either, if it has no hash
        return digest != ""
