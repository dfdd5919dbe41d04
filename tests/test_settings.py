"""What may be set: every mistake in a configuration is one line that names its key, before anything is computed."""

import pytest

GROUPS = {
    "prepare": ["data"],
    "train": ["data", "model", "transform", "recipe", "trainer", "logger"],
    "measure": ["map", "trainer", "logger"],
    "distance": ["trainer", "logger"],
    "finetune": ["recipe", "map", "trainer", "logger"],
    "report": ["logger"],
    "dashboard": ["logger"],
}
HUGE = 10**12


@pytest.mark.parametrize(("page", "group"), [(page, group) for page, groups in GROUPS.items() for group in groups])
@pytest.mark.parametrize("form", ["{}=null", "~{}"])
def test_a_group_that_is_taken_away_is_named(page, group, form, mistake):
    assert group in mistake(page, form.format(group))


@pytest.mark.parametrize("page", ["measure", "distance", "finetune"])
@pytest.mark.parametrize("given", ["null", "[]", "5", "{a: 1}", "''", "[digits,digits]", "[digits,5]"])
def test_networks_are_names(page, given, mistake):
    assert "networks" in mistake(page, f"networks={given}")


@pytest.mark.parametrize(
    ("page", "given", "key"),
    [
        ("train", "~seed", "seed"),
        ("train", "seed=-1", "seed"),
        ("train", "seed=1.5", "seed"),
        ("train", "seed=true", "seed"),
        ("train", f"seed={2**70}", "seed"),
        ("train", "recipe=[]", "recipe"),
        ("train", "recipe.rate=nan", "recipe.rate"),
        ("train", "recipe.updates=-1", "recipe.updates"),
        ("train", "recipe.rate=1e308", "recipe.rate"),
        ("train", "recipe.weight_decay=1e308", "recipe.weight_decay"),
        ("train", "+recipe.x=1", "recipe.x"),
        ("train", "recipe.batch={a: 1}", "recipe.batch"),
        ("train", "data.fit={a: 1}", "data.fit"),
        ("train", "data.fit=5", "data.fit"),
        ("train", "data.mean=nan", "data.mean"),
        ("train", "+data.x=1", "data.x"),
        ("train", "model.input_size=0", "model.input_size"),
        ("train", "model.features=0", "model"),
        ("train", "transform=rotation", "range"),
        ("train", "+x=1", "'x'"),
        ("train", "name=a/b", "name"),
        ("train", "logger.mode=often", "logger.mode"),
        ("train", "runs=''", "runs"),
        ("train", "progress=3", "progress"),
        ("prepare", "size=0", "size"),
        ("prepare", "renew=maybe", "renew"),
        ("measure", "map=[]", "map"),
        ("measure", "grids=[]", "grids"),
        ("measure", "grids=[shear,shear]", "grids"),
        ("measure", "metrics=[]", "metrics"),
        ("measure", "metrics=[error_rate,error_rate]", "metrics"),
        ("measure", "metrics=error_rate", "metrics"),
        ("measure", "grid={rotatio: {}}", "grid.rotatio"),
        ("measure", "grid={rotation: {angels: [5]}}", "grid.rotation.angels"),
        ("measure", "batch=0", "batch"),
        ("measure", "memory_gb=0", "memory_gb"),
        ("measure", "layer=''", "layer"),
        ("measure", "+x=1", "'x'"),
        ("measure", "solver.ridge.strengths=[]", "solver.ridge.strengths"),
        ("measure", "solver.ridge.strengths=[1e308]", "solver.ridge.strengths[0]=1e+308"),
        ("measure", "solver.ridge.strengths=[1,0.5,1]", "solver.ridge.strengths=[1, 0.5, 1]"),
        ("measure", "solver.online_sgd.rate=1e308", "solver.online_sgd.rate=1e+308"),
        ("measure", "solver.online_sgd.weight_decay=1e7", "solver.online_sgd.weight_decay"),
        ("measure", "fit={images: 0}", "fit.images"),
        ("measure", "report=tes", "report"),
        ("distance", "metrics=[indices,indices]", "metrics"),
        ("distance", "solver=null", "solver"),
        ("finetune", "joint.lambda3=null", "joint.lambda3"),
        ("finetune", "joint.lambda1=1e308", "joint.lambda1"),
        ("finetune", "joint.lambda2=1e308", "joint.lambda2"),
        ("finetune", "joint.lambda3=1e308", "joint.lambda3"),
        ("finetune", "recipe.rate=1e308", "recipe.rate"),
        ("finetune", "G={}", "G"),
        ("finetune", "copies=0", "copies"),
        ("finetune", "+x=1", "'x'"),
        ("report", "dataset=5", "dataset"),
        ("report", "+x=1", "'x'"),
        ("status", "every=0", "every"),
        ("status", "seal=5", "seal"),
        ("dashboard", "name=''", "name"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(page, given, key, mistake):
    assert key in mistake(page, given)


def test_a_value_that_makes_no_sense_is_named_of_a_solver_that_is_added_too(mistake):
    assert "solver.minibatch_sgd.rate" in mistake("measure", "map=mlp", "+solver.minibatch_sgd.rate=1e308")


def test_a_network_that_no_machine_holds_is_refused_before_it_is_made(mistake):
    line = mistake("train", "model=tiny", f"model.features={HUGE}")
    assert f"model.features={HUGE}" in line and "bytes" in line and "this machine has" in line
