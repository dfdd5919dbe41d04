"""Configurations as Hydra reads them from folders: templates looked at first, and what has no file of its own."""

import os
from typing import Any

from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

from invariance.settings.files import conf_dir
from invariance.settings.named import is_named
from invariance.settings.nested import check_yaml
from invariance.settings.outside import outside_config


class FileConfigSource(file_config_source.FileConfigSource):
    """Hydra's own, whose name and place it takes, but for files that would explode, and choices without a file.

    A map or solver that is in its list and has no file in `conf/` is there with its default settings; so is a map,
    solver, family, launcher or source of networks from outside the package that is chosen as `module:name`.
    """

    def load_config(self, config_path: str) -> ConfigResult:
        """Read one file, or make what has none.

        Raises:
            UserError: if it is nested too deeply, names itself, or grows without end; for a name of nothing.
        """
        if self.provider != "main":  # the project's own
            path = os.path.realpath(os.path.join(self.path, self._normalize_file_name(config_path)))
            if os.path.isfile(path):
                with open(path, encoding="utf-8") as file:
                    check_yaml(file.read(), path)
        if self._is_own() and not super().is_config(config_path) and (made := _made(config_path)) is not None:
            return ConfigResult(
                self.provider, f"{self.scheme()}://{self.path}", OmegaConf.create(made), {"package": None}
            )
        return super().load_config(config_path)

    def is_config(self, config_path: str) -> bool:
        """Whether there is such a configuration."""
        there: bool = super().is_config(config_path)
        return there or (self._is_own() and _made(config_path) is not None)

    def _is_own(self) -> bool:
        """Whether this is `conf/`, which is not the first place where templates are looked at."""
        return os.path.realpath(self.path) == os.path.realpath(conf_dir())


def _made(config_path: str) -> dict[str, Any] | None:
    """The configuration of a choice that has no file; None where there is no such choice."""
    group, _, name = config_path.removesuffix(".yaml").rpartition("/")
    if group == "hydra/launcher" and is_named(name):
        return {"_target_": "hydra_plugins.invariance_named_launcher.NamedLauncher", "launcher": name}
    if group == "transform" and is_named(name):
        return outside_config(name)
    if group == "model" and is_named(name):
        return {"source": name, "name": "???", "weights": None, "size": None, "label": None}
    if group not in ("map", "solver"):
        return None
    from invariance.maps import MAPS, SOLVERS, listed, map_named, solver_named  # torch: no choice with a file needs it

    if group == "map" and (listed(name) in MAPS or is_named(name)):
        map_named(name)
        return {name: {}}
    if group == "solver" and (name in SOLVERS or is_named(name)):
        return {name: solver_named(name).schema().model_dump()}
    return None


SourcesRegistry.instance().types["file"] = FileConfigSource  # Hydra keeps the first of a name
