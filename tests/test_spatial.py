"""The spatial map: exactly where the answer is known, and against float64 sums by hand elsewhere."""

import re

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import nn

from invariance import Mirror, Rotation, Transform, UserError, load, measure_model, wrap
from invariance.engine.kept import Kept
from invariance.maps import Ridge, order
from invariance.maps.moments import Moments
from invariance.maps.ridge import choose_strengths, parameters_of
from invariance.maps.spatial import SharedFit
from invariance.maps.spec import MapSpec
from invariance.transforms.base import line_grid
from tests import given_networks

MAPS = ("spatial", "identity_inside", "warp", "floor")


class Roll(Transform):
    """The image shifted to the right in a circle."""

    unit = "px"

    def params_of(self, uniforms):
        return {"by": uniforms[:, 0]}

    def grid(self):
        return line_grid([-4.0, 2.0], lambda by: {"by": torch.tensor([by])}, lambda _: False)

    def apply(self, x, params):
        return x.roll(int(params["by"]), 3)

    def undo(self, map, params, stride, offset, size):
        return map.roll(-round(float(params["by"]) / stride[1]), 3), torch.zeros(1, *map.shape[2:], dtype=torch.bool)

    def act(self, map, params, stride, offset, size):
        return map.roll(round(float(params["by"]) / stride[1]), 3), torch.zeros(1, *map.shape[2:], dtype=torch.bool)


def images_of(count, shape=(1, 12, 16), seed=1):
    """Smooth images, as natural ones are."""
    coarse = torch.rand(count, shape[0], 5, 6, generator=torch.Generator().manual_seed(seed))
    x = nn.functional.interpolate(coarse, shape[1:], mode="bicubic", align_corners=True)
    return (255 * x).clamp(0, 255).to(torch.uint8)


def wrapped(network, channels=1):
    return wrap(network.eval(), preprocess=([0.5] * channels, [0.25] * channels), name="mine")


def circular():
    torch.manual_seed(2)
    around = {"padding": 1, "padding_mode": "circular"}
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, **around),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2, **around),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    )


def plain():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.BatchNorm2d(6),
        nn.Flatten(),
        nn.Linear(6 * 6 * 8, 5),
    )


def scores(rows, map, metric="l2_distance", layer=None, g=None):
    found = rows[(rows["map"] == map) & (rows["metric"] == metric) & (rows["split"] == "report")]
    found = found if layer is None else found[found["layer"] == layer]
    return found.set_index("g")["score"] if g is None else found.set_index("g")["score"][g]


def test_a_convolutional_network_commutes_with_shifts_in_a_circle(capsys):
    rows = measure_model(
        wrapped(circular()),
        images_of(20),
        fit=images_of(30, seed=2),
        transforms={"roll": Roll()},
        layers=["0", "1", "3"],
        maps=["identity", "spatial"],
        measures=["l2_distance", "agreement"],
        nulls=False,
    )
    assert "spatial: 0 12 × 16 every 1 px from 0, 1 12 × 16 every 1 px from 0, 3 6 × 8 every 2 px from 0" in (
        capsys.readouterr().out
    )
    for layer in ("0", "1", "3"):
        for name in ("spatial", "warp", "floor"):
            assert float(scores(rows, name, layer=layer).max()) < 1e-6
        assert float(scores(rows, "identity_inside", layer=layer)["roll:2"]) > 0.1
    on = rows[rows["map"].isin(MAPS)]
    assert set(on["readout"]) == {"positions"} and set(on["status"]) == {"ok"} and set(on["split"]) == {"report"}
    assert set(on.loc[on["metric"] == "positions_outside", "score"]) == {0.0}
    assert set(on.loc[on["metric"] == "agreement", "score"]) == {1.0}  # the pool makes the logits invariant
    assert set(on.loc[on["map"] == "spatial", "solver"]) == {"ridge"}
    # the whole identity is that over all positions, as none is outside
    assert scores(rows, "identity", layer="1", g="roll:2") == pytest.approx(
        scores(rows, "identity_inside", layer="1", g="roll:2"), rel=1e-6
    )


