"""CaffeNet as the paper has it, and any network cut at any layer."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from invariance.errors import UserError
from invariance.models import build_model
from invariance.models.caffenet import CaffeNet
from invariance.models.representation import Representation


def test_full_size_is_caffenet():
    network = CaffeNet(1000)
    # weights and biases of the published CaffeNet: 60,965,224 in all
    assert sum(p.numel() for p in network.parameters()) == 60_965_224
    shapes = {}
    for name, module in network.named_children():
        module.register_forward_hook(lambda _m, _i, out, name=name: shapes.__setitem__(name, tuple(out.shape[1:])))
    network.eval()(torch.zeros(1, 3, 227, 227))
    assert shapes["conv1"] == (96, 55, 55) and shapes["pool1"] == (96, 27, 27) and shapes["conv2"] == (256, 27, 27)
    assert shapes["pool2"] == (256, 13, 13) and shapes["pool5"] == (256, 6, 6) and shapes["relu7"] == (4096,)


def test_groups_one_has_the_released_codes_weights():
    assert CaffeNet(10, groups=1, width=0.25, features=8, input_size=56).conv2.weight.shape == (64, 24, 5, 5)
    assert CaffeNet(10, groups=2, width=0.25, features=8, input_size=56).conv2.weight.shape == (64, 12, 5, 5)


@pytest.mark.parametrize("size", [24, 28, 32, 33, 47, 56, 64, 96, 112, 131, 227])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_input_size_runs(size, channels):
    network = CaffeNet(7, channels, size, width=0.125, features=16)
    assert network(torch.zeros(2, channels, size, size)).shape == (2, 7)


@pytest.mark.parametrize(
    "arguments", [{"input_size": 23}, {"groups": 3}, {"width": 0}, {"width": -1.0}, {"features": 0}]
)
def test_impossible_networks_are_refused(arguments):
    with pytest.raises(UserError, match=f"model.{next(iter(arguments))}="):
        CaffeNet(10, 3, **{"input_size": 32, **arguments})


def test_initialisation_keeps_the_signal():
    torch.manual_seed(0)
    network = CaffeNet(10, 3, 64, width=0.5, features=512).eval()
    r = Representation(network, "relu7").phi(torch.randn(16, 3, 64, 64))
    assert 0.1 < r.pow(2).mean().sqrt() < 10


@pytest.mark.parametrize("layer", ["norm1", "conv3", "relu3", "pool5", "relu6", "fc7", "relu7", "drop7", "fc8"])
def test_c_after_phi_is_the_network_at_every_layer(layer):
    network = CaffeNet(5, 3, 32, width=0.125, features=16)
    network.train()
    cut = Representation(network, layer)
    x = torch.randn(3, 3, 32, 32)
    r = cut.phi(x)
    assert r.shape == (3, r.numel() // 3)
    kept = r.clone()
    logits = cut.classify(r)
    assert torch.equal(r, kept)
    assert network.training
    assert torch.equal(logits, network.eval()(x))


def test_networks_of_others_are_cut_too():
    network = torchvision.models.resnet18(num_classes=4).eval()
    x = torch.randn(2, 3, 64, 64)
    for layer in ("maxpool", "layer2", "layer4.1", "avgpool"):
        cut = Representation(network, layer)
        assert torch.allclose(cut.classify(cut.phi(x)), network(x), atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("layer3.0.conv1", "passed by"),
        ("layer1.0.relu", "runs 2 times"),
        ("layr2", "did you mean 'layer2'"),
        ("", "not in the network"),
    ],
)
def test_layers_that_cannot_cut_are_refused(layer, said):
    network = torchvision.models.resnet18(num_classes=4).eval()
    with pytest.raises(UserError, match=said):
        cut = Representation(network, layer)
        cut.classify(cut.phi(torch.randn(2, 3, 64, 64)))


class Functional(nn.Module):
    """Dropout as a function, an in-place ReLU behind the cut, and a layer nobody runs."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.idle = nn.Linear(6, 4), nn.Linear(4, 2), nn.Linear(1, 1)

    def forward(self, x):
        return self.head(functional.dropout(functional.relu_(self.body(x.flatten(1))), 0.5, self.training))


def test_functional_layers_behind_the_cut():
    network = Functional()
    x = torch.randn(8, 6)
    cut = Representation(network, "body")
    r = cut.phi(x)
    kept = r.clone()
    logits = cut.classify(r)
    assert torch.equal(r, kept)
    assert torch.equal(logits, network.eval()(x))
    with pytest.raises(UserError, match="not run by the network's forward pass"):
        Representation(network, "idle").phi(x)


@pytest.mark.parametrize("shape", [(4, 7), (7, 3), (4,), (8, 2), (2, 4, 1)])
def test_features_of_another_size_are_not_classified(shape):
    cut = Representation(Functional(), "body")
    cut.phi(torch.randn(8, 6))
    for run in (cut.classify, cut.resume):
        with pytest.raises(UserError, match=r"classify takes \(B, 4\)"):
            run(torch.rand(shape))


class Scaled(nn.Module):
    """Buffers that the forward pass reads itself, its own and those of a module that is traced through."""

    def __init__(self, inner=None):
        super().__init__()
        self.body, self.inner = nn.Linear(6, 4), inner
        self.register_buffer("matrix", torch.randn(4, 4))

    def forward(self, x):
        x = self.body(x) @ self.matrix
        return x if self.inner is None else self.inner(nn.functional.pad(x, (0, 2)))


def test_the_rest_follows_its_network_to_another_type_and_to_other_values():
    network, x = Scaled(Scaled()).eval(), torch.randn(3, 6)
    cut = Representation(network, "body")
    assert torch.equal(cut.classify(cut.phi(x)), network(x))
    network.double()  # as a move to another device: every buffer becomes another tensor
    assert torch.equal(cut.classify(cut.phi(x.double())), network(x.double()))
    network.inner.matrix = network.inner.matrix * 2
    assert torch.equal(cut.classify(cut.phi(x.double())), network(x.double()))


class Dynamic(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.body(x)) if x.sum() > 0 else self.body(x)[:, :2]


def test_a_forward_pass_that_cannot_be_traced_says_so():
    cut = Representation(Dynamic(), "body")
    r = cut.phi(torch.ones(2, 6))
    assert r.shape == (2, 4)
    with pytest.raises(UserError, match="cannot be traced"):
        cut.classify(r)
    assert torch.equal(cut.classify(r, torch.ones(2, 6)), cut.network(torch.ones(2, 6)))


def test_only_own_classes_are_built_from_configurations():
    with pytest.raises(UserError, match="outside invariance"):
        build_model({"_target_": "os.system", "command": "true"}, 2, 3)
    with pytest.raises(UserError, match="did you mean 'width'"):
        build_model({"_target_": "invariance.models.caffenet.CaffeNet", "widht": 1}, 2, 3)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"_target_": "invariance.settings.files.families"}, "is no network"),
        ({"_target_": "invariance.seeds.derive"}, "is no network"),
        ({"_target_": "invariance.training.classifier.Classifier"}, "takes no num_classes"),
        ({"_target_": "invariance.models.caffenet.CaffeNet", "features": 1.5}, "model.features=1.5"),
        ({"_target_": "invariance.models.caffenet.CaffeNet", "input_size": "48"}, "model.input_size='48'"),
        ({"_target_": "invariance.models.caffenet.CaffeNet", "width": "wide"}, "model.width='wide'"),
    ],
)
def test_what_is_no_network_is_refused_and_never_called(config, said):
    with pytest.raises(UserError, match=said):
        build_model(config, 10, 1)
