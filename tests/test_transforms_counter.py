"""Counter-based random fields: pure functions of (seed, index), and random by every measure taken here."""

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
