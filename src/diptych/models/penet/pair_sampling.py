"""Which pairs of found boxes a step learns from: those that lie on a true relation, and unrelated ones (Neural Motifs' assignment).

Letters: N found boxes, K true regions, G true relations, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

from diptych.models.detection.inclusive_boxes import inclusive_iou

FOREGROUND = 0.5
"""Overlap from which a proposal has the label of a true region, and from which a found box stands for it."""


@dataclass(frozen=True, slots=True)
class SceneGraphTargets:
    """Ground truth of one image.

    Boxes xyxy in pixels as the network sees it, classes (1 and above), pairs and their predicates (0 for none).
    """

    box_K4: Tensor
    label_K: Tensor
    pair_G2: Tensor
    relation_G: Tensor

    def to(self, device: torch.device) -> SceneGraphTargets:
        tensors = (self.box_K4, self.label_K, self.pair_G2, self.relation_G)
        return SceneGraphTargets(*(tensor.to(device, non_blocking=True) for tensor in tensors))


@dataclass(frozen=True, slots=True)
class SampledPairs:
    """label_N is 0 for a box that stands for no true region; relation_P is 0 for none."""

    label_N: Tensor
    pair_P2: Tensor
    relation_P: Tensor

    def to(self, device: torch.device) -> SampledPairs:
        tensors = (self.label_N, self.pair_P2, self.relation_P)
        return SampledPairs(*(tensor.to(device, non_blocking=True) for tensor in tensors))


@dataclass(frozen=True, slots=True)
class PairSampling:
    """pairs      of an image at most (512)
    positive   share of them that may be related (.25)
    each       pairs of boxes that may stand for one true relation, drawn by how well they lie (4)
    last_pixel   overlaps count the last pixel of boxes in (as released)
    """

    pairs: int = 512
    positive: float = 0.25
    each: int = 4
    last_pixel: bool = False

    def __call__(self, proposal_N4: Tensor, box_N4: Tensor, targets: SceneGraphTargets) -> SampledPairs:
        """Proposals decide the labels, the boxes read off them which relation a pair stands for. Draws from torch's generator.

        A pair without a true relation is drawn only among boxes that stand for some region.
        """
        device, count = box_N4.device, len(box_N4)
        label_N = torch.zeros(count, dtype=torch.int64, device=device)
        none = torch.zeros(0, 2, dtype=torch.int64, device=device)
        if not count or not len(targets.box_K4):
            return SampledPairs(label_N, none, none[:, 0])
        share_of = inclusive_iou if self.last_pixel else box_iou
        overlap_N, region_N = share_of(targets.box_K4, proposal_N4).max(0)
        label_N = torch.where(overlap_N >= FOREGROUND, targets.label_K[region_N], label_N)
        overlap_KN = share_of(targets.box_K4, box_N4)
        stands_KN = (targets.label_K[:, None] == label_N) & (overlap_KN > FOREGROUND)
        free_NN = ~torch.eye(count, dtype=torch.bool, device=device)
        free_NN &= (label_N > 0)[:, None] & (label_N > 0)
        pairs, relations = [none], [none[:, 0]]
        for (subject, other), relation in zip(targets.pair_G2.tolist(), targets.relation_G.tolist(), strict=True):
            if not relation:
                continue
            pair_M2 = torch.cartesian_prod(stands_KN[subject].nonzero()[:, 0], stands_KN[other].nonzero()[:, 0]).view(-1, 2)
            pair_M2 = pair_M2[pair_M2[:, 0] != pair_M2[:, 1]]
            free_NN[pair_M2[:, 0], pair_M2[:, 1]] = False
            if len(pair_M2) > self.each:
                weight_M = overlap_KN[subject, pair_M2[:, 0]] * overlap_KN[other, pair_M2[:, 1]]
                pair_M2 = pair_M2[weight_M.multinomial(self.each)]
            pairs.append(pair_M2)
            relations.append(torch.full((len(pair_M2),), relation, dtype=torch.int64, device=device))
        pair_P2, relation_P = torch.cat(pairs), torch.cat(relations)
        most = int(self.pairs * self.positive)
        if len(pair_P2) > most:
            chosen = torch.randperm(len(pair_P2), device=device)[:most]
            pair_P2, relation_P = pair_P2[chosen], relation_P[chosen]
        free_M2 = free_NN.nonzero()
        free_M2 = free_M2[torch.randperm(len(free_M2), device=device)[: self.pairs - len(pair_P2)]]
        return SampledPairs(label_N, torch.cat((pair_P2, free_M2)), torch.cat((relation_P, relation_P.new_zeros(len(free_M2)))))
