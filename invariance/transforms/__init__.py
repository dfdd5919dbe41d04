"""Families of image transformations (Sec. 5.1, Appendix A): each one module here and one file in `conf/transform/`."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from invariance.errors import UserError, nearest
from invariance.settings.libraries import OF_LIBRARY, library_class
from invariance.settings.named import arguments_of, dotted, is_named, is_of_library, named, recalled
from invariance.settings.outside import FAMILY
from invariance.transforms.base import FRAME, UNTOUCHED, GridPoint, Params, Transform

__all__ = ["FRAME", "UNTOUCHED", "GridPoint", "Params", "Transform", "build", "require_transform", "transform_named"]


def build(config: Mapping[str, Any]) -> Transform:
    """A family from its configuration (`conf/transform/`): the class `_target_` with the other keys as arguments.

    `name`, `label`, `sweep`, `grid` and `joint` are for the commands and are left out. A target from outside the
    package, `module:Class`, is looked up if a person gave that name in this process: a run's configuration names
    it, too.

    Raises:
        UserError: for a target that is no family, one from outside that nobody named, or an argument that the family
            does not take.
    """
    target = str(config.get("_target_"))
    arguments = arguments_of(config, FAMILY)
    if is_of_library(target):
        of_class = {key: value for key, value in arguments.items() if key not in OF_LIBRARY}
        own = {key: value for key, value in arguments.items() if key in OF_LIBRARY}
        target, arguments = f"{__name__}.of_library.OfLibrary", {**own, "of": target, "arguments": of_class}
    if is_named(target):
        return _outside(target, str(config.get("name", dotted(target))), arguments)
    family = _family(target)
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


def require_transform(name: str) -> None:
    """Refuse a name of a family that is not there, with the arguments that it has by itself.

    Args:
        name: as `transform_named` takes it; or `library:Class` of another library, whose arguments may come later.

    Raises:
        UserError: if it is not there, or is none.
    """
    if is_of_library(name):
        library_class(name)
    else:
        transform_named(name)


def transform_named(name: str) -> Transform:
    """A family from outside the package.

    Args:
        name: `module:name` of a subclass of `Transform` or a function, either without arguments, or of a `Transform`.

    Raises:
        UserError: if it is not there, or gives something else.
    """
    there = named(name, "transform")
    return _made(name, there, {}) if callable(there) else _require_transform(name, there)


def _outside(name: str, called: str, arguments: Mapping[str, Any]) -> Transform:
    """A family from outside the package with its arguments, if a person gave its name in this process."""
    if called != dotted(name):
        raise UserError(f"transform._target_={name}: rows would call it {called}; choose it as transform={name}")
    how = f"give grids=[{name}] to measure networks over it, or transform={name} to train them"
    there = recalled(name, "transform", how)
    if callable(there):
        return _tried(name, _made(name, there, arguments), arguments.get("range") is not None)
    if arguments:
        raise UserError(f"transform {name!r} is made already, and takes no {next(iter(arguments))}")
    return _require_transform(name, there)


def _made(name: str, family: Callable[..., Any], arguments: Mapping[str, Any]) -> Transform:
    try:
        made = family(**arguments)
    except UserError:
        raise
    except Exception as error:  # whatever the user's code does
        raise UserError(f"transform {name!r} failed with {type(error).__name__} ({str(error)[:200]})") from error
    return _require_transform(name, made)


def _tried(name: str, made: Transform, drawing: bool) -> Transform:
    """A family from outside whose grid, and draws of two images where it has a range, are found right.

    Raises:
        UserError: if they cannot be had with these arguments.
    """
    try:
        labels = [point.label for point in made.grid()]
        drawn = made.sample(2, torch.Generator().manual_seed(0)) if drawing else {}
        sizes = {len(values) for values in drawn.values()}
    except UserError:
        raise
    except Exception as error:  # whatever the user's code does
        why = next(iter(str(error).splitlines()), "")
        raise UserError(
            f"transform {name!r} fails with these arguments: {type(error).__name__} ({why[:200]})"
        ) from error
    if labels.count(UNTOUCHED) != 1 or len(set(labels)) < len(labels):
        raise UserError(f"transform {name!r}: its grid is {labels[:9]}; give each g a label, and one {UNTOUCHED!r}")
    if sizes - {2}:
        raise UserError(f"transform {name!r} drew parameters for {sorted(sizes)} of 2 images; give one row an image")
    return made


def _require_transform(name: str, made: object) -> Transform:
    if not isinstance(made, Transform):
        raise UserError(f"transform {name!r} gave a {type(made).__name__}; let it give a Transform")
    return made
