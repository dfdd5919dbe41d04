"""A transformation of albumentations, kornia or torchvision by its name, at strengths."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any

from invariance.errors import UserError, nearest, shown
from invariance.settings.fields import native
from invariance.settings.libraries import STRENGTH, has_strength, library_class
from invariance.settings.named import LIBRARIES, is_of_library
from invariance.transforms.base import GridPoint, Params
from invariance.transforms.checks import needed_range, trained_range
from invariance.transforms.foreign import Foreign


class OfLibrary(Foreign):
    """A transformation of another library by its name.

    Where an argument is the text `s`, or `-s`, `2*s`, `1-s`, `100 - s`, the strength is put there.

    Args:
        of: its name, as `albumentations:RandomFog`, `kornia:RandomPlanckianJitter` or `torchvision:RandomPosterize`.
        range: the strength that is trained with; None for measuring alone, and where no argument has one.
        arguments: its own arguments.
        measured: arguments that strengths decide when it is measured, as `{"fog_coef_range": ["s", "s"]}`.
        trained: the same when it is trained, as `{"fog_coef_range": [0, "s"]}`; None: as measured.
        strengths: the measured strengths; or a mapping from these, or from names, to arguments. Without any, some draws
            of what is trained with are measured.
        draws: how many.
        seed: of what is drawn in measuring.
        unit: of the strengths.
        least: what ranges are above.
        most: the largest range.
        whole: whether strengths are whole numbers, as the library counts pixels.

    Raises:
        UserError: for a name that is not there, arguments that it does not take, and what cannot be fixed by a seed.
    """

    def __init__(
        self,
        of: str,
        range: float | None = None,
        arguments: Mapping[str, Any] | None = None,
        measured: Mapping[str, Any] | None = None,
        trained: Mapping[str, Any] | None = None,
        strengths: Sequence[float] | Mapping[Any, Mapping[str, Any]] | None = None,
        draws: int = 5,
        seed: int = 0,
        unit: str = "",
        least: float = 0,
        most: float = 1e6,
        whole: bool = False,
    ) -> None:
        if not is_of_library(of):
            raise UserError(f"transform.of={shown(of)}: give one of {', '.join(f'{one}:Class' for one in LIBRARIES)}")
        self.of, self._arguments = of, _mapping(of, "arguments", arguments)
        example = f"range={most / 2 if most <= 1 else 1:g}"
        self.range = trained_range(
            of, range, least, most, f"the s of its arguments{', whole' if whole else ''}", example
        )
        self._whole = whole
        measured, trained = _mapping(of, "measured", measured), _mapping(of, "trained", trained)
        self._exact, self._two_sided = not trained, _two_sided(trained)
        drawn = trained or measured
        for key, value in self._arguments.items():
            if has_strength(value) and key not in measured:
                measured = {**measured, key: value}
            if has_strength(value) and key not in drawn:
                drawn = {**drawn, key: value}
        if self.range is not None and not has_strength(drawn):
            raise UserError(
                f"{of}: range={range} is put nowhere; say in which argument, as transform.trained={{argument: [0, s]}}"
            )
        self._ranged, strengths = has_strength(drawn), native(strengths)
        self._lacks = self._lacking(drawn) if strengths and not self._ranged else []
        alone = not self._ranged and not self._lacks
        own = self._made(drawn, self.range) if self.range is not None or alone else None
        if strengths:
            super().__init__(self._at(strengths, measured), draws, seed)
        else:
            if own is None:
                raise UserError(
                    f"{of}: measured={shown(dict(measured))} takes strengths; give them, as strengths=[1, 2]"
                )
            super().__init__(own, draws, seed)
        if own is not None:
            self._draw_from(own)
        self.unit = unit if isinstance(unit, str) else ""

    def _at(self, strengths: object, measured: Mapping[str, Any]) -> dict[Any, object]:
        """The transformation at each strength."""
        if isinstance(strengths, Mapping):
            return {
                key: self._made({**measured, **_mapping(self.of, "strengths", at)}, key)
                for key, at in strengths.items()
            }
        if isinstance(strengths, str) or not isinstance(strengths, Sequence):
            raise UserError(f"{self.of}: strengths={shown(strengths)}: give a list of numbers, as [0.2, 0.5]")
        if not has_strength(measured):
            raise UserError(
                f"{self.of}: strengths are put nowhere; say where, as transform.measured={{argument: [s, s]}}"
            )
        for one in strengths:
            if isinstance(one, bool) or not isinstance(one, int | float):
                raise UserError(f"{self.of}: {shown(one)} in strengths is no number")
        if len(set(strengths)) < len(strengths):
            raise UserError(f"{self.of}: strengths={list(strengths)} names one twice")
        return {one: self._made(measured, one) for one in strengths}

    def _made(self, at: Mapping[str, Any], strength: object) -> object:
        """The transformation with arguments at a strength."""
        if self._whole and isinstance(strength, float) and not strength.is_integer():
            raise UserError(f"{self.of}: {strength:g} is no whole number, which its strengths are")
        family, lacks = library_class(self.of), self._lacking(at)
        if lacks:
            keys, name = " ".join(f"transform.{key}=…" for key in lacks), self.of.replace(":", ".")
            raise UserError(f"{self.of} needs {', '.join(lacks)}: give {keys}, or grid={{{name}: {{{lacks[0]}: …}}}}")
        given = {key: _put(value, strength) for key, value in {**self._arguments, **at}.items()}
        arguments = checked_arguments(self.of, family, given)
        try:
            return family(**arguments)
        except Exception as error:  # whatever the library says
            why = " ".join(str(error).split()).partition(" [type=")[0][:200]
            at_strength = "" if strength is None else f" at strength {strength}"
            raise UserError(f"{self.of} cannot be made with these arguments{at_strength} ({why})") from error

    def _lacking(self, at: Mapping[str, Any]) -> list[str]:
        """Arguments that the class cannot be made without, and that nothing was given for."""
        known = inspect.signature(library_class(self.of)).parameters.values()
        needed = [
            one.name
            for one in known
            if one.default is one.empty and one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
        ]
        return [name for name in needed if {**self._arguments, **at}.get(name) is None]

    def params_of(self, uniforms: Any) -> Params:  # noqa: ANN401
        """See `Foreign.params_of`."""
        if self._ranged:
            needed_range(self.of, self.range)
        if self._lacks:
            raise UserError(f"{self.of}: training needs {', '.join(self._lacks)}, or a range and where it stands")
        return super().params_of(uniforms)

    def grid(self) -> list[GridPoint]:
        """See `Foreign.grid`; covered are strengths that training may draw, and draws of what is trained with."""

        def covered(point: GridPoint) -> bool:
            """Whether training could have drawn this g."""
            if not self._strengths:
                return self.range is not None or not self._ranged
            if self.range is None or self.ordinal:
                return False
            if self._exact:
                return point.value == self.range
            return (abs(point.value) if self._two_sided else point.value) <= self.range and (
                self._two_sided or point.value >= 0
            )

        return [replace(point, covered=point.covered or covered(point)) for point in super().grid()]


def checked_arguments(of: str, family: type[Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a class of another library, with words as what it enumerates: "bilinear".

    Raises:
        UserError: for one that it does not take, naming the nearest that it does, and for a word that is none of its.
    """
    known = inspect.signature(family).parameters
    made = {}
    for key, value in arguments.items():
        if key not in known:
            raise UserError(f"{of} takes no {key}{nearest(str(key), known)} (it takes: {', '.join(known)})")
        usual = known[key].default
        if isinstance(usual, Enum) and isinstance(value, str):
            words = {one.name.lower(): one for one in type(usual)}
            if value not in words:
                raise UserError(f"{of}: {key}={value!r}{nearest(value, words)} (there are: {', '.join(words)})")
            value = words[value]
        if key == "p" and isinstance(value, int | float) and not 0 <= value <= 1:
            raise UserError(f"{of}: p={value}: give a probability, from 0 to 1")
        made[key] = value
    return made


