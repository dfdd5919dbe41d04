"""What the report says of the networks themselves: their table, and captions where they are not the paper's."""

import pandas as pd
import pytest
import yaml

from invariance.reporting.page import make_report
from invariance.reporting.paper.recipes import networks, note
from invariance.reporting.rows import Collected, RunFacts, collect
from invariance.settings.files import conf_dir
from tests.reporting_runs import measured, trained

CAFFENET = {
    "_target_": "invariance.models.caffenet.CaffeNet",
    "input_size": 227,
    "width": 1.0,
    "features": 4096,
    "groups": 2,
    "dropout": 0.5,
}
TINY = {**CAFFENET, "input_size": 67, "width": 0.125, "features": 256}


def recipe(name, **other):
    return {**yaml.safe_load((conf_dir() / f"recipe/{name}.yaml").read_text()), **other}


def collected(*runs):
    """Runs as (name below the runs folder, images of the report split, configuration)."""
    rows = []
    for name, images, _ in runs:
        stage, data, network, seed = name.split("/")
        facts = {"stage": stage, "data": data, "network": network, "seed": int(seed.removeprefix("seed")), "g": ""}
        split = "val" if data == "ilsvrc" else "test"
        rows.append({**facts, "split": split, "n_images": images, "run": name})
    facts = {name: RunFacts(name, ("val",), {}, config) for name, _, config in runs}
    return Collected(pd.DataFrame(rows), facts, [], {})


def config(name, model, **other):
    return {"model": model, "recipe": recipe(name, **other), "precision": "bf16-mixed", "compile": True}


@pytest.mark.parametrize("groups", [1, 2])
def test_the_paper_s_networks_need_no_note(groups):
    there = collected(
        ("train/rvl_cdip/rotation_20/seed0", 40_000, config("rvl_cdip", {**CAFFENET, "groups": groups})),
        ("train/ilsvrc/baseline/seed1", 50_000, config("ilsvrc", CAFFENET, val_every=1000)),
        ("finetune/ilsvrc/blur_3+joint_0.3/seed0", 50_000, config("finetune_ilsvrc", CAFFENET)),
        ("train/digits/baseline/seed0", 359, config("digits", TINY)),
    )
    assert [note(there, data) for data in ("rvl_cdip", "ilsvrc", "digits", "rvl_cdip@historical")] == [""] * 4


def test_a_note_says_in_what_networks_are_not_the_paper_s():
    toy = config("rvl_cdip", TINY, batch=16, updates=40, step=20)
    there = collected(*((f"train/rvl_cdip/{name}/seed0", 48, toy) for name in ("baseline", "blur_3")))
    said = note(there, "rvl_cdip")
    assert said == (
        " Toy scale, not the paper’s: model tiny at 67 pixels, not caffenet; batch 16, not 32; updates 40, not "
        "500,000; step 20, not 150,000; 48 images of test, not 40,000."
    )
    assert note(there, "rvl_cdip@historical") == said and not note(there, "ilsvrc")
    own = config("rvl_cdip", CAFFENET)
    half = config("rvl_cdip", CAFFENET, updates=250_000)
    there = collected(
        ("train/rvl_cdip/baseline/seed0", 40_000, own),
        ("train/rvl_cdip/baseline/seed2", 40_000, half),
        ("train/rvl_cdip/blur_3/seed0", 40_000, half),
    )
    assert note(there, "rvl_cdip") == (
        " Not of the paper’s recipe: baseline (seed 2), blur_3: updates 250,000, not 500,000."
    )
    many = [(f"train/ilsvrc/n{k}/seed0", 50_000, config("ilsvrc", CAFFENET, updates=200_000 + k)) for k in range(5)]
    said = note(collected(*many), "ilsvrc")
    assert said == " Not of the paper’s recipe: 5 of 5 networks (see the table of networks)."


def test_the_table_tells_every_network_by_its_model_recipe_updates_and_precision():
    odd = {"_target_": "invariance.models.timm.Timm", "name": "resnet18", "input_size": 96}
    there = collected(
        ("train/ilsvrc/baseline/seed1", 80, config("ilsvrc", {**CAFFENET, "width": 0.5}, updates=40)),
        ("train/cifar10/blur_3/seed0", 99, {"model": odd, "recipe": recipe("cifar10"), "precision": "32-true"}),
        ("train/digits/x/seed0", 99, {}),
    )
    first, second = networks(there).cells
    assert first == [
        "baseline",
        "1",
        "ilsvrc",
        "caffenet, width 0.5",
        "227 pixels",
        "ilsvrc, updates 40",
        "40",
        "256",
        "bf16-mixed",
        "yes",
    ]
    assert second[3:6] == ["Timm, name resnet18", "96 pixels", "cifar10"] and second[-2:] == ["32-true", "–"]
    assert networks(collected(("train/digits/x/seed0", 99, {}))) is None


def test_captions_and_the_page_say_so(tmp_path, undrawn):
    runs = tmp_path / "runs"
    trained(runs, "rvl_cdip", "baseline", "baseline", None)
    trained(runs, "rvl_cdip", "rotation_20", "rotation", 20)
    measured(runs, "rvl_cdip", "rotation_20", "rotation", 20, "rotation")
    measured(runs, "rvl_cdip", "baseline", "baseline", None, "rotation")
    before = make_report(runs, tmp_path / "before").read_text()
    assert "Toy scale" not in before and 'id="networks"' not in before  # runs that do not say what they are
    for path in runs.glob("train/*/*/*/config.yaml"):
        path.write_text(yaml.safe_dump(config("rvl_cdip", TINY, updates=40)))
    page = make_report(runs, tmp_path / "after").read_text()
    assert 'id="networks"' in page and (tmp_path / "after/tables/networks.csv").is_file()
    said = note(collect(runs), "rvl_cdip")
    assert said.startswith(" Toy scale")
    for path in [*(tmp_path / "after/tables").glob("*.md")]:
        own = path.stem in ("transformations", "claims", "claims-details", "networks")
        assert ("Toy scale" in path.read_text()) == (not own), path
    captions = [one.split("</figcaption>")[0] for one in page.split("<figcaption>")[1:]]
    drawn = [one for one in captions if ".csv" in one]  # a gallery shows images, and no network
    assert drawn and all("Toy scale" in one for one in drawn)
