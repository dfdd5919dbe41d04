"""The folder of configurations, what its families of transformations say of themselves, and which keys a page has."""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from invariance.errors import UserError, nearest
from invariance.settings.libraries import has_strength
from invariance.settings.named import dotted, is_named, is_of_library
from invariance.settings.outside import outside_config


def _label(family: str, trained: object = None) -> str:
    """A network's name: the family's, and the range where there is one."""
    return family if trained is None else f"{family}_{trained}"


OmegaConf.register_new_resolver("invariance_label", _label, replace=True)


def conf_dir() -> Path:
    """The folder of configurations: inside the installed package, or beside it in a checkout."""
    package = Path(str(files("invariance")))
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


def choices(group: str, page: str = "") -> list[str]:
    """The files of a group of `conf/`, by name, sorted; of the group `model` those that a command takes.

    Networks that are trained are built by `_target_`; those that are looked at as they are come from a `source`, and
    measuring finds what was trained here by `networks=`.

    Args:
        group: the group.
        page: the command; without one, all files.
    """
    names = sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))
    if group != "model" or not page:
        return names
    as_they_are = [name for name in names if "source" in _mapping(conf_dir() / group / f"{name}.yaml")]
    if page == "layers":
        return as_they_are
    if page == "measure":
        return [name for name in as_they_are if name != "run"]
    return [name for name in names if name not in as_they_are]


def other_model(choice: object, page: str) -> str:
    """What to tell of a network that a command does not take.

    Args:
        choice: its file in `conf/model/`, or its source.
        page: the command.
    """
    there = ", ".join(choices("model", page))
    if page in ("measure", "layers"):
        found = "listed by model=run" if page == "layers" else "measured by networks="
        own = f"networks of this package are trained by invariance-train, and {found} then"
        return f"model={choice}: {own}; model= takes others (there are: {there})"
    return (
        f"model={choice}: it is measured as it is, and not trained; choose one that is built here (there are: {there})"
    )


def families() -> list[str]:
    """All families of transformations: the files of `conf/transform/`."""
    return sorted(path.stem for path in (conf_dir() / "transform").glob("*.yaml"))


@cache
def paper_families() -> tuple[str, ...]:
    """The families of the paper, which `grids=all` are: those whose files do not say `paper: false`."""
    return tuple(family for family in families() if family_config(family).get("paper", True))


def family_config(family: str) -> DictConfig:
    """A family's configuration as its yaml has it, not resolved; read once, so not to be changed in place."""
    return _mapping(conf_dir() / "transform" / f"{family}.yaml")


@cache
def set_config(name: str) -> dict[str, Any]:
    """What a set of grids holds (`conf/sets/`): for each grid its family, and settings of that."""
    held = OmegaConf.to_container(_mapping(conf_dir() / "sets" / f"{name}.yaml"))
    assert isinstance(held, dict)
    return {str(key): value for key, value in held.items()}


@cache
def _mapping(path: Path) -> DictConfig:
    held = OmegaConf.load(path)
    assert isinstance(held, DictConfig), f"{path} holds no mapping"
    return held


def family_sweep(family: str) -> dict[str, list[str]]:
    """What a family varies over its own networks: override key → values, as `{"range": ["5", "10", "15", "20"]}`.

    A baseline varies nothing, and an unknown family has nothing to vary.
    """
    if family not in families():
        return {}
    sweep = family_config(family).get("sweep", {})
    return {str(key): [str(value) for value in values] for key, values in sweep.items()}


def typed_sweep(family: str) -> dict[str, list[str]]:
    """As `family_sweep`, of a family that a person typed: one from outside the package varies what its class says."""
    if not is_named(family):
        return family_sweep(family)
    return {key: [str(value) for value in values] for key, values in outside_config(family)["sweep"].items()}


def family_of(transform: Mapping[str, Any]) -> str:
    """By what name a configuration's family is chosen: a file of `conf/transform/`, or `module:Class`."""
    target = transform.get("_target_")
    return str(target) if is_named(target) else str(transform["name"])


def varies(transform: Mapping[str, Any]) -> bool:
    """Whether a network was trained with transformations, and so has a grid of its own: a baseline has none."""
    return is_named(transform.get("_target_")) or bool(family_sweep(str(transform.get("name"))))


