"""The classes of images, as folders or a Dataset name them, as the numbers that a network gives its classes."""

from collections.abc import Mapping, Sequence

import numpy as np

from invariance.data.wnids import WNIDS
from invariance.errors import UserError, nearest

Wanted = list[int | str]
"""The network's class of each class of images, by its number or its name, in the order of the images' own."""

_SHOWN = 4
"""Classes that a message names."""


def check_wanted(given: object, classes: Sequence[str]) -> Wanted:
    """What a user says of the network's class of each class of images.

    Args:
        given: a list of these, or a mapping from the names of the images' classes.
        classes: names of the images' classes.

    Raises:
        UserError: if it is neither, or is not of these classes.
    """
    if isinstance(given, Mapping):
        if unknown := [str(name) for name in given if name not in classes]:
            raise UserError(f"classes: {unknown[0]!r} is no class of the images{nearest(unknown[0], classes)}")
        if missing := [name for name in classes if name not in given]:
            raise UserError(f"classes: {missing[0]!r} is missing; give the network's class of each: {some(classes)}")
        given = [given[name] for name in classes]
    if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray):
        raise UserError(f"classes={given!r}: give a list of the network's classes, or a mapping from {some(classes)}")
    if len(given) != len(classes):
        raise UserError(f"classes= holds {len(given)} for {len(classes)} classes: {some(classes)}")
    for one in given:
        if isinstance(one, bool) or not isinstance(one, int | str | np.integer):
            raise UserError(f"classes: {one!r} is neither a number nor a name of the network's classes")
    return [one if isinstance(one, str) else int(one) for one in given]


def numbers_of(classes: Sequence[str], wanted: Wanted | None, names: Sequence[str] | None, count: int) -> list[int]:
    """The network's number of each class of images.

    By what the user gave; else as names of the network's classes; else as WordNet ids (n01440764), where the network
    has the 1,000 classes of ImageNet, or 1,001 the first of which is named "background"; else in their order, where
    the network has as many.

    Args:
        classes: names of the images' classes.
        wanted: what the user gave.
        names: names of the network's classes; None where they are not known.
        count: how many these are.

    Raises:
        UserError: if it cannot be told, saying how to give it; or for classes that are none of the network's.
    """
    if wanted is not None:
        return [_number(one, names, count) for one in wanted]
    numbers = known_numbers(classes, names, count)
    if numbers is None and len(classes) == count:
        numbers = list(range(count))
    if numbers is None:
        hint = ", ".join(f"{name!r}: …" for name in classes[:2])
        raise UserError(
            f"labels: which of the network's {count:,} classes {some(classes)} are is not known; give load_images(…, "
            f"classes={{{hint}}}) with its number or name for each, or labels='none'"
        )
    return numbers


def known_numbers(classes: Sequence[str], names: Sequence[str] | None, count: int) -> list[int] | None:
    """The network's number of each class of images, by its name or WordNet id; None where these do not tell it.

    Arguments as `numbers_of`.
    """
    return _by_name(classes, names) or _by_wnid(classes, names, count)


def some(names: Sequence[str]) -> str:
    """The first of some names."""
    return ", ".join(names[:_SHOWN]) + (f", … ({len(names)})" if len(names) > _SHOWN else "")


def _number(given: int | str, names: Sequence[str] | None, count: int) -> int:
    """A class of the network that a user named."""
    if isinstance(given, int):
        if not 0 <= given < count:
            raise UserError(f"classes: {given} of a network with {count} classes; they go from 0 to {count - 1}")
        return given
    if names is None:
        raise UserError(f"classes: {given!r}: the names of the network's classes are not known; give numbers")
    places = [place for place, name in enumerate(names) if name == given]
    if not places:  # names of ImageNet's classes are lists of synonyms, as "tench, Tinca tinca"
        places = [place for place, name in enumerate(names) if given in name.split(", ")]
    if len(places) != 1:
        why = f"is the name of {len(places)} of the network's classes" if places else "is no class of the network"
        raise UserError(f"classes: {given!r} {why}{'' if places else nearest(given, names)}; give its number")
    return places[0]


def _by_name(classes: Sequence[str], names: Sequence[str] | None) -> list[int] | None:
    """The numbers of classes that are called as the network's are; None where one is not, or two of these are alike."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names or ()):
        places.setdefault(name, []).append(place)
    numbers = [places.get(name, []) for name in classes]
    return [one[0] for one in numbers] if all(len(one) == 1 for one in numbers) else None


def _by_wnid(classes: Sequence[str], names: Sequence[str] | None, count: int) -> list[int] | None:
    """The numbers of classes that are WordNet ids of ImageNet's; None where one is not, or the network is another."""
    background = int(count == len(WNIDS) + 1 and names is not None and names[0].lower() == "background")
    if count != len(WNIDS) + background:
        return None
    places = {wnid: place + background for place, wnid in enumerate(WNIDS)}
    return [places[name] for name in classes] if places.keys() >= set(classes) else None
