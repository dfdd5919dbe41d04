import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from invariance.maps import OnlineSGD, OnlineSGDState, order
from invariance.maps.dynamics import Dynamics

ROOT = Path(__file__).parents[1]


def one_by_one(config, r, t, *, stacked=1, residual=True, relu=True, start=None):
    """The definition: torch.optim.SGD steps after every image. r (N, D_in), t (N, D_out) -> W, b."""
    inputs, outputs = r.shape[1], t.shape[1]
    weight = torch.zeros(outputs, inputs, dtype=r.dtype) if start is None else start[0].clone()
    bias = torch.zeros(outputs, dtype=r.dtype) if start is None else start[1].clone()
    weight.requires_grad_(), bias.requires_grad_()
    optimizer = torch.optim.SGD(
        [weight, bias], lr=config.rate, momentum=config.momentum, weight_decay=config.weight_decay
    )
    for r_n, t_n in zip(r, t, strict=True):
        z = weight @ r_n + bias + (r_n.repeat(stacked) if residual else 0)
        off = (z.relu() if relu else z) - t_n
        loss = off.square().sum() * (1.0 if config.loss == "square" else stacked / (2 * outputs))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return weight.detach(), bias.detach()


def blockwise(config, r, t, sizes, **options):
    """The same by blocks of the given sizes, repeated. r (J, N, D_in), t (J or 1, N, D_out)."""
    state = OnlineSGDState(config, r.shape[2], t.shape[2], len(r), dtype=r.dtype, **options)
    at, turn = 0, 0
    while at < r.shape[1]:
        rows = slice(at, at + sizes[turn % len(sizes)])
        state.step(r[:, rows], t[:, rows])
        at, turn = rows.stop, turn + 1
    return state.weights()


def features(n, d, seed, dtype=torch.float64, problems=1):
    """Sparse non-negative features, some units never awake, as a ReLU layer gives."""
    draw = torch.Generator().manual_seed(seed)
    r = torch.randn(problems, n, d, generator=draw, dtype=torch.float64).relu()
    r[:, :, torch.rand(d, generator=draw) < 0.15] = 0
    return r.to(dtype)


def assert_same(found, wanted, tolerance):
    for one, other in zip(found, wanted, strict=True):
        assert torch.isfinite(other).all()
        assert (one - other).abs().max() <= tolerance * other.abs().max()


CONFIGS = st.builds(
    OnlineSGD,
    rate=st.sampled_from([0.003, 0.03, 0.1, 0.3]) | st.floats(1e-3, 0.3),
    momentum=st.sampled_from([0.0, 0.5, 0.9, 0.99]) | st.floats(0, 0.97),
    weight_decay=st.sampled_from([0.0, 1e-5, 1e-2, 0.5]) | st.floats(0, 1),
    inner=st.sampled_from([1, 4, 16]),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    config=CONFIGS,
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    n=st.integers(1, 90),
    d=st.integers(1, 9),
    problems=st.integers(1, 3),
    stacked=st.integers(1, 3),
    residual=st.booleans(),
    relu=st.booleans(),
    shared=st.booleans(),
    started=st.booleans(),
    seed=st.integers(0, 2**20),
    form=st.sampled_from([None, "velocity", "modes"]),
)
def test_blocks_follow_torch_sgd(config, sizes, n, d, problems, stacked, residual, relu, shared, started, seed, form):
    if form == "modes" and Dynamics(config.rate, config.momentum, config.weight_decay).modes() is None:
        form = None
    outputs = stacked * (d if residual else d + 2)
    r = features(n, d, seed, problems=problems)
    t = features(n, outputs, seed + 1, problems=1 if shared else problems)
    draw = torch.Generator().manual_seed(seed)
    start = None
    if started or not residual:
        start = (
            0.3 * torch.randn(problems, outputs, d, generator=draw, dtype=torch.float64),
            0.3 * torch.randn(problems, outputs, generator=draw, dtype=torch.float64),
        )
    found = blockwise(config, r, t, sizes, stacked=stacked, residual=residual, relu=relu, start=start, form=form)
    for j in range(problems):
        wanted = one_by_one(
            config,
            r[j],
            t[0 if shared else j],
            stacked=stacked,
            residual=residual,
            relu=relu,
            start=None if start is None else (start[0][j], start[1][j]),
        )
        assert_same((found[0][j], found[1][j]), wanted, 1e-10)


