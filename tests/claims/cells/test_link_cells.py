"""What claims about relations ask: a perfect detector gets everything, one that does not know unseen names gets nothing of those."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diptych.claims.cells.relations.links import drawn, every_link
from diptych.core.scene_graph import SceneGraph
from diptych.worlds.links.world import HELD_OUT


class Oracle:
    """Knows the truth by the name of the image; says relations that are asked for and that it does not forget."""

    name, fingerprint = "oracle", "0"

    def __init__(self, forgets: Sequence[str] = ()) -> None:
        self.truth = {s.image.name: s.graph for s in (drawn("test", 60, 7)[i] for i in range(60)) if s.image is not None}
        self.forgets = forgets

    def detect(
        self, images: Sequence[Any], *, objects: Sequence[str], relations: Sequence[str] = (), **options: Any
    ) -> list[SceneGraph]:
        return [self.said(self.truth[image.name], relations) for image in images]

    def said(self, graph: SceneGraph, asked: Sequence[str]) -> SceneGraph:
        kept = tuple(r for r in graph.relations if r.predicate in asked and r.predicate not in self.forgets)
        return SceneGraph(graph.regions, kept)


def test_recall_is_told_apart_by_what_training_had() -> None:
    test = drawn("test", 60, 7)
    every = every_link(Oracle(), test)
    assert every == {"r@5": 1.0, "mr@5": 1.0, "unseen/r@5": 1.0, "seen/r@5": 1.0}
    partly = every_link(Oracle(forgets=HELD_OUT), test)
    assert partly["seen/r@5"] == 1.0
    assert partly["unseen/r@5"] == 0.0
    assert 0 < partly["r@5"] < 1
