"""Dual encoder of images with a caption and K concepts each, with separate temperatures (CoCu, 2309.13505).

Letters: B batch, N images, C channel, H W, K concepts, L tokens, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diptych.core.rows import Embeddings
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.towers.outputs import PairFeatures, Tower


@dataclass(frozen=True, kw_only=True, slots=True)
class ConceptSets(PairFeatures):
    """`PairFeatures` of images and captions, the K concept texts of each, and the factor [1] of their similarities.

    concept_NKD  unit-norm, from the same text tower; None if no concepts are trained
    """

    concept_NKD: Embeddings[Tensor] | None = None
    concept_scale: Tensor | None = None


class ConceptEncoder(nn.Module):
    """`DualEncoder` (`encoder`, the only deployed part) with a caption and K concepts per image.

    own_scale   concepts have a learned temperature of their own; otherwise the captions'
    read_most   temperatures above this value are clamped to it, without gradient; None: no clamping
    """

    def __init__(
        self, image_tower: Tower, text_tower: Tower, *, own_scale: bool = True, read_most: float | None = None, **options: Any
    ) -> None:
        super().__init__()
        self.read_most = read_most
        self.encoder = DualEncoder(image_tower, text_tower, **options)
        self.concept_log_scale = nn.Parameter(torch.full((1,), math.log(1 / 0.07))) if own_scale else None

    def forward(self, image_BCHW: Tensor, text_BKL: Tensor, text_mask_BKL: Tensor) -> ConceptSets:
        """The first text of each image is its caption."""
        encoder = self.encoder
        text_BKD = encoder.encode_text(text_BKL.flatten(0, 1), text_mask_BKL.flatten(0, 1)).unflatten(0, text_BKL.shape[:2])
        pairs = encoder.pairs(encoder.encode_image(image_BCHW), text_BKD[:, 0].clone())
        caption_scale = self._read(pairs.scale)
        if text_BKL.shape[1] == 1:
            return ConceptSets(pairs.image_ND, pairs.text_ND, caption_scale)
        scale = caption_scale if self.concept_log_scale is None else self._read(self.concept_log_scale.exp())
        return ConceptSets(pairs.image_ND, pairs.text_ND, caption_scale, concept_NKD=text_BKD[:, 1:].clone(), concept_scale=scale)

    def _read(self, scale: Tensor) -> Tensor:
        return scale if self.read_most is None else scale.clamp(max=self.read_most)

    @torch.no_grad()
    def clamp_scale_(self, most: float) -> None:
        """Keep both temperatures in [1, most]; with most 0 they are unchanged."""
        if most == 0:
            return
        self.encoder.clamp_scale_(most)
        if self.concept_log_scale is not None:
            self.concept_log_scale.clamp_(0.0, math.log(most))
