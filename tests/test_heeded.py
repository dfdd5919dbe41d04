"""A key is heeded, or refused: what is typed and would change nothing is named."""

import importlib
import subprocess
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from invariance.cli.command import find_plugins, resolved
from invariance.errors import UserError
from invariance.launch.heeded import UNREAD
from invariance.settings.files import conf_dir


def typed(page, *overrides):
    """A command line up to its plain configuration."""
    find_plugins()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = hydra_compose(page, overrides=list(overrides), return_hydra_config=True)
    hydra = config.hydra
    OmegaConf.set_readonly(hydra, False)
    hydra.overrides.task = list(overrides)
    HydraConfig.instance().cfg = None
    HydraConfig.instance().set_config(config)
    return resolved(page, OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]), hydra)


@pytest.mark.parametrize(
    ("page", "overrides", "said"),
    [
        ("measure", ["trainer.precision=bf16-mixed"], "trainer.precision: .* always in full float32"),
        ("measure", ["trainer=gpu", "trainer.compile=true"], "trainer.compile: .* uncompiled"),
        ("measure", ["++trainer={workers: 3}"], "trainer.workers"),
        ("distance", ["trainer.channels_last=true"], "trainer.channels_last"),
        ("train", ["transform=rotation", "range=5", "transform.joint.angles=[5]"], "transform.joint.angles: .* G="),
        ("train", ["transform=rotation", "range=5", "transform.sweep.range=[5]"], "transform.sweep.range"),
        ("train", ["recipe.schedule=cosine", "recipe.step=5"], "recipe.step: .*cosine has no steps"),
        ("prepare", ["data.fit.images=5"], "data.fit.images"),
        ("train", ["data.fit.seed=3"], "data.fit.seed: .*data.fit.images is null"),
        ("measure", ["data=photos", "data.fit.seed=3"], "data.fit.seed: .*all of the split are taken"),
        ("prepare", ["renew=true", "verify=true"], "verify: .*renew=true"),
        ("prepare", ["size=40", "data.input_size=50"], "data.input_size: .*size= is given"),
        ("train", ["model=caffenet", "data.input_size=50"], "data.input_size: .*model.input_size"),
        ("measure", ["data=historical", "data.colour=rgb"], "data.colour: .* colours that each network takes"),
        ("status", ["seal=true", "every=3"], "every"),
        ("plan", ["features=x"], "features: .* check=true"),
        ("plan", ["check=true", "json=x"], "json: .*check=true"),
        ("measure", ["map=mlp", "solver=ridge"], r"solver=ridge fits none of map=\[mlp\]: minibatch_sgd"),
        ("measure", ["map=orthogonal", "solver=ridge"], r"solver=ridge fits none of map=\[orthogonal\]: procrustes"),
        (
            "measure",
            ["map=low_rank:8", "solver=online_sgd"],
            r"solver=online_sgd fits none of map=\[low_rank:8\]: ridge",
        ),
        ("measure", ["map=identity", "solver.ridge.block=5"], "solver=ridge .* nothing is fitted"),
        ("finetune", ["map=mlp", "solver=[minibatch_sgd,online_sgd]"], "solver=online_sgd"),
        ("distance", ["metrics=[indices]", "solver=ridge"], "solver=ridge fits none of metrics=.*indices"),
    ],
)
def test_what_changes_nothing_is_named(page, overrides, said):
    with pytest.raises(UserError, match=said):
        typed(page, *overrides)


@pytest.mark.parametrize(
    ("page", "overrides"),
    [
        ("measure", ["trainer=gpu"]),
        ("measure", ["map=mlp"]),
        ("measure", ["map=[identity,residual]", "solver=ridge"]),
        ("measure", ["map=[low_rank:8,orthogonal]", "solver=[ridge,procrustes]"]),
        ("measure", ["trainer.workers=3", "batch=${trainer.workers}"]),
        ("finetune", ["trainer.precision=bf16-mixed", "recipe.schedule=cosine"]),
        ("train", ["trainer.precision=bf16-mixed", "recipe.schedule=cosine", "recipe.step=null"]),
        ("plan", ["check=true", "features=x"]),
        ("prepare", ["data.input_size=50"]),
        ("train", ["data.input_size=50"]),
        ("train", ["model=caffenet", "data.input_size=50", "model.input_size=${data.input_size}"]),
        ("report", ["prepared=x", "progress=false"]),
    ],
)
def test_what_a_group_brings_and_what_is_referred_to_is_let_be(page, overrides):
    typed(page, *overrides)


@pytest.mark.parametrize("page", UNREAD)
def test_every_key_that_is_not_read_is_one_of_the_command(page):
    of_data = {"measure": ["data=historical"], "layers": ["data=digits"], "distance": ["data=digits"]}
    chosen = {"train": ["transform=rotation"], **of_data}.get(page, [])
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = hydra_compose(page, overrides=chosen)
    for unread in UNREAD[page]:
        assert OmegaConf.select(config, unread.key, default="absent") != "absent" or "." not in unread.key


@pytest.mark.parametrize("goal", ["smoke-measure", "paper-measure.rvl_cdip", "paper-networks.rvl_cdip"])
def test_make_hands_what_trains_to_what_trains(goal):
    args = "trainer.workers=2 'trainer.compile=false' batch=8"
    lines = subprocess.run(
        ["make", "-n", goal, f"ARGS={args}"], cwd=Path(__file__).parents[1], capture_output=True, text=True
    ).stdout
    assert "batch=8" in lines
    assert ("trainer.workers=2" in lines) == ("trainer.compile=false" in lines) == ("networks" in goal)


class Noted(dict):
    """Settings that note which of them are read one by one; to copy them all is not to read them."""

    def __init__(self, values, path, read):
        super().__init__(
            {key: Noted(one, f"{path}{key}.", read) if isinstance(one, dict) else one for key, one in values.items()}
        )
        self.path, self.read = path, read

    def __getitem__(self, key):
        self.read.add(f"{self.path}{key}")
        return super().__getitem__(key)

    def get(self, key, default=None):
        return self[key] if key in self else default


@pytest.mark.long
@pytest.mark.parametrize(("page", "more"), [("measure", ["map=identity"]), ("distance", ["metrics=[indices]"])])
def test_what_is_said_to_be_unread_is_what_is_not_read(page, more, trained, compose, tmp_path, monkeypatch):
    _, places = trained
    experiment = importlib.import_module(f"invariance.experiments.{page}")
    overrides = [*places, *more, "networks=digits", *([f"features={tmp_path}"] if page == "distance" else [])]
    config, read = compose(page, *overrides), set()
    experiment.check(config)
    monkeypatch.setattr(experiment, "check", lambda _: None)  # a schema reads everything
    getattr(experiment, page)(Noted(config, "", read))
    unread = {key for key in (f"trainer.{name}" for name in config["trainer"]) if key not in read}
    assert unread == {one.key for one in UNREAD[page] if one.key.startswith("trainer.")} | {
        "trainer.devices"
    }  # which is to be 1


@pytest.mark.parametrize("metrics", ["1_000", "null", "l2_distance"])
def test_metrics_that_are_no_list_are_left_to_their_schema(metrics):
    assert typed("distance", f"metrics={metrics}", "solver.ridge.block=100")["solver"]["ridge"]["block"] == 100
