"""The command line: what it sweeps, what it suggests, and that a mistake is one line and a non-zero exit."""

import errno
import importlib
import json
import os
import signal
import subprocess
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from invariance.cli.command import command, find_plugins, flags_last
from invariance.errors import UserError
from invariance.runs.processes import raise_if_interrupted
from invariance.settings.files import family_sweep, paper_families
from invariance.settings.paths import folder

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


def test_a_mistake_stays_one_line_whatever_it_names():
    assert str(UserError("no folder 'a\nb\t\udcff\x1b[31m' – ü")) == "no folder 'a\\nb\\t\\udcff\\x1b[31m' – ü"


def test_what_a_configuration_marks_as_out_of_date_is_a_note(tmp_path, monkeypatch, capsys, recwarn):
    typed = ["logger.mode=${oc.deprecated:seed}", f"runs={tmp_path}"]
    assert call("train", *typed, monkeypatch=monkeypatch) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "note: 'logger.mode' is deprecated. Change your code and config to use 'seed'"
    assert len(said) == 2 and said[1].startswith("error: logger.mode=0: choose one of") and not recwarn.list


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
    networks = [job for family in paper_families() for job in jobs(f"transform={family}")]
    assert len(networks) == 33 + 1
    assert family_sweep("baseline") == {}


TABLE_3 = {
    "color_jitter": {5, 10, 15, 20},
    "crop": {240, 256, 288, 320},
    "noise": {5, 10, 15, 20},
    "blur": {1.5, 3},
    "elastic": {(5, 2), (10, 2), (5, 3), (10, 3)},
    "mirror": {"horizontal", "vertical", "both"},
    "perspective": {1, 2, 3, 4},
    "rotation": {5, 10, 15, 20},
    "shear": {5, 10, 15, 20},
    "baseline": {0, 1, 2},
}
"""Family: range (elastic: α and σ; baselines: seed)."""


