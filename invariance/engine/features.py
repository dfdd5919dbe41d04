"""Features in memory: normalised dimension by dimension, with what makes them say nothing."""

import torch
from torch import Tensor

from invariance.measures.distance import rms

_CHUNK = 4096


def normalise(r: Tensor, scale: Tensor) -> Tensor:
    """Features (N, D) with every dimension divided by its scale (D,), in place; 0 where the scale is 0."""
    factor = torch.where(scale > 0, 1 / scale, 0.0)
    for part in torch.split(r, _CHUNK):
        part.copy_((part.double() * factor).float())
        part[:, scale == 0] = 0  # a unit that is infinite on a report image alone
    return r


def constant(r: Tensor, scale: Tensor) -> bool:
    """Whether every dimension of features (N, D) has one value over all images, to rounding of its scale (D,)."""
    spread = (r.amax(0) - r.amin(0)).double()
    return bool((spread <= 1e-6 * scale).all())


def finite(r: Tensor) -> bool:
    """Whether all features (N, D) are numbers."""
    return all(bool(torch.isfinite(part).all()) for part in torch.split(r, _CHUNK))


class InMemory:
    """A source of features that are in memory.

    Args:
        fit: features of the fit images, (N, D) float32; None: there are none.
        report: features of the report images, (N', D) float32.
        scaled: whether every dimension is divided by its RMS over the fit images, or where there are none over the
            report images; else the features are as they are.

    Attributes:
        dim: D.
        n_fit: fit images.
        n_report: report images.
        alive: (D,) which dimensions are not 0 for all images that give the scale.
        flaw: "constant" if those images all have the same features, "not_finite" if some number is none, or nothing.
    """

    def __init__(self, fit: Tensor | None, report: Tensor, scaled: bool = True) -> None:
        self._sides = {"fit": report[:0] if fit is None else fit, "report": report}
        self.dim, self.n_fit, self.n_report = report.shape[1], len(self._sides["fit"]), len(report)
        first = report if fit is None else fit
        self._scale, self._scaled = rms(first), scaled
        self.alive = self._scale > 0 if scaled else torch.ones(self.dim, dtype=torch.bool)
        self.flaw = "constant" if constant(first, self._scale) else ""
        if not all(map(finite, self._sides.values())):
            self.flaw = "not_finite"

    def load(self, side: str) -> Tensor:
        """See `Source`."""
        values = self._sides[side]
        return normalise(values.clone(), self._scale) if self._scaled else values
