"""Checks of what a family is built with: values come straight from yaml, a command line or Python, of any type."""

from collections.abc import Sequence
from typing import TypeVar

from invariance.errors import UserError
from invariance.settings.fields import native

T = TypeVar("T")


def number(family: str, key: str, value: object, low: float, high: float, remedy: str) -> float:
    """A finite number with low < value <= high.

    Raises:
        UserError: for anything else, naming family, key, value, what is expected and `remedy`.
    """
    value = native(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low < value <= high:
        raise UserError(f"{family}: {key}={value!r} must be a number above {low:g} and at most {high:g}; {remedy}")
    return float(value)


def trained_range(family: str, value: object, low: float, high: float, unit: str, example: str) -> float | None:
    """The trained range of a network: None, or one number with low < value <= high.

    Raises:
        UserError: for a list (one network takes one range), 0 (the baseline) or anything that is no such number.
    """
    value = native(value)
    if value is None:
        return None
    one_range(family, value, example)
    if not isinstance(value, bool) and value == 0:
        raise UserError(f"{family}: range=0 trains on untouched images; use transform=baseline, or {example}")
    return number(family, "range", value, low, high, f"it is in {unit}, as {example}")


def one_range(family: str, value: object, example: str) -> None:
    """Refuse several ranges for one network.

    Raises:
        UserError: for a list, or for text with commas.
    """
    value = native(value)
    several = value.split(",") if isinstance(value, str) else value
    if isinstance(several, Sequence) and (len(several) != 1 or not isinstance(value, str)):
        listed = ",".join(str(item).strip() for item in several) or "5,10"
        raise UserError(
            f"{family}: range={value!r} is a list, but one network takes one range, as {example}; "
            f"several networks are trained with -m range={listed}"
        )


def needed_range(family: str, value: T | None) -> T:
    """The range that drawing needs.

    Raises:
        UserError: if the family was built without one.
    """
    if value is None:
        raise UserError(f"{family}: training draws need a range, but range is null; set range=, or transform=baseline")
    return value


def grid_values(family: str, key: str, values: object, low: float, high: float) -> tuple[float, ...]:
    """The values of a measured grid: distinct numbers with low <= value <= high, none of them 0, in ascending order.

    Raises:
        UserError: for anything but a list of such numbers.
    """
    expected = f"it takes a list of distinct numbers from {low:g} to {high:g}"
    values = native(values)
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise UserError(f"{family}: {key}={values!r} is no list; {expected}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise UserError(f"{family}: {value!r} in {key} is out of place; {expected}")
        if value == 0:
            raise UserError(f"{family}: 0 in {key} is the untouched point, which every grid has already; leave it out")
    if len(set(values)) < len(values):
        raise UserError(f"{family}: {key}={list(values)} names a value twice; {expected}")
    return tuple(sorted(float(value) for value in values))


def whole(family: str, key: str, value: object, low: int, high: int) -> int:
    """A whole number with low <= value <= high.

    Raises:
        UserError: for anything else.
    """
    value = native(value)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UserError(f"{family}: {key}={value!r} must be a whole number from {low} to {high}")
    return value


def flag(family: str, key: str, value: object) -> bool:
    """True or False.

    Raises:
        UserError: for anything else, the text "false" included.
    """
    value = native(value)
    if not isinstance(value, bool):
        raise UserError(f"{family}: {key}={value!r} must be true or false")
    return value


def choice(family: str, key: str, value: object, names: Sequence[str]) -> str:
    """One of several names.

    Raises:
        UserError: for anything else.
    """
    if not isinstance(value, str) or value not in names:
        raise UserError(f"{family}: {key}={value!r} must be one of {', '.join(names)}")
    return value
