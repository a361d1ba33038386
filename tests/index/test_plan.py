"""A plan is what was asked, whoever asks: parts in order, halves and modes, embeddings put in the places of texts and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core.errors import ConfigError
from diptych.core.image import BytesImage
from diptych.index.kinds.dense import DenseIndex
from diptych.index.kinds.hybrid import HybridIndex
from diptych.index.kinds.lexical import LexicalIndex
from diptych.index.lexicon import BM25Encoder
from diptych.index.plan import ByExamples, ByImage, ByText, ByTriplet, ByVector, SearchPlan

IMAGE = BytesImage(b"", "u9")


def test_parts_and_weights() -> None:
    plan = SearchPlan.of("red", IMAGE, ("a",), ("b", "c"), weight=-1.5, against=0.25)
    assert plan.parts == (ByImage(IMAGE), ByText("red", -1.5), ByExamples(("a",)), ByExamples(("b", "c"), -0.25))
    assert plan.only is None
    assert SearchPlan.of("red").only == ByText("red", 2.0)
    assert SearchPlan.of("red", weight=-1.0).only is None  # to be far from something is arithmetic
    assert SearchPlan.of(like=("a", "b")).only is None
    plans = [SearchPlan.of("red", mode=mode) for mode in (None, "exact", "lexical")]
    assert [plan.mode for plan in plans] == [None, "exact", "lexical"]
    assert [(plan.half, plan.exact) for plan in plans] == [("", False), ("", True), ("lexical", False)]
    for wrong in ({"weight": float("nan")}, {"against": float("inf"), "unlike": ("a",)}, {"k": 0}):
        with pytest.raises(ConfigError, match="expected"):
            SearchPlan.of("red", **wrong)
    with pytest.raises(ConfigError, match="nothing to search for"):
        SearchPlan(())


@pytest.mark.parametrize("parts", [{"text": "red"}, {"image": IMAGE}, {"text": "red", "image": IMAGE, "unlike": ("u3",)}])
def test_embedding_outside_changes_no_hit(kit: Any, tmp_path: Path, parts: dict[str, Any]) -> None:
    model, plan = kit.model(), SearchPlan.of(**parts)
    texts = model.embed_texts(plan.texts) if plan.texts else np.zeros((0, 16), np.float32)
    images = model.embed_images(plan.images) if plan.images else np.zeros((0, 16), np.float32)
    outside = plan.embedded(texts, images)
    assert not any(isinstance(part, ByText | ByImage) for part in outside.parts)
    assert [part.weight for part in outside.parts] == [part.weight for part in plan.parts]
    with DenseIndex.build(model, kit.pool(0, 80), tmp_path / "dense", progress=False) as index:
        assert index.takes_vectors(plan)
        assert index.answer(outside) == index.answer(plan)


def test_what_each_kind_can_do(kit: Any, tmp_path: Path) -> None:
    pool = kit.pool(0, 60)
    vector = SearchPlan((ByVector(kit.vector("q", 16)),), exact=True)
    with HybridIndex.build(kit.model(), pool, tmp_path / "hybrid", progress=False) as hybrid:
        assert not hybrid.takes_vectors(SearchPlan.of("text 3"))  # its words are needed too
        assert not hybrid.takes_vectors(SearchPlan.of("text 3", mode="lexical"))
        assert hybrid.takes_vectors(SearchPlan.of("text 3", mode="dense"))
        assert hybrid.takes_vectors(SearchPlan.of("text 3", IMAGE))
        with DenseIndex.build(kit.model(), pool, tmp_path / "dense", progress=False) as dense:
            assert hybrid.answer(SearchPlan.of("text 3", mode="dense")) == dense.answer(SearchPlan.of("text 3"))
            assert hybrid.answer(vector) == dense.answer(vector)
            with pytest.raises(ConfigError, match="mode exact needs either a text or an image"):
                dense.answer(SearchPlan.of("a", like=("u1",), mode="exact"))
            with pytest.raises(ConfigError, match="kind 'dense' does not search by triplets"):
                dense.answer(SearchPlan((ByTriplet(("a", "", "")),)))
        with pytest.raises(ConfigError, match="has dense or lexical"):
            hybrid.answer(SearchPlan.of("text 3", mode="exact"))
    with LexicalIndex.build(BM25Encoder(), pool, tmp_path / "words", progress=False) as words:
        with pytest.raises(ConfigError, match="does not search by vectors"):
            words.answer(SearchPlan(vector.parts))
        with pytest.raises(ConfigError, match="has no mode"):
            words.answer(SearchPlan.of("text 3", mode="exact"))
