"""The folder of configurations, and what its families of transformations say of themselves."""

from functools import cache
from importlib.resources import files
from pathlib import Path

from omegaconf import DictConfig, OmegaConf


def conf_dir() -> Path:
    """The folder of configurations: inside the installed package, or beside it in a checkout."""
    package = Path(str(files("invariance")))
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


def families() -> list[str]:
    """All families of transformations: the files of `conf/transform/`."""
    return sorted(path.stem for path in (conf_dir() / "transform").glob("*.yaml"))


def family_config(family: str) -> DictConfig:
    """A family's configuration as its yaml has it, not resolved; read once, so not to be changed in place."""
    return _mapping(conf_dir() / "transform" / f"{family}.yaml")


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
