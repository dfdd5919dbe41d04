"""Making damaged prepared data again: what of them is whole, and whether they are afterwards what they were."""

import csv
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invariance.data.images import StoredImages, named
from invariance.data.manifest import (
    MANIFEST,
    hash_of_checksums,
    parse_manifest,
    read_checksums,
    read_manifest,
    sealed_text,
)
from invariance.data.sources.base import Listing
from invariance.data.stored import Outcome, StoredArray, checksum
from invariance.errors import UserError
from invariance.progress import bar
from invariance.runs.files import sha256, write_text

BEFORE = "before.json"
_DAMAGE = (OSError, ValueError, KeyError, TypeError, EOFError, AttributeError, csv.Error)
_BLOCK = 1 << 24  # bytes that are read at once


def damage_of(directory: Path, images: Mapping[str, StoredImages], progress: bool, workers: int) -> str:
    """What of prepared data is not as it was written, having read everything; empty if nothing is."""
    about = read_manifest(directory)[0]["splits"]
    damage = []
    for split in images:
        name = f"{split}.files.csv"
        try:
            if sha256(directory / name) != about[split]["files_sha256"]:
                damage.append(f"{name} has changed")
        except OSError as error:
            damage.append(f"{name}: {error.strerror}")
    for split, bad in differing(images, progress, workers).items():
        some = f"{len(bad):,} of {len(images[split]):,} images differ from their checksums"
        damage.append(f"{split}: {some}, counted from 0 {named(bad)}")
    return "; ".join(damage)


def differing(images: Mapping[str, StoredImages], progress: bool, workers: int) -> dict[str, list[int]]:
    """Which images of each split differ from their checksums, having read all of them."""
    found: dict[str, list[int]] = {}
    with bar(progress) as shown, ThreadPoolExecutor(workers) as pool:
        task = shown.add_task("verifying", total=sum(map(len, images.values())))
        for split, stored in images.items():
            chunk = max(1, _BLOCK // int(np.prod(stored.shape[1:])))
            bad: list[int] = []
            for some in pool.map(partial(stored.differing, count=chunk), range(0, len(stored), chunk)):
                bad += some
                shown.advance(task, chunk)
            if bad:
                found[split] = bad
    return found


def take_apart(directory: Path, temporary: Path, listed: bool) -> None:
    """Make an unfinished preparation of damaged or unverified data, which is then taken up as one that was killed.

    Args:
        directory: the data; their manifest becomes `before.json`.
        temporary: where unfinished preparations of them lie.
        listed: whether the data's list of files is of the source as it is now; if not, all is decoded again.
    """
    if not listed:
        for path in directory.glob("*.files.csv"):
            path.unlink()
    if (directory / MANIFEST).is_file():
        os.replace(directory / MANIFEST, directory / BEFORE)
    shutil.rmtree(temporary, ignore_errors=True)
    os.rename(directory, temporary)


def read_before(directory: Path, arrays: Mapping[str, StoredArray]) -> dict[str, Any] | None:
    """The manifest of what is made again; None if nothing is, or it says nothing that can be trusted.

    Data of version 0.1.0 have no checksums: those of the pixels as they are found are noted, to be compared afterwards.
    """
    try:
        before, _ = parse_manifest((directory / BEFORE).read_bytes(), directory)
        for about in before["splits"].values():
            _ = about["images"], about["files_sha256"], about["labels_sha256"]
        if "pixels" not in before:
            before["pixels"] = {
                split: hash_of_checksums(_checksums(arrays[split], about["images"]))
                for split, about in before["splits"].items()
            }
            before["unverified"] = True
            write_text(directory / BEFORE, sealed_text(before))
    except (*_DAMAGE, UserError):
        return None
    return before


def whole_entries(
    directory: Path, before: Mapping[str, Any], listings: Mapping[str, Listing], arrays: Mapping[str, StoredArray]
) -> Iterator[Outcome]:
    """What a journal would say of the images of before, as far as lists with the right hashes tell; without sums."""
    if before.get("unverified"):
        return
    for split, listing in listings.items():
        try:
            about, files = before["splits"][split], directory / f"{split}.files.csv"
            if sha256(files) != about["files_sha256"]:
                continue
            with open(files, encoding="utf-8", errors="surrogateescape", newline="") as file:
                rows = list(csv.reader(file))[1:]
            checks = _trusted_checksums(directory, split, before["pixels"][split], arrays[split], about["images"])
        except _DAMAGE:
            continue
        for i, (row, check) in enumerate(zip(rows, checks, strict=False)):
            if i < len(listing) and row[0] == listing.names[i]:  # others were moved into the gaps of broken ones
                stamp = None if listing.stamps is None else listing.stamps[i]
                yield Outcome(split, i, stamp, row[2], None, (), int(check))


def _trusted_checksums(directory: Path, split: str, digest: str, array: StoredArray, images: int) -> NDArray[np.uint64]:
    """The checksums of which the manifest has the hash: as stored, or else as the pixels give them."""
    try:
        return read_checksums(directory, split, digest)
    except _DAMAGE:
        checks = _checksums(array, images)
        if hash_of_checksums(checks) != digest:
            raise
        return checks


def _checksums(array: StoredArray, images: int) -> NDArray[np.uint64]:
    return np.array([checksum(array.get(i)) for i in range(images)], np.uint64)