@pytest.mark.parametrize(
    ("momentum", "weight_decay", "kind"),
    [
        (0.9, 1e-5, "apart"),
        (0.0, 0.0, "apart"),
        (0.99, 1e-5, "apart"),
        (0.9, 0.5, "complex"),
        (0.81, 0.1, "equal"),
        (0.81, 0.1 + 1e-9, "equal"),
        (0.2, 30.0, "apart"),
    ],
)
def test_every_kind_of_eigenvalues(momentum, weight_decay, kind):
    config = OnlineSGD(rate=0.1, momentum=momentum, weight_decay=weight_decay)
    dynamics = Dynamics(0.1, momentum, weight_decay)
    values = np.linalg.eigvals(dynamics.matrix())
    assert (np.abs(values.imag).max() > 1e-4) == (kind == "complex")
    assert (abs(values[0] - values[1]) < 5e-3) == (kind == "equal")
    assert (dynamics.modes() is not None) == (kind == "apart")
    r, t = features(700, 6, 3), features(700, 6, 4)
    found = blockwise(config, r, t, [256])
    assert_same((found[0][0], found[1][0]), one_by_one(config, r[0], t[0]), 1e-10)


def test_modes_are_the_eigenbasis():
    dynamics = Dynamics(0.1, 0.9, 1e-3)
    modes = dynamics.modes()
    n = np.arange(300)
    assert sorted([modes.slow, modes.fast]) == pytest.approx(sorted(np.linalg.eigvals(dynamics.matrix())), rel=1e-13)
    by_modes = modes.drive_slow * modes.slow**n + modes.drive_fast * modes.fast**n
    np.testing.assert_allclose(by_modes, dynamics.response(300)[:, 0], rtol=1e-12)
    at_rest = (1 - modes.rest_fast) * modes.slow**n + modes.rest_fast * modes.fast**n
    np.testing.assert_allclose(at_rest, dynamics.powers(300)[:, 0, 0], rtol=1e-12)


def test_several_epochs_with_short_last_blocks():
    config = OnlineSGD(epochs=4, seed=5)
    r, t = features(75, 8, 0, problems=2), features(75, 8, 1)
    visits = [order(75, config.seed, epoch) for epoch in range(4)]
    assert all(sorted(one.tolist()) == list(range(75)) for one in visits)
    assert len({tuple(one.tolist()) for one in visits}) == 4
    state = OnlineSGDState(config, 8, 8, 2, dtype=torch.float64)
    for visit in visits:
        for index in visit.split(32):
            state.step(r[:, index], t[:, index])
    whole = torch.cat(visits)
    for j in range(2):
        wanted = one_by_one(config, r[j][whole], t[0][whole])
        assert_same((state.weights()[0][j], state.weights()[1][j]), wanted, 1e-10)


@pytest.mark.parametrize("form", ["modes", "velocity"])
def test_weights_may_be_read_on_the_way(form):
    config = OnlineSGD()
    r, t = features(60, 5, 0), features(60, 5, 1)
    state = OnlineSGDState(config, 5, 5, dtype=torch.float64, form=form)
    for rows in (slice(0, 20), slice(20, 60)):
        block = r[:, rows].clone()
        state.step(block, t[:, rows])
        block.fill_(torch.nan)  # the caller's memory is the caller's
        weight, bias = state.weights()
        assert_same((weight[0], bias[0]), one_by_one(config, r[0, : rows.stop], t[0, : rows.stop]), 1e-10)
        weight.fill_(torch.nan)


def test_square_loss_is_the_scaled_one_at_another_rate():
    r, t = features(50, 8, 0), features(50, 16, 1)
    square = blockwise(OnlineSGD(rate=0.1 / 16, loss="square", weight_decay=0), r, t, [20], stacked=2)
    scaled = blockwise(OnlineSGD(rate=0.1, loss="scaled", weight_decay=0), r, t, [20], stacked=2)
    assert_same(square, scaled, 1e-12)


@pytest.mark.parametrize("momentum", [0.9, 0.99])
def test_float32_at_full_size(momentum):
    """Units do not see each other, so a few rows of W, followed one by one, stand for all 4096."""
    d, n, rows = 4096, 400, torch.arange(5, 4096, 128)
    config = OnlineSGD(momentum=momentum)
    r, t = features(n, d, 0, torch.float32), features(n, d, 1, torch.float32)
    weight, bias = blockwise(config, r, t, [256])
    w, b = torch.zeros(len(rows), d), torch.zeros(len(rows))
    w.requires_grad_(), b.requires_grad_()
    optimizer = torch.optim.SGD([w, b], lr=config.rate, momentum=momentum, weight_decay=config.weight_decay)
    for r_n, t_n in zip(r[0], t[0], strict=True):
        loss = ((r_n[rows] + w @ r_n + b).relu() - t_n[rows]).square().sum() / (2 * d)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for found, wanted in ((weight[0, rows], w.detach()), (bias[0, rows], b.detach())):
        assert (found - wanted).norm() <= 1e-5 * wanted.norm()
    assert weight.norm() > 0.1


def test_identical_features_ask_for_nothing():
    r = features(100, 12, 0)
    weight, bias = blockwise(OnlineSGD(), r, r, [32])
    assert not weight.any() and not bias.any()


