"""Building prepared data: every image of a source decoded once, into arrays with a checksum an image."""

import errno
import hashlib
import math
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invariance.data.decode import COLOURS, BrokenImage, Pixels, decode_as, decode_sizes, large_images
from invariance.data.manifest import FORMAT, MANIFEST, write_lists, write_manifest
from invariance.data.mending import BEFORE, read_before, whole_entries
from invariance.data.sources.base import DataConfig, Listing, Splits, content_hash
from invariance.data.sources.trees import Stamp, Tree
from invariance.data.stored import Decoded, Journal, Outcome, StoredArray, checksum
from invariance.errors import UserError
from invariance.models.recipe import Resize
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


@dataclass(frozen=True)
class Target:
    """A folder for prepared data, and what identifies them; recorded in the manifest."""

    directory: Path
    settings: dict[str, Any]

    @property
    def size(self) -> int:
        """Side of the prepared images in pixels."""
        return int(self.settings["size"])

    @cached_property
    def resize(self) -> Resize | None:
        """How a network wants pictures resized and cropped; None: they are warped."""
        held = self.settings.get("resize")
        return None if held is None else Resize(**{**held, "fill": tuple(held["fill"])})


def build(
    targets: Sequence[Target], config: DataConfig, now: Mapping[str, Stamp], progress: bool, workers: int
) -> None:
    """Decode a whole source once, for folders of several sizes, and flush them to the disk.

    Each folder's manifest, written last, says that it is whole. A folder that an earlier call left when it was killed
    is taken up: what its journal names is not decoded again if the stored pixels still have the checksum that the
    journal gives. Room for all is taken before anything is decoded.

    Args:
        targets: the folders, made by the caller, who renames them into place afterwards.
        config: the data set.
        now: size and time of the source's files when their decoding began.
        progress: whether to show a progress bar.
        workers: threads that decode; Pillow lets them run side by side.

    Raises:
        UserError: if the source cannot serve, changes meanwhile, or more of its images are broken than allowed.
        OSError: if the disk is full or refuses.
    """
    working()
    found = config.source.splits(progress)
    images = sum(map(len, found.listings.values()))
    with ExitStack() as stack:
        works = [_Work(target, config, found, _arrays(target, config, found, stack)) for target in targets]
        if shutil.disk_usage(targets[0].directory).free < BYTES_OF_LISTS * images * len(works):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        _decode_all(works, progress, workers)
        if (config.source.stamps() or {}) != now:
            raise UserError(f"the source of {config.name} changed while it was prepared; repeat the command")
        digest = cache(partial(config.source.digest, progress=progress))
        for work in works:
            _finish(work, now, digest)
    for target in targets:
        tidied(target.directory)


def _finish(work: "_Work", now: Mapping[str, Stamp], digest: Callable[[str], str]) -> None:
    directory, arrays = work.target.directory, work.arrays
    order = {split: arrays[split].fill_gaps(work.decoded[split].broken) for split in arrays}
    for array in arrays.values():
        array.sync()
    about = write_lists(directory, work.found, order, work.decoded, now, digest)
    for split, array in arrays.items():
        array.shorten(len(order[split]))
        array.cut()
    write_manifest(directory, work.config, work.target.settings, work.found, order, work.decoded, about, work.before)


def tidied(directory: Path) -> bool:
    """Remove what a folder was made with, if it is whole.

    Returns:
        Whether it is.
    """
    if not (directory / MANIFEST).exists():
        return False
    for left in (_JOURNAL, BEFORE):
        (directory / left).unlink(missing_ok=True)
    return True


def begun(directory: Path) -> bool:
    """Whether a folder holds decoded images that a later call can take up."""
    if (directory / MANIFEST).exists() or (directory / BEFORE).exists():
        return True
    try:
        with open(directory / _JOURNAL, "rb") as file:
            return bool(file.readline() and file.readline())
    except OSError:
        return False


def _arrays(target: Target, config: DataConfig, found: Splits, stack: ExitStack) -> dict[str, StoredArray]:
    """The splits' arrays with their space taken; what an earlier attempt left in them stays, for its journal to say."""
    image, directory = (COLOURS[config.colour], target.size, target.size), target.directory
    arrays = {
        split: stack.enter_context(closing(StoredArray(directory / f"{split}.images.npy", (len(listing), *image))))
        for split, listing in found.listings.items()
    }
    for array in arrays.values():
        array.reserve()
    return arrays


