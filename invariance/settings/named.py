"""What stands outside the package and is named as `module:name`, by hand: it is code, and is run when it is imported.

A name is looked up only where it was typed on a command line or given in Python, never where it stands in a folder of
data, weights or runs. A network's configuration names the family that it was trained with: `recalled` finds that only
in a process in which a person gave the same name.
"""

import importlib
import re
from collections.abc import Mapping
from typing import Any

from invariance.errors import UserError, nearest

LIBRARIES = {
    "albumentations": "albumentations",
    "kornia": "kornia.augmentation",
    "torchvision": "torchvision.transforms.v2",
}
"""Libraries whose transformations are named as `library:Class`, and the modules that hold them."""

_GIVEN: set[str] = set()
"""The names that a person gave in this process."""


def is_named(name: object) -> bool:
    """Whether something is a name of this form."""
    return isinstance(name, str) and bool(re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name))


def is_of_library(name: object) -> bool:
    """Whether something names what is of one of `LIBRARIES`, which come with this package: anyone may name that."""
    return is_named(name) and str(name).partition(":")[0] in LIBRARIES


def is_outside(name: object) -> bool:
    """Whether something names what is of neither this package nor one of `LIBRARIES`: code of the user's."""
    return is_named(name) and not is_of_library(name)


def dotted(name: str) -> str:
    """A name as rows, folders and keys have it: `mine:Family` is `mine.Family` there."""
    return name.replace(":", ".")


def given_as(text: str) -> str | None:
    """The name that a person gave, or that is of one of `LIBRARIES`, and is dotted so; None where there is none."""
    library, _, name = text.partition(".")
    if is_of_library(f"{library}:{name}"):
        return f"{library}:{name}"
    return next((name for name in sorted(_GIVEN) if dotted(name) == text), None)


def named(name: str, what: str) -> Any:  # noqa: ANN401
    """What `module:name` is, where a person gave it.

    Args:
        name: the name.
        what: what it is to be, for the message, as "measure".

    Raises:
        UserError: if it is not of this form, or is not there.
    """
    if not is_named(name):
        raise UserError(f"{what} {name!r}: give module:function, as mine:{what.split()[-1]}")
    module, _, attribute = name.partition(":")
    try:
        there = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's module does when it is imported
        why = next(iter(str(error).splitlines()), "")
        raise UserError(
            f"{what} {name!r}: the module {module} cannot be imported ({type(error).__name__}: {why[:200]}); install "
            "it, or put its folder into PYTHONPATH"
        ) from error
    if not hasattr(there, attribute):
        known = [key for key in vars(there) if not key.startswith("_")]
        raise UserError(f"{what} {name!r}: {module} has no {attribute}{nearest(attribute, known)}")
    _GIVEN.add(name)
    return getattr(there, attribute)


def recalled(name: str, what: str, how: str) -> Any:  # noqa: ANN401
    """What `module:name` is, which a stored configuration names, if a person gave that name in this process, too.

    Args:
        name: the name.
        what: what it is to be, for the message, as "measure".
        how: what to type, for the message.

    Raises:
        UserError: if nobody did; what `named` raises.
    """
    if name not in _GIVEN:
        raise UserError(
            f"{what} {name!r} is from outside the package, and code from there is run only where its name is typed: "
            f"{how}"
        )
    return named(name, what)


def arguments_of(config: Mapping[str, Any], not_arguments: tuple[str, ...]) -> dict[str, Any]:
    """The arguments of the class that a configuration names."""
    return {str(key): value for key, value in config.items() if key not in not_arguments}
