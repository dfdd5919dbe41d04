"""Which layers a network has, what each gives, and which of them to measure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from invariance.errors import UserError, nearest, shown
from invariance.models.hooks import Seen, evaluating, forward, original
from invariance.models.model import Model
from invariance.models.naming import LOGITS, Layer, bracketed, is_layer, submodules, tensors_in
from invariance.models.probe import Finding, few, passed_by, probe
from invariance.settings.fields import native

COLUMNS = ("layer", "runs", "shape", "layout", "overwritten", "dim", "bypass", "why")

TRUE_CUT = 1e-4
"""The largest bypass of a layer that everything goes through."""

_PREFIXES = (0, 1, 2, 5)
"""How many tokens stand before those of the patches, in the networks that there are."""


def list_layers(
    network: nn.Module | Model,
    images: Tensor | np.ndarray | None = None,
    pattern: str | Sequence[str] | None = None,
    *,
    bypass: bool = True,
) -> pd.DataFrame:
    """The layers of a network in the order in which they answer, a row each.

    Columns: `layer`, its name as `Cut` takes it; `runs` of its module in a forward pass; `shape` of its output for one
    image; `layout`, what its dimensions mean; `overwritten`, whether its output is changed in place later; `dim`, D
    flattened; `bypass`, how much of the logits goes past it (0 at a true cut); `why` it cannot be measured.

    Args:
        network: a module, or a model.
        images: a few of them: for a model (N, C, H, W) in [0, 255], for a module what its forward pass takes. None, for
            a model that states its size: noise.
        pattern: names or patterns, as "layer4.*"; None: all.
        bypass: whether to compute it, at a forward pass a layer.

    Raises:
        UserError: if the images do not serve, or nothing matches the pattern.
    """
    module, x = _input(network, images)
    listed = _Listed(module, few(x), pattern, bypass)
    rows = [
        (
            one.layer.name,
            one.runs,
            one.shape or None,
            layout_of(one.shape, tuple(x.shape[2:]), module) if one.shape else "",
            one.overwritten,
            one.dim if one.shape else None,
            listed.bypass.get(one.layer, math.nan),
            one.why,
        )
        for one in listed.findings
    ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype({"dim": "Int64"})


def choose_layers(
    network: nn.Module | Model, layers: str | Sequence[str], images: Tensor | np.ndarray | None = None
) -> list[str]:
    """Names of the layers to measure, in the order in which they answer where patterns name them.

    Args:
        network: a module, or a model.
        layers: "auto", the true cuts at the ends of blocks; "*", all that can be measured; or names and patterns.
        images: as `list_layers` takes them.

    Raises:
        UserError: if a pattern matches no layer, or none that can be measured.
    """
    module, x = _input(network, images)
    if layers == "auto":
        return _block_ends(module, few(x))
    wanted = _patterns(layers)
    known = submodules(module)
    if all(is_layer(name, known) for name in wanted):
        return list(dict.fromkeys(wanted))  # what cannot be measured is refused by its name
    listed, chosen = _Listed(module, few(x), None, bypass=False), []
    for one in wanted:
        there = [finding for finding in listed.findings if _matches(finding.layer.name, [one])]
        if not there:
            raise UserError(f"layers: {one!r} matches no layer{nearest(one, known)}")
        fit = [finding.layer.name for finding in there if not finding.why]
        if not fit:
            raise UserError(f"layers: of {one!r} none can be measured; {there[0].layer.name} {there[0].why}")
        chosen += fit
    order = [finding.layer.name for finding in listed.findings]
    return sorted(dict.fromkeys(chosen), key=order.index)


def layout_of(shape: tuple[int, ...], input_sides: tuple[int, ...], network: nn.Module | None = None) -> str:
    """What the dimensions of a layer's output mean, as "(B, C, H, W)", "(B, H, W, C)" or "(B, 1 + T, C)".

    Args:
        shape: of the output for one image.
        input_sides: (H, W) of the images.
        network: asked how many tokens stand before the patches, where it tells (`num_prefix_tokens`).
    """
    if len(shape) == 1:
        return "(B, C)"
    if len(shape) == 2:
        prefix = _prefix(shape[0], input_sides, network)
        return "(B, T, C)" if prefix is None else f"(B, {prefix} + T, C)" if prefix else "(B, T, C)"
    if len(shape) != 3:
        return f"(B, {', '.join('?' * len(shape))})"
    first, last = (_is_map(sides, input_sides) for sides in (shape[:2], shape[1:]))
    return "(B, H, W, C)" if first and not last else "(B, C, H, W)"


def _is_map(sides: tuple[int, ...], input_sides: tuple[int, ...]) -> bool:
    """Whether two sides are in the images' proportion, to one position."""
    if len(input_sides) != 2 or sides[0] > input_sides[0] or sides[1] > input_sides[1]:
        return False
    return abs(sides[0] * input_sides[1] - sides[1] * input_sides[0]) <= max(input_sides)


def _prefix(tokens: int, input_sides: tuple[int, ...], network: nn.Module | None) -> int | None:
    """Tokens before those of the patches; None where the rest is no grid of patches."""
    told = getattr(network, "num_prefix_tokens", None)
    if isinstance(told, int) and 0 <= told < tokens:
        return told
    for prefix in _PREFIXES:
        side = math.isqrt(max(tokens - prefix, 0))
        if side and side * side == tokens - prefix and all(one % side == 0 for one in input_sides):
            return prefix
    return None


