"""What comes behind a layer of a network, found once, and used only where it gives what replacing gives."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from invariance.models.hooks import Seen, evaluating, forward, laid, logits_in
from invariance.models.naming import Layer
from invariance.models.rest import Inseparable, equal, near, rest_of
from invariance.models.skipping import skipping

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
    """The rests behind layers of a network, in evaluation and in training, each looked for once.

    Args:
        network: the network.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._rests: dict[tuple[Layer, bool, torch.device, torch.dtype], Rest | str] = {}
        self._seen: set[Layer] = set()

    def behind(self, layer: Layer, images: Tensor) -> Rest | str:
        """The rest behind a layer in the network's mode, or why there is none; on images (B, …) it is compared."""
        mode = self.network.training  # a functional dropout keeps the mode it was traced in
        key = (layer, mode, images.device, images.dtype)
        if key not in self._rests:
            try:
                with evaluating(self.network, images.device):
                    rest = self._separated(layer, images)
                if mode and layer in self._seen:
                    raise Inseparable("the network cannot be traced in training")
                self._rests[key] = rest_of(self.network, layer) if mode else rest
            except Inseparable as error:
                self._rests[key] = str(error)
        return self._rests[key]

    def seen(self, layer: Layer) -> bool:
        """Whether that nothing goes past a layer is known from a few images alone, and not from a trace."""
        return layer in self._seen

    def _separated(self, layer: Layer, images: Tensor) -> Rest:
        seen = forward(self.network, images, [layer])  # anew: the weights may be others than at the first look
        try:
            wanted, other = logits_in(seen.answer), images.roll(1, 0)
        except LookupError as error:
            raise Inseparable(f"which logits the network gives is unknown ({error})") from error
        if not equal(logits_in(forward(self.network, other, put={layer: seen.outputs[layer]}).answer), wanted):
            raise Inseparable("the layer is passed by, as the logits also depend on the image another way")
        form, value = Form.of(layer, seen), seen.outputs[layer]
        try:
            rest = rest_of(self.network, layer)
            _compare(rest, form.lifted(value), wanted, equal)
        except Inseparable as error:
            try:
                rest = skipping(self.network, layer, images)
                _compare(rest, form.lifted(value), wanted, equal)
                if len(value) > 1:  # of another number of images
                    _compare(rest, form.lifted(value[1:]), wanted[1:], near)
                self._seen.add(layer)
            except Inseparable as other:
                raise Inseparable(f"{error}; {other}") from other
        return rest


def _compare(rest: Rest, value: Tensor, wanted: Tensor, same: Callable[[Tensor, Tensor], bool]) -> None:
    """Refuse a rest that does not give what replacing gives.

    Raises:
        Inseparable: saying so.
    """
    try:
        told = logits_in(rest(value))
    except Exception as error:  # it keeps what the pass of one batch took for granted
        raise Inseparable(f"its rest does not run ({type(error).__name__})") from error
    if not same(told, wanted):
        raise Inseparable("its rest gives something else than replacing")