class _Work:
    """What is decoded into one folder, and what has come of it."""

    def __init__(self, target: Target, config: DataConfig, found: Splits, arrays: Mapping[str, StoredArray]) -> None:
        self.target, self.config, self.found, self.arrays = target, config, found, arrays
        self.decoded = {split: Decoded.none(len(listing)) for split, listing in found.listings.items()}
        self.before = read_before(target.directory, arrays)
        self.journal = Journal(target.directory / _JOURNAL, self._key)

    @property
    def _key(self) -> str:
        """What a journal must be of to be taken up: these names in this order, with these labels."""
        digest = hashlib.sha256()
        for split, listing in self.found.listings.items():
            digest.update(f"{split}\0{len(listing)}\0".encode())
            digest.update("\0".join(listing.names).encode("utf-8", "surrogateescape"))
            digest.update(listing.labels.tobytes())
        return f"{FORMAT}:{digest.hexdigest()}"

    def done(self, split: str, i: int) -> bool:
        """Whether an image needs no more decoding for this folder."""
        return bool(self.decoded[split].done[i])

    def flush(self) -> None:
        """Put pixels on the disk, and then the journal that names them."""
        for array in self.arrays.values():
            array.sync()
        self.journal.write()


def allowed(max_broken: float, total: int) -> int:
    """How many images of `total` may be broken."""
    return int(max_broken * total + 1e-9)  # 0.29 · 100 is a little less than 29


def _decode_all(works: Sequence[_Work], progress: bool, workers: int) -> None:
    config, total = works[0].config, sum(map(len, works[0].found.listings.values()))
    sizes = ", ".join(f"{work.target.size}×{work.target.size}" for work in works)
    with bar(progress) as shown, large_images(), ThreadPoolExecutor(workers) as pool, _synced(works) as sync:
        task = shown.add_task(f"preparing {config.name} at {sizes}", total=total)
        for work in works:
            for entry in _still_there(work, pool):
                work.decoded[entry.split].take(entry)
                shown.advance(task, all(other.done(entry.split, entry.i) for other in works))
        waiting: deque[Future[list[tuple[_Work, Outcome]]]] = deque()
        jobs = _jobs(works)
        try:
            while True:
                while len(waiting) < 4 * workers and (job := next(jobs, None)) is not None:
                    waiting.append(pool.submit(_decode_some, works, job))
                if not waiting:
                    break
                for work, entry in (entries := waiting.popleft().result()):
                    work.decoded[entry.split].take(entry)
                    work.journal.add(entry)
                for work in works:
                    _check_broken(work, total)
                shown.advance(task, len({entry.i for _, entry in entries}))
                sync()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _still_there(work: _Work, pool: ThreadPoolExecutor) -> Iterator[Outcome]:
    """Entries of files that have not changed, whose pixels are stored as they were decoded.

    They are those of the journal or, where prepared data are made again and it has none, of the lists of before.
    """

    def unchanged(entry: Outcome) -> Outcome | None:
        """The entry as it is kept, if its pixels are still what they were; None if not."""
        if entry.reason is not None:
            return entry
        pixels = work.arrays[entry.split].get(entry.i)
        if checksum(pixels) != entry.check:
            return None
        return entry if entry.sums else replace(entry, sums=_sums(np.frombuffer(pixels, np.uint8).reshape(shape)))

    shape, listings = (COLOURS[work.config.colour], work.target.size, work.target.size), work.found.listings
    listed = list(work.journal.read())
    noted = bool(listed)
    if not noted and work.before is not None:
        listed = list(whole_entries(work.target.directory, work.before, listings, work.arrays))
    entries = [entry for entry in listed if entry.stamp == _stamp(listings[entry.split], entry.i)]
    for start in range(0, len(entries), _CHECKED):
        for entry in pool.map(unchanged, entries[start : start + _CHECKED]):
            if entry is not None:
                if not noted:
                    work.journal.add(entry)
                yield entry


def _sums(pixels: NDArray[np.uint8]) -> tuple[int, ...]:
    """Sum of the pixels (C, H, W) of each channel."""
    return tuple(pixels.sum(axis=(1, 2), dtype=np.int64).tolist())


@contextmanager
def _synced(works: Sequence[_Work]) -> Iterator[Callable[[], None]]:
    """What flushes all folders: now and then, and at the end, whatever ended it."""
    last = time.monotonic()

    def now_and_then() -> None:
        """Flush what was written, if that is some seconds ago."""
        nonlocal last
        if time.monotonic() - last > _SYNC_EVERY:
            for work in works:
                work.flush()
            last = time.monotonic()

    try:
        yield now_and_then
    finally:
        for work in works:
            work.flush()


