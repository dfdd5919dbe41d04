"""The plan: jobs and work against Table 3 and Appendix A as printed, arithmetic with made-up rates, refusals."""

import json
import math
import re
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
import yaml

import invariance.planning.probes
from invariance.cli.command import find_plugins
from invariance.errors import UserError
from invariance.experiments import plan as experiment
from invariance.experiments.plan import chosen_of, keys_of, plan
from invariance.maps import OnlineSGD, Ridge
from invariance.planning.data_set import data_set
from invariance.planning.needs import _data
from invariance.planning.probes import Clock, made_file, measure_rates, straight
from invariance.planning.study import Study
from invariance.planning.templates import Templates, Trained, networks_there, trained_by
from invariance.planning.work import (
    START,
    Estimate,
    Net,
    PlannedJob,
    Stage,
    Unit,
    Work,
    estimate,
    room_of,
    shape_of,
    units_of,
)
from invariance.progress import bar

TEMPLATES = Path(__file__).parents[1] / "multirun_templates"
GRIDS = {  # Appendix A, with the untouched; every size of Crop has 5 × 5 windows
    "color_jitter": 17,
    "crop": 25,
    "elastic": 13,
    "blur": 11,
    "noise": 11,
    "mirror": 4,
    "perspective": 11,
    "rotation": 17,
    "shear": 13,
}
NETWORKS = {  # Table 3
    "color_jitter": 4,
    "crop": 4,
    "elastic": 4,
    "blur": 2,
    "noise": 4,
    "mirror": 3,
    "perspective": 4,
    "rotation": 4,
    "shear": 4,
    "baseline": 2,
}
EVERYTHING = sum(GRIDS.values()) + 3 * GRIDS["crop"]
PARAMETERS = {"ilsvrc": 60_965_224}  # CaffeNet's, as Caffe counts them


@pytest.fixture(scope="module")
def paper():
    """The paper's stages of a data set, by name."""
    find_plugins()
    templates = Templates(TEMPLATES, "paper")
    everything, made = networks_there(templates), {}

    def stages(data):
        if data not in made:
            made[data] = Study(templates, everything, [f"data={data}"], ["cpu"], Path("nowhere"))
        return {stage.name: stage for stage in made[data].stages()}

    return stages


@pytest.fixture(scope="module")
def smoke():
    """Every network there is, as the small study trains it."""
    find_plugins()
    return networks_there(Templates(TEMPLATES, "smoke"))


def times(job, kind, *part):
    """How often a job does what is called `kind` and whose cost depends on all of `part`."""
    return sum(count for unit, count in job.work.items() if unit.kind == kind and set(part) <= set(unit.of))


def about(stage, name):
    [job] = [job for job in stage.jobs if job.name.split("/seed")[0] == name]
    return job


@pytest.mark.parametrize(
    ("data", "updates", "batch", "val", "report"),
    [("ilsvrc", 450_000, 256, 50_000, 50_000), ("rvl_cdip", 500_000, 32, 40_000, 80_000)],
)
def test_networks_are_those_of_table_3(paper, data, updates, batch, val, report):
    stages = paper(data)
    jobs = stages["networks"].jobs
    found = {family: sum(job.name.startswith(family) for job in jobs) for family in NETWORKS}
    assert found == NETWORKS and len(jobs) == 35
    for job in jobs:
        assert times(job, "image trained") == times(job, "image drawn") == updates * batch
        assert times(job, "update") == updates and job.work[START] == 1
        assert times(job, "image φ") == updates / 5000 * val + report  # looked at every 5,000 updates, and at the end
    [third], [pairs] = stages["baseline_3"].jobs, stages["distance"].jobs
    assert third.name == "baseline_3" and times(third, "update") == updates and "630 pairs" in pairs.name