def by_hand(network, layer, x, fit, angle, stride, offset, strength, relu):
    """Everything of the spatial map at one layer, in numpy: undone maps, the fit over positions, distances."""

    def phi(images, g):
        with torch.no_grad():
            z = Rotation(angles=[angle]).apply(images.float(), {"angle": torch.tensor([g], dtype=torch.float64)})
            z = (z / 255 - 0.5) / 0.25
            for module in network[: layer + 1]:
                z = module(z)
        return z.double().numpy()

    def undone(values):
        a, (height, width) = np.radians(angle), values.shape[2:]
        y, right = np.meshgrid(
            offset + stride * np.arange(height) - 5.5, offset + stride * np.arange(width) - 7.5, indexing="ij"
        )
        row = (-right * np.sin(a) + y * np.cos(a) + 5.5 - offset) / stride
        column = (right * np.cos(a) + y * np.sin(a) + 7.5 - offset) / stride
        kept = (row >= 0) & (row <= height - 1) & (column >= 0) & (column <= width - 1)
        found = [[map_coordinates(one, [row, column], order=1, mode="nearest") for one in image] for image in values]
        return np.array(found), kept

    (r, kept), t = undone(phi(fit, angle)), phi(fit, 0.0)
    rows_r, rows_t = (np.moveaxis(one, 1, -1)[:, kept].reshape(-1, one.shape[1]) for one in (r, t))
    mean, target = rows_r.mean(0), rows_t - rows_r
    about = rows_r - mean
    gram = about.T @ about
    damped = gram + strength * np.trace(gram) / len(gram) * np.eye(len(gram))
    weight = np.linalg.solve(damped, about.T @ (target - target.mean(0)))
    bias = target.mean(0) - mean @ weight
    own, wanted = phi(x, angle), phi(x, 0.0)
    back, _ = undone(own)
    mapped = back + np.moveaxis(np.moveaxis(back, 1, -1) @ weight + bias, -1, 1)
    mapped = np.maximum(mapped, 0) if relu else mapped
    rms = np.sqrt((t**2).mean((0, 2, 3)))
    scale = np.maximum(rms, 0.01 * np.sqrt((rms**2).mean()))[:, None]

    def distance(one):
        off, size = ((v[:, :, kept] / scale).reshape(len(v), -1) for v in (one - wanted, wanted))
        return np.linalg.norm(off, axis=1) / np.linalg.norm(size, axis=1)

    put = np.where(kept, mapped, own)
    with torch.no_grad():
        logits = network[layer + 1 :](torch.from_numpy(put).float())
        plain = network[layer + 1 :](torch.from_numpy(wanted).float())
    agree = (logits.argmax(1) == plain.argmax(1)).double().mean().item()
    return {"identity_inside": distance(own), "warp": distance(back), "spatial": distance(mapped)}, agree, kept


