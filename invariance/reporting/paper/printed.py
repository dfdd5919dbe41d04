"""What the paper prints: the numbers that ours are set beside."""

import math
from typing import NamedTuple


class PrintedAccuracy(NamedTuple):
    """A line of Table 2 or 4: accuracy in percent through M_g, before finetuning and after.

    `label` is g as our grid names it, empty where the paper's g has no name (perspective); `what`, as the paper does.
    """

    label: str
    what: str
    original: float
    finetuned: float


_NAMES = {
    "color_jitter": (("10", "brightness +10"), ("-15", "brightness −15")),
    "crop": (("upper left", "upper left corner"), ("lower right", "bottom right corner")),
    "elastic": (("α5 σ2.5", "σ = 2.5, α = 5"), ("α10 σ3", "σ = 3, α = 10")),
    "noise": (("8", "σ = 8"), ("16", "σ = 16")),
    "blur": (("1", "σ = 1"), ("2", "σ = 2")),
    "mirror": (("vertical", "Horz."), ("both", "Horz. + Vert.")),  # its Horz.: docs/transforms.md
    "perspective": (("", "the first homography"), ("", "the second homography")),
    "rotation": (("-10", "θ = −10"), ("15", "θ = 15")),
    "shear": (("-10", "horizontal, θ = −10"), ("vertical -15", "vertical, θ = −15")),
}
_NUMBERS = {
    "rvl_cdip": {  # Table 2
        "color_jitter": (88.01, 88.58, 88.01, 88.63, 88.04, 88.60),
        "crop": (88.83, 89.07, 86.46, 87.07, 86.94, 87.57),
        "elastic": (87.89, 88.52, 88.17, 88.48, 88.05, 88.21),
        "noise": (88.15, 88.67, 88.16, 88.61, 88.09, 88.53),
        "blur": (86.82, 87.18, 86.79, 87.13, 86.47, 86.74),
        "mirror": (88.42, 89.44, 88.51, 88.11, 88.43, 88.17),
        "perspective": (88.55, 89.13, 88.69, 88.96, 88.65, 89.07),
        "rotation": (88.49, 89.01, 87.60, 87.41, 88.59, 88.70),
        "shear": (88.96, 89.71, 88.37, 88.55, 87.40, 87.51),
    },
    "ilsvrc": {  # Table 4
        "color_jitter": (50.26, 50.67, 50.25, 50.62, 49.95, 50.63),
        "crop": (54.58, 54.18, 52.90, 52.68, 53.13, 52.66),
        "elastic": (48.37, 50.46, 49.55, 49.82, 49.44, 49.64),
        "noise": (49.46, 49.88, 49.26, 49.52, 48.79, 48.93),
        "blur": (47.49, 46.59, 47.12, 46.03, 45.94, 44.60),
        "mirror": (53.91, 53.63, 54.02, 51.53, 53.70, 51.49),
        "perspective": (52.59, 52.44, 53.31, 51.99, 53.01, 52.27),
        "rotation": (52.44, 53.70, 53.88, 53.11, 52.66, 51.76),
        "shear": (54.97, 54.84, 54.15, 52.62, 51.85, 50.77),
    },
}


_NETWORKS = {
    "color_jitter": "color_jitter_20",
    "crop": "crop_256",
    "elastic": "elastic_10_sigma2",
    "noise": "noise_20",
    "blur": "blur_3",
    "mirror": "mirror_both",
    "perspective": "perspective_4",
    "rotation": "rotation_20",
    "shear": "shear_20",
}
"""Whose accuracy untouched in Table 3 is the one of Tables 2 and 4."""

LAMBDA_3 = 0.3
"""λ3 of the finetunings in Tables 2 and 4."""


def finetuned_table(data: str) -> str:
    """The table of finetunings on a data set; "" where the paper has none."""
    return {"rvl_cdip": "Table 2", "ilsvrc": "Table 4"}.get(data, "")


