"""Maps in closed form: of low rank, orthogonal, and ridge in its dual form, against float64 formulas."""

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from sklearn.linear_model import Ridge as SklearnRidge

from invariance.engine.fit import fit_maps
from invariance.errors import UserError
from invariance.maps import (
    FittedMaps,
    MinibatchSGD,
    OnlineSGD,
    Procrustes,
    Ridge,
    Wanted,
    begin_fit,
    build_map,
    map_named,
    order,
    require_room,
    solvers_of,
)
from invariance.maps.kernel import Images
from invariance.maps.moments import Moments
from invariance.maps.spec import leaning, maps_of, unchosen
from invariance.maps.unseen import HALVES, closed_by_halves, deal_classes


def pairs(n, d, outputs, seed=0, dtype=torch.float64):
    """Features about a mean other than 0, and targets that they tell something of."""
    draw = torch.Generator().manual_seed(seed)
    r = torch.randn(n, d, generator=draw, dtype=dtype) @ torch.randn(d, d, generator=draw, dtype=dtype)
    r = r + 3 * torch.randn(d, generator=draw, dtype=dtype)
    mix = torch.randn(d, outputs, generator=draw, dtype=dtype)
    return r, r @ mix / d + torch.randn(n, outputs, generator=draw, dtype=dtype) - 2


def both_forms(r, t):
    """The system from sums over images, and from the images."""
    moments = Moments(r.shape[1], t.shape[1])
    for part_r, part_t in zip(r.split(7), t.split(7), strict=True):
        moments.add(part_r, part_t)
    return moments, Images(r, t)


def augmented(r, t, strength):
    """Centred features and targets as a problem without a penalty, as numpy arrays, with W of any rank."""
    r, t = (one.numpy() - one.numpy().mean(0) for one in (r, t))
    damping = strength * (r**2).sum() / r.shape[1]
    return np.r_[r, np.sqrt(damping) * np.eye(r.shape[1])], np.r_[t, np.zeros((r.shape[1], t.shape[1]))]


def alternating(x, y, rank, seed):
    """The least ‖X A B − Y‖² over A (D_in, k) and B (k, D_out), found by least squares in turn from a random start."""
    right = np.random.default_rng(seed).normal(size=(rank, y.shape[1]))
    for _ in range(4000):
        left = np.linalg.lstsq(x, y @ np.linalg.pinv(right), rcond=None)[0]
        right = np.linalg.lstsq(x @ left, y, rcond=None)[0]
    return left @ right


@pytest.mark.parametrize(("n", "d", "outputs"), [(40, 6, 5), (9, 14, 11), (25, 4, 9)])
@pytest.mark.parametrize("rank", [1, 3])
def test_of_a_rank_it_is_the_least_of_ridges_objective(n, d, outputs, rank):
    r, t = pairs(n, d, outputs, seed=rank)
    x, y = augmented(r, t, 0.05)
    wanted = alternating(x, y, rank, seed=0)
    for system in both_forms(r, t):
        left, right, bias = system.reduced([0.05], rank)
        weight = (left @ right).numpy()
        assert left.shape == (outputs, rank) and right.shape == (rank, d)
        ours, other = ((np.linalg.norm(x @ one - y) ** 2) for one in (weight.T, wanted))
        assert ours <= other * (1 + 1e-9) and ours == pytest.approx(other, rel=1e-6)
        np.testing.assert_allclose(weight.T, wanted, atol=1e-3 * np.abs(wanted).max())
        np.testing.assert_allclose(bias, t.numpy().mean(0) - weight @ r.numpy().mean(0), atol=1e-9)


@pytest.mark.parametrize(("n", "d"), [(40, 6), (9, 14)])
def test_of_any_rank_it_is_ridge_and_of_none_a_shift(n, d):
    r, t = pairs(n, d, d)
    for system in both_forms(r, t):
        weight, bias = system.solve([0.3])
        for rank in (d, d + 5):
            left, right, shift = system.reduced([0.3], rank)
            assert left.shape == (d, d)
            torch.testing.assert_close(left @ right, weight.T, rtol=1e-8, atol=1e-10)
            torch.testing.assert_close(shift, bias, rtol=1e-8, atol=1e-8)
        left, right, shift = system.reduced([0.3], 0)
        assert left.shape == (d, 0)
        torch.testing.assert_close(shift, t.mean(0))


