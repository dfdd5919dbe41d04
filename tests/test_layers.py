"""Imports go down only: pages, then features and modules and reporting, then data, then the ground floor."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "invariance"
PAGES = {"prepare", "train", "measure", "distance", "finetune", "report", "status", "dashboard", "plan"}
LEVELS = [
    {"aside", "errors", "nested", "seeds", "progress", "precision", "memory"},
    {"runs", "surroundings", "conf", "settings", "ranks", "launch", "slurm", "slurm_job", "slurm_states"},
    {"transforms", "models", "maps", "metrics", "indices", "joint", "dropout"},
    {"data"},
    {"features", "modules", "reporting", "plugins", "tracking", "grids", "fits", "headlines", "boards"},
    {"network"},
    {"representations"},
    {"pair_rows"},
    {"pair_units"},
    {"measurement", "pairs", "cli", "training", "templates", "work", "planning", "rates", "needs"},
    PAGES,
]
LEVEL = {name: number for number, names in enumerate(LEVELS) for name in names}
GROUND = {"transforms", "models", "maps", "metrics", "indices", "joint", "dropout"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def subject(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_go_down(path):
    own = subject(path)
    if own == "__init__":
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "invariance" or len(parts) == 1:
            continue
        other = parts[1]
        assert other == own or LEVEL[other] <= LEVEL[own], f"{path.name} imports {name}, which is above it"
        assert other == own or other not in PAGES, f"{path.name} imports the page {name}"


@pytest.mark.parametrize(
    "path", [p for p in MODULES if subject(p) in GROUND], ids=lambda p: p.relative_to(PACKAGE).as_posix()
)
def test_the_ground_floor_knows_neither_hydra_nor_lightning_nor_files(path):
    banned = {"hydra", "omegaconf", "pytorch_lightning", "lightning", "pathlib", "os", "wandb"}
    assert not {name.split(".")[0] for name in imports(path)} & banned
