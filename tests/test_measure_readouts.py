"""Measuring by a readout: what is chosen, what rows say, what cannot be, and the scale of L_L2 of maps and tokens."""

import numpy as np
import pytest
import torch
from torch import nn

from invariance import Mirror, Ridge, Rotation, UserError, measure_model, wrap
from invariance.measures.distance import l2_distance_per_image, rms, scale_of_layer
from invariance.models.cut import Cut
from invariance.models.layout import Layout
from invariance.models.model import Model

TURNS = {"turned": Rotation(angles=[20])}


def images_of(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 10, 12), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(4)
    maps = nn.Sequential(nn.Conv2d(1, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 6, 3, 2, 1), nn.ReLU())
    return wrap(nn.Sequential(maps, nn.Flatten(), nn.Linear(180, 8)), ([0.4], [0.3]), name="mine")


@pytest.fixture(scope="module")
def given():
    return {"images": images_of(41, 1), "labels": torch.arange(41) % 8, "transforms": TURNS}


@pytest.fixture(scope="module")
def fit():
    return {"fit": images_of(60, 2), "fit_labels": torch.arange(60) % 8}


def test_auto_takes_all_where_nothing_is_fitted_and_the_mean_where_a_map_could_not_be(model, given, fit, capsys):
    layers = ["0.1", "0.3"]
    rows = measure_model(model, **given, layers=layers)
    assert set(rows["readout"]) == {"flatten"} and rows.attrs["readouts"] == dict.fromkeys(layers, "flatten")
    assert capsys.readouterr().out.endswith(", at 0.1, 0.3\n")
    rows = measure_model(model, **given, **fit, layers=layers)
    assert ", at 0.1 (mean), 0.3\n" in capsys.readouterr().out
    assert dict(zip(rows["layer"], rows["readout"], strict=True)) == {"0.1": "mean", "0.3": "flatten"}
    dims = rows[(rows["metric"] == "fit_images_per_dimension") & (rows["fit_classes"] == "all")]
    assert dims.empty or set(60 / dims["score"]) <= {48, 180}
    assert not rows["bypass"].isna()[rows["metric"] == "error_rate"].all()


def test_scores_by_the_mean_are_those_of_their_definition(model, given, fit):
    rows = measure_model(model, **given, **fit, layers=["0.3"], readout="mean", maps=["identity", Ridge((0.1,))])
    at = rows[(rows["split"] == "report") & (rows["g"] == "turned:20") & rows["fit_classes"].isin(["", "all"])]
    score = at.set_index(["map", "metric"])["score"]
    point = next(one for one in TURNS["turned"].grid() if one.label == "20")
    module = model.module.double()
    try:
        sides = {}
        for name, x in (("fit", fit["fit"]), ("report", given["images"])):
            for way, of in (("x", x.double()), ("gx", TURNS["turned"].apply(x.float(), point.params).double())):
                with torch.no_grad():
                    sides[name, way] = module[0]((of / 255 - 0.4) / 0.3)
        r, t = (sides["fit", way].mean((2, 3)) for way in ("gx", "x"))
        step = r - r.mean(0)
        damping = 0.1 * len(r) * r.var(0, correction=0).mean() * torch.eye(6, dtype=torch.float64)
        weight = torch.linalg.solve(step.T @ step + damping, step.T @ ((t - r) - (t - r).mean(0)))
        mapped, target = (sides["report", way].mean((2, 3)) for way in ("gx", "x"))
        back = (mapped + (mapped - r.mean(0)) @ weight + (t - r).mean(0)).relu()
        own = sides["report", "gx"]
        with torch.no_grad():
            lifted = own + (back - mapped)[:, :, None, None]
            logits = {"residual": module[1:](lifted), "identity": module[1:](own)}
            through = module[1:](own + (target - mapped)[:, :, None, None])
        labels, scale = given["labels"], t.square().mean(0).sqrt()
        scale = scale.clamp(min=0.01 * float(scale.square().mean().sqrt()))
        for kind, r_hat in (("residual", back), ("identity", mapped)):
            off = ((r_hat - target) / scale).norm(dim=1) / (target / scale).norm(dim=1)
            assert score[kind, "l2_distance"] == pytest.approx(float(off.mean()), rel=1e-4)
            assert score[kind, "error_rate"] == pytest.approx(float((logits[kind].argmax(1) != labels).double().mean()))
        reference = at["reference"].dropna().unique()
        assert reference == pytest.approx([float((through.argmax(1) != labels).double().mean())])
    finally:
        module.float()


