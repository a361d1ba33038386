"""Pipelines by name: every registered one keeps the contract, and roles are filled before anything is asked."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any

import numpy as np
import pytest
from stand_ins import ITEMS, SPACE, HandMade, Mean, Patches, corner, image

from diptych.core.contracts import Pipeline, Role, VectorIndex
from diptych.core.errors import ConfigError, UnknownName
from diptych.core.image import ArrayImage
from diptych.core.registry import PIPELINES
from diptych.index.exact import ExactIndex
from diptych.pipelines.alignment import TextOnPicture, align
from diptych.pipelines.composed_search import ComposedSearch, Composition
from diptych.pipelines.roles import start


class Opened(ExactIndex):
    """An index that knows its model."""

    embedder = HandMade()


def opened() -> Opened:
    return Opened(SPACE, list(ITEMS), [{"text": item} for item in ITEMS])


@pytest.mark.parametrize("name", list(PIPELINES))
def test_every_pipeline_keeps_the_contract(name: str) -> None:
    kind: Any = PIPELINES.load(name)
    assert kind.slug == name
    assert is_dataclass(kind)
    assert is_dataclass(kind.request)
    names = set(kind.__dataclass_fields__)
    assert kind.roles
    assert all(isinstance(role, Role) and role.name in names for role in kind.roles)


def test_a_pipeline_runs_by_its_name() -> None:
    ready = start("composed_search", {"index": opened()}, weight=1.0)
    assert isinstance(ready, Pipeline)
    answer = ready.run(Composition(image("red circle"), "hat", k=2))
    direct = ComposedSearch(HandMade(), SPACE, 1.0)(image("red circle"), "hat", k=2)
    assert [hit["uid"] for hit in answer.to_json()["hits"]] == [ITEMS[row] for row, _ in direct]
    assert answer.lines()[0] == f"{direct[0][1]:6.3f}  red circle hat  red circle hat"
    in_memory = ComposedSearch(HandMade(), SPACE, 1.0).run(Composition(image("red circle"), "hat", k=2))
    assert in_memory.to_json()["hits"] == [{"row": row, "score": score} for row, score in direct]


def test_an_embedder_of_its_own_goes_before_that_of_the_index() -> None:
    class Other(HandMade):
        def embed_texts(self, texts, *, batch_size: int = 256):
            return super().embed_texts(["blue" for _ in texts])

    answer = start("composed_search", {"index": opened(), "embedder": Other()}).run(Composition(image("red circle"), "hat", k=1))
    assert answer.to_json()["hits"][0]["uid"] == "blue circle"
    with pytest.raises(ConfigError, match="no model to embed the query"):
        start("composed_search", {"index": ExactIndex(SPACE, list(ITEMS))}).run(Composition(image("red circle"), "hat"))


@pytest.mark.parametrize("model", [Patches(), Mean()])
def test_alignment_as_a_pipeline_is_the_function(model: Any) -> None:
    picture = ArrayImage(corner())
    answer = start("alignment", {"model": model}, grid=2).run(TextOnPicture(picture, "red blue"))
    np.testing.assert_array_equal(answer.weight_WHW, align(model, picture, "red blue", grid=2).weight_WHW)
    assert answer.lines()[2].split() == ["red", f"{answer.weight_WHW[1].max():.3f}", "in", "row", "1,", "column", "1"]
    assert answer.to_json()["words"] == ["red blue", "red", "blue"]
    assert np.allclose(answer.to_json()["weights"], answer.weight_WHW, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "given", "options", "error", "says"),
    [
        ("composed_search", {}, {}, ConfigError, r"pipeline 'composed_search' asks for index: .* \(expected --index INDEX\)"),
        ("composed_search", {"index": "a"}, {}, ConfigError, "for its index got the address a .expected an open index"),
        ("composed_search", {"index": opened(), "judge": 1}, {}, ConfigError, "has no role judge .its roles are index, embedder"),
        ("composed_search", {"index": HandMade()}, {}, ConfigError, "is a VectorIndex; 'hand-made' offers Embedder"),
        ("alignment", {"model": opened()}, {}, ConfigError, "is a TokenEmbedder or Embedder; "),
        ("alignment", {"model": Mean()}, {"girth": 2}, UnknownName, "unknown option of pipeline 'alignment' 'girth'"),
        ("allignment", {}, {}, UnknownName, "did you mean 'alignment'"),
    ],
)
def test_what_cannot_start(name: str, given: Any, options: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        start(name, given, **options)


def test_an_index_is_one_by_what_it_can_do() -> None:
    assert isinstance(opened(), VectorIndex)
    assert not isinstance(HandMade(), VectorIndex)
