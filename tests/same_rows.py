"""Whether the numbers are still those that were recorded: every stage run again, row beside row.

    python tests/same_rows.py record         # runs the study, and replaces tests/recorded/study.csv.gz
    python tests/same_rows.py compare        # runs it again, and says what differs
    python tests/same_rows.py compare --smoke    # the same of `make smoke`, in tests/recorded/smoke.csv.gz

The study is every stage for moments: prepared data of two sizes, networks of three families, both solvers and every map
over several grids, another data set's images, distances with every index, a finetuning. Of prepared data, which have no
rows, the hashes of their arrays are compared. Columns that were not recorded are left out.

Where code only moves, rows are equal to the byte, on one machine with as many threads. Where arithmetic changes on
purpose, error rates are equal and other scores to 1e-6 of themselves: `--arithmetic` asks for that. The file then is
recorded anew in the commit that changes it. On another processor networks train to other weights: record there first.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).parents[1]
RECORDED = ROOT / "tests" / "recorded"
KEYS = ["run", "network", "seed", "layer", "g", "split", "map", "solver", "fit_classes", "metric"]
"""Columns that tell one row of a run from another."""

EXACT = ("error_rate", "half_error_rate", "accuracy")
"""Metrics that no change of arithmetic may change."""

TOLERANCE = 1e-6

QUICK = ["model=tiny", "recipe=smoke", "recipe.updates=40", "recipe.val_every=20", "recipe.step=30"]
FITS = ["fit={images: 120}", "solver.online_sgd.epochs=2", "solver.online_sgd.rate=0.03"]
BOTH = "solver=[online_sgd,ridge]"
STUDY = [
    ["prepare", "data=digits", "size=[32,36]"],
    ["train", *QUICK],
    ["train", *QUICK, "seed=1"],
    ["train", *QUICK, "transform=rotation", "range=20"],
    ["train", *QUICK, "transform=crop", "range=256"],
    ["measure", *FITS, BOTH, "networks=rotation_20", "grids=[rotation,blur]"],
    ["measure", *FITS, BOTH, "networks=crop_256"],
    [
        "measure",
        "fit={images: 120}",
        "map=mlp",
        "solver=minibatch_sgd",
        "solver.minibatch_sgd.epochs=2",
        "networks=rotation_20",
        "grids=[mirror]",
        "memory_gb=0.05",
    ],
    ["measure", *FITS, BOTH, "networks=rotation_20", "grids=[noise]", "layer=conv3", "metrics=[l2_distance]"],
    ["measure", *FITS, BOTH, "networks=rotation_20", "data=photos", "metrics=[l2_distance]"],
    ["distance", *FITS, BOTH],
    [
        "finetune",
        *FITS,
        BOTH,
        "recipe=finetune_smoke",
        "networks=rotation_20",
        "G={rotation: {angles: [-10, 15]}}",
        "grids=[shear]",
    ],
]


def run_study(folder: Path) -> None:
    """Run the study in a folder."""
    for page, *overrides in STUDY:
        places = [f"prepared={folder / 'prepared'}", *([] if page == "prepare" else [f"runs={folder / 'runs'}"])]
        places += [f"features={folder / 'features'}"] if page == "distance" else []
        plain = [] if page == "prepare" else ["logger=csv", "trainer=cpu"]
        command = [sys.executable, "-m", f"invariance.{page}", *overrides, *places, *plain, "progress=false"]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def run_smoke(folder: Path) -> None:
    """Run the small reproduction in a folder; what is finished there is kept."""
    subprocess.run(["make", "smoke", f"SMOKE={folder}"], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def rows_of(folder: Path) -> pd.DataFrame:
    """All rows of a folder's runs, in a fixed order, and a row of each split of prepared data."""
    tables = [pd.read_csv(path, dtype=str, keep_default_na=False) for path in sorted(folder.glob("runs/**/rows.csv"))]
    hashes = []
    for path in sorted(folder.glob("prepared/**/manifest.json")):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        place = path.parent.relative_to(folder).as_posix()
        told = json.dumps({key: manifest.get(key) for key in ("splits", "classes", "mean")}, sort_keys=True)
        hashes.append({"run": place, "metric": "manifest", "score": told})
    rows = pd.concat([*tables, pd.DataFrame(hashes)], ignore_index=True).fillna("")
    return rows.sort_values([key for key in KEYS if key in rows], kind="stable").reset_index(drop=True)


def about() -> str:
    """The machine, in a line: on another one networks train to other weights."""
    import torch

    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, torch {torch.__version__}, {os.environ['OMP_NUM_THREADS']} thread(s) a process"


def differences(recorded: pd.DataFrame, rows: pd.DataFrame, arithmetic: bool) -> list[str]:
    """What differs, a line each.

    Args:
        recorded: the rows that were recorded.
        rows: those of now.
        arithmetic: whether scores other than error rates may differ by `TOLERANCE` of themselves.
    """
    if absent := [column for column in recorded if column not in rows]:
        return [f"columns are gone: {', '.join(absent)}"]
    before, now = (frame.set_index(KEYS, drop=False) for frame in (recorded, rows[list(recorded)]))
    told = [f"gone: {key}" for key in before.index.difference(now.index)]
    told += [f"new: {key}" for key in now.index.difference(before.index)]
    if told or not before.index.is_unique:
        return told or ["two recorded rows cannot be told apart"]
    now = now.loc[before.index]
    for column in recorded:
        if arithmetic and column == "scores":  # hashes of what may differ
            continue
        changed = before[column].to_numpy() != now[column].to_numpy()
        if arithmetic and column in ("score", "low", "high", "reference", "bypass"):
            old, new = (pd.to_numeric(frame[column], errors="coerce").to_numpy() for frame in (before, now))
            close = np.isclose(old, new, rtol=TOLERANCE, atol=0, equal_nan=True)
            changed &= ~(close & ~before["metric"].isin(EXACT).to_numpy() & before["metric"].ne("manifest").to_numpy())
        for place in np.flatnonzero(changed):
            told.append(f"{column}: {before[column].iloc[place]} → {now[column].iloc[place]}: {before.index[place]}")
    return told


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["record", "compare"])
    parser.add_argument("--smoke", action="store_true", help="`make smoke` instead of the study of moments")
    parser.add_argument("--arithmetic", action="store_true", help="scores may differ by rounding")
    parser.add_argument("--folder", type=Path, help="where the study is run; else a temporary folder")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.folder or Path(temporary)).absolute()
        (run_smoke if given.smoke else run_study)(folder)
        rows = rows_of(folder)
    name = "smoke" if given.smoke else "study"
    path, machine = RECORDED / f"{name}.csv.gz", RECORDED / f"{name}.txt"
    if given.what == "record":
        path.parent.mkdir(exist_ok=True)
        rows.to_csv(path, index=False, lineterminator="\n", compression={"method": "gzip", "mtime": 0})
        machine.write_text(about() + "\n", encoding="utf-8")
        print(f"recorded {len(rows)} rows: {path}")
        return
    if machine.read_text(encoding="utf-8").strip() != about():
        print(f"recorded on another machine: {machine.read_text(encoding='utf-8').strip()}; this is {about()}")
    told = differences(pd.read_csv(path, dtype=str, keep_default_na=False), rows, given.arithmetic)
    for line in told[:40]:
        print(line)
    print(f"{len(rows)} rows: {'the same as recorded' if not told else f'{len(told)} differences'}")
    sys.exit(bool(told))


if __name__ == "__main__":
    main()
