"""DenseCLIP's module (2112.01518): class names after learned context, refined by the picture, compared with every place, and a pyramid
that reads the score map beside its features.

Letters: B batch, K classes, L tokens, C channel, H W, P positions, D width of the joint space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from diptych.core.rows import Rows
from diptych.data.text.prompts.class_prompts import ClassPrompts
from diptych.models.denseclip.semantic_fpn import FeaturePyramidNeck, SemanticHead
from diptych.models.layers.learned_context import LearnedContext
from diptych.models.layers.score_map import score_map
from diptych.models.layers.text_refiner import TextRefiner
from diptych.models.towers.dense_tap import DenseMaps, DenseTap
from diptych.models.towers.outputs import Tower
from diptych.models.towers.text_embeddings import read_mask, token_table

Language = Literal["full", "score", "none"]
"""Use of language: texts refined by the picture and the score map; the score map of unrefined texts; none."""


@dataclass(frozen=True, slots=True)
class DenseClipSegmenterOutput:
    """logit_NKHW  of the head, at stride 4
    score_NKHW  cosines of places with class names, at the stride of the places; None without language
    """

    logit_NKHW: Rows[Tensor]
    score_NKHW: Rows[Tensor] | None


class LanguageGuide(nn.Module):
    """Class embeddings conditioned on the picture. The text tower is frozen: it has no gradient and stays in evaluation mode;
    context and refiner are learned. Token rows of the classes are not weights (`set_classes`)."""

    ids_KL: Tensor
    mask_KL: Tensor
    order_KL: Tensor

    def __init__(self, text_tower: Tower, projection: nn.Module, bank: LearnedContext, refiner: TextRefiner | None) -> None:
        super().__init__()
        self.text_tower = text_tower.requires_grad_(False).eval()
        self.projection = projection.requires_grad_(False)
        self.bank, self.refiner, self.place = bank, refiner, (0, 0)
        for name in ("ids_KL", "mask_KL", "order_KL"):
            self.register_buffer(name, torch.zeros(0, 0, dtype=torch.int64), persistent=False)

    def set_classes(self, prompts: ClassPrompts) -> None:
        device = self.bank.context.device
        self.ids_KL = torch.from_numpy(prompts.ids_KL).to(device)
        self.mask_KL = torch.from_numpy(prompts.mask_KL).to(device)
        self.order_KL = torch.from_numpy(prompts.order_KL).to(device)
        self.place = prompts.context

    def train(self, mode: bool = True) -> LanguageGuide:
        super().train(mode)
        self.text_tower.eval()
        return self

    def texts(self) -> Tensor:
        """[K, D], not normalised."""
        token_KLD = token_table(self.text_tower)(self.ids_KL)
        prompt_KLD = self.bank(token_KLD, self.order_KL, self.place)
        mask_KL = read_mask(self.text_tower, self.ids_KL, self.mask_KL)
        text_KD: Tensor = self.projection(self.text_tower(prompt_KLD, mask_KL).pooled_BD)
        return text_KD

    def forward(self, dense: DenseMaps) -> Tensor:
        """The score map [B, K, H, W]."""
        text_BKD = self.texts().expand(len(dense.whole_BD), -1, -1)
        if self.refiner is not None:
            place_BPD = torch.cat([dense.whole_BD[:, None], dense.dense_BDHW.flatten(2).transpose(1, 2)], dim=1)
            text_BKD = self.refiner(text_BKD, place_BPD)
        return score_map(dense.dense_BDHW, text_BKD)


class DenseClipSegmenter(nn.Module):
    """Images to `DenseClipSegmenterOutput`. The score map, without temperature, joins the map of its own stride before the pyramid."""

    def __init__(
        self, tap: DenseTap, guide: LanguageGuide | None, classes: int, *, width: int = 256, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.tap, self.guide = tap, guide
        channels = [count + (classes if guide and level == tap.level else 0) for level, count in enumerate(tap.channels)]
        self.neck, self.head = FeaturePyramidNeck(channels, width), SemanticHead(width, classes, dropout=dropout)

    def forward(self, image_BCHW: Tensor) -> DenseClipSegmenterOutput:
        dense: DenseMaps = self.tap(image_BCHW)
        maps, score_BKHW = list(dense.maps), None
        if self.guide is not None:
            score_BKHW = self.guide(dense)
            maps[self.tap.level] = torch.cat([maps[self.tap.level], score_BKHW], dim=1)
        return DenseClipSegmenterOutput(self.head(self.neck(maps)), score_BKHW)
