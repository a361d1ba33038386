"""Scene graphs as pictures: boxes and arrows on the image, and the graph of names beside it.

`annotated` and `node_link` make drawings; `drawing.svg` puts them on pages, `drawing.pixels` into PNG files. A relation is an arrow
from subject to object, its predicate written at the middle; arrows of both directions between two regions bow apart. Where truth
and prediction are compared, "right", "wrong" and "missed" are told by colour, by dashes and in words.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np

from diptych.core.errors import ShapeError
from diptych.core.scene_graph import Box, Relation, SceneGraph
from diptych.report import page
from diptych.report.drawing import Arrow, Drawing, Label, Outline, Pixels, Point, Rect, label_size, pixels, svg

Mark = Literal["", "right", "wrong", "missed"]

SIDE = 448  # longer side of a picture, shorter side of a graph
COLOURS = 6
INK: dict[Mark, str] = {"right": "good", "wrong": "bad", "missed": "soft"}
SMALL = 12.0  # font size of predicates
BEND = 0.14  # how far an arrow bows, as a share of its length
NODE_ROOM = 92.0  # side of the square that each node of a graph gets at least


def annotated(pixels_HWC: Pixels, graph: SceneGraph, *, side: int = SIDE, most: int = 12, marks: Sequence[Mark] = ()) -> Drawing:
    """Boxes and arrows over the image, scaled so that its longer side has `side` pixels.

    most    relations that are drawn, the most confident first; regions without one are drawn while there are fewer than `most`
    marks   one for each relation, or none
    """
    height, width = _checked(pixels_HWC).shape[:2]
    scale = side / max(height, width)
    drawing = Drawing(round(width * scale), round(height * scale), picture_HWC=pixels_HWC, fixed=True)
    relations, regions = _shown(graph, most)
    names = node_names(graph)
    boxes = {i: _scaled(graph.regions[i].box, scale) for i in regions}
    marked = _marked(graph, marks)
    for i in regions:
        drawing.shapes.append(Outline(boxes[i], _colour(i)))
    taken: list[Rect] = []
    labels = [_beside(names[i], boxes[i], _colour(i), drawing, taken) for i in regions]
    drawing.shapes.extend(_arrows(graph, relations, boxes, marked, labels, taken, drawing))
    drawing.shapes.extend(_left_out(graph, relations, drawing))
    return drawing


def node_link(graph: SceneGraph, *, side: int = SIDE, most: int = 24, marks: Sequence[Mark] = ()) -> Drawing:
    """The graph alone: names as nodes, placed so that the number of steps between two is their distance (Kamada & Kawai, 1989),
    starting from where the regions lie in the image."""
    relations, regions = _shown(graph, most)
    names = node_names(graph)
    room = max(float(side), NODE_ROOM * math.sqrt(2 * max(len(regions), 1)))
    drawing = Drawing(round(room * 1.25), round(room))
    centres = _places(graph, relations, regions, drawing)
    boxes = {i: Label(centres[i], ((names[i], "white"),)).rect for i in regions}
    labels = [Label(centres[i], ((names[i], "panel"),), ground=_colour(i)) for i in regions]
    taken = list(boxes.values())
    drawing.shapes.extend(_arrows(graph, relations, boxes, _marked(graph, marks), labels, taken, drawing))
    drawing.shapes.extend(_left_out(graph, relations, drawing))
    return drawing


def graph_picture(pixels_HWC: Pixels, graph: SceneGraph, *, side: int = SIDE, dark: bool = False) -> Pixels:
    """The annotated image and the graph beside it, as uint8 RGB [H, W, 3] for a file."""
    left = pixels(annotated(pixels_HWC, graph, side=side), dark=dark)
    right = pixels(node_link(graph, side=side), dark=dark)
    canvas = np.empty((max(len(left), len(right)), left.shape[1] + right.shape[1], 3), np.uint8)
    canvas[:] = right[0, 0]
    for part, start in ((left, 0), (right, left.shape[1])):
        top = (len(canvas) - len(part)) // 2
        canvas[top : top + len(part), start : start + part.shape[1]] = part
    return canvas


def graph_block(pixels_HWC: Pixels, graph: SceneGraph, title: str) -> str:
    """The same for a page: two SVGs side by side below a title."""
    return page.heading(title) + _columns(
        [svg(annotated(pixels_HWC, graph), f"{title}: boxes and arrows"), svg(node_link(graph), f"{title}: the graph")]
    )


def compared_block(pixels_HWC: Pixels, truth: SceneGraph, predicted: SceneGraph, title: str, *, iou: float = 0.5) -> str:
    """Truth at the left, prediction at the right: which relations were found, which are wrong, which were missed.

    Found means equal labels and predicate, and both boxes with an overlap of at least `iou`.
    """
    found, right = matched(truth, predicted, iou=iou)
    truth_marks: list[Mark] = ["right" if hit else "missed" for hit in found]
    marks: list[Mark] = ["right" if hit else "wrong" for hit in right]
    summary = (
        f"{sum(found)} of {len(found)} true relations found; {len(right) - sum(right)} of {len(right)} predicted are not true"
    )
    sides = []
    for name, graph, mark in (("truth", truth, truth_marks), ("prediction", predicted, marks)):
        shown = svg(annotated(pixels_HWC, graph, marks=mark), f"{title}: {name}, boxes and arrows")
        sides.append(page.text(name, note=True) + shown + svg(node_link(graph, marks=mark), f"{title}: {name}, the graph"))
    return page.heading(title) + page.text(summary, note=True) + _columns(sides)


def matched(truth: SceneGraph, predicted: SceneGraph, *, iou: float = 0.5) -> tuple[list[bool], list[bool]]:
    """(which true relations were found, which predicted relations are true). One prediction may answer several truths."""
    found, right = [False] * len(truth.relations), [False] * len(predicted.relations)
    names, predicted_names = truth.triplets(), predicted.triplets()
    for row, relation in enumerate(truth.relations):
        for column, other in enumerate(predicted.relations):
            if names[row] == predicted_names[column] and all(
                overlap(truth.regions[a].box, predicted.regions[b].box) >= iou
                for a, b in ((relation.subject, other.subject), (relation.object, other.object))
            ):
                found[row] = right[column] = True
    return found, right


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0.0) * max(height, 0.0)
    return both / (sum((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)) - both)


def node_names(graph: SceneGraph) -> list[str]:
    """The labels of the regions, numbered where a label occurs more than once.

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


