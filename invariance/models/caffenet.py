"""CaffeNet, the reference AlexNet of the paper (Sec. 5, footnote 1), at any width and input size."""

from collections import OrderedDict

from torch import nn

from invariance.errors import UserError

FULL_SIZE = 227
SMALLEST_SIZE = 24


def stem(input_size: int) -> tuple[int, int]:
    """Kernel and stride of conv1 for an input side in pixels: 11 and 4 at 227, as in the paper.

    Below about 100 pixels the stride shrinks with the input, so that the three poolings still leave a map of at least
    2 × 2 for fc6; the kernel keeps CaffeNet's relation of 2 · stride + 3.
    """
    stride = min(4, max(1, round(input_size / 28)))
    return 2 * stride + 3, stride


class CaffeNet(nn.Sequential):
    """CaffeNet: (B, channels, input_size, input_size) normalised images → (B, num_classes) logits.

    conv1 → ReLU → pool → LRN → conv2 → ReLU → pool → LRN → conv3–conv5, each with ReLU → pool → fc6 → ReLU → dropout
    → fc7 → ReLU → dropout → fc8. The layers bear Caffe's names, so that φ of the paper is `layer="relu7"`. At width 1,
    227 pixels and 4096 features it is the paper's network.

    Dropout is the inverted kind: kept activations are doubled in training, so that φ at test time is ReLU(fc7) itself.
    The paper halves activations at test time instead, which differs by that constant factor.

    Args:
        num_classes: number of classes.
        channels: channels of the images, 1 or 3.
        input_size: side of the square input in pixels.
        width: factor on the paper's numbers of convolution channels.
        features: units of fc6 and of fc7 (D).
        groups: 2 as in CaffeNet, or 1 as in the authors' released code.
        dropout: share of fc6 and of fc7 that training drops.

    Raises:
        UserError: for a size too small for the layers, or numbers of channels that the groups do not divide.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int = 3,
        input_size: int = FULL_SIZE,
        width: float = 1.0,
        features: int = 4096,
        groups: int = 2,
        dropout: float = 0.5,
    ) -> None:
        _check(input_size, width, features, groups, dropout)
        c1, c2, c3, c4, c5 = (max(groups, round(width * n / groups) * groups) for n in (96, 256, 384, 384, 256))
        kernel, stride = stem(input_size)
        side = (input_size - kernel) // stride + 1
        for _ in range(3):
            side = -(-(side - 3) // 2) + 1
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(channels, c1, kernel, stride),
                relu1=nn.ReLU(),
                pool1=nn.MaxPool2d(3, 2, ceil_mode=True),
                norm1=nn.LocalResponseNorm(5, 1e-4, 0.75),
                conv2=nn.Conv2d(c1, c2, 5, padding=2, groups=groups),
                relu2=nn.ReLU(),
                pool2=nn.MaxPool2d(3, 2, ceil_mode=True),
                norm2=nn.LocalResponseNorm(5, 1e-4, 0.75),
                conv3=nn.Conv2d(c2, c3, 3, padding=1),
                relu3=nn.ReLU(),
                conv4=nn.Conv2d(c3, c4, 3, padding=1, groups=groups),
                relu4=nn.ReLU(),
                conv5=nn.Conv2d(c4, c5, 3, padding=1, groups=groups),
                relu5=nn.ReLU(),
                pool5=nn.MaxPool2d(3, 2, ceil_mode=True),
                flatten=nn.Flatten(),
                fc6=nn.Linear(c5 * side * side, features),
                relu6=nn.ReLU(),
                drop6=nn.Dropout(dropout),
                fc7=nn.Linear(features, features),
                relu7=nn.ReLU(),
                drop7=nn.Dropout(dropout),
                fc8=nn.Linear(features, num_classes),
            )
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                # Kaiming initialisation: the paper does not say; at these depths Caffe's fixed deviations do not train
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)


def _check(input_size: int, width: float, features: int, groups: int, dropout: float) -> None:
    """Refuse settings that make no network."""
    for key, value in (("input_size", input_size), ("features", features)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise UserError(f"model.{key}={value!r}: give a whole number")
    if isinstance(width, bool) or not isinstance(width, int | float):
        raise UserError(f"model.width={width!r}: give a number above 0, up to 16")
    if input_size < SMALLEST_SIZE:
        raise UserError(f"model.input_size={input_size} is too small for CaffeNet; it takes {SMALLEST_SIZE} up")
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise UserError(f"model.dropout={dropout!r}: give a share from 0 to below 1")
    if groups not in (1, 2):
        raise UserError(f"model.groups={groups}: CaffeNet has 2 groups, or 1 as in the released code")
    if not 0 < width <= 16 or features < 1:
        raise UserError(f"model.width={width}, model.features={features}: give positive numbers, width up to 16")
