"""What of a network comes behind a layer, as a graph of its own."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from invariance.models.naming import Layer, submodules


class Inseparable(Exception):  # noqa: N818
    """The rest cannot be told from the beginning; its text says why."""


class _ModuleTracer(fx.Tracer):
    """Traces a network without looking inside the layer at which it is to be cut."""

    def __init__(self, leaf: nn.Module) -> None:
        super().__init__()
        self._leaf = leaf

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether to look inside a module."""
        return m is self._leaf or super().is_leaf_module(m, module_qualified_name)


def rest_of(network: nn.Module, layer: Layer) -> Callable[[Tensor], Any]:
    """The network behind a layer, from the layer's output in its own shape, in the mode the network is in.

    Raises:
        Inseparable: if the network cannot be traced, or its output depends on its input another way.
    """
    if not layer.path:
        return lambda value: value
    if layer.keys:
        raise Inseparable("an element of an output is not traced")
    module = submodules(network)[layer.path]
    try:
        graph = _ModuleTracer(module).trace(network)
    except Exception as error:  # whatever a forward pass does with what is no tensor
        why = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise Inseparable(f"the network's forward pass cannot be traced (torch.fx: {why})") from error
    own = {name for name, one in submodules(network).items() if one is module}
    cuts = [node for node in graph.nodes if node.op == "call_module" and node.target in own]
    if len(cuts) < (layer.run or 1):
        raise Inseparable("a trace does not show the layer")
    cut = cuts[(layer.run or 1) - 1]
    with graph.inserting_after(cut):
        entry = graph.placeholder("representation")
    cut.replace_all_uses_with(entry)
    inputs = [node for node in graph.nodes if node.op == "placeholder" and node is not entry]
    for node in reversed(graph.nodes):
        if node.op not in ("placeholder", "output") and not node.users:
            graph.erase_node(node)
    if any(node.users for node in inputs):
        raise Inseparable("the layer is passed by, as the logits also depend on the image another way")
    for node in inputs:
        graph.erase_node(node)
    # a GraphModule would keep the buffers of now, and miss the network's move to another device
    return fx.Interpreter(network, graph=graph).run


def equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same to the bit, NaN being NaN; on the device `meta`, which has no values, always."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return a.is_meta or bool(((a == b) | (a.isnan() & b.isnan())).all())


def near(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same to rounding, beside the largest number in them."""
    if a.shape != b.shape:
        return False
    if a.is_meta:
        return True
    eps = max(1e-3, 32 * torch.finfo(a.dtype).eps)
    if a.numel() and bool((most := a.abs().amax()).isfinite()):  # three passes in the place of ten
        return bool((a - b).abs_().amax() <= eps * most)
    finite = a[a.isfinite()]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    return bool(torch.isclose(a, b, rtol=0.0, atol=eps * largest, equal_nan=True).all())
