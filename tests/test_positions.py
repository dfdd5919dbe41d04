"""Where the positions of layers lie: the middle of the pixels that change them, found by changing every pixel."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from invariance import UserError, wrap
from invariance.models.positions import positions_of


def model_of(network, channels=1):
    return wrap(network, preprocess=([0.5] * channels, [0.25] * channels), name="mine")


def placed(network, size, layers, channels=1):
    x = torch.randint(0, 256, (3, channels, *size), generator=torch.Generator().manual_seed(0)).float()
    return positions_of(model_of(network, channels), layers, x)


def seen_by_changing(network, size, layer, channels=1, images=6):
    """Which pixels change each position of a layer: (positions as the activation has them, H, W) bool."""
    model, held = model_of(network, channels), {}
    handle = network.get_submodule(layer).register_forward_hook(lambda _m, _i, out: held.update(out=out.clone()))
    network.eval()
    seen = None
    with torch.no_grad():
        for seed in range(images):
            x = torch.rand(1, channels, *size, generator=torch.Generator().manual_seed(seed)) * 255
            model.module(model.prepare(x))
            plain = held["out"]
            moved = x.repeat(size[0] * size[1], 1, 1, 1)
            index = torch.arange(len(moved))
            moved[index, :, index // size[1], index % size[1]] += 80
            parts = []
            for part in moved.split(256):
                model.module(model.prepare(part))
                parts.append((held["out"] - plain).abs() > 1e-4 * plain.abs().max())  # beyond rounding
            changed = torch.cat(parts)
            seen = changed if seen is None else seen | changed
    handle.remove()
    return seen.reshape(*size, *seen.shape[1:])


def middles(seen):
    """Middle, down and right, of the pixels that change a position, (H', W', 2); NaN where they reach the border."""
    height, width, rows, columns = seen.shape
    found = torch.full((rows, columns, 2), torch.nan, dtype=torch.float64)
    for i in range(rows):
        for j in range(columns):
            for axis, along in enumerate((seen[:, :, i, j].any(1), seen[:, :, i, j].any(0))):
                places = along.nonzero()[:, 0]
                if len(places) and places[0] > 0 and places[-1] < len(along) - 1:
                    found[i, j, axis] = float(places[0] + places[-1]) / 2
    return found


class Gated(nn.Module):
    """Squeeze and excitation about a strided convolution: all positions see everything, and each lies somewhere."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.gate = nn.Conv2d(4, 4, 1)
        self.out = nn.Conv2d(4, 4, 3)

    def forward(self, x):
        x = self.conv(x)
        return self.out(x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))).flatten(1)


