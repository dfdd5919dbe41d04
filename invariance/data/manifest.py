"""The manifest of prepared data and the lists beside it: what the data are, and hashes of what holds them."""

import csv
import errno
import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from invariance.data.decode import COLOURS
from invariance.data.left_out import lines_of
from invariance.data.names import names_a_split, read_alike, shown, split_named
from invariance.data.sources.base import DataConfig, Splits
from invariance.data.sources.trees import Stamp
from invariance.data.stored import Decoded
from invariance.errors import UserError
from invariance.runs.files import atomic_path, sha256, write_text
from invariance.settings.nested import load_json

FORMAT = 2
"""Version of the arrays, the manifest and the decoding; another one is another directory."""
MANIFEST, STAMPS = "manifest.json", "stamps.csv"
_IGNORED_NAMED = 100
_ADDED = ("pixels", "left_out", "seal", "unverified")
"""Keys that version 0.1.0 did not write. What data are does not depend on them, so that networks trained on data of
before know them again."""


class DamagedData(UserError):
    """Something of prepared data is not as it was written.

    Args:
        directory: the folder.
        why: what is wrong.
        size: side of the images in pixels, if that is known.
        resized: whether they are resized as a network says, which invariance-prepare does not know.

    Attributes:
        why: what is wrong.
        what: the message without what to do.
    """

    def __init__(self, directory: Path, why: str, size: int | None = None, *, resized: bool = False) -> None:
        self.why, self.what = why, f"prepared data in {directory} are damaged ({why})"
        data = "the same data" + (f" and size={size}" if size else "")
        mending = f"run invariance-prepare with {data}, which mends them"
        again = "delete them and repeat the command, which makes them again"
        super().__init__(f"{self.what}; {again if resized else mending}")


def damage(directory: Path, error: Exception) -> UserError:
    """What to tell of an error at opening prepared data: that they are damaged, unless the system is short of files."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return UserError(
            f"{directory} cannot be opened: too many files are open; allow more (ulimit -n 8192) and repeat"
        )
    return DamagedData(directory, " ".join(str(error).split()) or type(error).__name__)


def checksums_name(split: str) -> str:
    """The file with a checksum for each image of a split, uint64 (N,)."""
    return f"{split}.checksums.npy"


def _text(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, indent=1) + "\n"


def _hash(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(manifest).encode()).hexdigest()


def read_manifest(directory: Path) -> tuple[dict[str, Any], str]:
    """The manifest of prepared data, and the hash by which runs know the data.

    The hash is of the manifest as version 0.1.0 wrote it. A manifest of that version has no key `pixels`.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no manifest, or has changed since it was written.
        UserError: if it is of another version of the program.
    """
    return parse_manifest((directory / MANIFEST).read_bytes(), directory)


def parse_manifest(text: bytes, directory: Path) -> tuple[dict[str, Any], str]:
    """What `read_manifest` gives, of a file's content."""
    manifest = load_json(text)
    if not isinstance(manifest, dict):
        raise ValueError(f"{MANIFEST} holds no manifest")
    if manifest["format"] != FORMAT:
        raise UserError(f"{directory} was prepared by another version; delete it and prepare again")
    if "pixels" not in manifest and "seal" not in manifest:
        return manifest, hashlib.sha256(text).hexdigest()
    if manifest.get("seal") != _hash({key: value for key, value in manifest.items() if key != "seal"}):
        raise ValueError(f"{MANIFEST} has changed")
    return manifest, identity_of(manifest)


def identity_of(manifest: Mapping[str, Any]) -> str:
    """The hash by which runs know the data of a manifest."""
    return _hash({key: value for key, value in manifest.items() if key not in _ADDED})


def sealed_text(manifest: Mapping[str, Any]) -> str:
    """A manifest as a file's content, which says when it has changed."""
    rest = {key: value for key, value in manifest.items() if key != "seal"}
    return _text({**rest, "seal": _hash(rest)})


