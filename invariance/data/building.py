"""Building prepared data: every image of a source decoded once, into arrays that can be memory-mapped."""

import csv
import errno
import hashlib
import json
import math
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from invariance.data.decode import COLOURS, BrokenImage, decode, large_images
from invariance.data.sources import DataConfig, Listing, Splits, content_hash
from invariance.data.stored import Entry, Journal, StoredArray
from invariance.data.trees import Stamp, Tree
from invariance.errors import UserError
from invariance.progress import bar
from invariance.runs.files import atomic_path, sha256, write_text
from invariance.runs.sweep import working

FORMAT = 2
"""Version of the arrays, the manifest and the decoding; another one is another directory."""
MANIFEST, STAMPS = "manifest.json", "stamps.csv"
_JOURNAL = "journal"
_CHUNK, _BLOCK = 64, 1 << 24  # images, and bytes, that are handled at once
_SYNC_EVERY = 5.0  # seconds of decoding that a kill may cost
_NAMED, _IGNORED_NAMED = 5, 100
BYTES_OF_LISTS = 600
"""Room that the labels, names, hashes and the journal of one image take, at most."""


@dataclass
class _Decoded:
    """What came of one split: which images are done, a hash for each, why it was skipped, if it was; channel sums."""

    done: NDArray[np.bool_]
    hashes: list[str]
    broken: dict[int, str] = field(default_factory=dict)
    sums: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))

    def take(self, entry: Entry) -> None:
        """Take in what came of one image."""
        self.done[entry.i] = True
        self.hashes[entry.i] = entry.digest
        if entry.reason is not None:
            self.broken[entry.i] = entry.reason
        else:
            self.sums = self.sums + np.asarray(entry.sums, np.int64)


@dataclass(frozen=True)
class _Job:
    """Images to decode together, with their bytes where these were read ahead."""

    split: str
    listing: Listing
    indices: list[int]
    read: list[bytes | BrokenImage] | None = None


def workers_here() -> int:
    """Threads that decode at once: one for each core this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def build(
    directory: Path, config: DataConfig, size: int, settings: dict[str, Any], now: Mapping[str, Stamp], progress: bool,
    workers: int,
) -> None:
    """Decode a whole source into a folder and flush it to the disk; the manifest, written last, says that it is whole.

    A folder that an earlier call left when it was killed is taken up: what its journal names is not decoded again.

    Args:
        directory: the folder, made by the caller, who renames it into place afterwards.
        config: the data set.
        size: side of the prepared images in pixels.
        settings: what identifies these prepared data; recorded in the manifest.
        now: size and time of the source's files when their decoding began.
        progress: whether to show a progress bar.
        workers: threads that decode; Pillow lets them run side by side.

    Raises:
        UserError: if the source cannot serve, changes meanwhile, or more of its images are broken than allowed.
        OSError: if the disk is full or refuses.
    """
    if (directory / MANIFEST).exists():  # whole, and stopped just before it was renamed
        return
    working()
    found = config.source.splits(progress)
    with ExitStack() as stack:
        arrays = _arrays(directory, found, (COLOURS[config.colour], size, size), stack)
        decoded = _decode_all(_Work(directory, config, size, found, arrays), progress, workers)
        order = {split: arrays[split].fill_gaps(decoded[split].broken) for split in arrays}
        for array in arrays.values():
            array.sync()
        if (config.source.stamps() or {}) != now:
            raise UserError(f"the source of {config.name} changed while it was prepared; repeat the command")
        about = _write_lists(directory, config, found, order, decoded, now, progress)
        for split, array in arrays.items():
            array.shorten(len(order[split]))
        _write_manifest(directory, config, settings, found, order, decoded, about)
        for array in arrays.values():
            array.cut()
    (directory / _JOURNAL).unlink()


def begun(directory: Path) -> bool:
    """Whether a folder holds decoded images that a later call can take up."""
    if (directory / MANIFEST).exists():
        return True
    try:
        with open(directory / _JOURNAL, "rb") as file:
            return bool(file.readline() and file.readline())
    except OSError:
        return False


def _arrays(directory: Path, found: Splits, image: tuple[int, ...], stack: ExitStack) -> dict[str, StoredArray]:
    """The splits' arrays with their space taken; what does not fit them from an earlier attempt is thrown away."""
    for _ in range(2):
        try:
            arrays = {
                split: stack.enter_context(
                    closing(StoredArray(directory / f"{split}.images.npy", (len(listing), *image)))
                )
                for split, listing in found.listings.items()
            }
            break
        except ValueError:
            stack.close()
            for path in directory.iterdir():
                path.unlink()
    for array in arrays.values():
        array.reserve()
    if shutil.disk_usage(directory).free < BYTES_OF_LISTS * sum(map(len, found.listings.values())):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return arrays


