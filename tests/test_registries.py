"""A contributor adds one of each: two files at most, and what is added serves like what was there.

The same code is tried inside a copy of the package, with the files that CONTRIBUTING.md names, and from outside it, as
`module:name`.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

import invariance.settings.named as named_by_hand
from invariance import load_model
from invariance.engine.grids import joint_grid
from invariance.errors import UserError
from invariance.experiments.measure import measure
from invariance.experiments.train import train
from invariance.launch.sweeping import jobs_of_sweep
from invariance.reporting.page import report_of
from invariance.runs.run import read_config

ROOT = Path(__file__).parents[1]

FAMILY = '''
from invariance.transforms.base import Transform, line_grid


class Flicker(Transform):
    """Every pixel brighter by a number."""

    unit = "intensity"
    uniforms = 1

    def __init__(self, range=None, by=(10.0,)):
        self.range, self.by = range, by

    def params_of(self, uniforms):
        return {"by": self.range * uniforms[:, 0]}

    def grid(self):
        return line_grid(self.by, lambda by: {"by": torch.tensor([by])}, lambda by: False)

    def apply(self, x, params):
        return (x + params["by"].to(x).reshape(-1, 1, 1, 1)).clamp(0, 255)
'''
MEASURE = '''
def overlap(x, y=None):
    """The share of X (N, D) in the sizes of X and Y: of a pairing inside the package, of two tensors outside."""
    a, b = (x.x.values, x.y.values) if y is None else (x, y)
    return float(a.norm() / (a.norm() + b.norm()))
'''
MAP = '''
import torch
from torch import nn

from invariance.maps.maps import Map


class Plain(Map):
    """(W + I) r + b: Eq. 8 without the ReLU."""

    solvers = ("ridge",)

    def __init__(self, features):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(features, features))
        self.bias = nn.Parameter(torch.zeros(features))

    @classmethod
    def of(cls, parameters, relu):
        return cls(parameters["weight"].shape[1])

    def forward(self, r):
        return r + r @ self.weight.T + self.bias
'''
SOLVER = '''
from dataclasses import dataclass
from typing import ClassVar

import torch

from invariance.maps.fitting import hold_checked
from invariance.settings.base import Settings


class MeansSettings(Settings):
    share: float = 1.0


@dataclass(frozen=True)
class Means:
    """Moves the mean of the features to that of the targets."""

    share: float = 1.0
    fits: ClassVar = ("residual",)
    schema: ClassVar = MeansSettings
    weight_bytes: ClassVar = 8
    seed: ClassVar = 0
    block: ClassVar = 64
    label: ClassVar = "means"

    def __post_init__(self):
        hold_checked(self, self.schema)

    def begin(self, wanted):
        return Moving(self, wanted)

    def least_bytes(self, wanted):
        return 4 * wanted.problems * wanted.inputs * wanted.outputs


class Moving:
    epochs, strengths = 1, ()

    def __init__(self, settings, wanted):
        self.share, self.block, self.n = settings.share, settings.block, 0
        self.sum = torch.zeros(wanted.problems, wanted.outputs)

    def step(self, r, t):
        self.sum += (t - r).sum(1)
        self.n += r.shape[1]

    def block_error(self):
        return None

    def finish(self):
        bias = self.share * self.sum / self.n
        return {"weight": torch.zeros(len(bias), bias.shape[1], bias.shape[1]), "bias": bias}
'''
FIGURE = '''
import pandas as pd
from matplotlib.figure import Figure as Drawing

from invariance.reporting.figure import Figure


def census(rows):
    """How many rows there are of every stage."""
    frame = rows.groupby("stage").size().reset_index(name="rows")

    def draw(frame):
        drawing = Drawing()
        drawing.subplots().bar(frame["stage"], frame["rows"])
        return drawing

    return Figure("census", "Census", "Rows by stage.", "Bars of counts.", frame, draw)
'''
LAUNCHER = '''
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher


class ShyLauncher(Launcher):
    """Tells the jobs and runs none."""

    dry = elsewhere = True

    def setup(self, *, hydra_context, task_function, config):
        pass

    def launch(self, job_overrides, initial_job_idx):
        for overrides in job_overrides:
            print("shy of", *overrides)
        return [JobReturn(overrides=list(one), status=JobStatus.COMPLETED, _return_value=None) for one in job_overrides]
'''
SOURCE = '''
from torch import nn

from invariance.models.model import wrap


def load(name, **settings):
    """A network of one hidden layer, as wide as its name says."""
    layers = nn.Flatten(), nn.Linear(64, int(name)), nn.ReLU(), nn.Linear(int(name), 4)
    return wrap(nn.Sequential(*layers), **{**settings, "preprocess": lambda x: x / 255, "name": f"toy{name}"})
'''

INSIDE = {
    "family": {
        "invariance/transforms/flicker.py": "import torch\n" + FAMILY,
        "conf/transform/flicker.yaml": "name: flicker\nlabel: flicker_${range}\nsweep: {range: [5, 10]}\n"
        "_target_: invariance.transforms.flicker.Flicker\nrange: ${range}\nby: [10.0]\n",
    },
    "measure": {
        "invariance/measures/overlap.py": MEASURE,
        "invariance/measures/__init__.py": (
            "    for measure in (\n",
            '        Measure(name="overlap", label="overlap", better="higher", bounds=(0.0, 1.0),\n'
            '                function="invariance.measures.overlap:overlap"),\n',
        ),
    },
    "map": {
        "invariance/maps/plain.py": MAP,
        "invariance/maps/maps.py": (
            "MAPS: dict[str, str | type[Map]] = {",
            '    "plain": "invariance.maps.plain:Plain",\n',
        ),
    },
    "solver": {
        "invariance/maps/means.py": SOLVER,
        "invariance/maps/settings.py": (
            "SOLVERS: dict[str, str | type[Solver]] = {",
            '    "means": "invariance.maps.means:Means",\n',
        ),
    },
    "figure": {
        "invariance/reporting/census.py": FIGURE,
        "invariance/reporting/figure.py": ('    "rows": (', '"invariance.reporting.census:census",'),
    },
    "launcher": {
        "invariance/launch/plugins/hydra_plugins/invariance_shy_launcher.py": LAUNCHER,
        "conf/hydra/launcher/shy.yaml": "_target_: hydra_plugins.invariance_shy_launcher.ShyLauncher\n",
    },
    "source": {
        "invariance/models/sources/toys.py": SOURCE,
        "invariance/models/sources/__init__.py": (
            "SOURCES: dict[str, str | ModelSource] = {",
            '    "toys": "invariance.models.sources.toys:load",\n',
        ),
    },
}
"""What a contributor writes: files, and lines of a list behind the line that begins it."""

USED = """
import sys
import torch
from invariance import Ridge, compare_models, load_model, measure_model
from invariance.maps.spec import MapSpec

