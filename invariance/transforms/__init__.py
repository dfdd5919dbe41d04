"""Families of image transformations (Sec. 5.1, Appendix A): each one module here and one file in `conf/transform/`."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from invariance.errors import UserError, nearest
from invariance.settings.named import named
from invariance.settings.parts import FAMILY, arguments_of
from invariance.transforms.base import FRAME, UNTOUCHED, GridPoint, Params, Transform

__all__ = ["FRAME", "UNTOUCHED", "GridPoint", "Params", "Transform", "build", "transform_named"]


def build(config: Mapping[str, Any]) -> Transform:
    """A family from its configuration (`conf/transform/`): the class `_target_` with the other keys as arguments.

    `name`, `label`, `sweep`, `grid` and `joint` are for the commands and are left out.

    Raises:
        UserError: for a target that is no family inside the package, or an argument that the family does not take.
    """
    target = str(config.get("_target_"))
    family = _family(target)
    arguments = arguments_of(config, FAMILY)
    known = list(inspect.signature(family).parameters)
    for key in arguments:
        if key not in known:
            takes = ", ".join(known) or "none"
            raise UserError(
                f"transform.{key} is no argument of {family.__name__}{nearest(key, known)} (it takes: {takes})"
            )
    try:
        return family(**arguments)
    except UserError:
        raise
    except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"transform: {family.__name__} cannot be made with these settings ({why})") from error


def _family(target: str) -> type[Transform]:
    inside = f"{__name__}."
    if not target.startswith(inside):
        raise UserError(f"transform._target_={target!r} is outside {__name__}; only its own families are built")
    module, _, name = target.rpartition(".")
    try:
        family = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"transform._target_={target!r} does not exist; it is of the kind {inside}rotation.Rotation"
        ) from error
    if not (inspect.isclass(family) and issubclass(family, Transform)) or inspect.isabstract(family):
        raise UserError(f"transform._target_={target!r} is no family of transforms; it takes a subclass of Transform")
    return family


def transform_named(name: str) -> Transform:
    """A family from outside the package.

    Args:
        name: `module:name` of a subclass of `Transform` or a function, either without arguments, or of a `Transform`.

    Raises:
        UserError: if it is not there, or gives something else.
    """
    there = named(name, "transform")
    try:
        made = there() if callable(there) else there
    except UserError:
        raise
    except Exception as error:  # whatever the user's code does
        raise UserError(f"transform {name!r} failed with {type(error).__name__} ({str(error)[:200]})") from error
    if not isinstance(made, Transform):
        raise UserError(f"transform {name!r} gave a {type(made).__name__}; let it give a Transform")
    return made
