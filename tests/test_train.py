"""Training: the released code's schedule, exact continuation after a kill, checkpoints that cannot harm."""

import math
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from invariance.errors import UserError
from invariance.experiments.train import check, train
from invariance.training.classifier import Classifier, load_classifier
from invariance.training.module import rate_factor

TRANSFORM = {"_target_": "invariance.transforms.rotation.Rotation", "name": "rotation", "range": 20, "angles": [-5, 5]}
MODEL = {
    "_target_": "invariance.models.caffenet.CaffeNet",
    "input_size": 28,
    "width": 0.125,
    "features": 16,
    "groups": 2,
}
RECIPE = {
    "rate": 0.01,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "step": 100,
    "schedule": "step",
    "warmup": 0,
    "updates": 300,
    "label_smoothing": 0.0,
    "nesterov": False,
}
QUICK = [
    "model=tiny",
    "recipe=smoke",
    "logger=csv",
    "trainer=cpu",
    "progress=false",
    "transform=noise",
    "range=20",
    "recipe.updates=60",
    "recipe.val_every=5",
    "recipe.step=20",
]


def classifier(**changes):
    arguments = dict(
        model=MODEL, transform=TRANSFORM, recipe=RECIPE, classes=["a", "b", "c"], channels=1, mean=[100.0], seed=0
    )
    return Classifier(**(arguments | changes))


def test_biases_learn_twice_as_fast_and_do_not_decay():
    module = classifier()
    optimizer = module.configure_optimizers()["optimizer"]
    weights, biases = optimizer.param_groups
    assert {p.ndim for p in biases["params"]} == {1} and 1 not in {p.ndim for p in weights["params"]}
    assert (weights["lr"], weights["weight_decay"]) == (0.01, 5e-4) and (biases["lr"], biases["weight_decay"]) == (
        0.02,
        0,
    )
    assert len(weights["params"]) == len(biases["params"]) == 8


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        ("step", {0: 0.25, 3: 1, 4: 1, 9: 1, 10: 0.1, 19: 0.1, 20: 0.01, 30: 0.001}),
        ("cosine", {0: 0.25, 2: 0.75, 3: 1, 4: 1, 13: 0.5 * (1 + math.cos(math.pi / 4)), 22: 0.5, 40: 0.0}),
    ],
)
def test_the_rate_follows_the_recipes_schedule(schedule, wanted):
    recipe = {**RECIPE, "schedule": schedule, "step": 10, "warmup": 4, "updates": 40}
    for update, factor in wanted.items():
        assert rate_factor(recipe, update) == pytest.approx(factor, abs=1e-12)


def test_channels_last_changes_rounding_alone_and_no_file():
    plain, other = classifier(), classifier()
    other.speed_up(channels_last=True, compiled=True)
    other.network._compiled_call_impl = None  # compiling takes long; that the keys stay is what matters here
    assert list(plain.state_dict()) == list(other.state_dict())
    x, y = torch.randint(0, 256, (4, 1, 32, 32), dtype=torch.uint8), torch.tensor([0, 1, 2, 0])
    losses = []
    for module in (plain, other):
        module.log = lambda *_, **__: None
        module._trainer = SimpleNamespace(global_step=3, global_rank=0, world_size=1)
        losses.append(module.training_step((x, y), 0).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_of_several_devices_each_has_its_slice_of_the_same_batches_and_transformations(monkeypatch):
    """What the ranks of an update see, side by side, is what one device sees."""
    seen = []
    module = classifier()
    module.log = lambda *_, **__: None
    monkeypatch.setattr(module.transform, "apply", lambda x, params: seen.append((x, params)) or x)
    x, y = torch.randint(0, 256, (6, 1, 28, 28), dtype=torch.uint8), torch.tensor([0, 1, 2, 0, 1, 2])
    for rank, world in ((0, 1), (0, 3), (1, 3), (2, 3)):
        module._trainer = SimpleNamespace(global_step=5, global_rank=rank, world_size=world)
        part = slice(rank * 6 // world, (rank + 1) * 6 // world)
        module.training_step((x[part], y[part]), 0)
    whole, *parts = seen
    assert torch.equal(torch.cat([x for x, _ in parts]), whole[0])
    for name, values in whole[1].items():
        assert torch.equal(torch.cat([params[name] for _, params in parts]), values)


@pytest.mark.parametrize(("rank", "world"), [(0, 1), (1, 3)])
def test_what_is_drawn_where_images_are_read_is_what_the_step_would_draw(rank, world):
    module = classifier(transform={"_target_": "invariance.transforms.rotation.Rotation", "range": 20})
    module.log = lambda *_, **__: None
    module._trainer = SimpleNamespace(global_step=5, global_rank=rank, world_size=world)
    x, y = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8), torch.tensor([0, 1])
    draw = module.draw(x.shape[1:])
    found = [module.training_step((x, y, draw(update, 2 * world)), 0).item() for update in (5, 6)]
    assert found[0] == module.training_step((x, y), 0).item() != found[1]
    own = classifier(transform={"_target_": "invariance.transforms.baseline.Baseline"})
    assert own.draw(x.shape[1:]) is None


@pytest.mark.long
def test_two_devices_train_as_one_does_and_go_on_after_a_kill(tmp_path, compose):
    """On processes of one CPU, without dropout, whose masks are each rank's own."""

    def trained(name, *more):
        places = [f"runs={tmp_path}/{name}/runs", f"prepared={tmp_path}/{name}/prepared"]
        train(compose("train", *QUICK, *places, "model.dropout=0", *more))

    trained("one")
    trained("two", "trainer.devices=2")
    alone, together = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.allclose(alone[key], together[key], rtol=1e-3, atol=1e-5) for key in alone)

    process = subprocess.Popen(
        [*command(tmp_path / "killed"), "model.dropout=0", "trainer.devices=2"],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not list(tmp_path.glob("killed/runs/train/*/*/*/last.ckpt")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    trained("killed", "trainer.devices=2")
    ours = weights(tmp_path / "killed")
    assert all(torch.equal(ours[key], together[key]) for key in ours)


def test_inputs_are_centred_and_divided_by_255():
    x = torch.full((1, 1, 28, 28), 151.0)
    assert torch.allclose(classifier().normalise(x), torch.tensor(0.2))


def test_a_seed_decides_the_initial_weights_and_leaves_the_global_state():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, two, other = classifier(seed=1), classifier(seed=1), classifier(seed=2)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one.network.fc8.weight, two.network.fc8.weight)
    assert not torch.equal(one.network.fc8.weight, other.network.fc8.weight)


def command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "invariance.train", *QUICK, f"runs={folder}/runs", f"prepared={folder}/prepared"]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    [path] = folder.glob("runs/train/digits/*/seed0/best.ckpt")
    return torch.load(path, weights_only=True)["state_dict"]


