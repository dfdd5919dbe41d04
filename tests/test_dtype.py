"""Networks that compute in another type: float32 unless asked otherwise, and named in every row where they do not."""

import numpy as np
import pytest
import torch
from torch import nn

from invariance import Rotation, UserError, measure_model, wrap

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 3, 13, 17), dtype=np.uint8)
TURN = {"turn": Rotation(angles=[-9, 20])}


def network() -> nn.Module:
    torch.manual_seed(0)
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), pooled)


@pytest.mark.parametrize(("dtype", "within"), [("bfloat16", 0.05), ("float16", 5e-3), (torch.float64, 1e-5)])
def test_rows_name_the_type_and_are_those_of_float32_to_its_rounding(dtype: object, within: float) -> None:
    module = network()
    model = wrap(module, preprocess=([0.5] * 3, [0.25] * 3), name="small")
    asked = {"transforms": TURN, "layers": ["0", "2.1"], "measures": ["agreement", "l2_distance"]}
    plain, typed = (measure_model(model, IMAGES, dtype=one, **asked) for one in ("float32", dtype))
    told = str(dtype).removeprefix("torch.")
    assert set(plain["network"]) == {"small"}
    assert set(typed["network"]) == {f"small in {told}"}
    of_l2 = plain["metric"] == "l2_distance"
    np.testing.assert_allclose(typed.loc[of_l2, "score"], plain.loc[of_l2, "score"], atol=within)
    assert plain.loc[of_l2, "score"].max() > 0.1
    assert next(module.parameters()).dtype == torch.float32  # the user's own network is left as it is


def test_two_types_of_one_network_are_compared() -> None:
    model = wrap(network(), preprocess=([0.5] * 3, [0.25] * 3), name="small")
    both = measure_model(
        [model, model.typed("bfloat16")], IMAGES, transforms=TURN, layers=["0"], measures=["l2_distance"]
    )
    assert set(both["network"]) == {"small", "small in bfloat16"}


@pytest.mark.parametrize("dtype", ["int8", "float", 32, torch.int64])
def test_a_type_that_is_none_is_one_line(dtype: object) -> None:
    model = wrap(network(), preprocess=([0.5] * 3, [0.25] * 3), name="small")
    with pytest.raises(UserError, match=r"^dtype=.*choose one of float64, float32, bfloat16, float16$"):
        measure_model(model, IMAGES, transforms=TURN, dtype=dtype)
