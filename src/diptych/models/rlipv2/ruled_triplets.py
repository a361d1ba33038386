"""Select a relation detector's triplets by the rule of a protocol: options of `best_triplets`, and the graph of its result.

Letters: T triplets, C objects without the background, R relations.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diptych.core.errors import DataError
from diptych.core.scene_graph import Relation
from diptych.core.triplet_rule import RawDetections, RawRegion, TripletRule
from diptych.data.graphs.label_lists import LabelLists
from diptych.models.rlipv2.triplet_selection import TripletDetections

EVERY = 1 << 40  # more triplets than any image has


def selection_options(rule: TripletRule, lists: LabelLists) -> dict[str, Any]:
    """Return the options of `best_triplets` for this rule. If pairs are dropped by their subject,
    `graph_in_pixels` does so later.
    """
    for kind, name in (("subject", rule.subject if rule.subjects != "scored" else ""), ("missing", rule.missing)):
        if name and name not in lists.objects:
            raise DataError(f"the rule has {name!r} as {kind}", field="objects", expected="that name among the requested objects")
    possible_CR = None
    if rule.possible is not None:
        rows = [[(relation, thing) in rule.possible for relation in lists.relations] for thing in lists.objects]
        possible_CR = torch.tensor(rows, dtype=torch.bool)
    return {
        "top": EVERY if rule.subjects == "cut" or not rule.top else rule.top,
        "rule": "graph" if rule.subjects == "scored" else "hoi",
        "possible_CR": possible_CR,
    }


def graph_in_pixels(triplets: TripletDetections, size: tuple[int, int], lists: LabelLists, rule: TripletRule) -> RawDetections:
    """Return regions and relations in pixels of an image of (height, width) `size`; one region for each side of a query."""
    if rule.subjects == "cut":
        triplets = triplets.rows(triplets.subject_T == lists.objects.index(rule.subject))
        if rule.top:
            triplets = triplets.rows(torch.arange(min(rule.top, len(triplets)), device=triplets.score_T.device))
    names = [lists.objects[n] for n in triplets.subject_T.tolist()]
    if rule.subjects != "scored":
        names = [rule.subject] * len(names)
    things = [lists.objects[n] for n in triplets.object_T.tolist()]
    index: dict[tuple[str, RawRegion], int] = {}

    def region(side: str, box: list[float], label: str, score: float) -> int:
        x0, y0, x1, y1 = box
        return index.setdefault((side, RawRegion((x0, y0, x1, y1), label, score)), len(index))

    edges = []
    boxes = [_pixels(box_T4, size) for box_T4 in (triplets.subject_box_T4, triplets.object_box_T4)]
    scores = [score_T.tolist() for score_T in (triplets.subject_score_T, triplets.object_score_T)]
    for t, (relation, confidence) in enumerate(zip(triplets.relation_T.tolist(), triplets.score_T.tolist(), strict=True)):
        subject = region("subject", boxes[0][t], names[t], scores[0][t])
        missing = bool(rule.missing) and things[t] == rule.missing
        thing = subject if missing else region("object", boxes[1][t], things[t], scores[1][t])
        edges.append(Relation(subject, lists.relations[relation], thing, confidence))
    return RawDetections(tuple(region for _, region in index), tuple(edges))


def _pixels(box_T4: Tensor, size: tuple[int, int]) -> list[list[float]]:
    height, width = size
    pixels: list[list[float]] = (box_T4.float().cpu() * torch.tensor([width, height, width, height])).tolist()
    return pixels
