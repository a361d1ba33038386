"""Dual encoder with self-distillation from whole images to crops (DINO, 2104.14294).

Letters: B batch, N items, C channel, H W, L tokens, G whole views, V all views of the student, K prototypes, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from diptych.core.rows import Rows
from diptych.models.layers.frozen_modules import FrozenModules
from diptych.models.layers.transformer import l2_normalise
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.encoders.dino_head import DINOHead
from diptych.models.towers.outputs import PairFeatures
from diptych.models.towers.vit import VisionTransformer


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfDistilledPairs(PairFeatures):
    """`PairFeatures` of the first whole view with its text, and prototypes by student and teacher; None without the self-distillation.

    student_NVK  of every view: the whole ones first, then the small ones
    teacher_NGK  of the whole views
    centre_K     the teacher's centre before this step
    """

    student_NVK: Rows[Tensor] | None = None
    teacher_NGK: Rows[Tensor] | None = None
    centre_K: Tensor | None = None


class SelfDistilledEncoder(nn.Module):
    """A `DualEncoder` over a `VisionTransformer`, a prototype head on its class token, and a teacher: moving averages of both.

    distilled  False: without head and teacher
    """

    centre_K: Tensor

    def __init__(
        self, encoder: DualEncoder, *, distilled: bool, prototypes: int, hidden: int = 2048, bottleneck: int = 256
    ) -> None:
        super().__init__()
        self.encoder, self.distilled = encoder, distilled
        self.companions = FrozenModules()
        if distilled:
            self.head = DINOHead(encoder.image_tower.width, prototypes, hidden=hidden, bottleneck=bottleneck)
            self.register_buffer("centre_K", torch.zeros(prototypes))
            self.companions.add_("teacher", self.image_side())

    def image_side(self) -> nn.ModuleDict:
        """Modules that the teacher copies: the image tower with its head."""
        return nn.ModuleDict({"image_tower": self.encoder.image_tower, "head": self.head})

    def forward(
        self,
        image_BCHW: Tensor,
        text_BL: Tensor,
        text_mask_BL: Tensor,
        whole_BGCHW: Tensor,
        local_BVCHW: Tensor,
    ) -> SelfDistilledPairs:
        """whole_BGCHW are the whole views other than the first, which is `image_BCHW`; local_BVCHW have any other size."""
        encoder = self.encoder
        seen_BD = encoder.image_tower(image_BCHW).pooled_BD
        output = SelfDistilledPairs(
            image_ND=l2_normalise(encoder.image_projection(seen_BD)),
            text_ND=encoder.encode_text(text_BL, text_mask_BL),
            scale=encoder.log_scale.exp(),
        )
        if not self.distilled:
            return output
        tower = cast(VisionTransformer, encoder.image_tower)
        views = [seen_BD[:, None]]
        for view_BVCHW in (whole_BGCHW, local_BVCHW):
            if view_BVCHW.shape[1]:
                pooled_MD = tower.of_any_size(view_BVCHW.flatten(0, 1)).pooled_BD
                views.append(pooled_MD.unflatten(0, view_BVCHW.shape[:2]))
        teacher = cast(nn.ModuleDict, self.companions["teacher"])
        with torch.no_grad():
            all_BGCHW = torch.cat([image_BCHW[:, None], whole_BGCHW], 1)
            pooled_MD = teacher["image_tower"](all_BGCHW.flatten(0, 1)).pooled_BD
            teacher_NGK = teacher["head"](pooled_MD).unflatten(0, all_BGCHW.shape[:2])
        student_NVK = self.head(torch.cat(views, 1))
        return replace(output, student_NVK=student_NVK, teacher_NGK=teacher_NGK, centre_K=self.centre_K.clone())

    @torch.no_grad()
    def recentre_(self, centre_K: Tensor) -> None:
        self.centre_K.copy_(centre_K)
