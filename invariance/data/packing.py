"""Tensors of several types side by side in one buffer, so that one copy moves them all."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

_ALIGNED = 64  # bytes: a line of the cache, and a whole number of elements of every type


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in a buffer: its type, its shape, and its first byte."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def stop(self) -> int:
        """The byte behind its last."""
        return self.start + prod(self.shape) * self.dtype.itemsize


class Layout:
    """Where tensors lie in a buffer of bytes, each at a multiple of 64.

    Args:
        tensors: type and shape of each, by its name, in their order.

    Attributes:
        places: where each lies, by its name.
        bytes: size of the buffer.
    """

    def __init__(self, tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> None:
        self.places: dict[str, Place] = {}
        self.bytes = 0
        for name, (dtype, shape) in tensors.items():
            place = Place(dtype, tuple(shape), -(-self.bytes // _ALIGNED) * _ALIGNED)
            self.places[name], self.bytes = place, place.stop

    def views(self, buffer: Tensor) -> dict[str, Tensor]:
        """The tensors in a buffer uint8 (bytes,), by their names; they share its memory and its device."""
        return {
            name: buffer[place.start : place.stop].view(place.dtype).view(place.shape)
            for name, place in self.places.items()
        }


def layout_of(tensors: Mapping[str, Tensor]) -> Layout:
    """The layout in which tensors are packed."""
    return Layout({name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()})


def pack(tensors: Mapping[str, Tensor]) -> tuple[Tensor, Layout]:
    """Tensors copied into one new buffer uint8 (bytes,), and where each lies in it; `unpack` gives them back."""
    layout = layout_of(tensors)
    buffer = torch.empty(layout.bytes, dtype=torch.uint8)
    for name, view in layout.views(buffer).items():
        view.copy_(tensors[name])
    return buffer, layout


def unpack(buffer: Tensor, layout: Layout) -> dict[str, Tensor]:
    """The tensors that `pack` put into a buffer, on whatever device it is now; they share its memory."""
    return layout.views(buffer)


class PackedBatch:
    """A batch (x, y) or (x, y, drawn) in one buffer; iterating gives the parts.

    Args:
        buffer: uint8 (bytes,).
        layout: where "x", "y" and what was drawn, "drawn." before its names, lie in it.
        drawn: whether the batch has a third part, a dict.
    """

    def __init__(self, buffer: Tensor, layout: Layout, drawn: bool) -> None:
        self.buffer, self.layout, self._drawn = buffer, layout, drawn

    def parts(self) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The batch's parts, which share the buffer's memory."""
        views = unpack(self.buffer, self.layout)
        x, y = views.pop("x"), views.pop("y")
        return (x, y, {name.removeprefix(DRAWN): view for name, view in views.items()}) if self._drawn else (x, y)

    def to(self, device: torch.device) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The parts on a device, moved by one copy that nothing waits for."""
        return PackedBatch(self.buffer.to(device, non_blocking=True), self.layout, self._drawn).parts()

    def __iter__(self) -> Iterator[Tensor | dict[str, Tensor]]:
        return iter(self.parts())


class Mover:
    """Moves batches to a device; to a GPU on a stream of its own, while the update before is still computed there."""

    def __init__(self) -> None:
        self._copying: torch.cuda.Stream | None = None

    def move(
        self, batch: PackedBatch, device: torch.device
    ) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The parts of a batch on a device, as what is given to it from now on finds them."""
        if device.type != "cuda":
            return batch.to(device)
        computing = torch.cuda.current_stream(device)
        self._copying = self._copying or torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._copying):
            parts = batch.to(device)
        computing.wait_stream(self._copying)
        parts[0].record_stream(computing)  # of all, which share its memory: else the next batch could be put there
        return parts


DRAWN = "drawn."
"""What stands before the names of what was drawn, in a batch's layout."""
