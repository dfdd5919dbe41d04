"""Indices against closed forms and theorems."""

import math
import re

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

from invariance.errors import UserError
from invariance.measures.cka import linear_cka
from invariance.measures.moments import centred, cross_product
from invariance.measures.procrustes import nuclear_by_eigenvalues, procrustes_distance
from invariance.measures.r2 import Regression


def draw(n, d, seed=0, shift=0.7):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) + shift


def rotation(d, seed=0):
    q, _ = torch.linalg.qr(draw(d, d, seed, 0))
    return q


def all_three(x, y):
    a, b, cross = centred(x), centred(y), cross_product(x, y)
    return linear_cka(a, b, cross), procrustes_distance(a, b, cross), Regression(x).r2(b, cross)


def literal_hsic(k, m):
    """Song et al. 2012, Eq. 5, as it is printed."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    one = np.ones(n)
    middle = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ m) + middle - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


@settings(deadline=None, max_examples=30)
@given(n=st.integers(5, 40), d=st.integers(1, 9), e=st.integers(1, 9), seed=st.integers(0, 99))
def test_cka_is_the_ratio_of_literal_hsic(n, d, e, seed):
    x, y = draw(n, d, seed), draw(n, e, seed + 100)
    k, m = (x @ x.T).numpy(), (y @ y.T).numpy()
    own = literal_hsic(k, k) * literal_hsic(m, m)
    found = all_three(x, y)[0]
    if own > 1e-9 * np.linalg.norm(k) ** 2 * np.linalg.norm(m) ** 2 / n**4:
        assert found == pytest.approx(literal_hsic(k, m) / math.sqrt(own), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("d", "e"), [(5, 5), (7, 4), (4, 7), (1, 3)])
def test_procrustes_and_regression_against_scipy_and_scikit_learn(d, e):
    x, y = draw(60, d, 1), draw(60, e, 2) + draw(60, d, 1) @ draw(d, e, 3)
    _, procrustes, r2 = all_three(x, y)
    wide = max(d, e)
    a, b = (np.pad(one.numpy() - one.numpy().mean(0), ((0, 0), (0, wide - one.shape[1]))) for one in (x, y))
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    turn, _ = scipy.linalg.orthogonal_procrustes(a, b)
    assert procrustes == pytest.approx(np.linalg.norm(a @ turn - b), rel=1e-9)
    fitted = LinearRegression().fit(x.numpy(), y.numpy())
    rest = ((y.numpy() - fitted.predict(x.numpy())) ** 2).sum() / ((y - y.mean(0)) ** 2).sum().item()
    assert r2 == pytest.approx(1 - rest * 59 / (60 - d - 1), rel=1e-9)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: x @ rotation(6),
        lambda x: -3 * x,
        lambda x: x[:, torch.tensor([3, 0, 5, 1, 2, 4])],
        lambda x: x + 5,
        lambda x: x * torch.tensor([1, -1, 1, -1, 1, 1.0]),
        lambda x: torch.cat([x, torch.zeros(len(x), 2)], 1),
    ],
    ids=["itself", "rotated", "scaled", "permuted", "shifted", "reflected", "with dead units"],
)
def test_a_copy_is_at_no_distance(change):
    x = draw(50, 6)
    cka, procrustes, r2 = all_three(x, change(x))
    assert cka == pytest.approx(1, abs=1e-9) and procrustes < 1e-6 and r2 == pytest.approx(1, abs=1e-9)
    cka, procrustes, r2 = all_three(change(x), x)
    assert cka == pytest.approx(1, abs=1e-9) and procrustes < 1e-6 and r2 == pytest.approx(1, abs=1e-9)


def test_one_scale_for_each_dimension_shows_in_all_but_regression():
    x = draw(80, 6)
    stretched = x * torch.tensor([1, 2, 3, 4, 5, 6.0])
    cka, procrustes, r2 = all_three(x, stretched)
    assert cka < 0.95 and procrustes > 0.1 and r2 == pytest.approx(1, abs=1e-9)


@given(seed=st.integers(0, 200), widths=st.tuples(*[st.integers(1, 6)] * 3))
@settings(deadline=None, max_examples=40)
def test_symmetry_and_the_triangle_inequality(seed, widths):
    x, y, z = (draw(30, width, seed + k) + draw(30, 1, seed) for k, width in enumerate(widths))
    there, back = all_three(x, y), all_three(y, x)
    assert there[:2] == pytest.approx(back[:2], rel=1e-9, abs=1e-7)
    assert 0 <= there[1] <= math.sqrt(2) + 1e-9 and there[0] <= 1 + 1e-9 and there[2] <= 1 + 1e-9
    assert all_three(x, z)[1] <= there[1] + all_three(y, z)[1] + 1e-7


@pytest.mark.parametrize("decay", [0.0, -1.0, -3.0, -6.0])
@pytest.mark.parametrize("sizes", [(90, 40, 40), (90, 30, 50), (25, 40, 45)])  # N, D_x, D_y
def test_singular_values_by_eigenvalues_are_right_to_their_bound(monkeypatch, sizes, decay):
    """The worse the condition, the larger the bound; and where it says too little, singular values are computed."""
    n, d, e = sizes
    common = draw(n, max(d, e), 5) * torch.logspace(0, decay, max(d, e), dtype=torch.float64)
    x, y = common[:, :d] @ draw(d, d, 6), common[:, :e] @ draw(e, e, 7)
    a, b, cross = centred(x), centred(y), cross_product(x, y)
    exact = float(torch.linalg.svdvals(cross).sum())
    nuclear, bound = nuclear_by_eigenvalues(cross, n - 1)
    assert abs(nuclear - exact) <= bound + 1e-14 * exact
    wanted = procrustes_distance(a, b, cross)
    calls, svdvals = [], torch.linalg.svdvals
    monkeypatch.setattr("invariance.measures.procrustes.LARGE", 0)
    monkeypatch.setattr(torch.linalg, "svdvals", lambda one: calls.append(1) or svdvals(one))
    assert procrustes_distance(a, b, cross) == pytest.approx(wanted, rel=1e-7)
    enough = bound / math.sqrt(a.total * b.total) <= 1e-7 * wanted**2
    assert len(calls) == (not enough) and (enough or decay < -1) and (not enough or decay > -6)


def test_a_copy_of_many_dimensions_is_at_no_distance(monkeypatch):
    monkeypatch.setattr("invariance.measures.procrustes.LARGE", 0)
    x = draw(80, 30, 8)
    assert all_three(x, x)[1] < 1e-7 and all_three(x, 2 * x @ rotation(30))[1] < 1e-6


def test_unrelated_representations_are_about_0_though_dimensions_be_many():
    found = np.array([all_three(draw(120, 60, 2 * k), draw(120, 60, 2 * k + 1)) for k in range(20)])
    assert abs(found[:, 0].mean()) < 0.02 and abs(found[:, 2].mean()) < 0.05


def test_what_is_undefined_is_not_a_number():
    x, still = draw(20, 4), torch.full((20, 3), 2.5)
    for pair in ((x, still), (still, x), (still, still)):
        assert all(math.isnan(one) for one in all_three(*pair))
    assert math.isnan(Regression(draw(5, 4)).r2(centred(draw(5, 2)), cross_product(draw(5, 4), draw(5, 2))))
    assert math.isnan(all_three(draw(3, 2), draw(3, 2))[0])
    with pytest.raises(ValueError, match="20 and 21 images"):
        cross_product(x, draw(21, 4))


def test_float32_features_are_summed_in_float64():
    x = (draw(3000, 8, shift=100)).float()
    cka, procrustes, r2 = all_three(x, x @ rotation(8).float())
    assert cka == pytest.approx(1, abs=1e-5) and procrustes < 5e-3 and r2 == pytest.approx(1, abs=1e-5)


def test_products_of_other_shapes_and_images_are_refused():
    x, y = draw(9, 4), draw(9, 3, 1)
    a, b, cross = centred(x), centred(y), cross_product(x, y)
    for index in (linear_cka, procrustes_distance, lambda _, b, cross: Regression(x).r2(b, cross)):
        for wrong in (cross.T, cross[:, :2], cross[0], cross[None]):
            with pytest.raises(UserError, match=rf"{re.escape(str(tuple(wrong.shape)))} is not \(4, 3\)"):
                index(a, b, wrong)
        with pytest.raises(UserError, match="9 and 7 images"):
            index(a, centred(y[:7]), cross)
    with pytest.raises(UserError, match="9 and 7 images"):
        cross_product(x, y[:7])
    with pytest.raises(UserError, match=r"\(9, 4\) and \(9,\)"):
        cross_product(x, y[:, 0])
