"""Which settings a launcher has, for whoever mistypes one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib.util import find_spec

from omegaconf import OmegaConf

from invariance.errors import nearest
from invariance.settings.files import conf_dir

_DEFAULT = "one"
_CHOICE = "hydra/launcher="


def launcher_keys(launcher: str) -> list[str]:
    """The settings of a launcher, sorted: those of its file and, for SLURM, of hydra-submitit-launcher."""
    path = conf_dir() / "hydra" / "launcher" / f"{launcher}.yaml"
    keys = {str(key) for key in OmegaConf.load(path)} if path.is_file() else set()
    if launcher == "slurm" and find_spec("hydra_plugins.hydra_submitit_launcher") is not None:
        from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf  # of the extra `slurm`

        keys |= {field.name for field in dataclasses.fields(SlurmQueueConf)}
    return sorted(key for key in keys if not key.startswith("_") and key != "defaults")


def unknown_setting(key: str, arguments: Sequence[str]) -> str:
    """What to tell of a setting that the chosen launcher does not have.

    Args:
        key: its name, without `hydra.launcher.`.
        arguments: the command line, which chooses the launcher.
    """
    chosen = [one.lstrip("+").removeprefix(_CHOICE) for one in arguments if one.lstrip("+").startswith(_CHOICE)]
    launcher = chosen[-1] if chosen else _DEFAULT
    known = launcher_keys(launcher)
    if not known:
        return f"unknown key 'hydra.launcher.{key}': hydra/launcher={launcher} has no settings; choose local or slurm"
    hint = nearest(f"hydra.launcher.{key}", [f"hydra.launcher.{one}" for one in known])
    return f"unknown key 'hydra.launcher.{key}'{hint} (hydra/launcher={launcher} has: {', '.join(known)})"
