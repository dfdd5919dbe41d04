"""Readouts: an activation as a vector and back into the activation, at layers of every layout."""

import numpy as np
import pytest
import torch
from torch import nn

from invariance.errors import UserError
from invariance.models import readout as readouts
from invariance.models.cut import Cut
from invariance.models.layers import choose_readouts, list_layers
from invariance.models.layout import Layout
from invariance.models.readout import LARGEST, Mean, Project, Token, read_readout, readout_for, readouts_by_layer
from tests.test_cut import Skip, Tokens, Windows, images, logits_of, seeded


def wide(n=5, seed=0, sides=(4, 6)):
    return torch.randn(n, 3, *sides, generator=torch.Generator().manual_seed(seed))


class Several(nn.Module):
    """A dictionary with a map, a map of channels last and tokens behind two of a class, all of one image."""

    def __init__(self):
        super().__init__()
        self.conv, self.parts, self.head = nn.Conv2d(3, 7, 2, 2), nn.Identity(), nn.Linear(7, 5)
        self.before = nn.Parameter(torch.randn(1, 2, 7))

    def forward(self, x):
        map_ = self.conv(x).tanh()
        last = map_.permute(0, 2, 3, 1)
        tokens = torch.cat(
            [self.before.expand(len(x), -1, -1) + x.mean((1, 2, 3))[:, None, None], last.flatten(1, 2)], 1
        )
        parts = self.parts({"map": map_, "rest": (last, tokens)})
        last, tokens = parts["rest"]
        whole = parts["map"].square().mean((2, 3)) + last.square().mean((1, 2)) + tokens.square().mean(1)
        return {"logits": self.head(whole)}


EXACT = [
    (Skip, wide, "stem", "mean"),  # overwritten in place afterwards
    (Skip, wide, "relu#1", "mean"),
    (Skip, wide, "conv", "mean:channels_first"),
    (Skip, wide, "relu#2", "flatten"),
    (Skip, wide, "pool", "mean"),
    (Several, wide, "parts[map]", "mean"),
    (Several, wide, "parts[rest][0]", "mean"),
    (Several, wide, "parts[rest][0]", "mean:channels_last"),
    (Several, wide, "parts[rest][1]", "mean"),
    (Several, wide, "parts[rest][1]", "mean:tokens"),
    (Several, wide, "parts[rest][1]", "mean:tokens:3"),
    (Several, wide, "parts[rest][1]", "cls"),
    (Several, wide, "parts[rest][1]", "token:7"),
    (Windows, images, "cut", "mean:channels_first"),
    (Windows, images, "join", "mean"),
    (Tokens, wide, "norm", "mean"),
    (Tokens, wide, "layer", "cls"),
    (Tokens, wide, "layer", "mean"),
    (Tokens, wide, "layer.linear1", "token:6"),
]