@pytest.mark.parametrize(("data", "fit", "report"), [("ilsvrc", 50_000, 50_000), ("rvl_cdip", 40_000, 40_000)])
def test_measuring_is_every_g_on_both_splits_with_two_fits(paper, data, fit, report):
    measure = paper(data)["measure"]
    assert len(measure.jobs) == 35
    for name, points in (("rotation_20", 17), ("mirror_both", 4), ("crop_288", 25), ("baseline", EVERYTHING)):
        job = next(job for job in measure.jobs if job.name.startswith(name))
        assert times(job, "image φ") == times(job, "image under g") == points * (fit + report)
        sgd = [settings for unit in job.work for settings in unit.of if isinstance(settings, OnlineSGD)][0]
        ridge = [settings for unit in job.work for settings in unit.of if isinstance(settings, Ridge)][0]
        assert times(job, "image fitted", sgd) == points * fit * 10
        assert times(job, "image fitted", ridge) == points * fit
        assert times(job, "fit") == 2 * points
        assert times(job, "image scored") == points * (3 * (fit + report) + 2 * fit)
    assert EVERYTHING == 197
    baselines = [job for job in measure.jobs if job.name.startswith("baseline")]
    assert [times(job, "image under g", "crop", 320) for job in baselines] == [25 * (fit + report)] * 2


@pytest.mark.parametrize("name", ["baseline_3", "crop_256", "elastic_5_sigma3", "mirror_both", "noise_15"])
def test_networks_are_those_that_training_composes(compose, smoke, name):
    config = compose("train", f"network={name}", "model=tiny")
    found = smoke[name]
    assert found.transform == config["transform"] and found.label == f"{config['name']}/seed{config['seed']}"


def test_seeds_are_jobs_of_their_own_and_other_sweeps_are_refused():
    everything = {name: Trained(f"{name}/seed0", {"name": "rotation"}) for name in ("rotation_5", "rotation_20")}
    jobs = [{"network": "rotation_5", "seed": seed} for seed in ("0", "7")]
    found = trained_by(jobs, everything, "x.yaml").values()
    assert [one.label for one in found] == ["rotation_5/seed0", "rotation_5/seed7"]
    for job, said in (
        ({"network": "rotation_21"}, "x.yaml: network=rotation_21: there is no such .*; did you mean 'rotation_20'"),
        ({"network": "rotation_5", "recipe.rate": "1"}, "x.yaml sweeps over network, recipe.rate; a plan knows"),
        ({"transform": "rotation"}, "x.yaml sweeps over transform; a plan knows"),
    ):
        with pytest.raises(UserError, match=said):
            trained_by([job], everything, "x.yaml")


def test_distances_are_all_ordered_pairs(paper):
    job = paper("ilsvrc")["distance"].jobs[-1]
    assert times(job, "fit") + times(job, "target") == 2 * 36 * 35
    assert times(job, "index pair") == 36 * 35 and times(job, "index half") == 630 and times(job, "index source") == 36
    assert times(job, "image φ") == 36 * 100_000
    assert job.disk == 36 * 100_000 * 4096 * 4


@pytest.mark.parametrize(("data", "batch", "images"), [("ilsvrc", 100, 100_000), ("rvl_cdip", 10, 80_000)])
def test_finetuning_takes_all_copies_through_the_network_and_is_measured_before_and_after(paper, data, batch, images):
    finetune = paper(data)["finetune"]
    copies = {"rotation_20": 6, "mirror_both": 3, "crop_256": 4, "noise_20": 5}
    assert len(finetune.jobs) == 9
    for name, j in copies.items():
        job = about(finetune, name)
        assert times(job, "image trained") == 150_000 * batch * (j + 1) and times(job, "map trained") == 150_000 * j
    val = 50_000 if data == "ilsvrc" else 40_000
    looks, rotation = 30 * val, about(finetune, "rotation_20")  # every 5,000 updates, untouched and under every g of G
    evaluated = {"ilsvrc": 50_000, "rvl_cdip": 80_000}[data]
    assert times(rotation, "image φ") == 7 * looks + evaluated + 2 * (7 + 17) * images
    assert times(rotation, "image under g") == 150_000 * batch * 7 + 7 * looks + 2 * (7 + 17) * images


