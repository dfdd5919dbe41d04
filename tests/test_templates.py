"""multirun_templates/ and the Makefile that runs them: the jobs that they say, of networks that there are."""

import os
import re
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from invariance.cli.command import find_plugins
from invariance.engine.grids import grids_for
from invariance.errors import UserError
from invariance.settings.files import check_keys, conf_dir, family_sweep, paper_families
from invariance.transforms.crop import Crop

ROOT = Path(__file__).parents[1]
TEMPLATES = sorted((ROOT / "multirun_templates").glob("*.yaml"))
WHERE = [f"hydra.searchpath=[file://{conf_dir()}]"]


def composed(template, *overrides):
    """A template's configuration and the jobs of its sweep."""
    find_plugins()
    from hydra_plugins.invariance_sweeper import FamilySweeper

    with initialize_config_dir(str(ROOT / "multirun_templates"), version_base="1.3"):
        config = compose(template, overrides=[*WHERE, *overrides], return_hydra_config=True)
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):  # where glob(*) looks
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        return config, FamilySweeper.split_arguments(parser.parse_overrides(params), None)[0]


@cache
def networks():
    """Name and seed of every network of conf/network/, as its run is called."""
    found = {}
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for path in sorted((conf_dir() / "network").glob("*.yaml")):
            config = compose("train", overrides=[f"network={path.stem}"])
            found[path.stem] = (config.name, config.seed)
    return found


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_has_the_jobs_that_it_says(path):
    _, jobs = composed(path.stem)
    said = re.search(r"(\d+) jobs|(one) job", path.read_text())
    assert said, "a template says how many jobs it has"
    assert len(jobs) == (1 if said[2] else int(said[1]))


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_shows_the_command_that_runs_it(path):
    [page] = set(re.findall(r"^#   invariance-(\w+) .*--config-name " + path.stem, path.read_text(), re.M))
    assert (conf_dir() / f"{page}.yaml").exists()
    [base] = re.findall(r"^  - (\w+)$", path.read_text().replace("  - _self_", ""), re.M)
    assert base == page or f"  - {page}\n" in (path.parent / f"{base}.yaml").read_text()


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_has_no_key_that_nothing_knows(path):
    config, _ = composed(path.stem)
    [page] = set(re.findall(r"^#   invariance-(\w+) .*--config-name", path.read_text(), re.M))
    check_keys(config, config.hydra, page, path.stem)
    OmegaConf.set_readonly(config, False)
    OmegaConf.set_struct(config, False)
    config.metrcs = ["l2_distance"]
    with pytest.raises(UserError, match=f"{path.stem}: unknown key 'metrcs'"):
        check_keys(config, config.hydra, page, path.stem)


def run_of(which, all_networks):
    name, _, seed = which.partition("/")
    return name, int(seed.removeprefix("seed")) if seed else 0


def measured_by(template, there):
    return {run_of(job[0].removeprefix("which="), there) for job in composed(template)[1]}


@pytest.mark.parametrize("study", ["smoke", "paper", "toy"])
def test_every_network_that_is_trained_is_measured_and_no_other(study):
    trained = {job[0].removeprefix("network=") for job in composed(f"{study}_networks")[1]}
    there = networks()
    if study == "toy":
        assert {there[name][0] for name in trained} >= {name for name, _ in measured_by("paper_finetune", there)}
    else:
        assert trained == set(there) - ({"baseline_3"} if study == "paper" else set())
    assert measured_by(f"{study}_measure", there) == {there[name] for name in trained}


@pytest.mark.parametrize("study", ["smoke", "paper", "toy"])
def test_finetuning_takes_one_network_of_every_family(study):
    there = networks()
    finetuned = [run_of(job[0].removeprefix("which="), there) for job in composed(f"{study}_finetune")[1]]
    assert set(finetuned) <= set(there.values())
    own = [next(f for f in paper_families() if name.startswith(f)) for name, _ in finetuned]
    assert sorted(own) == sorted(family for family in paper_families() if family_sweep(family))


