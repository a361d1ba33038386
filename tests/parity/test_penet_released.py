"""PE-Net against its release (VL-Group/PENET 9c9f507), with widths of 16 and 13 predicates: scores, labels, losses, gradients, NMS.

The numbers were made by running that code on made-up inputs in float64, dropout off in training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.core.scene_graph import Region, Relation, SceneGraph
from diptych.models.detection.faster_rcnn import nms_labels
from diptych.models.detection.roi_pooler import RoIPooler
from diptych.models.penet.pair_regions import PairRegions
from diptych.models.penet.pair_sampling import PairSampling, SceneGraphTargets
from diptych.models.penet.predicate_head import PENetHeadConfig, PredicatePrototypeHead, ScoredPairs, box_code
from diptych.objectives.boxes.predicate_prototypes import prototype_distance, prototype_similarity, prototype_spread
from diptych.tasks.relations.graph_arrays import GraphArrays
from diptych.tasks.relations.graph_records import records
from diptych.tasks.relations.predicate_nms import predicate_nms_by_pair

RELEASED = "VL-Group/PENET 9c9f507, PrototypeEmbeddingNetwork"
NAMES = {
    "post_emb": "ends",
    "obj_embed": "object_word_CE",
    "rel_embed": "predicate_word_KE",
    "W_sub.layers.0": "subject_semantics.0",
    "W_sub.layers.1": "subject_semantics.2",
    "W_obj.layers.0": "object_semantics.0",
    "W_obj.layers.1": "object_semantics.2",
    "W_pred.layers.0": "predicate_semantics.0",
    "W_pred.layers.1": "predicate_semantics.2",
    "gate_sub": "subject_gate",
    "gate_obj": "object_gate",
    "gate_pred": "pair_gate",
    "vis2sem": "visual",
    "project_head.layers.0": "projection.0",
    "project_head.layers.1": "projection.2",
    "linear_sub": "subject_residual.linear",
    "linear_obj": "object_residual.linear",
    "linear_rel_rep": "pair_residual.linear",
    "norm_sub": "subject_residual.norm",
    "norm_obj": "object_residual.norm",
    "norm_rel_rep": "pair_residual.norm",
    "down_samp.layers.0": "pair_features.0",
    "down_samp.layers.1": "pair_features.2",
    "pos_embed": "naming.place",
    "obj_embed1": "naming.word_CE",
    "out_obj": "naming.out",
    "lin_obj_cyx": "naming.hidden",
}
SIZES = ((60, 90), (100, 80))


def numbers(name: str) -> dict[str, Tensor]:
    with np.load(Path(__file__).parent / "released" / name) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


@pytest.fixture(scope="module")
def stored() -> dict[str, Tensor]:
    return numbers("penet_released.npz")


@pytest.fixture(scope="module")
def regions() -> dict[str, Tensor]:
    """Made with torchvision's roi_align in place of the release's compiled one."""
    return numbers("penet_regions.npz")


def head_of(stored: dict[str, Tensor]) -> PredicatePrototypeHead:
    head = PredicatePrototypeHead(PENetHeadConfig(width=16, word_width=12, naming_width=20, dropout=0.0), 24, 6, 13).double()
    state = {}
    for name, tensor in stored.items():
        if name.startswith("weight.") and not name.startswith("weight.linear_pred."):  # which nothing reads
            old = name.removeprefix("weight.")
            new = next((old.replace(a, b, 1) for a, b in NAMES.items() if old.startswith(a + ".")), "log_scale")
            state[new] = tensor.reshape(1) if new == "log_scale" else tensor
    head.load_state_dict(state)
    return head


def answered(head: PredicatePrototypeHead, stored: dict[str, Tensor], setting: str) -> tuple[ScoredPairs, Tensor | None]:
    start = len(stored["box_0"])
    pair_P2 = torch.cat((stored["pair_0"], stored["pair_1"] + start))
    naming_NC = None
    label_N = stored["label"]
    if setting != "predcls":
        code_N9 = torch.cat([box_code(stored[f"box_{n}"], size) for n, size in enumerate(SIZES)])
        naming_NC = head.naming(stored["region"], stored["logits"], code_N9)
        label_N = naming_NC[:, 1:].argmax(1) + 1
        if setting == "sgdet" and not head.training:
            split = (start, len(label_N) - start)
            parts = [
                nms_labels(logit_NC, stored[f"per_class_{n}"], 0.5, inclusive=True)
                for n, logit_NC in enumerate(naming_NC.split(split))
            ]
            label_N = torch.cat(parts)
    return head(stored["region"], label_N, pair_P2, stored["union"]), naming_NC


def test_scores_and_labels_equal_the_release(stored: dict[str, Tensor], parity: Any) -> None:
    """In sgdet labels are decoded so that near boxes take different ones."""
    head, pairs = head_of(stored).eval(), []
    for setting in ("predcls", "sgcls", "sgdet"):
        scored, naming_NC = answered(head, stored, setting)
        pairs.append((scored.logit_PK, stored[f"{setting}.relations"]))
        if naming_NC is not None:
            pairs.append((naming_NC, stored[f"{setting}.objects"]))
    parity("penet", "scores of pairs and of labels made anew", RELEASED, pairs, tolerance=1e-9)


def test_losses_and_gradients_equal_the_release(stored: dict[str, Tensor], parity: Any) -> None:
    pairs, slopes = [], []
    for setting in ("predcls", "sgcls", "sgdet"):
        head = head_of(stored).train()
        scored, naming_NC = answered(head, stored, setting)
        assert scored.prototype_KD is not None
        label_P = stored["relation"]
        losses = {
            "loss_rel": F.cross_entropy(scored.logit_PK, label_P),
            "loss_dis": prototype_distance(scored.pair_PD, scored.prototype_KD, label_P),
            "l21_loss": prototype_similarity(scored.prototype_KD),
            "dist_loss2": prototype_spread(scored.prototype_KD),
        }
        if naming_NC is not None:
            losses["loss_refine_obj"] = F.cross_entropy(naming_NC, stored["label"])
        pairs += [(value, stored[f"{setting}.{name}"]) for name, value in losses.items()]
        torch.stack(list(losses.values())).sum().backward()
        slopes.append((head.predicate_word_KE.weight.grad, stored[f"{setting}.grad.rel_embed"]))
        slopes.append((head.log_scale.grad, stored[f"{setting}.grad.logit_scale"].reshape(1)))
        if naming_NC is not None:
            slopes.append((head.ends.weight.grad, stored[f"{setting}.grad.post_emb"]))
    parity("penet", "every loss", RELEASED, pairs, tolerance=1e-9)
    parity("penet", "gradients of words, scale and ends", RELEASED, slopes, tolerance=1e-9)


def test_relation_nms_equals_the_release(stored: dict[str, Tensor], parity: Any) -> None:
    """Which predicate each pair wins, and with what it is ranked where it wins none."""
    box_N4, label_N, pair_P2, score_PK, won_P, with_P = (
        stored[f"nms.{name}"] for name in ("box", "label", "pair", "score", "predicate", "won")
    )
    regions = tuple(Region(tuple(box), f"o{int(label)}") for box, label in zip(box_N4.tolist(), label_N, strict=True))
    edges = tuple(
        Relation(i, f"r{k}", j, float(score))
        for (i, j), row in zip(pair_P2.tolist(), score_PK, strict=True)
        for k, score in enumerate(row[1:], 1)
    )
    graph = SceneGraph(regions, edges)
    arrays = GraphArrays.of(
        records(["a"], [SceneGraph()], [graph]), "prediction", objects=["o1", "o2"], predicates=["r1", "r2", "r3", "r4"]
    )
    done = predicate_nms_by_pair(arrays, inclusive=True, released=True)
    place = np.arange(len(edges)) // 4
    ours, worth = np.zeros(len(pair_P2), np.int64), np.zeros(len(pair_P2))
    ours[place[done.stays]] = np.flatnonzero(done.stays) % 4 + 1
    worth[place[done.stays]] = arrays.confidence[done.stays]
    worth[place[done.closed]] = done.nothing[done.closed]
    assert (won_P == 0).sum() > 5
    pairs = [(ours, won_P), (worth, with_P)]
    parity("penet", "relation NMS: predicates and what ranks them", "VL-Group/PENET 9c9f507, rel_nms", pairs, tolerance=1e-12)


def test_features_of_pairs_equal_the_release(regions: dict[str, Tensor], parity: Any) -> None:
    """Both boxes as rectangles, the region around both from all maps, two layers."""
    names = {
        "feature_extractor.pooler.reduce_channel.0.": "pool.reduce.",
        "feature_extractor.": "layers.",
        "rect_conv.": "rectangles.",
    }
    model = PairRegions(6, (4, 8), 10, side=5).double().eval()
    state = {}
    for name, tensor in regions.items():
        if name.startswith("union.weight."):
            old = name.removeprefix("union.weight.")
            first = next(prefix for prefix in names if old.startswith(prefix))
            state[names[first] + old.removeprefix(first)] = tensor
    model.load_state_dict(state)
    ends = [[regions[f"union.box_{n}"][regions[f"union.pair_{n}"][:, end]] for n in (0, 1)] for end in (0, 1)]
    with torch.no_grad():
        ours = model([regions["union.map_0"], regions["union.map_1"]], ends[0], ends[1], [(96, 80)] * 2)
    against = "VL-Group/PENET 9c9f507, RelationFeatureExtractor"
    parity("penet", "features of pairs", against, [(ours, regions["union.out"])], tolerance=1e-12)


def test_regions_are_pooled_from_the_maps_of_the_release(regions: dict[str, Tensor], parity: Any) -> None:
    pool = RoIPooler(2, (4, 8, 16, 32), side=5)
    ours = pool([regions[f"pool.map_{n}"] for n in range(4)], [regions["pool.box"]])
    parity("penet", "boxes pooled by size", "VL-Group/PENET 9c9f507, Pooler", [(ours, regions["pool.out"])], tolerance=1e-12)


def test_pairs_of_found_boxes_are_assigned_as_in_the_release(regions: dict[str, Tensor], parity: Any) -> None:
    """Which pairs are positive and which may be negative, where nothing is cut by number."""
    relation_KK = regions["draw.relation"]
    pair_G2 = relation_KK.nonzero()
    true = SceneGraphTargets(
        regions["draw.true_box"], regions["draw.true_label"], pair_G2, relation_KK[pair_G2[:, 0], pair_G2[:, 1]]
    )
    drawn = PairSampling(pairs=1000, positive=0.25, each=100, last_pixel=True)(regions["draw.box"], regions["draw.box"], true)
    ours = torch.cat((drawn.pair_P2, drawn.relation_P[:, None]), 1)
    rows = sorted(ours.tolist())
    pairs = [(drawn.label_N, regions["draw.label"]), (torch.tensor(rows), torch.tensor(sorted(regions["draw.triples"].tolist())))]
    parity("penet", "pairs of found boxes", "VL-Group/PENET 9c9f507, detect_relsample", pairs, tolerance=0.0)
