"""Graph pictures: everything asked for is drawn, labels stay inside and apart, SVG and pixels show the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from diptych.core.errors import ShapeError
from diptych.core.image import ArrayImage
from diptych.core.result import Metric, Result
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region, Relation, SceneGraph
from diptych.core.triplet_rule import RawDetections, RawRegion
from diptych.data.dataset import Pool
from diptych.report.drawing import Arrow, Label, Outline, PictureOverlay, palette, pixels, svg
from diptych.report.evaluation import StoredResult, graphs_compared
from diptych.report.graph_layout import wrapped
from diptych.report.graphs import annotated, compared_block, graph_block, graph_picture, match_relations, node_link
from diptych.report.pictures import Album
from diptych.tasks.relations.graph_records import records
from diptych.worlds.links.world import links
from diptych.worlds.scenes.world import scenes

EVIL = '<script>alert("x")</script>'
GRAPH = SceneGraph(
    (Region((4, 4, 20, 20), "dog"), Region((40, 10, 60, 30), "ball"), Region((10, 44, 30, 60), "dog")),
    (Relation(0, "chases", 1, 0.9), Relation(2, "sees", 1, 0.8), Relation(1, "far from", 0, 0.4)),
)
GREY = np.full((64, 64, 3), 90, np.uint8)


def words(drawing: PictureOverlay) -> list[str]:
    return [text for shape in drawing.shapes if isinstance(shape, Label) for text, _ in shape.lines]


def shared(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


@pytest.mark.parametrize("draw", [lambda g: annotated(GREY, g), node_link])
def test_all_nodes_and_relations_are_there(draw: Any) -> None:
    drawing = draw(GRAPH)
    assert sorted(words(drawing)) == ["ball", "chases", "dog 1", "dog 2", "far from", "sees"]
    assert sum(isinstance(shape, Arrow) for shape in drawing.shapes) == 3
    few = annotated(GREY, GRAPH, most=2)
    assert "far from" not in words(few)
    assert "2 of 3 relations drawn" in words(few)


def test_arrows_run_from_subject_to_object_and_opposite_ones_bow_apart() -> None:
    drawing = annotated(GREY, SceneGraph(GRAPH.regions[:2], (Relation(0, "a", 1), Relation(1, "b", 0))))
    there, back = (shape for shape in drawing.shapes if isinstance(shape, Arrow))
    assert there.points[0][0] < there.points[-1][0]
    assert back.points[0][0] > back.points[-1][0]
    middle = [shape.points[len(shape.points) // 2] for shape in (there, back)]
    assert np.hypot(*np.subtract(*middle)) > 20


@pytest.mark.parametrize("data", [links(6, seed=3), scenes(6, seed=3)], ids=["links", "scenes"])
def test_labels_lie_inside_and_hide_little_of_each_other(data: Any) -> None:
    for row in range(len(data)):
        sample = data[row]
        for drawing in (annotated(sample.image.pixels_HWC, sample.graph), node_link(sample.graph)):
            boxes = [shape.rect for shape in drawing.shapes if isinstance(shape, Label)]
            for x0, y0, x1, y1 in boxes:
                assert x0 >= 0
                assert y0 >= 0
                assert x1 <= drawing.width
                assert y1 <= drawing.height
            area = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes)
            hidden = sum(shared(a, b) for n, a in enumerate(boxes) for b in boxes[:n])
            assert hidden < 0.1 * area, (sample.uid, hidden / area)


def test_outlines_are_scaled_with_the_picture() -> None:
    drawing = annotated(GREY, GRAPH, side=640)
    first = next(shape for shape in drawing.shapes if isinstance(shape, Outline))
    assert first.rect == (40.0, 40.0, 200.0, 200.0)
    assert (drawing.width, drawing.height) == (640, 640)
    wide = annotated(np.zeros((50, 100, 3), np.uint8), GRAPH, side=300)
    assert (wide.width, wide.height) == (300, 150)


def test_pixels_show_what_the_drawing_holds() -> None:
    blue = np.array([47, 111, 222])
    drawing = PictureOverlay(40, 30, [Outline((5, 5, 35, 25), "s0", width=3)])
    shown = pixels(drawing)
    assert shown.shape == (30, 40, 3)
    assert palette()["s0"] == "#2f6fde"
    np.testing.assert_allclose(shown[15, 5], blue, atol=2)
    np.testing.assert_array_equal(shown[15, 20], 255)
    dark = pixels(drawing, dark=True)
    assert dark[15, 20].max() < 60
    halo = pixels(PictureOverlay(40, 30, [Arrow(((5, 15), (20, 15), (35, 15)), "s0", halo=True)], np.zeros((3, 4, 3), np.uint8)))
    assert halo[15, 15, 2] > 200
    assert halo[13, 15].min() > 60
    assert halo[2].max() == 0


def test_graph_picture_puts_picture_and_graph_side_by_side() -> None:
    shown = graph_picture(GREY, GRAPH, side=300)
    assert shown.dtype == np.uint8
    assert shown.shape[0] >= 300
    assert shown.shape[1] > 600
    np.testing.assert_array_equal(shown[150, 2], 90)
    empty = graph_picture(GREY, SceneGraph(), side=300)
    np.testing.assert_array_equal(empty[:300, :300], 90)
    assert (empty[:100, 300:] == 255).all()
    assert words(node_link(SceneGraph())) == ["no regions"]
    assert words(annotated(GREY, SceneGraph())) == []
    loop = SceneGraph(GRAPH.regions[:1], (Relation(0, "stands", 0),))
    assert (graph_picture(GREY, loop, side=300)[:, :300] != 90).any()
    with pytest.raises(ShapeError, match="uint8"):
        graph_picture(np.zeros((4, 4, 3)), GRAPH)


def test_long_names_are_broken_into_lines_and_end_in_dots() -> None:
    long = "elderly woman wearing a long red winter coat and a hat"
    graph = SceneGraph((Region((4, 4, 20, 20), long), GRAPH.regions[1]), (Relation(0, "is sitting comfortably in front of", 1),))
    for drawing in (annotated(GREY, graph), node_link(graph)):
        assert words(drawing)[:2] == ["elderly woman wearing a", "long red winter coat ..."]
        assert {"is sitting comfortably", "in front of"} <= set(words(drawing))
    assert [len(line) <= 24 for line in wrapped("w" * 100)] == [True, True]
    assert wrapped("") == [""]


def test_what_is_not_drawn_is_said() -> None:
    regions = tuple(Region((2.0 * n, 2, 2.0 * n + 9, 30), "cup", score=n / 30) for n in range(25))
    alone = SceneGraph(regions)
    assert "12 of 25 regions drawn" in words(annotated(GREY, alone))
    assert "24 of 25 regions drawn, no relations" in words(node_link(alone))
    many = SceneGraph(regions[:2], tuple(Relation(0, f"p{n}", 1, 1 - n / 10) for n in range(5)))
    over, beside = annotated(GREY, many), node_link(many)
    assert {"p0", "p1", "+ 3"} <= set(words(over))
    assert "p2" not in words(over)
    assert {f"p{n}" for n in range(5)} <= set(words(beside))


def test_the_picture_is_as_high_as_a_large_graph() -> None:
    regions = tuple(Region((2.0 * n, 2, 2.0 * n + 9, 30), "cup") for n in range(12))
    shown = graph_picture(GREY, SceneGraph(regions), side=300)
    assert 300 < shown.shape[0] == node_link(SceneGraph(regions), side=300).height
    np.testing.assert_array_equal(shown[-3, :20], 90)
    wide = graph_picture(np.full((10, 100, 3), 90, np.uint8), GRAPH, side=300)
    assert wide.shape[1] == 600 + node_link(GRAPH, side=300).width


def test_svg_follows_the_page_and_escapes_names() -> None:
    graph = SceneGraph((Region((0, 0, 9, 9), EVIL), Region((20, 20, 30, 30), "b")), (Relation(0, EVIL, 1),))
    html = graph_block(GREY, graph, EVIL)
    assert "<script" not in html
    assert html.count("<svg") == 2
    assert "var(--s0)" in svg(node_link(GRAPH), "g")
    over = svg(annotated(GREY, GRAPH), "g")
    assert "var(--" not in over
    assert "image-rendering:pixelated" in over
    assert not re.search(r"(?:src|href)=\"(?!#|data:)", html)


def test_truth_and_prediction_are_compared_relation_by_relation() -> None:
    moved = Region((5, 5, 21, 21), "dog")
    said = SceneGraph((moved, *GRAPH.regions[1:]), (Relation(0, "chases", 1), Relation(2, "chases", 1)))
    assert match_relations(GRAPH, said) == ([True, False, False], [True, False])
    html = compared_block(GREY, GRAPH, said, "one")
    assert "1 of 3 true relations found; 1 of 2 predicted are not true" in html
    assert html.count("sees (missed)") == 2
    assert html.count("chases (wrong)") == 2
    with pytest.raises(ShapeError, match="marks"):
        annotated(GREY, GRAPH, marks=["right"])


def test_kept_relation_records_become_blocks(tmp_path: Path) -> None:
    sample = Sample("one", ArrayImage(GREY, "one"), regions=GRAPH.regions, relations=GRAPH.relations)
    pq.write_table(records(["one"], [GRAPH], [GRAPH]), tmp_path / "x.parquet")
    kept = StoredResult("made/test", Result("vg150", 1, "r@5", {"r@5": Metric(1.0)}, 1, 1), tmp_path / "x.parquet")
    blocks = graphs_compared(kept, Album(Pool.from_samples([sample], name="made")))
    assert len(blocks) == 1
    assert "3 of 3 true relations found" in blocks[0]


def test_a_predicted_box_without_area_is_not_drawn_and_the_others_keep_their_relations(tmp_path: Path) -> None:
    """It is scored (`RawDetections`), so it stands in the records."""
    said = [RawRegion((9, 0, 9, 30), "line"), *(RawRegion(region.box, region.label) for region in GRAPH.regions)]
    edges = (Relation(0, "crosses", 1, 0.9), Relation(1, "chases", 2, 0.8))
    pq.write_table(records(["u0"], [GRAPH], [RawDetections(tuple(said), edges)]), tmp_path / "kept.parquet")
    sample = Sample("u0", ArrayImage(GREY, "u0"), regions=GRAPH.regions, relations=GRAPH.relations)
    kept = StoredResult("made", Result("vg150", 1, "r@5", {"r@5": Metric(0.5)}, 1, 1), tmp_path / "kept.parquet")
    (block,) = graphs_compared(kept, Album(Pool.from_samples([sample], name="made")))
    assert "chases" in block
    assert "crosses" not in block
