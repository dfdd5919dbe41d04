"""How layers of a network are read, and what is put in the place of what one gives."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from invariance.errors import UserError
from invariance.models.answers import read_logits, require_telling
from invariance.models.behind import Form
from invariance.models.hooks import Put, Seen, forward, laid
from invariance.models.layout import Layout
from invariance.models.naming import Layer, read_layer, submodules
from invariance.models.probe import few, probe, refuse
from invariance.models.readout import Flatten, Readout, read_readout, readouts_by_layer, require_fit


@dataclass(frozen=True)
class Reading:
    """A layer as a forward pass showed it, and its readout.

    Attributes:
        layer: the layer's name.
        form: how its output for one image is shaped, lies in memory and is typed.
        layout: what the dimensions of that mean.
        readout: what becomes of it.
        images: shape of an image in that pass.
    """

    layer: str
    form: Form
    layout: Layout
    readout: Readout
    images: tuple[int, ...]

    @classmethod
    def of(cls, layer: Layer, seen: Seen, readout: Readout, x: Tensor, network: nn.Module) -> Self:
        """The reading of what a layer gave in a pass over images x.

        Raises:
            UserError: if the readout does not fit it.
        """
        form = Form.of(layer, seen)
        layout = Layout.of(form.shape, tuple(x.shape[2:]), network)
        require_fit(layer.name, readout, layout)
        return cls(layer.name, form, layout, readout, tuple(x.shape[1:]))

    @property
    def whole(self) -> bool:
        """Whether a representation is all that the layer gives."""
        return isinstance(self.readout, Flatten)

    @property
    def dim(self) -> int:
        """D."""
        return self.readout.dim(self.layout)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a representation: the layer's own where it is taken whole, else (D,)."""
        return self.form.shape if self.whole else (self.dim,)

    @property
    def channel_of(self) -> Tensor:
        """Which channel each of the D features is of, (D,); features of no position are channels of their own."""
        return self.layout.channel_of() if self.whole else torch.arange(self.dim)

    def rows(self, value: Tensor) -> Tensor:
        """φ (B, D) of what the layer gave (B, …)."""
        return self.readout.read(value, self.layout)

    def put(self, r: Tensor) -> Put:
        """What takes the place of the layer's output: representations r (B, D), or a function of what it gives."""
        return r if self.whole else partial(self.readout.lift, r, layout=self.layout)

    def lifted(self, r: Tensor, activation: Tensor | None) -> Tensor:
        """What takes the place of the layer's output: representations r (B, D), put into what it gives (B, …).

        Args:
            r: the representations.
            activation: what the layer gives; None where r is all of it.

        Raises:
            UserError: for an activation of another shape.
        """
        if activation is not None and activation.shape != (len(r), *self.form.shape):
            raise UserError(
                f"classify at layer={self.layer!r} got {len(r)} representations and an activation of shape "
                f"{tuple(activation.shape)}; give {(len(r), *self.form.shape)}, what `activation` gives for gx"
            )
        if self.whole:
            return self.form.lifted(r)
        assert activation is not None, f"readout={self.readout.name} is put back into something"
        return laid(self.readout.lift(r, activation, layout=self.layout), self.form.strides, self.form.dtype)

    def check(self, r: Tensor, device: torch.device | None) -> None:
        """Refuse what cannot be put in the layer's place.

        Args:
            r: the representations.
            device: where the network is; None where it does not matter.

        Raises:
            UserError: for another shape or device, or a readout without a way back.
        """
        if not self.readout.lifts:
            raise UserError(
                f"classify at layer={self.layer!r}: readout={self.readout.name} cannot be put back into the layer; "
                "choose another for C"
            )
        if r.ndim != 2 or r.shape[1] != self.dim:
            raise UserError(f"representations of shape {tuple(r.shape)}: classify takes (B, {self.dim}), as phi gives")
        if device is not None and device != r.device:
            raise UserError(f"representations are on {r.device} and the network is on {device}; move one")

    def after(self, before: "Reading | None") -> Self:
        """This reading, unless the layer's output for images of one shape changed its own.

        Args:
            before: what an earlier pass showed of the layer.

        Raises:
            UserError: naming both shapes.
        """
        if before is not None and before.images == self.images and before.form.shape != self.form.shape:
            raise UserError(
                f"layer={self.layer!r} gives {self.form.shape} for an image, and gave {before.form.shape} for others "
                "of the same size; choose another layer"
            )
        return self