def test_room_is_that_of_the_arrays_and_checkpoints(paper):
    stages = paper("ilsvrc")
    images = 1_281_167 + 50_000
    jobs, sizes = stages["prepare"].jobs, (227, 240, 256, 288, 320)
    for job, size in zip(jobs, sizes, strict=True):
        assert job.name == f"{size} pixels" and times(job, "image decoded") == images
        assert job.lent == images * 3 * size**2 and 0 <= job.disk - job.lent <= images * 1000  # labels, names, hashes
    for job in stages["networks"].jobs:  # the best weights; the last with their momentum
        assert job.disk == 3 * 4 * PARAMETERS["ilsvrc"]
    joint = about(stages["finetune"], "mirror_both")
    assert joint.disk == 4 * (3 * PARAMETERS["ilsvrc"] + 2 * 3 * (4096**2 + 4096))


def test_a_model_s_shape_needs_no_memory():
    wide = Net(
        json.dumps(
            {"_target_": "invariance.models.caffenet.CaffeNet", "input_size": 227, "width": 4, "features": 65536}
        ),
        1000,
        3,
        "relu7",
    )
    dim, parameters = shape_of(wide)
    assert dim == 65536 and parameters > 4e9


def test_one_size_after_another_needs_half_the_room_and_all_at_once_one_decoding(paper):
    find_plugins()
    templates = Templates(TEMPLATES, "paper")
    kept = Study(templates, networks_there(templates), ["data=ilsvrc"], ["cpu"], Path("nowhere"), keep=True)
    [job], images = kept.prepare().jobs, 1_281_167 + 50_000
    assert job.name == "227, 240, 256, 288, 320 pixels" and times(job, "image decoded") == images
    assert {job.turn for stage in kept.stages() for job in stage.jobs} == {0}
    both = [stage for data in ("ilsvrc", "rvl_cdip") for stage in paper(data).values()]
    lent = images * 3 * sum(size**2 for size in (227, 240, 256, 288))  # all of a size but the largest
    lent += 400_000 * sum(size**2 for size in (227, 240, 256, 288, 320))
    assert room_of(both, keep=True) - room_of(both, keep=False) == pytest.approx(lent)
    alone = list(paper("ilsvrc").values())
    assert 0.50e12 < room_of(alone, keep=False) < 0.52e12 < room_of(both, keep=False) < 0.7e12
    assert 1.53e12 < room_of(alone, keep=True) < 1.55e12
    [crop] = [job for job in paper("ilsvrc")["networks"].jobs if job.turn == 288]
    assert crop.name == "crop_288" and sum(job.turn == 227 for job in paper("ilsvrc")["networks"].jobs) == 31


A, B = Unit("a"), Unit("b", (1,), how="any")


def test_a_stage_takes_its_work_shared_out_or_its_longest_job():
    jobs = [
        PlannedJob("1", Work({A: 10, B: 4}), 100.0),
        PlannedJob("2", Work({A: 1}), 50.0),
        PlannedJob("3", Work({A: 2})),
    ]
    rates = {A: 2.0, B: 0.5}
    one = estimate(Stage("x", jobs), rates, devices=1, cores=7)
    assert (one.seconds, one.longest, one.wall, one.disk) == (28.0, 22.0, 28.0, 150.0)
    assert estimate(Stage("x", jobs), rates, devices=2, cores=7).wall == 22.0  # the longest bounds it
    assert estimate(Stage("x", jobs), rates, devices=1, cores=1).wall == 28.0
    assert estimate(Stage("x", jobs, on_cores=True), rates, devices=5, cores=7).wall == 4.0
    gap = estimate(Stage("x", jobs, gap="unknown"), {}, 1, 1)
    assert math.isnan(gap.seconds) and math.isnan(gap.wall)