def test_the_paper_s_names_its_data_set_once():
    config, _ = composed("paper_measure", "of=rvl_cdip", "which=rotation_20")
    assert config.networks == "rvl_cdip/rotation_20" and config.trainer.accelerator == "gpu"
    config, _ = composed("paper_networks", "data=rvl_cdip")
    assert (config.recipe.updates, config.model.input_size, config.model.width) == (500_000, 227, 1)


def made(*arguments, **surroundings):
    outer = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}  # of make test
    command = ["make", "-n", "-o", ".venv/installed", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**outer, **surroundings})


def test_make_runs_every_template():
    parts = "prepare networks measure distance finetune cross report".split()
    paper = ["HISTORICAL=/scans", "ILSVRC=/in", "GPUS=8"]
    for study, more in (("smoke", []), ("toy", [*paper, "TOY=1"]), ("paper", paper)):
        target = "smoke" if study == "smoke" else "paper"
        said = "".join(made(f"{target}-{part}", *more).stdout for part in parts)
        for path in TEMPLATES:
            assert (f"--config-name multirun_templates {path.stem}" in said or f" {path.stem} " in said) == (
                path.stem.startswith(study)
            )
    assert "data=ilsvrc 'data.root=/in'" in said and "hydra.launcher.gpus=8" in said and "data=rvl_cdip  " in said
    slurm = made("paper-measure", "LAUNCHER=slurm", "DATA=ilsvrc", "GPUS=4", "ARGS=hydra.launcher.partition=big").stdout
    assert slurm.count("invariance-measure") == 1 and "hydra/launcher=slurm hydra.launcher.array_parallelism=4" in slurm
    assert slurm.rstrip().endswith("hydra.launcher.partition=big")


def words_of(target, *more):
    """The words of the one command of a data set's part."""
    return shlex.split(made(target, "DATA=rvl_cdip", *more).stdout.replace("\\\n", " ").rpartition("invariance-")[2])


def test_a_toy_has_folders_and_sizes_of_its_own_and_the_real_study_is_not_touched():
    for part in ("prepare", "networks", "measure", "distance", "finetune", "cross", "report"):
        toy, real = (words_of(f"paper-{part}", "HISTORICAL=/scans", *more) for more in (["TOY=1"], ["TOY=0"]))
        assert {"runs=toy/runs", "prepared=toy/prepared"} < set(toy) and {"runs=runs", "prepared=prepared"} < set(real)
        assert not [word for word in real if "toy" in word]
        assert not [word for word in toy if re.match("(features|out|runs|prepared)=(?!toy/)", word)]
    sizes = {"67", *(str(Crop(range=size).source_size(67)) for size in (240, 256, 288, 320))}
    [said] = [word for word in words_of("paper-prepare", "TOY=1") if word.startswith("size=")]
    assert set(re.findall(r"\d+", said)) == sizes and composed("toy_networks")[0].data.input_size == 67


@pytest.mark.parametrize("more", [[], ["TOY=1"], ["DRY=1"], ["TOY=1", "DRY=1"]])
def test_all_sizes_of_a_data_set_are_prepared_by_one_command(more):
    said = made("paper-prepare", "ARGS_prepare=verify=false", *more).stdout.splitlines()
    commands = [shlex.split(line.partition(".venv/bin/")[2]) for line in said if "invariance-prepare" in line]
    assert [words[1] for words in commands] == ["data=ilsvrc", "data=rvl_cdip"]
    for words in commands:
        [size] = [word for word in words if word.startswith("size=")]
        assert re.fullmatch(r"size=\[\d+(,\d+){4}\]", size) and "-m" not in words and "verify=false" in words
        assert ("plan=true" in words) == ("DRY=1" in more)


def turn(size, *more):
    """The commands of a size's turn: the page and the words of each."""
    said = made("paper-turn.ilsvrc", f"TURN={size}", *more, MAKELEVEL="1").stdout.replace("\\\n", " ")
    commands = re.findall(r"\.venv/bin/invariance-(\w+) ((?:'[^']*'|[^|'\n])*)", said)
    return [(page, shlex.split(words)) for page, words in commands]


def of_key(words, key):
    """The values that a command is given for a key."""
    values = [word.partition("=")[2].strip("[]") for word in words if word.startswith(f"{key}=")]
    return {one for value in values for one in value.split(",")}


