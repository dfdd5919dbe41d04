"""Operations that are affine in the image, in forward-mode differentiation: at the cost of two of them.

torch also derives them by their weights, as if these had a derivative of zeros: a third convolution for each.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

_WITH_WEIGHT = (torch.conv1d, torch.conv2d, torch.conv3d, F.linear)
"""Called with the input, a weight and a bias."""

_NORM_ARGUMENTS = 8
"""`F.batch_norm` is called by modules with all of its arguments, in their order."""


def with_rate(value: Tensor, rate: Tensor) -> Tensor:
    """A tensor that carries its derivative."""
    dual: Tensor = forward_ad.make_dual(value, rate)  # type: ignore[no-untyped-call]
    return dual


def primal_and_rate(value: Tensor) -> tuple[Tensor, Tensor | None]:
    """A tensor without its derivative, and that; None where it carries none."""
    primal, rate = forward_ad.unpack_dual(value)  # type: ignore[no-untyped-call]
    return primal, rate


class AffineByInput(TorchFunctionMode):
    """Convolutions, linear layers and batch norm in evaluation mode: their derivative is they themselves without bias.

    Where it is not so (weights with a derivative, arguments given otherwise), torch's own derivative is taken.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Run an operation."""
        named = dict(kwargs or {})
        rate = None if named else _rate(func, args)
        if rate is None:
            return func(*args, **named)
        plain = primal_and_rate(args[0])[0]
        return with_rate(func(plain, *args[1:]), rate)


def _rate(func: Callable[..., Any], args: Sequence[Any]) -> Tensor | None:
    """The derivative of what an operation gives; None where it is torch's to take."""
    norm = func is F.batch_norm and len(args) == _NORM_ARGUMENTS and not args[5] and isinstance(args[1], Tensor)
    if not norm and not (func in _WITH_WEIGHT and len(args) > 1):
        return None
    first, *others = (primal_and_rate(one)[1] if isinstance(one, Tensor) else None for one in args)
    if first is None or any(one is not None for one in others):
        return None
    if norm:
        _, mean, variance, weight, _, *rest = args
        found: Tensor = F.batch_norm(first, torch.zeros_like(mean), variance, weight, None, *rest)
    else:
        found = func(first, args[1], None, *args[3:])
    return found