def test_turns_come_one_after_another():
    jobs = [PlannedJob("1", Work({A: 4}), turn=1)] * 4 + [PlannedJob("2", Work({A: 5}), turn=2)]
    assert estimate(Stage("x", jobs), {A: 1.0}, devices=4, cores=1).wall == 4 + 5
    assert estimate(Stage("x", jobs), {A: 1.0}, devices=1, cores=1).wall == 21
    lent = Stage("x", [PlannedJob("1", Work(), 5, 3), PlannedJob("2", Work(), 9, 8)])
    assert room_of([lent], keep=False) == 2 + 1 + 8 and room_of([lent], keep=True) == 5 + 9
    assert room_of([], keep=False) == 0


def test_units_are_told_apart_by_what_their_cost_depends_on_alone():
    assert Unit("b", (1,), how="other") == B and Unit("b", (2,)) != B
    assert units_of(
        [Stage("x", [PlannedJob("1", Work({A: 1, B: 1})), PlannedJob("2", Work({Unit("b", (1,)): 2}))])]
    ) == [A, B]
    work = Work({A: 1})
    work.join(Work({A: 2, B: 3}))
    work.add(B, 0.5)
    assert work == {A: 3, B: 3.5}


def test_a_line_through_two_times():
    assert straight(4, 5.0, 16, 17.0) == (1.0, 1.0)
    assert straight(4, 3.0, 16, 16.0) == (1.0, 0.0)  # it would begin below 0
    assert straight(4, 5.0, 16, 4.0) == (0.25, 0.0)  # noise: many took less than few


def test_what_is_scaled_up_from_a_smaller_d_grows_as_it_should(monkeypatch):
    """With clocks that read 1 s a row and 8 s beside: D² for what grows with images, D³ for the rest."""
    monkeypatch.setattr(Clock, "line", lambda self, work, few, many: (1.0, 8.0))
    dim = 4 * invariance.planning.probes._CPU_DIM
    unit = Unit("index pair", (dim,))
    with bar(False) as progress:
        rates = measure_rates([unit, Unit("index pair image", (dim,))], torch.device("cpu"), 1, progress)
    assert rates[unit] == 8.0 * 4**3 and rates[Unit("index pair image", (dim,))] == 1.0 * 4**2


def test_every_unit_of_a_study_is_timed(smoke):
    """All but a job's start, which takes a process of its own."""
    templates = Templates(TEMPLATES, "smoke")
    everything = {name: smoke[name] for name in ("rotation_20", "mirror_both")}
    study = Study.__new__(Study)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Templates, "sweep", lambda self, config: [{"network": "rotation_20"}, {"network": "mirror_both"}])
        study.__init__(templates, everything, [], ["cpu"], Path("nowhere"))
        patch.setattr(Templates, "sweep", lambda self, config: [{"which": "rotation_20"}, {"which": "mirror_both"}])
        stages = [study.prepare(), study.networks(), study.measure(), study.finetune()]
        patch.setattr(Templates, "sweep", lambda self, config: [])
        stages.append(study.distance())
    units = [unit for unit in units_of(stages) if unit != START]
    assert len({unit.kind for unit in units}) >= 16
    with bar(False) as progress:
        rates = measure_rates(units, torch.device("cpu"), 0.5, progress)
    assert set(rates) == set(units) and all(0 <= value < math.inf for value in rates.values())
    assert all(rates[unit] > 0 for unit in units if unit.kind.startswith("image "))


@pytest.mark.parametrize(("colour", "shape", "kind"), [("rgb", (375, 500, 3), "JPEG"), ("gray", (1000, 762), "TIFF")])
def test_files_that_stand_in_for_those_of_the_data_sets(colour, shape, kind):
    import io

    import numpy as np
    from PIL import Image

    picture = Image.open(io.BytesIO(made_file(colour)))
    assert picture.format == kind and np.asarray(picture).shape == shape