def _checked(pixels_HWC: Pixels) -> Pixels:
    if pixels_HWC.ndim != 3 or pixels_HWC.shape[2] != 3 or pixels_HWC.dtype != np.uint8:
        raise ShapeError(f"a picture must be uint8 [H, W, 3], got {pixels_HWC.dtype} {list(pixels_HWC.shape)}")
    return pixels_HWC


def _shown(graph: SceneGraph, most: int) -> tuple[list[int], list[int]]:
    """Rows of the relations and of the regions that are drawn."""
    relations = sorted(range(len(graph.relations)), key=lambda row: -graph.relations[row].confidence)[:most]
    regions = dict.fromkeys(end for row in relations for end in (graph.relations[row].subject, graph.relations[row].object))
    for i in sorted(range(len(graph.regions)), key=lambda row: -graph.regions[row].score):
        if len(regions) < most:
            regions.setdefault(i)
    return sorted(relations), sorted(regions)


def _left_out(graph: SceneGraph, relations: Sequence[int], drawing: Drawing) -> list[Label]:
    """A line at the bottom that says how many relations are not drawn, if any are."""
    if len(relations) == len(graph.relations):
        return []
    words = f"{len(relations)} of {len(graph.relations)} relations drawn"
    width, height = label_size([words], SMALL)
    return [Label((drawing.width - width / 2 - 2, drawing.height - height / 2 - 2), ((words, "soft"),), size=SMALL)]


