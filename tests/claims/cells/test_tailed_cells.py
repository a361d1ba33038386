"""What claims about rare predicates ask: who knows everything gets everything, who forgets the rare ones gets none of those."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from diptych.claims.cells.relations.changed_links import annotated_twice
from diptych.claims.cells.relations.tailed_predicates import RARE, drawn, every_predicate
from diptych.core.scene_graph import Relation, SceneGraph
from diptych.worlds.links.tailed import TailedLinkWorld

RANKED = TailedLinkWorld(7).ranked()


class Oracle:
    """Knows the truth by the name of the image; says what it does not forget, and with `doubles` also of boxes that lie there twice."""

    def __init__(self, test: Any, forgets: Sequence[str] = (), *, doubles: bool = False) -> None:
        self.truth = {sample.image.name: sample.graph for sample in test}
        self.forgets, self.doubles = forgets, doubles

    def relate(self, images: Sequence[Any], regions: Sequence[Any], **options: Any) -> list[SceneGraph]:
        return [SceneGraph(tuple(given), self.said(self.truth[image.name])) for image, given in zip(images, regions, strict=True)]

    def said(self, graph: SceneGraph) -> tuple[Relation, ...]:
        known = [r for r in graph.relations if r.predicate not in self.forgets]
        if not self.doubles:
            return tuple(known)
        labels = [region.label for region in graph.regions]
        same = [[j for j, label in enumerate(labels) if label == labels[i]] for i in range(len(labels))]
        # the first link of an image is sure, the second less so, and every double of a box says the same as the box
        sure = [(r, 0.9 - 0.3 * n) for n, r in enumerate(known)]
        return tuple(
            Relation(i, r.predicate, j, p - 0.01 * (i != r.subject) - 0.01 * (j != r.object))
            for r, p in sure
            for i in same[r.subject]
            for j in same[r.object]
        )


def test_recall_is_told_apart_by_how_rare_a_predicate_is() -> None:
    test = drawn("test", 40, 7, None)
    every = every_predicate(Oracle(test), test, RANKED[-RARE:])
    assert set(every.values()) == {1.0}
    partly = every_predicate(Oracle(test, RANKED[-RARE:]), test, RANKED[-RARE:])
    assert partly["rare/r@5"] == partly["nms/rare/r@5"] == 0.0
    assert partly["mr@5"] == pytest.approx(0.5)


def test_relation_nms_makes_room_where_things_have_two_boxes() -> None:
    """Four doubles of one link fill the first places; with relation NMS each link has one."""
    test = drawn("test", 40, 7, annotated_twice)
    assert sum(len(sample.regions) for sample in test) > 1.3 * sum(len(sample.regions) for sample in drawn("test", 40, 7, None))
    scores = every_predicate(Oracle(test, doubles=True), test, RANKED[-RARE:])
    assert scores["nms/r@5"] > scores["r@5"] + 0.1
    assert scores["nms/r@5"] > 0.95, "but for boxes whose second one lies too far off to count as the same"