@pytest.mark.parametrize("lay", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize(("kind", "of", "layer", "readout"), EXACT)
def test_the_identity_is_the_network_by_every_readout_that_lifts(kind, of, layer, readout, lay):
    network, x = seeded(kind).train(), of().contiguous(memory_format=lay)
    cut = Cut(network, [layer], readout)
    r = cut.phi(x)[layer]
    assert r.shape == (5, cut.reading(layer).dim) and cut.reading(layer).readout.name == readout
    assert torch.equal(cut.classify(layer, r, x), logits_of(network, x)) and network.training
    if readout != "flatten":
        assert cut.shape(layer) == r.shape[1:] and not cut.apart(layer)
        with pytest.raises(UserError, match=f"needs the images: readout={readout} is put back into"):
            cut.classify(layer, r)
    assert cut.bypass(layer, x) == Cut(network, [layer]).bypass(layer, x)  # of the whole activation


def test_c_by_the_mean_is_the_rest_of_the_network_written_by_hand():
    network, x, gx = seeded(Skip).double().eval(), wide().double(), wide(seed=1).double()
    cut = Cut(network, ["conv", "stem"], "mean")
    r = cut.phi(x)
    with torch.no_grad():
        first, beside = network.stem(x), network.stem(gx)
        torch.testing.assert_close(r["stem"], first.mean((2, 3)), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(r["conv"], network.conv(first.relu()).mean((2, 3)), rtol=1e-12, atol=1e-12)
        own = network.conv(beside.relu())
        lifted = own + (r["conv"] - own.mean((2, 3)))[:, :, None, None]
        wanted = network.head((lifted + beside.relu()).relu().mean((2, 3)))
    torch.testing.assert_close(cut.classify("conv", r["conv"], gx), wanted, rtol=1e-12, atol=1e-12)


def test_c_by_a_token_is_the_rest_of_the_network_written_by_hand():
    network, x, gx = seeded(Tokens).eval(), wide(), wide(seed=1)
    cut = Cut(network, ["layer"], "cls")
    r = cut.phi(x)["layer"]
    torch.testing.assert_close(cut.classify("layer", r, gx), logits_of(network, x))  # the head reads nothing else
    other = Cut(network, ["layer"], "token:3")
    torch.testing.assert_close(other.classify("layer", 2 * other.phi(x)["layer"], gx), logits_of(network, gx))


LAYOUTS = [
    Layout("channels_first", (7, 4, 5)),
    Layout("channels_last", (4, 5, 7)),
    Layout("tokens", (9, 7)),
    Layout("tokens", (9, 7), 2),
    Layout("channels_first", (7, 9)),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_what_the_mean_lifts_has_that_mean_and_varies_as_before(layout, kind):
    generator = torch.Generator().manual_seed(2)
    own = torch.randn(3, *layout.shape, generator=generator, dtype=kind)
    r, kept = torch.randn(3, 7, generator=generator, dtype=kind), own.clone()
    lifted = Mean().lift(r, own, layout)
    assert torch.equal(own, kept) and lifted.shape == own.shape
    tolerance = 1e-6 if kind is torch.float32 else 1e-14
    torch.testing.assert_close(Mean().read(lifted, layout), r, rtol=0, atol=tolerance)
    assert torch.equal(lifted[:, : layout.prefix], own[:, : layout.prefix]) or not layout.prefix
    last = [one.movedim(1, -1) if layout.kind == "channels_first" else one for one in (lifted, own)]
    step = (last[0] - last[1]).flatten(1, -2)[:, layout.prefix :]
    torch.testing.assert_close(step, step[:, :1].expand_as(step), rtol=0, atol=10 * tolerance)


def test_tokens_are_put_back_where_they_stood():
    own, r, layout = torch.randn(3, 6, 4), torch.randn(3, 4), Layout("tokens", (6, 4), 1)
    for readout, place in ((Token(0, "cls"), 0), (Token(5, "token:5"), 5)):
        lifted = readout.lift(r, own, layout)
        assert torch.equal(lifted[:, place], r) and torch.equal(readout.read(own, layout), own[:, place])
        others = [k for k in range(6) if k != place]
        assert torch.equal(lifted[:, others], own[:, others])


def test_gradients_pass_through_a_lift():
    network, x = seeded(Skip).train(), wide()
    cut = Cut(network, ["conv"], "mean")
    wanted = torch.autograd.grad(network(x).square().sum(), network.head.weight)[0]
    found = torch.autograd.grad(cut.resume("conv", cut.reach(x)["conv"], x).square().sum(), network.head.weight)[0]
    assert torch.equal(found, wanted)
    r = cut.reach(x)["conv"].detach().requires_grad_()
    assert torch.autograd.grad(cut.resume("conv", r, x).sum(), r)[0].abs().sum() > 0


def test_the_mean_of_what_treats_all_positions_alike_is_invariant_to_their_order():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 5, 2, 2), nn.GELU(), nn.Conv2d(5, 6, 1), nn.Flatten(), nn.Linear(36, 4)
    ).double()
    x = wide().double()
    gx = x.unfold(2, 2, 2).unfold(3, 2, 2)[:, :, [1, 0]][:, :, :, [2, 0, 1]].permute(0, 1, 2, 4, 3, 5).reshape(x.shape)
    mean, whole = Cut(network, ["2"], "mean"), Cut(network, ["2"])
    torch.testing.assert_close(mean.phi(gx)["2"], mean.phi(x)["2"], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(whole.phi(gx)["2"], whole.phi(x)["2"], atol=0.1)
    # what is invariant loses nothing where it is put back, though the logits see positions
    torch.testing.assert_close(mean.classify("2", mean.phi(x)["2"], gx), logits_of(network, gx), rtol=1e-10, atol=1e-10)


def test_a_projection_is_one_matrix_of_gaussian_numbers():
    layout = Layout("channels_first", (3, 40, 50))
    p = Project(400).read(torch.eye(6000).view(-1, 3, 40, 50), layout)  # drawn in three pieces
    x = torch.randn(9, 3, 40, 50, generator=torch.Generator().manual_seed(3))
    wanted = x.flatten(1).double() @ p.double()
    found = Project(400).read(x, layout)
    assert found.dtype == torch.float32 and found.shape == (9, 400)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(Project(400).read(x.double(), layout), wanted, rtol=1e-12, atol=1e-10)
    np.testing.assert_allclose([p.mean(), p.std() * 20], [0, 1], atol=2e-3)
    assert abs(float((p[:, :1].T @ p[:, 1:]).max())) < 0.7  # no column is another's copy
    ratio = found.norm(dim=1) / x.flatten(1).norm(dim=1)
    np.testing.assert_allclose(ratio, 1, atol=0.2)


def test_a_projection_too_large_to_be_kept_is_the_same_one(monkeypatch):
    x, layout = wide(4, sides=(30, 40)), Layout("channels_first", (3, 30, 40))
    kept = Project(500)
    wanted = kept.read(x, layout)
    assert torch.equal(kept.read(x, layout), wanted) and kept._pieces is not None
    monkeypatch.setattr(readouts, "_HELD", 0)
    anew = Project(500)
    assert torch.equal(anew.read(x, layout), wanted) and anew._pieces is None
    half = kept.read(x.bfloat16(), layout)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, wanted, rtol=0.05, atol=0.5)


def test_nothing_comes_back_from_a_projection():
    cut, x = Cut(seeded(Skip), ["conv"], "project:9"), wide()
    r = cut.phi(x)["conv"]
    assert r.shape == (5, 9) and cut.shape("conv") == (9,)
    with pytest.raises(UserError, match="readout=project:9 cannot be put back"):
        cut.classify("conv", r, x)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mene", "did you mean 'mean'"),
        ("flatten:2", "is none"),
        ("token", "there are flatten, mean"),
        ("token:-1", "whole number from 0"),
        ("token:x", "whole number from 0"),
        ("project", "there are flatten, mean"),
        ("project:0", "whole number from 1 to 4096"),
        ("project:5000", "whole number from 1 to 4096"),
        ("project:²", "whole number from 1 to 4096"),
        ("mean:rows", "mean:channels_last"),
        ("mean:tokens:", "whole number"),
        ("auto", "is chosen by measure_model"),
        ("", "is none"),
        (3, "is none"),
        (None, "is none"),
    ],
)
def test_names_that_are_none_are_refused_in_a_line(name, said):
    with pytest.raises(UserError, match=said) as error:
        read_readout(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["flatten", "mean", "mean:channels_last", "mean:tokens:2", "cls", "token:3", "project:7"]
)
def test_names_are_read_and_written_alike(name):
    assert read_readout(name).name == name


