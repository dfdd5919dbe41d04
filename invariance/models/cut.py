"""φ at many layers of any network in one pass, and C behind any of them by replacing what the layer gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

import torch
from torch import Tensor, nn

from invariance.errors import UserError
from invariance.models.hooks import Seen, evaluating, forward, laid, logits_in, original
from invariance.models.naming import Layer, read_layer, submodules
from invariance.models.probe import constant, few, passed_by, probe, refuse
from invariance.models.rest import Inseparable, equal, rest_of

_Rest = Callable[[Tensor], Any]


@dataclass(frozen=True)
class _Form:
    """How a layer's output for one image is shaped, lies in memory and is typed."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, layer: Layer, seen: Seen) -> Self:
        value = seen.outputs[layer]
        return cls(tuple(value.shape[1:]), seen.strides[layer], value.dtype)

    @property
    def dim(self) -> int:
        return torch.Size(self.shape).numel()

    def lifted(self, r: Tensor) -> Tensor:
        """Representations (B, D) as the layer would have given them: a clone, for what follows may change it."""
        return laid(r.reshape(-1, *self.shape), self.strides, self.dtype)


class Cut:
    """A network cut at layers: φ at all of them from one pass, and C behind each.

    C behind a layer L is the network itself with what L gives replaced: C(r; gx) = f(gx | L := r). So it exists at
    every layer, the identity gives exactly f(gx), and where the logits depend on the image past L (a skip connection),
    that is of gx, never of x. Where everything goes through L (`apart`), C needs no image.

    Everything runs in evaluation mode without gradients and in full float32, on the network's device; its training mode
    is left as it was. The first images are looked at first: four passes over a few of them tell whether the layers can
    be measured. A layer is a submodule's dotted name; `name#k` is the k-th run of one that runs several times,
    `name[0]` and `name[key]` an element of what it gives, and `logits` what the whole network gives.

    Args:
        network: any module from images (B, …) to logits (B, K), a mapping or an object with `logits`, or something with
            one floating tensor in it.
        layers: names of layers.

    Raises:
        UserError: if there is no such layer.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
        >>> cut = Cut(network, ["1", "2"])
        >>> x = torch.rand(4, 3, 2, 2)
        >>> r = cut.phi(x)["2"]
        >>> r.shape, cut.apart("2"), torch.equal(cut.classify("2", r), network(x))
        (torch.Size([4, 5]), True, True)
    """

    def __init__(self, network: nn.Module, layers: Sequence[str]) -> None:
        network = original(network)
        known = submodules(network)
        if isinstance(layers, str) or not layers:
            raise UserError(f"layers={layers!r}: give a list of names of layers")
        self.network = network
        self.layers = tuple(dict.fromkeys(layers))
        self._layer = {name: read_layer(name, known) for name in self.layers}
        self._forms: dict[str, _Form] = {}
        self._rests: dict[tuple[str, bool], _Rest | str] = {}
        self._few: Tensor | None = None
        self._answer: Any = None

    @property
    def device(self) -> torch.device | None:
        """Where the network is; None for one without weights."""
        first = next(chain(self.network.parameters(), self.network.buffers()), None)
        return None if first is None else first.device

    def shape(self, layer: str) -> tuple[int, ...]:
        """What the layer gave for one image in the last pass: (C, H, W), (T, C) and so on.

        Raises:
            UserError: if `phi` was never called.
        """
        self._known(layer)
        return self._forms[layer].shape

    def phi(self, x: Tensor) -> dict[str, Tensor]:
        """φ(x) at every layer: images (B, …), as the network takes them, to (B, D) each, from one pass.

        Raises:
            UserError: if a layer cannot be measured: it is not run, runs several times, gives no tensor, or no row an
                image; naming the nearest that can.
        """
        self.look(x)
        with evaluating(self.network, x.device):
            return self.reach(x)

    def look(self, x: Tensor) -> None:
        """See on the first images whether the layers can be measured; later images are not looked at.

        Raises:
            UserError: as `phi`.
        """
        self._check(x)
        if self._few is not None and (self._few.device, self._few.dtype) == (x.device, x.dtype):
            return
        images = few(x)
        findings, seen = probe(self.network, images, list(self._layer.values()))
        for finding in findings.values():
            if finding.why:
                raise refuse(self.network, images, finding)
        self._few, self._answer = images, seen.answer
        self._forms = {name: _Form.of(layer, seen) for name, layer in self._layer.items()}

    def logits(self, x: Tensor) -> Tensor:
        """f(x): images (B, …) to logits (B, K).

        Raises:
            UserError: if the network gives no logits, or the same for all of the first images.
        """
        self.look(x)
        self._require_logits()
        with evaluating(self.network, x.device):
            return self._logits(forward(self.network, x).answer, len(x))

    def classify(self, layer: str, r: Tensor, x: Tensor | None = None) -> Tensor:
        """C(r; gx) behind a layer: representations (B, D) to logits (B, K).

        Args:
            layer: the layer.
            r: what takes the place of φ(gx), in the order of the images.
            x: the network's input for gx; it may be left out where `apart` says so.

        Raises:
            UserError: if `phi` was never called, r or x have not the shape or the device, or x is needed and not there.
        """
        self._known(layer)
        with evaluating(self.network, r.device):
            return self.resume(layer, r, x)

    def reach(self, x: Tensor) -> dict[str, Tensor]:
        """φ(x) as `phi` has it, with its gradient, and in the mode the network is in.

        Raises:
            UserError: as `phi`.
        """
        self.look(x)
        seen = forward(self.network, x, list(self._layer.values()), stop=True)
        return {name: self._row(name, seen, len(x)).flatten(1) for name in self.layers}

    def resume(self, layer: str, r: Tensor, x: Tensor | None = None) -> Tensor:
        """C(r; gx) as `classify` has it, with its gradient, and in the mode the network is in.

        Raises:
            UserError: as `classify`.
        """
        self._check_rows(layer, r)
        rest = self._rest(layer)
        if not isinstance(rest, str):
            return self._logits(rest(self._forms[layer].lifted(r)), len(r))
        if x is None:
            raise UserError(
                f"classify at layer={layer!r} needs the images: {rest}; give classify(layer, r, x) the x that φ(gx) "
                "is of"
            )
        self._check(x)
        if len(x) != len(r):
            raise UserError(f"classify at layer={layer!r} got {len(r)} representations and {len(x)} images")
        return self._logits(forward(self.network, x, put={self._layer[layer]: r}).answer, len(r))

    def apart(self, layer: str) -> bool:
        """Whether C behind the layer runs without images: everything goes through it, and the rest can be traced.

        The traced rest has to give what replacing gives on the first images, to the bit.

        Raises:
            UserError: if `phi` was never called.
        """
        self._known(layer)
        assert self._few is not None
        with evaluating(self.network, self._few.device):
            return self.alone(layer)

    def alone(self, layer: str) -> bool:
        """Whether `resume` runs without images, as `apart` has it, in the mode the network is in.

        Raises:
            UserError: if `phi` was never called.
        """
        self._known(layer)
        return not isinstance(self._rest(layer), str)

    def bypass(self, layer: str, x: Tensor) -> float:
        """How much of the logits goes past a layer: ‖f(x′ | L := φ(x)) − f(x)‖ / ‖f(x′) − f(x)‖.

        x′ is x in another order in which no image keeps its place; 0 (at most 1e-4, by rounding) at a true cut.

        Raises:
            UserError: for fewer than two images, or logits that are constant or not finite.
        """
        self.look(x)
        self._known(layer)
        self._require_logits()
        own = self._layer[layer]
        return passed_by(self.network, x, [own])[own]

    def _check(self, x: Tensor) -> None:
        """Refuse what is no batch of images on the network's device."""
        if not isinstance(x, Tensor) or x.ndim < 2 or not len(x):
            got = f"a tensor of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise UserError(f"images: {got} is no batch (B, …); give a tensor with a row an image")
        if (own := self.device) is not None and own != x.device:
            raise UserError(f"images are on {x.device} and the network is on {own}; move one, as x.to({str(own)!r})")

    def _known(self, layer: str) -> None:
        if layer not in self._layer:
            raise UserError(f"layer={layer!r} is not one of this cut; it has: {', '.join(self.layers)}")
        if self._few is None:
            raise UserError(f"layer={layer!r} is not known yet: call phi on a batch of images first")

    def _check_rows(self, layer: str, r: Tensor) -> None:
        self._known(layer)
        wanted = self._forms[layer].dim
        if r.ndim != 2 or r.shape[1] != wanted:
            raise UserError(f"representations of shape {tuple(r.shape)}: classify takes (B, {wanted}), as phi gives")
        if (own := self.device) is not None and own != r.device:
            raise UserError(f"representations are on {r.device} and the network is on {own}; move one")

    def _row(self, name: str, seen: Seen, rows: int) -> Tensor:
        """What a layer gave in a pass, once more a row an image."""
        layer = self._layer[name]
        value = seen.outputs.get(layer)
        if value is None:
            why = seen.flaws.get(layer, "was not run by this forward pass, as it was by the first")
            raise UserError(f"layer={name!r} {why}; choose another layer")
        if value.ndim < 2 or len(value) != rows:
            raise UserError(f"layer={name!r} gives {tuple(value.shape)} for {rows} images; choose another layer")
        self._forms[name] = _Form.of(layer, seen)
        return value

    def _logits(self, answer: object, rows: int) -> Tensor:
        try:
            logits = logits_in(answer)
        except LookupError as error:
            raise UserError(
                f"the network gives {error}: which of it are the logits is unknown; wrap it in a module that gives "
                "logits (B, K)"
            ) from error
        if logits.ndim > 2 and logits.shape[2:].numel() == 1:
            logits = logits.flatten(1)
        if logits.ndim != 2 or len(logits) != rows or not logits.is_floating_point():
            raise UserError(
                f"the network gives {logits.dtype} of shape {tuple(logits.shape)} for {rows} images, and logits are "
                "floating-point numbers (B, K); wrap it in a module that gives them"
            )
        return logits

    def _require_logits(self) -> None:
        """Refuse logits that say nothing."""
        assert self._few is not None
        self._logits(self._answer, len(self._few))
        if constant(self._answer) and not equal(self._few[:1].expand_as(self._few), self._few):
            raise UserError(
                f"the network gives the same logits for {len(self._few)} different images (a head of zeros?); give one "
                "that is trained"
            )

    def _rest(self, layer: str) -> _Rest | str:
        """The traced rest behind a layer in the network's mode, or why there is none."""
        mode = self.network.training  # a functional dropout keeps the mode it was traced in
        if (layer, mode) not in self._rests:
            assert self._few is not None
            try:
                with evaluating(self.network, self._few.device):
                    rest = self._separated(layer)
                self._rests[layer, mode] = rest_of(self.network, self._layer[layer]) if mode else rest
            except Inseparable as error:
                self._rests[layer, mode] = str(error)
        return self._rests[layer, mode]

    def _separated(self, layer: str) -> _Rest:
        assert self._few is not None
        own = self._layer[layer]
        seen = forward(self.network, self._few, [own])  # anew: the weights may be others than at the first look
        wanted, other = logits_in(seen.answer), self._few.roll(1, 0)
        if not equal(logits_in(forward(self.network, other, put={own: seen.outputs[own]}).answer), wanted):
            raise Inseparable("the layer is passed by, as the logits also depend on the image another way")
        rest = rest_of(self.network, own)
        try:
            told = logits_in(rest(_Form.of(own, seen).lifted(seen.outputs[own])))
        except Exception as error:  # a trace keeps what the pass of one batch took for granted
            raise Inseparable(f"its traced rest does not run ({type(error).__name__})") from error
        if not equal(told, wanted):
            raise Inseparable("its traced rest gives something else than replacing")
        return rest
