"""One transformation of another library, drawn by a seed: albumentations, kornia.augmentation, torchvision's v2.

The library itself is not imported here: what a user gives brings it along.
"""

import random
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from invariance.errors import UnfitImages, UserError
from invariance.seeds import GLOBAL_STATES

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")

_BEYOND = 0.5
"""How far numbers may leave [0, 1] before they are taken for normalised, and no longer for a picture."""

_GRAY = (0.299, 0.587, 0.114)
"""What of red, green and blue makes gray."""

_THREADS = 4
"""Threads of a library that works on one image at a time, in code that lets others run."""


class Library(ABC):
    """A transformation of another library.

    Args:
        own: the transformation; it is this one's from now on.

    Attributes:
        own: as given.
        name: its class.
    """

    root: ClassVar[str]

    def __init__(self, own: Any) -> None:  # noqa: ANN401
        self.own = own
        self.name = type(own).__name__
        self._tried = False

    @property
    def told(self) -> str:
        """The transformation with its settings, as its library writes it."""
        return f"{self.root}: {_ADDRESS.sub('', repr(self.own))}"

    @property
    @abstractmethod
    def chance(self) -> float:
        """The least probability with which it, or a part of it, is applied."""

    def always(self) -> Self:
        """The same, always applied."""
        other = type(self)(deepcopy(self.own))
        other._make_certain()
        return other

    @abstractmethod
    def _make_certain(self) -> None:
        """Set every probability of being applied to 1."""

    @abstractmethod
    def _taken(self, x: Tensor) -> Any:  # noqa: ANN401
        """Images (B, C, H, W) in [0, 255] as the library has them, in a sequence."""

    @abstractmethod
    def _one(self, image: Any, seed: int) -> Any:  # noqa: ANN401
        """One of these, in a sequence of one, drawn by a seed."""

    @abstractmethod
    def _back(self, changed: list[Any], x: Tensor) -> Tensor:
        """What became of images x, in [0, 255]."""

    def apply(self, x: Tensor, seeds: Sequence[int]) -> Tensor:
        """Images (B, C, H, W) in [0, 255], each as if it were alone, drawn by the same seed or each by its own.

        Raises:
            UserError: if it fails on them, changes their size, or gives something else when asked again.
        """
        if not self._tried:
            first, again = (self._first(x[:1], seeds[:1]) for _ in range(2))
            if not torch.equal(first, again):
                raise UnfitImages(
                    f"transforms: {self.name} gives other numbers under the same seed, and cannot be measured"
                )
            self._tried = True
        return self._batch(x, seeds)

    def _first(self, x: Tensor, seeds: Sequence[int]) -> Tensor:
        """The first image that it is tried on."""
        return self._batch(x, seeds)

    def _batch(self, x: Tensor, seeds: Sequence[int]) -> Tensor:
        with self._telling(x), torch.autocast(x.device.type, enabled=False):
            taken = self._taken(x)
            pairs = [(taken[k : k + 1], seeds[k if len(seeds) > 1 else 0]) for k in range(len(x))]
            return self._back(self._each(pairs), x).to(x.dtype).contiguous()

    def _each(self, pairs: list[tuple[Any, int]]) -> list[Any]:
        return [self._one(image, seed) for image, seed in pairs]

    def _check_size(self, got: object, x: Tensor) -> None:
        """Refuse what is not of the size of an image."""
        if got != tuple(x.shape[1:]):
            raise UnfitImages(
                f"transforms: {self.name} makes {got} of images {tuple(x.shape[1:])}; one that changes the size "
                "cannot be measured"
            )

    @contextmanager
    def _telling(self, x: Tensor) -> Iterator[None]:
        """Tell of what the library refuses in one line."""
        try:
            yield
        except (UserError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever the library does
            why = next(iter(str(error).splitlines()), "")[:200]
            raise UnfitImages(
                f"transforms: {self.name} of {self.root} fails on images {tuple(x.shape[1:])} with "
                f"{type(error).__name__} ({why})"
            ) from error


class Albumentations(Library):
    """Of albumentations, on the CPU: images become uint8, and lose at most half an intensity by that.

    What takes colours alone, as its weather, gets a gray image as three equal channels, and gives it back as their gray
    value, .299 R + .587 G + .114 B.
    """

    root = "albumentations"

    def __init__(self, own: Any) -> None:  # noqa: ANN401
        super().__init__(own)
        self._of_thread = threading.local()
        self._colours_alone: bool | None = None

    def __deepcopy__(self, memo: dict[int, object]) -> "Albumentations":
        return type(self)(deepcopy(self.own, memo))

    @property
    def chance(self) -> float:
        """See `Library`."""
        return min((float(one.p) for one in _parts(self.own)), default=1.0)

    def _make_certain(self) -> None:
        for one in _parts(self.own):
            one.p = 1.0 if one.p > 0 else 0.0

    def _taken(self, x: Tensor) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = x.round().clamp_(0, 255).byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
        if pixels.shape[3] > 1:
            return pixels
        if self._colours_alone is None:
            self._colours_alone = self._wants_colours(pixels[0])
        return pixels.repeat(len(_GRAY), 3) if self._colours_alone else pixels

    def _each(self, pairs: list[tuple[Any, int]]) -> list[Any]:
        if len(pairs) == 1:
            return super()._each(pairs)
        with ThreadPoolExecutor(_THREADS) as threads:
            return list(threads.map(lambda pair: self._one(*pair), pairs))

    def _one(self, image: NDArray[np.uint8], seed: int) -> NDArray[Any]:
        changed = self._changed(image[0], seed)
        if changed.dtype != np.uint8:
            raise UnfitImages(
                f"transforms: {self.name} gives {changed.dtype}, and not uint8; leave it out of the chain"
            )
        return changed[:, :, None] if changed.ndim == 2 else changed

    def _back(self, changed: list[Any], x: Tensor) -> Tensor:
        if x.shape[1] == 1:
            changed = [_grayed(one) for one in changed]
        for one in changed:
            self._check_size((one.shape[2], *one.shape[:2]), x)
        return torch.from_numpy(np.stack(changed)).to(x.device).permute(0, 3, 1, 2).to(x.dtype)

    def _changed(self, pixels: NDArray[np.uint8], seed: int) -> NDArray[Any]:
        if not hasattr(self._of_thread, "own"):  # it holds what it drew last
            self._of_thread.own = deepcopy(self.own)
        self._of_thread.own.set_random_seed(seed)
        return np.asarray(self._of_thread.own(image=pixels)["image"])

    def _wants_colours(self, image: NDArray[np.uint8]) -> bool:
        """Whether any of its parts takes no gray image (H, W, 1): found by the parts, and not by what is drawn."""
        for part in _leaves(self.own):
            alone = deepcopy(part)
            alone.p = 1.0
            try:
                alone(image=image)
            except ValueError as error:
                if "3-channel" in str(error):
                    return True
            except Exception:  # what else it lacks is told when it is used
                continue
        return False


class _Torch(Library):
    """Of a library of torch modules that draw from the global random state."""

    @property
    def chance(self) -> float:
        """See `Library`."""
        return min((float(getattr(one, name)) for one, name in self._chances()), default=1.0)

    def _make_certain(self) -> None:
        for one, name in self._chances():
            if float(getattr(one, name)) > 0:
                setattr(one, name, 1.0)

    def _taken(self, x: Tensor) -> Tensor:
        return x / 255

    def _one(self, image: Tensor, seed: int) -> Any:  # noqa: ANN401
        with drawing(seed, image.device):
            return self.own(image)

    def _back(self, changed: list[Any], x: Tensor) -> Tensor:
        for one in changed:
            whole = isinstance(one, Tensor) and one.ndim == 4 and len(one) == 1
            self._check_size(tuple(one.shape[1:]) if whole else getattr(one, "shape", type(one).__name__), x)
        made = torch.cat(changed)
        if made.dtype == torch.uint8:
            return made.to(x.dtype)
        if not made.isfinite().all():
            raise UnfitImages(f"transforms: {self.name} gives numbers that are not finite")
        self._check_picture(made)
        return made * 255

    def _check_picture(self, made: Tensor) -> None:
        """Refuse numbers that are far from [0, 1]."""
        least, most = float(made.min()), float(made.max())
        if least < -_BEYOND or most > 1 + _BEYOND:
            raise UnfitImages(
                f"transforms: {self.name} gives numbers from {least:.3g} to {most:.3g} for images in [0, 1]; leave "
                "a normalisation out, for the network has its own, and give colours in [0, 1]"
            )

    def _chances(self) -> list[tuple[nn.Module, str]]:
        """Where its parts keep their probabilities."""
        return [
            (one, name)
            for one in _modules(self.own)
            for name in ("p", "p_batch")
            if _is_number(getattr(one, name, None))
        ]


class Kornia(_Torch):
    """Of kornia.augmentation, where the images are: they become [0, 1]."""

    root = "kornia"

    def __init__(self, own: Any) -> None:  # noqa: ANN401
        super().__init__(own)
        for one in _modules(own):
            if any(kind.__name__ == "MixAugmentationBaseV2" for kind in type(one).__mro__):
                raise UserError(
                    f"transforms: {type(one).__name__} mixes images, and g is the same for each; leave it out"
                )

    def _check_picture(self, made: Tensor) -> None:
        if any("ormalize" in type(one).__name__ for one in _modules(self.own)):
            super()._check_picture(made)  # its noise may leave [0, 1]


class TorchvisionV2(_Torch):
    """Of torchvision.transforms.v2, where the images are: they become [0, 1], or uint8 where it takes nothing else."""

    root = "torchvision"

    def __init__(self, own: Any) -> None:  # noqa: ANN401
        super().__init__(own)
        self._bytes = False

    def _first(self, x: Tensor, seeds: Sequence[int]) -> Tensor:
        try:
            return self._batch(x, seeds)
        except UserError as error:
            if self._bytes or not isinstance(error.__cause__, TypeError | ValueError | RuntimeError):
                raise
            self._bytes = True
            return self._batch(x, seeds)

    def _taken(self, x: Tensor) -> Tensor:
        return x.round().clamp_(0, 255).byte() if self._bytes else super()._taken(x)


def _grayed(changed: NDArray[Any]) -> NDArray[Any]:
    """What became of a gray image (H, W, C), gray again: channels that are alike are its gray values, to the bit."""
    if changed.shape[2] != len(_GRAY):
        return changed
    if (changed == changed[:, :, :1]).all():
        return changed[:, :, :1]
    gray: NDArray[Any] = (changed @ np.array(_GRAY)).astype(np.float32)[:, :, None]
    return gray


@contextmanager
def drawing(seed: int, device: torch.device) -> Iterator[None]:
    """The global random states of torch, numpy and Python seeded while it lasts, by one thread at a time."""
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index or 0])
    with GLOBAL_STATES:
        states = [one.get_state() for one in generators]
        own, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
        try:
            for one in generators:
                one.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            yield
        finally:
            for one, state in zip(generators, states, strict=True):
                one.set_state(state)
            random.setstate(own)
            np.random.set_state(of_numpy)  # noqa: NPY002


