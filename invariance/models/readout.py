"""Readouts ρ: a layer's activation as a vector of D features, and a vector put back into the activation.

`flatten` takes all of it; `mean` each channel's mean over positions or patch tokens; `cls` and `token:k` one token;
`project:k` a fixed Gaussian projection to k numbers. All but the last have a lift: given the activation that the layer
has for gx and a vector r̂, it gives the activation that has r̂ in its place.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from invariance.errors import UserError, nearest
from invariance.models.layout import Kind, Layout
from invariance.transforms.counter import fixed_seed, normal

LARGEST = 4096
"""D of a representation that maps are fitted to at most."""

AUTO = "auto"
"""Stands for the readout that is chosen for each layer."""

_ENTRIES = 2**20
"""Numbers of the projection's matrix that are drawn at a time."""

_HELD = 2**26
"""Numbers of the projection's matrix up to which it is kept; a larger one is drawn anew for every batch."""


class Readout(ABC):
    """A readout; what it makes of a layer depends on the layer's layout.

    Attributes:
        name: as it is written.
        lifts: whether a vector can be put back, and so whether there is accuracy behind it.
    """

    name: str
    lifts: bool = True

    @abstractmethod
    def flaw(self, layout: Layout) -> str:
        """Why a layer of this layout cannot be read so; empty where it can."""

    @abstractmethod
    def dim(self, layout: Layout) -> int:
        """D."""

    @abstractmethod
    def read(self, value: Tensor, layout: Layout) -> Tensor:
        """ρ: an activation (B, …) to (B, D)."""

    @abstractmethod
    def lift(self, r: Tensor, own: Tensor, layout: Layout) -> Tensor:
        """The activation (B, …) with r (B, D) in its place; `own`, the layer's for gx, stays as it is."""


class Flatten(Readout):
    """The whole activation; its lift is r itself, in the activation's shape."""

    name = "flatten"

    def flaw(self, layout: Layout) -> str:
        """See `Readout`: there is none."""
        return ""

    def dim(self, layout: Layout) -> int:
        """See `Readout`."""
        return layout.dim

    def read(self, value: Tensor, layout: Layout) -> Tensor:
        """See `Readout`."""
        return value.flatten(1)

    def lift(self, r: Tensor, own: Tensor, layout: Layout) -> Tensor:
        """See `Readout`."""
        return r.reshape(own.shape)


class Mean(Readout):
    """Each channel's mean over positions, or over the tokens of patches.

    Its lift adds r̂ − p at every position, p the mean of gx's own activation: its mean is then r̂, and what varies over
    positions stays that of gx. Tokens before the patches stay as they are.

    Args:
        kind: the layout, where it is not to be guessed: channels_first, channels_last or tokens.
        prefix: of tokens, how many stand before the patches.
    """

    def __init__(self, kind: Kind | None = None, prefix: int = 0) -> None:
        self._kind, self._prefix = kind, prefix
        behind = [] if kind is None else [kind, *([str(prefix)] if prefix else [])]
        self.name = ":".join(["mean", *behind])

    def flaw(self, layout: Layout) -> str:
        """See `Readout`."""
        told = self._told(layout)
        if len(layout.shape) == 1:
            return "it has no positions"
        if told.kind == "unknown":
            return "which of its dimensions are positions is unknown: say mean:channels_first or mean:channels_last"
        if told.kind == "tokens" and len(layout.shape) != 2:
            return "it has no tokens"
        return "" if told.kind != "tokens" or told.prefix < layout.shape[0] else f"it has {layout.shape[0]} tokens"

    def dim(self, layout: Layout) -> int:
        """See `Readout`."""
        return self._told(layout).channels

    def read(self, value: Tensor, layout: Layout) -> Tensor:
        """See `Readout`."""
        told = self._told(layout)
        return told.patches(value).mean(told.positions)

    def lift(self, r: Tensor, own: Tensor, layout: Layout) -> Tensor:
        """See `Readout`."""
        told = self._told(layout)
        # a clone, as what was read: it may lie in memory otherwise, and its mean would be rounded otherwise
        step = r - self.read(own.clone(), layout).to(r.dtype)
        lifted = own.to(torch.promote_types(own.dtype, r.dtype), copy=True)
        told.patches(lifted).add_(told.over_positions(step))
        return lifted

    def _told(self, layout: Layout) -> Layout:
        """The layout as the user says it is."""
        return layout if self._kind is None else Layout(self._kind, layout.shape, self._prefix)


