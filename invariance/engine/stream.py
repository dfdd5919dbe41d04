"""φ of a split of images under one fixed g, streamed by batches."""

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from invariance.data.images import StoredImages
from invariance.data.reading import AHEAD, Buffers, read_ahead
from invariance.models.cut import Cut
from invariance.models.model import Model
from invariance.models.representation import Representation
from invariance.transforms.base import Params, Transform
from invariance.transforms.tabled import Fixed


@dataclass(frozen=True)
class Sample:
    """Images of a split, as they are measured.

    Attributes:
        split: its name, as rows give it.
        pixels: uint8 (N, C, H, W), in memory or stored; what is stored is verified each time it is read.
        indices: (n,) which of them, in which order.
        labels: (n,) their classes, −1 where there is none; None where there are no labels.
    """

    split: str
    pixels: np.ndarray | StoredImages
    indices: NDArray[np.int64]
    labels: Tensor | None

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def digest(self) -> str:
        """Hash of the images and their labels, in their order."""
        state = xxhash.xxh3_128(f"{self.pixels.dtype} {self.pixels.shape[1:]} {len(self)}".encode())
        for index in self.indices:
            state.update(np.ascontiguousarray(self.pixels[index]).data)
        if self.labels is not None:
            state.update(np.ascontiguousarray(self.labels.numpy()).data)
        return state.hexdigest()


def batches(
    images: np.ndarray | StoredImages, indices: np.ndarray, size: int, device: torch.device
) -> Iterator[tuple[slice, Tensor]]:
    """Images as float batches (b, C, H, W) in [0, 255] on `device`, in the order of `indices`, read ahead by a thread.

    Yields:
        The batch's place among the indices, and the batch.
    """
    for span, batch in stored_batches(images, indices, size, device):
        yield span, batch.float()


def stored_batches(
    images: np.ndarray | StoredImages, indices: np.ndarray, size: int, device: torch.device
) -> Iterator[tuple[slice, Tensor]]:
    """As `batches`, but images are as they are stored, uint8: a quarter of the memory, as `Fixed` takes them."""
    spans = [slice(start, min(start + size, len(indices))) for start in range(0, len(indices), size)]
    pinned = device.type == "cuda"
    buffers = Buffers(pinned, kept=AHEAD + 2)

    def read(span: slice) -> Tensor:
        """The images of a batch, ready to be moved to the device."""
        if not isinstance(images, StoredImages):
            batch = torch.from_numpy(np.ascontiguousarray(images[indices[span]]))
            return batch.pin_memory() if pinned else batch
        shape = (span.stop - span.start, *images.shape[1:])
        batch = buffers.take(math.prod(shape)).view(shape)
        images.read(indices[span], out=batch.numpy())
        return batch

    with closing(read_ahead(lambda place: read(spans[place]), len(spans), threads=1)) as ahead:
        for span, batch in zip(spans, ahead, strict=True):
            moved = batch.to(device, non_blocking=True)
            yield span, moved if moved.dtype == torch.uint8 else moved.float()


def extract(
    representation: Representation,
    normalise: Callable[[Tensor], Tensor],
    images: np.ndarray | StoredImages,
    indices: np.ndarray,
    transform: Transform,
    params: Params,
    *,
    device: torch.device,
    batch: int = 256,
    advance: Callable[[int], None] | None = None,
    home: torch.device | str = "cpu",
) -> Tensor:
    """φ(g x) of the images at `indices`, for one g.

    Args:
        representation: φ, its network on `device`.
        normalise: images (b, C, H, W) in [0, 255] to what the network takes, each by itself.
        images: uint8 (N, C, H, W), in memory or stored; what is stored is verified each time it is read.
        indices: (n,) which images, in which order.
        transform: the family of g.
        params: parameters of g, with n = 1.
        device: where the network is and the transformation runs.
        batch: images a forward pass.
        advance: called with the number of images after every batch.
        home: where the result is gathered; on the device itself nothing waits for copies.

    Returns:
        (n, D) float32 on `home`.
    """
    result, prepared = None, Fixed(transform, normalise, by_image=True)
    for span, x in stored_batches(images, indices, batch, device):
        r = representation.phi(prepared(x, params))
        if result is None:
            result = torch.empty(len(indices), r.shape[1], device=home)
        result[span] = r.float().to(home)
        if advance is not None:
            advance(len(x))
    assert result is not None, "no images to extract features of"
    return result


def features(
    model: Model,
    cut: Cut,
    sample: Sample,
    transform: Transform,
    params: Params,
    *,
    batch: int = 256,
    advance: Callable[[int], None] | None = None,
    home: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """φ(g x) of a sample at every layer of a cut, for one g, in one pass.

    Args:
        model: the network.
        cut: it, cut at the layers.
        sample: the images.
        transform: the family of g.
        params: parameters of g, with n = 1.
        batch: images a forward pass.
        advance: called with the number of images after every batch.
        home: where the results are gathered; on the device itself nothing waits for copies.

    Returns:
        (n, D) float32 on `home`, by layer.
    """
    result: dict[str, Tensor] = {}
    prepared = Fixed(transform, model.prepare, by_image=model.by_image)
    for span, x in stored_batches(sample.pixels, sample.indices, batch, model.device):
        for layer, r in cut.phi(prepared(x, params)).items():
            if layer not in result:
                result[layer] = torch.empty(len(sample), r.shape[1], device=home)
            result[layer][span] = r.float().to(home)
        if advance is not None:
            advance(len(x))
    return result