@pytest.mark.parametrize("strength", [0.0, 1e-4, 0.2, 30.0])
@pytest.mark.parametrize(("n", "d", "outputs"), [(11, 23, 6), (22, 23, 30), (2, 5, 5)])
def test_the_dual_form_is_the_primal(n, d, outputs, strength):
    r, t = pairs(n, d, outputs, seed=n)
    r[:, 3] = 7.0
    primal, dual = both_forms(r, t)
    scale = float(primal.solve([strength])[0].abs().max())
    for ours, other in zip(dual.solve([strength]), primal.solve([strength]), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-6, atol=1e-6 * scale)
    halves = [strength, 2 * strength + 1] if outputs % 2 == 0 else [strength]
    for ours, other in zip(dual.solve(halves), primal.solve(halves), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-6, atol=1e-6 * scale)
    if strength:
        wide = r.numpy()
        alpha = strength * n * wide.var(0).mean()
        wanted = SklearnRidge(alpha=alpha, solver="svd").fit(wide, t.numpy())
        np.testing.assert_allclose(dual.solve([strength])[0].T, wanted.coef_, rtol=1e-6, atol=1e-6 * scale)


@pytest.mark.parametrize("residual", [True, False])
def test_fewer_images_than_dimensions_choose_the_same_strengths_and_maps(residual, monkeypatch):
    draw = torch.Generator().manual_seed(4)
    t = torch.randn(60, 80, generator=draw) @ torch.randn(80, 80, generator=draw) / 9
    g = torch.stack([t.roll(k, 1) + 0.3 * torch.randn(60, 80, generator=draw) for k in (0, 1)])
    kind, targets = ("residual" if residual else "linear"), [t, t.flip(1) + 4 * torch.randn(60, 80, generator=draw)]
    ours = fit_maps(g, targets, kind, Ridge(), relu=[False, False])
    monkeypatch.setattr("invariance.maps.ridge.fewer_images", lambda *_: False)
    other = fit_maps(g, targets, kind, Ridge(), relu=[False, False])
    assert list(ours.strength) == list(other.strength) and len(set(ours.strength)) > 1
    for name in ("weight", "bias"):
        torch.testing.assert_close(ours.parameters[name], other.parameters[name], rtol=1e-4, atol=1e-5)


def turned(d, seed):
    """A random orthogonal matrix, of determinant −1."""
    q = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q
    return q if torch.linalg.det(q) < 0 else q * torch.cat([torch.tensor([-1.0]), torch.ones(d - 1)]).double()


def test_a_known_rotation_is_recovered_whatever_the_means():
    r, _ = pairs(50, 7, 7)
    q = turned(7, 1)
    t = (r - 1.5) @ q.T + torch.arange(7)
    found = fit_maps(r[None].float(), t.float(), "orthogonal", Procrustes(block=13))
    torch.testing.assert_close(found.parameters["weight"][0].double(), q, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.apply(0, r.float()), t.float(), rtol=0, atol=1e-3)
    assert list(found.status) == ["ok"] and float(found.error[0]) < 1e-6 and found.solver == "procrustes"


def test_an_orthogonal_map_is_scipys_in_every_fit_and_stacked_target():
    r, first = pairs(60, 8, 8, seed=2, dtype=torch.float32)
    other, second = pairs(60, 8, 8, seed=3, dtype=torch.float32)
    found = fit_maps([r, other], [first, second], "orthogonal", Procrustes())
    for f, (a, b) in enumerate([(r, first), (r, second), (other, first), (other, second)]):
        a, b = (one.double().numpy() - one.double().numpy().mean(0) for one in (a, b))
        wanted, _ = orthogonal_procrustes(a, b)  # a @ wanted ≈ b
        np.testing.assert_allclose(found.parameters["weight"][f].numpy().T, wanted, atol=1e-5)
    assert len(found) == 4 and list(found.relu) == [False] * 4 and not len(found.strength)


