"""A scene graph in a file of its own: JSON and GraphML through networkx."""

from __future__ import annotations

from pathlib import Path

import networkx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.errors import ConfigError, DataError
from diptych.core.scene_graph import Region, Relation, SceneGraph
from diptych.data.graphs.files import from_networkx, read_graph, to_networkx, write_graph

NAMES = st.text(st.characters(codec="utf-8", categories=("L", "N")), min_size=1, max_size=8)


@st.composite
def graphs(draw: st.DrawFn) -> SceneGraph:
    count = draw(st.integers(1, 4))
    corner = st.floats(0, 50, allow_nan=False, width=32)
    regions = []
    for _ in range(count):
        x, y = draw(corner), draw(corner)
        box = (x, y, x + 1 + draw(corner), y + 1 + draw(corner))
        mask = draw(st.sampled_from([None, {"size": [3, 4], "counts": "32201"}]))
        regions.append(Region(box, draw(NAMES), (draw(NAMES),), draw(st.floats(0, 1)), mask))
    edges = draw(st.lists(st.tuples(st.integers(0, count - 1), NAMES, st.integers(0, count - 1), st.floats(0, 1)), max_size=5))
    return SceneGraph(tuple(regions), tuple(Relation(*edge) for edge in edges))


def relations(graph: SceneGraph) -> list[Relation]:
    return sorted(graph.relations, key=lambda r: (r.subject, r.object, r.predicate, r.confidence))


@settings(max_examples=25, deadline=None)
@given(graph=graphs())
def test_both_formats_give_the_graph_back(graph: SceneGraph, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("graphs")
    for suffix in (".json", ".graphml"):
        write_graph(graph, folder / f"g{suffix}")
        back = read_graph(folder / f"g{suffix}")
        assert back.regions == graph.regions
        assert relations(back) == relations(graph)


def test_networkx_sees_a_directed_multigraph() -> None:
    graph = SceneGraph(
        (Region((0, 0, 4, 4), "dog"), Region((2, 2, 9, 9), "ball")),
        (Relation(0, "chasing", 1, 0.9), Relation(0, "near", 1), Relation(1, "near", 0)),
    )
    made = to_networkx(graph)
    assert isinstance(made, networkx.MultiDiGraph)
    assert made.number_of_edges(0, 1) == 2
    assert made.number_of_edges(1, 0) == 1
    assert from_networkx(made) == graph


def test_a_mask_of_another_kind_is_refused() -> None:
    made = to_networkx(SceneGraph((Region((0, 0, 4, 4), "dog", mask={"size": [3, 4], "counts": "32201"}),)))
    made.nodes[0]["mask"] = "everything"
    with pytest.raises(DataError, match="a mask that is not a run-length code"):
        from_networkx(made)


def test_foreign_and_broken_files_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no known suffix"):
        read_graph(tmp_path / "g.xml")
    with pytest.raises(DataError, match="does not exist"):
        read_graph(tmp_path / "g.json")
    (tmp_path / "g.json").write_text("{")
    with pytest.raises(DataError, match="not a graph file"):
        read_graph(tmp_path / "g.json")
    (tmp_path / "g.graphml").write_text("<graphml")
    with pytest.raises(DataError, match="not a graph file"):
        read_graph(tmp_path / "g.graphml")
    bare = networkx.MultiDiGraph()
    bare.add_node(0, label="dog")
    with pytest.raises(DataError, match="has no 'x0'"):
        from_networkx(bare)


def test_the_strongest_relations_keep_their_regions() -> None:
    regions = (Region((0, 0, 1, 1), "a", score=0.9), Region((0, 0, 2, 2), "b", score=0.1), Region((0, 0, 3, 3), "c", score=0.05))
    graph = SceneGraph(regions, (Relation(1, "low", 2, 0.2), Relation(2, "high", 1, 0.8), Relation(0, "mid", 0, 0.5)))
    best = graph.strongest(top=1, min_score=0.3)
    assert best.triplets() == [("c", "high", "b")]
    assert [region.label for region in best.regions] == ["a", "b", "c"]
    assert [r.predicate for r in graph.strongest(top=9, min_score=0.4).relations] == ["high", "mid"]
    assert graph.strongest(top=0).relations == ()
