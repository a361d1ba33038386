"""Merge near-duplicate boxes of one object in a scene graph: detectors report an object several times with slightly different boxes."""

from __future__ import annotations

import numpy as np

from diptych.core.box_iou import box_iou
from diptych.core.scene_graph import Relation, SceneGraph


def merge_boxes(graph: SceneGraph, overlap: float) -> SceneGraph:
    """The graph with one region for all regions of a label whose IoU with a better one is `overlap` or more; 1 and above merges nothing.

    From the best score down, a region stays unless it overlaps one of its label that stays. Relations of a merged region are those of the
    one that stays: of equal ones the most confident, and none of a region with itself.
    """
    if overlap >= 1.0 or len(graph.regions) < 2:
        return graph
    iou_NN = box_iou([region.box for region in graph.regions], [region.box for region in graph.regions])
    stands_for: dict[int, int] = {}
    kept: list[int] = []
    for row in sorted(range(len(graph.regions)), key=lambda row: (-graph.regions[row].score, row)):
        label = graph.regions[row].label
        near = [other for other in kept if graph.regions[other].label == label and iou_NN[row, other] >= overlap]
        stands_for[row] = near[int(np.argmax(iou_NN[row, near]))] if near else row
        if not near:
            kept.append(row)
    order = sorted(kept)
    number = {old: new for new, old in enumerate(order)}
    best: dict[tuple[int, str, int], float] = {}
    for relation in graph.relations:
        ends = number[stands_for[relation.subject]], number[stands_for[relation.object]]
        if ends[0] != ends[1] or relation.subject == relation.object:
            key = (ends[0], relation.predicate, ends[1])
            best[key] = max(relation.confidence, best.get(key, relation.confidence))
    relations = tuple(Relation(*key, confidence) for key, confidence in best.items())
    return SceneGraph(tuple(graph.regions[row] for row in order), relations, graph.extras)
