import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge as SklearnRidge

from invariance.maps import Ridge, RidgeFit
from invariance.maps.moments import Moments


def fit(config, r, t, *, stacked=1, residual=True, block=37):
    """All at once. r (J, N, D_in), t (J or 1, N, D_out)."""
    one = RidgeFit(config, r.shape[2], t.shape[2], len(r), r.shape[1], stacked=stacked, residual=residual)
    for rows in torch.arange(r.shape[1]).split(block):
        one.step(r[:, rows], t[:, rows])
    return one, one.finish()


def data(n, d, outputs, seed, problems=1):
    draw = torch.Generator().manual_seed(seed)
    r = (torch.randn(problems, n, d, generator=draw) + torch.randn(d, generator=draw)).relu()
    return r, torch.randn(1, n, outputs, generator=draw).relu()


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(3, 60),
    d=st.integers(1, 12),
    outputs=st.integers(1, 5),
    strength=st.sampled_from([1e-4, 0.1, 10.0]),
    seed=st.integers(0, 9999),
)
def test_one_strength_is_sklearns_ridge(n, d, outputs, strength, seed):
    r, t = data(n, d, outputs, seed)
    one, found = fit(Ridge(strengths=(strength,)), r, t, residual=False)
    wide = r[0].double().numpy()
    alpha = strength * n * wide.var(0).mean()
    wanted = SklearnRidge(alpha=alpha, solver="svd").fit(wide, t[0].double().numpy())
    if alpha > 0:
        np.testing.assert_allclose(found["weight"][0], wanted.coef_.reshape(outputs, d), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found["bias"][0], wanted.intercept_, rtol=1e-4, atol=1e-5)
    assert one.strengths == [[strength]]


def test_without_strength_it_is_least_squares():
    r, t = data(80, 10, 4, 0)
    _, found = fit(Ridge(strengths=(0.0,)), r, t, residual=False)
    wide = np.c_[r[0].double().numpy(), np.ones(80)]
    wanted = np.linalg.lstsq(wide, t[0].double().numpy(), rcond=None)[0]
    np.testing.assert_allclose(np.c_[found["weight"][0], found["bias"][0]], wanted.T, atol=1e-5)


def test_residual_maps_shrink_to_the_identity():
    r, t = data(50, 6, 6, 1)
    _, loose = fit(Ridge(strengths=(1e6,)), r, t)
    assert loose["weight"].abs().max() < 1e-5
    torch.testing.assert_close(loose["bias"][0], (t[0] - r[0]).mean(0), rtol=1e-5, atol=1e-6)
    _, tight = fit(Ridge(strengths=(0.0,)), r, t)
    _, plain = fit(Ridge(strengths=(0.0,)), r, t, residual=False)
    torch.testing.assert_close(tight["weight"][0] + torch.eye(6), plain["weight"][0], rtol=1e-4, atol=1e-4)


def test_the_strength_is_the_best_on_the_held_out_images_through_the_relu():
    r, t = data(200, 30, 30, 2)
    config = Ridge(held_out=0.25)
    one, found = fit(config, r, t)
    held_r, held_t, rest_r, rest_t = r[0, :50], t[0, :50], r[:, 50:], t[:, 50:]
    scores = []
    for strength in config.strengths:
        _, single = fit(Ridge(strengths=(strength,)), rest_r, rest_t)
        r_hat = (held_r + held_r @ single["weight"][0].T + single["bias"][0]).relu()
        scores.append(float((r_hat - held_t).square().sum()))
    best = config.strengths[int(np.argmin(scores))]
    assert one.strengths == [[best]] and best not in (config.strengths[0], config.strengths[-1])
    _, again = fit(Ridge(strengths=(best,)), r, t)
    torch.testing.assert_close(found["weight"], again["weight"], rtol=1e-5, atol=1e-6)


def test_each_stacked_target_and_problem_stands_alone():
    r, first = data(120, 8, 8, 3, problems=2)
    quiet = r[:1] + 0.01 * torch.randn(1, 120, 8, generator=torch.Generator().manual_seed(0))
    one, found = fit(Ridge(), r, torch.cat([first, quiet], 2), stacked=2)
    assert one.strengths[0][0] != one.strengths[0][1]
    for j in range(2):
        for k, target in enumerate((first, quiet)):
            alone, single = fit(Ridge(), r[j : j + 1], target)
            assert alone.strengths[0][0] == one.strengths[j][k]
            torch.testing.assert_close(found["weight"][j, 8 * k : 8 * k + 8], single["weight"][0], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(found["bias"][j, 8 * k : 8 * k + 8], single["bias"][0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("strengths", [Ridge().strengths, (0.0,), (0.0, 1e-3)])
@pytest.mark.parametrize("n", [1, 2, 5, 60])
def test_dead_units_copies_and_few_images(strengths, n):
    r, t = data(n, 12, 12, 4)
    r[:, :, 3] = 0
    r[:, :, 5] = 7.0
    r[:, :, 8] = r[:, :, 7]
    _, found = fit(Ridge(strengths=strengths), r, t)
    assert torch.isfinite(found["weight"]).all() and torch.isfinite(found["bias"]).all()
    assert found["weight"][0, :, [3, 5]].abs().max() < 1e-6
    torch.testing.assert_close(found["weight"][0, :, 7], found["weight"][0, :, 8], rtol=1e-3, atol=1e-5)
    _, nothing = fit(Ridge(strengths=strengths), torch.zeros(1, n, 12), t)
    assert not nothing["weight"].any()
    torch.testing.assert_close(nothing["bias"][0], t[0].mean(0))


def test_an_exact_linear_map_is_recovered():
    r, _ = data(300, 10, 10, 5)
    draw = torch.Generator().manual_seed(6)
    weight, bias = 0.2 * torch.randn(10, 10, generator=draw), torch.rand(10, generator=draw) + 5
    t = r + r @ weight.T + bias
    assert (t > 0).all()
    _, found = fit(Ridge(), r, t)
    torch.testing.assert_close(found["weight"][0], weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found["bias"][0], bias, rtol=1e-3, atol=1e-3)


def test_moments_keep_digits_far_from_zero():
    r, t = data(500, 6, 3, 7)
    moments = Moments(6, 3)
    for part_r, part_t in zip((r[0] + 1000).split(33), t[0].split(33), strict=True):
        moments.add(part_r, part_t)
    gram, cross = moments.centred()
    wide = (r[0] + 1000).double()
    wide = wide - wide.mean(0)
    torch.testing.assert_close(gram, wide.T @ wide, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(cross, wide.T @ (t[0].double() - t[0].double().mean(0)), rtol=1e-6, atol=1e-6)
