"""Faster R-CNN with a feature pyramid, whose proposals keep the scores and the box of every class: what two-stage relation models
stand on.

Proposal network, sampling and losses are torchvision's, with the boxes of maskrcnn-benchmark on request. Of its inference only the boxes
are used: models of relations name regions again, so a proposal comes back once, with its logits and a box for each class
(`Proposals`), and never once a class.

Letters: B images, N proposals, C classes with the background first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork, batched_nms, box_iou, clip_boxes_to_image
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from diptych.core.errors import ConfigError
from diptych.models.detection.backbone import DetectionBackbone
from diptych.models.detection.inclusive_boxes import (
    SIZE,
    InclusiveBoxCoder,
    InclusiveRPN,
    Sizes,
    StrideAnchorGenerator,
    box_losses,
    clip_boxes,
    inclusive_iou,
    inclusive_nms,
)
from diptych.models.detection.roi_pooler import RoIBoxHead, RoIPooler

Counting = Literal["half_open", "inclusive"]
PER_CLASS = 300
"""Maximum number of boxes per class that pass NMS ("inclusive")."""


@dataclass(frozen=True, slots=True)
class FasterRCNNConfig:
    """Sizes and thresholds; the defaults are those of the detectors of Visual Genome (Neural Motifs' anchors; Tang et al., 2020).

    channels     of the pyramid
    region_width  of the two layers after a pooled box
    pooled_side  places of a pooled box
    anchors      side of the anchors of each map in pixels, one more than there are maps
    ratios       height by width of the anchors
    proposals    kept of an image, of which `considered` a map (6,000) go through NMS
    learns_considered  of a map while the detector itself is trained; 0 for as many as otherwise
    min_score    probability threshold of a detection
    nms          IoU threshold of non-maximum suppression within a class
    detections   kept of an image
    counting     "half_open": boxes, anchors and losses as torchvision has them; "inclusive": boxes end on their last pixel, with anchors
                 and losses of maskrcnn-benchmark (published), and what is found stays in the order of the proposals
    """

    channels: int = 256
    region_width: int = 4096
    pooled_side: int = 7
    anchors: tuple[int, ...] = (32, 64, 128, 256, 512)
    ratios: tuple[float, ...] = (0.23232838, 0.63365731, 1.28478321, 3.15089189)
    considered: int = 6000
    proposals: int = 1000
    learns_considered: int = 0
    min_score: float = 0.01
    nms: float = 0.3
    detections: int = 80
    counting: Counting = "half_open"

    def __post_init__(self) -> None:
        if self.counting not in ("half_open", "inclusive"):
            raise ConfigError(f"counting is {self.counting!r} (expected half_open | inclusive)")


@dataclass(frozen=True, slots=True)
class Proposals:
    """Proposals of one image that pass NMS, with their logits, boxes and labels.

    proposal_N4  where the proposals lay before the boxes of the classes were read off them
    logit_NC     background first
    box_NC4      xyxy in pixels, a box for each class; the background's as predicted
    label_N      the most likely class that stood NMS, 1 and above
    """

    proposal_N4: Tensor
    logit_NC: Tensor
    box_NC4: Tensor
    label_N: Tensor

    def boxes(self) -> Tensor:
        """[N, 4]: the box of each label."""
        return self.boxes_of(self.label_N)

    def boxes_of(self, label_N: Tensor) -> Tensor:
        """[N, 4]: the box of another label for each."""
        return self.box_NC4[torch.arange(len(label_N), device=label_N.device), label_N]

    def joined(self, box_K4: Tensor, label_K: Tensor, logit_KC: Tensor) -> Proposals:
        """With further boxes of known labels, which lie there for every class."""
        box_KC4 = box_K4[:, None].expand(-1, self.box_NC4.shape[1], -1)
        parts = ((self.proposal_N4, box_K4), (self.logit_NC, logit_KC), (self.box_NC4, box_KC4), (self.label_N, label_K))
        return Proposals(*(torch.cat(part) for part in parts))


class FasterRCNN(nn.Module):
    """Images to maps, proposals and named boxes."""

    def __init__(self, backbone: DetectionBackbone, shape: FasterRCNNConfig, classes: int) -> None:
        """`classes` counts the background."""
        super().__init__()
        self.backbone, self.shape, self.strides = backbone, shape, backbone.strides
        self.pyramid = FeaturePyramidNetwork(list(backbone.channels), shape.channels, LastLevelMaxPool())
        self.inclusive = shape.counting == "inclusive"
        anchors: nn.Module = AnchorGenerator(tuple((side,) for side in shape.anchors), (shape.ratios,) * len(shape.anchors))
        if self.inclusive:
            anchors = StrideAnchorGenerator(shape.anchors, shape.ratios, (*self.strides, 2 * self.strides[-1]))
        counts = [
            {"training": shape.learns_considered or shape.considered, "testing": shape.considered},
            {"training": shape.proposals, "testing": shape.proposals},
        ]
        head = RPNHead(shape.channels, len(shape.ratios))
        proposer = InclusiveRPN if self.inclusive else RegionProposalNetwork
        self.proposer = proposer(anchors, head, 0.7, 0.3, 256, 0.5, *counts, 0.7)
        pool = RoIPooler(shape.channels, self.strides, side=shape.pooled_side)
        layers = RoIBoxHead(shape.channels, shape.region_width, side=shape.pooled_side)
        self.heads = RoIHeads(
            pool,
            layers,
            BoxPredictor(shape.region_width, classes),
            0.5,
            0.3,
            256,
            0.5,
            None,
            shape.min_score,
            shape.nms,
            shape.detections,
        )
        if self.inclusive:
            self.heads.box_coder = InclusiveBoxCoder(self.heads.box_coder.weights)
            self.heads.box_similarity = inclusive_iou

    def maps(self, image_BCHW: Tensor) -> dict[str, Tensor]:
        """Maps of the pyramid by name, finest first; one more, coarser, for proposals."""
        maps: dict[str, Tensor] = self.pyramid({str(row): map_ for row, map_ in enumerate(self.backbone(image_BCHW))})
        return maps

    def logits(self, maps: dict[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """[N, C] of given boxes."""
        logit_NC: Tensor = self.heads.box_predictor(self.heads.box_head(self.heads.box_roi_pool(maps, boxes)))[0]
        return logit_NC

    def losses(
        self, image_BCHW: Tensor, maps: dict[str, Tensor], sizes: Sizes, boxes: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposals of each image, and the four losses of the detector; `labels` are classes, 1 and above."""
        targets: list[dict[str, Tensor]] = [
            {"boxes": box_K4, "labels": label_K, SIZE: torch.tensor(size)}
            for box_K4, label_K, size in zip(boxes, labels, sizes, strict=True)
        ]
        proposals, proposing = self.proposer(ImageList(image_BCHW, list(sizes)), maps, targets)
        detached = [proposal_N4.detach() for proposal_N4 in proposals]
        if not self.inclusive:
            return proposals, {**proposing, **self.heads(maps, detached, list(sizes), targets)[1]}
        chosen, _, named, goals = self.heads.select_training_samples(detached, targets)
        logit_NC, change_NC = self.heads.box_predictor(self.heads.box_head(self.heads.box_roi_pool(maps, chosen)))
        return proposals, {**proposing, **box_losses(logit_NC, change_NC, torch.cat(named), torch.cat(goals))}

    @torch.no_grad()
    def proposals(self, image_BCHW: Tensor, maps: dict[str, Tensor], sizes: Sizes) -> list[Tensor]:
        """Proposals of each image, without gradient."""
        self.proposer.eval()
        proposals: list[Tensor] = self.proposer(ImageList(image_BCHW, list(sizes)), maps)[0]
        self.proposer.train(self.training)
        return proposals

    @torch.no_grad()
    def predict_regions(
        self, maps: dict[str, Tensor], proposals: Sequence[Tensor], sizes: Sizes, class_mask_C: Tensor | None = None
    ) -> list[Proposals]:
        """Named boxes of each image, repeats of a class left out; with `class_mask_C` only of these classes."""
        logit_NC, change_NC = self.heads.box_predictor(self.heads.box_head(self.heads.box_roi_pool(maps, proposals)))
        counts = [len(proposal_N4) for proposal_N4 in proposals]
        box_NC4 = self.heads.box_coder.decode(change_NC, list(proposals)).split(counts)
        rows = zip(proposals, logit_NC.split(counts), box_NC4, sizes, strict=True)
        return [self._of_image(*row, class_mask_C) for row in rows]

    def _of_image(
        self, proposal_N4: Tensor, logit_NC: Tensor, box_NC4: Tensor, size: tuple[int, int], class_mask_C: Tensor | None
    ) -> Proposals:
        box_NC4 = clip_boxes(box_NC4, size) if self.inclusive else clip_boxes_to_image(box_NC4, size)
        share_NC = logit_NC.softmax(1)
        open_NC = share_NC > self.shape.min_score
        open_NC[:, 0] = False
        if class_mask_C is not None:
            open_NC &= class_mask_C
        row_M, class_M = open_NC.nonzero(as_tuple=True)
        kept_M = self._nms_by_class(box_NC4[row_M, class_M], share_NC[row_M, class_M], class_M)
        left_NC = torch.zeros_like(share_NC)
        left_NC[row_M[kept_M], class_M[kept_M]] = share_NC[row_M[kept_M], class_M[kept_M]]
        best_N, label_N = left_NC.max(1)
        order_N = best_N.sort(descending=True, stable=True).indices[: self.shape.detections]
        order_N = order_N[best_N[order_N] > 0]
        if self.inclusive and len(order_N):  # in the order of the proposals, all of those that tie with the last
            order_N = (best_N >= best_N[order_N[-1]]).nonzero()[:, 0]
        return Proposals(proposal_N4[order_N], logit_NC[order_N], box_NC4[order_N], label_N[order_N])

    def _nms_by_class(self, box_M4: Tensor, score_M: Tensor, class_M: Tensor) -> Tensor:
        """Places of the boxes that no better one of their class covers."""
        if not self.inclusive:
            kept_M: Tensor = batched_nms(box_M4, score_M, class_M, self.shape.nms)
            return kept_M
        rows = [class_M[:0]]
        for number in class_M.unique().tolist():
            mine = (class_M == number).nonzero()[:, 0]
            rows.append(mine[inclusive_nms(box_M4[mine], score_M[mine], self.shape.nms)[:PER_CLASS]])
        return torch.cat(rows)


class BoxPredictor(nn.Module):
    """Class logits and a change of the box for each class."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.cls_score, self.bbox_pred = nn.Linear(width, classes), nn.Linear(width, 4 * classes)
        for layer, spread in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=spread)
            nn.init.zeros_(layer.bias)

    def forward(self, region_NV: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(region_NV), self.bbox_pred(region_NV)


def nms_labels(
    logit_NC: Tensor, box_NC4: Tensor, overlap: float, class_mask_C: Tensor | None = None, *, inclusive: bool = False
) -> Tensor:
    """int64 [N]: a class for each box, 1 and above, highest score first; a class is closed to boxes that overlap one of its own.

    Overlaps are those of the boxes of that class, `inclusive` with their last pixel. Neural Motifs' decoding (Zellers et al., 2018).
    """
    share_of = inclusive_iou if inclusive else box_iou
    share_NC = logit_NC.softmax(1).clone()
    share_NC[:, 0] = -1
    if class_mask_C is not None:
        share_NC[:, ~class_mask_C] = -1
    label_N = torch.zeros(len(logit_NC), dtype=torch.int64, device=logit_NC.device)
    for _ in range(len(logit_NC)):
        row, name = divmod(int(share_NC.argmax()), share_NC.shape[1])
        label_N[row] = name
        near_N = share_of(box_NC4[row : row + 1, name], box_NC4[:, name])[0] >= overlap
        share_NC[near_N, name] = share_NC[near_N, name].clamp(max=0)
        share_NC[row] = -1
    return label_N
