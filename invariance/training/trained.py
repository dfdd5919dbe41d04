"""A trained network as measuring sees it: cut at a layer, with the data it was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import torch

from invariance.data.decode import COLOURS
from invariance.data.manifest import MANIFEST
from invariance.data.prepared import Prepared, prepare
from invariance.data.sources.base import data_config
from invariance.device import choose_device
from invariance.errors import UserError
from invariance.models import outline
from invariance.models.cut import Cut
from invariance.models.model import Model
from invariance.models.representation import Representation
from invariance.runs.files import DONE
from invariance.runs.run import BEST, PROVENANCE, read_config, read_provenance
from invariance.runs.seal import check, hash_of
from invariance.settings.named import is_outside
from invariance.transforms import Transform, build
from invariance.transforms.baseline import Baseline

if TYPE_CHECKING:  # importing Lightning takes seconds, which a finished measurement need not wait for
    from invariance.training.classifier import Classifier


class Network:
    """A trained network, cut at a layer, with the data it was trained on.

    Attributes:
        name: its run below the stage's folder, as `<data>/<name>/seed<k>`.
        place: where measurements of it go: its name, with `<data>@<other>` where it is measured on another data set.
        config: the configuration of that run.
        weights: hash of its checkpoint.
        settings: the configuration of its data, with the splits to fit and to report on.
        device: where it runs.
        layer: where φ ends.
    """

    def __init__(
        self,
        runs: Path,
        directory: Path,
        *,
        layer: str,
        accelerator: str,
        fit: object = None,
        report: object = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Open a finished training run; the checkpoint itself is read when it is needed.

        Args:
            runs: the runs folder.
            directory: the run that trained or finetuned it.
            layer: where φ ends.
            accelerator: where to run.
            fit: keys of the data's `fit` (which images maps are fitted on) to set otherwise.
            report: the split to report on instead of the data's own.
            data: another data set to measure it on (Sec. B.2), as a yaml of `conf/data/`; its images are prepared in
                the colours that the network takes. None: its own.

        Raises:
            UserError: if its configuration cannot be read, it or its weights are not what the run was finished with,
                the accelerator is not there, or the other data set has the name of its own.
        """
        self.runs, self.directory, self.layer = runs, directory, layer
        self.name = PurePosixPath(*directory.relative_to(runs).parts[1:]).as_posix()
        self.config = read_config(directory)
        self.device = choose_device(accelerator)
        self.weights = hash_of(directory / BEST) if (directory / BEST).is_file() else "absent"
        made = read_provenance(directory)
        if (directory / DONE).exists():
            check(directory, files=False)
        recorded = made.get("weights_sha256", self.weights)
        if self.weights not in ("absent", recorded):
            raise UserError(
                f"{directory / BEST} is not what its run was finished with ({PROVENANCE}); put it back as it was, or "
                "delete the run's folder and train it again"
            )
        try:
            own = made["data"]
            images, self.transform, model = itemgetter("data", "transform", "model")(self.config)
            trained_on, self.input_size = images["sha256"], model["input_size"]
            channels = COLOURS[own["colour"]]
        except (KeyError, TypeError) as error:
            raise UserError(f"{directory} is not a training run of this version ({error}); train it again") from error
        if fit is not None and not isinstance(fit, Mapping):
            raise UserError(f"fit={fit!r}: give keys of data.fit, as fit={{split: train, images: 5000}}")
        if layer:  # one that there is not is refused
            Representation(outline(model, 2, channels), layer)
        chosen = own if data is None else self._foreign(data, own)
        self.settings = {**chosen, "fit": {**chosen["fit"], **(fit or {})}, "report": report or chosen["report"]}
        _require_drawn(fit, self.settings["fit"])
        self._trained_on = None if data is not None else trained_on
        self.place = self.name if data is None else self.name.replace("/", f"@{chosen['name']}/", 1)

    @property
    def trained_on(self) -> str:
        """Name of the data set that it was trained on."""
        return self.name.split("/", 1)[0]

    @property
    def measured_on(self) -> str:
        """How rows name the data: its own data set, or `<own>@<other>`."""
        return self.place.split("/", 1)[0]

    def _foreign(self, data: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
        """Another data set's configuration, in the colours that the network takes."""
        name = data_config(data).name
        if name == self.trained_on:
            raise UserError(
                f"data={name}: {self.name} was trained on {name}; leave data= out to measure it on that (fit= and "
                "report= choose the splits), or name the other images, as data.name=others"
            )
        mean = data.get("mean") if data.get("colour") == own["colour"] else None  # prepared with, never subtracted
        return {**data, "name": name, "colour": own["colour"], "mean": mean}

    @cached_property
    def classifier(self) -> Classifier:
        """The network with its best weights."""
        from invariance.training.classifier import load_classifier  # Lightning, see above

        return load_classifier(self.directory / BEST).to(self.device)

    @cached_property
    def model(self) -> Model:
        """The network with its preprocessing, size and classes, as any other model."""
        classifier = self.classifier
        mean = [round(one, 6) for one in classifier.mean.flatten().tolist()]
        return Model(
            classifier.network,
            classifier.normalise,
            name=self.name,
            recipe=f"size {self.input_size}; (x − {mean}) / 255",
            size=int(self.input_size),
            classes=classifier.hparams["classes"],
            ours=True,
        )

    def cut(self, layers: Sequence[str]) -> Cut:
        """φ at layers, and C behind them; they take what the classifier's `normalise` gives.

        Raises:
            UserError: if there is no such layer.
        """
        return self.model.cut(layers)

    @cached_property
    def phi(self) -> Representation:
        """φ and C."""
        return Representation(self.classifier.network, self.layer)

    def dim(self, channels: int) -> int:
        """D, of φ of an image with so many channels at the network's input size.

        Raises:
            UserError: if the layer gives no representation.
        """
        black = torch.zeros(1, channels, self.input_size, self.input_size, device=self.device)
        return self.phi.phi(black).shape[1]

    def forget(self) -> None:
        """Give up the network's memory; it is read again when it is needed."""
        self.__dict__.pop("classifier", None)
        self.__dict__.pop("model", None)
        self.__dict__.pop("phi", None)

    @property
    def own_size(self) -> int:
        """Side in pixels at which images of its own family are prepared.

        Of a family from outside the package its run has written that down, so that nobody has to name the family.
        """
        noted = read_provenance(self.directory).get("size")
        if self._outside and isinstance(noted, int):
            return noted
        return build(self.transform).source_size(self.input_size)

    @property
    def untouching(self) -> Transform:
        """What makes images of `own_size` those that it takes, at its untouched point."""
        return Baseline() if self._outside and self.own_size == self.input_size else build(self.transform)

    @property
    def _outside(self) -> bool:
        """Whether it was trained with a family from outside the package."""
        return is_outside(self.transform.get("_target_"))

    def data(self, size: int, root: Path, progress: bool, images: bool = True) -> Prepared:
        """The data set that it is measured on, at a size in pixels.

        Args:
            size: side of the images.
            root: folder of all prepared data.
            progress: whether to show a bar while they are prepared.
            images: make images again that were given back; False: `Prepared.with_images` does.

        Raises:
            UserError: if they are to be the data it was trained on, and are not.
        """
        prepared = prepare(self.settings, size, root, progress=progress, images=images)
        if self._trained_on is None:
            return prepared
        same = size == self.own_size
        trained = prepared if same else prepare(self.settings, self.own_size, root, progress=progress, images=False)
        if trained.sha256 != self._trained_on or files_of(prepared) != files_of(trained):
            raise UserError(
                f"{self.directory} was trained on other data than are in {prepared.directory}; put them back as they "
                "were, or train the network again"
            )
        return prepared


def _require_drawn(fit: Mapping[str, Any] | None, merged: Mapping[str, Any]) -> None:
    """Refuse a seed of fit images that are not drawn, which would change nothing.

    Raises:
        UserError: saying what to give beside it.
    """
    if fit and "seed" in fit and merged.get("images") is None:
        raise UserError(
            f"fit.seed={fit['seed']}: all images of the split are taken, and none drawn; give fit={{images: …}} beside "
            "it, or leave it out"
        )


def files_of(prepared: Prepared) -> dict[str, str]:
    """Which source files, with which labels, each split was made of, as hashes: the same at every size."""
    manifest = json.loads((prepared.directory / MANIFEST).read_text(encoding="utf-8"))
    return {name: about["files_sha256"] for name, about in manifest["splits"].items()}
