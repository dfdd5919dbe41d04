"""Families whose g is worked out on the CPU and applied where the images are, without either waiting for the other.

What g needs beside the images are its *tables*: small tensors made from parameters for images of one shape. In
training the threads that read images draw parameters and make tables, which travel with the batch in its one copy. In
measuring g is fixed: its tables are made and moved once, and so is what does not depend on pixels, as a grid of places
or a field.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from invariance.transforms.base import Params, Transform, check_batch

Tables = dict[str, Tensor]
"""What g needs beside the images: tensors of n rows, or of one for all images.

What is decided by parameters, as whether an image stays as it is, stands in which tables there are and in their shapes:
these are known without asking the device for a number.
"""

Shape = tuple[int, ...]
"""Channels, height and width of images."""


Mover = Callable[[Tensor], Tensor]
"""Takes x to g x, for images (B, C, H, W) of one shape, type and device."""

STAYS = "stays"
"""Name of a table (n,) bool: which images g leaves as they are, to the bit."""

_CACHED = 2**18
"""Numbers that are worked on at once on a CPU: what a core's cache holds beside its results."""


class Tabled(Transform):
    """A family whose `apply` is made of tables, which may be made elsewhere and earlier.

    Attributes:
        by_image: whether g x of an image is the same in any batch, to the bit.
    """

    by_image: ClassVar[bool] = False

    @abstractmethod
    def tables(self, params: Params, shape: Shape) -> Tables:
        """Tables on the CPU, from parameters, for images (C, H, W); none where g leaves all images as they are.

        Raises:
            UnfitImages: for images that the family does not take.
        """

    @abstractmethod
    def mover(self, tables: Tables, like: Tensor) -> Mover:
        """What takes x to g x; nothing in it copies from the CPU or reads a number back from the device.

        Args:
            tables: what `tables` gave, on the device of the images; at least one.
            like: images of the shape, type and device of x, of which the numbers do not matter; not to be kept.
        """

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """See `Transform.apply`."""
        return self.by_tables(params, x)(x)

    def fixed(self, params: Params, like: Tensor) -> Mover:
        """See `Transform.fixed`: everything but what depends on pixels is done here."""
        return super().fixed(params, like) if tabled(self) is None else self.by_tables(params, like)

    def by_tables(self, params: Params, like: Tensor) -> Mover:
        """As `ready`, from parameters on the CPU."""
        check_batch(like, params)
        tables = self.tables(params, tuple(like.shape[1:]))
        return self.ready({name: table.to(like.device) for name, table in tables.items()}, like)

    def ready(self, tables: Tables, like: Tensor) -> Mover:
        """As `mover`, but for the images that stay as they are."""
        return but_for_staying(tables, lambda: self.mover(tables, like))


def tabled(transform: Transform) -> Tabled | None:
    """The family, if its g is what its tables say; None where a class has an `apply` of its own, as from outside."""
    return transform if isinstance(transform, Tabled) and type(transform).apply is Tabled.apply else None


def with_staying(tables: Tables, stays: Tensor) -> Tables:
    """Tables, and which images (n,) stay as they are where some do; no table at all where all do."""
    if bool(stays.all()):
        return {}
    return {**tables, STAYS: stays} if bool(stays.any()) else tables


def but_for_staying(tables: Tables, mover: Callable[[], Mover]) -> Mover:
    """What a mover gives, but for the images that stay as they are; x copied where all of them do."""
    if not tables:
        return torch.clone
    move = mover()
    if STAYS not in tables:
        return move
    stays = tables[STAYS][:, None, None, None]
    return lambda x: torch.where(stays, x, move(x))


class Fixed:
    """Some g of a family, called like `apply`: what each comes to is kept for all batches of one shape.

    Args:
        transform: the family.
        prepare: what takes images g x to what is wanted of them, as a network's preprocessing; None: they are.
        by_image: whether `prepare` gives the same for an image in any batch, to the bit, images being contiguous. On a
            CPU it is then called part by part.
    """

    def __init__(self, transform: Transform, prepare: Mover | None = None, *, by_image: bool = False) -> None:
        self._transform, self._prepare, self._by_image = transform, prepare, by_image
        family = tabled(transform)
        self._moved_by_image = family is not None and family.by_image
        # parameters are held, so that no others are ever found under their identity
        self._movers: dict[tuple[object, ...], tuple[Params, Mover]] = {}

    def __call__(self, x: Tensor, params: Params) -> Tensor:
        """Images g x, prepared, for the very parameters of a grid's point, n = 1; of uint8 images in float32."""
        prepare, key = self._prepare, (id(params), x.shape[1:], x.dtype, x.device)
        if key not in self._movers:
            fixed = self._transform.fixed(params, x[:1] if x.is_floating_point() else x[:1].float())
            self._movers[key] = params, fixed if x.is_floating_point() else lambda images: fixed(images.float())
        move = self._movers[key][1]
        if prepare is None:
            return move(x)
        # every thread has images to itself, where an operation is divided by images
        part = max(2 * torch.get_num_threads(), _CACHED // max(1, x[:1].numel()))
        if not self._by_image or x.device.type != "cpu" or len(x) <= part:
            return prepare(move(x))
        if not self._moved_by_image:
            return _in_parts(move(x), prepare, part)
        return _in_parts(x, lambda images: prepare(move(images)), part)


def _in_parts(x: Tensor, work: Mover, part: int) -> Tensor:
    """What `work` gives for images, so many at a time: steps after one another find them in the processor's cache."""
    first = work(x[:part])
    out = first.new_empty(len(x), *first.shape[1:])
    out[:part] = first
    for start in range(part, len(x), part):
        out[start : start + part] = work(x[start : start + part])
    return out