@pytest.mark.parametrize(
    ("kind", "layer", "readout", "said"),
    [
        (
            Skip,
            "head",
            "mean",
            r"layer='head' \(B, C\) has no readout=mean: it has no positions; choose flatten or proj",
        ),
        (Skip, "conv", "cls", r"has no tokens; choose flatten or mean or project:96"),
        (Skip, "conv", "token:0", "has no tokens"),
        (Skip, "conv", "mean:tokens", "has no tokens"),
        (Skip, "pool", "project:9", "it has 4 numbers, which flatten takes"),
        (Tokens, "layer", "token:7", "its tokens are token:0 to token:6"),
        (Tokens, "layer", "mean:tokens:7", "it has 7 tokens"),
        (Tokens, "norm", "cls", "has no tokens"),
    ],
)
def test_readouts_that_do_not_fit_a_layer_name_those_that_do(kind, layer, readout, said):
    with pytest.raises(UserError, match=said) as error:
        Cut(seeded(kind), [layer], readout).phi(wide())
    assert "\n" not in str(error.value)


def test_a_class_token_must_be_one_and_a_layout_must_be_known():
    with pytest.raises(UserError, match="no token stands before those of its patches: token:0 takes the first"):
        readout_for("x", Layout.of((6, 8), (4, 6)), "cls")
    odd = Layout.of((12, 197, 64), (224, 224))
    with pytest.raises(UserError, match=r"\(B, \?, \?, \?\) .* say mean:channels_first or mean:channels_last"):
        readout_for("x", odd, "mean")
    with pytest.raises(UserError, match=r"choose mean:channels_first or mean:channels_last or project:256"):
        readout_for("x", odd, "auto")
    assert readout_for("x", odd, "mean:channels_last") == "mean:channels_last"


