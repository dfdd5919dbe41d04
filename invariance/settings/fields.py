"""Kinds of value that several schemas have."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from invariance.errors import UserError
from invariance.settings.paths import path_of
from invariance.settings.whole import WHOLE

SEEDS = 2**63
"""Above every seed."""

BATCH = 2**20
"""The largest batch: images that go through at once."""

LARGEST_SIZE = 4096
"""The largest side of an image, in pixels."""

LARGEST_RATE = 10**6
"""The largest rate, decay, strength or weight of a loss: far above any that is of use, far below what overflows."""


def name_of(value: str) -> str:
    """A name that can be a folder's.

    Raises:
        PydanticCustomError: for anything that is not a plain text.
    """
    if not re.fullmatch(r"[\w+-][\w.+-]{0,99}", value):
        raise PydanticCustomError("name", "no name")
    return value


def distinct(values: list[Any]) -> list[Any]:
    """A list of different entries.

    Raises:
        ValueError: naming the first that is there twice.
    """
    for k, value in enumerate(values):
        if value in values[:k]:
            raise ValueError(f"{value!r} is there twice")
    return values


def patterns(value: str | list[str]) -> str | list[str]:
    """Paths or patterns that name runs.

    Raises:
        ValueError: for none, an empty one, one that is there twice, or one that is no path.
    """
    for one in distinct(value) if isinstance(value, list) else [value]:
        path_of(one)
    return value


def plain(value: Any) -> Any:  # noqa: ANN401
    """A value of settings that are checked elsewhere, by those whose they are: text, number, switch, list, mapping.

    Raises:
        UserError: for a number that is not finite, or one that no computer counts with.
    """
    for one in leaves(value):
        if isinstance(one, float) and not math.isfinite(one):
            raise UserError(f"{one} is among the settings: give finite numbers")
        if isinstance(one, int) and not -SEEDS <= one < SEEDS:
            raise UserError("a whole number of more than 63 bits is among the settings: give a smaller one")
    return value


def leaves(value: object) -> list[object]:
    """Everything in nested containers that is none itself."""
    found, waiting = [], [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list | tuple):
            waiting += one
        else:
            found.append(one)
    return found


def native(value: object) -> Any:  # noqa: ANN401
    """A value with the numbers, arrays and tensors of NumPy and torch in it as Python's own numbers and lists."""
    if isinstance(value, list | tuple):
        held = [native(one) for one in value]
        return held if isinstance(value, list) else tuple(held)
    own = None if isinstance(value, type) else getattr(value, "tolist", None)
    return own() if callable(own) else value


Positive = Annotated[int, Field(ge=1, lt=WHOLE, description="give a whole number from 1")]
Count = Annotated[int, Field(ge=0, lt=WHOLE, description="give a whole number from 0")]
Seed = Annotated[int, Field(ge=0, lt=SEEDS, description="give a whole number from 0")]
Batch = Annotated[int, Field(ge=1, le=BATCH, description=f"give a whole number from 1 to {BATCH}")]
Rate = Annotated[float, Field(gt=0, le=LARGEST_RATE)]
Least = Annotated[float, Field(ge=0, le=LARGEST_RATE)]
Gigabytes = Annotated[float, Field(ge=0.01, le=1e9, description="give a number from 0.01")]
Share = Annotated[float, Field(ge=0, lt=1)]
Side = Annotated[
    int, Field(ge=1, le=LARGEST_SIZE, description=f"give a whole number of pixels from 1 to {LARGEST_SIZE}")
]
Folder = Annotated[str, AfterValidator(path_of), Field(description="give a path")]
Name = Annotated[
    str,
    AfterValidator(name_of),
    Field(description="it cannot name a folder; give up to 100 letters, digits and . _ + -"),
]
Networks = Annotated[
    str | Annotated[list[str], Field(min_length=1)],
    AfterValidator(patterns),
    Field(description="give the names or patterns of different networks, as [digits, rotation_20]"),
]
