"""What a user gives from Python: transformations, maps, and what is measured beside, by name or as objects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from invariance.engine.grids import check_wanted, grids_for
from invariance.engine.measuring import Family, More
from invariance.errors import UserError, nearest
from invariance.maps import MAPS, SOLVERS, Solver, solver_named, solvers_of
from invariance.maps.settings import name_of
from invariance.maps.spec import WARP, MapSpec, with_companions
from invariance.transforms.base import Transform
from invariance.transforms.foreign import Foreign, always_applied, foreign


@dataclass(frozen=True)
class NamedTransform:
    """Transformations under a name."""

    name: str
    transform: Transform


def families_given(given: object) -> list[Family]:
    """Transformations by name, as objects, or by names of the user's.

    Raises:
        UserError: for none, an unknown name, or two of one name.
    """
    found: list[Family] = []
    several: list[Any] = list(given) if isinstance(given, list | tuple) else [given]
    if isinstance(given, Mapping):
        found, several = [NamedTransform(_called(name), _transform(one)) for name, one in given.items()], []
    for one in several:
        if isinstance(one, str):  # a family, or module:Class
            try:
                check_wanted(one)  # a name from outside is given here, by a person
                found += grids_for({"name": "baseline"}, [one], {})
            except UserError as error:
                raise UserError(str(error).replace("grids=", "transforms: ", 1)) from error
        else:
            transform = _transform(one)
            name = transform.name if isinstance(transform, Foreign) else type(one).__name__.lower()
            found.append(NamedTransform(name, transform))
    if not found:
        raise UserError("transforms: give at least one, as ['rotation']")
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"transforms: several are called {name}; name them, as {{'near': …, 'far': …}}")
    return found


def _transform(given: object) -> Transform:
    if isinstance(given, Transform) and not isinstance(given, Foreign):
        return given
    if (family := given if isinstance(given, Foreign) else foreign(given)) is None:
        raise UserError(
            f"transforms: a {type(given).__name__} is none; give names of families, a Transform, or a transformation "
            "of albumentations, kornia.augmentation or torchvision.transforms.v2"
        )
    if always := always_applied(family):
        print(always, flush=True)
    return family


def maps_given(given: Sequence[object] | None, fit: bool) -> list[MapSpec]:
    """Maps by their names, those of solvers, or their settings.

    Args:
        given: what the user gives; None: the identity, and ridge where there are fit images.
        fit: whether there are.

    Raises:
        UserError: for none, an unknown one, or one twice.
    """
    if given is not None and not isinstance(given, list | tuple):
        raise UserError(f"maps={given!r}: give a list, as ['identity', 'ridge']")
    wanted = list(given) if given is not None else ["identity", *(["ridge"] if fit else [])]
    specs = []
    for one in wanted:
        if one in ("identity", WARP):
            specs.append(MapSpec(str(one)))
        elif isinstance(one, MapSpec):
            specs.append(one)
        elif isinstance(one, str):
            specs.append(_named(one))
        elif isinstance(one, Solver) and not isinstance(one, type):
            specs.append(_spec(one))
        else:
            raise UserError(f"maps: a {type(one).__name__} is none; give names of solvers or their settings")
    if not specs or len({spec.name for spec in specs}) < len(specs):
        raise UserError(f"maps={wanted}: give at least one, and each solver once")
    return with_companions(specs)


def _spec(solver: Solver) -> MapSpec:
    """The map that a solver is taken for."""
    return MapSpec(solver.fits[0], name_of(solver), solver)


def more_given(nulls: bool | Sequence[str], intervals: bool) -> More:
    """What is measured beside the scores of maps.

    Raises:
        UserError: for `nulls` that are neither a choice nor names of solvers.
    """
    if isinstance(nulls, bool):
        return More(nulls=nulls, intervals=bool(intervals))
    if isinstance(nulls, str) or not all(isinstance(name, str) for name in nulls):
        raise UserError(f"nulls={nulls!r}: give True, False, or a list of solvers, as ['online_sgd']")
    return More(nulls=True, shuffled=tuple(nulls), intervals=bool(intervals))


def check_shuffled(more: More, specs: Sequence[MapSpec]) -> None:
    """Refuse solvers for shuffled pairs that fit no map.

    Raises:
        UserError: naming those that do.
    """
    there = [spec.solver for spec in specs if spec.settings is not None]
    for name in more.shuffled:
        if name not in there:
            others = f"there are {', '.join(there)}" if there else "no map is fitted"
            raise UserError(f"nulls: {name!r} fits no map here{nearest(name, there)}; {others}")


def _called(name: object) -> str:
    if not isinstance(name, str) or not name.strip() or ":" in name:
        raise UserError(f"transforms: {name!r} is no name; give a text without a colon, which ends it in the column g")
    return name


def _named(name: str) -> MapSpec:
    """The map of a name with the one solver that fits it, or the map that a solver is taken for."""
    if name.partition(":")[0] in MAPS:
        able = solvers_of(name)
        if len(able) != 1:
            raise UserError(f"maps: {name!r} is fitted by {' or '.join(able)}; give one of these names for it")
        return MapSpec(name, able[0], solver_named(able[0])())
    if name not in SOLVERS and ":" not in name:
        known = ["identity", *SOLVERS, "low_rank:8", "orthogonal", "mlp", "warp", "spatial"]
        raise UserError(f"maps: {name!r} is none{nearest(name, known)}; there are {', '.join(known)}")
    return _spec(solver_named(name)())
