"""Transformations of albumentations, kornia and torchvision by name, as `albumentations:RandomFog`."""

import importlib
import inspect
import os
import re
from collections.abc import Mapping
from typing import Any

from invariance.errors import UserError, nearest
from invariance.settings.named import LIBRARIES

OF_LIBRARY = ("range", "measured", "trained", "strengths", "draws", "seed")
"""Arguments of `transforms.of_library.OfLibrary` beside those of the transformation itself."""

_ROOTS = {
    "albumentations": "albumentations.core.transforms_interface.BasicTransform",
    "kornia": "kornia.augmentation.base._BasicAugmentationBase",
    "torchvision": "torchvision.transforms.v2._transform.Transform",
}
"""What a library's transformations derive from."""

_BASE = re.compile(r"Base(2D|3D|V2)?$|^(Basic|Dual|ImageOnly|)Transform$|Dispather$")
"""Classes that others derive from, and transform nothing."""

_CHAINS = ("transforms", "transform")
"""Arguments that are transformations themselves."""


STRENGTH = re.compile(r"(?:(?P<first>[\d.]+) *(?P<sign>[+-]) *|(?P<minus>-) *)?(?:(?P<times>[\d.]+) *\* *)?s")
"""How a strength stands in an argument: s, -s, 2*s, 1-s, 1 + 0.5*s."""


def has_strength(value: object) -> bool:
    """Whether a strength is put somewhere in arguments."""
    if isinstance(value, Mapping):
        return any(map(has_strength, value.values()))
    if isinstance(value, list | tuple):
        return any(map(has_strength, value))
    return isinstance(value, str) and STRENGTH.fullmatch(value.strip()) is not None


def library_class(name: str) -> type[Any]:
    """A transformation of a library.

    Args:
        name: `library:Class`, of one of `LIBRARIES`.

    Raises:
        UserError: if there is none of this name.
    """
    library, _, own = name.partition(":")
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it looks for a newer release whenever it is imported
    try:
        module = importlib.import_module(LIBRARIES[library])
    except Exception as error:  # an installation that does not fit together
        why = next(iter(str(error).splitlines()), "")[:200]
        raise UserError(f"{library} cannot be imported ({type(error).__name__}: {why}); install it anew") from error
    found: Any = getattr(module, own, None)
    if inspect.isclass(found) and (_takes_others(found) or "Sequential" in own):
        raise UserError(f"transform {name!r} takes other transformations: chains are given in Python, as objects")
    if not _is_transformation(library, found):
        there = sorted(key for key, one in vars(module).items() if _is_transformation(library, one))
        what = "is no transformation of its own" if found is not None else "is not there"
        raise UserError(f"transform {name!r}: {own} {what}{nearest(own, there)} ({library} has {len(there)})")
    family: type[Any] = found
    return family


def _takes_others(found: type[Any]) -> bool:
    return any(key in _CHAINS for key in inspect.signature(found).parameters)


def _is_transformation(library: str, found: object) -> bool:
    if not inspect.isclass(found) or inspect.isabstract(found) or found.__name__.startswith("_"):
        return False
    if _BASE.search(found.__name__):
        return False
    above = [f"{one.__module__}.{one.__qualname__}" for one in found.__mro__[1:]]
    return _ROOTS[library] in above