class Same(nn.Module):
    """Padding as TensorFlow has it, which is another for another size; by a function, of no module."""

    def forward(self, x):
        pads = [max((-(-side // 2) - 1) * 2 + 3 - side, 0) for side in x.shape[:1:-1]]
        x = F.pad(x, [one for pad in pads for one in (pad // 2, pad - pad // 2)])
        return F.avg_pool2d(x, 3, 2)


class Rows(nn.Module):
    """Channels last, and patches merged as Swin does."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(1, 6, 3, stride=3)
        self.norm = nn.LayerNorm(6)
        self.merge = nn.Linear(24, 5)

    def forward(self, x):
        x = self.norm(self.patch(x).permute(0, 2, 3, 1))
        x = torch.cat([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], -1)
        return self.merge(x)


class Tokens(nn.Module):
    """Patches as tokens behind a class token, with attention over all of them."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(1, 8, (3, 4), stride=(3, 4))
        self.cls = nn.Parameter(torch.randn(1, 1, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mix = nn.Linear(8, 8)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1)
        return self.mix(x + self.attention(x, x, x)[0])[:, 0]


def sequence(*modules):
    torch.manual_seed(1)
    return nn.Sequential(*modules)


NETWORKS = {
    "strides and paddings": lambda: sequence(
        nn.Conv2d(1, 3, (5, 3), stride=(2, 3), padding=(1, 0)), nn.ReLU(), nn.Conv2d(3, 4, 2, padding=(0, 1))
    ),
    "dilation": lambda: sequence(nn.Conv2d(1, 3, 3, dilation=(2, 3), padding=2), nn.Conv2d(3, 4, 3, stride=2)),
    "pooling": lambda: sequence(
        nn.Conv2d(1, 3, 3), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d((2, 1), ceil_mode=True), nn.Conv2d(3, 4, 2)
    ),
    "adaptive": lambda: sequence(nn.Conv2d(1, 3, 2), nn.AdaptiveAvgPool2d((6, 11)), nn.Conv2d(3, 2, 1)),
    "zeros about it": lambda: sequence(nn.ZeroPad2d((2, 0, 0, 1)), nn.Conv2d(1, 3, 4, stride=2)),
    "same": lambda: sequence(Same(), nn.Conv2d(1, 2, 1)),
    "unshuffled": lambda: sequence(nn.PixelUnshuffle(2), nn.Conv2d(4, 3, 3)),
    "larger again": lambda: sequence(nn.Conv2d(1, 3, 3, stride=2), nn.ConvTranspose2d(3, 2, 4, stride=2, padding=1)),
}


SIZES = {"unshuffled": (20, 24), "strides and paddings": (19, 21)}  # no pixel that no kernel reaches


@pytest.mark.parametrize("name", NETWORKS)
def test_a_position_lies_in_the_middle_of_what_changes_it(name):
    network, size = NETWORKS[name](), SIZES.get(name, (19, 23))
    layer = str(len(network) - 1)
    found, why = placed(network, size, [layer])
    assert not why and found[layer].kind == "channels_first"
    seen = seen_by_changing(network, size, layer).any(2)
    assert found[layer].shape == seen.shape[2:]
    wanted = middles(seen)
    check(found[layer], wanted, within=1.0 if name == "larger again" else 0.0)


def check(grid, wanted, within=0.0):
    """A grid against the middles; a transposed convolution's are on either side of it in turn."""
    i, j = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid.shape), indexing="ij")
    told = torch.stack([grid.offset[0] + grid.stride[0] * i, grid.offset[1] + grid.stride[1] * j], dim=-1)
    inside = wanted.isfinite()
    assert inside[..., 0].any() and inside[..., 1].any()
    assert float((told - wanted)[inside].abs().max()) <= within
    assert abs(float((told - wanted)[inside].mean())) < 0.3


def test_of_a_residual_network_by_its_first_block():
    torch.manual_seed(2)
    network, size = torchvision.models.resnet18(num_classes=3), (70, 38)
    found, why = placed(network, size, ["conv1", "maxpool", "layer1.0", "layer2", "layer4", "avgpool", "fc"], 3)
    assert list(why) == ["avgpool", "fc"] and "no positions" in why["fc"]
    first = nn.Sequential(*list(network.children())[:4])
    start, _ = placed(first, (29, 25), ["3"], 3)
    check(start["3"], middles(seen_by_changing(first, (29, 25), "3", 3, images=2).any(2)))
    assert str(found["maxpool"]) == "18 × 10 every 4 px from 0" and str(start["3"]) == "8 × 7 every 4 px from 0"
    assert found["layer4"].stride == (32, 32) and found["layer4"].offset == (0, 0) and found["layer4"].shape == (3, 2)


def test_channels_last_and_merged_patches():
    torch.manual_seed(3)
    network, size = Rows(), (18, 24)
    found, _ = placed(network, size, ["norm", "merge"])
    assert [found[name].kind for name in found] == ["channels_last"] * 2
    assert found["norm"].offset == (1, 1) and found["merge"].offset == (2.5, 2.5) and found["merge"].stride == (6, 6)
    seen = seen_by_changing(network, size, "merge").any(4)
    check(found["merge"], middles(seen[:, :, :, :]))
    value = torch.randn(2, 3, 4, 5)
    assert torch.equal(found["merge"].put(found["merge"].map_of(value), value), value)


def test_windows_that_are_shifted_and_attended_to():
    found, _ = placed(torchvision.models.swin_t(), (64, 96), ["features.1.1", "features.3", "norm"], 3)
    assert {name: str(one) for name, one in found.items()} == {
        "features.1.1": "16 × 24 every 4 px from 1.5",
        "features.3": "8 × 12 every 8 px from 3.5",
        "norm": "2 × 3 every 32 px from 15.5",
    }


def test_tokens_behind_a_class_token():
    torch.manual_seed(4)
    found, why = placed(Tokens(), (12, 20), ["patch", "attention[0]", "mix"])
    assert not why and found["mix"].kind == "tokens" and found["mix"].prefix == 1
    assert found["mix"].shape == (4, 5) and found["mix"].stride == (3, 4) and found["mix"].offset == (1, 1.5)
    assert found["attention[0]"] == found["mix"] and found["patch"].kind == "channels_first"
    value = torch.randn(2, 21, 8)
    assert torch.equal(found["mix"].map_of(value)[:, :, 1, 2], value[:, 1 + 7])
    assert torch.equal(found["mix"].put(found["mix"].map_of(value) + 1, value)[:, 0], value[:, 0])


def test_what_mixes_everything_is_no_place_and_leaves_those_that_there_are():
    torch.manual_seed(5)
    found, _ = placed(Gated(), (21, 25), ["out", "conv"])
    assert found["out"].offset == (2, 2) and found["out"].stride == (2, 2) and found["conv"].offset == (0, 0)


class Hidden(nn.Module):
    def forward(self, x):
        return torch.from_numpy(x.numpy() + 1)


class Turned(nn.Module):
    def forward(self, x):
        grid = F.affine_grid(torch.eye(2, 3)[None].expand(len(x), -1, -1), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)


@pytest.mark.parametrize(
    ("network", "layer", "told"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(12 * 14, 5)), "1", r"gives \(5,\) for an image, and no positions"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1)), "1", "no positions"),
        (nn.Sequential(nn.Conv2d(1, 2, (12, 14))), "0", "no regular grid of several positions"),
        (nn.Sequential(Turned(), nn.Conv2d(1, 2, 3)), "1", "not known behind grid_sampler"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d((3, 5))), "1", "no regular grid"),
        (nn.Sequential(Hidden(), nn.Conv2d(1, 2, 3)), "1", "cannot be followed"),
    ],
    ids=["linear", "pooled", "one", "sampled", "irregular", "hidden"],
)
def test_a_layer_without_positions_says_why(network, layer, told):
    found, why = placed(network, (12, 14), [layer])
    assert not found and list(why) == [layer]
    with pytest.raises(UserError, match=told):
        raise UserError(why[layer])


def test_a_preprocessing_that_crops_is_part_of_where_they_lie():
    model = wrap(nn.Sequential(nn.Conv2d(1, 2, 3, stride=2)), preprocess=lambda x: x[..., 3:, 5:] / 255, name="cropped")
    found, _ = positions_of(model, ["0"], torch.rand(2, 1, 20, 24) * 255)
    assert found["0"].offset == (4, 6) and found["0"].stride == (2, 2)


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
def test_padding_with_pixels_of_the_image_goes_on_as_zeros_do(mode):
    torch.manual_seed(6)
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, padding_mode=mode), nn.Conv2d(3, 3, 5, stride=2, padding=2, padding_mode=mode)
    )
    found, why = placed(network, (12, 16), ["0", "1"])
    assert {name: str(one) for name, one in found.items()} == {
        "0": "12 × 16 every 1 px from 0",
        "1": "6 × 8 every 2 px from 0",
    }, why
