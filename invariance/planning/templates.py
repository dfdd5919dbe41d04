"""The templates of a study as their commands compose them: the jobs of their sweeps, the networks they train."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from invariance.cli.messages import no_yaml
from invariance.errors import UserError, nearest
from invariance.launch.sweeping import jobs_of_sweep
from invariance.maps.spec import maps_of
from invariance.settings.base import Kind, checked, keys_of
from invariance.settings.files import check_keys, conf_dir
from invariance.settings.numbers import with_canonical_names
from invariance.settings.pages import SCHEMAS

Config = dict[str, Any]

PAGES = {"networks": "train", "measure": "measure", "distance": "distance", "finetune": "finetune", "cross": "measure"}
"""The command of every stage's template."""


@contextmanager
def _hydra_at(folder: Path) -> Iterator[None]:
    """Hydra composing from a folder, also while it runs the command."""
    instance = GlobalHydra.instance()
    held = instance.hydra
    instance.clear()
    try:
        with initialize_config_dir(str(folder.absolute()), version_base="1.3"):
            yield
    finally:
        instance.hydra = held


@lru_cache(maxsize=256)
def _composed(folder: Path, name: str, overrides: tuple[str, ...], _: object) -> DictConfig:
    """A template composed once for the same overrides, as long as the templates are the same files."""
    where = f"hydra.searchpath=[file://{conf_dir()}]"
    with _hydra_at(folder):
        return compose(name, [where, *map(_swept, overrides)], return_hydra_config=True)


class Templates:
    """The templates of one study: `<study>_networks.yaml`, `<study>_measure.yaml` and so on.

    Args:
        folder: where they are.
        study: the beginning of their names.
    """

    def __init__(self, folder: Path, study: str) -> None:
        self.folder, self.study = folder, study

    def there(self, stage: str) -> bool:
        """Whether there is such a template."""
        return (self.folder / f"{self.study}_{stage}.yaml").is_file()

    def compose(self, stage: str, *overrides: str) -> DictConfig:
        """A template's configuration, not resolved, as its command makes it for overrides.

        Raises:
            UserError: if there is no such template, or it cannot be composed.
        """
        if not self.there(stage):
            raise UserError(f"no template {self.study}_{stage}.yaml in {self.folder}; name its folder with templates=…")
        stamps = tuple((path.name, path.stat().st_mtime_ns) for path in sorted(self.folder.glob("*.yaml")))
        try:
            return deepcopy(_composed(self.folder.absolute(), f"{self.study}_{stage}", overrides, stamps))
        except YAMLError as error:
            raise UserError(no_yaml(error)) from error
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(f"{self.study}_{stage} with {' '.join(overrides)}: {str(error).splitlines()[0]}") from error

    def sweep(self, config: DictConfig) -> list[dict[str, str]]:
        """The jobs of a composed template: what each sets, by key.

        Raises:
            UserError: if what it sweeps over cannot be read.
        """
        params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
        keys = {param.partition("=")[0] for param in params}
        params += [one for one in config.hydra.overrides.task if one.partition("=")[0] in keys]
        with _hydra_at(conf_dir()):  # where glob(*) looks
            parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
            try:
                jobs = jobs_of_sweep(parser.parse_overrides(params))
            except HydraException as error:
                said = str(error).splitlines()[0]
                raise UserError(f"{config.hydra.job.config_name}: hydra.sweeper.params: {said}") from error
        return [dict((key, value) for key, _, value in (one.partition("=") for one in job)) for job in jobs]


def _swept(override: str) -> str:
    """An override as the compose API takes it: one of several values is the sweeper's.

    Raises:
        UserError: if it is no override.
    """
    try:
        [parsed] = OverridesParser.create().parse_overrides([override])
    except HydraException as error:
        raise UserError(f"{override!r} is no override; give key=value") from error
    if not parsed.is_sweep_override():
        return override
    key, _, value = override.partition("=")
    quoted = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"++hydra.sweeper.params.{key}='{quoted}'"


