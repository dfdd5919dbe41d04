import io

import pytest
import torch
from rich.console import Console
from rich.progress import Progress
from torch.utils._python_dispatch import TorchDispatchMode

from invariance.engine.fit import BlockSampler, PairedFeatures, fit_maps
from invariance.errors import UserError
from invariance.maps import MinibatchSGD, OnlineSGD, OnlineSGDState, Ridge, order


def features(problems=3, n=300, d=10, seed=0):
    """Untouched features r (N, D) and, for each j, features under some g_j."""
    draw = torch.Generator().manual_seed(seed)
    r = torch.randn(n, d, generator=draw).relu()
    mix = torch.eye(d) + 0.3 * torch.randn(problems, d, d, generator=draw) / d**0.5
    return (r @ mix).relu(), r


def test_online_sgd_through_lightning_is_online_sgd():
    g, r = features()
    config = OnlineSGD(epochs=3, seed=2, block=64)
    found = fit_maps(g, r, "residual", config)
    state = OnlineSGDState(config, 10, 10, 3)
    for epoch in range(3):
        index = order(300, 2, epoch)
        state.step(g[:, index], r[index].unsqueeze(0))
    weight, bias = state.weights()
    torch.testing.assert_close(found.parameters["weight"], weight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.parameters["bias"], bias, rtol=1e-4, atol=1e-6)
    assert found.solver == "online_sgd" and len(found.strength) == 0


@pytest.mark.parametrize(
    ("kind", "solver"),
    [
        ("residual", OnlineSGD()),
        ("residual", Ridge()),
        ("linear", OnlineSGD(epochs=30)),
        ("linear", Ridge()),
        ("mlp", MinibatchSGD(rate=0.5, batch=8)),
    ],
)
def test_every_fit_improves_and_says_by_how_much(kind, solver):
    g, r = features()
    found = fit_maps(g, r, kind, solver)
    assert list(found.status) == ["ok"] * 3 and len(found) == 3
    for j in range(3):
        r_hat = found.apply(j, g[j])
        assert float(found.error[j]) == pytest.approx(float((r_hat - r).square().sum(1).mean()), rel=1e-5)
        plain = r.mean(0) if kind == "linear" else g[j]
        assert float(found.reference[j]) == pytest.approx(float((plain - r).square().sum(1).mean()), rel=1e-5)
        assert found.error[j] < 0.7 * found.reference[j]
    assert len(found.strength) == (3 if isinstance(solver, Ridge) else 0)


def test_the_identity_needs_no_solver():
    g, r = features()
    found = fit_maps(g, r, "identity", None)
    assert torch.equal(found.apply(2, g[2]), g[2]) and found.solver == "" and list(found.status) == ["ok"] * 3


def test_separate_tensors_and_one_tensor_give_the_same():
    g, r = features()
    one, other = fit_maps(g, r, "residual", OnlineSGD(epochs=2)), fit_maps(list(g), r, "residual", OnlineSGD(epochs=2))
    assert torch.equal(one.parameters["weight"], other.parameters["weight"])


def test_stacked_targets_are_numbered_by_problem_and_then_target():
    g, r = features(problems=2)
    targets = torch.cat([r, r.flip(1), r.roll(1, 1)], dim=1)
    for solver in (OnlineSGD(epochs=2), Ridge()):
        found = fit_maps(g, targets, "residual", solver, stacked=3)
        assert len(found) == 6
        for j in range(2):
            for k, target in enumerate(targets.chunk(3, 1)):
                alone = fit_maps(g[j : j + 1], target, "residual", solver)
                torch.testing.assert_close(
                    found.parameters["weight"][3 * j + k], alone.parameters["weight"][0], rtol=1e-3, atol=1e-5
                )
                assert float(found.error[3 * j + k]) == pytest.approx(float(alone.error[0]), rel=1e-3)


def test_divergence_is_a_status_of_its_own_fit():
    g, r = features()
    g[1, 17] = torch.inf
    solvers = (("residual", OnlineSGD(rate=0.05)), ("mlp", MinibatchSGD(rate=0.05)), ("residual", Ridge()))
    for kind, solver in solvers:
        assert list(fit_maps(g, r, kind, solver).status) == ["ok", "diverged", "ok"]
    g, r = features()
    bare = fit_maps(g, r, "residual", OnlineSGD(rate=5.0, loss="square", relu=False))
    assert list(bare.status) == ["diverged"] * 3


