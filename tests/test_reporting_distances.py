"""Distances on the page: the paper's definitions on matrices that are known, gaps as gaps, the same bytes."""

import math
import re
from dataclasses import replace
from html import unescape
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

from invariance.reporting import distance_tables
from invariance.reporting.distance_figures import drawings, telling_map
from invariance.reporting.distances import complete, distances, embedding, family_means, group_rank, neighbours, tree
from invariance.reporting.page import make_report
from invariance.reporting.paper.distances import absent, as_printed
from invariance.reporting.rows import collect
from invariance.runs.rows import Row
from tests.reporting_runs import finish, trained

NETWORKS = [
    ("baseline", "baseline", "", 0),
    ("baseline", "baseline", "", 1),
    ("rotation_5", "rotation", "5", 0),
    ("rotation_20", "rotation", "20", 0),
    ("shear_20", "shear", "20", 0),
    ("perspective_4", "perspective", "4", 0),
]


def one_way(i, j):
    """A made-up distance that differs by direction and is small within a family."""
    near = 0.2 if NETWORKS[i][1] == NETWORKS[j][1] else 0.5
    return near + 0.01 * i + 0.003 * j


def pair_runs(root, *, diverged=(), absent=()):
    """Made-up finished pairs of the networks, in the form that `invariance.distance` writes."""
    for a, b in combinations(range(len(NETWORKS)), 2):
        if (a, b) in absent:
            continue
        labels = [f"{NETWORKS[k][0]}/seed{NETWORKS[k][3]}" for k in (a, b)]
        if labels[0] > labels[1]:
            a, b, labels = b, a, labels[::-1]
        folder = f"distance/made_up/{'+'.join(label.replace('/', '-') for label in labels)}"
        for solver in ("online_sgd", "ridge", ""):
            unit = f"linear_{solver}" if solver else "indices"
            there, back = one_way(a, b), one_way(b, a)
            numbers = (
                [
                    ("l2_distance", a, b, there),
                    ("l2_distance", b, a, back),
                    ("l2_distance_mean", a, b, (there + back) / 2),
                    ("l2_distance_difference", a, b, there - back),
                ]
                if solver
                else [("cka", a, b, 1 - there), ("procrustes", a, b, there), ("r2", a, b, 0.7), ("r2", b, a, 0.8)]
            )
            bad = solver == "online_sgd" and (a, b) in diverged
            rows = []
            for split in ("val", "test") if solver else ("test",):
                for metric, source, target, score in numbers:
                    network, family, reach, seed = NETWORKS[source]
                    score = math.nan if bad else score
                    rows.append(
                        Row(
                            stage="distance",
                            data="made_up",
                            network=network,
                            family=family,
                            range=reach,
                            seed=seed,
                            layer="fc7",
                            g=f"network:{NETWORKS[target][0]}/seed{NETWORKS[target][3]}",
                            split=split,
                            map="linear" if solver else "",
                            solver=solver,
                            metric=metric,
                            score=score,
                            low=score - 0.01 if solver else math.nan,
                            high=score + 0.02 if solver else math.nan,
                            n_images=1000,
                            status="diverged" if bad else "ok",
                            run=f"{folder}/{unit}",
                        )
                    )
            finish(root / folder / unit, rows)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for network, family, reach, seed in NETWORKS:
        trained(root, "made_up", network, family, reach or None, seed)
    pair_runs(root)
    return root


def test_matrices_are_the_rows(runs):
    (found,) = distances(collect(runs))
    order = [(node.network, node.seed) for node in found.nodes]
    assert order == [
        ("baseline", 0),
        ("baseline", 1),
        ("perspective_4", 0),
        ("rotation_5", 0),
        ("rotation_20", 0),
        ("shear_20", 0),
    ]
    assert found.nodes[1].label == "baseline, seed 1" and found.nodes[2].label == "perspective_4"
    place = [next(k for k, n in enumerate(NETWORKS) if (n[0], n[3]) == one) for one in order]
    for i, a in enumerate(place):
        assert math.isnan(found.matrix("l2_distance_mean", "ridge")[i, i])
        for j, b in enumerate(place):
            if i == j:
                continue
            assert found.matrix("l2_distance", "ridge")[i, j] == pytest.approx(one_way(a, b))
            assert found.matrix("l2_distance_mean", "online_sgd")[i, j] == pytest.approx(
                (one_way(a, b) + one_way(b, a)) / 2
            )
            score, low, high = (found.matrix("l2_distance_difference", "ridge", of) for of in ("score", "low", "high"))
            assert score[i, j] == pytest.approx(one_way(a, b) - one_way(b, a))
            assert low[i, j] < score[i, j] < high[i, j]
            assert found.matrix("cka")[i, j] == found.matrix("cka")[j, i]
    assert {*found.matrices()} == {"online SGD", "ridge", "1 − CKA", "Procrustes"}


