"""Listing a network's layers, and choosing among them."""

import math

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from invariance.errors import UserError
from invariance.models.caffenet import CaffeNet
from invariance.models.layers import COLUMNS, choose_layers, list_layers
from invariance.models.layout import Layout
from invariance.models.model import wrap
from tests.test_cut import Containers, Skip, Tokens, Windows, images, seeded


def rows(kind, **options):
    frame = list_layers(seeded(kind), images(), **options)
    assert list(frame.columns) == list(COLUMNS)
    return {row.layer: row for row in frame.itertuples()}


def test_a_listing_says_of_each_layer_what_it_is():
    found = rows(Skip)
    assert list(found) == ["stem", "relu#1", "conv", "relu#2", "block", "pool", "head", "logits"]
    stem, conv = found["stem"], found["conv"]
    assert (stem.runs, stem.shape, stem.layout, stem.dim) == (1, (4, 4, 4), "(B, C, H, W)", 64)
    assert stem.overwritten and not conv.overwritten and not found["head"].overwritten
    assert found["relu#1"].runs == found["relu#2"].runs == 2
    assert found["block"].bypass <= 1e-4 < conv.bypass and not any(row.why for row in found.values())


def test_elements_are_rows_and_what_cannot_be_measured_says_why():
    found = rows(Containers)
    assert {"halves[0]", "halves[1]", "states[hidden][0]", "states[hidden][1]", "states[7]"} <= set(found)
    assert "is not run" in found["idle"].why and math.isnan(found["idle"].bypass) and found["idle"].shape is None
    found = rows(Windows)
    assert "does not give a row an image" in found["inner"].why and not found["join"].why
    found = rows(Tokens)
    assert found["norm"].layout == "(B, H, W, C)" and found["layer"].layout == "(B, 1 + T, C)"
    assert found["pick"].layout == "(B, C)"


@pytest.mark.parametrize(
    ("shape", "sides", "layout"),
    [
        ((64, 7, 7), (224, 224), "(B, C, H, W)"),
        ((7, 7, 768), (224, 224), "(B, H, W, C)"),
        ((96, 48, 64), (192, 256), "(B, C, H, W)"),
        ((48, 64, 96), (192, 256), "(B, H, W, C)"),
        ((197, 768), (224, 224), "(B, 1 + T, C)"),
        ((198, 192), (224, 224), "(B, 2 + T, C)"),
        ((49, 768), (224, 224), "(B, T, C)"),
        ((50, 768), (224, 224), "(B, 1 + T, C)"),
        ((1000,), (224, 224), "(B, C)"),
        ((3, 4, 5, 6), (32, 32), "(B, ?, ?, ?, ?)"),
        ((16, 28, 44), (32, 48), "(B, C, H, W)"),  # a convolution without padding
        ((28, 44, 96), (32, 48), "(B, H, W, C)"),
        ((12, 197, 64), (224, 224), "(B, ?, ?, ?)"),  # heads, tokens, channels of a head
        ((25, 8), (32, 48), "(B, 1 + T, C)"),
        ((24, 8), (32, 48), "(B, T, C)"),
        ((23, 8), (32, 48), "(B, T, C)"),  # no grid: all of them
    ],
)
def test_layouts(shape, sides, layout):
    assert str(Layout.of(shape, sides)) == layout


def test_a_network_that_says_how_many_tokens_it_puts_before_is_believed():
    network = nn.Identity()
    network.num_prefix_tokens = 5
    assert str(Layout.of((201, 384), (224, 224), network)) == "(B, 5 + T, C)"
    assert str(Layout.of((201, 384), (224, 224), nn.Sequential(network))) == "(B, 5 + T, C)"
    assert str(Layout.of((196, 384), (224, 224), network)) == "(B, T, C)"  # the patches, before these tokens come


def test_auto_is_the_true_cuts_at_the_ends_of_blocks():
    x = torch.rand(4, 3, 32, 32)
    caffenet = CaffeNet(5, 3, 32, width=0.25, features=16)
    assert choose_layers(caffenet, "auto", x) == "norm1 norm2 relu3 relu4 pool5 relu6 relu7 fc8".split()
    torch.manual_seed(0)
    resnet = torchvision.models.resnet18(num_classes=4)
    x = torch.rand(4, 3, 64, 64)
    blocks = [f"layer{k}{end}" for k in (1, 2, 3) for end in (".0", "")] + ["layer4.0"]
    assert choose_layers(resnet, "auto", x) == ["maxpool", *blocks, "avgpool", "fc"]


def test_names_and_patterns():
    network, x = seeded(Skip), images()
    assert choose_layers(network, ["head", "conv"], x) == ["head", "conv"]
    assert choose_layers(network, np.array(["head", "conv"]), x) == ["head", "conv"]
    assert choose_layers(network, "relu*", x) == ["relu#1", "relu#2"]
    assert choose_layers(network, ["p*", "conv"], x) == ["conv", "pool"]
    assert choose_layers(network, "*", x) == list(rows(Skip))
    assert choose_layers(seeded(Containers), "halves[[]0]", x) == ["halves[0]"]
    assert choose_layers(seeded(Containers), "halves[0]", x) == ["halves[0]"]
    with pytest.raises(UserError, match="matches no layer; did you mean 'block'"):
        choose_layers(network, "blok", x)
    with pytest.raises(UserError, match="none can be measured; idle is not run"):
        choose_layers(seeded(Containers), ["idl*"], x)
    with pytest.raises(UserError, match="no layer matches 'x\\*'"):
        list_layers(network, x, "x*")


def test_a_model_lists_from_images_in_bytes_or_from_noise():
    model = wrap(seeded(Skip), ([0.5] * 3, [0.25] * 3), name="skip", size=6)
    bytes_ = np.random.default_rng(0).integers(0, 256, (5, 3, 6, 6), dtype=np.uint8)
    for given in (bytes_, torch.from_numpy(bytes_), None):
        frame = list_layers(model, given, "conv")
        assert frame["shape"].tolist() == [(4, 6, 6)] and 0 < frame["bypass"][0] < 2
    with pytest.raises(UserError, match="give a few images"):
        list_layers(seeded(Skip))
    assert list_layers(model, None, bypass=False)["bypass"].isna().all()