@pytest.mark.parametrize("study", ["paper", "toy"])
def test_the_turns_together_are_the_whole_study(study):
    more = ["TOY=1"] if study == "toy" else []
    there, turns = networks(), {size: turn(size, *more) for size in (227, 240, 256, 288, 320)}
    trained, grids, features, finetuned = [], {}, [], []
    for size, commands in turns.items():
        [first, *middle, last] = commands
        pixels = {str(Crop(range=size).source_size(67)) if size > 227 else "67"} if study == "toy" else {str(size)}
        assert first[0] == last[0] == "prepare" and of_key(first[1], "size") == of_key(last[1], "size") == pixels
        assert "restore=false" in first[1] and "give_back=true" in last[1] and "give_back=true" not in first[1]
        for page, words in middle:
            if page == "train":
                trained += of_key(words, "network")
            elif page == "measure":
                for which in of_key(words, "which"):
                    grids.setdefault(which, []).extend(of_key(words, "grids") or ["own"])
            elif page == "distance":
                assert "pairs=false" in words
                features += of_key(words, "networks")
            elif page == "finetune":
                finetuned += of_key(words, "which")
    whole = sorted(job[0].removeprefix("network=") for job in composed(f"{study}_networks")[1])
    assert sorted(trained) == sorted([*whole, "baseline_3"])
    assert {run_of(which, there) for which in grids} == measured_by(f"{study}_measure", there)
    assert {run_of(one.removeprefix("${of}/"), there) for one in features} == {there[name] for name in trained}
    assert len(features) == len(trained)
    assert {run_of(which, there) for which in finetuned} == measured_by(f"{study}_finetune", there)
    assert sorted(finetuned) == sorted(set(finetuned))
    baseline = {"_target_": "invariance.transforms.baseline.Baseline", "name": "baseline"}
    everything = sorted(grid.name for grid in grids_for(baseline, "all", {}))
    for which, names in grids.items():
        if which.startswith("baseline"):
            assert sorted(grid.name for grid in grids_for(baseline, names, {})) == everything
            assert len(names) == len(set(names))
        else:
            assert names == ["own"]


def test_a_turn_has_what_is_chosen():
    chosen = "NETWORKS=crop_256 blur_3"
    assert [page for page, _ in turn(256, chosen)] == ["prepare", "train", "measure", "distance", "finetune", "prepare"]
    assert [page for page, _ in turn(240, "NETWORKS=baseline_2 blur_3")] == ["prepare", "measure", "prepare"]
    pages = turn(227, chosen, "DRY=1")
    assert "plan=true" in pages[0][1] and all("hydra/launcher=dry" in words for _, words in pages[1:-1])
    assert "TURN=: there is no such variable" in made("paper-turns", "TURN=227").stderr
    # the third baseline has its turn though none of the chosen needs that size
    crop, parts = "NETWORKS=crop_240 crop_256", ["prepare", "train", "distance", "prepare"]
    assert [page for page, _ in turn(227, crop)] == parts
    assert "for turn in 227 240 256 ;" in " ".join(made("paper-turns", "DATA=ilsvrc", crop).stdout.split())


def test_a_turn_gives_back_what_was_prepared_in_it_and_before():
    more = "ARGS_prepare=renew=true data.colour=rgb 'data.mean=[1, 2, 3]'"
    [(_, first), *_, (_, last)] = turn(256, more, "ENDED=227 240")
    assert {"size=[256]", "data.colour=rgb", "data.mean=[1, 2, 3]", "renew=true"} < set(first)
    assert {"size=[256,227,240]", "data.colour=rgb", "data.mean=[1, 2, 3]", "give_back=true"} < set(last)
    assert "renew=true" not in last  # which prepares, and is refused where data are given back


@pytest.mark.parametrize("name", ["TURN", "PAIRS"])
def test_a_turn_is_not_taken_from_the_surroundings(name):
    parts = ("paper-prepare", "paper-networks", "paper-distance", "DATA=ilsvrc")
    assert made(*parts, **{name: "240"}).stdout == made(*parts).stdout


