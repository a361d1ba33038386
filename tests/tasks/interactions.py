"""What tests of HICO-DET and V-COCO share: overlap and average precision in plain loops, pools of graphs, a
person on a horse, detectors that answer what they were given, and graphs with mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from diptych.core.errors import DecodeError
from diptych.core.image import BytesImage, ImageSource
from diptych.core.sample import Sample
from diptych.core.scene_graph import Box, Region, Relation, SceneGraph
from diptych.data.dataset import Pool


def naive_iou(a: Box, b: Box, edge: float) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]) + edge, min(a[3], b[3]) - max(a[1], b[1]) + edge
    if wide <= 0 or high <= 0:
        return 0.0
    sizes = [(box[2] - box[0] + edge) * (box[3] - box[1] + edge) for box in (a, b)]
    return wide * high / (sum(sizes) - wide * high)


def naive_ap(rows: Sequence[tuple[float, bool]], positives: int, rule: str, ties: str, float_recall: bool = False) -> float:
    """From (score, right) in order."""
    curve, right = [], 0
    for n, (score, hit) in enumerate(rows):
        right += hit
        if ties == "index" or n + 1 == len(rows) or rows[n + 1][0] != score:
            curve.append((right, right / (n + 1)))
    if rule == "area":
        area, before = 0.0, 0
        for n, (found, _) in enumerate(curve):
            area += (found - before) / positives * max(p for _, p in curve[n:])
            before = found
        return area
    total = 0.0
    for step in range(11):
        reached = [
            p for found, p in curve if (found / positives >= step * 0.1 if float_recall else 10 * found >= step * positives)
        ]
        total += max(reached, default=0.0)
    return total / 11


def pool_of(graphs: Sequence[SceneGraph]) -> Pool:
    """Images are named by their place, which is how a planted detector finds its answer."""
    samples = [Sample(f"u{n}", BytesImage(b"", str(n)), regions=g.regions, relations=g.relations) for n, g in enumerate(graphs)]
    return Pool.from_samples(samples, name="graphs")


def riding(*confidences: float, shift: float = 0.0, at: float = 0.0) -> SceneGraph:
    """A person on a horse, said once for each confidence; without one, as truth."""
    regions = (Region((at, 0, at + 9 + shift, 9), "person"), Region((at, 0, at + 9, 19), "horse"))
    return SceneGraph(regions, tuple(Relation(0, "ride", 1, c) for c in confidences or (1.0,)))


@dataclass
class Planted:
    """A detector that answers what it was given, by image name; "broken" images cannot be decoded."""

    graphs: Sequence[SceneGraph]
    name: str = "planted"
    asked: list[Any] = field(default_factory=list)

    def detect(
        self, images: Sequence[ImageSource], *, objects: Sequence[str], relations: Sequence[str] = (), **options: Any
    ) -> list[SceneGraph]:
        self.asked.append((tuple(objects), tuple(relations)))
        for image in images:
            if "broken" in image.name:
                raise DecodeError("truncated", file=image.name)
        return [self.graphs[int(image.name)] for image in images]


def changed(graphs: Sequence[SceneGraph], share: float, *, seed: int, predicates: Sequence[str] = ()) -> list[SceneGraph]:
    """The truth with scores, where a share of the predicates is drawn anew: from those given, or else from those of the data."""
    rng = np.random.default_rng(seed)
    names = predicates or [r.predicate for g in graphs for r in g.relations]

    def guessed(relation: Relation) -> Relation:
        score, wrong = float(rng.random()), rng.random() < share
        return replace(relation, confidence=score, predicate=str(rng.choice(names)) if wrong else relation.predicate)

    return [SceneGraph(g.regions, tuple(map(guessed, g.relations))) for g in graphs]
