"""The records of relation protocols: rows there and back, flat views, and every way in which rows can be wrong."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from diptych.core.errors import DataError, ShapeError
from diptych.core.scene_graph import Region, Relation, SceneGraph
from diptych.tasks._scoring.records import read_records, write_records
from diptych.tasks.relations.graph_arrays import GraphArrays, names_in
from diptych.tasks.relations.graph_records import records

DOG, BALL, CAT = Region((0, 0, 4, 4), "dog", score=0.9), Region((2, 2, 9, 9.5), "ball"), Region((1, 1, 2, 2), "cat")
CHASE = SceneGraph((DOG, BALL), (Relation(0, "chases", 1, 0.3), Relation(1, "flees", 0, 0.1)))
PAIR = SceneGraph((CAT, DOG, BALL), (Relation(2, "flees", 2, 0.7),))
OBJECTS, PREDICATES = ["ball", "cat", "dog"], ["chases", "flees"]


def test_rows_survive_parquet_and_hold_both_sides(tmp_path: Path) -> None:
    table = records(["a", "b"], [CHASE, SceneGraph()], [SceneGraph(), PAIR], groups=["g", "g"], sizes=[(10, 12), None])
    write_records(tmp_path / "rows.parquet", table)
    kept = read_records(tmp_path / "rows.parquet")
    assert kept.equals(table)
    first = kept.to_pylist()[0]
    assert (first["uid"], first["group"], first["width"], first["height"]) == ("a", "g", 10, 12)
    assert first["truth_box"] == [list(DOG.box), list(BALL.box)]
    assert first["truth_predicate"] == ["chases", "flees"]
    assert (first["box"], first["confidence"]) == ([], [])
    assert (names_in(kept, "truth_label"), names_in(kept, "label")) == (["ball", "dog"], ["ball", "cat", "dog"])


def test_flat_view_equals_the_graphs_also_of_a_slice() -> None:
    graphs = [SceneGraph(), CHASE, SceneGraph((CAT,)), PAIR]
    table = pa.concat_tables([records(list("wxyz"), graphs[::-1], graphs)] * 2).slice(1, 5)
    flat = GraphArrays.of(table, "prediction", objects=OBJECTS, predicates=PREDICATES)
    expected = (graphs * 2)[1:6]
    assert flat.uids == ("x", "y", "z", "w", "x")
    for n, graph in enumerate(expected):
        rows = range(flat.box_start[n], flat.box_start[n + 1])
        assert [tuple(flat.box[b]) for b in rows] == [region.box for region in graph.regions]
        assert [OBJECTS[flat.label[b]] for b in rows] == [region.label for region in graph.regions]
        assert [flat.score[b] for b in rows] == [region.score for region in graph.regions]
        said = [
            Relation(
                int(flat.subject[r] - rows.start),
                PREDICATES[flat.predicate[r]],
                int(flat.object[r] - rows.start),
                float(flat.confidence[r]),
            )
            for r in range(flat.relation_start[n], flat.relation_start[n + 1])
        ]
        assert said == list(graph.relations)
    assert (flat.image_of_box == np.repeat(np.arange(5), [len(g.regions) for g in expected])).all()
    assert (flat.image_of_relation == np.repeat(np.arange(5), [len(g.relations) for g in expected])).all()


def test_truth_has_score_one_and_nothing_is_a_view_too() -> None:
    flat = GraphArrays.of(records(["a"], [CHASE], [SceneGraph()]), "truth", objects=OBJECTS, predicates=PREDICATES)
    assert flat.score.tolist() == flat.confidence.tolist() == [1.0, 1.0]
    empty = GraphArrays.of(records([], [], []), "prediction", objects=[], predicates=[])
    assert (len(empty), empty.box.shape, len(empty.subject)) == (0, (0, 4), 0)


def test_wrong_rows_are_named() -> None:
    good = records(["a", "b"], [SceneGraph(), CHASE], [SceneGraph(), CHASE])
    with pytest.raises(DataError, match=r"row 1, field 'truth_label': unknown name 'dog' in b \(expected one of 1 names"):
        GraphArrays.of(good, "truth", objects=["ball"], predicates=PREDICATES)
    with pytest.raises(DataError, match="row 1, field 'predicate': unknown name 'flees' in b"):
        GraphArrays.of(good, "prediction", objects=OBJECTS, predicates=["chases"])
    rows = good.to_pylist()
    rows[1]["object"] = [1, 7]
    with pytest.raises(DataError, match=r"row 1, field 'object': a relation of b points at box 7, .* \(expected 0..1\)"):
        GraphArrays.of(pa.Table.from_pylist(rows, good.schema), "prediction", objects=OBJECTS, predicates=PREDICATES)
    rows[1]["object"] = [1]
    with pytest.raises(DataError, match="row 1, field 'object': b has lists of unequal length"):
        GraphArrays.of(pa.Table.from_pylist(rows, good.schema), "prediction", objects=OBJECTS, predicates=PREDICATES)
    with pytest.raises(ShapeError, match="2 uids, 1 true graphs, 2 predicted"):
        records(["a", "b"], [CHASE], [CHASE, CHASE])
    far = SceneGraph((DOG, Region((0, 0, math.inf, 1), "dog")))
    with pytest.raises(DataError, match="row 1, field 'box': a prediction for b is not finite"):
        records(["a", "b"], [CHASE, CHASE], [CHASE, far])