family, measure, plain, means, source = sys.argv[1:]
a, b = load_model(f"{source}/8"), load_model(f"{source}/6")
x = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
maps = ["identity", means, MapSpec(plain, "ridge", Ridge(strengths=(1e-3,)))]
found = measure_model(a, x, fit=0.5, transforms=[family], layers=["2"], maps=maps)
moved = found[(found["split"] == "report") & found["g"].str.endswith(":10")]
print(sorted(set(zip(moved["map"], moved["solver"]))), bool((moved["score"] > 0).all()))
table = compare_models(a, b, x, layers="2", indices=[measure])
print(table["metric"].unique().tolist(), bool((table["score"] > 0).all()))
"""

COMPOSED = """
import sys
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from invariance.cli.command import find_plugins
from invariance.settings.files import conf_dir
from invariance.maps.spec import maps_of

find_plugins()
with initialize_config_dir(str(conf_dir()), version_base="1.3"):
    config = OmegaConf.to_container(compose("measure", sys.argv[1:]))
specs = maps_of(config["map"], config["solver"])
print([(spec.map, spec.label, getattr(spec.settings, "share", None)) for spec in specs])
"""


def run(house, *arguments, **variables):
    """A Python process that finds the package in a folder."""
    paths = os.pathsep.join([str(house), *variables.pop("more", [])])
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": paths, **variables},
        cwd=house,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the package and its configurations with one more of each."""
    folder = tmp_path_factory.mktemp("house")
    for name in ("invariance", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for files in INSIDE.values():
        for name, what in files.items():
            path = folder / name
            if isinstance(what, str):
                assert not path.exists()
                path.write_text(what)
            else:
                line, added = what
                text = path.read_text()
                assert text.count(line) == 1, f"{name} has no list that begins with {line!r}"
                path.write_text(text.replace(line, line + added))
    return folder


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A folder with a module of a user's own."""
    folder = tmp_path_factory.mktemp("outside")
    parts = (MAP, FAMILY, MEASURE, SOLVER, FIGURE, LAUNCHER, SOURCE)
    (folder / "mine.py").write_text("\n\n".join(parts))
    return folder


@pytest.mark.parametrize("kind", INSIDE)
def test_one_more_touches_two_files_at_most(kind):
    assert len(INSIDE[kind]) <= 2


@pytest.mark.long
def test_what_is_added_inside_is_measured_and_compared(house):
    told = run(house, "-c", USED, "flicker", "overlap", "plain", "means", "toys").splitlines()
    assert told[-2:] == ["[('identity', ''), ('plain', 'ridge'), ('residual', 'means')] True", "['overlap'] True"]


@pytest.mark.long
def test_what_is_outside_is_measured_and_compared_by_its_name(outside):
    names = "mine:Flicker", "mine:overlap", "mine:Plain", "mine:Means", "mine:load"
    told = run(ROOT, "-c", USED, *names, more=[str(outside)]).splitlines()
    assert told[-2:] == [
        "[('identity', ''), ('mine:Plain', 'ridge'), ('residual', 'means')] True",
        "['mine:overlap'] True",
    ]


@pytest.mark.long
def test_maps_and_solvers_are_chosen_on_the_command_line(house, outside):
    told = run(house, "-c", COMPOSED, "map=[plain,residual]", "solver=[ridge,means]", "solver.means.share=0.5")
    assert "('plain', 'ridge', None), ('residual', 'means', 0.5), ('residual', 'ridge', None)" in told
    named = run(ROOT, "-c", COMPOSED, "map=[mine:Plain,residual]", "solver=[ridge,mine:Means]", more=[str(outside)])
    assert "('mine:Plain', 'ridge', None), ('residual', 'ridge', None), ('residual', 'means', 1.0)" in named


@pytest.mark.long
def test_launchers_are_chosen_on_the_command_line(house, outside):
    for launcher, where, more in (("shy", house, []), ("mine:ShyLauncher", ROOT, [str(outside)])):
        sweep = ["-m", f"hydra/launcher={launcher}", "seed=3,4", "logger=csv", f"runs={outside}/runs"]
        told = run(where, "-m", "invariance.train", *sweep, f"hydra.sweep.dir={outside}/sweep", more=more)
        assert [line for line in told.splitlines() if line.startswith("shy")] == [
            f"shy of seed={seed} logger=csv runs={outside}/runs" for seed in (3, 4)
        ]


@pytest.mark.long
def test_figures_of_all_rows_are_drawn(house, outside, trained, tmp_path):
    for name, where, more in (("inside", house, []), ("outside", ROOT, [str(outside)])):
        figures = ["figures=[mine:census]"] if more else []
        out = tmp_path / name
        arguments = [f"runs={trained[0]}/runs", f"out={out}", "logger=csv", "progress=false", *figures]
        run(where, "-m", "invariance.report", *arguments, f"hydra.run.dir={tmp_path}/hydra", more=more)
        numbers = (out / "figures/census.csv").read_text().splitlines()
        assert numbers[0] == "stage,rows" and numbers[-1].startswith("train,")
        assert "Rows by stage." in (out / "index.html").read_text()


@pytest.fixture
def flicker(tmp_path, monkeypatch):
    """A family of a user's own, which nobody named yet in this process."""
    monkeypatch.setattr(named_by_hand, "_GIVEN", set())
    (tmp_path / "code").mkdir()
    (tmp_path / "code/mine_too.py").write_text(
        "import torch\n" + FAMILY.replace("uniforms = 1", "uniforms, ranges = 1, (5, 10)")
    )
    monkeypatch.syspath_prepend(tmp_path / "code")
    yield "mine_too:Flicker"
    sys.modules.pop("mine_too", None)


FEW = ["model=tiny", "recipe=smoke", "recipe.updates=4", "recipe.val_every=2", "recipe.step=100"]


def test_a_family_from_outside_is_trained_and_measured_where_it_is_typed(
    flicker, trained, compose, tmp_path, monkeypatch
):
    prepared = [one for one in trained[1] if not one.startswith("runs=")]
    places = [f"runs={tmp_path}/runs", *prepared]
    composed = compose("train", *places, *FEW, f"transform={flicker}", "range=5", "transform.by=[20]")
    train(composed)
    folder = tmp_path / "runs/train/digits/mine_too.Flicker_5/seed0"
    config = read_config(folder)
    assert (config["name"], config["transform"]["_target_"]) == ("mine_too.Flicker_5", flicker)
    assert config["transform"]["by"] == [20] and config["transform"]["range"] == 5

    def measured(*arguments):
        measure(compose("measure", *places, "map=identity", "metrics=[l2_distance]", *arguments))

    monkeypatch.setattr(named_by_hand, "_GIVEN", set())  # as in another process
    with pytest.raises(UserError, match=r"code from there is run only where its name is typed: give grids=\[mine_too"):
        measured()
    measured("grids=mirror")  # which needs nothing of it
    assert load_model(folder).name == "digits/mine_too.Flicker_5/seed0"
    with pytest.raises(UserError, match="is run only where its name is typed"):
        joint_grid(config["transform"], {})
    assert flicker not in named_by_hand._GIVEN

    measured(f"grids=[{flicker}]")
    place = tmp_path / "runs/measure/digits/mine_too.Flicker_5/seed0/mine_too.Flicker"
    about = json.loads((place / "grid.json").read_text())
    assert about["family"] == "mine_too.Flicker" and [one["label"] for one in about["points"]] == ["untouched", "20"]
    rows = (
        pd.read_csv(place / "identity_/rows.csv")
        if (place / "identity_").is_dir()
        else pd.read_csv(next(place.glob("*/rows.csv")))
    )
    assert set(rows["family"]) == {"mine_too.Flicker"} and set(rows["range"]) == {5}
    grid = joint_grid(config["transform"], {"mine_too.Flicker": {"by": [3, 4]}})
    assert [point.label for point in grid.transform.grid()] == ["untouched", "3", "4"] and grid.own


def test_a_family_from_outside_has_a_range_and_its_own_name(flicker, trained, compose, tmp_path):
    places = [f"runs={tmp_path}/runs", *(one for one in trained[1] if not one.startswith("runs="))]
    with pytest.raises(UserError, match=f"transform={flicker} needs a range, as range=10; -m .* its own \\(5, 10\\)"):
        train(compose("train", *places, *FEW, f"transform={flicker}"))
    with pytest.raises(UserError, match=f"rows would call it rotation; choose it as transform={flicker}"):
        train(compose("train", *places, *FEW, "transform=rotation", "range=5", f"transform._target_={flicker}"))
    with pytest.raises(UserError, match="fails with these arguments: TypeError"):
        train(compose("train", *places, *FEW, f"transform={flicker}", "range=x"))
    sweep = OverridesParser.create().parse_overrides([f"transform={flicker},blur", "seed=0"])
    assert [job[:2] for job in jobs_of_sweep(sweep)] == [
        [f"transform={flicker}", "range=5"],
        [f"transform={flicker}", "range=10"],
        ["transform=blur", "range=1.5"],
        ["transform=blur", "range=3"],
    ]
    assert not (tmp_path / "runs").exists()


@pytest.mark.long
def test_a_family_from_outside_serves_every_command(outside, trained, tmp_path):
    prepared = [one for one in trained[1] if not one.startswith(("runs=", "trainer="))]
    places, more = [f"runs={tmp_path}/runs", *prepared, f"hydra.run.dir={tmp_path}/hydra"], [str(outside)]
    few = [*FEW, "trainer=cpu", f"hydra.sweep.dir={tmp_path}/sweep"]
    swept = ["-m", "invariance.train", "-m", "transform=mine:Flicker", "range=5,10", *few, *places]
    for _ in range(2):  # the second time all is finished
        told = run(ROOT, *swept, more=more)
    assert told.count("finished already") == 2
    own = ["networks=mine.Flicker_5", "grids=[mine:Flicker]", "map=[identity,residual]", "solver=ridge", "trainer=cpu"]
    run(ROOT, "-m", "invariance.measure", *own, *places, more=more)
    joint = ["recipe=finetune_smoke", "recipe.updates=2", "recipe.val_every=2", "layer=relu7"]
    run(ROOT, "-m", "invariance.finetune", *own, *joint, *places, more=more)
    run(ROOT, "-m", "invariance.distance", "metrics=[indices]", f"features={tmp_path}/features", "trainer=cpu", *places)
    out = tmp_path / "report"
    run(ROOT, "-m", "invariance.report", f"out={out}", *(one for one in places if "prepared" not in one))
    assert "mine.Flicker_5" in (out / "index.html").read_text()
    told = run(ROOT, "-m", "invariance.status", *(one for one in places if one.startswith(("runs=", "hydra"))))
    assert "train" in told and "finetune" in told


@pytest.mark.parametrize(
    ("page", "argument", "said"),
    [
        ("measure", "map=nowhere_at_all:Map", "map 'nowhere_at_all:Map': the module nowhere_at_all cannot be imported"),
        (
            "train",
            "transform=os:getcwd",
            "transform 'os:getcwd' takes no range, by which networks are trained and named",
        ),
        ("train", "transform=nowhere_at_all:Family", "the module nowhere_at_all cannot be imported"),
        ("measure", "metrics=error_rate", "give a list of different ones, as [error_rate], of error_rate, l2_distance"),
        ("train", "~transform", "transform"),
        ("measure", "solver=json:dumps", "solver='json:dumps' is no solver"),
        ("measure", "grids=[json:dump]", "json:dump"),
        ("report", "figures=[json:dmps]", "json has no dmps; did you mean 'dumps'"),
    ],
)
def test_a_name_of_nothing_is_one_line(mistake, page, argument, said):
    assert said in mistake(page, argument)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["unseen_classes=[ridge]", "solver=ridge"], "unseen_classes: ridge has the control always; leave it out"),
        (["unseen_classes=[online_sgd]", "solver=ridge"], "unseen_classes=online_sgd: maps are fitted by ridge"),
        (["unseen_classes=[online_sgd]", "map=identity"], "unseen_classes=online_sgd: no map is fitted"),
        (["unseen_classes=[online_sgd]", "data=photos", "metrics=[l2_distance]"], "no classes of the networks' own"),
    ],
)
def test_a_control_that_would_change_nothing_is_refused(mistake, arguments, said):
    assert said in mistake("measure", *arguments)


