import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from invariance.errors import UserError
from invariance.maps import (
    MAPS,
    SOLVERS,
    FittedMaps,
    IdentityMap,
    LinearMap,
    MinibatchFit,
    MinibatchSGD,
    MLPMap,
    OnlineSGD,
    ResidualMap,
    Ridge,
    begin_fit,
    build_map,
    fit_status,
    order,
    solver_from_config,
    solvers_of,
)

CONF = Path(__file__).parents[1] / "conf"


def test_maps_follow_their_formulas():
    draw = torch.Generator().manual_seed(0)
    r = torch.randn(7, 5, generator=draw)
    square, wide = torch.randn(5, 5, generator=draw), torch.randn(3, 5, generator=draw)
    first, second = torch.randn(4, 5, generator=draw), torch.randn(5, 4, generator=draw)
    b, c, d = (torch.randn(n, generator=draw) for n in (5, 3, 4))
    residual = build_map("residual", {"weight": square, "bias": b})
    linear = build_map("linear", {"weight": wide, "bias": c})
    mlp = build_map("mlp", {"weight_in": first, "bias_in": d, "weight": second, "bias": b})
    for n in range(7):
        torch.testing.assert_close(residual(r)[n], ((square + torch.eye(5)) @ r[n] + b).clamp(min=0))
        torch.testing.assert_close(linear(r)[n], (wide @ r[n] + c).clamp(min=0))
        torch.testing.assert_close(mlp(r)[n], (r[n] + second @ (first @ r[n] + d).clamp(min=0) + b).clamp(min=0))
    assert torch.equal(build_map("identity", {})(r), r)


def test_residual_maps_start_as_the_identity_on_features():
    r = torch.randn(6, 5).relu()
    for module in (IdentityMap(), ResidualMap(5), MLPMap(5), MLPMap(5, hidden=11)):
        assert torch.equal(module(r), r)
    assert not LinearMap(5, 3)(r).any()


def test_modules_share_the_fitted_weights():
    weights = {"weight": torch.zeros(2, 3, 3), "bias": torch.zeros(2, 3)}
    maps = FittedMaps("residual", "ridge", weights, ["ok"] * 2, torch.zeros(2), torch.zeros(2))
    module = maps.module(1)
    weights["bias"][1] += 1
    assert torch.equal(module.bias, torch.ones(3))
    assert torch.equal(maps.apply(1, torch.ones(5, 3), chunk=2), torch.full((5, 3), 2.0))
    assert torch.equal(maps.apply(0, torch.ones(5, 3)), torch.ones(5, 3))
    assert maps.apply(0, torch.ones(0, 3)).shape == (0, 3)


def test_order_is_new_each_epoch_and_known_in_advance():
    assert torch.equal(order(50, 3, 7), order(50, 3, 7))
    assert not torch.equal(order(50, 3, 7), order(50, 3, 8))
    assert not torch.equal(order(50, 3, 7), order(50, 4, 7))
    state = torch.random.get_rng_state()
    order(50, 3, 7)
    assert torch.equal(state, torch.random.get_rng_state())


def test_status_needs_a_finite_error_below_the_reference():
    error = torch.tensor([0.5, 1.0, 1.1, torch.nan, torch.inf, 1e-9])
    reference = torch.tensor([1.0, 1.0, 1.0, 1.0, torch.inf, 0.0])
    assert fit_status(error, reference, torch.ones(6)) == ["ok", "ok", "diverged", "diverged", "diverged", "ok"]


def test_minibatch_sgd_follows_the_module_and_its_optimizer():
    draw = torch.Generator().manual_seed(0)
    settings = MinibatchSGD(rate=0.2, weight_decay=1e-2, batch=8, hidden=6, seed=3)
    r = torch.randn(2, 40, 4, generator=draw, dtype=torch.float64).relu()
    t = torch.randn(1, 40, 4, generator=draw, dtype=torch.float64).relu()
    fit = MinibatchFit(settings, 4, 2, dtype=torch.float64)
    start = {name: value.clone() for name, value in fit.finish().items()}
    for rows in torch.arange(40).split(8):
        fit.step(r[:, rows], t[:, rows])
    found = fit.finish()
    for j in range(2):
        module = build_map("mlp", {name: value[j].clone() for name, value in start.items()})
        optimizer = torch.optim.SGD(module.parameters(), lr=0.2, momentum=0.9, weight_decay=1e-2)
        for rows in torch.arange(40).split(8):
            optimizer.zero_grad()
            ((module(r[j, rows]) - t[0, rows]).square().sum(1) / 8).mean().backward()
            optimizer.step()
        for name, value in module.named_parameters():
            torch.testing.assert_close(found[name][j], value.detach(), rtol=1e-9, atol=1e-12)
    assert not torch.equal(found["weight_in"][0], start["weight_in"][0])


