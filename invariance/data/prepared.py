"""Prepared data: a folder of arrays of images with their checksums, made once and then only read."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invariance.data.absent import AbsentImages, InUse, open_images, require_restorable, was_given_back
from invariance.data.beside import build_beside, take_apart_again
from invariance.data.building import allowed, workers_here
from invariance.data.finding import Location, find, find_unchanged, prepared_settings
from invariance.data.images import StoredImages
from invariance.data.manifest import MANIFEST, DamagedData, damage, left_out_lines, read_checksums, read_manifest
from invariance.data.mending import damage_of
from invariance.data.placing import locked
from invariance.data.sources.base import SPLITS, DataConfig, check_fit, data_config
from invariance.data.watching import note
from invariance.errors import UserError
from invariance.models.recipe import Resize
from invariance.runs.files import disk_errors, sha256
from invariance.runs.outputs import require_writable
from invariance.seeds import derive

_DAMAGE = (OSError, ValueError, KeyError, TypeError, EOFError, AttributeError)


@dataclass(frozen=True)
class Split:
    """One split of prepared data.

    It travels to other processes as a path, and is opened there again.

    Attributes:
        directory: the folder of the data.
        name: train, val or test.
        images: uint8 (N, C, H, W), read from the file and verified when they are indexed.
        labels: int64 (N,): the place of each image's class among the classes, -1 where it has none.
    """

    directory: Path
    name: str
    images: StoredImages
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def __reduce__(self) -> tuple[Callable[[Path, str], "Split"], tuple[Path, str]]:
        return _opened_again, (self.directory, self.name)


def _opened_again(directory: Path, name: str) -> Split:
    return Prepared(directory, name).split(name)


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
        whole: whether the images are there; False after they were given back.
        resized: whether images were resized and cropped as a network says, and not warped.
        verified: whether there is a checksum for every image; version 0.1.0 wrote none.
        sha256: hash of the manifest, which holds the hashes of all images' files: equal data have equal hashes.
        splits: names of the splits there are.
        skipped: a line for each broken image that was passed over: split, name, reason.
        broken: how many of these are not known to be broken in the official data set.
        remarks: what a user of the data should know, a line each.
        left_out: what of the source is left out, a line for each reason.
        report: name of the split results are reported on.

    Raises:
        UserError: if the folder is absent, damaged or of another version, or has no split `report`.
    """

    def __init__(self, directory: Path, report: str | None = None) -> None:
        self.directory = directory
        self._again: Callable[[bool], Prepared] | None = None
        path = directory / MANIFEST
        if not path.is_file():
            raise DamagedData(directory, f"{MANIFEST} is absent")
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
            self.left_out = left_out_lines(directory, manifest)
            self.resized = "resize" in manifest["settings"]
            self.verified = "pixels" in manifest
            checksums, about = manifest["pixels"] if self.verified else {}, manifest["splits"]
            in_use = InUse(directory)
            self._splits = {one: self._open(one, about[one], checksums.get(one), in_use) for one in self.splits}
            self.whole = not any(isinstance(split.images, AbsentImages) for split in self._splits.values())
        except UserError:
            raise
        except _DAMAGE as error:
            raise damage(directory, error) from error
        self.report = report if report is not None else "test" if "test" in self.splits else "val"
        if self.report not in self.splits:
            raise UserError(f"data.report={report}: {self.name} has no such split; it has {', '.join(self.splits)}")

    def _open(self, name: str, about: Mapping[str, Any], checksums: str | None, in_use: InUse) -> Split:
        shape = (int(about["images"]), self.channels, self.size, self.size)
        path = self.directory / f"{name}.labels.npy"
        if sha256(path) != about["labels_sha256"] or len(labels := np.load(path, allow_pickle=False)) != shape[0]:
            raise ValueError(f"{name}.labels.npy has changed")
        directory, size, resized = self.directory, self.size, self.resized
        images = open_images(
            directory,
            name,
            shape,
            None if checksums is None else read_checksums(directory, name, checksums),
            lambda why: DamagedData(directory, f"{name}: {why}", size, resized=resized),
            in_use,
        )
        return Split(directory, name, images, labels)

    def made_again_by(self, again: "Callable[[bool], Prepared]") -> None:
        """How these data are made again, with or without a bar, should their images have been given back."""
        self._again = again

    def with_images(self, progress: bool) -> "Prepared":
        """These data with their images, which are made again if they were given back.

        Args:
            progress: whether to show a bar meanwhile.

        Raises:
            UserError: if they cannot be made again, or are other data then.
        """
        if self.whole or self._again is None:
            return self
        made = self._again(progress)
        if made.sha256 != self.sha256:
            raise UserError(
                f"{made.directory} was prepared again, and its images are not what they were before: networks trained "
                "on those cannot go on; put the source back as it was, or train them again"
            )
        return made

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
    config: Mapping[str, Any],
    size: int,
    root: Path,
    progress: bool = True,
    workers: int | None = None,
    renew: bool = False,
    verify: bool = False,
    resize: Resize | None = None,
    images: bool = True,
) -> Prepared:
    """Decode a data set once at one size, or open what was decoded before.

    The folder's name holds a hash over the settings, and one over the names, sizes and times of the source's files.
    Files of another time are compared by content, so a source that was only touched is not decoded again; one that
    changed is, into another folder. Of a folder of very many files its folders' times are looked at in place of them,
    unless `verify` or `renew` ask for more. A folder appears whole, by a rename; of several processes that ask at the
    same time one decodes and the others wait. A process that was killed left what it had decoded, and the next one goes
    on there.

    Args:
        config: a yaml of `conf/data/`, plain and resolved.
        size: side of the prepared images in pixels, up to 4096.
        root: folder of all prepared data.
        progress: whether to show a progress bar.
        workers: threads that decode; None: one for each core.
        renew: decode again even if it was done.
        verify: read everything that was done before, and decode again what is damaged.
        resize: how a network wants pictures resized and cropped, here to `size`; None: they are warped to it.
        images: make images again that were given back; False: `Prepared.with_images` does, if they are needed at all.

    Returns:
        The data, opened.

    Raises:
        UserError: for a configuration or source that cannot serve, more broken images than allowed, a disk that is full
            or read-only, or prepared data that are damaged and are not to be verified, or whose source is not there.
    """
    return prepare_sizes(config, [size], root, progress, workers, renew, verify, resize, images)[0]