def test_what_the_images_say_nothing_of_stays_as_it_is():
    q = turned(9, 5)
    r, _ = pairs(4, 9, 9, seed=6)
    t = r @ q.T
    [weight] = fit_maps(r[None].float(), t.float(), "orthogonal", Procrustes()).parameters["weight"].double()
    torch.testing.assert_close(weight @ weight.T, torch.eye(9).double(), rtol=0, atol=1e-5)
    centred = [one - one.mean(0) for one in (r, t)]
    torch.testing.assert_close(centred[0] @ weight.T, centred[1], rtol=0, atol=1e-4)
    free = torch.linalg.svd(torch.cat(centred)).Vh[6:]  # of 9 dimensions three see neither
    torch.testing.assert_close(free @ weight.T, free, rtol=0, atol=1e-5)
    dead, target = torch.zeros(30, 5), torch.zeros(30, 5)
    dead[:, 2], target[:, 2] = torch.arange(30), torch.arange(30).flip(0)
    dead[:, 4] = target[:, 4] = 700.1
    [weight] = fit_maps(dead[None], target, "orthogonal", Procrustes()).parameters["weight"]
    torch.testing.assert_close(weight, torch.diag(torch.tensor([1.0, 1, -1, 1, 1])))


def test_several_fits_at_once_are_those_of_each_alone():
    draw = torch.Generator().manual_seed(0)
    t = torch.randn(120, 10, generator=draw).relu()
    g = torch.stack([t.roll(k, 1) + 0.1 * torch.randn(120, 10, generator=draw) for k in (0, 1, 4)])
    for kind, solver in (("low_rank:3", Ridge()), ("orthogonal", Procrustes()), ("low_rank:0", Ridge())):
        together = fit_maps(g, [t, t.flip(1)], kind, solver)
        assert list(together.status) == ["ok"] * 6 and list(together.relu) == [True] * 6
        for j in range(3):
            for k, target in enumerate((t, t.flip(1))):
                alone = fit_maps(g[j : j + 1], target, kind, solver)
                torch.testing.assert_close(together.apply(2 * j + k, g[j]), alone.apply(0, g[j]), rtol=1e-4, atol=1e-4)
                r_hat = together.apply(2 * j + k, g[j])
                error = float((r_hat - target).square().sum(1).mean())
                assert float(together.error[2 * j + k]) == pytest.approx(error, rel=1e-5)
    full, ridge = (fit_maps(g, t, kind, Ridge()) for kind in ("low_rank:10", "residual"))
    assert list(full.strength) == list(ridge.strength)
    low = fit_maps(g, t, "low_rank:2", Ridge())
    assert list(low.strength) == list(ridge.strength) and (low.error[1:] > ridge.error[1:]).all()
    torch.testing.assert_close(full.apply(1, g[1]), ridge.apply(1, g[1]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "solver"), [("low_rank:2", Ridge()), ("orthogonal", Procrustes())])
@pytest.mark.parametrize("n", [1, 2, 5, 60])
def test_dead_units_copies_few_images_and_what_is_no_number(kind, solver, n):
    r, t = pairs(n, 8, 8, dtype=torch.float32)
    r[:, 3], t[:, 3], r[:, 5] = 0, 0, r[:, 4]
    found = fit_maps(torch.stack([r, r.flip(1)]), t, kind, solver)
    assert all(bool(torch.isfinite(one).all()) for one in found.parameters.values())
    assert list(found.status) == ["ok", "ok"]
    broken = r.clone()
    broken[0, 2] = torch.nan
    assert list(fit_maps(torch.stack([r, broken]), t, kind, solver).status) == ["ok", "diverged"]
    assert list(fit_maps(r[None], torch.full_like(t, torch.inf), kind, solver).status) == ["diverged"]