def helpers(pid: int) -> list[Path]:
    return [Path("/proc") / child for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize(
    ("end", "workers"),
    [
        (signal.SIGKILL, 4),
        (signal.SIGTERM, 0),
        pytest.param(signal.SIGUSR1, 4, marks=pytest.mark.long),
        pytest.param(signal.SIGINT, 4, marks=pytest.mark.long),
    ],
)
def test_killed_anywhere_and_repeated_gives_the_same_to_the_bit(tmp_path, end, workers, undisturbed, compose):
    process = subprocess.Popen(
        [*command(tmp_path), f"trainer.workers={workers}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**environment(), "SLURM_JOB_ID": "1", "PYTHONWARNINGS": "ignore"},
        text=True,
        start_new_session=True,
    )
    started = time.monotonic()
    while not list(tmp_path.glob("runs/train/*/*/*/last.ckpt")):
        assert process.poll() is None and time.monotonic() - started < 120
        time.sleep(0.01)
    assert not helpers(process.pid), "images are read by threads"
    os.killpg(process.pid, end) if end != signal.SIGKILL else process.kill()  # as schedulers and terminals do
    said = process.communicate()[1]
    assert process.returncode == (-9 if end == signal.SIGKILL else 130)
    assert end == signal.SIGKILL or [line[:18] for line in said.splitlines()] == ["error: interrupted"], said
    assert not list(tmp_path.glob("runs/**/done.json"))

    train(compose("train", *QUICK, f"runs={tmp_path}/runs", f"prepared={tmp_path}/prepared"))
    ours, theirs = weights(tmp_path), weights(undisturbed)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    name = "runs/train/digits/noise_20/seed0/rows.csv"
    assert (tmp_path / name).read_bytes() == (undisturbed / name).read_bytes()
    assert not list(tmp_path.glob("runs/**/previous.ckpt"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, compose):
    folder = tmp_path_factory.mktemp("undisturbed")
    train(compose("train", *QUICK, f"runs={folder}/runs", f"prepared={folder}/prepared"))
    return folder


def test_a_finished_run_is_skipped(undisturbed):
    [marker] = undisturbed.glob("runs/train/digits/*/seed0/done.json")
    before = marker.stat().st_mtime_ns
    said = subprocess.run(command(undisturbed), env=environment(), check=True, capture_output=True, text=True)
    assert said.stdout.startswith("finished already") and marker.stat().st_mtime_ns == before


@pytest.mark.parametrize("given", [["transform.range=10"], ["range=5", "transform.range=10"]])
def test_a_range_that_the_name_does_not_tell_is_refused(given, compose):
    with pytest.raises(UserError, match="transform.range=10 is not range=(null|5), .*give range=10 alone"):
        check(compose("train", "transform=rotation", *given))


def test_another_configuration_in_the_same_place_is_refused(undisturbed, compose):
    places = [f"runs={undisturbed}/runs", f"prepared={undisturbed}/prepared"]
    with pytest.raises(UserError, match=r"recipe.rate is 0.01 there and 0.02 here"):
        train(compose("train", *QUICK, *places, "recipe.rate=0.02"))


def test_divergence_ends_in_one_line(tmp_path, compose):
    with pytest.raises(UserError, match="training diverged") as caught:
        train(compose("train", *QUICK, f"runs={tmp_path}/runs", f"prepared={tmp_path}/prepared", "recipe.rate=1e6"))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("runs/**/done.json")) and not list(tmp_path.glob("runs/**/last.ckpt"))


@pytest.fixture
def checkpoint(undisturbed, tmp_path):
    [path] = undisturbed.glob("runs/train/digits/*/seed0/best.ckpt")
    copy = tmp_path / "best.ckpt"
    copy.write_bytes(path.read_bytes())
    return copy


def test_a_checkpoint_loads_and_classifies(checkpoint):
    module = load_classifier(checkpoint)
    assert not module.training and module(torch.zeros(2, 1, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_one_line(checkpoint, share):
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match="is damaged; train the network again"):
        load_classifier(checkpoint)


class Harm:
    def __reduce__(self):
        return (Path.touch, (Path("harmed"),))


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_code_in_a_checkpoint_does_not_run(tmp_path, monkeypatch, how):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "best.ckpt"
    if how == "torch":
        torch.save({"state_dict": Harm()}, path)
    else:
        path.write_bytes(pickle.dumps(Harm()))
    with pytest.raises(UserError, match="holds code, which is never run|is damaged"):
        load_classifier(path)
    assert not (tmp_path / "harmed").exists()


def test_a_checkpoint_of_another_architecture_is_named(checkpoint):
    held = torch.load(checkpoint, weights_only=True)
    held["hyper_parameters"]["model"]["features"] = 99
    torch.save(held, checkpoint)
    with pytest.raises(UserError, match="another architecture: network.fc6.bias"):
        load_classifier(checkpoint)
    torch.save({"weights": 1}, checkpoint)
    with pytest.raises(UserError, match="not one of invariance.train"):
        load_classifier(checkpoint)
    with pytest.raises(UserError, match="no checkpoint at"):
        load_classifier(checkpoint.with_name("absent.ckpt"))


@pytest.mark.parametrize(
    "about",
    [
        {"features": 10**12},
        {"features": 10**30},
        {"features": -1},
        {"features": 0},
        {"features": 1.5},
        {"features": "x"},
        {"features": None},
        {"nope": 1},
        {"_target_": "builtins.eval"},
        {"_target_": "torch.nn.Linear"},
        {"_target_": 5},
    ],
)
def test_a_checkpoint_that_names_an_impossible_network_is_one_line(checkpoint, about):
    held = torch.load(checkpoint, weights_only=True)
    held["hyper_parameters"]["model"].update(about)
    features = about.get("features")
    if isinstance(features, int) and 0 < features < 2**40:  # of weights of that shape the file holds one number
        for key, value in held["state_dict"].items():
            if key.startswith("network.fc6"):
                held["state_dict"][key] = torch.zeros(()).expand(features, *value.shape[1:])
    torch.save(held, checkpoint)
    with pytest.raises(UserError, match=r"^checkpoint .*best\.ckpt[^\n]*train the network again"):
        load_classifier(checkpoint)


@pytest.mark.parametrize("key", ["model", "classes", "channels", "mean", "recipe", "seed"])
@pytest.mark.parametrize("value", [None, -1, 10**12, "x", [], {}, math.nan])
def test_a_checkpoint_whose_settings_make_no_sense_is_one_line(checkpoint, key, value):
    held = torch.load(checkpoint, weights_only=True)
    if key not in held["hyper_parameters"]:
        pytest.skip(f"no {key} in a checkpoint")
    held["hyper_parameters"][key] = value
    torch.save(held, checkpoint)
    try:
        load_classifier(checkpoint)
    except UserError as error:
        assert str(error).startswith("checkpoint ") and "\n" not in str(error)


def test_images_without_labels_are_refused_before_a_run_begins(tmp_path, compose):
    from PIL import Image

    for k in range(4):
        (tmp_path / "old").mkdir(exist_ok=True)
        Image.new("L", (9, 9), 60 * k).save(tmp_path / "old" / f"{k}.png")
    config = compose(
        "train",
        f"runs={tmp_path}/runs",
        f"prepared={tmp_path}/prepared",
        "logger=csv",
        "trainer=cpu",
        "progress=false",
        "data=historical",
        f"data.root={tmp_path}/old",
        "recipe=smoke",
        "model=tiny",
    )
    with pytest.raises(UserError, match="no labelled images to train on"):
        train(config)
    assert not (tmp_path / "runs").exists()
