"""A network with what belongs to it: its preprocessing, input size, classes, and the hash of its weights."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn

from invariance.errors import UserError
from invariance.models.answers import read_logits
from invariance.models.cut import Cut
from invariance.models.hooks import evaluating, forward, original
from invariance.models.recipe import Normalise, Resize
from invariance.settings.fields import LARGEST_SIZE, native

Preprocess = Callable[[Tensor], Tensor]

DTYPES = {
    str(kind).removeprefix("torch."): kind for kind in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
}
"""What a network can compute in, by name."""

_GIVE = (
    "give the network's own, as preprocess=([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), the mean and std of images "
    "in [0, 1], or a function of float images (B, C, H, W) in [0, 255]"
)


class Model:
    """A network of images, from whatever source; `wrap` and `load_model` make them.

    Attributes:
        module: the network, from what `prepare` gives to logits (B, K).
        preprocess: float images (B, C, H, W) in [0, 255] to what the network takes; without resizing.
        name: how rows name it.
        size: side in pixels of the square images it takes; None: as they come.
        classes: names of the classes in the order of the logits; None where they are not known.
        class_count: how many classes there are; 0 for a network without classifier, None where it is not known.
        resize: how files are resized and cropped; None: they are warped to `size`.
        recipe: size and preprocessing as text: a part of a measurement's identity.
        ours: whether it is of a training run: its L_L2 is scaled dimension by dimension, as the paper's.
        dtype: what its numbers are computed in: float32, unless `typed` says otherwise.
    """

    def __init__(
        self,
        module: nn.Module,
        preprocess: Preprocess,
        *,
        name: str,
        recipe: str,
        size: int | None = None,
        classes: Sequence[str] | None = None,
        class_count: int | None = None,
        resize: Resize | None = None,
        ours: bool = False,
    ) -> None:
        self.module, self.preprocess, self.name, self.size, self.ours = module, preprocess, name, size, ours
        self.classes = None if classes is None else list(classes)
        self.class_count = class_count if classes is None else len(classes)
        self.resize, self.recipe = resize, recipe
        self.dtype = torch.float32
        self._tried = False

    @property
    def device(self) -> torch.device:
        """Where the network is; the CPU for one without weights.

        Raises:
            UserError: if its weights are on several devices, or on none.
        """
        there = {one.device for one in (*self.module.parameters(), *self.module.buffers())}
        if len(there) > 1:
            names = ", ".join(sorted(map(str, there)))
            raise UserError(
                f"model {self.name}: its weights are on {names}; move it to one device, as module.to('cpu')"
            )
        if torch.device("meta") in there:
            raise UserError(f"model {self.name}: its weights hold no numbers (they are on meta); load some first")
        return there.pop() if there else torch.device("cpu")

    @cached_property
    def weights(self) -> str:
        """sha256 over the weights and buffers, by name, wherever they are."""
        return hash_of_weights(self.module)

    @property
    def libraries(self) -> list[str]:
        """Packages that the classes of its modules come from, beside torch and this one: what it was built with."""
        roots = {type(one).__module__.partition(".")[0] for one in self.module.modules()}
        return sorted(roots - {"torch", "invariance"})

    def moved(self, device: str | torch.device | None) -> Self:
        """The same model, its module moved to a device: "cpu", "gpu", "auto", as torch names one, or None for none.

        Raises:
            UserError: if the device is not there.
        """
        if device is not None:
            self.module.to(device_of(device))
        return self

    def typed(self, dtype: object) -> "Model":
        """The same network computing in another type, as a copy whose name says so; this one stays as it is.

        Args:
            dtype: "float64", "float32", "bfloat16", "float16", the same of torch's, or None for what there is.

        Raises:
            UserError: for anything else.
        """
        kind = DTYPES.get(str(dtype).removeprefix("torch."))
        if dtype is not None and kind is None:
            raise UserError(f"dtype={dtype!r}: choose one of {', '.join(DTYPES)}")
        if kind is None or kind == self.dtype:
            return self
        told = str(kind).removeprefix("torch.")
        other = Model(
            deepcopy(self.module).to(kind),
            self.preprocess,
            name=f"{self.name} in {told}",
            recipe=f"{self.recipe}; in {told}",
            size=self.size,
            classes=self.classes,
            class_count=self.class_count,
            resize=self.resize,
            ours=self.ours,
        )
        other.dtype = kind
        return other

    def renamed(self, name: str) -> Self:
        """The same model under another name."""
        self.name = name
        return self

    @property
    def by_image(self) -> bool:
        """Whether `prepare` is known to give the same for an image in any batch, to the bit."""
        return self.ours or isinstance(self.preprocess, Normalise)

    def prepare(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 255] as the network takes them, on its device, in its type.

        Raises:
            UserError: if the preprocessing fails, gives no tensor with a row an image, or changes the images in place.
        """
        x = x.to(self.device).float()
        if self._tried:
            return self.preprocess(x).to(self.dtype)
        before = x.clone()
        try:
            prepared = self.preprocess(x)
        except UserError:
            raise
        except Exception as error:  # whatever the user's function does
            why = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise UserError(f"model {self.name}: preprocess fails on images {tuple(x.shape)} ({why[:200]})") from error
        if not isinstance(prepared, Tensor) or len(prepared) != len(x):
            got = tuple(prepared.shape) if isinstance(prepared, Tensor) else type(prepared).__name__
            raise UserError(f"model {self.name}: preprocess gives {got} for images {tuple(x.shape)}; {_GIVE}")
        if not torch.equal(before, x):
            raise UserError(f"model {self.name}: preprocess changes its images in place; let it give new ones")
        if prepared.device != self.device:
            raise UserError(f"model {self.name}: preprocess gives images on {prepared.device}, not on {self.device}")
        self._tried = True
        return prepared.to(self.dtype)

    def count_logits(self, x: Tensor) -> int:
        """K, of logits (B, K), on the first of some images (B, C, H, W) in [0, 255].

        Raises:
            UserError: if the network does not take the image, or gives no logits.
        """
        image = self.prepare(x[:1])
        try:
            with evaluating(self.module, image.device):
                return read_logits(forward(self.module, image).answer, 1).shape[1]
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            if isinstance(error, UserError | torch.OutOfMemoryError):
                raise
            why = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise UserError(
                f"model {self.name} does not take images of {x.shape[-2]} × {x.shape[-1]} pixels ({why[:200]})"
            ) from error

    def cut(self, layers: Sequence[str], readouts: str | Mapping[str, str] | None = None) -> Cut:
        """φ at layers, and C behind them; they take what `prepare` gives; arguments as `Cut`.

        Raises:
            UserError: if there is no such layer or readout.
        """
        return Cut(self.module, layers, readouts)


