"""φ at any layer of any network, and C by replacing: small networks of every kind."""

from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional

from invariance.errors import UserError
from invariance.models.cut import Cut


class Skip(nn.Module):
    """A residual block with one ReLU module that runs twice, in place."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv, self.relu = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(True)
        self.block, self.pool, self.head = nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Linear(4, 5)

    def forward(self, x):
        x = self.relu(self.stem(x))
        x = self.block(self.relu(self.conv(x) + x))
        return self.head(self.pool(x).flatten(1))


class Pair(NamedTuple):
    main: torch.Tensor
    side: torch.Tensor


class Halves(nn.Module):
    def forward(self, x):
        return Pair(x[:, :3], x[:, 3:])


class States(nn.Module):
    def forward(self, pair):
        return {"hidden": [pair.main, pair.side], "count": torch.tensor(2), 7: pair.main + 1}


class Containers(nn.Module):
    """Named tuples, dictionaries and lists between modules, and logits in a dictionary."""

    def __init__(self):
        super().__init__()
        self.body, self.halves, self.states = nn.Linear(48, 6), Halves(), States()
        self.idle, self.head = nn.Linear(1, 1), nn.Linear(9, 4)

    def forward(self, x):
        states = self.states(self.halves(self.body(x.flatten(1))))
        return {"loss": None, "logits": self.head(torch.cat([*states["hidden"], states[7]], 1))}


class Windows(nn.Module):
    """Attention in windows: inside, every image is four rows; the table is the same for every batch."""

    def __init__(self):
        super().__init__()
        self.cut, self.inner, self.join = nn.Unfold(2, stride=2), nn.Linear(12, 12), nn.Identity()
        self.table, self.head = nn.Identity(), nn.Linear(48, 5)
        self.weight = nn.Parameter(torch.randn(4, 12))

    def forward(self, x):
        x = self.cut(x).transpose(1, 2)
        rows = self.inner(x.reshape(-1, 12)).tanh()
        x = self.join(rows.view(len(x), 4, 12)) + self.table(self.weight)
        return self.head(x.flatten(1))


class Tokens(nn.Module):
    """A channel-last stem, a class token, fused attention, the head at the class token."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 2, 2)
        self.norm = nn.LayerNorm(8)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.pick, self.head = nn.Identity(), nn.Linear(8, 5)

    def forward(self, x):
        x = self.norm(self.patch(x).permute(0, 2, 3, 1)).flatten(1, 2)
        x = self.layer(torch.cat([self.token.expand(len(x), -1, -1), x], 1))
        return self.head(self.pick(x[:, 0]))


def images(n=5, side=4, seed=0):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def seeded(kind):
    torch.manual_seed(1)
    return kind()