def test_readouts_by_names_and_patterns():
    layers = ["stem", "conv", "relu#1", "relu#2", "halves[0]"]
    given = {"relu*": "mean", "relu#2": "project:4", "halves[0]": "flatten"}
    found = readouts_by_layer(layers, given)
    assert list(found.values()) == ["auto", "auto", "mean", "project:4", "flatten"]
    assert set(readouts_by_layer(layers, "cls").values()) == {"cls"}
    for bad, said in (
        ({"blok": "mean"}, "'blok' is none of the layers"),
        ({"con": "mean"}, "did you mean 'conv'"),
        ({"conv": ["mean", "cls"]}, "measure once for each"),
        ({"c*": "mean", "*v": "cls"}, "is to be read by cls and by mean; name the layer itself"),
        ({"conv": "men"}, "did you mean 'mean'"),
        (["mean"], "or a mapping"),
    ):
        with pytest.raises(UserError, match=said):
            readouts_by_layer(layers, bad)
    cut = Cut(seeded(Skip), ["stem", "conv"], {"conv": "mean"})
    assert {layer: r.shape[1] for layer, r in cut.phi(wide()).items()} == {"stem": 96, "conv": 4}


@pytest.mark.parametrize(
    ("shape", "chosen"),
    [
        ((64, 8, 8), "flatten"),
        ((64, 8, 9), "mean"),
        ((50, 96), "mean"),
        ((4096,), "flatten"),
        ((4097,), None),
        ((4097, 2, 2), None),
    ],
)
def test_auto_is_flatten_then_the_mean_then_a_refusal(shape, chosen):
    layout = Layout.of(shape, (56, 63) if shape[-1] == 9 else (56, 56))
    assert readout_for("x", layout, "auto", fitted=False) == "flatten"
    if chosen is None:
        with pytest.raises(UserError, match=r"at most 4096; choose project:256, which has no accuracy"):
            readout_for("x", layout)
    else:
        assert readout_for("x", layout) == chosen
    if layout.dim > LARGEST:
        with pytest.raises(UserError, match=f"gives {layout.dim} features by readout=flatten"):
            readout_for("x", layout, "flatten")


def test_the_listing_has_d_after_the_readout_and_names_what_is_near():
    network = nn.Sequential(nn.Conv2d(3, 64, 1), nn.Flatten(), nn.Linear(64 * 99, 5))
    frame = list_layers(network, wide(sides=(9, 11))).set_index("layer")
    assert frame["readout"].tolist() == ["mean", "flatten", "flatten", "flatten"]
    assert frame["dim"].tolist() == [64, 6336, 5, 5]
    means = list_layers(network, wide(sides=(9, 11)), readout="mean").set_index("layer")
    assert means["dim"].fillna(0).tolist() == [64, 0, 0, 0] and "it has no positions" in means.loc["1", "why"]
    chosen = choose_readouts(network, ["0", "2"], "auto", wide(sides=(9, 11)), fitted=True)
    assert chosen == {"0": "mean", "2": "flatten"}
    with pytest.raises(UserError, match="is none"):
        list_layers(network, wide(sides=(9, 11)), readout="all")
    windows = list_layers(seeded(Windows), images(), bypass=False).set_index("layer")["why"]
    assert windows["inner"].endswith("the nearest that can be measured is join") and not windows["join"]


def test_a_layer_whose_output_changes_its_size_is_refused_by_both_sizes():
    class Growing(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Identity(), nn.Linear(3, 2)

        def forward(self, x):
            x = x.flatten(2).transpose(1, 2)
            return self.head(self.body(x if float(x.mean()) > 0 else x[:, 1:]).mean(1))

    cut, x = Cut(Growing(), ["body"]), wide().abs()
    cut.phi(x)
    with pytest.raises(
        UserError, match=r"gives \(23, 3\) for an image, and gave \(24, 3\) for others of the same size"
    ):
        cut.phi(-x)
