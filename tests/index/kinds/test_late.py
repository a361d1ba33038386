"""Late interaction against the loops of its definition."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core.errors import ConfigError, DataError
from diptych.core.image import BytesImage, ImageSource
from diptych.core.randomness import keyed_rng
from diptych.index.kinds.late import LateIndex


def tokens(key: str) -> np.ndarray:
    rng = keyed_rng("tokens", key)
    rows = rng.standard_normal((int(rng.integers(1, 6)), 8))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class Tokens:
    name, fingerprint = "tokens", "0f"

    def embed_patches(self, images: Sequence[ImageSource]) -> list[np.ndarray]:
        return [tokens(image.name) for image in images]

    def embed_words(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [tokens(text) for text in texts]


def naive(query: np.ndarray, item: np.ndarray) -> float:
    return sum(max(float(q @ t) for t in item) for q in query) / len(query)


def pooled(x: np.ndarray) -> np.ndarray:
    mean = x.mean(axis=0)
    return mean / np.linalg.norm(mean)


def test_scores_are_mean_best_cosines(kit: Any, tmp_path: Path) -> None:
    pool = kit.pool(0, 80)
    with LateIndex.build(Tokens(), pool, tmp_path / "index", shortlist=12) as index:
        for name in ("one", "two", "three"):
            query = tokens(name)
            scores = {uid: naive(query, tokens(uid)) for uid in pool.uids}
            exact = index.search_text(name, 80, exact=True)
            assert [h.uid for h in exact] == sorted(scores, key=scores.__getitem__, reverse=True)
            assert [h.score for h in exact] == pytest.approx([scores[h.uid] for h in exact], abs=1e-5)
            first = sorted(pool.uids, key=lambda uid: -float(pooled(query) @ pooled(tokens(uid))))[:12]
            want = sorted(first, key=lambda uid: -scores[uid])[:5]
            assert [h.uid for h in index.search_text(name, 5)] == want
            assert [h.uid for h in index.search_text(name, 5, effort=80)] == [h.uid for h in exact[:5]]
        assert index.search_image(BytesImage(b"", "u9"), 1)[0].score == pytest.approx(1.0, abs=1e-5)
        assert "u9" not in {h.uid for h in index.search_like("u9", 80)}
        assert {h.payload["style"] for h in index.search_text("one", 5, where={"style": "noto"})} == {"noto"}


def test_texts_are_found_by_pictures(kit: Any, tmp_path: Path) -> None:
    with LateIndex.build(Tokens(), kit.pool(0, 20), tmp_path / "index", what="texts") as index:
        query = tokens("u3")
        best = max((naive(query, tokens(f"{t}ext {i}")), f"{t}ext {i}") for i in range(20) for t in "tT")
        hit = index.search_image(BytesImage(b"", "u3"), 1)[0]
        assert (hit.payload["text"], hit.score) == (best[1], pytest.approx(best[0], abs=1e-5))


def test_the_shortlist_is_the_models_own_embedding_where_it_has_one(kit: Any, tmp_path: Path) -> None:
    class Both(kit.model, Tokens):  # type: ignore[misc]
        pass

    pool = kit.pool(0, 60)
    with LateIndex.build(Both(), pool, tmp_path / "index", shortlist=5) as index:
        first = sorted(pool.uids, key=lambda uid: -float(kit.vector("one", 16) @ kit.vector(uid, 16)))[:5]
        assert {h.uid for h in index.search_text("one", 5)} == set(first)


def test_refused(kit: Any, tmp_path: Path) -> None:
    class Empty(Tokens):
        def embed_patches(self, images: Any) -> list[np.ndarray]:
            return [np.zeros((0, 8), np.float32) for _ in images]

    with pytest.raises(DataError, match=r"image of u0 has tokens of shape \[0, 8\]"):
        LateIndex.build(Empty(), kit.pool(0, 3), tmp_path / "index")
    with pytest.raises(ConfigError, match="embeds patches and words; 'named' does not"):
        LateIndex.build(kit.model(), kit.pool(0, 3), tmp_path / "index")
    with pytest.raises(ConfigError, match="shortlist is 0"):
        LateIndex.build(Tokens(), kit.pool(0, 3), tmp_path / "index", shortlist=0)
