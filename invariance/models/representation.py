"""φ and C of one layer, for training: with gradients, and in the network's own mode (Sec. 3.1, 3.3, 5.4)."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from invariance.models.cut import Cut


class Representation:
    """A network cut at one layer: φ maps images to representations (B, D), C maps representations to logits.

    `phi` and `classify` are those of `Cut`: in evaluation mode, without gradients. `reach` and `resume` are the same
    two for training, with gradients and in the network's own mode.

    Args:
        network: any module from images (B, C, H, W) to logits (B, K).
        layer: name of a layer, as `Cut` takes it; for CaffeNet "relu7" is the paper's fc7 after ReLU (dropout does
            nothing at test time).

    Raises:
        UserError: if there is no such layer.
    """

    def __init__(self, network: nn.Module, layer: str) -> None:
        self.cut = Cut(network, [layer])
        self.network, self.layer = network, layer
        self._rest: dict[bool, Callable[[Tensor], Any] | None] = {}

    def phi(self, x: Tensor) -> Tensor:
        """φ(x): images (B, C, H, W), as the network takes them, to (B, D).

        Raises:
            UserError: if the layer cannot be measured.
        """
        return self.cut.phi(x)[self.layer]

    def classify(self, r: Tensor, x: Tensor | None = None) -> Tensor:
        """C(r; gx): representations (B, D) to logits (B, K); x, the network's input for gx, where C is not `apart`.

        Raises:
            UserError: as `Cut.classify`.
        """
        return self.cut.classify(self.layer, r, x)

    @property
    def alone(self) -> bool:
        """Whether `resume` runs without images, in the mode the network is in."""
        return self.cut.alone(self.layer)

    def reach(self, x: Tensor) -> Tensor:
        """φ(x) as `phi` has it, with its gradient, and in the mode the network is in."""
        return self.cut.reach(x)[self.layer]

    def resume(self, r: Tensor, x: Tensor | None = None) -> Tensor:
        """C(r; gx) as `classify` has it, with its gradient, and in the mode the network is in."""
        return self.cut.resume(self.layer, r, x)