def test_the_networks_by_name_are_table_threes(compose):
    from invariance.settings.files import conf_dir

    found = {}
    for path in (conf_dir() / "network").glob("*.yaml"):
        config = compose("train", f"network={path.stem}", "seed=7" if "baseline" not in path.stem else "range=null")
        family, reach = config["transform"]["name"], config["range"]
        if family == "baseline":
            assert path.stem == f"baseline_{config['seed'] + 1}" and config["name"] == "baseline"
            found.setdefault(family, set()).add(config["seed"])
            continue
        assert path.stem == config["name"] and config["seed"] == 7 and config["transform"]["range"] == reach
        found.setdefault(family, set()).add((reach, config["transform"]["sigma"]) if family == "elastic" else reach)
    assert found == TABLE_3 and sum(map(len, found.values())) == 36


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
        ("train", ["model.features=abc"], "model.features='abc'"),
        ("train", ["model.features=1.5"], "model.features=1.5"),
        ("train", ["model.width=abc"], "model.width='abc'"),
        ("train", ["model.input_size=abc"], "model.input_size='abc'"),
        ("train", ["model.input_size=48.5"], "model.input_size=48.5"),
        ("train", ["data.input_size=32.5"], "32.5"),
        ("train", ["data.input_size=-4"], "-4"),
        ("train", ["trainer.precision=half"], "trainer.precision='half'"),
        ("train", ["trainer.workers=-1"], "trainer.workers=-1"),
        ("train", ["trainer.devices=0"], "trainer.devices=0: give a whole number from 1"),
        ("train", ["trainer.devices=3"], "recipe.batch=16 cannot be cut"),
        ("train", ["model.dropout=1"], "model.dropout=1"),
        ("train", ["trainer.compile=maybe"], "trainer.compile='maybe'"),
        ("train", ["recipe.schedule=cosin"], "recipe.schedule='cosin': choose step or cosine"),
        ("train", ["recipe.warmup=-1"], "recipe.warmup=-1"),
        ("train", ["recipe.step=null"], "recipe.step=None"),
        ("train", ["recipe.label_smoothing=1"], "recipe.label_smoothing=1"),
        ("train", ["+recipe.warmpu=5"], "unknown key recipe.warmpu; did you mean 'warmup'?"),
        ("train", ["prepared=/proc/x"], "cannot write /proc/x"),
        ("train", ["runs=/proc/x"], "cannot write /proc/x"),
        ("train", ["-m", "runs=/proc/x"], "cannot write /proc/x"),
        ("train", ["name=null"], "cannot name a folder"),
        ("train", ["data.fit.images=5000"], "data.fit.images=5000"),
        ("train", ["data.report=train", "data.fit.split=train"], "data.fit.split=train"),
        ("train", ["model._target_=invariance.cli.command.find_plugins"], "is no network"),
        ("train", ["model._target_=invariance.training.classifier.Classifier"], "num_classes"),
        ("prepare", ["size=0"], "size=0"),
        ("prepare", ["runs=~/rr"], "quote it for Hydra, as 'runs=\"~/rr\"', or write the path out, as runs=/"),
        ("prepare", ["runs=a(b"], "quote it for Hydra, as 'runs=\"a(b\"'"),
        ("prepare", ["runs"], "'runs' is no override; give key=value"),
        ("prepare", ["size=big"], "size='big'"),
        ("measure", [], "run invariance-train first"),
        ("measure", ["metrics=[accuracy]"], "metrics[0]='accuracy'"),
        ("measure", ["batch=0"], "batch=0"),
        ("measure", ["memory_gb=nan"], "memory_gb=nan"),
        ("measure", ["solver.online_sgd.rate=-1"], "rate"),
        ("measure", ["solver=newton"], "newton"),
        ("distance", [], "run invariance-train first"),
        ("distance", ["metrics=[indicies]"], "did you mean"),
        ("distance", ["memory_gb=1e999"], "memory_gb"),
        ("distance", ["memory_gb=0"], "memory_gb=0"),
        ("distance", ["solver=newton"], "newton"),
        ("distance", ["netwroks=a"], "networks"),
        ("finetune", [], "run invariance-train first"),
        ("finetune", ["joint.lambda3=-1"], "joint.lambda3=-1"),
        ("finetune", ["joint.lambda1=nan"], "joint.lambda1=nan"),
        ("finetune", ["joint.lambda4=1"], "did you mean"),
        ("finetune", ["copies=0"], "copies=0"),
        ("finetune", ["G=rotation"], "G='rotation': give a family's grid settings"),
        ("finetune", ["G={}"], "give a family's grid settings"),
        ("finetune", ["name=" + "x" * 300], "cannot name a folder"),
        ("finetune", ["trainer.devices=2"], "runs on one device"),
        ("finetune", ["trainer.compile=true"], "runs uncompiled"),
        ("finetune", ["recipe=fashion_mnist_fast", "recipe.label_smoothing=0.1"], "recipe.label_smoothing"),
        ("report", [], "no finished run"),
        ("report", ["dataset=digits"], "no finished run"),
        ("dashboard", [], "run invariance-report first"),
        ("dashboard", ["dry_rum=true"], "did you mean 'dry_run'"),
        ("dashboard", ["logger=csv"], "leave out logger=csv"),
        ("dashboard", ["logger.project=a/b"], "logger.project='a/b'"),
        ("train", ["logger.tags=trial"], "logger.tags='trial': give a list"),
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


@pytest.mark.parametrize(
    ("given", "ordered"),
    [
        (["a=1", "-m", "b=2"], ["a=1", "b=2", "-m"]),
        (["-m", "a=1"], ["a=1", "-m"]),
        (["a=1", "-cd", "here", "b=2", "--config-dir=there"], ["a=1", "b=2", "-cd", "here", "--config-dir=there"]),
        (["--cfg", "job", "a=1", "-p", "model"], ["a=1", "--cfg", "job", "-p", "model"]),
        (["--info", "a=1"], ["a=1", "--info"]),
        (["a=1", "--info", "plugins"], ["a=1", "--info", "plugins"]),
        (["-sc", "query=bash"], ["query=bash", "-sc"]),
        (["--help"], ["--help"]),
        (["-cn"], ["-cn"]),
    ],
)
def test_flags_may_stand_anywhere(given, ordered):
    assert flags_last(given) == ordered


