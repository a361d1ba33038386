"""Scene graphs as pictures: boxes and arrows on the image, and the graph of names beside it.

`annotated` and `node_link` make drawings; `drawing.svg` puts them on pages, `drawing.pixels` into PNG files. A relation is an arrow
from subject to object, its predicate written at the middle; arrows of both directions between two regions bow apart. Where truth
and prediction are compared, "right", "wrong" and "missed" are shown by colour, by dashes and in words.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from diptych.core.box_iou import box_iou
from diptych.core.errors import ShapeError
from diptych.core.scene_graph import Box, Relation, SceneGraph
from diptych.report import page
from diptych.report.drawing import Arrow, Label, Outline, PictureOverlay, Pixels, Rect, label_size, pixels, svg
from diptych.report.graph_layout import SMALL, beside_box, curved_arrow, node_places, on_line, outside, wrapped

Mark = Literal["", "right", "wrong", "missed"]

SIDE = 448  # longer side of a picture, shorter side of a graph
COLOURS = 6
INK: dict[Mark, str] = {"right": "good", "wrong": "bad", "missed": "soft"}
WORDS = 2  # predicates of one pair that are written over a picture
NODE_ROOM = 92.0  # side of the square that each node of a graph gets at least


def annotated(
    pixels_HWC: Pixels, graph: SceneGraph, *, side: int = SIDE, most: int = 12, marks: Sequence[Mark] = ()
) -> PictureOverlay:
    """Boxes and arrows over the image, scaled so that its longer side has `side` pixels.

    most    relations that are drawn, the most confident first; regions without one are drawn while there are fewer than `most`
    marks   one for each relation, or none
    """
    height, width = _check_pixels(pixels_HWC).shape[:2]
    scale = side / max(height, width)
    drawing = PictureOverlay(round(width * scale), round(height * scale), picture_HWC=pixels_HWC, fixed=True)
    relations, regions = _rows_to_draw(graph, most)
    names = node_names(graph)
    boxes = {i: _scaled(graph.regions[i].box, scale) for i in regions}
    marked = _one_mark_each(graph, marks)
    for i in regions:
        drawing.shapes.append(Outline(boxes[i], _colour(i)))
    taken: list[Rect] = []
    labels = [beside_box(names[i], boxes[i], _colour(i), drawing, taken) for i in regions]
    drawing.shapes.extend(_arrows(graph, relations, boxes, marked, labels, taken, drawing))
    drawing.shapes.extend(_notes(graph, relations, regions, drawing))
    return drawing


def node_link(graph: SceneGraph, *, side: int = SIDE, most: int = 24, marks: Sequence[Mark] = ()) -> PictureOverlay:
    """Node-link diagram: names as nodes, placed so that the number of steps between two is their distance."""
    relations, regions = _rows_to_draw(graph, most)
    names = {i: wrapped(name) for i, name in enumerate(node_names(graph))}
    room = max(float(side), NODE_ROOM * math.sqrt(2 * max(len(regions), 1)))
    drawing = PictureOverlay(round(room * 1.25), round(room))
    centres = node_places(graph, relations, regions, names, drawing)
    labels = [Label(centres[i], tuple((line, "panel") for line in names[i]), ground=_colour(i)) for i in regions]
    boxes = dict(zip(regions, (label.rect for label in labels), strict=True))
    taken = list(boxes.values())
    drawing.shapes.extend(_arrows(graph, relations, boxes, _one_mark_each(graph, marks), labels, taken, drawing))
    drawing.shapes.extend(_notes(graph, relations, regions, drawing))
    return drawing


def graph_picture(pixels_HWC: Pixels, graph: SceneGraph, *, side: int = SIDE, dark: bool = False) -> Pixels:
    """Annotated image and the graph beside it, as uint8 RGB [H, W, 3] for a file.

    The image is as high as the graph, which grows with the number of regions; a long one is at most twice as wide as `side`.
    """
    right = pixels(node_link(graph, side=side), dark=dark)
    height, width = _check_pixels(pixels_HWC).shape[:2]
    longer = round(len(right) * max(height, width) / height)
    left = pixels(annotated(pixels_HWC, graph, side=min(longer, 2 * side)), dark=dark)
    canvas = np.empty((max(len(left), len(right)), left.shape[1] + right.shape[1], 3), np.uint8)
    canvas[:] = right[0, 0]
    for part, start in ((left, 0), (right, left.shape[1])):
        top = (len(canvas) - len(part)) // 2
        canvas[top : top + len(part), start : start + part.shape[1]] = part
    return canvas


def graph_block(pixels_HWC: Pixels, graph: SceneGraph, title: str) -> str:
    """Annotated image and graph for a page: two SVGs side by side below a title."""
    return page.heading(title) + _columns(
        [svg(annotated(pixels_HWC, graph), f"{title}: boxes and arrows"), svg(node_link(graph), f"{title}: the graph")]
    )


def compared_block(pixels_HWC: Pixels, truth: SceneGraph, predicted: SceneGraph, title: str, *, iou: float = 0.5) -> str:
    """True and predicted scene graphs side by side: relations found, wrong, and missed.

    Found means equal labels and predicate, and both boxes with an overlap of at least `iou`.
    """
    hits, right = match_relations(truth, predicted, iou=iou)
    truth_marks: list[Mark] = ["right" if hit else "missed" for hit in hits]
    marks: list[Mark] = ["right" if hit else "wrong" for hit in right]
    summary = f"{sum(hits)} of {len(hits)} true relations found; {len(right) - sum(right)} of {len(right)} predicted are not true"
    sides = []
    for name, graph, mark in (("truth", truth, truth_marks), ("prediction", predicted, marks)):
        shown = svg(annotated(pixels_HWC, graph, marks=mark), f"{title}: {name}, boxes and arrows")
        sides.append(page.text(name, note=True) + shown + svg(node_link(graph, marks=mark), f"{title}: {name}, the graph"))
    return page.heading(title) + page.text(summary, note=True) + _columns(sides)


def match_relations(truth: SceneGraph, predicted: SceneGraph, *, iou: float = 0.5) -> tuple[list[bool], list[bool]]:
    """Matched relations: (mask of true relations that were predicted, mask of predicted relations that are true). One prediction may match
    several truths.
    """
    hits, right = [False] * len(truth.relations), [False] * len(predicted.relations)
    names, predicted_names = truth.triplets(), predicted.triplets()
    for row, relation in enumerate(truth.relations):
        for column, other in enumerate(predicted.relations):
            if names[row] == predicted_names[column] and all(
                box_iou([truth.regions[a].box], [predicted.regions[b].box])[0, 0] >= iou
                for a, b in ((relation.subject, other.subject), (relation.object, other.object))
            ):
                hits[row] = right[column] = True
    return hits, right


def node_names(graph: SceneGraph) -> list[str]:
    """Labels of the regions, numbered where a label occurs more than once.

    >>> from diptych.core.scene_graph import Region
    >>> node_names(SceneGraph((Region((0, 0, 1, 1), "cup"), Region((0, 0, 2, 2), "dog"), Region((0, 0, 3, 3), "cup"))))
    ['cup 1', 'dog', 'cup 2']
    """
    total, seen = Counter(r.label for r in graph.regions), Counter[str]()
    names = []
    for region in graph.regions:
        seen[region.label] += 1
        names.append(f"{region.label} {seen[region.label]}" if total[region.label] > 1 else region.label)
    return names


# ---------------------------------------------------------------- what is drawn


def _check_pixels(pixels_HWC: Pixels) -> Pixels:
    if pixels_HWC.ndim != 3 or pixels_HWC.shape[2] != 3 or pixels_HWC.dtype != np.uint8:
        raise ShapeError(f"a picture must be uint8 [H, W, 3], got {pixels_HWC.dtype} {list(pixels_HWC.shape)}")
    return pixels_HWC


def _rows_to_draw(graph: SceneGraph, most: int) -> tuple[list[int], list[int]]:
    """Rows of the relations and of the regions that are drawn."""
    relations = sorted(range(len(graph.relations)), key=lambda row: -graph.relations[row].confidence)[:most]
    regions = dict.fromkeys(end for row in relations for end in (graph.relations[row].subject, graph.relations[row].object))
    for i in sorted(range(len(graph.regions)), key=lambda row: -graph.regions[row].score):
        if len(regions) < most:
            regions.setdefault(i)
    return sorted(relations), sorted(regions)


def _notes(graph: SceneGraph, relations: Sequence[int], regions: Sequence[int], drawing: PictureOverlay) -> list[Label]:
    """Note on what is not drawn or not there, if anything is."""
    if not graph.regions:
        words = "no regions"
        centre = (drawing.width / 2, drawing.height / 2)
        return [] if drawing.picture_HWC is not None else [Label(centre, ((words, "soft"),), size=SMALL)]
    notes = []
    for what, shown, all_of in (
        ("regions", len(regions), len(graph.regions)),
        ("relations", len(relations), len(graph.relations)),
    ):
        if shown < all_of:
            notes.append(f"{shown} of {all_of} {what} drawn")
        elif not all_of and drawing.picture_HWC is None:
            notes.append(f"no {what}")
    if not notes:
        return []
    words = ", ".join(notes)
    width, height = label_size([words], SMALL)
    return [Label((drawing.width - width / 2 - 2, drawing.height - height / 2 - 2), ((words, "soft"),), size=SMALL)]


def _one_mark_each(graph: SceneGraph, marks: Sequence[Mark]) -> Sequence[Mark]:
    if marks and len(marks) != len(graph.relations):
        raise ShapeError(f"{len(marks)} marks for {len(graph.relations)} relations (expected one each, or none)")
    return marks or [""] * len(graph.relations)


def _colour(region: int) -> str:
    return f"s{region % COLOURS}"


def _scaled(box: Box, scale: float) -> Rect:
    x0, y0, x1, y1 = (v * scale for v in box)
    return x0, y0, x1, y1


# ---------------------------------------------------------------- drawing


def _arrows(
    graph: SceneGraph,
    relations: Sequence[int],
    boxes: dict[int, Rect],
    marks: Sequence[Mark],
    nodes: Sequence[Label],
    taken: list[Rect],
    drawing: PictureOverlay,
) -> list[Arrow | Label]:
    """Arrows, one for each ordered pair, with its predicates in one label: over a picture the first two and how many more there are,
    since labels hide what they speak of. Node labels lie on the arrows, predicates on top."""
    over_graph = drawing.picture_HWC is None
    pairs: dict[tuple[int, int], list[int]] = {}
    for row in relations:
        pairs.setdefault((graph.relations[row].subject, graph.relations[row].object), []).append(row)
    arrows, labels = [], []
    for (subject, object), rows in pairs.items():
        kinds: set[Mark] = {marks[row] for row in rows}
        ink = INK[next(iter(kinds))] if len(kinds) == 1 and "" not in kinds else _colour(subject)
        curve = curved_arrow(boxes[subject], boxes[object])
        line = outside(curve, boxes[subject], boxes[object])
        dashed = bool(kinds) and kinds <= {"wrong", "missed"}
        arrows.append(Arrow(tuple(line), ink, dashed=dashed, halo=drawing.picture_HWC is not None))
        words = _sentences(graph, rows if over_graph else rows[:WORDS], marks)
        if not over_graph and len(rows) > WORDS:
            words.append((f"+ {len(rows) - WORDS}", "soft"))
        labels.append(on_line(line, tuple(words), ink, drawing, taken))
    return [*arrows, *nodes, *labels]


def _sentences(graph: SceneGraph, rows: Sequence[int], marks: Sequence[Mark]) -> list[tuple[str, str]]:
    """Lines of a label and their colours."""
    return [(line, INK.get(marks[row], "ink")) for row in rows for line in wrapped(_words(graph.relations[row], marks[row]))]


def _words(relation: Relation, mark: Mark) -> str:
    return f"{relation.predicate} ({mark})" if mark in ("wrong", "missed") else relation.predicate


def _columns(parts: Sequence[str]) -> str:
    return '<div class="charts">' + "".join(f"<div>{part}</div>" for part in parts) + "</div>"
