"""d φ(g_t x) / dt at t = 0, at many layers, from one pass of forward-mode differentiation through the network.

The derivative of the images is given (`Transform.tangent`). torch carries it through the preprocessing and the network
beside the numbers themselves, in float32. Where an activation has a kink exactly at x, as a ReLU at 0, the derivative
is what torch takes there.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from invariance.errors import UserError
from invariance.models.affine import AffineByInput, primal_and_rate, with_rate
from invariance.models.cut import Cut
from invariance.models.hooks import evaluating
from invariance.models.model import Model

INPUT = "input"
"""Names, beside the layers, what the network takes: the images after preprocessing."""

STEP = 0.1
"""Root mean square, in intensity, of the step by which images are moved to see whether the network follows."""

TOLERANCE = 0.5
"""How far, as a share of itself, a change may be off what the derivative says; kinks alone are a few percent."""

_ROUNDING = 1e-4
"""Changes of so much of φ(x) tell nothing in float32."""

_MISSING = re.compile(r"forward AD with (\S+) that does not support it")
_REMEDY = "leave derivative out of measures"


def features(model: Model, cut: Cut, x: Tensor) -> dict[str, Tensor]:
    """φ(x) at the layers of a cut and at `INPUT`, for images (B, C, H, W) in [0, 255]: (B, D) each.

    A layer of that very name takes the place of the input.

    Raises:
        UserError: if a layer cannot be measured.
    """
    with evaluating(cut.network, model.device):
        prepared = model.prepare(x)
        return {INPUT: prepared.flatten(1), **cut.phi(prepared)}


def derivatives(model: Model, cut: Cut, x: Tensor, tangent: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """φ(x), and how fast it changes as x does, at the layers of a cut and at `INPUT`.

    Args:
        model: the network.
        cut: it, cut at the layers; `features` has looked at its layers before.
        x: images (B, C, H, W) in [0, 255].
        tangent: of their shape, how fast they change.

    Returns:
        φ(x) and its derivative, (B, D) each, by layer. What does not depend on the images has a derivative of 0.

    Raises:
        UserError: if something in the network has no forward derivative.
    """
    with _dual(model, cut):
        prepared = model.prepare(with_rate(x.clone(), tangent.clone()))
        both = {INPUT: prepared.flatten(1), **cut.reach(prepared)}
        return {name: _apart(r) for name, r in both.items()}


def require_derivative(model: Model, cut: Cut, x: Tensor, tangent_of: Callable[[Tensor], Tensor]) -> dict[str, int]:
    """Refuse a network whose numbers do not move as their derivative says, tried on a few images.

    Detaching, inference mode or numpy inside a forward pass stop a derivative without an error, and a network would
    look invariant. The images are moved a little off themselves first, where no activation is at its kink.

    Args:
        model: the network.
        cut: it, cut at the layers.
        x: a few images (B, C, H, W) in [0, 255].
        tangent_of: from images to how fast they change.

    Returns:
        D of every layer, that of `INPUT` included.

    Raises:
        UserError: naming the first layer of which it is so, or the operation without a derivative.
    """
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).to(x.device)
    x = x.clamp(2, 253) + 2 * noise - 1
    tangent = tangent_of(x)
    with evaluating(cut.network, model.device):
        cut.look(model.prepare(x))
    found = derivatives(model, cut, x, tangent)
    length = float(tangent.double().square().mean().sqrt())
    step = STEP / length if length > 0 else 0.0
    there, back = (features(model, cut, x + sign * step * tangent) for sign in (1, -1))
    for name, (r, d) in found.items():
        change, told = (there[name] - back[name]).double(), 2 * step * d.double()
        off, size = float((change - told).norm()), max(float(change.norm()), float(told.norm()))
        if off > TOLERANCE * size + _ROUNDING * float(r.double().norm()):
            raise UserError(
                f"derivative: layer={name!r} of {model.name} does not move as its derivative says (by "
                f"{float(change.norm()):.3g}, and by {float(told.norm()):.3g}); something before it detaches, runs in "
                f"inference mode or numpy, or jumps: {_REMEDY}"
            )
    return {name: d.shape[1] for name, (_, d) in found.items()}


@contextmanager
def _dual(model: Model, cut: Cut) -> Iterator[None]:
    """Forward-mode differentiation through a network that is evaluated, while it lasts.

    Fused attention has no forward derivative, so that the plain one takes its place; inference mode drops derivatives.
    """
    with (
        torch.inference_mode(False),
        evaluating(cut.network, model.device),
        sdpa_kernel(SDPBackend.MATH),
        forward_ad.dual_level(),
        AffineByInput(),
    ):
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            missing = _MISSING.search(str(error))
            why = next(iter(str(error).splitlines()), "") or type(error).__name__
            told = f"{missing[1]} has none in torch" if missing else why[:200]
            raise UserError(
                f"derivative: {model.name} has no forward derivative at these layers ({told}); {_REMEDY}"
            ) from error


def _apart(r: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers of a representation (B, D), and their derivative."""
    primal, rate = primal_and_rate(r)
    return primal, torch.zeros_like(primal) if rate is None else rate
