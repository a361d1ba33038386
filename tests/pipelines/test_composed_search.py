"""A hand-made space in which colour and shape are directions: adding a colour changes it, a negative weight takes it away."""

from __future__ import annotations

import numpy as np
import pytest
from stand_ins import ITEMS, SPACE, HandMade, bag, image

from diptych.core.errors import ConfigError, ShapeError
from diptych.index.exact import ExactIndex
from diptych.pipelines.composed_search import ComposedSearch, compose


def found(weight: float, words: str, text: str) -> str:
    row, _ = ComposedSearch(HandMade(), SPACE, weight)(image(words), text, k=1)[0]
    return ITEMS[row]


def test_a_text_changes_the_image() -> None:
    assert found(2.0, "red circle", "blue") == "blue circle"
    assert found(2.0, "red square", "circle") == "red circle"
    assert found(1.0, "red circle", "hat") == "red circle hat"


def test_a_negative_weight_removes() -> None:
    assert found(-0.6, "red circle hat", "hat") == "red circle"
    assert found(-0.6, "blue circle hat", "hat") == "blue circle"


def test_weight_zero_is_search_by_image() -> None:
    rows = [row for row, _ in ComposedSearch(HandMade(), SPACE, 0.0)(image("blue square"), "red", k=6)]
    assert rows == np.argsort(-(SPACE @ bag("blue square")), kind="stable").tolist()


def test_formula_and_norms() -> None:
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(2, 7, 5)).astype(np.float32)
    for weight in (2.0, 1.0, -1.0):
        for row, query in enumerate(compose(images, texts, weight)):
            raw = images[row] / np.linalg.norm(images[row]) + weight * texts[row] / np.linalg.norm(texts[row])
            np.testing.assert_allclose(query, raw / np.linalg.norm(raw), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(compose(images, texts[:1]), compose(images, np.repeat(texts[:1], 7, 0)))


def test_an_index_gives_the_same_as_an_array_and_takes_conditions() -> None:
    payloads = [{"colour": item.split()[0]} for item in ITEMS]
    index = ExactIndex(SPACE, list(ITEMS), payloads)
    search = ComposedSearch(HandMade(), index)
    plain = ComposedSearch(HandMade(), SPACE)(image("red circle"), "blue", k=4)
    assert [hit.uid for hit in search(image("red circle"), "blue", k=4)] == [ITEMS[row] for row, _ in plain]
    assert {hit.uid.split()[0] for hit in search(image("red circle"), "blue", k=4, where={"colour": "red"})} == {"red"}


def test_bad_input() -> None:
    with pytest.raises(ConfigError, match="cancel out"):
        compose(bag("red")[None], bag("red")[None], -1.0)
    with pytest.raises(ShapeError, match="expected two"):
        compose(np.ones((1, 3), np.float32), np.ones((1, 4), np.float32))
    with pytest.raises(ShapeError, match="2 images and 3 texts"):
        compose(np.ones((2, 3), np.float32), np.ones((3, 3), np.float32))
    with pytest.raises(ConfigError, match="weight is nan"):
        compose(bag("red")[None], bag("blue")[None], float("nan"))
    with pytest.raises(ConfigError, match="k is 0"):
        ComposedSearch(HandMade(), SPACE)(image("red"), "blue", k=0)
    with pytest.raises(ConfigError, match="where needs an index"):
        ComposedSearch(HandMade(), SPACE)(image("red"), "blue", where={"a": 1})