def prepare_sizes(
    config: Mapping[str, Any],
    sizes: Sequence[int],
    root: Path,
    progress: bool = True,
    workers: int | None = None,
    renew: bool = False,
    verify: bool = False,
    resize: Resize | None = None,
    images: bool = True,
) -> list[Prepared]:
    """Decode a data set once at several sizes, or open what was decoded before; see `prepare`.

    The source is listed, checked and hashed once, and each image decoded once, for those sizes that lack it. Each
    size's folder is what it would be alone.

    Returns:
        The data at each size, opened.

    Raises:
        UserError: as `prepare`.
    """
    data = data_config(config)
    settings = [prepared_settings(data, size, resize) for size in sizes]
    made = None if verify or renew else _unchanged(data, settings, root, images)
    if made is None:
        made = _made(data, settings, root, progress, workers or workers_here(), renew, verify, images)
    for size, prepared in zip(sizes, made, strict=True):
        prepared.made_again_by(partial(prepare, config, size, root, workers=workers, resize=resize))
    if images and not all(prepared.whole for prepared in made):  # given back before they were opened
        return prepare_sizes(config, sizes, root, progress, workers, resize=resize)
    return made


def _unchanged(
    data: DataConfig, settings: Sequence[dict[str, Any]], root: Path, images: bool
) -> "list[Prepared] | None":
    """What was prepared of folders that are as they were, where it is all there: no file of theirs is looked at."""
    there = [path for one in settings if (path := find_unchanged(root / data.name, data, one))]
    if len(there) < len(settings) or (images and any(map(was_given_back, there))):
        return None
    return [_opened(path, None, data) for path in there]