def _marked(graph: SceneGraph, marks: Sequence[Mark]) -> Sequence[Mark]:
    if marks and len(marks) != len(graph.relations):
        raise ShapeError(f"{len(marks)} marks for {len(graph.relations)} relations (expected one each, or none)")
    return marks or [""] * len(graph.relations)


def _colour(region: int) -> str:
    return f"s{region % COLOURS}"


def _scaled(box: Box, scale: float) -> Rect:
    x0, y0, x1, y1 = (v * scale for v in box)
    return x0, y0, x1, y1


# ---------------------------------------------------------------- placing


def _arrows(
    graph: SceneGraph,
    relations: Sequence[int],
    boxes: dict[int, Rect],
    marks: Sequence[Mark],
    nodes: Sequence[Label],
    taken: list[Rect],
    drawing: Drawing,
) -> list[Arrow | Label]:
    """One arrow for each ordered pair, with all its predicates in one label; node labels lie on the arrows, predicates on top."""
    pairs: dict[tuple[int, int], list[int]] = {}
    for row in relations:
        pairs.setdefault((graph.relations[row].subject, graph.relations[row].object), []).append(row)
    arrows, labels = [], []
    for (subject, object), rows in pairs.items():
        kinds: set[Mark] = {marks[row] for row in rows}
        ink = INK[next(iter(kinds))] if len(kinds) == 1 and "" not in kinds else _colour(subject)
        curve = _curve(boxes[subject], boxes[object])
        line = _outside(curve, boxes[subject], boxes[object])
        dashed = bool(kinds) and kinds <= {"wrong", "missed"}
        arrows.append(Arrow(tuple(line), ink, dashed=dashed, halo=drawing.picture_HWC is not None))
        words = tuple((_words(graph.relations[row], marks[row]), INK.get(marks[row], "ink")) for row in rows)
        labels.append(_on_line(line, words, ink, drawing, taken))
    return [*arrows, *nodes, *labels]


def _words(relation: Relation, mark: Mark) -> str:
    return f"{relation.predicate} ({mark})" if mark in ("wrong", "missed") else relation.predicate


def _curve(start: Rect, end: Rect, steps: int = 40) -> list[Point]:
    """A bow from centre to centre, to the left of its direction; a loop above the region when both ends are the same."""
    (ax, ay), (bx, by) = _centre(start), _centre(end)
    if start == end:
        radius = max(16.0, (start[2] - start[0]) / 4)
        turns = [math.tau * (0.25 + step / steps) for step in range(steps + 1)]
        return [(ax + radius * math.cos(t), start[1] - radius * 0.6 + radius * math.sin(t)) for t in turns]
    cx, cy = (ax + bx) / 2 + (by - ay) * BEND, (ay + by) / 2 - (bx - ax) * BEND
    points = []
    for step in range(steps + 1):
        t = step / steps
        a, b, c = (1 - t) ** 2, 2 * t * (1 - t), t * t
        points.append((a * ax + b * cx + c * bx, a * ay + b * cy + c * by))
    return points


def _outside(curve: list[Point], start: Rect, end: Rect) -> list[Point]:
    """The part of the curve between the two regions; all of it where they overlap so far that hardly anything would be left."""
    between = [p for p in curve if not _inside(p, start) and not _inside(p, end)]
    length = sum(math.dist(p, q) for p, q in pairwise(between))
    return between if length > 24 else curve


def _on_line(line: Sequence[Point], words: tuple[tuple[str, str], ...], edge: str, drawing: Drawing, taken: list[Rect]) -> Label:
    """A label on the line or right beside it, where it hides the least of other labels and of the line's own ends."""
    (ax, ay), (bx, by) = line[0], line[-1]
    length = math.dist(line[0], line[-1]) or 1.0
    across = (-(by - ay) / length, (bx - ax) / length)
    width, height = label_size([text for text, _ in words], SMALL)
    beside = (abs(across[0]) * width + abs(across[1]) * height) / 2 + 5
    tries, costs = [], []
    for t in sorted(np.linspace(0.2, 0.8, 13), key=lambda t: abs(t - 0.5)):
        for off in (0.0, beside, -beside):
            x, y = line[round(t * (len(line) - 1))]
            label = _within(Label((x + across[0] * off, y + across[1] * off), words, edge=edge, size=SMALL), drawing)
            ends = sum(_inside(p, label.rect) for p in (*line[:3], *line[-8:]))
            hidden = sum(_shared(label.rect, other) for other in taken)
            tries.append(label)
            costs.append(hidden + 60.0 * ends + abs(off) + 40.0 * abs(t - 0.5))
    label = tries[int(np.argmin(costs))]
    taken.append(label.rect)
    return label