def wrap(
    module: nn.Module,
    preprocess: object = None,
    *,
    name: str | None = None,
    size: int | None = None,
    classes: Sequence[str] | None = None,
    device: str | torch.device | None = None,
) -> Model:
    """A module of the user's own as a model.

    Args:
        module: from preprocessed images to logits (B, K). One of `torch.compile` is measured as it was before that.
        preprocess: mean and std, one number a channel each, of images in [0, 1], as timm and torchvision state them:
            (x / 255 − mean) / std; or a function of float images (B, C, H, W) in [0, 255], on the network's device.
        name: how rows name it; None: its class.
        size: side in pixels that images are to be resized to; None: they are taken as they come.
        classes: names of the classes in the order of the logits.
        device: where the module is moved to: "cpu", "gpu", "auto", or as torch names one; None: it stays where it is.

    Raises:
        UserError: for a missing preprocessing, or a value that makes no sense.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
        >>> model = wrap(network, preprocess=([0.5, 0.5, 0.5], [0.25, 0.25, 0.25]), name="mine")
        >>> model.prepare(torch.full((1, 3, 2, 2), 255.0)).unique(), model.recipe
        (tensor([2.]), '(x / 255 − [0.5, 0.5, 0.5]) / [0.25, 0.25, 0.25]')
    """
    if not isinstance(module, nn.Module):
        raise UserError(f"model: a {type(module).__name__} is no torch module; give an nn.Module")
    module = original(module)  # layers are watched by hooks, and have their own names
    called = type(module).__name__ if name is None else name
    if not isinstance(called, str) or not called.strip() or not called.isprintable():
        raise UserError(f"model: name={name!r} is no name; give a text of one line")
    size, classes = native(size), native(classes)
    check_size_and_classes(called, size, classes)
    function, told = read_preprocess(preprocess, called)
    recipe = told if size is None else f"size {size}; {told}"
    return Model(module, function, name=called, recipe=recipe, size=size, classes=classes).moved(device)


