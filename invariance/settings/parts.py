"""A family of transformations, and a network: the files of `conf/transform/` and `conf/model/`.

What is here is what all of them have; the other keys are arguments of the class that `_target_` names, which checks
them itself, so that a family stays one module and one file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from invariance.settings.base import Settings
from invariance.settings.fields import Side

Text = Annotated[str, Field(min_length=1, max_length=200)]
Target = Annotated[str, Field(max_length=200, description="give a class, as invariance.transforms.rotation.Rotation")]


class Built(Settings):
    """Something that `_target_` makes of the other keys."""

    model_config = ConfigDict(extra="allow")

    target: Target = Field(alias="_target_")


class TransformSettings(Built):
    """A family of transformations."""

    name: Text
    label: Any = None
    sweep: dict[str, Any] | None = None
    grid: Text | None = None
    joint: dict[str, Any] | None = None


class ModelSettings(Built):
    """A network."""

    input_size: Side


def arguments_of(config: Mapping[str, Any], not_arguments: tuple[str, ...]) -> dict[str, Any]:
    """The arguments of the class that a configuration names."""
    return {str(key): value for key, value in config.items() if key not in not_arguments}
