import math

import numpy as np
import pytest
import torch
from scipy import stats

from invariance.errors import UserError
from invariance.measures import MEASURES
from invariance.measures.bootstrap import bootstrap, wilson
from invariance.measures.distance import l2_distance_per_image, rms
from invariance.measures.error import errors_per_image


def test_rms_is_the_root_mean_square_of_each_dimension():
    r = torch.randn(10000, 3) * torch.tensor([1.0, 5.0, 0.0]) + torch.tensor([2.0, 0.0, 0.0])
    np.testing.assert_allclose(rms(r), np.sqrt((r.double().numpy() ** 2).mean(0)), rtol=1e-12)


def test_l2_distance_by_the_formula():
    r_hat, r = torch.rand(9000, 4), torch.rand(9000, 4)
    scale = torch.tensor([0.5, 1.0, 3.0, 8.0], dtype=torch.float64)
    found = l2_distance_per_image(r_hat, r, scale)
    for n in (0, 17, 8999):
        a, b = r_hat[n].double() / scale, r[n].double() / scale
        assert float(found[n]) == pytest.approx(float((a - b).norm() / b.norm()), rel=1e-12)


def test_l2_distance_does_not_depend_on_the_size_of_a_dimension():
    r_hat, r, by = torch.rand(50, 6), torch.rand(50, 6), torch.tensor([1e-3, 1.0, 1e3, 2.0, 5.0, 0.1])
    scaled = l2_distance_per_image(r_hat * by, r * by, rms(r * by))
    torch.testing.assert_close(l2_distance_per_image(r_hat, r, rms(r)), scaled, rtol=1e-5, atol=0)


def test_l2_distance_leaves_out_dead_dimensions_and_empty_images():
    r = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 9.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    r_hat = torch.tensor([[3.0, 1.0, torch.inf], [1.0, 1.0, 9.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    found = l2_distance_per_image(r_hat, r, torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))
    assert found[0] == pytest.approx(0.6) and found[3] == 0
    assert found.isnan().tolist() == [False, True, True, False]
    assert bootstrap(found).n_used.tolist() == [2]


def test_errors_count_wrong_and_undefined_and_leave_the_unlabelled_out():
    logits = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0], [1.0, torch.nan]])
    np.testing.assert_equal(errors_per_image(logits, torch.tensor([1, 1, -1, 1])).numpy(), [0, 1, np.nan, 1])


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ([1], r"\(4, 3\) and labels \(1,\)"),
        ([[1, 1, 1, 1]], r"\(1, 4\)"),
        ([0, 1, 9, 2], "label 9 of 3 classes"),
        ([0, 1, 3, 2], "label 3 of 3"),
        ([0, -2, 1, 2], "label -2 of 3"),
        (1, r"labels \(\)"),
    ],
)
def test_labels_that_belong_to_no_logits_are_refused(labels, told):
    with pytest.raises(UserError, match=told):
        errors_per_image(torch.rand(4, 3), torch.tensor(labels))


def test_no_images_have_no_errors():
    assert errors_per_image(torch.rand(0, 3), torch.zeros(0, dtype=torch.int64)).shape == (0,)


@pytest.mark.parametrize(
    ("r_hat", "r", "scale", "told"),
    [
        ((5, 3), (5, 3), 2.0, r"scale of 2.0: give a tensor of shape \(3,\)"),
        ((5, 3), (5, 3), torch.ones(1), r"scale of shape \(1,\)"),
        ((5, 3), (5, 3), torch.ones(5, 3), r"scale of shape \(5, 3\)"),
        ((5, 1), (5, 3), torch.ones(3), r"\(5, 1\) and \(5, 3\)"),
        ((6, 3), (5, 3), torch.ones(3), r"\(6, 3\) and \(5, 3\)"),
        ((3,), (3,), torch.ones(3), r"\(N, D\)"),
    ],
)
def test_distances_of_other_shapes_are_refused(r_hat, r, scale, told):
    with pytest.raises(UserError, match=told):
        l2_distance_per_image(torch.rand(r_hat), torch.rand(r), scale)


