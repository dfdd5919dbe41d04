"""What a network answers, read as logits (B, K)."""

from torch import Tensor

from invariance.errors import UserError
from invariance.models.hooks import logits_in
from invariance.models.probe import constant
from invariance.models.rest import equal


def read_logits(answer: object, rows: int) -> Tensor:
    """The logits (B, K) in what a network gives for so many images.

    Raises:
        UserError: if there are none, or it cannot be told which they are.
    """
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


def require_telling(answer: object, images: Tensor) -> None:
    """Refuse logits that say nothing.

    Args:
        answer: what the network gave.
        images: for which.

    Raises:
        UserError: if there are no logits, or the same for all of several images.
    """
    read_logits(answer, len(images))
    if constant(answer) and not equal(images[:1].expand_as(images), images):
        raise UserError(
            f"the network gives the same logits for {len(images)} different images (a head of zeros?); give one "
            "that is trained"
        )