class Readings:
    """The layers of a network that are read: what they are, as the first images and the last pass showed them.

    Args:
        network: the network.
        layers: names of layers.
        readouts: as `Cut` takes them.

    Attributes:
        layers: the layers by name.
        few: the images that were looked at first; None: none yet.

    Raises:
        UserError: if there is no such layer or readout.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str], readouts: str | Mapping[str, str] | None) -> None:
        if isinstance(layers, str) or not layers:
            raise UserError(f"layers={layers!r}: give a list of names of layers")
        known, names = submodules(network), list(dict.fromkeys(layers))
        named = readouts_by_layer(names, {} if readouts is None else readouts, rest=Flatten.name)
        self.network = network
        self.few: Tensor | None = None
        self.layers = {name: read_layer(name, known) for name in names}
        self._readouts = {name: read_readout(readout) for name, readout in named.items()}
        self._readings: dict[str, Reading] = {}
        self._answer: Any = None

    def __getitem__(self, layer: str) -> Reading:
        if layer not in self.layers:
            raise UserError(f"layer={layer!r} is not one of this cut; it has: {', '.join(self.layers)}")
        if self.few is None:
            raise UserError(f"layer={layer!r} is not known yet: call phi on a batch of images first")
        return self._readings[layer]

    def look(self, x: Tensor) -> None:
        """See on the first images of a device and type whether the layers can be measured.

        Raises:
            UserError: for a layer that cannot, naming the nearest that can, or whose readout does not fit it.
        """
        if self.few is not None and (self.few.device, self.few.dtype) == (x.device, x.dtype):
            return
        images = few(x)
        findings, seen = probe(self.network, images, list(self.layers.values()))
        for finding in findings.values():
            if finding.why:
                raise refuse(self.network, images, finding)
        self._take(seen, images)
        self.few, self._answer = images, seen.answer

    def phi(self, x: Tensor) -> dict[str, Tensor]:
        """φ(x) by layer, (B, D) each, from one pass, in the mode the network is in.

        Raises:
            UserError: if a layer gives something else than it gave for the first images.
        """
        seen = forward(self.network, x, list(self.layers.values()), stop=True)
        values = {name: _rows(layer, seen, len(x)) for name, layer in self.layers.items()}
        self._take(seen, x)
        return {name: self._readings[name].rows(value) for name, value in values.items()}

    def activation(self, layer: str, x: Tensor) -> Tensor:
        """What one layer gives for images, (B, …), from a pass that ends there.

        Raises:
            UserError: as `phi`.
        """
        reading, own = self[layer], self.layers[layer]
        seen = forward(self.network, x, [own], stop=True)
        value = _rows(own, seen, len(x))
        Reading.of(own, seen, reading.readout, x, self.network).after(reading)
        return value

    def show(self, x: Tensor, see: Callable[[str, Tensor], None], *, logits: bool) -> Tensor | None:
        """Show φ(x) of each layer to a function, in one pass, in the mode the network is in; see `Cut.show`.

        Raises:
            UserError: if a layer gives something else than it gave for the first images.
        """
        left = set(self.layers.values())

        def shown(layer: Layer, value: Tensor) -> None:
            """What a layer gives, as its readout takes it."""
            reading = self._readings[layer.name]
            if value.shape[1:] != reading.form.shape or len(value) != len(x):
                raise UserError(
                    f"layer={layer.name!r} gives {tuple(value.shape)} for {len(x)} images, and gave "
                    f"{reading.form.shape} for each of the first; choose another layer"
                )
            left.discard(layer)
            see(layer.name, reading.rows(value))

        seen = forward(self.network, x, list(self.layers.values()), stop=not logits, show=shown)
        for layer in left:
            _rows(layer, seen, len(x))
        return read_logits(seen.answer, len(x)) if logits else None

    def count_logits(self) -> int:
        """K, how many logits the network gave for the first images.

        Raises:
            UserError: if it gives none, or none were looked at.
        """
        if self.few is None:
            raise UserError("how many logits the network gives is not known yet: call phi on a batch of images first")
        return read_logits(self._answer, len(self.few)).shape[1]

    def require_logits(self) -> None:
        """Refuse a network without logits, or with the same for all of the first images.

        Raises:
            UserError: saying which of it.
        """
        assert self.few is not None
        require_telling(self._answer, self.few)

    def _take(self, seen: Seen, x: Tensor) -> None:
        self._readings = {
            name: Reading.of(layer, seen, self._readouts[name], x, self.network).after(self._readings.get(name))
            for name, layer in self.layers.items()
        }


def _rows(layer: Layer, seen: Seen, images: int) -> Tensor:
    """What a layer gave in a pass, once more a row an image."""
    value = seen.outputs.get(layer)
    if value is None:
        why = seen.flaws.get(layer, "was not run by this forward pass, as it was by the first")
        raise UserError(f"layer={layer.name!r} {why}; choose another layer")
    if value.ndim < 2 or len(value) != images:
        raise UserError(f"layer={layer.name!r} gives {tuple(value.shape)} for {images} images; choose another layer")
    return value
