"""Transformations of albumentations, kornia.augmentation and torchvision.transforms.v2 as families.

What such a library draws for an image is decided by a seed alone: the same seed gives the same g for every image, of
whatever batch and on whatever thread, and the global random state is left as it was.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from invariance.errors import UserError
from invariance.settings.fields import native
from invariance.transforms.base import UNTOUCHED, GridPoint, Params, Transform, check_batch
from invariance.transforms.feature_maps import Size
from invariance.transforms.libraries import Library, library_of

_SEEDS = 2**31 - 1

_AS_IT_IS, _AS_GIVEN = -1, -2
"""In place of a measured transformation: none, and the one that training draws from."""


class Foreign(Transform):
    """Transformations of another library, or several after one another.

    Training draws anew for every image, by a seed of its own. Measuring takes one seed for all images: what is drawn by
    it is g. A probability below 1 of being applied at all is taken as 1 then, and that is said once.

    Args:
        of: a transformation of albumentations, kornia.augmentation or torchvision.transforms.v2; a list of such, which
            follow one another; or a mapping to these from strengths above or below 0, the untouched, or from names.
            Each of a mapping is drawn once.
        draws: how many g are measured of one that has no strengths.
        seed: of the measured draws.

    Raises:
        UserError: for what is none, and one that cannot be fixed by a seed.

    Example:
        >>> from torchvision.transforms import v2
        >>> blurred = Foreign({sigma: v2.GaussianBlur(9, (sigma, sigma)) for sigma in (1.0, 2.0, 4.0)})
        >>> [point.label for point in blurred.grid()]
        ['untouched', '1', '2', '4']
    """

    uniforms = 1

    def __init__(self, of: object, draws: int = 5, seed: int = 0) -> None:
        if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
            raise UserError(f"draws={draws!r}: give a whole number from 1")
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < _SEEDS - draws:
            raise UserError(f"seed={seed!r}: give a whole number from 0 to {_SEEDS - draws - 1}")
        named = {native(key): one for key, one in of.items()} if isinstance(of, Mapping) else None
        if named is not None and not named:
            raise UserError("transforms: a mapping of strengths to transformations is empty")
        self.ordinal = named is None or all(isinstance(key, str) for key in named)
        chains = [_chain(one) for one in (named.values() if named is not None else [of])]
        self._labels = (
            [_label(name, self.ordinal) for name in named] if named is not None else [f"{k + 1}" for k in range(draws)]
        )
        if len(set(self._labels)) < len(self._labels) or UNTOUCHED in self._labels:
            raise UserError(f"transforms: strengths {', '.join(self._labels)} are not told apart")
        self._strengths = list(named) if named is not None else []
        self._seed = seed
        self._drawn = chains[-1]  # the widest
        self._measured = [[step.always() for step in chain] for chain in chains]
        self.name = "_".join(step.name for step in chains[0])

    def _draw_from(self, of: object) -> None:
        """Let training draw from another transformation than the last that is measured."""
        self._drawn = _chain(of)

    @property
    def certain(self) -> list[str]:
        """The names of transformations that are measured as if they were always applied, and are not."""
        return list(dict.fromkeys(step.name for step in self._drawn if 0 < step.chance < 1))

    def params_of(self, uniforms: Tensor) -> Params:
        """A `seed` for each image, from uniform numbers (n, 1)."""
        seeds = (uniforms[:, 0] * _SEEDS).long()
        return {"seed": seeds, "which": torch.full_like(seeds, _AS_GIVEN)}

    def grid(self) -> list[GridPoint]:
        """The untouched image, then every strength, or every draw."""

        def at(label: str, place: int, seed: int, which: int) -> GridPoint:
            """One g."""
            strength: Any = self._strengths[place - 1] if self._strengths and place else place
            value = float(place) if self.ordinal else float(strength)
            params = {"seed": torch.tensor([seed]), "which": torch.tensor([which])}
            return GridPoint(label, value, params, covered=which == _AS_IT_IS)

        points = [at(UNTOUCHED, 0, 0, _AS_IT_IS)]
        for place, label in enumerate(self._labels):
            # strengths are one draw, so that only they differ
            seed, which = (self._seed, place) if self._strengths else (self._seed + place, 0)
            points.append(at(label, place + 1, seed, which))
        return points if self.ordinal else sorted(points, key=lambda point: point.value)

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Images g x; every image by its own seed, or all by one.

        Raises:
            UserError: if a transformation fails on them, changes their size, or gives other numbers when asked again.
        """
        check_batch(x, params)
        which, seeds = params["which"].tolist(), params["seed"].tolist()
        if len(set(which)) == 1:
            return self._all(x, which[0], seeds)
        return torch.cat([self._all(x[k : k + 1], which[k], seeds[k : k + 1]) for k in range(len(x))])

    def _all(self, x: Tensor, which: int, seeds: Sequence[int]) -> Tensor:
        """Images under one measured transformation, or drawn, by one seed or each by its own."""
        if which == _AS_IT_IS:
            return x.clone()
        for place, step in enumerate(self._drawn if which == _AS_GIVEN else self._measured[which]):
            x = step.apply(x, [seed + place for seed in seeds])
        return x.clamp(0, 255)

    def goes_to(self, places: Tensor, params: Params, size: Size) -> Tensor:
        """Refused: other libraries do not say where places go to."""
        raise UserError(f"{self.name}: transformations of other libraries have no undo; leave spatial and warp out")

    @property
    def undoes(self) -> bool:
        """Whether there is S_g⁻¹: no."""
        return False

    def beside(self) -> dict[str, object]:
        """The transformations with their settings."""
        return {"of": [[step.told for step in chain] for chain in self._measured]}


def always_applied(family: Transform) -> str:
    """What to tell of a family whose transformations have a probability, and are measured without it; or ""."""
    if not isinstance(family, Foreign) or not family.certain:
        return ""
    return f"{', '.join(family.certain)}: always applied, whatever the p that was given"


def foreign(given: object) -> Foreign | None:
    """A transformation of another library, a list of such, or strengths of one as a family; None for anything else."""
    first: Any = given
    if isinstance(first, Mapping):
        first = next(iter(first.values()), None)
    if isinstance(first, list | tuple):
        first = first[0] if first else None
    return None if library_of(first) is None else Foreign(given)


def _chain(of: object) -> list[Library]:
    steps: Sequence[object] = of if isinstance(of, list | tuple) else [of]
    chain = []
    for one in steps:
        library = library_of(one)
        if library is None:
            raise UserError(
                f"transforms: a {type(one).__name__} is of none of albumentations, kornia.augmentation and "
                "torchvision.transforms.v2; give an instance of one of these"
            )
        chain.append(library(_copy(one)))
    if not chain:
        raise UserError("transforms: a list of transformations is empty")
    return chain


def _copy(one: object) -> object:
    try:
        return deepcopy(one)
    except Exception as error:  # whatever it holds
        why = next(iter(str(error).splitlines()), "")[:200]
        raise UserError(f"transforms: a {type(one).__name__} cannot be copied ({why})") from error


def _label(strength: object, ordinal: bool) -> str:
    number = isinstance(strength, int | float) and not isinstance(strength, bool)
    if number and not ordinal and isinstance(strength, int | float) and isfinite(strength) and strength != 0:
        return f"{strength:g}"
    if ordinal and isinstance(strength, str) and strength.strip() and ":" not in strength:
        return strength
    raise UserError(
        f"transforms: {strength!r} is no strength; give numbers apart from 0, which is the untouched image, or texts "
        "without a colon, and not both"
    )
