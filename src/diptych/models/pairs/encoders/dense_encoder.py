"""Dual encoder with two image vectors and a momentum teacher of its image tower (TIPS, 2410.16512).

Letters: B batch, N items, C channel, H W, L tokens, V local views, P patches, M hidden ones, K prototypes, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.core.rows import Embeddings, Rows
from diptych.models.layers.frozen_modules import FrozenModules
from diptych.models.layers.transformer import l2_normalise
from diptych.models.pairs.dual_encoder import DualEncoder, projection_of
from diptych.models.pairs.encoders.dino_head import DINOHead
from diptych.models.towers.dense_vit import DenseViT
from diptych.models.towers.outputs import PairFeatures, Tower

Token = Literal["first", "second"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DensePairs(PairFeatures):
    """`PairFeatures` of the first image vector with raw texts; the second with captions; prototypes by student and teacher.

    class_ND                             the first class token, neither projected nor normalised
    second_ND, caption_ND, second_scale  None in a model with one image vector
    local_NVK, teacher_N1K               of the first class token: the student's local views, the teacher's whole view
    patch_NMK, teacher_patch_NMK         of masked patches: by the student, with masking, and the teacher, without
    class_centre_K, patch_centre_K       the teacher's centres before this step
    """

    class_ND: Embeddings[Tensor]
    second_ND: Embeddings[Tensor] | None = None
    caption_ND: Embeddings[Tensor] | None = None
    second_scale: Tensor | None = None
    local_NVK: Rows[Tensor] | None = None
    teacher_N1K: Rows[Tensor] | None = None
    patch_NMK: Rows[Tensor] | None = None
    teacher_patch_NMK: Rows[Tensor] | None = None
    class_centre_K: Tensor | None = None
    patch_centre_K: Tensor | None = None


class DenseEncoder(nn.Module):
    """A `DualEncoder` over a `DenseViT`, prototype heads and a teacher; with two image vectors a `TwoTokenEncoder`.

    teacher            another `DenseEncoder` of the same sizes, whose tower and heads the teacher starts from; None: this one, as
    initialised. `FrozenModules.copy_` updates it, such as after loading weights
    two_tokens         project the second class token, too, with a temperature of its own, for captions
    token              the one of the two by which the deployed model embeds an image
    distilled, masked  the two self-supervised terms; each has its own prototypes, and each requires the teacher
    project            False: the towers' vectors are compared without projections (TIPS as released)
    """

    class_centre_K: Tensor
    patch_centre_K: Tensor

    def __init__(
        self,
        image_tower: DenseViT,
        text_tower: Tower,
        *,
        width: int,
        two_tokens: bool,
        distilled: bool,
        masked: bool,
        prototypes: int,
        hidden: int,
        bottleneck: int,
        token: Token = "first",
        teacher: DenseEncoder | None = None,
        project: bool = True,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"width": width, "project_image": project, "project_text": project}
        self.encoder: DualEncoder = (
            TwoTokenEncoder(image_tower, text_tower, token=token, **options)
            if two_tokens
            else DualEncoder(image_tower, text_tower, **options)
        )
        self.distilled, self.masked = distilled, masked
        tower = image_tower.width
        if distilled:
            self.class_head = DINOHead(tower, prototypes, hidden=hidden, bottleneck=bottleneck)
            self.register_buffer("class_centre_K", torch.zeros(prototypes))
        if masked:
            self.patch_head = DINOHead(tower, prototypes, hidden=hidden, bottleneck=bottleneck)
            self.register_buffer("patch_centre_K", torch.zeros(prototypes))
        image_tower.mask_D.requires_grad_(masked)
        self.companions = FrozenModules()
        if distilled or masked:
            self.companions.add_("teacher", (teacher or self).image_side())

    def image_side(self) -> nn.ModuleDict:
        """Modules that the teacher copies: the image tower with its prototype heads."""
        heads = {name: getattr(self, name) for name in ("class_head", "patch_head") if hasattr(self, name)}
        return nn.ModuleDict({"image_tower": self.encoder.image_tower, **heads})

    def forward(
        self,
        image_BCHW: Tensor,
        text_BL: Tensor,
        text_mask_BL: Tensor,
        caption_BL: Tensor,
        caption_mask_BL: Tensor,
        local_BVCHW: Tensor,
        hidden_BP: Tensor,
        place_BM: Tensor,
    ) -> DensePairs:
        encoder = self.encoder
        tokens = encoder.image_tower(image_BCHW)
        output = DensePairs(
            image_ND=l2_normalise(encoder.image_projection(tokens.pooled_BD)),
            text_ND=encoder.encode_text(text_BL, text_mask_BL),
            scale=encoder.log_scale.exp(),
            class_ND=tokens.pooled_BD,
        )
        if isinstance(encoder, TwoTokenEncoder):
            output = replace(
                output,
                second_ND=l2_normalise(encoder.second_projection(tokens.second_BD)),
                caption_ND=encoder.encode_text(caption_BL, caption_mask_BL),
                second_scale=encoder.log_second_scale.exp(),
            )
        if not len(self.companions):
            return output
        teacher = cast(nn.ModuleDict, self.companions["teacher"])
        with torch.no_grad():
            whole = teacher["image_tower"](image_BCHW)
        if self.distilled:
            local_ND = encoder.image_tower(local_BVCHW.flatten(0, 1)).pooled_BD
            with torch.no_grad():
                teacher_N1K = teacher["class_head"](whole.pooled_BD)[:, None]
            local_NVK = self.class_head(local_ND).unflatten(0, local_BVCHW.shape[:2])
            output = replace(output, local_NVK=local_NVK, teacher_N1K=teacher_N1K, class_centre_K=self.class_centre_K.clone())
        if self.masked:
            guessed_NMD = _at(encoder.image_tower(image_BCHW, hidden_BP).tokens_BPD, place_BM)
            with torch.no_grad():
                teacher_NMK = teacher["patch_head"](_at(whole.tokens_BPD, place_BM))
            patch_NMK = self.patch_head(guessed_NMD)
            output = replace(
                output, patch_NMK=patch_NMK, teacher_patch_NMK=teacher_NMK, patch_centre_K=self.patch_centre_K.clone()
            )
        return output

    @torch.no_grad()
    def recentre_(self, class_K: Tensor | None, patch_K: Tensor | None) -> None:
        for name, centre_K in (("class_centre_K", class_K), ("patch_centre_K", patch_K)):
            if centre_K is not None:
                getattr(self, name).copy_(centre_K)


class TwoTokenEncoder(DualEncoder):
    """A `DualEncoder` that embeds an image by its first class token (trained on raw texts) or by its second (on captions), with a
    temperature for each.
    """

    def __init__(self, image_tower: Tower, text_tower: Tower, *, width: int, token: Token = "first", **options: Any) -> None:
        super().__init__(image_tower, text_tower, width=width, **options)
        if token not in ("first", "second"):
            raise ConfigError(f"token is {token!r} (expected first | second)")
        self.token: Token = token
        self.second_projection = projection_of(image_tower, width, "image", project=self.project_image)
        self.log_second_scale = nn.Parameter(torch.full((1,), math.log(1 / 0.07)))

    def encode_image(self, image_BCHW: Tensor) -> Tensor:
        output = self.image_tower(image_BCHW)
        if self.token == "first":
            return l2_normalise(self.image_projection(output.pooled_BD))
        return l2_normalise(self.second_projection(output.second_BD))

    @torch.no_grad()
    def clamp_scale_(self, most: float | None = None) -> None:
        """Keep both temperatures in [1, most], or in [1, max_scale]; with most 0 they are unchanged."""
        if most == 0:
            return
        super().clamp_scale_(most)
        self.log_second_scale.clamp_(0.0, math.log(self.max_scale))

    def variant(self) -> dict[str, Any]:
        """Settings to rebuild this variant, in addition to those of every `DualEncoder`."""
        return {"kind": "two_tokens", "token": self.token}


def _at(tokens_BPD: Tensor, place_BM: Tensor) -> Tensor:
    """Return the tokens at these positions; an arbitrary token where the position is -1."""
    return tokens_BPD.gather(1, place_BM.clamp_min(0)[..., None].expand(-1, -1, tokens_BPD.shape[2]))
