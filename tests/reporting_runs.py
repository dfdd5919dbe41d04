"""A small tree of finished runs for the tests of reports: made-up numbers in real rows, grids and examples."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml

from invariance.runs.rows import Row, to_frame, write_rows
from invariance.settings.files import conf_dir
from invariance.transforms import build

FITS = (("identity", ""), ("residual", "online_sgd"), ("residual", "ridge"))
N = 2000


def transform_of(family: str, reach: object) -> tuple[object, dict]:
    config = yaml.safe_load((conf_dir() / "transform" / f"{family}.yaml").read_text(encoding="utf-8"))
    return build({**config, "range": reach}), config


def finish(directory: Path, rows: list[Row], **provenance: object) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.yaml").write_text("name: made up\n", encoding="utf-8")
    held = {
        "commit": "0123456789abcdef",
        "dirty": False,
        "python": "3.11.7",
        "started": "2026-01-01T00:00:00+00:00",
        "versions": {"torch": "2.15.0"},
        **provenance,
    }
    (directory / "provenance.json").write_text(json.dumps(held), encoding="utf-8")
    write_rows(directory / "rows.csv", to_frame(rows))
    (directory / "done.json").write_text("{}\n", encoding="utf-8")


def trained(root: Path, data: str, network: str, family: str, reach: object, seed: int = 0, error: float = 0.1) -> None:
    name = f"train/{data}/{network}/seed{seed}"
    finish(
        root / name,
        [
            Row(
                stage="train",
                data=data,
                network=network,
                family=family,
                range=text(reach),
                seed=seed,
                split=split,
                metric="error_rate",
                score=error + off,
                low=error + off - 0.01,
                high=error + off + 0.012,
                n_images=N,
                run=name,
            )
            for split, off in (("val", 0.0), ("test", 0.02))
        ],
    )


def finetuned_numbers(accuracy: dict, half: float = math.nan, runs: dict | None = None) -> pd.DataFrame:
    """Numbers of finetunings from accuracies by (network, seed, grid, g, map); each is its L_L2, too."""
    rows = [
        {
            **{"network": network, "seed": seed, "grid": grid, "map": fit[0], "solver": fit[1], "g": g},
            **{"accuracy": value, "half": half, "l2_distance": value},
            "run": (runs or {}).get((network, seed, grid, g, fit)),
        }
        for (network, seed, grid, g, fit), value in accuracy.items()
    ]
    return pd.DataFrame(rows).set_index(["network", "seed", "grid", "map", "solver", "g"])


def text(reach: object) -> str:
    return "" if reach is None else str(reach)


def measured(
    root: Path,
    data: str,
    network: str,
    family: str,
    reach: object,
    grid_family: str,
    *,
    seed: int = 0,
    channels: int = 1,
    diverged: tuple[str, ...] = (),
    missing: tuple[str, ...] = (),
    grid_range: object = None,
) -> None:
    transform, config = transform_of(grid_family, reach if family == grid_family else grid_range)
    grid = grid_family if "grid" not in config else f"{grid_family}_{grid_range or reach}"
    folder = root / "measure" / data / network / f"seed{seed}" / grid
    folder.mkdir(parents=True, exist_ok=True)
    points = transform.grid()
    (folder / "grid.json").write_text(
        json.dumps(
            {
                "grid": grid,
                "family": grid_family,
                "unit": transform.unit,
                "ordinal": transform.ordinal,
                "points": [{"label": p.label, "value": p.value, "covered": p.covered} for p in points],
            }
        ),
        encoding="utf-8",
    )
    size = transform.source_size(24)
    shade = torch.linspace(0, 255, size).repeat(size + (0 if size > 24 else 8), 1)
    shade[6:12, 8:] = 240
    x = torch.stack([shade, shade.flip(1)])[:, None].repeat(1, channels, 1, 1)
    np.savez_compressed(
        folder / "examples.npz",
        images=np.stack([transform.apply(x, p.params).round().to(torch.uint8).numpy() for p in points]),
    )
    furthest = max(abs(p.value) for p in points) or 1.0
    for kind, solver in FITS:
        name = f"measure/{data}/{network}/seed{seed}/{grid}/{kind}{'_' if solver else ''}{solver}"
        rows = []
        for p in points:
            if p.label in missing and solver == "ridge":
                continue
            far = abs(p.value) / furthest * (0.45 if p.covered and family == grid_family else 1.0)
            mend = {"": 1.0, "online_sgd": 0.6, "ridge": 0.4}[solver]
            error, distance = 0.1 + 0.75 * mend * far**1.5, 0.05 * bool(solver) + 1.1 * mend * far
            bad = p.label in diverged and solver == "online_sgd"
            for split, shift in (("val", 0.0), ("test", 0.01)):
                for metric, score in (("error_rate", error + shift), ("l2_distance", distance)):
                    score = math.nan if bad else score
                    rows.append(
                        Row(
                            stage="measure",
                            data=data,
                            network=network,
                            family=family,
                            range=text(reach),
                            seed=seed,
                            layer="fc7",
                            g=f"{grid}:{p.label}",
                            value=p.value,
                            unit=transform.unit,
                            split=split,
                            map=kind,
                            solver=solver,
                            metric=metric,
                            score=score,
                            low=score - 0.015,
                            high=score + 0.017,
                            n_images=N,
                            status="diverged" if bad else "ok",
                            run=name,
                        )
                    )
        finish(root / name, rows, device="cpu")


def tree(root: Path, data: str = "made_up") -> Path:
    trained(root, data, "baseline", "baseline", None, error=0.13)
    trained(root, data, "baseline", "baseline", None, seed=1, error=0.135)
    trained(root, data, "rotation_5", "rotation", 5)
    trained(root, data, "rotation_20", "rotation", 20, error=0.12)
    measured(root, data, "rotation_5", "rotation", 5, "rotation")
    measured(root, data, "rotation_20", "rotation", 20, "rotation", diverged=("45",), missing=("-30",))
    measured(root, data, "mirror_both", "mirror", "both", "mirror")
    for family in ("rotation", "blur", "mirror"):
        measured(root, data, "baseline", "baseline", None, family)
    unfinished = root / "train" / data / "rotation_10" / "seed0"
    unfinished.mkdir(parents=True)
    (unfinished / "config.yaml").write_text("name: rotation_10\n", encoding="utf-8")
    (unfinished / "provenance.json").write_text("{}", encoding="utf-8")
    return root
