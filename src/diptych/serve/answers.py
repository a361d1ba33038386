"""Answers as plain values that JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from diptych.core.scene_graph import SceneGraph
from diptych.report import drawing
from diptych.report.graphs import annotated, node_link, node_names


def jsonable(value: Any) -> Any:
    """The same with values that JSON cannot represent as null: NaN, infinity, bytes, other objects."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): jsonable(part) for name, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(part) for part in value]
    return value if isinstance(value, str | int) else None


def graph_answer(graph: SceneGraph, width: int, height: int) -> dict[str, Any]:
    """Regions, relations, and both as drawings: over a picture of that size, and as nodes and edges."""
    names = node_names(graph)
    return {
        "regions": [
            {
                "label": region.label,
                "name": name,
                "box": [round(float(edge), 2) for edge in region.box],
                "score": round(float(region.score), 6),
            }
            for region, name in zip(graph.regions, names, strict=True)
        ],
        "relations": [
            {"subject": r.subject, "predicate": r.predicate, "object": r.object, "score": round(float(r.confidence), 6)}
            for r in graph.relations
        ],
        "drawings": {
            "picture": drawing.plain(annotated(np.zeros((height, width, 3), np.uint8), graph)),
            "graph": drawing.plain(node_link(graph)),
        },
    }
