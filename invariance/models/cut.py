"""φ at many layers of any network in one pass, and C behind any of them by replacing what the layer gives."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from invariance.errors import UserError
from invariance.models.answers import read_logits
from invariance.models.behind import Rest, Rests
from invariance.models.hooks import evaluating, forward, original
from invariance.models.probe import passed_by
from invariance.models.reading import Reading, Readings


class Representations:
    """φ at layers of a network, from one pass.

    Args:
        network: as `Cut`.
        layers: names of layers.
        readouts: as `Cut`.

    Raises:
        UserError: if there is no such layer or readout.
    """

    def __init__(
        self, network: nn.Module, layers: Sequence[str], readouts: str | Mapping[str, str] | None = None
    ) -> None:
        self.network = original(network)
        self._readings = Readings(self.network, layers, readouts)
        self.layers = tuple(self._readings.layers)

    @property
    def device(self) -> torch.device | None:
        """Where the network is; None for one without weights."""
        first = next(chain(self.network.parameters(), self.network.buffers()), None)
        return None if first is None else first.device

    def reading(self, layer: str) -> Reading:
        """What the last pass showed of a layer: its layout, its readout, and the shape of a representation.

        Raises:
            UserError: if `phi` was never called.
        """
        return self._readings[layer]

    def shape(self, layer: str) -> tuple[int, ...]:
        """Of φ of one image in the last pass: (C, H, W), (T, C) and so on where all is taken, else (D,).

        Raises:
            UserError: if `phi` was never called.
        """
        return self.reading(layer).shape

    def phi(self, x: Tensor) -> dict[str, Tensor]:
        """φ(x) at every layer: images (B, …), as the network takes them, to (B, D) each, from one pass.

        Raises:
            UserError: if a layer cannot be measured: it is not run, runs several times, gives no tensor, or no row an
                image; naming the nearest that can; or its readout does not fit it.
        """
        self.look(x)
        with evaluating(self.network, x.device):
            return self.reach(x)

    def show(self, x: Tensor, see: Callable[[str, Tensor], None], *, logits: bool = False) -> Tensor | None:
        """Show φ(x) of each layer to a function as the layer answers, in one pass; nothing is kept of any.

        Args:
            x: images (B, …), as the network takes them.
            see: takes the layer's name and φ(x) (B, D), which it must not change, nor hold: what comes behind the layer
                may overwrite it.
            logits: whether f(x) is wanted, so that the pass goes to its end.

        Returns:
            f(x), (B, K), where it is wanted.

        Raises:
            UserError: as `phi`, or if the network gives no logits where they are wanted.
        """
        self.look(x)
        with evaluating(self.network, x.device):
            return self._readings.show(x, see, logits=logits)

    def look(self, x: Tensor) -> None:
        """See on the first images whether the layers can be measured; later images are not looked at.

        Raises:
            UserError: as `phi`.
        """
        _check_images(x, self.device)
        self._readings.look(x)

    def reach(self, x: Tensor) -> dict[str, Tensor]:
        """φ(x) as `phi` has it, with its gradient, and in the mode the network is in.

        Raises:
            UserError: as `phi`.
        """
        self.look(x)
        return self._readings.phi(x)

    @property
    def answers(self) -> int:
        """K, how many logits the network gave for the first images.

        Raises:
            UserError: if it gives none, or `phi` was never called.
        """
        return self._readings.count_logits()

    def logits(self, x: Tensor) -> Tensor:
        """f(x): images (B, …) to logits (B, K).

        Raises:
            UserError: if the network gives no logits, or the same for all of the first images.
        """
        self.look(x)
        self._readings.require_logits()
        with evaluating(self.network, x.device):
            return read_logits(forward(self.network, x).answer, len(x))

    def require_logits(self) -> None:
        """Refuse a network without logits, or with the same for all of the first images.

        Raises:
            UserError: saying which of it, or if `phi` was never called.
        """
        self.reading(self.layers[0])
        self._readings.require_logits()


class Cut(Representations):
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
        readouts: how what a layer gives becomes φ, as `read_readout` has it: for all, or by layers' names and patterns;
            else `flatten`. By any other, r is put back into what the layer gives for gx itself.

    Raises:
        UserError: if there is no such layer or readout.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
        >>> cut = Cut(network, ["1", "2"])
        >>> x = torch.rand(4, 3, 2, 2)
        >>> r = cut.phi(x)["2"]
        >>> r.shape, cut.apart("2"), torch.equal(cut.classify("2", r), network(x))
        (torch.Size([4, 5]), True, True)
    """

    def __init__(
        self, network: nn.Module, layers: Sequence[str], readouts: str | Mapping[str, str] | None = None
    ) -> None:
        super().__init__(network, layers, readouts)
        self._rests = Rests(self.network)

    def classify(self, layer: str, r: Tensor, x: Tensor | None = None, *, activation: Tensor | None = None) -> Tensor:
        """C(r; gx) behind a layer: representations (B, D) to logits (B, K).

        Args:
            layer: the layer.
            r: what takes the place of φ(gx), in the order of the images.
            x: the network's input for gx; it may be left out where `apart` says so.
            activation: what the layer gives for gx (B, …), as `activation` has it: where `follows` says so it takes the
                place of x, and only what comes behind the layer is run.

        Raises:
            UserError: if `phi` was never called, r or x have not the shape or the device, x is needed and not there, or
                the readout has no way back.
        """
        self.reading(layer)
        with evaluating(self.network, r.device):
            return self.resume(layer, r, x, activation=activation)

    def resume(self, layer: str, r: Tensor, x: Tensor | None = None, *, activation: Tensor | None = None) -> Tensor:
        """C(r; gx) as `classify` has it, with its gradient, and in the mode the network is in.

        Raises:
            UserError: as `classify`.
        """
        reading = self.reading(layer)
        reading.check(r, self.device)
        if x is not None and self._rests.seen(self._readings.layers[layer]):
            return self._replaced(layer, r, x)  # what a few images showed is not taken where nothing asks for it
        rest = self._rest(layer) if activation is None else self._behind(layer)
        if not isinstance(rest, str):
            return read_logits(rest(reading.lifted(r, activation)), len(r))
        if x is None:
            raise UserError(
                f"classify at layer={layer!r} needs the images: {rest}; give classify(layer, r, x) the x that φ(gx) "
                "is of"
            )
        return self._replaced(layer, r, x)

    def _replaced(self, layer: str, r: Tensor, x: Tensor) -> Tensor:
        _check_images(x, self.device)
        if len(x) != len(r):
            raise UserError(f"classify at layer={layer!r} got {len(r)} representations and {len(x)} images")
        put = {self._readings.layers[layer]: self.reading(layer).put(r)}
        return read_logits(forward(self.network, x, put=put).answer, len(r))

    def apart(self, layer: str) -> bool:
        """Whether C runs without images: all goes through the layer, is taken whole, and its rest gives the same bits.

        Raises:
            UserError: if `phi` was never called.
        """
        self.reading(layer)
        assert self._readings.few is not None
        with evaluating(self.network, self._readings.few.device):
            return self.alone(layer)

    def alone(self, layer: str) -> bool:
        """Whether `resume` runs without images, as `apart` has it, in the mode the network is in.

        Raises:
            UserError: if `phi` was never called.
        """
        return not isinstance(self._rest(layer), str)

    def follows(self, layer: str) -> bool:
        """Whether C needs nothing of gx but what the layer gives: all goes through, and its rest gives the same bits.

        Raises:
            UserError: if `phi` was never called.
        """
        self.reading(layer)
        assert self._readings.few is not None
        with evaluating(self.network, self._readings.few.device):
            return not isinstance(self._behind(layer), str)

    def seen(self, layer: str) -> bool:
        """Whether `apart` and `follows` rest on what a few images showed, where the network cannot be traced."""
        self.reading(layer)
        return self._rests.seen(self._readings.layers[layer])

    def activation(self, layer: str, x: Tensor) -> Tensor:
        """What a layer gives for images x, as the network takes them: (B, …) in its own shape, whatever its readout.

        Raises:
            UserError: as `phi`.
        """
        self.look(x)
        with evaluating(self.network, x.device):
            return self._readings.activation(layer, x)

    def bypass(self, layer: str, x: Tensor) -> float:
        """How much of the logits goes past a layer: ‖f(x′ | L := φ(x)) − f(x)‖ / ‖f(x′) − f(x)‖.

        x′ is x in another order in which no image keeps its place; 0 (at most 1e-4, by rounding) at a true cut. All
        that the layer gives is replaced, whatever its readout.

        Raises:
            UserError: for fewer than two images, or logits that are constant or not finite.
        """
        return self.bypasses([layer], x)[layer]

    def bypasses(self, layers: Sequence[str], x: Tensor) -> dict[str, float]:
        """How much of the logits goes past each of some layers, as `bypass`: two passes, and one more for each.

        Raises:
            UserError: as `bypass`.
        """
        self.look(x)
        for layer in layers:
            self.reading(layer)
        self.require_logits()
        of = {layer: self._readings.layers[layer] for layer in layers}
        found = passed_by(self.network, x, list(of.values()))
        return {layer: found[own] for layer, own in of.items()}

    def _rest(self, layer: str) -> Rest | str:
        """What comes behind a layer, or why it cannot be had without images."""
        reading = self.reading(layer)
        if not reading.whole:
            return f"readout={reading.readout.name} is put back into what the layer gives for them"
        return self._behind(layer)

    def _behind(self, layer: str) -> Rest | str:
        """What comes behind a layer, or why it cannot be told from what comes before."""
        assert self._readings.few is not None
        return self._rests.behind(self._readings.layers[layer], self._readings.few)


def _check_images(x: Tensor, device: torch.device | None) -> None:
    """Refuse what is no batch of images on the network's device."""
    if not isinstance(x, Tensor) or x.ndim < 2 or not len(x):
        got = f"a tensor of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise UserError(f"images: {got} is no batch (B, …); give a tensor with a row an image")
    if device is not None and device != x.device:
        raise UserError(f"images are on {x.device} and the network is on {device}; move one, as x.to({str(device)!r})")