def test_neighbours_by_their_definition():
    rng = np.random.default_rng(3)
    families = ["a", "b", "a", "c", "b", "a", "d"]
    d = rng.random((7, 7))
    d = d + d.T
    np.fill_diagonal(d, np.nan)
    found = neighbours(d, families)
    same = [(i, j) for i in range(7) for j in range(7) if i != j and families[i] == families[j]]
    assert found.pairs == len(same) == 8
    for k in range(1, 7):
        hits = [rankdata(np.delete(d[i], i))[j - (j > i)] <= k for i, j in same]
        assert found.share[k - 1] == pytest.approx(np.mean(hits))
    np.testing.assert_allclose(found.chance, np.arange(1, 7) / 6)


def test_random_distances_are_at_chance_and_families_that_cluster_are_not():
    rng = np.random.default_rng(0)
    families = [name for name in "abcdef" for _ in range(3)]
    shares, ps = [], []
    for _ in range(30):
        points = rng.random((18, 5))
        d = np.linalg.norm(points[:, None] - points[None], axis=2)
        np.fill_diagonal(d, np.nan)
        found = neighbours(d, families)
        shares.append(found.share)
        ps.append(found.p)
    np.testing.assert_allclose(np.mean(shares, 0), np.arange(1, 18) / 17, atol=0.09)
    assert 0.2 < np.mean(ps) < 0.8
    d[np.equal.outer(np.array(families), np.array(families))] *= 0.01
    clustered = neighbours(d, families)
    assert clustered.share[1] == 1 and clustered.p < 0.002
    assert neighbours(d, ["a"] * 18) is None and neighbours(d, [str(k) for k in range(18)]) is None


def test_networks_without_all_distances_are_left_out():
    d = np.ones((5, 5))
    np.fill_diagonal(d, np.nan)
    d[2, :] = d[:, 2] = np.nan
    assert complete(d).tolist() == [0, 1, 3, 4]
    d[0, 4] = d[4, 0] = np.nan
    assert len(complete(d)) == 3
    assert complete(np.full((3, 3), np.nan)).size == 1
    assert tree(np.full((3, 3), np.nan)) is None and embedding(np.full((5, 5), np.nan), 0) is None


def test_means_and_ranks_of_families():
    families = ["a", "a", "b", "c", "d"]
    d = np.array([[9, 1, 2, 5, 6], [1, 9, 4, 7, 8], [2, 4, 9, 3, 2], [5, 7, 3, 9, 1], [6, 8, 2, 1, 9]], dtype=float)
    np.fill_diagonal(d, np.nan)
    names, means = family_means(d, families)
    assert names == ["a", "b", "c", "d"] and means[0, 0] == 1 and means[0, 1] == 3 and means[0, 2] == 6
    assert math.isnan(means[1, 1])
    near = group_rank(d, families, ("d", "b", "c"))
    assert near.mean == 2 and near.rank == 1 and near.groups == 4
    assert group_rank(d, families, ("a", "x", "b")) is None


def test_an_embedding_and_a_tree_are_the_same_again_and_keep_clusters():
    points = np.concatenate([np.zeros((5, 2)), np.full((5, 2), 9.0)]) + np.random.default_rng(0).random((10, 2))
    d = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(d, np.nan)
    (kept, one), (_, again) = embedding(d, 1), embedding(d, 1)
    np.testing.assert_array_equal(one, again)
    assert kept.tolist() == list(range(10))
    _, links = tree(d)
    assert links[-1, 2] > 5 * links[-2, 2] and set(links[-1, 3:]) == {10.0}


def test_the_paper_s_networks_that_were_not_compared_are_named(runs):
    (found,) = distances(collect(runs))
    assert absent(found) == []
    papers = replace(found, data="rvl_cdip")
    assert len(absent(papers)) == 36 - 6 and "baseline, seed 2" in absent(papers)
    assert "rotation_10" in absent(papers) and "rotation_20" not in absent(papers)
    said = "Of the paper’s networks not compared: color_jitter_5"
    forms = {one.form for one in drawings(papers, "x") if said in as_printed(one, papers).caption}
    assert forms == {"neighbours", "families", "tsne", "differences"}
    assert not any("not compared" in as_printed(one, found).caption for one in drawings(found, "x"))


def test_every_cell_of_the_heat_map_tells_its_pair(runs):
    (found,) = distances(collect(runs))
    drawn = telling_map(found, "ridge")
    titles = [unescape(title) for title in re.findall(r'title="(.*?)"', drawn, flags=re.DOTALL)]
    assert len(titles) == 30
    pair = next(title for title in titles if title.startswith("rotation_5 and shear_20"))
    assert "distance (Eq. 4): 0.539 [0.529, 0.559]" in pair and "CKA: 0.468" in pair.replace("0.469", "0.468")
    assert "rotation_5 → shear_20: 0.532 [0.522, 0.552]" in pair and "R²: 0.700 and back 0.800" in pair


