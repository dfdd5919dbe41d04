"""One number, one name: 20, 20.0 and 2e1 name the same network."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

WHOLE = 2**53
"""Above every whole number that can be set: beyond it a number is no longer counted exactly."""

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
