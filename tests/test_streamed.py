"""Measuring in bounded memory: no representation is kept, and the numbers are those of what is held."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from invariance import Mirror, Rotation, measure_model, wrap
from invariance.engine.given import NamedTransform
from invariance.engine.groups import Group, Measured
from invariance.engine.kept import Kept
from invariance.engine.measuring import More, measure
from invariance.engine.recorder import Listed
from invariance.engine.stream import Sample
from invariance.maps.spec import MapSpec
from invariance.measures.cka import cka
from invariance.measures.distance import Distances, l2_distance_per_image, rms, scale_of_layer
from invariance.measures.moments import ComparedSide, Pairing
from invariance.measures.procrustes import procrustes
from invariance.measures.r2 import r2
from invariance.measures.sums import PairSums, SideSums, SummedSide

KEYS = ["layer", "g", "split", "metric", "fit_classes"]
WHOLE = ("cka", "procrustes", "r2")


def network() -> nn.Module:
    """A small network with a skip connection and a layer that is overwritten in place."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.act, self.two = nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(6, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.two(self.act(self.one(x)))

    torch.manual_seed(0)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    return nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(inplace=True), Block(), head)


def pictures(count: int, seed: int, height: int = 21, width: int = 17) -> np.ndarray:
    """Random images that are no noise alone, (count, 3, height, width)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 200, (count, 3, 4, 4)).repeat(-(-height // 4), 2).repeat(-(-width // 4), 3)
    return (coarse[:, :, :height, :width] + rng.integers(0, 56, (count, 3, height, width))).astype(np.uint8)


LAYERS = ["0", "2.one", "2", "3.1", "3"]


def measured(maps: list[str], **asked: Any) -> pd.DataFrame:
    """Rows of the identity, by what tells them apart."""
    model = wrap(network(), preprocess=lambda x: x / 255, name="small")
    transforms = {"turn": Rotation(angles=[-20, 7]), "flip": Mirror()}
    given = {"transforms": transforms, "layers": LAYERS, **asked}
    rows = measure_model(model, pictures(30, 1), maps=maps, **given)
    return pd.DataFrame(rows[rows["map"] == "identity"]).set_index(KEYS).sort_index()


@pytest.mark.parametrize("labelled", [True, False])
def test_the_rows_are_those_of_representations_that_are_held(labelled: bool) -> None:
    rng = np.random.default_rng(0)
    measures = ["agreement", "effective_invariance", "l2_distance", *WHOLE]
    asked: dict[str, Any] = {"fit": pictures(40, 2), "readout": {"0": "mean", "2.one": "mean", "2": "mean"}}
    if labelled:
        asked |= {"labels": rng.integers(0, 5, 30), "fit_labels": np.arange(40) % 5}
        measures.append("error_rate")
    held, streamed = (
        measured(maps, measures=measures, batch=7, **asked) for maps in (["identity", "orthogonal"], ["identity"])
    )
    assert streamed.index.equals(held.index)
    assert len(streamed) > 100
    for column in ("score", "low", "high", "null_image", "null_constant", "reference", "bypass", "n_images"):
        # near 0 Procrustes is the root of a few eps
        np.testing.assert_allclose(streamed[column], held[column], rtol=1e-6, atol=1e-7, err_msg=column)
    np.testing.assert_allclose(streamed["calibrated"], held["calibrated"], rtol=1e-4, atol=1e-6)
    assert list(streamed["status"]) == list(held["status"])
    assert streamed["null_constant"].notna().any()
    assert not labelled or "half_error_rate" in streamed.reset_index()["metric"].to_numpy()


def test_without_fit_images_the_scale_is_over_the_report_images() -> None:
    plain = measured(["identity"], measures=["l2_distance"])
    assert set(plain["status"]) == {"report_scale"}
    x = torch.from_numpy(pictures(30, 1)).float()
    module, turned = network().eval(), Rotation(angles=[7])
    params = next(point.params for point in turned.grid() if point.label != "untouched" and point.value == 7)
    with torch.no_grad():
        r, r_g = ((module[:2](one / 255)).flatten(1) for one in (x, turned.apply(x, params)))
    # layer 0 is measured as it answers, before the ReLU behind it overwrites it
    with torch.no_grad():
        r, r_g = (module[0](one / 255).flatten(1) for one in (x, turned.apply(x, params)))
    scale = scale_of_layer(rms(r), torch.arange(6).repeat_interleave(r.shape[1] // 6))
    wanted = float(l2_distance_per_image(r_g, r, scale).mean())
    found = plain.xs(("0", "turn:7", "report", "l2_distance", ""))["score"]
    assert float(np.asarray(found).ravel()[0]) == pytest.approx(wanted, rel=1e-6)


def test_intervals_of_measures_of_the_whole_are_those_of_what_is_held() -> None:
    asked: dict[str, Any] = {"measures": ["cka", "r2"], "intervals": True, "readout": "mean", "layers": ["0", "2"]}
    one = measured(["identity"], fit=pictures(40, 2), **asked)
    other = measured(
        ["identity", "orthogonal"], fit=pictures(40, 2), **{**asked, "measures": ["cka", "r2", "l2_distance"]}
    )
    other = other[other.index.get_level_values("metric") != "l2_distance"]
    assert one["low"].notna().all()
    for column in ("score", "low", "high"):
        np.testing.assert_allclose(one[column], other[column], rtol=1e-9, err_msg=column)


class _Largest(TorchDispatchMode):
    """The most numbers that any new tensor had."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.numbers = max(self.numbers, out.numel())
        return out


