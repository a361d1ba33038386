"""Nested search against the two looks done in numpy; what refuses, what stays of the dense face."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core.errors import ConfigError, UnknownName
from diptych.index.kinds import open_index
from diptych.index.kinds.nested import NestedIndex, prefix_of


def two_looks(vectors: np.ndarray, query: np.ndarray, prefix: int, shortlist: int, k: int) -> list[int]:
    """Slice, normalise, shortlist, rank again, in float64 and by loops."""
    first = [float(v[:prefix] @ query[:prefix] / np.linalg.norm(v[:prefix])) for v in vectors.astype(np.float64)]
    short = sorted(range(len(vectors)), key=lambda i: -first[i])[:shortlist]
    return sorted(short, key=lambda i: -float(vectors[i].astype(np.float64) @ query))[:k]


@pytest.mark.parametrize(("prefix", "shortlist"), [(4, 20), (4, 3), (16, 50)])
def test_finds_what_two_looks_find(kit: Any, tmp_path: Path, prefix: int, shortlist: int) -> None:
    pool = kit.pool(0, 400)
    vectors = np.stack([kit.vector(uid, 16) for uid in pool.uids])
    queries = np.stack([kit.vector(f"q{i}", 16) for i in range(12)])
    with NestedIndex.build(kit.model(), pool, tmp_path / "index", prefix=prefix, shortlist=shortlist) as index:
        found = index.search_vectors(queries, 5)
        for row, query in zip(found, queries, strict=True):
            want = two_looks(vectors, query, prefix, max(shortlist, 5), 5)
            assert [hit.uid for hit in row] == [pool.uids[i] for i in want]
            np.testing.assert_allclose([hit.score for hit in row], vectors[want] @ query, atol=1e-5)
        everything = index.search_vectors(queries, 5, exact=True)
        best = np.argsort(-(queries @ vectors.T), axis=1)[:, :5]
        assert [[hit.uid for hit in row] for row in everything] == [[pool.uids[i] for i in row] for row in best]


def test_principal_directions(kit: Any, tmp_path: Path) -> None:
    """Vectors that spread along few directions, none of them an axis: a prefix of them says little, of their directions all."""

    class Flat(kit.model):  # type: ignore[misc]
        turn = np.linalg.qr(np.random.default_rng(0).standard_normal((16, 16)))[0]

        def embed_images(self, images: Any, *, batch_size: int = 64) -> Any:
            rows = super().embed_images(images) * ([1.0] * 4 + [0.01] * 12) @ self.turn
            return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    pool, model, folder = kit.pool(0, 300), Flat(), tmp_path / "index"
    vectors = model.embed_images([sample.image for sample in pool])
    queries = vectors[:20] @ np.linalg.qr(np.eye(16) + 0.05)[0].astype(np.float32)
    NestedIndex.build(model, pool, folder, prefix=4, shortlist=15, order="principal").close()
    with open_index(folder, model) as index:
        index.add(kit.pool(0, 3))  # turned by the same directions
        found = [[hit.uid for hit in row] for row in index.search_vectors(queries, 5)]
    _, _, directions = np.linalg.svd(vectors.astype(np.float64))
    turned, asked = vectors @ directions[:4].T, queries @ directions[:4].T
    for row, query, first in zip(found, queries, asked, strict=True):
        short = sorted(range(300), key=lambda i: -float(turned[i] @ first / np.linalg.norm(turned[i])))[:15]
        assert row == [pool.uids[i] for i in sorted(short, key=lambda i: -float(vectors[i] @ query))[:5]]
    best = np.argsort(-(queries @ vectors.T), axis=1)[:, :5]
    assert found == [[pool.uids[i] for i in row] for row in best]


def test_a_prefix_has_length_one_again() -> None:
    rows = np.array([[0.6, 0.0, 0.8], [0.0, 0.0, 1.0]], np.float32)
    np.testing.assert_allclose(prefix_of(rows, 2), [[1, 0], [0, 0]])


def test_life_is_that_of_any_index(kit: Any, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with NestedIndex.build(kit.model(), kit.pool(0, 30), folder, prefix=8) as index:
        index.add(kit.pool(30, 40))
        index.remove(["u3"])
        index.compact()
    with open_index(folder, kit.model()) as index:
        assert isinstance(index, NestedIndex)
        assert index.info.options == {"prefix": 8, "shortlist": 200, "order": "given"}
        assert (index.info.kind, index.info.dim, len(index)) == ("nested", 16, 39)
        assert index.search("u35", 1)[0].uid == "u35"
        assert index.search("u3", 40, where={"split": "train"})[0].uid != "u3"


def test_refused(kit: Any, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown order 'principle'; did you mean 'principal'"):
        NestedIndex.build(kit.model(), kit.pool(0, 5), tmp_path / "index", order="principle")
    for options, says in [
        ({"prefix": 17}, "prefix is 17, and the model's vectors have 16"),
        ({"prefix": 0}, "prefix is 0"),
        ({"shortlist": 0}, "shortlist is 0"),
        ({"fusion": "rrf"}, "has no option fusion"),
    ]:
        with pytest.raises(ConfigError, match=says):
            NestedIndex.build(kit.model(), kit.pool(0, 5), tmp_path / "index", **options)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("order", ["given", "principal"])
def test_a_funnel_looks_at_more_numbers_of_fewer_items(kit: Any, tmp_path: Path, order: str) -> None:
    """The released re-ranking written out: what the shortlist holds is ordered anew by each longer prefix, and then cut."""
    pool = kit.pool(0, 300)
    vectors = np.stack([kit.vector(uid, 16) for uid in pool.uids]).astype(np.float64)
    queries = np.stack([kit.vector(f"q{i}", 16) for i in range(8)])
    _, _, directions = np.linalg.svd(vectors)
    turn = np.eye(16) if order == "given" else directions.T
    with NestedIndex.build(kit.model(), pool, tmp_path / "index", funnel="2:60,4:30,8:12", order=order) as index:
        assert index.info.options == {"prefix": 2, "shortlist": 60, "order": order, "funnel": "2:60,4:30,8:12"}
        found = index.search_vectors(queries, 5)
    for row, query in zip(found, queries.astype(np.float64), strict=True):
        kept = list(range(300))
        for width, count in ((2, 60), (4, 30), (8, 12)):
            short = (vectors @ turn)[:, :width]
            away = np.linalg.norm(short / np.linalg.norm(short, axis=1, keepdims=True) - (query @ turn)[:width], axis=1)
            kept = sorted(kept, key=lambda i: away[i])[:count]
        want = sorted(kept, key=lambda i: -float(vectors[i] @ query))[:5]
        assert [hit.uid for hit in row] == [pool.uids[i] for i in want]


@pytest.mark.parametrize("funnel", ["8", "8:20,4:10", "4:10,8:20", "4:10,4:5", "0:10", "a:b"])
def test_a_funnel_that_does_not_narrow_is_refused(kit: Any, tmp_path: Path, funnel: str) -> None:
    with pytest.raises(ConfigError, match=r"expected WIDTH:SHORTLIST, growing widths and falling shortlists"):
        NestedIndex.build(kit.model(), kit.pool(0, 5), tmp_path / "index", funnel=funnel)