def test_bootstrap_agrees_with_scipy():
    values = np.random.default_rng(0).exponential(size=(2, 400))
    found = bootstrap(values, n_resamples=20000)
    for k in range(2):
        wanted = stats.bootstrap((values[k],), np.mean, n_resamples=20000, method="percentile", rng=1)
        interval = wanted.confidence_interval
        spread = interval.high - interval.low
        assert found.mean[k] == pytest.approx(values[k].mean(), rel=1e-12)
        assert abs(found.low[k] - interval.low) < 0.03 * spread
        assert abs(found.high[k] - interval.high) < 0.03 * spread


def test_bootstrap_agrees_with_the_normal_theory():
    values = np.random.default_rng(1).normal(3, 2, size=5000)
    found = bootstrap(values, n_resamples=4000, level=0.9)
    half = stats.norm.ppf(0.95) * values.std() / math.sqrt(5000)
    assert found.low[0] == pytest.approx(values.mean() - half, abs=0.06 * half)
    assert found.high[0] == pytest.approx(values.mean() + half, abs=0.06 * half)


def test_bootstrap_leaves_nan_out_of_each_resample():
    rng = np.random.default_rng(2)
    table = rng.random((3, 300))
    table[1, ::3] = np.nan
    table[2] = np.nan
    found = bootstrap(table, n_resamples=500, seed=4)
    draws = np.random.default_rng(4).integers(300, size=(500, 300))
    for k in range(2):
        used = ~np.isnan(table[k])
        means = [table[k][one[used[one]]].mean() for one in draws]
        assert found.low[k] == pytest.approx(np.quantile(means, 0.025), rel=1e-10)
        assert found.high[k] == pytest.approx(np.quantile(means, 0.975), rel=1e-10)
    assert found.n_used.tolist() == [300, 200, 0]
    assert np.isnan([found.mean[2], found.low[2], found.high[2]]).all()


def test_bootstrap_rows_share_their_resamples_and_the_seed_decides():
    row = np.random.default_rng(3).random(200)
    both = bootstrap(np.stack([row, 1 - row]), seed=1)
    assert both.low[0] == pytest.approx(1 - both.high[1], rel=1e-10)
    assert bootstrap(row, seed=1).low == pytest.approx(both.low[0], rel=1e-12)
    assert bootstrap(row, seed=2).low != pytest.approx(both.low[0], rel=1e-12)


def test_bootstrap_of_constants_one_image_and_none():
    constant = bootstrap(np.full((1, 50), 0.3))
    assert [*constant.mean, *constant.low, *constant.high] == pytest.approx([0.3] * 3, rel=1e-12)
    one = bootstrap(np.array([[0.7], [np.nan]]))
    assert one.low[0] == one.high[0] == 0.7 and np.isnan(one.low[1])
    none = bootstrap(np.zeros((2, 0)))
    assert np.isnan(none.mean).all() and none.n_used.tolist() == [0, 0]
    assert bootstrap(torch.ones(1, 4, dtype=torch.float32)).mean.tolist() == [1.0]


def test_bootstrap_leaves_the_global_state_alone():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    bootstrap(np.random.default_rng(0).random(30))
    assert (np.random.get_state()[1] == before).all()


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 40), (3, 40), (40, 40), (417, 5003)])
def test_wilson_is_scipys(k, n):
    values = np.zeros(n + 2)
    values[:k] = 1
    values[n:] = np.nan
    found = wilson(values)
    wanted = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert (found.mean[0], found.n_used[0]) == (k / n, n)
    assert (found.low[0], found.high[0]) == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    assert 0 <= found.low[0] <= found.mean[0] <= found.high[0] <= 1


def test_an_error_that_was_not_seen_may_still_be_made():
    """Resampling 359 right answers says that no error can be; a rate of 0 is within 1.1 % all the same."""
    right = np.zeros(359)
    assert bootstrap(right).high[0] == 0 and 0.010 < wilson(right).high[0] < 0.011
    assert MEASURES["error_rate"].interval is wilson and MEASURES["l2_distance"].interval is bootstrap


def test_wilson_covers_rare_rates_as_often_as_it_says():
    for rate in (0.002, 0.01, 0.3):
        drawn = np.random.default_rng(7).binomial(1, rate, (4000, 359)).astype(float)
        ends = wilson(drawn)
        assert ((ends.low <= rate) & (rate <= ends.high)).mean() > 0.93


def test_wilson_of_nothing_is_nothing():
    found = wilson(np.full((1, 3), np.nan))
    assert np.isnan([found.mean[0], found.low[0], found.high[0]]).all() and found.n_used[0] == 0
