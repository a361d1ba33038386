"""Select the best triplets of an image, and its scene graph, from a detector's logits.

Letters: B images, N pair queries, E entities of all pairs (subjects, then objects), T triplets, C entity texts with the background
last, R relation texts. Boxes are xyxy in 0..1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou, clip_boxes_to_image

from diptych.core.errors import ConfigError
from diptych.core.scene_graph import Box, Region, Relation, SceneGraph
from diptych.models.rlipv2.relation_detector import PairSet

ScoreRule = Literal["graph", "hoi"]


@dataclass(frozen=True, slots=True)
class TripletDetections:
    """Triplets of one image, best first. Labels and relations are indices into their lists."""

    subject_box_T4: Tensor
    object_box_T4: Tensor
    subject_T: Tensor
    relation_T: Tensor
    object_T: Tensor
    score_T: Tensor
    subject_score_T: Tensor
    object_score_T: Tensor

    def __len__(self) -> int:
        return len(self.score_T)

    def rows(self, keep: Tensor) -> TripletDetections:
        return TripletDetections(*(getattr(self, name)[keep] for name in TripletDetections.__slots__))


@torch.no_grad()
def best_triplets(
    predicted: PairSet, *, top: int = 100, rule: ScoreRule = "graph", possible_CR: Tensor | None = None
) -> list[TripletDetections]:
    """Return the `top` highest (query, relation) combinations of each image, from the last decoder layer.

    Each query gets its most likely subject and object labels, without the background.

    rule         graph: p(relation) p(subject) p(object);  hoi: p(relation) p(object), as HICO-DET and V-COCO are scored
    possible_CR  False for impossible combinations of object and relation (C without the background), which are dropped
    """
    if rule not in ("graph", "hoi"):
        raise ConfigError(f"unknown score rule {rule!r} (expected graph | hoi)")
    subject_score_BN, subject_BN = predicted.subject_logit_BSQC[:, -1].softmax(-1)[..., :-1].max(-1)
    object_score_BN, object_BN = predicted.object_logit_BSQC[:, -1].softmax(-1)[..., :-1].max(-1)
    weight_BN = object_score_BN if rule == "hoi" else subject_score_BN * object_score_BN
    score_BNR = predicted.relation_logit_BSQR[:, -1].sigmoid() * weight_BN[..., None]
    if possible_CR is not None:
        score_BNR = score_BNR.masked_fill(~possible_CR[object_BN], -1.0)
    best = score_BNR.flatten(1).topk(min(top, score_BNR[0].numel()), dim=1)
    sides = [box_convert(box[:, -1], "cxcywh", "xyxy") for box in (predicted.subject_box_BSQ4, predicted.object_box_BSQ4)]
    triplets = []
    for image, (score_T, place_T) in enumerate(zip(best.values, best.indices, strict=True)):
        score_T, place_T = score_T[score_T >= 0], place_T[score_T >= 0]
        query_T, relation_T = place_T // score_BNR.shape[2], place_T % score_BNR.shape[2]
        subject, object_ = (box[image, query_T] for box in sides)
        numbers = (subject_BN[image, query_T], relation_T, object_BN[image, query_T])
        scores = (score_T, subject_score_BN[image, query_T], object_score_BN[image, query_T])
        triplets.append(TripletDetections(subject, object_, *numbers, *scores))
    return triplets


def triplet_nms(triplets: TripletDetections, *, overlap: float = 0.7, alpha: float = 1.0, beta: float = 0.5) -> TripletDetections:
    """Triplet NMS (CDN, RLIP): of two with the same three names and IoU_s^alpha IoU_o^beta > overlap,
    the lower one is dropped.
    """
    subject_TT = box_iou(triplets.subject_box_T4, triplets.subject_box_T4)
    object_TT = box_iou(triplets.object_box_T4, triplets.object_box_T4)
    name_T3 = torch.stack((triplets.subject_T, triplets.relation_T, triplets.object_T), 1)
    same_TT = (name_T3[:, None] == name_T3[None]).all(-1)
    repeats_TT = ((subject_TT**alpha * object_TT**beta > overlap) & same_TT).cpu()
    keep_T = torch.ones(len(triplets), dtype=torch.bool)
    for row in range(len(triplets)):
        if keep_T[row]:
            keep_T[row + 1 :] &= ~repeats_TT[row, row + 1 :]
    return triplets.rows(keep_T.to(triplets.score_T.device))


def scene_graph(
    triplets: TripletDetections, size: tuple[int, int], objects: Sequence[str], relations: Sequence[str], *, same: float = 0.7
) -> SceneGraph:
    """Build a scene graph: boxes with the same name and an IoU of at least `same` become one region,
    with the box of the highest score.

    Relations of a region with itself, and of boxes without area inside the image, are dropped.

    size  of the image in pixels: (height, width)
    """
    box_E4 = torch.cat((triplets.subject_box_T4, triplets.object_box_T4)).float().cpu()
    height, width = size
    box_E4 = clip_boxes_to_image(box_E4 * torch.tensor([width, height, width, height]), size)
    name_E = torch.cat((triplets.subject_T, triplets.object_T)).tolist()
    score_E = torch.cat((triplets.subject_score_T, triplets.object_score_T)).float().cpu()
    regions, region_of = _merged(box_E4, name_E, score_E, objects, same)
    edges: dict[tuple[int, int, int], float] = {}
    count = len(triplets)
    for row, (relation, score) in enumerate(zip(triplets.relation_T.tolist(), triplets.score_T.tolist(), strict=True)):
        subject, object_ = region_of[row], region_of[count + row]
        if subject is not None and object_ is not None and subject != object_:
            edges.setdefault((subject, relation, object_), score)
    edge = (Relation(subject, relations[relation], object_, score) for (subject, relation, object_), score in edges.items())
    return SceneGraph(tuple(regions), tuple(edge))


@torch.no_grad()
def entity_graphs(
    predicted: PairSet, sizes: Sequence[tuple[int, int]], objects: Sequence[str], *, top: int = 100, same: float = 0.7
) -> list[SceneGraph]:
    """Return graphs of regions only: the `top` best detections of the subject and object queries of the last layer in each
    image.
    """
    score_BE, name_BE = (
        torch.cat((predicted.subject_logit_BSQC[:, -1], predicted.object_logit_BSQC[:, -1]), 1).softmax(-1)[..., :-1].max(-1)
    )
    box_BE4 = box_convert(torch.cat((predicted.subject_box_BSQ4[:, -1], predicted.object_box_BSQ4[:, -1]), 1), "cxcywh", "xyxy")
    graphs = []
    for image, size in enumerate(sizes):
        best_E = score_BE[image].topk(min(top, score_BE.shape[1])).indices
        pixels_4 = torch.tensor([size[1], size[0], size[1], size[0]])
        box_E4 = clip_boxes_to_image(box_BE4[image, best_E].float().cpu() * pixels_4, size)
        score_E = score_BE[image, best_E].float().cpu()
        regions, _ = _merged(box_E4, name_BE[image, best_E].tolist(), score_E, objects, same)
        graphs.append(SceneGraph(tuple(regions)))
    return graphs


def _merged(
    box_E4: Tensor, name_E: list[int], score_E: Tensor, objects: Sequence[str], same: float
) -> tuple[list[Region], list[int | None]]:
    """Return regions, best first, and the region of every box (None for one without area)."""
    has_area_E = (box_E4[:, 2] > box_E4[:, 0]) & (box_E4[:, 3] > box_E4[:, 1])
    overlap_EE = box_iou(box_E4, box_E4)
    leaders: list[int] = []
    region_of: list[int | None] = [None] * len(name_E)
    for entity in score_E.argsort(descending=True, stable=True).tolist():
        if not has_area_E[entity]:
            continue
        for region, leader in enumerate(leaders):
            if name_E[leader] == name_E[entity] and overlap_EE[leader, entity] >= same:
                region_of[entity] = region
                break
        else:
            region_of[entity] = len(leaders)
            leaders.append(entity)
    regions = [Region(_box(box_E4[leader]), objects[name_E[leader]], score=float(score_E[leader])) for leader in leaders]
    return regions, region_of


def _box(box_4: Tensor) -> Box:
    x0, y0, x1, y1 = box_4.tolist()
    return x0, y0, x1, y1
