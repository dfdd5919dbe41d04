"""Counter-based random fields: pure functions of (seed, index), and random by every measure taken here."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from invariance.transforms.counter import (
    _bits_by_numpy,
    _bits_by_torch,
    fixed_seed,
    normal,
    normal_from,
    seeds_from,
    uniform,
)

ROOT = Path(__file__).parents[1]
SEED_SETS = {
    "consecutive": torch.arange(48),
    "high half only": torch.arange(48) << 32,
    "random": torch.randint(2**53, (48,), generator=torch.Generator().manual_seed(3)),
}
SHAPE = (3, 61, 59)


@pytest.mark.parametrize("field", [uniform, normal])
def test_a_field_depends_on_its_seed_alone(field):
    seeds = SEED_SETS["random"]
    together = field(seeds, SHAPE)
    assert together.dtype == torch.float32 and together.shape == (48, *SHAPE)
    assert torch.equal(together[7:9], field(seeds[7:9], SHAPE))
    assert torch.equal(together, torch.cat([field(seed[None], SHAPE) for seed in seeds]))


def test_uniform_fields_are_the_same_everywhere_and_forever():
    """A change of these numbers changes every elastic and noise result: it must be made knowingly."""
    first = (uniform(torch.tensor([0, 2**53 - 1]), (4,)).double() * 2**24).long()
    literal = [[reference_bits(seed, index) for index in range(4)] for seed in (0, 2**53 - 1)]
    assert first.tolist() == literal


def reference_bits(seed, index):
    """The generator in plain Python integers."""

    def mix(h):
        h ^= h >> 16
        h = h * 0x85EBCA6B % 2**32
        h ^= h >> 13
        h = h * 0xC2B2AE35 % 2**32
        return h ^ h >> 16

    low, high = seed % 2**32, seed >> 32
    first, second = mix(low), mix(mix((high + 0x3C6EF372) % 2**32) ^ low)
    return mix(mix((index + first) % 2**32) ^ second) >> 8


@pytest.mark.parametrize("threads", [1, 3])
def test_both_ways_to_the_bits_are_one(threads):
    """On CPUs numpy mixes, elsewhere torch."""
    first, second = torch.randint(-(2**31), 2**31, (2, 5), generator=torch.Generator().manual_seed(1)).int()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(_bits_by_numpy(first, second, 1001), _bits_by_torch(first, second, 1001))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("seeds", SEED_SETS.values(), ids=SEED_SETS)
def test_distributions(seeds):
    u, z = uniform(seeds, SHAPE).double(), normal(seeds, SHAPE).double()
    n = u.numel()
    assert u.min() >= 0 and u.max() < 1
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3
    for power, mean, deviation in ((1, 0, 1), (2, 1, 2**0.5), (3, 0, 15**0.5), (4, 3, 96**0.5)):
        assert abs((z**power).mean().item() - mean) < 4 * deviation / n**0.5
    cells = np.bincount((u.flatten().numpy() * 4096).astype(int), minlength=4096)
    assert stats.chisquare(cells).pvalue > 1e-3


@pytest.mark.parametrize("seeds", SEED_SETS.values(), ids=SEED_SETS)
def test_neighbours_are_uncorrelated(seeds):
    """Pixels to the right and below, channels, and fields of neighbouring seeds: correlations within 4.5 deviations."""
    u = (uniform(seeds, SHAPE).double() - 0.5) * 12**0.5
    for field in (u, normal(seeds, SHAPE).double()):
        for axis in range(4):
            size = field.shape[axis] - 1
            a, b = field.narrow(axis, 0, size), field.narrow(axis, 1, size)
            assert abs((a * b).mean().item()) * a.numel() ** 0.5 < 4.5
    flat = u.flatten(1)
    across = flat @ flat.T / flat.shape[1] ** 0.5
    assert across.fill_diagonal_(0).abs().max() < 5


@pytest.mark.parametrize("bit", [0, 1, 20, 31, 32, 33, 45, 52])
def test_every_bit_of_the_seed_flips_half_the_bits(bit):
    seeds = SEED_SETS["random"]
    words = [(uniform(s, (500,)).double() * 2**24).long() for s in (seeds, seeds ^ (1 << bit))]
    flips = torch.stack([((words[0] ^ words[1]) >> i & 1).double().mean() for i in range(24)])
    assert (flips - 0.5).abs().max() < 5 * 0.5 / (48 * 500) ** 0.5


def test_odd_counts_and_extremes():
    assert normal(torch.tensor([5]), (7,)).shape == (1, 7)
    assert torch.isfinite(normal(torch.arange(200), (5000,))).all()
    assert torch.isfinite(normal_from(torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64))).all()


def test_seeds():
    assert seeds_from(torch.tensor([0.0, 0.5, 1 - 2.0**-53], dtype=torch.float64)).tolist() == [0, 2**52, 2**53 - 1]
    assert fixed_seed("noise", 0, 5.0) == fixed_seed("noise", 0, 5) != fixed_seed("noise", 1, 5)
    assert 0 <= fixed_seed("elastic", 0, 10, 2.5) < 2**53


needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton, which comes with CUDA builds, is absent")

INTERPRETED = """
import torch
from invariance.transforms.counter import _bits, keys_of
from invariance.transforms.counter_triton import fill_bits
seeds = torch.randint(2**53, (3,), generator=torch.Generator().manual_seed(1))
for count in (1, 1024, 2500):
    found = torch.full((3, count), torch.nan)
    fill_bits(keys_of(seeds), found)
    assert torch.equal(found, _bits(keys_of(seeds), count)), count
print("agrees")
"""

COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from invariance.transforms.counter_triton import _BLOCK, _bits_kernel
kinds = {"keys": "*i32", "out": "*fp32", "count": "i32", "BLOCK": "constexpr"}
triton.compile(ASTSource(_bits_kernel, kinds, constexprs={"BLOCK": _BLOCK}), target=GPUTarget("cuda", 80, 32))
print("compiled")
"""


@pytest.mark.long
@needs_triton
@pytest.mark.parametrize(
    ("code", "told", "more"),
    [(INTERPRETED, "agrees", {"TRITON_INTERPRET": "1"}), (COMPILED, "compiled", {})],
    ids=["interpreted", "compiled"],
)
def test_the_gpus_kernel_gives_the_same_bits_and_compiles_without_a_gpu(code, told, more, tmp_path):
    if told == "compiled" and sys.platform != "linux":
        pytest.skip("the compiler for NVIDIA GPUs is packaged for Linux")
    known = {**os.environ, "PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(tmp_path), **more}
    done = subprocess.run([sys.executable, "-c", code], env=known, capture_output=True, text=True)
    assert done.stdout.strip() == told, done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_fields_on_a_gpu_are_those_of_torchs_own_kernels_there(monkeypatch):
    found = [field(SEED_SETS["random"], SHAPE, "cuda") for field in (uniform, normal)]
    monkeypatch.setattr("invariance.transforms.counter._TRITON", False)
    assert all(map(torch.equal, found, [field(SEED_SETS["random"], SHAPE, "cuda") for field in (uniform, normal)]))
