"""`make paper TOY=1`: every part of the study, on official layouts of both data sets, at toy scale."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io
from PIL import Image

ROOT = Path(__file__).parents[1]
PAGES = ("plan", "prepare", "train", "measure", "distance", "finetune", "report", "status")
WNIDS = ["n01440764", "n02102040", "n02979186"]


def noise(path, shape, rng):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)


def imagenet(root):
    """ILSVRC-2012 as it is extracted: train in folders, val flat, and the devkit."""
    rng = np.random.default_rng(1)
    for wnid in WNIDS:
        for k in range(8):
            noise(root / f"train/{wnid}/{wnid}_{k}.JPEG", (41, 57, 3), rng)
    for number in range(1, 10):
        noise(root / f"val/ILSVRC2012_val_{number:08}.JPEG", (53, 37, 3), rng)
    data = root / "ILSVRC2012_devkit_t12/data"
    data.mkdir(parents=True)
    others = [f"n9{k:07}" for k in range(997)]
    synsets = np.array(
        [(k + 1, wnid, 0) for k, wnid in enumerate([*WNIDS, *others])],
        dtype=[("ILSVRC2012_ID", object), ("WNID", object), ("num_children", object)],
    )
    scipy.io.savemat(data / "meta.mat", {"synsets": synsets})
    numbers = [number % 3 + 1 for number in range(50_000)]
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{one}\n" for one in numbers))


def rvl_cdip(root):
    """RVL-CDIP as it is extracted: pages in TIFF, and the lists of labels."""
    rng = np.random.default_rng(2)
    (root / "labels").mkdir(parents=True)
    for split, each in (("train", 2), ("val", 1), ("test", 1)):
        lines = []
        for label in range(16):
            for k in range(each):
                name = f"images{split}/a/b/{label}_{k}.tif"
                noise(root / "images" / name, (61, 43), rng)
                lines.append(f"{name} {label}\n")
        (root / f"labels/{split}.txt").write_text("".join(lines))


def checkout(folder):
    """What make needs of a checkout, with commands of this very Python."""
    (folder / ".venv/bin").mkdir(parents=True)
    for name in ("pyproject.toml", "Makefile"):
        shutil.copy(ROOT / name, folder)
    for name in ("conf", "multirun_templates"):
        (folder / name).symlink_to(ROOT / name)
    for page in PAGES:
        path = folder / f".venv/bin/invariance-{page}"
        path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m invariance.{page} "$@"\n')
        path.chmod(0o755)
    (folder / ".venv/installed").touch()


@pytest.mark.long
def test_the_paper_at_toy_scale_runs_every_part_on_both_data_sets(tmp_path):
    imagenet(tmp_path / "in put/imagenet")
    rvl_cdip(tmp_path / "rvl")
    rng = np.random.default_rng(3)
    for k in range(12):
        noise(tmp_path / f"scans/{k}.png", (67, 49, 3), rng)
    shutil.make_archive(str(tmp_path / "scans"), "zip", tmp_path / "scans")
    checkout(tmp_path / "project")
    outer = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    where = [f"ILSVRC={tmp_path}/in put/imagenet", f"RVL_CDIP={tmp_path}/rvl", f"HISTORICAL={tmp_path}/scans.zip"]

    def make(*arguments):
        command = ["make", *arguments, "TOY=1", "NETWORKS=baseline_1 rotation_20", "ARGS=progress=false", *where]
        environment = {**outer, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        return subprocess.run(command, cwd=tmp_path / "project", capture_output=True, text=True, env=environment)

    ended = make("paper")
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    toy = tmp_path / "project/toy"
    assert {path.name for path in toy.iterdir()} == {"runs", "prepared", "features", "report"}
    assert not (tmp_path / "project/runs").exists()
    rows = pd.read_csv(toy / "report/rows.csv", keep_default_na=False)
    held = set(rows[["stage", "data"]].itertuples(index=False, name=None))
    both = {(stage, data) for stage in ("train", "measure", "distance", "finetune") for data in ("ilsvrc", "rvl_cdip")}
    assert held == both | {("measure", "rvl_cdip@historical")}
    trained = rows[rows["stage"] == "train"].drop_duplicates(["data", "network", "seed"])
    assert sorted(trained[trained["data"] == "ilsvrc"][["network", "seed"]].itertuples(index=False, name=None)) == [
        ("baseline", 0),
        ("baseline", 2),
        ("rotation_20", 0),
    ]
    page = (toy / "report/index.html").read_text()
    assert "Toy scale, not the paper’s: " in page and "model tiny at 67 pixels, not caffenet" in page
    assert 'id="networks"' in page
    again = make("paper-networks", "DRY=1")
    assert again.returncode == 0 and again.stdout.count("2 jobs: 2 done") == 2
    assert "failed:" not in make("status").stdout
    # every size was prepared, and given back after what needs it
    for data in ("ilsvrc", "rvl_cdip"):
        sizes = {int(path.name.split("-")[0]): path for path in (toy / "prepared" / data).iterdir()}
        assert sorted(sizes) == [67, 71, 76, 85, 94]
        assert all((path / "given_back.json").exists() for path in sizes.values())
    assert not list((toy / "prepared" / "ilsvrc").rglob("*.images.npy"))
    turns = make("paper-turns", "DRY=1")
    assert turns.returncode == 0 and "to do" not in turns.stdout and turns.stdout.count(" were given back: ") == 10
