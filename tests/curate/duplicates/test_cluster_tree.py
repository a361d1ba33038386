"""Hierarchical k-means: clusters of bounded size, and neighbours in them against a sort of all cosines."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.errors import ConfigError
from diptych.curate.duplicates import cluster_tree
from diptych.curate.duplicates.cluster_tree import ClusterTree, best_of_each, neighbours_in_clusters
from diptych.curate.duplicates.clusters import greedy_duplicates


def unit(count: int, width: int = 16, seed: int = 0, groups: int = 40) -> np.ndarray:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(groups, width))[rng.integers(groups, size=count)] + 0.3 * rng.normal(size=(count, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def nearest_of_all(query_QD: np.ndarray, row_ND: np.ndarray, top: int, itself_Q: np.ndarray) -> np.ndarray:
    cosine_QN = query_QD @ row_ND.T
    for number, itself in enumerate(itself_Q.tolist()):
        if itself >= 0:
            cosine_QN[number, itself] = -np.inf
    return np.argsort(-cosine_QN, axis=1, kind="stable")[:, :top]


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_clusters_are_bounded_and_every_row_finds_its_own(count: int, most: int, seed: int) -> None:
    vectors = unit(count, seed=seed)
    tree = ClusterTree.fitted(vectors, most, seed=seed)
    sizes = np.bincount(tree.label_N, minlength=tree.leaves)
    assert sizes.max() <= most
    assert sizes.min() > 0
    assert [rows.tolist() for rows in tree.members()] == [np.flatnonzero(tree.label_N == k).tolist() for k in range(tree.leaves)]
    assert (tree.nearest(vectors, 1)[:, 0] == tree.label_N).all()
    some = tree.nearest(vectors[:5], 3)
    assert some.shape == (min(5, count), min(3, tree.leaves))
    assert all(len(set(row)) == len(row) for row in some.tolist()), "a cluster is searched once"


def test_a_tree_of_several_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_tree, "BRANCH", 3)
    monkeypatch.setattr(cluster_tree, "BLOCK_ROWS", 64)
    vectors = unit(600)
    tree = ClusterTree.fitted(vectors, 20)
    assert len(tree.nodes) > 10
    assert np.bincount(tree.label_N).max() <= 20
    assert (tree.nearest(vectors, 1)[:, 0] == tree.label_N).all()
    assert sorted(tree.nearest(vectors[:1], tree.leaves)[0].tolist()) == list(range(tree.leaves))


@pytest.mark.parametrize("branch", [4, 64])
def test_with_every_cluster_neighbours_are_exact_and_with_few_nearly(branch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_tree, "BRANCH", branch)
    monkeypatch.setattr(cluster_tree, "BLOCK_ROWS", 100)
    vectors = unit(500)
    tree, itself = ClusterTree.fitted(vectors, 25), np.where(np.arange(300) % 3 == 0, -1, np.arange(300))
    expected = nearest_of_all(vectors[:300], vectors, 6, itself)
    rows, cosines = neighbours_in_clusters(vectors[:300], vectors, tree, probes=tree.leaves, top=6, itself_Q=itself)
    assert (rows == expected).mean() > 0.999, "but for cosines that are equal to the last digit"
    assert cosines == pytest.approx(np.take_along_axis(vectors[:300] @ vectors.T, expected, 1), abs=1e-6)
    few, _ = neighbours_in_clusters(vectors[:300], vectors, tree, probes=3, top=6, itself_Q=itself)
    recall = np.mean([len(set(a) & set(b)) / 6 for a, b in zip(few.tolist(), expected.tolist(), strict=True)])
    assert 0.6 < recall < 1.0
    assert not (few == itself[:, None])[itself >= 0].any()


def test_equal_cosines_are_in_order_of_row_and_missing_ones_are_marked() -> None:
    vectors = np.repeat(np.eye(3, dtype=np.float32), [5, 2, 1], axis=0)
    tree = ClusterTree.fitted(vectors, 4)
    assert np.bincount(tree.label_N).tolist().count(5) == 1, "rows that are the same stay together"
    rows, cosines = neighbours_in_clusters(vectors, vectors, tree, probes=1, top=3, itself_Q=np.arange(8))
    assert rows[:3].tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3]]
    assert rows[5:].tolist() == [[6, -1, -1], [5, -1, -1], [-1, -1, -1]]
    assert np.isneginf(cosines[7]).all()


def test_the_best_of_each_owner() -> None:
    owner, score, item = np.array([1, 0, 1, 0, 1]), np.array([0.5, 0.1, 0.9, 0.1, 0.5]), np.array([4, 7, 2, 3, 1])
    assert best_of_each(owner, score, item, 2).tolist() == [3, 1, 2, 4]


def test_copies_are_found_in_one_cluster() -> None:
    vectors = unit(400)
    doubled = np.concatenate([vectors, vectors])
    tree = ClusterTree.fitted(doubled, 30)
    assert greedy_duplicates(doubled, range(800), 0.99999, near_NP=tree.nearest(doubled, 1)).keys() >= set(range(400, 800))


def test_the_dot_products_grow_linearly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows times centres and rows times members, counted at 2,000 and at 16,000 rows."""
    asked: list[int] = []
    largest, nearest = cluster_tree._largest, cluster_tree.nearest_centres

    def counted_largest(cosine_IR: np.ndarray, count: int) -> object:
        asked.append(cosine_IR.size)
        return largest(cosine_IR, count)

    def counted_nearest(vector_ND: np.ndarray, centre_KD: np.ndarray, probe: int) -> np.ndarray:
        asked.append(len(vector_ND) * len(centre_KD))
        return nearest(vector_ND, centre_KD, probe)

    monkeypatch.setattr(cluster_tree, "_largest", counted_largest)
    monkeypatch.setattr(cluster_tree, "nearest_centres", counted_nearest)
    cost = []
    for count in (2_000, 16_000):
        asked.clear()
        vectors = unit(count, 8, groups=count // 20)
        neighbours_in_clusters(vectors, vectors, ClusterTree.fitted(vectors, 50), probes=2, top=4)
        cost.append(sum(asked))
    assert cost[1] / cost[0] < 2 * 8


def test_refused() -> None:
    with pytest.raises(ConfigError, match="max_size is 0"):
        ClusterTree.fitted(unit(3), 0)
    with pytest.raises(ConfigError, match="probes is 0"):
        neighbours_in_clusters(unit(3), unit(3), ClusterTree.fitted(unit(3), 1), probes=0, top=1)
