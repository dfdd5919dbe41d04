"""Random fields that are pure functions of (seed, index): the same in any batch, at any batch size, on any device."""

import math
import random
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_TRITON = find_spec("triton") is not None

SEEDS = 2**53
"""How many seeds there are: whole numbers that float64 uniforms in [0, 1) tell apart."""


def seeds_from(uniforms: Tensor) -> Tensor:
    """Seeds, int64 in [0, 2^53), from float64 uniforms in [0, 1) of the same shape."""
    return (uniforms * SEEDS).floor().to(torch.int64)


def fixed_seed(*parts: int | float | str) -> int:
    """A seed in [0, 2^53) from names and numbers, for a field that is fixed once for all images."""
    text = " ".join(f"{part:g}" if isinstance(part, float) else str(part) for part in parts)
    return random.Random(text).getrandbits(53)


def normal_from(uniforms: Tensor) -> Tensor:
    """Standard normal numbers from float64 uniforms in [0, 1), one each, by inversion."""
    # 0 would be −∞; half the step of float64 uniforms is as far as they tell
    numbers: Tensor = torch.special.ndtri(uniforms.clamp(min=0.5 / SEEDS))
    return numbers


def keys_of(seeds: Tensor) -> Tensor:
    """Two keys (n, 2) int32 from each of the seeds (n,), int64: what fields are made of, wherever they are made."""
    low, high = _int32(seeds & 0xFFFFFFFF), _int32(seeds >> 32)
    # the second key depends on both halves, so that two seeds never run through stretches of one sequence
    return torch.stack([_mix(low.clone()), _mix(_mix(high + 0x3C6EF372) ^ low)], dim=1)


def uniform(seeds: Tensor, shape: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
    """Uniform fields (n, *shape), float32 multiples of 2^-24 in [0, 1), one for each of the seeds (n,), int64."""
    return uniform_by(keys_of(seeds).to(device), shape)


def normal(seeds: Tensor, shape: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
    """Standard normal fields (n, *shape), float32, one for each of the seeds (n,), int64."""
    return normal_by(keys_of(seeds).to(device), shape)


def uniform_by(keys: Tensor, shape: tuple[int, ...]) -> Tensor:
    """As `uniform`, by keys (n, 2) on the device where the fields are to be."""
    count = math.prod(shape)
    return _bits(keys, count).mul_(2.0**-24).view(len(keys), *shape)


def normal_by(keys: Tensor, shape: tuple[int, ...]) -> Tensor:
    """As `normal`, by keys (n, 2) on the device where the fields are to be (Box–Muller)."""
    count = math.prod(shape)
    half = (count + 1) // 2
    bits = _bits(keys, 2 * half)
    # half a step up keeps the logarithm finite: the largest value is 5.9 standard deviations
    radius = bits[:, :half].add_(0.5).mul_(2.0**-24).log_().mul_(-2).sqrt_()
    angle = bits[:, half:].mul_(2.0**-24 * 2 * math.pi)
    cosine = angle.cos()
    angle.sin_().mul_(radius)
    radius.mul_(cosine)
    return bits[:, :count].view(len(keys), *shape)


def _bits(keys: Tensor, count: int) -> Tensor:
    """24 random bits (n, count) as float32 whole numbers: two rounds of a mixer, each with one of the keys."""
    if keys.is_cuda and _TRITON:
        return _bits_by_triton(keys, count)
    bits = _bits_by_numpy if keys.device.type == "cpu" else _bits_by_torch
    first, second = keys.unbind(dim=1)
    return bits(first, second, count)


def _bits_by_triton(keys: Tensor, count: int) -> Tensor:
    bits = torch.empty(len(keys), count, device=keys.device)
    with torch.cuda.device(keys.device):
        import_module("invariance.transforms.counter_triton").fill_bits(keys.contiguous(), bits)  # needs a GPU's Triton
    return bits


def _bits_by_torch(first: Tensor, second: Tensor, count: int) -> Tensor:
    state = torch.arange(count, dtype=torch.int32, device=first.device) + first[:, None]
    state = _mix(_mix(state).bitwise_xor_(second[:, None]))
    return ((state >> 8) & 0xFFFFFF).to(torch.float32)


def _bits_by_numpy(first: Tensor, second: Tensor, count: int) -> Tensor:
    """The same on CPUs: numpy's unsigned words shift without a mask, and one field at a time stays in the cache.

    Measured at 227² on one core, it takes half the time that torch's integers take on two.
    """
    bits = torch.empty(len(first), count)
    fields, places = bits.numpy(), np.arange(count, dtype=np.uint32)
    one, other = (np.ascontiguousarray(of.numpy()).view(np.uint32) for of in (first, second))

    def fill(part: slice) -> None:
        """Draw some rows."""
        state, spare = np.empty_like(places), np.empty_like(places)
        for field, key, second_key in zip(fields[part], one[part], other[part], strict=True):
            np.add(places, key, out=state)
            _mix_in(state, spare)
            np.bitwise_xor(state, second_key, out=state)
            _mix_in(state, spare)
            np.right_shift(state, np.uint32(8), out=state)
            field[:] = state

    threads = max(1, min(torch.get_num_threads(), len(first)))
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, [slice(number, None, threads) for number in range(threads)]))
    return bits


def _int32(words: Tensor) -> Tensor:
    """32-bit words, held in int64, as int32 with the same bits."""
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def _mix(state: Tensor) -> Tensor:
    """MurmurHash3's 32-bit finaliser: a bijection in which every bit depends on every other. Works in place."""
    # int32 shifts carry the sign down; the masks make them logical
    state ^= (state >> 16) & 0xFFFF
    state *= 0x85EBCA6B - 2**32
    state ^= (state >> 13) & 0x7FFFF
    state *= 0xC2B2AE35 - 2**32
    state ^= (state >> 16) & 0xFFFF
    return state


def _mix_in(state: NDArray[np.uint32], spare: NDArray[np.uint32]) -> None:
    """`_mix` of unsigned words in place, with room for as many."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        np.right_shift(state, np.uint32(shift), out=spare)
        np.bitwise_xor(state, spare, out=state)
        if factor != 1:
            np.multiply(state, np.uint32(factor), out=state)
