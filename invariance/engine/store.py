"""φ of a network's untouched images, kept on disk: what any number of comparisons read and none computes again."""

import fcntl
import hashlib
import io
import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress, TaskID
from torch import Tensor

from invariance.data.prepared import Prepared
from invariance.engine.features import constant, finite, normalise
from invariance.engine.stream import extract
from invariance.errors import UserError
from invariance.measures.distance import rms
from invariance.runs.checked import DamagedFile, digest, made_again, read_facts, write_facts
from invariance.runs.files import atomic_path, disk_errors, remove_temporaries
from invariance.training.trained import Network, files_of
from invariance.transforms.base import UNTOUCHED

FORMAT = 1
"""Raised when the same network and images give other features."""

FACTS = "features.json"
_HEAD = 1 << 16
"""Bytes that hold the header of every NumPy file of version 1."""


@dataclass(frozen=True)
class FeatureImages:
    """Which images a network's features are of.

    Attributes:
        prepared: the data at the network's size.
        fit_split: the split that maps are fitted on.
        fit_indices: which images of it.
    """

    prepared: Prepared
    fit_split: str
    fit_indices: np.ndarray

    @property
    def report_split(self) -> str:
        """The split that results are reported on, all of it."""
        return self.prepared.report

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What two networks' images must have in common for row i of the one to be the image of row i of the other."""
        files = files_of(self.prepared)
        return {
            "data set": self.prepared.name,
            "classes": self.prepared.classes,
            "splits": self.prepared.splits,
            "fit split": self.fit_split,
            "fit images": hashlib.sha256(self.fit_indices.tobytes()).hexdigest(),
            "report split": self.report_split,
            "files of the fit split": files[self.fit_split],
            "files of the report split": files[self.report_split],
        }


def images_of(network: Network, root: Path, progress: bool) -> FeatureImages:
    """The images of a network, prepared at the size that its family needs; they may have been given back.

    Args:
        network: the network.
        root: folder of prepared data.
        progress: whether to show a bar while they are prepared.

    Raises:
        UserError: if the data are not those the network was trained on, or a split is not there.
    """
    prepared, fit = network.data(network.own_size, root, progress, images=False), network.settings["fit"]
    return FeatureImages(prepared, prepared.fit_split(fit), prepared.fit_indices(fit))


class Features:
    """φ of the fit and the report images of one network, every dimension divided by its RMS over the fit images.

    A dimension that is 0 for all fit images cannot be normalised: it is 0 throughout, and not `alive`.

    Attributes:
        directory: the folder.
        dim: D.
        n_fit: fit images.
        n_report: report images.
        alive: (D,) which dimensions are not 0 for all fit images.
        flaw: why nothing can be said of these features, as rows give it: "constant" (the same for all fit images),
            "not_finite" (some number is none), or nothing.
        bytes: size on disk.
    """

    def __init__(self, directory: Path, made_from: str) -> None:
        """Open features that a `Store` wrote; what they hold is verified whenever it is loaded.

        Args:
            directory: the folder.
            made_from: hash of what they must have been made from.

        Raises:
            Damaged: if they are not as they were written, or were made from something else.
        """
        self.directory = directory
        try:
            facts, hashed = read_facts(directory / FACTS)
            if not hashed:
                raise DamagedFile("a version that kept no hashes wrote it")
            if facts["made_from"] != made_from:
                raise DamagedFile("it is of something else")
            self._hashes = {str(name): str(written) for name, written in facts["xxh3_of"].items()}
            self.dim, self.flaw = int(facts["dim"]), str(facts["flaw"])
            self.n_fit, self.n_report = int(facts["fit"]), int(facts["report"])
            self.alive = self._read("scale") > 0
            for side, count in (("fit", self.n_fit), ("report", self.n_report)):
                if self._file(side).stat().st_size < 4 * self.dim * count:
                    raise DamagedFile(f"{side}.npy is cut off")
        except OSError as error:
            raise DamagedFile(error.strerror or "it cannot be read") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedFile("it is not as it was written") from error
        self.bytes = 4 * self.dim * (self.n_fit + self.n_report)

    def load(self, side: str) -> Tensor:
        """The features of a side ("fit" or "report"), float32 (N, D), read into memory and verified.

        Raises:
            Damaged: if they are not as they were written.
        """
        values = self._read(side)
        if values.shape != ((self.n_fit if side == "fit" else self.n_report), self.dim):
            raise DamagedFile(f"{side}.npy is of another size")
        return values

    def _read(self, name: str) -> Tensor:
        """An array, verified from the very bytes that it is made of."""
        try:
            held = np.fromfile(self._file(name), dtype=np.uint8)
        except OSError as error:
            raise DamagedFile(f"{name}.npy: {error.strerror}") from error
        if digest(held) != self._hashes.get(name):
            raise DamagedFile(f"{name}.npy is not as it was written")
        head = io.BytesIO(held[:_HEAD].tobytes())
        np.lib.format.read_magic(head)
        shape, _, kind = np.lib.format.read_array_header_1_0(head)
        return torch.from_numpy(held[head.tell() :].view(kind).reshape(shape))

    def _file(self, side: str) -> Path:
        return self.directory / f"{side}.npy"


