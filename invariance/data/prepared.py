"""Prepared data: a folder of memory-mapped arrays, made once and then only read."""

import csv
import fcntl
import glob
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invariance.data.building import allowed, begun, build, workers_here
from invariance.data.manifest import FORMAT, MANIFEST, STAMPS, read_manifest, write_stamps
from invariance.data.sources import SPLITS, DataConfig, check_fit, data_config
from invariance.data.trees import Stamp
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
        sha256: hash of the manifest, which holds the hashes of all images' files: equal data have equal hashes.
        splits: names of the splits there are.
        skipped: a line for each broken image that was passed over: split, name, reason.
        broken: how many of these are not known to be broken in the official data set.
        remarks: what a user of the data should know, a line each.
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
            manifest, self.sha256 = read_manifest(directory)
            self.name = str(manifest["name"])
            self.size, self.channels = int(manifest["size"]), int(manifest["channels"])
            self.classes = [str(name) for name in manifest["classes"]]
            self.mean = [float(value) for value in manifest["mean"]]
            self.splits = [split for split in SPLITS if split in manifest["splits"]]
            self.remarks = [str(line) for line in manifest["remarks"]]
            skipped = [(split, entry) for split in self.splits for entry in manifest["splits"][split]["skipped"]]
            self.skipped = [f"{split}: {entry['name']} {entry['reason']}" for split, entry in skipped]
            self.broken = sum(not entry["known"] for _, entry in skipped)
            self._splits = {split: self._open(split, manifest["splits"][split]) for split in self.splits}
        except UserError:
            raise
        except _DAMAGE as error:
            why = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"prepared data in {directory} are damaged ({why}); delete it and prepare again") from error
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

    The folder's name holds a hash over the settings, and one over the names, sizes and times of the source's files.
    Files of another time are compared by content, so a source that was only touched is not decoded again; one that
    changed is, into another folder. A folder appears whole, by a rename; of several processes that ask at the same time
    one decodes and the others wait. A process that was killed left what it had decoded, and the next one goes on there.

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
        UserError: for a configuration or source that cannot serve, more broken images than allowed, a disk that is full
            or read-only, or prepared data that are damaged.
    """
    data = data_config(config)
    settings = prepared_settings(data, size)
    found = _find(root / data.name, data, settings)
    if found.changed and not found.there:
        print(f"{found.changed}; it is prepared again", file=sys.stderr)
    if not found.there or renew:
        with disk_errors(found.directory):
            found.directory.parent.mkdir(parents=True, exist_ok=True)
            with _locked(found.directory.with_name(f".{found.directory.name}.lock")):
                if not found.directory.is_dir() or renew:
                    _build(found.directory, data, settings, found.now, progress, workers or workers_here())
    prepared = Prepared(found.directory, data.report)
    _check_broken(prepared, data.max_broken)
    return prepared


def prepared_settings(data: DataConfig, size: int) -> dict[str, Any]:
    """What decides the content of prepared data, beside the source's files.

    Raises:
        UserError: for a size that is none.
    """
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= _LARGEST:
        raise UserError(f"size={size!r}: images are prepared at a whole number of pixels from 1 to {_LARGEST}")
    return {
        **data.source.settings, "source": type(data.source).__name__,
        "size": size, "colour": data.colour, "mean": data.mean,
    }  # fmt: skip


@dataclass(frozen=True)
class _Found:
    """Where prepared data are or will be.

    Attributes:
        directory: the folder.
        there: whether it is there, and of the source as it is now.
        now: size and time of the source's files.
        changed: what differs between the source and what was prepared of it last, if that is so.
    """

    directory: Path
    there: bool
    now: Mapping[str, Stamp] = field(default_factory=dict)
    changed: str = ""


def _find(parent: Path, data: DataConfig, settings: Mapping[str, Any]) -> _Found:
    identity = json.dumps({**settings, "format": FORMAT}, sort_keys=True)
    prefix = f"{settings['size']}-{data.colour}-{_short_hash(identity)}"
    held = sorted(parent.glob(f"{glob.escape(prefix)}-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    now, changed = data.source.stamps(), ""
    if now is None:
        if len(held) > 1:
            raise UserError(
                f"{parent} holds {len(held)} preparations of a source that has changed between them and is not there "
                f"now ({held[0].name}, {held[1].name}); put it back, or delete all but one"
            )
        if not held:
            data.source.splits()  # says what is not there
        return _Found(held[0], there=True)
    for directory in held:
        difference = _difference(directory, data, now)
        if not difference:
            return _Found(directory, there=True, now=now)
        changed = changed or f"the source of {directory} has changed since it was prepared: {difference}"
    listing = "".join(f"{name}\0{size}\0{time}\n" for name, (size, time) in sorted(now.items()))
    return _Found(parent / f"{prefix}-{_short_hash(listing)}", there=False, now=now, changed=changed)


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:_BYTES_OF_HASH]


def _difference(directory: Path, data: DataConfig, now: Mapping[str, Stamp]) -> str:
    """What differs between a source and what was prepared of it, some of it by name; empty for nothing.

    Where only times differ the contents are compared, and the new times noted.
    """
    try:
        with open(directory / STAMPS, encoding="utf-8", errors="surrogateescape", newline="") as file:
            then = {name: ((int(size), int(time)), digest) for name, size, time, digest in list(csv.reader(file))[1:]}
    except _DAMAGE as error:
        raise UserError(f"prepared data in {directory} are damaged ({error}); delete it and prepare again") from error
    changed = [f"{name} is gone" for name in sorted(set(then) - set(now))]
    changed += [f"{name} is new" for name in sorted(set(now) - set(then))]
    both = [name for name in now if name in then and then[name][0] != now[name]]
    for name in both:
        stamp, digest = then[name]
        if stamp[0] != now[name][0] or data.source.digest(name) != digest:
            changed.append(f"{name} has changed")
    if changed:
        return ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
    if both:
        with suppress(UserError):  # a store that may only be read serves all the same
            write_stamps(directory / STAMPS, [(name, *now[name], then[name][1]) for name in sorted(now)])
    return ""


def _build(
    directory: Path, data: DataConfig, settings: dict[str, Any], now: Mapping[str, Stamp], progress: bool, workers: int
) -> None:
    """Build beside the target and rename; the caller holds the lock, so what lies there is of a dead process.

    What a kill, an interruption or a full disk leaves is taken up by the next call; a source that cannot serve leaves
    nothing.
    """
    temporary, old = directory.with_name(f".{directory.name}.tmp"), directory.with_name(f".{directory.name}.old")
    _sweep(directory)
    try:
        temporary.mkdir(exist_ok=True)
        build(temporary, data, int(settings["size"]), settings, now, progress, workers)
    except Exception as error:
        if isinstance(error, UserError) or not begun(temporary):
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    if directory.is_dir():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(directory, old)
    os.rename(temporary, directory)
    sync_folder(directory.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sweep(directory: Path) -> None:
    """Remove what kills left of the same settings over a source that has changed since, unless it is worked on."""
    prefix = directory.name.rpartition("-")[0]
    for left in directory.parent.glob(f".{glob.escape(prefix)}-*.tmp"):
        lock = left.with_suffix(".lock")
        if lock.stem == f".{directory.name}":
            continue
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(left, ignore_errors=True)
            lock.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file, waiting for it; it is removed afterwards."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that prepares {path.parent.name}", file=sys.stderr)
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
        with suppress(OSError):  # empty where a mistake was found before anything was decoded
            path.parent.rmdir()


def _check_broken(prepared: Prepared, max_broken: float) -> None:
    total = len(prepared.skipped) + sum(len(prepared.split(split)) for split in prepared.splits)
    if prepared.broken > allowed(max_broken, total):
        raise UserError(
            f"{prepared.directory} was prepared without {prepared.broken} broken images of {total:,}, more than "
            f"data.max_broken={max_broken:g} allows: mend them and delete the folder, or raise the limit"
        )