def test_numbers_of_data_are_of_what_is_there_before_what_is_published(trained, compose):
    folder, _ = trained
    config = compose("train", "data=digits")["data"]
    there = data_set(config, folder / "prepared")
    assert (there.known_from, there.classes, there.report) == ("prepared", 10, "test")
    counted = data_set(config, folder / "nowhere")
    assert counted.known_from == "counted" and counted.images == there.images and sum(there.images.values()) == 1797
    published = data_set(compose("train", "data=rvl_cdip", "model=tiny")["data"], folder / "nowhere")
    assert published.images == {"train": 320_000, "val": 40_000, "test": 40_000} and published.classes == 16
    with pytest.raises(UserError, match="how many images Folder has is not known yet"):
        data_set(compose("train", "data=folder", "name=x")["data"], folder)


@pytest.fixture
def quick(monkeypatch):
    """A millisecond a unit, so that nothing is timed."""
    monkeypatch.setattr(experiment, "measure_rates", lambda units, *_: {u: 10.0 if u == START else 1e-3 for u in units})


def config_of(compose, *overrides):
    said = ", ".join(f"'{one}'" for one in overrides)
    return compose("plan", f"templates={TEMPLATES}", "progress=false", f"chosen=[{said}]", *overrides)


def test_a_plan_is_a_table_a_line_and_numbers(compose, quick, capsys, tmp_path):
    path = tmp_path / "plan.json"
    config = config_of(compose, "data=digits", "study=smoke", "trainer=cpu", "gpus=4", f"json={path}")
    plan(config)
    said = capsys.readouterr().out
    assert "digits: train 1,079, val 359, test 359" in said and "waiting for disks and queues is left out" in said
    held = json.loads(path.read_text())
    stages = held["stages"]["digits"]
    jobs = {name: stage["jobs"] for name, stage in stages.items()}
    assert held["devices"] == 4 and jobs["networks"] == jobs["measure"] == 36 and jobs["finetune"] == 9
    networks = stages["networks"]
    template = Path(__file__).parents[1] / "multirun_templates" / "smoke_networks.yaml"
    recipe = yaml.safe_load(template.read_text())["recipe"]
    updates, looks = recipe["updates"], recipe["updates"] // recipe["val_every"]
    each = 10 + 1e-3 * (2 * 16 * updates + updates + looks * 359 + 718)
    assert networks["seconds"] == pytest.approx(36 * each) and networks["seconds_longest"] == pytest.approx(each)
    assert networks["seconds_wall"] == pytest.approx(32 * each / 4 + 4 * each)  # Crop's sizes, one after another
    of_all = sum(stage["disk"] for stage in stages.values())
    assert held["disk_of_all"] == pytest.approx(of_all, abs=9) and held["disk_at_once"] < held["disk_of_all"]
    assert re.search(r"room: [\d.]+ .B at most, as each size .*; [\d.]+ .B with all at once\n", said)
    plan({**config, "keep": True})
    said, held = capsys.readouterr().out, json.loads(path.read_text())
    assert "images of all sizes at once; " in said and held["disk_at_once"] == held["disk_of_all"]
    assert held["stages"]["digits"]["networks"]["seconds_wall"] == pytest.approx(36 * each / 4)


def test_the_paper_with_another_model_and_recipe(compose, quick, tmp_path, capsys):
    path = tmp_path / "plan.json"
    small = ["data=digits", "model=tiny", "recipe=smoke", "trainer=cpu"]
    plan(config_of(compose, *small, f"json={path}", "recipe.updates=50"))
    stages = json.loads(path.read_text())["stages"]["digits"]
    assert stages["networks"]["jobs"] == 35 and stages["distance"]["jobs"] == stages["baseline_3"]["jobs"] == 1
    each = 10 + 1e-3 * (2 * 50 * 16 + 50 + 5 * 359 + 718)
    assert stages["networks"]["seconds_longest"] == pytest.approx(each)