def require_range(transform: Mapping[str, Any]) -> None:
    """Refuse to train a family without its range, as a command's configuration may have it.

    Raises:
        UserError: naming the family's own ranges.
    """
    family = family_of(transform)
    own = typed_sweep(family).get("range", [])
    drawn = transform.get("trained") or transform.get("measured")
    wants = has_strength(drawn) if is_of_library(family) else is_named(family)
    if transform.get("range") is None and (own or wants):
        each = f"; -m transform={family} trains one network for each of its own ({', '.join(own)})" if own else ""
        raise UserError(f"transform={family} needs a range, as range={own[-1] if own else 5}{each}")


def page_keys(page: str) -> set[str]:
    """The keys at the top of a page's configuration: its own, those that all pages share, and its groups."""
    own, common = (_mapping(conf_dir() / f"{name}.yaml") for name in (page, "common"))
    groups = {str(group) for entry in own.defaults if isinstance(entry, DictConfig) for group in entry}
    return {str(key) for key in (*own, *common)} - {"defaults"} | groups


_NAMING = ("oc.select", "oc.dict.", "oc.deprecated")
"""OmegaConf's resolvers whose first argument is a key."""


def check_choices(page: str, config: DictConfig, hydra: DictConfig) -> None:
    """Refuse several choices of a group that takes one, another name for a family, and what contradicts `network=`.

    Args:
        page: the command.
        config: the composed configuration.
        hydra: Hydra's own part of it, which knows what was chosen.

    Raises:
        UserError: naming the group, or the key.
    """
    entries = OmegaConf.to_container(_mapping(conf_dir() / f"{page}.yaml").defaults)
    groups = [one for entry in entries if isinstance(entry, dict) for one in entry.items()]  # type: ignore[union-attr]
    chosen = hydra.runtime.choices
    for group, choice in groups:
        one = isinstance(choice, str | None) and not str(group).startswith("override ")
        if one and group not in chosen and not any(text.startswith(f"~{group}") for text in hydra.overrides.task):
            raise UserError(f"{group} takes one choice, not a list; -m {group}=a,b runs a command for each")
    model = chosen.get("model")
    if "model" in dict(groups) and model in choices("model") and model not in choices("model", page):
        raise UserError(other_model(model, page))
    name, family = OmegaConf.select(config, "transform.name", default=None), chosen.get("transform")
    if "transform" in dict(groups) and name != (dotted(family) if isinstance(family, str) else family):
        raise UserError(f"transform.name={name}: rows go by it, and this is {family}; leave it out")
    path = conf_dir() / "network" / f"{chosen.get('network')}.yaml"
    if not path.is_file():
        return
    network = _mapping(path)
    for entry in network.defaults:
        for key, choice in entry.items():
            group = str(key).removeprefix("override /")
            if chosen.get(group) != choice:
                raise UserError(f"{group}={chosen.get(group)}: network={path.stem} is {group}={choice}; leave one out")
    own = OmegaConf.masked_copy(network, [str(key) for key in network if key not in ("defaults", "seed")])
    if OmegaConf.merge(config, own) != config:
        told = ", ".join(f"{key}={own[key]!s}" for key in map(str, own))
        raise UserError(f"network={path.stem} is of {told}, and another is set; leave one out")


def _referred(text: str) -> set[str]:
    """The keys at the top of a configuration that interpolations in its text name."""
    found = set()
    for inside in re.findall(r"\$\{(?=([^{}]*))", text):
        resolver, colon, arguments = inside.partition(":")
        path = arguments if colon else resolver
        if colon and not resolver.strip().startswith(_NAMING):
            continue
        if match := re.match(r"\s*['\"]?(\w+)", path):
            found.add(match[1])
    return found


def check_keys(config: DictConfig, hydra: DictConfig, page: str, template: str | None) -> None:
    """Refuse a key at the top of a configuration that its page does not have, and that nothing in it refers to.

    Args:
        config: the composed configuration, not resolved.
        hydra: Hydra's own part of it, which may refer to a template's keys, too.
        page: the command.
        template: the template's name, for the message; None where the configuration is the page's own.

    Raises:
        UserError: naming the key, and what may have been meant.
    """
    known = page_keys(page)
    text = "".join(str(OmegaConf.to_container(part, resolve=False)) for part in (config, hydra))
    referred = _referred(text)
    for key in sorted({str(key) for key in config} - known - referred):
        where = "" if template is None else f"{template}: "
        raise UserError(
            f"{where}unknown key {key!r}{nearest(key, sorted(known))} (invariance-{page} --help lists them; one "
            "of your own is there to be referred to, as ${" + key + "})"
        )
