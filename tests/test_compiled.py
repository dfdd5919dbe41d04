"""Compiled networks are measured as they were before: hooks do not fire in compiled code."""

import pytest
import torch
from torch import nn

from invariance import list_layers, measure_model, wrap
from invariance.models.cut import Cut


def network():
    generator = torch.Generator().manual_seed(0)
    inner = nn.Sequential(nn.Linear(16, 8), nn.ReLU())
    module = nn.Sequential(nn.Flatten(), inner, nn.Linear(8, 3))
    for one in module.parameters():
        one.data = torch.randn(one.shape, generator=generator)
    return module.eval()


def whole(module):
    return torch.compile(module, backend="eager")


def in_place(module):
    module.compile(backend="eager")
    return module


def in_part(module):
    module[1].compile(backend="eager")
    return module


X = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("how", [whole, in_place, in_part])
@pytest.mark.parametrize("warm", [False, True])
def test_every_layer_of_a_compiled_network_answers(how, warm):
    plain, compiled = network(), how(network())
    if warm:  # what was compiled before any hook was there
        with torch.no_grad():
            compiled(X)
    cut, wanted = Cut(compiled, ["1.1"]), Cut(plain, ["1.1"])
    r = cut.phi(X)["1.1"]
    assert torch.equal(r, wanted.phi(X)["1.1"])
    assert torch.equal(cut.classify("1.1", 2 * r, X), wanted.classify("1.1", 2 * r, X))
    assert list_layers(compiled, X)["layer"].tolist() == list_layers(plain, X)["layer"].tolist()


def test_a_compiled_network_is_measured_like_itself():
    images = torch.randint(0, 256, (20, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    tables = [
        measure_model(
            wrap(module, preprocess=lambda x: x / 255, name="mine"), images, transforms=["mirror"], layers=["1.1"]
        )
        for module in (network(), whole(network()))
    ]
    assert tables[0].equals(tables[1])
    assert len(tables[0])
