"""What of a network comes behind a layer, run without what comes before it, where the network cannot be traced."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from invariance.models.hooks import forward
from invariance.models.naming import Layer, submodules
from invariance.models.rest import Inseparable


def skipping(network: nn.Module, layer: Layer, images: Tensor) -> Callable[[Tensor], Any]:
    """The network behind a layer, from the layer's output in its own shape, in the mode the network is in.

    The network runs on images of zeros, and what ended before the layer began gives zeros of its shape at once: behind
    a layer that nothing goes past no number of it is needed.

    Args:
        network: the network.
        layer: the layer.
        images: some images (B, …), on which it is seen what comes before.

    Raises:
        Inseparable: if the layer's output cannot take the place of its module's, or nothing before it can be left out.
    """
    module = submodules(network)[layer.path] if layer.path else network
    if not layer.path or layer.keys or layer.run:
        raise Inseparable("what is before the layer cannot be left out: it is not all that a module gives, once")
    before = _before(network, module, images)

    def run(value: Tensor) -> Any:  # noqa: ANN401
        """What the network gives."""
        zeros = images.new_zeros((len(value), *images.shape[1:]))
        given = {one: value.new_zeros((len(value), *shape)) for one, shape in before.items()}
        with _giving({**given, module: value}):
            return forward(network, zeros).answer

    return run


def _before(network: nn.Module, module: nn.Module, images: Tensor) -> dict[nn.Module, tuple[int, ...]]:
    """The outermost modules that ran once, ended before another began, and gave a tensor: what they gave an image."""
    began: dict[nn.Module, int] = {}
    gave: dict[nn.Module, tuple[int, ...] | None] = {}
    inside: dict[nn.Module, nn.Module | None] = {}
    open_now: list[nn.Module] = []

    def begins(one: nn.Module, _inputs: object) -> None:
        """Note what a module is called in."""
        began[one] = began.get(one, 0) + 1
        inside[one] = open_now[-1] if open_now else None
        open_now.append(one)

    def ends(one: nn.Module, _inputs: object, output: object) -> None:
        """Note what a module gives, if the layer has not begun."""
        open_now.pop()
        if module not in began:
            fits = isinstance(output, Tensor) and output.ndim > 1 and len(output) == len(images)
            gave[one] = tuple(output.shape[1:]) if fits and isinstance(output, Tensor) else None

    with ExitStack() as hooks:
        for one in network.modules():
            hooks.callback(one.register_forward_pre_hook(begins).remove)
            hooks.callback(one.register_forward_hook(ends).remove)
        forward(network, images)
    if began.get(module) != 1:
        raise Inseparable("what is before the layer cannot be left out: its module does not run once")
    found = {one: shape for one, shape in gave.items() if shape is not None and began[one] == 1}
    return {one: shape for one, shape in found.items() if inside[one] not in found}


@contextmanager
def _giving(values: dict[nn.Module, Tensor]) -> Iterator[None]:
    """Modules give these values, and run nothing, while it lasts."""
    with ExitStack() as undone:
        for one, value in values.items():
            own = one.__dict__.get("forward")  # a module may have a forward of its own, not its class's
            object.__setattr__(one, "forward", _constant(value))
            undone.callback(_own_again, one, own)
        yield


def _own_again(module: nn.Module, own: object) -> None:
    object.__delattr__(module, "forward")
    if own is not None:
        object.__setattr__(module, "forward", own)


def _constant(value: Tensor) -> Callable[..., Tensor]:
    return lambda *_inputs, **_named: value