def check_size_and_classes(name: str, size: object, classes: Sequence[str] | None) -> None:
    """Refuse a size that is no side in pixels, and classes that are no names.

    Raises:
        UserError: naming the model.
    """
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= LARGEST_SIZE):
        raise UserError(f"model {name}: size={size!r}; give the side of square images in pixels, or None")
    if classes is not None and not (isinstance(classes, list | tuple) and all(isinstance(one, str) for one in classes)):
        raise UserError(f"model {name}: classes={classes!r}; give the names of the classes, in the logits' order")


def device_of(device: str | torch.device) -> torch.device:
    """A device by its name: "cpu", "gpu", "auto" (a GPU if there is one), or as torch names it.

    Raises:
        UserError: if there is no such device on this machine.
    """
    there = torch.cuda.is_available()
    if device == "auto":
        return torch.device("cuda" if there else "cpu")
    try:
        chosen = torch.device("cuda" if device == "gpu" else device)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"device={device!r}: choose auto, cpu, gpu, or one as torch names it, as cuda:1") from error
    if chosen.type == "cuda" and (not there or (chosen.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"device={str(device)!r}: torch finds no such GPU on this machine; try device='auto'")
    return chosen


def require_model(given: object, what: str) -> None:
    """Refuse what is no model.

    Args:
        given: what a user gave.
        what: the argument's name.

    Raises:
        UserError: saying how to make one.
    """
    if not isinstance(given, Model):
        how = "wrap(module, preprocess=…)" if isinstance(given, nn.Module) else "wrap(…) or load_model(…)"
        raise UserError(f"{what}: a {type(given).__name__} is no model; give {how}")


def hash_of_weights(module: nn.Module) -> str:
    """sha256 over a module's weights and buffers, each by its name, type and shape: the same on every device."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(key.encode())
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()


def read_preprocess(given: object, name: str) -> tuple[Preprocess, str]:
    """The preprocessing that a user gives, as `wrap` takes it, and its text.

    Raises:
        UserError: if it is missing, or makes no sense.
    """
    if given is None:
        raise UserError(f"model {name}: preprocess= is missing, and another one moves every number; {_GIVE}")
    if callable(given):
        return given, f"preprocessed by {_called(given)}"
    pair: Any = (given.get("mean"), given.get("std")) if isinstance(given, Mapping) else native(given)
    if not isinstance(pair, Sequence) or len(pair) != 2:
        raise UserError(f"model {name}: preprocess={given!r} is neither mean and std nor a function; {_GIVE}")
    mean, std = (_numbers(one, key, name) for one, key in zip(pair, ("mean", "std"), strict=True))
    if len(mean) != len(std) or not all(0 < one < torch.inf for one in std):
        raise UserError(f"model {name}: mean={mean} and std={std} are not one number a channel each, std above 0")
    if not max(map(abs, mean)) <= 1:
        raise UserError(f"model {name}: mean={mean} is not of images in [0, 1]; divide mean and std by 255")
    normalise = Normalise(mean, std)
    return normalise, normalise.told


def _numbers(given: object, key: str, name: str) -> list[float]:
    values: Any = native(given)
    values = [values] if isinstance(values, int | float) else values
    if not isinstance(values, list | tuple) or not values or not all(isinstance(one, int | float) for one in values):
        raise UserError(f"model {name}: {key}={given!r}; give one number a channel")
    return [float(one) for one in values]


def _called(function: Callable[..., Any]) -> str:
    """A function as a person would name it."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"
