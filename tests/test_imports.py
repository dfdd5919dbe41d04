"""Nobody waits for a library that is not used: not for help, and not for what is finished."""

import shutil
import subprocess
import sys

import pytest

from invariance.experiments.measure import measure
from invariance.settings.pages import SCHEMAS
from tests.conftest import TRAINED

SLOW = {"torchvision", "torch._dynamo", "pytorch_lightning", "sklearn", "matplotlib", "scipy", "wandb"}
"""Libraries that take from half a second to several seconds to import."""


def said_and_imported(page, *arguments, cwd):
    """What a command in an interpreter of its own says, and the modules that it has imported by its end."""
    code = (
        "import atexit, sys; atexit.register(lambda: print('modules:', *sys.modules)); "
        f"sys.argv[0] = 'invariance-{page}'; from invariance.{page} import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True)
    said, _, modules = result.stdout.rpartition("modules:")
    return said, set(modules.split())


@pytest.mark.parametrize("page", SCHEMAS)
def test_help_is_for_newcomers_and_imports_little(page, tmp_path):
    said, modules = said_and_imported(page, "--help", cwd=tmp_path)
    assert f"invariance-{page}" in said and "-sc install=bash" in said
    assert "hydra" in modules and not modules & {*SLOW, "torch", "pandas", "numpy", "pydantic"}


@pytest.fixture(scope="module")
def finished(trained, compose, tmp_path_factory):
    """A copy of the trained networks, one of them measured, and the command lines that have no more to do there."""
    folder, places = trained
    copy = tmp_path_factory.mktemp("finished") / "copy"
    shutil.copytree(folder, copy)
    places = [place.replace(str(folder), str(copy)) for place in places]
    measuring = [*places, "networks=baseline*", "grids=mirror", "map=identity"]
    measure(compose("measure", *measuring))
    return {"train": [*places, *TRAINED], "measure": measuring}


@pytest.mark.parametrize("page", ["train", "measure"])
def test_what_is_finished_imports_little(page, finished, tmp_path):
    said, modules = said_and_imported(page, *finished[page], cwd=tmp_path)
    assert said.startswith("finished already: ")
    assert "torch" in modules and not modules & SLOW