def logits_of(network, x):
    """f(x) in evaluation mode, by the network itself and without fused attention."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    mode = network.training
    with torch.no_grad():
        given = network.eval()(x)
    network.train(mode)
    torch.backends.mha.set_fastpath_enabled(fused)
    return given["logits"] if isinstance(given, dict) else given


# the class token, which the head reads, has all it knows of the image from attention
CUTS = set("stem relu#1 relu#2 block pool head logits body cut join patch norm layer.self_attn[0] layer pick".split())
LAYERS = [
    (Skip, ["stem", "relu#1", "conv", "relu#2", "block", "pool", "head", "logits"]),
    (Containers, ["body", "halves[0]", "halves[1]", "states[hidden][1]", "states[7]", "head", "logits"]),
    (Windows, ["cut", "join", "head"]),
    (Tokens, ["patch", "norm", "layer.linear1", "layer.self_attn[0]", "layer", "pick", "head"]),
]


@pytest.mark.parametrize(("kind", "layers"), LAYERS, ids=lambda one: getattr(one, "__name__", ""))
def test_the_identity_is_the_network_at_every_layer(kind, layers):
    network, x = seeded(kind).train(), images()
    cut = Cut(network, layers)
    r = cut.phi(x)
    assert list(r) == layers and network.training
    assert torch.equal(cut.logits(x), logits_of(network, x))
    for layer in layers:
        kept = r[layer].clone()
        assert r[layer].ndim == 2 and len(r[layer]) == len(x)
        assert torch.equal(cut.classify(layer, r[layer], x), logits_of(network, x))
        assert torch.equal(r[layer], kept)
        bypass = cut.bypass(layer, x)
        assert bypass <= 1e-4 if layer in CUTS else bypass > 0.01
        assert not cut.apart(layer) or bypass <= 1e-4


def test_replacing_is_the_rest_of_the_network_written_by_hand():
    network, x = seeded(Skip).eval(), images()
    cut = Cut(network, ["conv", "relu#1", "relu#2"])
    gx, r = images(seed=1), torch.randn(5, 64)
    cut.phi(x)
    map_ = r.view(5, 4, 4, 4)
    with torch.no_grad():
        beside = network.stem(gx).relu()
        assert torch.equal(cut.classify("conv", r, gx), network.head(network.pool((map_ + beside).relu()).flatten(1)))
        assert torch.equal(cut.classify("relu#2", r), network.head(network.pool(map_).flatten(1)))
        both = network.conv(map_) + map_
        assert torch.equal(cut.classify("relu#1", r), network.head(network.pool(both.relu()).flatten(1)))
    assert [cut.apart(one) for one in cut.layers] == [False, True, True]
    with pytest.raises(UserError, match=r"layer='conv' needs the images: the layer is passed by"):
        cut.classify("conv", r)


def test_an_output_is_taken_before_it_is_overwritten():
    network, x = nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)).eval(), images()
    cut = Cut(network, ["1", "2"])
    r = cut.phi(x)
    with torch.no_grad():
        assert torch.equal(r["1"], network[1](x.flatten(1))) and (r["1"] < 0).any()
    assert torch.equal(r["2"], r["1"].relu())


def test_bypass_is_its_definition():
    network, x = seeded(Skip).eval(), images()
    cut, other = Cut(network, ["conv"]), images().roll(1, 0)
    with torch.no_grad():
        inner = network.conv(network.stem(x).relu())
        put = network.head(network.pool((inner + network.stem(other).relu()).relu()).flatten(1))
        wanted = (put - network(x)).norm() / (network(other) - network(x)).norm()
    assert cut.bypass("conv", x) == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "layer", "said"),
    [
        (Skip, "relu", "runs 2 times in a forward pass; say which, as relu#1 to relu#2"),
        (Skip, "stem#2", "runs 1 time in a forward pass, so there is no run 2"),
        (Skip, "steem", "did you mean 'stem'"),
        (Skip, "stem[0]", r"has no such element \(name stem"),
        (Skip, "#1", "not in the network"),
        (Containers, "halves", r"gives a Pair \(name halves\[0\]"),
        (Containers, "states[hidden]", r"gives a list \(name states\[hidden\]\[0\]"),
        (Containers, "states[count]", "no floating-point numbers"),
        (Containers, "states[hiden]", "has no such element"),
        (Containers, "idle", "is not run .* the nearest that can be measured is head"),
        (Windows, "inner", r"does not give a row an image \(of 4 images \(16, 12\).*nearest .* is join"),
        (Windows, "table", r"does not give a row an image \(of 4 images \(4, 12\), of 3 \(4, 12\)\)"),
        (Tokens, "layer.self_attn.out_proj", "is not run .* or by fused code"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(kind, layer, said):
    with pytest.raises(UserError, match=said):
        Cut(seeded(kind), [layer]).phi(images())


class Odd(nn.Module):
    """Outputs that no measurement can do anything with."""

    def __init__(self, how):
        super().__init__()
        self.body, self.head, self.how = nn.Linear(48, 6), nn.Linear(6, 3), how

    def forward(self, x):
        x = self.body(x.flatten(1))
        if self.how == "random":
            x = functional.dropout(x, 0.5, training=True)
        elif self.how == "mixed":
            x = x - x.mean(0)
        elif self.how == "sorted":
            x = x[x[:, 0].argsort()]
        x = self.head(x)
        if self.how == "constant":
            x = 0 * x
        elif self.how == "several":
            return x, x + 1
        elif self.how == "whole":
            return x.argmax(1)
        elif self.how == "maps":
            return x[:, :, None, None].expand(-1, -1, 2, 2)
        return x


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("random", "from call to call: dropout or something else random"),
        ("mixed", "depend on the other images of the batch"),
        ("sorted", "depend on the other images of the batch or on their order"),
        ("constant", "the same logits for 4 different images"),
        ("several", r"which of it are the logits is unknown"),
        ("whole", r"torch.int64 of shape \(4,\).*logits are floating-point numbers \(B, K\)"),
        ("maps", r"of shape \(4, 3, 2, 2\).*wrap it in a module"),
    ],
)
def test_networks_that_say_nothing_are_refused(how, said):
    with pytest.raises(UserError, match=said):
        Cut(Odd(how), ["body" if how in ("constant", "several", "whole", "maps") else "head"]).logits(images())
    if how == "constant":
        with pytest.raises(UserError, match="the same logits"):
            Cut(Odd(how), ["body"]).bypass("body", images())


def test_dropout_in_training_mode_does_nothing_and_every_mode_comes_back():
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(48, 3), nn.BatchNorm1d(3)).train()
    network[3].eval()
    cut, x = Cut(network, ["2"]), images()
    assert torch.equal(cut.phi(x)["2"], cut.phi(x)["2"])
    assert [one.training for one in network] == [True, True, True, False]
    assert int(network[3].num_batches_tracked) == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.zeros(0, 3, 4, 4), "is no batch"),
        (torch.zeros(3), "is no batch"),
        ([1, 2], "a list is no batch"),
        (torch.zeros(2, 5, 4, 4), r"does not take a batch of shape \(2, 5, 4, 4\)"),
        (torch.zeros(2, 3, 4, 4, device="meta"), "images are on meta and the network is on cpu"),
    ],
)
def test_inputs_that_do_not_serve_are_refused(given, said):
    with pytest.raises(UserError, match=said):
        Cut(seeded(Skip), ["stem"]).phi(given)


def test_classify_names_what_does_not_fit():
    cut, x = Cut(seeded(Skip), ["conv", "block"]), images()
    with pytest.raises(UserError, match="call phi"):
        cut.classify("conv", torch.zeros(5, 64), x)
    r = cut.phi(x)["conv"]
    for bad, said in ((r[:, :9], r"takes \(B, 64\)"), (r.view(5, 4, 16), r"takes \(B, 64\)")):
        with pytest.raises(UserError, match=said):
            cut.classify("conv", bad, x)
    with pytest.raises(UserError, match="5 representations and 4 images"):
        cut.classify("conv", r, x[:4])
    with pytest.raises(UserError, match="is not one of this cut; it has: conv, block"):
        cut.classify("stem", r, x)
    with pytest.raises(UserError, match="at least 2 images"):
        cut.bypass("conv", x[:1])
    with pytest.raises(UserError, match="give a list of names"):
        Cut(seeded(Skip), "conv")


def test_one_image_and_other_batches_later():
    cut, x = Cut(seeded(Skip), ["conv", "block"]), images(9)
    alone = cut.phi(x[:1])
    assert {layer: tuple(r.shape) for layer, r in alone.items()} == {"conv": (1, 64), "block": (1, 64)}
    for layer, r in cut.phi(x).items():
        assert torch.allclose(r[:1], alone[layer], atol=1e-6)
        assert torch.equal(cut.classify(layer, r, x), logits_of(cut.network, x))
    larger = images(2, side=6)
    assert cut.phi(larger)["conv"].shape == (2, 144) and cut.shape("conv") == (4, 6, 6)


def test_channels_last_is_put_back_as_it_lay():
    network, x = seeded(Skip).to(memory_format=torch.channels_last).eval(), images()
    x = x.contiguous(memory_format=torch.channels_last)
    cut, lay = Cut(network, ["conv", "block"]), []
    network.block.register_forward_hook(lambda _m, _i, out: lay.append(out.stride()))
    for layer, r in cut.phi(x).items():
        lay.clear()
        assert torch.equal(cut.classify(layer, r, x), logits_of(network, x))
    assert set(lay) == {network.stem(x).stride()}


def test_a_trace_that_differs_from_replacing_does_not_serve():
    class Counted(nn.Module):
        """The trace keeps the number that the forward pass found."""

        def __init__(self):
            super().__init__()
            self.body, self.head, self.factor = nn.Linear(48, 6), nn.Linear(6, 3), 1.0

        def forward(self, x):
            x = self.body(x.flatten(1))
            x.mul_(2)  # nothing uses what it gives, so that a trace loses it
            return self.head(x)

    network, x = Counted().eval(), images()
    cut = Cut(network, ["body"])
    r = cut.phi(x)["body"]
    assert cut.apart("body")  # the network itself serves, without what comes before
    for given in (None, x):
        assert torch.equal(cut.classify("body", r, given), logits_of(network, x))


@pytest.mark.parametrize("readout", ["mean", "flatten"])
def test_what_comes_before_a_layer_is_left_out_where_it_tells_nothing(readout):
    class Untraceable(nn.Module):
        """Its forward pass branches on what it is given, and leaves a module's own forward where it is."""

        def __init__(self):
            super().__init__()
            self.stem, self.act = nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(inplace=True)
            self.body = nn.Sequential(nn.Conv2d(5, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU())
            self.shared, self.head = nn.Conv2d(6, 6, 1), nn.Linear(6, 4)
            self.body.forward = lambda x: nn.Sequential.forward(self.body, x) * 2

        def forward(self, x):
            x = self.act(self.stem(x)) + x.mean(1, keepdim=True)
            x = self.body(x if float(x.sum()) > -1e9 else -x)
            return self.head((self.shared(x) + self.shared(x)).mean((2, 3)))

    torch.manual_seed(0)
    network, x = Untraceable().eval(), torch.rand(6, 3, 7, 9)
    layers = ["body", "body.0", "stem", "shared#2", "head"]
    cut = Cut(network, layers, {"body*": readout})
    phi = cut.phi(x)
    assert [cut.follows(layer) for layer in layers] == [True, True, False, False, True]
    own = network.body.forward
    wanted = {layer: cut.classify(layer, phi[layer].roll(1, 0) * 1.5, x) for layer in layers}
    for layer in ("body", "body.0"):
        activation = cut.activation(layer, x)
        before = activation.clone()
        r = phi[layer].roll(1, 0) * 1.5
        assert torch.equal(cut.classify(layer, r, activation=activation), wanted[layer])
        assert torch.equal(activation, before)
        few = cut.classify(layer, r[:4], activation=activation[:4])
        torch.testing.assert_close(few, wanted[layer][:4], rtol=1e-5, atol=1e-6)
        with pytest.raises(UserError, match="an activation of shape .*; give"):
            cut.classify(layer, r[:4], activation=activation)
    assert network.body.forward is own
    assert "forward" not in network.head.__dict__ and "forward" not in network.stem.__dict__
    with pytest.raises(UserError, match="needs the images"):
        cut.classify("shared#2", phi["shared#2"], activation=cut.activation("shared#2", x))


def test_gradients_and_modes_are_the_networks_own():
    network, x = seeded(Skip).train(), images()
    cut = Cut(network, ["conv", "block"])
    r = cut.reach(x)
    assert all(one.requires_grad for one in r.values())
    for layer in cut.layers:
        wanted = torch.autograd.grad(network(x).square().sum(), network.head.weight)[0]
        found = torch.autograd.grad(cut.resume(layer, cut.reach(x)[layer], x).square().sum(), network.head.weight)[0]
        assert torch.equal(found, wanted)


def test_a_trace_that_does_not_serve_in_evaluation_does_not_in_training():
    class Asking(nn.Module):
        """A trace takes the other branch."""

        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(48, 6), nn.Linear(6, 3)

        def forward(self, x):
            y = self.body(x.flatten(1))
            return self.head(y if type(y) is torch.Tensor else y * 2)

    network, x = Asking().train(), images()
    cut = Cut(network, ["body"])
    r = cut.reach(x)["body"]
    assert cut.apart("body") and cut.seen("body") and not cut.alone("body")
    assert torch.equal(cut.resume("body", r, x), network(x))
    network.double()
    r = cut.reach(x.double())["body"]
    assert torch.equal(cut.classify("body", r), logits_of(network, x.double()))
