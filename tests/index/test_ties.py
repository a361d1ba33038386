"""Items of equal score: in the order of their uids in every kind of index, however it was filled."""

from __future__ import annotations

import random
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core.image import BytesImage
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region, Relation
from diptych.data.dataset import Pool
from diptych.index.engine.store import EngineQuery, ItemFilter, ScoredItem
from diptych.index.kinds.dense import DenseIndex
from diptych.index.kinds.graphs import AnnotatedGraphs, GraphIndex
from diptych.index.kinds.hybrid import HybridIndex
from diptych.index.kinds.late import LateIndex
from diptych.index.kinds.lexical import LexicalIndex
from diptych.index.kinds.nested import NestedIndex
from diptych.index.lexicon import BM25Encoder
from diptych.index.ranking import ordered_query

NAMES = [f"u{number:02d}" for number in range(60)]


class FewVectors:
    """Embeds every image by the last digit of its name, modulo 3, so that twenty items share each vector."""

    name, fingerprint, dim = "few", "aa11", 16

    def embed_images(self, images: Any, *, batch_size: int = 64) -> Any:
        return np.stack([self._row(int(image.name[1:]) % 3) for image in images])

    def embed_texts(self, texts: Any, *, batch_size: int = 256) -> Any:
        return np.stack([self._row(len(text) % 3) for text in texts])

    def embed_patches(self, images: Any) -> Any:
        return [row[None] for row in self.embed_images(images)]

    def embed_words(self, texts: Any) -> Any:
        return [row[None] for row in self.embed_texts(texts)]

    @staticmethod
    def _row(kind: int) -> Any:
        row = np.array([[3, 1, 0, 1], [1, 3, 1, 0], [0, 1, 3, 1]][kind] * 4, np.float32)
        return row / np.linalg.norm(row)


def pool_of(names: list[str]) -> Pool:
    regions = (Region((0.0, 0.0, 4.0, 4.0), "cat"), Region((1.0, 1.0, 5.0, 5.0), "mat"))
    return Pool.from_samples(
        [
            Sample(name, BytesImage(b"", name), (Text("a red cat" if int(name[1:]) % 2 else "a cat"),), regions=regions,
                   relations=(Relation(0, "on", 1),))
            for name in names
        ],
        name="ties",
    )  # fmt: skip


KINDS: list[tuple[Any, Any]] = [
    (DenseIndex, FewVectors()),
    (LexicalIndex, BM25Encoder()),
    (HybridIndex, FewVectors()),
    (LateIndex, FewVectors()),
    (NestedIndex, FewVectors()),
    (GraphIndex, AnnotatedGraphs()),
]


@pytest.mark.parametrize(("kind", "model"), KINDS, ids=[kind.kind for kind, _ in KINDS])
def test_equal_scores_are_in_the_order_of_uids_however_the_index_was_filled(kind: Any, model: Any, tmp_path: Path) -> None:
    answers = []
    query = "cat" if kind is not GraphIndex else "cat, on, mat"
    for seed in range(2):
        names = NAMES.copy()
        random.Random(seed).shuffle(names)
        cut = (60, 35)[seed]
        folder = tmp_path / str(seed)
        with kind.build(model, pool_of(names[:cut]), folder, progress=False) as index:
            for start in range(cut, 60, 25):
                index.add(pool_of(names[start : start + 25]), progress=False)
            answers.append([[(hit.uid, hit.score) for hit in index.search_text(query, k)] for k in (7, 33)])
    assert [hit[0] for hit in answers[0][1][:7]] == [hit[0] for hit in answers[0][0]]
    for ranking in answers[0]:
        assert ranking == sorted(ranking, key=lambda hit: (-hit[1], hit[0]))
    for other in answers[1:]:
        assert [[uid for uid, _ in ranking] for ranking in other] == [[uid for uid, _ in ranking] for ranking in answers[0]]


class Reversed:
    """A store of 300 items of which all but two score alike; it answers them in falling order of uid."""

    def __init__(self) -> None:
        self.limits: list[int] = []

    def query(self, ask: EngineQuery, choice: ItemFilter, *, vectors: Any = ()) -> list[ScoredItem]:
        self.limits.append(ask.limit)
        scores = {f"v{n:03d}": 0.5 for n in range(300)} | {"v123": 0.9, "v007": 0.1}
        ranked = sorted(scores, key=lambda uid: (scores[uid], uid), reverse=True)
        return [ScoredItem(uuid.uuid5(uuid.NAMESPACE_URL, uid), scores[uid], {"uid": uid}) for uid in ranked[: ask.limit]]


def test_ties_that_go_on_beyond_the_end_are_read_to_theirs() -> None:
    store: Any = Reversed()
    items = ordered_query(store, EngineQuery("", np.ones(2, np.float32), 5), ItemFilter())
    assert [item.payload["uid"] for item in items] == ["v123", "v000", "v001", "v002", "v003"]
    assert store.limits[-1] >= 300
    store.limits.clear()
    assert ordered_query(store, EngineQuery("", np.ones(2, np.float32), 1), ItemFilter())[0].payload["uid"] == "v123"
    assert store.limits == [17]
