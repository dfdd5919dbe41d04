"""Imports go down only, storey by storey: doors, work, engine, store, science, ground."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "invariance"
PAGES = {"prepare", "train", "measure", "distance", "finetune", "report", "status", "dashboard", "plan"}
LEVELS = [
    {"errors", "version", "seeds", "progress", "device", "settings"},
    {"transforms", "models", "maps", "measures"},
    {"data", "runs"},
    {"engine", "training"},
    {"experiments", "planning", "launch", "reporting", "cli"},
    PAGES,
]
LEVEL = {name: number for number, names in enumerate(LEVELS) for name in names}
SCIENCE = {"transforms", "models", "maps", "measures"}
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
    "path", [p for p in MODULES if subject(p) in SCIENCE], ids=lambda p: p.relative_to(PACKAGE).as_posix()
)
def test_the_science_knows_neither_hydra_nor_lightning_nor_files(path):
    banned = {"hydra", "omegaconf", "pytorch_lightning", "lightning", "pathlib", "os", "wandb"}
    assert not {name.split(".")[0] for name in imports(path)} & banned


def test_no_module_imports_itself_by_way_of_others():
    names = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in MODULES
    }
    left = {name: imported(path) & names.keys() - {name} for name, path in names.items()}
    while leaves := [name for name, others in left.items() if not others & left.keys()]:
        for name in leaves:
            del left[name]
    assert not left, "these import each other"


def imported(path: Path) -> set[str]:
    """What a module imports, be it a module or out of one."""
    names = imports(path)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_there_are_few_rooms():
    assert len([path for path in PACKAGE.iterdir() if path.name != "__pycache__"]) <= 30
