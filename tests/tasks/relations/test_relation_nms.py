"""Relation NMS: which overlap counts whole and which by its root, against a naive loop."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from diptych.tasks.relations.relation_nms import relation_nms


def graphs(pairs: list[tuple[Any, Any, float]]) -> Any:
    """Triplets (subject box, object box, confidence), as the arrays that the NMS reads."""
    boxes = [box for subject, other, _ in pairs for box in (subject, other)]
    ends = np.arange(len(boxes)).reshape(-1, 2)
    confidence = np.array([score for *_, score in pairs])
    return SimpleNamespace(box=np.array(boxes, float), subject=ends[:, 0], object=ends[:, 1], confidence=confidence)


WHOLE, HALF = (0, 0, 10, 10), (0, 0, 10, 5)  # of an overlap of 1/2


@pytest.mark.parametrize(
    ("subject", "other", "left"),
    [
        (HALF, WHOLE, [0, 1]),  # 1/2 x 1 = .5: both stay
        (WHOLE, HALF, [0]),  # 1 x sqrt(1/2) = .71: the weaker one goes
    ],
)
def test_the_subjects_overlap_counts_whole_and_the_objects_by_its_root(subject: Any, other: Any, left: list[int]) -> None:
    """CDN's exponents, 1 and .5 (Zhang et al., 2021): at .6 the two ends are not the same."""
    found = graphs([(WHOLE, WHOLE, 0.9), (subject, other, 0.8)])
    rows = np.arange(2)
    assert relation_nms(found, rows, np.zeros(2, np.int64), 0.6, inclusive=False).tolist() == left


def test_it_is_the_naive_loop() -> None:
    rng = np.random.default_rng(0)

    def box() -> Any:
        x, y = rng.uniform(0, 3, 2)
        return (x, y, x + rng.uniform(5, 10), y + rng.uniform(5, 10))

    def iou(a: Any, b: Any) -> float:
        wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        both = max(wide, 0) * max(high, 0)
        return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)

    pairs = [(box(), box(), float(rng.random())) for _ in range(60)]
    key = rng.integers(0, 3, 60)
    kept: list[int] = []
    for row in sorted(range(60), key=lambda row: -pairs[row][2]):
        rivals = [other for other in kept if key[other] == key[row]]
        if all(iou(pairs[row][0], pairs[r][0]) * iou(pairs[row][1], pairs[r][1]) ** 0.5 <= 0.45 for r in rivals):
            kept.append(row)
    assert 10 < len(kept) < 50
    assert relation_nms(graphs(pairs), np.arange(60), key, 0.45, inclusive=False).tolist() == sorted(kept)
