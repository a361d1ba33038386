"""The heads of Mask R-CNN on a feature pyramid (He et al., 2017, 1703.06870), as mmdetection has them.

Layers are torchvision's where they are the same. What differs from torchvision's detector: regions are read from maps with the
first place at the middle of its pixels and as many points as fit (RoIAlign "aligned"); the last class is the background and has
no box; proposals of a map are those of its places alone, without a border; masks are laid into images between pixels, without a margin.

Letters: B images, A anchors, N boxes of an image or of all, C classes and the background, K classes, D width, H W places or pixels.
Boxes are xyxy in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import batched_nms, clip_boxes_to_image

from diptych.models.detection.anchor_boxes import AnchorConfig, decode_boxes
from diptych.models.detection.roi_pooler import RoIBoxHead, RoIPooler

Size = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRCNNConfig:
    """Sizes and thresholds; published defaults.

    size, ratios  sides of a square anchor in strides of its map, and height by width of the anchors
    considered   anchors of a map that go through NMS, the highest-scoring; `learns_considered` while training
    proposals    kept of an image; overlap_nms: from which of two proposals of a map the lower goes
    region_width of the two layers after a pooled box
    pooled_side, masked_side  places of a pooled box for its class and for its mask, which is twice as fine
    mask_width, mask_layers   of the convolutions before a mask
    min_score    probability threshold of a detection
    nms          IoU threshold of non-maximum suppression within a class
    detections   kept of an image at most
    solid        probability threshold of a mask pixel
    """

    size: float = 8.0
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    considered: int = 1000
    learns_considered: int = 2000
    proposals: int = 1000
    overlap_nms: float = 0.7
    region_width: int = 1024
    pooled_side: int = 7
    masked_side: int = 14
    mask_width: int = 256
    mask_layers: int = 4
    min_score: float = 0.05
    nms: float = 0.5
    detections: int = 100
    solid: float = 0.5

    @property
    def anchors(self) -> AnchorConfig:
        return AnchorConfig(size=self.size, octave=1, ratios=self.ratios)


class MaskRCNN(nn.Module):
    """Maps of a pyramid to proposals, regions and masks.

    width    of the maps
    classes  without the background
    strides  of the maps that regions are read from, finest first; proposals read one map more, of twice the last stride
    spread   a change of one unit of a region's box: shares of its sides, logarithms of factors
    """

    def __init__(
        self,
        shape: MaskRCNNConfig,
        width: int,
        classes: int,
        strides: Sequence[int],
        spread: Sequence[float] = (0.1, 0.1, 0.2, 0.2),
    ) -> None:
        super().__init__()
        self.shape, self.classes, self.spread = shape, classes, tuple(spread)
        self.strides = (*strides, 2 * strides[-1])
        self.proposer = RPNHead(width, len(shape.ratios))
        options = {"samples": 0, "inclusive": False, "aligned": True}
        self.pool = RoIPooler(width, strides, side=shape.pooled_side, **options)  # type: ignore[arg-type]
        self.mask_pool = RoIPooler(width, strides, side=shape.masked_side, **options)  # type: ignore[arg-type]
        self.layers = RoIBoxHead(width, shape.region_width, side=shape.pooled_side)
        self.classify = nn.Linear(shape.region_width, classes + 1)
        self.correct = nn.Linear(shape.region_width, 4 * classes)
        self.mask_layers = MaskRCNNHeads(width, (shape.mask_width,) * shape.mask_layers, 1)
        self.mask = MaskRCNNPredictor(shape.mask_width, shape.mask_width, classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As published; convolutions start as torchvision's do."""
        for layer in (self.layers.fc6, self.layers.fc7):
            nn.init.xavier_normal_(layer.weight)
        for layer, spread in ((self.classify, 0.01), (self.correct, 0.001)):
            nn.init.normal_(layer.weight, std=spread)
            nn.init.zeros_(layer.bias)
        for name, parameter in self.mask.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)

    def anchors(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """[A, 4] of each map, the same for all images."""
        return self.shape.anchors.boxes(maps, self.strides)

    def objectness(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Logit [B, A] and change [B, A, 4] of the anchors of each map, place by place."""
        logits, changes = self.proposer(list(maps))
        return (
            [logit_BRHW.permute(0, 2, 3, 1).flatten(1) for logit_BRHW in logits],
            [change.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for change in changes],
        )

    @torch.no_grad()
    def proposals(
        self, logits: Sequence[Tensor], changes: Sequence[Tensor], anchors: Sequence[Tensor], sizes: Sequence[Size]
    ) -> list[Tensor]:
        """[N, 4] of each image, highest score first. Nothing is learned through their places."""
        proposals = []
        considered = self.shape.learns_considered if self.training else self.shape.considered
        for row, size in enumerate(sizes):
            boxes, scores, levels = [], [], []
            for level, (logit_BA, change_BA4, anchor_A4) in enumerate(zip(logits, changes, anchors, strict=True)):
                score_N, best_N = _wide(logit_BA[row]).sigmoid().sort(descending=True, stable=True)
                best_N, score_N = best_N[:considered], score_N[:considered]
                boxes.append(clip_boxes_to_image(decode_boxes(anchor_A4[best_N], _wide(change_BA4[row, best_N])), size))
                scores.append(score_N)
                levels.append(torch.full_like(best_N, level))
            box_N4, score_N, level_N = torch.cat(boxes), torch.cat(scores), torch.cat(levels)
            open_N = (box_N4[:, 2:] > box_N4[:, :2]).all(1)
            box_N4, score_N, level_N = box_N4[open_N], score_N[open_N], level_N[open_N]
            proposals.append(box_N4[batched_nms(box_N4, score_N, level_N, self.shape.overlap_nms)[: self.shape.proposals]])
        return proposals

    def regions(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logit [N, C], the background last, and change [N, K, 4], in units of `spread`, of the boxes of all images."""
        region_ND = self.layers(self.pool(maps, boxes))
        return self.classify(region_ND), self.correct(region_ND).unflatten(1, (self.classes, 4))

    def masks(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Logits [N, K, H, W] of the boxes of all images, one mask per class over its box."""
        logit_NKHW: Tensor = self.mask(self.mask_layers(self.mask_pool(maps, boxes)))
        return logit_NKHW

    def postprocess_detections(
        self, logit_NC: Tensor, change_NK4: Tensor, box_N4: Tensor, size: Size, *, top: int, class_mask_K: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Detections of one image from its proposals: box [N, 4], label [N], score [N], highest scores first.

        class_mask_K  the classes to keep; None keeps all
        """
        change_NK4 = _wide(change_NK4)
        change_NK4 = change_NK4 * change_NK4.new_tensor(self.spread)
        share_NK = _wide(logit_NC).softmax(1)[:, :-1]
        open_NK = share_NK > self.shape.min_score
        if class_mask_K is not None:
            open_NK &= class_mask_K
        row_M, class_M = open_NK.nonzero(as_tuple=True)
        box_M4 = clip_boxes_to_image(decode_boxes(box_N4[row_M], change_NK4[row_M, class_M]), size)
        score_M = share_NK[row_M, class_M]
        kept = batched_nms(box_M4, score_M, class_M, self.shape.nms)[: min(top, self.shape.detections)]
        return box_M4[kept], class_M[kept], score_M[kept]


def _wide(value: Tensor) -> Tensor:
    """At least float32: half precision holds neither places in an image nor the order of sure scores."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def paste_mask(share_HW: Tensor, box_4: Sequence[float], size: Size) -> Tensor:
    """A mask over a box as one over its image of that size, [H, W]: read between its pixels, 0 around it."""
    high, wide = size
    x0, y0, x1, y1 = box_4
    left, upper = max(int(x0) - 1, 0), max(int(y0) - 1, 0)
    right, lower = min(-int(-x1 // 1) + 1, wide), min(-int(-y1 // 1) + 1, high)
    out_HW = share_HW.new_zeros(high, wide)
    if right <= left or lower <= upper or x1 <= x0 or y1 <= y0:
        return out_HW
    x_W, y_H = (
        (torch.arange(first, last, device=share_HW.device, dtype=share_HW.dtype) + 0.5 - start) / (stop - start) * 2 - 1
        for first, last, start, stop in ((left, right, x0, x1), (upper, lower, y0, y1))
    )
    grid_HW2 = torch.stack((x_W.expand(len(y_H), -1), y_H[:, None].expand(-1, len(x_W))), -1)
    part_11HW = F.grid_sample(share_HW[None, None], grid_HW2[None], align_corners=False)
    out_HW[upper:lower, left:right] = part_11HW[0, 0]
    return out_HW
