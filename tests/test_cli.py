"""The command line: what it sweeps, what it suggests, and that a mistake is one line and a non-zero exit."""

import importlib
import json
import os
import subprocess
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from invariance.cli import find_plugins
from invariance.conf import families, family_sweep

QUICK = ["model=tiny", "recipe=smoke", "logger=csv", "trainer=cpu", "progress=false"]


def run(page, *arguments, cwd, **environment):
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, "-m", f"invariance.{page}", *arguments], cwd=cwd, capture_output=True, text=True, env=variables
    )


def call(page, *arguments, monkeypatch):
    """The command in this process, for speed: its exit status."""
    monkeypatch.setattr(sys, "argv", [f"invariance-{page}", *arguments])
    try:
        importlib.import_module(f"invariance.{page}").main()
    except SystemExit as end:
        return end.code
    return 0


def jobs(*arguments):
    find_plugins()
    from hydra_plugins.invariance_sweeper import FamilySweeper

    return FamilySweeper.split_arguments(OverridesParser.create().parse_overrides(list(arguments)), None)[0]


def test_a_family_brings_its_own_ranges():
    assert jobs("transform=rotation") == [["transform=rotation", f"range={r}"] for r in (5, 10, 15, 20)]


def test_a_named_range_replaces_the_familys_own():
    assert jobs("transform=rotation", "range=5,10") == [
        ["transform=rotation", "range=5"],
        ["transform=rotation", "range=10"],
    ]
    assert jobs("transform=rotation", "range=7", "seed=0,1") == [
        ["transform=rotation", "range=7", "seed=0"],
        ["transform=rotation", "range=7", "seed=1"],
    ]


def test_several_families_each_bring_theirs():
    swept = jobs("transform=blur,baseline,mirror", "seed=3")
    assert swept == [
        ["transform=blur", "range=1.5", "seed=3"],
        ["transform=blur", "range=3", "seed=3"],
        ["transform=baseline", "seed=3"],
        *(["transform=mirror", f"range={r}", "seed=3"] for r in ("horizontal", "vertical", "both")),
    ]


def test_elastic_sweeps_two_parameters_of_which_one_may_be_named():
    assert len(jobs("transform=elastic")) == 4
    assert jobs("transform=elastic", "range=10", "transform.sigma=3") == [
        ["transform=elastic", "range=10", "transform.sigma=3"]
    ]
    assert {tuple(job) for job in jobs("transform=elastic", "range=10")} == {
        ("transform=elastic", "transform.sigma=2", "range=10"),
        ("transform=elastic", "transform.sigma=3", "range=10"),
    }


def test_the_sweep_of_all_families_is_table_threes_networks():
    networks = [job for family in families() for job in jobs(f"transform={family}")]
    assert len(networks) == 33 + 1
    assert family_sweep("baseline") == {}


