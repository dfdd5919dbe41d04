"""A data set: the files of `conf/data/`. The arguments of its source are checked by the source."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from invariance.settings.base import Settings
from invariance.settings.fields import Positive, Seed, Side

Split = Literal["train", "val", "test"]
_SPLIT = Field(default=None, description="choose train, val, test or null")


class FitImages(Settings):
    """Which images maps are fitted on (Sec. 5.2)."""

    split: Split | None = _SPLIT
    images: Positive | None = Field(default=None, description="give a whole number from 1, or null for all")
    seed: Seed = 0


def is_name(value: object) -> bool:
    """Whether a text can name a data set's folders."""
    return isinstance(value, str) and re.fullmatch(r"[^\W.-][\w.-]{0,99}", value) is not None


def _name(value: str) -> str:
    if not is_name(value):
        raise PydanticCustomError("name", "no name")
    return value


def _mean(value: float | list[float]) -> float | list[float]:
    if not all(0 <= one <= 255 for one in (value if isinstance(value, list) else [value])):
        raise PydanticCustomError("mean", "means are in 0 to 255")
    return value


class Data(Settings):
    """What every data set's configuration has, beside the arguments of its source."""

    target: str = Field(
        alias="_target_", description="it is no source of this package, as invariance.data.sources.folder.Folder"
    )
    name: Annotated[str, AfterValidator(_name)] | None = Field(
        default=None, description="it cannot name a folder; use up to 100 letters, digits, '.', '_' and '-'"
    )
    colour: Literal["gray", "rgb"]
    input_size: Side | None = None
    mean: Annotated[float | list[float], AfterValidator(_mean)] | None = Field(
        default=None, description="give a number from 0 to 255 for each channel, or null to compute"
    )
    max_broken: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.001, description="give the share of broken images allowed, from 0 to below 1"
    )
    fit: FitImages | None = Field(default=None, description="give split, images and seed, as data.fit.images=10000")
    report: Split | None = _SPLIT


COMMON = tuple(field.alias or name for name, field in Data.model_fields.items())
"""What a data set's yaml holds beside the arguments of its source."""


def common_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a data set's configuration that all have."""
    return {key: value for key, value in config.items() if key in COMMON}