def test_a_template_that_is_no_yaml_is_named_with_the_place(tmp_path, monkeypatch, capfd):
    (tmp_path / "mine.yaml").write_text("defaults:\n  - train\nrecipe: {updates: 3\n")
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    for more in ([], ["-m"]):
        place = ["--config-dir", str(tmp_path), "--config-name", "mine"]
        assert call("train", *more, *place, monkeypatch=monkeypatch) == 2
        [line] = capfd.readouterr().err.splitlines()
        assert line.startswith("error: ") and "mine.yaml, line 4, column 1: not YAML: expected ',' or '}'" in line


def test_an_unknown_key_of_a_template_is_refused_before_anything_runs(tmp_path, monkeypatch, capfd):
    mine = "defaults:\n  - measure\n  - _self_\nof: digits\nnetworks: ${of}\nmetrcs: [l2_distance]\n"
    (tmp_path / "mine.yaml").write_text(mine)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    for more in ([], ["-m", "batch=8,16"]):
        assert call("measure", *more, "--config-dir", ".", "--config-name", "mine", monkeypatch=monkeypatch) == 2
        [line] = capfd.readouterr().err.splitlines()
        assert line.startswith("error: mine: unknown key 'metrcs'; did you mean 'metrics'? (invariance-measure --help")
    assert not list(tmp_path.glob("runs/**/jobs.json")) and not (tmp_path / "runs/measure").exists()


def test_a_key_of_ones_own_may_be_referred_to_in_any_way(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    own = "a: 24\nb: there\nranges: 26,27\nsize: ${oc.select:a,0}\nprepared: ${ b }\n"
    swept = "hydra: {sweeper: {params: {data.val_fraction: 0.3, data.split_seed: '${ranges}'}}}\n"
    (tmp_path / "mine.yaml").write_text("defaults:\n  - prepare\n  - _self_\n" + own + swept)
    done = []
    monkeypatch.setattr(sys, "argv", ["", "-m", "--config-dir", ".", "--config-name", "mine"])
    command("prepare", lambda config: done.append((config["size"], config["data"]["split_seed"])))
    assert done == [(24, 26), (24, 27)]


def test_a_folder_must_be_a_path_in_utf8():
    with pytest.raises(UserError, match="runs=.* not UTF-8"):
        folder("runs\udcff", "runs")
    with pytest.raises(UserError, match="runs=3 is not a folder"):
        folder(3, "runs")


def test_overrides_on_both_sides_of_a_flag(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert call("train", "transform=rotation", "--cfg", "job", "range=5", monkeypatch=monkeypatch) == 0
    assert "range: 5" in capfd.readouterr().out


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_refusal_of_the_disk_anywhere_is_one_line(number, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def refuse(_config):
        raise OSError(number, os.strerror(number), "some/file.csv")

    monkeypatch.setattr(sys, "argv", ["invariance-train"])
    with pytest.raises(SystemExit) as end:
        command("train", refuse)
    assert end.value.code == 2
    assert capfd.readouterr().err.startswith("error: cannot write some/file.csv: ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_schedulers_signal_anywhere_is_the_line_that_says_interrupted(number, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["invariance-train"])
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as end:
        command("train", lambda _config: signal.raise_signal(number))
    assert end.value.code == 130 and signal.getsignal(number) is before
    assert capfd.readouterr().err.startswith("error: interrupted")
    raise_if_interrupted()  # what is run next in the same process is not interrupted


def test_a_command_begun_to_outlive_its_terminal_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["invariance-train"])
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        command("train", lambda _config: signal.raise_signal(signal.SIGHUP))
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_under_what_is_printed_does_not_change_the_status(tmp_path):
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "invariance.prepare", "size=0"], cwd=tmp_path, stdout=full, stderr=full
        )
    assert ended.returncode == 2


def test_a_mistake_in_one_job_of_a_sweep_leaves_the_others(tmp_path):
    result = run("train", "-m", *QUICK, "transform=rotation", "range=-1,5", cwd=tmp_path)
    assert result.returncode == 2
    assert "range=-1 must be a number above 0" in result.stderr
    assert result.stderr.splitlines()[-1] == "error: 1 of 2 jobs failed, for the reasons above; the others are done"
    assert json.loads((tmp_path / "runs/train/digits/rotation_5/seed0/done.json").read_text())["rows"] == 2


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
