"""Fusion rules against their formulas, and hybrid search against two rankings fused by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.errors import ConfigError, UnknownName
from diptych.core.image import BytesImage
from diptych.core.sample import Text
from diptych.data.dataset import Pool
from diptych.index.fusion import fuse, reciprocal_rank, weighted_scores
from diptych.index.kinds.dense import DenseIndex
from diptych.index.kinds.hybrid import HybridIndex
from diptych.index.kinds.lexical import LexicalIndex
from diptych.index.lexicon import BM25Encoder

lists = st.lists(st.tuples(st.integers(0, 9), st.floats(-2, 2)), unique_by=lambda pair: pair[0], max_size=8).map(
    lambda pairs: sorted(pairs, key=lambda pair: -pair[1])
)


@settings(max_examples=40, deadline=None)
@given(a=lists, b=lists, share=st.floats(0, 1))
def test_rules(a: list[tuple[int, float]], b: list[tuple[int, float]], share: float) -> None:
    weights = (1 - share, share)
    for key in {key for key, _ in a + b}:
        rrf = scaled = 0.0
        for ranking, weight in zip((a, b), weights, strict=True):
            keys, scores = [k for k, _ in ranking], [s for _, s in ranking]
            if key in keys:
                place = keys.index(key)
                rrf += weight / (60 + place + 1)
                spread = scores[0] - scores[-1]
                scaled += weight * ((scores[place] - scores[-1]) / spread if spread > 0 else 1.0)
        assert reciprocal_rank([a, b], weights)[key] == pytest.approx(rrf)
        assert weighted_scores([a, b], weights)[key] == pytest.approx(scaled)
    fused = list(fuse("rrf", [a, b], weights).values())
    assert fused == sorted(fused, reverse=True)


def said(i: int) -> str:
    """Every text of another length, so that no two score alike."""
    words = ["red"] * (1 + i % 5) + ["bus"] * (i % 3)
    return " ".join(words + ["pad"] * (i + 10 - len(words)))


@pytest.mark.parametrize("rule", ["rrf", "weighted"])
def test_search_fuses_the_two_rankings(kit: Any, tmp_path: Path, rule: Any) -> None:
    pool, model = (
        Pool.from_samples(
            [
                replace(s, texts=(Text(said(i)),), group="", licence="", extras={"style": s.extras["style"]})
                for i, s in enumerate(kit.pool(0, 150))
            ]
        ),
        kit.model(),
    )
    where = {"style": ["noto", "fluent"]}
    with (
        HybridIndex.build(model, pool, tmp_path / "hybrid", fusion=rule, lexical=0.3, depth=40, exact_first=False) as hybrid,
        DenseIndex.build(model, pool, tmp_path / "dense") as dense,
        LexicalIndex.build(BM25Encoder(), pool, tmp_path / "lexical") as lexical,
    ):
        for query in ("red bus", "bus", "red"):
            rankings = [[(h.uid, h.score) for h in part.search_text(query, 40, where=where)] for part in (dense, lexical)]
            want = fuse(rule, rankings, (0.7, 0.3))
            hits = hybrid.search_text(query, 10, where=where)
            np.testing.assert_allclose([h.score for h in hits], list(want.values())[:10], rtol=1e-4)
            assert all(want[h.uid] == pytest.approx(h.score, rel=1e-4) for h in hits)
            alone = hybrid.search_words(query, 10, where=where)
            assert [(h.uid, h.score) for h in alone] == [(uid, pytest.approx(score, rel=1e-5)) for uid, score in rankings[1][:10]]
        assert hybrid.search_words("zebra", 5) == []
        assert hybrid.search_image(BytesImage(b"", "u9"), 1)[0].score == pytest.approx(1.0, abs=1e-5)
        assert len(hybrid.search_text("red", 100)) == 100
        nothing_said = [h.uid for h in hybrid.search_text("zebra", 5)]
        assert nothing_said == [h.uid for h in dense.search_text("zebra", 5)]


def test_refused(kit: Any, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown fusion rule 'rff'; did you mean 'rrf'"):
        HybridIndex.build(kit.model(), kit.pool(0, 3), tmp_path / "index", fusion="rff")
    with pytest.raises(ConfigError, match="lexical is 2"):
        HybridIndex.build(kit.model(), kit.pool(0, 3), tmp_path / "index", lexical=2)