@pytest.mark.parametrize(("layer", "stride", "relu"), [(1, 1, True), (3, 2, False)])
def test_it_is_ridge_over_positions_by_hand(layer, stride, relu):
    network, x, fit = plain().eval(), images_of(23), images_of(40, seed=2)
    ridge = MapSpec("spatial", "ridge", Ridge(strengths=(0.03,)))
    family = {"turned": Rotation(angles=[20])}
    rows = measure_model(
        wrapped(network),
        x,
        fit=fit,
        transforms=family,
        layers=[str(layer)],
        maps=[ridge],
        measures=["l2_distance", "agreement"],
        batch=7,
    )
    wanted, agree, kept = by_hand(network, layer, x, fit, 20, stride, 0, 0.03, relu)
    assert 0.3 < kept.mean() < 0.9
    for name, values in wanted.items():
        assert scores(rows, name, g="turned:20") == pytest.approx(values.mean(), rel=1e-5)
        images = rows.images("turned:20")
        np.testing.assert_allclose(images.loc[images["map"] == name, "l2_distance"], values, rtol=1e-4)
    assert scores(rows, "spatial", "agreement", g="turned:20") == agree
    assert scores(rows, "warp", "positions_outside", g="turned:20") == pytest.approx(1 - kept.mean())
    floor = rows[rows["map"] == "floor"].set_index(["g", "metric"])["score"]
    assert 0 < floor["turned:20", "l2_distance"] and floor["turned:20", "positions_outside"] > 1 - kept.mean()
    assert floor["turned:untouched", "l2_distance"] == 0
    assert set(rows.loc[rows["map"] == "floor", "metric"]) == {"l2_distance", "positions_outside"}
    # a linear map with b is no further than the warp on the images it was fitted on, and here on others, too
    assert scores(rows, "spatial", g="turned:20") < scores(rows, "warp", g="turned:20")
    true_cut = rows[(rows["map"] == "spatial") & (rows["metric"] == "agreement")]
    assert set(true_cut["bypass"]) == {0.0} and set(true_cut["reference"]) == {1.0}


def test_the_strength_is_chosen_as_ridge_chooses_it():
    generator = torch.Generator().manual_seed(0)
    r = torch.randn(30, 5, 4, 6, generator=generator)
    mix = torch.randn(5, 5, generator=generator)
    t = torch.einsum("ij,bjhw->bihw", mix, r) + 3 * torch.randn(30, 5, 4, 6, generator=generator)
    kept = torch.rand(1, 4, 6, generator=generator) < 0.7
    settings = Ridge(held_out=0.2, seed=3)
    fit = SharedFit(settings, 5, 30)
    for first in range(0, 30, 8):
        fit.add(first, r[first : first + 8], t[first : first + 8], kept)
    found = fit.finish(False)
    turn = order(30, 3, 0)
    held, rest = turn[:6], turn[6:]
    rows = {
        k: [one[index].movedim(1, -1)[:, kept[0]].reshape(-1, 5) for one in (r, t)]
        for k, index in enumerate((held, rest))
    }
    system = Moments(5, 5)
    system.add(rows[1][0], rows[1][1] - rows[1][0])
    (chosen,) = choose_strengths(settings, system, *rows[0], relu=(False,))
    system.add(rows[0][0], rows[0][1] - rows[0][0])
    wanted = parameters_of(system, [chosen])
    assert found.strength == chosen and found.status == "ok"
    torch.testing.assert_close(found.module.weight.data, wanted["weight"])
    torch.testing.assert_close(found.module.bias.data, wanted["bias"])
    both = [torch.cat([rows[0][k], rows[1][k]]) for k in (0, 1)]
    with torch.no_grad():
        error = (found.module(both[0]) - both[1]).double().square().sum(1).mean()
    assert found.error == pytest.approx(float(error), rel=1e-4)
    assert found.reference == pytest.approx(float((both[0] - both[1]).double().square().sum(1).mean()), rel=1e-6)


