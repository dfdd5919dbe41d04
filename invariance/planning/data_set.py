"""A data set that is planned for: how many images it has, prepared, as published, or counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from invariance.data.decode import COLOURS, Pixels
from invariance.data.manifest import MANIFEST
from invariance.data.prepared import Prepared
from invariance.data.sources.base import Source, class_of, data_config
from invariance.data.sources.ilsvrc import ILSVRC
from invariance.data.sources.rvl_cdip import RVLCDIP
from invariance.errors import UserError
from invariance.planning.templates import Config
from invariance.settings.base import checked
from invariance.settings.data import Data, FitImages, common_of

PUBLISHED: dict[type[Source], tuple[dict[str, int], int]] = {
    ILSVRC: ({"train": ILSVRC.TRAINING, "val": ILSVRC.VALIDATION}, 1000),
    RVLCDIP: (RVLCDIP.SIZES, len(RVLCDIP.CLASSES)),
}
"""Images of each split and number of classes of data sets that are planned before they are there."""


@dataclass(frozen=True)
class DataSet:
    """A data set that is planned for.

    Attributes:
        config: its yaml, resolved.
        images: images of each split.
        classes: how many.
        known_from: where these numbers come from.
        sample: reads one of its images, where one is there.
    """

    config: Config
    images: Mapping[str, int]
    classes: int
    known_from: str
    sample: Callable[[], bytes | Pixels] | None = None

    @cached_property
    def common(self) -> Data:
        """What is in its yaml beside the arguments of its source.

        Raises:
            UserError: for a value that makes no sense.
        """
        return checked(Data, common_of(self.config), "data")

    @property
    def name(self) -> str:
        """Its name in runs."""
        return str(self.common.name)

    @property
    def channels(self) -> int:
        """Channels of its images."""
        return COLOURS[self.common.colour]

    @property
    def report(self) -> str:
        """The split that results are reported on."""
        return str(self.common.report or ("test" if "test" in self.images else "val"))

    @property
    def n_report(self) -> int:
        """Images that results are reported on."""
        return self.images[self.report]

    def n_fit(self, other: FitImages | None = None) -> int:
        """Images that maps are fitted on, with some keys of `fit` set otherwise."""
        fit = {**_given(self.common.fit), **_given(other)}
        split = fit.get("split") or ("val" if self.report == "test" else "train")
        return int(fit.get("images") or self.images[split])


def _given(fit: FitImages | None) -> dict[str, Any]:
    """The keys of `fit` that were given."""
    return {} if fit is None else fit.model_dump(exclude_unset=True)


def data_set(config: Config, prepared: Path, *, count: bool = False) -> DataSet:
    """A data set with its numbers: of prepared data, else as published, else of the source itself.

    Args:
        config: its yaml, resolved.
        prepared: folder of prepared data.
        count: whether the images of its source are counted although numbers are published.

    Raises:
        UserError: if none of these is there.
    """
    common = checked(Data, common_of(config), "data")
    for path in sorted(prepared.glob(f"{common.name}/*/{MANIFEST}")):
        there = Prepared(path.parent, common.report)
        return DataSet(config, {name: len(there.split(name)) for name in there.splits}, len(there.classes), "prepared")
    kind = class_of(config)
    if kind in PUBLISHED and not count:
        images, classes = PUBLISHED[kind]
        return DataSet(config, images, classes, "as published")
    try:
        found = data_config(config).source.splits(False)
    except UserError as error:
        what = common.name or kind.__name__
        raise UserError(f"how many images {what} has is not known yet: {error}") from error
    largest = max(found.listings.values(), key=len)
    images = {name: len(listing) for name, listing in found.listings.items()}
    return DataSet(config, images, len(found.classes), "counted", lambda: largest.read(0))


def measured_images(data: Config, prepared: Path, images: int | None) -> tuple[int, int]:
    """Images to fit and to report on of a data set without a training split.

    Args:
        data: its yaml, resolved.
        prepared: folder of prepared data.
        images: how many there are, if that is known; None to ask the data set.

    Raises:
        UserError: if it is not known.
    """
    if images is not None:
        fit = round(images * float(data["val_fraction"]))
        return fit, images - fit
    there = data_set(data, prepared)
    return there.n_fit(), there.n_report
