"""What a measurement will take: told in the first line, and by plan=true alone."""

import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from invariance import Mirror, Rotation, measure_model, wrap
from invariance.errors import UserError
from invariance.experiments.measure import measure
from tests.given_networks import model

FIRST = re.compile(
    r"about (?P<passes>[\d,]+) passes over (?P<images>[\d,]+) images, \d[\d.]* (s|minutes|hours) and \S+ GB beside the "
    r"network; estimated from (?P<timed>\d+) images"
)


def images_of(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 17, 17), generator=generator, dtype=torch.uint8)


class Counted(nn.Module):
    """Counts the images that go through a network."""

    def __init__(self):
        super().__init__()
        self.inside, self.seen = model().module, 0

    def forward(self, x):
        self.seen += len(x)
        return self.inside(x)


@pytest.mark.parametrize(
    ("layers", "maps", "measures"),
    [
        (["inside.pool"], ["identity"], ["l2_distance"]),
        (["inside.inner"], ["identity", "ridge"], ["l2_distance"]),
        (["inside.inner"], ["identity", "ridge"], ["agreement", "l2_distance"]),  # passed by: C needs the images
    ],
)
def test_so_many_passes_are_made_as_were_told(layers, maps, measures, capsys):
    network = wrap(Counted(), ([0.3], [0.4]), size=17, name="counted")
    given = {"transforms": {"turned": Rotation(angles=list(range(5, 45, 4)))}, "layers": layers, "maps": maps}
    given |= {"fit": images_of(300, 2), "measures": measures, "nulls": False}
    assert measure_model(network, images_of(200), **given, plan=True).empty
    told = FIRST.fullmatch(capsys.readouterr().out.splitlines()[0])
    assert told["images"] == "500" and told["timed"] == "8"
    network.module.seen = 0
    assert len(measure_model(network, images_of(200), **given))
    assert FIRST.fullmatch(capsys.readouterr().out.splitlines()[0])["passes"] == told["passes"]
    assert 0.5 < network.module.seen / 500 / int(told["passes"]) < 2


def test_a_plan_leaves_nothing_behind(tmp_path):
    network = model()
    given = {"transforms": [Mirror()], "layers": ["pool"], "keep": tmp_path / "kept"}
    planned = measure_model([network, model().renamed("other")], images_of(9), **given, plan=True)
    assert planned.empty and not (tmp_path / "kept").exists()
    assert len(measure_model(network, images_of(9), **given))
    with pytest.raises(UserError, match="plan='yes': give true or false"):
        measure_model(network, images_of(9), **given, plan="yes")


def test_a_command_says_what_is_left_and_stops_where_only_that_is_asked(compose, tmp_path, capsys):
    places = [f"runs={tmp_path}/runs", f"prepared={tmp_path}/prepared", "logger=csv", "trainer=cpu", "progress=false"]
    of = ["model=function", "model.name=tests.given_networks:model", "data=digits", "fit={images: 50}", "solver=ridge"]
    of += ["layers=[relu,pool]", "grids=[rotation,mirror]", "grid={rotation: {angles: [-30, 10, 45]}}"]
    measure(compose("measure", *places, *of, "plan=true"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[1].endswith("layers relu, pool") and not (tmp_path / "runs").exists()
    whole = int(FIRST.fullmatch(lines[0])["passes"])
    assert FIRST.fullmatch(lines[0])["images"] == "409"
    measure(compose("measure", *places, *of, "grids=[mirror]", "grid=null"))
    capsys.readouterr()
    measure(compose("measure", *places, *of, "plan=true"))
    assert int(FIRST.fullmatch(capsys.readouterr().out.splitlines()[0])["passes"]) < whole
    measure(compose("measure", *places, *of))
    assert FIRST.fullmatch(capsys.readouterr().out.splitlines()[0])
    measure(compose("measure", *places, *of, "plan=true"))
    assert capsys.readouterr().out.splitlines()[0] == "nothing is left to measure"


def test_what_a_plan_prints_is_the_whole_of_it(tmp_path):
    of = ["model=function", "model.name=tests.given_networks:model", "data=digits", "grids=[mirror]", "plan=true"]
    places = [f"runs={tmp_path}/runs", f"prepared={tmp_path}/prepared", "logger=csv", "progress=false"]
    done = subprocess.run([sys.executable, "-m", "invariance.measure", *of, *places], capture_output=True, text=True)
    assert done.returncode == 0 and FIRST.fullmatch(done.stdout.splitlines()[0]), done.stderr
