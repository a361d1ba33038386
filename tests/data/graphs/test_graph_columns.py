"""Scene graphs by column against the same graphs as objects."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from diptych.core.errors import DataError
from diptych.core.image import BytesImage
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region, Relation, SceneGraph
from diptych.data.dataset import Pool
from diptych.data.graphs.columns import GraphColumns, extras_of
from diptych.data.graphs.relation_splits import without_triplets
from diptych.data.ragged import Ragged
from diptych.tasks.relations import graph_records

LABELS, VERBS = ("dog", "cat", "ball"), ("chases", "sees")


def sample(n: int) -> Sample:
    """Up to three regions and three relations; every fourth image has nothing."""
    rng = keyed_rng("columns", n)
    count = 0 if n % 4 == 0 else int(rng.integers(1, 4))
    regions = tuple(
        Region((i, 0.5, i + 1.25, 9), str(rng.choice(LABELS)), score=int(rng.integers(1, 9)) / 8) for i in range(count)
    )
    ends = [rng.integers(0, count, 2).tolist() for _ in range(int(rng.integers(0, 4)))] if count else []
    relations = tuple(Relation(s, str(rng.choice(VERBS)), o, 0.5) for s, o in ends)
    extras = {"note": n} if n % 2 else {}
    return Sample(f"s{n}", BytesImage(b"", f"s{n}"), regions=regions, relations=relations, extras=extras)


POOL = Pool.from_samples(map(sample, range(30)), name="made")


def same(one: GraphColumns, other: GraphColumns) -> bool:
    return list(one.uids) == list(other.uids) and all(one.lists()[name].equals(other.lists()[name]) for name in one.lists())


@pytest.mark.parametrize("rows", [list(range(30)), [7, 3, 3, 0, 29], []])
def test_columns_equal_the_objects(rows: list[int]) -> None:
    part = POOL.select(rows)
    graphs = [part[row].graph for row in range(len(part))]
    by_hand = GraphColumns.of_graphs(part.uids, graphs)
    assert same(GraphColumns.of(part), by_hand)
    assert same(GraphColumns.of(POOL, rows), by_hand)
    columns = GraphColumns.of(part)
    assert columns.named() == [triplet for graph in graphs for triplet in graph.triplets()]
    assert columns.triplets() == Counter(columns.named())
    assert columns.names() == ({r.label for g in graphs for r in g.regions}, {r.predicate for g in graphs for r in g.relations})
    assert extras_of(part, "note") == [row if row % 2 else None for row in rows]


def test_lists_there_and_back_also_of_a_slice() -> None:
    columns = GraphColumns.of(POOL)
    table = pa.table({"uid": POOL.uids} | {f"x_{name}": column for name, column in columns.lists().items()})
    assert same(GraphColumns.of_lists(table, "x_"), columns)
    assert same(GraphColumns.of_lists(table.slice(5, 9), "x_"), GraphColumns.of(POOL, range(5, 14)))


def test_data_that_are_no_pool_are_read_sample_by_sample() -> None:
    hidden = [("dog", "chases", "cat"), ("cat", "sees", "cat")]
    changed = without_triplets(POOL, hidden)
    left = GraphColumns.of(POOL).triplets()
    for triplet in hidden:
        left.pop(triplet, None)
    assert GraphColumns.of(changed).triplets() == left
    assert extras_of(changed, "note")[:2] == [None, 1]


def test_names_outside_a_list_are_found_in_order_of_images() -> None:
    columns = GraphColumns.of_graphs("ab", [SceneGraph((Region((0, 0, 1, 1), "dog"),)), sample(1).graph])
    assert columns.first_outside(["dog", "cat", "ball"], VERBS) is None
    assert columns.first_outside([], VERBS) == (0, "dog")
    assert columns.first_outside(None, []) == ((1, sample(1).relations[0].predicate) if sample(1).relations else None)


def test_a_relation_to_a_region_of_the_next_image_is_refused() -> None:
    table = pa.table({"uid": ["s1"], "subject": [0], "predicate": ["sees"], "object": [9], "confidence": [1.0]})
    wrong = POOL.with_table(table, replace=True)
    with pytest.raises(DataError, match=r"row 1, field 'object': a relation of s1 points at box 9, which does not exist"):
        GraphColumns.of(wrong)


def test_a_pool_goes_to_the_records_without_an_object(monkeypatch: pytest.MonkeyPatch) -> None:
    class Blind:
        name, fingerprint = "blind", "b"

        def detect(self, images: Any, *, objects: Any, relations: Any = (), **options: Any) -> list[SceneGraph]:
            return [SceneGraph()] * len(images)

    def refuse(*_: Any) -> None:
        raise AssertionError("an object was made")

    monkeypatch.setattr(Pool, "__getitem__", refuse)
    monkeypatch.setattr(Region, "__post_init__", refuse)
    table = graph_records.predict(Blind(), POOL, LABELS, VERBS)
    assert same(GraphColumns.of_lists(table.drop_columns(["score", "confidence"]).append_column(
        "truth_score", GraphColumns.of(POOL).lists()["score"]).append_column(
        "truth_confidence", GraphColumns.of(POOL).lists()["confidence"]), "truth_"), GraphColumns.of(POOL))  # fmt: skip


def test_ragged_take_equals_a_loop() -> None:
    ragged = Ragged(np.array([0, 2, 2, 5]), pa.table({"x": [1, 2, 3, 4, 5]}))
    taken = ragged.take(np.array([2, 0, 1, 2]))
    assert taken.start_N1.tolist() == [0, 3, 5, 5, 8]
    assert taken.column("x").to_pylist() == [3, 4, 5, 1, 2, 3, 4, 5]
    assert ragged.lists("x").to_pylist() == [[1, 2], [], [3, 4, 5]]
    assert ragged.rows().tolist() == [0, 0, 2, 2, 2]
