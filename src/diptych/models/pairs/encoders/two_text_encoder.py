"""Dual encoder of two texts per image, with running means of their agreement: ALIP (2308.08428).

Letters: B batch, N items, C channel, H W, L tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diptych.core.rows import Embeddings
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.towers.outputs import PairFeatures, Tower


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoTextPairs(PairFeatures):
    """`PairFeatures` of images and raw texts, the synthetic captions, and the running means of agreement before this step.

    caption_ND  unit-norm, from the same text tower as text_ND
    mean_3      raw text with caption, image with raw text, image with caption; shared by all rows, without gradient
    """

    caption_ND: Embeddings[Tensor]
    mean_3: Tensor


class TripletEncoder(nn.Module):
    """`DualEncoder` whose text tower encodes both texts.

    `mean_3` is a buffer: it is in every checkpoint but not in the deployed model, which is `encoder`.

    `forward` changes no state, so it may be called in chunks and twice; call `remember_` to store the new means of a step.
    """

    mean_3: Tensor

    def __init__(self, image_tower: Tower, text_tower: Tower, *, mean_3: Tensor, **options: Any) -> None:
        super().__init__()
        self.encoder = DualEncoder(image_tower, text_tower, **options)
        self.register_buffer("mean_3", mean_3)

    def forward(
        self,
        image_BCHW: Tensor,
        text_BL: Tensor,
        text_mask_BL: Tensor,
        caption_BL: Tensor,
        caption_mask_BL: Tensor,
    ) -> TwoTextPairs:
        both_BL, mask_BL = torch.cat([text_BL, caption_BL]), torch.cat([text_mask_BL, caption_mask_BL])
        # Copies, since sharding hangs its hooks on what forward returns and a view would lose them.
        text_ND, caption_ND = (part_ND.clone() for part_ND in self.encoder.encode_text(both_BL, mask_BL).chunk(2))
        pairs = self.encoder.pairs(self.encoder.encode_image(image_BCHW), text_ND)
        return TwoTextPairs(
            image_ND=pairs.image_ND,
            text_ND=pairs.text_ND,
            scale=pairs.scale,
            bias=pairs.bias,
            caption_ND=caption_ND,
            mean_3=self.mean_3.clone(),
        )

    @torch.no_grad()
    def remember_(self, mean_3: Tensor) -> None:
        self.mean_3.copy_(mean_3)
