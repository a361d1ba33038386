"""Dual encoder of mixtures of two images, which predicts the view, text and class of each (M3I, 2211.09807).

Letters: B batch, N items, C channel, H W, L tokens, P patches, M those of the other image, K classes, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.core.rows import Embeddings
from diptych.models.layers.frozen_modules import FrozenModules
from diptych.models.layers.pooling import mean_pool
from diptych.models.layers.sine_position import box_sine
from diptych.models.layers.transformer import Block, l2_normalise
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.towers.dense_vit import DenseViT, ScaledBlock
from diptych.models.towers.outputs import PairFeatures, Tower

TeacherView = Literal["same", "other"]
ClassScale = Literal["shared", "own"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MixedPairs(PairFeatures):
    """`PairFeatures` of the image that a mixture belongs to. other_..._ND are about the image that it was mixed with; None
    without mixing.

    class_KD       unit-norm class embeddings, shared by all rows; None without classes. class_scale [1] multiplies their cosines
    view_ND        the student's unit-norm prediction of the teacher's vector of the whole image; target_ND is that vector
    patch_NMD      predictions of the teacher's patches where the other image covers them, or of all P of another view;
                   target_patch_NMD are those patches
    """

    other_ND: Embeddings[Tensor] | None = None
    class_KD: Tensor | None = None
    class_scale: Tensor | None = None
    view_ND: Embeddings[Tensor] | None = None
    other_view_ND: Embeddings[Tensor] | None = None
    target_ND: Embeddings[Tensor] | None = None
    patch_NMD: Embeddings[Tensor] | None = None
    target_patch_NMD: Embeddings[Tensor] | None = None


class MixedEncoder(nn.Module):
    """`DualEncoder` over a `DenseViT` with mean pooling: the mean over the patches of one image is that image's vector.

    classes  class embeddings in the space of the texts; 0 without
    class_scale  whether cosines with classes are multiplied by the "shared" scale of the texts, or by a learned one of their "own"
    views    a teacher (moving average of the image tower and its projection) and predictors of its outputs
    teacher_view  "same": the teacher sees the image in the mixture, and its patches are predicted where the mixture covers them;
                  "other": it sees another view, and all of its patches are predicted from their positions in the student's view
    teacher  another `MixedEncoder` of the same sizes, whose image side the teacher starts from; None: this one, as initialised.
    `FrozenModules.copy_` updates it, such as after loading weights
    """

    def __init__(
        self,
        image_tower: DenseViT,
        text_tower: Tower,
        *,
        width: int,
        classes: int,
        views: bool,
        class_scale: ClassScale = "shared",
        teacher_view: TeacherView = "same",
        teacher: MixedEncoder | None = None,
    ) -> None:
        super().__init__()
        self.encoder = DualEncoder(image_tower, text_tower, width=width)
        if image_tower.pool != "mean":
            raise ConfigError("a mixture is read by means of patches (expected an image tower with pool mean)")
        image_tower.mask_D.requires_grad_(False)
        tower = image_tower.width
        self.class_KD = nn.Parameter(torch.randn(classes, width) * width**-0.5) if classes else None
        own = classes > 0 and class_scale == "own"
        self.log_class_scale = nn.Parameter(self.encoder.log_scale.detach().clone()) if own else None
        self.views = views
        if views:
            first = image_tower.blocks[0]
            assert isinstance(first, ScaledBlock)
            heads = first.block.attention.heads
            self.view_projection = nn.Sequential(nn.Linear(tower, tower), nn.GELU(), nn.Linear(tower, width))
            self.view_predictor = nn.Sequential(nn.Linear(width, tower), nn.GELU(), nn.Linear(tower, width))
            self.hidden_D = nn.Parameter(torch.randn(tower) * 0.02)
            self.place_PD: nn.Parameter | None = None
            self.place_projection: nn.Linear | None = None
            if teacher_view == "same":
                self.place_PD = nn.Parameter(torch.randn(image_tower.count**2, tower) * 0.02)
            else:
                if tower % 8:
                    raise ConfigError(
                        f"positional sines have {tower} dimensions (expected an image tower whose width is a multiple of 8)"
                    )
                self.place_projection = nn.Linear(tower, tower)
            self.patch_block = Block(tower, heads, mlp_width=4 * tower)
            self.patch_predictor = nn.Linear(tower, tower)
        self.companions = FrozenModules()
        if views:
            self.companions.add_("teacher", (teacher or self).image_side())

    def image_side(self) -> nn.ModuleDict:
        """Modules that the teacher copies: the image tower with its projection."""
        head = {"view_projection": self.view_projection} if self.views else {}
        return nn.ModuleDict({"image_tower": self.encoder.image_tower, **head})

    def forward(
        self,
        image_BCHW: Tensor,
        mixed_BCHW: Tensor,
        own_BP: Tensor,
        place_BM: Tensor,
        text_BL: Tensor,
        text_mask_BL: Tensor,
        box_BP4: Tensor | None = None,
    ) -> MixedPairs:
        """image_BCHW is the teacher's input. own_BP marks the patches of the mixture that are the image's own; place_BM are the others.
        box_BP4, for a teacher with another view, are its patches in the student's (`data.media.augment.views.patches_in`).
        """
        encoder = self.encoder
        tokens_BPD = encoder.image_tower(mixed_BCHW).tokens_BPD
        own_BD = mean_pool(tokens_BPD, own_BP)
        output = MixedPairs(
            image_ND=l2_normalise(encoder.image_projection(own_BD)),
            text_ND=encoder.encode_text(text_BL, text_mask_BL),
            scale=encoder.log_scale.exp(),
        )
        if self.class_KD is not None:
            scale = output.scale if self.log_class_scale is None else self.log_class_scale.exp()
            output = replace(output, class_KD=l2_normalise(self.class_KD), class_scale=scale)
        other_BD = mean_pool(tokens_BPD, ~own_BP) if place_BM.shape[1] else None
        if other_BD is not None:
            output = replace(output, other_ND=l2_normalise(encoder.image_projection(other_BD)))
        if not self.views:
            return output
        return self._with_views(output, image_BCHW, tokens_BPD, own_BP, place_BM, own_BD, other_BD, box_BP4)

    def _with_views(
        self,
        output: MixedPairs,
        image_BCHW: Tensor,
        tokens_BPD: Tensor,
        own_BP: Tensor,
        place_BM: Tensor,
        own_BD: Tensor,
        other_BD: Tensor | None,
        box_BP4: Tensor | None,
    ) -> MixedPairs:
        teacher = cast(nn.ModuleDict, self.companions["teacher"])
        with torch.no_grad():
            whole = teacher["image_tower"](image_BCHW)
            target_ND = l2_normalise(teacher["view_projection"](whole.pooled_BD))
        output = replace(output, view_ND=self._view(own_BD), target_ND=target_ND)
        if other_BD is None:
            return output
        output = replace(output, other_view_ND=self._view(other_BD))
        target_BPD = F.layer_norm(whole.tokens_BPD, whole.tokens_BPD.shape[-1:])
        if self.place_PD is None:
            return replace(output, patch_NMD=self._guessed_elsewhere(tokens_BPD, own_BP, box_BP4), target_patch_NMD=target_BPD)
        seen_BPD = torch.where(own_BP[..., None], tokens_BPD, self.hidden_D.to(tokens_BPD)) + self.place_PD
        guessed_BPD = self.patch_predictor(self.patch_block(seen_BPD))
        return replace(output, patch_NMD=_at(guessed_BPD, place_BM), target_patch_NMD=_at(target_BPD, place_BM))

    def _guessed_elsewhere(self, tokens_BPD: Tensor, own_BP: Tensor, box_BP4: Tensor | None) -> Tensor:
        """Return predicted patches [B, P, D] at these positions of the view, only from the image's own patches."""
        if box_BP4 is None or self.place_projection is None:
            raise ConfigError("a teacher with another view needs box_BP4, where its patches lie")
        side = math.isqrt(tokens_BPD.shape[1])
        middle = (torch.arange(side, device=tokens_BPD.device, dtype=tokens_BPD.dtype) + 0.5) / side
        y_P, x_P = (axis.reshape(-1) for axis in torch.meshgrid(middle, middle, indexing="ij"))
        grid_P4 = torch.stack((x_P, y_P, torch.full_like(x_P, 1 / side), torch.full_like(x_P, 1 / side)), 1)
        width = tokens_BPD.shape[2] // 2
        here_PD, there_BPD = (self.place_projection(box_sine(box.to(tokens_BPD), width)) for box in (grid_P4, box_BP4))
        asked_BPD = self.hidden_D.to(tokens_BPD) + there_BPD
        shown = torch.cat((own_BP, torch.ones_like(own_BP)), 1)
        decoded_BXD = self.patch_block(torch.cat((tokens_BPD + here_PD, asked_BPD), 1), shown)
        guessed_BPD: Tensor = self.patch_predictor(decoded_BXD[:, tokens_BPD.shape[1] :])
        return guessed_BPD

    def _view(self, pooled_BD: Tensor) -> Tensor:
        return l2_normalise(self.view_predictor(self.view_projection(pooled_BD)))

    @torch.no_grad()
    def clamp_scale_(self, most: float | None = None) -> None:
        """Keep both temperatures in [1, most], or in [1, max_scale]; with most 0 they are unchanged."""
        if most == 0:
            return
        self.encoder.clamp_scale_(most)
        if self.log_class_scale is not None:
            self.log_class_scale.clamp_(0.0, math.log(self.encoder.max_scale))


def _at(tokens_BPD: Tensor, place_BM: Tensor) -> Tensor:
    return tokens_BPD.gather(1, place_BM[..., None].expand(-1, -1, tokens_BPD.shape[2]))
