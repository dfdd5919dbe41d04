"""The recurrence of online SGD on a GPU: one kernel launch for every `INNER` images of a block.

Checked on a CPU through Triton's interpreter (tests/test_online_sgd.py); its speed on a GPU has not been measured.
"""

import triton
import triton.language as tl
from torch import Tensor

INNER = 64
"""Images a launch runs through; also the side of the tile that a program holds in registers."""

_UNITS = 32
"""Output units of a program: one a thread of its single warp, so that the run down the block never waits on others."""


@triton.jit  # type: ignore[untyped-decorator]
def _inner_kernel(  # type: ignore[no-untyped-def]
    kernel,
    z,
    target,
    delta,
    size,
    units,
    kernel_j,
    kernel_t,
    kernel_s,
    z_j,
    z_t,
    target_j,
    target_t,
    delta_j,
    delta_t,
    INNER: tl.constexpr,
    UNITS: tl.constexpr,
):
    """z_t ← z_t + Σ_{s<t} kernel[t, s] δ_s and δ_t = (z_t − target_t) · 1[z_t > 0], for UNITS units of problem j.

    Where z_t is NaN, so is δ_t: the fit has diverged, and must be seen to have.
    """
    j = tl.program_id(1).to(tl.int64)
    rows = tl.arange(0, INNER)
    columns = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    inside = columns < units
    tile_mask = (rows < size)[:, None] & inside[None, :]
    z_tile_at = z + j * z_j + rows[:, None] * z_t + columns[None, :]
    tile = tl.load(z_tile_at, mask=tile_mask, other=0.0)
    for t in range(size):
        z_row = tl.sum(tl.where((rows == t)[:, None], tile, 0.0), axis=0)
        wanted = tl.load(target + j * target_j + t * target_t + columns, mask=inside, other=0.0)
        delta_row = tl.where(z_row <= 0, 0.0, z_row - wanted)  # so that NaN stays, as on a CPU
        tl.store(delta + j * delta_j + t * delta_t + columns, delta_row, mask=inside)
        later = (rows > t) & (rows < size)
        weights = tl.load(kernel + j * kernel_j + rows * kernel_t + t * kernel_s, mask=later, other=0.0)
        tile = tl.where(later[:, None], tile + weights[:, None] * delta_row[None, :], tile)  # 0 · NaN is no 0
    tl.store(z_tile_at, tile, mask=tile_mask)


def run_inner(kernel: Tensor, z: Tensor, target: Tensor, delta: Tensor) -> None:
    """Run down at most `INNER` images of J problems; completes z and fills delta.

    Args:
        kernel: (J, n, n), strictly lower triangular.
        z: (J, n, D) pre-activations with all contributions from before these images.
        target: (J, n, D) or (1, n, D).
        delta: (J, n, D), written.
    """
    problems, size, units = z.shape
    if size > INNER or not z.stride(2) == target.stride(2) == delta.stride(2) == 1:
        raise ValueError(f"{size} images with units at stride {z.stride(2)}: expected at most {INNER}, at stride 1")
    shared = 0 if len(target) == 1 else target.stride(0)
    _inner_kernel[(triton.cdiv(units, _UNITS), problems)](
        kernel,
        z,
        target,
        delta,
        size,
        units,
        *kernel.stride(),
        *z.stride()[:2],
        shared,
        target.stride(1),
        *delta.stride()[:2],
        INNER=INNER,
        UNITS=_UNITS,
        num_warps=1,
    )
