"""φ and C: any network cut in two at any layer (Sec. 3.1, 3.3)."""

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from invariance.device import full_float32
from invariance.errors import UserError, nearest


class _Reached(Exception):  # noqa: N818
    """Leaves the forward pass as soon as the wanted layer has answered."""


class _ModuleTracer(fx.Tracer):
    """Traces a network without looking inside the layer at which it is to be cut."""

    def __init__(self, leaf: str) -> None:
        super().__init__()
        self._leaf = leaf

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name == self._leaf or super().is_leaf_module(m, module_qualified_name)


class Representation:
    """A network cut at a layer: φ maps images to representations (B, D), C maps representations to logits.

    `phi(x)` runs the network up to and including the layer and flattens its output; `classify(r)` runs the rest. Both
    work in evaluation mode without gradients, on the network's device, and leave its training mode as it was; `reach`
    and `resume` are the same two for training, with gradients and in the network's own mode.

    Args:
        network: any module from images (B, C, H, W) to logits (B, K).
        layer: dotted name of a submodule, as in `dict(network.named_modules())`; for CaffeNet "relu7" is the paper's
            fc7 after ReLU (dropout does nothing at test time).

    Raises:
        UserError: if there is no such layer.
    """

    def __init__(self, network: nn.Module, layer: str) -> None:
        modules = dict(network.named_modules())
        if layer == "" or layer not in modules:
            known = [name for name in modules if name]
            shown = ", ".join(known[-12:])
            raise UserError(f"layer={layer!r} is not in the network{nearest(layer, known)} (its last layers: {shown})")
        self.network = network
        self.layer = layer
        self._module = modules[layer]
        self._shape: torch.Size | None = None
        self._rest: dict[bool, Callable[[Tensor], Tensor]] = {}

    @torch.no_grad()
    def phi(self, x: Tensor) -> Tensor:
        """φ(x): images (B, C, H, W), as the network takes them, to (B, D).

        Raises:
            UserError: if the layer was never run, ran more than once, or did not give one tensor a batch.
        """
        training = self.network.training
        self.network.eval()
        try:
            with full_float32(x.device):
                return self.reach(x)
        finally:
            self.network.train(training)

    def reach(self, x: Tensor) -> Tensor:
        """φ(x) as `phi` has it, with its gradient, and in the mode the network is in."""
        caught: list[Tensor] = []

        def catch(_module: nn.Module, _inputs: object, output: object) -> None:
            if not isinstance(output, Tensor) or output.ndim < 2 or len(output) != len(x):
                raise UserError(f"layer={self.layer!r} does not give a tensor with a row an image; choose another")
            caught.append(output)
            raise _Reached

        handle = self._module.register_forward_hook(catch)
        try:
            self.network(x)
        except _Reached:
            pass
        finally:
            handle.remove()
        if not caught:
            raise UserError(f"layer={self.layer!r} is not run by the network's forward pass; choose another layer")
        self._shape = caught[0].shape[1:]
        return caught[0].flatten(1)

    @torch.no_grad()
    def classify(self, r: Tensor) -> Tensor:
        """C(r): representations (B, D) to logits (B, K).

        Raises:
            UserError: if r has not the (B, D) of φ's last output; if the logits depend on the image other than through
                the layer (a skip connection passes it by), or the network's forward pass cannot be traced, so that its
                rest cannot be told from its beginning.
        """
        training = self.network.training
        self.network.eval()
        try:
            with full_float32(r.device):
                return self.resume(r)
        finally:
            self.network.train(training)

    def resume(self, r: Tensor) -> Tensor:
        """C(r) as `classify` has it, with its gradient, and in the mode the network is in."""
        if self._shape is None:
            raise UserError("classify needs the layer's shape: call phi on a batch of images first")
        wanted = self._shape.numel()
        if r.ndim != 2 or r.shape[1] != wanted:
            raise UserError(f"representations of shape {tuple(r.shape)}: classify takes (B, {wanted}), as phi gives")
        mode = self.network.training
        if mode not in self._rest:  # a functional dropout keeps the mode it was traced in
            self._rest[mode] = self._trace_rest()
        return self._rest[mode](r.reshape(-1, *self._shape).clone())  # the rest may begin with an in-place ReLU

    def _trace_rest(self) -> Callable[[Tensor], Tensor]:
        """The network behind the layer, as a graph whose only input is the layer's output."""
        try:
            graph = _ModuleTracer(self.layer).trace(self.network)
        except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError, AttributeError, KeyError) as error:
            raise UserError(
                f"the network's forward pass cannot be traced (torch.fx: {str(error).splitlines()[0]}), so C behind "
                f"layer={self.layer!r} is unknown; measure l2_distance alone with metrics=[l2_distance]"
            ) from error
        cuts = [node for node in graph.nodes if node.op == "call_module" and node.target == self.layer]
        if len(cuts) != 1:
            raise UserError(f"layer={self.layer!r} runs {len(cuts)} times in a forward pass; choose one that runs once")
        cut = cuts[0]
        with graph.inserting_after(cut):
            entry = graph.placeholder("representation")
        cut.replace_all_uses_with(entry)
        inputs = [node for node in graph.nodes if node.op == "placeholder" and node is not entry]
        for node in reversed(graph.nodes):
            if node.op not in ("placeholder", "output") and not node.users:
                graph.erase_node(node)
        if any(node.users for node in inputs):
            raise UserError(
                f"layer={self.layer!r} is passed by: the logits also depend on the image another way; choose a layer "
                "that everything goes through"
            )
        for node in inputs:
            graph.erase_node(node)
        # a GraphModule would keep the buffers of now, and miss the network's move to another device
        return fx.Interpreter(self.network, graph=graph).run
