"""GLIP's detector (2112.03857): a separate backbone and text encoder, and a dense head that fuses their features.

Letters: B batch, C channel, H W pixels, L tokens, A anchors, E phrases, N boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from diptych.core.config import from_plain
from diptych.core.errors import ShapeError
from diptych.core.grounding import PhraseBoxes, PhraseQuery
from diptych.data.graphs.grounded import DenseRegions, moved_anchors
from diptych.models.detection.backbone import DetectionBackbone, detection_backbone
from diptych.models.detection.dense.dense_grounding import DenseHead, DenseHeadConfig, sizes_of
from diptych.models.detection.phrase_detector import PhraseDetector
from diptych.models.detection.token_head import phrase_scores
from diptych.models.towers.outputs import Tower
from diptych.models.towers.towers import text_tower


class DenseDetector(nn.Module):
    """Pictures of any size and one text each to `DenseRegions`. They meet in the head; with `shape.meeting_width` 0 in its token head
    alone, as in GLIP-T (A)."""

    def __init__(self, backbone: DetectionBackbone, text: Tower, shape: DenseHeadConfig) -> None:
        super().__init__()
        self.backbone, self.text, self.shape = backbone, text, shape
        self.head = DenseHead(backbone.channels, backbone.strides, text.width, shape)

    def forward(self, image_BCHW: Tensor, text_BL: Tensor, mask_BL: Tensor, *, pixel_BHW: Tensor | None = None) -> DenseRegions:
        """text_BL    token ids of one text per image; mask_BL is True at real tokens
        pixel_BHW  True at real pixels; None when no image is padded. Padding is read like a picture, as published
        """
        if len(image_BCHW) != len(text_BL):
            raise ShapeError(f"{len(image_BCHW)} images but {len(text_BL)} texts (expected a text an image)")
        token_BLT = self.text(text_BL, mask_BL).tokens_BPD
        regions: DenseRegions = self.head(self.backbone(image_BCHW), token_BLT, mask_BL, sizes_of(image_BCHW, pixel_BHW))
        return regions


class DensePhraseDetector(PhraseDetector):
    """A `PhraseDetector` that keeps the boxes of positions above a score threshold: score = sqrt(probability of the phrase * of
    the centre), followed by NMS among the boxes of a phrase. A phrase may have no box."""

    kind: ClassVar[str] = "dense_phrase_detector"

    def _grounded(
        self, pictures: Sequence[npt.NDArray[np.uint8]], queries: Sequence[PhraseQuery], top: int
    ) -> list[list[PhraseBoxes]]:
        regions: DenseRegions = self._predicted(pictures, queries)
        box_BA4 = moved_anchors(regions.anchor_A4, regions.change_BA4.float()).cpu()
        logit_BAL, centre_BA = regions.token_logit_BAL.float().cpu(), regions.centre_BA.float().cpu().sigmoid()
        answers = []
        for row, (query, picture) in enumerate(zip(queries, pictures, strict=True)):
            positive_EL = torch.from_numpy(self._positive(query, logit_BAL.shape[2]))
            score_AE = phrase_scores(logit_BAL[row], positive_EL)
            height, width = regions.size_B2[row].tolist()
            boxes = top_phrase_boxes(score_AE, centre_BA[row], box_BA4[row], regions.counts, (height, width), self.model.shape)
            scale = torch.tensor([picture.shape[1] / width, picture.shape[0] / height]).repeat(2)
            # The first and the last pixel move with the picture, as in the release; the box ends a pixel after the last, at most with it.
            last, limit = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor(picture.shape[1::-1]).repeat(2)
            pixel_boxes = [((box_N4 - last) * scale + last).minimum(limit) for box_N4, _ in boxes]
            answers.append([
                PhraseBoxes(box_N4[:top].numpy(), score_N[:top].numpy())
                for box_N4, (_, score_N) in zip(pixel_boxes, boxes, strict=True)
            ])  # fmt: skip
        return answers

    @staticmethod
    def _built(config: Mapping[str, Any]) -> Any:
        backbone, text = detection_backbone(**config["backbone"]), text_tower(**config["text"])
        return DenseDetector(backbone, text, from_plain(DenseHeadConfig, config["shape"]))

    def _about(self) -> str:
        strides = ", ".join(map(str, self.model.head.strides))
        met = ", each behind a meeting of image and text," if self.model.shape.meeting_width else ""
        return f"{self.model.shape.rounds} rounds of a dynamic head{met} over maps of strides {strides}"


def top_phrase_boxes(
    score_AE: Tensor, centre_A: Tensor, box_A4: Tensor, counts: Sequence[int], size: tuple[int, int], shape: DenseHeadConfig
) -> list[tuple[Tensor, Tensor]]:
    """For each phrase its boxes [N, 4], xyxy pixels, and scores [N], highest score first.

    score_AE  probability of each phrase at each place;  counts  places of each map;  size  height and width of the picture
    """
    positions, phrases, scores = [], [], []
    for start, count in zip(np.cumsum([0, *counts[:-1]]).tolist(), counts, strict=True):
        level_AE = score_AE[start : start + count]
        open_AE = level_AE > shape.least
        place_N, phrase_N = open_AE.nonzero(as_tuple=True)
        score_N = (level_AE * centre_A[start : start + count, None])[open_AE]
        best = score_N.topk(min(shape.candidates, len(score_N))).indices
        positions.append(place_N[best] + start)
        phrases.append(phrase_N[best])
        scores.append(score_N[best].sqrt())
    place_N, phrase_N, score_N = torch.cat(positions), torch.cat(phrases), torch.cat(scores)
    height, width = size
    low_N2, high_N2 = box_A4[place_N, :2], box_A4[place_N, 2:] - 1
    limit_2 = torch.tensor([width - 1.0, height - 1.0])
    box_N4 = torch.cat([end.clamp(min=0).minimum(limit_2) for end in (low_N2, high_N2)], 1) + torch.tensor([0.0, 0.0, 1.0, 1.0])
    kept = batched_nms(box_N4, score_N, phrase_N, shape.overlap)[: shape.most]
    box_N4, score_N, phrase_N = box_N4[kept], score_N[kept], phrase_N[kept]
    return [(box_N4[phrase_N == phrase], score_N[phrase_N == phrase]) for phrase in range(score_AE.shape[1])]
