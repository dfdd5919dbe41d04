"""The code of the documentation runs: Python as it stands, shell up to what each command checks before it computes.

A block without a language is shell, `python` is Python; `text` is what something prints, `yaml` a file, and
`latex` lines of a document that is not here. What a
reader need not see stands in an HTML comment right before a block: `<!-- setup`, with Python that a block rests on,
or `<!-- not run: why -->`.
"""

import doctest
import importlib
import json
import os
import re
import runpy
import subprocess
import sys
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from invariance.cli.command import command
from invariance.launch.known import launcher_keys

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = ("prepare", "train", "layers", "measure", "distance", "finetune", "report", "status", "plan", "dashboard")
OTHERS = ("pip", "wandb", "docker", "sbatch", "find")
"""What shell blocks call beside the project's own commands: it is taken as it is."""

EXAMPLES = [path for path in sorted((ROOT / "invariance").rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]
BLOCK = re.compile(
    r"(?:<!-- (?P<note>(?:setup|not run:).*?)-->\n+)?^```(?P<language>\w*)\n(?P<code>.*?)^```", re.M | re.S
)
STUB = """#!{python}
import json, os, sys
with open({log!r}, "a") as file:
    print(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]), file=file)
"""


@dataclass(frozen=True)
class Block:
    """A block of code of a page."""

    page: str
    line: int
    language: str
    code: str
    note: str

    def __str__(self):
        return f"{self.page}:{self.line}"


def blocks(language):
    found = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start("language")) + 1
            found.append(Block(path.name, line, match["language"], match["code"], (match["note"] or "").strip()))
    return [block for block in found if block.language == language]


def test_every_block_stands_between_fences_and_has_a_language_that_is_known():
    for path in PAGES:
        beside = BLOCK.sub("", path.read_text(encoding="utf-8"))
        assert not re.search(r"\n\n    \S", beside), f"{path.name}: an indented block"
    kinds = {language: blocks(language) for language in ("", "python", "yaml", "text", "latex")}
    total = sum(len(re.findall(r"^```\w*$", path.read_text(encoding="utf-8"), re.M)) for path in PAGES)
    assert 2 * sum(map(len, kinds.values())) == total
    assert all(block.note.partition(":")[2].strip() for block in kinds[""] if block.note.startswith("not run"))


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_of_the_docs_is_yaml(block):
    assert isinstance(yaml.safe_load(block.code), dict)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_examples_of_docstrings_run(path):
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    tried = doctest.testmod(module)
    assert tried.attempted and not tried.failed


@pytest.mark.long
@pytest.mark.parametrize("page", sorted({block.page for block in blocks("python")}))
def test_python_of_a_page_runs_as_it_stands(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    namespace = {"__name__": page}
    for block in blocks("python"):
        if block.page != page:
            continue
        if block.note.startswith("setup"):
            exec(compile(block.note.removeprefix("setup"), f"{block} setup", "exec"), namespace)
        code = compile("\n" * block.line + block.code, str(ROOT / "docs" / page), "exec")
        if not block.note.startswith("not run"):
            exec(code, namespace)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder as the checkout is to a shell: its templates, and a machine with GPUs that knows SLURM."""
    (tmp_path / "multirun_templates").symlink_to(ROOT / "multirun_templates")
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    return tmp_path


def typed(block, folder):
    """The commands that a shell block runs, as the shell hands them over: variables, loops and quotes are its own."""
    log = folder / "typed"
    stubs = folder / "stubs"
    stubs.mkdir()
    for name in ("python", "make", *(f"invariance-{page}" for page in COMMANDS), *OTHERS):
        (stubs / name).write_text(STUB.format(python=sys.executable, log=str(log)))
        (stubs / name).chmod(0o755)
    for name in (".venv/bin/activate", ".ci/run", "tests/slurm_cluster.sh"):
        (path := folder / name).parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        path.chmod(0o755)
    log.touch()
    path = f"{stubs}:/usr/bin:/bin"
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.code],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
    )
    assert ended.returncode == 0, ended.stderr.decode()
    return [json.loads(line) for line in log.read_text().splitlines()]


def check_command(page, arguments, monkeypatch, capsys):
    """A command up to its first computation, every job of a sweep in this process; a launcher's settings by name."""
    launcher = next((one.partition("=")[2] for one in arguments if one.startswith("hydra/launcher=")), "one")
    for one in arguments:
        if one.startswith("hydra.launcher."):
            assert one.removeprefix("hydra.launcher.").partition("=")[0] in launcher_keys(launcher), one
    kept = [one for one in arguments if not one.startswith(("hydra/launcher=", "hydra.launcher."))]
    monkeypatch.setattr(sys, "argv", [f"invariance-{page}", *kept])
    try:
        command(page, f"invariance.experiments.{page}:check")
    except SystemExit as end:
        assert not end.code, (page, arguments, capsys.readouterr().err)


class Parsed(Exception):
    """A script's arguments are right."""


def check_script(path, arguments, monkeypatch):
    """A script up to where its arguments are parsed."""
    parse = ArgumentParser.parse_args

    def stop(self, *given):
        parse(self, *given)
        raise Parsed

    monkeypatch.setattr(ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(sys, "argv", [path, *arguments])
    monkeypatch.setattr(sys, "path", [str(ROOT / Path(path).parent), *sys.path])
    with pytest.raises(Parsed):
        runpy.run_path(str(ROOT / path), run_name="__main__")


@pytest.mark.long
@pytest.mark.parametrize("block", blocks(""), ids=str)
def test_shell_of_the_docs_is_what_the_commands_take(block, place, monkeypatch, capsys):
    if block.note.startswith("not run"):
        pytest.skip(block.note)
    for name, *arguments in typed(block, place):
        if name == "python" and arguments[0] == "-m":
            name, arguments = arguments[1].replace("invariance.", "invariance-"), arguments[2:]
        if name.startswith("invariance-") and "--help" not in arguments:
            check_command(name.removeprefix("invariance-"), arguments, monkeypatch, capsys)
        elif name == "python":
            check_script(arguments[0], arguments[1:], monkeypatch)
        elif name == "make":
            said = subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True)
            assert said.returncode == 0, said.stderr


@pytest.mark.parametrize("page", COMMANDS)
def test_what_a_command_checks_has_the_name_that_is_called_here(page):
    assert callable(importlib.import_module(f"invariance.experiments.{page}").check)
