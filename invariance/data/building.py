"""Building prepared data: every image of a source decoded once, into arrays that can be memory-mapped."""

import errno
import hashlib
import math
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invariance.data.decode import COLOURS, BrokenImage, decode, large_images
from invariance.data.manifest import FORMAT, MANIFEST, write_lists, write_manifest
from invariance.data.mending import BEFORE, read_before, whole_entries
from invariance.data.sources import DataConfig, Listing, Splits, content_hash
from invariance.data.stored import Decoded, Entry, Journal, StoredArray, checksum
from invariance.data.trees import Stamp, Tree
from invariance.errors import UserError
from invariance.progress import bar
from invariance.runs.sweep import working

_JOURNAL = "journal"
_CHUNK, _BLOCK = 64, 1 << 24  # images, and bytes, that are handled at once
_SYNC_EVERY = 5.0  # seconds of decoding that a kill may cost
_CHECKED, _NAMED = 1024, 5
BYTES_OF_LISTS = 600
"""Room that the labels, names, hashes and the journal of one image take, at most."""


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

    A folder that an earlier call left when it was killed is taken up: what its journal names is not decoded again if
    the stored pixels still have the checksum that the journal gives.

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
    if not (directory / MANIFEST).exists():  # else it is whole, and was stopped just before it was renamed
        working()
        _build(directory, config, size, settings, now, progress, workers)
    for left in (_JOURNAL, BEFORE):
        (directory / left).unlink(missing_ok=True)


def _build(
    directory: Path, config: DataConfig, size: int, settings: dict[str, Any], now: Mapping[str, Stamp], progress: bool,
    workers: int,
) -> None:
    found = config.source.splits(progress)
    with ExitStack() as stack:
        arrays = _arrays(directory, found, (COLOURS[config.colour], size, size), stack)
        before = read_before(directory, arrays)
        decoded = _decode_all(_Work(directory, config, size, found, arrays, before), progress, workers)
        order = {split: arrays[split].fill_gaps(decoded[split].broken) for split in arrays}
        for array in arrays.values():
            array.sync()
        if (config.source.stamps() or {}) != now:
            raise UserError(f"the source of {config.name} changed while it was prepared; repeat the command")
        about = write_lists(directory, config, found, order, decoded, now, progress)
        for split, array in arrays.items():
            array.shorten(len(order[split]))
            array.cut()
        write_manifest(directory, config, settings, found, order, decoded, about, before)


def begun(directory: Path) -> bool:
    """Whether a folder holds decoded images that a later call can take up."""
    if (directory / MANIFEST).exists() or (directory / BEFORE).exists():
        return True
    try:
        with open(directory / _JOURNAL, "rb") as file:
            return bool(file.readline() and file.readline())
    except OSError:
        return False


def _arrays(directory: Path, found: Splits, image: tuple[int, ...], stack: ExitStack) -> dict[str, StoredArray]:
    """The splits' arrays with their space taken; what an earlier attempt left in them stays, for its journal to say."""
    arrays = {
        split: stack.enter_context(closing(StoredArray(directory / f"{split}.images.npy", (len(listing), *image))))
        for split, listing in found.listings.items()
    }
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
    before: Mapping[str, Any] | None

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


def _decode_all(work: _Work, progress: bool, workers: int) -> dict[str, Decoded]:
    listings, journal = work.found.listings, Journal(work.directory / _JOURNAL, work.key)
    decoded = {split: Decoded.none(len(listing)) for split, listing in listings.items()}
    total = sum(map(len, listings.values()))
    with bar(progress) as shown, large_images(), ThreadPoolExecutor(workers) as pool, _synced(work, journal) as sync:
        task = shown.add_task(f"preparing {work.config.name} at {work.size}×{work.size}", total=total)
        for entry in _still_there(work, journal, pool):
            decoded[entry.split].take(entry)
            shown.advance(task, 1)
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


def _still_there(work: _Work, journal: Journal, pool: ThreadPoolExecutor) -> Iterator[Entry]:
    """Entries of files that have not changed, whose pixels are stored as they were decoded.

    They are those of the journal or, where prepared data are made again and it has none, of the lists of before.
    """

    def whole(entry: Entry) -> Entry | None:
        if entry.reason is not None:
            return entry
        pixels = work.arrays[entry.split].get(entry.i)
        if checksum(pixels) != entry.check:
            return None
        return entry if entry.sums else replace(entry, sums=_sums(np.frombuffer(pixels, np.uint8).reshape(shape)))

    shape = (COLOURS[work.config.colour], work.size, work.size)
    listed = list(journal.read())
    noted = bool(listed)
    if not noted and work.before is not None:
        listed = list(whole_entries(work.directory, work.before, work.found.listings, work.arrays))
    entries = [entry for entry in listed if entry.stamp == _stamp(work.found.listings[entry.split], entry.i)]
    for start in range(0, len(entries), _CHECKED):
        for entry in pool.map(whole, entries[start : start + _CHECKED]):
            if entry is not None:
                if not noted:
                    journal.add(entry)
                yield entry


def _sums(pixels: NDArray[np.uint8]) -> tuple[int, ...]:
    """Sum of the pixels (C, H, W) of each channel."""
    return tuple(pixels.sum(axis=(1, 2), dtype=np.int64).tolist())


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


def _jobs(work: _Work, decoded: Mapping[str, Decoded]) -> Iterator[_Job]:
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
        digest, reason, check = "", None, 0
        sums: tuple[int, ...] = (0,)
        try:
            data = job.listing.read(i) if job.read is None else job.read[place]
            if isinstance(data, BrokenImage):
                raise data
            digest = content_hash(data)
            pixels = decode(data, work.size, colour)
            sums = _sums(pixels)
            stored = pixels.tobytes()
            check = checksum(stored)
            work.arrays[job.split].put(i, stored)
        except BrokenImage as error:
            reason = str(error)
        entries.append(Entry(job.split, i, _stamp(work.found.listings[job.split], i), digest, reason, sums, check))
    return entries


def _check_broken(work: _Work, decoded: Mapping[str, Decoded], total: int) -> None:
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