def checked_job(kind: type[Kind], config: DictConfig, settings: Mapping[Any, Any] | None = None) -> Kind:
    """The configuration of one job of a template, as `plain` resolves it, checked against its command's schema.

    Args:
        kind: the schema.
        config: the template, composed.
        settings: keys that the job sets otherwise.

    Raises:
        UserError: naming the template and the value, or what is not set.
    """
    page = next(page for page, schema in SCHEMAS.items() if schema is kind)
    check_keys(config, config.hydra, page, str(config.hydra.job.config_name))
    found, known = plain(config, settings), keys_of(kind)  # a sweep over network= chooses a file
    try:
        made = checked(kind, {key: value for key, value in found.items() if key in known})
        maps_of({}, getattr(made, "solver", {}))  # settings of solvers are checked by these alone
        return made
    except UserError as error:
        raise UserError(f"{config.hydra.job.config_name}: {error}") from error


def plain(config: DictConfig, settings: Mapping[Any, Any] | None = None) -> Config:
    """A composed configuration, resolved and without Hydra's own part, with some of its keys set otherwise.

    Raises:
        UserError: if something in it is not set.
    """
    copy = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    OmegaConf.set_readonly(copy, False)
    OmegaConf.set_struct(copy, False)
    for key, value in (settings or {}).items():
        OmegaConf.update(copy, key, value)
    try:
        held = OmegaConf.to_container(with_canonical_names(copy), resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(str(error).splitlines()[0]) from error
    assert isinstance(held, dict)
    return {str(key): value for key, value in held.items()}


@dataclass(frozen=True)
class Trained:
    """A network that the study trains: its name as `<name>/seed<k>`, and its family's configuration."""

    label: str
    transform: Config

    @property
    def name(self) -> str:
        """Its name without the seed."""
        return self.label.rpartition("/seed")[0]


def trained_by(jobs: Sequence[Mapping[str, str]], everything: Mapping[str, Trained], where: str) -> dict[str, Trained]:
    """The networks that jobs of training make, by what each job sets.

    Args:
        jobs: what each sets, by key.
        everything: every network there is, by its name in `conf/network/`.
        where: the template, for messages.

    Raises:
        UserError: for a network that does not exist, and for jobs that differ by more than their network and seed.
    """
    found = {}
    for job in jobs:
        if "network" not in job or job.keys() - {"network", "seed"}:
            raise UserError(
                f"{where} sweeps over {', '.join(sorted(job)) or 'nothing'}; a plan knows sweeps over network, and seed"
            )
        name = job["network"]
        if name not in everything:
            raise UserError(f"{where}: network={name}: there is no such network{nearest(name, everything)}")
        one = everything[name]
        if "seed" in job:
            name, one = f"{name} seed={job['seed']}", replace(one, label=f"{one.name}/seed{job['seed']}")
        found[name] = one
    return found


def networks_there(templates: Templates) -> dict[str, Trained]:
    """Every network of `conf/network/` by that name, as the study trains it; composed once for all of a family."""
    found, families = {}, dict[str, DictConfig]()
    for path in sorted((conf_dir() / "network").glob("*.yaml")):
        own = OmegaConf.load(path)
        assert isinstance(own, DictConfig)
        [(key, family)] = own.pop("defaults")[0].items()
        if key != "override /transform":
            raise UserError(f"{path} overrides {key}; a plan knows networks that differ by their transform alone")
        if family not in families:
            families[family] = templates.compose("networks", f"transform={family}")
        name, seed, transform = itemgetter("name", "seed", "transform")(plain(families[family], own))
        found[path.stem] = Trained(f"{name}/seed{seed}", transform)
    return found


def named_of(networks: str | Sequence[str], everything: Mapping[str, Trained]) -> list[Trained]:
    """The networks that `networks=` names.

    Args:
        networks: a pattern, or several, as commands take them.
        everything: the networks that there are, by `<data>/<name>/seed<k>`.

    Raises:
        UserError: if a pattern names none.
    """
    found: dict[str, Trained] = {}
    for pattern in [networks] if isinstance(networks, str) else map(str, networks):
        forms = (pattern, f"{pattern}/*", f"*/{pattern}", f"*/{pattern}/*")
        here = {name: one for name, one in everything.items() if any(fnmatchcase(name, form) for form in forms)}
        if not here:
            known = [one.name for one in everything.values()]
            raise UserError(f"networks={pattern}: the study trains none of that name{nearest(pattern, known)}")
        found |= here
    return list(found.values())