def _made(
    data: DataConfig,
    settings: Sequence[dict[str, Any]],
    root: Path,
    progress: bool,
    threads: int,
    renew: bool,
    verify: bool,
    images: bool,
) -> list[Prepared]:
    """Data at every size, having looked at their source and built what lacks."""
    begun = time.time_ns()
    if not (root / data.name).is_dir():  # before the source is listed and hashed
        require_writable(root / data.name, "prepared")
    now, digest = data.source.stamps(), cache(data.source.digest)
    found = [find(root / data.name, data, one, now, digest, verify) for one in settings]
    for one in found:
        if one.changed and not one.there:
            print(f"{one.changed}; it is prepared again", file=sys.stderr)
    absent = {one.directory for one in found if one.there and was_given_back(one.directory)}
    befores = [
        _to_mend(one, data.report, progress, threads, images)
        if one.there and not renew and (verify or (images and one.directory in absent))
        else None
        for one in found
    ]
    todo = {
        one.directory: (own, one, before)
        for own, one, before in zip(settings, found, befores, strict=True)
        if renew or not one.there or before is not None
    }
    if todo:
        require_writable(root / data.name, "prepared")
        with disk_errors(found[0].directory), ExitStack() as locks:
            (root / data.name).mkdir(parents=True, exist_ok=True)
            for directory in sorted(todo):  # in one order, so that no two processes wait for each other
                locks.enter_context(locked(directory.with_name(f".{directory.name}.lock")))
            take_apart_again(
                {path: one.listed for path, (_, one, before) in todo.items() if before is not None}, absent
            )
            lacking = {directory: own for directory, (own, _, _) in todo.items() if renew or not directory.is_dir()}
            build_beside(lacking, data, now or {}, progress, threads)
    for one in found if now is not None else ():
        note(one.directory, data.source, now or {}, begun)
    return [_opened(one.directory, before, data) for one, before in zip(found, befores, strict=True)]


def _opened(directory: Path, before: str | None, data: DataConfig) -> Prepared:
    """Prepared data, having said what a user should know of them; `before` is the hash they had, if it is known."""
    prepared = Prepared(directory, data.report)
    if before and before != prepared.sha256:
        told = "are other data than they were: networks trained on those are not measured on these"
        print(f"prepared data in {prepared.directory} {told}", file=sys.stderr)
    if not prepared.verified:
        _say_unverified(prepared.directory)
    _check_broken(prepared, data.max_broken)
    return prepared


@cache
def _say_unverified(directory: Path) -> None:
    """Say, once in a process, that damage would go unnoticed."""
    print(
        f"prepared data in {directory} have no checksums, since version 0.1.0 made them: damage to their pixels would "
        "not be noticed; invariance-prepare with the same data and size adds them, once the source is there",
        file=sys.stderr,
    )


def _to_mend(found: Location, report: str | None, progress: bool, workers: int, images: bool) -> str | None:
    """Verify everything there is, and say what came of it; images that were given back are damaged if they are wanted.

    Returns:
        None if nothing is to be decoded again, else the hash of the data as they were, empty if it cannot be known.
    """
    start, sha = time.monotonic(), ""
    try:
        prepared = Prepared(found.directory, report)
        sha = prepared.sha256
        if not prepared.whole:
            return require_restorable(found.directory, sha, source=found.source) if images else None
        if not prepared.verified:
            if found.source:
                print(f"{found.directory} has no checksums; every image is decoded again and compared", file=sys.stderr)
            return sha if found.source else None
        why = (
            damage_of(
                found.directory, {name: prepared.split(name).images for name in prepared.splits}, progress, workers
            )
            or found.damage
        )
        if not why:
            count = sum(len(prepared.split(name)) for name in prepared.splits)
            print(f"{count:,} images verified in {time.monotonic() - start:.1f} s", file=sys.stderr)
            return None
        raise DamagedData(found.directory, why)
    except DamagedData as error:
        if not found.source:
            remedy = "their source is not there, from which they could be mended: put it back and repeat"
            raise UserError(f"{error.what}; {remedy}") from error
        print(f"{error.what}; what is damaged is prepared again", file=sys.stderr)
    return sha


def _check_broken(prepared: Prepared, max_broken: float) -> None:
    total = len(prepared.skipped) + sum(len(prepared.split(split)) for split in prepared.splits)
    if prepared.broken > allowed(max_broken, total):
        raise UserError(
            f"{prepared.directory} was prepared without {prepared.broken} broken images of {total:,}, more than "
            f"data.max_broken={max_broken:g} allows: mend them and delete the folder, or raise the limit"
        )
