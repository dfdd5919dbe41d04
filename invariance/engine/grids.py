"""The measured grids: which families there are, and the fixed transformations of each (Appendix A)."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import product
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from invariance.engine.grid_sets import in_set, sets, severities
from invariance.errors import UserError, nearest
from invariance.settings.files import families, family_config, family_of, family_sweep, paper_families, varies
from invariance.settings.named import dotted, given_as, is_named
from invariance.settings.numbers import canonical
from invariance.settings.outside import FAMILY, outside_config
from invariance.transforms import FRAME, build, require_transform
from invariance.transforms.base import UNTOUCHED, GridPoint, Transform


@dataclass(frozen=True)
class Grid:
    """A family's grid as a network is measured over it.

    Attributes:
        name: the family's name, for Crop with the size of the network it serves: `crop_256`; for a set G, with `_G`.
        family: the family; one from outside the package, `module:Class`, as `module.Class`.
        settings: the family's configuration, from which `transform` is built.
        own: whether the network was trained with this family, at the range in `settings`.
    """

    name: str
    family: str
    settings: dict[str, Any]
    own: bool = False

    @cached_property
    def transform(self) -> Transform:
        """The transformations."""
        return build(self.settings)

    def covered(self, point: GridPoint) -> bool:
        """Whether the network's training could have drawn this g."""
        return point.covered and (self.own or point.label == UNTOUCHED)

    @property
    def identity(self) -> dict[str, Any]:
        """What a measurement over this grid is of."""
        return {"name": self.name, **{key: value for key, value in self.settings.items() if key != "joint"}}


def _config(family: str) -> Mapping[str, Any]:
    """A family's file, not resolved; of one from outside the package that a person named, what its class says."""
    name = None if family in families() else given_as(family)
    return family_config(family) if name is None else OmegaConf.create(outside_config(name))


def _keys(family: str) -> list[str]:
    """The keys of a family's file that may be set otherwise for a grid: the arguments of its class."""
    return [str(key) for key in _config(family) if key not in FAMILY]


def _known(settings: Iterable[str], where: str) -> None:
    """Refuse families that there are not."""
    for family in settings:
        name = family.partition(".")[0]
        if name in sets():
            own = in_set(family)[0] if family in sets()[name] else "fog"
            raise UserError(f"{where}.{family}: the grids of a set are fixed; measure grids=[{own}] with {where}.{own}")
        if family not in families() and given_as(family) is None:
            there = ", ".join(families())
            raise UserError(f"{where}.{family} is no family{nearest(family, families())} (there are: {there})")