def _beside(name: str, box: Rect, colour: str, drawing: Drawing, taken: list[Rect]) -> Label:
    """The name of a region at a corner of its box, outside where there is room."""
    width, height = label_size([name])
    x0, y0, x1, y1 = box
    lefts = (x0 + width / 2, x1 - width / 2)
    rows = (y0 - height / 2, y1 + height / 2, y0 + height / 2, y1 - height / 2)
    tries = [Label((x, y), ((name, "white"),), ground=colour) for y in rows for x in lefts]
    tries = [_within(label, drawing) for label in tries]
    label = min(tries, key=lambda label: sum(_shared(label.rect, other) for other in taken))
    taken.append(label.rect)
    return label


def _within(label: Label, drawing: Drawing) -> Label:
    """The label, moved into the drawing."""
    x0, y0, x1, y1 = label.rect
    dx = max(0.0, 1 - x0) or min(0.0, drawing.width - 1 - x1)
    dy = max(0.0, 1 - y0) or min(0.0, drawing.height - 1 - y1)
    return Label((label.centre[0] + dx, label.centre[1] + dy), label.lines, label.ground, label.edge, label.size)


def _places(graph: SceneGraph, relations: Sequence[int], regions: Sequence[int], drawing: Drawing) -> dict[int, Point]:
    import networkx as nx

    if not regions:
        return {}
    links = nx.Graph()
    links.add_nodes_from(regions)
    links.add_edges_from((graph.relations[row].subject, graph.relations[row].object) for row in relations)
    steps = dict(nx.all_pairs_shortest_path_length(links))
    apart = {i: {j: min(steps[i].get(j, 3), 3) for j in regions} for i in regions}  # unconnected parts stay in sight
    boxes = np.array([graph.regions[i].box for i in regions])
    start_N2 = (boxes[:, :2] + boxes[:, 2:]) / 2
    start_N2 += np.stack([np.cos(np.arange(len(regions))), np.sin(np.arange(len(regions)))], 1)  # equal centres must not stick
    start_N2 = (start_N2 - start_N2.mean(0)) / (np.abs(start_N2 - start_N2.mean(0)).max() or 1.0)
    found = nx.kamada_kawai_layout(links, dist=apart, pos=dict(zip(regions, start_N2, strict=True)))
    place_N2 = np.array([found[i] for i in regions])
    low_2, high_2 = place_N2.min(0), place_N2.max(0)
    names = node_names(graph)
    margin_2 = np.array([max(label_size([names[i]])[0] for i in regions) / 2 + 14, 34.0])
    room_2 = np.array([drawing.width, drawing.height]) - 2 * margin_2
    span_2 = high_2 - low_2
    share_N2 = np.where(span_2 > 1e-3 * max(span_2.max(), 1e-9), (place_N2 - low_2) / np.where(span_2 > 0, span_2, 1.0), 0.5)
    return {i: (float(x), float(y)) for i, (x, y) in zip(regions, margin_2 + share_N2 * room_2, strict=True)}


def _columns(parts: Sequence[str]) -> str:
    return '<div class="charts">' + "".join(f"<div>{part}</div>" for part in parts) + "</div>"


def _centre(rect: Rect) -> Point:
    return (rect[0] + rect[2]) / 2, (rect[1] + rect[3]) / 2


def _inside(point: Point, rect: Rect) -> bool:
    return rect[0] <= point[0] <= rect[2] and rect[1] <= point[1] <= rect[3]


def _shared(one: Rect, other: Rect) -> float:
    width, height = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)
