"""Dual encoder of images with several texts each, and patches in the space of the texts (DreamLIP, 2403.17007).

Letters: B batch, N images, C channel, H W, K texts per image, L tokens, P patches, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from diptych.core.rows import Embeddings, Rows
from diptych.models.layers.transformer import l2_normalise
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.towers.outputs import Tower


@dataclass(frozen=True, slots=True)
class TextSets:
    """Unit-norm features of images and of their K texts, the learned scale [1], and the patches if a model projects them.

    patch_mask_NP  True where a patch is real; towers of square images have no other
    bias           learned [1], of sigmoid losses; None for models without one
    """

    image_ND: Embeddings[Tensor]
    text_NKD: Embeddings[Tensor]
    scale: Tensor
    patch_NPD: Embeddings[Tensor] | None = None
    patch_mask_NP: Rows[Tensor] | None = None
    bias: Tensor | None = None


class TextSetEncoder(nn.Module):
    """`DualEncoder` with K texts per image.

    patches  also project the image tower's patch tokens, by a separate head without bias
    """

    def __init__(
        self,
        image_tower: Tower,
        text_tower: Tower,
        *,
        width: int,
        patches: bool,
        scale: float = 1 / 0.07,
        bias: float | None = None,
        max_scale: float = 100.0,
    ) -> None:
        super().__init__()
        self.encoder = DualEncoder(image_tower, text_tower, width=width, scale=scale, bias=bias, max_scale=max_scale)
        self.patch_projection: nn.Linear | None = None
        if patches:
            self.patch_projection = nn.Linear(image_tower.token_width, width, bias=False)
            nn.init.normal_(self.patch_projection.weight, std=image_tower.token_width**-0.5)

    def forward(self, image_BCHW: Tensor, text_BKL: Tensor, text_mask_BKL: Tensor) -> TextSets:
        encoder = self.encoder
        output = encoder.image_tower(image_BCHW)
        image_BD = l2_normalise(encoder.image_projection(output.pooled_BD))
        text_ND = encoder.encode_text(text_BKL.flatten(0, 1), text_mask_BKL.flatten(0, 1))
        text_BKD, scale = text_ND.reshape(*text_BKL.shape[:2], encoder.width), encoder.log_scale.exp()
        bias = None if encoder.bias is None else encoder.bias + 0  # an output, and not the parameter itself
        if self.patch_projection is None:
            return TextSets(image_BD, text_BKD, scale, bias=bias)
        patch_BPD = l2_normalise(self.patch_projection(output.tokens_BPD))
        return TextSets(image_BD, text_BKD, scale, patch_BPD, output.mask_BP, bias)