def test_the_page_shows_distances_and_the_same_rows_give_the_same_bytes(runs, tmp_path):
    make_report(runs, tmp_path / "one")
    make_report(runs, tmp_path / "two")
    files = [
        {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}
        for out in (tmp_path / "one", tmp_path / "two")
    ]
    assert files[0] == files[1]
    page = (tmp_path / "one/index.html").read_text()
    assert "made_up: distances between networks" in page and "6 networks, 15 pairs" in page
    for name in (
        "fig3a-made_up-fc7-neighbours",
        "fig3b-made_up-fc7-families",
        "fig12-made_up-fc7-differences",
        "made_up-fc7-tree",
        "fig11-made_up-fc7-tsne-ridge",
        "made_up-fc7-distances-online_sgd",
    ):
        assert f"figures/{name}.png" in page and (tmp_path / f"one/figures/{name}.svg").exists()
        assert len(pd.read_csv(tmp_path / f"one/figures/{name}.csv")) > 4
    for name in ("distance-claims", "pairs", "families-ridge"):
        assert (tmp_path / f"one/tables/made_up-fc7-{name}.csv").exists()
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) and "<script" not in page and "http" not in re.sub(r'xmlns="[^"]*"', "", page)


def test_withheld_and_missing_distances_are_gaps(tmp_path, undrawn):
    for network, family, reach, seed in NETWORKS:
        trained(tmp_path / "runs", "made_up", network, family, reach or None, seed)
    pair_runs(tmp_path / "runs", diverged=((0, 1),), absent=((2, 3),))
    make_report(tmp_path / "runs", tmp_path / "report")
    page = (tmp_path / "report/index.html").read_text()
    assert "online SGD: 2 numbers withheld (diverged)" in page
    assert "ridge: 2 one-way distances are not there yet" in page
    (found,) = distances(collect(tmp_path / "runs"))
    assert math.isnan(found.matrix("l2_distance_mean", "online_sgd")[0, 1]) and "no number" in telling_map(
        found, "online_sgd"
    )


def test_ways_of_comparing_may_cover_different_networks(tmp_path):
    for network, family, reach, seed in NETWORKS:
        trained(tmp_path / "runs", "made_up", network, family, reach or None, seed)
    pair_runs(tmp_path / "runs", diverged=((2, 4), (3, 5), (1, 5)))
    make_report(tmp_path / "runs", tmp_path / "report")
    page = (tmp_path / "report/index.html").read_text()
    assert "ridge, 6 networks: p" in page and "online SGD: neighbours, t-SNE and dendrogram are without" in page


def test_a_network_compared_by_cka_alone_is_known_by_its_own_rows(tmp_path, undrawn):
    for network, family, reach, seed in NETWORKS[:3]:
        trained(tmp_path, "made_up", network, family, reach or None, seed)
    name = "distance/made_up/baseline-seed0+rotation_5-seed0/indices"
    finish(
        tmp_path / name,
        [
            Row(
                stage="distance",
                data="made_up",
                network="baseline",
                family="baseline",
                seed=0,
                layer="fc7",
                g="network:rotation_5/seed0",
                split="test",
                metric="cka",
                score=0.5,
                n_images=10,
                run=name,
            )
        ],
    )
    (found,) = distances(collect(tmp_path))
    assert [node.network for node in found.nodes] == ["baseline", "rotation_5"] and not found.solvers
    make_report(tmp_path, tmp_path / "report")


def test_every_number_of_a_pair_leads_to_its_run_from_either_side(runs):
    (found,) = distances(collect(runs))
    table = next(table for _, table in distance_tables.tables(found, "x") if table.name == "x-pairs")
    row = next(k for k, cells in enumerate(table.cells) if cells[0] == "rotation_20 – shear_20")
    turned = next(k for k, cells in enumerate(table.cells) if cells[0] == "baseline, seed 1 – perspective_4")
    for k, folder in ((row, "rotation_20-seed0+shear_20-seed0"), (turned, "baseline-seed1+perspective_4-seed0")):
        names = {
            title: run
            for title, (_, run) in zip(
                table.header[1:], ((c, table.runs[k, c]) for c in range(1, len(table.header))), strict=True
            )
        }
        for title, unit in (
            ("ridge: →", "linear_ridge"),
            ("ridge: ←", "linear_ridge"),
            ("CKA", "indices"),
            ("ridge: distance (Eq. 4)", "linear_ridge"),
            ("R² ←", "indices"),
            ("online SGD: difference (Eq. 9)", "linear_online_sgd"),
        ):
            assert names[title] == (f"distance/made_up/{folder}/{unit}",)
    assert all(table.runs.values())
