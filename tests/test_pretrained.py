"""A real pretrained network on real photographs: numbers of an independent script, to its tolerances."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import invariance
from tests.pretrained import MOBILENET, weights_file

INDEX = [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]
"""Of the ten classes, in the order of their wnids, among ImageNet's 1,000."""

ACCURACY = {"untouched": (68.6, None), "10": (61.2, 70.8), "30": (45.6, 74.0)}
AMONG_TEN = {"untouched": (98.0, None), "10": (96.0, 97.0), "30": (90.4, 95.6)}
DISTANCE = {"10": (0.442, 0.387), "30": (0.632, 0.517)}
AGREEMENT = {"10": (73.8, 80.6), "30": (53.0, 74.2)}
"""By angle, without a map and through ridge's: shares in percent, L_L2."""

ONE_IMAGE, THROUGH_A_MAP = 0.2, 1.5


def photographs(folder: Path, most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    images, labels = [], []
    for index, place in zip(INDEX, sorted(folder.iterdir()), strict=True):
        for path in sorted(place.iterdir())[:most]:
            with Image.open(path) as image:
                images.append(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
            labels.append(index)
    return np.stack(images), np.array(labels)


@pytest.fixture(scope="module")
def measured(shared_data):
    """Rotations by 10° and 30°, with the images' own scores."""
    from torchvision.models import mobilenet_v2

    network = mobilenet_v2()
    network.load_state_dict(torch.load(weights_file(*MOBILENET), weights_only=True))
    model = invariance.wrap(network, preprocess=([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), name="mobilenet_v2")
    folder = shared_data / "imagenette224"
    report, labels = photographs(folder / "val")
    fit, _ = photographs(folder / "train", 100)
    assert len(report) == 500 and len(fit) == 1000
    results = invariance.measure_model(
        model,
        report,
        labels,
        fit=fit,
        transforms=[invariance.Rotation(angles=[10, 30])],
        layers=["classifier.0"],  # dropout, which does nothing: the mean of the last map
        batch=100,
    )
    return results, labels


def scores(measured, angle, solver, split="report"):
    results, labels = measured
    images = results.images(f"rotation:{angle}")
    chosen = images[(images["split"] == split) & (images["solver"] == solver)]
    assert len(chosen) == len(labels)
    return chosen


def ways(pair):
    return [(solver, wanted) for solver, wanted in zip(("", "ridge"), pair, strict=True) if wanted is not None]


@pytest.mark.long
@pytest.mark.parametrize("angle", ACCURACY)
def test_accuracy_and_agreement(measured, angle):
    labels = measured[1]
    untouched = scores(measured, "untouched", "")["predicted"].to_numpy()
    for solver, wanted in ways(ACCURACY[angle]):
        told = scores(measured, angle, solver)
        tolerance = (ONE_IMAGE if solver == "" else THROUGH_A_MAP) + 1e-6
        assert 100 * (told["predicted"] == labels).mean() == pytest.approx(wanted, abs=tolerance)
        among = dict(ways(AMONG_TEN[angle]))[solver]
        assert 100 * (told["among"] == labels).mean() == pytest.approx(among, abs=tolerance)
        if angle in AGREEMENT:
            agreed = 100 * (told["predicted"].to_numpy() == untouched).mean()
            assert agreed == pytest.approx(dict(ways(AGREEMENT[angle]))[solver], abs=tolerance)


@pytest.mark.long
@pytest.mark.parametrize("angle", DISTANCE)
def test_distance(measured, angle):
    results = measured[0]
    rows = results[(results["metric"] == "l2_distance") & (results["split"] == "report")]
    for solver, wanted in ways(DISTANCE[angle]):
        [row] = rows[(rows["g"] == f"rotation:{angle}") & (rows["solver"] == solver)].itertuples()
        tolerance = 0.001 if solver == "" else 0.015
        assert row.status == "ok" and row.score == pytest.approx(wanted, abs=tolerance)
