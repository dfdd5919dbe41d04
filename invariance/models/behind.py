"""What comes behind a layer of a network, traced once, and used only where it gives what replacing gives."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from invariance.models.hooks import Seen, evaluating, forward, laid, logits_in
from invariance.models.naming import Layer
from invariance.models.rest import Inseparable, equal, rest_of

Rest = Callable[[Tensor], Any]
"""From what a layer gives, in its own shape, to what the network gives."""


@dataclass(frozen=True)
class Form:
    """How a layer's output for one image is shaped, lies in memory and is typed."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, layer: Layer, seen: Seen) -> Self:
        """The form of what a layer gave in a pass."""
        value = seen.outputs[layer]
        return cls(tuple(value.shape[1:]), seen.strides[layer], value.dtype)

    @property
    def dim(self) -> int:
        """D."""
        return torch.Size(self.shape).numel()

    def lifted(self, r: Tensor) -> Tensor:
        """Representations (B, D) as the layer would have given them: a clone, for what follows may change it."""
        return laid(r.reshape(-1, *self.shape), self.strides, self.dtype)


class Rests:
    """The traced rests behind layers of a network, in evaluation and in training, each looked for once.

    Args:
        network: the network.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._rests: dict[tuple[Layer, bool], Rest | str] = {}

    def behind(self, layer: Layer, images: Tensor) -> Rest | str:
        """The rest behind a layer in the network's mode, or why there is none; on images (B, …) it is compared."""
        mode = self.network.training  # a functional dropout keeps the mode it was traced in
        if (layer, mode) not in self._rests:
            try:
                with evaluating(self.network, images.device):
                    rest = self._separated(layer, images)
                self._rests[layer, mode] = rest_of(self.network, layer) if mode else rest
            except Inseparable as error:
                self._rests[layer, mode] = str(error)
        return self._rests[layer, mode]

    def _separated(self, layer: Layer, images: Tensor) -> Rest:
        seen = forward(self.network, images, [layer])  # anew: the weights may be others than at the first look
        try:
            wanted, other = logits_in(seen.answer), images.roll(1, 0)
        except LookupError as error:
            raise Inseparable(f"which logits the network gives is unknown ({error})") from error
        if not equal(logits_in(forward(self.network, other, put={layer: seen.outputs[layer]}).answer), wanted):
            raise Inseparable("the layer is passed by, as the logits also depend on the image another way")
        rest = rest_of(self.network, layer)
        try:
            told = logits_in(rest(Form.of(layer, seen).lifted(seen.outputs[layer])))
        except Exception as error:  # a trace keeps what the pass of one batch took for granted
            raise Inseparable(f"its traced rest does not run ({type(error).__name__})") from error
        if not equal(told, wanted):
            raise Inseparable("its traced rest gives something else than replacing")
        return rest
