"""Training targets of a two-stage network from a batch of scene graphs.

Letters: B images, K regions, G pairs, R predicates.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from diptych.core.contracts import Draw
from diptych.core.scene_graph import Relation
from diptych.data.graphs.batch import GraphBatch
from diptych.models.host_copy import on_host
from diptych.models.penet.pair_sampling import SceneGraphTargets


def scene_graph_targets(batch: GraphBatch) -> list[SceneGraphTargets]:
    """Targets of each image, in pixels of the batch and in main memory: they are as many as an image has, and a GPU would be waited for
    with every image."""
    sizes, region_BK, pair_BG, box_BK4, label_BK, ends_BG2, relation_BGR = on_host(
        (
            batch.size_B2,
            batch.region_mask_BK,
            batch.pair_mask_BG,
            batch.box_BK4,
            batch.label_BK,
            batch.pair_BG2,
            batch.relation_BGR,
        )
    )
    all_targets = []
    for row, (height, width) in enumerate(sizes.tolist()):
        region_K, pair_G = region_BK[row], pair_BG[row]
        centre_K4 = box_BK4[row, region_K]
        half_K2 = centre_K4[:, 2:] / 2
        corner_K4 = torch.cat((centre_K4[:, :2] - half_K2, centre_K4[:, :2] + half_K2), 1)
        relation_GR = relation_BGR[row, pair_G]
        relation_G = (relation_GR.argmax(1) + 1) * relation_GR.any(1)
        scale_4 = corner_K4.new_tensor([width, height, width, height])
        all_targets.append(SceneGraphTargets(corner_K4 * scale_4, label_BK[row, region_K] + 1, ends_BG2[row, pair_G], relation_G))
    return all_targets


def sizes_of(batch: GraphBatch) -> list[tuple[int, int]]:
    """(height, width) of each image in pixels of the batch, without its padding."""
    return [(height, width) for height, width in batch.size_B2.tolist()]


def sample_predicate(draw: Draw) -> Draw:
    """Each ordered pair with one of its predicates, drawn: a pair has one label (published)."""
    by_pair: dict[tuple[int, int], list[Relation]] = {}
    for relation in draw.sample.relations:
        by_pair.setdefault((relation.subject, relation.object), []).append(relation)
    if all(len(each) == 1 for each in by_pair.values()):
        return draw
    chosen = tuple(each[int(draw.rng.integers(len(each)))] for each in by_pair.values())
    return replace(draw, sample=replace(draw.sample, relations=chosen))
