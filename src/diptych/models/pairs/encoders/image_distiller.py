"""Self-distillation of an image tower from its moving average: class tokens of views and masked patches (DINOv2, 2304.07193).

Letters: B batch, N items, G whole views, V small views, C channel, H W, P patches, M hidden ones, K prototypes, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from diptych.core.rows import Embeddings, Rows
from diptych.models.layers.frozen_modules import FrozenModules
from diptych.models.pairs.encoders.dino_head import DINOHead
from diptych.models.towers.dense_vit import DenseViT


@dataclass(frozen=True, kw_only=True, slots=True)
class DistilledViews:
    """Prototypes by student and teacher.

    whole_NGK, local_NVK  the student's class tokens, of whole views (with masked patches) and of small ones
    teacher_NGK           the teacher's, of unmasked whole views
    patch_NGMK, teacher_patch_NGMK  at masked patches of whole views; undefined if there are fewer than M
    class_NGD             the student's class tokens before any head
    class_centre_K, patch_centre_K  the teacher's centres before this step
    teacher_tau           [1], the teacher's temperature at this step
    """

    whole_NGK: Rows[Tensor]
    local_NVK: Rows[Tensor]
    teacher_NGK: Rows[Tensor]
    patch_NGMK: Rows[Tensor]
    teacher_patch_NGMK: Rows[Tensor]
    class_NGD: Embeddings[Tensor]
    class_centre_K: Tensor
    patch_centre_K: Tensor
    teacher_tau: Tensor


class ImageDistiller(nn.Module):
    """`DenseViT` with prototype heads for class tokens and patches (separate or shared),
    and a teacher: moving averages of these.
    """

    class_centre_K: Tensor
    patch_centre_K: Tensor
    teacher_tau: Tensor

    def __init__(
        self,
        image_tower: DenseViT,
        *,
        prototypes: int,
        hidden: int,
        bottleneck: int,
        shared_head: bool,
        teacher_tau: float,
        learned_norms: bool = False,
    ) -> None:
        super().__init__()
        self.image_tower, self.width = image_tower, image_tower.width
        sizes = (image_tower.width, prototypes)
        self.class_head = DINOHead(*sizes, hidden=hidden, bottleneck=bottleneck, learned_norms=learned_norms)
        if not shared_head:
            self.patch_head = DINOHead(*sizes, hidden=hidden, bottleneck=bottleneck, learned_norms=learned_norms)
        self.shared_head = shared_head
        for name in ("class_centre_K", "patch_centre_K"):
            self.register_buffer(name, torch.zeros(prototypes))
        self.register_buffer("teacher_tau", torch.full((1,), teacher_tau))
        self.companions = FrozenModules()
        self.companions.add_("teacher", self.image_side())

    def image_side(self) -> nn.ModuleDict:
        """Modules that the teacher copies: the image tower with its heads."""
        heads = {"class_head": self.class_head} | ({} if self.shared_head else {"patch_head": self.patch_head})
        return nn.ModuleDict({"image_tower": self.image_tower, **heads})

    def forward(self, whole_BGCHW: Tensor, local_BVCHW: Tensor, hidden_BGP: Tensor, position_BGM: Tensor) -> DistilledViews:
        """`position_BGM` are the masked patches of each whole view, -1 if there are fewer."""
        teacher, views = cast(nn.ModuleDict, self.companions["teacher"]), whole_BGCHW.shape[:2]
        whole_NCHW, position_NM = whole_BGCHW.flatten(0, 1), position_BGM.flatten(0, 1)
        with torch.no_grad():
            seen = teacher["image_tower"](whole_NCHW)
            teacher_NK = teacher["class_head"](seen.pooled_BD)
            patch_head = teacher["class_head" if self.shared_head else "patch_head"]
            teacher_patch_NMK = patch_head(_at(seen.tokens_BPD, position_NM))
        output = self.image_tower(whole_NCHW, hidden_BGP.flatten(0, 1))
        own_head = self.class_head if self.shared_head else self.patch_head
        small = local_BVCHW.shape[:2]
        local_ND = self.image_tower(local_BVCHW.flatten(0, 1)).pooled_BD if small[1] else output.pooled_BD[:0]
        return DistilledViews(
            whole_NGK=self.class_head(output.pooled_BD).unflatten(0, views),
            local_NVK=self.class_head(local_ND).reshape(*small, -1) if small[1] else output.pooled_BD.new_zeros(*small, 1),
            teacher_NGK=teacher_NK.unflatten(0, views),
            patch_NGMK=own_head(_at(output.tokens_BPD, position_NM)).unflatten(0, views),
            teacher_patch_NGMK=teacher_patch_NMK.unflatten(0, views),
            class_NGD=output.pooled_BD.unflatten(0, views),
            class_centre_K=self.class_centre_K.clone(),
            patch_centre_K=self.patch_centre_K.clone(),
            teacher_tau=self.teacher_tau.clone(),
        )


def _at(tokens_NPD: Tensor, position_NM: Tensor) -> Tensor:
    """Return the tokens at these positions; an arbitrary token where the position is -1."""
    return tokens_NPD.gather(1, position_NM.clamp_min(0)[..., None].expand(-1, -1, tokens_NPD.shape[2]))
