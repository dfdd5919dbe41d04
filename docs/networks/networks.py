"""The two networks of docs/networks.md, laid out in memory as convolutions on CPUs are fastest."""

from typing import ClassVar

import torch
from torch import Tensor

from invariance import Model, Transform, load_model
from invariance.transforms import UNTOUCHED, GridPoint, Params


def mobilenet_v2() -> Model:
    """MobileNetV2 of torchvision, by its file of weights."""
    return _fast(load_model("torchvision/mobilenet_v2", weights="mobilenet_v2-b0353104.pth"))


def efficientnet_lite0() -> Model:
    """EfficientNet-Lite0 of timm, by a file that has the same weights under other names."""
    weights = "efficientnet-lite0-57934424.pth"
    return _fast(load_model("timm/tf_efficientnet_lite0", weights=weights, weights_by="position"))


def _fast(model: Model) -> Model:
    model.module.to(memory_format=torch.channels_last)
    return model


def efficientnet_untrained() -> Model:
    """EfficientNet-Lite0 with weights as timm draws them."""
    return _fast(load_model("timm/tf_efficientnet_lite0", weights="random"))


class Dihedral(Transform):
    """The seven turns and flips of a square that move whole pixels: no number of the image changes."""

    ordinal = True
    turns: ClassVar = {
        "90°": lambda x: x.rot90(1, (2, 3)),
        "180°": lambda x: x.rot90(2, (2, 3)),
        "270°": lambda x: x.rot90(3, (2, 3)),
        "left–right": lambda x: x.flip(3),
        "up–down": lambda x: x.flip(2),
        "diagonal": lambda x: x.transpose(2, 3),
        "other diagonal": lambda x: x.transpose(2, 3).rot90(2, (2, 3)),
    }

    def params_of(self, uniforms: Tensor) -> Params:
        """It is for measuring alone."""
        raise NotImplementedError

    def grid(self) -> list[GridPoint]:
        """The untouched image and all seven."""
        names = [UNTOUCHED, *self.turns]
        return [GridPoint(name, float(k), {"k": torch.tensor([k])}, covered=not k) for k, name in enumerate(names)]

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Images (B, C, S, S) turned or flipped alike."""
        k = int(params["k"])
        return list(self.turns.values())[k - 1](x).clone() if k else x.clone()