def _configured(family: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A family's configuration with some of its keys set otherwise."""
    for key in settings:
        if key not in _keys(family):
            raise UserError(f"grid.{family}.{key} is no key of the family{nearest(str(key), _keys(family))}")
    try:
        return deepcopy(_merged(family, _Settings(settings)))
    except OmegaConfBaseException as error:
        raise UserError(f"{family}: {str(error).splitlines()[0]}") from error


class _Settings(dict[str, Any]):
    """Settings as the key of a cache: those that are written alike are alike."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(repr(self))

    def __eq__(self, other: object) -> bool:
        return repr(self) == repr(other)


@lru_cache(maxsize=1024)
def _merged(family: str, settings: _Settings) -> dict[str, Any]:
    """A family's file with settings over it: the same for hundreds of networks of a plan."""
    merged = OmegaConf.merge(_config(family))
    for key, value in settings.items():
        OmegaConf.update(merged, key, value, merge=False)  # a value takes another's place whole
    config = OmegaConf.create({"range": settings.get("range"), "transform": merged})
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return dict(plain["transform"])


def _grids_of_family(family: str, settings: Mapping[str, Any]) -> Iterator[Grid]:
    """A family's grid; more than one where the grid depends on the trained range, as Crop's does on its size."""
    if (name := None if family in families() else given_as(family)) is not None:
        yield _outside(name, settings)
        return
    if "grid" not in family_config(family):  # one of its name, at every range
        yield Grid(family, family, _configured(family, {**settings, "range": None}))
        return
    sweep = family_sweep(family)
    seen: set[str] = set()
    for values in product(*sweep.values()):
        dotlist = [f"{key}={value}" for key, value in zip(sweep, values, strict=True)]
        ranged = OmegaConf.to_container(OmegaConf.from_dotlist(dotlist))
        assert isinstance(ranged, dict)
        name = str(_configured(family, {"range": ranged.get("range")}).get("grid", family))
        if name not in seen:
            seen.add(name)
            kept = ranged.get("range") if name != family else None
            yield Grid(name, family, _configured(family, {**settings, "range": kept}))


def _own(trained: Mapping[str, Any], settings: Mapping[str, Any]) -> Grid:
    """The grid of a network's own family."""
    family = str(trained["name"])
    # keys that the family did not have when the network was trained
    new = _configured(family, {"range": trained.get("range")}) if family in families() else {}
    return Grid(str(trained.get("grid", family)), family, {**new, **trained, **settings}, own=True)


def check_grids(settings: Mapping[str, Mapping[str, Any] | None]) -> None:
    """Refuse other values of a family's grid that it does not take, whatever the network.

    Args:
        settings: per family, keys of its configuration to set otherwise.

    Raises:
        UserError: for an unknown family or key, or values that the family does not take.
    """
    _known(settings, "grid")
    for family, own in settings.items():
        for grid in _grids_of_family(family, own or {}):
            grid.transform.grid()


def check_wanted(wanted: object) -> None:
    """Refuse names of grids that no network can have.

    Args:
        wanted: as `grids_for` takes it.

    Raises:
        UserError: for an unknown family or grid.
    """
    measured = [family for family in families() if family_sweep(family)]
    known = sorted({*measured, *(grid.name for family in measured for grid in _grids_of_family(family, {}))})
    known += [name for held, inside in sets().items() for name in (held, *inside)]
    ranged = tuple(f"{family}_" for family in measured if "grid" in family_config(family))  # at any trained range
    for name in _typed(wanted):
        if is_named(name):
            require_transform(str(name))
        elif name not in ("own", "all", *known) and not str(name).startswith(ranged):
            there = ", ".join(known)
            raise UserError(f"grids={name}: no such family or grid{nearest(str(name), known)} (there are: {there})")


def _typed(wanted: object) -> list[str]:
    """Names of grids as they are typed; those of other libraries' families also with a dot, as rows have them."""
    names = [str(name) for name in wanted] if isinstance(wanted, list) else [str(wanted)]
    return [given_as(name) or name for name in names]


def check_joint(wanted: Mapping[str, Mapping[str, Any] | None]) -> None:
    """Refuse a set G that no network can be finetuned for.

    Args:
        wanted: as `joint_grid` takes it.

    Raises:
        UserError: for an unknown family or key, values that the family does not take, or a G that is empty.
    """
    _known(wanted, "G")
    for family, own in wanted.items():
        values = family_sweep(family).get("range", [])
        range_of = OmegaConf.to_container(OmegaConf.from_dotlist([f"range={one}" for one in values[:1]]))
        assert isinstance(range_of, dict)
        trained = _configured(family, {"range": (own or {}).get("range", range_of.get("range"))})
        joint_grid(trained if values else {"name": family}, {family: own})


def joint_grid(trained: Mapping[str, Any], wanted: Mapping[str, Mapping[str, Any] | None]) -> Grid:
    """The set G of the joint loss (Eq. 6), as the grid of its family that holds nothing else but the untouched.

    Args:
        trained: the network's own transform configuration.
        wanted: per family, settings of its grid that list G; what they do not name lists nothing. A family without
            settings, and every family where none is named, has the G of its yaml (`joint`, Sec. 5.4); one from outside
            the package its grid. A baseline takes the one family that is there.

    Raises:
        UserError: for an unknown family or key, values that the family does not take, another size than a Crop
            network's own, or a G that is empty.
    """
    _known(wanted, "G")
    family = str(trained["name"])
    own = varies(trained)
    if not own:
        if len(wanted) != 1:
            raise UserError(
                f"a {family} network has no family of its own: give one, as G={{rotation: {{angles: [-10, 10]}}}}"
            )
        family = next(iter(wanted))
    if wanted and family not in wanted:
        named = ", ".join(wanted)
        raise UserError(f"G names {named}; this network was trained with {family}: name that, or leave G out")
    if own:
        build(trained)  # a family from outside the package that nobody named is refused
    config = _config(family)
    default = OmegaConf.to_container(config.get("joint", OmegaConf.create({})))
    assert isinstance(default, dict)
    given = dict(wanted.get(family) or {})
    keys = _keys(family)
    for key in given:
        if key not in keys:
            raise UserError(f"G.{family}.{key} is no key of the family's grid{nearest(str(key), keys)}")
    if own and canonical(given.get("range", trained.get("range"))) != canonical(trained.get("range")):
        raise UserError(
            f"G.{family}.range={given['range']}: this network was trained at {trained.get('range')}, and its images "
            "are prepared for that; leave it out"
        )
    nothing = {list: [], bool: False, int: 0}
    listed = {key: nothing.get(type(value), value) for key, value in default.items()} if given else default
    settings = {str(key): value for key, value in {**listed, **given}.items()}
    plain = _own(trained, settings) if own else Grid(family, family, _configured(family, settings))
    mark = hashlib.sha256(json.dumps(canonical(settings), sort_keys=True).encode()).hexdigest()[:6] if given else ""
    name = str(plain.settings.get("grid", plain.name))
    grid = replace(plain, name=f"{name}_G{mark}")
    try:
        points = grid.transform.grid()
        grid.transform.source_size(FRAME)  # a Crop of no size has none
    except UserError as error:
        raise UserError(f"G: {error}") from error
    if all(point.label == UNTOUCHED for point in points):
        lists = [str(key) for key in default] or [key for key in keys if key != "range"]
        takes = ", ".join(lists) or "none of its grid's settings"
        raise UserError(f"G of {family} is empty: it takes {takes}, and at least one g that is not the untouched image")
    return grid


def grids_for(
    trained: Mapping[str, Any], wanted: object, settings: Mapping[str, Mapping[str, Any] | None]
) -> list[Grid]:
    """The grids a network is measured over.

    Args:
        trained: the network's own transform configuration.
        wanted: "own" (a baseline, which has no grid of its own: all), "all" that are in the package, and its own; or
            names of families or grids, among them `module:Class` of families from outside. That of its own family is
            its own.
        settings: per family, keys of its configuration to set otherwise.

    Raises:
        UserError: for an unknown family or key.
    """
    _known(settings, "grid")
    given = {family: of_family or {} for family, of_family in settings.items()}
    own_family = str(trained["name"])
    own = _own(trained, given.get(own_family, {}))
    if wanted == "own" and not varies(trained):
        wanted = "all"
    if wanted == "own":
        return [own]
    everything = [
        own if grid.name == own.name else grid
        for family in families()
        if family_sweep(family)
        for grid in _grids_of_family(family, given.get(family, {}))
    ]
    if own.name not in {grid.name for grid in everything} and varies(trained):
        everything.append(own)
    if wanted == "all":
        return [grid for grid in everything if grid.own or grid.family in paper_families()]
    asked = _typed(wanted)
    of_sets = [_of_set(name) for held, inside in sets().items() for name in inside if held in asked or name in asked]
    asked = [name for name in asked if name.partition(".")[0] not in sets()]
    names = [name for name in asked if not is_named(name)]
    outside = [
        own if name == family_of(trained) else _outside(name, given.get(dotted(name), {}))
        for name in asked
        if is_named(name)
    ]
    known = sorted({grid.name for grid in everything} | {grid.family for grid in everything})
    for name in names:
        if name not in known:
            there = ", ".join(known)
            raise UserError(f"grids={name}: no such family or grid{nearest(name, known)} (there are: {there})")
    inside = [grid for grid in everything if grid.name in names or grid.family in names]
    return inside + of_sets + outside


def _of_set(name: str) -> Grid:
    family, settings = in_set(name)
    return Grid(name, name, severities(name, _configured(family, settings)))


def _outside(name: str, settings: Mapping[str, Any]) -> Grid:
    """The grid of a family from outside the package, which is what its class has without other arguments.

    Raises:
        UserError: for settings that its class does not take.
    """
    family = dotted(name)
    if settings:
        _configured(family, settings)
    return Grid(family, family, {"_target_": name, **settings})