class Store:
    """A folder of features, found again by what they were made from.

    Args:
        root: the folder.
        layer: where φ ends.
        batch: images a forward pass.
    """

    def __init__(self, root: Path, layer: str, batch: int) -> None:
        self.root, self.layer, self.batch = root, layer, batch

    def _made_from(self, network: Network, images: FeatureImages) -> str:
        """Hash of what a network's features are made from."""
        made_from = {
            "format": FORMAT,
            "weights": network.weights,
            "data": images.prepared.sha256,
            "layer": self.layer,
            "transform": network.transform,
            "images": images.identity,
        }
        return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()

    def directory(self, network: Network, images: FeatureImages) -> Path:
        """Where a network's features are, or will be."""
        return self.root / network.name / f"{self.layer}-{self._made_from(network, images)[:16]}"

    def find(self, network: Network, images: FeatureImages) -> Features | None:
        """A network's features, if they are there; of those that are damaged it is told that they are made again."""
        directory = self.directory(network, images)
        if not (directory / FACTS).exists():
            return None
        try:
            return Features(directory, self._made_from(network, images))
        except DamagedFile as why:
            made_again(directory, why)
            return None

    def make(self, network: Network, images: FeatureImages, progress: Progress, task: TaskID) -> Features:
        """Extract a network's features, unless they are there and not damaged; they appear whole or not at all.

        Images that were given back are made again for it.

        Raises:
            UserError: if the disk has no room for them.
        """
        directory = self.directory(network, images)
        chosen = {"fit": (images.fit_split, images.fit_indices)}
        report = images.prepared.split(images.report_split)
        chosen["report"] = (images.report_split, np.arange(len(report)))
        with disk_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
            lock = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be at the same network
            remove_temporaries(directory)
            with suppress(DamagedFile):
                found = Features(directory, self._made_from(network, images))
                for side in chosen:
                    found.load(side)
                return found
            (directory / FACTS).unlink(missing_ok=True)
            if not images.prepared.whole:
                progress.stop()  # which gives way to the bar of images that are made again
                images = replace(images, prepared=images.prepared.with_images(progress=not progress.disable))
                progress.start()
            return self._extract(network, images, directory, chosen, progress, task)
        finally:
            os.close(lock)

    def _extract(
        self,
        network: Network,
        images: FeatureImages,
        directory: Path,
        chosen: dict[str, tuple[str, np.ndarray]],
        progress: Progress,
        task: TaskID,
    ) -> Features:
        transform = network.untouching
        untouched = next(point for point in transform.grid() if point.label == UNTOUCHED)
        scale: Tensor | None = None
        made_from = self._made_from(network, images)
        facts: dict[str, Any] = {
            "network": network.name,
            "layer": self.layer,
            "weights": network.weights,
            "made_from": made_from,
            "flaw": "",
        }
        hashes: dict[str, str] = {}
        for side, (split, indices) in chosen.items():
            r = extract(
                network.phi,
                network.classifier.normalise,
                images.prepared.split(split).images,
                indices,
                transform,
                untouched.params,
                device=network.device,
                batch=self.batch,
                advance=lambda n: progress.advance(task, n),
            )
            if scale is None:
                scale = rms(r)
                facts |= {"dim": r.shape[1], "alive": int((scale > 0).sum())}
                facts["flaw"] = "constant" if constant(r, scale) else ""
                self._require_room(directory, 4 * r.shape[1] * sum(len(i) for _, i in chosen.values()))
            if not finite(r):
                facts["flaw"] = "not_finite"
            facts[side] = len(indices)
            hashes[side] = _save(directory / f"{side}.npy", normalise(r, scale))
        assert scale is not None
        hashes["scale"] = _save(directory / "scale.npy", scale)
        write_facts(directory / FACTS, {**facts, "xxh3_of": hashes})
        try:
            return Features(directory, made_from)
        except DamagedFile as why:
            raise UserError(
                f"{directory} does not hold what was just written to it ({why}); choose another place with features=…"
            ) from why

    def _require_room(self, directory: Path, wanted: int) -> None:
        free = shutil.disk_usage(directory).free
        if free < wanted:
            raise UserError(
                f"{self.root} needs {wanted / 1e9:.2f} GB for these features and has {free / 1e9:.2f} GB free; make "
                "room or choose another place with features=…"
            )


def _save(path: Path, values: Tensor) -> str:
    """Write an array as a NumPy file, and return the hash of its bytes as they were meant to be."""
    array, head = np.ascontiguousarray(values.numpy()), io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(head.getbuffer())
        array.tofile(file)
    return digest(head.getbuffer(), array)
