"""Embeddings of a column of texts are those of a list of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from diptych.core.errors import DataError
from diptych.index import embed
from diptych.index.embed import embed_text_column, embed_texts, text_blocks


class Counts:
    """Unit vectors whose direction is the length of a text, and what was asked for."""

    name, fingerprint = "counts", "counts"

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def embed_texts(self, texts: Any, *, batch_size: int = 256) -> np.ndarray:
        self.asked += [texts[start : start + batch_size] for start in range(0, len(texts), batch_size)]
        angle = np.array([len(text) for text in texts], np.float32)
        return np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)


@pytest.fixture
def strings() -> list[str]:
    return ["x" * n for n in np.random.default_rng(0).integers(0, 40, 200).tolist()]


def test_blocks_have_the_batches_and_vectors_of_a_list(strings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "TEXT_BLOCK", 5)
    one, other = Counts(), Counts()
    expected = embed_texts(one, strings, strings, batch_size=4)
    column = pa.array(strings, pa.large_string())
    seen = np.zeros(200, bool)
    for row_R, number_R, vector_BD in text_blocks(other, column, str, batch_size=4):
        assert len(vector_BD) <= 8
        assert np.array_equal(vector_BD[number_R], expected[row_R])
        seen[row_R] = True
    assert seen.all()
    assert other.asked == one.asked
    assert np.array_equal(embed_text_column(other, column, str), expected)
    assert embed_text_column(other, column.slice(0, 0), str).shape == (0, 1)


def test_a_vector_that_is_not_finite_is_named_by_its_first_row() -> None:
    class Broken(Counts):
        def embed_texts(self, texts: Any, *, batch_size: int = 256) -> np.ndarray:
            return np.where([[text == "b"] for text in texts], np.nan, super().embed_texts(texts))

    with pytest.raises(DataError, match=r"row 1 \('b'\) is not finite"):
        embed_text_column(Broken(), pa.array(["a", "b", "b"], pa.large_string()), lambda row: f"row {row}")
