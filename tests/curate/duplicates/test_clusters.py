"""Near-duplicates among embeddings: greedy against all pairs, SemDeDup's rule against its definition, and how they differ on a chain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.errors import ConfigError
from diptych.curate.duplicates.clusters import greedy_duplicates, kmeans_centres, nearest_centres, semdedup_duplicates
from diptych.curate.duplicates.whitening import whitened


def unit(count: int, width: int = 8, seed: int = 0, groups: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, width))
    if groups:
        vectors = rng.normal(size=(groups, width))[rng.integers(groups, size=count)] + 0.15 * vectors
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def arc(points: int = 40) -> np.ndarray:
    angle = np.linspace(0, np.pi / 2, points)
    return np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)


@given(st.integers(0, 50), st.floats(0.3, 0.99))
@settings(max_examples=60, deadline=None)
def test_greedy_equals_the_loop_over_all_kept(seed: int, cosine: float) -> None:
    vectors = unit(60, 4, seed)
    kept: list[int] = []
    expected: dict[int, int] = {}
    for row in range(60):
        alike = vectors[kept] @ vectors[row] if kept else np.zeros(0)
        if len(alike) and alike.max() >= cosine:
            expected[row] = kept[int(alike.argmax())]
        else:
            kept.append(row)
    assert {row: other for row, (other, _) in greedy_duplicates(vectors, range(60), cosine).items()} == expected


def test_groups_of_copies_are_the_components_of_the_graph_of_near_pairs(parity: Any) -> None:
    """Copies lie close round their originals and originals far apart: then greedy and connected components agree."""
    rng = np.random.default_rng(2)
    original = rng.permutation(np.eye(12, 40))
    vectors = original[rng.integers(12, size=150)] + 0.02 * rng.normal(size=(150, 40))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    near = np.argwhere(np.triu(vectors @ vectors.T > 0.94, 1))
    graph = networkx.Graph(near.tolist())
    graph.add_nodes_from(range(150))
    first = np.zeros(150)
    for component in networkx.connected_components(graph):
        first[list(component)] = min(component)
    gone = greedy_duplicates(vectors, range(150), 0.94)
    ours = [gone[row][0] if row in gone else row for row in range(150)]
    assert 5 < len(set(ours)) <= 12
    parity("laion", "groups of near-duplicates", "connected components of networkx", [(ours, first)], tolerance=0.0)


def test_what_leaves_is_near_what_stays_whatever_the_clusters() -> None:
    vectors = unit(2000, 8, groups=40)
    near = nearest_centres(vectors, kmeans_centres(vectors, 20), 2)
    gone = greedy_duplicates(vectors, range(2000), 0.95, near_NP=near)
    assert len(gone) > 500
    for row, (other, alike) in gone.items():
        assert other not in gone
        assert alike == pytest.approx(float(vectors[row] @ vectors[other]), abs=1e-5)
        assert alike >= 0.95


def test_two_probes_find_nearly_all_pairs_and_one_finds_fewer() -> None:
    vectors = unit(3000, 4, seed=3)
    whole = len(greedy_duplicates(vectors, range(3000), 0.98))
    centre_KD = kmeans_centres(vectors, 55)
    one, two = (
        len(greedy_duplicates(vectors, range(3000), 0.98, near_NP=nearest_centres(vectors, centre_KD, p))) for p in (1, 2)
    )
    assert one < two <= whole * 1.02
    assert two > 0.95 * whole


def test_the_published_rule_by_its_definition() -> None:
    vectors = unit(300, 6, seed=1, groups=30)
    centre_KD = kmeans_centres(vectors, 5)
    label_N = nearest_centres(vectors, centre_KD, 1)[:, 0]
    expected = set()
    for k in range(5):
        rows = sorted(np.flatnonzero(label_N == k).tolist(), key=lambda r: -float(vectors[r] @ centre_KD[k]))
        expected |= {rows[j] for j in range(len(rows)) if any(vectors[rows[i]] @ vectors[rows[j]] > 0.95 for i in range(j))}
    assert set(semdedup_duplicates(vectors, label_N, centre_KD, 0.95)) == expected
    assert 20 < len(expected) < 290


def test_the_published_rule_over_deletes_along_a_chain() -> None:
    """40 points on a quarter circle: rows that have left still carry off others, so that some end far from all that stays."""
    points, eps = arc(), 0.003
    centre = points.mean(0, keepdims=True)
    centre /= np.linalg.norm(centre)
    gone = semdedup_duplicates(points, np.zeros(40, np.int64), centre, 1 - eps)
    kept = [row for row in range(40) if row not in gone]
    far = max(1 - float((points[kept] @ points[row]).max()) for row in gone)
    ours = greedy_duplicates(points, range(40), 1 - eps)
    our_kept = [row for row in range(40) if row not in ours]
    assert len(kept) < len(our_kept)
    assert far > 2 * eps
    assert max(1 - float((points[our_kept] @ points[row]).max()) for row in ours) <= eps + 1e-6


def test_k_means_finds_planted_groups_and_is_deterministic() -> None:
    rng = np.random.default_rng(0)
    planted = unit(6, 16, seed=9)
    label = rng.integers(6, size=600)
    vectors = planted[label] + 0.05 * rng.normal(size=(600, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    found = kmeans_centres(vectors, 6, seed=1)
    assert np.array_equal(found, kmeans_centres(vectors, 6, seed=1))
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(6), abs=1e-5)
    ours = nearest_centres(vectors, found, 1)[:, 0]
    from sklearn.metrics import adjusted_rand_score

    assert adjusted_rand_score(label, ours) > 0.8
    with pytest.raises(ConfigError, match="7 clusters of 3 rows"):
        kmeans_centres(vectors[:3], 7)


def test_means_and_whitening_are_those_of_faiss(parity: Any) -> None:
    """What TL;DR's code clusters with: `PCAMatrix` to the power -1/2, rows of norm 1, and `Clustering` with a flat index (faiss 1.15),
    begun at the first five rows."""
    theirs = json.loads((Path(__file__).parent / "fixtures/faiss_kmeans.json").read_text())
    i = np.arange(480).reshape(80, 6)
    raw = (np.sin(0.37 * i * (1 + i % 5)) + (i // 6 % 4 == i % 4) * 1.5).astype(np.float32)
    rows = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    found = kmeans_centres(rows, 5, unit=False, start_KD=rows[:5])
    label = nearest_centres(rows, found, 1, unit=False)[:, 0]
    made, wanted = whitened(raw, 4), np.array(theirs["whitened"])
    made = made * np.sign((made * wanted).sum(0))  # the sign of a direction is free
    parity("tldr", "centres of clusters", "faiss 1.15", [(found, np.array(theirs["centres"]))], tolerance=1e-5)
    parity("tldr", "whitened rows", "faiss 1.15", [(made, wanted)], tolerance=1e-4)
    assert label.tolist() == theirs["labels"]
    cosines = kmeans_centres(rows, 5, start_KD=rows[:5])
    assert nearest_centres(rows, cosines, 1)[:, 0].tolist() != theirs["labels"]
