"""Measuring without maps in bounded memory: all layers from one pass, a batch of images under every g at a time.

Of a batch φ(x) is held, and nothing else: what a layer gives for gx is compared with it as the layer answers. What is
known of an image are its scores; of representations as a whole, sums over images. So memory does not grow with them.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from invariance.engine.at_layer import AtLayer, Effort, How, Size, asks_back
from invariance.engine.groups import Group, Measured
from invariance.engine.passes import Around, Pass
from invariance.engine.recorder import Recorder
from invariance.engine.replaced import bypasses_of
from invariance.engine.scoring import MeasuredSplit
from invariance.engine.stream import Sample, batches
from invariance.maps.spec import MapSpec
from invariance.measures import FROM_LOGITS, INDEX_NAMES
from invariance.measures.distance import squares
from invariance.models.cut import Cut
from invariance.models.model import Model

_BATCH_BYTES = 2.5e8
"""Memory for φ(x) of a batch on a CPU, where larger batches are no faster."""

_GPU_BATCH_BYTES = 2e9
"""The same on a GPU, which small batches leave idle."""

_GROUP_BYTES = 2.0**25
"""Memory for what representations as a whole are compared by, of the g that are taken together."""

_PASSES = 16
"""Passes over an image that share its one untouched pass, at least."""


class Streamed:
    """The measuring of one grid without maps, at layers of a network.

    Args:
        model: the network.
        grid: the grid's name.
        samples: the fit images, if there are any, and the report images.
        spec: the identity.
        keep: takes what every group came to.
        how: what is measured, and how.
        cut: the network, cut at the layers and looked at.
        advance: hears of images that went through the network under a g.
    """

    def __init__(
        self,
        model: Model,
        grid: str,
        samples: Sequence[Sample],
        spec: MapSpec,
        keep: Recorder[Group, Measured],
        how: How,
        cut: Cut,
        advance: Callable[[int], None],
    ) -> None:
        self.model, self.grid, self.spec, self.keep = model, grid, spec, keep
        self.how, self.cut, self.advance = how, cut, advance
        self.points = how.transform.grid()
        self.dims = {layer: cut.reading(layer).dim for layer in cut.layers}
        self.sides = [MeasuredSplit.of(one, torch.empty(0)) for one in samples]

    def run(self) -> None:
        """Measure what the recorder has not."""
        size = together(len(self.points), self.dims, len(self.sides[-1].sample), self.how)
        # the fit images of a network that was not trained here give the scale, and nothing is reported on them
        sides = range(0 if self.model.ours else len(self.sides) - 1, len(self.sides))
        images = sum(len(self.sides[k].sample) for k in sides)
        around: Around | None = None
        for number, start in enumerate(range(0, len(self.points), size)):
            points = self.points[start : start + size]
            self.keep.note(start, len(self.points))
            labels = tuple(point.label for point in points)
            groups = {
                layer: Group(self.grid, layer, self.spec, labels, number, size, self.cut.reading(layer).readout.name)
                for layer in self.dims
            }
            missing = {layer: group for layer, group in groups.items() if not self.keep.has(group)}
            if not missing:
                self.advance(len(points) * images)
                continue
            around = around or self._around()
            passes = {k: Pass(around, k, points, list(missing)) for k in sides}
            for one in passes.values():
                one.run()
            report = passes[sides[-1]]
            for layer, group in missing.items():
                for one in passes.values():
                    one.tell(layer)
                scores, whole = {k: one.scores(layer) for k, one in passes.items()}, report.whole(layer)
                found = around.at[layer].told(
                    group, points, scores, None if whole is None else whole.rows, report.halves(layer)
                )
                self.keep.add(group, found)

    def _untouched(self, x: Tensor) -> Tensor:
        """Images under the g that changes nothing, as the network takes them."""
        return self.model.prepare(self.how.transform.apply(x, self.how.untouched.params))

    def _around(self) -> Around:
        """See how large φ(x) is over the first split, and settle by that how every layer is measured."""
        square: dict[str, Tensor] = {}
        total: dict[str, Tensor] = {}

        def see(layer: str, r: Tensor) -> None:
            """Sums of one batch more."""
            wide = r.float()
            for sums, of_batch in ((square, squares(wide)), (total, wide.sum(0, dtype=torch.float64))):
                sums[layer] = sums[layer] + of_batch if layer in sums else of_batch

        # by all that the layers give, whatever is read of it: the network holds it while it runs
        whole = {layer: self.cut.reading(layer).form.dim for layer in self.dims}
        sample, batch = self.sides[0].sample, batch_of(whole, self.how.effort, self.model.device)
        for _, x in batches(sample.pixels, sample.indices, batch, self.model.device):
            self.cut.show(self._untouched(x), see)
        asking = [layer for layer in self.dims if asks_back(self.cut, layer, self.how.measures)]
        report = self.sides[-1].sample
        past = bypasses_of(self.model, self.cut, asking, report, self.how.transform, self.how.untouched)
        at = {}
        for layer, one in square.items():
            size = Size((one / len(sample)).sqrt(), relu=False)  # σ is of maps, of which there are none
            at[layer] = AtLayer(self.model, self.cut, layer, self.sides, self.how, size, past.get(layer), free=False)
            for point in (self.points[0], self.points[-1]):  # the ends of the axis; what C says there is not asked for
                at[layer].scorer.look(self.sides[-1], self.how.transform, point)
        means = {layer: (one / len(sample)).float() for layer, one in total.items()}
        return Around(self.model, self.cut, self.how, at, means, batch, self.advance)


def batch_of(dims: Mapping[str, int], effort: Effort, device: torch.device) -> int:
    """Images a pass, by the numbers of all layers: the same on every machine of a kind, as batches decide rounding.

    Args:
        dims: numbers of each layer for an image.
        effort: the most that are wanted.
        device: where the network is.
    """
    memory = _GPU_BATCH_BYTES if device.type == "cuda" else _BATCH_BYTES
    return max(1, min(effort.batch, int(memory) // (4 * sum(dims.values()))))


def together(points: int, dims: Mapping[str, int], images: int, how: How) -> int:
    """How many g are taken together: few, where what stands beside their scores costs memory or passes of its own.

    It must not depend on what the machine has free: parts of an interrupted measurement are found by it.

    Args:
        points: all g of the grid.
        dims: D of every layer.
        images: how many are reported on.
        how: what is measured.
    """
    if set(how.measures) & set(INDEX_NAMES):
        kept = how.more.intervals
        # what `Whole` keeps of one g at a layer: φ(gx) itself, or sums
        of_g = sum(4 * images * dim if kept or dim > images else 16 * dim**2 for dim in dims.values())
        points = min(points, int(min(_GROUP_BYTES, how.effort.memory) // of_g))
    if set(how.measures) & set(FROM_LOGITS):
        points = min(points, -(-_PASSES // (1 + len(dims))))
    return max(1, points)