def read_sealed(text: bytes) -> dict[str, Any]:
    """What `sealed_text` made a file's content of.

    Raises:
        ValueError: if it is nothing of the kind, or has changed since.
    """
    held = load_json(text)
    if not isinstance(held, dict):
        raise ValueError("holds nothing that was sealed")
    rest = {key: value for key, value in held.items() if key != "seal"}
    if held.get("seal") != _hash(rest):
        raise ValueError("has changed")
    return rest


def read_checksums(directory: Path, split: str, digest: str) -> NDArray[np.uint64]:
    """The checksums uint64 (N,) of a split's images.

    Raises:
        OSError: if they are not there or cannot be read.
        ValueError: if their file has not this SHA-256.
    """
    data = (directory / checksums_name(split)).read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(f"{checksums_name(split)} has changed")
    checks: NDArray[np.uint64] = np.load(io.BytesIO(data), allow_pickle=False)
    return checks


def hash_of_checksums(checks: NDArray[np.uint64]) -> str:
    """SHA-256 of the file that holds these checksums."""
    data = io.BytesIO()
    np.save(data, checks)
    return hashlib.sha256(data.getvalue()).hexdigest()


def left_out_lines(directory: Path, manifest: Mapping[str, Any]) -> list[str]:
    """What of the source is left out, a line for each reason.

    Raises:
        UserError: if version 0.1.0 left out what looks like a split, or took two names that read the same for two
            classes.
    """
    if "left_out" in manifest:
        return lines_of(manifest["left_out"])
    remedy = "delete it and prepare again"
    ignored, count = [str(name) for name in manifest["ignored"]["names"]], int(manifest["ignored"]["count"])
    if manifest["settings"].get("source") == "Folder":
        folders = [name[:-1] for name in ignored if name.endswith("/") and "/" not in name[:-1]]
        if odd := next((name for name in folders if split_named(name) or names_a_split(name, loosely=True)), None):
            raise UserError(f"{directory} was made without the folder {odd!r}, which looks like a split; {remedy}")
        if alike := read_alike(map(str, manifest["classes"])):
            raise UserError(f"{directory} has the classes {alike[0]!r} and {alike[1]!r}, which read the same; {remedy}")
    group = {"why": "of no use to version 0.1.0", "files": count, "things": count, "names": [*map(shown, ignored)]}
    return lines_of([group] if count else [])


def write_lists(
    directory: Path,
    found: Splits,
    order: Mapping[str, list[int]],
    decoded: Mapping[str, Decoded],
    now: Mapping[str, Stamp],
    digest: Callable[[str], str],
) -> dict[str, Any]:
    """Write labels, checksums and lists of files, and give what the manifest says of them.

    Args:
        directory: the folder.
        found: the source, listed.
        order: for each split which image stands where.
        decoded: what came of each image.
        now: size and time of the source's files.
        digest: hash of a file of the source that is no image.

    Raises:
        UserError: if every image of a class is broken.
    """
    about: dict[str, Any] = {}
    for split, listing in found.listings.items():
        part, kept = decoded[split], np.array(order[split], dtype=np.int64)
        _check_classes(found, split, kept)
        np.save(directory / f"{split}.labels.npy", listing.labels[kept])
        np.save(directory / checksums_name(split), part.checksums[kept])
        files = directory / f"{split}.files.csv"
        _csv(
            files,
            ("name", "label", "sha256"),
            ((listing.names[i], int(listing.labels[i]), part.hashes[i]) for i in order[split]),
        )
        about[split] = {
            "images": len(kept),
            "files_sha256": sha256(files),
            "labels_sha256": sha256(directory / f"{split}.labels.npy"),
            "skipped": [
                {"name": listing.names[i], "reason": why, "known": listing.names[i] in found.known_broken}
                for i, why in sorted(part.broken.items())
            ],
        }
    write_stamps(directory / STAMPS, _stamps(found, decoded, now, digest))
    for path in directory.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    return about