def test_keys_of_groups_count_for_every_data_set(compose, quick, tmp_path):
    path = tmp_path / "plan.json"
    own = ["model=tiny", "recipe=smoke", "recipe.updates=50", "recipe.batch=8"]
    plan(config_of(compose, "data=[digits,rvl_cdip]", *own, "trainer=cpu", f"json={path}"))
    stages = json.loads(path.read_text())["stages"]
    for data, val, evaluated in (("digits", 359, 718), ("rvl_cdip", 40_000, 80_000)):
        each = 10 + 1e-3 * (2 * 50 * 8 + 50 + 5 * val + evaluated)
        assert stages[data]["networks"]["seconds_longest"] == pytest.approx(each)


def test_cross_data_is_measured_and_its_pages_prepared_once():
    find_plugins()
    templates, pages = Templates(TEMPLATES, "paper"), 10_000
    study = Study(templates, networks_there(templates), ["data=rvl_cdip"], ["cpu"], Path("nowhere"), pages)
    jobs = study.cross_data().jobs
    assert len(jobs) == 35 and {times(job, "image φ") for job in jobs if "rotation" in job.name} == {17 * pages}
    sizes = (227, 240, 256, 288, 320)  # all by the first job, which is a baseline's
    assert times(jobs[0], "image decoded") == 5 * pages and not any(times(job, "image decoded") for job in jobs[1:])
    assert 0 <= jobs[0].disk - pages * sum(size**2 for size in sizes) < pages * 5000 + 4 * 227**2 * EVERYTHING + 1


def test_a_key_of_the_trainer_is_planned_for(compose, smoke):
    on = ["cpu", "trainer.precision=bf16-mixed"]
    study = Study(Templates(TEMPLATES, "smoke"), smoke, ["data=digits"], on, Path("nowhere"))
    [said] = {unit.of[2] for unit in study.networks().jobs[0].work if unit.kind == "update"}
    assert json.loads(said)["precision"] == "bf16-mixed"
    [said] = {unit.of[2] for unit in study.finetune().jobs[0].work if unit.kind == "update"}
    assert json.loads(said)["precision"] == "bf16-mixed"


def test_keys_of_groups_on_a_command_line():
    said = ["data=digits", "recipe.updates=3", "++model.width=2", "study=smoke", "trainer.precision=x", "recipe=smoke"]
    found = keys_of(said, ["digits"])
    assert found == {
        "data": [],
        "model": ["++model.width=2"],
        "recipe": ["recipe.updates=3"],
        "trainer": ["trainer.precision=x"],
    }
    assert keys_of(["data.root=/x"], ["digits"])["data"] == ["data.root=/x"]
    with pytest.raises(UserError, match="data.root=/x: of which of ilsvrc, rvl_cdip"):
        keys_of(["data.root=/x"], ["ilsvrc", "rvl_cdip"])