def test_nothing_to_undo_is_no_divergence():
    _, r = features()
    for kind, solver in (("residual", OnlineSGD()), ("residual", Ridge()), ("mlp", MinibatchSGD())):
        found = fit_maps(r.unsqueeze(0), r, kind, solver)
        assert list(found.status) == ["ok"] and float(found.error[0]) < 1e-6


def test_wrong_pairs_and_shapes_are_refused():
    g, r = features()
    with pytest.raises(UserError, match="map=mlp"):
        fit_maps(g, r, "mlp", Ridge())
    with pytest.raises(UserError, match="same images"):
        fit_maps(g, r[:-1], "residual", Ridge())
    with pytest.raises(UserError, match="solver=<class .* is no solver's settings"):
        fit_maps(g, r, "residual", Ridge)
    with pytest.raises(UserError, match="solver=None cannot fit map='residual': give the settings of online_sgd or"):
        fit_maps(g, r, "residual", None)
    with pytest.raises(UserError, match="map='residul'"):
        fit_maps(g, r, "residul", Ridge())
    with pytest.raises(UserError, match="map=identity takes"):
        fit_maps(g, r[:, 1:], "identity", None)
    with pytest.raises(UserError, match="features, as map=residual has them"):
        fit_maps(g, r[:, 1:], "residual", Ridge())


@pytest.mark.parametrize("stacked", [-1, 0, 5, 100])
def test_targets_that_cannot_be_cut_are_refused(stacked):
    with pytest.raises(UserError, match=f"stacked={stacked}: targets of 12 features"):
        fit_maps(torch.rand(1, 9, 4), torch.rand(9, 12), "linear", Ridge(), stacked=stacked)
    with pytest.raises(UserError, match=f"stacked={stacked}, but there are 3 targets"):
        fit_maps(torch.rand(1, 9, 4), [torch.rand(9, 4)] * 3, "linear", Ridge(), stacked=stacked)


def test_the_index_of_a_block_is_copied_once_to_where_the_features_are():
    class Copies(TorchDispatchMode):
        """Counts what is copied from one device to another."""

        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func is torch.ops.aten._to_copy.default
            return func(*args, **(kwargs or {}))

    features, targets = [torch.empty(50, 4, device="meta")] * 5, [torch.empty(50, 6, device="meta")] * 3
    with Copies() as copies:
        r, t = PairedFeatures(features, targets)[torch.arange(7)]
    assert r.shape == (5, 7, 4) and t.shape == (1, 7, 18) and copies.count == 1


def test_no_error_is_taken_unless_somebody_watches(monkeypatch):
    asked = []
    monkeypatch.setattr(OnlineSGDState, "block_error", lambda _: asked.append(1) or torch.ones(1))
    g, r = features()
    fit_maps(g, r, "residual", OnlineSGD(epochs=1, block=100))
    assert not asked
    fit_maps(g, r, "residual", OnlineSGD(epochs=2, block=100), progress=Progress(disable=True))
    assert len(asked) == 2  # every twentieth block of an epoch


def test_blocks_cover_every_epoch_once():
    sampler = BlockSampler(10, 4, 0)
    assert len(sampler) == 3
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert [len(block) for block in first] == [4, 4, 2]
    assert sorted(torch.cat(first).tolist()) == sorted(torch.cat(second).tolist()) == list(range(10))
    assert torch.cat(first).tolist() != torch.cat(second).tolist()


def test_it_is_quiet_unless_asked(capfd):
    g, r = features()
    fit_maps(g, r, "residual", OnlineSGD(epochs=1))
    printed = capfd.readouterr()
    assert printed.out == "" and printed.err == ""
    display = Progress(console=Console(file=io.StringIO(), force_terminal=True), auto_refresh=False)
    seen = []
    display.update = lambda task, **told: seen.append(told)
    fit_maps(g, r, "residual", OnlineSGD(epochs=2, block=100), progress=display)
    assert len(seen) == 6 and "squared error" in seen[-1]["description"]
    assert not display.tasks