@dataclass(frozen=True)
class _Work:
    """What there is to decode, and where it goes."""

    directory: Path
    config: DataConfig
    size: int
    found: Splits
    arrays: Mapping[str, StoredArray]

    @property
    def key(self) -> str:
        """What a journal must be of to be taken up: these names in this order, with these labels."""
        digest = hashlib.sha256()
        for split, listing in self.found.listings.items():
            digest.update(f"{split}\0{len(listing)}\0".encode())
            digest.update("\0".join(listing.names).encode("utf-8", "surrogateescape"))
            digest.update(listing.labels.tobytes())
        return f"{FORMAT}:{digest.hexdigest()}"


def allowed(max_broken: float, total: int) -> int:
    """How many images of `total` may be broken."""
    return int(max_broken * total + 1e-9)  # 0.29 · 100 is a little less than 29


def _decode_all(work: _Work, progress: bool, workers: int) -> dict[str, _Decoded]:
    listings, journal = work.found.listings, Journal(work.directory / _JOURNAL, work.key)
    decoded = {
        split: _Decoded(np.zeros(len(listing), np.bool_), [""] * len(listing)) for split, listing in listings.items()
    }
    for entry in journal.read():
        if entry.stamp == _stamp(listings[entry.split], entry.i):
            decoded[entry.split].take(entry)
    total = sum(map(len, listings.values()))
    with bar(progress) as shown, large_images(), ThreadPoolExecutor(workers) as pool, _synced(work, journal) as sync:
        task = shown.add_task(f"preparing {work.config.name} at {work.size}×{work.size}", total=total)
        shown.advance(task, sum(int(part.done.sum()) for part in decoded.values()))
        waiting: deque[Future[list[Entry]]] = deque()
        jobs = _jobs(work, decoded)
        try:
            while True:
                while len(waiting) < 4 * workers and (job := next(jobs, None)) is not None:
                    waiting.append(pool.submit(_decode_some, work, job))
                if not waiting:
                    break
                for entry in (entries := waiting.popleft().result()):
                    decoded[entry.split].take(entry)
                    journal.add(entry)
                _check_broken(work, decoded, total)
                shown.advance(task, len(entries))
                sync()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return decoded


@contextmanager
def _synced(work: _Work, journal: Journal) -> Iterator[Callable[[], None]]:
    """What flushes pixels and then the journal that names them: now and then, and at the end, whatever ended it."""
    last = time.monotonic()

    def flush() -> None:
        for array in work.arrays.values():
            array.sync()
        journal.write()

    def now_and_then() -> None:
        nonlocal last
        if time.monotonic() - last > _SYNC_EVERY:
            flush()
            last = time.monotonic()

    try:
        yield now_and_then
    finally:
        flush()


def _stamp(listing: Listing, i: int) -> Stamp | None:
    return None if listing.stamps is None else listing.stamps[i]


