"""Where curves and results are shown: the files of `conf/logger/`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from invariance.errors import UserError
from invariance.settings.base import Settings
from invariance.settings.fields import distinct

LONGEST, LONGEST_TAG = 128, 64
"""Characters that W&B takes."""

NOT_IN_PROJECTS = "/\\#?%:"


def _text(value: str) -> str:
    """A text that can be shown, of more than blanks."""
    if not value.strip() or not value.isprintable():
        raise ValueError("it is empty, or holds what cannot be printed")
    return value


def _project(value: str) -> str:
    if set(value) & set(NOT_IN_PROJECTS):
        raise ValueError("W&B takes no such name")
    return _text(value)


def _entity(value: str) -> str:
    if "/" in value:
        raise ValueError("W&B takes no such name")
    return _text(value)


Text = Annotated[str, AfterValidator(_text), Field(max_length=LONGEST)]
Tag = Annotated[str, AfterValidator(_text), Field(max_length=LONGEST_TAG)]
_PROJECT = f"give up to {LONGEST} characters, none of {NOT_IN_PROJECTS}"


class Logger(Settings):
    """Weights & Biases as a view of the files, or the files alone (`kind: csv`)."""

    kind: Literal["wandb", "csv"] = Field(description="choose logger=wandb or logger=csv")
    project: Annotated[str, AfterValidator(_project), Field(max_length=LONGEST)] | None = Field(
        default=None, description=_PROJECT
    )
    entity: Annotated[str, AfterValidator(_entity), Field(max_length=LONGEST)] | None = Field(
        default=None, description="give the name of a W&B user or team, or null for your own"
    )
    mode: Literal["auto", "online", "offline"] = "auto"
    group: Text | None = Field(
        default=None, description=f"give up to {LONGEST} characters, or null for the data set's name"
    )
    tags: Annotated[list[Tag], AfterValidator(distinct)] | None = Field(
        default=None, description=f"give a list, as [trial,second]; each of up to {LONGEST_TAG} letters"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.kind == "wandb" and self.project is None:
            raise UserError(f"logger.project=None: {_PROJECT}")
        if self.kind == "csv" and (odd := sorted(self.model_fields_set - {"kind"})):
            raise UserError(f"logger.{odd[0]}: with logger=csv there is no W&B that it would be for; leave it out")
        return self