@pytest.mark.parametrize(
    ("page", "arguments", "said"),
    [
        ("train", ["transform=rotaton", "range=5"], "did you mean 'rotation'"),
        ("train", ["data=digit"], "did you mean 'digits'"),
        ("train", ["transfrom=rotation"], "did you mean 'transform'"),
        ("train", ["transform=elastic", "range=5", "transform.sigmaa=3"], "did you mean 'transform.sigma'"),
        ("train", ["recipe.rat=0.1"], "did you mean 'recipe.rate'"),
        ("train", ["transform=rotation", "range=5,10"], "add -m"),
        (
            "train",
            ["transform=rotation"],
            "-m transform=rotation trains one network for each of its own (5, 10, 15, 20)",
        ),
        ("train", ["transform=rotation", "range=-5"], "range=-5"),
        ("train", ["transform=rotation", "range=nan"], "range=nan"),
        ("train", ["transform=rotation", "range=[5,-5]"], "range=[5, -5]"),
        ("train", ["transform=rotation", "range=0"], "range=0"),
        ("train", ["transform=rotation", "range=far"], "range='far'"),
        ("train", ["transform=rotation", "range=720"], "range=720"),
        ("train", ["transform=crop", "range=227"], "range=227"),
        ("train", ["transform=mirror", "range=diagonal"], "diagonal"),
        ("train", ["recipe.rate=-1"], "recipe.rate=-1"),
        ("train", ["recipe.rate=nan"], "recipe.rate=nan"),
        ("train", ["recipe.batch=0"], "recipe.batch=0"),
        ("train", ["recipe.updates=many"], "recipe.updates='many'"),
        ("train", ["recipe.momentum=1.0"], "recipe.momentum=1.0"),
        ("train", ["seed=-1"], "seed=-1"),
        ("train", ["seed=0.5"], "seed=0.5"),
        ("train", ["name=a/b"], "name='a/b'"),
        ("train", ["logger.kind=paper"], "logger=wandb or logger=csv"),
        ("train", ["model.input_size=8"], "too small for CaffeNet"),
        ("train", ["+model.depth=8"], "model.depth is no argument of CaffeNet"),
        ("train", ["model._target_=os.system"], "outside invariance"),
        ("train", ["transform._target_=os.system"], "outside invariance"),
        ("train", ["range="], "range"),
        ("train", ["trainer.accelerator=abacus"], "choose auto, cpu or gpu"),
        ("train", ["data=folder"], "data.root"),
        ("train", ["data=folder", "data.root=nowhere"], "nowhere"),
        ("prepare", ["size=0"], "size=0"),
        ("prepare", ["size=big"], "size='big'"),
        ("measure", [], "run invariance-train first"),
        ("measure", ["metrics=[accuracy]"], "metrics=accuracy"),
        ("measure", ["batch=0"], "batch=0"),
        ("measure", ["memory_gb=nan"], "memory_gb=nan"),
        ("measure", ["solver.online_sgd.rate=-1"], "rate"),
        ("measure", ["solver=newton"], "newton"),
        ("report", [], "no finished run"),
    ],
)
def test_a_mistake_is_one_line_and_exit_two(page, arguments, said, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    quick = QUICK if page == "train" else ["progress=false"]
    quick = [
        q
        for q in quick
        if q.split("=")[0] not in {a.lstrip("+").split("=")[0].split(".")[0] for a in arguments} or "." in q
    ]
    status = call(page, *quick, *arguments, monkeypatch=monkeypatch)
    errors = capfd.readouterr().err
    lines = [line for line in errors.splitlines() if line.strip()]
    assert status == 2, errors
    assert len(lines) == 1 and lines[0].startswith("error: "), errors
    assert said in lines[0], lines[0]
    assert not list(tmp_path.glob("runs/train/*/*/*/done.json"))


def test_a_mistake_in_one_job_of_a_sweep_leaves_the_others(tmp_path):
    result = run("train", "-m", *QUICK, "transform=rotation", "range=-1,5", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.count("error: ") == 1 and "range=-1" in result.stderr
    assert json.loads((tmp_path / "runs/train/digits/rotation_5/seed0/done.json").read_text())["rows"] == 2


@pytest.mark.parametrize("page", ["prepare", "train", "measure", "report"])
def test_help_is_for_newcomers_and_loads_no_torch(page, tmp_path):
    code = (
        f"import atexit, sys; sys.argv = ['invariance-{page}', '--help']; "
        "atexit.register(lambda: print('TORCH' if 'torch' in sys.modules else 'LIGHT')); "
        f"from invariance.{page} import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert f"invariance-{page}" in result.stdout and "-sc install=bash" in result.stdout
    assert "LIGHT" in result.stdout, result.stdout[-500:]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("invariance-train transform=ro", "transform=rotation"),
        ("invariance-train transf", "transform="),
        ("invariance-train data=fash", "data=fashion_mnist"),
        ("invariance-measure solver=ri", "solver=ridge"),
    ],
)
def test_shell_completion(line, offered, tmp_path):
    page = line.split()[0].removeprefix("invariance-")
    variables = {**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line))}
    code = (
        f"import sys; sys.argv = ['invariance-{page}', '-sc', 'query=bash']; from invariance.{page} import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=variables)
    assert offered in result.stdout.split(), result.stdout + result.stderr
