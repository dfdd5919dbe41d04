"""The two networks of docs/networks.md, laid out in memory as convolutions on CPUs are fastest."""

import torch

from invariance import Model, load_model


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
