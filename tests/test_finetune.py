"""Finetuning with the joint loss: gradients against Eq. 5–7, and a page whose rows survive any interruption."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional

from invariance.data.batches import PreparedData
from invariance.engine.grids import joint_grid
from invariance.errors import UserError
from invariance.experiments import finetune as experiment
from invariance.experiments import finetuning
from invariance.experiments.finetune import finetune
from invariance.maps import build_map
from invariance.models.caffenet import CaffeNet
from invariance.reporting.finetuned import studies
from invariance.reporting.page import make_report
from invariance.reporting.paper.finetuned import gaps
from invariance.reporting.rows import collect
from invariance.runs.rows import read_rows, write_rows
from invariance.runs.seal import write_marker
from invariance.settings.files import family_config, family_sweep, paper_families
from invariance.training.block_dropout import BlockDropout
from invariance.training.classifier import Classifier, load_classifier
from invariance.training.joint import JointFinetune
from invariance.training.joint_loss import JointWeights
from invariance.training.trained import Network
from invariance.training.trainer import trainer_of
from invariance.transforms.mirror import Mirror
from invariance.transforms.rotation import Rotation

RECIPE = {
    "rate": 0.01,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "batch": 4,
    "updates": 4,
    "schedule": "step",
    "step": 10,
    "warmup": 0,
    "label_smoothing": 0.0,
    "nesterov": False,
    "val_every": 2,
}
WEIGHTS = JointWeights(0.3, 0.2, 0.7)
QUICK = ["recipe=finetune_smoke", "solver=ridge", "solver.ridge.strengths=[0.03]", "G={rotation: {angles: [-10, 15]}}"]
NAME = "finetune/digits/rotation_20+joint_0.3/seed0"


def network(seed=0, dropout=0.5):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CaffeNet(5, 1, 28, width=0.1, features=24, dropout=dropout).double()


def module(net, transform, *, copies=None, weights=WEIGHTS, seed=3):
    made = JointFinetune(
        net,
        lambda x: (x.double() - 100) / 255,
        layer="relu7",
        transform=transform,
        recipe=RECIPE,
        seed=seed,
        image_shape=(1, 28, 28),
        weights=weights,
        copies=copies,
    ).double()
    with torch.random.fork_rng():
        torch.manual_seed(9)
        for one in made.maps:
            nn.init.normal_(one.weight, std=0.1)
            nn.init.normal_(one.bias, std=0.1)
    made.manual_backward = lambda loss: loss.backward()
    return made.train()


def batch(n=3):
    torch.manual_seed(1)
    return torch.rand(n, 1, 28, 28, dtype=torch.float64) * 255, torch.arange(n) % 5


@pytest.fixture(autouse=True)
def outside_a_trainer(monkeypatch, request):
    if "joint" in request.node.name:  # a module alone has no count of updates
        monkeypatch.setattr(JointFinetune, "global_step", 7)


def literal(net, maps, transform, x, y, weights):
    """Eq. 5–7 image by image and transformation by transformation."""
    points = [point for point in transform.grid() if point.label != "untouched"]
    front, rest = (nn.Sequential(*list(net.children())[part]) for part in (slice(-2), slice(-2, None)))

    def phi(images):
        return front((images - 100) / 255)

    plain = sum(functional.cross_entropy(rest(phi(x[i : i + 1])), y[i : i + 1]) for i in range(len(x))) / len(x)
    total = 0
    for i in range(len(x)):
        one = x[i : i + 1]
        for g, point in zip(maps, points, strict=True):
            moved = phi(transform.apply(one, point.params))
            back = torch.relu(moved @ (g.weight + torch.eye(24).double()).T + g.bias)
            total += functional.cross_entropy(rest(back), y[i : i + 1])
            total += weights.recovery * (back - phi(one)).square().sum()
            total += weights.invariance * (moved - phi(one)).square().sum()
    return plain + weights.equivariance * total / (len(x) * len(points))


@pytest.mark.parametrize("copies", [None, 1, 2])
def test_joint_gradients_are_the_papers(copies):
    net, transform = network(dropout=0.0), Rotation(angles=[-10, 5, 15])
    made, (x, y) = module(net, transform, copies=copies), batch()
    terms = made.accumulate(x, y)
    wanted = literal(net, made.maps, transform, x, y, WEIGHTS)
    assert float(terms.loss(WEIGHTS)) == pytest.approx(wanted.item(), rel=1e-12)
    for p, gradient in zip(made.parameters(), torch.autograd.grad(wanted, list(made.parameters())), strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("copies", [1, 2])
def test_joint_gradients_are_the_same_in_parts(copies):
    found = []
    for size in (None, copies):
        made = module(network(), Rotation(angles=[-10, 5, 15]), copies=size)
        terms = made.accumulate(*batch())
        found.append([*(one.grad for one in made.parameters()), terms.loss(WEIGHTS)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


def test_joint_gradients_by_finite_differences():
    made, (x, y) = module(network(dropout=0.0), Rotation(angles=[-10, 5])), batch()
    made.accumulate(x, y)
    chosen = [made.network.fc6.bias, made.maps[0].weight, made.maps[1].bias]
    for p, gradient in [(p, p.grad.clone()) for p in chosen]:
        place = int(gradient.abs().flatten().argmax())
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                p.view(-1)[place] += step
            values.append(float(made.accumulate(x, y).loss(WEIGHTS)))
            with torch.no_grad():
                p.view(-1)[place] -= step
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(float(gradient.view(-1)[place]), rel=1e-4)


def test_joint_terms_of_images_that_g_does_not_change():
    net = network(dropout=0.0)
    made = module(net, Mirror())
    for one in made.maps:
        nn.init.zeros_(one.weight), nn.init.zeros_(one.bias)
    terms = made.accumulate(torch.full((2, 1, 28, 28), 50.0).double(), torch.tensor([1, 2]))
    assert float(terms.recovery) == pytest.approx(0, abs=1e-20)
    assert float(terms.invariance) == pytest.approx(0, abs=1e-20)
    assert float(terms.transformed) == pytest.approx(float(terms.classification), rel=1e-12)


def test_joint_divergence_names_the_term():
    made = module(network(), Rotation(angles=[-10, 5]))
    with torch.no_grad():
        made.maps[1].weight.fill_(1e200)
    terms = made.accumulate(*batch())
    assert terms.broken() in ("transformed", "recovery")
    made.watch.found = torch.tensor([False, False, True, False])
    with pytest.raises(UserError, match=r"recovery \(‖M_g φ\(gx\) − φ\(x\)‖²\)"):
        made.on_train_epoch_end()


def test_joint_training_leaves_batch_statistics_alone():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.pool = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1)
            self.act, self.flat, self.head = nn.ReLU(), nn.Flatten(), nn.Linear(4, 5)

        def forward(self, x):
            return self.head(self.act(self.flat(self.pool(self.norm(self.conv(x))))))

    made = JointFinetune(
        Normed(),
        lambda x: x / 255,
        layer="act",
        transform=Rotation(angles=[5, 9]),
        recipe=RECIPE,
        seed=0,
        image_shape=(1, 28, 28),
    ).train()
    made.manual_backward = lambda loss: loss.backward()
    x, y = batch()
    made.accumulate(x.float(), y)
    assert int(made.network.norm.num_batches_tracked) == 0


def test_dropout_by_blocks_is_that_of_each_block_alone():
    net = nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.Dropout(0.5), nn.Linear(9, 5), nn.Dropout(0.3, inplace=True))
    x, seeds = torch.randint(-8, 9, (12, 7)) / 8, [5, 6, 7]
    with torch.no_grad():  # sums of eighths are exact, however many rows a product has
        for parameter in net.parameters():
            parameter.copy_((8 * parameter).round() / 8)
    alone = []
    for block, seed in enumerate(seeds):
        torch.manual_seed(seed)
        alone.append(net(x[4 * block : 4 * block + 4]))
    before = torch.get_rng_state()
    with BlockDropout(seeds, x.device):
        together = net(x)
    assert torch.equal(together, torch.cat(alone)) and torch.equal(before, torch.get_rng_state())
    with BlockDropout(seeds, x.device) as dropout:
        dropout.present = [0, 1]
        first = net(x[:8])
        dropout.present = [2]
        assert torch.equal(torch.cat([first, net(x[8:])]), together)
        with pytest.raises(ValueError, match="cannot be cut"):
            dropout.present = [0, 1, 2]
            net(x[:5])
    net.eval()
    with BlockDropout(seeds, x.device):
        assert torch.equal(net(x[:5]), net(x[:5]))


@pytest.fixture(scope="module")
def done(trained, tmp_path_factory, compose):
    """The rotation network, finetuned without an interruption, at λ3 = 0.3 and 0."""
    folder, places = copied(trained, tmp_path_factory.mktemp("finetuned") / "done")
    for value in ("0.3", "0"):
        finetune(compose("finetune", *places, *QUICK, "networks=rotation_20", f"joint.lambda3={value}"))
    return folder, places


def copied(source, target):
    folder, places = source
    shutil.copytree(folder, target)
    return target, [text.replace(str(folder), str(target)) for text in places]


@pytest.fixture
def place(trained, tmp_path):
    return copied(trained, tmp_path / "copy")


def tables(folder):
    root = folder / "runs/finetune"
    found = sorted(path for path in root.rglob("*.csv") if "curves" not in path.parts)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def test_before_and_after_are_measured_alike(done):
    folder, _ = done
    before = {path.parent.name: path for path in (folder / "runs/finetune/digits/rotation_20").rglob("rows.csv")}
    after = [path for path in (folder / "runs" / NAME).rglob("rows.csv") if path.parent.name != "seed0"]
    kinds = {(path.parents[1].name.partition("_")[0], path.parent.name) for path in after}
    assert kinds == {("rotation", "identity"), ("rotation", "residual_ridge"), ("rotation", "residual_joint")}
    assert set(before) == {"identity", "residual_ridge"}
    [learned] = [path for path in after if path.parent.name == "residual_joint"]
    table = read_rows(learned)
    assert set(table["solver"]) == {"joint"} and set(table["stage"]) == {"finetune"}
    assert set(table["network"]) == {"rotation_20+joint_0.3"}
    labels = {"-10", "15", "untouched"}
    assert set(table["g"].str.partition(":")[2]) == labels and set(table["split"]) == {"val", "test"}
    own = read_rows(folder / "runs" / NAME / "rows.csv").set_index("split")["score"]
    plain = read_rows(learned.parents[1] / "identity/rows.csv")
    plain = plain[plain["g"].str.endswith("untouched") & (plain["metric"] == "error_rate")]
    chosen = plain.set_index("split")["score"]
    assert own["test"] == pytest.approx(chosen["test"], abs=1e-12)


def test_rows_of_learned_maps_are_what_the_checkpoint_holds(done):
    folder, _ = done
    run = folder / "runs" / NAME
    net, state = Network(folder / "runs", run, layer="relu7", accelerator="cpu"), weights(run / "last.ckpt")
    grid = joint_grid(net.transform, {"rotation": {"angles": [-10, 15]}})
    prepared = net.data(net.input_size, folder / "prepared", False)
    split = prepared.split("test")
    x, y = torch.from_numpy(np.array(split.images)).float(), np.array(split.labels)
    point = next(point for point in grid.transform.grid() if point.label == "15")
    r = net.phi.phi(net.classifier.normalise(grid.transform.apply(x, point.params)))
    back = build_map("residual", {"weight": state["maps.1.weight"], "bias": state["maps.1.bias"]})(r)
    wrong = (net.phi.classify(back.detach()).argmax(1).numpy() != y).mean()
    rows = read_rows(run / grid.name / "residual_joint/rows.csv")
    found = rows[(rows["g"] == f"{grid.name}:15") & (rows["split"] == "test") & (rows["metric"] == "error_rate")]
    assert found["score"].item() == pytest.approx(wrong, abs=1e-12)


def test_the_network_and_the_maps_learn(done):
    folder, _ = done
    before = weights(folder / "runs/train/digits/rotation_20/seed0/best.ckpt")
    held = weights(folder / "runs" / NAME / "last.ckpt")
    assert all(float(held[f"maps.{k}.weight"].abs().max()) > 0 for k in (0, 1))
    assert not torch.equal(held["network.conv1.weight"], before["network.conv1.weight"])
    after = weights(folder / "runs" / NAME / "best.ckpt")
    assert all(torch.equal(value, held[key]) for key, value in after.items())


def test_without_lambda3_it_is_plain_training_to_the_bit(done, compose, tmp_path):
    folder, places = done
    config = compose("finetune", *places, *QUICK)
    source = folder / "runs/train/digits/rotation_20/seed0"
    trained = load_classifier(source / "best.ckpt")
    plain = compose("train", "transform=baseline")["transform"]
    classifier = Classifier(**{**trained.hparams, "transform": plain, "recipe": config["recipe"]})
    classifier.load_state_dict(trained.state_dict())

    class Place:
        directory, name = tmp_path, "plain"

        @staticmethod
        def note(done, of, unit):
            pass

        @staticmethod
        def require_here():
            pass

    recipe, net = config["recipe"], Network(folder / "runs", source, layer="relu7", accelerator="cpu")
    prepared = net.data(net.input_size, folder / "prepared", False)
    data = PreparedData(prepared, recipe["batch"], recipe["updates"], recipe["val_every"], seed=0)
    trainer_of(config["trainer"], recipe, Place, best=False, progress=False).fit(classifier, datamodule=data)
    held = weights(folder / "runs/finetune/digits/rotation_20+joint_0/seed0/last.ckpt")
    for key, value in classifier.state_dict().items():
        assert torch.equal(value, held[key]), key
    assert not any(held[f"maps.{k}.{name}"].any() for k in (0, 1) for name in ("weight", "bias"))


@pytest.mark.parametrize(
    "updates", [pytest.param(0, marks=pytest.mark.long), 3, pytest.param(7, marks=pytest.mark.long)]
)
def test_interrupted_at_any_update_and_continued_is_the_same_to_the_bit(place, done, compose, monkeypatch, updates):
    folder, places = place
    config = compose("finetune", *places, *QUICK, "networks=rotation_20")
    step = JointFinetune.training_step

    def interrupted(self, batch, batch_idx):
        if self.global_step == updates:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(JointFinetune, "training_step", interrupted)
        finetune(config)
    finetune(config)
    ours, theirs = weights(folder / "runs" / NAME / "last.ckpt"), weights(done[0] / "runs" / NAME / "last.ckpt")
    assert ours.keys() == theirs.keys() and all(torch.equal(value, theirs[key]) for key, value in ours.items())
    wanted = {name: content for name, content in tables(done[0]).items() if "joint_0/" not in name}
    assert tables(folder) == wanted


def test_interrupted_after_the_last_update(place, done, compose, monkeypatch):
    folder, places = place
    config = compose("finetune", *places, *QUICK, "networks=rotation_20")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(finetuning, "save_network", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        finetune(config)
    finetune(config)
    assert tables(folder) == {name: content for name, content in tables(done[0]).items() if "joint_0/" not in name}


def test_what_is_finished_is_skipped(done, compose, capsys):
    folder, places = done
    before = tables(folder)
    finetune(compose("finetune", *places, *QUICK, "networks=rotation_20"))
    assert capsys.readouterr().out.count("finished already") >= 4
    assert tables(folder) == before


def test_another_g_under_the_same_name_is_refused(done, compose):
    _, places = done
    with pytest.raises(UserError, match="holds another configuration: G.*another name="):
        finetune(compose("finetune", *places, *QUICK[:-1], "networks=rotation_20", "G={rotation: {angles: [5]}}"))


def test_a_baseline_takes_the_family_that_is_given(place, compose):
    folder, places = place
    few = ["recipe=finetune_smoke", "solver=ridge", "solver.ridge.strengths=[0.03]", "metrics=[error_rate]"]
    few += ["networks=baseline", "grids=[]", "fit={images: 100}", "recipe.updates=2", "recipe.val_every=2"]
    with pytest.raises(UserError, match="no family of its own"):
        finetune(compose("finetune", *places, *few))
    finetune(compose("finetune", *places, *few, "G={crop: {range: 256, corners: true}}", "copies=1"))
    [rows] = (folder / "runs/finetune/digits/baseline+joint_0.3").rglob("residual_joint/rows.csv")
    assert rows.parents[1].name.startswith("crop_256_G")
    assert {g.partition(":")[2] for g in read_rows(rows)["g"]} >= {"untouched"}


def test_among_several_networks_one_of_no_family_is_left_out(place, compose, monkeypatch, capsys):
    folder, places = place
    seen = []
    one = lambda _, directory, *__: seen.append(directory.parent.name)  # noqa: E731
    monkeypatch.setattr(experiment, "finetune_one", one)
    finetune(compose("finetune", *places))
    assert seen == ["rotation_20"] and "left out, trained with no family" in capsys.readouterr().err


def test_a_data_set_that_changed_is_refused(place, compose):
    folder, places = place
    config = folder / "runs/train/digits/rotation_20/seed0/config.yaml"
    text = config.read_text()
    sha = text.split("sha256: ")[1].split()[0]
    config.write_text(text.replace(sha, "0" * len(sha)))
    write_marker(config.parent, {"rows": 2}, "train/digits/rotation_20/seed0")
    with pytest.raises(UserError, match="trained on other data"):
        finetune(compose("finetune", *places, *QUICK, "networks=rotation_20"))
    assert not list((folder / "runs").glob("finetune/**/rows.csv"))


ROTATION = {"name": "rotation", "_target_": "invariance.transforms.rotation.Rotation", "range": 20, "angles": [-45, 45]}
CROP = {"name": "crop", "grid": "crop_256", "_target_": "invariance.transforms.crop.Crop", "range": 256, "windows": 5}


@pytest.mark.parametrize(
    ("trained", "wanted", "said"),
    [
        (ROTATION, {"rotation": {"angles": []}}, "empty"),
        (ROTATION, {"rotation": {"angles": [0]}}, "untouched"),
        (ROTATION, {"rotation": {"angles": [400]}}, "400"),
        (ROTATION, {"rotation": {"angles": ["far"]}}, "far"),
        (ROTATION, {"rotation": {"angels": [5]}}, "did you mean 'angles'"),
        (ROTATION, {"blur": {"sigmas": [1]}}, "G names blur; this network was trained with rotation"),
        (ROTATION, {"rotatoin": {}}, "did you mean 'rotation'"),
        (ROTATION, {"rotation": {"range": 10}}, "range=10"),
        (CROP, {"crop": {"range": 320}}, "G.crop.range=320: this network was trained at 256"),
        (CROP, {"crop": {"windows": 4}}, "windows=4"),
        (CROP, {"crop": {"grid": "../x"}}, "no key of the family's grid"),
        ({"name": "baseline"}, {"crop": {}}, "range"),
        ({"name": "baseline"}, {}, "no family of its own"),
    ],
)
def test_a_bad_g_is_one_line(trained, wanted, said):
    with pytest.raises(UserError) as caught:
        joint_grid(trained, wanted)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_what_a_g_does_not_name_is_not_in_it():
    assert len(joint_grid(CROP, {"crop": {"windows": 3}}).transform.grid()) == 9
    shear = {"name": "shear", "_target_": "invariance.transforms.shear.Shear", "range": 20, "angles": [5]}
    labels = [point.label for point in joint_grid(shear, {"shear": {"vertical": [7]}}).transform.grid()]
    assert labels == ["untouched", "vertical 7"]


def test_the_report_does_without_the_measurement_before(done, tmp_path, undrawn):
    folder, _ = copied(done, tmp_path / "copy")
    shutil.rmtree(folder / "runs/finetune/digits/rotation_20")
    page = make_report(folder / "runs", tmp_path / "report").read_text()
    assert "digits: finetuned for equivariance" in page and "before, no map: no number at" in page


def test_the_finetuned_network_is_the_same_file_again(done, compose, tmp_path):
    folder, places = copied(done, tmp_path / "copy")
    before = (folder / "runs" / NAME / "best.ckpt").read_bytes()
    (folder / "runs" / NAME / "done.json").unlink()
    finetune(compose("finetune", *places, *QUICK, "networks=rotation_20"))
    assert (folder / "runs" / NAME / "best.ckpt").read_bytes() == before


def test_a_finished_finetuning_writes_a_deleted_network_again_and_reads_no_maps(done, compose, tmp_path, monkeypatch):
    folder, places = copied(done, tmp_path / "copy")
    path, before = folder / "runs" / NAME / "best.ckpt", tables(folder)
    content = path.read_bytes()
    path.unlink()
    monkeypatch.setattr(experiment, "learned_maps", lambda *_: pytest.fail("nothing is left to measure"))
    finetune(compose("finetune", *places, *QUICK, "networks=rotation_20"))
    assert path.read_bytes() == content and tables(folder) == before
    path.unlink()
    path.with_name("last.ckpt").unlink()
    with pytest.raises(UserError, match="no checkpoint at .*last.ckpt; delete .* to start over"):
        finetune(compose("finetune", *places, *QUICK, "networks=rotation_20"))


def test_every_family_has_the_papers_g():
    counts = {}
    for family in paper_families():
        if family_sweep(family):
            held = OmegaConf.to_container(family_config(family))
            trained = {key: value for key, value in held.items() if key not in ("label", "grid")}
            trained["range"] = {"crop": 256, "mirror": "both"}.get(family, 4)
            points = [p.label for p in joint_grid(trained, {}).transform.grid() if p.label != "untouched"]
            counts[family] = points
    assert counts["rotation"] == ["-15", "-10", "-5", "5", "10", "15"]
    assert counts["shear"] == ["-20", "-10", "10", "vertical -15", "vertical -5", "vertical 5"]
    assert counts["crop"] == ["upper left", "upper right", "lower left", "lower right"]
    assert counts["perspective"] == [f"move {k}" for k in range(1, 6)]
    assert counts["elastic"] == [f"α{a} σ{s}" for a in (5, 10) for s in ("2.5", "3", "3.5")]
    assert counts["mirror"] == ["horizontal", "vertical", "both"]
    assert all(3 <= len(one) <= 6 for one in counts.values()) and len(counts) == 9


def test_the_report_shows_before_and_after(done, tmp_path):
    folder, _ = done
    page = make_report(folder / "runs", tmp_path).read_text()
    assert "digits: finetuned for equivariance" in page and "Trade-off over λ3" in page
    table = (tmp_path / "tables/digits-relu7-finetuned-accuracies-joint_0.3.md").read_text()
    line = next(line for line in table.splitlines() if line.startswith("| rotation_20: 15 "))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    rows = read_rows(next((folder / "runs" / NAME).rglob("residual_joint/rows.csv")))
    chosen = rows[rows["g"].str.endswith(":15") & (rows["split"] == "test") & (rows["metric"] == "error_rate")]
    assert cells[-1] == f"{100 * (1 - chosen['score'].item()):.2f}"
    assert not math.isnan(chosen["score"].item())


def test_finetuning_measured_by_l2_alone_has_its_section(done, tmp_path, undrawn):
    folder, _ = copied(done, tmp_path / "copy")
    for path in (folder / "runs/finetune").rglob("rows.csv"):
        rows = read_rows(path)
        left = rows[(rows["g"] == "") | (rows["metric"] == "l2_distance")]
        write_rows(path, left)
        write_marker(path.parent, {"rows": len(left)}, path.parent.relative_to(folder / "runs").as_posix())
    page = make_report(folder / "runs", tmp_path / "report").read_text()
    assert "digits: finetuned for equivariance" in page and "before, no map" not in page
    assert not (tmp_path / "report/tables/digits-relu7-finetuned-changes.csv").exists()
    table = pd.read_csv(tmp_path / "report/tables/digits-relu7-finetuned-distances.csv")
    rows = read_rows(next((folder / "runs" / NAME).rglob("residual_joint/rows.csv")))
    chosen = rows[(rows["split"] == "test") & ~rows["g"].str.endswith(":untouched")]
    shown = table.loc[table["name"] == "joint_0.3", "finetuned_residual_joint"].item()
    assert shown == pytest.approx(chosen["score"].mean()) and shown > 0


def test_a_map_that_a_finetuning_did_not_ask_for_is_no_gap(done, tmp_path):
    folder, _ = copied(done, tmp_path / "copy")
    for path in (folder / "runs" / NAME).rglob("residual_ridge"):
        shutil.rmtree(path)
    (study,) = studies(collect(folder / "runs"))
    assert ("residual", "ridge") in study.fits, "another finetuning asked for it"
    assert not [line for line in gaps(study) if "ridge" in line]
    place = next(
        at for at in study.numbers.index if at[0] != "rotation_20" and at[4] == "joint" and at[5] != "untouched"
    )
    without = replace(study, numbers=study.numbers.drop(place))
    assert any(f"learned M_g: no number at {place[5]}" in line for line in gaps(without))