def test_networks_can_be_chosen_and_are_called_as_each_part_calls_them():
    chosen = ["NETWORKS=baseline_2 crop_256 blur_1.5", "HISTORICAL=/scans"]
    for part, key in (
        ("networks", "network=baseline_2,crop_256,blur_1.5"),
        ("finetune", "which=crop_256,blur_1.5"),
        ("measure", "which=baseline/seed1,crop_256,blur_1.5"),
        ("cross", "which=baseline/seed1,crop_256,blur_1.5"),
    ):
        assert key in words_of(f"paper-{part}", *chosen)
        assert not any(word.startswith(("network=", "which=")) for word in words_of(f"paper-{part}"))
    assert "NETWORKS=crop_257: choose of baseline_1" in made("paper", "NETWORKS=crop_257").stderr
    assert "name one besides the baselines" in made("paper", "NETWORKS=baseline_1 baseline_2").stderr


def test_arguments_go_to_the_parts_that_have_such_a_key_or_to_one_of_them():
    parts = ("networks", "measure", "distance", "finetune", "cross")
    more = ["HISTORICAL=/scans", "ARGS=model=tiny recipe.updates=40 trainer=cpu"]
    more.append("ARGS_measure='grids=[rotation, shear]'")
    had = {part: set(words_of(f"paper-{part}", *more)) for part in parts}
    assert all("trainer=cpu" in words for words in had.values())
    assert [part for part, words in had.items() if "model=tiny" in words] == ["networks"]
    assert [part for part, words in had.items() if "recipe.updates=40" in words] == ["networks", "finetune"]
    assert [part for part, words in had.items() if "grids=[rotation, shear]" in words] == ["measure"]
    assert "logger=csv" not in words_of("paper-report")
    assert {"logger=csv", "--"} - set(words_of("paper-report", "ARGS=trainer=cpu logger=csv")) == {"--"}
    third = made("paper-distance", "DATA=ilsvrc", *more).stdout
    assert third.index("network=baseline_3") < third.index("model=tiny") < third.index("invariance-distance")


def test_the_plan_is_told_what_the_parts_are_given():
    said = made(
        "plan",
        "TOY=1",
        "RVL_CDIP=/my scans",
        "HISTORICAL=/pages.zip",
        "NETWORKS=baseline_1 crop_256",
        "ARGS=recipe.updates=40 logger=csv",
        "ARGS_measure='grids=[rotation, shear]'",
    ).stdout
    words = shlex.split(said.replace("\\\n", " "))
    assert {"study=toy", "count=true", "recipe.updates=40", 'roots={ilsvrc:null,rvl_cdip:"/my scans"}'} < set(words)
    [each] = [yaml.safe_load(word[5:].replace(':"', ': "')) for word in words if word.startswith("args=")]
    assert shlex.split(each["measure"])[-2:] == ["grids=[rotation, shear]", "which=baseline/seed0,crop_256"]
    assert "data.root=/pages.zip" in shlex.split(each["cross"]) and "logger=csv" in each["finetune"]