def test_nothing_depends_on_batches_or_memory_and_interruptions(tmp_path, monkeypatch):
    network = wrapped(plain())
    asked = dict(
        fit=images_of(20, seed=2),
        transforms={"turned": Rotation(angles=[15]), "mirror": Mirror()},
        layers=["3"],
        maps=["identity", "spatial"],
        measures=["l2_distance", "agreement"],
        nulls=False,
    )
    whole = measure_model(network, images_of(15), **asked)
    small = measure_model(network, images_of(15), **asked, batch=4, memory_gb=1e-4)
    assert len(whole) == len(small)
    key = ["layer", "g", "map", "metric", "split"]
    both = [one.sort_values(key)["score"].to_numpy() for one in (whole, small)]
    np.testing.assert_allclose(*both, rtol=1e-4, atol=1e-6)

    add, done = Kept.add, []

    def interrupted(self, group, result):
        if len(done) == 6:
            raise KeyboardInterrupt
        done.append(group)
        add(self, group, result)

    monkeypatch.setattr(Kept, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure_model(network, images_of(15), **asked, keep=tmp_path / "kept")
    monkeypatch.setattr(Kept, "add", add)
    again = measure_model(network, images_of(15), **asked, keep=tmp_path / "kept")
    held = load(tmp_path / "kept")
    np.testing.assert_array_equal(again["score"].to_numpy(), whole["score"].to_numpy())
    np.testing.assert_array_equal(held["score"].to_numpy(), whole["score"].to_numpy())
    assert not held.area(intervals=True).empty and not held.consistency().empty and not held.worst(2).empty
    for what in ("depth", "heatmap"):
        held.plot(what, measure="l2_distance")


def test_warp_needs_no_fit_images():
    rows = measure_model(
        wrapped(plain()), images_of(9), transforms=["mirror"], layers=["3"], maps=["warp"], measures=["l2_distance"]
    )
    assert set(rows["map"]) == {"warp", "identity_inside", "floor"}
    assert set(rows.loc[rows["metric"] == "l2_distance", "status"]) == {"report_scale"}
    assert set(rows.loc[rows["metric"] == "positions_outside", "status"]) == {"ok"}
    # position 0 of 0, 2, …, 14 lies at 15 when flipped, beyond 14
    assert scores(rows, "warp", "positions_outside", g="mirror:horizontal") == pytest.approx(1 / 8)


class Small(nn.Module):
    """Tokens behind a class token, which reads them."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(1, 8, 4, stride=4)
        self.cls = nn.Parameter(torch.randn(1, 1, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = self.block(torch.cat([self.cls.expand(len(x), -1, -1), x], 1))
        return self.head(x[:, 0])


def test_tokens_have_positions_and_the_class_token_stays():
    torch.manual_seed(4)
    network = Small().eval()
    asked = dict(
        fit=images_of(30, seed=2),
        transforms=["mirror"],
        layers=["patch", "block", "head"],
        maps=["spatial"],
        measures=["l2_distance", "agreement"],
    )
    rows = measure_model(wrapped(network), images_of(12), **asked)
    assert set(rows["layer"]) == {"patch", "block"} and set(rows["status"]) == {"ok"}
    assert rows.attrs["positions"] == dict.fromkeys(("patch", "block"), "3 × 4 every 4 px from 1.5")
    assert float(scores(rows, "floor", layer="block").max()) == 0.0  # patches tile the image, and flip onto another
    # behind the block the class token alone is read, and it is gx's own
    own = scores(rows, "identity_inside", "agreement", layer="block")
    assert scores(rows, "spatial", "agreement", layer="block").equals(own)
    assert scores(rows, "spatial", "agreement", layer="patch")["mirror:untouched"] == 1.0


def test_where_nothing_is_left_rows_say_undefined():
    torch.manual_seed(5)
    network = nn.Sequential(nn.Conv2d(1, 4, 8, stride=8), nn.Flatten(), nn.Linear(16, 3))
    rows = measure_model(
        wrapped(network),
        images_of(9, (1, 16, 16)),
        fit=images_of(9, (1, 16, 16), seed=2),
        transforms={"turned": Rotation(angles=[45])},
        layers=["0"],
        maps=["spatial"],
        measures=["l2_distance", "agreement"],
    )
    at = rows[rows["g"] == "turned:45"].set_index(["map", "metric"])
    assert set(at.loc[(slice(None), "positions_outside"), "score"]) == {1.0}
    for name in MAPS:
        assert at.loc[(name, "l2_distance"), "status"] == "undefined"
    assert at.loc[("warp", "agreement"), "status"] == "ok"


class NoUndo(Roll):
    undo, act = Transform.undo, Transform.act


class Wrong(Roll):
    def undo(self, map, params, stride, offset, size):
        return map[..., 1:], torch.zeros(1, 3, dtype=torch.bool)


class Failing(Roll):
    def undo(self, map, params, stride, offset, size):
        raise RuntimeError("cannot")


class NoAct(Roll):
    act = Transform.act


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"layers": ["5"]}, r"spatial: layer='5' gives \(6,\) for an image, and no positions; choose"),
        ({"layers": ["4"]}, r"layer='4' gives \(6, 1, 1\) for an image, and no positions"),
        ({"fit": None}, "map=spatial is fitted, and there are no fit images"),
        ({"transforms": {"own": NoUndo()}}, "NoUndo has no undo; give it a method undo"),
        ({"transforms": {"own": Wrong()}}, r"Wrong.undo gives .* give such a map"),
        (
            {"transforms": {"own": Failing()}},
            r"Failing.undo fails on maps \(2, 1, 12, 16\) of own:.* RuntimeError \(cannot",
        ),
        ({"maps": ["spatail"]}, "did you mean 'spatial'"),
        ({"maps": ["spatial", "warp", "warp"]}, "each solver once"),
        ({"maps": [MapSpec("spatial", "ridge")]}, "map=spatial is fitted by ridge alone"),
        ({"measures": ["cka"]}, "add identity to the maps"),
        ({"layers": ["layer9"]}, "layer9"),
    ],
)
def test_what_does_not_serve_is_one_line(more, told):
    network = circular()
    network[4] = nn.AdaptiveAvgPool2d(1)
    asked = {"fit": images_of(9, seed=2), "transforms": {"own": Roll()}, "layers": ["1"], "maps": ["spatial"], **more}
    with pytest.raises(UserError, match=told) as error:
        measure_model(wrapped(network), images_of(9), **asked)
    assert "\n" not in str(error.value)


def test_a_family_that_only_undoes_has_no_floor():
    rows = measure_model(
        wrapped(circular()),
        images_of(9),
        transforms={"own": NoAct()},
        layers=["1"],
        maps=["warp"],
        measures=["l2_distance"],
    )
    floor = rows[(rows["map"] == "floor") & (rows["metric"] == "l2_distance")]
    assert set(floor["status"]) == {"undefined"} and float(scores(rows, "warp").max()) < 1e-6


def test_layers_without_positions_are_left_out_with_a_line(capsys):
    rows = measure_model(
        wrapped(circular()), images_of(9), transforms={"own": Roll()}, layers=["1", "5", "6"], maps=["identity", "warp"]
    )
    line = next(line for line in capsys.readouterr().out.splitlines() if "left out" in line)
    assert re.fullmatch(r"spatial: left out: 5 gives \(6,\) .*; 6 gives \(5,\) .*", line)
    assert set(rows.loc[rows["map"] == "warp", "layer"]) == {"1"} and set(rows["layer"]) == {"1", "5", "6"}


def test_what_passes_by_a_layer_is_gx_and_rows_say_how_much():
    model, x = given_networks.model(), images_of(60, (1, 17, 17))
    rows = measure_model(
        model, x, transforms=["mirror"], layers=["inner"], maps=["warp"], measures=["agreement"], nulls=False
    )
    at = rows[(rows["map"] == "warp") & (rows["g"] == "mirror:vertical") & (rows["metric"] == "agreement")].iloc[0]
    cut, flip = model.cut(["inner"]), Mirror()
    params = {point.label: point.params for point in flip.grid()}["vertical"]
    plain, taken = (model.prepare(one) for one in (x.float(), flip.apply(x.float(), params)))
    maps = {name: cut.phi(one)["inner"].reshape(-1, 3, 4, 4) for name, one in (("x", plain), ("gx", taken))}
    back, _ = flip.undo(maps["gx"], params, (4, 4), (1, 1), (17, 17))
    named = cut.logits(plain).argmax(1)
    for told, put in ((at["score"], back), (at["reference"], maps["x"])):
        answer = cut.classify("inner", put.flatten(1), taken).argmax(1)
        assert told == pytest.approx((answer == named).double().mean().item())
    assert at["bypass"] == pytest.approx(cut.bypass("inner", plain[:16])) and at["bypass"] > 0.1
