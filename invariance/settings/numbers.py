"""One number, one name: 20, 20.0 and 2e1 name the same network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from invariance.settings.files import conf_dir, families, family_config
from invariance.settings.named import is_named
from invariance.settings.outside import label_of
from invariance.settings.whole import WHOLE

NAMING = ("range", "transform", "joint")
"""Keys at the top of a configuration whose numbers stand in names: of networks, grids and finetunings."""


def canonical(value: object) -> Any:  # noqa: ANN401
    """A value of plain containers with its whole numbers as such: 20.0 becomes 20."""
    if isinstance(value, dict):
        return {key: canonical(one) for key, one in value.items()}
    if isinstance(value, list):
        return [canonical(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < WHOLE else value


def with_canonical_names(config: DictConfig) -> DictConfig:
    """A configuration, not resolved, whose names are made of canonical numbers; itself where they are already."""
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    changed = {key: canonical(plain[key]) for key in NAMING if repr(canonical(plain.get(key))) != repr(plain.get(key))}
    if not changed:
        return config
    copy = config.copy()
    OmegaConf.set_readonly(copy, False)
    for key, value in changed.items():
        OmegaConf.update(copy, key, value, merge=False)
    return copy


def with_names_of(page: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved configuration with the names that the command's own has: one composed in Python may say 20.0 for 20.

    Names that the user gave are left as they are.

    Args:
        page: the command.
        config: its configuration, plain and resolved.
    """
    made = {**config, **{key: canonical(config[key]) for key in NAMING if key in config}}
    transform = made.get("transform")
    texts = _texts(transform) if isinstance(transform, dict) else {}
    for key in ("label", "grid"):
        if transform is not None:
            made["transform"] = _named_alike(made["transform"], key, texts.get(key), config, made)
    file = OmegaConf.to_container(OmegaConf.load(conf_dir() / f"{page}.yaml"), resolve=False)
    assert isinstance(file, dict)
    return _named_alike(made, "name", file.get("name"), config, made) or {}


def _texts(transform: Mapping[str, Any]) -> dict[Any, Any]:
    """What a family's file says, not resolved: the texts that its names are made of."""
    family = transform.get("name")
    if is_named(transform.get("_target_")):
        return {"label": label_of(str(family))}
    texts = OmegaConf.to_container(family_config(family), resolve=False) if family in families() else {}
    assert isinstance(texts, dict)
    return texts


def _named_alike(
    holder: dict[str, Any] | None, key: str, text: object, given: Mapping[str, Any], made: Mapping[str, Any]
) -> dict[str, Any] | None:
    """A mapping whose name at a key, where it is what `text` gives of a configuration, is what it gives of another."""
    if holder is None or not isinstance(text, str) or holder.get(key) != _written(text, given):
        return holder
    return {**holder, key: _written(text, made)}


def _written(text: str, config: Mapping[str, Any]) -> object:
    """What a text with interpolations becomes in a configuration."""
    inside = text.replace("${.", "${transform.")  # it stands in the transform
    try:
        return OmegaConf.create({**config, "written": inside}).written
    except OmegaConfBaseException:
        return None
