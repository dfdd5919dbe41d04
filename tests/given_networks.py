"""Small networks that a user's functions give, as `model=function model.name=tests.given_networks:…` names them."""

import torch
from torch import nn

from invariance.models.model import wrap

CLASSES = [str(digit) for digit in range(10)]


class Small(nn.Module):
    """Gray images (B, 1, H, W) to 10 logits; a skip connection passes `inner` by, and `idle` never runs."""

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 3, 3, stride=4)
        self.relu = nn.ReLU()
        self.inner = nn.Conv2d(3, 3, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(12, classes)
        self.idle = nn.Linear(2, 2)

    def forward(self, x):
        x = self.relu(self.stem(x))
        return self.head(self.pool(x + self.inner(x)).flatten(1))


def seeded(seed: int = 0, **settings: int) -> Small:
    """The network of a seed, in training mode, as modules are made."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Small(**settings)


def module():
    return seeded()


def model():
    return wrap(seeded(), preprocess=([0.3], [0.4]), size=17, classes=CLASSES, name="small")


def other():
    return wrap(seeded(1), preprocess=([0.3], [0.4]), size=17, classes=CLASSES, name="small")


def sizeless():
    return wrap(seeded(), preprocess=([0.3], [0.4]))


def colour():
    return wrap(seeded(channels=3), preprocess=([0.1, 0.2, 0.3], [0.4, 0.5, 0.6]), size=17)


def unnamed():
    """Of classes without names, of which there are seven."""
    return wrap(seeded(classes=7), preprocess=([0.3], [0.4]), size=17)


def broken():
    raise RuntimeError("no weights here")


def source(name, **settings):
    """A source from outside the package."""
    return wrap(
        seeded(int(name)), preprocess=([0.3], [0.4]), size=settings.get("size", 17), device=settings.get("device")
    )
