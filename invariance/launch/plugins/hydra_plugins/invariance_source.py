"""Templates as Hydra reads them from folders, each looked at before it is made into a configuration."""

import os

from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.plugins.config_source import ConfigResult

from invariance.settings.nested import check_yaml


class FileConfigSource(file_config_source.FileConfigSource):
    """Hydra's own, whose name and place it takes, but for files that would explode."""

    def load_config(self, config_path: str) -> ConfigResult:
        """Read one file.

        Raises:
            UserError: if it is nested too deeply, names itself, or grows without end.
        """
        if self.provider != "main":  # the project's own
            path = os.path.realpath(os.path.join(self.path, self._normalize_file_name(config_path)))
            if os.path.isfile(path):
                with open(path, encoding="utf-8") as file:
                    check_yaml(file.read(), path)
        return super().load_config(config_path)


SourcesRegistry.instance().types["file"] = FileConfigSource  # Hydra keeps the first of a name
