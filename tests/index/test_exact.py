"""The oracle against a plain sort."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from diptych.core.errors import ConfigError, ShapeError
from diptych.index.exact import ExactIndex, nearest


@pytest.mark.parametrize("shortlist", [0, 60])
def test_nearest_against_a_sort(kit: Any, shortlist: int, parity: Any) -> None:
    vectors = np.stack([kit.vector(str(i), 32) for i in range(400)])
    queries = np.stack([kit.vector(f"q{i}", 32) for i in range(300)])  # more than one block
    rows, scores = nearest(vectors, queries, 10, shortlist=shortlist)
    pairs = []
    for i in range(300):
        want = np.argsort(-(vectors.astype(np.float64) @ queries[i].astype(np.float64)), kind="stable")[:10]
        assert rows[i].tolist() == want.tolist()
        np.testing.assert_allclose(scores[i], vectors[want] @ queries[i], atol=1e-6)
        pairs.append((rows[i], want))
    parity("laion", "ten nearest of 400 vectors for 300 queries", "argsort of numpy in float64", pairs, tolerance=0.0)


def test_equal_scores_are_ordered_by_row() -> None:
    rows, _ = nearest(np.ones((5, 2), np.float32), np.ones((1, 2), np.float32), 5)
    assert rows[0].tolist() == [0, 1, 2, 3, 4]


def test_the_lowest_of_the_rows_that_tie_with_the_last_are_kept() -> None:
    vectors = np.array([[0.5, 0.5]] * 40 + [[1.0, 0.0]] + [[0.5, 0.5]] * 40, np.float32)
    rows, scores = nearest(vectors, np.array([[1.0, 0.0], [0.0, 1.0]], np.float32), 6)
    assert rows.tolist() == [[40, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]]
    assert scores.tolist() == [[1.0] + [0.5] * 5, [0.5] * 6]
    uids = [f"u{(37 * i) % 81:02d}" for i in range(81)]
    found = ExactIndex(vectors, uids).search_vectors(np.array([[1.0, 0.0]], np.float32), 6)[0]
    assert [hit.uid for hit in found] == [uids[40], *sorted(set(uids) - {uids[40]})[:5]]


def test_filters_uids_and_edges(kit: Any) -> None:
    pool = kit.pool(0, 30)
    payloads = [dict(sample.extras) for sample in pool]
    index = ExactIndex(np.stack([kit.vector(uid, 8) for uid in pool.uids]), pool.uids, payloads)
    hits = index.search_vectors(kit.vector("u7", 8)[None], 3)[0]
    assert hits[0].uid == "u7"
    assert hits[0].payload["style"] == "twemoji"
    filtered = index.search_vectors(kit.vector("u7", 8)[None], 50, where={"style": "noto"})[0]
    assert {hit.uid for hit in filtered} == {f"u{i}" for i in range(0, 30, 3)}
    assert index.search_vectors(kit.vector("u7", 8)[None], 5, where={"side": {">": 1000}}) == [[]]
    assert index.search_vectors(np.zeros((0, 8), np.float32), 5) == []
    with pytest.raises(ConfigError, match="k is 0"):
        index.search_vectors(kit.vector("u7", 8)[None], 0)
    with pytest.raises(ShapeError, match=r"expected \[Q, 8\]"):
        index.search_vectors(np.ones((1, 9), np.float32))
    with pytest.raises(ShapeError, match="30 uids"):
        ExactIndex(np.ones((3, 8), np.float32), pool.uids)
