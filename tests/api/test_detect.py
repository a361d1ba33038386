"""What `detect` asks of a model: as many as the caller wants, and enough to have them left when the model drops repeats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import diptych as dp
from diptych.core.scene_graph import Region, Relation, SceneGraph


class Crowd:
    """A row of things, each before the next, the surest first."""

    name, fingerprint = "crowd", "c0"

    def detect(
        self, images: Any, *, objects: Any, relations: Any = (), top: int = 100, threshold: float = 0.0, batch_size: int = 16
    ) -> list[SceneGraph]:
        regions = tuple(Region((n, 0.0, n + 1.0, 1.0), objects[0], score=1 - n / 1000) for n in range(top + bool(relations)))
        edges = tuple(Relation(n, relations[0], n + 1, 1 - n / 1000) for n in range(top)) if relations else ()
        return [SceneGraph(regions, edges)]


@pytest.mark.parametrize("top", [3, 250])
def test_as_many_as_are_asked_for(top: int) -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    assert len(dp.detect(Crowd(), picture, objects=["dot"], top=top).regions) == top
    assert len(dp.detect(Crowd(), picture, objects=["dot"], relations=["before"], top=top).relations) == top