def test_a_projection_has_distances_alone(model, given, fit):
    rows = measure_model(model, **given, **fit, layers=["0.1", "2"], readout={"0.1": "project:12", "2": "flatten"})
    assert set(rows.loc[rows["layer"] == "0.1", "readout"]) == {"project:12"}
    assert not {"error_rate", "half_error_rate"} & set(rows.loc[rows["layer"] == "0.1", "metric"])
    assert "error_rate" in set(rows.loc[rows["layer"] == "2", "metric"])
    assert rows.loc[(rows["metric"] == "l2_distance") & (rows["map"] == "identity"), "score"].notna().all()
    with pytest.raises(UserError, match=r"measures=\['error_rate'\] at layer='0.1': its readout cannot be put back"):
        measure_model(model, **given, layers=["0.1"], readout="project:12", measures=["error_rate"])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"readout": "flatten"}, r"layer='0.1' .* gives 5760 features .* at most 4096; choose mean or project:256"),
        ({"readout": "cls"}, "has no tokens"),
        ({"readout": "men"}, "did you mean 'mean'"),
        ({"readout": {"0.9": "mean"}}, "'0.9' is none of the layers"),
        ({"readout": {"0.1": ["mean", "flatten"]}}, "measure once for each"),
        ({"readout": None}, "give a readout's name, or a mapping"),
    ],
)
def test_readouts_that_do_not_serve_are_refused_in_a_line(model, given, fit, asked, said):
    with pytest.raises(UserError, match=said) as error:
        measure_model(model, **given, **fit, layers=["0.1"], **asked)
    assert "\n" not in str(error.value)


def test_another_readout_is_another_measurement(model, given, tmp_path):
    measure_model(model, **given, layers=["0.3"], keep=tmp_path / "kept", readout="mean")
    with pytest.raises(UserError, match="holds other results"):
        measure_model(model, **given, layers=["0.3"], keep=tmp_path / "kept")
    again = measure_model(model, **given, layers=["0.3"], keep=tmp_path / "kept", readout={"0*": "mean"})
    assert set(again["readout"]) == {"mean"}


def test_a_head_of_zeros_is_refused_where_answers_are_wanted(given):
    module = nn.Sequential(nn.Flatten(), nn.Linear(120, 6), nn.Linear(6, 8))
    nn.init.zeros_(module[2].weight)
    zeros = wrap(module, ([0.4], [0.3]), name="zeros")
    with pytest.raises(UserError, match="the same logits for"):
        measure_model(zeros, **given, layers=["1"])
    assert len(measure_model(zeros, **given, layers=["1"], measures=["l2_distance"]))


@pytest.mark.parametrize(
    "layout",
    [
        Layout("vector", (30,)),
        Layout("channels_first", (5, 2, 3)),
        Layout("channels_last", (2, 3, 5)),
        Layout("tokens", (6, 5), 1),
        Layout("unknown", (5, 2, 3)),
    ],
    ids=str,
)
def test_the_scale_is_one_a_channel_over_positions_and_never_near_0(layout):
    generator = torch.Generator().manual_seed(6)
    r = (
        torch.randn(50, *layout.shape, generator=generator).double()
        * torch.tensor([1e-6, 1, 2, 3, 40]).view((5, 1, 1) if layout.kind in ("channels_first", "unknown") else (5,))
        if layout.kind != "vector"
        else torch.randn(50, 30, generator=generator).double() * torch.arange(30)
    )
    array = r.numpy()
    square = array**2
    axes = {"channels_first": (0, 2, 3), "channels_last": (0, 1, 2)}.get(layout.kind, 0)
    wanted = np.broadcast_to(np.sqrt(square.mean(axes, keepdims=True)), (1, *layout.shape)).copy()[0]
    if layout.kind == "tokens":
        wanted[1:] = np.sqrt(square[:, 1:].mean((0, 1)))
    wanted = np.maximum(wanted, 0.01 * np.sqrt(square.mean())).ravel()
    found = scale_of_layer(rms(r.flatten(1).float()), layout.channel_of())
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-6)


def test_a_dimension_that_overflows_leaves_the_others_their_scale():
    r = torch.tensor([[1.0, torch.inf, 0.0], [1.0, 2.0, 0.0]])
    assert scale_of_layer(rms(r), torch.arange(3)).tolist() == pytest.approx([1, torch.inf, 0.01 * 0.5**0.5])


def test_maps_are_scaled_by_channel_and_networks_trained_here_as_in_the_paper(model, given):
    cut = Cut(model.module, ["0.3"])
    x, gx = ((one - 0.4) / 0.3 for one in (given["images"].float() / 255, given["images"].float().flip(3) / 255))
    r, r_g = cut.phi(x)["0.3"], cut.phi(gx)["0.3"]
    asked = {**given, "transforms": [Mirror()], "layers": ["0.3"], "measures": ["l2_distance"]}
    scales = {False: scale_of_layer(rms(r), torch.arange(6).repeat_interleave(30)), True: rms(r)}
    found = {}
    for ours, scale in scales.items():
        one = Model(model.module, model.preprocess, name="mine", recipe=model.recipe, ours=ours)
        rows = measure_model(one, **asked).set_index("g")["score"]
        found[ours] = rows["mirror:horizontal"]
        assert found[ours] == pytest.approx(float(l2_distance_per_image(r_g, r, scale).nanmean()), rel=1e-5)
    assert found[True] != pytest.approx(found[False], rel=1e-3)
