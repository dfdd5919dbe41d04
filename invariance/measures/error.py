"""L_err: whether the class of largest logit is the wrong one, image by image (Sec. 3.3)."""

import torch
from torch import Tensor

from invariance.errors import UserError


def errors_per_image(logits: Tensor, labels: Tensor) -> Tensor:
    """1 where the class of largest logit (N, K) is not the label (N,), else 0; (N,) float64. L_err is its mean.

    Logits with a NaN among them are wrong. An image without a label (−1) is NaN: L_err does not apply to it.

    Raises:
        UserError: for other shapes, or a label that is no class.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise UserError(f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)}: give (N, K) and (N,)")
    low, high = labels.aminmax() if len(labels) else (0, 0)
    if low < -1 or high >= logits.shape[1]:
        odd = int(low if low < -1 else high)
        raise UserError(f"label {odd} of {logits.shape[1]} classes: labels go from 0, or are -1 where there is none")
    wrong = (logits.argmax(1) != labels) | logits.isnan().any(1)
    return torch.where(labels < 0, torch.nan, wrong.double())