class Token(Readout):
    """One token, put back where it stood.

    Args:
        place: which, from 0.
        name: `token:k`, or `cls` for the class token, which is token 0.
    """

    def __init__(self, place: int, name: str) -> None:
        self._place, self.name = place, name

    def flaw(self, layout: Layout) -> str:
        """See `Readout`."""
        if layout.kind != "tokens":
            return "it has no tokens"
        if self.name == "cls" and not layout.prefix:
            return "no token stands before those of its patches: token:0 takes the first of them"
        return "" if self._place < layout.shape[0] else f"its tokens are token:0 to token:{layout.shape[0] - 1}"

    def dim(self, layout: Layout) -> int:
        """See `Readout`."""
        return layout.shape[-1]

    def read(self, value: Tensor, layout: Layout) -> Tensor:
        """See `Readout`."""
        return value[:, self._place]

    def lift(self, r: Tensor, own: Tensor, layout: Layout) -> Tensor:
        """See `Readout`."""
        lifted = own.to(torch.promote_types(own.dtype, r.dtype), copy=True)
        lifted[:, self._place] = r
        return lifted


class Project(Readout):
    """A fixed projection of the flattened activation to k numbers: P a, with entries of P from N(0, 1/k).

    P depends on k and the size of the activation alone, and is the same on every device but for rounding. It is drawn
    and applied piece by piece, so that it never has to fit into memory. There is no way back from k numbers.

    Args:
        k: D.
    """

    lifts = False

    def __init__(self, k: int) -> None:
        self._k, self.name = k, f"project:{k}"
        self._pieces: tuple[tuple[int, torch.device], list[Tensor]] | None = None

    def flaw(self, layout: Layout) -> str:
        """See `Readout`."""
        return "" if self._k <= layout.dim else f"it has {layout.dim} numbers, which flatten takes"

    def dim(self, layout: Layout) -> int:
        """See `Readout`."""
        return self._k

    def read(self, value: Tensor, layout: Layout) -> Tensor:
        """See `Readout`."""
        flat = value.flatten(1)
        kind = torch.promote_types(value.dtype, torch.float32)
        total, start = flat.new_zeros(len(flat), self._k, dtype=kind), 0
        for piece in self._matrix(flat.shape[1], value.device):
            total = total + flat[:, start : start + len(piece)].to(kind) @ piece.to(kind)
            start += len(piece)
        return total

    def lift(self, r: Tensor, own: Tensor, layout: Layout) -> Tensor:
        """There is none.

        Raises:
            UserError: always.
        """
        raise UserError(f"readout={self.name} cannot be put back into the layer; choose mean, or flatten")

    def _matrix(self, size: int, device: torch.device) -> Iterator[Tensor]:
        """Pᵀ (size, k) in pieces of rows."""
        if self._pieces is not None and self._pieces[0] == (size, device):
            yield from self._pieces[1]
            return
        pieces, rows = [], max(1, _ENTRIES // self._k)
        for number, start in enumerate(range(0, size, rows)):
            seed = torch.tensor([fixed_seed("projection", self._k, number)])
            piece = normal(seed, (min(rows, size - start), self._k), device)[0].mul_(1 / math.sqrt(self._k))
            if size * self._k <= _HELD:
                pieces.append(piece)
            yield piece
        if pieces:
            self._pieces = ((size, device), pieces)


def read_readout(name: object) -> Readout:
    """A readout from its name: flatten, mean, mean:channels_last, mean:tokens:2, cls, token:3, project:256.

    Args:
        name: the name. Behind `mean` may stand the layout, where the one that is found is wrong: channels_first,
            channels_last, or tokens:p with p tokens before those of the patches.

    Raises:
        UserError: for a name that is none.
    """
    word, *behind = name.split(":") if isinstance(name, str) else [""]
    match word, behind:
        case "flatten", []:
            return Flatten()
        case "cls", []:
            return Token(0, "cls")
        case "token", [place]:
            return Token(_whole(place, name, 0, 10**6), f"token:{int(place)}")
        case "project", [k]:
            return Project(_whole(k, name, 1, LARGEST))
        case "mean", []:
            return Mean()
        case "mean", ["channels_first" | "channels_last" | "tokens" as kind]:
            return Mean(kind)
        case "mean", ["tokens", prefix]:
            return Mean("tokens", _whole(prefix, name, 0, 10**6))
        case "auto", []:
            raise UserError("readout='auto' is chosen by measure_model and list_layers; name one here, as 'flatten'")
    there = "flatten, mean, mean:channels_first, mean:channels_last, mean:tokens:p, cls, token:k, project:k"
    hint = nearest(word, ("flatten", "mean", "cls", "token", "project")) if not behind else ""
    raise UserError(f"readout={name!r} is none{hint} (there are {there}; auto chooses)")


def readouts_by_layer(layers: Sequence[str], given: str | Mapping[str, str], rest: str = AUTO) -> dict[str, str]:
    """The name of each layer's readout, of what a user gives: one for all, or a mapping.

    Args:
        layers: names of layers.
        given: a readout's name, or names by layers' names and patterns; a name goes before a pattern.
        rest: of the layers that a mapping does not name.

    Raises:
        UserError: for a name that is none, a key that is none of the layers, or patterns that disagree.
    """
    if isinstance(given, str):
        return dict.fromkeys(layers, _checked(given))
    if not isinstance(given, Mapping):
        raise UserError(f"readout={given!r}: give a readout's name, or a mapping of layers to names")
    asked = dict[Any, Any](given)  # whatever a user put there
    for key, name in asked.items():
        if isinstance(name, list | tuple):
            raise UserError(f"readout of {key!r}: {name!r} are several, and a layer has one; measure once for each")
        _checked(name)
        if not any(layer == key or fnmatchcase(layer, str(key)) for layer in layers):
            raise UserError(f"readout: {key!r} is none of the layers{nearest(str(key), layers)}")
    chosen = {}
    for layer in layers:
        found = {name for key, name in given.items() if fnmatchcase(layer, str(key))}
        names = [given[layer]] if layer in given else sorted(found) or [rest]
        if len(names) > 1:
            raise UserError(f"readout: {layer!r} is to be read by {' and by '.join(names)}; name the layer itself")
        chosen[layer] = names[0]
    return chosen


def readout_for(layer: str, layout: Layout, given: str = AUTO, fitted: bool = True) -> str:
    """The name of the readout of a layer, which is looked at.

    Args:
        layer: the layer's name.
        layout: what it gives.
        given: a name, or auto: flatten where D ≤ 4096 or nothing is fitted, else mean.
        fitted: whether maps are fitted to what it gives.

    Raises:
        UserError: if the readout does not fit the layer, or gives more features than a map is fitted to; naming those
            that do.
    """
    readout = (fitted and automatic(layout)) or Flatten() if given == AUTO else read_readout(given)
    require_fit(layer, readout, layout)
    if fitted and (dim := readout.dim(layout)) > LARGEST:
        raise UserError(
            f"layer={layer!r} {layout} gives {dim} features by readout={readout.name}, and maps are fitted to at most "
            f"{LARGEST}; {_instead(layout)}"
        )
    return readout.name


def automatic(layout: Layout) -> Readout | None:
    """The readout of a layer whose features maps are fitted to: flatten where D ≤ 4096, else mean; None: neither is."""
    several: tuple[Readout, ...] = (Flatten(), Mean())
    return next((one for one in several if not one.flaw(layout) and one.dim(layout) <= LARGEST), None)


def require_fit(layer: str, readout: Readout, layout: Layout) -> None:
    """Refuse a readout that does not fit a layer.

    Raises:
        UserError: naming those that do.
    """
    if flaw := readout.flaw(layout):
        raise UserError(f"layer={layer!r} {layout} has no readout={readout.name}: {flaw}; {_instead(layout)}")


def _instead(layout: Layout) -> str:
    """The readouts of a layer that maps can be fitted to."""
    means = [Mean()] if layout.kind != "unknown" else [Mean("channels_first"), Mean("channels_last")]
    several: list[Readout] = [Flatten(), *means, Token(0, "cls")]
    fit = [one.name for one in several if not one.flaw(layout) and one.dim(layout) <= LARGEST]
    if layout.kind == "tokens" and layout.shape[-1] <= LARGEST:
        fit.append(f"token:0 to token:{layout.shape[0] - 1}")
    if layout.dim > 1:
        fit.append(f"project:{min(256, layout.dim)}, which has no accuracy")
    return f"choose {' or '.join(fit)}"


def _checked(name: object) -> str:
    """The name of a readout as it is written in rows."""
    return AUTO if name == AUTO else read_readout(name).name


def _whole(text: str, name: object, least: int, most: int) -> int:
    """A whole number in a readout's name."""
    if not text.isdecimal() or not text.isascii() or len(text) > 9 or not least <= int(text) <= most:
        raise UserError(f"readout={name!r}: give a whole number from {least} to {most} behind the colon")
    return int(text)