ODD = """
import pandas as pd
from hydra.plugins.launcher import Launcher
from matplotlib.figure import Figure as Drawing

from invariance.reporting.figure import Figure


def named(name, draw=lambda frame: Drawing()):
    return Figure(name, "Odd", "Odd.", "Odd.", pd.DataFrame({"x": [1]}), draw)


def outside(rows):
    return named("../outside")


def taken(rows):
    return [named("x"), named("x")]


def raises(rows):
    raise ValueError("no such column")


def undrawn(rows):
    return named("undrawn", lambda frame: frame["y"])


number = 3


class Plain:
    schema = None

    def begin(self, wanted): ...


class Sulks(Launcher):
    def __init__(self):
        raise RuntimeError("no cluster here")

    def setup(self, *, hydra_context, task_function, config): ...

    def launch(self, job_overrides, initial_job_idx): ...
"""


@pytest.fixture
def odd(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("odd")
    (folder / "odd_one.py").write_text(ODD)
    (folder / "odd_exit.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(folder)
    yield
    for name in ("odd_one", "odd_exit"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("outside", "name='../outside' is that of its files"),
        ("taken", "two figures are called x"),
        ("raises", "failed with ValueError \\(no such column\\)"),
        ("undrawn", "failed with KeyError"),
        ("number", "is a int; give a function"),
    ],
)
def test_what_goes_wrong_in_a_figure_of_yours_is_one_line(odd, trained, tmp_path, name, said):
    with pytest.raises(UserError, match=said):
        report_of(trained[0] / "runs", tmp_path / "out", figures=[f"odd_one:{name}"])
    assert not list(tmp_path.glob("**/*.png")) and not (tmp_path / "out/index.html").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["solver=odd_one:Plain"], "with a schema that has a default for every setting"),
        (["solver=odd_exit:Solver"], "the module odd_exit cannot be imported (SystemExit: 3)"),
        (["-m", "grids=mirror", "hydra/launcher=odd_one:Plain"], "hydra/launcher=odd_one:Plain is no launcher"),
        (["-m", "grids=mirror", "hydra/launcher=odd_one:Sulks"], "(RuntimeError: no cluster here)"),
    ],
)
def test_classes_from_outside_that_do_not_serve_are_one_line(odd, mistake, arguments, said):
    assert said in mistake("measure", *arguments)