def test_nothing_to_undo_is_no_divergence():
    _, t = pairs(50, 8, 8, dtype=torch.float32)
    for kind, solver in (("low_rank:2", Ridge()), ("orthogonal", Procrustes())):
        for target in (t, t.relu()):
            found = fit_maps(target[None], target, kind, solver)
            assert list(found.status) == ["ok"] and float(found.error[0]) < 1e-6


KINDS = [
    ("residual", Ridge()),
    ("residual", OnlineSGD(rate=0.02)),
    ("low_rank:6", Ridge()),
    ("orthogonal", Procrustes()),
    ("mlp", MinibatchSGD()),
]


@pytest.mark.parametrize(("kind", "solver"), KINDS)
def test_sigma_is_the_relu_where_the_target_is_never_negative(kind, solver):
    draw = torch.Generator().manual_seed(1)
    r = torch.randn(200, 6, generator=draw)
    t = r.roll(1, 1) @ torch.diag(torch.tensor([1.0, -1, 1, 1, 1, 1]))
    found = fit_maps(r[None], t, kind, solver)
    assert list(found.relu) == [False] and list(found.status) == ["ok"] and bool((found.apply(0, r) < 0).any())
    assert float(found.error[0]) < 0.1 * float(found.reference[0])
    above = fit_maps(r[None], t.relu(), kind, solver)
    assert list(above.relu) == [True] and not bool((above.apply(0, r) < 0).any())
    told = fit_maps(r[None], t.relu(), kind, solver, relu=[False])
    assert list(told.relu) == [False] and bool((told.apply(0, r) < 0).any())
    with pytest.raises(UserError, match="relu=.*one for each of 1 targets"):
        fit_maps(r[None], t, kind, solver, relu=[True, False])


def test_the_strength_is_chosen_through_the_same_sigma():
    draw = torch.Generator().manual_seed(2)
    t = torch.randn(90, 24, generator=draw)
    r = t @ torch.randn(24, 24, generator=draw) / 3 + torch.randn(90, 24, generator=draw)
    config = Ridge(held_out=0.3)
    turn = order(90, 0, 0)
    held, rest = turn[:27], turn[27:]
    for target, sigma in ((t, lambda z: z), (t.relu(), torch.relu)):
        scores = []
        for strength in config.strengths:
            one = SklearnRidge(alpha=strength * 63 * float(r[rest].double().var(0, correction=0).mean()))
            one.fit(r[rest].double().numpy(), (target - r)[rest].double().numpy())
            z = r[held].double() + torch.from_numpy(one.predict(r[held].double().numpy()))
            scores.append(float((sigma(z) - target[held]).square().sum()))
        assert fit_maps(r[None], target, "residual", config).strength[0] == config.strengths[int(np.argmin(scores))]