@pytest.mark.parametrize("measures", [["l2_distance"], ["agreement", "l2_distance"]])
def test_no_tensor_grows_with_the_images(measures: list[str]) -> None:
    largest = []
    for count in (40, 160):
        with _Largest() as mode:
            measure_model(
                wrap(network(), preprocess=lambda x: x / 255, name="small"),
                pictures(count, 3, 40, 40),
                transforms={"turn": Rotation(angles=[5])},
                layers=["0", "2"],
                maps=["identity"],
                measures=measures,
                batch=4,
            )
        largest.append(mode.numbers)
    assert largest[0] == largest[1] < 160 * 6 * 19 * 19


def test_a_call_that_was_interrupted_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {"measures": ["agreement", "l2_distance"], "fit": pictures(40, 2)}
    whole = measured(["identity"], keep=tmp_path / "whole", **asked)
    added = []
    add = Kept.add

    def stopping(self: Kept, group: Any, result: Any) -> None:  # noqa: ANN401
        if len(added) == 7:
            raise KeyboardInterrupt
        added.append(group)
        add(self, group, result)

    monkeypatch.setattr(Kept, "add", stopping)
    with pytest.raises(KeyboardInterrupt):
        measured(["identity"], keep=tmp_path / "again", **asked)
    monkeypatch.setattr(Kept, "add", add)
    again = measured(["identity"], keep=tmp_path / "again", **asked)
    pd.testing.assert_frame_equal(whole.drop(columns="run"), again.drop(columns="run"))


def test_layers_of_which_different_g_are_there_already_are_measured_alike() -> None:
    class Begun(Listed[Group, Measured]):
        """Has the first g of one layer."""

        def has(self, group: Group) -> bool:
            return group.number == 0 and group.layer == "2"

    model = wrap(network(), preprocess=lambda x: x / 255, name="small")
    report = Sample("report", pictures(12, 1), np.arange(12), None)
    found = []
    for keep in (Begun(), Listed[Group, Measured]()):
        measure(
            model,
            report,
            families=[NamedTransform("turn", Rotation(angles=list(range(1, 9))))],
            layers=["0", "2"],
            maps=[MapSpec("identity")],
            measures=["agreement", "l2_distance"],
            keep=keep,
            more=More(nulls=True),
        )
        found.append(
            {(group.layer, group.number): result.rows for group, result in zip(keep.groups, keep.results, strict=True)}
        )
    begun, whole = found
    assert whole.keys() - begun.keys() == {("2", 0)}
    assert len(begun) > 2
    assert all(begun[key] == whole[key] for key in begun)


@pytest.mark.parametrize("layout", ["first", "last", "none"])
@pytest.mark.parametrize("size", [1.0, 1e-14, 1e15])
def test_distances_of_a_batch_are_those_in_float64(layout: str, size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    r, r_hat = (size * torch.randn(9, 5 * 77, generator=generator) for _ in range(2))
    channel = {
        "first": torch.arange(5).repeat_interleave(77),
        "last": torch.arange(5).repeat(77),
        "none": torch.arange(385),
    }[layout]
    r[:, channel == 2] = 0
    r[4] = 0
    scale = rms(r) if layout == "none" else torch.zeros(385, dtype=torch.float64)
    for k in range(5 if layout != "none" else 0):
        scale[channel == k] = rms(r)[channel == k].square().mean().sqrt()
    r_hat[3, channel == 2] = torch.inf  # a channel that the scale leaves out
    r_hat[6, 0] = torch.nan
    of = Distances(scale, channel)
    found, wanted = of.between(r_hat, r, of.sizes(r)), l2_distance_per_image(r_hat, r, scale)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0, equal_nan=True)
    assert math.isnan(found[4])
    assert math.isnan(found[6])
    assert math.isfinite(found[3])


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_measures_of_sums_are_those_of_all_images(offset: float) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(123, 9, generator=generator) * torch.linspace(0.1, 3, 9) + offset
    y = x @ torch.randn(9, 9, generator=generator) + torch.randn(123, 9, generator=generator) - offset
    sums = SideSums(y[:5].mean(0))
    pair = PairSums(SideSums(x[:5].mean(0)), sums)
    for part_x, part_y in zip(x.split(17), y.split(17), strict=True):
        pair.add(part_x, sums.add(part_y))
    found, wanted = pair.pairing(SummedSide(sums)), Pairing(ComparedSide(x), ComparedSide(y))
    for index in (cka, procrustes, r2):
        assert index(found) == pytest.approx(index(wanted), rel=1e-8), index.__name__
    assert pair.finite()
    pair.add(torch.full((1, 9), torch.nan), sums.add(y[:1]))
    assert not pair.finite()