@dataclass
class _Called:
    """What a forward pass shows of every module: the elements that each of its runs gives, and the order of runs."""

    order: list[tuple[str, int]] = field(default_factory=list)
    keys: dict[tuple[str, int], list[tuple[str, ...]]] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)


class _Listed:
    """Findings of a network's layers, and how much goes past them."""

    def __init__(self, network: nn.Module, x: Tensor, pattern: str | Sequence[str] | None, bypass: bool) -> None:
        self.network, self.called = network, _call(network, x)
        patterns = None if pattern is None else _patterns(pattern)
        layers = [one for one in self._layers() if patterns is None or _matches(one.name, patterns)]
        if not layers:
            known = list(submodules(network))
            raise UserError(f"no layer matches {pattern!r}{nearest(str(pattern), known)}")
        findings, self.seen = probe(network, x, layers)
        self.findings: list[Finding] = list(findings.values())
        fit = [one.layer for one in self.findings if not one.why]
        self.bypass = passed_by(network, x, fit) if bypass and fit else {}

    def _layers(self) -> list[Layer]:
        """Every submodule, run by run and element by element, those that never run included; then the logits."""
        layers = []
        for name, _ in self.network.named_modules():
            runs = self.called.runs.get(name, 0)
            if not name:
                continue
            for run in range(1, max(runs, 1) + 1):
                base, which = (f"{name}#{run}", run) if runs > 1 else (name, None)
                elements = self.called.keys.get((name, run)) or [()]
                layers += [Layer(base + bracketed(keys), name, which, keys) for keys in elements]
        logits = [] if LOGITS in submodules(self.network) else [Layer(LOGITS, "")]
        return layers + logits


def _call(network: nn.Module, x: Tensor) -> _Called:
    """One forward pass, every module of it watched."""
    called, names = _Called(), {module: name for name, module in network.named_modules()}

    def answered(module: nn.Module, _inputs: object, output: object) -> None:
        """Note a run of a module."""
        name = names[module]
        run = called.runs[name] = called.runs.get(name, 0) + 1
        called.order.append((name, run))
        called.keys[name, run] = list(tensors_in(output))

    handles = [module.register_forward_hook(answered) for module in names]
    try:
        with evaluating(network, x.device):
            forward(network, x)
    except (RuntimeError, ValueError, TypeError, IndexError):
        pass  # `probe` tells of it
    finally:
        for handle in handles:
            handle.remove()
    return called


def _block_ends(network: nn.Module, x: Tensor) -> list[str]:
    """The last true cut before each run of a module with a matrix of weights; of equal ones the outermost.

    Raises:
        UserError: if the network has no true cut.
    """
    listed, weighted = _Listed(network, x, None, bypass=True), _weighted(network)
    chosen: list[Finding] = []
    closed = True
    for finding in listed.findings:
        cut = listed.bypass.get(finding.layer, math.inf) <= TRUE_CUT
        closed |= finding.layer.path in weighted
        if not cut:
            continue
        if chosen and _same(listed.seen, chosen[-1], finding):
            if finding.layer.name.count(".") < chosen[-1].layer.name.count("."):
                chosen[-1] = finding
            continue
        if not closed:
            chosen.pop()
        chosen.append(finding)
        closed = False
    if not chosen:
        raise UserError(
            "layers=auto: the network has no layer that everything goes through; name layers, or layers='*'"
        )
    return [finding.layer.name for finding in chosen]


def _weighted(network: nn.Module) -> set[str]:
    """The submodules of which they themselves, and none inside them, hold a matrix."""
    holders = {name.rpartition(".")[0] for name, one in network.named_parameters() if one.ndim > 1}
    return {name for name in holders if not any(other.startswith(f"{name}.") for other in holders)} - {""}


def _same(seen: Seen, a: Finding, b: Finding) -> bool:
    one, other = seen.outputs[a.layer].flatten(1), seen.outputs[b.layer].flatten(1)
    return one.shape == other.shape and torch.equal(one, other)


def _patterns(given: object) -> list[str]:
    """Names or patterns of layers as a list."""
    wanted = [given] if isinstance(given, str) else native(given)
    if not isinstance(wanted, list | tuple) or not wanted or not all(isinstance(name, str) for name in wanted):
        raise UserError(f"layers={shown(given)}: give names or patterns of layers, as ['layer4.*']")
    return list(wanted)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(name == one or fnmatchcase(name, one) for one in patterns)


def _input(network: nn.Module | Model, images: Any) -> tuple[nn.Module, Tensor]:  # noqa: ANN401
    """The module, and a few images as it takes them."""
    if not isinstance(network, nn.Module | Model):
        raise UserError(f"list_layers: a {type(network).__name__} is no network; give a torch module or a model")
    if images is None:
        images = _noise(network)
    try:
        x = torch.as_tensor(images)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"images={shown(images)}: give a few as an array or a tensor (N, C, H, W)") from error
    if x.ndim < 2 or not len(x):
        raise UserError(f"images of shape {tuple(x.shape)} are no batch (B, …); give a row an image")
    x = x[: len(few(x))]
    return (network.module, network.prepare(x)) if isinstance(network, Model) else (original(network), x)


def _noise(network: nn.Module | Model) -> Tensor:
    if not isinstance(network, Model) or network.size is None:
        raise UserError("list_layers: give a few images, for the network does not say which size it takes")
    first = next((one for one in network.module.modules() if isinstance(one, nn.Conv2d)), None)
    channels = 3 if first is None else first.in_channels
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (4, channels, network.size, network.size), generator=generator).float()