def _jobs(work: _Work, decoded: Mapping[str, _Decoded]) -> Iterator[_Job]:
    """The images that are not done, some at a time: by name, or as they come in an archive with an order of its own."""
    chunk = max(1, min(_CHUNK, _BLOCK // (COLOURS[work.config.colour] * work.size**2)))
    streamed: dict[Path, tuple[Tree, dict[str, tuple[str, int]]]] = {}
    for split, listing in work.found.listings.items():
        todo = np.flatnonzero(~decoded[split].done).tolist()
        if listing.archive is None:
            for start in range(0, len(todo), chunk):
                yield _Job(split, listing, todo[start : start + chunk])
        else:
            _, wanted = streamed.setdefault(listing.archive.path, (listing.archive, {}))
            wanted |= {listing.names[i]: (split, i) for i in todo}
    for archive, wanted in streamed.values():
        for name, read in archive.stream() if wanted else ():
            if (place := wanted.pop(name, None)) is not None:
                split, i = place
                yield _Job(split, work.found.listings[split], [i], [_bytes_or_why(read)])
        for name, (split, i) in wanted.items():  # named by a list of labels, but not there
            yield _Job(split, _absent(name, archive.path), [i])


def _bytes_or_why(read: Callable[[], bytes]) -> bytes | BrokenImage:
    try:
        return read()
    except BrokenImage as error:
        return error


def _absent(name: str, archive: Path) -> Listing:
    def read(_: int) -> bytes:
        raise BrokenImage(f"is not in {archive.name}")

    return Listing([name], np.zeros(1, np.int64), read)


def _decode_some(work: _Work, job: _Job) -> list[Entry]:
    """Decode some images into their places."""
    colour, entries = work.config.colour, []
    for place, i in enumerate(job.indices):
        digest, reason, sums = "", None, (0,)
        try:
            data = job.listing.read(i) if job.read is None else job.read[place]
            if isinstance(data, BrokenImage):
                raise data
            digest = content_hash(data)
            pixels = decode(data, work.size, colour)
            sums = tuple(pixels.sum(axis=(1, 2), dtype=np.int64).tolist())
            work.arrays[job.split].put(i, pixels.tobytes())
        except BrokenImage as error:
            reason = str(error)
        entries.append(Entry(job.split, i, _stamp(work.found.listings[job.split], i), digest, reason, sums))
    return entries


def _check_broken(work: _Work, decoded: Mapping[str, _Decoded], total: int) -> None:
    """Stop as soon as more images are broken than may be.

    Raises:
        UserError: naming some of them.
    """
    broken = [
        (work.found.listings[split].names[i], why) for split, part in decoded.items()
        for i, why in sorted(part.broken.items()) if work.found.listings[split].names[i] not in work.found.known_broken
    ]  # fmt: skip
    share = work.config.max_broken
    if len(broken) <= allowed(share, total):
        return
    seen = sum(int(part.done.sum()) for part in decoded.values())
    named = "; ".join(f"{name} {why}" for name, why in broken[:_NAMED]) + ("; …" if len(broken) > _NAMED else "")
    enough = max(0.01, math.ceil(200 * len(broken) / seen) / 100)  # twice the share so far, in whole per cents
    raise UserError(
        f"{len(broken)} of the first {seen:,} images of {total:,} are broken, more than data.max_broken={share:g} "
        f"allows: {named}. Mend or remove them, or raise the limit, as data.max_broken={min(enough, 0.99):g}"
    )


def _write_lists(
    directory: Path, config: DataConfig, found: Splits, order: Mapping[str, list[int]],
    decoded: Mapping[str, _Decoded], now: Mapping[str, Stamp], progress: bool,
) -> dict[str, Any]:
    """Write labels and lists of files, and give what the manifest says of them; `order`: which image stands where."""
    about: dict[str, Any] = {}
    for split, listing in found.listings.items():
        part, kept = decoded[split], np.array(order[split], dtype=np.int64)
        _check_classes(found, split, kept)
        np.save(directory / f"{split}.labels.npy", listing.labels[kept])
        files = directory / f"{split}.files.csv"
        _csv(files, ("name", "label", "sha256"),
             ((listing.names[i], int(listing.labels[i]), part.hashes[i]) for i in order[split]))  # fmt: skip
        about[split] = {
            "images": len(kept), "files_sha256": sha256(files),
            "labels_sha256": sha256(directory / f"{split}.labels.npy"),
            "skipped": [
                {"name": listing.names[i], "reason": why, "known": listing.names[i] in found.known_broken}
                for i, why in sorted(part.broken.items())
            ],
        }  # fmt: skip
    write_stamps(directory / STAMPS, _stamps(config, found, decoded, now, progress))
    for path in directory.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    return about


def _write_manifest(
    directory: Path, config: DataConfig, settings: dict[str, Any], found: Splits, order: Mapping[str, list[int]],
    decoded: Mapping[str, _Decoded], about: dict[str, Any],
) -> None:
    """Write what says that everything else is whole."""
    manifest = {
        "format": FORMAT, "name": config.name, "size": settings["size"], "colour": config.colour,
        "classes": found.classes, "channels": COLOURS[config.colour],
        "mean": config.mean if config.mean is not None else _mean(decoded, order, settings["size"]),
        "splits": about, "remarks": found.remarks,
        "ignored": {"count": len(found.ignored), "names": found.ignored[:_IGNORED_NAMED]},
        "settings": {key: value for key, value in settings.items() if key != "root"}, "pillow": PIL.__version__,
    }  # fmt: skip
    write_text(directory / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def _check_classes(found: Splits, split: str, kept: NDArray[np.int64]) -> None:
    labels = found.listings[split].labels
    for label, name in enumerate(found.classes):
        if (labels == label).any() and not (labels[kept] == label).any():
            raise UserError(f"every image of class {name!r} in {split} is broken; mend them or leave the class out")
    if not len(kept):
        raise UserError(f"every image of {split} is broken")


def _stamps(
    config: DataConfig, found: Splits, decoded: Mapping[str, _Decoded], now: Mapping[str, Stamp], progress: bool
) -> list[tuple[str, int, int, str]]:
    """Name, size, time and hash of every file that the source was made of."""
    hashes = {
        listing.names[i]: digest for split, listing in found.listings.items()
        for i, digest in enumerate(decoded[split].hashes)
    }
    return sorted(
        (name, *stamp, hashes[name] if name in hashes else config.source.digest(name, progress))
        for name, stamp in now.items()
    )


def write_stamps(path: Path, stamps: list[tuple[str, int, int, str]]) -> None:
    """Write what tells whether a source changed: name, size, time (ns) and hash of every file, atomically."""
    with atomic_path(path) as temporary:
        _csv(temporary, ("name", "size", "mtime_ns", "digest"), stamps)


def _csv(path: Path, header: tuple[str, ...], rows: Any) -> None:  # noqa: ANN401
    # names of files may hold bytes that are no UTF-8
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _mean(decoded: Mapping[str, _Decoded], order: Mapping[str, list[int]], size: int) -> list[float]:
    """Channel means of the training split (of all images where there is none), from exact sums."""
    chosen = ["train"] if "train" in decoded else list(decoded)
    total = np.sum([decoded[split].sums for split in chosen], axis=0)
    return [float(value) for value in total / (sum(len(order[split]) for split in chosen) * size**2)]