def _stamp(listing: Listing, i: int) -> Stamp | None:
    return None if listing.stamps is None else listing.stamps[i]


def _jobs(works: Sequence[_Work]) -> Iterator[_Job]:
    """The images that some folder lacks, some at a time: by name, or as they come in an archive with its own order."""
    pixels, listings = sum(work.target.size**2 for work in works), works[0].found.listings
    chunk = max(1, min(_CHUNK, _BLOCK // (COLOURS[works[0].config.colour] * pixels)))
    streamed: dict[Path, tuple[Tree, dict[str, tuple[str, int]]]] = {}
    for split, listing in listings.items():
        todo = np.flatnonzero(~np.logical_and.reduce([work.decoded[split].done for work in works])).tolist()
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
                yield _Job(split, listings[split], [i], [_bytes_or_why(read)])
        for name, (split, i) in wanted.items():  # named by a list of labels, but not there
            yield _Job(split, _absent(name, archive.path), [i])


def _bytes_or_why(read: Callable[[], bytes]) -> bytes | BrokenImage:
    try:
        return read()
    except BrokenImage as error:
        return error


def _absent(name: str, archive: Path) -> Listing:
    def read(_: int) -> bytes:
        """Refuse: there is no such image."""
        raise BrokenImage(f"is not in {archive.name}")

    return Listing([name], np.zeros(1, np.int64), read)


def _decode_some(works: Sequence[_Work], job: _Job) -> list[tuple[_Work, Outcome]]:
    """Decode some images into their places in all folders that lack them."""
    colour, entries = works[0].config.colour, []
    for place, i in enumerate(job.indices):
        lacking = [work for work in works if not work.done(job.split, i)]
        digest, reason, pixels = "", None, list[Pixels | None]([None] * len(lacking))
        try:
            data = job.listing.read(i) if job.read is None else job.read[place]
            if isinstance(data, BrokenImage):
                raise data
            digest = content_hash(data)
            pixels = _decoded(data, [work.target for work in lacking], colour, job.listing.names[i])
        except BrokenImage as error:
            reason = str(error)
        stamp = _stamp(works[0].found.listings[job.split], i)
        for work, made in zip(lacking, pixels, strict=True):
            sums: tuple[int, ...] = (0,)
            check = 0
            if made is not None:
                sums, stored = _sums(made), made.tobytes()
                check = checksum(stored)
                work.arrays[job.split].put(i, stored)
            entries.append((work, Outcome(job.split, i, stamp, digest, reason, sums, check)))
    return entries


def _decoded(data: bytes | Pixels, targets: Sequence[Target], colour: str, name: str) -> list[Pixels | None]:
    """Pixels of one image, called as given, as every folder wants them.

    Raises:
        UserError: if a picture that is not to be warped has not the size of a folder's.
    """
    warped = iter(decode_sizes(data, [one.size for one in targets if one.resize is None], colour))
    made = [next(warped) if one.resize is None else decode_as(data, one.resize, colour) for one in targets]
    for one, pixels in zip(targets, made, strict=True):
        if pixels.shape[1:] != (one.size, one.size):
            height, width = pixels.shape[1:]
            raise UserError(
                f"{name} is {height} × {width} pixels, and {one.size} × {one.size} are wanted; leave resize=none out"
            )
    return list(made)


def _check_broken(work: _Work, total: int) -> None:
    """Stop as soon as more images are broken than may be.

    Raises:
        UserError: naming some of them.
    """
    broken = [
        (work.found.listings[split].names[i], why)
        for split, part in work.decoded.items()
        for i, why in sorted(part.broken.items())
        if work.found.listings[split].names[i] not in work.found.known_broken
    ]
    share = work.config.max_broken
    if len(broken) <= allowed(share, total):
        return
    seen = sum(int(part.done.sum()) for part in work.decoded.values())
    named = "; ".join(f"{name} {why}" for name, why in broken[:_NAMED]) + ("; …" if len(broken) > _NAMED else "")
    enough = max(0.01, math.ceil(200 * len(broken) / seen) / 100)  # twice the share so far, in whole per cents
    raise UserError(
        f"{len(broken)} of the first {seen:,} images of {total:,} are broken, more than data.max_broken={share:g} "
        f"allows: {named}. Mend or remove them, or raise the limit, as data.max_broken={min(enough, 0.99):g}"
    )
