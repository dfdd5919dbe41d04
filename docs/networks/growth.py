"""How a map's gain grows with its fit images and with their classes: rotation by 30°, MobileNetV2 (docs/networks.md).

    python growth.py photos growth.csv

Fit sets of ten classes grow from 100 to 1,500 images; sets of 300 images have from two to eight classes, and maps
fitted on these are also scored on images of the classes that they have never seen. What is there already is not
measured again.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from networks import mobilenet_v2

from invariance import Results, Rotation, load_images, measure_model

NUMBERS = np.array([0, 217, 482, 491, 497, 566, 569, 571, 574, 701])
"""The ten classes among the 1,000, in the order of their folders."""

LAYERS = ["features.13", "features.17", "classifier.0"]
G = "rotation:30"


def main(photos: str, out: str) -> None:
    """Measure every fit set that has no rows yet."""
    model, table = mobilenet_v2(), Path(out)
    fit, report = (load_images(Path(photos) / split, resize="none") for split in ("train", "val"))
    rank = np.concatenate([np.arange(n) for n in np.bincount(fit.labels)])  # files lie class by class
    order = np.argsort(rank, kind="stable")  # the first of each class, then the second of each
    done = pd.read_csv(table) if table.exists() else pd.DataFrame(columns=["images", "classes"])
    for images, count in [(n, 10) for n in (100, 200, 400, 800, 1500)] + [(300, k) for k in (2, 3, 5, 8)]:
        if ((done["images"] == images) & (done["classes"] == count)).any():
            continue
        chosen = order[fit.labels[order] < count][:images]
        all_classes = count == len(NUMBERS)  # then the unseen-class control is measured, too
        results = measure_model(
            model,
            report.images,
            NUMBERS[report.labels] if all_classes else None,
            fit=fit.images[chosen],
            fit_labels=NUMBERS[fit.labels[chosen]] if all_classes else None,
            transforms=[Rotation(angles=[30])],
            layers=LAYERS,
            readout={"features*": "mean"},
            maps=["identity", "ridge"],
            measures=["error_rate", "l2_distance"] if all_classes else ["agreement", "l2_distance"],
            nulls=False,
            batch=16,
        )
        found = of_images(results, report.labels, count) + of_control(results)
        done = pd.concat([done, pd.DataFrame(found).assign(images=images, classes=count)], ignore_index=True)
        done.to_csv(table, index=False)


def of_images(results: Results, labels: np.ndarray, count: int) -> list[dict[str, object]]:
    """Errors and L_L2 of the report images of the classes that the maps have seen, and of the others."""
    scores, found = results.images(G).query("split == 'report'"), []
    for (layer, way), part in scores.groupby(["layer", "map"], sort=False):
        wrong = part["predicted"].to_numpy(int) != NUMBERS[labels]
        for name, here in (("seen", labels < count), ("never", labels >= count)):
            if here.any():
                numbers = {"error_rate": wrong[here].mean(), "l2_distance": part["l2_distance"].to_numpy()[here].mean()}
                found += [
                    {"layer": layer, "map": way, "of": name, "metric": metric, "score": score, "n": int(here.sum())}
                    for metric, score in numbers.items()
                ]
    return found


def of_control(results: Results) -> list[dict[str, object]]:
    """The rows of the unseen-class control."""
    rows = results[(results["g"] == G) & (results["split"] == "report")]
    rows = rows[rows["fit_classes"].isin(["same", "unseen"]) | (rows["metric"] == "half_error_rate")]
    kept = ["layer", "map", "fit_classes", "metric", "score", "n_images", "status"]
    return rows[kept].rename(columns={"fit_classes": "of", "n_images": "n"}).to_dict("records")


if __name__ == "__main__":
    main(*sys.argv[1:])
