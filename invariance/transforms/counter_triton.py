"""The random bits of `counter` on a GPU, in one kernel: whole numbers, so that no rounding can tell them apart.

Checked on a CPU through Triton's interpreter (tests/test_transforms_counter.py); it has not been run on a GPU.
"""

import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024
"""Places that a program fills."""


@triton.jit
def _mix(state):  # type: ignore[no-untyped-def]
    state ^= state >> 16
    state *= 0x85EBCA6B
    state ^= state >> 13
    state *= 0xC2B2AE35
    return state ^ (state >> 16)


@triton.jit  # type: ignore[untyped-decorator]
def _bits_kernel(keys, out, count, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """out[n, place] = 24 bits from (place, keys[n]), for BLOCK places of field n."""
    n = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    first = tl.load(keys + 2 * n).to(tl.uint32, bitcast=True)
    second = tl.load(keys + 2 * n + 1).to(tl.uint32, bitcast=True)
    state = _mix(_mix(place.to(tl.uint32) + first) ^ second) >> 8
    tl.store(out + n * count + place, state.to(tl.int32).to(tl.float32), mask=place < count)


def fill_bits(keys: Tensor, out: Tensor) -> None:
    """Fill `out` (n, count), float32 and contiguous, with 24 random bits each, by keys (n, 2), int32 and contiguous."""
    fields, count = out.shape
    _bits_kernel[(triton.cdiv(count, _BLOCK), fields)](keys, out, count, BLOCK=_BLOCK)