def library_of(given: object) -> Callable[[Any], Library] | None:
    """What adapts an object, by where its class, or one that this derives from, is from; None for anything else."""
    if isinstance(given, type):
        return None
    homes = [one.__module__ for one in type(given).__mro__]
    for home in homes:
        if home.startswith("albumentations.") and hasattr(given, "set_random_seed"):
            return Albumentations
        if home.startswith("kornia.augmentation.") and isinstance(given, nn.Module):
            return Kornia
        if home.startswith("torchvision.transforms.v2.") and isinstance(given, nn.Module):
            return TorchvisionV2
    return None


def _modules(own: nn.Module) -> Iterator[nn.Module]:
    """A module, and those inside it, also in plain lists, as torchvision's chains hold them."""
    for module in own.modules():
        yield module
        inside = getattr(module, "transforms", None)
        for one in inside if isinstance(inside, list | tuple) else ():
            if isinstance(one, nn.Module):
                yield from _modules(one)


def _parts(own: Any) -> list[Any]:  # noqa: ANN401
    """A transformation of albumentations, and those inside it whose probability is that of being applied."""
    inside = [part for one in getattr(own, "transforms", None) or () if hasattr(one, "p") for part in _parts(one)]
    kinds = {one.__name__ for one in type(own).__mro__}
    if "OneOrOther" in kinds:  # its p chooses between two, which are both applied always
        return inside
    return [own] if "OneOf" in kinds else [own, *inside]  # there p weighs one against another


def _leaves(own: Any) -> list[Any]:  # noqa: ANN401
    """A transformation of albumentations, or what a chain or choice of such is made of in the end."""
    inside = getattr(own, "transforms", None)
    return [own] if inside is None else [leaf for one in inside for leaf in _leaves(one)]


def _is_number(given: object) -> bool:
    """Whether a probability is one number, also as a tensor."""
    return isinstance(given, int | float) or (isinstance(given, Tensor) and given.numel() == 1)
