"""The part of online SGD that cannot be a matrix product: running down a block, one image at a time."""

import torch
from torch import Tensor

_threshold_out = torch.ops.aten.threshold_backward.grad_input


def run_block(kernel: Tensor, z: Tensor, target: Tensor, inner: int, relu: bool) -> Tensor:
    """δ of every image of a block, each taking in those before it: z_t ← z_t + Σ_{s<t} kernel[t, s] δ_s.

    δ_t = (z_t − target_t) · 1[z_t > 0] with the ReLU in the loss, z_t − target_t without. With it z is completed in
    place; without it δ takes the place of z, which is δ + target. Output units are independent of each other.

    Args:
        kernel: (J, B, B); only what lies strictly below the diagonal counts, and the rest must be zero.
        z: (J, B, D) pre-activations without the block's own contributions.
        target: (J, B, D) or (1, B, D).
        inner: images run one by one between two matrix products.
        relu: whether the loss goes through the ReLU.

    Returns:
        δ, (J, B, D).
    """
    if not relu:
        return _solve_linear(kernel, z.sub_(target))
    if z.is_cuda:
        from invariance.maps.recurrence_triton import INNER, run_inner  # Triton is where a GPU is

        inner, step = INNER, run_inner
    else:
        step = _run_inner_single if len(z) == 1 else _run_inner_batched
    delta = torch.empty_like(z)
    size = z.shape[1]
    for start in range(0, size, inner):
        rows = slice(start, min(start + inner, size))
        if start:
            z[:, rows].baddbmm_(kernel[:, rows, :start], delta[:, :start])
        step(kernel[:, rows, rows], z[:, rows], target[:, rows], delta[:, rows])
    return delta


def _solve_linear(kernel: Tensor, delta: Tensor) -> Tensor:
    """Without the ReLU the recurrence is a unit triangular system: (I − kernel) δ = z − target.

    It is solved where the right side stands: a solution of its own would be stored by columns, and every use of it
    would go across memory.
    """
    torch.linalg.solve_triangular(-kernel, delta, upper=False, unitriangular=True, out=delta)
    return delta


def _run_inner_single(kernel: Tensor, z: Tensor, target: Tensor, delta: Tensor) -> None:
    """Looking back: image t gathers all earlier δ in one matrix-vector product. The least operations for J = 1."""
    kernel_rows, delta_columns = kernel[0].unbind(0), delta[0].T
    targets, deltas = target[0].unbind(0), delta[0].unbind(0)
    for t, z_t in enumerate(z[0].unbind(0)):
        if t:
            z_t.addmv_(delta_columns[:, :t], kernel_rows[t][:t])
        torch.sub(z_t, targets[t], out=deltas[t])
        _threshold_out(deltas[t], z_t, 0, grad_input=deltas[t])


def _run_inner_batched(kernel: Tensor, z: Tensor, target: Tensor, delta: Tensor) -> None:
    """Looking forward: δ_t is handed to all later images of all J problems in one elementwise operation."""
    size = z.shape[1]
    for t in range(size):
        z_t, delta_t = z[:, t], delta[:, t]
        torch.sub(z_t, target[:, t], out=delta_t)
        _threshold_out(delta_t, z_t, 0, grad_input=delta_t)
        if t + 1 < size:
            z[:, t + 1 :].addcmul_(kernel[:, t + 1 :, t : t + 1], delta[:, t : t + 1])
