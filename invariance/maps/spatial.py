"""Ridge over the positions of feature maps: one residual map of the channels, the same at every position."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from invariance.maps.fitting import fit_status, order
from invariance.maps.maps import build_map
from invariance.maps.moments import Moments
from invariance.maps.ridge import Ridge, choose_strengths, parameters_of
from invariance.seeds import generator

HELD = 4096
"""Positions of the held-out images, at most, on which the strength is chosen; drawn evenly from all of them."""


@dataclass(frozen=True)
class Shared:
    """A fitted map of the channels.

    Attributes:
        module: from (n, C) to (n, C); the identity where nothing was there to fit it on.
        status: "ok", "diverged", or "undefined" where there was nothing.
        error: mean over the positions of the fit images of ‖W r + r + b − t‖², before σ.
        reference: the identity's.
        strength: the strength that was chosen.
    """

    module: nn.Module
    status: str
    error: float
    reference: float
    strength: float


class SharedFit:
    """M(r) = σ((W + I) r + b) of r and t (C,) at every position of every fit image; as `Ridge` fits images.

    The strength is chosen on images that are held out, and the map fitted again on all. Only sums are kept, beside some
    positions of the held-out images.

    Args:
        settings: strengths and so on.
        channels: C.
        images: how many fit images there are.
        device: where the sums are kept.
    """

    def __init__(self, settings: Ridge, channels: int, images: int, device: torch.device | str = "cpu") -> None:
        self._settings = settings
        choose = len(settings.strengths) > 1 and images > 1
        held = min(max(1, round(settings.held_out * images)), images - 1) if choose else 0
        self._held_images = torch.zeros(images, dtype=torch.bool)
        self._held_images[order(images, settings.seed, 0)[:held]] = True
        self._each = max(1, HELD // max(1, held))
        self._rest, self._held = (Moments(channels, channels, device) for _ in range(2))
        self._r: list[Tensor] = []
        self._t: list[Tensor] = []
        self._squares = torch.zeros(2, dtype=torch.float64, device=device)

    def add(self, first: int, r: Tensor, t: Tensor, kept: Tensor) -> None:
        """Take in some images.

        Args:
            first: the number of the first among the fit images; the others follow.
            r: (B, C, H, W), what the map is applied to.
            t: (B, C, H, W), what it has to reach.
            kept: (B, H, W) or (1, H, W) bool, the positions that count.
        """
        kept = kept.expand(len(r), -1, -1)
        held = self._held_images[first : first + len(r)].to(r.device)
        for moments, which in ((self._rest, ~held), (self._held, held)):
            rows_r, rows_t = (one.movedim(1, -1)[kept & which[:, None, None]] for one in (r, t))
            moments.add(rows_r, rows_t - rows_r)
            for k, part in enumerate((rows_t - rows_r, rows_t)):
                self._squares[k] += part.double().square().sum()
        for k in torch.nonzero(held).flatten().tolist():
            places = self._drawn(first + k, kept[k].flatten())
            self._r.append(r[k].flatten(1).T[places])
            self._t.append(t[k].flatten(1).T[places])

    def _drawn(self, image: int, kept: Tensor) -> Tensor:
        """Some of the positions of a held-out image that count."""
        turn = torch.randperm(len(kept), generator=generator(self._settings.seed, "held-out positions", image))
        turn = turn.to(kept.device)
        return turn[kept[turn]][: self._each]

    def finish(self, relu: bool) -> Shared:
        """The map.

        Args:
            relu: whether σ is the ReLU.
        """
        whole, chosen = self._rest + self._held, self._settings.strengths[0]
        if not whole.count:
            return Shared(nn.Identity(), "undefined", math.nan, math.nan, math.nan)
        if self._r and self._rest.count and self._rest.finite():
            r, t = torch.cat(self._r), torch.cat(self._t)
            (chosen,) = choose_strengths(self._settings, self._rest, r, t, relu=(relu,))
        parameters = parameters_of(whole, [chosen])
        error, reference, scale = self._errors(whole, parameters["weight"].double())
        (status,) = fit_status(*(torch.tensor([one]) for one in (error, reference, scale)))
        return Shared(build_map("residual", parameters, relu), status, error, reference, chosen)

    def _errors(self, whole: Moments, weight: Tensor) -> tuple[float, float, float]:
        """Mean squares over positions: of the map's residuals, of the identity's, and of what is to be reached.

        ‖R W + b − T‖² = ‖T̃‖² − 2 ⟨C, W⟩ + ⟨W, G W⟩ about the means, b being what it is.
        """
        gram, cross = whole.centred()
        centred = self._squares[0] - whole.sum_t.square().sum() / whole.count
        left = centred - 2 * (cross * weight.T).sum() + (weight.T * (gram @ weight.T)).sum()
        error, reference, scale = (float(one) / whole.count for one in (left.clamp(min=0.0), *self._squares))
        return error, reference, scale
