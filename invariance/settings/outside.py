"""A family of transformations from outside the package: what a file of `conf/transform/` would say of it."""

import inspect
from collections.abc import Mapping
from enum import Enum
from typing import Any

from invariance.errors import UserError
from invariance.settings.libraries import OF_LIBRARY, library_class
from invariance.settings.named import dotted, is_of_library, is_outside, named

FAMILY = ("_target_", "name", "label", "sweep", "grid", "joint", "paper")
"""What a family's file holds for the commands, beside the arguments of its class."""

_MISSING = "???"
"""A value that has to be given, as OmegaConf writes it."""


def outside_config(name: str) -> dict[str, Any]:
    """The configuration of a family that a person named: its class's arguments with their defaults, and its names.

    The class takes `range`. It may say the ranges of its own networks, which `-m` sweeps, as `ranges = (5, 10)`. One of
    another library takes its own arguments, and those of `OF_LIBRARY`.

    Args:
        name: `module:Class`, or `module:function` of what gives a family; or `library:Class`.

    Raises:
        UserError: if it is not there, takes no `range`, or has an argument of a name that is taken.
    """
    of_library = is_of_library(name)
    family = library_class(name) if of_library else named(name, "transform")
    arguments = _arguments(name, family)
    if of_library:
        if both := [key for key in arguments if key in OF_LIBRARY]:
            raise UserError(
                f"transform {name!r}: its argument {both[0]} has a name that is taken; give it in Python, as an object"
            )
        own: dict[str, Any] = {
            "range": None,
            "measured": None,
            "trained": None,
            "strengths": None,
            "draws": 5,
            "seed": 0,
        }
        arguments = {key: None if value == _MISSING else value for key, value in arguments.items()} | own
    if "range" not in arguments:
        raise UserError(
            f"transform {name!r} takes no range, by which networks are trained and named; let it take range=None"
        )
    if taken := [key for key in arguments if key in FAMILY]:
        how = "give it in Python, as an object" if of_library else "call it otherwise"
        raise UserError(f"transform {name!r}: its argument {taken[0]} has a name that is taken; {how}")
    ranges = getattr(family, "ranges", ())
    if not isinstance(ranges, list | tuple) or not all(_is_plain(one) for one in ranges):
        raise UserError(f"transform {name!r}: ranges={ranges!r}; give a list of numbers or texts, as (5, 10)")
    return {
        "name": dotted(name),
        "label": label_of(dotted(name)),
        "sweep": {"range": list(ranges)} if ranges else {},
        "_target_": name,
        **arguments,
        "range": "${range}",
    }


def label_of(family: str) -> str:
    """The text that a network's name is made of: the family's, and the range where there is one."""
    return f"${{invariance_label:'{family}',${{range}}}}"


def take(transform: Mapping[str, Any]) -> None:
    """Take the family that a command's own configuration names, if it is from outside, for one that a person gave.

    Raises:
        UserError: if it is not there.
    """
    if is_outside(target := transform.get("_target_")):
        named(str(target), "transform")


def _arguments(name: str, family: object) -> dict[str, Any]:
    """The arguments that a configuration can set, with their defaults; those without one have to be given."""
    try:
        parameters = inspect.signature(family).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise UserError(
            f"transform {name!r} is a {type(family).__name__}; training takes a class, or a function, with range="
        ) from error
    found = {}
    for one in parameters:
        if one.kind not in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY):
            continue
        if one.default is one.empty:
            found[one.name] = _MISSING
        elif _is_plain(one.default):
            found[one.name] = _listed(one.default)
        elif isinstance(one.default, Enum):  # as torchvision's interpolation
            found[one.name] = one.default.name.lower()
    return found


def _is_plain(value: object) -> bool:
    """Whether a value can stand in a configuration as it is."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(one) for key, one in value.items())
    return value is None or type(value) in (bool, int, float) or (isinstance(value, str) and "${" not in value)


def _listed(value: object) -> Any:  # noqa: ANN401
    """A plain value with its tuples as lists."""
    if isinstance(value, list | tuple):
        return [_listed(one) for one in value]
    return {key: _listed(one) for key, one in value.items()} if isinstance(value, dict) else value
