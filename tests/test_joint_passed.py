"""The joint loss at a layer that a skip connection passes by: C goes by replacing, of the image that φ is of."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from invariance.training.joint import JointFinetune
from invariance.training.joint_loss import JointWeights
from invariance.transforms.rotation import Rotation

RECIPE = {"rate": 0.01, "momentum": 0.9, "weight_decay": 0.0, "updates": 4}
WEIGHTS = JointWeights(0.3, 0.2, 0.7)


class Passed(nn.Module):
    """Dropout, then a layer with a skip connection beside it, dropout again."""

    def __init__(self, dropout):
        super().__init__()
        self.flat, self.stem, self.drop = nn.Flatten(), nn.Linear(100, 12), nn.Dropout(dropout)
        self.inner, self.act, self.last = nn.Linear(12, 12), nn.ReLU(), nn.Dropout(dropout)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.drop(self.stem(self.flat(x)))
        return self.head(self.last(self.act(self.inner(x)) + x))


def module(dropout, copies=None):
    torch.manual_seed(0)
    made = JointFinetune(
        Passed(dropout).double(),
        lambda x: x.double() / 255,
        layer="act",
        transform=Rotation(angles=[-10, 5, 15]),
        recipe=RECIPE,
        seed=3,
        image_shape=(1, 10, 10),
        weights=WEIGHTS,
        copies=copies,
    ).double()
    for one in made.maps:
        nn.init.normal_(one.weight, std=0.1)
    made.manual_backward = lambda loss: loss.backward()
    return made.train()


@pytest.fixture(autouse=True)
def outside_a_trainer(monkeypatch):
    monkeypatch.setattr(JointFinetune, "global_step", 7)


def batch():
    x = torch.rand(3, 1, 10, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 255
    return x, torch.tensor([0, 3, 2])


def test_gradients_are_those_of_the_network_with_the_layer_replaced():
    made, (x, y) = module(0.0), batch()
    net, points = made.network, made.points

    def halves(images):
        beside = net.stem(images.flatten(1) / 255)
        return net.inner(beside).relu(), beside

    r, beside = halves(x)
    loss = functional.cross_entropy(net.head(r + beside), y)
    for point, back_to in zip(points, made.maps, strict=True):
        moved, past = halves(made.transform.apply(x, point.params))
        back = back_to(moved)
        one = functional.cross_entropy(net.head(back + past), y)
        one = one + WEIGHTS.recovery * (back - r).square().sum(1).mean()
        one = one + WEIGHTS.invariance * (moved - r).square().sum(1).mean()
        loss = loss + WEIGHTS.equivariance * one / len(points)
    wanted = torch.autograd.grad(loss, list(made.parameters()))
    terms = made.accumulate(x, y)
    assert not made.cut.alone
    assert float(terms.loss(WEIGHTS)) == pytest.approx(loss.item(), rel=1e-12)
    for p, gradient in zip(made.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("copies", [1, 2])
def test_what_is_dropped_does_not_depend_on_how_many_copies_go_through_at_once(copies):
    found = []
    for size in (None, copies):
        made = module(0.5, size)
        terms = made.accumulate(*batch())
        found.append([*(one.grad for one in made.parameters()), terms.loss(WEIGHTS)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


def test_the_second_pass_drops_before_the_layer_what_the_first_one_dropped():
    made, (x, y) = module(0.5), batch()
    dropped = []
    made.network.drop.register_forward_hook(lambda m, _i, out: dropped.append(out == 0) if m.training else None)
    made.accumulate(x, y)
    assert len(dropped) == 2 and torch.equal(*dropped) and dropped[0].any()