def finetuned_networks(data: str) -> list[str]:
    """The networks of Table 2 or 4; none for a data set that is not the paper's."""
    return [_NETWORKS[family] for family in _NUMBERS.get(data, {})]


def finetuned(data: str, network: str) -> list[PrintedAccuracy]:
    """The lines of Table 2 (RVL-CDIP) or 4 (ILSVRC) on a network; none for other data sets or networks."""
    family = next((family for family, name in _NETWORKS.items() if name == network), "")
    numbers = _NUMBERS.get(data, {}).get(family)
    if numbers is None:
        return []
    names = (("untouched", "untouched"), *_NAMES[family])
    return [PrintedAccuracy(label, what, numbers[2 * k], numbers[2 * k + 1]) for k, (label, what) in enumerate(names)]


_TABLE_3 = {  # RVL-CDIP, ILSVRC
    "color_jitter_5": (88.37, 50.31),
    "color_jitter_10": (88.10, 50.20),
    "color_jitter_15": (88.26, 50.15),
    "color_jitter_20": (88.01, 50.26),
    "elastic_5_sigma2": (87.64, 48.42),
    "elastic_10_sigma2": (87.89, 48.37),
    "elastic_5_sigma3": (87.91, 48.42),
    "elastic_10_sigma3": (87.94, 48.85),
    "blur_1.5": (87.50, 48.95),
    "blur_3": (86.82, 47.49),
    "perspective_1": (88.51, 50.48),
    "perspective_2": (88.45, 51.12),
    "perspective_3": (88.60, 52.05),
    "perspective_4": (88.55, 52.59),
    "shear_5": (89.02, 51.43),
    "shear_10": (89.23, 53.62),
    "shear_15": (89.33, 54.89),
    "shear_20": (88.96, 54.97),
    "crop_240": (88.82, 52.10),
    "crop_256": (88.83, 54.58),
    "crop_288": (88.00, 55.89),
    "crop_320": (86.47, 55.17),
    "noise_5": (88.19, 50.02),
    "noise_10": (88.01, 50.00),
    "noise_15": (88.14, 49.42),
    "noise_20": (88.15, 49.46),
    "mirror_vertical": (88.51, 52.33),  # its Horz.: docs/transforms.md
    "mirror_horizontal": (88.51, 55.13),
    "mirror_both": (88.42, 53.91),
    "rotation_5": (88.57, 50.30),
    "rotation_10": (88.74, 51.12),
    "rotation_15": (88.48, 51.99),
    "rotation_20": (88.49, 52.44),
}
_BASELINES = ((88.08, 50.07), (88.31, 50.14), (88.33, 50.11))
_COLUMN = {"rvl_cdip": 0, "ilsvrc": 1}
_ACCURACIES = {(name, 0): pair for name, pair in _TABLE_3.items()}
_ACCURACIES |= {("baseline", seed): pair for seed, pair in enumerate(_BASELINES)}


def networks(data: str) -> list[tuple[str, int]]:
    """Name and seed of every network of Table 3; none for a data set that is not the paper's."""
    return list(_ACCURACIES) if data in _COLUMN else []


def accuracy(data: str, network: str, seed: int) -> float:
    """A network's accuracy in Table 3, as a share; NaN where the table has none."""
    known = data in _COLUMN and (network, seed) in _ACCURACIES
    return _ACCURACIES[network, seed][_COLUMN[data]] / 100 if known else math.nan


GROUPS = (("perspective", "rotation", "shear"), ("baseline", "color_jitter", "noise"))
"""Families that the paper finds mutually near (Sec. 6.2)."""

_NEIGHBOURS = {"rvl_cdip": ((5, 0.724), (6, 0.806)), "ilsvrc": ((10, 0.776),)}


def neighbours(data: str, count: int) -> tuple[tuple[int, float], ...]:
    """K and the share of same-family pairs within K, from the plots of the authors' code (Fig. 3a).

    None where the data are not the paper's, or the networks are not as many as the paper's.
    """
    return _NEIGHBOURS.get(data, ()) if count == len(networks(data)) else ()