def test_online_sgd_without_relu_minimises_what_it_says():
    draw = torch.Generator().manual_seed(3)
    r = torch.randn(40, 5, generator=draw)
    t = r @ torch.randn(5, 5, generator=draw) / 2
    config = OnlineSGD(epochs=2, rate=0.05)
    found = fit_maps(r[None], t, "residual", config)
    weight, bias = (torch.zeros(size, dtype=torch.float64, requires_grad=True) for size in ((5, 5), (5,)))
    optimizer = torch.optim.SGD([weight, bias], lr=0.05, momentum=0.9, weight_decay=1e-5)
    for epoch in range(2):
        for i in order(40, 0, epoch).tolist():
            optimizer.zero_grad()
            ((weight @ r[i].double() + r[i] + bias - t[i]).square().sum() / 10).backward()
            optimizer.step()
    torch.testing.assert_close(found.parameters["weight"][0].double(), weight.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.parameters["bias"][0].double(), bias.detach(), rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="some of the stacked targets have numbers below 0; fit them apart"):
        fit_maps(r[None], [t, t.relu()], "residual", config)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("residual", Ridge(strengths=(0.1,))), ("low_rank:3", Ridge(strengths=(0.1,))), ("orthogonal", Procrustes())],
)
@pytest.mark.parametrize("dim", [9, 70])
@pytest.mark.parametrize("negative", [False, True])
def test_maps_of_half_the_classes_are_fitted_on_their_images_alone(kind, settings, dim, negative):
    draw = torch.Generator().manual_seed(7)
    t = torch.randn(120, dim, generator=draw)
    t = t if negative else t.abs()
    r = t.roll(1, 1) + 0.2 * torch.randn(120, dim, generator=draw)
    labels = np.arange(120) % 8
    deal = deal_classes(labels, 8)
    maps = closed_by_halves(r, t, deal, settings, kind)
    assert isinstance(maps, FittedMaps) and len(maps) == 6 and list(maps.relu) == [not negative] * 6
    assert list(maps.status) == ["ok"] * 6 and maps.kind == kind
    for half, groups in enumerate(HALVES):
        images = torch.from_numpy(np.concatenate([deal.images[k] for k in groups]))
        alone = fit_maps(r[images][None], t[images], kind, settings, relu=[not negative])
        torch.testing.assert_close(maps.apply(half, r), alone.apply(0, r), rtol=1e-3, atol=2e-3)
        torch.testing.assert_close(maps.error[half], alone.error[0], rtol=1e-4, atol=1e-6)


def test_the_strength_of_half_the_classes_is_the_same_in_both_forms(monkeypatch):
    draw = torch.Generator().manual_seed(8)
    t = torch.randn(120, 70, generator=draw).relu()
    r = t.roll(1, 1) + 0.4 * torch.randn(120, 70, generator=draw)
    deal = deal_classes(np.arange(120) % 8, 8)
    dual = closed_by_halves(r, t, deal, Ridge())
    monkeypatch.setattr("invariance.maps.unseen.fewer_images", lambda *_: False)
    primal = closed_by_halves(r, t, deal, Ridge())
    assert list(dual.strength) == list(primal.strength)
    torch.testing.assert_close(dual.parameters["weight"], primal.parameters["weight"], rtol=1e-4, atol=1e-5)


def test_memory_is_what_the_form_needs():
    solver = Ridge()
    few, many = (Wanted("residual", True, 4096, 4096, n) for n in (500, 5000))
    assert solver.least_bytes(few) < solver.least_bytes(many) == 16 * 4096**2
    low = Wanted("low_rank:8", True, 10**6, 10**6, 50)
    assert solver.least_bytes(low) < 10**10 < solver.least_bytes(Wanted("residual", True, 10**6, 10**6, 50))
    require_room(solver, 10**6, 10**6, 50, kind="low_rank:8")
    with pytest.raises(UserError, match="solver=ridge for maps of 10000000 to 10000000 features"):
        require_room(solver, 10**7, 10**7, 50, kind="residual")
    with pytest.raises(UserError, match="solver=procrustes for maps of 10000000"):
        require_room(Procrustes(), 10**7, 10**7, 50, kind="orthogonal")


def counted_eigh(monkeypatch):
    """The sizes of all matrices that are decomposed from now on."""
    sizes, eigh = [], torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda one: sizes.append(len(one)) or eigh(one))
    return sizes


@pytest.mark.parametrize("n", [90, 11])  # by sums over images, and by their inner products
def test_maps_of_every_rank_share_the_decomposition_that_chooses_their_strength(monkeypatch, n):
    draw = torch.Generator().manual_seed(n)
    t = torch.randn(n, 13, generator=draw).relu()
    r = [(t + 0.4 * torch.randn(n, 13, generator=draw)).relu() for _ in range(2)]
    kinds, settings = ("residual", "low_rank:2", "low_rank:5"), Ridge()
    alone = []
    for kind in kinds:
        monkeypatch.setattr("invariance.maps.ridge._CHOSEN", {})
        alone.append(fit_maps(r, t, kind, settings))
    monkeypatch.setattr("invariance.maps.ridge._CHOSEN", {})
    sizes = counted_eigh(monkeypatch)
    found = [fit_maps(r, t, kind, settings) for kind in kinds]
    assert len(sizes) == 2 + 2 * 2  # of each g one, and one for the directions of each rank
    for one, other in zip(found, alone, strict=True):
        assert one.strength == other.strength
        assert all(torch.equal(one.parameters[name], other.parameters[name]) for name in other.parameters)
    sizes.clear()
    changes = ((settings, t + 1e-6), (Ridge(strengths=(0.1, 1.0)), t), (Ridge(seed=1), t))
    for count, (other, target) in enumerate(changes, 1):
        fit_maps(r, target, "residual", other)
        assert len(sizes) == 2 * count


