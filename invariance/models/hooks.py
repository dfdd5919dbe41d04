"""Forward passes that are watched at layers, or have the output of a layer replaced."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from invariance.device import full_float32
from invariance.models.naming import LOGITS, Layer, bracketed, element, submodules, tensors_in, with_element

_NAMED = 4

Put = Tensor | Callable[[Tensor], Tensor]
"""What takes the place of a layer's output, or makes it of the layer's own, which it leaves as it is."""


class _Reached(Exception):  # noqa: N818
    """Leaves the forward pass as soon as the last wanted layer has answered."""


@dataclass
class Seen:
    """What one forward pass showed.

    Attributes:
        order: the layers that answered, in that order.
        outputs: a clone of what each layer gave, as it was then.
        flaws: of the layers that gave no tensor of numbers, what they gave instead.
        strides: how each output lay in memory.
        overwritten: layers whose output was changed in place later in the pass, if that went to its end.
        runs: how often the module of each layer ran.
        answer: what the network gave; None where the pass was ended before.
    """

    order: list[Layer] = field(default_factory=list)
    outputs: dict[Layer, Tensor] = field(default_factory=dict)
    flaws: dict[Layer, str] = field(default_factory=dict)
    strides: dict[Layer, tuple[int, ...]] = field(default_factory=dict)
    overwritten: set[Layer] = field(default_factory=set)
    runs: dict[Layer, int] = field(default_factory=dict)
    answer: Any = None


def original(network: nn.Module) -> nn.Module:
    """The module that `torch.compile` was given, so that its layers have the names that they have there."""
    while type(network).__name__ == "OptimizedModule":  # its class would have to be imported with the compiler
        network = network.get_submodule("_orig_mod")
    return network


@contextmanager
def uncompiled(network: nn.Module) -> Iterator[None]:
    """No compiled code while it lasts, be the network compiled or a part of it: hooks would not fire in it."""
    compiled = (type(one).__name__ == "OptimizedModule" or one._compiled_call_impl for one in network.modules())
    if not any(compiled):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def evaluating(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode, without gradients and in full float32, while it lasts; every module's own mode comes back.

    The fused pass of `nn.MultiheadAttention` and `nn.TransformerEncoderLayer` is off: it would not run their
    submodules, and would round otherwise once one of them is watched.
    """
    modes = [(module, module.training) for module in network.modules()]
    fused = torch.backends.mha.get_fastpath_enabled()
    network.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), full_float32(device), uncompiled(network):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, mode in modes:
            module.training = mode


def forward(
    network: nn.Module,
    x: Tensor,
    layers: Sequence[Layer] = (),
    *,
    put: Mapping[Layer, Put] | None = None,
    stop: bool = False,
    show: Callable[[Layer, Tensor], None] | None = None,
) -> Seen:
    """One forward pass, in whatever mode the network is in.

    Args:
        network: the network.
        x: its input (B, …).
        layers: where to look.
        put: what takes the place of what layers give: (B, D) or in their own shape, or a function of what they give.
        stop: whether to end the pass once all of `layers` have answered.
        show: is shown what each of `layers` gives, before anything changes it; nothing is kept of it then.
    """
    seen, modules, values = Seen(), submodules(network), put or {}
    at: dict[nn.Module, list[Layer]] = {}
    for layer in dict.fromkeys((*layers, *values)):
        at.setdefault(modules[layer.path] if layer.path else network, []).append(layer)
    counts = dict.fromkeys(at, 0)
    held: dict[Layer, tuple[Tensor, int]] = {}
    left = set(layers) if stop else set()

    def answered(module: nn.Module, _inputs: object, output: Any) -> Any:  # noqa: ANN401
        """Look at what a module gives, or replace it."""
        counts[module] += 1
        here = [layer for layer in at[module] if (layer.run or 1) == counts[module]]
        seen.order += here
        for layer in here:
            if layer in values:
                output = _replaced(layer, output, values[layer])
            elif (value := _tensor(layer, output, seen.flaws)) is None:
                continue
            elif show is not None:
                show(layer, value)
            else:
                seen.outputs[layer], seen.strides[layer] = value.clone(), value.stride()
                if not stop and not value.is_inference():
                    held[layer] = (value, value._version)
        if left and here:
            left.difference_update(here)
            if not left:
                raise _Reached
        return output if values else None

    with ExitStack() as hooks:
        for module in at:
            hooks.callback(module.register_forward_hook(answered).remove)
        try:
            with uncompiled(network):
                seen.answer = network(x)
        except _Reached:
            pass
    seen.overwritten = {layer for layer, (value, version) in held.items() if value._version != version}
    seen.runs = {layer: counts[module] for module, here in at.items() for layer in here}
    return seen


def _tensor(layer: Layer, output: object, flaws: dict[Layer, str]) -> Tensor | None:
    """The layer's part of its module's output; where that is no tensor of numbers, what it is stands in `flaws`."""
    try:
        value = logits_in(output) if not layer.path else element(output, layer.keys)
    except LookupError:
        flaws[layer] = f"has no such element ({_there(layer, output)})"
        return None
    if not isinstance(value, Tensor):
        flaws[layer] = f"gives a {type(value).__name__} ({_there(layer, output)})"
        return None
    if not value.is_floating_point():
        flaws[layer] = f"gives {value.dtype}, and no floating-point numbers"
        return None
    return value


def _there(layer: Layer, output: object) -> str:
    """The elements that can be named instead."""
    base = layer.name.split("[", 1)[0]
    inside = [f"{base}{bracketed(keys)} {tuple(one.shape)}" for keys, one in tensors_in(output).items()]
    if not inside:
        return "with no tensor in it"
    return "name " + ", ".join(inside[:_NAMED]) + (", …" if len(inside) > _NAMED else "")


def _replaced(layer: Layer, output: Any, value: Put) -> Any:  # noqa: ANN401
    if not layer.path:
        return value if isinstance(value, Tensor) else value(logits_in(output))
    own = element(output, layer.keys)
    new = value.reshape(own.shape) if isinstance(value, Tensor) else value(own)
    return with_element(output, layer.keys, laid(new, own.stride(), own.dtype))


def laid(value: Tensor, strides: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A clone of a tensor (B, …) that lies in memory in the order of these strides, as channels-last does, or not.

    What comes behind a layer may take another path, which rounds otherwise, for another order. The type becomes the
    layer's own, except under autocast, where every operation casts for itself.
    """
    order = sorted(range(value.ndim), key=lambda dim: -strides[dim])
    back = [order.index(dim) for dim in range(value.ndim)]
    clone = value.permute(order).clone(memory_format=torch.contiguous_format).permute(back)
    return clone if torch.is_autocast_enabled(value.device.type) else clone.to(dtype)


def logits_in(output: Any) -> Tensor:  # noqa: ANN401
    """A network's logits: its output, what is called `logits` in it, or the one floating tensor there.

    Raises:
        LookupError: if there is none, or several.
    """
    if isinstance(output, Tensor):
        return output
    named = output.get(LOGITS) if isinstance(output, Mapping) else getattr(output, LOGITS, None)
    if isinstance(named, Tensor):
        return named
    inside = tensors_in(output)
    if len(inside) != 1:
        there = ", ".join(f"{bracketed(keys)} {tuple(one.shape)}" for keys, one in inside.items()) or "no tensor"
        raise LookupError(f"a {type(output).__name__} with {there}")
    return next(iter(inside.values()))
