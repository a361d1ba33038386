"""Layout of scene-graph pictures: arrows between boxes, labels with little overlap, nodes of a graph."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from diptych.core.scene_graph import SceneGraph
from diptych.report.drawing import Label, PictureOverlay, Point, Rect, label_size

SMALL = 12.0  # font size of predicates
BEND = 0.14  # how far an arrow bows, as a share of its length
LINE = 24  # characters of a label in one line
LINES = 2  # of a label, at most; what is longer ends in dots


def wrapped(text: str) -> list[str]:
    """Lines of a name that fit into a label.

    >>> wrapped("elderly woman wearing a long red winter coat and a hat")
    ['elderly woman wearing a', 'long red winter coat ...']
    """
    return textwrap.wrap(text, LINE, max_lines=LINES, placeholder=" ...") or [text]


def curved_arrow(start: Rect, end: Rect, steps: int = 40) -> list[Point]:
    """Curved arrow from centre to centre, to the left of its direction; a loop above the region when both ends are the same."""
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


def outside(curve: list[Point], start: Rect, end: Rect) -> list[Point]:
    """Part of a curve between the two regions; all of it where they overlap so far that hardly anything would be left."""
    between = [p for p in curve if not _inside(p, start) and not _inside(p, end)]
    length = sum(math.dist(p, q) for p, q in pairwise(between))
    return between if length > 24 else curve


def on_line(
    line: Sequence[Point], words: tuple[tuple[str, str], ...], edge: str, drawing: PictureOverlay, taken: list[Rect]
) -> Label:
    """Label on the line or right beside it, where it covers the least of other labels and of the line's own ends."""
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


def beside_box(name: str, box: Rect, colour: str, drawing: PictureOverlay, taken: list[Rect]) -> Label:
    """Name label of a region at a corner of its box, outside where there is room."""
    lines = wrapped(name)
    width, height = label_size(lines)
    x0, y0, x1, y1 = box
    lefts = (x0 + width / 2, x1 - width / 2)
    rows = (y0 - height / 2, y1 + height / 2, y0 + height / 2, y1 - height / 2)
    tries = [Label((x, y), tuple((line, "white") for line in lines), ground=colour) for y in rows for x in lefts]
    tries = [_within(label, drawing) for label in tries]
    label = min(tries, key=lambda label: sum(_shared(label.rect, other) for other in taken))
    taken.append(label.rect)
    return label


def _within(label: Label, drawing: PictureOverlay) -> Label:
    """Label moved into the drawing."""
    x0, y0, x1, y1 = label.rect
    dx = max(0.0, 1 - x0) or min(0.0, drawing.width - 1 - x1)
    dy = max(0.0, 1 - y0) or min(0.0, drawing.height - 1 - y1)
    return Label((label.centre[0] + dx, label.centre[1] + dy), label.lines, label.ground, label.edge, label.size)


def node_places(
    graph: SceneGraph,
    relations: Sequence[int],
    regions: Sequence[int],
    names: Mapping[int, Sequence[str]],
    drawing: PictureOverlay,
) -> dict[int, Point]:
    """Node positions, a centre for each region: the number of steps between two is their distance (Kamada & Kawai, 1989), and the start is
    where the regions lie in the image. `names` has the lines of each label.
    """
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
    layout = nx.kamada_kawai_layout(links, dist=apart, pos=dict(zip(regions, start_N2, strict=True)))
    place_N2 = np.array([layout[i] for i in regions])
    low_2, high_2 = place_N2.min(0), place_N2.max(0)
    margin_2 = np.array([max(label_size(names[i])[0] for i in regions) / 2 + 14, 34.0])
    room_2 = np.array([drawing.width, drawing.height]) - 2 * margin_2
    span_2 = high_2 - low_2
    share_N2 = np.where(span_2 > 1e-3 * max(span_2.max(), 1e-9), (place_N2 - low_2) / np.where(span_2 > 0, span_2, 1.0), 0.5)
    return {i: (float(x), float(y)) for i, (x, y) in zip(regions, margin_2 + share_N2 * room_2, strict=True)}


def _centre(rect: Rect) -> Point:
    return (rect[0] + rect[2]) / 2, (rect[1] + rect[3]) / 2


def _inside(point: Point, rect: Rect) -> bool:
    return rect[0] <= point[0] <= rect[2] and rect[1] <= point[1] <= rect[3]


def _shared(one: Rect, other: Rect) -> float:
    width, height = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)