def test_what_is_interrupted_ends_make_and_what_fails_does_not(tmp_path, monkeypatch):
    monkeypatch.delenv("MAKELEVEL", raising=False)
    for path in ("pyproject.toml", "Makefile"):
        shutil.copy(ROOT / path, tmp_path)
    for path in ("conf", "multirun_templates"):
        (tmp_path / path).symlink_to(ROOT / path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/installed").touch()

    given = []

    def ran(target, *more, **statuses):
        """The commands that make ran, which end with the statuses given or well; and make's own status and errors."""
        for page in ("plan", "prepare", "train", "measure", "distance", "finetune", "report"):
            path = tmp_path / f".venv/bin/invariance-{page}"
            back = f'case " $*" in *give_back=true*) exit {statuses.get("back", 0)};; esac\n'
            path.write_text(f"#!/bin/sh\n{back}exit {statuses.get(page, 0)}\n")
            path.chmod(0o755)
        outer = {key: value for key, value in os.environ.items() if key == "MAKELEVEL" or not key.startswith("MAKE")}
        ended = subprocess.run(["make", target, *more], cwd=tmp_path, capture_output=True, text=True, env=outer)
        lines = [line for line in ended.stdout.splitlines() if line.startswith(".venv/bin/invariance-")]
        given.extend(re.findall(r"size=(\S+) .*give_back=true", ended.stdout))
        return [line.split()[0].rpartition("-")[2] for line in lines], ended.returncode, ended.stderr

    for target in ("smoke", "paper"):
        assert ran(target)[1] == 0
        pages, status, errors = ran(target, train=2, distance=130)
        assert pages[-1] == "distance" and "measure" in pages and status != 0
        part = {"smoke": "distance", "paper": "turns"}[target]
        assert f"{target}-{part} was interrupted; the same command goes on with it" in errors
    monkeypatch.setenv("MAKELEVEL", "1")  # in a makefile of somebody's own
    assert ran("paper", train=130)[0][-1] == "train"
    pages, status, errors = ran("paper-measure", measure=130)  # of the first data set: the second is not begun
    assert pages == ["measure"] and status != 0
    # a third baseline that fails does not keep the distances from being measured, nor these the rest
    pages, status, _ = ran("paper", "KEEP=1", train=2, distance=2)
    assert (pages.count("distance"), pages.count("finetune"), pages[-1]) == (2, 2, "report") and status != 0
    # of each data set five sizes, from preparing one to giving it back, where all between them ended well
    pages, status, _ = ran("paper", "DATA=rvl_cdip")
    counts = {page: pages.count(page) for page in pages}
    assert counts == {"prepare": 10, "train": 7, "measure": 10, "distance": 6, "finetune": 2, "report": 1}
    assert status == 0 and pages[0] == "prepare" and pages[6:9] == ["finetune", "prepare", "prepare"]
    pages, status, _ = ran("paper", "DATA=rvl_cdip", finetune=2)
    assert (pages.count("prepare"), pages[-1]) == (8, "report") and status != 0
    assert given[-3:] == ["[240]", "[288,240]", "[320,240,288]"]  # not those of turns that did not end well
    pages, status, _ = ran("paper", "DATA=rvl_cdip", prepare=75)
    assert pages.count("prepare") == 5 and status != 0  # of preparing it is a failure
    pages, status, _ = ran("paper", "DATA=rvl_cdip", back=75)  # of giving back it is none
    assert pages.count("prepare") == 10 and pages[-1] == "report" and status == 0
    assert ran("paper-turns", "DATA=rvl_cdip", back=2)[1] != 0


def test_make_refuses_what_makes_no_sense():
    assert "LAUNCHER=slrum: choose one of one local slurm" in made("paper", "LAUNCHER=slrum").stderr
    assert "LAUNCHER=one runs one job at a time" in made("smoke-networks", "LAUNCHER=one", "GPUS=2").stderr
    assert "give HISTORICAL=" in made("paper-cross").stdout
    assert "networks trained on RVL-CDIP" in made("paper-cross", "DATA=ilsvrc", "HISTORICAL=/scans").stdout
    assert "how many jobs are to run at once" in made("paper-measure", "LAUNCHER=slurm", "GPUS=[0,2]").stderr
    plan = shlex.split(made("plan", "GPUS=8", "PREPARED=/big").stdout.replace("\\\n", " "))
    assert {"prepared=/big", "gpus=8"} < set(plan)
    for wrong in ("DATA=", "DATA=rvl_cdip,ilsvrc", "DATA=imagenet"):
        for target in ("paper", "paper-measure", "plan"):
            refused = made(target, wrong)
            assert refused.returncode != 0 and not refused.stdout
            assert f"{wrong}{' is empty' if wrong == 'DATA=' else ''}: choose of cifar10 digits" in refused.stderr
    assert made("test", "DATA=/mnt/data").returncode == 0  # a variable of somebody's shell


@pytest.mark.parametrize(
    ("goal", "typed", "said"),
    [
        ("paper", "LAUNCHER=local slurm", "LAUNCHER=local slurm: choose one of"),
        ("smoke", "LAUNCHER=local one", "LAUNCHER=local one: choose one of"),
        ("smoke", "LAUNCHER=%", "LAUNCHER=%: choose one of"),
        ("paper", "LAUNCHER=", "LAUNCHER=: choose one of"),
        ("paper", "STUDY=nope", "STUDY=: there is no such variable"),
        ("paper", "ARGS_network=seed=1", "ARGS_network=: there is no such variable; choose of DATA"),
        ("plan", "ILSVRX=/data", "ILSVRX=: there is no such variable"),
        ("demo", "DEMMO=x", "DEMMO=: there is no such"),
        ("smoke", "NETWORKS=blur_3", "NETWORKS=blur_3: make smoke is always the same study"),
        ("smoke-networks", "TOY=1", "TOY=1: make smoke is always the same"),
        ("smoke", "ARGS_measure=fit=2", "ARGS_measure=fit=2: make smoke is"),
        ("smoke", "ILSVRC=/data", "ILSVRC=/data: make"),
        ("smoke", "KEEP=1", "KEEP=1: make smoke is"),
        ("paper", "NETWORKS=blur_3 rotation_20 blur_3", "blur_3 is there twice; name it once"),
        ("paper", "RUNS=a'b", "RUNS=a'b: it cannot have a quote"),
        ("paper", "SMOKE=x", "SMOKE=x: it is the folder of make smoke alone"),
        ("smoke", "SMOKE=a'b", "SMOKE=a'b: it cannot have"),
        ("plan", "ILSVRC=/a'b", "ILSVRC=/a'b: it cannot have"),
        ("status", "RUNS='", "RUNS=': it cannot have"),
    ],
)
def test_make_heeds_or_refuses_what_is_typed(goal, typed, said):
    refused = made(goal, typed)
    assert refused.returncode == 2 and not refused.stdout and len(refused.stderr.splitlines()) == 1
    assert said in refused.stderr


def test_make_takes_what_the_commands_read_from_their_surroundings(monkeypatch):
    for typed in (
        "PYTEST_ADDOPTS=-x",
        "OMP_NUM_THREADS=2",
        "CUDA_VISIBLE_DEVICES=1",
        "WANDB_MODE=offline",
        "PYTHON=/usr/bin/python3",
        "VENV=.venv",
        "DEMO_ARGS=runs=r",
        "MAKEFLAGS=n",
    ):
        assert made("test", typed).returncode == 0
    monkeypatch.setenv("FOO", "1")
    monkeypatch.setenv("ARGS_network", "seed=1")  # nothing that make test reads
    assert made("test").returncode == 0
    assert "ARGS_network=seed=1: there is no such part" in made("paper-report").stderr


@pytest.mark.parametrize("off", ["FALSE", "False", "NO", "off", "0", ""])
def test_off_is_off_however_it_is_written(off):
    said = made("paper-report", f"TOY={off}", f"DRY={off}").stdout
    assert "out=report" in said and "toy" not in said and not said.startswith("echo")
    assert made("smoke-networks", f"TOY={off}").returncode == 0


def test_a_dry_smoke_writes_nothing():
    for part in ("prepare", "networks", "measure", "distance", "finetune", "cross", "report"):
        said = made(f"smoke-{part}", "DRY=1").stdout
        assert "plan=true" in said or "hydra/launcher=dry" in said or said.startswith("echo ")


def test_folders_may_have_blanks_in_their_names():
    for part in ("prepare", "networks", "measure", "distance", "finetune", "cross", "report"):
        said = made(
            f"paper-{part}",
            "RUNS=my runs",
            "PREPARED=at home",
            "RVL_CDIP=/data/my scans",
            "GPUS=[0, 2]",
            "FEATURES=big disk",
            "REPORT=our report",
            f"HISTORICAL={ROOT}",
            "DATA=rvl_cdip",
        ).stdout
        for line in said.replace("\\\n", " ").splitlines():
            words = shlex.split(line)
            if words[:2] == ["[", "-e"]:
                continue
            assert "runs=my runs" in words and "prepared=at home" in words
        assert "data.root=/data/my scans" in words or part not in ("prepare", "networks")
    assert "out=our report" in words
    assert "runs=my runs" in shlex.split(made("status", "RUNS=my runs").stdout)
