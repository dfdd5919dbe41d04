"""A family of transformations, and a network: the files of `conf/transform/` and `conf/model/`.

What is here is what all of them have. The other keys of what is built are arguments of the class that `_target_` names,
which checks them itself, so that a family stays one module and one file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from invariance.errors import UserError
from invariance.settings.base import Settings
from invariance.settings.fields import Name, Side
from invariance.settings.files import other_model

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
    paper: bool = True


class ModelSettings(Built):
    """A network that is trained."""

    input_size: Side

    @model_validator(mode="before")
    @classmethod
    def _is_built(cls, values: Any) -> Any:  # noqa: ANN401
        if isinstance(values, Mapping) and "source" in values:
            raise UserError(other_model(values["source"], "train"))
        return values


class Preprocess(Settings):
    """Mean and standard deviation of images in [0, 1], one number a channel each."""

    mean: Annotated[list[float], Field(min_length=1)] = Field(description="give one number a channel, as [0.5]")
    std: Annotated[list[float], Field(min_length=1)] = Field(description="give one number a channel, as [0.25]")


class GivenModel(Settings):
    """A network that is looked at as it is, from whatever source; what `weights` and `size` can be its source says."""

    source: Text = Field(description="give the name of a source, as timm, or module:function")
    name: Text = Field(description="give the network's name, as its source knows it")
    weights: Text | None = Field(default=None, description="give a file of weights, random, or null for the source's")
    weights_by: Literal["name", "position"] = Field(
        default="name", description="choose name, or position for the same network under other names"
    )
    size: Side | None = None
    preprocess: Preprocess | None = Field(
        default=None, description="give mean and std of images in [0, 1], as {mean: [0.5], std: [0.25]}"
    )
    label: Name | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_given(cls, values: Any) -> Any:  # noqa: ANN401
        if isinstance(values, Mapping) and "_target_" in values:
            raise UserError(other_model(str(values["_target_"]).rpartition(".")[2], "measure"))
        return values
