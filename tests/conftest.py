"""Fixtures that several test modules share."""

import base64
import importlib
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


def pytest_collection_modifyitems(items):
    """What needs a SLURM cluster takes minutes of waiting for its daemons: `make check` runs it."""
    for item in items:
        if "cluster" in item.fixturenames:
            item.add_marker(pytest.mark.long)
            item.add_marker(pytest.mark.xdist_group("slurm"))  # all share one


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images beside the checkout; tests that need it skip on machines without it."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}")
    return folder


DOT = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")
"""A PNG of one pixel."""


def draw_nothing(monkeypatch):
    """Reports without what takes longest, the drawing of their figures."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    def save(figure, buffer, *, format, **_):
        buffer.write('<svg width="1pt"> </svg>' if format == "svg" else DOT)

    monkeypatch.setattr(Figure, "savefig", save)
    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lambda *_: None)


@pytest.fixture
def undrawn(monkeypatch):
    """For tests that read a report's text, tables and rows."""
    draw_nothing(monkeypatch)


@pytest.fixture(scope="session")
def compose():
    """A page's configuration as its command line makes it: `compose("train", "transform=blur", "range=3")`."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from invariance.cli.command import find_plugins
    from invariance.settings.files import conf_dir

    find_plugins()  # Hydra looks for plugins once in a process

    def composed(page: str, *overrides: str) -> dict:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return OmegaConf.to_container(compose(page, overrides=list(overrides)), resolve=True)

    return composed


TRAINED = ["model=tiny", "recipe=smoke", "recipe.updates=120", "recipe.val_every=60", "recipe.step=100"]
"""What the networks of `trained` are trained by."""


@pytest.fixture(scope="session")
def trained(tmp_path_factory, compose):
    """A folder with two tiny networks trained for moments on digits, and the arguments that name it."""
    from invariance.experiments.train import train

    folder = tmp_path_factory.mktemp("trained")
    places = [f"runs={folder}/runs", f"prepared={folder}/prepared", "logger=csv", "trainer=cpu", "progress=false"]
    train(compose("train", *places, *TRAINED))
    few = "transform.angles=[-45,-20,-10,-5,5,10,20,45]"  # what measuring its grid takes is the images under them
    train(compose("train", *places, *TRAINED, "transform=rotation", "range=20", few))
    return folder, places


@pytest.fixture
def mistake(monkeypatch, capsys, tmp_path):
    """A command in this process: its one line of error, with status 2 and nothing written."""
    monkeypatch.chdir(tmp_path)

    def told(page, *arguments):
        monkeypatch.setattr(sys, "argv", [f"invariance-{page}", *arguments])
        with pytest.raises(SystemExit) as end:
            importlib.import_module(f"invariance.{page}").main()
        lines = capsys.readouterr().err.splitlines()
        assert end.value.code == 2
        assert len(lines) == 1 and lines[0].startswith("error: "), lines
        assert not list(tmp_path.glob("[!.o]*"))  # beside Hydra's outputs
        return lines[0]

    return told
