"""The few numbers of a run that a dashboard shows: means over its rows, by the keys that W&B's summary holds."""

import math
from collections.abc import Mapping

import pandas as pd

from invariance.maps.spec import MapSpec
from invariance.measures import INDEX_NAMES
from invariance.transforms.base import UNTOUCHED

REPORTED = "report/accuracy"
"""Accuracy on the split that results are reported on, untouched (Table 3)."""

PARTS = ("untouched", "inside", "beyond", "all")
"""Parts of a grid: the untouched point; the other g that training covered, those it did not, and both."""

_NAMES = {"error_rate": "accuracy", "l2_distance": "l2_distance"}


def of_training(rows: pd.DataFrame) -> dict[str, float]:
    """Accuracy on the reported split, which is the last, with its interval.

    Args:
        rows: the error rates of one network.
    """
    last = rows.iloc[-1]
    return {REPORTED: 1 - last["score"], f"{REPORTED}_low": 1 - last["high"], f"{REPORTED}_high": 1 - last["low"]}


def way(spec: MapSpec) -> str:
    """Name of a fit on a dashboard: invariance is without a map, equivariance through one (Sec. 3)."""
    if spec.map == "identity":
        return "invariance"
    if not spec.solver:
        return spec.map
    return f"equivariance_{spec.solver}" if spec.map == "residual" else f"equivariance_{spec.map}_{spec.solver}"


def of_measurement(
    rows: Mapping[str, pd.DataFrame], covered: Mapping[str, bool], split: str, prefix: str
) -> dict[str, float]:
    """Mean accuracy and L_L2 over the parts of a grid, for every way.

    A mean with any g missing or withheld is not given; how many numbers were withheld is.

    Args:
        rows: the rows of one network over one grid by `way`.
        covered: label of every g → whether training covered it.
        split: the split that results are reported on.
        prefix: what the keys begin with.

    Returns:
        `<prefix>/<way>/<part>/accuracy` and `…/l2_distance`, and `<prefix>/<way>/withheld`.
    """
    others = {label for label in covered if label != UNTOUCHED}
    inside = {label for label in others if covered[label]}
    parts = dict(zip(PARTS, ({UNTOUCHED}, inside, others - inside, others), strict=True))
    found: dict[str, float] = {}
    for name, of_way in rows.items():
        reported = of_way[(of_way["split"] == split) & of_way["metric"].isin(list(_NAMES))]
        reported = reported[reported["fit_classes"].isin(["", "all"])]  # the unseen-class control is no way of its own
        found[f"{prefix}/{name}/withheld"] = int(reported["score"].isna().sum())
        for metric, of in reported.groupby("metric"):
            score = dict(zip(of["g"].str.split(":", n=1).str[1], of["score"], strict=True))
            for part, labels in parts.items():
                scores = [score.get(label, math.nan) for label in labels]
                if labels and not any(map(math.isnan, scores)):
                    mean = math.fsum(scores) / len(scores)
                    found[f"{prefix}/{name}/{part}/{_NAMES[metric]}"] = 1 - mean if metric == "error_rate" else mean
    return found


def of_distances(rows: pd.DataFrame, split: str) -> dict[str, float]:
    """Mean distance of all pairs of networks, of those of one family, and of the others, for every way of comparing.

    Args:
        rows: the rows of all pairs.
        split: the split that results are reported on.

    Returns:
        `distance/<way>/all`, `…/same_family` and `…/other_families`, and `distance/<way>/withheld`; a way is a
        solver (L_L2, Eq. 4) or an index.
    """
    labels = rows["network"] + "/seed" + rows["seed"].astype(str)
    family = dict(zip(labels, rows["family"], strict=True))
    # of two networks' R² both directions count; what is symmetric is one row a pair
    ways = rows["solver"].where(rows["metric"] == "l2_distance_mean", rows["metric"])
    of_pairs = rows["metric"].isin(["l2_distance_mean", *INDEX_NAMES]) & (rows["split"] == split)
    same = rows["family"] == rows["g"].str.removeprefix("network:").map(family)
    found: dict[str, float] = {}
    for name, of_way in rows[of_pairs].groupby(ways[of_pairs]):
        alike = same[of_way.index]
        found[f"distance/{name}/withheld"] = int(of_way["score"].isna().sum())
        for part, mask in (("all", alike | ~alike), ("same_family", alike), ("other_families", ~alike)):
            score = of_way.loc[mask, "score"]
            if len(score) and score.notna().all():
                found[f"distance/{name}/{part}"] = float(score.mean())
    return found