def _mapping(of: str, key: str, given: object) -> dict[str, Any]:
    given = native(given)
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(one, str) for one in given):
        raise UserError(f"{of}: {key}={shown(given)}: give arguments by name, as {{{key}: {{argument: value}}}}")
    return dict(given)


def _put(value: object, strength: object) -> Any:  # noqa: ANN401
    """An argument with the strength in its places, and lists as tuples, which the libraries want."""
    if isinstance(value, Mapping):
        return {key: _put(one, strength) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_put(one, strength) for one in value)
    match = STRENGTH.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or isinstance(strength, str) or not isinstance(strength, int | float):
        return value
    signed = -1 if "-" in (match["sign"], match["minus"]) else 1
    number = float(match["first"] or 0) + signed * float(match["times"] or 1) * strength
    # 0.1 + 0.2 of decimal numbers is 0.3 here
    number = round(number, 12)
    return int(number) if number.is_integer() else number


def _two_sided(value: object) -> bool:
    """Whether a strength is put somewhere both added and taken off."""
    found: set[bool] = set()

    def look(one: object) -> None:
        """Go through what is nested."""
        if isinstance(one, Mapping | list | tuple):
            for part in one.values() if isinstance(one, Mapping) else one:
                look(part)
        elif isinstance(one, str) and (match := STRENGTH.fullmatch(one.strip())):
            found.add("-" in (match["sign"], match["minus"]))

    look(value)
    return len(found) > 1