def test_problems_do_not_see_each_other():
    r, t = features(40, 6, 0, problems=3), features(40, 6, 1)
    r[1] = torch.nan  # as after a divergence
    weight, _ = blockwise(OnlineSGD(), r, t, [16])
    alone, _ = blockwise(OnlineSGD(), r[2:], t, [16])
    assert not torch.isfinite(weight[1]).all()
    assert_same(weight[2:], alone, 1e-12)


def test_block_error_is_the_running_squared_error():
    r, t = features(30, 6, 0, problems=2), features(30, 6, 1)
    state = OnlineSGDState(OnlineSGD(rate=1e-12), 6, 6, 2, dtype=torch.float64)
    state.step(r, t)
    torch.testing.assert_close(state.block_error(), (r - t).square().sum(2).mean(1))


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="stacked"):
        OnlineSGDState(OnlineSGD(), 4, 6)
    with pytest.raises(ValueError, match="velocity"):
        OnlineSGDState(OnlineSGD(weight_decay=0.5), 4, 4, form="modes")


needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton, which comes with CUDA builds, is absent")

INTERPRETED = """
import torch
from invariance.maps.recurrence import _run_inner_batched
from invariance.maps.recurrence_triton import run_inner
torch.manual_seed(0)
for problems, size, units, shared in ((2, 64, 40, True), (1, 5, 32, False), (3, 17, 70, True)):
    kernel = (0.1 * torch.randn(problems, size, size)).tril(-1)
    whole = torch.randn(problems, size + 9, units)
    target = torch.rand(1 if shared else problems, size, units)
    z, delta = whole[:, 4 : 4 + size], torch.full((problems, size, units), torch.nan)
    wanted = z.double().clone()
    wanted_delta = torch.zeros_like(wanted)
    for t in range(size):
        wanted[:, t] += (kernel[:, t].double().unsqueeze(1) @ wanted_delta).squeeze(1)
        wanted_delta[:, t] = (wanted[:, t] - target[:, t]) * (wanted[:, t] > 0)
    untouched = whole[:, :4].clone()
    run_inner(kernel, z, target, delta)
    assert (z - wanted).abs().max() < 1e-5 and (delta - wanted_delta).abs().max() < 1e-5
    assert torch.equal(whole[:, :4], untouched)
for size, units in ((64, 33), (7, 5)):
    kernel = (0.1 * torch.randn(2, size, size)).tril(-1)
    target = torch.rand(1, size, units)
    z = torch.randn(2, size, units)
    z[0, size // 2, 3], z[0, 2, 1], z[0, 4, 2] = torch.nan, torch.inf, -torch.inf
    kernel[1, size - 2, 1] = torch.nan
    ours, delta, wanted, wanted_delta = z.clone(), torch.zeros_like(z), z.clone(), torch.zeros_like(z)
    run_inner(kernel, ours, target, delta)
    _run_inner_batched(kernel, wanted, target, wanted_delta)
    for one, other in ((ours, wanted), (delta, wanted_delta)):
        torch.testing.assert_close(one, other, equal_nan=True, rtol=1e-4, atol=1e-4)
    assert delta[0, size // 2 :, 3].isnan().all() and not ours[0, : size // 2, 3].isnan().any()
    assert ours[1, size - 2 :].isnan().all() and not delta[1, : size - 2].isnan().any()
print("agrees")
"""

COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from invariance.maps.recurrence_triton import INNER, _UNITS, _inner_kernel
tensors = ("kernel", "z", "target", "delta")
sizes = {"INNER": INNER, "UNITS": _UNITS}
kinds = {n: "*fp32" if n in tensors else "constexpr" if n in sizes else "i32" for n in _inner_kernel.arg_names}
source = ASTSource(_inner_kernel, kinds, constexprs=sizes)
compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32), options={"num_warps": 1})
assert "shfl" not in compiled.asm["ptx"], "threads wait on each other"
print("compiled")
"""


def run_python(code, tmp_path, **environment):
    known = {**os.environ, "PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(tmp_path), **environment}
    return subprocess.run([sys.executable, "-c", code], env=known, capture_output=True, text=True)


@needs_triton
def test_gpu_recurrence_in_the_interpreter(tmp_path):
    done = run_python(INTERPRETED, tmp_path, TRITON_INTERPRET="1")
    assert done.stdout.strip() == "agrees", done.stderr


@needs_triton
@pytest.mark.skipif(sys.platform != "linux", reason="the compiler for NVIDIA GPUs is packaged for Linux")
def test_gpu_recurrence_compiles_without_a_gpu(tmp_path):
    done = run_python(COMPILED, tmp_path)
    assert done.stdout.strip() == "compiled", done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_follows_the_cpu():
    r, t = features(300, 96, 0, torch.float32, problems=2), features(300, 96, 1, torch.float32)
    wanted = blockwise(OnlineSGD(), r, t, [128])
    found = blockwise(OnlineSGD(), r.cuda(), t.cuda(), [128], device="cuda")
    assert_same([one.cpu() for one in found], wanted, 1e-4)
