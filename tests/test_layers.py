"""Imports go down only, storey by storey: doors, work, engine, store, science, ground; and nothing grows too large."""

import ast
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "invariance"
PAGES = {"prepare", "train", "layers", "measure", "distance", "finetune", "report", "status", "dashboard", "plan"}
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
OPTIONAL = {"reporting/workspace.py"}
"""Modules about one optional package, which say so at their head instead of at every import."""


def subject(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def text(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse("\n".join(text(path)))


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(tree(path)):
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
    assert not in_circles({name: imported(path) & names.keys() - {name} for name, path in names.items()})


def test_no_room_imports_itself_by_way_of_others():
    rooms: dict[str, set[str]] = {}
    for path in MODULES:
        if (own := subject(path)) != "__init__":
            others = {name.split(".")[1] for name in imported(path) if name.startswith("invariance.")}
            rooms.setdefault(own, set()).update(others - {own})
    assert not in_circles({name: others & rooms.keys() for name, others in rooms.items()})


def in_circles(left: dict[str, set[str]]) -> dict[str, set[str]]:
    """What remains once everything is taken away that leads to nothing else."""
    left = dict(left)
    while leaves := [name for name, others in left.items() if not others & left.keys()]:
        for name in leaves:
            del left[name]
    return left


def imported(path: Path) -> set[str]:
    """What a module imports, be it a module or out of one."""
    names = imports(path)
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_there_are_few_rooms_and_few_storeys():
    assert len([path for path in PACKAGE.iterdir() if path.name != "__pycache__"]) <= 30
    assert len(LEVELS) <= 6
    assert {subject(path) for path in MODULES} <= {*LEVEL, "__init__"}


def everywhere(look: Callable[[Path], Iterable[object]]) -> dict[str, list[object]]:
    """What is found in modules, by their names; nothing of those where nothing is."""
    return {path.relative_to(PACKAGE).as_posix(): found for path in MODULES if (found := list(look(path)))}


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def classes(path: Path) -> list[ast.ClassDef]:
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)]


def longer(nodes: Iterable[ast.AST], most: int) -> Iterator[str]:
    return (f"{one.name}, {lines} lines" for one in nodes if (lines := one.end_lineno - one.lineno + 1) > most)


def test_nothing_is_too_long():
    assert not everywhere(lambda path: [lines for lines in [len(text(path))] if lines > 400])
    assert not everywhere(lambda path: longer(classes(path), 200))
    assert not everywhere(lambda path: longer(functions(path), 60))


def imports_inside(path: Path) -> list[int]:
    """Lines of the imports inside functions."""
    nodes = {node for function in functions(path) for node in ast.walk(function)}
    return sorted(node.lineno for node in nodes if isinstance(node, ast.Import | ast.ImportFrom))


def test_few_imports_stand_inside_functions():
    found = everywhere(imports_inside)
    assert sum(map(len, found.values())) <= 40, found


def unexplained(path: Path) -> Iterator[str]:
    """Imports inside functions without a comment on their line, or on or above the first of several."""
    lines = text(path)
    for number in imports_inside(path):
        first = number - 1
        while lines[first - 1].lstrip().startswith(("import ", "from ")):
            first -= 1
        if not any("#" in line for line in lines[first - 1 : number]):
            yield lines[number - 1].strip()


def test_an_import_inside_a_function_says_why():
    assert not {name: found for name, found in everywhere(unexplained).items() if name not in OPTIONAL}


def silent(node: ast.Module | ast.ClassDef) -> Iterator[str]:
    """What is public in a module or class, and has no docstring."""
    for one in node.body:
        if isinstance(one, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not one.name.startswith("_"):
            if ast.get_docstring(one) is None:
                yield one.name
            if isinstance(one, ast.ClassDef):
                yield from silent(one)


def test_what_is_public_says_what_it_is():
    assert not everywhere(lambda path: [] if ast.get_docstring(tree(path)) else ["the module"])
    assert not everywhere(lambda path: silent(tree(path)))


def taken_apart(path: Path) -> list[int]:
    """Lines where something is taken out of what is called `config`."""
    values = [(node.lineno, node.value) for node in ast.walk(tree(path)) if isinstance(node, ast.Subscript)]
    return [line for line, value in values if getattr(value, "id", getattr(value, "attr", "")) == "config"]


def test_the_configuration_is_taken_apart_in_experiments_and_settings_alone():
    """All others are given values, or an object of a schema."""
    assert {name.split("/")[0] for name in everywhere(taken_apart)} <= {"experiments", "settings"}


@pytest.mark.parametrize("page", sorted(PAGES))
def test_a_command_does_what_its_name_says(page):
    """`invariance.cli.fork_server` imports by the same rule what a command's jobs need."""
    assert f'command("{page}", "invariance.experiments.{page}:{page}")' in "\n".join(text(PACKAGE / f"{page}.py"))
    assert page in {one.name for one in functions(PACKAGE / "experiments" / f"{page}.py")}
