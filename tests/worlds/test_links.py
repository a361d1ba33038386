"""Links: names are checked against the boxes, held-out names never occur in training, lines and dots are where they should be."""

from __future__ import annotations

import hashlib
import math

import numpy as np

from diptych.worlds import links, resolve
from diptych.worlds.links.world import DOT, FAR, HELD_OUT, PREDICATES


def test_predicates_are_what_the_boxes_say() -> None:
    data = links(200, seed=0, split="test")
    names = set()
    for row in range(len(data)):
        sample = data[row]
        assert 3 <= len(sample.regions) <= 4
        assert len(sample.relations) == 2
        for relation in sample.relations:
            one, two = (sample.regions[i].box for i in (relation.subject, relation.object))
            dx, dy = ((one[k] + one[k + 2] - two[k] - two[k + 2]) / 2 for k in (0, 1))
            way = ("left of" if dx < 0 else "right of") if abs(dx) > abs(dy) else ("above" if dy < 0 else "below")
            reach = "far" if math.hypot(dx, dy) > FAR * 64 else "near"
            assert relation.predicate == f"{reach} {way}"
            names.add(relation.predicate)
    assert names == set(PREDICATES)


def test_held_out_names_stay_out_of_training() -> None:
    data = resolve("world:links?n=300&test=300")
    train = {r.predicate for row in range(300) for r in data.split("train")[row].relations}
    test = [r.predicate for row in range(300) for r in data.split("test")[row].relations]
    assert train == set(PREDICATES) - set(HELD_OUT)
    assert sum(name in HELD_OUT for name in test) > 60


def test_two_links_join_two_different_pairs_and_a_dot_marks_each_subject() -> None:
    data = links(100, seed=3)
    for row in range(100):
        sample = data[row]
        pairs = {frozenset((r.subject, r.object)) for r in sample.relations}
        assert len(pairs) == 2
        for relation in sample.relations:
            x0, y0, x1, y1 = (int(v) for v in sample.regions[relation.subject].box)
            patch = sample.image.pixels_HWC[max(0, y0 - 1) : y1 + 1, max(0, x0 - 1) : x1 + 1].astype(float)
            assert (np.abs(patch - np.array(DOT)).max(2) < 40).any(), row


def test_same_seed_same_bytes_and_groups_need_no_rendering() -> None:
    one, two = links(20, seed=7), links(20, seed=7)
    for row in range(20):
        assert one[row].image.pixels_HWC.tobytes() == two[row].image.pixels_HWC.tobytes()
        assert one[row].group == one.groups[row] == one[row].texts[0].string
    other = links(20, seed=8)
    assert (
        hashlib.sha256(other[0].image.pixels_HWC.tobytes()).digest() != hashlib.sha256(one[0].image.pixels_HWC.tobytes()).digest()
    )
