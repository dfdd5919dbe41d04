"""φ at many layers of any network in one pass, and C behind any of them by replacing what the layer gives."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from invariance.errors import UserError
from invariance.models.answers import read_logits, require_telling
from invariance.models.behind import Form, Rest, Rests
from invariance.models.hooks import Seen, evaluating, forward, original
from invariance.models.naming import Layer, read_layer, submodules
from invariance.models.probe import few, passed_by, probe, refuse


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
        self._forms: dict[str, Form] = {}
        self._rests = Rests(network)
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
        _check_images(x, self.device)
        if self._few is not None and (self._few.device, self._few.dtype) == (x.device, x.dtype):
            return
        images = few(x)
        findings, seen = probe(self.network, images, list(self._layer.values()))
        for finding in findings.values():
            if finding.why:
                raise refuse(self.network, images, finding)
        self._few, self._answer = images, seen.answer
        self._forms = {name: Form.of(layer, seen) for name, layer in self._layer.items()}

    def logits(self, x: Tensor) -> Tensor:
        """f(x): images (B, …) to logits (B, K).

        Raises:
            UserError: if the network gives no logits, or the same for all of the first images.
        """
        self.look(x)
        self._require_logits()
        with evaluating(self.network, x.device):
            return read_logits(forward(self.network, x).answer, len(x))

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
        rows = {name: _rows(layer, seen, len(x)) for name, layer in self._layer.items()}
        self._forms = {name: Form.of(layer, seen) for name, layer in self._layer.items()}
        return {name: r.flatten(1) for name, r in rows.items()}

    def resume(self, layer: str, r: Tensor, x: Tensor | None = None) -> Tensor:
        """C(r; gx) as `classify` has it, with its gradient, and in the mode the network is in.

        Raises:
            UserError: as `classify`.
        """
        self._check_rows(layer, r)
        rest = self._rest(layer)
        if not isinstance(rest, str):
            return read_logits(rest(self._forms[layer].lifted(r)), len(r))
        if x is None:
            raise UserError(
                f"classify at layer={layer!r} needs the images: {rest}; give classify(layer, r, x) the x that φ(gx) "
                "is of"
            )
        _check_images(x, self.device)
        if len(x) != len(r):
            raise UserError(f"classify at layer={layer!r} got {len(r)} representations and {len(x)} images")
        return read_logits(forward(self.network, x, put={self._layer[layer]: r}).answer, len(r))

    def apart(self, layer: str) -> bool:
        """Whether C runs without images: all goes through the layer, and its traced rest gives the first images' bits.

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
        own = self._known(layer)
        self._require_logits()
        return passed_by(self.network, x, [own])[own]

    def _known(self, layer: str) -> Layer:
        if layer not in self._layer:
            raise UserError(f"layer={layer!r} is not one of this cut; it has: {', '.join(self.layers)}")
        if self._few is None:
            raise UserError(f"layer={layer!r} is not known yet: call phi on a batch of images first")
        return self._layer[layer]

    def _check_rows(self, layer: str, r: Tensor) -> None:
        self._known(layer)
        wanted = self._forms[layer].dim
        if r.ndim != 2 or r.shape[1] != wanted:
            raise UserError(f"representations of shape {tuple(r.shape)}: classify takes (B, {wanted}), as phi gives")
        if (own := self.device) is not None and own != r.device:
            raise UserError(f"representations are on {r.device} and the network is on {own}; move one")

    def _require_logits(self) -> None:
        assert self._few is not None
        require_telling(self._answer, self._few)

    def _rest(self, layer: str) -> Rest | str:
        """What comes behind a layer, or why it cannot be had without images."""
        assert self._few is not None
        return self._rests.behind(self._layer[layer], self._few)


def logits_of(cut: Cut) -> int:
    """K, how many logits the network of a cut gave for the first images.

    Raises:
        UserError: if it gives none, or `phi` was never called.
    """
    if cut._few is None:
        raise UserError("how many logits the network gives is not known yet: call phi on a batch of images first")
    return read_logits(cut._answer, len(cut._few)).shape[1]


def _check_images(x: Tensor, device: torch.device | None) -> None:
    """Refuse what is no batch of images on the network's device."""
    if not isinstance(x, Tensor) or x.ndim < 2 or not len(x):
        got = f"a tensor of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise UserError(f"images: {got} is no batch (B, …); give a tensor with a row an image")
    if device is not None and device != x.device:
        raise UserError(f"images are on {x.device} and the network is on {device}; move one, as x.to({str(device)!r})")


def _rows(layer: Layer, seen: Seen, images: int) -> Tensor:
    """What a layer gave in a pass, once more a row an image."""
    value = seen.outputs.get(layer)
    if value is None:
        why = seen.flaws.get(layer, "was not run by this forward pass, as it was by the first")
        raise UserError(f"layer={layer.name!r} {why}; choose another layer")
    if value.ndim < 2 or len(value) != images:
        raise UserError(f"layer={layer.name!r} gives {tuple(value.shape)} for {images} images; choose another layer")
    return value