def test_the_shipped_settings_are_the_defaults():
    for name, kind in SOLVERS.items():
        held = yaml.safe_load((CONF / "solver" / f"{name}.yaml").read_text())
        assert list(held) == [name]
        solver, default = solver_from_config(name, held[name]), kind()
        if isinstance(default, Ridge):
            assert solver.strengths == pytest.approx(default.strengths, rel=0.06)
            assert (solver.held_out, solver.seed, solver.block) == (default.held_out, default.seed, default.block)
        else:
            assert solver == default
    for kind in ("identity", "residual", "orthogonal", "mlp", "spatial", "warp"):
        assert list(yaml.safe_load((CONF / "map" / f"{kind}.yaml").read_text())) == [kind]
    kinds = ["low_rank:3" if kind == "low_rank" else kind for kind in MAPS]
    assert all(solvers_of(kind) for kind in kinds if kind not in ("identity", "warp")) and not solvers_of("identity")


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("online_sdg", {}, "did you mean 'online_sgd'"),
        ("online_sgd", {"momentun": 0.9}, "did you mean 'momentum'"),
        ("online_sgd", {"rate": -0.1}, "above 0"),
        ("online_sgd", {"rate": 0}, "above 0"),
        ("online_sgd", {"rate": float("nan")}, "nan"),
        ("online_sgd", {"rate": float("inf")}, "inf"),
        ("online_sgd", {"rate": "fast"}, "'fast'"),
        ("online_sgd", {"rate": True}, "True"),
        ("online_sgd", {"rate": None}, "None"),
        ("online_sgd", {"momentum": 1}, "below 1"),
        ("online_sgd", {"weight_decay": -1e-9}, "from 0"),
        ("online_sgd", {"epochs": 0}, "whole number from 1"),
        ("online_sgd", {"epochs": 2.5}, "whole number"),
        ("online_sgd", {"loss": "l1"}, "scaled"),
        ("online_sgd", {"relu": "no"}, "true or false"),
        ("online_sgd", {"block": 0}, "whole number from 1"),
        ("online_sgd", {"seed": -1}, "whole number from 0"),
        ("ridge", {"held_out": 1.0}, "share"),
        ("ridge", {"strengths": []}, "list"),
        ("ridge", {"strengths": [0.1, -1]}, r"strengths\[1\]=-1"),
        ("ridge", {"strengths": [0.1, 1, 1.0]}, "1.0 is there twice"),
        ("ridge", {"strengths": [1e7]}, "to 1000000"),
        ("online_sgd", {"rate": 1e308}, "to 1000000"),
        ("minibatch_sgd", {"rate": 1e308}, "to 1000000"),
        ("minibatch_sgd", {"weight_decay": 1e308}, "to 1000000"),
        ("ridge", {"strengths": "1e-3"}, "list"),
        ("ridge", {"strengths": 3}, "list"),
        ("minibatch_sgd", {"batch": 0}, "whole number from 1"),
        ("minibatch_sgd", {"hidden": -4}, "whole number from 1"),
    ],
)
def test_wrong_settings_are_named_in_one_line(name, settings, told):
    with pytest.raises(UserError, match=told) as caught:
        solver_from_config(name, settings)
    assert "\n" not in str(caught.value)
    assert all(key in str(caught.value) for key in settings)


def test_settings_may_be_left_out():
    assert solver_from_config("online_sgd", {"rate": 1}) == OnlineSGD(rate=1.0)
    assert solver_from_config("ridge", {"strengths": [1, 0.5]}) == Ridge(strengths=(0.5, 1.0))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Ridge, {"strengths": [-1]}),
        (Ridge, {"strengths": []}),
        (Ridge, {"strengths": [math.nan]}),
        (Ridge, {"strengths": (0.1, 0.1)}),
        (Ridge, {"strengths": 0.1}),
        (Ridge, {"strengths": np.array([0.1, -1])}),
        (Ridge, {"held_out": 0}),
        (Ridge, {"held_out": 1}),
        (Ridge, {"seed": -1}),
        (Ridge, {"seed": 1.5}),
        (Ridge, {"block": 0}),
        (OnlineSGD, {"rate": 0}),
        (OnlineSGD, {"rate": 1e308}),
        (OnlineSGD, {"relu": 1}),
        (OnlineSGD, {"momentum": 1.0}),
        (OnlineSGD, {"epochs": 0}),
        (OnlineSGD, {"loss": "l1"}),
        (MinibatchSGD, {"hidden": 0}),
        (MinibatchSGD, {"batch": 2.0}),
        (MinibatchSGD, {"weight_decay": math.inf}),
    ],
)
def test_settings_made_in_python_have_the_same_bounds(kind, settings):
    [key] = settings
    with pytest.raises(UserError, match=rf"^{kind.__name__}\.{key}") as caught:
        kind(**settings)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=key):
        dataclasses.replace(kind(), **settings)


def test_settings_made_in_python_are_held_as_plain_numbers():
    wanted = Ridge(strengths=(0.25, 1.0), seed=3)
    for strengths in ([0.25, 1], np.array([0.25, 1.0]), torch.tensor([0.25, 1.0]), (np.float32(0.25), np.int64(1))):
        found = Ridge(strengths=strengths, seed=np.int64(3))
        assert found == wanted and hash(found) == hash(wanted) and repr(found) == repr(wanted)
    assert dataclasses.replace(wanted, seed=4) == Ridge(strengths=(0.25, 1.0), seed=4)
    assert Ridge(strengths=(1.0, 0.25)).strengths == (1.0, 0.25)  # in the order given


@pytest.mark.parametrize("solver", [None, Ridge, "ridge", {"strengths": [1.0]}])
def test_what_is_no_solvers_settings_is_named(solver):
    with pytest.raises(UserError, match="is no solver's settings: give one of OnlineSGD"):
        begin_fit(solver, "residual", 4, 4, 10)


def test_a_solver_refuses_a_map_it_cannot_fit():
    with pytest.raises(UserError, match="map='residul': choose one of .*did you mean 'residual'"):
        begin_fit(Ridge(), "residul", 4, 4, 10)
    with pytest.raises(UserError, match="6 outputs are not 2 targets of 4 features"):
        begin_fit(Ridge(), "residual", 4, 6, 10, stacked=2)
    with pytest.raises(UserError, match="solver=minibatch_sgd"):
        begin_fit(OnlineSGD(), "mlp", 4, 4, 10)
    with pytest.raises(UserError, match="solver=online_sgd or solver=ridge"):
        begin_fit(MinibatchSGD(), "residual", 4, 4, 10)
