"""What layers are, from a few images: how often they run, what they give, and why one cannot be measured."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from invariance.errors import UserError
from invariance.models.hooks import Seen, evaluating, forward, logits_in
from invariance.models.naming import Layer, submodules
from invariance.models.rest import near

PROBED = 4
"""Images that a network is tried on before anything is measured."""

_WITHOUT = "go without it: name layers, and list_layers(…, bypass=False)"


@dataclass(frozen=True)
class Finding:
    """What a few images showed of a layer.

    Attributes:
        layer: the layer.
        runs: how often its module runs in a forward pass.
        shape: of its output for one image; empty where it has none.
        overwritten: whether its output is changed in place later in the pass.
        why: why it cannot be measured; empty where it can.
    """

    layer: Layer
    runs: int
    shape: tuple[int, ...]
    overwritten: bool
    why: str

    @property
    def dim(self) -> int:
        """D, the size of its output flattened."""
        return torch.Size(self.shape).numel()


def few(x: Tensor) -> Tensor:
    """The first images of a batch; of a single one, it and itself again."""
    return x[:PROBED] if len(x) > 1 else torch.cat([x, x])


def probe(network: nn.Module, x: Tensor, layers: Sequence[Layer]) -> tuple[dict[Layer, Finding], Seen]:
    """What layers are on a few images (B, …), in evaluation mode.

    Four passes: twice the same, in another order, and with one image fewer.

    Returns:
        A finding a layer, in the order in which the layers answer, those that never do last; and the first pass.

    Raises:
        UserError: if the network does not take the images.
    """
    with evaluating(network, x.device):
        try:
            whole, again, turned, fewer = (
                forward(network, images, layers) for images in (x, x, x.roll(1, 0), x[: len(x) - 1])
            )
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            why = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise UserError(
                f"the network does not take a batch of shape {tuple(x.shape)} or one image fewer ({why[:200]}); give "
                "what its forward pass takes, preprocessed"
            ) from error
    ordered = [*whole.order, *(layer for layer in layers if layer not in whole.order)]
    return {layer: _finding(layer, (whole, again, turned, fewer), len(x)) for layer in ordered}, whole


def _finding(layer: Layer, passes: tuple[Seen, ...], rows: int) -> Finding:
    whole, runs = passes[0], passes[0].runs[layer]
    shape = tuple(whole.outputs[layer].shape) if layer in whole.outputs else ()
    why = _called(layer, runs) or whole.flaws.get(layer, "") or _not_rows(layer, passes, rows)
    return Finding(layer, runs, shape[1:], layer in whole.overwritten, why)


def _called(layer: Layer, runs: int) -> str:
    """Why a module's runs do not serve."""
    if runs == 0:
        return "is not run by the network's forward pass, or by fused code that passes its module by"
    if layer.run is None and runs > 1:
        base, bracket, keys = layer.name.partition("[")
        named = " to ".join(f"{base}#{k}{bracket}{keys}" for k in (1, runs))
        return f"runs {runs} times in a forward pass; say which, as {named}"
    if (layer.run or 1) > runs:
        return f"runs {runs} time{'s' * (runs > 1)} in a forward pass, so there is no run {layer.run}"
    return ""


def _not_rows(layer: Layer, passes: tuple[Seen, ...], rows: int) -> str:
    """Why a layer's output is not a row an image."""
    if any(layer not in seen.outputs for seen in passes):
        return "gives something else from call to call"
    whole, again, turned, fewer = (seen.outputs[layer] for seen in passes)
    told = f"does not give a row an image (of {rows} images {tuple(whole.shape)}, of {rows - 1} {tuple(fewer.shape)})"
    if whole.ndim < 2 or len(whole) != rows or fewer.shape != (rows - 1, *whole.shape[1:]) or not whole[0].numel():
        return told
    if not near(whole, again):
        return "gives other numbers for the same images from call to call: dropout or something else random is active"
    if not near(whole.roll(1, 0), turned) or not near(whole[:-1], fewer):
        return "gives numbers for an image that depend on the other images of the batch or on their order"
    return ""


def refuse(network: nn.Module, x: Tensor, finding: Finding) -> UserError:
    """The error of a layer that cannot be measured, with the nearest that can."""
    hint = near_miss(network, of_submodules(network, x), finding)
    return UserError(f"layer={finding.layer.name!r} {finding.why}{hint}")


def of_submodules(network: nn.Module, x: Tensor) -> list[Finding]:
    """What every submodule of a network is on a few images (B, …), in the order in which they answer."""
    layers = [Layer(name, name) for name in submodules(network)]
    findings, _ = probe(network, x, layers)
    return list(findings.values())


def near_miss(network: nn.Module, submodules_: Sequence[Finding], finding: Finding) -> str:
    """«; the nearest that can be measured is x» for a layer that cannot, or nothing where the reason says what to name.

    Args:
        network: the network.
        submodules_: of `of_submodules`.
        finding: of the layer.
    """
    order = [one.layer.name for one in submodules_ if one.runs]
    fit = [one.layer.name for one in submodules_ if not one.why]
    own = finding.layer.path
    line = order if own in order else list(submodules(network))  # what never runs has a place in the definition alone
    place = line.index(own) if own in line else len(line)
    # what answers next encloses the layer or comes behind it
    nearest = min(fit, key=lambda name: (abs(line.index(name) - place), line.index(name) < place), default=None)
    named = nearest is None or nearest == own or "; say which" in finding.why or "(name " in finding.why
    return "" if named else f"; the nearest that can be measured is {nearest}"


def passed_by(network: nn.Module, x: Tensor, layers: Sequence[Layer]) -> dict[Layer, float]:
    """How much of the logits goes past each layer: ‖f(x′ | L := φ(x)) − f(x)‖ / ‖f(x′) − f(x)‖.

    x′ is x in another order in which no image keeps its place.

    Raises:
        UserError: for fewer than two images, logits that are the same for all of them, or not finite.
    """
    if len(x) < 2:
        raise UserError(f"bypass needs at least 2 images, and got {len(x)}")
    other = x.roll(1, 0)
    with evaluating(network, x.device):
        seen = forward(network, x, layers)
        try:
            plain = logits_in(seen.answer).double()
        except LookupError as error:
            raise UserError(f"bypass: which logits the network gives is unknown ({error}); {_WITHOUT}") from error
        whole = float((logits_in(forward(network, other).answer).double() - plain).norm())
        if not 0 < whole < torch.inf:
            raise UserError(
                f"bypass: the logits are the same for all images, or not finite; give other images, or {_WITHOUT}"
            )
        put = {layer: forward(network, other, put={layer: value}).answer for layer, value in seen.outputs.items()}
    return {layer: float((logits_in(answer).double() - plain).norm()) / whole for layer, answer in put.items()}


def constant(answer: object) -> bool:
    """Whether a network's logits are the same for all images, though these may differ."""
    logits = logits_in(answer)
    return not logits.is_meta and len(logits) > 1 and bool((logits == logits[:1]).all())
