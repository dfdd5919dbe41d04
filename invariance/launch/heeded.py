"""Keys that stand in a command's configuration and that it does not read: to type one is a mistake.

They come with a group, as `trainer=gpu` brings `compile`, and are heeded by other commands. What a group brings is
let be; what is typed is meant, and would change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from invariance.errors import UserError

Condition = Callable[[DictConfig], bool]


@dataclass(frozen=True)
class Unread:
    """A key that a command does not read.

    Attributes:
        key: the key, with all below it.
        why: what is so instead.
        when: whether it is unread in a configuration, for a key that is read in others; None: in all.
    """

    key: str
    why: str
    when: Condition | None = None

    @property
    def always(self) -> bool:
        """Whether it is unread in every configuration."""
        return self.when is None

    def holds(self, config: DictConfig) -> bool:
        """Whether it is unread in this configuration."""
        return self.when is None or self.when(config)


def _is(key: str, *values: object) -> Condition:
    return lambda config: OmegaConf.select(config, key, default=None) in values


def _isnt(key: str, *values: object) -> Condition:
    return lambda config: OmegaConf.select(config, key, default=None) not in values


def _cosine(config: DictConfig) -> bool:
    return _is("recipe.schedule", "cosine")(config) and not _is("recipe.step", None)(config)


_FIT_SEED = Unread(
    "data.fit.seed",
    "data.fit.images is null, and all of the split are taken",
    lambda config: all(OmegaConf.select(config, f"{key}.images", default=None) is None for key in ("data.fit", "fit")),
)
_STEP = Unread("recipe.step", "recipe.schedule=cosine has no steps", _cosine)
_MEASURING = (
    Unread("trainer.precision", "measuring is always in full float32"),
    Unread("trainer.deterministic", "it is how a network is trained"),
    Unread("trainer.compile", "measuring runs networks uncompiled"),
    Unread("trainer.channels_last", "measuring keeps images' channels apart"),
    Unread("trainer.workers", "measuring reads ahead by one thread"),
)
_TRAINED, _GIVEN = _is("model", None), _isnt("model", None)
_OTHER_DATA = (
    Unread("data.colour", "images are read in the colours that each network takes", _TRAINED),
    Unread("data.input_size", "images are read at the size that each network takes"),
    Unread("data.mean", "a network subtracts the mean that it was trained with"),
)
_BY_NETWORKS = (
    Unread("networks", "model= names the network", _GIVEN),
    Unread("layer", "with model= layers= chooses where φ ends", _GIVEN),
    Unread("layers", "networks that were trained here are measured at layer=", _TRAINED),
    Unread("readout", "networks that were trained here are measured by all that layer= gives", _TRAINED),
    Unread("resize", "images are warped to the size that each network takes", _TRAINED),
    Unread("plan", "invariance-plan says what measuring networks that were trained here takes", _TRAINED),
    Unread("labels", "without model= the images are the networks' own", _TRAINED),
)
_BY_MODELS = (
    *(
        Unread(key, "models= names the networks", _isnt("models", None))
        for key in ("networks", "layer", "features", "data.input_size", "data.mean")
    ),
    *(
        Unread(key, "it is of models=", _is("models", None))
        for key in ("data", "layers", "readout", "resize", "scaled")
    ),
)
_PLANNED = "check=true measures nothing and plans nothing"

UNREAD: dict[str, tuple[Unread, ...]] = {
    "prepare": (
        Unread("data.fit", "training and measuring choose the images that maps are fitted on"),
        Unread("data.report", "training and measuring choose the split that is reported on"),
        Unread("data.input_size", "size= is given"),
        Unread("verify", "renew=true decodes everything anew", _is("renew", True)),
    ),
    "train": (
        _STEP,
        _FIT_SEED,
        Unread("data.input_size", "model.input_size is the network's"),
        Unread("transform.joint", "finetuning chooses G, as G={rotation: {angles: [-10, 10]}}"),
        Unread("transform.sweep", "-m range=5,10 chooses the ranges of a sweep"),
    ),
    "measure": (*_MEASURING, *_OTHER_DATA, _FIT_SEED, *_BY_NETWORKS),
    "layers": (
        Unread("data.fit", "no map is fitted"),
        Unread("data.input_size", "images are read at the size that the network takes"),
        Unread("data.mean", "a network subtracts its own mean"),
        Unread("resize", "without data= images are noise", _is("data", None)),
    ),
    "distance": (*_MEASURING, *_BY_MODELS),
    "finetune": (_STEP,),
    "status": (Unread("every", "seal=true looks once", _is("seal", True)),),
    "plan": (
        *(Unread(key, "it is for check=true", _is("check", False)) for key in ("features", "launcher")),
        *(Unread(key, _PLANNED, _is("check", True)) for key in ("gpus", "seconds", "json")),
    ),
}
"""What each command does not read. Folders and `progress` are shared: a script gives the same ones to all commands."""


def check_heeded(page: str, typed: Sequence[str], config: DictConfig) -> None:
    """Refuse what was typed and would change nothing.

    Args:
        page: the command.
        typed: overrides of its command line.
        config: the composed configuration with all of them, not resolved.

    Raises:
        UserError: naming the key, and what is so instead.
    """
    keys = dict.fromkeys(key for one in typed for key in _keys(one))
    for key in keys:
        for unread in UNREAD.get(page, ()):
            if (
                (key == unread.key or key.startswith(f"{unread.key}."))
                and unread.holds(config)
                and not _refers(config, key)
            ):
                raise UserError(f"{key}: invariance-{page} does not read it ({unread.why}); leave it out")
    if solvers := dict.fromkeys(name for one in typed for name in _solvers(one)):
        _check_solvers(list(solvers), page, config)


def _keys(override: str) -> Iterator[str]:
    """The keys that an override sets, also where its value is a mapping."""
    [parsed] = OverridesParser.create().parse_overrides([override])
    key = parsed.key_or_group.replace("/", ".")
    if parsed.is_delete() or key.partition(".")[0] == "hydra":
        return
    value = parsed.value()
    yield from _below(key, value) if isinstance(value, dict) else [key]


def _below(key: str, value: object) -> Iterator[str]:
    if not isinstance(value, dict) or not value:
        yield key
        return
    for name, one in value.items():
        yield from _below(f"{key}.{name}", one)


def _refers(config: DictConfig, key: str) -> bool:
    """Whether something in a configuration refers to a key, which is heeded then."""
    return "${" + key in str(OmegaConf.to_container(config, resolve=False))


def _solvers(override: str) -> list[str]:
    """The solvers that an override chooses, or sets something of."""
    key, _, value = override.lstrip("+").partition("=")
    if key.startswith("solver."):
        return [key.split(".")[1]]
    return [one.strip() for one in value.strip("[]").split(",")] if key == "solver" else []


def _check_solvers(solvers: Sequence[str], page: str, config: DictConfig) -> None:
    """Refuse a solver that fits none of the chosen maps.

    Raises:
        UserError: naming it, and what the maps are fitted by.
    """
    from invariance.maps.maps import MAPS  # torch takes seconds to import, and few command lines have solvers
    from invariance.maps.settings import SOLVERS, solvers_of

    compared, metrics = page == "distance", config.get("metrics")
    maps = (["linear"] if "l2_distance" in metrics else []) if compared and isinstance(metrics, Sequence) else None
    maps = maps if compared else config.get("map")
    if not isinstance(maps, list | DictConfig):  # its schema says what it, or metrics, is to be
        return
    known = [name for name in map(str, maps) if name in MAPS or ":" in name]
    chosen = {name: solvers_of(name, [one for one in solvers if ":" in one]) for name in known}
    able = {name for names in chosen.values() for name in names}
    for solver in solvers:
        if solver in able or (solver not in SOLVERS and ":" not in solver):
            continue
        named = f"metrics={config.get('metrics')}" if compared else f"map=[{','.join(chosen)}]"
        by = f"{' and '.join(sorted(able))} fit that" if able else "nothing is fitted there"
        raise UserError(f"solver={solver} fits none of {named}: {by}; leave it out, or choose another")