def write_manifest(
    directory: Path,
    config: DataConfig,
    settings: dict[str, Any],
    found: Splits,
    order: Mapping[str, list[int]],
    decoded: Mapping[str, Decoded],
    about: dict[str, Any],
    before: Mapping[str, Any] | None,
) -> None:
    """Write what says that everything else is whole.

    Args:
        directory: the folder.
        config: the data set.
        settings: what identifies these prepared data.
        found: the source, listed.
        order: for each split which image stands where.
        decoded: what came of each image.
        about: what `write_lists` gave.
        before: the manifest of the data that are made again here, if any are.
    """
    channels, size = COLOURS[config.colour], int(settings["size"])
    manifest = {
        "format": FORMAT,
        "name": config.name,
        "size": settings["size"],
        "colour": config.colour,
        "classes": found.classes,
        "channels": channels,
        "mean": config.mean if config.mean is not None else _mean(decoded, order, size),
        "splits": about,
        "remarks": found.remarks,
        "ignored": {"count": len(found.ignored), "names": found.ignored[:_IGNORED_NAMED]},
        "settings": {key: value for key, value in settings.items() if key != "root"},
        "pillow": PIL.__version__,
    }
    manifest["pixels"] = {split: hash_of_checksums(decoded[split].checksums[kept]) for split, kept in order.items()}
    manifest["left_out"] = found.left_out.as_json()
    write_text(directory / MANIFEST, sealed_text(manifest if before is None else _made_again(manifest, before)))


def _made_again(manifest: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest of data that were made again: the one of before if they are the same, else one with another hash."""
    same = all(manifest[key] == before.get(key) for key in ("pixels", "classes", "channels", "mean", "size"))
    hashes = [
        {split: [about[key] for key in ("images", "files_sha256", "labels_sha256")] for split, about in splits.items()}
        for splits in (manifest["splits"], before["splits"])
    ]
    if same and hashes[0] == hashes[1]:
        kept = {key: value for key, value in before.items() if key not in _ADDED}
        return kept | {key: manifest[key] for key in ("pixels", "left_out")}
    if identity_of(manifest) == identity_of(before):
        return {**manifest, "other_pixels_than": identity_of(before)}
    return manifest


def _check_classes(found: Splits, split: str, kept: NDArray[np.int64]) -> None:
    labels = found.listings[split].labels
    for label, name in enumerate(found.classes):
        if (labels == label).any() and not (labels[kept] == label).any():
            raise UserError(f"every image of class {name!r} in {split} is broken; mend them or leave the class out")
    if not len(kept):
        raise UserError(f"every image of {split} is broken")


def _stamps(
    found: Splits, decoded: Mapping[str, Decoded], now: Mapping[str, Stamp], digest: Callable[[str], str]
) -> list[tuple[str, int, int, str]]:
    """Name, size, time and hash of every file that the source was made of."""
    hashes = {
        listing.names[i]: known
        for split, listing in found.listings.items()
        for i, known in enumerate(decoded[split].hashes)
    }
    return sorted((name, *stamp, hashes[name] if name in hashes else digest(name)) for name, stamp in now.items())


def write_stamps(path: Path, stamps: list[tuple[str, int, int, str]]) -> None:
    """Write what tells whether a source changed: name, size, time (ns) and hash of every file, atomically."""
    with atomic_path(path) as temporary:
        _csv(temporary, ("name", "size", "mtime_ns", "digest"), stamps)


def _csv(path: Path, header: tuple[str, ...], rows: Any) -> None:  # noqa: ANN401
    # names of files may hold bytes that are no UTF-8
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        plain = csv.writer(file, lineterminator="\n")
        quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)  # a carriage return ends a row, too
        plain.writerow(header)
        for row in rows:
            (quoted if "\r" in row[0] else plain).writerow(row)


def _mean(decoded: Mapping[str, Decoded], order: Mapping[str, list[int]], size: int) -> list[float]:
    """Channel means of the training split (of all images where there is none), from exact sums."""
    chosen = ["train"] if "train" in decoded else list(decoded)
    total = np.sum([decoded[split].sums for split in chosen], axis=0)
    return [float(value) for value in total / (sum(len(order[split]) for split in chosen) * size**2)]
