"""Scores of pairs: equal texts are asked once, faults are named, and which comparison a task uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from diptych.core.errors import ConfigError, DataError, ShapeError
from diptych.core.image import ArrayImage
from diptych.tasks._scoring.pair_scores import compared_by, pair_scores

IMAGES = [ArrayImage(np.zeros((1, 1, 3), np.uint8), name) for name in ("a", "b")]


class Scorer:
    """Gives each text its length, less the number of the image; `wrong` replaces single scores."""

    name = "scorer"

    def __init__(self, wrong: dict[tuple[int, int], float] | None = None, cut: int | None = None) -> None:
        self.wrong, self.cut, self.asked = wrong or {}, cut, list[tuple[str, ...]]()

    def score_pairs(self, images: Sequence[Any], texts: Sequence[str], *, query: str = "image") -> Any:
        self.asked.append((*texts, query))
        scores = np.array([[len(text) - row for text in texts] for row in range(len(images))], float)
        for place, value in self.wrong.items():
            scores[place] = value
        return scores[:, : self.cut]


def test_equal_texts_are_asked_once_and_keep_their_columns() -> None:
    model = Scorer()
    found = pair_scores(model, IMAGES, ["two", "three", "two", "x"], query="text")
    assert found.tolist() == [[3, 5, 3, 1], [2, 4, 2, 0]]
    assert found.dtype == np.float32
    assert model.asked == [("two", "three", "x", "text")]


def test_faults_are_named() -> None:
    with pytest.raises(DataError, match=r"the image b and the text 'three' is not finite"):
        pair_scores(Scorer({(1, 1): np.inf}), IMAGES, ["two", "three", "two"], query="image")
    with pytest.raises(ShapeError, match=r"\[2, 1\] for 2 images and 2 texts"):
        pair_scores(Scorer(cut=1), IMAGES, ["two", "three"], query="image")


def test_which_comparison_is_used() -> None:
    assert [compared_by(Scorer(), how) for how in ("auto", "pairs", "vectors")] == ["pairs", "pairs", "vectors"]
    assert [compared_by(object(), how) for how in ("auto", "vectors")] == ["vectors", "vectors"]
    with pytest.raises(ConfigError, match="scores no pairs"):
        compared_by(object(), "pairs")