def test_halves_of_the_classes_share_it_too(monkeypatch):
    draw = torch.Generator().manual_seed(3)
    t = torch.randn(120, 9, generator=draw).relu()
    r = (t + 0.4 * torch.randn(120, 9, generator=draw)).relu()
    deal = deal_classes(np.arange(120) % 8, 8)
    sizes = counted_eigh(monkeypatch)
    first = closed_by_halves(r, t, deal, Ridge(), "residual")
    assert len(sizes) == 6
    second = closed_by_halves(r, t, deal, Ridge(), "low_rank:9")
    assert len(sizes) == 12 and second.strength == first.strength  # those of the directions of a rank alone


def test_maps_follow_their_formulas():
    draw = torch.Generator().manual_seed(0)
    r, left, right, b = (torch.randn(*size, generator=draw) for size in ((7, 5), (5, 2), (2, 5), (5,)))
    q = torch.linalg.qr(torch.randn(5, 5, generator=draw)).Q
    for relu in (True, False):
        low = build_map("low_rank:2", {"left": left, "right": right, "bias": b}, relu)
        orthogonal = build_map("orthogonal", {"weight": q, "bias": b}, relu)
        for n in range(7):
            for module, z in ((low, r[n] + left @ (right @ r[n]) + b), (orthogonal, q @ r[n] + b)):
                torch.testing.assert_close(module(r)[n], z.clamp(min=0) if relu else z)


@pytest.mark.parametrize("kind", ["low_rank", "low_rank:", "low_rank:-1", "low_rank:x", "low_rank:08", "low_rank:2.5"])
def test_a_rank_that_lacks_or_is_none_is_named(kind):
    for call in (map_named, solvers_of, lambda one: maps_of({one: {}}, {"ridge": {}})):
        with pytest.raises(UserError, match=rf"map='{kind}': give its rank, .* as low_rank:8$"):
            call(kind)


def test_maps_are_chosen_with_their_solvers():
    specs = maps_of({"orthogonal": {}, "low_rank:8": None}, {"ridge": {"block": 7}})
    assert [(one.map, one.solver, one.name) for one in specs] == [
        ("orthogonal", "procrustes", "orthogonal_procrustes"),
        ("low_rank:8", "ridge", "low_rank.8_ridge"),
    ]
    [told] = unchosen(specs, {"ridge": {}})
    assert told.startswith("map=orthogonal is fitted by procrustes with its default settings")
    assert solvers_of("low_rank:8") == ("ridge",) and solvers_of("orthogonal") == ("procrustes",)
    with pytest.raises(UserError, match="solver=procrustes cannot fit map=low_rank:8; use solver=ridge"):
        begin_fit(Procrustes(), "low_rank:8", 4, 4, 10)
    with pytest.raises(UserError, match="map=orthogonal has them"):
        begin_fit(Procrustes(), "orthogonal", 4, 5, 10)
    with pytest.raises(UserError, match=r"Procrustes\.block"):
        Procrustes(block=0)
    [line] = leaning(specs, {"fc": 30, "conv": 500}, 40)
    assert line.startswith("layer conv: 40 fit images for 500 dimensions") and "(orthogonal, low_rank:8)" in line
    assert not leaning(maps_of({"identity": {}}, {}), {"conv": 500}, 40)