def test_what_the_command_line_chose():
    assert chosen_of([]) == {"data": ["ilsvrc", "rvl_cdip"], "model": None, "recipe": None, "trainer": "auto"}
    assert chosen_of(["gpus=3", "data=[digits, ilsvrc]", "trainer=cpu"])["data"] == ["digits", "ilsvrc"]
    for wrong in ("data=[digits,digits]", "data=[]", "data=null"):
        with pytest.raises(UserError, match="give the name of a data set"):
            chosen_of([wrong])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["gpus=0"], "gpus=0: give a whole number from 1"),
        (["gpus=two"], "gpus='two': give a whole number"),
        (["seconds=0"], "seconds=0: give a number from 1"),
        (["cross=0"], "cross=0: give a whole number"),
        (["study=papr"], "no template papr_networks.yaml in"),
        (["data=folder"], "how many images Folder has is not known yet"),
        (["templates=/nowhere"], "no template paper_networks.yaml in /nowhere"),
        (["recipe.updates=-1"], "paper_networks: recipe.updates=-1: give a whole number from 1"),
        pytest.param(
            ["trainer=gpu"],
            "torch finds no GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_mistakes_are_named(compose, quick, overrides, said):
    with pytest.raises(UserError, match=said):
        plan(config_of(compose, "data=digits", *overrides))


@pytest.mark.parametrize(
    ("stage", "said"),
    [("measure", "batch=0"), ("distance", "solver.ridge.held_out=2"), ("finetune", "joint.lambda3=-1")],
)
def test_a_value_that_no_job_of_a_template_can_have_is_refused(compose, quick, stage, said):
    with pytest.raises(UserError, match=f"smoke_{stage}: {said}.*: give"):
        plan({**config_of(compose, "data=digits", "study=smoke"), "args": {stage: said}})


def test_recipe_and_arguments_of_a_stage_are_planned_for(compose, quick, tmp_path):
    path = tmp_path / "plan.json"
    few = '{networks: "network=baseline_1,rotation_20", measure: "which=rotation_20", finetune: "which=rotation_20"}'

    def seconds(*more):
        plan(config_of(compose, "data=rvl_cdip", "trainer=cpu", f"json={path}", *more))
        return json.loads(path.read_text())["stages"]["rvl_cdip"]

    long, short = seconds(), seconds("recipe.updates=40", "recipe.val_every=20")
    assert short["networks"]["seconds_longest"] == pytest.approx(10 + 1e-3 * (2 * 40 * 32 + 40 + 2 * 40_000 + 80_000))
    assert short["finetune"]["seconds"] < long["finetune"]["seconds"] / 2  # the rest is measuring
    config = config_of(compose, "data=rvl_cdip", "trainer=cpu", f"json={path}")
    plan({**config, "args": yaml.safe_load(few)})
    chosen = json.loads(path.read_text())["stages"]["rvl_cdip"]
    assert [chosen[stage]["jobs"] for stage in ("networks", "measure", "finetune", "baseline_3")] == [2, 1, 1, 1]
    assert chosen["prepare"]["jobs"] == 1  # no network of Crop, and no baseline over its grids
    for wrong, said in (
        ({"network": "x=1"}, "no stage 'network'; did you mean 'networks'"),
        ({"measure": "'x"}, "No closing quotation"),
        ([1], "give a mapping"),
    ):
        with pytest.raises(UserError, match=said):
            plan({**config, "args": wrong})


def test_a_toy_is_planned_by_its_own_images(compose, quick, tmp_path):
    root, path = tmp_path / "pages of ours", tmp_path / "plan.json"
    layout(root)
    config = config_of(compose, "data=rvl_cdip", "study=toy", "count=true", "trainer=cpu", f"json={path}")
    plan({**config, "roots": {"rvl_cdip": str(root)}})
    toy = json.loads(path.read_text())["stages"]["rvl_cdip"]
    assert [toy[stage]["jobs"] for stage in ("prepare", "networks", "measure", "finetune")] == [5, 11, 11, 9]
    assert toy["networks"]["seconds_longest"] == pytest.approx(10 + 1e-3 * (2 * 40 * 16 + 40 + 2 * 16 + 32))


def layout(root):
    """RVL-CDIP's layout, with empty files for pages."""
    (root / "labels").mkdir(parents=True)
    (root / "images").mkdir()
    for split in ("train", "val", "test"):
        lines = [f"{split}{label}.tif {label}" for label in range(16)]
        (root / f"labels/{split}.txt").write_text("\n".join(lines) + "\n")
        for line in lines:
            (root / "images" / line.split()[0]).touch()


def test_all_that_a_study_lacks_is_told_before_anything_begins(compose, capsys, tmp_path, monkeypatch):
    places = [f"{key}={tmp_path}/{key}" for key in ("runs", "prepared", "features")]
    layout(root := tmp_path / "rvl")
    at_once = []

    def lacks(study, roots, args=None, *more):
        config = config_of(compose, "data=[ilsvrc,rvl_cdip]", f"study={study}", "check=true", *places, *more)
        try:
            plan({**config, "roots": roots, "args": args})
        except UserError as error:
            said = capsys.readouterr()
            assert "nothing was begun" in str(error) and not said.out
            return said.err.removeprefix("error: ").splitlines()
        first, *rest = capsys.readouterr().out.splitlines()
        assert first == "checked: everything that the study needs is there"
        assert not rest or rest[0].startswith("images of all sizes have room at once: KEEP=1 ")
        at_once.append(bool(rest))
        return []

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("shutil.which", lambda _: None)
    gpu, ilsvrc = lacks("paper", {"rvl_cdip": str(root)})
    assert "torch finds no GPU on this machine" in gpu and "ILSVRC= is not given" in ilsvrc
    said = lacks("paper", {"rvl_cdip": str(tmp_path)}, {"cross": f"data.root={tmp_path}/scans.zip"}, "launcher=slurm")
    assert "GPU" not in " ".join(said) and "no sbatch on this machine" in said[0]
    assert any("RVL_CDIP=" in line and "holds no images" in line for line in said)
    assert any("HISTORICAL=" in line and "no such folder or archive" in line for line in said)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert any("unknown key" in line or "'metrcs'" in line for line in lacks("toy", {}, {"measure": "metrcs=[x]"}))
    (tmp_path / "in/train").mkdir(parents=True)
    (tmp_path / "in/val").mkdir()
    roots = {"ilsvrc": str(tmp_path / "in"), "rvl_cdip": str(root)}
    pages = {"cross": f"data.root={root}/images"}
    assert any("has 0" in line or "holds 0 class folders" in line for line in lacks("toy", roots, pages, "count=true"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**13, 0, 10**13))
    assert not lacks("paper", roots, pages)
    for free, *more in ((700e9,), (700e9, "keep=true"), (500e9,)):  # the peak has room, all at once has not
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: shutil._ntuple_diskusage(10**13, 0, int(free)))
        short = lacks("paper", {"ilsvrc": str(tmp_path / "in"), "rvl_cdip": str(root)}, None, *more)
        assert bool(short) == (more == ["keep=true"] or free < 600e9), short
    assert at_once == [True, False]
    assert not (tmp_path / "runs").exists() and not (tmp_path / "prepared").exists()
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, 10**9))
    (tmp_path / "in/val").rmdir()
    with tarfile.open(tmp_path / "in/ILSVRC2012_img_val.tar", "w") as archive:
        archive.add(root / "images/val0.tif", "ILSVRC2012_val_00000001.JPEG")
    [room] = lacks("paper", roots)  # an archive is not counted: the published numbers are taken
    assert re.search(r"the study takes \d{3}.\d GB there, and 1.0 GB are free", room)


def test_images_that_were_given_back_lack_their_source(tmp_path):
    data = {"_target_": "invariance.data.sources.ilsvrc.ILSVRC", "name": "ilsvrc", "root": None}
    [absent] = _data(data, tmp_path)[1]
    assert absent.startswith("ILSVRC= is not given, and ilsvrc is not prepared in ")
    (tmp_path / "ilsvrc/227-gray").mkdir(parents=True)
    (tmp_path / "ilsvrc/227-gray/manifest.json").touch()
    assert not _data(data, tmp_path)[1]
    (tmp_path / "ilsvrc/227-gray/given_back.json").touch()
    [gone] = _data(data, tmp_path)[1]
    assert gone.startswith("ILSVRC= is not given, and images of ilsvrc were given back in ")
    [moved] = _data({**data, "root": str(tmp_path / "moved")}, tmp_path)[1]
    assert moved.startswith(f"ILSVRC={tmp_path}/moved: ")


def test_an_estimate_says_which_stage_it_is_of():
    stage = Stage("x", [])
    assert estimate(stage, {}, 1, 1) == Estimate(stage, 0, 0.0, 0.0, 0)
