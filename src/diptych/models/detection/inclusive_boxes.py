"""Boxes that end on their last pixel, as maskrcnn-benchmark counts them: a box from 3 to 5 is three pixels wide.

Overlaps and box encoding are those of half-open boxes whose far corner lies one pixel further (`half_open_boxes`). Two things do not
follow from that: a box is clipped to its image's last pixel, not to its edge, and anchors are those of the first Faster R-CNN (Ren et
al., 2015): around the middle of the pixels of a place, sides rounded at the size of a stride.

Letters: A anchors, N M boxes, K classes. Boxes are xyxy in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import box_iou, nms

Sizes = Sequence[tuple[int, int]]
SIZE = "size"
"""Of an image (height, width), beside the boxes and labels of what is true of it."""


def half_open_boxes(box_N4: Tensor) -> Tensor:
    """The half-open boxes that hold the same pixels."""
    return box_N4 + box_N4.new_tensor([0.0, 0.0, 1.0, 1.0])


def inclusive_iou(one_N4: Tensor, other_M4: Tensor) -> Tensor:
    """[N, M]

    >>> inclusive_iou(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[1.0, 0, 2, 1]])).item()  # two of six pixels
    0.3333333432674408
    """
    shares: Tensor = box_iou(half_open_boxes(one_N4), half_open_boxes(other_M4))
    return shares


def inclusive_nms(box_N4: Tensor, score_N: Tensor, overlap: float) -> Tensor:
    """Indices of the boxes that pass NMS, best first: a box that overlaps a better one by more than `overlap` is dropped."""
    kept: Tensor = nms(half_open_boxes(box_N4), score_N, overlap)
    return kept


def clip_boxes(box_N4: Tensor, size: tuple[int, int]) -> Tensor:
    """[..., 4] within the first and the last pixel of an image of (height, width)."""
    high, wide = size
    last_4 = box_N4.new_tensor([wide - 1, high - 1, wide - 1, high - 1])
    return torch.minimum(box_N4.clamp(min=0), last_4)


class InclusiveBoxCoder(BoxCoder):  # type: ignore[misc]  # torchvision has no types
    """The change of one box into another, and back."""

    def encode_single(self, reference_boxes: Tensor, proposals: Tensor) -> Tensor:
        code_N4: Tensor = super().encode_single(half_open_boxes(reference_boxes), half_open_boxes(proposals))
        return code_N4

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        box_NK: Tensor = super().decode_single(rel_codes, half_open_boxes(boxes))
        return box_NK - box_NK.new_tensor([0.0, 0.0, 1.0, 1.0]).repeat(box_NK.shape[1] // 4)


class StrideAnchorGenerator(nn.Module):
    """Anchors of all maps, place by place in reading order; one size a map, each with all ratios (height by width)."""

    def __init__(self, sizes: Sequence[int], ratios: Sequence[float], strides: Sequence[int]) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.cells = [self._cell(size, ratios, stride) for size, stride in zip(sizes, strides, strict=True)]

    def forward(self, image_list: ImageList, feature_maps: Sequence[Tensor]) -> list[Tensor]:
        """[A, 4] of each image, all the same."""
        every = []
        for map_BCHW, cell_A4, stride in zip(feature_maps, self.cells, self.strides, strict=True):
            y_H, x_W = (torch.arange(count, device=map_BCHW.device) * float(stride) for count in map_BCHW.shape[2:])
            shift_HW2 = torch.stack((x_W.expand(len(y_H), -1), y_H[:, None].expand(-1, len(x_W))), -1)
            place_P4 = shift_HW2.flatten(0, 1).repeat(1, 2)
            every.append((place_P4[:, None] + cell_A4.to(place_P4)).flatten(0, 1))
        return [torch.cat(every) for _ in image_list.image_sizes]

    @staticmethod
    def _cell(size: int, ratios: Sequence[float], stride: int) -> Tensor:
        """[A, 4]: those of the first place."""
        middle, boxes = (stride - 1) / 2, []
        for ratio in ratios:
            wide = round((stride**2 / ratio) ** 0.5)
            high = round(wide * ratio)
            x, y = ((side * size / stride - 1) / 2 for side in (wide, high))
            boxes.append([middle - x, middle - y, middle + x, middle + y])
        return torch.tensor(boxes)


class InclusiveRPN(RegionProposalNetwork):  # type: ignore[misc]
    """A proposal network whose boxes end on their last pixel. It learns nothing from anchors that cross the border."""

    def __init__(self, *parts: object) -> None:
        super().__init__(*parts)
        self.box_coder = InclusiveBoxCoder(weights=(1.0, 1.0, 1.0, 1.0))
        self.box_similarity = inclusive_iou

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        for label_A, anchor_A4, target in zip(labels, anchors, targets, strict=True):
            high, wide = target[SIZE].tolist()
            inside_A = (anchor_A4[:, :2] >= 0).all(1) & (anchor_A4[:, 2] < wide) & (anchor_A4[:, 3] < high)
            label_A[~inside_A] = -1
        return labels, boxes

    def filter_proposals(
        self, proposals: Tensor, objectness: Tensor, image_shapes: Sizes, num_anchors_per_level: list[int]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The surest boxes of each map after NMS, and of those of all maps the highest-scoring."""
        share_BA, most = objectness.detach().reshape(len(proposals), -1).sigmoid(), self.post_nms_top_n()
        boxes, shares = [], []
        for box_A4, share_A, size in zip(proposals, share_BA, image_shapes, strict=True):
            parts = []
            for part_A4, each_A in zip(box_A4.split(num_anchors_per_level), share_A.split(num_anchors_per_level), strict=True):
                sure = each_A.topk(min(self.pre_nms_top_n(), len(each_A))).indices
                cut_N4 = clip_boxes(part_A4[sure], size)
                kept = inclusive_nms(cut_N4, each_A[sure], self.nms_thresh)[:most]
                parts.append((cut_N4[kept], each_A[sure][kept]))
            kept_N4, kept_N = (torch.cat(part) for part in zip(*parts, strict=True))
            best = kept_N.topk(min(most, len(kept_N))).indices
            boxes.append(kept_N4[best])
            shares.append(kept_N[best])
        return boxes, shares


def box_losses(logit_NC: Tensor, change_NC: Tensor, label_N: Tensor, goal_N4: Tensor) -> dict[str, Tensor]:
    """Cross-entropy of the names, and the distance of the changes of boxes that hold something: squared below 1, linear beyond
    (torchvision: below a ninth), over the number of all boxes."""
    something = (label_N > 0).nonzero()[:, 0]
    change_N4 = change_NC.view(len(change_NC), -1, 4)[something, label_N[something]]
    distance = F.smooth_l1_loss(change_N4, goal_N4[something], beta=1.0, reduction="sum") / max(1, len(label_N))
    return {"loss_classifier": F.cross_entropy(logit_NC, label_N), "loss_box_reg": distance}
