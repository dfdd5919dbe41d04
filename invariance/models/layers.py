"""Which layers a network has, what each gives, and which of them to measure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from invariance.errors import UserError, nearest, shown
from invariance.models.cut import Cut
from invariance.models.hooks import Seen, evaluating, forward, original
from invariance.models.layout import Layout
from invariance.models.model import Model
from invariance.models.naming import LOGITS, Layer, bracketed, is_layer, submodules, tensors_in
from invariance.models.probe import Finding, few, near_miss, of_submodules, passed_by, probe
from invariance.models.readout import AUTO, Flatten, automatic, read_readout, readout_for, readouts_by_layer
from invariance.settings.fields import native

COLUMNS = ("layer", "runs", "shape", "layout", "overwritten", "readout", "dim", "bypass", "why")

TRUE_CUT = 1e-4
"""The largest bypass of a layer that everything goes through."""


def list_layers(
    network: nn.Module | Model,
    images: Tensor | np.ndarray | None = None,
    pattern: str | Sequence[str] | None = None,
    *,
    readout: str = AUTO,
    bypass: bool = True,
) -> pd.DataFrame:
    """The layers of a network in the order in which they answer, a row each.

    Columns: `layer`, its name as `Cut` takes it; `runs` of its module in a forward pass; `shape` of its output for one
    image; `layout`, what its dimensions mean; `overwritten`, whether its output is changed in place later; `readout`,
    and `dim`, D after it; `bypass`, how much of the logits goes past it (0 at a true cut); `why` it cannot be measured,
    and the nearest that can.

    Args:
        network: a module, or a model.
        images: a few of them: for a model (N, C, H, W) in [0, 255], for a module what its forward pass takes. None, for
            a model that states its size: noise.
        pattern: names or patterns, as "layer4.*"; None: all.
        readout: how activations become vectors, as `read_readout` has it; auto: flatten where D ≤ 4096, else the mean
            over positions where there are any.
        bypass: whether to compute it, at a forward pass a layer.

    Raises:
        UserError: if the images do not serve, or nothing matches the pattern.
    """
    module, x = _input(network, images)
    listed = _Listed(module, few(x), pattern, bypass)
    if readout != AUTO:
        read_readout(readout)  # a name that is none is told at once
    rows = []
    for one in listed.findings:
        layout = Layout.of(one.shape, tuple(x.shape[2:]), module) if one.shape else None
        name, dim, why = _read(layout, readout)
        rows.append(
            (
                one.layer.name,
                one.runs,
                one.shape or None,
                "" if layout is None else str(layout),
                one.overwritten,
                name,
                dim,
                listed.bypass.get(one.layer, math.nan),
                listed.why(one) or why,
            )
        )
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype({"dim": "Int64"})


def _read(layout: Layout | None, readout: str) -> tuple[str, int | None, str]:
    """A layer's readout and D as a listing has them, and why it cannot be read so."""
    if layout is None:
        return "", None, ""
    chosen = automatic(layout) or Flatten() if readout == AUTO else read_readout(readout)
    if flaw := chosen.flaw(layout):
        return "", None, f"has no readout={chosen.name}: {flaw}"
    return chosen.name, chosen.dim(layout), ""


def choose_readouts(
    network: nn.Module | Model,
    layers: Sequence[str],
    readout: str | Mapping[str, str] = AUTO,
    images: Tensor | np.ndarray | None = None,
    *,
    fitted: bool = False,
) -> dict[str, str]:
    """The name of the readout of each layer.

    Args:
        network: a module, or a model.
        layers: names of layers.
        readout: a readout's name for all, or names by layers' names and patterns; auto: flatten where D ≤ 4096 or
            nothing is fitted, else the mean over positions.
        images: as `list_layers` takes them.
        fitted: whether maps are fitted to what the layers give.

    Raises:
        UserError: for a layer that cannot be measured, or read so, or that gives more features than a map is fitted to;
            naming the readouts that do.
    """
    named = readouts_by_layer(layers, readout)
    module, x = _input(network, images)
    cut = Cut(module, layers)
    cut.look(few(x))
    return {layer: readout_for(layer, cut.reading(layer).layout, name, fitted) for layer, name in named.items()}


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
    if isinstance(layers, str) and layers == "auto":
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
        self._x = x
        fit = [one.layer for one in self.findings if not one.why]
        self.bypass = passed_by(network, x, fit) if bypass and fit else {}

    def why(self, finding: Finding) -> str:
        """Why a layer cannot be measured, and the nearest that can; empty where it can."""
        return finding.why and finding.why + near_miss(self.network, self._submodules, finding)

    @cached_property
    def _submodules(self) -> list[Finding]:
        return of_submodules(self.network, self._x)

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
